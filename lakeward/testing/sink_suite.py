"""The conformance suite of transactional sinks: what exactly-once rests on, as small checks for any sink.

A sink joins by a harness: one fresh output, and how to read it. Then

    class TestMySink(SinkSuite):
        def make_harness(self) -> SinkHarness:
            return MySinkHarness(...)

gives a test for every check. A check that needs a feature which the harness does not name (`SinkFeature`) passes
without doing anything. One that cannot hold is taken out: `test_committables_are_small_versioned_json = None`.
"""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum

import pyarrow as pa

from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.core.clock import Clock, ManualClock
from lakeward.engine.core.errors import LakewardError, SchemaError, SinkError, SinkStateError, StaleWriterError
from lakeward.engine.core.expect import expect
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.testing.source_suite import TestCounters
from lakeward.testing.suites import with_tests

SUITE_SCHEMA = pa.schema([pa.field("id", pa.int64()), pa.field("name", pa.string())])
"""What every check writes."""

_COMMITTABLE_MAX_BYTES = 64 * 1024
_attempts = itertools.count(1)


class SinkFeature(Enum):
    """What a sink can do beyond the contract's core; checks that need it are skipped without it.

    >>> class MyHarness(SinkHarness):
    ...     features = frozenset({SinkFeature.ROLLBACK, SinkFeature.SCHEMA})
    """

    FAULTS = "faults"
    """The harness can make a commit fail (`SinkHarness.fault`)."""
    ROLLBACK = "on_rewind=rollback"
    """A rewind can roll the output back to the restored checkpoint."""
    REWIND_APPEND = "on_rewind=append"
    """A rewind can be told to append."""
    EXISTING_APPEND = "on_existing=append"
    """A stateless restart can be told to append."""
    SHARED = "shared"
    """Several sink ids may write to one output."""
    SCHEMA = "schema"
    """The output has a schema of its own, which `check_schema` compares."""


class FaultPoint(Enum):
    """Where a commit fails.

    >>> import contextlib
    >>> class MyHarness(SinkHarness):
    ...     features = frozenset({SinkFeature.FAULTS})
    ...
    ...     @contextlib.contextmanager
    ...     def fault(self, point):
    ...         self.output.fails_next = point is FaultPoint.NOT_APPLIED
    ...         yield
    """

    NOT_APPLIED = "nothing was applied, and an error is returned"
    APPLIED_ANSWER_LOST = "everything was applied, and yet an error is returned"


@dataclass(frozen=True, slots=True)
class SinkPolicy:
    """How a run's sink is configured. `on_*` values other than "refuse" need the feature of that name.

    >>> from lakeward import MemorySink
    >>> policy = SinkPolicy(on_rewind="append")
    >>> sink = MemorySink(on_rewind=policy.on_rewind, on_existing=policy.on_existing)
    """

    sink_id: str | None = None
    on_rewind: str = "refuse"
    on_existing: str = "refuse"


class SinkHarness(ABC):
    """One fresh, empty output of some kind, as the suite sees it.

    >>> from lakeward import MemorySink
    >>> class MemoryHarness(SinkHarness):
    ...     def __init__(self):
    ...         self.first = MemorySink()
    ...
    ...     def sink(self, policy):
    ...         return self.first.with_options(on_rewind=policy.on_rewind, on_existing=policy.on_existing)
    ...
    ...     def visible_rows(self):
    ...         return [(row["id"], row["name"]) for row in self.first.table().to_pylist()]
    >>> rows_become_visible_with_the_commit_and_not_before(MemoryHarness())

    Attributes:
        features: What the sink can do beyond the contract's core.
    """

    features: frozenset[SinkFeature] = frozenset()

    @abstractmethod
    def sink(self, policy: SinkPolicy) -> Sink:
        """A new description of the same output, as a restarted job would make it."""

    @abstractmethod
    def visible_rows(self) -> Sequence[tuple[int, str]]:
        """All (id, name) rows that a reader sees now, in any order; [] when the output does not exist yet."""

    def fault(self, point: FaultPoint) -> AbstractContextManager[None]:
        """While the context is open, the next commit (of any run) fails at `point`, once."""
        raise NotImplementedError(f"{type(self).__name__} names no FAULTS feature")

    def clock(self) -> Clock:
        """The clock of the runs."""
        return ManualClock()

    def close(self) -> None:  # noqa: B027
        """Release what the harness holds."""


