"""Bugs are put into the engine on purpose, one at a time: the simulator has to find each, or it proves nothing.

The first group are the classic ones of checkpointing engines; the second are bugs that the simulator has found in
Lakeward itself, put back as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from planting import Plant, both, check_found, first_violation, rates, set_method

from lakeward.engine.checkpoint import retention, workflow
from lakeward.engine.checkpoint.alignment import BarrierAligner
from lakeward.engine.checkpoint.coordinator import CheckpointCoordinator
from lakeward.engine.checkpoint.events import Acked
from lakeward.engine.checkpoint.protocol import Candidate, Resolution
from lakeward.engine.checkpoint.protocol import resolve as real_resolve
from lakeward.engine.checkpoint.retention import plan_retention as real_plan_retention
from lakeward.engine.checkpoint.transfer import FileTransfer
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.keygroups import key_groups
from lakeward.engine.core.messages import Barrier, Batch, Message, Watermark
from lakeward.engine.execute import Attempt
from lakeward.engine.graph import plan as planning
from lakeward.engine.graph.logical import Exchange
from lakeward.engine.runtime import build, watermarks
from lakeward.engine.runtime.carried import CarriedCommittables
from lakeward.engine.runtime.channel import Channel
from lakeward.engine.runtime.committers import JobCommitters
from lakeward.engine.runtime.job import JobRunner
from lakeward.engine.runtime.partition import HashPartitioner
from lakeward.engine.runtime.restore import RestoredState
from lakeward.engine.runtime.source_task import SourceTask
from lakeward.engine.runtime.task import Task
from lakeward.engine.runtime.unaligned import Overtaken, RestoredRows
from lakeward.engine.runtime.watermarks import END_OF_TIME
from lakeward.engine.state import memory
from lakeward.engine.state.backend import StateBackend
from lakeward.operators import async_queue
from lakeward.operators.async_map import SavedRows
from lakeward.operators.group_aggregate import Changelog, Results
from lakeward.operators.process.batch_operator import BatchProcessOperator
from lakeward.operators.process.broadcast import BroadcastStates
from lakeward.operators.process.expiry import Expiry
from lakeward.operators.process.lists import ListCells
from lakeward.operators.process.maps import MapCells
from lakeward.operators.process.timers import TimerQueue
from lakeward.operators.top_n import TopN
from lakeward.operators.windows.operator import WindowOperator
from lakeward.operators.windows.progress import Progress
from lakeward.operators.windows.sent import SentResults
from lakeward.testing.simulation import Fault, Swarm
from lakeward.testing.simulation.knobs import FUNCTIONS, IDLE, UPDATING
from lakeward.testing.simulation.sink import COMMIT_TRIES_MAX, SimTableCommitter
from lakeward.testing.simulation.table import CommitConflict

CRASHES = {Fault.CRASH: 0.01, Fault.CRASH_BETWEEN: 0.01}
STOPS = {Fault.STOP: 0.01, Fault.CRASH_BETWEEN: 0.01}
PAUSES = {Fault.PAUSE: 0.03}
KEYED = ("tumbling", "reduce")


# -- sinks and commits


def blind_commit(self: SimTableCommitter, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
    """Commits whatever the table is at."""
    summary = {"sink_id": self._sink_id, "checkpoint": str(checkpoint), "job_id": self._context.job_id}
    version, _ = self._table.load(self._sink_id)
    self._table.commit(version, summary, [str(one["file"]) for one in committables])
    self._expected = checkpoint


def commit_that_looks_once(
    self: SimTableCommitter, checkpoint: CheckpointId, committables: Sequence[JsonObject]
) -> None:
    """Looks for the mark before the first try only; a conflict is answered by a blind retry."""
    summary = {"sink_id": self._sink_id, "checkpoint": str(checkpoint), "job_id": self._context.job_id}
    version, marker = self._table.load(self._sink_id)
    if self._is_done(checkpoint, marker):
        return
    for _ in range(COMMIT_TRIES_MAX):
        try:
            self._table.commit(version, summary, [str(one["file"]) for one in committables])
        except CommitConflict:
            version, _ = self._table.load(self._sink_id)
            continue
        self._expected = checkpoint
        return


def recover_without_pending(self: JobCommitters, pending: object) -> None:
    """Takes for granted that the restored checkpoint was committed."""
    for _, committer in self._committers.values():
        assert isinstance(committer, SimTableCommitter)
        _, committer._expected = committer._table.load(committer._sink_id)


real_publish = JobRunner._publish


def commit_before_publish(self: JobRunner, checkpoint: CheckpointId, snapshots: Any, final: bool) -> Any:
    self._services.committers.commit(checkpoint, snapshots)
    return real_publish(self, checkpoint, snapshots, final)


# -- recovery


def resolve_to_an_older_one(candidates: Sequence[Candidate], generation: Any) -> Resolution:
    newest = max((one.checkpoint for one in candidates), default=0)
    older = [one for one in candidates if one.checkpoint < newest]
    return real_resolve(older or candidates, generation)


def distrust_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """No checksum of a state file is looked at, neither in the checkpoint store nor in the key-value store."""
    monkeypatch.setattr(FileTransfer, "problem", lambda self, file: "")
    monkeypatch.setattr(FileTransfer, "_check_downloaded", lambda self, file, target: None)
    monkeypatch.setattr(memory, "_decode", decode_without_checksum)


def decode_without_checksum(content: bytes, path: str) -> dict[bytes, bytes]:
    body = content[: -memory._CHECKSUM.size]
    return real_decode(body + memory._CHECKSUM.pack(memory.zlib.crc32(body)), path)


real_decode = memory._decode


def plan_retention_without_looking(views: Any, count: int) -> retention.RetentionPlan:
    plan = real_plan_retention(views, count)
    return replace(plan, freed=plan.freed | plan.kept) if plan.doomed else plan


def keyed_of_the_same_number(self: RestoredState, uid: Any, subtask: int, parallelism: int) -> list[Any]:
    """What each subtask had, whatever the parallelism is now."""
    parts = [one for one in self.snapshots(uid) if one.keyed is not None and one.subtask == subtask]
    return [self._fetch(one) for one in parts]


# -- streams


def overtaking(kind: type[Message]) -> Callable[[Channel, Message], None]:
    """A channel in which one kind of message overtakes the rows."""

    def send(self: Channel, message: Message) -> None:
        place = len(self._queue)
        while isinstance(message, kind) and place and isinstance(self._queue[place - 1], Batch):
            place -= 1
        self._queue.insert(place, message)

    return send


def split_by_modulo(self: HashPartitioner, batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Spreads keys evenly, but not to the owners of their key groups."""
    groups = key_groups(hash_columns([batch.column(key) for key in self._keys]), self._max_parallelism)
    targets = groups % self._receivers
    for receiver in np.unique(targets):
        yield int(receiver), batch.filter(pa.array(targets == receiver))


