"""`reduce` over windows of any kind: a Python function that folds the rows of each key and window into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import updating
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.state import ColumnSpec, SlotArray
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.aggregate import Fetch
from lakeward.operators.function_names import function_name
from lakeward.operators.guarded_folds import Row
from lakeward.operators.reduce import ReduceFunction, RowReducer
from lakeward.operators.windows.accumulate import Accumulator
from lakeward.operators.windows.assigners import CarriedAssigner, PaneAssigner
from lakeward.operators.windows.columns import Rows
from lakeward.operators.windows.count_operator import CountAssigner, CountConfig, CountOperator
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.early_counts import EarlyCountOperator
from lakeward.operators.windows.early_sessions import EarlySessionOperator
from lakeward.operators.windows.operator import EarlyWindowOperator, WindowConfig, WindowOperator
from lakeward.operators.windows.panes import PaneState
from lakeward.operators.windows.session_operator import SessionAssigner, SessionConfig, SessionOperator
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START, check_time_column, key_types, time_type

_ROWS_HINT = "handle such rows in the function, or have whole windows: .process(function, on_error=lw.OnError.skip())"

HELD = "#held"
"""Whether there is a row at all."""


class Reduction(Accumulator):
    """Rows folded into one by a function. The first row of a slot is kept as it is; only others are Python objects.

    Args:
        reducer: Calls the function.
        known_by: Columns of the rows that tell results apart. The function must leave them as they are, and they are
            not among the results' columns: whoever sends these has them.
    """

    def __init__(self, reducer: RowReducer, known_by: Sequence[str] = ()) -> None:
        self._reducer = reducer
        self._known_by = known_by
        self.columns = (ColumnSpec(HELD, pa.bool_(), False), *reducer.columns)

    def read(self, batch: pa.RecordBatch, keys: Sequence[pa.Array] = ()) -> None:
        """Keep the rows of the batch."""
        self._batch = batch.select(self._reducer.schema.names)

    def add(self, fetch: Fetch, slots: SlotArray, rows: Rows | None, times_us: Rows, namespace: int = 0) -> None:
        """Fold rows of the batch that was read last, in their order."""
        self._accumulate(fetch, slots, self._batch if rows is None else self._batch.take(pa.array(rows)))

    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Fold rows that were folded from others, in their order."""
        there = np.flatnonzero(part(HELD))
        if len(there):
            self._accumulate(into, ids[there], self._reducer.load(part, there))

    def _accumulate(self, into: Fetch, ids: Rows, batch: pa.RecordBatch) -> None:
        held = into(HELD)
        _, firsts = np.unique(ids, return_index=True)
        firsts = firsts[~held[ids[firsts]]]
        if len(firsts):
            self._reducer.store(into, ids[firsts], batch.take(pa.array(firsts)))
            held[ids[firsts]] = True
        if len(firsts) < len(ids):
            rest = np.setdiff1d(np.arange(len(ids)), firsts)
            self._fold(into, ids[rest], batch.take(pa.array(rest)))

    def _fold(self, into: Fetch, ids: Rows, batch: pa.RecordBatch) -> None:
        """Fold rows into what is held; something is at each of these places."""
        reducer = self._reducer
        places = np.unique(ids)
        before = reducer.load(into, places)
        held: dict[int, Row] = dict(zip(places.tolist(), reducer.rows(before), strict=True))
        for place, row in zip(ids.tolist(), reducer.rows(batch), strict=True):
            held[place] = reducer.fold(held[place], row)
        after = reducer.to_batch(list(held.values()))
        reducer.refuse_changes(before, after, self._known_by)
        reducer.store(into, places, after)

    def results(self, fetch: Fetch) -> list[pa.Array]:
        """The folded rows' columns, without those that they are known by."""
        rows = self._reducer.load(fetch, np.arange(len(fetch(HELD))))
        return [rows.column(name) for name in rows.schema.names if name not in self._known_by]


