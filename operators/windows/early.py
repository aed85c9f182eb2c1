"""Early firing: results of windows that are still open, sent by processing time or by count.

Accumulating results replace each other: what was sent last for a key and window is kept beside the window's state, and
compared with, so that a result that has not changed is not sent again (an updating stream). Discarding results add up:
what was sent is forgotten, and the next result is of the rows that came since (an append-only stream of deltas).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import INSERT, UPDATE_AFTER, UPDATE_BEFORE, with_kinds
from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, Keys, TableSpec
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.windows.columns import (
    Mask,
    Rows,
    Values,
    group_rows,
    is_fixed,
    storage_type,
    to_arrow,
    to_numpy,
)
from lakeward.operators.windows.timed import KeyTypes

_TOUCHED_MIN = 65_536


@dataclass(frozen=True, slots=True)
class Trigger:
    """When windows that are still open send what they have.

    Args:
        interval_us: Every so much processing time, for the keys that got rows; also before each checkpoint.
        rows: For a key, after so many of its rows (counted a pane, looked at once a batch).
        discarding: Whether what was sent is forgotten.
    """

    interval_us: int | None = None
    rows: int | None = None
    discarding: bool = False

    def __post_init__(self) -> None:
        for value in (self.interval_us, self.rows):
            if value is not None and value <= 0:
                raise ConfigError(f"a trigger needs more than {value}", hint='every("1s"), every_rows(1000)')

    @property
    def description(self) -> str:
        """In a few words."""
        when = f"{self.rows} rows" if self.rows is not None else f"{(self.interval_us or 0) / 1e6:g}s"
        return f"early every {when}{', discarding' if self.discarding else ''}"


class TouchedKeys:
    """The keys that got rows since the last early firing, by pane. In memory: a checkpoint is preceded by a firing."""

    def __init__(self) -> None:
        self._panes: dict[int, list[list[pa.Array]]] = {}
        self._rows: dict[int, int] = {}

    def add(self, pane_us: int, keys: Sequence[pa.Array]) -> None:
        """Note key columns, in which a key may come many times."""
        held = self._panes.setdefault(pane_us, [])
        held.append(distinct(keys))
        rows = sum(len(part[0]) for part in held)
        if rows > max(_TOUCHED_MIN, 2 * self._rows.get(pane_us, 0)):
            held[:] = [distinct([pa.concat_arrays(columns) for columns in zip(*held, strict=True)])]
            self._rows[pane_us] = len(held[0][0])

    def take(self) -> dict[int, list[pa.Array]]:
        """The keys of each pane; some may come twice."""
        panes, self._panes, self._rows = self._panes, {}, {}
        return {
            pane: [pa.concat_arrays(columns) for columns in zip(*parts, strict=True)]
            for pane, parts in sorted(panes.items())
        }


def distinct(keys: Sequence[pa.Array]) -> list[pa.Array]:
    """Key columns with each key once."""
    _, firsts = group_rows(keys)
    return [column.take(pa.array(firsts)) for column in keys]


class RowCounts:
    """How many rows came for a key and pane since its last early firing.

    Args:
        keys: Name and type of the key columns.
        rows: After how many a key fires.
    """

    def __init__(self, keys: KeyTypes, rows: int) -> None:
        self._spec = TableSpec("since", keys, (ColumnSpec("#since", pa.int64(), 0),))
        self._limit = rows

    def open(self, context: OperatorContext) -> None:
        """Open the table."""
        self._table = context.table(self._spec)

    def add(self, pane_us: int, keys: Keys) -> Rows:
        """Count rows; returns those that make their keys fire, one a key."""
        pane = self._table.pane(pane_us)
        slots = pane.slots(keys)
        counts = pane.column("#since")
        np.add.at(counts, slots, 1)
        full = np.flatnonzero(counts[slots] >= self._limit)
        if not len(full):
            return full
        _, firsts = group_rows([pa.array(slots[full])])
        chosen: Rows = full[firsts]
        counts[slots[chosen]] = 0
        return chosen

    def drop(self, pane_us: int) -> None:
        """Forget a pane."""
        self._table.drop(pane_us)


class SentResults:
    """What was sent last for each key and window, so that the next result says what it replaces.

    Args:
        keys: Name and type of the key columns.
        fields: The result columns that are compared.
    """

    def __init__(self, keys: KeyTypes, fields: Sequence[pa.Field]) -> None:
        self._fields = list(fields)
        columns = [spec for field in self._fields for spec in _pair(field)]
        self._spec = TableSpec("sent", keys, tuple(columns))

    def open(self, context: OperatorContext) -> None:
        """Open the table."""
        self._table = context.table(self._spec)

    def drop(self, window: int) -> None:
        """The window will never be sent again."""
        self._table.drop(window)

    def changes(self, window: int, keys: Sequence[pa.Array], batch: pa.RecordBatch) -> pa.RecordBatch:
        """What to send for new results: nothing where they are as before; and remember them.

        Args:
            window: The window's id.
            keys: The keys, all different.
            batch: Their results, a row each, all columns.

        Returns:
            The batch with row kinds; a row that replaces another right after that one.
        """
        pane = self._table.pane(window)
        slots, new = pane.insert(self._table.keys(keys))
        old: dict[str, pa.Array] = {}
        same = ~new
        for field in self._fields:
            value, given = (pane.column(spec.name) for spec in _pair(field))
            before, there = value[slots], given[slots]
            values, valid = to_numpy(batch.column(field.name)), _valid(batch.column(field.name))
            same &= (there == valid) & (_equal(before, values) | ~valid)
            old[field.name] = to_arrow(before, field.type, there)
            value[slots], given[slots] = values, valid
        return _changelog(batch, old, new, ~same)


def _changelog(batch: pa.RecordBatch, old: dict[str, pa.Array], new: Mask, changed: Mask) -> pa.RecordBatch:
    arrays = [old.get(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
    before = pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
    rows = np.flatnonzero(changed)
    count = batch.num_rows
    # Of each changed row its old form (for those that are not new), then its new one.
    order = np.stack([rows, rows + count], axis=1)
    kinds = np.stack([np.full(len(rows), UPDATE_BEFORE), np.where(new[rows], INSERT, UPDATE_AFTER)], axis=1)
    sent = np.stack([~new[rows], np.ones(len(rows), dtype=np.bool_)], axis=1)
    both = pa.concat_batches([before, batch]).take(pa.array(order[sent]))
    return with_kinds(both, kinds[sent].astype(np.int8))


def _pair(field: pa.Field) -> tuple[ColumnSpec, ColumnSpec]:
    kind = storage_type(field.type)
    zero = np.zeros(1, dtype=kind.to_pandas_dtype())[0].item() if is_fixed(kind) else None
    return ColumnSpec(f"{field.name}#value", kind, zero), ColumnSpec(f"{field.name}#given", pa.bool_(), False)


def _valid(array: pa.Array) -> Mask:
    valid: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _equal(one: Values, other: Values) -> Mask:
    """Which values are equal; NaN is equal to NaN."""
    equal: Mask = np.asarray(one == other, dtype=np.bool_)
    if one.dtype.kind == "f":
        equal |= np.isnan(one) & np.isnan(other)
    return equal
