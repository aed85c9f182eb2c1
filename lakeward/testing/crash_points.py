"""Crashes a job at every step of the checkpoint and commit protocol, and compares with the batch answer."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.errors import ConfigError, LakewardError
from lakeward.engine.core.expect import expect, refusal
from lakeward.engine.execute import JobDefinition
from lakeward.testing.compare import Answer, check_answer, check_sinks, differences
from lakeward.testing.crash import Life, SimulatedCrash
from lakeward.testing.job_harness import JobHarness
from lakeward.testing.jobs import Job, Read, check_job, check_read
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.store import FaultyStore
from lakeward.testing.taps import Tap

CHECKPOINTS = 5
"""About as many checkpoints has a run that is to crash."""

INTERVAL_MS = 90
"""Shorter than the time that the engine lets pass between two looks at the clock: each look begins a checkpoint."""

SAMPLES = (1, 2)
"""At which times a point is crashed at; and at the last."""

REPORTED_MAX = 12


class CrashPoint(Enum):
    """A step before or after which a process can die; docs/architecture.md has the walk of a barrier.

    >>> from lakeward.testing import CollectSink
    >>> def job(env):
    ...     env.from_collection([{"n": n} for n in range(20)], uid="numbers").sink_to(CollectSink(), uid="out")
    >>> assert_survives_crashes(job, points=[CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT])
    """

    AFTER_READ = "after reading rows"
    AFTER_WRITE = "after writing rows to the sink"
    BEFORE_PREPARE = "before the sink's writer prepares its rows"
    AFTER_PREPARE = "after the sink's writer has prepared its rows"
    BEFORE_UPLOAD = "before state is stored"
    AFTER_UPLOAD = "after state was stored"
    BEFORE_MANIFEST = "before the manifest is written"
    AFTER_MANIFEST = "after the manifest was written"
    BEFORE_CLAIM = "before the checkpoint is claimed"
    AFTER_CLAIM = "after the checkpoint was claimed"
    BEFORE_COMMIT = "before the sink commits"
    AMID_COMMIT = "amid the sink's commit"
    AFTER_COMMIT = "after the sink has committed"
    BEFORE_MARKER = "before the commit is noted"
    AFTER_MARKER = "after the commit was noted"
    BEFORE_NOTICE = "before the source is told of the checkpoint"
    AFTER_NOTICE = "after the source was told of the checkpoint"
    BEFORE_CLEANUP = "before an old file is deleted"
    AFTER_CLEANUP = "after an old file was deleted"
    BEFORE_RECOVERY = "before the sink recovers from another crash"
    AFTER_RECOVERY = "after the sink has recovered from another crash"


RECOVERIES = (CrashPoint.BEFORE_RECOVERY, CrashPoint.AFTER_RECOVERY)
FIRST_CRASHES = (CrashPoint.AFTER_PREPARE, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT)
"""What may have come before a recovery."""


@dataclass(frozen=True, slots=True)
class Place:
    """A point, at one sink or source.

    Args:
        point: The point.
        uid: Of the sink or source; empty for a step of the checkpoint store.
        line: Amid a commit, the file and line of the sink's code that is not reached any more.
    """

    point: CrashPoint
    uid: str = ""
    line: str = ""

    def __str__(self) -> str:
        text = self.point.value.replace("the s", f"'{self.uid}', the s", 1) if self.uid else self.point.value
        return f"{text}, before {self.line}" if self.line else text


Plan: TypeAlias = tuple[tuple[Place, int], ...]
"""Where to die: at which place, for the how many-th time in the life of that process."""


class CrashFaults(Faults):
    """Lets processes die where it is planned, and notes all places that they come by.

    Args:
        plan: One crash for each process, in order; the one after the last lives.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(random.Random(0), {})
        # Tracing lines is slow: only to learn which there are, and to die at one.
        self.by_line = not plan or any(place.line for place, _ in plan)
        self._plan = list(plan)
        self.passed: Counter[Place] = Counter()

    @property
    def left(self) -> int:
        """Crashes that have not happened."""
        return len(self._plan)

    def around(self, where: str) -> None:
        """Die here, if this is the place."""
        place = place_of(where)
        if place is None:
            return
        self.passed[place] += 1
        if self._plan and self._plan[0] == (place, self.passed[place]):
            self._plan.pop(0)
            self.by_line = any(place.line for place, _ in self._plan)
            self.passed.clear()
            raise SimulatedCrash(str(place))


