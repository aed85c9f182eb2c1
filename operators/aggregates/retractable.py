"""Min, max, first and last where rows are taken back: all values of a key are kept, to fall back to.

Three things are kept. The best value of each key is in the table of aggregates, as ever. A table keyed by key and value
(for first and last by key, event time and value) counts the rows that have it. And a table keyed by key and number is
the list of the key's values, since keyed tables cannot be searched by a part of their key.

As long as rows only come, or go that do not hold the best value, a batch costs a lookup of its different values. When
the best value of a key has gone, its list is read once and the next best taken (as Flink's retracting max does with its
MapState, but a batch of keys at a time). Values that have gone stay in the list until then, or until they are more than
half of it, so that the list is never much longer than the values are many, and each is cleaned away once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, Keys, TableSpec
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.aggregates.bound import BoundAggregate, is_ordered
from lakeward.operators.aggregates.compare import differing
from lakeward.operators.aggregates.distinct import VALUE, KeyTypes, key_type, key_values
from lakeward.operators.aggregates.function import AggregateFunction
from lakeward.operators.aggregates.lanes import Fetch, Given
from lakeward.operators.grouping import plain_type
from lakeward.operators.windows.columns import (
    InputColumn,
    Mask,
    Rows,
    group_rows,
    is_fixed,
    storage_type,
    to_arrow,
    to_numpy,
)

_TIME, _NUMBER = "#time", "#number"
_SLACK = 16  # values that have gone are left in a list of this length, however many there are


@dataclass(frozen=True, slots=True)
class _Changes:
    """The different values of a batch, a key each, and what becomes of them.

    Args:
        homes: Where the key is in the state columns.
        rows: For each, a row of the batch that has it.
        before: How many rows had it.
        after: How many have it now.
        added: The last row that added it, -1 if none did; for `first` the first one.
    """

    homes: Rows
    rows: Rows
    before: Rows
    after: Rows
    added: Rows

    @property
    def lost(self) -> Rows:
        """Those that have gone."""
        return np.flatnonzero((self.before > 0) & (self.after <= 0))

    @property
    def offered(self) -> Rows:
        """Those that are there and were added, in the order of arrival."""
        found = np.flatnonzero((self.added >= 0) & (self.after > 0))
        return found[np.argsort(self.added[found], kind="stable")]


class RetractableFunction(AggregateFunction):
    """Lets a function that can only add take rows back.

    Args:
        inner: Keeps the best value.
        keys: Name and type of the key columns.

    Raises:
        SchemaError: The values are of a type that cannot be looked up (nested types).
    """

    def __init__(self, inner: AggregateFunction, keys: KeyTypes) -> None:
        super().__init__(inner.bound)
        self._inner = inner
        self._kind = _checked_kind(inner.bound)
        self._timed = inner.bound.kind in ("first", "last")
        name = inner.bound.name
        self._listed, self._alive, self._arrivals = f"{name}#listed", f"{name}#alive", f"{name}#arrivals"
        times: KeyTypes = ((_TIME, pa.int64()),) if self._timed else ()
        counts = (ColumnSpec("rows", pa.int64(), 0), ColumnSpec("arrival", pa.int64(), 0))
        values = (*keys, *times, (VALUE, key_type(self._kind)))
        self._value_spec = TableSpec(f"values {name}", values, counts, routing=len(keys))
        zero = 0 if is_fixed(self._kind) and not pa.types.is_boolean(self._kind) else None
        listed = (
            ColumnSpec("value", storage_type(self._kind), False if pa.types.is_boolean(self._kind) else zero),
            ColumnSpec("time", pa.int64(), 0),
        )
        self._list_spec = TableSpec(f"list {name}", (*keys, (_NUMBER, pa.int64())), listed, routing=len(keys))

    def open(self, context: OperatorContext) -> None:
        """Open the tables of values."""
        self._values = context.table(self._value_spec)
        self._lists = context.table(self._list_spec)

    def opened(self, empty: bool) -> None:
        """As the inner function."""
        self._inner.opened(empty)

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The best value; the length of the list, how much of it is there, and how many rows ever came."""
        names = (self._listed, self._alive, self._arrivals)
        return (*self._inner.fields, *(ColumnSpec(name, pa.int64(), 0) for name in names))

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Updating streams have no panes."""
        raise NotImplementedError(f"the {self.bound.kind} of an updating stream cannot be merged")

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The best values."""
        return self._inner.values(fetch, counts, valid)

    def add(self, fetch: Fetch, given: Given) -> None:
        """Count the values; offer those that are there to the inner function; replace best values that have gone."""
        values = key_values(given.column)
        changes = self._change(fetch, given, values)
        lost = changes.lost
        beaten = lost[self._is_best(fetch, given, changes, lost)]
        offered = changes.offered
        rows = changes.rows[offered]
        self._inner.add(fetch, Given(changes.homes[offered], given.column.take(rows), given.times_us[rows], None))
        alive, listed = fetch(self._alive), fetch(self._listed)
        np.add.at(alive, changes.homes, (changes.after > 0).astype(np.int64) - (changes.before > 0))
        homes = np.unique(changes.homes)
        stale = homes[(listed[homes] > 2 * alive[homes] + _SLACK) | ((alive[homes] <= 0) & (listed[homes] > 0))]
        worn = np.union1d(stale, changes.homes[beaten])
        if len(worn):
            self._rebuild(fetch, worn, given)

    def _change(self, fetch: Fetch, given: Given, values: pa.Array) -> _Changes:
        times = [pa.array(given.times_us)] if self._timed else []
        codes, rows = group_rows([pa.array(given.slots), *times, values])
        signs = np.ones(len(codes), np.int64) if given.signs is None else given.signs
        moves = np.zeros(len(rows), np.int64)
        np.add.at(moves, codes, signs)
        picked = pa.array(rows)
        keys = self._values.keys([array.take(picked) for array in (*given.keys, *times, values)])
        pane = self._values.pane()
        at, new = pane.insert(keys)
        before = pane.column("rows")[at]
        pane.column("rows")[at] = before + moves
        added = _last_added(codes, signs, len(rows), first=self.bound.kind == "first")
        changes = _Changes(given.slots[rows], rows, before, before + moves, added)
        self._note_arrivals(fetch, given, changes, pane.column("arrival"), at)
        self._append(fetch, given, changes, np.flatnonzero(new))
        return changes

    def _note_arrivals(self, fetch: Fetch, given: Given, changes: _Changes, arrival: Rows, at: Rows) -> None:
        """Remember the order of values of one event time."""
        if not self._timed:
            return
        moved = changes.added >= 0
        if self.bound.kind == "first":
            moved &= changes.before <= 0
        arrival[at[moved]] = fetch(self._arrivals)[changes.homes[moved]] + changes.added[moved]
        fetch(self._arrivals)[np.unique(changes.homes)] += len(given.slots)

    def _append(self, fetch: Fetch, given: Given, changes: _Changes, new: Rows) -> None:
        """Put new values at the ends of their lists."""
        if not len(new):
            return
        new = new[np.argsort(changes.homes[new], kind="stable")]
        homes, rows = changes.homes[new], changes.rows[new]
        numbers = fetch(self._listed)[homes] + _places(homes)
        np.add.at(fetch(self._listed), homes, 1)
        picked = pa.array(rows)
        keys = self._lists.keys([*(key.take(picked) for key in given.keys), pa.array(numbers)])
        pane = self._lists.pane()
        slots = pane.slots(keys)
        pane.column("value")[slots] = to_numpy(given.column.take(rows).plain())
        pane.column("time")[slots] = given.times_us[rows]

    def _is_best(self, fetch: Fetch, given: Given, changes: _Changes, some: Rows) -> Mask:
        """Which of some values are the best ones of their keys."""
        homes, rows = changes.homes[some], changes.rows[some]
        part = {spec.name: fetch(spec.name)[homes] for spec in self._inner.fields}
        held = self._inner.values(part.__getitem__, np.ones(len(homes), np.int64), None)
        lost = given.column.take(rows).plain()
        best = ~differing(held, lost.cast(held.type) if lost.type != held.type else lost)
        if self._timed:
            best &= part[f"{self.bound.name}#time"] == given.times_us[rows]
        return best

    def _rebuild(self, fetch: Fetch, homes: Rows, given: Given) -> None:
        """Read the lists of some keys: forget values that have gone, and find the best of the others."""
        for spec in self._inner.fields:
            fetch(spec.name)[homes] = spec.default
        counts = fetch(self._listed)[homes]
        owners = np.repeat(np.arange(len(homes)), counts)
        some_row = np.zeros(int(given.slots.max()) + 1, np.int64)
        some_row[given.slots] = np.arange(len(given.slots))
        picked = pa.array(some_row[homes[owners]])
        own_keys = [key.take(picked) for key in given.keys]
        listed = self._lists.keys([*own_keys, pa.array(_places(owners))])
        pane = self._lists.pane()
        slots = pane.slots(listed)
        values, times_us = pane.column("value")[slots], pane.column("time")[slots]
        column = InputColumn.of(to_arrow(values, self._kind))
        rows, arrivals = self._counts(own_keys, column, times_us)
        kept = np.flatnonzero(rows != 0)
        fetch(self._listed)[homes] = np.bincount(owners[kept], minlength=len(homes))
        if len(kept) < len(owners):
            starts = np.cumsum(counts) - counts
            places = starts[owners[kept]] + _places(owners[kept])
            pane.column("value")[slots[places]] = values[kept]
            pane.column("time")[slots[places]] = times_us[kept]
            pane.remove(listed.take(np.delete(np.arange(len(owners)), places)))
        alive = np.flatnonzero(rows > 0)
        alive = alive[np.argsort(arrivals[alive], kind="stable")]
        self._inner.add(fetch, Given(homes[owners[alive]], column.take(alive), times_us[alive], None))

    def _counts(self, keys: Sequence[pa.Array], column: InputColumn, times_us: Rows) -> tuple[Rows, Rows]:
        """How many rows have each value, and its order of arrival; values that have gone are forgotten."""
        times = [pa.array(times_us)] if self._timed else []
        wanted: Keys = self._values.keys([*keys, *times, key_values(column)])
        pane = self._values.pane()
        slots = pane.find(wanted)
        rows, arrivals = pane.column("rows")[slots], pane.column("arrival")[slots]
        gone = np.flatnonzero(rows == 0)
        if len(gone):
            pane.remove(wanted.take(gone))
        return rows, arrivals


def _checked_kind(bound: BoundAggregate) -> pa.DataType:
    kind = bound.input_type
    assert kind is not None, "min, max, first and last have an input"
    kind = plain_type(kind)
    if is_ordered(kind):
        return kind
    raise SchemaError(
        f"{bound.kind} of '{bound.input_name}' of type {kind} over an updating stream: such values cannot be looked up "
        "when rows are taken back",
        hint="take a single field of it, or cast it to a string",
    )


def _places(owners: Rows) -> Rows:
    """The number of each row among those of its owner; rows of one owner lie together."""
    starts = np.flatnonzero(np.concatenate([[True], owners[1:] != owners[:-1]])) if len(owners) else owners
    lengths = np.diff(np.append(starts, len(owners)))
    places: Rows = np.arange(len(owners)) - np.repeat(starts, lengths)
    return places


def _last_added(codes: Rows, signs: Rows, count: int, first: bool) -> Rows:
    """For each code the last row (or the first) that adds it; -1 where none does."""
    rows = np.flatnonzero(signs > 0)
    if first:
        rows = rows[::-1]
    added = np.full(count, -1, np.int64)
    added[codes[rows]] = rows  # of several rows of a code the last one written stays
    return added
