"""Python callables over rows and batches: the slow road, made as fast as Python allows.

Rows come as dicts, or as instances of the dataclass or NamedTuple that the function's only parameter is annotated with,
or taken apart, a column's value a parameter; they go back as dicts, dataclasses, NamedTuples or tuples. The output's
schema is known when the graph is built, from the return annotation or `returns=` (`output_schema_of`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.core.errors import GraphError, LakewardError, UserCodeError
from lakeward.operators.arguments import Calls, call_error, calls_of
from lakeward.operators.function_names import function_name
from lakeward.operators.row_values import optional_keys
from lakeward.operators.rows import RowWriter, short
from lakeward.operators.signatures import arguments_of, result_of

_BATCH_ROWS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class _RowFunction(OperatorFactory):
    """What the three row functions have in common.

    Args:
        function: Called once a row.
        input_schema: The schema of the rows it gets.
        columns: The columns whose values it gets instead, one a parameter; None: as its signature says.
    """

    function: Callable[..., Any]
    input_schema: pa.Schema
    columns: tuple[str, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if inspect.iscoroutinefunction(self.function):
            raise GraphError(f"{function_name(self.function)} is async", hint="a row function is a plain function")
        self._calls()

    def _calls(self) -> Calls:
        return calls_of(self.function, self.input_schema, self.columns)

    def _described(self, verb: str) -> str:
        """The verb and the function, and what it gets if that is not the whole row."""
        arguments = arguments_of(self.function, self.input_schema, self.columns)
        of = "" if arguments is None else f" of {', '.join(one.column for one in arguments)}"
        return f"{verb} {function_name(self.function)}{of}"

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
        columns: The columns whose values it gets, one a parameter; None: as its signature says.

    Raises:
        SchemaError: Its parameters do not fit the input.
        GraphError: It is a coroutine function, cannot be called so, or its annotation cannot be resolved.
    """

    output_schema: pa.Schema
    returns: Any = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        writer = _writer(self.function, self.output_schema, self.returns, "the result of")
        return MapRowsOperator(self._calls(), writer)

    @property
    def description(self) -> str:
        """The function."""
        return self._described("map")

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that the function gets."""
        return [self._calls().columns]


@dataclass(frozen=True, slots=True)
class FlatMapRows(_RowFunction):
    """One row in, any number of rows out.

    Args:
        function: Called once a row; returns or yields rows; None is none.
        input_schema: The schema of the rows it gets.
        output_schema: The schema of the rows it returns.
        returns: What it was made of, if not of the function's annotation.
        columns: The columns whose values it gets, one a parameter; None: as its signature says.

    Raises:
        SchemaError: Its parameters do not fit the input.
        GraphError: It is a coroutine function, cannot be called so, or its annotation cannot be resolved.
    """

    output_schema: pa.Schema
    returns: Any = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        writer = _writer(self.function, self.output_schema, self.returns, "a row from")
        return FlatMapRowsOperator(self._calls(), writer)

    @property
    def description(self) -> str:
        """The function."""
        return self._described("flat_map")

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that the function gets."""
        return [self._calls().columns]


@dataclass(frozen=True, slots=True)
class FilterRows(_RowFunction):
    """Keeps the rows for which a function returns something true.

    Args:
        function: Called once a row.
        input_schema: The schema of the rows.
        columns: The columns whose values it gets, one a parameter; None: as its signature says.

    Raises:
        SchemaError: Its parameters do not fit the input.
        GraphError: It is a coroutine function, cannot be called so, or its annotation cannot be resolved.
    """

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return FilterRowsOperator(self._calls())

    @property
    def description(self) -> str:
        """The function."""
        return self._described("filter")


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


def _writer(function: Callable[..., Any], schema: pa.Schema, returns: Any, what: str) -> RowWriter:
    """The writer of a function's results."""
    optional = optional_keys(result_of(function, returns))
    return RowWriter(schema, f"{what} {function_name(function)}", optional)


