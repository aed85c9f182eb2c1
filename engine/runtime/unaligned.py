"""Unaligned checkpoints: a barrier that overtakes the rows before it, which become part of the checkpoint.

A task that waits for its barriers to be aligned may wait long when rows before them are handled slowly. Instead it can
take its snapshot as soon as one barrier is there, and store with it every row that was sent to it before a barrier and
is handled after the snapshot: Chandy and Lamport, "Distributed Snapshots" (1985); Flink's unaligned checkpoints
(FLIP-76). Watermarks on their way are not stored: they come again, and rows that are restored go before them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lakeward.engine.core.disk import make_state_folder
from lakeward.engine.core.errors import CheckpointError, GraphError
from lakeward.engine.core.ids import CheckpointId, OperatorId, SubtaskIndex
from lakeward.engine.core.messages import Barrier, Batch
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.graph.logical import Edge
from lakeward.engine.graph.owners import Owners
from lakeward.engine.runtime.channel import ChannelReader
from lakeward.engine.runtime.partition import HashPartitioner
from lakeward.engine.runtime.restore import RestoredState

_STOP_FIRST = "run the job as it was before and stop it with Ctrl-C or for a savepoint, which leaves no such rows"


class Overtaken:
    """The rows that a checkpoint's barriers overtake on their way into a task, from its snapshot to the last barrier.

    Args:
        checkpoint: The checkpoint.
        channels: The task's channels.
        arrived: Those whose barrier was read before the snapshot.
    """

    def __init__(self, checkpoint: CheckpointId, channels: Sequence[ChannelReader], arrived: set[int]) -> None:
        self.checkpoint = checkpoint
        self._channels = channels
        self._open = set(range(len(channels))) - arrived
        self._seen = [0] * len(channels)  # messages at the head of a queue that have been looked at
        self.rows: list[list[pa.RecordBatch]] = [[] for _ in channels]
        """By channel."""

    @property
    def is_complete(self) -> bool:
        """Whether the barrier of every channel has come."""
        return not self._open

    def scan(self) -> None:
        """Look at what has come, before any of it is taken."""
        for number in sorted(self._open):
            channel = self._channels[number]
            while self._seen[number] < len(channel):
                message = channel.peek(self._seen[number])
                if isinstance(message, Barrier) and message.checkpoint == self.checkpoint:
                    channel.remove(self._seen[number])
                    self._open.discard(number)
                    break
                if isinstance(message, Batch):
                    self.rows[number].append(message.data)
                self._seen[number] += 1

    def taken(self, number: int) -> None:
        """A message was taken from a channel."""
        if number in self._open:
            self._seen[number] -= 1


def has_come(checkpoint: CheckpointId, channel: ChannelReader) -> bool:
    """Whether the barrier of a checkpoint waits in a channel."""
    messages = (channel.peek(number) for number in range(len(channel)))
    return any(isinstance(message, Barrier) and message.checkpoint == checkpoint for message in messages)


def write_rows(rows: Sequence[tuple[int, Sequence[pa.RecordBatch]]], folder: Path) -> list[tuple[int, LocalFile]]:
    """Write rows in flight to files.

    Args:
        rows: Of each input that has any: which, and its batches, all of one schema.
        folder: Where to; made if need be.

    Returns:
        The files, with their inputs.

    Raises:
        CheckpointError: The disk is full, or broken.
    """
    written = []
    try:
        make_state_folder(folder)
        for index, batches in rows:
            name = f"in-flight-{index}.arrow"
            with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, batches[0].schema) as stream:
                for batch in batches:
                    stream.write_batch(batch)
            written.append((index, LocalFile(name, str(folder / name))))
    except OSError as error:
        raise CheckpointError(f"rows in flight cannot be written: {error}", hint="is the local disk full?") from error
    return written


@dataclass(frozen=True, slots=True)
class RestoredInput:
    """An input of an operator whose rows in flight are restored.

    Args:
        edge: Where its rows come from.
        schema: Theirs; None: not known.
        owners: Which subtasks they belong to.
        parallelism: Subtasks of the operator before.
    """

    edge: Edge
    schema: pa.Schema | None
    owners: Owners
    parallelism: int


class RestoredRows:
    """The rows in flight that an operator subtask has to be given first, after a restore.

    Args:
        restored: The checkpoint.
        uid: The operator.
        inputs: Its inputs.
        subtask: Its number, and how many there are.
        max_parallelism: Number of key groups.
    """

    def __init__(
        self,
        restored: RestoredState,
        uid: OperatorId,
        inputs: Sequence[RestoredInput],
        subtask: tuple[SubtaskIndex, int],
        max_parallelism: int,
    ) -> None:
        self._uid = uid
        self._inputs = inputs
        self._number, self._parallelism = subtask
        self._max_parallelism = max_parallelism
        self._restored = restored
        self._files = restored.in_flight(uid)

    def __bool__(self) -> bool:
        return bool(self._files)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """What is this subtask's, with the input that it is for.

        Raises:
            GraphError: The operator takes other rows by now.
        """
        for old, index, path in self._files:
            one = self._input(index)
            with pa.OSFile(path) as file, pa.ipc.open_stream(file) as stream:
                wanted = stream.schema if one.schema is None else one.schema
                self._check_columns(stream.schema, wanted, one.edge.reads)
                for batch in stream:
                    yield from ((index, _with_schema(part, wanted)) for part in self._mine(one, old, batch))

    def _input(self, index: int) -> RestoredInput:
        if index >= len(self._inputs):
            raise self._changed(f"its input {index + 1}, which it no longer has")
        return self._inputs[index]

    def _mine(self, one: RestoredInput, old: SubtaskIndex, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        keys = one.owners.keys
        if keys and set(keys) <= set(batch.schema.names):
            partitioner = HashPartitioner(keys, self._parallelism, self._max_parallelism)
            yield from (rows for receiver, rows in partitioner.split(batch) if receiver == self._number)
            return
        self._check_certain(one)
        if self._number == (0 if keys == () else old % self._parallelism):
            yield batch

    def _check_certain(self, one: RestoredInput) -> None:
        """Where nobody can tell whose rows are, they stay where they were, which takes as many subtasks."""
        now = (one.parallelism, self._parallelism)
        before = tuple(self._restored.parallelism(uid) for uid in (one.edge.upstream, self._uid))
        if not one.owners.is_certain and before != now:
            raise GraphError(
                f"the checkpoint holds rows on their way to operator '{self._uid}', whose order would be lost with "
                f"another parallelism: it was {before[1]} behind {before[0]} subtasks, it is {now[1]} behind {now[0]}",
                hint=_STOP_FIRST,
            )

    def _check_columns(self, found: pa.Schema, wanted: pa.Schema, reads: frozenset[str] | None) -> None:
        """All columns that are read now are there; whether others are depends on the plan that sent the rows."""
        needed = [field for field in wanted if reads is None or field.name in reads]
        if any(field.name not in found.names or found.field(field.name).type != field.type for field in needed):
            raise self._changed(f"rows with columns {_shown(found)}; it takes {_shown(pa.schema(needed))} now")

    def _changed(self, what: str) -> GraphError:
        return GraphError(
            f"the checkpoint holds rows on their way to operator '{self._uid}': {what}",
            hint=_STOP_FIRST,
        )


def _with_schema(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch's columns as the schema has them; those that nobody reads, and were not sent, are null."""
    sent = {(field.name, field.type) for field in batch.schema}
    columns = [
        batch.column(field.name) if (field.name, field.type) in sent else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)