@dataclass(frozen=True, slots=True)
class TakenCheckpoint:
    """What a checkpoint stores of a sink, after a round trip through JSON."""

    id: CheckpointId
    committables: tuple[JsonObject, ...]
    state: JsonObject | None


@dataclass(frozen=True, slots=True)
class RunSpec:
    """How an attempt of the job starts.

    Args:
        restored: The checkpoint it goes on from.
        commit_done: Whether the commit of that checkpoint is known to have happened.
        job_id: The job's identity.
        writers: Parallelism of the sink.
        policy: The sink's options.
    """

    restored: TakenCheckpoint | None = None
    commit_done: bool = False
    job_id: str = "job-1"
    writers: int = 2
    policy: SinkPolicy = SinkPolicy()


class SinkRun:
    """One attempt of a job that has only this sink: opens it, recovers, takes and commits checkpoints.

    Forget it without `close` for a kill -9.
    """

    def __init__(self, harness: SinkHarness, spec: RunSpec | None = None) -> None:
        spec = spec or RunSpec()
        self.spec = spec
        self._attempt = next(_attempts)
        self._clock = harness.clock()
        sink = harness.sink(spec.policy)
        sink.check_schema(SUITE_SCHEMA)
        self.committer = self._open_committer(sink)
        pending = None
        if spec.restored is not None and not spec.commit_done:
            pending = spec.restored.committables
        self.committer.recover(pending)
        self.writers = [self._open_writer(sink, n) for n in range(spec.writers)]

    def _open_committer(self, sink: Sink) -> Committer:
        restored = self.spec.restored
        committer = sink.open_committer(
            CommitterContext(
                uid=OperatorId("sink"),
                job_id=JobId(self.spec.job_id),
                job_name="suite",
                schema=SUITE_SCHEMA,
                restored=restored.id if restored else None,
                restored_state=restored.state if restored else None,
            )
        )
        assert committer is not None, "a transactional sink has a committer"
        return committer

    def _open_writer(self, sink: Sink, subtask: int) -> SinkWriter:
        return sink.open_writer(
            WriterContext(
                uid=OperatorId("sink"),
                job_id=JobId(self.spec.job_id),
                subtask=SubtaskIndex(subtask),
                attempt=f"suite-{self._attempt}",
                schema=SUITE_SCHEMA,
                clock=self._clock,
                counters=TestCounters(),
            )
        )

    def write(self, ids: Iterable[int]) -> None:
        """Deal rows out to the writers, a batch each."""
        dealt = list(ids)
        for n, writer in enumerate(self.writers):
            mine = dealt[n :: len(self.writers)]
            writer.write(
                pa.record_batch(
                    [pa.array(mine, pa.int64()), pa.array([row_name(i) for i in mine], pa.string())],
                    schema=SUITE_SCHEMA,
                )
            )

    def take(self, checkpoint: int, ids: Iterable[int] = ()) -> TakenCheckpoint:
        """Write rows and take a checkpoint, without committing it."""
        self.write(ids)
        number = CheckpointId(checkpoint)
        made = [c for writer in self.writers for c in writer.prepare_commit(number)]
        state = self.committer.snapshot()
        committables, state = json.loads(json.dumps([made, state]))
        return TakenCheckpoint(number, tuple(committables), state)

    def commit(self, taken: TakenCheckpoint) -> None:
        """Commit a checkpoint that was taken by this or any other run."""
        self.committer.commit(taken.id, taken.committables)

    def advance(self, checkpoint: int, ids: Iterable[int] = ()) -> TakenCheckpoint:
        """Take a checkpoint and commit it."""
        taken = self.take(checkpoint, ids)
        self.commit(taken)
        return taken

    def close(self) -> None:
        """An orderly end."""
        for writer in self.writers:
            writer.close()
        self.committer.close()


def row_name(row_id: int) -> str:
    """The name that goes with an id, so that mixed-up columns are noticed."""
    return f"row-{row_id}"


def check_rows(harness: SinkHarness, ids: Iterable[int]) -> None:
    """The output holds exactly these ids, each once, with its own name."""
    expected = sorted((i, row_name(i)) for i in ids)
    actual = sorted(harness.visible_rows())
    assert actual == expected, f"visible: {_brief(actual)}; expected: {_brief(expected)}"


