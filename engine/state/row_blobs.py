"""Chunks of a row table as bytes in a key-value store.

A key is: table id (u16), namespace (i64, sign bit flipped), chunk number (u64), part (u8), big-endian, so that a
namespace is a contiguous range and its chunks come in the order of their numbers. A chunk has up to three parts: its
rows, which ones are dead (when some are), and its mutable columns (when the table has any). A value is a header (magic,
version, part, crc32 of the rest) and a body; rows and mutable columns are Arrow IPC streams, compressed with LZ4, which
carry their schemas.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import groupby

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.kv import KeyValue, KeyValueStore

BoolArray = npt.NDArray[np.bool_]

_BIAS = 1 << 63
_KEY = struct.Struct(">HQQB")
_PANE = struct.Struct(">HQ")
_TABLE = struct.Struct(">H")
_MAGIC = b"LWRC"
_VERSION = 1
_HEAD = struct.Struct("<4sBBxxI")
_ROWS_HEAD = struct.Struct("<Iqq")  # with the header a multiple of eight bytes: Arrow wants its buffers aligned
_DEAD_HEAD = struct.Struct("<I")
_COMPRESSION = "lz4"
_ROWS_READ_ERRORS = (pa.ArrowException, OSError, ValueError, struct.error, StopIteration)


class Part(IntEnum):
    """What a value holds of a chunk."""

    ROWS = 0
    DEAD = 1
    FIELDS = 2


@dataclass(frozen=True, slots=True)
class Runs:
    """When the rows of a chunk were appended: the row at `starts[i]` and those after it at append number `appends[i]`.

    Args:
        starts: Rising places, the first being 0.
        appends: Numbers of appends to the table.
    """

    starts: Int64Array
    appends: Int64Array

    @classmethod
    def one(cls, append: int) -> Runs:
        """All rows at once."""
        return cls(np.zeros(1, dtype=np.int64), np.array([append], dtype=np.int64))

    def then(self, other: Runs, rows: int) -> Runs:
        """The runs of a chunk of `rows` rows and of the rows put behind it."""
        return Runs(np.concatenate([self.starts, other.starts + rows]), np.concatenate([self.appends, other.appends]))

    def keeping(self, kept: BoolArray) -> Runs:
        """The runs of the rows that are kept."""
        before = np.zeros(len(kept) + 1, dtype=np.int64)
        np.cumsum(kept, out=before[1:])
        starts = before[self.starts]
        present = np.diff(starts, append=before[-1]) > 0
        return Runs(starts[present], self.appends[present])

    def of(self, places: npt.NDArray[np.int32]) -> Int64Array:
        """The append number of each row."""
        return self.appends[np.searchsorted(self.starts, places, side="right") - 1]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk as it is read.

    Args:
        namespace: Where it belongs.
        number: Its number.
        rows: The rows without mutable columns, or those columns of them that were asked for.
        runs: When they were appended.
        size_bytes: Memory of all columns of the rows.
        dead: Which rows were removed; None: none.
        fields: The mutable columns; None: the table has none.
    """

    namespace: int
    number: int
    rows: pa.RecordBatch
    runs: Runs
    size_bytes: int
    dead: BoolArray | None
    fields: pa.RecordBatch | None


