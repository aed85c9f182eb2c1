"""Least and greatest values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.state import ColumnSpec
from lakeward.operators.aggregates.bound import BoundAggregate
from lakeward.operators.aggregates.function import OneColumn
from lakeward.operators.aggregates.lanes import Fetch, Given
from lakeward.operators.windows.columns import (
    Mask,
    Rows,
    Values,
    as_objects,
    decimal_array,
    positions,
    storage_type,
    winners,
)


class ExtremeOfNumbers(OneColumn):
    """Min or max of fixed-width values, and of decimals of up to 18 digits, by one scatter."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        self.part = bound.kind
        self._decimal = bool(pa.types.is_decimal(bound.output_type))
        self._kind = pa.int64() if self._decimal else storage_type(bound.output_type)
        # NaN is the greatest: maximum keeps it, and fmin only gives it where there is nothing else.
        floats = np.maximum if bound.kind == "max" else np.fmin
        self._ufunc = floats if pa.types.is_floating(self._kind) else getattr(np, f"{bound.kind}imum")

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The extreme so far; at first the one that any value replaces."""
        return (ColumnSpec(self.state, self._kind, _worst(self._kind, self.bound.kind == "max")),)

    def add(self, fetch: Fetch, given: Given) -> None:
        """Scatter."""
        values = given.column.values
        assert values is not None, "numbers are fixed-width"
        self._at(fetch(self.state), given.slots, np.ascontiguousarray(values[:, 0]) if self._decimal else values)

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter; a part that saw no value holds the neutral one."""
        self._at(into(self.state), ids, part(self.state))

    def _at(self, state: Values, slots: Rows, values: Values) -> None:
        if state.dtype == np.bool_:
            state, values = state.view(np.uint8), values.view(np.uint8)
        with np.errstate(invalid="ignore"):  # comparing with NaN, and meant
            self._ufunc.at(state, slots, values)

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The extremes."""
        if not self._decimal:
            return super().values(fetch, counts, valid)
        low = fetch(self.state)
        return decimal_array(np.stack([low, low >> 63], axis=1), self.bound.output_type, valid)


def _worst(kind: pa.DataType, lowest: bool) -> Any:
    """The value that every other one replaces."""
    if pa.types.is_boolean(kind):
        return not lowest
    if pa.types.is_floating(kind):
        return -np.inf if lowest else np.nan
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min if lowest else limits.max)


class ExtremeOfObjects(OneColumn):
    """Min or max of strings, bytes and long decimals: the best of a batch by sorting, then one comparison a key."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        self.part = bound.kind

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The extreme so far, None at first."""
        return (ColumnSpec(self.state, self.bound.output_type, None),)

    def add(self, fetch: Fetch, given: Given) -> None:
        """Sort the batch; compare its best with what is kept."""
        state, array, slots = fetch(self.state), given.column.arrow(), given.slots
        order = "ascending" if self.bound.kind == "max" else "descending"
        ranks = positions(pc.array_sort_indices(array, order=order).to_numpy().astype(np.int64))
        rows = winners(slots, ranks, len(state))
        self._keep(state, slots[rows], as_objects(array.take(pa.array(rows)).to_pylist()))

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Compare row by row."""
        self._keep(into(self.state), ids, part(self.state))

    def _keep(self, state: Values, slots: Rows, values: Values) -> None:
        largest = self.bound.kind == "max"
        for slot, value in zip(slots.tolist(), values.tolist(), strict=True):
            held = state[slot]
            if value is not None and (held is None or (value > held if largest else value < held)):
                state[slot] = value