def _brief(rows: Sequence[tuple[int, str]]) -> str:
    return f"{len(rows)} rows, ids {[i for i, _ in rows[:40]]}"


def check_raises(error: type[LakewardError], action: Callable[[], object]) -> LakewardError:
    """The action fails with this kind of error, and its text says what to do."""
    raised = _caught(error, action)
    assert raised is not None, f"{error.__name__} was not raised"
    assert raised.message
    assert raised.hint, f"{type(raised).__name__} without a hint: {raised.message}"
    return raised


def _caught(error: type[LakewardError], action: Callable[[], object]) -> LakewardError | None:
    try:
        action()
    except error as raised:
        return raised
    return None


# --- the plain life of a sink ---------------------------------------------------------------------------------------


def rows_become_visible_with_the_commit_and_not_before(harness: SinkHarness) -> None:
    """Neither a write nor a prepared commit shows anything."""
    run = SinkRun(harness)
    run.write(range(5))
    check_rows(harness, [])
    taken = run.take(1, range(5, 10))
    check_rows(harness, [])
    run.commit(taken)
    check_rows(harness, range(10))


def each_checkpoint_shows_its_own_rows_only(harness: SinkHarness) -> None:
    """Rows written after the barrier belong to the next checkpoint."""
    run = SinkRun(harness)
    first = run.take(1, range(4))
    run.write(range(4, 8))
    run.commit(first)
    check_rows(harness, range(4))
    run.advance(2)
    check_rows(harness, range(8))


def committables_are_small_versioned_json(harness: SinkHarness) -> None:
    """Each has a "v" field and stays small."""
    taken = SinkRun(harness).take(1, range(1000))
    assert taken.committables
    for committable in taken.committables:
        assert isinstance(committable.get("v"), int), "a committable carries its version in `v`"
        assert len(json.dumps(committable)) <= _COMMITTABLE_MAX_BYTES
    assert taken.state is None or isinstance(taken.state.get("v"), int)


def a_writer_without_rows_prepares_nothing(harness: SinkHarness) -> None:
    """No rows, no committables; also after an empty batch."""
    run = SinkRun(harness)
    assert run.take(1).committables == ()
    run.advance(2, range(3))
    assert run.take(3).committables == ()


def a_closed_run_shows_nothing_more(harness: SinkHarness) -> None:
    """`close` commits nothing."""
    run = SinkRun(harness)
    run.advance(1, range(3))
    run.take(2, range(3, 6))
    run.write(range(6, 9))
    run.close()
    check_rows(harness, range(3))


# --- failover -------------------------------------------------------------------------------------------------------


def a_repeated_commit_changes_nothing(harness: SinkHarness) -> None:
    """The same commit again, at once and after a later one."""
    run = SinkRun(harness)
    first = run.advance(1, range(3))
    run.commit(first)
    check_rows(harness, range(3))
    run.advance(2, range(3, 6))
    run.commit(first)
    check_rows(harness, range(6))


def a_crash_before_the_first_checkpoint_leaves_nothing(harness: SinkHarness) -> None:
    """Rows that no checkpoint holds are written again by the next attempt."""
    SinkRun(harness).write(range(5))
    SinkRun(harness).advance(1, range(5))
    check_rows(harness, range(5))


def a_crash_before_the_commit_is_healed_on_restart(harness: SinkHarness) -> None:
    """The checkpoint was durable, its commit did not happen: `recover` makes it up."""
    first = SinkRun(harness).take(1, range(5))
    check_rows(harness, [])
    run = SinkRun(harness, RunSpec(restored=first))
    check_rows(harness, range(5))
    run.advance(2, range(5, 8))
    check_rows(harness, range(8))


def a_crash_after_the_commit_does_not_double_it(harness: SinkHarness) -> None:
    """The commit happened, nobody noted it: `recover` sees the marker; twice over."""
    first = SinkRun(harness).advance(1, range(5))
    SinkRun(harness, RunSpec(restored=first))
    run = SinkRun(harness, RunSpec(restored=first))
    check_rows(harness, range(5))
    run.advance(2, range(5, 8))
    check_rows(harness, range(8))


