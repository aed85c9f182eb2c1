"""A batch's keys, hashed and encoded once, and the codec between Arrow key columns and them.

One fixed-width key column becomes int64 values, several that are never null become as many. Everything else becomes one
canonical byte string a row: the bytes themselves for a single string column, else a header (one null tag a column,
eight bytes a fixed-width column, four bytes of length a string column) followed by the strings. The hash of a key is
always `hash_columns` of its columns, the one that routes rows, so that a key's group can be told from the state alone.
Where only the first columns route, the high half of the hash, which makes the key group, is theirs, and the low half,
which makes the bucket, is of all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.hashing import (
    NULL_HASH,
    Int64Array,
    PackedBytes,
    UInt64Array,
    as_int64,
    binary_buffers,
    combine_hashes,
    hash_columns,
    is_binary_like,
    null_mask,
    pack_bytes,
    splitmix64,
)

BoolArray = npt.NDArray[np.bool_]
_LOW_HALF = np.uint64((1 << 32) - 1)
KEY_BYTES_MAX = (1 << 24) - 1
"""Longest key, in bytes of its canonical encoding."""


class KeyBatch(ABC):
    """Hashed and encoded keys of one batch; implements `lakeward.engine.api.state.Keys`.

    Args:
        hashes: As by `KeyCodec.hash`.
        nulls: Which keys are null (only for a single key column); None: none.

    Attributes:
        distinct: Whether all keys are known to be different.
    """

    __slots__ = ("distinct", "hashes", "nulls")

    def __init__(self, hashes: UInt64Array, nulls: BoolArray | None) -> None:
        self.hashes = hashes
        self.nulls = nulls
        self.distinct = False

    def __len__(self) -> int:
        return len(self.hashes)

    @abstractmethod
    def take(self, rows: Int64Array) -> KeyBatch:
        """The keys of some rows."""

    def detached(self) -> KeyBatch:
        """The same keys, sharing no memory with the table that they may have come from."""
        return self

    @abstractmethod
    def equal(self, rows: Int64Array) -> BoolArray:
        """For each key, none of them null, whether that of the row beside it in `rows` is the same."""

    @abstractmethod
    def same(self, other: KeyBatch) -> BoolArray:
        """For each key, none of them null, whether the one at its place in another batch is the same."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Memory in use."""


class IntKeys(KeyBatch):
    """Keys of one fixed-width column.

    Args:
        values: The column's bits as int64; 0 where null.
        nulls: As in `KeyBatch`.
        hashes: Left out: computed.
    """

    __slots__ = ("values",)

    def __init__(self, values: Int64Array, nulls: BoolArray | None = None, hashes: UInt64Array | None = None) -> None:
        if hashes is None:
            hashes = splitmix64(values.view(np.uint64))
            if nulls is not None:
                hashes[nulls] = NULL_HASH
        super().__init__(hashes, nulls)
        self.values = values

    def take(self, rows: Int64Array) -> IntKeys:
        """The keys of some rows."""
        return IntKeys(self.values.take(rows), _take(self.nulls, rows), self.hashes.take(rows))

    def equal(self, rows: Int64Array) -> BoolArray:
        """Compare values."""
        equal: BoolArray = self.values.take(rows, mode="clip") == self.values
        return equal

    def same(self, other: KeyBatch) -> BoolArray:
        """Compare values."""
        assert isinstance(other, IntKeys), "keys of one codec are of one kind"
        equal: BoolArray = self.values == other.values
        return equal

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return self.values.nbytes + self.hashes.nbytes


class WideKeys(KeyBatch):
    """Keys of several fixed-width columns, never null.

    Args:
        columns: The columns' bits as int64.
        hashes: As in `KeyBatch`.
    """

    __slots__ = ("columns",)

    def __init__(self, columns: Sequence[Int64Array], hashes: UInt64Array) -> None:
        super().__init__(hashes, None)
        self.columns = columns

    def take(self, rows: Int64Array) -> WideKeys:
        """The keys of some rows."""
        return WideKeys([column.take(rows) for column in self.columns], self.hashes.take(rows))

    def equal(self, rows: Int64Array) -> BoolArray:
        """Compare column after column."""
        return _all_equal([column.take(rows, mode="clip") for column in self.columns], self.columns)

    def same(self, other: KeyBatch) -> BoolArray:
        """Compare column after column."""
        assert isinstance(other, WideKeys), "keys of one codec are of one kind"
        return _all_equal(self.columns, other.columns)

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return sum(column.nbytes for column in self.columns) + self.hashes.nbytes


def _all_equal(some: Sequence[Int64Array], others: Sequence[Int64Array]) -> BoolArray:
    equal: BoolArray = some[0] == others[0]
    for one, other in zip(some[1:], others[1:], strict=True):
        equal &= one == other
    return equal


