"""Several aggregates as one: state columns that rows are added to, that are merged, and that give result columns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, SlotArray, StateTable
from lakeward.operators.aggregate import Aggregation, BoundAggregate, Fetch
from lakeward.operators.windows.columns import Rows, Values, filled, to_numpy
from lakeward.operators.windows.timed import KeyTypes

_NO_TIMES = np.zeros(0, np.int64)

Accumulated = Mapping[str, Values]
"""State columns of some rows, by name."""


class Accumulator(ABC):
    """What rows are accumulated into: state columns that rows are added to, that are merged, and that give results."""

    columns: tuple[ColumnSpec, ...]
    """The state columns."""

    def open(self, context: OperatorContext, table: StateTable) -> None:  # noqa: B027
        """Called once before anything else, if it may keep tables of its own; `table` has the columns."""

    def opened(self, empty: bool) -> None:  # noqa: B027
        """Called instead of `open` if it may not: whether the state starts empty, or was restored."""

    @abstractmethod
    def read(self, batch: pa.RecordBatch, keys: Sequence[pa.Array] = ()) -> None:
        """Look at a batch (its key columns, for tables of its own), once for all the `add` calls that follow."""

    @abstractmethod
    def add(self, fetch: Fetch, slots: SlotArray, rows: Rows | None, times_us: Rows, namespace: int = 0) -> None:
        """Add rows of the batch that was read last.

        Args:
            fetch: Gives the state columns.
            slots: Where each row goes; a slot may come many times.
            rows: Their numbers in the batch; None: all of it.
            times_us: Their times.
            namespace: Their pane in tables of its own.
        """

    @abstractmethod
    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Add partial results: row i of `part` to row `ids[i]` of `into`; in the order of arrival where that counts."""

    @abstractmethod
    def results(self, fetch: Fetch) -> list[pa.Array]:
        """The result columns, one row a row of the state columns."""

    def merge_sides(self, into: Fetch, panes: Sequence[int], keys: Sequence[pa.Array]) -> None:  # noqa: B027
        """Fill in, for these keys, what tables of its own say about several panes together."""

    def drop(self, pane: int) -> None:  # noqa: B027
        """Free a pane of tables of its own."""

    def forget(self, pane: int, keys: Sequence[pa.Array]) -> None:  # noqa: B027
        """Free some keys of a pane of tables of its own."""

    def fresh(self, count: int) -> dict[str, Values]:
        """State columns of this many new rows."""
        return {spec.name: filled(spec.type, spec.default, count) for spec in self.columns}

    def at(self, fetch: Fetch, slots: SlotArray) -> dict[str, Values]:
        """A copy of the state columns of some slots."""
        return {spec.name: fetch(spec.name)[slots] for spec in self.columns}

    def put(self, fetch: Fetch, slots: SlotArray, values: Accumulated, rows: Rows) -> None:
        """Set the state columns of slots to some rows of `values`."""
        for spec in self.columns:
            fetch(spec.name)[slots] = values[spec.name][rows]


class Aggregates(Accumulator):
    """The aggregates of an operator. Their state is in the columns that they are handed, and `ROWS` counts all rows.

    With keys, different values are kept in side tables that have a pane for each of the operator's: `open` them, hand
    the pane's number to `add`, call `merge_sides` after panes were merged, and `drop` panes. Without keys, all state is
    in the columns.

    Args:
        aggregates: What to compute.
        keys: Name and type of the key columns, for side tables.
    """

    def __init__(self, aggregates: Sequence[BoundAggregate], keys: KeyTypes = ()) -> None:
        self._all = Aggregation(aggregates, keys)
        self._keys = [name for name, _ in keys]
        self.columns = self._all.columns
        self.additive = self._all.additive
        self.sided = self._all.sided

    def open(self, context: OperatorContext, table: StateTable) -> None:
        """Open the side tables; `table` has the columns."""
        self._all.open(context, table)

    def opened(self, empty: bool) -> None:
        """Whether the state starts empty, or was restored."""
        self._all.opened(empty)

    def read(self, batch: pa.RecordBatch, keys: Sequence[pa.Array] = ()) -> None:
        """Look at a batch's input columns, once for all the `add` calls that follow."""
        self._inputs = self._all.read(batch, _NO_TIMES, keys)

    def add(self, fetch: Fetch, slots: SlotArray, rows: Rows | None, times_us: Rows, namespace: int = 0) -> None:
        """Add rows of the batch that was read last; `namespace` is their pane in the side tables."""
        self._all.add(fetch, slots, self._inputs.at(rows, times_us), namespace)

    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Add partial results."""
        self._all.merge(into, ids, part)

    def merge_sides(self, into: Fetch, panes: Sequence[int], keys: Sequence[pa.Array]) -> None:
        """Fill in, for these keys, what the side tables say about several panes together."""
        self._all.merge_sides(into, panes, keys)

    def subtract(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Take partial results out again; `ids` all different, and only if `additive`."""
        for spec in self.columns:
            into(spec.name)[ids] -= part(spec.name)

    def results(self, fetch: Fetch) -> list[pa.Array]:
        """The result columns, one row a row of the state columns."""
        return self._all.results(fetch)

    def drop(self, pane: int) -> None:
        """Free a pane of the side tables."""
        self._all.drop(pane)

    def forget(self, pane: int, keys: Sequence[pa.Array]) -> None:
        """Free some keys of a pane of the side tables."""
        self._all.forget(pane, keys)


def additive(aggregates: Sequence[BoundAggregate]) -> bool:
    """Whether all state is whole numbers that are added up, so that a part can be subtracted again, exactly."""
    return Aggregates(aggregates).additive


def columns_of(batch: pa.RecordBatch) -> Fetch:
    """The state columns of rows that were read from a pane."""
    return lambda name: to_numpy(batch.column(name))