def ipc_buffer(batch: pa.RecordBatch) -> pa.Buffer:
    """A batch as an Arrow stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=_COMPRESSION)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def ipc_batch(body: memoryview, columns: Sequence[str] | None) -> pa.RecordBatch:
    """The one batch of an Arrow stream, or some columns of it.

    Raises:
        ValueError: It does not have these columns.
    """
    stream = pa.ipc.open_stream(pa.py_buffer(body))
    if columns is None or stream.schema.names == list(columns):
        return stream.read_next_batch()
    positions = [stream.schema.names.index(name) for name in columns]
    options = pa.ipc.IpcReadOptions(included_fields=positions)
    return pa.ipc.open_stream(pa.py_buffer(body), options=options).read_next_batch().select(list(columns))


class RowBlobs:
    """Reads and writes the chunks of one row table.

    Args:
        store: Where they lie.
        table_id: The table's number in the store.
        name: The table's name, for errors.
    """

    def __init__(self, store: KeyValueStore, table_id: int, name: str) -> None:
        self._store = store
        self._table_id = table_id
        self._name = name

    def key(self, namespace: int, number: int, part: Part) -> bytes:
        """The key of a part of a chunk."""
        return _KEY.pack(self._table_id, namespace + _BIAS, number, part)

    def keys(self, namespace: int, number: int) -> list[bytes]:
        """The keys of all parts that a chunk may have."""
        return [self.key(namespace, number, part) for part in Part]

    def rows_value(self, rows: pa.RecordBatch, runs: Runs, size_bytes: int) -> bytes:
        """The value of `Part.ROWS`."""
        head = _ROWS_HEAD.pack(len(runs.starts), size_bytes, rows.num_rows)
        times = (runs.starts.astype("<i8").tobytes(), runs.appends.astype("<i8").tobytes())
        return _framed(Part.ROWS, head, *times, ipc_buffer(rows))

    def dead_value(self, dead: BoolArray) -> bytes:
        """The value of `Part.DEAD`."""
        return _framed(Part.DEAD, _DEAD_HEAD.pack(len(dead)), np.packbits(dead).tobytes())

    def fields_value(self, fields: pa.RecordBatch) -> bytes:
        """The value of `Part.FIELDS`."""
        return _framed(Part.FIELDS, ipc_buffer(fields))

    def write(self, puts: Sequence[KeyValue], deletes: Sequence[bytes] = ()) -> None:
        """Store values under sorted keys, after forgetting `deletes`."""
        if puts or deletes:
            self._store.write(puts, sorted(deletes))

    def drop(self, namespace: int) -> None:
        """Forget a namespace."""
        start = _PANE.pack(self._table_id, namespace + _BIAS)
        self._store.delete_range(start, (int.from_bytes(start, "big") + 1).to_bytes(len(start), "big"))

    def read_rows(self, namespace: int, number: int, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """The rows of one chunk, dead ones too; all columns or some.

        Raises:
            CorruptionError: They are damaged or not there.
        """
        value = self._store.get_many([self.key(namespace, number, Part.ROWS)])[0]
        if value is None:
            raise self._damaged(number, "it is not in the store")
        return self._parse_rows(number, value, columns)[0]

    def scan(self, columns: Sequence[str] | None = None) -> Iterator[StoredChunk]:
        """All chunks, by namespace and number.

        Args:
            columns: The columns to read; None: all.

        Raises:
            CorruptionError: A chunk is damaged.
        """
        values = self._store.scan(_TABLE.pack(self._table_id), _TABLE.pack(self._table_id + 1))
        for prefix, parts in groupby(values, key=lambda value: value[0][:-1]):
            yield self._parse(prefix, {key[-1]: value for key, value in parts}, columns)

    def _parse(self, prefix: bytes, parts: dict[int, bytes], columns: Sequence[str] | None) -> StoredChunk:
        _, biased, number, _ = _KEY.unpack(prefix + b"\0")
        if Part.ROWS not in parts:
            raise self._damaged(number, "its rows are missing")
        rows, runs, size_bytes = self._parse_rows(number, parts[Part.ROWS], columns)
        dead = self._parse_dead(number, parts.get(Part.DEAD), rows.num_rows)
        fields = self._parse_fields(number, parts.get(Part.FIELDS), rows.num_rows)
        return StoredChunk(biased - _BIAS, number, rows, runs, size_bytes, dead, fields)

    def _parse_rows(self, number: int, value: bytes, columns: Sequence[str] | None) -> tuple[pa.RecordBatch, Runs, int]:
        body = self._unframed(number, Part.ROWS, value)
        try:
            count, size_bytes, rows = _ROWS_HEAD.unpack_from(body)
            times = np.frombuffer(body, dtype="<i8", count=2 * count, offset=_ROWS_HEAD.size).astype(np.int64)
            batch = ipc_batch(body[_ROWS_HEAD.size + times.nbytes :], columns)
            batch.validate()
        except _ROWS_READ_ERRORS as error:
            raise self._damaged(number, str(error)) from error
        if batch.num_rows != rows or not count:
            raise self._damaged(number, f"it has {batch.num_rows} rows, not {rows}")
        return batch, Runs(times[:count], times[count:]), size_bytes

    def _parse_dead(self, number: int, value: bytes | None, rows: int) -> BoolArray | None:
        if value is None:
            return None
        body = self._unframed(number, Part.DEAD, value)
        bits = np.frombuffer(body, dtype=np.uint8, offset=_DEAD_HEAD.size)
        if _DEAD_HEAD.unpack_from(body)[0] != rows or len(bits) != (rows + 7) // 8:
            raise self._damaged(number, "its dead rows are counted wrong")
        return np.unpackbits(bits, count=rows).astype(np.bool_)

    def _parse_fields(self, number: int, value: bytes | None, rows: int) -> pa.RecordBatch | None:
        if value is None:
            return None
        try:
            batch = ipc_batch(self._unframed(number, Part.FIELDS, value), None)
            batch.validate()
        except _ROWS_READ_ERRORS as error:
            raise self._damaged(number, str(error)) from error
        if batch.num_rows != rows:
            raise self._damaged(number, f"it has {batch.num_rows} mutable rows, not {rows}")
        return batch

    def _unframed(self, number: int, part: Part, value: bytes) -> memoryview:
        if len(value) < _HEAD.size:
            raise self._damaged(number, "a value is shorter than its header")
        magic, version, stored_part, checksum = _HEAD.unpack_from(value)
        body = memoryview(value)[_HEAD.size :]
        if magic != _MAGIC or stored_part != part:
            raise self._damaged(number, "a value has another header")
        if version != _VERSION:
            raise self._damaged(number, f"it has format version {version}, this Lakeward reads {_VERSION}")
        if zlib.crc32(body) != checksum:
            raise self._damaged(number, "a checksum does not match")
        return body

    def _damaged(self, number: int, why: str) -> CorruptionError:
        return CorruptionError(f"chunk {number} of state table '{self._name}' cannot be read: {why}")


def _framed(part: Part, *body: bytes | pa.Buffer) -> bytes:
    """A value of a header and the pieces of its body, each copied once."""
    checksum = 0
    for piece in body:
        checksum = zlib.crc32(piece, checksum)
    return b"".join([_HEAD.pack(_MAGIC, _VERSION, part, checksum), *body])
