"""What travels between processes: frames with a length, the attempt they belong to, a kind and a channel.

A frame is a header of 16 bytes, little-endian, and its payload:

| bytes | 4 | 4 | 1 | 3 | 4 |
|---|---|---|---|---|---|
| | length of the payload | attempt | kind | number on its connection | channel |

Frames of a connection are numbered from 0, modulo 2^24, so that one which was lost, doubled or overtaken on its way is
noticed.

An Arrow batch is read from its payload in place, without a copy: each payload has a buffer of its own, aligned as Arrow
wants it. Nothing is unpickled, and no more memory is taken than a frame may be long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import orjson
import pyarrow as pa

from lakeward.engine.core.errors import WorkerLostError

HEADER = struct.Struct("<IIII")
_KIND_BITS = 8
_NUMBERS = 1 << 24

FRAME_BYTES_MAX = 1 << 30
"""Longer batches are sent in parts."""

_STAGING_BYTES = 1 << 16
_READ_AT_ONCE_MAX = 64 << 20


class Kind(IntEnum):
    """What a frame is."""

    CONTROL = 1
    """A message between coordinator and worker, as JSON."""
    MANIFEST = 2
    """The manifest of the checkpoint to restore; empty for none."""
    SCHEMA = 16
    """Of the batches that follow on the channel."""
    BATCH = 17
    STREAM = 18
    """A batch with its schema and dictionaries."""
    WATERMARK = 19
    BARRIER = 20
    END = 21
    CREDIT = 22
    """The receiver has room for so many messages more."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame that has arrived.

    Args:
        kind: What it is.
        channel: Of which channel; 0 for messages of the control connection.
        payload: Its content.
    """

    kind: Kind
    channel: int
    payload: pa.Buffer

    def message(self) -> dict[str, Any]:
        """The message of a control frame.

        Raises:
            WorkerLostError: It is none.
        """
        try:
            message = orjson.loads(self.payload.to_pybytes())
        except orjson.JSONDecodeError as error:
            raise WorkerLostError(f"a control message cannot be read: {error}") from error
        if self.kind is not Kind.CONTROL or not isinstance(message, dict) or "type" not in message:
            raise WorkerLostError("what came on a control connection is no message")
        return message


def header(attempt: int, kind: Kind, channel: int, length: int, number: int = 0) -> bytes:
    """The header of a frame.

    >>> len(header(3, Kind.WATERMARK, 7, 9))
    16
    """
    return HEADER.pack(length, attempt, kind | number % _NUMBERS << _KIND_BITS, channel)


class FrameReader:
    """Makes frames of a stream of bytes, however it is cut.

    >>> import io
    >>> stream = io.BytesIO(header(3, Kind.CONTROL, 0, 2) + b"{}")
    >>> [frame.payload.to_pybytes() for frame in FrameReader(3, "a test").read(stream.readinto, 1)]
    [b'{}']

    Args:
        attempt: The attempt whose frames are taken; others come from processes that should be dead.
        peer: Who sends, for errors.
        bytes_max: Longest payload.
    """

    def __init__(self, attempt: int, peer: str, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._attempt = attempt
        self._peer = peer
        self._bytes_max = bytes_max
        self._staging = memoryview(bytearray(_STAGING_BYTES))
        self._start = self._end = 0
        self._kind, self._channel = Kind.CONTROL, 0
        self._number = 0
        self._payload: pa.Buffer | None = None
        self._view = memoryview(b"")
        self._filled = 0

    def read(self, receive: Callable[[memoryview], int], calls_max: int = 16) -> list[Frame]:
        """Read what is there.

        Args:
            receive: Fills a part of a buffer and says how much; raises `BlockingIOError` when nothing is there.
            calls_max: How often it is called at most.

        Raises:
            WorkerLostError: The stream has ended, or what came is not a frame of ours.
        """
        frames: list[Frame] = []
        read = 0
        for _ in range(calls_max):
            try:
                count = receive(self._view[self._filled :] if self._payload is not None else self._staging[self._end :])
            except BlockingIOError:
                break
            if not count:
                if frames:
                    break  # these first; the end is met again
                raise WorkerLostError(f"{self._peer} has closed the connection")
            read += count
            self._took(count, frames)
            if read >= _READ_AT_ONCE_MAX:
                break
        return frames

    def _took(self, count: int, frames: list[Frame]) -> None:
        if self._payload is not None:
            self._filled += count
            if self._filled == len(self._view):
                self._finish(frames)
            return
        self._end += count
        while self._end - self._start >= HEADER.size and self._payload is None:
            self._begin(frames)
        rest = self._end - self._start
        self._staging[:rest] = bytes(self._staging[self._start : self._end])
        self._start, self._end = 0, rest

    def _begin(self, frames: list[Frame]) -> None:
        length, attempt, kind_and_number, self._channel = HEADER.unpack_from(self._staging, self._start)
        number, kind = kind_and_number >> _KIND_BITS, kind_and_number & ((1 << _KIND_BITS) - 1)
        if attempt != self._attempt:
            raise WorkerLostError(f"{self._peer} sent a frame of attempt {attempt} to attempt {self._attempt}")
        self._check_number(number)
        if length > self._bytes_max:
            raise WorkerLostError(f"{self._peer} announced a frame of {length} bytes; {self._bytes_max} are allowed")
        try:
            self._kind = Kind(kind)
        except ValueError as error:
            raise WorkerLostError(f"{self._peer} sent a frame of unknown kind {kind}") from error
        self._start += HEADER.size
        self._payload = pa.allocate_buffer(length)
        self._view = memoryview(self._payload).cast("B")
        self._filled = min(length, self._end - self._start)
        if self._filled:
            self._view[: self._filled] = self._staging[self._start : self._start + self._filled]
        self._start += self._filled
        if self._filled == length:
            self._finish(frames)

    def _check_number(self, number: int) -> None:
        if number != self._number:
            raise WorkerLostError(f"frame {number} came from {self._peer} where frame {self._number} was due")
        self._number = (number + 1) % _NUMBERS

    def _finish(self, frames: list[Frame]) -> None:
        assert self._payload is not None, "a frame is finished once it has begun"
        frames.append(Frame(self._kind, self._channel, self._payload))
        self._payload, self._view, self._filled = None, memoryview(b""), 0
