"""Casts, strict and forgiving."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pt

from lakeward.dsl.expressions.compiled import Compiled, Kernel, apply
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.numpy_kernels import floor_to
from lakeward.dsl.expressions.types import is_decimal, is_float, is_integer, is_text

_ZONED = r"(?:Z|[T :]\d{2}(?:\.\d+)?[+-]\d{2}(?::?\d{2})?|[T ]\d{4,6}(?:\.\d+)?[+-]\d{2}(?::?\d{2})?)$"
"""An offset stands behind a time: the last part of a date looks like one."""
_NUMBER = {
    True: r"^\s*-?(?:\d+|0[xX][0-9a-fA-F]+)\s*$",
    False: r"(?i)^\s*[+-]?(?:\d+\.?\d*(?:e[+-]?\d+)?|\.\d+(?:e[+-]?\d+)?|nan|inf|infinity)\s*$",
}
TICKS_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Of each unit of time."""


def _cast(call: Call, args: Sequence[Compiled]) -> Compiled:
    target, errors = call.params
    (arg,) = args
    if arg.type.equals(target):
        return arg
    strict = cast_kernel(arg.type, target)
    return apply(call, strict if errors is None else _forgiving(strict, arg.type, target), args)


CAST = Function("cast", Style.METHOD, _cast, keywords=("errors",), decodes=True)


def cast_kernel(source: pa.DataType, target: pa.DataType) -> Kernel:
    """The cast between two types: fractions are cut off toward zero, times rounded down; a loss of range raises.

    A decimal that loses digits is rounded as in SQL: halves away from zero.
    """
    plain = _arrow_cast(target, rounds=is_integer(source) and is_float(target))
    if (is_float(source) or is_decimal(source)) and is_integer(target):
        return lambda array: plain(pc.trunc(array))
    if is_decimal(source) and is_decimal(target) and target.scale < source.scale:
        return _rounded_decimal(plain, source, target.scale)
    if pt.is_timestamp(source) and pt.is_timestamp(target):
        return _retime(plain, source, target)
    if is_text(source) and pt.is_timestamp(target) and target.tz is not None:
        return lambda array: _parse_cut(array, target)
    return plain


def _arrow_cast(target: pa.DataType, rounds: bool) -> Kernel:
    """Arrow's safe cast; `rounds` lets integers beyond 2^53 become the nearest float."""
    options = pc.CastOptions(target, allow_float_truncate=rounds)
    call = pc.get_function("cast").call
    return lambda array: call([array], options)


def _rounded_decimal(plain: Kernel, source: pa.DataType, digits: int) -> Kernel:
    """Rounded in one digit more, which 9.99 needs to become 10.0."""
    wide = pa.decimal128 if source.precision < 38 else pa.decimal256
    widen = _arrow_cast(wide(source.precision + 1, source.scale), rounds=False)
    options = pc.RoundOptions(digits, "half_towards_infinity")
    return lambda array: plain(pc.round(widen(array), options=options))


def _retime(plain: Kernel, source: pa.DataType, target: pa.DataType) -> Kernel:
    """Between units and zones; a time without a zone is taken to be UTC, and becomes UTC when it loses its zone."""
    step = TICKS_A_SECOND[source.unit] // TICKS_A_SECOND[target.unit]
    return (lambda array: plain(floor_to(array, step))) if step > 1 else plain


def _parse_cut(array: pa.Array, target: pa.DataType) -> pa.Array:
    """As `_parse_instants`, also text with more digits of the second than the type has, which are left out."""
    try:
        return _parse_instants(array, target)
    except pa.ArrowInvalid:
        digits = len(str(TICKS_A_SECOND[target.unit])) - 1
        if digits == 0:
            raise
        cut = pc.replace_substring_regex(array, rf"(:\d{{2}}\.\d{{{digits}}})\d+", r"\1")
        return _parse_instants(cut, target)


def _parse_instants(array: pa.Array, target: pa.DataType) -> pa.Array:
    """ISO 8601 text; where it names no offset it is taken to be UTC."""
    zoned = pc.match_substring_regex(array, _ZONED)
    naive = pa.timestamp(target.unit)
    if not zoned.true_count:
        return array.cast(naive).cast(target)
    if zoned.true_count + array.null_count == len(array):
        return array.cast(target)
    nothing = pa.scalar(None, array.type)
    with_offset = pc.if_else(zoned, array, nothing).cast(target)
    without = pc.if_else(zoned, nothing, array).cast(naive).cast(target)
    return pc.coalesce(with_offset, without)


def _forgiving(strict: Kernel, source: pa.DataType, target: pa.DataType) -> Kernel:
    """Null instead of an error, value by value. What is no number by its spelling is sorted out at vector speed."""
    pattern = _NUMBER[is_integer(target)] if is_text(source) and (is_integer(target) or is_float(target)) else None

    def function(array: Any) -> pa.Array:
        try:
            return strict(array)
        except pa.ArrowInvalid:
            if pattern is not None:
                readable = pc.match_substring_regex(array, pattern)
                array = pc.if_else(readable, array, pa.scalar(None, source))
            return _halves(strict, array, target)

    return function


def _halves(strict: Kernel, array: pa.Array, target: pa.DataType) -> pa.Array:
    """Cast what can be cast: a part that fails is halved until the failing values stand alone."""
    try:
        return strict(array)
    except pa.ArrowInvalid:
        if len(array) == 1:
            return pa.nulls(1, target)
        middle = len(array) // 2
        return pa.concat_arrays(
            [_halves(strict, array.slice(0, middle), target), _halves(strict, array.slice(middle), target)]
        )
