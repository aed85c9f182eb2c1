"""Python callables over rows and batches: the slow road, made as fast as Python allows.

Rows come as dicts, or as instances of the dataclass or NamedTuple that the function's first parameter is annotated
with; they go back as dicts, dataclasses, NamedTuples or tuples. The output's schema is known when the graph is built,
from the return annotation or `returns=` (`output_schema_of`).
"""

from __future__ import annotations

import inspect
import operator
import typing
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.row_types import is_row_class, resolve_annotation, schema_of
from lakeward.engine.core.errors import GraphError, LakewardError, UserCodeError
from lakeward.operators.function_names import function_name, plain_function
from lakeward.operators.row_values import optional_keys
from lakeward.operators.rows import RowReader, RowWriter, short

_BATCH_ROWS_MAX = 65_536
_MANY = (Iterable, Iterator, Generator, Sequence, list, tuple, set, frozenset)
_RETURNS_HINT = (
    "annotate the function's result with a dataclass, TypedDict or NamedTuple (flat_map: Iterable[...] of one), "
    'or say it: returns={"word": str, "count": int}'
)


def _scope(function: Any) -> dict[str, Any]:
    """The names that a function's annotations may use: its module's and those it closes over."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    names = dict(getattr(plain, "__globals__", {}))
    cells, free = (
        getattr(plain, "__closure__", None) or (),
        getattr(getattr(plain, "__code__", None), "co_freevars", ()),
    )
    for name, cell in zip(free, cells, strict=True):
        try:
            names[name] = cell.cell_contents
        except ValueError:  # not filled yet: then the annotation cannot mean it either
            continue
    return names


def output_schema_of(function: Callable[..., Any], returns: Any = None) -> pa.Schema:
    """The schema of the rows that a function makes.

    >>> class Word(typing.NamedTuple):
    ...     word: str
    ...     length: int
    >>> def split(line: dict) -> Iterable[Word]: ...
    >>> output_schema_of(split)
    word: string
    length: int64

    Args:
        function: Annotated with a dataclass, TypedDict or NamedTuple as its result, or an iterable of them.
        returns: What it returns, if the annotation does not say so: one of these classes, a pyarrow schema, or a dict
            of column names to types (see `lakeward.engine.api.row_types.arrow_type`).

    Returns:
        The schema.

    Raises:
        GraphError: Neither says it.
        SchemaError: A field's type has no Arrow type.
    """
    hint = _result_of(function, returns)
    if returns is None and not is_row_class(hint):
        annotation = getattr(plain_function(function), "__annotations__", {}).get("return")
        said = "has no return annotation" if annotation is None else f"returns {annotation!r}, which names no columns"
        raise GraphError(
            f"the columns that {function_name(function)} makes are not known: it {said}", hint=_RETURNS_HINT
        )
    return schema_of(hint)


def _result_of(function: Callable[..., Any], returns: Any) -> Any:
    """What a row of a function's results is: as said by `returns`, else by its annotation."""
    if returns is not None:
        return _element(returns)
    plain = plain_function(function)
    annotation = getattr(plain, "__annotations__", {}).get("return")
    return _element(resolve_annotation(annotation, _scope(plain), function_name(function)))


def _element(hint: Any) -> Any:
    """What an iterable is of: `Iterable[Word]` is of `Word`. Optional means that nothing may come."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in _MANY and args:
        return _element(args[0])
    if type(None) in args and len(args) == 2:
        return _element(args[0] if args[1] is type(None) else args[1])
    return hint


def row_class_of(function: Callable[..., Any]) -> type | None:
    """The dataclass, NamedTuple or TypedDict that a function's first parameter is annotated with; None for dicts."""
    plain = plain_function(function)
    annotations = getattr(plain, "__annotations__", {})
    try:
        parameters = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a builtin without a signature
        return None
    if not parameters or parameters[0] not in annotations:
        return None
    hint = resolve_annotation(annotations[parameters[0]], _scope(plain), function_name(function))
    return hint if is_row_class(hint) else None


@dataclass(frozen=True, slots=True)
class _RowFunction(OperatorFactory):
    """What the three row functions have in common."""

    function: Callable[[Any], Any]
    input_schema: pa.Schema

    def __post_init__(self) -> None:
        if inspect.iscoroutinefunction(self.function):
            raise GraphError(f"{function_name(self.function)} is async", hint="a row function is a plain function")
        self._reader()

    def _reader(self) -> RowReader:
        return RowReader(self.input_schema, row_class_of(self.function))

    @property
    def vectorised(self) -> bool:
        """Rows go through Python one by one."""
        return False


