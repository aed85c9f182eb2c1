"""Rules of arithmetic, comparison and logic."""

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
from lakeward.dsl.expressions.nodes import Call, Function, IsIn, Node, Style
from lakeward.dsl.expressions.types import (
    INTEGER_DIGITS,
    exact_decimal,
    is_decimal,
    is_float,
    is_integer,
    is_numeric,
    is_text,
)

Rule = Callable[[Call, Sequence[Compiled]], Compiled]

_concat = kernel("binary_join_element_wise", pc.JoinOptions("emit_null"))
_DECIMAL_HINT = "cast a side to a decimal of lower precision, or to double"


def _typed(args: Sequence[Compiled]) -> list[Compiled]:
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
        sides = _typed(args)
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
        raise mismatch(call, sides, "one time has a time zone, the other has none", _zone_hint(sides))
    same = any(test(left) and test(right) for test in (pt.is_timestamp, pt.is_duration))
    mixed = any(pt.is_date(a) and pt.is_timestamp(b) for a, b in ((left, right), (right, left)))
    return unify(call, sides) if same or mixed else list(sides)


def _zone_hint(sides: Sequence[Compiled]) -> str:
    naive = next((side for side in sides if pt.is_timestamp(side.type) and side.type.tz is None), sides[0])
    if naive.constant is not None:
        return "give the datetime a time zone: datetime(..., tzinfo=UTC)"
    return f'say that it is in UTC: {naive.node}.cast("timestamp")'


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
    return convert(side, pa.decimal128(INTEGER_DIGITS[side.type.bit_width], 0))


def _decimals(call: Call, function: Kernel, sides: Sequence[Compiled]) -> Compiled:
    """As Arrow; a result beyond 38 digits is computed in 76 and must fit 38 again."""
    try:
        function(*(pa.array([], side.type) for side in sides))
    except pa.ArrowInvalid:
        wide = [convert(side, pa.decimal256(side.type.precision, side.type.scale)) for side in sides]
        result = apply(call, function, wide, _DECIMAL_HINT)
        narrow = pa.decimal128(38, min(result.type.scale, 38))
        return apply(call, lambda *values: function(*values).cast(narrow), wide)
    return apply(call, function, sides)


def _true_divide() -> Function:
    divide, checked = kernel("divide"), kernel("divide_checked")

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        sides = _typed(args)
        kinds = [side.type for side in sides]
        if all(map(pt.is_duration, kinds)):
            return apply(call, divide, unify(call, sides))
        if not all(map(is_numeric, kinds)):
            raise _reject(call, args)
        if any(map(is_decimal, kinds)) and not any(map(is_float, kinds)):
            return _decimals(call, checked, [_exact(side) for side in sides])
        common = unify(call, sides)[0].type
        target = pa.float32() if pt.is_float32(common) else pa.float64()
        return apply(call, divide, [convert(side, target) for side in sides])

    return Function("/", Style.INFIX, rule)


def _floor(symbol: str, function: Kernel) -> Function:
    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        sides = _typed(args)
        if not all(is_numeric(side.type) for side in sides):
            raise _reject(call, args)
        if any(is_decimal(side.type) for side in sides):
            raise mismatch(call, sides, f"operator {symbol} does not take decimals", "cast to an integer or double")
        return apply(call, function, unify(call, sides))

    return Function(symbol, Style.INFIX, rule)


def _power(call: Call, args: Sequence[Compiled]) -> Compiled:
    sides = _typed(args)
    if not all(is_numeric(side.type) for side in sides):
        raise _reject(call, args)
    if all(is_integer(side.type) for side in sides):
        return apply(call, kernel("power_checked"), unify(call, sides))
    return apply(call, kernel("power"), [convert(side, pa.float64()) for side in sides])


def _negate(call: Call, args: Sequence[Compiled]) -> Compiled:
    (side,) = _typed(args)
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


def _comparable(call: Node, args: Sequence[Compiled]) -> list[Compiled]:
    for arg in args:
        if arg.weak and arg.constant is not None and not arg.constant.is_valid:
            other = next((each for each in args if each is not arg), arg)
            raise mismatch(call, args, "a comparison with None is never true", f"use {other.node}.is_null()")
    if any(pt.is_timestamp(arg.type) for arg in args):
        zones = {arg.type.tz is None for arg in args if pt.is_timestamp(arg.type)}
        if len(zones) == 2:
            raise mismatch(call, args, "one time has a time zone, the other has none", _zone_hint(args))
        if any(is_text(arg.type) for arg in args):
            hint = 'compare with a datetime, or with lit("2024-01-01").cast("timestamp")'
            raise mismatch(call, args, "a time cannot be compared with text", hint)
    return unify(call, args, cast_hint(args))