class ByteKeys(KeyBatch):
    """Keys as byte strings.

    Args:
        lengths: Bytes of each key.
        starts: Where each key's first word lies in `words`.
        words: Zero-padded little-endian words.
        hashes: As in `KeyBatch`.
        nulls: As in `KeyBatch`.
    """

    __slots__ = ("lengths", "starts", "words")

    def __init__(
        self, lengths: Int64Array, starts: Int64Array, words: UInt64Array, hashes: UInt64Array, nulls: BoolArray | None
    ) -> None:
        super().__init__(hashes, nulls)
        self.lengths = lengths
        self.starts = starts
        self.words = words

    @classmethod
    def of(cls, packed: PackedBytes, hashes: UInt64Array, nulls: BoolArray | None) -> ByteKeys:
        """Keys from packed byte strings."""
        return cls(packed.lengths, packed.starts, packed.words, hashes, nulls)

    def take(self, rows: Int64Array) -> ByteKeys:
        """The keys of some rows; the words are shared."""
        nulls = _take(self.nulls, rows)
        return ByteKeys(self.lengths.take(rows), self.starts.take(rows), self.words, self.hashes.take(rows), nulls)

    def detached(self) -> ByteKeys:
        """The same keys, with words of their own."""
        counts = (self.lengths + 7) >> 3
        starts = np.zeros(len(counts), np.int64)
        np.cumsum(counts[:-1], out=starts[1:])
        words = self.words.take(spread(self.starts, counts))
        return ByteKeys(self.lengths, starts, words, self.hashes, self.nulls)

    def equal(self, rows: Int64Array) -> BoolArray:
        """Compare lengths, then word after word."""
        equal: BoolArray = self.lengths.take(rows) == self.lengths
        others = self.starts.take(rows)
        for number in range((int(self.lengths.max(initial=0)) + 7) >> 3):
            alike = np.flatnonzero(equal & (self.lengths > number * 8))
            words = self.words.take(self.starts.take(alike) + number)
            equal[alike] = words == self.words.take(others.take(alike) + number)
        return equal

    def same(self, other: KeyBatch) -> BoolArray:
        """Compare bytes."""
        assert isinstance(other, ByteKeys), "keys of one codec are of one kind"
        equal: BoolArray = pc.equal(self.to_arrow(), other.to_arrow()).to_numpy(zero_copy_only=False)
        return equal

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return self.hashes.nbytes + self.lengths.nbytes + self.starts.nbytes + self.words.nbytes

    def dense_words(self) -> UInt64Array | None:
        """The words as one row a key, if all keys have the same number of words, one after the other."""
        count = len(self.lengths)
        width = len(self.words) // count if count else 0
        if width * count != len(self.words) or width == 0 or self.starts[0] != 0:
            return None
        if int(self.starts[-1]) != (count - 1) * width or ((self.lengths + 7) >> 3 != width).any():
            return None
        return self.words.reshape(count, width)

    def to_arrow(self) -> pa.Array:
        """The keys' bytes as a large_binary array; nulls are empty here."""
        return bytes_of_words(self.lengths, self.starts, self.words)


def _take(nulls: BoolArray | None, rows: Int64Array) -> BoolArray | None:
    if nulls is None:
        return None
    taken: BoolArray = nulls.take(rows)
    return taken if taken.any() else None


