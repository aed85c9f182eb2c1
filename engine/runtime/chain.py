"""Operators that run in one task and call each other directly with a batch."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from lakeward.engine.api.operator import AsyncOperator, Operator, OperatorFactory
from lakeward.engine.core.errors import InternalError, LakewardError
from lakeward.engine.core.ids import CheckpointId, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import EndOfInput, Watermark
from lakeward.engine.graph.logical import Node
from lakeward.engine.runtime.context import SubtaskContext
from lakeward.engine.runtime.output import ChainOutput
from lakeward.engine.state.backend import FrozenState

Signal = Watermark | EndOfInput
"""What goes through a chain behind the rows that came before it."""


@dataclass(frozen=True, slots=True)
class SnapshotPart:
    """One operator's part of a task's snapshot, still on this machine.

    Args:
        uid: The operator.
        subtask: Which instance.
        state: Its small state.
        committables: What its sink writer prepared.
        frozen: Its keyed state, not written yet; None when it has none.
        key_groups: The key groups in it.
        directory: Where its files will lie; deleted after the upload.
        in_flight: Rows on their way to it, by the input that they are for.
    """

    uid: OperatorId
    subtask: SubtaskIndex
    state: JsonObject | None
    committables: Sequence[JsonObject] = ()
    frozen: FrozenState | None = None
    key_groups: range = range(0)
    directory: str = ""
    in_flight: Sequence[tuple[int, Sequence[pa.RecordBatch]]] = ()

    def discard_files(self) -> None:
        """Delete the local files, and make none any more."""
        if self.frozen is not None:
            self.frozen.give_up()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)


@contextmanager
def errors_named(node: Node) -> Iterator[None]:
    """Give every error that passes the node's uid and the user's file and line."""
    try:
        yield
    except LakewardError as error:
        raise error.at(node.uid, node.location) from error.__cause__
    except Exception as error:
        problem = InternalError(
            f"{type(error).__name__}: {error}", hint="this looks like a bug in Lakeward: please report it"
        )
        raise problem.at(node.uid, node.location) from error


class ChainedOperator:
    """One operator of a chain with its context and output."""

    def __init__(self, node: Node, operator: Operator, context: SubtaskContext, out: ChainOutput) -> None:
        self.node = node
        self.operator = operator
        self.context = context
        self.out = out
        self.restored: Iterator[tuple[int, pa.RecordBatch]] | None = None
        """Rows that a checkpoint's barrier had overtaken: they come before all others."""
        self.held: deque[Signal] = deque()
        """What an `AsyncOperator` has not let go yet, oldest first."""
        self.ended = False
        self._input_rows = context.counter("input_rows")

    def receive(self, batch: pa.RecordBatch) -> None:
        """Handle rows from the operator before."""
        self._input_rows.inc(batch.num_rows)
        with errors_named(self.node):
            self.operator.on_batch(batch, self.out)

    def receive_input(self, index: int, batch: pa.RecordBatch) -> None:
        """Handle rows of one of several inputs."""
        self._input_rows.inc(batch.num_rows)
        with errors_named(self.node):
            self.operator.on_input(index, batch, self.out)

    def advance(self, signal: Signal) -> Signal | None:
        """Event time has advanced, or the input has ended; returns the signal that goes on, None if it is held here."""
        with errors_named(self.node):
            if isinstance(signal, EndOfInput):
                return self._end(signal)
            if isinstance(self.operator, AsyncOperator):
                self.held.append(signal)
                self.operator.hold(signal)
                self.operator.poll(self.out)
                return None
            self.operator.on_watermark(signal.timestamp_us, self.out)
            return replace(signal, timestamp_us=self.operator.passed_watermark(signal.timestamp_us))

    def _end(self, signal: EndOfInput) -> EndOfInput | None:
        if self.held:
            self.held.append(signal)
            return None
        self.operator.on_end(self.out)
        self.ended = True
        return signal

    def poll(self) -> bool:
        """Send what is ready of an `AsyncOperator`; True if anything has happened."""
        assert isinstance(self.operator, AsyncOperator), "others have nothing to wait for"
        with errors_named(self.node):
            return self.operator.poll(self.out)

    def snapshot(self, checkpoint: CheckpointId, committables: Sequence[JsonObject], directory: Path) -> SnapshotPart:
        """The synchronous part of a snapshot: small state, and copies of what has changed in the tables."""
        context = self.context
        target = directory / f"{context.uid}-{context.subtask}-{checkpoint}"
        state = self.operator.snapshot(checkpoint)
        part = SnapshotPart(context.uid, context.subtask, state, committables, directory=str(target))
        if context.backend is None:
            return part
        frozen = context.backend.freeze(str(target))
        for name, usage in context.backend.usage().items():
            context.gauge(f"state.{name}.entries", usage.entries)
            context.gauge(f"state.{name}.bytes", usage.size_bytes)
        return SnapshotPart(
            uid=part.uid,
            subtask=part.subtask,
            state=part.state,
            committables=committables,
            frozen=frozen,
            key_groups=context.key_groups,
            directory=str(target),
        )

    def close(self) -> None:
        """Close the operator, then its state."""
        try:
            self.operator.close()
        finally:
            if self.context.backend is not None:
                self.context.backend.close()


