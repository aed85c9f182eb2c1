"""The values that came first and last in event time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec
from lakeward.operators.aggregates.bound import BoundAggregate
from lakeward.operators.aggregates.function import AggregateFunction
from lakeward.operators.aggregates.lanes import Fetch, Given
from lakeward.operators.windows.columns import (
    InputColumn,
    Mask,
    Rows,
    Values,
    is_fixed,
    positions,
    storage_type,
    to_arrow,
    to_numpy,
    winners,
)

_INT64_MAX = 2**63 - 1


class FirstOrLast(AggregateFunction):
    """The value with the lowest or highest event time; among equals the first or last to arrive."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        self._last = bound.kind == "last"
        self.value, self.time = f"{bound.name}#value", f"{bound.name}#time"

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The value, and its event time in microseconds."""
        kind = storage_type(self.bound.output_type)
        value = ColumnSpec(self.value, kind, _zero(kind))
        return value, ColumnSpec(self.time, pa.int64(), -_INT64_MAX - 1 if self._last else _INT64_MAX)

    def add(self, fetch: Fetch, given: Given) -> None:
        """Find each key's winner of the batch, then compare its time with the one kept."""
        slots, times_us = given.slots, given.times_us
        ranks = np.arange(len(times_us))
        if np.any(times_us[1:] < times_us[:-1]):
            ranks = positions(np.argsort(times_us, kind="stable"))
        if not self._last:
            ranks = len(ranks) - 1 - ranks
        rows = winners(slots, ranks, len(fetch(self.time)))
        rows = rows[self._wins(times_us[rows], fetch(self.time)[slots[rows]])]
        fetch(self.time)[slots[rows]] = times_us[rows]
        fetch(self.value)[slots[rows]] = self._plain(given.column, rows)

    def _wins(self, times_us: Rows, held_us: Rows) -> Mask:
        return times_us >= held_us if self._last else times_us < held_us

    def _plain(self, column: InputColumn, rows: Rows) -> Values:
        if column.values is not None and is_fixed(self.bound.output_type):
            return column.values[rows]
        return to_numpy(column.arrow().take(pa.array(rows)))

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """As a batch that holds one row a partial result; panes must come in the order of time."""
        times_us = part(self.time)
        seen = np.flatnonzero(times_us != self.fields[1].default)
        ranks = positions(np.argsort(times_us[seen], kind="stable"))
        if not self._last:
            ranks = len(ranks) - 1 - ranks
        rows = seen[winners(ids[seen], ranks, len(into(self.time)))]
        rows = rows[self._wins(times_us[rows], into(self.time)[ids[rows]])]
        into(self.time)[ids[rows]] = times_us[rows]
        into(self.value)[ids[rows]] = part(self.value)[rows]

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The values."""
        return to_arrow(fetch(self.value), self.bound.output_type, valid)


def _zero(kind: pa.DataType) -> Any:
    if not is_fixed(kind):
        return None
    return False if pa.types.is_boolean(kind) else np.zeros(1, dtype=kind.to_pandas_dtype())[0].item()
