"""Python callables over rows and batches: the slow road, made as fast as Python allows.

Rows come as dicts, or as instances of the dataclass or NamedTuple that the function's only parameter is annotated with,
or taken apart, a column's value a parameter; they go back as dicts, dataclasses, NamedTuples or tuples. The output's
schema is known when the graph is built, from the return annotation or `returns=` (`output_schema_of`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.api.operator import Operator, OperatorFactory, RowFlow
from lakeward.engine.core.errors import GraphError, LakewardError, UserCodeError
from lakeward.engine.core.redaction import FailedRow
from lakeward.operators.arguments import ROW_HINT, Calls, call_error, calls_of, definition
from lakeward.operators.error_policy import FAIL, FAILED, OnError, RowErrors, policy_text
from lakeward.operators.function_names import function_name
from lakeward.operators.guarded_calls import Arrays, Chunk, GuardedCalls, Results
from lakeward.operators.row_values import optional_keys
from lakeward.operators.rows import RowWriter
from lakeward.operators.signatures import arguments_of, result_of

_BATCH_ROWS_MAX = 65_536


@dataclass(frozen=True, slots=True)
class _RowFunction(OperatorFactory):
    """What the three row functions have in common.

    Args:
        function: Called once a row.
        input_schema: The schema of the rows it gets.
        columns: The columns whose values it gets instead, one a parameter; None: as its signature says.
        on_error: What becomes of rows on which it fails.
    """

    function: Callable[..., Any]
    input_schema: pa.Schema
    columns: tuple[str, ...] | None = field(default=None, kw_only=True)
    on_error: OnError = field(default=FAIL, kw_only=True)

    def __post_init__(self) -> None:
        if inspect.iscoroutinefunction(self.function):
            raise GraphError(f"{function_name(self.function)} is async", hint="a row function is a plain function")
        self._guarded()

    def _calls(self) -> Calls:
        return calls_of(self.function, self.input_schema, self.columns)

    def _described(self, verb: str) -> str:
        """The verb and the function, and what it gets if that is not the whole row."""
        arguments = arguments_of(self.function, self.input_schema, self.columns)
        of = "" if arguments is None else f" of {', '.join(one.column for one in arguments)}"
        return f"{verb} {function_name(self.function)}{of}{policy_text(self.on_error)}"

    def _guarded(self) -> tuple[RowErrors, GuardedCalls]:
        errors = RowErrors(self.on_error, self.input_schema)
        return errors, GuardedCalls(self._calls(), errors)

    def _columns_read(self) -> Sequence[frozenset[str]] | None:
        """Those that the function gets; all of them if failed rows are sent on."""
        return [self._calls().columns] if self.on_error.tag is None else None

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
        on_error: What becomes of rows on which it fails.

    Raises:
        SchemaError: Its parameters do not fit the input.
        GraphError: It is a coroutine function, cannot be called so, or its annotation cannot be resolved.
    """

    output_schema: pa.Schema
    returns: Any = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        writer = _writer(self.function, self.output_schema, self.returns, "the result of")
        return MapRowsOperator(*self._guarded(), writer)

    @property
    def description(self) -> str:
        """The function."""
        return self._described("map")

    @property
    def row_flow(self) -> RowFlow:
        """A row a row, unless some are left out."""
        return RowFlow(one_to_one=self.on_error.last == "fail")

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]] | None:
        """Those that the function gets."""
        return self._columns_read()


@dataclass(frozen=True, slots=True)
class FlatMapRows(_RowFunction):
    """One row in, any number of rows out.

    Args:
        function: Called once a row; returns or yields rows; None is none.
        input_schema: The schema of the rows it gets.
        output_schema: The schema of the rows it returns.
        returns: What it was made of, if not of the function's annotation.
        columns: The columns whose values it gets, one a parameter; None: as its signature says.
        on_error: What becomes of rows on which it fails.

    Raises:
        SchemaError: Its parameters do not fit the input.
        GraphError: It is a coroutine function, cannot be called so, or its annotation cannot be resolved.
    """

    output_schema: pa.Schema
    returns: Any = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        writer = _writer(self.function, self.output_schema, self.returns, "a row from")
        return FlatMapRowsOperator(*self._guarded(), writer)

    @property
    def description(self) -> str:
        """The function."""
        return self._described("flat_map")

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]] | None:
        """Those that the function gets."""
        return self._columns_read()


@dataclass(frozen=True, slots=True)
class FilterRows(_RowFunction):
    """Keeps the rows for which a function returns something true.

    Args:
        function: Called once a row.
        input_schema: The schema of the rows.
        columns: The columns whose values it gets, one a parameter; None: as its signature says.
        on_error: What becomes of rows on which it fails.

    Raises:
        SchemaError: Its parameters do not fit the input.
        GraphError: It is a coroutine function, cannot be called so, or its annotation cannot be resolved.
    """

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return FilterRowsOperator(*self._guarded())

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
        on_error: What becomes of rows on which it fails.
        input_schema: The schema of the batches it gets; None: that of those it returns.
    """

    function: Callable[[pa.RecordBatch], Any]
    output_schema: pa.Schema
    on_error: OnError = FAIL
    input_schema: pa.Schema | None = None

    def __post_init__(self) -> None:
        self._errors()

    def _errors(self) -> RowErrors:
        return RowErrors(self.on_error, self.output_schema if self.input_schema is None else self.input_schema)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return MapBatchesOperator(self.function, self.output_schema, self._errors())

    @property
    def description(self) -> str:
        """The function."""
        return f"map_batches {function_name(self.function)}{policy_text(self.on_error)}"


def _writer(function: Callable[..., Any], schema: pa.Schema, returns: Any, what: str) -> RowWriter:
    """The writer of a function's results."""
    optional = optional_keys(result_of(function, returns))
    return RowWriter(schema, f"{what} {function_name(function)}", optional)