class Chain:
    """The operators of one task in order; each call goes through them from head to tail.

    Args:
        operators: The operators.
    """

    def __init__(self, operators: Sequence[ChainedOperator]) -> None:
        self._operators = operators
        self._waiting: list[tuple[ChainedOperator, AsyncOperator]] = []
        self._foretold = _foretold(operators)
        self.pass_on: Callable[[Signal], None] = lambda signal: None
        """Where a signal goes that has come through; the task sets it."""
        for number, chained in enumerate(operators):
            if isinstance(chained.operator, AsyncOperator):
                self._waiting.append((chained, chained.operator))
                chained.out.release = partial(self._release, number)

    def open(self) -> None:
        """Open the operators, last first, so that none sends to one that is not open."""
        for chained in reversed(self._operators):
            with errors_named(chained.node):
                chained.operator.open(chained.context)
        for chained, operator in self._waiting:
            chained.held.extend(map(Watermark, operator.restored_watermarks))

    def set_origins(self, find_origin: Callable[[LakewardError], None]) -> None:
        """Let the operators say in errors that they log where rows were read."""
        for chained in self._operators:
            chained.context.find_origin = find_origin

    @property
    def nodes(self) -> list[Node]:
        """The operators, as the plan has them."""
        return [chained.node for chained in self._operators]

    @property
    def first_input(self) -> int | None:
        """The input that the head wants read first; see `OperatorFactory.first_input`."""
        work = self._operators[0].node.work
        return work.first_input if isinstance(work, OperatorFactory) else None

    @property
    def has_restored(self) -> bool:
        """Whether an operator has to be given rows first that the restored checkpoint holds."""
        return any(chained.restored is not None for chained in self._operators)

    def feed_restored(self) -> bool:
        """Give the next of those rows to the operator that they are for, nearest to the end first; True if any."""
        for chained in reversed(self._operators):
            if chained.restored is None:
                continue
            with errors_named(chained.node):
                found = next(chained.restored, None)
            if found is not None:
                chained.receive_input(*found)
                return True
            chained.restored = None
        return False

    def process(self, index: int, batch: pa.RecordBatch) -> None:
        """Rows for the head, from one of its inputs."""
        self._operators[0].receive_input(index, batch)

    def end_input(self, index: int) -> None:
        """One of the head's inputs has ended."""
        head = self._operators[0]
        with errors_named(head.node):
            head.operator.on_input_end(index, head.out)

    @property
    def has_room(self) -> bool:
        """Whether all operators want more rows."""
        return all(operator.has_room for _, operator in self._waiting)

    @property
    def is_waiting(self) -> bool:
        """Whether an operator waits for results that come from outside."""
        return any(operator.is_waiting for _, operator in self._waiting)

    def poll(self) -> bool:
        """Send results that have come from outside, those nearest the end first, as far as there is room for them."""
        busy = False
        for chained, operator in reversed(self._waiting):
            busy = chained.poll() or busy
            if not operator.has_room:
                break
        return busy

    def advance(self, signal: Signal, first: int = 0) -> None:
        """Event time has advanced, or the input has ended; each operator sends its rows before the next one sees it.

        Args:
            signal: Goes to all operators from `first` on, and then out of the task, unless one holds it back.
            first: The first operator.
        """
        for number, chained in enumerate(self._operators[first:], first):
            if self._foretold and isinstance(signal, Watermark):
                self._foretell(signal.timestamp_us, number)
            passed = chained.advance(signal)
            if passed is None:
                return
            signal = passed
        self.pass_on(signal)

    def _foretell(self, timestamp_us: int, number: int) -> None:
        """Say to those that want to know what an operator is about to be told, if nothing holds it back before them."""
        for later, held_at, operator in self._foretold:
            if held_at < number < later:
                operator.before_watermark(timestamp_us)

    def _release(self, number: int) -> None:
        """An operator lets the oldest signal go that it holds; the end of the input follows the last watermark."""
        chained = self._operators[number]
        self.advance(chained.held.popleft(), number + 1)
        if chained.held and isinstance(chained.held[0], EndOfInput):
            self.advance(chained.held.popleft(), number)

    def tick(self, now_us: int) -> None:
        """Processing time has advanced."""
        for chained in self._operators:
            if not chained.ended:
                with errors_named(chained.node):
                    chained.operator.on_tick(now_us, chained.out)

    def prepare(self, checkpoint: CheckpointId) -> list[Sequence[JsonObject]]:
        """Flush buffers; returns the committables of each operator."""
        prepared: list[Sequence[JsonObject]] = []
        for chained in self._operators:
            with errors_named(chained.node):
                prepared.append(chained.operator.prepare(checkpoint, chained.out))
        return prepared

    def snapshot(
        self, checkpoint: CheckpointId, prepared: list[Sequence[JsonObject]], directory: Path
    ) -> list[SnapshotPart]:
        """The state of each operator."""
        parts = []
        for chained, committables in zip(self._operators, prepared, strict=True):
            with errors_named(chained.node):
                parts.append(chained.snapshot(checkpoint, committables, directory))
        return parts

    def complete(self, checkpoint: CheckpointId) -> None:
        """A checkpoint is durable and committed."""
        for chained in self._operators:
            with errors_named(chained.node):
                chained.operator.on_checkpoint_complete(checkpoint)

    def close(self) -> None:
        """Close all operators; the first error is raised when all are closed."""
        first: Exception | None = None
        for chained in self._operators:
            try:
                chained.close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first


def _foretold(operators: Sequence[ChainedOperator]) -> list[tuple[int, int, Operator]]:
    """The operators that want to know of watermarks beforehand: their places, and those of the last that holds any."""
    found: list[tuple[int, int, Operator]] = []
    held_at = -1
    for number, chained in enumerate(operators):
        if type(chained.operator).before_watermark is not Operator.before_watermark:
            found.append((number, held_at, chained.operator))
        if isinstance(chained.operator, AsyncOperator):
            held_at = number
    return found
