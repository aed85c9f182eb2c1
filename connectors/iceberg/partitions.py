"""Splitting a batch by hidden partitioning, with array kernels: at most one sort and one take a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import DayTransform, HourTransform, IdentityTransform

PartitionKey = tuple[object, ...]
"""A partition's values in Iceberg's internal form (days and hours as int, timestamps in microseconds)."""

_US_PER_HOUR = 3_600_000_000
_US_PER_DAY = 24 * _US_PER_HOUR
_NARROW_CODES_MAX = 2**16
"""Numpy sorts 16-bit codes by radix, five times faster than wider ones."""


@dataclass(frozen=True, slots=True)
class _Codes:
    """One partition field of a batch: `values[code[row]]` is the row's partition value."""

    codes: npt.NDArray[np.integer] | None  # None: the same value in every row
    values: Callable[[int], object]
    count: int


class Partitioner:
    """Splits batches by a partition spec.

    Args:
        spec: The table's partition spec.
        schema: The schema that the spec's source columns belong to.
    """

    def __init__(self, spec: PartitionSpec, schema: Schema) -> None:
        self._fields = [(_column_index(schema, field), _transform(schema, field)) for field in spec.fields]

    def split(self, batch: pa.RecordBatch) -> Iterator[tuple[PartitionKey, pa.RecordBatch]]:
        """The batch's rows by partition; in each, rows keep their order.

        Args:
            batch: Rows in the file schema (columns in the table's order).

        Yields:
            Each partition once.
        """
        fields = [_encode(transform(batch.column(index))) for index, transform in self._fields]
        codes = _combine(fields)
        if codes is None:
            yield _key(fields, 0), batch
            return
        if bool(np.all(codes[:-1] <= codes[1:])):
            order = np.arange(len(codes))
        else:
            order = np.argsort(codes, kind="stable")
            batch, codes = batch.take(pa.array(order)), codes[order]
        for start, end in pairwise([0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]):
            yield _key(fields, int(order[start])), batch.slice(start, end - start)


def _combine(fields: list[_Codes]) -> npt.NDArray[np.integer] | None:
    """One code a row over all fields; None when all rows are of one partition."""
    combined: npt.NDArray[np.integer] | None = None
    for field in fields:
        if field.codes is None:
            continue
        if combined is None:
            combined = field.codes
        else:
            # numbered anew before each product, so that two numbers below the count of rows never overflow
            _, dense = np.unique(combined, return_inverse=True)
            combined = dense.astype(np.int64) * field.count + field.codes
    return combined


def _key(fields: list[_Codes], row: int) -> PartitionKey:
    return tuple(field.values(0 if field.codes is None else int(field.codes[row])) for field in fields)


def _encode(array: pa.Array) -> _Codes:
    if pat.is_integer(array.type) and array.null_count == 0 and len(array) > 0:
        return _encode_integers(array)
    encoded = array.dictionary_encode(null_encoding="encode")
    dictionary = encoded.dictionary
    codes = encoded.indices.to_numpy(zero_copy_only=False) if len(dictionary) > 1 else None
    if codes is not None and len(dictionary) <= _NARROW_CODES_MAX:
        codes = codes.astype(np.uint16)
    return _Codes(codes, lambda code: dictionary[code].as_py(), max(len(dictionary), 1))


def _encode_integers(array: pa.Array) -> _Codes:
    """Time partitions and buckets are small integers close to each other: subtract instead of hashing."""
    numbers = array.to_numpy(zero_copy_only=True)
    low, high = int(numbers.min()), int(numbers.max())
    if low == high:
        return _Codes(None, lambda code: low, 1)
    if high - low < _NARROW_CODES_MAX:
        return _Codes((numbers - low).astype(np.uint16), lambda code: low + code, high - low + 1)
    values, codes = np.unique(numbers, return_inverse=True)
    return _Codes(codes, lambda code: int(values[code]), len(values))


def _column_index(schema: Schema, field: PartitionField) -> int:
    """Position of the source among the table's columns, which are the file's."""
    return next(i for i, column in enumerate(schema.fields) if column.field_id == field.source_id)


def _transform(schema: Schema, field: PartitionField) -> Callable[[pa.Array], pa.Array]:
    if isinstance(field.transform, IdentityTransform):
        return _physical
    if isinstance(field.transform, HourTransform):
        return lambda array: _floor_divide(array, _US_PER_HOUR)
    if isinstance(field.transform, DayTransform):
        return lambda array: _physical(array) if pat.is_date32(array.type) else _floor_divide(array, _US_PER_DAY)
    function = field.transform.pyarrow_transform(schema.find_type(field.source_id))
    return lambda array: _physical(function(array))


def _floor_divide(timestamps: pa.Array, unit_us: int) -> pa.Array:
    """Whole units since 1970, rounded down also before it; Arrow's own division rounds towards zero."""
    if timestamps.null_count:
        valid = pc.is_valid(timestamps)
        numbers = pc.fill_null(timestamps.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return pc.if_else(valid, pa.array(numbers // unit_us, pa.int64()), pa.scalar(None, pa.int64()))
    return pa.array(timestamps.cast(pa.int64()).to_numpy(zero_copy_only=False) // unit_us, pa.int64())


def _physical(array: pa.Array) -> pa.Array:
    """Iceberg's internal form: dates in days, times and timestamps in microseconds, UUIDs as bytes."""
    kind = array.type
    if pat.is_timestamp(kind) or pat.is_time64(kind):
        return array.cast(pa.int64())
    if pat.is_date32(kind):
        return array.cast(pa.int32())
    if isinstance(kind, pa.BaseExtensionType):
        return array.storage
    return array
