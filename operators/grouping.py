"""Numbering the different rows of a batch: what is looked up, compared and sent is once a key, not once a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.core.hashing import as_int64, binary_buffers, is_binary_like, null_mask

Rows = npt.NDArray[np.int64]

_FACTORS = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xD6E8FEB86659FD93)
_BITS_MIN = 8
_WORD = 8
_SHORT_BYTES_MAX = 32


def is_fixed(kind: pa.DataType) -> bool:
    """Whether values of the type fit a numpy column of at most eight bytes a value."""
    types = pa.types
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or (types.is_temporal(kind) and not types.is_interval(kind))
    )


def plain(array: pa.Array) -> pa.Array:
    """The array, its dictionary resolved if it has one."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of `plain` arrays: that of a dictionary's values."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def comparable(array: pa.Array) -> pa.Array:
    """Values that can be grouped: nested ones by their text, dictionaries resolved, narrow decimals made wider."""
    if pa.types.is_nested(array.type):  # Arrow has no dictionary of nested values
        return pa.array([None if one is None else repr(one) for one in array.to_pylist()], pa.string())
    array = plain(array)
    if pa.types.is_decimal(array.type) and array.type.bit_width < 128:  # nor one of these
        return array.cast(pa.decimal128(array.type.precision, array.type.scale))
    return array


@dataclass(frozen=True, slots=True)
class Groups:
    """The different rows of some columns.

    Args:
        rows: The first row of each group, rising.
        numbers: The group of each row.
    """

    rows: Rows
    numbers: Rows

    def __len__(self) -> int:
        return len(self.rows)


def group_keys(arrays: Sequence[pa.Array]) -> Groups:
    """Number the different rows of columns in the order of their first appearance; null equals null, NaN equals NaN.

    >>> groups = group_keys([pa.array([7, 8, 7, 7]), pa.array(["a", "a", "a", None])])
    >>> groups.numbers.tolist(), groups.rows.tolist()
    ([0, 1, 0, 2], [0, 1, 3])

    Args:
        arrays: Columns of one length, at least one row long.
    """
    columns: list[Rows] = []
    for array in map(plain, arrays):
        words = _words(array)
        if words is None:
            words = [array.dictionary_encode(null_encoding="encode").indices.to_numpy().astype(np.int64)]
            if len(arrays) == 1:
                return _numbered(words[0])
        columns += words
    return group_rows_of(columns, len(arrays[0]))


def _numbered(codes: Rows) -> Groups:
    """The groups of rows that have numbers already, in the order of their first appearance."""
    rows = np.empty(int(codes.max()) + 1, np.int64)
    rows[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    return Groups(rows, codes)


def row_codes(arrays: Sequence[pa.Array]) -> Rows:
    """A number for each row of columns of any types, the same for equal rows; nulls equal each other.

    >>> row_codes([pa.array([7, 8, 7, None]), pa.array([["a"], ["a"], ["a"], None])]).tolist()
    [0, 1, 0, 2]
    """
    return group_keys([comparable(array) for array in arrays]).numbers if len(arrays[0]) else np.zeros(0, np.int64)


def _words(array: pa.Array) -> list[Rows] | None:
    """A few int64 columns that are equal where the values are, none if all are; None: they need a dictionary."""
    if is_fixed(array.type):
        values = [as_int64(array)]
        return values if not array.null_count else [*values, null_mask(array).astype(np.int64)]
    return _words_of_short_texts(array) if is_binary_like(array.type) and not array.null_count else None


def _words_of_short_texts(array: pa.Array) -> list[Rows] | None:
    """The bytes of strings that are all of one length, and short, eight to a column: no dictionary has to be made."""
    offsets, data = binary_buffers(array)
    length, count = int(offsets[1] - offsets[0]), len(array)
    if not _WORD <= length <= _SHORT_BYTES_MAX or (np.diff(offsets) != length).any():
        return None
    texts = data[offsets[0] : offsets[-1]]
    if (texts[length:] == texts[:-length]).all():
        return []
    places = [*range(0, length - _WORD, _WORD), length - _WORD]  # the last two may overlap
    loads = [np.ndarray(count, np.int64, texts.data, offset=place, strides=(length,)) for place in places]
    return [load.copy() for load in loads]


def group_rows_of(columns: Sequence[Rows], count: int) -> Groups:
    """Number the different rows of int64 columns.

    Rows write their number to a place of a small table that their hash says, the first of them last, and read back who
    won: rows of one group find its first row, unless another group has the same place. Those try again with another
    hash. That is a few passes over the rows, without sorting them or building a dictionary.

    Args:
        columns: At most a few; none if all rows are equal.
        count: Number of rows, at least one.
    """
    columns = [column for column in columns if column[0] != column[-1] or (column != column[0]).any()]
    if not columns:
        return Groups(np.array([0]), np.zeros(count, np.int64))
    leaders = _leaders(columns, 0)
    rows = np.flatnonzero(leaders == np.arange(count))
    numbers = np.empty(count, np.int64)
    numbers[rows] = np.arange(len(rows))
    return Groups(rows, numbers.take(leaders))


def _leaders(columns: Sequence[Rows], attempt: int) -> Rows:
    """For each row the first row of its group."""
    count = len(columns[0])
    bits = max(_BITS_MIN, (count * 4 - 1).bit_length())
    places = _places(columns, attempt, bits)
    table = np.empty(1 << bits, np.int32)
    table[np.ascontiguousarray(places[::-1])] = np.arange(count - 1, -1, -1, dtype=np.int32)
    leaders: Rows = table.take(places, mode="clip").astype(np.int64)
    same = columns[0].take(leaders, mode="clip") == columns[0]
    for column in columns[1:]:
        same &= column.take(leaders, mode="clip") == column
    rest = np.flatnonzero(~same)
    if len(rest):
        leaders[rest] = rest[_leaders([column[rest] for column in columns], attempt + 1)]
    return leaders


def _places(columns: Sequence[Rows], attempt: int, bits: int) -> Rows:
    """A hash of each row, another one at each attempt: multiplied in turn, the high bits taken (Fibonacci hashing)."""
    hashes: npt.NDArray[np.uint64] | None = None
    for number, column in enumerate(columns):
        factor = np.uint64(_FACTORS[(attempt + number) % len(_FACTORS)] ^ (2 * attempt << 20))
        hashes = column.view(np.uint64) * factor if hashes is None else (hashes ^ column.view(np.uint64)) * factor
        hashes ^= hashes >> np.uint64(32)
    assert hashes is not None, "without columns all rows are equal"
    hashes *= np.uint64(_FACTORS[-1])
    hashes >>= np.uint64(64 - bits)
    return hashes.view(np.int64)
