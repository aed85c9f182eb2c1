"""Python functions inside of expressions: of one value, or of whole Arrow arrays."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, overload
from typing import Literal as Choice

import numpy as np
import pyarrow as pa

from lakeward.dsl.expressions.compiled import FAILURES, Compiled
from lakeward.dsl.expressions.expr import Constant, Expr, to_node
from lakeward.dsl.expressions.nodes import Call, Function, Style, operand
from lakeward.dsl.expressions.some_rows import broadcast
from lakeward.engine.api.expression import Frame
from lakeward.engine.api.row_types import arrow_type, resolve_annotation
from lakeward.engine.core.errors import GraphError, LakewardError, UserCodeError
from lakeward.engine.core.redaction import FailedRow, short
from lakeward.operators.arguments import call_error, definition
from lakeward.operators.function_names import function_name
from lakeward.operators.rows import column_to_list, list_to_column

Nulls = Choice["skip", "pass"]


class Udf:
    """A Python function that expressions call; made by `udf`.

    >>> import lakeward as lw
    >>> from lakeward.dsl.expressions import col, evaluate
    >>> initials = lw.udf(lambda first, last: first[0] + last[0], returns=str)
    >>> evaluate(initials(col("first"), col("last")), first=["Ann", None], last=["Lee", "Ray"])
    ['AL', None]
    """

    __slots__ = ("__wrapped__", "_function", "type")

    def __init__(self, function: Callable[..., Any], type: pa.DataType, rule: Any, vectorised: bool) -> None:
        self.__wrapped__ = function
        self.type = type
        name = getattr(function, "__name__", "function")
        shown = "udf" if name == "<lambda>" else name
        self._function = Function(shown, Style.FUNCTION, rule, costly=True, row_by_row=not vectorised, users=True)

    def __call__(self, *args: Expr | Constant) -> Expr:
        """The function's result for these columns and constants.

        Raises:
            GraphError: There is no argument, so that no column says for which rows to call it; or the function
                cannot be called with so many.
        """
        if not args:
            raise GraphError(f"{function_name(self.__wrapped__)} is called without a column", hint="give it one")
        _check_count(self.__wrapped__, len(args))
        return Expr(Call(self._function, tuple(to_node(arg) for arg in args)))


@overload
def udf(  # noqa: D418 (its place in the list of public names wants one)
    function: Callable[..., Any], *, returns: Any = None, nulls: Nulls = "skip", vectorised: bool = False
) -> Udf:
    """A call: `lw.udf(function, returns=int)`."""


@overload
def udf(  # noqa: D418
    function: None = None, *, returns: Any = None, nulls: Nulls = "skip", vectorised: bool = False
) -> Callable[[Callable[..., Any]], Udf]:
    """A decorator with arguments: `@lw.udf(returns=int)`."""


def udf(
    function: Callable[..., Any] | None = None,
    *,
    returns: Any = None,
    nulls: Nulls = "skip",
    vectorised: bool = False,
) -> Udf | Callable[[Callable[..., Any]], Udf]:
    """A Python function for use in expressions, as a decorator or a call.

    It is called once for each value: the slow road, marked in `explain()`. With `vectorised=True` it is called once for
    each batch, with Arrow arrays, and returns one: as fast as what it does. Equal calls in one step are made once, and
    inside of `when`, `coalesce`, `&` and `|` only rows that need the result are given to it, so it must depend on
    nothing but its arguments.

    >>> import lakeward as lw
    >>> import pyarrow.compute as pc
    >>> from lakeward.dsl.expressions import col, evaluate
    >>> @lw.udf
    ... def swapped(text: str) -> str:
    ...     return text.swapcase()
    >>> evaluate(swapped(col("a")), a=["aB", None])
    ['Ab', None]
    >>> @lw.udf(returns=float, vectorised=True)
    ... def halved(values):
    ...     return pc.divide(values, 2.0)
    >>> evaluate(halved(col("a")) + 1, a=[3, None])
    [2.5, None]

    Args:
        function: Gets as many arguments as it is called with: Python values (times as `datetime`), or
            `pyarrow.Array`s of equal lengths.
        returns: The type of the result (see `Expr.cast`); not needed where the return annotation says it.
        nulls: Of a function of values: "skip" makes the result null where an argument is, without a call; "pass" gives
            None to the function.
        vectorised: Whether it takes arrays.

    Returns:
        Something to call with expressions: `swapped(col("a"))`.

    Raises:
        GraphError: The result's type is not known, the function is async, or `nulls` is something else.
    """
    if function is None:
        return lambda given: udf(given, returns=returns, nulls=nulls, vectorised=vectorised)
    if not callable(function):
        raise GraphError(f"{function!r} is no function", hint="write lw.udf(function, returns=int)")
    if inspect.iscoroutinefunction(function):
        raise GraphError(f"{function_name(function)} is async", hint="a function in an expression is a plain function")
    if nulls not in ("skip", "pass"):
        raise GraphError(f'nulls is "skip" or "pass", not {nulls!r}')
    kind = _result_type(function, returns, vectorised)
    rule = _vectorised_rule(function, kind) if vectorised else _scalar_rule(function, kind, nulls == "skip")
    return Udf(function, kind, rule, vectorised)


@overload
def vectorised_udf(function: Callable[..., Any], *, returns: Any = None) -> Udf:  # noqa: D418
    """A call: `lw.vectorised_udf(function, returns=int)`."""


@overload
def vectorised_udf(function: None = None, *, returns: Any = None) -> Callable[[Callable[..., Any]], Udf]:  # noqa: D418
    """A decorator: `@lw.vectorised_udf(returns=int)`."""


def vectorised_udf(
    function: Callable[..., Any] | None = None, *, returns: Any = None
) -> Udf | Callable[[Callable[..., Any]], Udf]:
    """A function of whole Arrow arrays for use in expressions: `udf` with `vectorised=True`, a decorator or a call.

    >>> import lakeward as lw
    >>> import pyarrow.compute as pc
    >>> from lakeward.dsl.expressions import col, evaluate
    >>> evaluate(lw.vectorised_udf(pc.utf8_capitalize, returns=str)(col("a")), a=["ann", None])
    ['Ann', None]
    >>> @lw.vectorised_udf(returns=float)
    ... def halved(values):
    ...     return pc.divide(values, 2.0)
    >>> evaluate(halved(col("a")), a=[3, None])
    [1.5, None]

    Args:
        function: Gets a `pyarrow.Array` for each argument; returns an array (or numpy array) of the same length.
        returns: The type of the result's values (see `Expr.cast`); a return annotation says no more than "an array".

    Raises:
        GraphError: The result's type is not known, or the function is async.
    """
    return udf(function, returns=returns, vectorised=True)


def _result_type(function: Callable[..., Any], returns: Any, vectorised: bool) -> pa.DataType:
    where = f"the result of {function_name(function)}"
    hint = returns
    if hint is None and not vectorised:
        plain = inspect.unwrap(function)
        annotation = getattr(plain, "__annotations__", {}).get("return")
        hint = resolve_annotation(annotation, _scope(plain), function_name(function))
    if hint is None:
        call = "lw.vectorised_udf" if vectorised else "lw.udf"
        raise GraphError(f"{where} has no known type", hint=f"say it: {call}(function, returns=int)")
    return arrow_type(hint, where)


def _check_count(function: Callable[..., Any], count: int) -> None:
    """Refuse a call that Python would refuse for every row; functions in C may not say what they take."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*range(count))
    except TypeError as error:
        raise GraphError(
            f"{function_name(function)} cannot be called with {count} argument{'s' if count > 1 else ''}: {error}",
            hint=f"it takes {signature}; give it a column or a constant for each",
        ) from error


