"""Simulates a user's job: random schedules, sizes and parallelism, faults and crashes, in virtual time, from a seed."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lakeward.engine.core.expect import expect
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.testing.compare import Answer, differences
from lakeward.testing.crash import Life
from lakeward.testing.crash_points import straight_answer
from lakeward.testing.jobs import Collected, Job, Read, build_job, check_ends, sources
from lakeward.testing.simulation.base import SimulatedWorld
from lakeward.testing.simulation.faults import ViolationFound
from lakeward.testing.simulation.knobs import AttemptKnobs, Fault, Knobs, Swarm, draw_knobs
from lakeward.testing.simulation.runner import fast_directory, run_world
from lakeward.testing.sources import ScriptedSource
from lakeward.testing.taps import Tap, tapped

DAMAGE = (Fault.TORN_FILE, Fault.FLIPPED_FILE, Fault.BIT_ROT)
OUTSIDE = frozenset(Fault) - {*DAMAGE, Fault.RIVAL_COMMIT, Fault.STATELESS}
"""What befalls a user's job: not damage to stored files, after which a job may have to go back behind its tables."""

ROWS_PER_BATCH_FACTOR = 10_000
"""Batches are as small as in our own simulated jobs for up to so many rows, and grow with more."""


@dataclass(frozen=True, slots=True)
class Simulated:
    """What a simulated job has been through.

    >>> from lakeward.testing import CollectSink
    >>> result = simulate(lambda env: env.from_collection([{"n": 1}]).sink_to(CollectSink(), uid="out"), seed=1)
    >>> result.seed, result.rows
    (1, {'out': [{'n': 1}]})

    Args:
        seed: The seed.
        rows: What each `CollectSink` has, by its uid; of an updating stream, what is left of it.
        starts: Starts of the job.
        steps: Scheduler steps.
        faults: How often each fault has happened, by what it is.
        trace_hash: Of everything that happened; equal for two runs of one seed.
    """

    seed: int
    rows: Mapping[str, list[dict[str, Any]]]
    starts: int
    steps: int
    faults: Mapping[str, int]
    trace_hash: str


def simulate(
    job: Job, seed: int, *, expected: Answer | None = None, check: bool = True, read: Read | None = None
) -> Simulated:
    """Run a job under faults that a seed draws, until its input has ended; the same seed gives the same run.

    One thread and virtual time. Drawn are: who steps next, batch sizes, parallelism at every start, checkpoint
    intervals and timeouts, memory for state, and which of these befall it how often: deaths at any call and between,
    processes that are taken for dead and wake up later, errors of sources, sinks and the checkpoint store, before their
    effect and after it, late acknowledgements, stops, savepoints to go on from in another directory, jumps of the wall
    clock; in a third of the seeds worker processes, and a network between them that is slow, breaks and cuts off. Then
    all is healed, and the job has to end.

    >>> import lakeward as lw
    >>> from lakeward.testing import CollectSink
    >>> def job(env):
    ...     env.from_collection([{"n": n} for n in range(50)], uid="numbers").sink_to(CollectSink(), uid="out")
    >>> result = simulate(job, seed=7)
    >>> len(result.rows["out"]), result.starts > 1
    (50, True)

    Args:
        job: As for `JobHarness`; its sources are bounded. The answer must not depend on chance or time.
        seed: Any whole number.
        expected: The rows that have to come; None: those of a straight run.
        check: Whether rows are compared at all; without, look at `Simulated.rows` yourself.
        read: Reads what is visible in a sink of your own, out of the folder that the job got as its second argument;
            None: what the job's `CollectSink`s have.

    Returns:
        What it went through, and the rows.

    Raises:
        SimulationViolation: Rows are lost or doubled, the job cannot go on, or an invariant of the engine does not
            hold. An `AssertionError`; its text has the seed.
        ConfigError: An argument is of a wrong kind.
        LakewardError: The job cannot run, even without faults.
    """
    expect(seed, int, "simulate: seed", "give a whole number")
    expect(check, bool, "simulate: check", "give True or False")
    answer, rows = straight_answer(job, read, expected)
    wanted = (answer if expected is None else expected) if check else None
    swarm = Swarm()
    with tempfile.TemporaryDirectory(prefix="lakeward-simulation-", dir=fast_directory()) as directory:
        world = JobWorld(_UserJob(job, read, wanted, rows), _knobs(seed), swarm, seed, directory)
        run_world(world, f"simulate(job, seed={seed})")
    return Simulated(
        seed=seed,
        rows=world.collected.all_rows(),
        starts=world.processes,
        steps=world.steps,
        faults={fault.text: count for fault, count in world.faults.counts.items() if count},
        trace_hash=world.trace.digest(),
    )


def _knobs(seed: int) -> Knobs:
    knobs = draw_knobs(random.Random(f"{seed}/knobs"), Swarm())
    return replace(knobs, rates={fault: rate for fault, rate in knobs.rates.items() if fault in OUTSIDE})


@dataclass(frozen=True, slots=True)
class _UserJob:
    job: Job
    read: Read | None
    wanted: Answer | None
    rows: int


class JobWorld(SimulatedWorld):
    """One run of a user's job.

    Args:
        user: The job, its answer and its size.
        knobs: What was drawn for it.
        swarm: Limits for what is drawn on the way.
        seed: Everything random comes from it.
        directory: Where local state lies, and what the job writes.
    """

    def __init__(self, user: _UserJob, knobs: Knobs, swarm: Swarm, seed: int, directory: str) -> None:
        self._user = user
        self._folder = Path(directory) / "given"
        self._folder.mkdir()
        self._scripts: list[ScriptedSource] = []
        self.collected = Collected()
        graph, config = build_job(user.job, None, self._folder)
        check_ends(graph)
        super().__init__(seed, replace(knobs, max_parallelism=config.max_parallelism), swarm, directory)

    def graph(self, attempt: AttemptKnobs) -> LogicalGraph:
        """The job as its function writes it, with faults at its sources and sinks."""
        graph, _ = build_job(self._user.job, attempt.config, self._folder)
        self.collected.bind(graph)
        self._scripts = list(sources(graph).values())
        return tapped(graph, Tap(self.faults, Life()))

    def describe_knobs(self) -> str:
        """Without what is drawn for programs only: the user's job has its own input."""
        return self.knobs.describe(program=False)

    def draw(self) -> AttemptKnobs:
        """As drawn, in batches that fit the size of the input."""
        attempt = super().draw()
        factor = -(-self._user.rows // ROWS_PER_BATCH_FACTOR) or 1
        config = replace(attempt.config, batch_rows=attempt.config.batch_rows * factor)
        return replace(attempt, config=config)

    def output(self) -> Hashable:
        """How many commits each sink has seen."""
        return tuple(len(sink.commits) for sink in self.collected.sinks.values())

    def check_output(self) -> None:
        """The rows are those that had to come."""
        if self._user.wanted is None:
            return
        problem = differences(self.collected.answer(self._user.read, self._folder), self._user.wanted)
        if problem:
            raise ViolationFound(problem)

    def befall(self) -> None:
        """What may happen from outside; and a script may say that the input has ended for this run."""
        current = self.current
        runs = current is not None and current.runner is not None and not current.stopping
        if current is not None and runs and any(script.stop() for script in self._scripts):
            self.note_of(current, "meets EOF")
            self.guarded(current, current.request_stop)
        super().befall()
