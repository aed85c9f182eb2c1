"""Where an operator's rows go: to the next operators of its chain, and through channels to other tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa

from lakeward.engine.core.errors import InternalError
from lakeward.engine.core.messages import Batch, Message
from lakeward.engine.runtime.channel import ChannelWriter
from lakeward.engine.runtime.partition import Partitioner

Receiver = Callable[[pa.RecordBatch], None]


class ChainOutput:
    """The output of one operator; hands a batch to all its receivers by plain calls.

    `release` is called to let the oldest watermark go that an `AsyncOperator` holds; its chain sets it.
    """

    __slots__ = ("_main", "_side", "release")

    def __init__(self) -> None:
        self._main: list[Receiver] = []
        self._side: dict[str, list[Receiver]] = {}
        self.release: Callable[[], None] = _nothing_held

    def connect(self, tag: str | None, receiver: Receiver) -> None:
        """Add a receiver of the main stream (tag None) or of a side stream."""
        if tag is None:
            self._main.append(receiver)
        else:
            self._side.setdefault(tag, []).append(receiver)

    def emit(self, batch: pa.RecordBatch) -> None:
        """Send rows downstream; empty batches are dropped."""
        if batch.num_rows:
            for receive in self._main:
                receive(batch)

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        """Send rows to a side stream; dropped when nobody reads it."""
        if batch.num_rows:
            for receive in self._side.get(tag, ()):
                receive(batch)

    def emit_watermark(self) -> None:
        """Let the oldest watermark go that the operator still holds."""
        self.release()


def _nothing_held() -> None:
    raise InternalError("an operator lets a watermark go that it does not hold")


class EdgeWriter:
    """One edge out of a task: partitions batches over the channels, and repeats everything else on all of them."""

    __slots__ = ("_channels", "_partitioner")

    def __init__(self, partitioner: Partitioner, channels: Sequence[ChannelWriter | None]) -> None:
        self._partitioner = partitioner
        self._channels = channels

    @property
    def is_full(self) -> bool:
        """Whether any receiver is behind, so that the task must not step."""
        return any(channel is not None and channel.is_full for channel in self._channels)

    def emit(self, batch: pa.RecordBatch) -> None:
        """Send rows to the receivers that they belong to."""
        for receiver, rows in self._partitioner.split(batch):
            channel = self._channels[receiver]
            assert channel is not None, "a forward edge has one channel, at the sender's own index"
            channel.send(Batch(rows))

    def broadcast(self, message: Message) -> None:
        """Send a watermark, barrier or end of input to all receivers."""
        for channel in self._channels:
            if channel is not None:
                channel.send(message)
