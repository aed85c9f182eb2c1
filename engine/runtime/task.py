"""A task: one subtask of a chain. `step()` handles one message and never waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, Protocol

from lakeward.engine.checkpoint.alignment import Abort, BarrierAligner, Decision, Snapshot
from lakeward.engine.core.ids import ChannelIndex, CheckpointId
from lakeward.engine.core.messages import Barrier, Batch, EndOfInput, Message, Watermark
from lakeward.engine.runtime.chain import Chain, Signal, SnapshotPart
from lakeward.engine.runtime.channel import ChannelReader
from lakeward.engine.runtime.output import EdgeWriter
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

    def inject(self, checkpoint: CheckpointId) -> None:
        """A checkpoint begins: sources send its barrier, others are told that it is on its way."""
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
        """Take this task's snapshot. One atomic step, in Flink's order; no message comes in between."""
        # 1. Operators flush what they buffer, sinks make their rows durable.
        prepared = self.chain.prepare(checkpoint)
        # 2. The barrier goes downstream as early as possible, so that alignment there is short.
        self.broadcast(Barrier(checkpoint))
        # 3. The synchronous part: small state, and hard links to the state store's files.
        parts = self.chain.snapshot(checkpoint, prepared, self._snapshot_directory)
        # 4. The upload and the acknowledgement are the runner's, outside this loop.
        self._reports.append(SnapshotTaken(self.id, checkpoint, (*extra, *parts)))

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


class Task:
    """A task with input channels. A channel that has ended still carries barriers.

    Args:
        core: Chain and edges out.
        inputs: The input channels.
    """

    def __init__(self, core: TaskCore, inputs: Sequence[InputChannel]) -> None:
        self.id = core.id
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

    def inject(self, checkpoint: CheckpointId) -> None:
        """A barrier is on its way: until it is here, rows before it are taken whether operators have room or not.

        They are in memory already. Else the checkpoint would have to wait for as many slow calls as there are rows in
        the channels; so they become part of it.
        """
        self._barrier_due = checkpoint

    def step(self) -> bool:
        """Send results that are ready, then handle the next message of some input that is not blocked, fairly."""
        if self._core.is_blocked:
            return False
        busy = self._core.chain.poll()
        if self._barrier_due is None and not self._core.chain.has_room:
            return busy
        channel = self._pick()
        if channel is None:
            return busy
        self._handle(channel, self._inputs[channel].take())
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

    def close(self) -> None:
        """Close the operators."""
        self._core.chain.close()

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