def spread(starts: Int64Array, counts: Int64Array) -> Int64Array:
    """Concatenation of `range(start, start + count)` for each pair.

    >>> spread(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - counts), counts) + np.arange(total)


def bytes_of_words(lengths: Int64Array, starts: Int64Array, words: UInt64Array) -> pa.Array:
    """Byte strings out of packed words, as a large_binary array."""
    counts = (lengths + 7) >> 3
    data = words[spread(starts, counts)].view(np.uint8)
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    padded = counts * 8
    if (padded != lengths).any():
        data = data[spread(np.cumsum(padded) - padded, lengths)]
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)])


class KeyCodec:
    """Between the key columns of a table and `KeyBatch`es.

    >>> codec = KeyCodec((("shop", pa.string()), ("day", pa.int32())))
    >>> keys = codec.encode([pa.array(["a", None]), pa.array([1, 2], pa.int32())])
    >>> [column.to_pylist() for column in codec.decode(keys)]
    [['a', None], [1, 2]]

    Args:
        key: Name and Arrow type of each key column.
        routing: How many of the first columns decide the key group; None: all.
        nullable: Whether a column of a composite key can be null.

    Raises:
        SchemaError: There is no key column, one has a type that cannot be a key, or `routing` is not a number of them.
    """

    def __init__(
        self, key: Sequence[tuple[str, pa.DataType]], routing: int | None = None, nullable: bool = True
    ) -> None:
        if not key:
            raise SchemaError("a keyed table needs at least one key column")
        if routing is not None and not 1 <= routing <= len(key):
            raise SchemaError(f"{routing} of {len(key)} key columns cannot decide the key group")
        for name, kind in key:
            _check_key_type(name, kind)
        self.types = [kind for _, kind in key]
        self.single = len(key) == 1
        fixed = not any(map(is_binary_like, self.types))
        self.integral = self.single and fixed
        self.wide = not self.single and fixed and not nullable
        self._routing = routing if routing is not None and routing < len(key) else None

    def hash(self, arrays: Sequence[pa.Array]) -> UInt64Array:
        """Hash rows of the key columns: the key group is in the high half."""
        hashes = hash_columns(arrays)
        if self._routing is None:
            return hashes
        return (hash_columns(arrays[: self._routing]) & ~_LOW_HALF) | (hashes & _LOW_HALF)

    def hash_wide(self, columns: Sequence[Int64Array]) -> UInt64Array:
        """As `hash`, of the columns of `WideKeys`."""
        parts = [splitmix64(column.view(np.uint64)) for column in columns]
        hashes = combine_hashes(parts)
        if self._routing is None:
            return hashes
        return (combine_hashes(parts[: self._routing]) & ~_LOW_HALF) | (hashes & _LOW_HALF)

    def encode(self, arrays: Sequence[pa.Array]) -> KeyBatch:
        """Hash and encode key columns.

        Raises:
            SchemaError: Number or types of the columns are not the key's.
        """
        arrays = self._checked(arrays)
        if self.single:
            return self._encode_single(arrays[0])
        if self.wide:
            columns = [as_int64(array) for array in arrays]
            return WideKeys(columns, self.hash_wide(columns))
        records = _records(arrays)
        if records is None:
            offsets, data = binary_buffers(_join(arrays))
            return self.from_bytes(offsets, data, self.hash(arrays))
        length, words = records
        starts = np.arange(len(arrays[0])) * (-(-length // 8))
        return ByteKeys(np.full(len(arrays[0]), length), starts, words, self.hash(arrays), None)

    def _encode_single(self, array: pa.Array) -> KeyBatch:
        nulls = null_mask(array) if array.null_count else None
        if self.integral:
            return IntKeys(as_int64(array), nulls)
        if nulls is not None:
            array = array.fill_null(b"" if pa.types.is_binary(array.type) or _is_large_binary(array.type) else "")
        keys = self.from_bytes(*binary_buffers(array), None)
        if nulls is not None:
            keys.hashes[nulls] = NULL_HASH
            keys.nulls = nulls
        return keys

    def from_bytes(self, offsets: Int64Array, data: npt.NDArray[np.uint8], hashes: UInt64Array | None) -> ByteKeys:
        """Keys from canonical byte strings; without `hashes` those of the bytes are taken."""
        packed = pack_bytes(offsets, data)
        if len(packed.lengths) and int(packed.lengths.max()) > KEY_BYTES_MAX:
            raise SchemaError(
                f"a key is {int(packed.lengths.max())} bytes long, more than {KEY_BYTES_MAX}",
                hint="key by a hash or an id of the value instead",
            )
        return ByteKeys.of(packed, packed.hashes if hashes is None else hashes, None)

    def decode(self, keys: KeyBatch) -> list[pa.Array]:
        """The key columns, of the key's Arrow types."""
        if isinstance(keys, IntKeys):
            return [_from_int64(keys.values, keys.nulls, self.types[0])]
        if isinstance(keys, WideKeys):
            return [_from_int64(column, None, kind) for column, kind in zip(keys.columns, self.types, strict=True)]
        assert isinstance(keys, ByteKeys)
        joined = keys.to_arrow()
        if self.single:
            return [_with_nulls(joined, keys.nulls).cast(self.types[0])]
        return _split(joined, self.types)

    def _checked(self, arrays: Sequence[pa.Array]) -> list[pa.Array]:
        plain = [a.dictionary_decode() if pa.types.is_dictionary(a.type) else a for a in arrays]
        plain = [a.combine_chunks() if isinstance(a, pa.ChunkedArray) else a for a in plain]
        if [a.type for a in plain] != self.types:
            got, want = [str(a.type) for a in plain], [str(t) for t in self.types]
            raise SchemaError(f"key columns have types {got}, the table's key is {want}")
        return plain


def _is_large_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_binary(kind))


def _check_key_type(name: str, kind: pa.DataType) -> None:
    temporal = pa.types.is_temporal(kind) and not pa.types.is_interval(kind)
    fixed = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if not (temporal or fixed or is_binary_like(kind)):
        raise SchemaError(
            f"column '{name}' of type {kind} cannot be a key",
            hint="keys are integers, booleans, dates, times, timestamps, floats, strings or bytes; cast it",
        )