def a_crash_between_checkpoint_and_commit_of_a_later_one(harness: SinkHarness) -> None:
    """As above, but with committed checkpoints before and a restart in another parallelism."""
    old = SinkRun(harness, RunSpec(writers=3))
    old.advance(1, range(5))
    second = old.take(2, range(5, 11))
    run = SinkRun(harness, RunSpec(restored=second, writers=1))
    check_rows(harness, range(11))
    run.advance(3, range(11, 13))
    check_rows(harness, range(13))


def a_known_commit_is_not_repeated(harness: SinkHarness) -> None:
    """`recover(None)`: the commit is known to be done."""
    first = SinkRun(harness).advance(1, range(5))
    run = SinkRun(harness, RunSpec(restored=first, commit_done=True))
    run.advance(2, range(5, 8))
    check_rows(harness, range(8))


def an_aborted_checkpoint_does_not_take_rows_with_it(harness: SinkHarness) -> None:
    """Checkpoint 2 fails after `prepare_commit`; the job goes back to 1 and writes the rows again."""
    old = SinkRun(harness)
    first = old.advance(1, range(3))
    old.take(2, range(3, 6))
    run = SinkRun(harness, RunSpec(restored=first))
    run.advance(3, range(3, 6))
    check_rows(harness, range(6))


def a_commit_that_failed_can_be_repeated(harness: SinkHarness) -> None:
    """Nothing was applied: the error says so by its type, and the next try lands."""
    if SinkFeature.FAULTS not in harness.features:
        return
    run = SinkRun(harness)
    run.advance(1, range(3))
    second = run.take(2, range(3, 6))
    _commit_with_fault(harness, run, second, FaultPoint.NOT_APPLIED)
    run.commit(second)
    check_rows(harness, range(6))


def a_commit_whose_answer_was_lost_is_recognised(harness: SinkHarness) -> None:
    """It was applied, and an error came back: repeating it, here or after a restart, adds nothing."""
    if SinkFeature.FAULTS not in harness.features:
        return
    run = SinkRun(harness)
    first = run.take(1, range(3))
    _commit_with_fault(harness, run, first, FaultPoint.APPLIED_ANSWER_LOST)
    check_rows(harness, range(3))
    run.commit(first)
    check_rows(harness, range(3))
    second = run.take(2, range(3, 6))
    _commit_with_fault(harness, run, second, FaultPoint.APPLIED_ANSWER_LOST)
    SinkRun(harness, RunSpec(restored=second)).advance(3, range(6, 8))
    check_rows(harness, range(8))


def _commit_with_fault(harness: SinkHarness, run: SinkRun, taken: TakenCheckpoint, point: FaultPoint) -> None:
    """A sink may heal the fault on its own, or say SinkError; nothing else."""
    with harness.fault(point):
        error = _caught(SinkError, lambda: run.commit(taken))
    assert not isinstance(error, StaleWriterError | SinkStateError), error


# --- who may write --------------------------------------------------------------------------------------------------


def a_late_commit_of_a_dead_attempt_adds_nothing(harness: SinkHarness) -> None:
    """The old process wakes up after its successor has recovered the same checkpoint."""
    zombie = SinkRun(harness)
    zombie.advance(1, range(3))
    second = zombie.take(2, range(3, 6))
    run = SinkRun(harness, RunSpec(restored=second))
    zombie.commit(second)
    check_rows(harness, range(6))
    run.advance(3, range(6, 9))
    check_rows(harness, range(9))


def a_superseded_attempt_is_told_to_stop(harness: SinkHarness) -> None:
    """Both reach checkpoint 3; the successor is first. The old one's rows would be doubles."""
    zombie = SinkRun(harness)
    second = zombie.advance(2, range(3))
    run = SinkRun(harness, RunSpec(restored=second))
    late = zombie.take(3, range(3, 7))
    run.advance(3, range(3, 5))
    check_raises(StaleWriterError, lambda: zombie.commit(late))
    check_raises(StaleWriterError, lambda: zombie.commit(zombie.take(4, range(7, 9))))
    run.advance(4, range(5, 9))
    check_rows(harness, range(9))


def of_two_first_runs_one_wins(harness: SinkHarness) -> None:
    """Two jobs start with the same sink id over an empty output."""
    one, other = SinkRun(harness), SinkRun(harness, RunSpec(job_id="job-2"))
    mine, theirs = one.take(1, range(3)), other.take(1, range(3))
    one.commit(mine)
    check_raises(StaleWriterError, lambda: other.commit(theirs))
    check_rows(harness, range(3))


