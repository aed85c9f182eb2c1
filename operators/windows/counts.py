"""Count windows: the rows of a key by their number, exact inside batches.

Rows are aggregated in panes of as many rows as size and slide have in common. The pane that is being filled lies in
namespace 0 of the state table, with the number of the key's rows so far; panes that are full and still part of windows
to come lie in a ring of namespaces behind it. A batch in which no pane of a key gets full is one lookup and a scatter;
the rows of the other keys are sorted, aggregated by pane, and each window that gets full is merged from its panes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.state import ColumnSpec, Keys, SlotArray, TableSpec
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.windows.accumulate import Accumulated, Aggregates
from lakeward.operators.windows.columns import Rows, Values
from lakeward.operators.windows.timed import (
    ALL_KEY,
    KeyTypes,
    check_names,
    check_time_column,
    event_times_us,
    key_arrays,
    key_types,
)

COUNT, PANE = "#count", "#pane"
EMIT_ROWS_MAX = 65_536
_PANES_MAX = 1_000


@dataclass(frozen=True, slots=True)
class CountAssigner:
    """Windows of a number of rows.

    >>> CountAssigner(size=6, slide=4).pane_rows
    2

    Args:
        size: Rows of a window.
        slide: Rows between the ends of two windows.
    """

    size: int
    slide: int

    def __post_init__(self) -> None:
        if not 0 < self.slide <= self.size:
            raise ConfigError(
                f"a window of {self.size} rows cannot slide by {self.slide}",
                hint="both are above zero, and the slide is no more than the size: CountWindow(100, slide=10)",
            )
        if self.panes > _PANES_MAX:
            raise ConfigError(
                f"a window of {self.size} rows sliding by {self.slide} has {self.panes} panes",
                hint="choose a slide that divides the size, or shares a larger factor with it",
            )

    @property
    def pane_rows(self) -> int:
        """Rows of a pane."""
        return math.gcd(self.size, self.slide)

    @property
    def panes(self) -> int:
        """Panes of a window."""
        return self.size // self.pane_rows

    @property
    def description(self) -> str:
        """In a few words."""
        if self.size == self.slide:
            return f"every {self.size} rows"
        return f"the last {self.size} rows, every {self.slide}"


@dataclass(frozen=True, slots=True)
class _Pieces:
    """The rows of some keys, aggregated by pane.

    Args:
        owners: The key of each piece, by its number; rising.
        panes: Its pane, counted from the key's first row; rising within a key.
        values: Aggregates' state columns.
    """

    owners: Rows
    panes: Rows
    values: Accumulated


@dataclass(frozen=True, slots=True)
class _Some:
    """Some rows of a batch, and their keys.

    Args:
        rows: The rows' numbers.
        owners: The key of each, by its number.
        key_rows: For each key, a row that has it.
        slots: For each key, its slot in namespace 0.
        ranks: For each row, how many rows of its key came before it in the batch.
    """

    rows: Rows
    owners: Rows
    key_rows: Rows
    slots: SlotArray
    ranks: Rows


class CountOperator(Operator):
    """One subtask of an aggregation over count windows.

    Args:
        factory: Says all there is to know.
    """

    def __init__(self, factory: CountAggregate) -> None:
        self._factory = factory
        self._window = factory.window
        self._keys = factory.key_types
        self._aggregates = Aggregates(factory.aggregates)
        columns = (ColumnSpec(COUNT, pa.int64(), 0), ColumnSpec(PANE, pa.int64(), -1), *self._aggregates.columns)
        self._spec = TableSpec("counts", self._keys or ALL_KEY, columns)

    def open(self, context: OperatorContext) -> None:
        """Open the table."""
        self._table = context.table(self._spec)
        self._aggregates.opened(not self._table.namespaces())

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Add rows to their keys' windows; emit those that are full."""
        if not batch.num_rows:
            return
        arrays = key_arrays(self._keys, batch)
        column = self._factory.time_column
        times_us = event_times_us(batch, column) if column else np.zeros(batch.num_rows, np.int64)
        keys = self._table.keys(arrays)
        self._aggregates.read(batch)
        pane = self._table.pane(0)
        slots = pane.slots(keys)
        counts = pane.column(COUNT)
        before = counts[slots]
        np.add.at(counts, slots, 1)
        filled = before // self._window.pane_rows != counts[slots] // self._window.pane_rows
        quiet = np.flatnonzero(~filled)
        if len(quiet) == len(slots):
            self._aggregates.add(pane.column, slots, None, times_us)
            return
        if len(quiet):
            self._aggregates.add(pane.column, slots[quiet], quiet, times_us[quiet])
        self._fill(keys, arrays, self._some(np.flatnonzero(filled), slots), times_us, out)

    def _some(self, rows: Rows, slots: SlotArray) -> _Some:
        order = np.argsort(slots[rows], kind="stable")
        slot = slots[rows][order]
        first = np.ones(len(rows), dtype=np.bool_)
        first[1:] = slot[1:] != slot[:-1]
        begins = np.flatnonzero(first)
        numbers = np.cumsum(first) - 1
        owners, ranks = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        owners[order] = numbers
        ranks[order] = np.arange(len(rows)) - begins[numbers]
        return _Some(rows, owners, rows[order[begins]], slot[begins], ranks)

    def _fill(self, keys: Keys, arrays: list[pa.Array], some: _Some, times_us: Rows, out: Output) -> None:
        """Add rows of keys of which panes get full."""
        pane_rows = self._window.pane_rows
        owned = keys.take(some.key_rows)
        after = self._table.pane(0).column(COUNT)[some.slots]
        before = after - np.bincount(some.owners, minlength=len(some.slots))
        pieces = self._pieces(some, before, times_us)
        held = self._held(owned, some.slots, before)
        every = self._merged(held, pieces)
        # Window number w ends with the key's row (w + 1) * slide.
        slide, lasts = self._window.slide, after // self._window.slide
        windows = lasts - before // slide
        owners = np.repeat(np.arange(len(windows)), windows)
        ends = (np.arange(len(owners)) - np.repeat(np.cumsum(windows) - lasts, windows) + 1) * slide
        if len(owners):
            self._emit([column.take(pa.array(some.key_rows[owners])) for column in arrays], every, owners, ends, out)
        self._keep(owned, every, after // pane_rows)

    def _pieces(self, some: _Some, before: Rows, times_us: Rows) -> _Pieces:
        panes = (before[some.owners] + some.ranks) // self._window.pane_rows
        order = np.lexsort((panes, some.owners))
        owner, pane = some.owners[order], panes[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = (owner[1:] != owner[:-1]) | (pane[1:] != pane[:-1])
        begins = np.flatnonzero(first)
        numbers = np.empty(len(order), np.int64)
        numbers[order] = np.cumsum(first) - 1
        values = self._aggregates.fresh(len(begins))
        self._aggregates.add(values.__getitem__, numbers, some.rows, times_us[some.rows])
        return _Pieces(owner[begins], pane[begins], values)

    def _held(self, keys: Keys, slots: SlotArray, before: Rows) -> _Pieces:
        """What the state has of these keys: the pane that is being filled, and full ones that windows still need."""
        current = before // self._window.pane_rows
        front = self._table.pane(0)
        owners = np.flatnonzero(before % self._window.pane_rows > 0)
        parts = [_Pieces(owners, current[owners], self._aggregates.at(front.column, slots[owners]))]
        for number in range(1, self._window.panes):
            ring = self._table.pane(number)
            if not len(ring):
                continue
            at = ring.find(keys)
            owners = np.flatnonzero(at >= 0)
            panes = ring.column(PANE)[at[owners]]
            recent = panes > current[owners] - self._window.panes
            owners, panes = owners[recent], panes[recent]
            parts.append(_Pieces(owners, panes, self._aggregates.at(ring.column, at[owners])))
        return parts[0] if len(parts) == 1 else _concat(parts)

    def _merged(self, held: _Pieces, pieces: _Pieces) -> _Pieces:
        """State and batch together, a piece a key and pane, sorted."""
        owners, panes = np.concatenate([held.owners, pieces.owners]), np.concatenate([held.panes, pieces.panes])
        order = np.lexsort((panes, owners))
        owner, pane = owners[order], panes[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = (owner[1:] != owner[:-1]) | (pane[1:] != pane[:-1])
        numbers = np.empty(len(order), np.int64)
        numbers[order] = np.cumsum(first) - 1
        values = self._aggregates.fresh(int(first.sum()))
        for ids, part in ((numbers[: len(held.owners)], held), (numbers[len(held.owners) :], pieces)):
            self._aggregates.merge(values.__getitem__, ids, part.values.__getitem__)
        return _Pieces(owner[first], pane[first], values)

    def _emit(self, arrays: list[pa.Array], every: _Pieces, owners: Rows, ends: Rows, out: Output) -> None:
        """Merge the windows of these owners that end with their row number `ends`, and send them."""
        pane_rows, panes = self._window.pane_rows, self._window.panes
        values = self._aggregates.fresh(len(owners))
        span = int(every.panes.max()) + 2
        codes = every.owners * span + every.panes
        for back in range(panes, 0, -1):
            wanted = ends // pane_rows - back
            code = owners * span + wanted
            at = np.minimum(np.searchsorted(codes, code), len(codes) - 1)
            there = np.flatnonzero((codes[at] == code) & (wanted >= 0))
            part: dict[str, Values] = {name: column[at[there]] for name, column in every.values.items()}
            self._aggregates.merge(values.__getitem__, there, part.__getitem__)
        columns = [*(arrays if self._keys else []), *self._aggregates.results(values.__getitem__)]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._factory.schema)
        for start in range(0, batch.num_rows, EMIT_ROWS_MAX):
            out.emit(batch.slice(start, EMIT_ROWS_MAX))

    def _keep(self, keys: Keys, every: _Pieces, current: Rows) -> None:
        """Put back what windows to come need; keys of which nothing is left are forgotten."""
        ring = self._window.panes - 1
        for number in range(1, ring + 1):
            chosen = (every.panes % ring == number - 1) & (every.panes < current[every.owners])
            rows = np.flatnonzero(chosen & (every.panes >= current[every.owners] - ring))
            if len(rows):
                pane = self._table.pane(number)
                slots = pane.slots(keys.take(every.owners[rows]))
                pane.column(PANE)[slots] = every.panes[rows]
                self._aggregates.put(pane.column, slots, every.values, rows)
        front = self._table.pane(0)
        slots = front.slots(keys)
        self._aggregates.put(front.column, slots, self._aggregates.fresh(1), np.zeros(len(slots), np.int64))
        rows = np.flatnonzero(every.panes == current[every.owners])
        self._aggregates.put(front.column, slots[every.owners[rows]], every.values, rows)
        if not ring:
            # Windows that do not overlap need no more of a key than what is in the one that is being filled.
            done = np.ones(len(slots), dtype=np.bool_)
            done[every.owners[rows]] = False
            gone = np.flatnonzero(done)
            if len(gone):
                front.remove(keys.take(gone))


def _concat(parts: list[_Pieces]) -> _Pieces:
    names = parts[0].values
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in names}
    return _Pieces(
        np.concatenate([part.owners for part in parts]), np.concatenate([part.panes for part in parts]), values
    )


@dataclass(frozen=True, slots=True)
class CountAggregate(OperatorFactory):
    """Aggregates over count windows, by key or over the whole stream.

    The output has the key columns and the aggregates, a row a window, in the order in which the windows of a key got
    full. Which rows make a window follows from the order in which they arrive.

    Args:
        input_schema: Schema of the input.
        keys: Key columns; empty for windows of the whole stream, which must run with parallelism 1.
        time_column: The event-time column, for `first` and `last`; empty: they go by the order of arrival.
        window: The windows.
        aggregates: What to compute.

    Raises:
        SchemaError: A column is missing, or an output name comes twice.
    """

    input_schema: pa.Schema
    keys: tuple[str, ...]
    time_column: str
    window: CountAssigner
    aggregates: tuple[BoundAggregate, ...]

    def __post_init__(self) -> None:
        check_time_column(self.input_schema, self.time_column)
        check_names(self.schema)

    @property
    def key_types(self) -> KeyTypes:
        """Name and type of each key column."""
        return key_types(self.input_schema, self.keys)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the results."""
        keys = [self.input_schema.field(name).with_type(kind) for name, kind in self.key_types]
        return pa.schema([*keys, *(aggregate.field for aggregate in self.aggregates)])

    def create(self) -> CountOperator:
        """Make the operator of one subtask."""
        return CountOperator(self)

    @property
    def description(self) -> str:
        """For `explain()`: rows, keys and aggregates."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"{self.window.description}{by}: {', '.join(a.description for a in self.aggregates)}"

    @property
    def stateful(self) -> bool:
        """It keeps the windows that are not full."""
        return True
