"""Seeds that run in every test run: each is a whole job with faults, checked against its oracle at every commit."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lakeward.engine.api.changelog import is_updating
from lakeward.engine.graph.logical import Node, SourceSpec
from lakeward.testing.simulation import Fault, SimulationReport, Swarm, simulate
from lakeward.testing.simulation import knobs as simulation_knobs
from lakeward.testing.simulation.knobs import APPENDING, EARLY, LATER, PROGRAMS, UPDATING, draw_knobs
from lakeward.testing.simulation.programs import PROGRAMS_BY_NAME
from lakeward.testing.simulation.sink import SimTableSink
from lakeward.testing.simulation.world import World

SEEDS = 300
CHUNK = 25
SOAK_VARIABLE = "LAKEWARD_SIMULATION_SEEDS"

FIRST = Swarm(programs=APPENDING)
"""What there was to draw from when these seeds were found."""

FOUND_SOMETHING_ONCE = (47, 55, 68, 117, 118, 543, 1965, 2566, 13567)
"""Seeds that have shown a bug, in the engine or in the simulator."""

IN_PROCESSES = Swarm(processes=1.0)

SLEEPY = Swarm(
    rates={Fault.PAUSE: 0.05, Fault.CRASH_BETWEEN: 0.005},
    programs=("tumbling", "reduce", "sliding"),
    retained=1,
    interval_ms=20,
)
"""Many processes stand still in the middle of something, often of deleting files."""


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_no_row_is_lost_or_doubled_whatever_happens(first: int) -> None:
    reports = [simulate(seed) for seed in range(first, first + CHUNK)]
    assert sum(report.commits for report in reports) > CHUNK


@pytest.mark.parametrize("seed", FOUND_SOMETHING_ONCE)
def test_a_seed_that_once_found_something_holds(seed: int) -> None:
    simulate(seed, FIRST)


@pytest.mark.parametrize("seed", [404150, 404233, 911872])
def test_a_later_seed_that_once_found_something_holds(seed: int) -> None:
    """A zombie's commit below a claimed checkpoint; rows in flight without columns that are not read; changes in flight
    that came to another sink than those after them.
    """
    simulate(seed)


def test_damage_that_only_the_restore_finds_costs_one_more_start() -> None:
    damage = {Fault.BIT_ROT: 0.01, Fault.CRASH_BETWEEN: 0.01, Fault.PAUSE: 0.01}
    swarm = Swarm(programs=APPENDING, rates=damage, trusting=True)
    reports = [simulate(seed, swarm) for seed in range(60)]
    assert sum(report.commits for report in reports) > 60


@pytest.mark.parametrize("seed", [279, 380])
def test_a_stale_run_that_wakes_between_two_deletions_deletes_nothing_that_a_newer_one_needs(seed: int) -> None:
    """These seeds did, when state files were named by their content alone."""
    simulate(seed, SLEEPY)


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_the_same_seed_goes_the_same_way(seed: int) -> None:
    assert simulate(seed).trace_hash == simulate(seed).trace_hash
    assert simulate(seed, IN_PROCESSES).trace_hash == simulate(seed, IN_PROCESSES).trace_hash


def test_worker_processes_lose_and_double_nothing_on_a_network_where_everything_goes_wrong() -> None:
    wrong = {fault: fault.rate_max for fault in LATER} | {Fault.CRASH: 0.003, Fault.PAUSE: 0.005}
    reports = [simulate(seed, replace(IN_PROCESSES, rates=wrong)) for seed in range(40)]
    assert sum(report.commits for report in reports) > 40
    happened = Counter[Fault]()
    for report in reports:
        happened.update(report.faults)
    assert set(wrong) == set(happened)


def test_a_seed_goes_the_same_way_in_another_process() -> None:
    command = [sys.executable, "-m", "lakeward.testing.simulation", "159"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert f"trace hash {simulate(159).trace_hash}" in printed


def test_every_program_can_be_drawn() -> None:
    assert set(PROGRAMS) == set(PROGRAMS_BY_NAME)


def nodes(program: str, directory: Path) -> list[Node]:
    """What a start of the program runs."""
    swarm = Swarm(programs=(program,), rates={})
    world = World(1, draw_knobs(random.Random(1), swarm), swarm, str(directory))
    world._start()
    assert world.current is not None
    world.current.attempt.close()
    return [node for vertex in world.current.attempt._plan.vertices for node in vertex.nodes]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_that_are_said_to_update_do(program: str, tmp_path: Path) -> None:
    sinks = [node for node in nodes(program, tmp_path) if isinstance(node.work, SimTableSink)]
    assert any(is_updating(node.schema) for node in sinks) == (program in UPDATING + EARLY)


@pytest.mark.parametrize("optimised", [0.0, 1.0])
def test_simulated_jobs_are_planned_as_real_ones_are(
    optimised: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation_knobs, "OPTIMISED", optimised)
    (source,) = (node.work for node in nodes("recent", tmp_path) if isinstance(node.work, SourceSpec))
    found = (source.source.schema.names, [str(one).split(" ")[:2] for one in source.source.skips_by])
    assert found == ((["k", "v", "ts"], [["ts", ">="]]) if optimised else (["k", "name", "v", "ts"], []))


@pytest.mark.parametrize("arguments", [[], ["x"], ["1", "2", "3"], ["-1"]])
def test_the_command_explains_itself_when_called_wrongly(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from lakeward.testing.simulation.__main__ import main

    assert main(arguments) == 2
    assert "lakeward.testing.simulation SEED" in capsys.readouterr().err


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_many_seeds() -> None:
    count = int(os.environ.get(SOAK_VARIABLE, "5000"))
    reports: list[SimulationReport] = []
    for seed in range(SEEDS, SEEDS + count):
        reports.append(simulate(seed))
    faults: Counter[Fault] = Counter()
    for report in reports:
        faults.update(report.faults)
    never = [fault.name for fault in Fault if not faults[fault]]
    assert not never, f"{never} happened in none of {count} seeds"
    print(f"{count} seeds, {sum(report.commits for report in reports)} commits compared, faults: {dict(faults)}")
