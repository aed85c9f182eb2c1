"""Rules of functions of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pt

from lakeward.dsl.expressions.arithmetic import typed
from lakeward.dsl.expressions.casts import cast_kernel
from lakeward.dsl.expressions.compiled import Compiled, Kernel, apply, convert, kernel, mismatch, unify
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.types import is_decimal, is_float, is_integer, is_numeric
from lakeward.engine.core.errors import GraphError

ROUNDING = {"half_even": "half_to_even", "half_up": "half_towards_infinity"}
"""How halves are rounded: to the even neighbour (Python, IEEE 754) or away from zero (SQL)."""


def _checked(
    call: Call, args: Sequence[Compiled], only: Callable[[pa.DataType], bool], what: str, target: str
) -> list[Compiled]:
    """The arguments, all of which must be of a kind."""
    sides = typed(args)
    wrong = next((side for side in sides if not only(side.type)), None)
    if wrong is not None:
        hint = f'cast first: {wrong.node}.cast("{target}")'
        raise mismatch(call, args, f"{call.function.name}() takes {what}", hint)
    return sides


def _method(
    name: str, function: str, only: Callable[[pa.DataType], bool] = is_numeric, what: str = "numbers"
) -> Function:
    """A function of one number, by one kernel."""
    compute = kernel(function)
    return Function(
        name, Style.METHOD, lambda call, args: apply(call, compute, _checked(call, args, only, what, "double"))
    )


def _of_doubles(name: str, function: str) -> Function:
    """A function of several floating-point numbers."""
    compute = kernel(function)

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        sides = _checked(call, args, is_numeric, "numbers", "double")
        return apply(call, compute, [convert(side, pa.float64()) for side in sides])

    return Function(name, Style.METHOD, rule)


def _bits(name: str, function: str) -> Function:
    compute = kernel(function)

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        return apply(call, compute, unify(call, _checked(call, args, is_integer, "integers", "int64")))

    return Function(name, Style.METHOD, rule)


def _whole(name: str) -> Function:
    compute = kernel(name)

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        (side,) = _checked(call, args, is_numeric, "numbers", "double")
        return side if is_integer(side.type) else apply(call, _rounding(compute, side.type), [side])

    return Function(name, Style.METHOD, rule)


def _rounding(compute: Kernel, kind: pa.DataType) -> Kernel:
    """Decimals are rounded in one digit more, which 9.99 needs to become 10.00: Arrow makes 0.00 of it, unsaid."""
    if not is_decimal(kind):
        return compute
    wide = pa.decimal128 if kind.precision < 38 else pa.decimal256
    widen, narrow = (cast_kernel(*pair) for pair in pairwise((kind, wide(kind.precision + 1, kind.scale), kind)))
    return lambda array: narrow(compute(widen(array)))


def _round(call: Call, args: Sequence[Compiled]) -> Compiled:
    digits, mode = call.params or (0, None)
    if mode is not None and mode not in ROUNDING:
        raise GraphError(f"round: no mode {mode!r}", hint='use "half_even" or "half_up"')
    options = pc.RoundOptions(digits, ROUNDING[mode or "half_even"])
    sides = _checked(call, args, is_numeric, "numbers", "double")
    return apply(call, _rounding(kernel("round", options), sides[0].type), sides)


def _sign(call: Call, args: Sequence[Compiled]) -> Compiled:
    (side,) = _checked(call, args, is_numeric, "numbers", "double")
    sign, same = kernel("sign"), kernel("cast", pc.CastOptions(side.type))
    return apply(call, lambda array: same(sign(array)), [side])


def _clip(call: Call, args: Sequence[Compiled]) -> Compiled:
    """Between two bounds; a bound that is written as None is none."""
    options = pc.ElementWiseAggregateOptions(skip_nulls=False)
    side, low, high = unify(call, args)
    if low.constant is None or low.constant.is_valid:
        side = apply(call, kernel("max_element_wise", options), [side, low])
    if high.constant is None or high.constant.is_valid:
        side = apply(call, kernel("min_element_wise", options), [side, high])
    return side


def _fill_nan(call: Call, args: Sequence[Compiled]) -> Compiled:
    side, value = unify(call, args)
    if not is_float(side.type):
        raise mismatch(call, args, "fill_nan() takes floating-point numbers", "for null there is .fill_null()")
    return apply(call, lambda array, other: pc.if_else(pc.is_nan(array), other, array), [side, value])


def _absolute(kind: pa.DataType) -> bool:
    return is_numeric(kind) or bool(pt.is_duration(kind))


ABS = _method("abs", "abs_checked", _absolute, "numbers and durations")
SIGN = Function("sign", Style.METHOD, _sign)
SQRT = _method("sqrt", "sqrt")
EXP = _method("exp", "exp")
LN = _method("ln", "ln")
LOG2 = _method("log2", "log2")
LOG10 = _method("log10", "log10")
LOG = _of_doubles("log", "logb")
SIN, COS, TAN = _method("sin", "sin"), _method("cos", "cos"), _method("tan", "tan")
ASIN, ACOS, ATAN = _method("asin", "asin"), _method("acos", "acos"), _method("atan", "atan")
ATAN2 = _of_doubles("atan2", "atan2")
IS_NAN = _method("is_nan", "is_nan")
IS_FINITE = _method("is_finite", "is_finite")
FILL_NAN = Function("fill_nan", Style.METHOD, _fill_nan)
ROUND = Function("round", Style.METHOD, _round, keywords=("mode",))
FLOOR, CEIL, TRUNC = _whole("floor"), _whole("ceil"), _whole("trunc")
CLIP = Function("clip", Style.METHOD, _clip)
BIT_AND, BIT_OR = _bits("bit_and", "bit_wise_and"), _bits("bit_or", "bit_wise_or")
BIT_XOR, BIT_NOT = _bits("bit_xor", "bit_wise_xor"), _bits("bit_not", "bit_wise_not")
SHIFT_LEFT, SHIFT_RIGHT = _bits("shift_left", "shift_left_checked"), _bits("shift_right", "shift_right_checked")