def _scope(function: Callable[..., Any]) -> dict[str, Any]:
    """The names that a function's annotations may use."""
    if not inspect.isfunction(function):
        return {}
    return {**function.__globals__, **inspect.getclosurevars(function).nonlocals}


def _scalar_rule(function: Callable[..., Any], kind: pa.DataType, skip: bool) -> Callable[..., Compiled]:
    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        compute = _skipping_nulls if skip else _calls

        def run(frame: Frame) -> pa.Array:
            return compute(_Caller(function, call, kind), [arg.run(frame) for arg in args], frame.batch.num_rows)

        return Compiled(call, kind, run, costly=True)

    return rule


def _as_list(value: Any, rows: int) -> list[Any]:
    """The values of an array or, so many times, of a constant."""
    return column_to_list(value) if isinstance(value, pa.Array) else [value.as_py()] * rows


class _Caller:
    """Calls a function for rows of values, and says which failed.

    Args:
        function: The user's.
        call: For errors.
        kind: The type of the results.
    """

    def __init__(self, function: Callable[..., Any], call: Call, kind: pa.DataType) -> None:
        self.function = function
        self.call = call
        self.kind = kind

    def results(self, values: Sequence[Any], rows: int) -> pa.Array:
        """The results for rows of arrays and constants."""
        lists = [_as_list(value, rows) for value in values]
        found: list[Any] = []
        try:
            found.extend(map(self.function, *lists))  # stops at the row that fails, with all before it kept
        except LakewardError:
            raise
        except Exception as error:
            raise self._failure(error, lists, values, len(found)) from error
        if len(found) < rows:  # the function raised StopIteration, which to `map` is the end of its input
            stopped = self._raised(lists, len(found))
            raise self._failure(stopped, lists, values, len(found)) from stopped
        return self._column(found, lists, values)

    def _raised(self, lists: Sequence[Any], row: int) -> Exception:
        """What the function raises for a row, for which it is called once more: to have where it does."""
        try:
            self.function(*(each[row] for each in lists))
        except Exception as error:
            return error
        return StopIteration()

    def _failure(self, error: Exception, lists: Sequence[Any], values: Sequence[Any], row: int) -> UserCodeError:
        hint = "handle such values in the function, or choose the rows it is called for with when(...).then(...)"
        failure = call_error(self.function, error, hint=hint)
        failure.rows = self._operands(lists, values, row)
        return failure

    def _operands(self, lists: Sequence[Any], values: Sequence[Any], row: int) -> tuple[FailedRow, ...]:
        """What the function was called with, for errors; constants alone are of no row, and stand in the job."""
        pairs = zip(self.call.args, lists, values, strict=True)
        shown = {operand(arg): each[row] for arg, each, value in pairs if isinstance(value, pa.Array)}
        return (FailedRow(shown, row, "for", operands=True),) if shown else ()

    def _column(self, results: list[Any], lists: Sequence[Any], values: Sequence[Any]) -> pa.Array:
        try:
            return list_to_column(results, self.kind)
        except (pa.ArrowException, TypeError, OverflowError, ValueError) as error:
            row = next(row for row, result in enumerate(results) if not self._fits(result))
            raise UserCodeError(
                f"{function_name(self.function)} returned {short(results[row])}, which is no {self.kind}: {error}",
                hint="return such values, or say what it returns: lw.udf(function, returns=...)",
                rows=self._operands(lists, values, row),
                trace=definition(self.function),
            ) from error

    def _fits(self, result: Any) -> bool:
        try:
            list_to_column([result], self.kind)
        except (pa.ArrowException, TypeError, OverflowError, ValueError):
            return False
        return True


