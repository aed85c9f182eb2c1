"""The function that `map_async` calls: what it takes, what it answers, and how it is called and complained about."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from lakeward.engine.api.calls import Work
from lakeward.engine.core.errors import GraphError, LakewardError, UserCodeError
from lakeward.engine.core.redaction import FailedRow
from lakeward.engine.core.user_frames import user_trace
from lakeward.operators.arguments import ROW_HINT, call_error, calls_of, definition
from lakeward.operators.async_options import AsyncFunction
from lakeward.operators.async_queue import Values
from lakeward.operators.function_names import function_name, plain_function
from lakeward.operators.signatures import ElementView, arguments_of


def invoked(function: Callable[..., Any] | AsyncFunction) -> Callable[..., Any]:
    """What is called for a row: the function, or the method `invoke`."""
    return function.invoke if isinstance(function, AsyncFunction) else function


def own_copy(function: Callable[..., Any] | AsyncFunction) -> Callable[..., Any] | AsyncFunction:
    """The function for one subtask."""
    return copy.copy(function) if isinstance(function, AsyncFunction) else function


def has_timeout(function: Callable[..., Any] | AsyncFunction) -> bool:
    """Whether a class says itself what becomes of rows without an answer in time."""
    return isinstance(function, AsyncFunction) and type(function).timeout is not AsyncFunction.timeout


def is_coroutine(function: Callable[..., Any]) -> bool:
    """Whether a function is an `async def`."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(plain_function(function))


class Target:
    """A function with the way to call it.

    >>> async def double(a):
    ...     return {"a": 2 * a}
    >>> batch = pa.record_batch({"a": [1, 2]})
    >>> target = Target(double, batch.schema, ("a",), in_lists=False)
    >>> [target.row([values]).value for values in target.values(batch)]
    [{'a': 1}, {'a': 2}]

    Args:
        function: Called for one row, or for a list of them.
        schema: The schema of the rows it gets.
        columns: The columns whose values it gets; None: as its signature says.
        in_lists: Whether each argument is a list with an element a row, and the answer is one, too.

    Raises:
        SchemaError: Its parameters do not fit the input.
        GraphError: It cannot be called so, or an annotation cannot be resolved.
    """

    def __init__(
        self, function: Callable[..., Any], schema: pa.Schema, columns: Sequence[str] | None, *, in_lists: bool
    ) -> None:
        if inspect.isasyncgenfunction(function):
            raise GraphError(f"{function_name(function)} yields", hint="return a list of rows instead")
        seen = ElementView(function) if in_lists else function
        self._function = function
        self._in_lists = in_lists
        self._calls = calls_of(seen, schema, columns)
        self._arguments = arguments_of(seen, schema, columns)

    @property
    def name(self) -> str:
        """The function, for errors."""
        return function_name(self._function)

    @property
    def is_coroutine(self) -> bool:
        """Whether it is an `async def`."""
        return is_coroutine(self._function)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that are read."""
        return self._calls.columns

    @property
    def description(self) -> str:
        """The function, and what it gets if that is not the whole row."""
        of = "" if self._arguments is None else f" of {', '.join(one.column for one in self._arguments)}"
        return f"{self.name}{of}"

    def values(self, batch: pa.RecordBatch) -> Iterator[Values | LakewardError]:
        """The arguments for each row, some hundred rows at a time.

        There is an error instead for a row that cannot be made: Python does not have a value, or a class of the user's
        refuses it.
        """
        done = 0
        try:
            for chunk in self._calls.chunks(batch):
                yield from zip(*chunk, strict=True)
                done += len(chunk[0])
        except Exception:
            for row in range(done, batch.num_rows):
                yield self._read(batch, row)

    def _read(self, batch: pa.RecordBatch, row: int) -> Values | LakewardError:
        try:
            return next(zip(*self._calls.read(batch, row), strict=True))
        except LakewardError as error:
            error.place_rows(lambda row: None)  # the batch came a while ago: the row is not one of the source's latest
            return error

    def work(self, rows: Sequence[Values]) -> Work:
        """A call for some rows."""
        arguments: Sequence[Any] = [list(values) for values in zip(*rows, strict=True)] if self._in_lists else rows[0]
        return partial(self._calls.call, *arguments)

    def answers(self, result: Any, rows: Sequence[Values]) -> list[list[Any]]:
        """The rows that each row is answered with.

        Raises:
            UserCodeError: A list was wanted, with an element a row.
        """
        if not self._in_lists:
            return [_rows_of(result)]
        if not isinstance(result, list | tuple) or len(result) != len(rows):
            got = f"{len(result)} answers" if isinstance(result, list | tuple) else f"no list, but {_kind(result)}"
            raise UserCodeError(
                f"{self.name} returned {got} for {self.shown(rows)}",
                hint="with batch_rows it gets a list and returns one, with an element for each row, in their order",
                rows=(self.row(rows),),
            )
        return [_rows_of(one) for one in result]

    def shown(self, rows: Sequence[Values]) -> str:
        """How many rows a call has, for errors."""
        return f"{len(rows)} rows" if len(rows) > 1 else "a row"

    def row(self, rows: Sequence[Values]) -> FailedRow:
        """The row of a call, or the first of them, for errors."""
        label = "first row" if len(rows) > 1 else "row"
        return FailedRow(self._calls.row(rows[0]), label=label)

    def failure(self, error: Exception, rows: Sequence[Values]) -> LakewardError:
        """The error of a call that raised."""
        if isinstance(error, LakewardError):
            error.trace = error.trace or user_trace(error) or definition(self._function)
            return error.about(self.row(rows))
        if self._in_lists:
            given = self.shown(rows) if len(rows) > 1 else ""
            return call_error(self._function, error, given, ROW_HINT, row=self.row(rows))
        return self._calls.failure(error, rows[0], None)

    def misfit(self, error: UserCodeError, values: Values) -> UserCodeError:
        """The error of an answer that does not fit, with the row that it was made of."""
        error.trace = error.trace or definition(self._function)
        error.about(self.row([values]))
        return error


def _kind(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _rows_of(answer: Any) -> list[Any]:
    """None is no row, a list is its rows, everything else is one row."""
    if answer is None:
        return []
    return answer if isinstance(answer, list) else [answer]
