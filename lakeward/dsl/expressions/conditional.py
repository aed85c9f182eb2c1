"""Rules that choose between values: when/then/otherwise, coalesce, greatest, least, null tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.compiled import Compiled, Run, apply, constant, kernel, unify
from lakeward.dsl.expressions.logic import booleans
from lakeward.dsl.expressions.nodes import Call, Case, Function, Node, Style
from lakeward.dsl.expressions.some_rows import broadcast, fallback, merged, on_rows, true_rows
from lakeward.engine.api.expression import Frame

_if_else = kernel("if_else")
_case_when = kernel("case_when")
_coalesce = kernel("coalesce")


def compile_case(node: Case, conditions: Sequence[Compiled], values: Sequence[Compiled]) -> Compiled:
    """The value of the first true condition; one value more than conditions, the last for the other rows.

    All branches are computed for all rows, which is fastest, unless one is costly: then each sees only its own rows.
    The same way is taken where computing all fails, as `a // b` does for zeros in `when(b != 0).then(a // b)`.
    """
    tests = booleans(node, conditions)
    results = unify(node, values)
    if all(part.constant is not None for part in [*tests, *results]):
        return _constant_case(node, tests, results)
    fast = _one_branch(tests[0], results) if len(tests) == 1 else _many_branches(tests, results)
    chosen = _by_branch([test.run for test in tests], results)
    careful = fallback(chosen, _by_rows(tests, results))
    run = careful if any(each.costly for each in results) else fallback(fast, careful)
    return Compiled(node, results[0].type, run, costly=any(part.costly for part in [*tests, *results]))


def _constant_case(node: Case, tests: Sequence[Compiled], results: Sequence[Compiled]) -> Compiled:
    for test, result in zip(tests, results, strict=False):
        if test.constant is not None and test.constant.as_py():
            return replace(result, node=node)
    return replace(results[-1], node=node)


def _one_branch(test: Compiled, results: Sequence[Compiled]) -> Run:
    condition, chosen, other = test.run, results[0].run, results[1].run

    def run(frame: Frame) -> Any:
        mask = broadcast(condition(frame), frame.batch.num_rows)
        if mask.null_count:
            mask = mask.fill_null(False)
        return _if_else(mask, chosen(frame), other(frame))

    return run


def _many_branches(tests: Sequence[Compiled], results: Sequence[Compiled]) -> Run:
    conditions, values = [test.run for test in tests], [result.run for result in results]
    names = [str(index) for index in range(len(tests))]

    def run(frame: Frame) -> Any:
        masks = [broadcast(condition(frame), frame.batch.num_rows) for condition in conditions]
        return _case_when(pc.make_struct(*masks, field_names=names), *(value(frame) for value in values))

    return run


def _by_branch(conditions: Sequence[Run], values: Sequence[Compiled]) -> Run:
    """All conditions for all rows, then each value for the rows that take it."""
    choose = [on_rows(value) for value in values]

    def run(frame: Frame) -> Any:
        rows = frame.batch.num_rows
        branch = np.full(rows, len(conditions), dtype=np.int32)
        for number in reversed(range(len(conditions))):
            branch[true_rows(conditions[number](frame), rows)] = number
        places = [np.flatnonzero(branch == number) for number in range(len(values))]
        return merged([each(frame, where) for each, where in zip(choose, places, strict=True)], places)

    return run


def _by_rows(conditions: Sequence[Compiled], values: Sequence[Compiled]) -> Run:
    """Conditions and values one after the other, each for the rows that are left over by the earlier ones."""
    tests, choose = [on_rows(condition) for condition in conditions], [on_rows(value) for value in values]

    def run(frame: Frame) -> Any:
        undecided = np.arange(frame.batch.num_rows)
        parts, places = [], []
        for test, value in zip(tests, choose, strict=False):
            chosen = true_rows(test(frame, undecided), len(undecided))
            parts.append(value(frame, undecided[chosen]))
            places.append(undecided[chosen])
            undecided = undecided[~chosen]
        return merged([*parts, choose[-1](frame, undecided)], [*places, undecided])

    return run


def _first_valid(call: Call, args: Sequence[Compiled]) -> Compiled:
    """As SQL: a later value is asked for only where all earlier ones are null."""
    values = unify(call, args)
    if values[0].constant is not None:
        return values[0] if values[0].constant.is_valid else apply(call, _coalesce, values)
    runs = [value.run for value in values]
    fast: Run = lambda frame: _coalesce(*(run(frame) for run in runs))  # noqa: E731
    careful = _filling(values)
    run = careful if any(value.costly for value in values[1:]) else fallback(fast, careful)
    return Compiled(call, values[0].type, run, costly=any(value.costly for value in values))


def _filling(values: Sequence[Compiled]) -> Run:
    first, later = values[0].run, [on_rows(value) for value in values[1:]]

    def run(frame: Frame) -> Any:
        result = broadcast(first(frame), frame.batch.num_rows)
        for value in later:
            if result.null_count == 0:
                break
            missing = np.flatnonzero(result.is_null().to_numpy(zero_copy_only=False))
            present = np.flatnonzero(result.is_valid().to_numpy(zero_copy_only=False))
            result = merged([result.take(pa.array(present)), value(frame, missing)], [present, missing])
        return result

    return run


def _extreme(name: str, function: str) -> Function:
    choose = kernel(function, pc.ElementWiseAggregateOptions(skip_nulls=True))
    return Function(name, Style.FUNCTION, lambda call, args: apply(call, choose, unify(call, args)))


def _null_if(call: Call, args: Sequence[Compiled]) -> Compiled:
    subject, unwanted = unify(call, args)
    same, equal = subject.type, kernel("equal")
    nothing = pa.scalar(None, same)

    def function(value: Any, other: Any) -> Any:
        return _if_else(pc.fill_null(equal(value, other), False), nothing, value)

    return apply(call, function, [subject, unwanted])


def _null_test(name: str, function: str) -> Function:
    test = kernel(function, pc.NullOptions(nan_is_null=False) if function == "is_null" else None)
    return Function(name, Style.METHOD, lambda call, args: apply(call, test, args))


def null_case(node: Node) -> Compiled:
    """The missing `otherwise`."""
    return constant(node, pa.scalar(None), True)


def _null_safe(name: str, negated: bool) -> Function:
    """Equality in which null equals null: never null itself."""
    equal, same_null, both_null = kernel("equal"), kernel("is_null"), kernel("and")

    def function(left: Any, right: Any) -> Any:
        same = pc.fill_null(equal(left, right), False)
        same = pc.or_(same, both_null(same_null(left), same_null(right)))
        return pc.invert(same) if negated else same

    return Function(name, Style.METHOD, lambda call, args: apply(call, function, unify(call, args)))


EQ_MISSING, NE_MISSING = _null_safe("eq_missing", False), _null_safe("ne_missing", True)
IS_NULL = _null_test("is_null", "is_null")
IS_NOT_NULL = _null_test("is_not_null", "is_valid")
FILL_NULL = Function("fill_null", Style.METHOD, _first_valid)
COALESCE = Function("coalesce", Style.FUNCTION, _first_valid)
GREATEST = _extreme("greatest", "max_element_wise")
LEAST = _extreme("least", "min_element_wise")
NULL_IF = Function("null_if", Style.METHOD, _null_if)