def _join(arrays: Sequence[pa.Array]) -> pa.Array:
    """Canonical bytes of composite keys: a fixed-size header, then the strings."""
    rows = len(arrays[0])
    strings = [a for a in arrays if is_binary_like(a.type)]
    header = np.zeros(rows, dtype=_header_dtype([a.type for a in arrays]))
    _fill_header(header, arrays)
    offsets = np.arange(rows + 1, dtype=np.int64) * header.dtype.itemsize
    fixed = pa.Array.from_buffers(pa.large_binary(), rows, [None, pa.py_buffer(offsets), pa.py_buffer(header)])
    if not strings:
        return fixed
    parts = [pc.fill_null(a.cast(pa.large_binary()), b"") for a in strings]
    return pc.binary_join_element_wise(fixed, *parts, pa.scalar(b"", pa.large_binary()))


def _fill_header(header: npt.NDArray[np.void], arrays: Sequence[pa.Array]) -> None:
    for number, array in enumerate(arrays):
        if array.null_count:
            header[f"t{number}"] = null_mask(array)
        lengths_or_values = pc.binary_length(array) if is_binary_like(array.type) else array
        header[f"v{number}"] = as_int64(lengths_or_values)


def _records(arrays: Sequence[pa.Array]) -> tuple[int, UInt64Array] | None:
    """What `_join` makes, packed into words, and its length; if the strings of each column are all of one length."""
    texts = [_texts_of_one_length(array) for array in arrays if is_binary_like(array.type)]
    header = _header_dtype([array.type for array in arrays])
    length = header.itemsize + sum(text.itemsize for text in texts if text is not None)
    if length > KEY_BYTES_MAX or any(text is None for text in texts):
        return None
    fields = [(f"s{number}", text.dtype) for number, text in enumerate(texts) if text is not None]
    dtype = np.dtype([*((name, header[name]) for name in header.names or ()), *fields, ("padding", f"V{-length % 8}")])
    records = np.zeros(len(arrays[0]), dtype=dtype)
    _fill_header(records, arrays)
    for number, text in enumerate(texts):
        records[f"s{number}"] = text
    return length, records.view(np.uint64)


def _texts_of_one_length(array: pa.Array) -> npt.NDArray[np.void] | None:
    """The strings as they lie in memory, if all have the same length, and there is no null."""
    offsets, data = binary_buffers(array)
    length = int(offsets[-1] - offsets[0]) // max(len(array), 1)
    if array.null_count or not length or (np.diff(offsets) != length).any():
        return None
    return data[offsets[0] : offsets[-1]].view(f"V{length}")


def _header_dtype(types: Sequence[pa.DataType]) -> np.dtype[np.void]:
    tags = [(f"t{i}", "u1") for i in range(len(types))]
    values = [(f"v{i}", "<u4" if is_binary_like(kind) else "<i8") for i, kind in enumerate(types)]
    return np.dtype(tags + values)


def _split(joined: pa.Array, types: Sequence[pa.DataType]) -> list[pa.Array]:
    """The columns of composite keys: the inverse of `_join`."""
    offsets, data = binary_buffers(joined)
    dtype = _header_dtype(types)
    starts = offsets[:-1].copy()
    rows = len(starts)
    heads = data[spread(starts, np.full(rows, dtype.itemsize))] if rows else np.zeros(0, np.uint8)
    header = heads.view(dtype)
    starts += dtype.itemsize
    columns = []
    for number, kind in enumerate(types):
        nulls = header[f"t{number}"].astype(np.bool_)
        values = header[f"v{number}"].astype(np.int64)
        if is_binary_like(kind):
            columns.append(_with_nulls(_cut(data, starts, values), nulls).cast(kind))
            starts = starts + values
        else:
            columns.append(_from_int64(values, nulls, kind))
    return columns


def _cut(data: npt.NDArray[np.uint8], starts: Int64Array, lengths: Int64Array) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data[spread(starts, lengths)])]
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), buffers)


def _with_nulls(array: pa.Array, nulls: BoolArray | None) -> pa.Array:
    if nulls is None or not nulls.any():
        return array
    return pc.if_else(pa.array(nulls), pa.scalar(None, array.type), array)


def _from_int64(values: Int64Array, nulls: BoolArray | None, kind: pa.DataType) -> pa.Array:
    """Arrow values out of their int64 bits: the inverse of `as_int64`."""
    mask = nulls if nulls is not None and nulls.any() else None
    if pa.types.is_floating(kind):
        return pa.array(values.view(np.float64), mask=mask).cast(kind)
    if pa.types.is_boolean(kind):
        return pa.array(values.astype(np.bool_), mask=mask)
    if pa.types.is_temporal(kind):
        width = np.int32 if kind.bit_width == 32 else np.int64
        return pa.array(values.astype(width), mask=mask).view(kind)
    return pa.array(values.astype(kind.to_pandas_dtype()), type=kind, mask=mask)
