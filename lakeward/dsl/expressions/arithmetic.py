"""Rules of arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pt

from lakeward.dsl.expressions import numpy_kernels
from lakeward.dsl.expressions.compiled import (
    Compiled,
    Kernel,
    apply,
    cast_hint,
    constant,
    convert,
    kernel,
    mismatch,
    unify,
)
from lakeward.dsl.expressions.logic import zone_hint
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.types import (
    exact_decimal,
    integer_digits,
    is_decimal,
    is_float,
    is_integer,
    is_numeric,
    is_text,
)

Rule = Callable[[Call, Sequence[Compiled]], Compiled]

_concat = kernel("binary_join_element_wise", pc.JoinOptions("emit_null"))
_DECIMAL_HINT = "cast a side to a decimal of lower precision, or to double"


def typed(args: Sequence[Compiled]) -> list[Compiled]:
    """Operands of the type null take the type of the other one."""
    known = [arg.type for arg in args if not pt.is_null(arg.type)] or [pa.int64()]
    return [convert(arg, known[0]) if pt.is_null(arg.type) else arg for arg in args]


def _reject(call: Call, args: Sequence[Compiled]) -> Exception:
    texts = [arg for arg in args if is_text(arg.type)]
    hint = cast_hint(args)
    if call.function.name == "+" and texts and len(texts) < len(args):
        other = next(arg for arg in args if arg not in texts)
        hint = f'to join text, cast the other side: {other.node}.cast("string")'
        if pt.is_temporal(other.type):
            hint = 'to move a time, add a timedelta, or use .dt.offset("10s")'
    elif texts:
        hint = f'to compute with text, cast it to a number: {texts[0].node}.cast("double")'
    return mismatch(call, args, f"operator {call.function.name} does not take these types", hint)


def _arithmetic(symbol: str, checked: str, temporal: Callable[[pa.DataType, pa.DataType], bool]) -> Function:
    function = kernel(checked)

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        sides = typed(args)
        kinds = [side.type for side in sides]
        if all(map(is_numeric, kinds)):
            return _numbers(call, function, sides)
        if symbol == "+" and all(map(is_text, kinds)):
            left, right = unify(call, sides)
            return apply(call, lambda x, y: _concat(x, y, pa.scalar("", left.type)), [left, right])
        if temporal(kinds[0], kinds[1]):
            return apply(call, function, _aligned_times(call, sides))
        raise _reject(call, args)

    return Function(symbol, Style.INFIX, rule)


def _aligned_times(call: Call, sides: Sequence[Compiled]) -> list[Compiled]:
    """Two instants or two durations in one unit; other mixes are left to Arrow, which keeps the finer unit."""
    left, right = (side.type for side in sides)
    if pt.is_timestamp(left) and pt.is_timestamp(right) and (left.tz is None) != (right.tz is None):
        raise mismatch(call, sides, "one time has a time zone, the other has none", zone_hint(sides))
    same = any(test(left) and test(right) for test in (pt.is_timestamp, pt.is_duration))
    mixed = any(pt.is_date(a) and pt.is_timestamp(b) for a, b in ((left, right), (right, left)))
    return unify(call, sides) if same or mixed else list(sides)


def _numbers(call: Call, function: Kernel, sides: Sequence[Compiled]) -> Compiled:
    if not any(is_decimal(side.type) for side in sides):
        return apply(call, function, unify(call, sides))
    if any(is_float(side.type) for side in sides):
        return apply(call, function, [convert(side, pa.float64()) for side in sides])
    return _decimals(call, function, [_exact(side) for side in sides])


def _exact(side: Compiled) -> Compiled:
    """An integer as a decimal without a fraction; a constant in as few digits as it has."""
    if not is_integer(side.type):
        return side
    if side.constant is not None:
        return constant(side.node, exact_decimal(side.constant), side.weak)
    return convert(side, pa.decimal128(integer_digits(side.type), 0))


def _decimals(call: Call, function: Kernel, sides: Sequence[Compiled]) -> Compiled:
    """As SQL: a product has the digits of both sides, a sum one more; beyond 38, 76 are used, and 38 must hold it."""
    try:
        function(*(pa.array([], side.type) for side in sides))
    except pa.ArrowInvalid:
        wide = _widened(function, sides)
        made = apply(call, function, wide, _DECIMAL_HINT).type
        narrow = pa.decimal128(38, min(made.scale, 38))
        return apply(call, lambda *values: _round_half_up(function(*values), narrow), wide)
    return apply(call, function, sides)


def _widened(function: Kernel, sides: Sequence[Compiled]) -> list[Compiled]:
    """Both sides with room for 76 digits; where that is one too few, the left one must do with 37."""
    left, right = (pa.decimal256(side.type.precision, side.type.scale) for side in sides)
    try:
        function(pa.array([], left), pa.array([], right))
    except pa.ArrowInvalid:
        left = pa.decimal256(left.precision - 1, left.scale)
    return [convert(side, kind) for side, kind in zip(sides, (left, right), strict=True)]


def _quotient(call: Call, sides: Sequence[Compiled]) -> Compiled:
    """As SQL: with so many digits that none of the divisor's is lost, rounded, halves away from zero.

    One that would have more than 38 digits gives up digits behind the point, down to six. Arrow cuts digits off, so it
    computes one more.
    """
    left, right = (side.type for side in sides)
    scale = max(4, left.scale + right.precision - right.scale + 1)
    precision = left.precision - left.scale + right.scale + scale
    kept = scale if precision <= 38 else max(38 - precision + scale, min(scale, 6))
    kind = pa.decimal128(min(precision, 38), min(kept, 38))
    more = max(kind.scale - right.precision + right.scale, left.scale)
    room = 76 - (more + right.precision + 1)  # what Arrow leaves for digits before the point
    whole = min(left.precision - left.scale, room)
    if whole < 0:
        raise mismatch(call, sides, "the quotient would have too many digits", _DECIMAL_HINT)
    wide = [
        convert(sides[0], pa.decimal256(whole + more, more)),
        convert(sides[1], pa.decimal256(right.precision, right.scale)),
    ]
    divide = kernel("divide_checked")
    return apply(call, lambda *values: _round_half_up(divide(*values), kind), wide)


def _round_half_up(array: pa.Array, kind: pa.DataType) -> pa.Array:
    return pc.round(array, options=pc.RoundOptions(kind.scale, "half_towards_infinity")).cast(kind)


def _true_divide() -> Function:
    divide = kernel("divide")

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        sides = typed(args)
        kinds = [side.type for side in sides]
        if all(map(pt.is_duration, kinds)):
            return apply(call, divide, unify(call, sides))
        if not all(map(is_numeric, kinds)):
            raise _reject(call, args)
        if any(map(is_decimal, kinds)) and not any(map(is_float, kinds)):
            return _quotient(call, [_exact(side) for side in sides])
        common = unify(call, sides)[0].type
        target = pa.float32() if pt.is_float32(common) else pa.float64()
        return apply(call, divide, [convert(side, target) for side in sides])

    return Function("/", Style.INFIX, rule)


def _floor(symbol: str, function: Kernel) -> Function:
    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        sides = typed(args)
        if not all(is_numeric(side.type) for side in sides):
            raise _reject(call, args)
        if any(is_decimal(side.type) for side in sides):
            raise mismatch(call, sides, f"operator {symbol} does not take decimals", "cast to an integer or double")
        return apply(call, function, unify(call, sides))

    return Function(symbol, Style.INFIX, rule)


def _power(call: Call, args: Sequence[Compiled]) -> Compiled:
    sides = typed(args)
    if not all(is_numeric(side.type) for side in sides):
        raise _reject(call, args)
    if all(is_integer(side.type) for side in sides):
        return apply(call, kernel("power_checked"), unify(call, sides))
    return apply(call, kernel("power"), [convert(side, pa.float64()) for side in sides])


def _negate(call: Call, args: Sequence[Compiled]) -> Compiled:
    (side,) = typed(args)
    if not (is_numeric(side.type) or pt.is_duration(side.type)):
        raise _reject(call, args)
    return apply(call, kernel("negate_checked"), [side], "cast to a signed type first")


def _is_instant(kind: pa.DataType) -> bool:
    return any(check(kind) for check in (pt.is_timestamp, pt.is_date))


def _plus_times(left: pa.DataType, right: pa.DataType) -> bool:
    if pt.is_duration(left) and pt.is_duration(right):
        return True
    return any(_is_instant(one) and pt.is_duration(other) for one, other in ((left, right), (right, left)))


def _minus_times(left: pa.DataType, right: pa.DataType) -> bool:
    instants = [_is_instant(kind) for kind in (left, right)]
    return all(instants) or (pt.is_duration(right) and (instants[0] or pt.is_duration(left)))


def _times_times(left: pa.DataType, right: pa.DataType) -> bool:
    return (pt.is_duration(left) and is_integer(right)) or (is_integer(left) and pt.is_duration(right))


ADD = _arithmetic("+", "add_checked", _plus_times)
SUBTRACT = _arithmetic("-", "subtract_checked", _minus_times)
MULTIPLY = _arithmetic("*", "multiply_checked", _times_times)
TRUE_DIVIDE = _true_divide()
FLOOR_DIVIDE = _floor("//", numpy_kernels.floor_divide)
MODULO = _floor("%", numpy_kernels.modulo)
POWER = Function("**", Style.INFIX, _power)
NEGATE = Function("-", Style.PREFIX, _negate)
