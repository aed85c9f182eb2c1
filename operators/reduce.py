"""`reduce`: a Python function that folds the rows of a key; the slow road, row by row.

The state is the accumulated row, one column a field, so that a savepoint shows it as a table.
"""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory, RowFlow
from lakeward.engine.api.row_types import field_names, row_fields
from lakeward.engine.api.state import ColumnSpec, TableSpec
from lakeward.engine.core.errors import GraphError, LakewardError, UserCodeError
from lakeward.engine.core.redaction import FailedRow
from lakeward.engine.core.user_frames import user_trace
from lakeward.operators.aggregate import Fetch
from lakeward.operators.arguments import ROW_HINT, call_error, definition, making_error
from lakeward.operators.error_policy import FAIL, OnError, RowErrors, policy_text
from lakeward.operators.function_names import function_name
from lakeward.operators.grouping import plain
from lakeward.operators.guarded_folds import ROWS_A_PART, GuardedFolds, Held, Row, row_as_it_came
from lakeward.operators.rows import RowReader, fits, list_to_column
from lakeward.operators.signatures import row_class_of
from lakeward.operators.windows.columns import Rows, is_fixed, storage_type, to_arrow, to_numpy
from lakeward.operators.windows.timed import KeyTypes, key_types

ReduceFunction = Callable[[Row, Row], Row]
"""Takes the accumulated row and a new one, and returns the new accumulated row."""


_HINT = "a reduce function takes two rows and returns one of the same form, with all columns"


