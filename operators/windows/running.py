"""A running merge of panes: the state of the window that fired last, from which the next one is few steps away.

Windows that overlap share most of their panes. Instead of merging all panes for each window, the panes that are new are
added to the merge, and those that have left it are subtracted. That is exact for counts and sums of whole numbers and
decimals; others (floats, extremes, sets) only ever grow, which is enough for cumulative windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import Keys, StateTable, TableSpec
from lakeward.operators.aggregate import ROWS
from lakeward.operators.windows.accumulate import Aggregates, columns_of
from lakeward.operators.windows.columns import Rows
from lakeward.operators.windows.timed import KeyTypes


class RunningMerge:
    """Several panes merged into one table. It follows from the panes, so a restored job makes it anew.

    Args:
        keys: Name and type of the key columns.
        aggregates: What is kept a key.
        additive: Whether panes can be subtracted.
    """

    def __init__(self, keys: KeyTypes, aggregates: Aggregates, additive: bool) -> None:
        self._spec = TableSpec("running", keys, aggregates.columns)
        self._width = len(keys)
        self._aggregates = aggregates
        self._additive = additive
        self._panes: set[int] = set()

    def open(self, context: OperatorContext) -> None:
        """Open the table, empty."""
        self._table = context.table(self._spec)
        self._reset()

    def _reset(self) -> None:
        self._panes.clear()
        for namespace in self._table.namespaces():
            self._table.drop(namespace)

    def __contains__(self, pane_us: int) -> bool:
        return pane_us in self._panes

    def bring_to(self, panes: Sequence[int], source: StateTable) -> None:
        """Make it the merge of exactly these panes of a table."""
        gone = self._panes.difference(panes)
        if gone and (not self._additive or len(gone) >= len(panes)):
            self._reset()
        for pane_us in sorted(gone & self._panes):
            self.leave(pane_us, source)
        for pane_us in panes:
            if pane_us not in self._panes:
                self._enter(pane_us, source)

    def _enter(self, pane_us: int, source: StateTable) -> None:
        self._panes.add(pane_us)
        for batch in source.pane(pane_us).scan():
            pane = self._table.pane()
            slots = pane.slots(self._table.keys(batch.columns[: self._width]))
            self._aggregates.merge(pane.column, slots, columns_of(batch))

    def leave(self, pane_us: int, source: StateTable) -> None:
        """Take a pane out again."""
        if not self._additive or len(self._panes) == 1:
            self._reset()
            return
        self._panes.remove(pane_us)
        for batch in source.pane(pane_us).scan():
            pane = self._table.pane()
            keys = self._table.keys(batch.columns[: self._width])
            slots = pane.slots(keys)
            self._aggregates.subtract(pane.column, slots, columns_of(batch))
            empty = np.flatnonzero(pane.column(ROWS)[slots] == 0)
            if len(empty):
                pane.remove(keys.take(empty))

    def add(self, keys: Keys, rows: Rows | None, times_us: Rows) -> None:
        """Add rows that come to a pane which is in it already."""
        pane = self._table.pane()
        slots = pane.slots(keys)
        self._aggregates.add(pane.column, slots, rows, times_us)

    def scan(self) -> Iterator[pa.RecordBatch]:
        """Its rows: key columns, then state columns."""
        return self._table.pane().scan()