real_send = SourceTask._send


def send_and_record_early(self: SourceTask, polled: Any) -> None:
    before = self._splits[polled.split].position
    real_send(self, polled)
    self._splits[polled.split] = replace(self._splits[polled.split], position=before)


def send_and_record_late(self: SourceTask, polled: Any) -> None:
    rows = len(self._setup.node.work.source.splits[polled.split].rows)  # type: ignore[union-attr]
    real_send(self, replace(polled, position={"next": min(polled.position["next"] + 1, rows)}))


def accept_any_ack(self: CheckpointCoordinator, event: Acked, now_ms: int) -> Any:
    """Takes the acknowledgement of a checkpoint that was given up for one of the checkpoint in flight."""
    return real_on_acked(self, replace(event, checkpoint=self.in_flight or event.checkpoint), now_ms)


real_on_acked = CheckpointCoordinator._on_acked


def plant_any_ack(monkeypatch: pytest.MonkeyPatch) -> None:
    from lakeward.engine.checkpoint import coordinator

    table = dict(coordinator._TRANSITIONS)
    for phase, kind in table:
        if kind is Acked:
            monkeypatch.setitem(coordinator._TRANSITIONS, (phase, kind), accept_any_ack)  # type: ignore[arg-type]


# -- updating streams


def emit_as_if_nothing_had_been_sent(self: Changelog, keys: Any, before: Results, after: Results, out: Any) -> None:
    """The first changes after a start take no old rows back; after a restore there were some."""
    if not hasattr(self, "started"):
        self.started = True  # type: ignore[attr-defined]
        before = Results(before.columns, np.zeros_like(before.present))
    real_emit(self, keys, before, after, out)