class MapRowsOperator(Operator):
    """Runs a `MapRows`."""

    def __init__(self, calls: Calls, writer: RowWriter) -> None:
        self._calls = calls
        self._writer = writer

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function for every row."""
        parts = [self._writer.arrays(self._calls.results(chunk)) for chunk in self._calls.chunks(batch)]
        out.emit(_joined(parts, self._writer.schema))


def _joined(parts: list[list[pa.Array]], schema: pa.Schema) -> pa.RecordBatch:
    """One batch of the columns of several chunks."""
    if not parts:
        return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    columns = [pa.concat_arrays(pieces) for pieces in zip(*parts, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class FlatMapRowsOperator(Operator):
    """Runs a `FlatMapRows`. Output is cut into batches of some ten thousand rows."""

    def __init__(self, calls: Calls, writer: RowWriter) -> None:
        self._calls = calls
        self._writer = writer

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function for every row, and gather what it yields."""
        parts: list[list[pa.Array]] = []
        rows_held = 0
        for chunk in self._calls.chunks(batch):
            results = self._results(chunk)
            parts.append(self._writer.arrays(results))
            rows_held += len(results)
            if rows_held >= _BATCH_ROWS_MAX:
                out.emit(_joined(parts, self._writer.schema))
                parts, rows_held = [], 0
        if rows_held:
            out.emit(_joined(parts, self._writer.schema))

    def _results(self, chunk: list[Sequence[Any]]) -> list[Any]:
        call = self._calls.call
        results: list[Any] = []
        values: Sequence[Any] = ()
        try:
            for values in zip(*chunk, strict=True):
                found = call(*values)
                if found is not None:
                    results.extend(found if not isinstance(found, dict | str | bytes) else self._refuse(found))
        except LakewardError:
            raise
        except Exception as error:
            raise self._calls.failure(error, values) from error
        return results

    def _refuse(self, found: Any) -> list[Any]:
        raise UserCodeError(
            f"{self._calls.name} returned a single {type(found).__name__}: {short(found)}",
            hint="flat_map wants an iterable of rows: return [row], or yield row",
        )


class FilterRowsOperator(Operator):
    """Runs a `FilterRows`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Ask the function for every row; pass the rows' own columns on."""
        answers: list[bool] = []
        for chunk in self._calls.chunks(batch):
            results, first = self._calls.results(chunk), len(answers)
            try:
                answers.extend(map(bool, results))  # stops at the one that fails
            except Exception as error:
                at = len(answers) - first
                problem = TypeError(f"it returned {results[at]!r}, which is neither true nor false: {error}")
                raise self._calls.failure(problem, [values[at] for values in chunk]) from error
        kept = sum(answers)
        if kept == batch.num_rows:
            out.emit(batch)
        elif kept:
            out.emit(batch.filter(pa.array(np.array(answers, dtype=np.bool_))))


class MapBatchesOperator(Operator):
    """Runs a `MapBatches`."""

    def __init__(self, function: Callable[[pa.RecordBatch], Any], schema: pa.Schema) -> None:
        self._function = function
        self._checker = BatchChecker(function, schema)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function, and check what it returns."""
        try:
            result = self._function(batch)
        except LakewardError:
            raise
        except Exception as error:
            raise call_error(self._function, error, f"a batch of {batch.num_rows} rows") from error
        for part in self._checker.checked(result):
            if part.num_rows:
                out.emit(part)


class BatchChecker:
    """Checks the batches that a function of the user's makes.

    Args:
        function: The function, for errors.
        schema: What they have to be; the order of their columns does not matter.
    """

    def __init__(self, function: Callable[..., Any], schema: pa.Schema) -> None:
        self._function = function
        self._schema = schema

    def checked(self, result: Any) -> list[pa.RecordBatch]:
        """Batches of exactly the schema; none for None.

        Raises:
            UserCodeError: It is no batch, or has other columns.
        """
        if result is None:
            return []
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
