"""Which rows of a batch count for an aggregate, found and counted once for all aggregates that agree about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec
from lakeward.operators.windows.columns import InputColumn, Mask, Rows, Values

ROWS = "#rows"
"""The state column that counts all rows of a key, whatever is aggregated."""

Fetch = Callable[[str], Values]
"""Gives a state column by name: `Pane.column`, or the columns of rows that were read from one."""

NOTHING = InputColumn(pa.nulls(0), None, None)
"""Stands for the input of an aggregate that has none."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Rows of a batch as aggregates see them.

    Args:
        columns: The input columns and conditions, by name.
        keys: The key columns; empty if no aggregate needs them.
        times_us: Event times; all 0 where nothing depends on them.
        signs: +1 for rows that add, -1 for rows that take back; None: all add.
    """

    columns: Mapping[str, InputColumn]
    keys: Sequence[pa.Array]
    times_us: Rows
    signs: Rows | None = None

    def take(self, rows: Rows) -> Inputs:
        """Some of the rows."""
        return self.at(rows, self.times_us[rows])

    def at(self, rows: Rows | None, times_us: Rows) -> Inputs:
        """Some of the rows, or all, with times of their own."""
        if rows is None:
            return replace(self, times_us=times_us)
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        picked = pa.array(rows) if self.keys else None
        keys = [key.take(picked) for key in self.keys]
        return Inputs(columns, keys, times_us, _some(self.signs, rows))


@dataclass(frozen=True, slots=True)
class Given:
    """The rows that an aggregate adds up: none of them null, all meeting its condition.

    Args:
        slots: Where each row goes in the state columns; a slot may come many times.
        column: The values.
        times_us: Event times.
        signs: As in `Inputs`.
        keys: Their key columns, for functions that keep values in side tables.
    """

    slots: Rows
    column: InputColumn
    times_us: Rows
    signs: Rows | None
    keys: Sequence[pa.Array] = ()


def count_rows(counts: Values, slots: Rows, signs: Rows | None) -> None:
    """Count rows at their slots, or off again those that take back."""
    np.add.at(counts, slots, 1 if signs is None else signs)


@dataclass(frozen=True, slots=True)
class Lane:
    """The rows where an input has a value and a condition holds; shared by all aggregates of the two.

    How many there were a key is known from a state column: without a condition it counts the nulls, so that it is only
    touched by batches that have some; with one it counts the rows that came through.

    Args:
        column: The input column; None: every row has a value.
        condition: The column of the condition; None: it always holds.
    """

    column: str | None
    condition: str | None

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The column that counts, if one is needed."""
        return () if self.column is None and self.condition is None else (ColumnSpec(self._state, pa.int64(), 0),)

    @property
    def _state(self) -> str:
        what = self.column or ""
        return f"{what}#nulls" if self.condition is None else f"{what}#seen {self.condition}"

    def rows(self, inputs: Inputs) -> Rows | None:
        """The rows that count; None: all of them."""
        valid = None if self.column is None else inputs.columns[self.column].valid
        if self.condition is None:
            return None if valid is None else np.flatnonzero(valid)
        holds = holding(inputs, self.condition)
        return np.flatnonzero(holds if valid is None else holds & valid)

    def count(self, fetch: Fetch, slots: Rows, inputs: Inputs, rows: Rows | None) -> None:
        """Count a batch, of which `rows` come through."""
        if rows is None:
            return
        if self.condition is not None:
            count_rows(fetch(self._state), slots[rows], _some(inputs.signs, rows))
            return
        assert self.column is not None, "without input and condition all rows come through"
        valid = inputs.columns[self.column].valid
        nulls = np.flatnonzero(~valid) if valid is not None else rows[:0]
        count_rows(fetch(self._state), slots[nulls], _some(inputs.signs, nulls))

    def given(self, slots: Rows, inputs: Inputs, rows: Rows | None, keyed: bool) -> Given:
        """The rows that come through, with their values, and with their keys if wanted."""
        column = NOTHING if self.column is None else inputs.columns[self.column]
        keys = inputs.keys if keyed else ()
        if rows is None:
            return Given(slots, column, inputs.times_us, inputs.signs, keys)
        column = column if self.column is None else column.take(rows)
        keys = [key.take(pa.array(rows)) for key in keys]
        return Given(slots[rows], column, inputs.times_us[rows], _some(inputs.signs, rows), keys)

    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Add the counts of another pane: row i of `part` to row `ids[i]` of `into`."""
        for spec in self.fields:
            np.add.at(into(spec.name), ids, part(spec.name))

    def counts(self, fetch: Fetch) -> Rows:
        """How many rows came through."""
        if self.condition is not None:
            return fetch(self._state)
        return fetch(ROWS) if self.column is None else fetch(ROWS) - fetch(self._state)


def holding(inputs: Inputs, condition: str) -> Mask:
    """Where a condition is true; null is not."""
    column = inputs.columns[condition]
    assert column.values is not None, "conditions are boolean"
    return column.values


def _some(signs: Rows | None, rows: Rows) -> Rows | None:
    return None if signs is None else signs[rows]