class _GuardedOperator(Operator):
    """What the operators of functions have in common.

    Args:
        errors: What becomes of rows that fail.
    """

    def __init__(self, errors: RowErrors) -> None:
        self._errors = errors

    def open(self, context: OperatorContext) -> None:
        """Make the policy ready."""
        self._errors.open(context)

    def close(self) -> None:
        """Say what was not said yet."""
        self._errors.close()


class MapRowsOperator(_GuardedOperator):
    """Runs a `MapRows`."""

    def __init__(self, errors: RowErrors, calls: GuardedCalls, writer: RowWriter) -> None:
        super().__init__(errors)
        self._calls = calls
        self._writer = writer

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function for every row."""
        parts: list[Arrays] = []
        for chunk in self._calls.chunks(batch):
            parts += self._calls.written(self._writer, self._calls.results(chunk), chunk)
        out.emit(_joined(parts, self._writer.schema))
        self._errors.send(batch, out)


def _joined(parts: list[Arrays], schema: pa.Schema) -> pa.RecordBatch:
    """One batch of the columns of several chunks."""
    if not parts:
        return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    columns = [pa.concat_arrays(pieces) for pieces in zip(*parts, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class FlatMapRowsOperator(_GuardedOperator):
    """Runs a `FlatMapRows`. Output is cut into batches of some ten thousand rows."""

    def __init__(self, errors: RowErrors, calls: GuardedCalls, writer: RowWriter) -> None:
        super().__init__(errors)
        self._calls = calls
        self._writer = writer

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function for every row, and gather what it yields."""
        parts: list[Arrays] = []
        rows_held = 0
        for chunk in self._calls.chunks(batch):
            written = list(self._calls.written(self._writer, self._calls.gathered(chunk), chunk))
            parts += written
            rows_held += sum(len(arrays[0]) for arrays in written)
            if rows_held >= _BATCH_ROWS_MAX:
                out.emit(_joined(parts, self._writer.schema))
                parts, rows_held = [], 0
        if rows_held:
            out.emit(_joined(parts, self._writer.schema))
        self._errors.send(batch, out)


class FilterRowsOperator(_GuardedOperator):
    """Runs a `FilterRows`."""

    def __init__(self, errors: RowErrors, calls: GuardedCalls) -> None:
        super().__init__(errors)
        self._calls = calls

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Ask the function for every row; pass the rows' own columns on."""
        kept = np.zeros(batch.num_rows, np.bool_)
        for chunk in self._calls.chunks(batch):
            results = self._calls.results(chunk)
            rows = results.rows
            kept[rows if isinstance(rows, list) else slice(rows[0], rows[-1] + 1)] = self._answers(results, chunk)
        count = int(kept.sum())
        if count == batch.num_rows:
            out.emit(batch)
        elif count:
            out.emit(batch.filter(pa.array(kept)))
        self._errors.send(batch, out)

    def _answers(self, results: Results, chunk: Chunk) -> npt.NDArray[np.bool_]:
        count = len(results.values)
        try:
            return np.fromiter(map(bool, results.values), np.bool_, count)
        except Exception:
            answers = map(self._answer, results.values, results.rows, repeat(chunk))
            return np.fromiter(answers, np.bool_, count)

    def _answer(self, value: Any, row: int, chunk: Chunk) -> bool:
        """Whether a result is true; what cannot say so (an array) fails its row."""
        try:
            return bool(value)
        except Exception as error:
            problem = TypeError(f"it returned {value!r}, which is neither true nor false: {error}")
            answer = self._calls.settle(problem, chunk, row, self._calls.call_for_answer)
            return answer is not FAILED and bool(answer)


class MapBatchesOperator(_GuardedOperator):
    """Runs a `MapBatches`. Where it fails on a batch and some rows may fail, it is called for ever smaller parts."""

    def __init__(self, function: Callable[[pa.RecordBatch], Any], schema: pa.Schema, errors: RowErrors) -> None:
        super().__init__(errors)
        self._function = function
        self._checker = BatchChecker(function, schema)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function, and check what it returns."""
        for part in self._results(batch):
            if part.num_rows:
                out.emit(part)
        self._errors.send(batch, out)

    def _results(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        try:
            return self._called(batch)
        except LakewardError as error:
            result = self._errors.retried(error, lambda: self._called(batch))
            return self._sorted_out(batch, 0, result) if isinstance(result, LakewardError) else result

    def _sorted_out(self, batch: pa.RecordBatch, first: int, error: LakewardError) -> list[pa.RecordBatch]:
        """The results without the rows that fail, which are found by halving; `first` is the part's first row."""
        if not batch.num_rows:
            raise error  # no row is at fault
        if batch.num_rows == 1:
            self._errors.note(error.about(FailedRow(failed_row(batch, 0).value, first)))
            return []
        half = batch.num_rows // 2
        found: list[pa.RecordBatch] = []
        for part, start in ((batch.slice(0, half), first), (batch.slice(half), first + half)):
            try:
                found += self._called(part)
            except UserCodeError as failure:
                found += self._sorted_out(part, start, failure)
        return found

    def _called(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        try:
            result = self._function(batch)
        except LakewardError:
            raise
        except Exception as error:
            raise call_error(self._function, error, f"a batch of {batch.num_rows} rows", ROW_HINT) from error
        return self._checker.checked(result)


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
                trace=definition(self._function),
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
            trace=definition(self._function),
        )
