"""The keyed state of windows: one pane of a state table a stretch of time, results by slicing or merging panes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, Keys, StateTable, TableSpec
from lakeward.engine.core.hashing import hash_columns
from lakeward.operators.aggregate import (
    ROWS,
    BoundAggregate,
    Fetch,
    aggregate_function,
)
from lakeward.operators.windows.columns import (
    InputColumn,
    Mask,
    Rows,
    Values,
    as_objects,
    group_rows,
    is_fixed,
    to_numpy,
)

EMIT_ROWS_MAX = 65_536
"""Rows of one result batch."""

MERGE_ROWS_MAX = 2_000_000
"""State rows that are merged in memory at once; larger windows are merged in several passes over their keys."""

KeyTypes = tuple[tuple[str, pa.DataType], ...]
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


class PaneState(ABC):
    """What a window operator keeps, whatever it computes: rows go into panes, results come out of lists of panes."""

    @abstractmethod
    def open(self, context: OperatorContext) -> None:
        """Open the state tables."""

    @property
    @abstractmethod
    def table(self) -> StateTable:
        """The main table: it has a pane wherever there are rows."""

    @abstractmethod
    def read(self, batch: pa.RecordBatch) -> None:
        """Make a batch's columns ready, once for all the `add` calls that follow."""

    @abstractmethod
    def add(self, rows: PaneRows) -> None:
        """Add rows of the batch that was read last to their pane."""

    @abstractmethod
    def all_results(self, panes: Sequence[int], keep: KeyFilter | None) -> Iterator[Result]:
        """The results of every key that is in one of the panes (and is kept), in batches."""

    @abstractmethod
    def results_of(self, panes: Sequence[int], keys: Sequence[pa.Array]) -> Result:
        """The results of these keys, which are all different and all present."""

    @abstractmethod
    def drop(self, pane_us: int) -> None:
        """Free a pane."""


class AggregatedPanes(PaneState):
    """Panes of aggregates: all aggregates share the slots of one lookup a batch and pane.

    Args:
        keys: Name and type of the key columns.
        aggregates: What to compute.
    """

    def __init__(self, keys: KeyTypes, aggregates: Sequence[BoundAggregate]) -> None:
        self._functions = [aggregate_function(bound) for bound in aggregates]
        columns = [spec for function in self._functions for spec in function.columns]
        self._spec = TableSpec("window", keys, (ColumnSpec(ROWS, pa.int64(), 0), *columns))
        self._names = [name for name, _ in keys]
        self._inputs: dict[str, InputColumn] = {}

    def open(self, context: OperatorContext) -> None:
        """Open the table of aggregates."""
        self._table = context.table(self._spec)
        empty = not self._table.namespaces()
        for function in self._functions:
            function.opened(empty)

    @property
    def table(self) -> StateTable:
        """The table of aggregates."""
        return self._table

    def read(self, batch: pa.RecordBatch) -> None:
        """Look at the input columns, each once."""
        names = {function.bound.column for function in self._functions if function.bound.column is not None}
        self._inputs = {name: InputColumn.of(batch.column(name)) for name in names}

    def add(self, rows: PaneRows) -> None:
        """One lookup, then one scatter an aggregate."""
        pane = self._table.pane(rows.pane_us)
        slots = pane.slots(rows.keys)
        np.add.at(pane.column(ROWS), slots, 1)
        inputs = self._inputs
        if rows.rows is not None:
            inputs = {name: column.take(rows.rows) for name, column in inputs.items()}
        for function in self._functions:
            column = _NOTHING if function.bound.column is None else inputs[function.bound.column]
            function.update(pane.column, slots, column, rows.times_us)

    def all_results(self, panes: Sequence[int], keep: KeyFilter | None) -> Iterator[Result]:
        """One pane is read as it lies; several are merged."""
        if len(panes) == 1:
            for batch in rebatch(scan_pane(self._table, panes[0], keep)):
                yield self._keys_of(batch), self._finish(_columns_of(batch))
            return
        passes = -(-sum(len(self._table.pane(pane)) for pane in panes) // MERGE_ROWS_MAX)
        for number in range(passes):
            kept = keep if passes == 1 else _one_of(passes, number, keep)
            parts = [batch for pane in panes for batch in scan_pane(self._table, pane, kept)]
            if parts:
                yield self._merged(parts)

    def _merged(self, parts: list[pa.RecordBatch]) -> Result:
        whole = pa.concat_batches(parts)
        all_keys = self._keys_of(whole)
        ids, firsts = group_rows(all_keys)
        keys = [array.take(pa.array(firsts)) for array in all_keys]
        into = self._merge(len(firsts), [(ids, _columns_of(whole))])
        return keys, self._finish(into)

    def results_of(self, panes: Sequence[int], keys: Sequence[pa.Array]) -> Result:
        """Look the keys up in each pane, and merge."""
        wanted = self._table.keys(keys)
        parts: list[tuple[Rows, Fetch]] = []
        for pane_us in panes:
            pane = self._table.pane(pane_us)
            slots = pane.find(wanted)
            there = np.flatnonzero(slots >= 0)
            held = {spec.name: pane.column(spec.name)[slots[there]] for spec in self._spec.columns}
            parts.append((there, held.__getitem__))
        into = self._merge(len(wanted), parts)
        return list(keys), self._finish(into)

    def _merge(self, count: int, parts: Sequence[tuple[Rows, Fetch]]) -> Fetch:
        """Add partial results up; each part says for each of its rows which result it belongs to."""
        into = {spec.name: _fresh(spec, count) for spec in self._spec.columns}.__getitem__
        for ids, part in parts:
            np.add.at(into(ROWS), ids, part(ROWS))
            for function in self._functions:
                function.merge(into, ids, part)
        return into

    def _finish(self, fetch: Fetch) -> list[pa.Array]:
        return [function.result(fetch) for function in self._functions]

    def _keys_of(self, batch: pa.RecordBatch) -> list[pa.Array]:
        return list(batch.columns[: len(self._names)])

    def drop(self, pane_us: int) -> None:
        """Free a pane."""
        self._table.drop(pane_us)


_NOTHING = InputColumn(pa.nulls(0), None, None)
"""Stands for the input of an aggregate that has none."""


def _columns_of(batch: pa.RecordBatch) -> Fetch:
    return lambda name: to_numpy(batch.column(name))


def _fresh(spec: ColumnSpec, count: int) -> Values:
    """A state column of this many new rows."""
    if not is_fixed(spec.type):
        return as_objects([None] * count)
    return np.full(count, spec.default, dtype=spec.type.to_pandas_dtype())


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