def a_new_job_id_changes_nothing(harness: SinkHarness) -> None:
    """The sink id is the owner: a savepoint goes on under another job id, committed or not."""
    old = SinkRun(harness)
    first = old.advance(1, range(3))
    SinkRun(harness, RunSpec(restored=first, job_id="job-2"))
    check_rows(harness, range(3))
    second = old.take(2, range(3, 6))
    run = SinkRun(harness, RunSpec(restored=second, job_id="job-3"))
    check_rows(harness, range(6))
    run.advance(3, range(6, 9))
    check_rows(harness, range(9))


def two_sink_ids_do_not_disturb_each_other(harness: SinkHarness) -> None:
    """Markers are kept a sink id; interleaved commits of both land, and each recovers its own."""
    if SinkFeature.SHARED not in harness.features:
        return
    spec = [RunSpec(policy=SinkPolicy(sink_id=name)) for name in ("a", "b")]
    a, b = (SinkRun(harness, s) for s in spec)
    for n in range(1, 5):
        last_a = a.advance(n, [n])
        last_b = b.advance(10 * n, [100 + n])
    check_rows(harness, [1, 2, 3, 4, 101, 102, 103, 104])
    SinkRun(harness, RunSpec(restored=last_a, policy=spec[0].policy)).advance(5, [5])
    SinkRun(harness, RunSpec(restored=last_b, policy=spec[1].policy)).advance(41, [105])
    check_rows(harness, [1, 2, 3, 4, 5, 101, 102, 103, 104, 105])


# --- empty checkpoints, rewinds, stateless restarts -----------------------------------------------------------------


def empty_checkpoints_lose_and_double_nothing(harness: SinkHarness) -> None:
    """More of them than any interval after which a marker is written, with restarts in between."""
    run = SinkRun(harness)
    run.advance(1, range(3))
    for n in range(2, 27):
        last = run.advance(n)
    check_rows(harness, range(3))
    run = SinkRun(harness, RunSpec(restored=last))
    for n in range(27, 30):
        last = run.advance(n)
    run = SinkRun(harness, RunSpec(restored=last, commit_done=True))
    run.advance(30, range(3, 6))
    check_rows(harness, range(6))


def an_output_may_stay_empty_at_first(harness: SinkHarness) -> None:
    """Nothing but empty checkpoints, restarts, then the first rows."""
    last = None
    for n in range(1, 4):
        last = SinkRun(harness, RunSpec(restored=last)).advance(n)
    SinkRun(harness, RunSpec(restored=last)).advance(4, range(2))
    check_rows(harness, range(2))


def a_rewind_is_refused(harness: SinkHarness) -> None:
    """Restored from checkpoint 1, but the output has 3: going on would double rows."""
    run = SinkRun(harness)
    first = run.advance(1, range(3))
    run.advance(2, range(3, 6))
    run.advance(3, range(6, 9))
    check_raises(SinkStateError, lambda: SinkRun(harness, RunSpec(restored=first)))
    check_raises(SinkStateError, lambda: SinkRun(harness, RunSpec(restored=first, commit_done=True)))
    check_rows(harness, range(9))


def a_rewind_can_roll_back(harness: SinkHarness) -> None:
    """The output goes back to the restored checkpoint; the abandoned run can no longer write."""
    if SinkFeature.ROLLBACK not in harness.features:
        return
    old = SinkRun(harness)
    first = old.advance(1, range(3))
    old.advance(2, range(3, 6))
    old.advance(3, range(6, 9))
    policy = SinkPolicy(on_rewind="rollback")
    SinkRun(harness, RunSpec(restored=first, policy=policy))
    check_rows(harness, range(3))
    run = SinkRun(harness, RunSpec(restored=first, policy=policy))
    check_raises(StaleWriterError, lambda: old.commit(old.take(4, range(50, 52))))
    second = run.advance(2, range(3, 7))
    check_rows(harness, range(7))
    SinkRun(harness, RunSpec(restored=second)).advance(3, range(7, 9))
    check_rows(harness, range(9))