class RowReducer:
    """Calls the function, and moves rows between Python objects and state columns.

    Args:
        schema: Schema of the rows.
        keys: Names of the key columns, for errors.
        function: The user's function.
        hint: What else can be done about a row on which it raises.

    Raises:
        SchemaError: The class of its rows does not fit the schema.
        GraphError: It does not take two rows, or their class has not all columns.
    """

    def __init__(self, schema: pa.Schema, keys: Sequence[str], function: ReduceFunction, hint: str) -> None:
        self.schema = schema
        self._function = function
        self._hint = f"{_HINT}; {hint}"
        self._row_class = row_class_of(function)
        self._reader = RowReader(schema, self._row_class)
        self._dicts = self._row_class is None or issubclass(self._row_class, dict)
        getter = operator.itemgetter if self._dicts else operator.attrgetter
        self._getters = [getter(name) for name in schema.names]
        self._names = frozenset(schema.names)
        shallow: Callable[[Row], Row] = dict if self._dicts else copy.copy
        self._copy = copy.deepcopy if any(pa.types.is_nested(field.type) for field in schema) else shallow
        self._check_signature()

    def _check_signature(self) -> None:
        name = function_name(self._function)
        try:
            inspect.signature(self._function).bind(None, None)
        except TypeError as error:
            hint = "it gets the combined row so far and the next row"
            raise GraphError(f"reduce {name} cannot be called with two rows: {error}", hint=hint) from error
        except ValueError:  # a builtin without a signature
            return
        missing = [column for column in self.schema.names if column not in self._reader.columns]
        if missing and self._row_class is not None:
            raise GraphError(
                f"reduce {name} takes rows of {self._row_class.__qualname__}, which has no field {missing[0]!r}",
                hint="a reduced row has all columns of the stream: add the field, or .select(...) the others before",
            )

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """Two state columns a field: its value, and whether it is there."""
        specs: list[ColumnSpec] = []
        for field in self.schema:
            kind = storage_type(field.type)
            zero = np.zeros(1, dtype=kind.to_pandas_dtype())[0].item() if is_fixed(kind) else None
            specs += [
                ColumnSpec(f"{field.name}#value", kind, zero),
                ColumnSpec(f"{field.name}#given", pa.bool_(), False),
            ]
        return tuple(specs)

    def fold(self, held: Row, row: Row) -> Row:
        """One call of the function.

        Raises:
            UserCodeError: It raised, or returned something that is not a row of the stream.
        """
        try:
            # A copy: a function that changes its first argument must not change the row that was already sent.
            result = self._function(self._copy(held), row)
        except LakewardError as error:
            error.trace = error.trace or user_trace(error) or definition(self._function)
            raise error.about(FailedRow(row)) from error.__cause__
        except Exception as error:
            failure = call_error(self._function, error, hint=self._hint, row=FailedRow(row))
            failure.rows += (FailedRow(held, label="folded so far"),)
            raise failure from error
        if type(result) is self._row_class:  # not only for the error: the check of a mapping costs more than the call
            return result
        if self._row_class is not None and not self._dicts:
            return self._of_class(self._row_class, result, row)
        if not (type(result) is dict or isinstance(result, Mapping)) or result.keys() != self._names:
            what = f"returned what is not a row of the columns {self.schema.names}"
            raise self._error(what, row, result)
        return result

    def _of_class(self, row_class: type, result: Row, row: Row) -> Row:
        """What was returned as a row of the class itself, as which it also comes back from the state."""
        if not isinstance(result, row_class):
            raise self._error("returned what is not a row of the class that it takes", row, result)
        names = field_names(row_class)
        more = [name for name in field_names(type(result)) if name not in names]
        if more:
            what = f"returned a {type(result).__qualname__}; {row_class.__qualname__} has no field {more[0]!r}"
            hint = "what is in other fields would not be kept: return the class that it takes"
            raise self._error(what, row, result, hint)
        return row_class(**{name: getattr(result, name) for name in row_fields(row_class)})

    def _error(
        self, what: str, row: Row | None, result: Any, hint: str = _HINT, index: int | None = None
    ) -> UserCodeError:
        rows = [FailedRow(row)] if row is not None else []
        return UserCodeError(
            f"reduce {function_name(self._function)} {what}",
            hint=hint,
            rows=[*rows, FailedRow(result, index, label="result")],
            trace=definition(self._function),
        )

    def refuse_changes(self, before: pa.RecordBatch, after: pa.RecordBatch, columns: Sequence[str]) -> None:
        """Check that the function has left some columns as they were.

        Args:
            before: Rows.
            after: What was made of them, in the same order.
            columns: Their names.

        Raises:
            UserCodeError: It has not; names the column.
        """
        for name in columns:
            old, new = before.column(name), after.column(name)
            pairs = () if old.equals(new) else zip(old.to_pylist(), new.to_pylist(), strict=True)
            for row, (one, other) in enumerate(pairs):
                if not _same(one, other):
                    what = f"changed {name!r}"
                    hint = (
                        "with a trigger, results replace each other by key and window: leave their columns as they are"
                    )
                    raise self._error(what, next(self.rows(before.slice(row, 1))), {name: other}, hint)

    def load(self, fetch: Fetch, slots: Rows) -> pa.RecordBatch:
        """The rows kept at these slots of the columns that `fetch` gives."""
        arrays = []
        for field in self.schema:
            given = fetch(f"{field.name}#given")[slots]
            arrays.append(to_arrow(fetch(f"{field.name}#value")[slots], field.type, given))
        return self.batch(arrays)

    def store(self, fetch: Fetch, slots: Rows, rows: pa.RecordBatch) -> None:
        """Keep rows at these slots, all different."""
        for field, array in zip(self.schema, rows.columns, strict=True):
            fetch(f"{field.name}#value")[slots] = to_numpy(array)
            fetch(f"{field.name}#given")[slots] = array.is_valid().to_numpy(zero_copy_only=False)

    def rows(self, batch: pa.RecordBatch) -> Iterator[Row]:
        """The rows of a batch, as the function gets them.

        Raises:
            UserCodeError: The class that they are of refuses one.
        """
        chunks = self._reader.chunks(batch)
        while True:
            try:
                chunk = next(chunks, None)
            except LakewardError:
                raise
            except Exception as error:
                raise making_error(self._function, error) from error
            if chunk is None:
                return
            yield from chunk

    def batch(self, arrays: Sequence[pa.Array]) -> pa.RecordBatch:
        """A batch of the stream."""
        return pa.RecordBatch.from_arrays(list(arrays), schema=self.schema)

    def to_batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """Rows as a batch.

        Raises:
            UserCodeError: A value does not fit its column; names function and column, and which row it is.
        """
        arrays = []
        for field, get in zip(self.schema, self._getters, strict=True):
            values = list(map(get, rows))
            try:
                arrays.append(list_to_column(values, field.type))
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                wrong = next(i for i, value in enumerate(values) if not fits(value, field.type))
                what = f"returned what does not fit '{field.name}' ({field.type})"
                raise self._error(what, None, rows[wrong], index=wrong) from error
        return self.batch(arrays)


def _same(one: Any, other: Any) -> bool:
    """Whether values are equal; NaN is equal to NaN."""
    return bool(one == other) or (one != one and other != other)


