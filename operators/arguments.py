"""What user's functions are called with for the rows of a batch: whole rows, or the values of some columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.core.errors import LakewardError, UserCodeError
from lakeward.engine.core.redaction import FailedRow, text_of
from lakeward.engine.core.user_frames import UserFrame, is_own, user_trace
from lakeward.operators.function_names import function_name, plain_function
from lakeward.operators.row_values import value_maker
from lakeward.operators.rows import ColumnReader, RowReader
from lakeward.operators.signatures import Argument, arguments_of, row_class_of

ROW_HINT = "handle such rows in the function, or say what becomes of them: on_error=lw.OnError.skip(), for example"

_TEXT_CHARS_MAX = 500


class Calls(ABC):
    """Calls a function for every row.

    Args:
        function: The user's.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @property
    def call(self) -> Callable[..., Any]:
        """Makes one call."""
        return self._function

    @property
    def name(self) -> str:
        """The function, for errors."""
        return function_name(self._function)

    @property
    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The columns that are read."""

    @abstractmethod
    def chunks(self, batch: pa.RecordBatch) -> Iterator[list[Sequence[Any]]]:
        """The arguments for the rows of a batch, some hundred rows at a time: a list of values an argument."""

    def read(self, batch: pa.RecordBatch, row: int) -> list[Sequence[Any]]:
        """The arguments for one row; classes of the user's that rows are made of may raise.

        Raises:
            LakewardError: It cannot be made.
        """
        try:
            return next(self.chunks(batch.slice(row, 1)))
        except LakewardError as error:
            raise error.about(failed_row(batch, row)) from error.__cause__
        except Exception as error:
            failure = making_error(self._function, error)
            raise failure.about(failed_row(batch, row)) from error

    @abstractmethod
    def row(self, values: Sequence[Any]) -> Any:
        """The arguments of one call as a row, for errors."""

    def failure(self, error: Exception, values: Sequence[Any], index: int | None) -> UserCodeError:
        """The error of a call that raised, for the row at `index` of the batch, if that is known."""
        return call_error(self._function, error, row=FailedRow(self.row(values), index), hint=ROW_HINT)


class RowCalls(Calls):
    """Calls with whole rows.

    Args:
        function: Takes a row.
        reader: Makes the rows.
    """

    def __init__(self, function: Callable[[Any], Any], reader: RowReader) -> None:
        super().__init__(function)
        self._reader = reader

    @property
    def columns(self) -> frozenset[str]:
        """The columns that are read."""
        return frozenset(self._reader.columns)

    def chunks(self, batch: pa.RecordBatch) -> Iterator[list[Sequence[Any]]]:
        """The rows."""
        return ([rows] for rows in self._reader.chunks(batch))

    def row(self, values: Sequence[Any]) -> Any:
        """The row."""
        return values[0]

    def failure(self, error: Exception, values: Sequence[Any], index: int | None) -> UserCodeError:
        """The error of a call that raised; where it may have taken the row for something else, says what it got."""
        mistaken = isinstance(values[0], dict) and isinstance(error, TypeError | AttributeError)
        name = self._reader.columns[0]
        got = (
            f'it gets the row as a dict: row["{name}"]; for the value of a column alone, say columns=["{name}"]. Else '
        )
        hint = f"{got if mistaken else ''}{ROW_HINT}"
        return call_error(self._function, error, row=FailedRow(values[0], index), hint=hint)


class ColumnCalls(Calls):
    """Calls with the values of some columns: no row is ever made.

    Args:
        function: Takes a value of each.
        arguments: The columns; those that are given by name last.
        schema: The batches' schema.
    """

    def __init__(self, function: Callable[..., Any], arguments: Sequence[Argument], schema: pa.Schema) -> None:
        keywords = [one.keyword for one in arguments if one.keyword is not None]
        super().__init__(_with_keywords(function, len(arguments) - len(keywords), keywords) if keywords else function)
        self._names = [one.column for one in arguments]
        makers = [value_maker(one.hint, schema.field(one.column).type) for one in arguments]
        self._reader = ColumnReader(self._names, {i: maker for i, maker in enumerate(makers) if maker is not None})

    @property
    def columns(self) -> frozenset[str]:
        """The columns that are read."""
        return frozenset(self._names)

    def chunks(self, batch: pa.RecordBatch) -> Iterator[list[Sequence[Any]]]:
        """The columns' values."""
        return (list(lists) for lists, _ in self._reader.chunks(batch))

    def row(self, values: Sequence[Any]) -> Any:
        """The values by column."""
        return dict(zip(self._names, values, strict=True))


