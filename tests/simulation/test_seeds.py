"""Seeds that run in every test run: each is a whole job with faults, checked against its oracle at every commit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from lakeward.testing.simulation import Fault, SimulationReport, Swarm, simulate
from lakeward.testing.simulation.knobs import PROGRAMS
from lakeward.testing.simulation.programs import PROGRAMS_BY_NAME

SEEDS = 300
CHUNK = 25
SOAK_VARIABLE = "LAKEWARD_SIMULATION_SEEDS"

FOUND_SOMETHING_ONCE = (47, 55, 68, 117, 118, 543, 1965, 2566, 13567)
"""Seeds that have shown a bug, in the engine or in the simulator."""

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
    simulate(seed)


@pytest.mark.parametrize("seed", [279, 380])
def test_a_stale_run_that_wakes_between_two_deletions_deletes_nothing_that_a_newer_one_needs(seed: int) -> None:
    """These seeds did, when state files were named by their content alone."""
    simulate(seed, SLEEPY)


@pytest.mark.parametrize("seed", [3, 14, 159])
def test_the_same_seed_goes_the_same_way(seed: int) -> None:
    assert simulate(seed).trace_hash == simulate(seed).trace_hash


def test_a_seed_goes_the_same_way_in_another_process() -> None:
    command = [sys.executable, "-m", "lakeward.testing.simulation", "159"]
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert f"trace hash {simulate(159).trace_hash}" in printed


def test_every_program_can_be_drawn() -> None:
    assert set(PROGRAMS) == set(PROGRAMS_BY_NAME)


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