real_emit = Changelog.emit


def rebalance_where_counts_differ(edge: Any, upstream: Any, senders: int, receivers: int) -> Exchange:
    """Changes of one key are spread over all subtasks, as rows of a stream that only appends may be."""
    return Exchange.REBALANCE if edge.exchange is Exchange.FORWARD and senders != receivers else edge.exchange


# -- event time


def open_without_what_was_sent(self: SentResults, context: Any) -> None:
    """A restored window does not know what it has sent early."""
    real_open(self, context)
    for window in list(self._table.namespaces()):
        self._table.drop(window)


real_open = SentResults.open


def combine_with_ended_inputs(marks: list[Watermark], floor_us: int) -> Watermark:
    """An input that has ended is further ahead than all others, so that event time ends when those are idle."""
    active = [mark.timestamp_us for mark in marks if not mark.idle and mark != END_OF_TIME]
    furthest_us = max([floor_us, *(mark.timestamp_us for mark in marks)])
    return Watermark(max(min(active), floor_us)) if active else Watermark(furthest_us, idle=True)


# -- process functions


def open_with_nothing_due(self: TimerQueue, *arguments: Any) -> None:
    """Restored timers are in the table of state, but nobody knows when they are due."""
    real_queue(self, *arguments)
    self._due = type(self._due)()


real_queue = TimerQueue.__init__


def firing_without_chains(self: TimerQueue, timers: Any, chained: bool = True) -> Any:
    """Timers that are set while others fire come after all of these, whatever their time is."""
    return real_firing(self, timers, chained=False)


real_firing = TimerQueue.firing


def finish_maps_without_removals(self: MapCells) -> None:
    self._gone = []
    real_finish_maps(self)


real_finish_maps = MapCells.finish


def finish_lists_without_removals(self: ListCells) -> None:
    self._replaced = set()
    real_finish_lists(self)


real_finish_lists = ListCells.finish


def open_with_broadcast_entries_of_own_key_groups(self: BroadcastStates, *arguments: Any) -> None:
    real_broadcast(self, *arguments)
    for cells in self._cells.values():
        names = list(cells.held)
        groups = key_groups(hash_columns(cells._keys.arrays(names)), cells._max_parallelism)
        cells.held = {name: cells.held[name] for name, group in zip(names, groups, strict=True) if group in cells._ours}


real_broadcast = BroadcastStates.__init__


# -- bugs that were there


def call_by_the_earliest_timer(self: BatchProcessOperator, *arguments: Any) -> list[pa.RecordBatch]:
    times_us = self._batch.watermarks_us
    if times_us is not None:
        self._batch.watermarks_us = np.full(len(times_us), times_us.min())
    return real_called(self, *arguments)


real_called = BatchProcessOperator._called


def key_of_the_input_alone(self: TopN) -> tuple[str, ...] | None:
    key: tuple[str, ...] | None = real_upsert_key(self)
    return key if key is None or self.config.by_place else tuple(one for one in key if one not in self.config.keys)


real_upsert_key: Any = TopN.upsert_key.fget  # type: ignore[attr-defined]


def step_that_says_idle_before_the_end(self: SourceTask) -> bool:
    ended = SourceTask._end_if_done
    try:
        SourceTask._end_if_done = lambda task: False  # type: ignore[method-assign, assignment]
        stepped = real_step(self)
    finally:
        SourceTask._end_if_done = ended  # type: ignore[method-assign]
    return (not self._ended and ended(self)) or stepped


real_step = SourceTask.step


def ended_when_tasks_have(self: Attempt) -> bool:
    return self._was_final or (self._runner is not None and all(task.has_ended for task in self._runner.tasks))


def scan_without_rows(self: Overtaken) -> None:
    """Bug: what a barrier overtakes is not stored."""
    real_scan(self)
    for batches in self.rows:
        batches.clear()


