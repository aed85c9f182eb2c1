"""`reduce` over windows of any kind: a Python function that folds the rows of each key and window into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.state import ColumnSpec, SlotArray
from lakeward.operators.aggregate import Fetch
from lakeward.operators.function_names import function_name
from lakeward.operators.reduce import ReduceFunction, Row, RowReducer
from lakeward.operators.windows.accumulate import Accumulator
from lakeward.operators.windows.assigners import PaneAssigner
from lakeward.operators.windows.columns import Rows
from lakeward.operators.windows.count_operator import CountAssigner, CountConfig, CountOperator
from lakeward.operators.windows.operator import WindowConfig, WindowOperator
from lakeward.operators.windows.panes import PaneState
from lakeward.operators.windows.session_operator import SessionAssigner, SessionConfig, SessionOperator
from lakeward.operators.windows.timed import check_time_column, key_types

HELD = "#held"
"""Whether there is a row at all."""


class Reduction(Accumulator):
    """Rows folded into one by a function. The first row of a slot is kept as it is; only others are Python objects.

    Args:
        reducer: Calls the function.
    """

    def __init__(self, reducer: RowReducer) -> None:
        self._reducer = reducer
        self.columns = (ColumnSpec(HELD, pa.bool_(), False), *reducer.columns)

    def read(self, batch: pa.RecordBatch, keys: Sequence[pa.Array] = ()) -> None:
        """Keep the batch."""
        self._batch = batch

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
        held: dict[int, Row] = dict(zip(places.tolist(), reducer.rows(reducer.load(into, places)), strict=True))
        for place, row in zip(ids.tolist(), reducer.rows(batch), strict=True):
            held[place] = reducer.fold(held[place], row)
        reducer.store(into, places, reducer.to_batch(list(held.values())))

    def results(self, fetch: Fetch) -> list[pa.Array]:
        """The folded rows' columns."""
        columns: list[pa.Array] = self._reducer.load(fetch, np.arange(len(fetch(HELD)))).columns
        return columns


@dataclass(frozen=True, slots=True)
class WindowReduce(OperatorFactory):
    """Reduce over windows: for each window and key, the rows folded into one of the same schema.

    Args:
        keys: Key columns; empty for windows over the whole stream, which must run with parallelism 1.
        schema: Schema of the stream, and of the result.
        time_column: The event-time column; empty for windows that go by no event time.
        window: The windows.
        function: Folds two rows into one; must be associative, since panes and sessions are folded, and
            commutative where the order of arrival is not that of time.
        allowed_lateness_us: How long after a window's end rows still update it.
        late_tag: Side output for late rows.
    """

    keys: tuple[str, ...]
    schema: pa.Schema
    time_column: str
    window: PaneAssigner | SessionAssigner | CountAssigner
    function: ReduceFunction
    allowed_lateness_us: int = 0
    late_tag: str | None = None

    def __post_init__(self) -> None:
        check_time_column(self.schema, self.time_column)
        self._reduction()

    def _reduction(self) -> Reduction:
        return Reduction(RowReducer(self.schema, self.keys, self.function))

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        keys, window = key_types(self.schema, self.keys), self.window
        reduction = self._reduction()
        lateness_us, tag = self.allowed_lateness_us, self.late_tag
        if isinstance(window, CountAssigner):
            return CountOperator(CountConfig(keys, self.time_column, window, self.schema, False), reduction)
        if isinstance(window, SessionAssigner):
            sessions = SessionConfig(keys, self.time_column, window, lateness_us, tag, self.schema, False)
            return SessionOperator(sessions, reduction)
        config = WindowConfig(keys, self.time_column, window, lateness_us, tag, self.schema, False)
        return WindowOperator(config, PaneState(keys, reduction))

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
        """It keeps open windows in state tables."""
        return True
