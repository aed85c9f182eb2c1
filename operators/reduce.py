"""`reduce`: a Python function that folds the rows of a key, rolling or a window; the slow road, row by row.

The state is the accumulated row, one column a field, so that a savepoint shows it as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.state import ColumnSpec, Pane, StateTable, TableSpec
from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.function_names import code_location, function_name
from lakeward.operators.rows import RowReader
from lakeward.operators.windows.assigners import WindowAssigner
from lakeward.operators.windows.columns import Mask, Rows, is_fixed, storage_type, to_arrow, to_numpy
from lakeward.operators.windows.operator import (
    ALL_KEY,
    WindowConfig,
    WindowOperator,
    check_time_column,
    key_types,
)
from lakeward.operators.windows.panes import KeyFilter, KeyTypes, PaneRows, PaneState, Result, rebatch, scan_pane

Row = Mapping[str, Any]
ReduceFunction = Callable[[Row, Row], Row]
"""Takes the accumulated row and a new one, both as dicts, and returns the new accumulated row."""


class RowReducer:
    """Calls the function, and moves rows between Python dicts and state columns.

    Args:
        schema: Schema of the rows.
        keys: Names of the key columns, for errors.
        function: The user's function.
    """

    def __init__(self, schema: pa.Schema, keys: Sequence[str], function: ReduceFunction) -> None:
        self.schema = schema
        self._keys = keys
        self._function = function
        self._reader = RowReader(schema)

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
            result = self._function(dict(held), row)
        except Exception as error:
            raise self._error(f"raised {type(error).__name__}: {error}", row) from error
        if not isinstance(result, Mapping) or set(result) != set(self.schema.names):
            raise self._error(f"returned {result!r}, which is not a row of the columns {self.schema.names}", row)
        return result

    def _error(self, what: str, row: Row) -> UserCodeError:
        key = ", ".join(f"{column}={row[column]!r}" for column in self._keys) or "the whole stream"
        return UserCodeError(
            f"reduce {function_name(self._function)} {what}; key: {key}",
            hint="a reduce function takes two rows as dicts and returns a dict of the same columns",
            location=code_location(self._function),
        )

    def load(self, pane: Pane, slots: Rows) -> list[dict[str, Any]]:
        """The rows kept at these slots."""
        arrays = []
        for field in self.schema:
            given = pane.column(f"{field.name}#given")[slots]
            arrays.append(to_arrow(pane.column(f"{field.name}#value")[slots], field.type, given))
        return list(self._reader.rows(self.batch(arrays)))

    def store(self, pane: Pane, slots: Rows, rows: pa.RecordBatch) -> None:
        """Keep rows at these slots, all different."""
        for field, array in zip(self.schema, rows.columns, strict=True):
            pane.column(f"{field.name}#value")[slots] = to_numpy(array)
            pane.column(f"{field.name}#given")[slots] = array.is_valid().to_numpy(zero_copy_only=False)

    def batch(self, arrays: Sequence[pa.Array]) -> pa.RecordBatch:
        """A batch of the stream."""
        return pa.RecordBatch.from_arrays(list(arrays), schema=self.schema)

    def to_batch(self, rows: Sequence[Row]) -> pa.RecordBatch:
        """Rows as a batch.

        Raises:
            UserCodeError: A value does not fit its column; names function and column.
        """
        arrays = []
        for field in self.schema:
            try:
                arrays.append(pa.array([row[field.name] for row in rows], type=field.type))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
                culprit = next(row for row in rows if not _fits(row[field.name], field.type))
                what = f"returned {culprit[field.name]!r}, which does not fit '{field.name}' ({field.type})"
                raise self._error(what, culprit) from error
        return self.batch(arrays)

    def fold_batch(self, pane: Pane, slots: Rows, new: Mask, batch: pa.RecordBatch) -> list[Row]:
        """Fold a batch into a pane; returns the accumulated row after each input row."""
        known = np.unique(slots[~_new_slots(slots, new)])
        held: dict[int, Row] = dict(zip(known.tolist(), self.load(pane, known), strict=True))
        results: list[Row] = []
        for slot, row in zip(slots.tolist(), self._reader.rows(batch), strict=True):
            before = held.get(slot)
            held[slot] = row if before is None else self.fold(before, row)
            results.append(held[slot])
        self.store(pane, np.fromiter(held, dtype=np.int64, count=len(held)), self.to_batch(list(held.values())))
        return results


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.scalar(value, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def _new_slots(slots: Rows, new: Mask) -> Mask:
    """Which rows belong to keys that are new in this batch: the first row of the key says so, the others do not."""
    return np.isin(slots, slots[new])


class ReduceOperator(Operator):
    """One subtask of a rolling reduce.

    Args:
        keys: Name and type of the key columns.
        reducer: Calls the function.
    """

    def __init__(self, keys: KeyTypes, reducer: RowReducer) -> None:
        self._keys = keys
        self._reducer = reducer

    def open(self, context: OperatorContext) -> None:
        """Open the table of accumulated rows."""
        self._table = context.table(TableSpec("reduce", _prefixed(self._keys), self._reducer.columns))

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Fold each row into its key's, and emit the new accumulated row."""
        if not batch.num_rows:
            return
        keys = self._table.keys([plain(batch.column(name)) for name, _ in self._keys])
        pane = self._table.pane()
        slots, new = pane.insert(keys)
        rows = self._reducer.fold_batch(pane, slots, new, batch)
        out.emit(self._reducer.to_batch(rows))