_STORE_STEPS = {"manifest": "MANIFEST", "claim": "CLAIM", "committed": "MARKER"}


def place_of(where: str) -> Place | None:
    """The place that a port names; None for one that is of no interest.

    >>> print(place_of("before commit of 'out'"), place_of("amid commit of 'out' sink.py:12"), sep="; ")
    before 'out', the sink commits; amid 'out', the sink's commit, before sink.py:12
    """
    when, what, *rest = where.split(" ")
    if rest and rest[0] == "of":
        name, uid, line = what, rest[1].strip("'"), " ".join(rest[2:])
    else:
        name, uid, line = _store_step(what, rest[-1]), "", ""
    found = f"{when}_{name}".upper()
    return Place(CrashPoint[found], uid, line) if found in CrashPoint.__members__ else None


def _store_step(call: str, path: str) -> str:
    if call == "put_file":
        return "upload"
    if call == "delete":
        return "cleanup"
    file = paths.parse_checkpoint_file(path)
    return _STORE_STEPS[file.kind] if call == "create" and file is not None else ""


class CrashingHarness(JobHarness):
    """A harness whose processes die where it is planned, with a checkpoint after every batch.

    Args:
        job: The job.
        plan: Where they die.
        batch_rows: Rows a batch.
    """

    def __init__(self, job: Job, plan: Plan, batch_rows: int) -> None:
        self.faults = CrashFaults(plan)
        self._batch_rows = batch_rows
        super().__init__(job, checkpoints=FaultyStore(MemoryStore(), self.faults))

    def _define(self, parallelism: int | None) -> JobDefinition:
        job = super()._define(parallelism)
        config = replace(job.config, batch_rows=self._batch_rows, checkpoint_interval_ms=INTERVAL_MS)
        return replace(job, config=config)

    def _tap(self, life: Life) -> Tap:
        return Tap(self.faults, life, pace=1)


