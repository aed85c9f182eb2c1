"""Runs seeds and reports what came of them."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

from lakeward.testing.simulation.base import SimulatedWorld
from lakeward.testing.simulation.faults import ViolationFound
from lakeward.testing.simulation.knobs import Fault, Knobs, Swarm, draw_knobs
from lakeward.testing.simulation.world import World

_RAM_DISK = "/dev/shm"


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What a seed that holds all invariants has been through.

    Args:
        seed: The seed.
        knobs: What it drew.
        trace_hash: Of everything that happened; equal for two runs of one seed and version.
        steps: Scheduler steps.
        processes: Starts of the job.
        commits: Table commits that were compared with the oracle.
        rows: Rows in the tables at the end.
        faults: How often each fault has happened.
    """

    seed: int
    knobs: Knobs
    trace_hash: str
    steps: int
    processes: int
    commits: int
    rows: int
    faults: Mapping[Fault, int]


class SimulationViolation(AssertionError):
    """An invariant did not hold. The message has the seed, the knobs, the end of the trace and how to run it again.

    >>> from lakeward.testing import CollectSink, simulate
    >>> try:
    ...     simulate(lambda env: env.from_collection([{"n": 1}]).sink_to(CollectSink()), 7, expected=[{"n": 2}])
    ... except SimulationViolation as violation:
    ...     print(violation.seed, violation.problem)
    7 1 row lost: {n: 2}; 1 row that should not be there: {n: 1}
    """

    def __init__(self, seed: int, problem: str, details: str, again: str) -> None:
        super().__init__(f"seed {seed}: {problem}\n{details}\nrun it again: {again}")
        self.seed = seed
        self.problem = problem


def simulate(seed: int, swarm: Swarm | None = None) -> SimulationReport:
    """Run a random small job over the real engine, with faults at every port, and check exactly-once all the way.

    One thread, virtual time, every choice from the seed: the same seed gives the same run, to the last byte.

    >>> report = simulate(7)
    >>> report.trace_hash == simulate(7).trace_hash
    True

    Args:
        seed: Any number.
        swarm: Narrows what the seed may draw; by default nothing is narrowed.

    Returns:
        What the run went through.

    Raises:
        SimulationViolation: An invariant does not hold.
    """
    swarm = swarm or Swarm()
    with tempfile.TemporaryDirectory(prefix="lakeward-simulation-", dir=fast_directory()) as directory:
        knobs = draw_knobs(random.Random(f"{seed}/knobs"), swarm)
        world = World(seed, knobs, swarm, directory)
        run_world(world, f"python -m lakeward.testing.simulation {seed}")
    return SimulationReport(
        seed=seed,
        knobs=knobs,
        trace_hash=world.trace.digest(),
        steps=world.steps,
        processes=world.processes,
        commits=world.check.compared,
        rows=sum(table.content.total() for table in world.tables.values()),
        faults=dict(world.faults.counts),
    )


def run_world(world: SimulatedWorld, again: str) -> None:
    """Let a world run to its end.

    Args:
        world: The world.
        again: How to run its seed again, for the message.

    Raises:
        SimulationViolation: An invariant does not hold, or something raised what it should not.
    """
    try:
        world.run()
    except ViolationFound as violation:
        raise _violation(world, str(violation), again) from violation
    except Exception as error:
        raise _violation(world, f"{type(error).__name__}: {error}", again) from error


def _violation(world: SimulatedWorld, problem: str, again: str) -> SimulationViolation:
    trace = "\n".join(world.trace.lines())
    return SimulationViolation(world.seed, problem, f"knobs:\n{world.describe_knobs()}\nlast events:\n{trace}", again)


def fast_directory() -> str | None:
    """Memory, where there is a disk in it: state files are many and small."""
    return _RAM_DISK if os.access(_RAM_DISK, os.W_OK) else None
