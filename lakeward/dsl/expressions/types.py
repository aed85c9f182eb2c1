"""Type rules: families of types, the common type of several, and what a constant becomes beside a column."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pyarrow as pa
from pyarrow import types as pt

_UNITS = ("s", "ms", "us", "ns")


def integer_digits(kind: pa.DataType) -> int:
    """Decimal digits that hold any integer of a type.

    >>> integer_digits(pa.int64()), integer_digits(pa.uint64())
    (19, 20)
    """
    if pt.is_uint64(kind):
        return 20
    return {8: 3, 16: 5, 32: 10, 64: 19}[kind.bit_width]


def is_integer(kind: pa.DataType) -> bool:
    """Whether the type is an integer of any width."""
    return bool(pt.is_integer(kind))


def is_float(kind: pa.DataType) -> bool:
    """Whether the type is a floating-point number."""
    return bool(pt.is_floating(kind))


def is_decimal(kind: pa.DataType) -> bool:
    """Whether the type is a decimal of any width."""
    return bool(pt.is_decimal(kind))


def is_numeric(kind: pa.DataType) -> bool:
    """Whether the type is a number."""
    return is_integer(kind) or is_float(kind) or is_decimal(kind)


def is_text(kind: pa.DataType) -> bool:
    """Whether the type is a string."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether the type is bytes."""
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_fixed_size_binary(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether the type is a list of any layout."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def plain(kind: pa.DataType) -> pa.DataType:
    """The type that kernels work on: without dictionary encoding or views."""
    if pt.is_dictionary(kind):
        return plain(kind.value_type)
    if pt.is_string_view(kind):
        return pa.string()
    if pt.is_binary_view(kind):
        return pa.binary()
    return pa.float32() if pt.is_float16(kind) else kind


def common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """The smallest type that holds the values of both, as Arrow and Polars promote; None when there is none.

    >>> common_type(pa.int32(), pa.int64()), common_type(pa.int64(), pa.float32()), common_type(pa.int8(), pa.string())
    (DataType(int64), DataType(double), None)
    """
    if left.equals(right):
        return left
    if pt.is_null(left) or pt.is_null(right):
        return right if pt.is_null(left) else left
    if is_numeric(left) and is_numeric(right):
        return _common_number(left, right)
    if is_text(left) and is_text(right):
        return pa.large_string()
    if is_bytes(left) and is_bytes(right):
        return pa.large_binary() if pt.is_large_binary(left) or pt.is_large_binary(right) else pa.binary()
    return _common_temporal(left, right)


def common_of(kinds: Sequence[pa.DataType]) -> pa.DataType | None:
    """The common type of one or more."""
    found: pa.DataType | None = kinds[0]
    for kind in kinds[1:]:
        found = None if found is None else common_type(found, kind)
    return found


def _common_number(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    if is_float(left) or is_float(right):
        return _common_float(left, right)
    if is_decimal(left) or is_decimal(right):
        return _common_decimal(_as_decimal(left), _as_decimal(right))
    signed = (pt.is_signed_integer(left), pt.is_signed_integer(right))
    if signed[0] == signed[1]:
        return left if left.bit_width >= right.bit_width else right
    unsigned = right if signed[0] else left
    width = max(left.bit_width, right.bit_width, min(2 * unsigned.bit_width, 64))
    return {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}[width]


def _common_float(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """float32 only where it loses nothing of the other type's width: with float32 and integers up to 16 bits."""
    for kind in (left, right):
        if pt.is_float64(kind) or is_decimal(kind) or (is_integer(kind) and kind.bit_width > 16):
            return pa.float64()
    return pa.float32()


def _as_decimal(kind: pa.DataType) -> pa.DataType:
    return pa.decimal128(integer_digits(kind), 0) if is_integer(kind) else kind


def _common_decimal(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    scale = max(left.scale, right.scale)
    precision = max(left.precision - left.scale, right.precision - right.scale) + scale
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(min(precision, 76), scale)


def _common_temporal(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if pt.is_timestamp(left) and pt.is_timestamp(right):
        return pa.timestamp(_finer(left, right), tz=left.tz) if (left.tz is None) == (right.tz is None) else None
    if pt.is_date(left) and pt.is_date(right):
        return pa.date64()
    if pt.is_date(left) and pt.is_timestamp(right):
        return right
    if pt.is_timestamp(left) and pt.is_date(right):
        return left
    if pt.is_duration(left) and pt.is_duration(right):
        return pa.duration(_finer(left, right))
    if pt.is_time(left) and pt.is_time(right):
        return pa.time64("ns" if "ns" in (left.unit, right.unit) else "us")
    return None


def _finer(left: pa.DataType, right: pa.DataType) -> str:
    units: tuple[str, str] = (left.unit, right.unit)
    return max(units, key=_UNITS.index)


def adapt(value: pa.Scalar, other: pa.DataType) -> pa.Scalar:
    """A constant without a type of its own beside a value of type `other`: of that type if it holds the same value.

    >>> adapt(pa.scalar(7), pa.int8()).type, adapt(pa.scalar(700), pa.int8()).type, adapt(pa.scalar(7), pa.float64())
    (DataType(int8), DataType(int64), <pyarrow.DoubleScalar: 7.0>)
    """
    kind = value.type
    if kind.equals(other) or not _may_adapt(kind, other):
        return value
    if is_integer(kind) and is_decimal(other):
        return exact_decimal(value)
    try:
        return value.cast(other)
    except pa.ArrowException:
        return value


def exact_decimal(value: pa.Scalar) -> pa.Scalar:
    """An integer constant as a decimal of as few digits as it has."""
    if not value.is_valid:
        return pa.scalar(None, pa.decimal128(1, 0))
    number = value.as_py()
    return pa.scalar(Decimal(number), pa.decimal128(len(str(abs(number))), 0))


def _may_adapt(kind: pa.DataType, other: pa.DataType) -> bool:
    if pt.is_null(kind):
        return True
    if is_integer(kind):
        return is_numeric(other)
    if pt.is_timestamp(kind) and pt.is_timestamp(other):
        return (kind.tz is None) == (other.tz is None)
    return bool(
        (is_float(kind) and is_float(other))
        or (is_text(kind) and is_text(other))
        or (is_bytes(kind) and is_bytes(other))
        or (pt.is_duration(kind) and pt.is_duration(other))
        or (pt.is_time(kind) and pt.is_time(other))
        or (pt.is_date(kind) and pt.is_timestamp(other))
    )