@dataclass(frozen=True, slots=True)
class MapRows(_RowFunction):
    """One row in, one row out.

    Args:
        function: Called once a row.
        input_schema: The schema of the rows it gets.
        output_schema: The schema of the rows it returns.
        returns: What it was made of, if not of the function's annotation.

    Raises:
        SchemaError: The class of its parameter does not fit the input.
        GraphError: It is a coroutine function, or its annotation cannot be resolved.
    """

    output_schema: pa.Schema
    returns: Any = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        writer = _writer(self.function, self.output_schema, self.returns, "the result of")
        return MapRowsOperator(self.function, self._reader(), writer)

    @property
    def description(self) -> str:
        """The function."""
        return f"map {function_name(self.function)}"


@dataclass(frozen=True, slots=True)
class FlatMapRows(_RowFunction):
    """One row in, any number of rows out.

    Args:
        function: Called once a row; returns or yields rows; None is none.
        input_schema: The schema of the rows it gets.
        output_schema: The schema of the rows it returns.
        returns: What it was made of, if not of the function's annotation.

    Raises:
        SchemaError: The class of its parameter does not fit the input.
        GraphError: It is a coroutine function, or its annotation cannot be resolved.
    """

    output_schema: pa.Schema
    returns: Any = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        writer = _writer(self.function, self.output_schema, self.returns, "a row from")
        return FlatMapRowsOperator(self.function, self._reader(), writer)

    @property
    def description(self) -> str:
        """The function."""
        return f"flat_map {function_name(self.function)}"


@dataclass(frozen=True, slots=True)
class FilterRows(_RowFunction):
    """Keeps the rows for which a function returns something true.

    Args:
        function: Called once a row.
        input_schema: The schema of the rows.

    Raises:
        SchemaError: The class of its parameter does not fit the input.
        GraphError: It is a coroutine function, or its annotation cannot be resolved.
    """

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return FilterRowsOperator(self.function, self._reader())

    @property
    def description(self) -> str:
        """The function."""
        return f"filter {function_name(self.function)}"


@dataclass(frozen=True, slots=True)
class MapBatches(OperatorFactory):
    """One Arrow batch in, one out.

    Args:
        function: Gets a `pyarrow.RecordBatch`; returns a RecordBatch, a Table, or None for no rows.
        output_schema: The schema of what it returns; the order of its columns does not matter.
    """

    function: Callable[[pa.RecordBatch], Any]
    output_schema: pa.Schema

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return MapBatchesOperator(self.function, self.output_schema)

    @property
    def description(self) -> str:
        """The function."""
        return f"map_batches {function_name(self.function)}"


def call_error(function: Callable[..., Any], error: Exception, given: str) -> UserCodeError:
    """The error of a user's function that raised: names the function, its place, and what it was given."""
    return UserCodeError(
        f"{function_name(function)} raised {type(error).__name__}: {error} on {given}",
        hint="call the function with this input to see where inside it; or run with `lakeward --traceback run ...`",
    )


def _writer(function: Callable[..., Any], schema: pa.Schema, returns: Any, what: str) -> RowWriter:
    """The writer of a function's results."""
    optional = optional_keys(_result_of(function, returns))
    return RowWriter(schema, f"{what} {function_name(function)}", optional)


def _call_all(function: Callable[[Any], Any], rows: list[Any]) -> list[Any]:
    """The function's results for all rows; an error names the row."""
    waiting = iter(rows)
    try:
        return list(map(function, waiting))
    except LakewardError:
        raise
    except Exception as error:
        row = rows[len(rows) - operator.length_hint(waiting) - 1]
        raise call_error(function, error, f"row {short(row)}") from error


