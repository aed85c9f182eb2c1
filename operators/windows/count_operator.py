"""Count windows: the rows of a key by their number, exact inside batches.

Rows are aggregated in panes of as many rows as size and slide have in common. The pane that is being filled lies in
namespace 0 of the state table, with the number of the key's rows so far; panes that are full and still part of windows
to come lie in a ring of namespaces behind it. A batch in which no pane of a key gets full is one lookup and a scatter;
the rows of the other keys are sorted, aggregated by pane, and each window that gets full is merged from its panes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import ColumnSpec, Keys, SlotArray, TableSpec
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.windows.accumulate import Accumulated, Accumulator
from lakeward.operators.windows.columns import Rows, Values
from lakeward.operators.windows.timed import ALL_KEY, KeyTypes, event_times_us, key_arrays

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
class Pieces:
    """The rows of some keys, aggregated by pane.

    Args:
        owners: The key of each piece, by its number; rising.
        panes: Its pane, counted from the key's first row; rising within a key.
        values: The accumulator's columns.
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


@dataclass(frozen=True, slots=True)
class CountConfig:
    """What all computations over count windows have in common.

    Args:
        keys: Name and type of the key columns; empty for windows of the whole stream.
        time_column: The event-time column, for what goes by time; empty: it goes by the order of arrival.
        window: The windows.
        output_schema: Schema of the results, without row kinds.
        with_keys: Whether a result has the key columns before it.
    """

    keys: KeyTypes
    time_column: str
    window: CountAssigner
    output_schema: pa.Schema
    with_keys: bool = True


