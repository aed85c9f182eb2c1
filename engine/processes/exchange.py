"""Channels between subtasks of different workers: Arrow IPC over frames, and credits that bound what is on its way.

Each channel has credits of its own, and a worker reads whatever comes into the queue of its channel: a receiver that is
behind on one channel holds up nobody on another, so neither a diamond nor skew can lock workers up. A sender without
credit is not ready, as with a full queue inside one process; barriers and watermarks are in band.

No socket here: frames leave through `post` and come in through `on_frame`.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import Protocol

import pyarrow as pa

from lakeward.engine.core.errors import InternalError, WorkerLostError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.messages import Barrier, Batch, EndOfInput, Message, Watermark
from lakeward.engine.processes.frames import FRAME_BYTES_MAX, Frame, Kind
from lakeward.engine.runtime.build import ChannelEnds
from lakeward.engine.runtime.channel import Channel

_WATERMARK = struct.Struct("<q?")
_NUMBER = struct.Struct("<Q")


class Post(Protocol):
    """Sends a frame to a worker."""

    def __call__(self, worker: int, kind: Kind, channel: int, payload: bytes | pa.Buffer) -> None:
        """Send it, without waiting."""
        ...


class Exchange:
    """A worker's side of all channels of a job. Subtasks are dealt to workers in turn, by their number.

    Args:
        here: This worker.
        workers: How many there are.
        post: Sends a frame.
    """

    def __init__(self, here: int, workers: int, post: Post) -> None:
        self._here = here
        self._workers = workers
        self._post = post
        self._made = 0
        self._writers: dict[int, RemoteWriter] = {}
        self._readers: dict[int, RemoteReader] = {}
        self._senders: dict[int, int] = {}

    def is_here(self, subtask: int) -> bool:
        """Whether subtasks with this number are this worker's."""
        return subtask % self._workers == self._here

    def connect(self, edge: int, sender: int, receiver: int, batches_max: int) -> ChannelEnds:
        """A channel between two subtasks; every worker makes them all in the same order, which numbers them."""
        self._made += 1
        number, source, target = self._made, sender % self._workers, receiver % self._workers
        if source == target:
            here = Channel(batches_max) if source == self._here else None
            return ChannelEnds(here, here)
        writer = reader = None
        if source == self._here:
            writer = self._writers[number] = RemoteWriter(self._post, target, number, batches_max)
        elif target == self._here:
            reader = self._readers[number] = RemoteReader(self._post, source, number, batches_max)
            self._senders[number] = source
        return ChannelEnds(writer, reader)

    def on_frame(self, worker: int, frame: Frame) -> None:
        """A frame has come from a worker.

        Raises:
            WorkerLostError: It is not one that this worker sends.
        """
        if frame.kind is Kind.CREDIT:
            writer = self._writers.get(frame.channel)
            if writer is None or writer.target != worker:
                raise WorkerLostError(f"worker {worker} gave credit for channel {frame.channel}, which is not its own")
            writer.add_credit(_number(frame, worker))
        else:
            reader = self._readers.get(frame.channel)
            if reader is None or self._senders[frame.channel] != worker:
                raise WorkerLostError(f"worker {worker} sent into channel {frame.channel}, which is not its own")
            reader.on_frame(frame)