class MapRowsOperator(Operator):
    """Runs a `MapRows`."""

    def __init__(self, function: Callable[[Any], Any], reader: RowReader, writer: RowWriter) -> None:
        self._function = function
        self._reader = reader
        self._writer = writer

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function for every row."""
        chunks = self._reader.chunks(batch)
        parts = [self._writer.arrays(_call_all(self._function, rows)) for rows in chunks]
        out.emit(_joined(parts, self._writer.schema))


def _joined(parts: list[list[pa.Array]], schema: pa.Schema) -> pa.RecordBatch:
    """One batch of the columns of several chunks."""
    if not parts:
        return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    columns = [pa.concat_arrays(pieces) for pieces in zip(*parts, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class FlatMapRowsOperator(Operator):
    """Runs a `FlatMapRows`. Output is cut into batches of some ten thousand rows."""

    def __init__(self, function: Callable[[Any], Any], reader: RowReader, writer: RowWriter) -> None:
        self._function = function
        self._reader = reader
        self._writer = writer

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function for every row, and gather what it yields."""
        parts: list[list[pa.Array]] = []
        rows_held = 0
        for rows in self._reader.chunks(batch):
            results = self._results(rows)
            parts.append(self._writer.arrays(results))
            rows_held += len(results)
            if rows_held >= _BATCH_ROWS_MAX:
                out.emit(_joined(parts, self._writer.schema))
                parts, rows_held = [], 0
        if rows_held:
            out.emit(_joined(parts, self._writer.schema))

    def _results(self, rows: list[Any]) -> list[Any]:
        function = self._function
        results: list[Any] = []
        row = None
        try:
            for row in rows:
                found = function(row)
                if found is not None:
                    results.extend(found if not isinstance(found, dict | str | bytes) else self._refuse(found))
        except LakewardError:
            raise
        except Exception as error:
            raise call_error(function, error, f"row {short(row)}") from error
        return results

    def _refuse(self, found: Any) -> list[Any]:
        raise UserCodeError(
            f"{function_name(self._function)} returned a single {type(found).__name__}: {short(found)}",
            hint="flat_map wants an iterable of rows: return [row], or yield row",
        )


class FilterRowsOperator(Operator):
    """Runs a `FilterRows`."""

    def __init__(self, function: Callable[[Any], Any], reader: RowReader) -> None:
        self._function = function
        self._reader = reader

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Ask the function for every row; pass the rows' own columns on."""
        answers: list[bool] = []
        for rows in self._reader.chunks(batch):
            answers.extend(map(bool, _call_all(self._function, rows)))
        kept = sum(answers)
        if kept == batch.num_rows:
            out.emit(batch)
        elif kept:
            out.emit(batch.filter(pa.array(np.array(answers, dtype=np.bool_))))


class MapBatchesOperator(Operator):
    """Runs a `MapBatches`."""

    def __init__(self, function: Callable[[pa.RecordBatch], Any], schema: pa.Schema) -> None:
        self._function = function
        self._schema = schema

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function, and check what it returns."""
        try:
            result = self._function(batch)
        except LakewardError:
            raise
        except Exception as error:
            raise call_error(self._function, error, f"a batch of {batch.num_rows} rows") from error
        if result is None:
            return
        for part in self._checked(result):
            if part.num_rows:
                out.emit(part)

    def _checked(self, result: Any) -> list[pa.RecordBatch]:
        if not isinstance(result, pa.RecordBatch | pa.Table):
            raise UserCodeError(
                f"{function_name(self._function)} returned a {type(result).__name__}",
                hint="return a pyarrow.RecordBatch or pyarrow.Table, or None for no rows",
            )
        columns = [self._column(result, field) for field in self._schema]
        unknown = [name for name in result.schema.names if name not in self._schema.names]
        if unknown:
            raise self._misfit(f"has an unknown column {unknown[0]!r}")
        if isinstance(result, pa.RecordBatch):
            return [pa.RecordBatch.from_arrays(columns, schema=self._schema)]
        batches: list[pa.RecordBatch] = pa.Table.from_arrays(columns, schema=self._schema).combine_chunks().to_batches()
        return batches

    def _column(self, result: Any, field: pa.Field) -> Any:
        if result.schema.names.count(field.name) != 1:
            raise self._misfit(f"lacks column {field.name!r}")
        column = result.column(field.name)
        if not column.type.equals(field.type):
            raise self._misfit(f"has column {field.name!r} as {column.type}, not {field.type}")
        if column.null_count and not field.nullable:
            raise self._misfit(f"has nulls in column {field.name!r}, which may have none")
        return column

    def _misfit(self, problem: str) -> UserCodeError:
        expected = ", ".join(f"{field.name}: {field.type}" for field in self._schema)
        return UserCodeError(
            f"what {function_name(self._function)} returned {problem}",
            hint=f"the declared columns are {expected}; cast the result, or change returns=",
        )