def _comparison(symbol: str, name: str) -> Function:
    function = kernel(name)
    return Function(symbol, Style.INFIX, lambda call, args: apply(call, function, _comparable(call, args)))


EQUAL = _comparison("==", "equal")
NOT_EQUAL = _comparison("!=", "not_equal")
LESS = _comparison("<", "less")
LESS_EQUAL = _comparison("<=", "less_equal")
GREATER = _comparison(">", "greater")
GREATER_EQUAL = _comparison(">=", "greater_equal")


def _between(call: Call, args: Sequence[Compiled]) -> Compiled:
    above, below, both = kernel("greater_equal"), kernel("less_equal"), kernel("and_kleene")
    return apply(call, lambda x, low, high: both(above(x, low), below(x, high)), _comparable(call, args))


BETWEEN = Function("between", Style.METHOD, _between)


def booleans(call: Node, args: Sequence[Compiled]) -> list[Compiled]:
    """The arguments, which must be conditions.

    Raises:
        SchemaError: One is something else.
    """
    for arg in args:
        if not (pt.is_boolean(arg.type) or pt.is_null(arg.type)):
            raise mismatch(call, args, f"{arg.node} is no condition", f"compare it: {arg.node} != 0, or .is_not_null()")
    return [convert(arg, pa.bool_()) for arg in args]


def _logic(symbol: str, name: str, style: Style = Style.INFIX) -> Function:
    function = kernel(name)
    return Function(symbol, style, lambda call, args: apply(call, function, booleans(call, args)))


AND = _logic("&", "and_kleene")
OR = _logic("|", "or_kleene")
XOR = _logic("^", "xor")
NOT = _logic("~", "invert", Style.PREFIX)


def compile_is_in(node: IsIn, operand: Compiled, values: Sequence[Compiled]) -> Compiled:
    """Membership in a list of constants, looked up in a hash table; null where the operand is."""
    subject, *members = _comparable(node, [operand, *values]) if values else [operand]
    chosen = [member.constant.as_py() for member in members if member.constant is not None]
    lookup = kernel("is_in", pc.SetLookupOptions(pa.array(chosen, subject.type)))

    def function(array: pa.Array) -> pa.Array:
        found = lookup(array)
        return pc.if_else(array.is_valid(), found, pa.scalar(None, pa.bool_())) if array.null_count else found

    return apply(node, function, [subject])


def _method(name: str, function: str, only: Callable[[pa.DataType], bool], what: str) -> Function:
    call_kernel = kernel(function)

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        (arg,) = _typed(args)
        if not only(arg.type):
            raise mismatch(call, args, f"{name}() takes {what}", f'cast first: {arg.node}.cast("double")')
        return apply(call, call_kernel, [arg])

    return Function(name, Style.METHOD, rule)


def _rounding(name: str) -> Function:
    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        (arg,) = _typed(args)
        if not is_numeric(arg.type):
            raise mismatch(call, args, f"{name}() takes numbers", f'cast first: {arg.node}.cast("double")')
        if is_integer(arg.type) and name != "round":
            return arg
        digits = pc.RoundOptions(call.params[0] if call.params else 0, "half_to_even")
        return apply(call, kernel(name, digits if name == "round" else None), [arg])

    return Function(name, Style.METHOD, rule)


def _absolute_type(kind: pa.DataType) -> bool:
    return is_numeric(kind) or bool(pt.is_duration(kind))


ABS = _method("abs", "abs_checked", _absolute_type, "numbers and durations")
SQRT = _method("sqrt", "sqrt", is_numeric, "numbers")
EXP = _method("exp", "exp", is_numeric, "numbers")
LN = _method("ln", "ln", is_numeric, "numbers")
LOG10 = _method("log10", "log10", is_numeric, "numbers")
IS_NAN = _method("is_nan", "is_nan", is_numeric, "numbers")
ROUND, FLOOR, CEIL = _rounding("round"), _rounding("floor"), _rounding("ceil")