def a_rewind_can_append(harness: SinkHarness) -> None:
    """The rows after the restored checkpoint come twice, as asked; later restarts are plain again."""
    if SinkFeature.REWIND_APPEND not in harness.features:
        return
    old = SinkRun(harness)
    first = old.advance(1, range(3))
    old.advance(2, range(3, 6))
    run = SinkRun(harness, RunSpec(restored=first, policy=SinkPolicy(on_rewind="append")))
    second = run.advance(2, range(3, 6))
    check_rows(harness, [*range(6), *range(3, 6)])
    check_raises(StaleWriterError, lambda: old.commit(old.take(3, range(50, 52))))
    SinkRun(harness, RunSpec(restored=second)).advance(3, range(6, 8))
    check_rows(harness, [*range(8), *range(3, 6)])


def a_commit_after_its_successor_began_is_noticed(harness: SinkHarness) -> None:
    """A zombie's checkpoint 2 lands after its successor went on from 1; or it is refused, which is better."""
    third = _overtaken(harness)
    if third is not None:
        check_raises(SinkStateError, lambda: SinkRun(harness, RunSpec(restored=third)))
        check_rows(harness, range(6))


def a_commit_after_an_empty_one_is_noticed(harness: SinkHarness) -> None:
    """As above, but the successor has committed a checkpoint without rows in between."""
    zombie = SinkRun(harness)
    first = zombie.advance(1, range(3))
    second = zombie.take(2, range(3, 6))
    run = SinkRun(harness, RunSpec(restored=first, commit_done=True))
    third = run.advance(3)
    if _caught(StaleWriterError, lambda: zombie.commit(second)) is None:
        check_raises(SinkError, lambda: run.advance(4, range(3, 6)))
        check_raises(SinkStateError, lambda: SinkRun(harness, RunSpec(restored=third)))
        check_raises(SinkStateError, lambda: SinkRun(harness, RunSpec(restored=third, commit_done=True)))
        check_rows(harness, range(6))


def a_commit_after_its_successor_began_can_be_rolled_back(harness: SinkHarness) -> None:
    """The zombie's rows go, the successor's come, however often that is begun again."""
    if SinkFeature.ROLLBACK not in harness.features:
        return
    run = _taken_up(harness, SinkPolicy(on_rewind="rollback"), range(7))
    if run is not None:
        fourth = run.take(4, range(7, 9))
        SinkRun(harness, RunSpec(restored=fourth)).advance(5, range(9, 10))
        check_rows(harness, range(10))


def a_commit_after_its_successor_began_can_be_kept(harness: SinkHarness) -> None:
    """The zombie's rows come twice, as asked; the successor's are not lost."""
    if SinkFeature.REWIND_APPEND not in harness.features:
        return
    run = _taken_up(harness, SinkPolicy(on_rewind="append"), [*range(7), *range(3, 6)])
    if run is not None:
        run.advance(4, range(7, 9))
        check_rows(harness, [*range(9), *range(3, 6)])


def _taken_up(harness: SinkHarness, policy: SinkPolicy, ids: Sequence[int]) -> SinkRun | None:
    """The last of three runs that take up `_overtaken`, each of which leaves these rows; None if it was refused."""
    third = _overtaken(harness)
    if third is None:
        return None
    for commit_done in (False, False, True):
        run = SinkRun(harness, RunSpec(restored=third, commit_done=commit_done, policy=policy))
        check_rows(harness, ids)
    return run


def _overtaken(harness: SinkHarness) -> TakenCheckpoint | None:
    """Checkpoint 3, made from 1 and not committed, over an output with a zombie's 2, made from 1 too.

    None if the zombie was refused.
    """
    zombie = SinkRun(harness)
    first = zombie.advance(1, range(3))
    second = zombie.take(2, range(3, 6))
    run = SinkRun(harness, RunSpec(restored=first, commit_done=True))
    refused = _caught(StaleWriterError, lambda: zombie.commit(second))
    third = run.take(3, range(3, 7))
    if refused is not None:
        run.commit(third)
        check_rows(harness, range(7))
        return None
    check_raises(SinkError, lambda: run.commit(third))
    return third


def a_stateless_restart_is_refused(harness: SinkHarness) -> None:
    """The checkpoints were lost or left behind, the output has a marker of this sink id."""
    SinkRun(harness).advance(1, range(3))
    check_raises(SinkStateError, lambda: SinkRun(harness))
    check_raises(SinkStateError, lambda: SinkRun(harness, RunSpec(job_id="job-2")))
    check_rows(harness, range(3))