class ReduceOperator(Operator):
    """One subtask of a rolling reduce.

    Args:
        keys: Name and type of the key columns.
        reducer: Calls the function.
        errors: What becomes of rows on which it fails.
    """

    def __init__(self, keys: KeyTypes, reducer: RowReducer, errors: RowErrors) -> None:
        self._keys = keys
        self._reducer = reducer
        self._errors = errors
        self._folded = self._all_folded if errors.policy == FAIL else GuardedFolds(reducer, errors).folded

    def open(self, context: OperatorContext) -> None:
        """Open the table of accumulated rows."""
        self._errors.open(context)
        self._table = context.table(TableSpec("reduce", _prefixed(self._keys), self._reducer.columns))

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Fold each row into its key's, and emit the new accumulated row."""
        if not batch.num_rows:
            return
        keys = self._table.keys([plain(batch.column(name)) for name, _ in self._keys])
        pane, reducer = self._table.pane(), self._reducer
        slots, new = pane.insert(keys)
        known = np.setdiff1d(slots, slots[new])
        held: Held = dict(zip(known.tolist(), reducer.rows(reducer.load(pane.column, known)), strict=True))
        results = self._folded(held, slots.tolist(), batch)
        last = np.fromiter(held, dtype=np.int64, count=len(held))
        reducer.store(pane.column, last, reducer.to_batch(list(held.values())))
        unheld = np.flatnonzero(new & ~np.isin(slots, last))
        if len(unheld):  # no row of theirs went through: the next one is their first
            pane.remove(self._table.keys([plain(batch.column(name)).take(pa.array(unheld)) for name, _ in self._keys]))
        if results.num_rows:
            out.emit(results)
        self._errors.send(batch, out)

    def close(self) -> None:
        """Say what was not said yet."""
        self._errors.close()

    def _all_folded(self, held: Held, slots: Sequence[int], batch: pa.RecordBatch) -> pa.RecordBatch:
        """The accumulated row of each row's key behind it; `held` has the last ones then.

        Raises:
            UserCodeError: The function fails for a row of the batch; says which.
        """
        reducer, fold = self._reducer, self._reducer.fold
        results: list[Row] = []
        parts: list[pa.RecordBatch] = []
        try:
            for slot, row in zip(slots, reducer.rows(batch), strict=True):
                before = held.get(slot)
                held[slot] = result = row if before is None else fold(before, row)
                results.append(result)
                if len(results) == ROWS_A_PART:
                    parts.append(reducer.to_batch(results))
                    results = []
            return pa.concat_batches([*parts, reducer.to_batch(results)])
        except UserCodeError as error:
            _place(error, reducer, batch, len(parts) * ROWS_A_PART, len(results))
            raise


def _place(error: UserCodeError, reducer: RowReducer, batch: pa.RecordBatch, first: int, done: int) -> None:
    """Say which row of the batch is at fault: one of the part that begins at `first`, or the row behind those done."""
    if not error.rows:  # it could not be made
        return
    row = error.rows[0]
    if row.index is None:
        row_as_it_came(error, reducer, batch, first + done)
    else:
        error.rows = (replace(row, index=first + row.index), *error.rows[1:])


def _prefixed(keys: KeyTypes) -> KeyTypes:
    """Key columns under names that no field of the row has."""
    return tuple((f"#{name}", kind) for name, kind in keys)


@dataclass(frozen=True, slots=True)
class Reduce(OperatorFactory):
    """Rolling reduce of a keyed stream: for every row, emits its key's accumulated row (the first one as it is).

    Args:
        keys: Key columns.
        schema: Schema of the stream, and of the result.
        function: Folds two rows into one.
        on_error: What becomes of rows on which it fails: they change nothing, and nothing is sent for them.

    Guarantee: each row is folded exactly once into the state, over any number of restarts; the function itself may be
    called again for rows after the restored checkpoint.
    """

    keys: tuple[str, ...]
    schema: pa.Schema
    function: ReduceFunction
    on_error: OnError = FAIL

    def __post_init__(self) -> None:
        self._reducer()
        self._errors()

    def _reducer(self) -> RowReducer:
        return RowReducer(self.schema, self.keys, self.function, ROW_HINT)

    def _errors(self) -> RowErrors:
        return RowErrors(self.on_error, self.schema)

    def create(self) -> ReduceOperator:
        """Make the operator of one subtask."""
        return ReduceOperator(key_types(self.schema, self.keys), self._reducer(), self._errors())

    @property
    def description(self) -> str:
        """For `explain()`: "reduce by shop with function 'newest' (job.py:12)"."""
        return f"reduce by {', '.join(self.keys)} with {function_name(self.function)}{policy_text(self.on_error)}"

    @property
    def vectorised(self) -> bool:
        """No: a Python function is called for each row."""
        return False

    @property
    def stateful(self) -> bool:
        """It keeps the accumulated rows."""
        return True

    @property
    def row_flow(self) -> RowFlow:
        """A row for every row, unless some are left out."""
        return RowFlow(one_to_one=self.on_error.last == "fail")