class CountOperator(Operator):
    """One subtask of a computation over count windows.

    Args:
        config: Windows and keys.
        accumulator: What is kept a pane.
        more: State columns beside it.
    """

    def __init__(self, config: CountConfig, accumulator: Accumulator, more: Sequence[ColumnSpec] = ()) -> None:
        self._config = config
        self._window = config.window
        self._keys = config.keys
        self._accumulator = accumulator
        columns = (ColumnSpec(COUNT, pa.int64(), 0), ColumnSpec(PANE, pa.int64(), -1), *accumulator.columns, *more)
        self._spec = TableSpec("counts", self._keys or ALL_KEY, columns)

    def open(self, context: OperatorContext) -> None:
        """Open the table."""
        self._table = context.table(self._spec)
        self._accumulator.opened(not self._table.namespaces())

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Add rows to their keys' windows; emit those that are full."""
        if not batch.num_rows:
            return
        arrays = key_arrays(self._keys, batch)
        column = self._config.time_column
        times_us = event_times_us(batch, column) if column else np.zeros(batch.num_rows, np.int64)
        keys = self._table.keys(arrays)
        self._accumulator.read(batch)
        pane = self._table.pane(0)
        slots = pane.slots(keys)
        counts = pane.column(COUNT)
        before = counts[slots]
        np.add.at(counts, slots, 1)
        filled = before // self._window.pane_rows != counts[slots] // self._window.pane_rows
        quiet = np.flatnonzero(~filled)
        if len(quiet) == len(slots):
            self._accumulator.add(pane.column, slots, None, times_us)
            return
        if len(quiet):
            self._accumulator.add(pane.column, slots[quiet], quiet, times_us[quiet])
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
            taken = [column.take(pa.array(some.key_rows[owners])) for column in arrays]
            self._send(self._results(taken, every, owners, ends), some.slots[owners], out)
        self._keep(owned, every, after // pane_rows)

    def _pieces(self, some: _Some, before: Rows, times_us: Rows) -> Pieces:
        panes = (before[some.owners] + some.ranks) // self._window.pane_rows
        order = np.lexsort((panes, some.owners))
        owner, pane = some.owners[order], panes[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = (owner[1:] != owner[:-1]) | (pane[1:] != pane[:-1])
        begins = np.flatnonzero(first)
        numbers = np.empty(len(order), np.int64)
        numbers[order] = np.cumsum(first) - 1
        values = self._accumulator.fresh(len(begins))
        self._accumulator.add(values.__getitem__, numbers, some.rows, times_us[some.rows])
        return Pieces(owner[begins], pane[begins], values)

    def _held(self, keys: Keys, slots: SlotArray, before: Rows) -> Pieces:
        """What the state has of these keys: the pane that is being filled, and full ones that windows still need."""
        current = before // self._window.pane_rows
        front = self._table.pane(0)
        owners = np.flatnonzero(before % self._window.pane_rows > 0)
        parts = [Pieces(owners, current[owners], self._accumulator.at(front.column, slots[owners]))]
        for number in range(1, self._window.panes):
            ring = self._table.pane(number)
            if not len(ring):
                continue
            at = ring.find(keys)
            owners = np.flatnonzero(at >= 0)
            panes = ring.column(PANE)[at[owners]]
            recent = panes > current[owners] - self._window.panes
            owners, panes = owners[recent], panes[recent]
            parts.append(Pieces(owners, panes, self._accumulator.at(ring.column, at[owners])))
        return parts[0] if len(parts) == 1 else _concat(parts)

    def _merged(self, held: Pieces, pieces: Pieces) -> Pieces:
        """State and batch together, a piece a key and pane, sorted."""
        owners, panes = np.concatenate([held.owners, pieces.owners]), np.concatenate([held.panes, pieces.panes])
        order = np.lexsort((panes, owners))
        owner, pane = owners[order], panes[order]
        first = np.ones(len(order), dtype=np.bool_)
        first[1:] = (owner[1:] != owner[:-1]) | (pane[1:] != pane[:-1])
        numbers = np.empty(len(order), np.int64)
        numbers[order] = np.cumsum(first) - 1
        values = self._accumulator.fresh(int(first.sum()))
        for ids, part in ((numbers[: len(held.owners)], held), (numbers[len(held.owners) :], pieces)):
            self._accumulator.merge(values.__getitem__, ids, part.values.__getitem__)
        return Pieces(owner[first], pane[first], values)

    def _results(self, arrays: list[pa.Array], every: Pieces, owners: Rows, ends: Rows) -> pa.RecordBatch:
        """Merge the windows of these owners that end with their row number `ends`."""
        pane_rows, panes = self._window.pane_rows, self._window.panes
        values = self._accumulator.fresh(len(owners))
        span = int(every.panes.max()) + 2
        codes = every.owners * span + every.panes
        for back in range(panes, 0, -1):
            wanted = ends // pane_rows - back
            code = owners * span + wanted
            at = np.minimum(np.searchsorted(codes, code), len(codes) - 1)
            there = np.flatnonzero((codes[at] == code) & (wanted >= 0))
            part: dict[str, Values] = {name: column[at[there]] for name, column in every.values.items()}
            self._accumulator.merge(values.__getitem__, there, part.__getitem__)
        columns = self._accumulator.results(values.__getitem__)
        if self._keys and self._config.with_keys:
            columns = [*arrays, *columns]
        return pa.RecordBatch.from_arrays(columns, schema=self._config.output_schema)

    def _send(self, batch: pa.RecordBatch, slots: SlotArray, out: Output) -> None:
        """Send the results of windows that are full; `slots` are those of their keys, the windows of a key in order."""
        self._emit(batch, out)

    def _emit(self, batch: pa.RecordBatch, out: Output) -> None:
        for start in range(0, batch.num_rows, EMIT_ROWS_MAX):
            out.emit(batch.slice(start, EMIT_ROWS_MAX))

    def _keep(self, keys: Keys, every: Pieces, current: Rows) -> None:
        """Put back what windows to come need; keys of which nothing is left are forgotten."""
        ring = self._window.panes - 1
        for number in range(1, ring + 1):
            chosen = (every.panes % ring == number - 1) & (every.panes < current[every.owners])
            rows = np.flatnonzero(chosen & (every.panes >= current[every.owners] - ring))
            if len(rows):
                pane = self._table.pane(number)
                slots = pane.slots(keys.take(every.owners[rows]))
                pane.column(PANE)[slots] = every.panes[rows]
                self._accumulator.put(pane.column, slots, every.values, rows)
        front = self._table.pane(0)
        slots = front.slots(keys)
        self._accumulator.put(front.column, slots, self._accumulator.fresh(1), np.zeros(len(slots), np.int64))
        rows = np.flatnonzero(every.panes == current[every.owners])
        self._accumulator.put(front.column, slots[every.owners[rows]], every.values, rows)
        if not ring:
            # Windows that do not overlap need no more of a key than what is in the one that is being filled.
            done = np.ones(len(slots), dtype=np.bool_)
            done[every.owners[rows]] = False
            gone = np.flatnonzero(done)
            if len(gone):
                front.remove(keys.take(gone))


def _concat(parts: list[Pieces]) -> Pieces:
    names = parts[0].values
    values = {name: np.concatenate([part.values[name] for part in parts]) for name in names}
    return Pieces(
        np.concatenate([part.owners for part in parts]), np.concatenate([part.panes for part in parts]), values
    )