def _calls(caller: _Caller, values: Sequence[Any], rows: int) -> pa.Array:
    return caller.results(values, rows)


def _skipping_nulls(caller: _Caller, values: Sequence[Any], rows: int) -> pa.Array:
    if any(isinstance(value, pa.Scalar) and not value.is_valid for value in values):
        return pa.nulls(rows, caller.kind)
    valid = np.ones(rows, dtype=np.bool_)
    for value in values:
        if isinstance(value, pa.Array) and value.null_count:
            valid &= value.is_valid().to_numpy(zero_copy_only=False)
    if valid.all():
        return caller.results(values, rows)
    chosen = pa.array(valid)
    some = [value.filter(chosen) if isinstance(value, pa.Array) else value for value in values]
    try:
        found = caller.results(some, int(valid.sum()))
    except FAILURES as error:
        places = np.flatnonzero(valid)
        error.place_rows(lambda row: int(places[row]))
        raise
    return found.take(pa.array(np.cumsum(valid) - 1, mask=~valid))


def _vectorised_rule(function: Callable[..., Any], kind: pa.DataType) -> Callable[..., Compiled]:
    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        def run(frame: Frame) -> pa.Array:
            rows = frame.batch.num_rows
            arrays = [broadcast(arg.run(frame), rows) for arg in args]
            try:
                found = function(*arrays)
            except LakewardError:
                raise
            except Exception as error:
                raise call_error(function, error, f"arrays of {rows} values") from error
            return _checked(found, kind, rows, function)

        return Compiled(call, kind, run, costly=True)

    return rule


def _checked(found: Any, kind: pa.DataType, rows: int, function: Callable[..., Any]) -> pa.Array:
    """What a function of arrays returned, as an array of the promised type and length."""
    name = function_name(function)
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    if isinstance(found, np.ndarray):
        found = pa.array(found)
    if not isinstance(found, pa.Array):
        hint = "a vectorised function returns a pyarrow.Array or a numpy array"
        raise UserCodeError(f"{name} returned {short(found)}", hint=hint)
    if len(found) != rows:
        raise UserCodeError(f"{name} returned {len(found)} values for {rows} rows", hint="return one value a row")
    if found.type.equals(kind):
        return found
    try:
        return found.cast(kind)
    except pa.ArrowException as error:
        raise UserCodeError(f"{name} returned {found.type}, not {kind}: {error}") from error
