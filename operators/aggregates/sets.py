"""Different values as a set in the key's own row: slower than a table of values, but all state is in one place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec
from lakeward.operators.aggregates.function import OneColumn
from lakeward.operators.aggregates.lanes import Fetch, Given
from lakeward.operators.grouping import plain_type
from lakeward.operators.windows.columns import Mask, Rows, Values, group_rows, storage_type


class SetOfValues(OneColumn):
    """Number of different values: a set of them for each key, kept as a list column.

    For state that is moved and merged as a whole (session windows); elsewhere `distinct.DistinctValues` is faster.
    """

    part = "values"

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The values so far; None for none."""
        return (ColumnSpec(self.state, pa.list_(self._value_type), None),)

    @property
    def _value_type(self) -> pa.DataType:
        kind: Any = self.bound.input_type
        return storage_type(plain_type(kind))

    def add(self, fetch: Fetch, given: Given) -> None:
        """Reduce the batch to its different pairs of key and value; add those one by one."""
        state, column, slots = fetch(self.state), given.column, given.slots
        values = column.arrow() if column.values is None or column.values.ndim == 2 else pa.array(column.values)
        _, firsts = group_rows([pa.array(slots), values])
        for slot, value in zip(slots[firsts].tolist(), values.take(pa.array(firsts)).to_pylist(), strict=True):
            _set_at(state, slot).add(value if value == value else math.nan)

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """The union."""
        state = into(self.state)
        for row, values in zip(ids.tolist(), part(self.state).tolist(), strict=True):
            if values is not None:
                _set_at(state, row).update(_as_set(values))

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The sizes of the sets."""
        sizes = [0 if held is None else len(held) for held in fetch(self.state).tolist()]
        return pa.array(np.array(sizes, dtype=np.int64))


def _set_at(state: Values, slot: int) -> set[Any]:
    """The set at a slot, made from a list if it was just read from storage."""
    held = state[slot]
    if not isinstance(held, set):
        held = state[slot] = _as_set(held or ())
    return held


def _as_set(values: Iterable[Any]) -> set[Any]:
    """A set in which NaN, as one object, is in at most once."""
    return {value if value == value else math.nan for value in values}