def calls_of(function: Callable[..., Any], schema: pa.Schema, columns: Sequence[str] | None = None) -> Calls:
    """How to call a function for the rows of a schema: what its signature or `columns` say.

    >>> batch = pa.record_batch({"a": [1, 2], "b": [10, 20]})
    >>> calls = calls_of(lambda b, a: b - a, batch.schema)
    >>> [list(map(calls.call, *chunk)) for chunk in calls.chunks(batch)]
    [[9, 18]]

    Raises:
        SchemaError: The class or the columns that it wants do not fit the schema.
        GraphError: It cannot be called so, or an annotation cannot be resolved.
    """
    arguments = arguments_of(function, schema, columns)
    if arguments is None:
        return RowCalls(function, RowReader(schema, row_class_of(function)))
    return ColumnCalls(function, arguments, schema)


def _with_keywords(function: Callable[..., Any], positional: int, keywords: Sequence[str]) -> Callable[..., Any]:
    """The function, taking its keyword arguments by position."""

    def call(*values: Any) -> Any:
        return function(*values[:positional], **dict(zip(keywords, values[positional:], strict=True)))

    call.__wrapped__ = function  # type: ignore[attr-defined]  # so that errors name the user's function
    return call


def call_error(
    function: Callable[..., Any], error: Exception, given: str = "", hint: str = "", *, row: FailedRow | None = None
) -> UserCodeError:
    """The error of a user's function that raised: says which function, where inside it, and what it was given.

    Args:
        function: The user's.
        error: What it raised, caught where it was called.
        given: What it was called with, if not a row.
        hint: What to do about it.
        row: The row that it was called with.
    """
    problem = f"{function_name(function)} raised {exception_text(error)}"
    failure = UserCodeError(
        f"{problem} on {given}" if given else problem,
        hint=hint or "every frame is shown by `lakeward --traceback run ...`",
        rows=() if row is None else (row,),
        trace=user_trace(error, plain_function(function)) or definition(function),
    )
    failure.raised = error
    return failure


def making_error(function: object, error: Exception) -> UserCodeError:
    """The error of a class of the user's of which no row could be made for a function.

    Args:
        function: The user's.
        error: What was raised, caught where rows are made; passed on if no code of the user's raised it.
    """
    trace = user_trace(error)
    if not any(isinstance(line, UserFrame) for line in trace):
        raise error
    problem = f"making a row for {function_name(function)} raised {exception_text(error)}"
    failure = UserCodeError(problem, hint=ROW_HINT, trace=trace)
    failure.raised = error
    return failure


def definition(function: object) -> tuple[UserFrame, ...]:
    """The line at which a function begins, where an error has no other; nothing for what is written in C or is ours."""
    plain = plain_function(function)
    code = getattr(plain, "__code__", None)
    own = is_own(getattr(plain, "__globals__", {}).get("__name__", ""))
    return () if code is None or own else (UserFrame(code.co_filename, code.co_firstlineno, code.co_name),)


def exception_text(error: BaseException) -> str:
    """An exception's type and text, and those of the one that it was raised from."""
    text = text_of(error)
    text = text if len(text) <= _TEXT_CHARS_MAX else text[: _TEXT_CHARS_MAX - 1] + "…"
    shown = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{shown} (caused by {exception_text(error.__cause__)})" if error.__cause__ is not None else shown
