"""Arrow arrays as numpy columns and back: the form in which aggregates see values and state.

Numbers, booleans and everything temporal are plain numpy arrays of their own width (timestamps as integers); a decimal
is a pair of 64-bit words; all other types are object arrays, None being null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.operators.aggregates.stored_types import stored_type
from lakeward.operators.grouping import group_keys, plain
from lakeward.operators.grouping import is_fixed as is_fixed

Values = npt.NDArray[Any]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


def storage_type(kind: pa.DataType) -> pa.DataType:
    """The type a value is kept in: temporal types as integers of their width, all others as they are.

    So are those inside of lists, structs and maps: not all of them have a Python object (nanoseconds, far years).
    """
    if pa.types.is_temporal(kind) and is_fixed(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    return (stored_type(kind) or kind) if _has_times(kind) else kind


def _has_times(kind: pa.DataType) -> bool:
    """Whether there are temporal types inside of a type."""
    parts = (kind.field(index).type for index in range(kind.num_fields))
    return any(pa.types.is_temporal(part) or _has_times(part) for part in parts)


def to_numpy(array: pa.Array) -> Values:
    """The values of an array; what stands in null places is undefined, but for objects, where it is None."""
    kind = storage_type(array.type)
    if not is_fixed(kind):
        return as_objects((array if kind == array.type else array.cast(kind)).to_pylist())
    if pa.types.is_boolean(kind):
        full = array.fill_null(False) if array.null_count else array
        bools: Values = full.to_numpy(zero_copy_only=False)
        return bools
    dtype = kind.to_pandas_dtype()
    data = array.buffers()[1]
    if data is None:
        return np.zeros(len(array), dtype=dtype)
    return np.frombuffer(data, dtype=dtype, count=array.offset + len(array))[array.offset :]


def as_objects(values: Sequence[Any]) -> Values:
    """A list as an object array, whatever the list holds (numpy would take tuples apart)."""
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects


def to_arrow(values: Values, kind: pa.DataType, valid: Mask | None = None) -> pa.Array:
    """Values as an Arrow array of `kind`; null where `valid` is False."""
    if values.dtype == object:
        listed = values.tolist() if valid is None else [v if ok else None for v, ok in zip(values, valid, strict=True)]
        column = pa.array(listed, type=storage_type(kind))
        return column if column.type == kind else column.cast(kind)
    stored = storage_type(kind)
    array = pa.array(values, type=stored, mask=None if valid is None else ~valid)
    return array if stored == kind else array.view(kind)


def filled(kind: pa.DataType, value: Any, count: int) -> Values:
    """A column that holds one value many times, in the form in which state keeps values of `kind`."""
    if not is_fixed(kind):
        return as_objects([value] * count)
    return np.full(count, value, dtype=kind.to_pandas_dtype())


def decimal_words(array: pa.Array) -> npt.NDArray[np.int64]:
    """A decimal128 array as little-endian 64-bit words, one row a value: the low one (as if signed), then the high."""
    data = array.buffers()[1]
    if data is None:
        return np.zeros((len(array), 2), dtype=np.int64)
    words = np.frombuffer(data, dtype="<i8", count=2 * (array.offset + len(array)))
    return words.reshape(-1, 2)[array.offset :]


def decimal_array(words: npt.NDArray[np.int64], kind: pa.DataType, valid: Mask | None = None) -> pa.Array:
    """The inverse of `decimal_words`."""
    data = pa.py_buffer(np.ascontiguousarray(words, dtype="<i8"))
    bits = None if valid is None else pa.array(valid).buffers()[1]
    return pa.Array.from_buffers(kind, len(words), [bits, data])


def valid_mask(array: pa.Array) -> Mask | None:
    """True where there is a value; None when there is one everywhere."""
    if not array.null_count:
        return None
    mask: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return mask


@dataclass(frozen=True, slots=True)
class InputColumn:
    """One input column of a batch, made ready once for all aggregates and panes.

    Args:
        array: The column as it came.
        values: Its values; decimals as words; None for types that are handled as Arrow arrays (strings).
        valid: Where there are values; None: everywhere.
    """

    array: pa.Array
    values: Values | None
    valid: Mask | None

    @classmethod
    def of(cls, array: pa.Array) -> InputColumn:
        """Look at a column."""
        array = plain(array)
        values: Values | None = None
        if is_fixed(array.type):
            values = to_numpy(array)
        elif pa.types.is_decimal128(array.type):
            values = decimal_words(array)
        return cls(array, values, valid_mask(array))

    def arrow(self) -> pa.Array:
        """The rows as an Arrow array without nulls, for types that have no numpy form."""
        return self.array if self.values is None else decimal_array(self.values, self.array.type)

    def plain(self) -> pa.Array:
        """The rows as an Arrow array, whatever their type, of a column without nulls."""
        if self.values is None or self.values.ndim == 2:
            return self.arrow()
        return to_arrow(self.values, self.array.type)

    def present(self) -> tuple[Rows | None, InputColumn]:
        """The rows that have a value (None: all), and the column of these rows alone."""
        if self.valid is None:
            return None, self
        rows = np.flatnonzero(self.valid)
        return rows, self.take(rows)

    def take(self, rows: Rows) -> InputColumn:
        """Some of the rows."""
        valid = None if self.valid is None else self.valid[rows]
        if valid is not None and valid.all():
            valid = None
        if self.values is None:
            return InputColumn(self.array.take(pa.array(rows)), None, valid)
        return InputColumn(self.array, self.values[rows], valid)


def group_rows(arrays: Sequence[pa.Array]) -> tuple[Rows, Rows]:
    """Number the distinct rows of some columns in the order of their first appearance.

    >>> ids, firsts = group_rows([pa.array([7, 8, 7]), pa.array(["a", "a", "a"])])
    >>> ids.tolist(), firsts.tolist()
    ([0, 1, 0], [0, 1])

    Args:
        arrays: Columns of one length; nulls equal each other.

    Returns:
        The number of each row, and for each number the first row that has it.
    """
    if not len(arrays[0]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    groups = group_keys(arrays)
    return groups.numbers, groups.rows


def winners(groups: Rows, ranks: Rows, size: int) -> Rows:
    """The row with the highest rank in each group.

    >>> winners(np.array([0, 1, 0]), np.array([5, 1, 9]), size=2).tolist()
    [1, 2]

    Args:
        groups: The group of each row, below `size`.
        ranks: The rank of each row, zero or more, all different.
        size: Number of groups there can be; not all need have rows.

    Returns:
        Row numbers, rising, one a group that has rows.
    """
    best = np.empty(size, dtype=np.int64)
    best[groups] = -1  # only the groups in use are touched
    np.maximum.at(best, groups, ranks)
    return np.flatnonzero(best[groups] == ranks)


def positions(order: Rows) -> Rows:
    """The place of each row in an order (the inverse permutation)."""
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places