@dataclass(frozen=True, slots=True)
class WindowReduce(OperatorFactory):
    """Reduce over windows: for each window and key, the rows folded into one.

    Without a trigger the results are rows like the input's. With one they have to tell windows apart: they have the key
    columns, the bounds of the window (of windows that have bounds), and the rows' other columns, as aggregates do.

    Args:
        keys: Key columns; empty for windows over the whole stream, which must run with parallelism 1.
        input_schema: Schema of the input.
        time_column: The event-time column; empty for windows that go by no event time.
        window: The windows.
        function: Folds two rows into one; must be associative, since panes and sessions are folded, and
            commutative where the order of arrival is not that of time.
        allowed_lateness_us: How long after a window's end rows still update it.
        late_tag: Side output for late rows.
        trigger: When windows send results before their end; unless it discards, the output is then an updating stream.
        columns: Those of the input that the rows have which the function gets; empty: all.

    Raises:
        SchemaError: A column is missing, has a wrong type, or the result has two of one name.
        GraphError: The function does not take two rows.
    """

    keys: tuple[str, ...]
    input_schema: pa.Schema
    time_column: str
    window: PaneAssigner | SessionAssigner | CountAssigner
    function: ReduceFunction
    allowed_lateness_us: int = 0
    late_tag: str | None = None
    trigger: Trigger | None = None
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_time_column(self.input_schema, self.time_column)
        self._reduction()
        twice = [name for name in self._plain_schema.names if self._plain_schema.names.count(name) > 1]
        if twice:
            hint = f'give the column of the rows another name: .rename({{"{twice[0]}": "..."}})'
            raise SchemaError(
                f"with a trigger, the rows of reduce get a column '{twice[0]}', and they have one", hint=hint
            )

    @property
    def schema(self) -> pa.Schema:
        """Schema of the results."""
        updates = self.trigger is not None and not self.trigger.discarding
        return updating(self._plain_schema) if updates else self._plain_schema

    @property
    def _plain_schema(self) -> pa.Schema:
        if self.trigger is None:
            return self._row_schema
        rest = [field for field in self._row_schema if field.name not in self._known_by]
        keys = [self.input_schema.field(name) for name in self.keys]
        kind = time_type(self.input_schema, self.time_column)
        return pa.schema([*keys, *(pa.field(name, kind, nullable=False) for name in self._bounds), *rest])

    @property
    def _row_schema(self) -> pa.Schema:
        names = self.columns or self.input_schema.names
        return pa.schema([self.input_schema.field(name) for name in names])

    @property
    def _bounds(self) -> tuple[str, ...]:
        """The columns that a result gets beside the keys to say which window it is of."""
        if isinstance(self.window, CountAssigner):
            return ()
        return (
            (WINDOW_START, WINDOW_END) if isinstance(self.window, SessionAssigner) else tuple(self.window.bounds_us(0))
        )

    @property
    def _known_by(self) -> tuple[str, ...]:
        """The columns of the rows that say which key and window they are of; none are needed without a trigger."""
        if self.trigger is None:
            return ()
        return (*self.keys, *(self._bounds if isinstance(self.window, CarriedAssigner) else ()))

    def _reduction(self) -> Reduction:
        return Reduction(RowReducer(self._row_schema, self.keys, self.function, _ROWS_HINT), self._known_by)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        keys, window, trigger = key_types(self.input_schema, self.keys), self.window, self.trigger
        reduction, schema, early = self._reduction(), self._plain_schema, trigger is not None
        lateness_us, tag = self.allowed_lateness_us, self.late_tag
        if isinstance(window, CountAssigner):
            counts = CountConfig(keys, self.time_column, window, schema, early)
            return EarlyCountOperator(counts, reduction, trigger) if trigger else CountOperator(counts, reduction)
        if isinstance(window, SessionAssigner):
            sessions = SessionConfig(keys, self.time_column, window, lateness_us, tag, schema, early)
            return (
                EarlySessionOperator(sessions, reduction, trigger) if trigger else SessionOperator(sessions, reduction)
            )
        config = WindowConfig(keys, self.time_column, window, lateness_us, tag, schema, early, trigger)
        state = PaneState(keys, reduction)
        return EarlyWindowOperator(config, state) if trigger else WindowOperator(config, state)

    @property
    def description(self) -> str:
        """For `explain()`: windows, keys and function."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        early = f" ({self.trigger.description})" if self.trigger else ""
        return f"{self.window.description}{early}{by}: reduce with {function_name(self.function)}"

    @property
    def vectorised(self) -> bool:
        """No: a Python function is called for each row."""
        return False

    @property
    def stateful(self) -> bool:
        """It keeps open windows in state tables."""
        return True
