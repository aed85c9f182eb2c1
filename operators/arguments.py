"""What user's functions are called with for the rows of a batch: whole rows, or the values of some columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from lakeward.engine.core.errors import LakewardError, UserCodeError
from lakeward.operators.function_names import function_name
from lakeward.operators.row_values import value_maker
from lakeward.operators.rows import ColumnReader, RowReader, short
from lakeward.operators.signatures import Argument, arguments_of, row_class_of


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

    @abstractmethod
    def shown(self, values: Sequence[Any]) -> str:
        """The arguments of one call, for errors."""

    def results(self, chunk: list[Sequence[Any]]) -> list[Any]:
        """The results of a chunk, a call a row.

        Raises:
            UserCodeError: The function raised; names it and the row.
        """
        found: list[Any] = []
        try:
            found.extend(map(self._function, *chunk))  # stops at the row that fails, with all before it kept
        except LakewardError:
            raise
        except Exception as error:
            raise self.failure(error, [values[len(found)] for values in chunk]) from error
        if len(found) < len(chunk[0]):  # to `map` this exception is the end of its input
            raise self.failure(StopIteration(), [values[len(found)] for values in chunk])
        return found

    def failure(self, error: Exception, values: Sequence[Any]) -> UserCodeError:
        """The error of a call that raised."""
        return call_error(self._function, error, self.shown(values))


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

    def shown(self, values: Sequence[Any]) -> str:
        """The row."""
        return f"row {short(values[0])}"

    def failure(self, error: Exception, values: Sequence[Any]) -> UserCodeError:
        """The error of a call that raised; where it may have taken the row for something else, says what it got."""
        mistaken = isinstance(values[0], dict) and isinstance(error, TypeError | AttributeError)
        name = self._reader.columns[0]
        got = f'it gets the row as a dict: row["{name}"]; for the value of a column alone, say columns=["{name}"]'
        return call_error(self._function, error, self.shown(values), f"{got}. Else " if mistaken else "")


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

    def shown(self, values: Sequence[Any]) -> str:
        """The values by column."""
        return f"row {short(dict(zip(self._names, values, strict=True)))}"


def calls_of(function: Callable[..., Any], schema: pa.Schema, columns: Sequence[str] | None = None) -> Calls:
    """How to call a function for the rows of a schema: what its signature or `columns` say.

    >>> batch = pa.record_batch({"a": [1, 2], "b": [10, 20]})
    >>> calls = calls_of(lambda b, a: b - a, batch.schema)
    >>> [calls.results(chunk) for chunk in calls.chunks(batch)]
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


def call_error(function: Callable[..., Any], error: Exception, given: str, hint: str = "") -> UserCodeError:
    """The error of a user's function that raised: names the function, its place, and what it was given."""
    general = "call the function with this input to see where inside it; or run with `lakeward --traceback run ...`"
    problem = f"{function_name(function)} raised {type(error).__name__}: {error} on {given}"
    return UserCodeError(problem, hint=f"{hint}{general}")