class RemoteWriter:
    """The end of a channel that writes, when the reader is in another process.

    Args:
        post: Sends a frame.
        target: The receiving worker.
        channel: The channel's number.
        batches_max: Messages that may be on their way or wait there.
    """

    def __init__(self, post: Post, target: int, channel: int, batches_max: int) -> None:
        self.target = target
        self._post = post
        self._channel = channel
        self._credit = batches_max
        self._schema: pa.Schema | None = None
        self._with_dictionaries = False

    @property
    def is_full(self) -> bool:
        """Whether the sender has to wait."""
        return self._credit <= 0

    def add_credit(self, count: int) -> None:
        """The receiver has taken so many messages."""
        self._credit += count

    def send(self, message: Message) -> None:
        """Send a message."""
        match message:
            case Batch(data):
                self._send_batch(data)
            case Watermark(timestamp_us, idle):
                self._send(Kind.WATERMARK, _WATERMARK.pack(timestamp_us, idle))
            case Barrier(checkpoint):
                self._send(Kind.BARRIER, _NUMBER.pack(checkpoint))
            case EndOfInput():
                self._send(Kind.END, b"")

    def _send(self, kind: Kind, payload: bytes | pa.Buffer) -> None:
        self._credit -= 1
        self._post(self.target, kind, self._channel, payload)

    def _send_batch(self, batch: pa.RecordBatch) -> None:
        if self._schema is None or not batch.schema.equals(self._schema, check_metadata=True):
            self._schema = batch.schema
            self._with_dictionaries = any(_has_dictionary(field.type) for field in batch.schema)
            if not self._with_dictionaries:
                self._post(self.target, Kind.SCHEMA, self._channel, batch.schema.serialize())
        payload = _as_stream(batch) if self._with_dictionaries else batch.serialize()
        if payload.size <= FRAME_BYTES_MAX:
            self._send(Kind.STREAM if self._with_dictionaries else Kind.BATCH, payload)
        elif batch.num_rows > 1:
            middle = batch.num_rows // 2
            self._send_batch(batch.slice(0, middle))
            self._send_batch(batch.slice(middle))
        else:
            raise InternalError(f"a row of {payload.size} bytes cannot be sent to another process")


class RemoteReader:
    """The end of a channel that reads, when the writer is in another process.

    Args:
        post: Sends a frame.
        source: The sending worker.
        channel: The channel's number.
        batches_max: Messages that may be on their way or wait here.
    """

    def __init__(self, post: Post, source: int, channel: int, batches_max: int) -> None:
        self._post = post
        self._source = source
        self._channel = channel
        self._batches_max = batches_max
        self._queue: deque[Message] = deque()
        self._schema: pa.Schema | None = None
        self._taken = 0

    def __len__(self) -> int:
        return len(self._queue)

    def take(self) -> Message:
        """Remove and return the oldest message; every half of a queue the sender gets credit for what was taken."""
        message = self._queue.popleft()
        self._give_credit()
        return message

    def peek(self, position: int) -> Message:
        """A message that waits; 0 is the oldest."""
        return self._queue[position]

    def remove(self, position: int) -> None:
        """Remove a message that waits; the sender gets credit for it, too."""
        del self._queue[position]
        self._give_credit()

    def _give_credit(self) -> None:
        self._taken += 1
        if self._taken * 2 >= self._batches_max:
            self._post(self._source, Kind.CREDIT, self._channel, _NUMBER.pack(self._taken))
            self._taken = 0

    def on_frame(self, frame: Frame) -> None:
        """A frame of this channel has come."""
        try:
            message = self._decode(frame)
        except (pa.ArrowException, struct.error, OSError) as error:
            raise WorkerLostError(f"worker {self._source} sent a frame that cannot be read: {error}") from error
        if message is not None:
            self._queue.append(message)

    def _decode(self, frame: Frame) -> Message | None:
        match frame.kind:
            case Kind.SCHEMA:
                self._schema = pa.ipc.read_schema(frame.payload)
                return None
            case Kind.BATCH if self._schema is not None:
                return Batch(pa.ipc.read_record_batch(frame.payload, self._schema))
            case Kind.STREAM:
                with pa.ipc.open_stream(frame.payload) as stream:
                    return Batch(stream.read_next_batch())
            case Kind.WATERMARK:
                return Watermark(*_WATERMARK.unpack(frame.payload))
            case Kind.BARRIER:
                return Barrier(CheckpointId(_number(frame, self._source)))
            case Kind.END:
                return EndOfInput()
        raise WorkerLostError(f"worker {self._source} sent a frame of kind {frame.kind.name} into a channel")


def _as_stream(batch: pa.RecordBatch) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue()


def _has_dictionary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return True
    return any(_has_dictionary(kind.field(at).type) for at in range(kind.num_fields))


def _number(frame: Frame, worker: int) -> int:
    try:
        return int(_NUMBER.unpack(frame.payload)[0])
    except struct.error as error:
        raise WorkerLostError(
            f"worker {worker} sent a frame of kind {frame.kind.name} with {frame.payload.size} bytes"
        ) from error