def assert_survives_crashes(
    job: Job,
    *,
    expected: Answer | None = None,
    points: Collection[CrashPoint] | None = None,
    read: Read | None = None,
    parallelism: Sequence[int] = (),
) -> None:
    """Crash a job at every step of the checkpoint and commit protocol, let it go on, and compare what it has committed.

    The job is run once straight, for the batch answer, and once with checkpoints all the way. Then, for every step that
    this run came by, again from the beginning: the process dies there (at the first time, the second, and the last),
    is started again, and goes on from its checkpoint to the end. Recovery itself is crashed too. All in this process
    and in virtual time, about a tenth of a second for each crash.

    >>> import lakeward as lw
    >>> from lakeward.testing import CollectSink
    >>> def job(env):
    ...     orders = env.from_collection([{"shop": n % 2, "amount": n} for n in range(20)], uid="orders")
    ...     orders.filter(lw.col("amount") > 3, uid="big").sink_to(CollectSink(), uid="out")
    >>> assert_survives_crashes(job)

    Args:
        job: As for `JobHarness`; its sources are bounded. The answer must not depend on processing time.
        expected: The rows that have to come, of the only sink or by the sink's uid; None: those of the straight run.
        points: Steps to crash at; None: all of them.
        read: Reads what is visible in a sink of your own, out of the folder that the job got as its second argument;
            None: what the job's `CollectSink`s have.
        parallelism: Of the first start, the second and so on, to go on with other subtasks; empty: as the job says.

    Raises:
        AssertionError: Rows are lost or doubled; the text says after which crashes, and which rows.
        ConfigError: An argument is of a wrong kind, a source has no end, there is nothing to compare, or nowhere to
            crash.
        LakewardError: The job cannot run, even without a crash.
    """
    chosen = _chosen(points)
    answer, rows = straight_answer(job, read, expected)
    wanted = answer if expected is None else expected
    _check("the job's answer is wrong before anything has crashed", differences(answer, wanted))
    batch_rows = max(1, -(-rows // CHECKPOINTS))
    probe = CrashingHarness(job, (), batch_rows)
    probe.run_to_end(parallelism)
    problem = differences(probe.answer(read), wanted)
    _check("the job's answer is wrong in small batches, before anything has crashed", problem)
    plans = _plans(probe.faults.passed, chosen)
    if not plans:
        names = ", ".join(point.value for point in CrashPoint if point in chosen)
        raise ConfigError(f"the job comes by none of these points: {names}", hint="leave points out: it takes all")
    trial = _Trial(job, read, wanted, batch_rows, parallelism)
    failed = {plan: problem for plan in plans if (problem := trial.crash(plan))}
    if failed:
        shown = [f"  {_said(plan)}: {problem}" for plan, problem in list(failed.items())[:REPORTED_MAX]]
        more = [f"  and {len(failed) - REPORTED_MAX} more"] if len(failed) > REPORTED_MAX else []
        text = f"the job does not survive {len(failed)} of {len(plans)} crashes"
        raise AssertionError("\n".join([text, *shown, *more]))


def _chosen(points: Collection[CrashPoint] | None) -> set[CrashPoint]:
    if points is None:
        return set(CrashPoint)
    hint = "list some: points=[CrashPoint.AFTER_COMMIT], or leave points out"
    expect(points, (list, tuple, set, frozenset), "assert_survives_crashes: points", hint)
    for point in points:
        expect(point, CrashPoint, "one of points", hint)
    if not points:
        raise refusal(points, "assert_survives_crashes: points", hint)
    return set(points)


def straight_answer(job: Job, read: Read | None, expected: Answer | None) -> tuple[Answer, int]:
    """The batch answer, and about how many rows the largest source has.

    Raises:
        ConfigError: What is expected is no answer, or not one of this job's sinks.
    """
    check_job(job)
    check_read(read)
    if expected is not None:
        check_answer(expected, "expected")
    harness = JobHarness(job)
    runs = harness.run_to_end()
    rows = [counters.get("output_rows", 0) for run in runs for counters in run.metrics.values()]
    answer = harness.answer(read)
    if expected is not None:
        check_sinks(expected, answer)
    return answer, max(rows, default=0)


def _check(text: str, problem: str) -> None:
    if problem:
        raise AssertionError(f"{text}: {problem}")


def _plans(passed: Counter[Place], points: Collection[CrashPoint]) -> list[Plan]:
    """What to try, in the order of the protocol."""
    order = list(CrashPoint)
    places = sorted(passed, key=lambda place: (order.index(place.point), place.uid, place.line))
    single: list[Plan] = [
        ((place, nth),)
        for place in places
        if place.point in points and place.point not in RECOVERIES
        for nth in _samples(place.point, passed[place])
    ]
    first = [place for place in places if place.point in FIRST_CRASHES]
    double: list[Plan] = [
        ((place, min(2, passed[place])), (recovery, 1))
        for recovery in places
        if recovery.point in points and recovery.point in RECOVERIES
        for place in first
    ]
    return single + double


def _samples(point: CrashPoint, times: int) -> list[int]:
    """At which of the times that a run comes by a point to crash."""
    if point is CrashPoint.AMID_COMMIT:
        return [min(2, times)]
    return sorted({*(one for one in SAMPLES if one <= times), times})


@dataclass(frozen=True, slots=True)
class _Trial:
    job: Job
    read: Read | None
    wanted: Answer
    batch_rows: int
    parallelism: Sequence[int]

    def crash(self, plan: Plan) -> str:
        """What goes wrong when the job dies so; empty when nothing does."""
        harness = CrashingHarness(self.job, plan, self.batch_rows)
        try:
            harness.run_to_end(self.parallelism)
        except LakewardError as error:
            return f"the job cannot go on: {type(error).__name__}: {error.message}"
        if harness.faults.left:
            return "the job took another way than before, and did not come by here: does it depend on chance or time?"
        return differences(harness.answer(self.read), self.wanted)


def _said(plan: Plan) -> str:
    return ", then ".join(f"{place}{f' ({nth}.)' if nth > 1 else ''}" for place, nth in plan)
