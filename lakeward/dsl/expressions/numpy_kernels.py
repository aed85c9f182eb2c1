"""Kernels that numpy does better than Arrow: floor division, modulo and rounding times down, nulls kept apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Values = npt.NDArray[Any]


def values_of(array: pa.Array) -> Values:
    """The values of a fixed-width array without copying; at nulls there is anything. Times are integers."""
    width = array.type.bit_width // 8
    kind = array.type
    if pa.types.is_floating(kind):
        dtype = np.dtype(f"f{width}")
    else:
        dtype = np.dtype(f"{'u' if pa.types.is_unsigned_integer(kind) else 'i'}{width}")
    data = array.buffers()[1]
    if len(array) == 0 or data is None:
        return np.zeros(len(array), dtype=dtype)
    return np.frombuffer(data, dtype=dtype, count=len(array), offset=array.offset * width)


def with_nulls_of(values: Values, kind: pa.DataType, *sources: pa.Array) -> pa.Array:
    """An array of `kind` over integer or float values, null where any of the sources is."""
    result = pa.array(values)
    if not result.type.equals(kind):
        result = result.view(kind)
    for source in sources:
        if source.null_count:
            result = pc.if_else(source.is_valid(), result, pa.scalar(None, kind))
    return result


def floor_divide(left: Any, right: Any) -> pa.Array:
    """Quotients rounded down. Of integers: checked for zero and overflow; null where an operand is."""
    return _divide(np.floor_divide, left, right)


def modulo(left: Any, right: Any) -> pa.Array:
    """Remainders with the divisor's sign. Of integers: checked for zero; null where an operand is."""
    return _divide(np.remainder, left, right)


def _divide(function: np.ufunc, left: Any, right: Any) -> pa.Array:
    kind = left.type
    arrays = [side for side in (left, right) if isinstance(side, pa.Array)]
    if any(isinstance(side, pa.Scalar) and not side.is_valid for side in (left, right)):
        return pa.nulls(len(arrays[0]), kind)
    x, y = _operand(left), _operand(right)
    if pa.types.is_integer(kind):
        _check_integers(x, y, arrays, overflow=function is np.floor_divide)
    with np.errstate(all="ignore"):
        return with_nulls_of(function(x, y), kind, *arrays)


def _operand(side: Any) -> Values:
    return values_of(side) if isinstance(side, pa.Array) else values_of(pa.repeat(side, 1))[0]


def _check_integers(x: Values, y: Values, arrays: list[pa.Array], overflow: bool) -> None:
    if _any_valid(y == 0, arrays):
        raise pa.ArrowInvalid("divide by zero")
    lowest = np.iinfo(x.dtype).min
    if overflow and lowest < 0 and np.any(y == -1) and _any_valid((y == -1) & (x == lowest), arrays):
        raise pa.ArrowInvalid("overflow")


def _any_valid(bad: Any, arrays: list[pa.Array]) -> bool:
    """Whether some row is bad and has no null operand."""
    if not np.any(bad):
        return False
    valid = np.ones(len(arrays[0]), dtype=np.bool_)
    for array in arrays:
        if array.null_count:
            valid &= array.is_valid().to_numpy(zero_copy_only=False)
    return bool(np.any(np.broadcast_to(bad, valid.shape) & valid))


def floor_to(array: pa.Array, step: int) -> pa.Array:
    """Times rounded down to multiples of `step`, in the array's own unit, counted from 1970."""
    ticks = values_of(array)
    return with_nulls_of(ticks // step * step, array.type, array)


def ceil_to(array: pa.Array, step: int) -> pa.Array:
    """Times rounded up to multiples of `step`; those that are some stay."""
    ticks = values_of(array)
    return with_nulls_of(-(-ticks // step) * step, array.type, array)
