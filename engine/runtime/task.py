"""A task: one subtask of a chain. `step()` handles one message and never waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NewType, Protocol

import pyarrow as pa

from lakeward.engine.checkpoint.alignment import Abort, BarrierAligner, Decision, Snapshot
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.ids import ChannelIndex, CheckpointId
from lakeward.engine.core.messages import Barrier, Batch, EndOfInput, Message, Watermark
from lakeward.engine.runtime.chain import Chain, Signal, SnapshotPart
from lakeward.engine.runtime.channel import ChannelReader
from lakeward.engine.runtime.output import EdgeWriter
from lakeward.engine.runtime.unaligned import Overtaken, has_come
from lakeward.engine.runtime.watermarks import END_OF_TIME, WatermarkMin

TaskId = NewType("TaskId", str)
"""Name of a task: vertex and subtask number."""


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """A task has taken the synchronous part of its snapshot."""

    task: TaskId
    checkpoint: CheckpointId
    parts: tuple[SnapshotPart, ...]


@dataclass(frozen=True, slots=True)
class SnapshotDeclined:
    """A task gave a checkpoint up (a newer barrier overtook it)."""

    task: TaskId
    checkpoint: CheckpointId
    reason: str


TaskReport = SnapshotTaken | SnapshotDeclined


class RunnableTask(Protocol):
    """What the worker loop needs of a task."""

    id: TaskId

    @property
    def has_ended(self) -> bool:
        """Whether its input has ended and everything was passed on; it still takes part in checkpoints."""
        ...

    def open(self) -> None:
        """Open operators and readers."""
        ...

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for something that comes from outside, and has to be stepped soon."""
        ...

    def inject(self, checkpoint: CheckpointId, aligned: bool = False) -> None:
        """A checkpoint begins: sources send its barrier, others are told that it is on its way.

        Args:
            checkpoint: The checkpoint.
            aligned: Whether its barriers may not overtake rows, however long they take.
        """
        ...

    def step(self) -> bool:
        """Do one piece of work; False when there was nothing to do or no room downstream."""
        ...

    def tick(self, now_us: int) -> None:
        """Processing time has advanced."""
        ...

    def take_reports(self) -> list[TaskReport]:
        """What happened since the last call."""
        ...

    def complete(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is durable and committed."""
        ...

    def abort(self, checkpoint: CheckpointId) -> None:
        """The checkpoint was given up."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class TaskCore:
    """What source tasks and inner tasks share: the chain, the edges out, and the order of a snapshot."""

    def __init__(self, task: TaskId, chain: Chain, edges: Sequence[EdgeWriter], snapshot_directory: Path) -> None:
        self.id = task
        self.chain = chain
        chain.pass_on = self._pass_on
        self.has_ended = False
        """Whether the end of the input has come through."""
        self._edges = edges
        self._snapshot_directory = snapshot_directory
        self._reports: list[TaskReport] = []

    @property
    def is_blocked(self) -> bool:
        """Whether a receiver is behind."""
        return any(edge.is_full for edge in self._edges)

    def broadcast(self, message: Message) -> None:
        """Send a watermark, barrier or end of input on all edges."""
        for edge in self._edges:
            edge.broadcast(message)

    def end(self) -> None:
        """End of all input: fire everything, flush, pass it on."""
        self.chain.advance(END_OF_TIME)
        self.chain.advance(EndOfInput())

    def _pass_on(self, signal: Signal) -> None:
        """The operators have seen event time advance, also where the last input falls idle: tell the receivers."""
        self.broadcast(signal)
        self.has_ended = isinstance(signal, EndOfInput)

    def snapshot(self, checkpoint: CheckpointId, extra: Sequence[SnapshotPart] = ()) -> None:
        """Take this task's snapshot, and report it."""
        self.report(self.taken(checkpoint, extra))

    def taken(self, checkpoint: CheckpointId, extra: Sequence[SnapshotPart] = ()) -> SnapshotTaken:
        """Take this task's snapshot. One atomic step, in Flink's order; no message comes in between."""
        # 1. Operators flush what they buffer, sinks make their rows durable.
        prepared = self.chain.prepare(checkpoint)
        # 2. The barrier goes downstream as early as possible, so that alignment there is short.
        self.broadcast(Barrier(checkpoint))
        # 3. The synchronous part: small state, and hard links to the state store's files.
        parts = self.chain.snapshot(checkpoint, prepared, self._snapshot_directory)
        # 4. The upload and the acknowledgement are the runner's, outside this loop.
        return SnapshotTaken(self.id, checkpoint, (*extra, *parts))

    def report(self, taken: SnapshotTaken) -> None:
        """Hand a snapshot over, to be stored."""
        self._reports.append(taken)

    def feed_restored(self) -> bool | None:
        """Handle rows that the restored checkpoint had in flight, before anything else; None when there are none."""
        if not self.chain.has_restored:
            return None
        if self.is_blocked or not self.chain.has_room:
            return self.chain.poll()
        return self.chain.feed_restored()

    def decline(self, checkpoint: CheckpointId, reason: str) -> None:
        """Report that a checkpoint was given up here."""
        self._reports.append(SnapshotDeclined(self.id, checkpoint, reason))

    def take_reports(self) -> list[TaskReport]:
        """What happened since the last call."""
        reports, self._reports = self._reports, []
        return reports


@dataclass(frozen=True, slots=True)
class InputChannel:
    """A channel into a task.

    Args:
        channel: What it carries.
        index: Which of the head's inputs its rows are of.
        group: Equal for channels from subtasks that all read the same (see `WatermarkMin`); None: by itself.
    """

    channel: ChannelReader
    index: int = 0
    group: int | None = None


@dataclass(frozen=True, slots=True)
class AlignmentLimit:
    """How long a task waits for the barriers of a checkpoint to be aligned before they overtake the rows before them.

    Args:
        timeout_ms: Counted from the start of the checkpoint; None: as long as it takes.
        clock: Time.
    """

    timeout_ms: int | None
    clock: Clock


class Task:
    """A task with input channels. A channel that has ended still carries barriers.

    Args:
        core: Chain and edges out.
        inputs: The input channels.
        limit: How long barriers are aligned.
    """

    def __init__(self, core: TaskCore, inputs: Sequence[InputChannel], limit: AlignmentLimit) -> None:
        self.id = core.id
        self._limit = limit
        self._due_since_ms = 0
        self._may_overtake = False
        self._overtaken: tuple[Overtaken, SnapshotTaken] | None = None
        self._core = core
        self._inputs = [one.channel for one in inputs]
        self._index = [one.index for one in inputs]
        self._open_inputs = set(range(len(inputs)))
        self._aligner = BarrierAligner(len(inputs))
        groups: dict[int, list[int]] = {}
        for number, one in enumerate(inputs):
            if one.group is not None:
                groups.setdefault(one.group, []).append(number)
        self._watermarks = WatermarkMin(len(inputs), list(groups.values()))
        self._barrier_due: CheckpointId | None = None
        self._next = 0

    @property
    def has_ended(self) -> bool:
        """Whether all inputs have ended and everything was passed on."""
        return self._core.has_ended

    @property
    def is_waiting(self) -> bool:
        """Whether an operator waits for results that come from outside."""
        return self._core.chain.is_waiting

    def open(self) -> None:
        """Open the operators."""
        self._core.chain.open()

    def inject(self, checkpoint: CheckpointId, aligned: bool = False) -> None:
        """A barrier is on its way: until it is here, rows before it are taken whether operators have room or not.

        They are in memory already. Else the checkpoint would have to wait for as many slow calls as there are rows in
        the channels; so they become part of it.
        """
        self._barrier_due = checkpoint
        self._may_overtake = not (aligned or self._limit.timeout_ms is None or self._core.chain.first_input is not None)
        self._due_since_ms = self._limit.clock.monotonic_ms()

    def step(self) -> bool:
        """Send results that are ready, then handle the next message of some input that is not blocked, fairly.

        Before that, a barrier that has waited too long to be aligned overtakes the rows before it.
        """
        fed = self._core.feed_restored()
        if fed is not None:
            return fed
        overtook = self._overtake_if_late()
        if self._core.is_blocked:
            return overtook
        busy = self._core.chain.poll() or overtook
        if self._barrier_due is None and not self._core.chain.has_room:
            return busy
        channel = self._pick()
        if channel is None:
            return busy
        message = self._inputs[channel].take()
        if self._overtaken is not None:
            self._overtaken[0].taken(channel)
        self._handle(channel, message)
        return True

    def tick(self, now_us: int) -> None:
        """Processing time has advanced."""
        if not self.has_ended:
            self._core.chain.tick(now_us)

    def take_reports(self) -> list[TaskReport]:
        """What happened since the last call."""
        return self._core.take_reports()

    def complete(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is durable and committed."""
        self._core.chain.complete(checkpoint)

    def abort(self, checkpoint: CheckpointId) -> None:
        """The checkpoint was given up: stop aligning for it."""
        self._aligner.on_abort(checkpoint)
        self._barrier_came(checkpoint)
        if self._overtaken is not None and self._overtaken[0].checkpoint <= checkpoint:
            # Too late to count, but what its sinks have handed over must not be lost.
            self._core.report(self._overtaken[1])
            self._overtaken = None

    def close(self) -> None:
        """Close the operators."""
        if self._overtaken is not None:
            for part in self._overtaken[1].parts:
                part.discard_files()
        self._core.chain.close()

    def _overtake_if_late(self) -> bool:
        """Take the snapshot before all barriers have come, if they take too long; note what they overtake."""
        due = self._barrier_due
        if due is not None and self._overtaken is None and self._is_late() and self._has_begun(due):
            taken = self._core.taken(due)
            arrived: set[int] = set(self._aligner.on_overtaken(due))
            self._overtaken = (Overtaken(due, self._inputs, arrived), taken)
            self._barrier_came(due)
        if self._overtaken is None:
            return False
        overtaken, taken = self._overtaken
        overtaken.scan()
        if not overtaken.is_complete:
            return False
        self._overtaken = None
        head, *others = taken.parts
        rows: dict[int, list[pa.RecordBatch]] = {}
        for index, batches in zip(self._index, overtaken.rows, strict=True):
            rows.setdefault(index, []).extend(batches)
        head = replace(head, in_flight=[(index, batches) for index, batches in sorted(rows.items()) if batches])
        self._core.report(replace(taken, parts=(head, *others)))
        return True

    def _is_late(self) -> bool:
        if not self._may_overtake or self._limit.timeout_ms is None:
            return False
        return self._limit.clock.monotonic_ms() - self._due_since_ms >= self._limit.timeout_ms

    def _has_begun(self, checkpoint: CheckpointId) -> bool:
        """Whether a barrier of it has come on any channel."""
        return self._aligner.aligning == checkpoint or any(has_come(checkpoint, channel) for channel in self._inputs)

    def _pick(self) -> int | None:
        count = len(self._inputs)
        only = self._wanted_first()
        for offset in range(count):
            channel = (self._next + offset) % count
            if only is not None and self._index[channel] != only:
                continue
            if len(self._inputs[channel]) and not self._aligner.is_blocked(ChannelIndex(channel)):
                self._next = (channel + 1) % count
                return channel
        return None

    def _wanted_first(self) -> int | None:
        """The input that alone may be read now; None: any. While barriers are aligned, any: else they never meet."""
        first = self._core.chain.first_input
        if first is None or not self._is_open(first):
            return None
        aligning = any(self._aligner.is_blocked(ChannelIndex(channel)) for channel in range(len(self._inputs)))
        return None if aligning else first

    def _is_open(self, index: int) -> bool:
        return any(self._index[channel] == index for channel in self._open_inputs)

    def _handle(self, channel: int, message: Message) -> None:
        match message:
            case Batch(data):
                self._core.chain.process(self._index[channel], data)
            case Watermark():
                combined = self._watermarks.update(channel, message)
                if combined is not None:
                    self._core.chain.advance(combined)
            case Barrier():
                self._carry_out(self._aligner.on_barrier(ChannelIndex(channel), message))
            case EndOfInput():
                self._open_inputs.discard(channel)
                if not self._is_open(self._index[channel]):
                    self._core.chain.end_input(self._index[channel])
                if not self._open_inputs:
                    self._core.end()

    def _carry_out(self, decision: Decision) -> None:
        if isinstance(decision, Abort | Snapshot):
            self._barrier_came(decision.checkpoint)
        if isinstance(decision, Abort):
            self._core.decline(decision.checkpoint, decision.reason.value)
            self._carry_out(decision.then)
        elif isinstance(decision, Snapshot):
            self._core.snapshot(decision.checkpoint)

    def _barrier_came(self, checkpoint: CheckpointId) -> None:
        if self._barrier_due is not None and checkpoint >= self._barrier_due:
            self._barrier_due = None