def plain(array: pa.Array) -> pa.Array:
    """The array, its dictionary resolved if it has one."""
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _prefixed(keys: KeyTypes) -> KeyTypes:
    """Key columns under names that no field of the row has."""
    return tuple((f"#{name}", kind) for name, kind in keys)


@dataclass(frozen=True, slots=True)
class Reduce(OperatorFactory):
    """Rolling reduce of a keyed stream: for every row, emits its key's accumulated row (the first one as it is).

    Args:
        keys: Key columns.
        schema: Schema of the stream, and of the result.
        function: Folds two rows, as dicts, into one; must not change its arguments.

    Guarantee: each row is folded exactly once into the state, over any number of restarts; the function itself may be
    called again for rows after the restored checkpoint.
    """

    keys: tuple[str, ...]
    schema: pa.Schema
    function: ReduceFunction

    def create(self) -> ReduceOperator:
        """Make the operator of one subtask."""
        return ReduceOperator(key_types(self.schema, self.keys), RowReducer(self.schema, self.keys, self.function))

    @property
    def description(self) -> str:
        """For `explain()`: "reduce by shop with function 'newest' (job.py:12)"."""
        return f"reduce by {', '.join(self.keys)} with {function_name(self.function)}"

    @property
    def vectorised(self) -> bool:
        """No: a Python function is called for each row."""
        return False

    @property
    def stateful(self) -> bool:
        """It keeps the accumulated rows."""
        return True


