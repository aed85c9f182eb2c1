"""The keyed state of windows: one pane of a state table a stretch of time, results by slicing or merging panes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import Keys, StateTable, TableSpec
from lakeward.engine.core.hashing import hash_columns
from lakeward.operators.windows.accumulate import Accumulator, columns_of
from lakeward.operators.windows.columns import Mask, Rows, group_rows
from lakeward.operators.windows.running import RunningMerge
from lakeward.operators.windows.timed import ALL_KEY, key_arrays
from lakeward.operators.windows.timed import KeyTypes as KeyTypes

EMIT_ROWS_MAX = 65_536
"""Rows of one result batch."""

MERGE_ROWS_MAX = 2_000_000
"""State rows that are merged in memory at once; larger windows are merged in several passes over their keys."""

Result = tuple[list[pa.Array], list[pa.Array]]
"""Key columns and result columns of some keys."""

KeyFilter = Callable[[Sequence[pa.Array]], Mask]
"""Says which rows to keep, by their key columns."""


@dataclass(frozen=True, slots=True)
class PaneRows:
    """Rows of a batch that fall into one pane.

    Args:
        pane_us: Start of the pane, and its namespace in the state tables.
        keys: Their keys, hashed.
        rows: Their row numbers in the batch; None: all of it.
        times_us: Their event times.
    """

    pane_us: int
    keys: Keys
    rows: Rows | None
    times_us: Rows


class PaneState:
    """What a window operator keeps, whatever it computes: rows go into panes, results come out of lists of panes.

    All that is computed shares the slots of one lookup a batch and pane.

    Args:
        keys: Name and type of the key columns; empty for one constant key.
        accumulator: What is kept a key and pane.
        running: The merge of the last window's panes, which the next begins with; None: windows are merged anew.
    """

    def __init__(self, keys: KeyTypes, accumulator: Accumulator, running: RunningMerge | None = None) -> None:
        self._keys = keys
        keys = keys or ALL_KEY
        self._accumulator = accumulator
        self._spec = TableSpec("window", keys, accumulator.columns)
        self._width = len(keys)
        self._running = running

    def open(self, context: OperatorContext) -> None:
        """Open the state tables."""
        self._table = context.table(self._spec)
        if self._running is not None:
            self._running.open(context)
        self._accumulator.open(context, self._table)

    @property
    def table(self) -> StateTable:
        """The main table: it has a pane wherever there are rows."""
        return self._table

    def read(self, batch: pa.RecordBatch) -> None:
        """Make a batch's columns ready, once for all the `add` calls that follow."""
        self._accumulator.read(batch, key_arrays(self._keys, batch))

    def add(self, rows: PaneRows) -> None:
        """Add rows of the batch that was read last to their pane: one lookup, then a scatter a column."""
        pane = self._table.pane(rows.pane_us)
        slots = pane.slots(rows.keys)
        self._accumulator.add(pane.column, slots, rows.rows, rows.times_us, rows.pane_us)
        if self._running is not None and rows.pane_us in self._running:
            self._running.add(rows.keys, rows.rows, rows.times_us)

    def all_results(self, panes: Sequence[int], keep: KeyFilter | None) -> Iterator[Result]:
        """The results of every key that is in one of the panes (and is kept), in batches.

        One pane is read as it lies; several are merged.
        """
        if len(panes) == 1:
            yield from self._read_out(scan_pane(self._table, panes[0], keep))
            return
        if self._running is not None and keep is None:
            self._running.bring_to(panes, self._table)
            yield from self._read_out(self._running.scan())
            return
        passes = -(-sum(len(self._table.pane(pane)) for pane in panes) // MERGE_ROWS_MAX)
        for number in range(passes):
            kept = keep if passes == 1 else _one_of(passes, number, keep)
            parts = [batch for pane in panes for batch in scan_pane(self._table, pane, kept)]
            if parts:
                yield self._merged(parts, panes)

    def _read_out(self, batches: Iterator[pa.RecordBatch]) -> Iterator[Result]:
        for batch in rebatch(batches):
            yield self._keys_of(batch), self._accumulator.results(columns_of(batch))

    def _merged(self, parts: list[pa.RecordBatch], panes: Sequence[int]) -> Result:
        whole = pa.concat_batches(parts)
        all_keys = self._keys_of(whole)
        ids, firsts = group_rows(all_keys)
        keys = [array.take(pa.array(firsts)) for array in all_keys]
        into = self._accumulator.fresh(len(firsts)).__getitem__
        self._accumulator.merge(into, ids, columns_of(whole))
        self._accumulator.merge_sides(into, panes, keys)
        return keys, self._accumulator.results(into)

    def results_of(self, panes: Sequence[int], keys: Sequence[pa.Array]) -> Result:
        """The results of these keys, which are all different and all present."""
        wanted = self._table.keys(keys)
        into = self._accumulator.fresh(len(wanted)).__getitem__
        for pane_us in panes:
            pane = self._table.pane(pane_us)
            slots = pane.find(wanted)
            there = np.flatnonzero(slots >= 0)
            self._accumulator.merge(into, there, self._accumulator.at(pane.column, slots[there]).__getitem__)
        if len(panes) > 1:  # the counters of a single pane are right as they are
            self._accumulator.merge_sides(into, panes, keys)
        return list(keys), self._accumulator.results(into)

    def _keys_of(self, batch: pa.RecordBatch) -> list[pa.Array]:
        return list(batch.columns[: self._width])

    def drop(self, pane_us: int) -> None:
        """Free a pane."""
        if self._running is not None and pane_us in self._running:
            self._running.leave(pane_us, self._table)
        self._table.drop(pane_us)
        self._accumulator.drop(pane_us)

    def forget(self, pane_us: int, keys: Sequence[pa.Array]) -> None:
        """Free some keys of a pane."""
        self._accumulator.forget(pane_us, keys)
        self._table.pane(pane_us).remove(self._table.keys(keys))


def scan_pane(table: StateTable, pane_us: int, keep: KeyFilter | None) -> Iterator[pa.RecordBatch]:
    """The rows of a pane, filtered by their keys."""
    width = len(table.spec.key)
    for batch in table.pane(pane_us).scan():
        kept = batch if keep is None else batch.filter(pa.array(keep(batch.columns[:width])))
        if kept.num_rows:
            yield kept


def _one_of(passes: int, number: int, keep: KeyFilter | None) -> KeyFilter:
    """Keeps the keys of one pass, by their hash."""

    def chosen(keys: Sequence[pa.Array]) -> Mask:
        mask: Mask = hash_columns(keys) % np.uint64(passes) == np.uint64(number)
        return mask if keep is None else mask & keep(keys)

    return chosen


def rebatch(batches: Iterator[pa.RecordBatch], rows_max: int = EMIT_ROWS_MAX) -> Iterator[pa.RecordBatch]:
    """Join small batches and cut large ones, so that none has more than `rows_max` rows."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        for start in range(0, batch.num_rows, rows_max):
            piece = batch.slice(start, rows_max)
            if rows + piece.num_rows > rows_max:
                yield pa.concat_batches(held)
                held, rows = [], 0
            held.append(piece)
            rows += piece.num_rows
    if held:
        yield pa.concat_batches(held)