def scan_beyond_the_barrier(self: Overtaken) -> None:
    """Bug: rows that come after the barrier are stored, too."""
    still_open = set(self._open)
    real_scan(self)
    for number in still_open - self._open:
        channel = self._channels[number]
        later = (channel.peek(at) for at in range(self._seen[number], len(channel)))
        self.rows[number] += [message.data for message in later if isinstance(message, Batch)]


real_scan = Overtaken.scan


def all_rows_for_every_subtask(
    self: RestoredRows, one: Any, old: int, batch: pa.RecordBatch
) -> Iterator[pa.RecordBatch]:
    """Rows in flight are not dealt out anew."""
    yield batch


def abort_without_what_was_taken(self: Task, checkpoint: CheckpointId) -> None:
    """Bug: what sinks have handed over to a checkpoint that is given up while it waits for barriers is forgotten."""
    if self._overtaken is not None and self._overtaken[0].checkpoint <= checkpoint:
        self._overtaken = None
    real_abort(self, checkpoint)


real_abort = Task.abort


ONE_BY_ONE = set_method(build._Builder, "_reads_all", lambda self, vertex: False)
PLANTS = [
    Plant(
        "the committer does not look for its mark",
        set_method(SimTableCommitter, "commit", blind_commit),
        Swarm(rates=rates(TABLE_LOST=0.3)),
    ),
    Plant(
        "the committer looks for its mark before the first try only",
        set_method(SimTableCommitter, "commit", commit_that_looks_once),
        Swarm(rates={Fault.PAUSE: 0.05}, programs=("filter",), interval_ms=5),
        first=37,
    ),
    Plant(
        "recovery does not repeat a commit that may be missing",
        set_method(JobCommitters, "recover", recover_without_pending),
        Swarm(rates=rates(CRASHES, TABLE_ERROR=0.2), programs=("filter",)),
    ),
    Plant(
        "sinks commit before the checkpoint is complete",
        set_method(JobRunner, "_publish", commit_before_publish),
    ),
    Plant(
        "a stale generation goes on",
        set_method(CheckpointWorkflow, "_check_current", lambda self, generation: None),
        Swarm(rates=rates(PAUSES, PAUSE_BETWEEN=0.01), programs=("filter",)),
    ),
    Plant(
        "recovery takes an older checkpoint",
        set_method(workflow, "resolve", resolve_to_an_older_one),
        Swarm(rates=STOPS, retained=3, interval_ms=20),
    ),
    Plant(
        "checksums of state files are not verified",
        distrust_no_file,
        Swarm(rates=rates(STOPS, BIT_ROT=0.02), programs=KEYED, retained=1, rows=(10, 40)),
    ),
    Plant(
        "retention deletes files that are still referred to",
        set_method(workflow, "plan_retention", plan_retention_without_looking),
        Swarm(rates={}, programs=KEYED, retained=1, interval_ms=20),
    ),
    Plant(
        "keyed state is not restored",
        set_method(StateBackend, "restore", lambda self, sources: None),
        Swarm(rates=STOPS, programs=KEYED, rows=(10, 60)),
        first=4,
    ),
    Plant(
        "rescaling restores each subtask's own old state",
        set_method(RestoredState, "keyed", keyed_of_the_same_number),
        Swarm(rates=STOPS, programs=KEYED, rows=(10, 60)),
        first=6,
    ),
    Plant(
        "the watermark of windows is not restored",
        set_method(Progress, "_restore", lambda self, restored: None),
        Swarm(rates=STOPS, programs=("sliding",), rows=(10, 60)),
        first=4,
    ),
    Plant(
        "the aligner never blocks",
        set_method(BarrierAligner, "is_blocked", lambda self, channel: False),
        Swarm(rates={}, programs=("filter", "tumbling", "union"), parallelism=(1, 3), interval_ms=20, rows=(20, 60)),
        first=4,
    ),
    Plant(
        "a barrier overtakes rows",
        set_method(Channel, "send", overtaking(Barrier)),
        Swarm(rates={}, channel_batches=4, interval_ms=20, rows=(20, 60)),
    ),
    Plant(
        "a watermark overtakes rows",
        set_method(Channel, "send", overtaking(Watermark)),
        Swarm(rates={}, programs=("tumbling",), channel_batches=4, interval_ms=20, rows=(20, 60)),
    ),
    Plant(
        "a key goes to a subtask that does not own it",
        set_method(HashPartitioner, "split", split_by_modulo),
        Swarm(rates=STOPS, programs=KEYED, parallelism=(2, 3), rows=(10, 60)),
        first=6,
    ),
    Plant("positions are recorded one batch early", set_method(SourceTask, "_send", send_and_record_early)),
    Plant("positions are recorded one row late", set_method(SourceTask, "_send", send_and_record_late)),
    Plant(
        "an acknowledgement of a given-up checkpoint counts for the next",
        plant_any_ack,
        Swarm(rates={Fault.ACK_LATE: 0.5}, rows=(20, 60), timeout_ms=150, interval_ms=20),
        first=7,
    ),
    Plant(
        "rows of a given-up checkpoint are not committed with the next",
        set_method(CarriedCommittables, "added_to", lambda self, checkpoint, snapshots: tuple(snapshots)),
        Swarm(rates={Fault.ACK_LATE: 0.5}, programs=("filter",), rows=(20, 60), timeout_ms=150, interval_ms=20),
        first=7,
    ),
    Plant(
        "what was sent before a restore is not taken back",
        set_method(Changelog, "emit", emit_as_if_nothing_had_been_sent),
        Swarm(rates=STOPS, programs=UPDATING, rows=(10, 60)),
        first=4,
    ),
    Plant(
        "changes of one key go to several sinks",
        set_method(planning, "_exchange", rebalance_where_counts_differ),
        Swarm(rates={}, programs=("totals", "top_n", "latest"), rows=(10, 60), interval_ms=20),
    ),
    Plant(
        "rows of rankings are told apart without the ranking's key",
        set_method(TopN, "upsert_key", property(key_of_the_input_alone)),
        Swarm(rates={}, programs=("top_totals",), rows=(10, 60)),
        first=3,
    ),
    Plant(
        "what windows had sent early before a restore is not taken back",
        set_method(SentResults, "open", open_without_what_was_sent),
        Swarm(rates=STOPS, programs=("early", "early_totals", "idle_early"), rows=(10, 60)),
        first=6,
    ),
    Plant(
        "event time is at its end when all that have not ended are idle",
        set_method(watermarks, "combine", combine_with_ended_inputs),
        Swarm(rates={}, programs=IDLE, parallelism=(2, 3), rows=(10, 60), interval_ms=20),
    ),
    Plant(
        "windows go on with the first of several subtasks that has heard of a split that woke up",
        ONE_BY_ONE,
        Swarm(rates={}, programs=("idle_cascade",), parallelism=(2, 3), rows=(10, 80)),
    ),
    Plant(
        "late rows are counted and not sent aside",
        set_method(WindowOperator, "_set_late_aside", lambda self, rows, batch, out: None),
        Swarm(rates={}, programs=IDLE, rows=(10, 60), interval_ms=20),
    ),
    Plant(
        "rows whose call has not ended are not in the checkpoint",
        set_method(SavedRows, "save", lambda self, batches, checkpoint: None),
        Swarm(rates=STOPS, programs=("asynchronous",), rows=(10, 60), interval_ms=20),
    ),
    Plant(
        "a watermark overtakes rows whose call has not ended",
        set_method(async_queue._Segment, "is_over", property(lambda self: self.is_closed)),
        Swarm(rates={}, programs=("asynchronous",), rows=(10, 60), interval_ms=20),
    ),
    Plant(
        "a source is called idle just before it ends, and windows go on with the first subtask that has heard of it",
        both(ONE_BY_ONE, set_method(SourceTask, "step", step_that_says_idle_before_the_end)),
        Swarm(rates={}, programs=("cascade",), parallelism=(2, 3)),
        first=33,
    ),
    Plant(
        "restored timers never fire",
        set_method(TimerQueue, "__init__", open_with_nothing_due),
        Swarm(rates=STOPS, programs=FUNCTIONS, rows=(10, 60)),
        first=4,
    ),
    Plant(
        "a timer that is deleted fires",
        set_method(TimerQueue, "delete", lambda self, time: None),
        Swarm(rates={}, programs=("reminders",), rows=(10, 60)),
    ),
    Plant(
        "timers that other timers set fire out of their order",
        set_method(TimerQueue, "firing", firing_without_chains),
        Swarm(rates={}, programs=("reminders",), rows=(10, 60)),
        first=3,
    ),
    Plant(
        "state expires by the clock that should by event time",
        set_method(Expiry, "by_event_time", property(lambda self: False)),
        Swarm(rates={}, programs=("reminders", "vectorised"), rows=(10, 60)),
    ),
    Plant(
        "entries that are taken out of maps come back",
        set_method(MapCells, "finish", finish_maps_without_removals),
        Swarm(rates={}, programs=("connected",), rows=(10, 60)),
    ),
    Plant(
        "what is replaced in lists comes back",
        set_method(ListCells, "finish", finish_lists_without_removals),
        Swarm(rates={}, programs=("rules",), rows=(10, 60)),
    ),
    Plant(
        "rescaling restores each subtask's own old lists and maps",
        set_method(RestoredState, "keyed", keyed_of_the_same_number),
        Swarm(rates=STOPS, programs=FUNCTIONS, rows=(10, 60)),
        first=6,
    ),
    Plant(
        "each subtask restores the broadcast entries of its own key groups",
        set_method(BroadcastStates, "__init__", open_with_broadcast_entries_of_own_key_groups),
        Swarm(rates=STOPS, programs=("rules",), parallelism=(2, 3), rows=(10, 60)),
        first=11,
    ),
    Plant(
        "state of a vectorised function expires by the earliest of the timers that come together",
        set_method(BatchProcessOperator, "_called", call_by_the_earliest_timer),
        Swarm(rates={}, programs=("vectorised",), rows=(10, 60)),
        first=3,
    ),
    Plant(
        "rows that a barrier overtakes are not stored",
        set_method(Overtaken, "scan", scan_without_rows),
        Swarm(rates=CRASHES, parallelism=(2, 3), rows=(10, 60)),
    ),
    Plant(
        "rows behind the barrier are stored as overtaken",
        set_method(Overtaken, "scan", scan_beyond_the_barrier),
        Swarm(rates=CRASHES, parallelism=(2, 3), rows=(10, 60)),
    ),
    Plant(
        "messages that are taken while barriers come are not counted",
        set_method(Overtaken, "taken", lambda self, number: None),
        Swarm(rates=CRASHES, parallelism=(2, 3), rows=(10, 60)),
    ),
    Plant(
        "rows in flight are not given to the operator after a restore",
        set_method(RestoredRows, "__bool__", lambda self: False),
        Swarm(rates=CRASHES, parallelism=(2, 3), rows=(10, 60)),
    ),
    Plant(
        "rescaling gives rows in flight to every subtask",
        set_method(RestoredRows, "_mine", all_rows_for_every_subtask),
        Swarm(rates=CRASHES, parallelism=(2, 3), rows=(10, 60)),
    ),
    Plant(
        "what sinks have handed over while barriers come is lost when the checkpoint is given up",
        set_method(Task, "abort", abort_without_what_was_taken),
        Swarm(
            rates=rates(CRASHES, ACK_TOO_LATE=0.1, STORE_ERROR=0.05), parallelism=(2, 3), rows=(10, 60), timeout_ms=30
        ),
    ),
    Plant(
        "a stopped job is called ended when its tasks have ended meanwhile",
        set_method(Attempt, "ended", property(ended_when_tasks_have)),
        Swarm(rates={Fault.STOP: 0.02}, programs=("tumbling",), rows=(5, 12)),
    ),
]


@pytest.mark.parametrize("plant", PLANTS, ids=[plant.name for plant in PLANTS])
def test_the_simulator_finds(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    check_found(plant, monkeypatch)


def test_a_violation_says_how_to_see_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SourceTask, "_send", send_and_record_early)
    found = first_violation(Swarm())
    assert found is not None
    text = str(found)
    assert text.startswith(f"seed {found.seed}: ")
    assert f"python -m lakeward.testing.simulation {found.seed}" in text
    assert "program = " in text
    assert "last events:" in text
