"""Rules of comparison and logic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pt

from lakeward.dsl.expressions.compiled import (
    Compiled,
    apply,
    cast_hint,
    convert,
    kernel,
    mismatch,
    unify,
)
from lakeward.dsl.expressions.nodes import Call, Function, IsIn, Node, Style
from lakeward.dsl.expressions.some_rows import broadcast, merged, on_rows, true_rows
from lakeward.dsl.expressions.types import is_text
from lakeward.engine.api.expression import Frame


def zone_hint(sides: Sequence[Compiled]) -> str:
    """What to do where a time has no zone and another has one."""
    naive = next((side for side in sides if pt.is_timestamp(side.type) and side.type.tz is None), sides[0])
    if naive.constant is not None:
        return "give the datetime a time zone: datetime(..., tzinfo=UTC)"
    return f'say that it is in UTC: {naive.node}.cast("timestamp")'


def _comparable(call: Node, args: Sequence[Compiled]) -> list[Compiled]:
    for arg in args:
        if arg.weak and arg.constant is not None and not arg.constant.is_valid:
            other = next((each for each in args if each is not arg), arg)
            raise mismatch(call, args, "a comparison with None is never true", f"use {other.node}.is_null()")
    if any(pt.is_timestamp(arg.type) for arg in args):
        zones = {arg.type.tz is None for arg in args if pt.is_timestamp(arg.type)}
        if len(zones) == 2:
            raise mismatch(call, args, "one time has a time zone, the other has none", zone_hint(args))
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


CLOSED = {
    "both": ("greater_equal", "less_equal"),
    "left": ("greater_equal", "less"),
    "right": ("greater", "less_equal"),
    "none": ("greater", "less"),
}
"""The comparisons of an interval with its bounds."""


def _between(call: Call, args: Sequence[Compiled]) -> Compiled:
    (closed,) = call.params or ("both",)
    above, below = map(kernel, CLOSED[closed])
    both = kernel("and_kleene")
    return apply(call, lambda x, low, high: both(above(x, low), below(x, high)), _comparable(call, args))


BETWEEN = Function("between", Style.METHOD, _between, keywords=("closed",))


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


def _short_circuit(symbol: str, name: str, decides: bool) -> Function:
    """And, or: a costly side is computed only for the rows that the other one does not decide."""
    function = kernel(name)

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        cheap, costly = sorted(booleans(call, args), key=lambda side: side.costly)
        plain = apply(call, function, [cheap, costly])
        if cheap.costly or not costly.costly or plain.constant is not None:
            return plain
        first, second, decided = cheap.run, on_rows(costly), pa.scalar(decides)

        def run(frame: Frame) -> Any:
            known = broadcast(first(frame), frame.batch.num_rows)
            done = true_rows(known if decides else pc.invert(known), len(known))
            rest, rows = np.flatnonzero(~done), np.flatnonzero(done)
            return function(known, merged([second(frame, rest), broadcast(decided, len(rows))], [rest, rows]))

        return replace(plain, run=run)

    return Function(symbol, Style.INFIX, rule)


AND = _short_circuit("&", "and_kleene", decides=False)
OR = _short_circuit("|", "or_kleene", decides=True)
XOR = _logic("^", "xor")
NOT = _logic("~", "invert", Style.PREFIX)


def compile_is_in(node: IsIn, operand: Compiled, values: Sequence[Compiled]) -> Compiled:
    """Membership in a list of constants, looked up in a hash table; null where the operand is."""
    subject, *members = _comparable(node, [operand, *values]) if values else [operand]
    chosen = [member.constant.as_py() for member in members if member.constant is not None]
    if pt.is_floating(subject.type) and 0.0 in chosen:
        chosen += [0.0, -0.0]  # one number, but two entries of a hash table
    lookup = kernel("is_in", pc.SetLookupOptions(pa.array(chosen, subject.type)))
    nan = any(value != value for value in chosen)

    def function(array: pa.Array) -> pa.Array:
        found = lookup(array)
        if nan:  # a hash table has one entry for each of the many bit patterns
            found = pc.or_(found, pc.fill_null(pc.is_nan(array), False))
        return pc.if_else(array.is_valid(), found, pa.scalar(None, pa.bool_())) if array.null_count else found

    return apply(node, function, [subject])