class ReducedPanes(PaneState):
    """Panes of accumulated rows; the panes of a window are folded in the order of time.

    Args:
        keys: Name and type of the key columns.
        reducer: Calls the function.
    """

    def __init__(self, keys: KeyTypes, reducer: RowReducer) -> None:
        self._spec = TableSpec("window", _prefixed(keys), reducer.columns)
        self._reducer = reducer

    def open(self, context: OperatorContext) -> None:
        """Open the table of accumulated rows."""
        self._table = context.table(self._spec)

    @property
    def table(self) -> StateTable:
        """The table of accumulated rows."""
        return self._table

    def read(self, batch: pa.RecordBatch) -> None:
        """Keep the batch for the `add` calls that follow."""
        self._batch = batch

    def add(self, rows: PaneRows) -> None:
        """Fold the rows into their pane."""
        pane = self._table.pane(rows.pane_us)
        slots, new = pane.insert(rows.keys)
        batch = self._batch if rows.rows is None else self._batch.take(pa.array(rows.rows))
        self._reducer.fold_batch(pane, slots, new, batch)

    def all_results(self, panes: Sequence[int], keep: KeyFilter | None) -> Iterator[Result]:
        """Fold each key's rows of all panes."""
        if len(panes) == 1:
            for batch in rebatch(scan_pane(self._table, panes[0], keep)):
                yield self._keys_of(batch), self._rows_of(batch).columns
            return
        # The keys are gathered first, then looked up pane by pane in bounded pieces.
        seen: set[tuple[Any, ...]] = set()
        for pane in panes:
            for batch in rebatch(scan_pane(self._table, pane, keep)):
                keys = list(zip(*(column.to_pylist() for column in self._keys_of(batch)), strict=True))
                rows = [i for i, key in enumerate(keys) if key not in seen]
                seen.update(keys)
                if rows:
                    yield self.results_of(panes, [c.take(pa.array(rows)) for c in self._keys_of(batch)])

    def results_of(self, panes: Sequence[int], keys: Sequence[pa.Array]) -> Result:
        """Look the keys up in each pane, and fold."""
        wanted = self._table.keys(keys)
        held: list[Row | None] = [None] * len(wanted)
        for pane_us in panes:
            pane = self._table.pane(pane_us)
            slots = pane.find(wanted)
            there = np.flatnonzero(slots >= 0)
            for i, row in zip(there.tolist(), self._reducer.load(pane, slots[there]), strict=True):
                before = held[i]
                held[i] = row if before is None else self._reducer.fold(before, row)
        return list(keys), self._reducer.to_batch([row for row in held if row is not None]).columns

    def _keys_of(self, batch: pa.RecordBatch) -> list[pa.Array]:
        return list(batch.columns[: len(self._spec.key)])

    def _rows_of(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        schema = self._reducer.schema
        arrays = [
            to_arrow(
                to_numpy(batch.column(f"{field.name}#value")),
                field.type,
                batch.column(f"{field.name}#given").to_numpy(zero_copy_only=False),
            )
            for field in schema
        ]
        return self._reducer.batch(arrays)

    def drop(self, pane_us: int) -> None:
        """Free a pane."""
        self._table.drop(pane_us)


@dataclass(frozen=True, slots=True)
class WindowReduce(OperatorFactory):
    """Reduce over tumbling or sliding windows: for each window and key, the rows folded into one of the same schema.

    Args:
        keys: Key columns; empty for windows over the whole stream, which must run with parallelism 1.
        schema: Schema of the stream, and of the result.
        time_column: The event-time column.
        window: The windows, as panes.
        function: Folds two rows, as dicts, into one; must be associative, since sliding windows fold panes.
        allowed_lateness_us: How long after a window's end rows still update it.
        late_tag: Side output for late rows.
    """

    keys: tuple[str, ...]
    schema: pa.Schema
    time_column: str
    window: WindowAssigner
    function: ReduceFunction
    allowed_lateness_us: int = 0
    late_tag: str | None = None

    def __post_init__(self) -> None:
        check_time_column(self.schema, self.time_column)

    def create(self) -> WindowOperator:
        """Make the operator of one subtask."""
        keys = key_types(self.schema, self.keys)
        config = WindowConfig(
            keys, self.time_column, self.window, self.allowed_lateness_us, self.late_tag, self.schema, False
        )
        return WindowOperator(config, ReducedPanes(keys or ALL_KEY, RowReducer(self.schema, self.keys, self.function)))

    @property
    def description(self) -> str:
        """For `explain()`: windows, keys and function."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"{self.window.description}{by}: reduce with {function_name(self.function)}"

    @property
    def vectorised(self) -> bool:
        """No: a Python function is called for each row."""
        return False

    @property
    def stateful(self) -> bool:
        """It keeps panes in state tables."""
        return True
