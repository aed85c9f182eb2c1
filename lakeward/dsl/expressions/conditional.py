"""Rules that choose between values: when/then/otherwise, coalesce, greatest, least, null tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.arithmetic import booleans
from lakeward.dsl.expressions.compiled import Compiled, Run, apply, constant, kernel, unify
from lakeward.dsl.expressions.nodes import Call, Case, Function, Node, Style
from lakeward.engine.core.errors import UserCodeError

Mask = npt.NDArray[np.bool_]

_if_else = kernel("if_else")
_case_when = kernel("case_when")
_coalesce = kernel("coalesce")


def broadcast(value: Any, rows: int) -> pa.Array:
    """A result as an array, also when it is a constant."""
    if isinstance(value, pa.Scalar):
        return pa.repeat(value, rows) if value.is_valid and rows else pa.nulls(rows, value.type)
    return value


def compile_case(node: Case, conditions: Sequence[Compiled], values: Sequence[Compiled]) -> Compiled:
    """The value of the first true condition; one value more than conditions, the last for the other rows.

    All branches are computed for all rows, which is fastest. Where that fails for a row, as `a // b` does for zeros in
    `when(b != 0).then(a // b)`, the batch is computed again with each branch seeing only its own rows.
    """
    tests = booleans(node, conditions)
    results = unify(node, values)
    if all(part.constant is not None for part in [*tests, *results]):
        return _constant_case(node, tests, results)
    fast = _one_branch(tests[0], results) if len(tests) == 1 else _many_branches(tests, results)
    return Compiled(node, results[0].type, _careful(fast, [test.run for test in tests], [each.run for each in results]))


def _constant_case(node: Case, tests: Sequence[Compiled], results: Sequence[Compiled]) -> Compiled:
    for test, result in zip(tests, results, strict=False):
        if test.constant is not None and test.constant.as_py():
            return replace(result, node=node)
    return replace(results[-1], node=node)


def _one_branch(test: Compiled, results: Sequence[Compiled]) -> Run:
    condition, chosen, other = test.run, results[0].run, results[1].run

    def run(batch: pa.RecordBatch) -> Any:
        mask = broadcast(condition(batch), batch.num_rows)
        if mask.null_count:
            mask = mask.fill_null(False)
        return _if_else(mask, chosen(batch), other(batch))

    return run


def _many_branches(tests: Sequence[Compiled], results: Sequence[Compiled]) -> Run:
    conditions, values = [test.run for test in tests], [result.run for result in results]
    names = [str(index) for index in range(len(tests))]

    def run(batch: pa.RecordBatch) -> Any:
        masks = [broadcast(condition(batch), batch.num_rows) for condition in conditions]
        return _case_when(pc.make_struct(*masks, field_names=names), *(value(batch) for value in values))

    return run


def _careful(fast: Run, conditions: Sequence[Run], values: Sequence[Run]) -> Run:
    """The fast way, or, when a row fails in a branch that it does not take, one branch after the other."""

    def run(batch: pa.RecordBatch) -> Any:
        try:
            return fast(batch)
        except UserCodeError:
            return _by_rows(batch, conditions, values)

    return run


def _by_rows(batch: pa.RecordBatch, conditions: Sequence[Run], values: Sequence[Run]) -> pa.Array:
    undecided = np.arange(batch.num_rows)
    parts: list[pa.Array] = []
    places: list[npt.NDArray[np.int64]] = []
    for condition, value in zip([*conditions, None], values, strict=True):
        rows = batch.take(pa.array(undecided))
        chosen = _true_rows(pa.scalar(True) if condition is None else condition(rows), rows.num_rows)
        taken = batch.take(pa.array(undecided[chosen]))
        parts.append(broadcast(value(taken), taken.num_rows))
        places.append(undecided[chosen])
        undecided = undecided[~chosen]
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_arrays(parts).take(pa.array(order))


def _true_rows(condition: Any, rows: int) -> Mask:
    return np.asarray(broadcast(condition, rows).fill_null(False).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _first_valid(call: Call, args: Sequence[Compiled]) -> Compiled:
    """As SQL: a later value is asked for only where all earlier ones are null."""
    values = unify(call, args)
    if any(value.constant is not None for value in values[:1]):
        return apply(call, _coalesce, values)
    runs = [value.run for value in values]
    fast: Run = lambda batch: _coalesce(*(run(batch) for run in runs))  # noqa: E731
    return Compiled(call, values[0].type, lambda batch: _fill(batch, fast, values))


def _fill(batch: pa.RecordBatch, fast: Run, values: Sequence[Compiled]) -> Any:
    try:
        return fast(batch)
    except UserCodeError:
        result = broadcast(values[0].run(batch), batch.num_rows)
        for value in values[1:]:
            missing = np.flatnonzero(result.is_null().to_numpy(zero_copy_only=False))
            part = broadcast(value.run(batch.take(pa.array(missing))), len(missing))
            source = np.arange(len(result))
            source[missing] = len(result) + np.arange(len(missing))
            result = pa.concat_arrays([result, part]).take(pa.array(source))
        return result


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


IS_NULL = _null_test("is_null", "is_null")
IS_NOT_NULL = _null_test("is_not_null", "is_valid")
FILL_NULL = Function("fill_null", Style.METHOD, _first_valid)
COALESCE = Function("coalesce", Style.FUNCTION, _first_valid)
GREATEST = _extreme("greatest", "max_element_wise")
LEAST = _extreme("least", "min_element_wise")
NULL_IF = Function("null_if", Style.METHOD, _null_if)