def a_stateless_restart_can_append(harness: SinkHarness) -> None:
    """Checkpoint ids start again at 1, far below the old marker, and commits land all the same."""
    if SinkFeature.EXISTING_APPEND not in harness.features:
        return
    old = SinkRun(harness)
    old.advance(57, range(3))
    policy = SinkPolicy(on_existing="append")
    run = SinkRun(harness, RunSpec(job_id="job-2", policy=policy))
    first = run.advance(1, range(3, 6))
    check_rows(harness, range(6))
    check_raises(StaleWriterError, lambda: old.commit(old.take(58, range(50, 52))))
    run = SinkRun(harness, RunSpec(restored=first, job_id="job-2"))
    run.advance(2, range(6, 8))
    check_rows(harness, range(8))


def a_schema_that_does_not_fit_is_refused(harness: SinkHarness) -> None:
    """Before the first row; the text names the column and both types."""
    if SinkFeature.SCHEMA not in harness.features:
        return
    SinkRun(harness).advance(1, range(3))
    wrong = pa.schema([pa.field("id", pa.string()), pa.field("nome", pa.string())])
    error = check_raises(SchemaError, lambda: harness.sink(SinkPolicy()).check_schema(wrong))
    for word in ("id", "nome", "name", "string"):
        assert word in error.message, f"the text does not name {word!r}: {error.message}"


SinkCheck = Callable[[SinkHarness], None]

SINK_CHECKS: Sequence[SinkCheck] = (
    rows_become_visible_with_the_commit_and_not_before,
    each_checkpoint_shows_its_own_rows_only,
    committables_are_small_versioned_json,
    a_writer_without_rows_prepares_nothing,
    a_closed_run_shows_nothing_more,
    a_repeated_commit_changes_nothing,
    a_crash_before_the_first_checkpoint_leaves_nothing,
    a_crash_before_the_commit_is_healed_on_restart,
    a_crash_after_the_commit_does_not_double_it,
    a_crash_between_checkpoint_and_commit_of_a_later_one,
    a_known_commit_is_not_repeated,
    an_aborted_checkpoint_does_not_take_rows_with_it,
    a_commit_that_failed_can_be_repeated,
    a_commit_whose_answer_was_lost_is_recognised,
    a_late_commit_of_a_dead_attempt_adds_nothing,
    a_superseded_attempt_is_told_to_stop,
    of_two_first_runs_one_wins,
    a_new_job_id_changes_nothing,
    two_sink_ids_do_not_disturb_each_other,
    empty_checkpoints_lose_and_double_nothing,
    an_output_may_stay_empty_at_first,
    a_rewind_is_refused,
    a_rewind_can_roll_back,
    a_rewind_can_append,
    a_commit_after_its_successor_began_is_noticed,
    a_commit_after_an_empty_one_is_noticed,
    a_commit_after_its_successor_began_can_be_rolled_back,
    a_commit_after_its_successor_began_can_be_kept,
    a_stateless_restart_is_refused,
    a_stateless_restart_can_append,
    a_schema_that_does_not_fit_is_refused,
)
"""Every check; each wants a fresh harness."""


def run_check(check: SinkCheck, harness: SinkHarness) -> None:
    """Run one check and close the harness whatever happens."""
    expect(harness, SinkHarness, "what make_harness returned", "return an object of your subclass of SinkHarness")
    try:
        check(harness)
    finally:
        harness.close()


@with_tests(SINK_CHECKS, lambda suite, check: run_check(check, suite.make_harness()))
class SinkSuite(ABC):
    """The tests that an exactly-once sink has to pass, for a test class of your own to inherit.

    >>> from lakeward import MemorySink
    >>> class MemoryHarness(SinkHarness):
    ...     def __init__(self):
    ...         self.first = MemorySink()
    ...     def sink(self, policy):
    ...         return self.first.with_options(on_rewind=policy.on_rewind, on_existing=policy.on_existing)
    ...     def visible_rows(self):
    ...         return [(row["id"], row["name"]) for row in self.first.table().to_pylist()]
    >>> class TestMemory(SinkSuite):
    ...     def make_harness(self):
    ...         return MemoryHarness()
    >>> TestMemory().test_a_crash_before_the_commit_is_healed_on_restart()
    """

    @abstractmethod
    def make_harness(self) -> SinkHarness:
        """A harness over a new, empty output, at every call."""
