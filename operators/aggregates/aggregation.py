"""All aggregates of an operator together: one pass over a batch, with everything shared that can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import kinds_of, signs
from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, StateTable
from lakeward.operators.aggregates.bound import ORDERED_KINDS, BoundAggregate
from lakeward.operators.aggregates.distinct import DistinctValues, KeyTypes
from lakeward.operators.aggregates.function import AggregateFunction
from lakeward.operators.aggregates.functions import aggregate_function
from lakeward.operators.aggregates.identity import KeyNumbers
from lakeward.operators.aggregates.lanes import ROWS, Fetch, Inputs, Lane, count_rows
from lakeward.operators.aggregates.retractable import RetractableFunction
from lakeward.operators.windows.columns import InputColumn, Rows, Values, filled

_Result = Callable[[Fetch], pa.Array]


class Aggregation:
    """Several aggregates over the same rows and keys. Their state is in columns that it is handed, and in side tables.

    Use: make a table with `columns`; `open`; then for each batch `read` it, find the keys' slots, and `add`; `results`
    turns columns into result columns.

    Args:
        aggregates: What to compute.
        keys: Name and type of the key columns, for the side tables (different values). Empty: all state is in
            `columns`, which is slower for different values but can be moved and merged as a whole.
        updating: Whether rows are also taken back; needs keys.
    """

    def __init__(self, aggregates: Sequence[BoundAggregate], keys: KeyTypes = (), updating: bool = False) -> None:
        self._keys = keys
        self._updating = updating
        tabled = [one for one in aggregates if keys and one.kind == "count_distinct"]
        self._distinct = _distinct_values(tabled, updating)
        self._numbers = KeyNumbers() if tabled else None
        self._functions = {one.name: self._function(one) for one in aggregates if one not in tabled}
        self._lanes: dict[Lane, list[AggregateFunction]] = {}
        for function in self._functions.values():
            adding = self._lanes.setdefault(function.lane, [])
            if function.adds:
                adding.append(function)
        self._results = [self._result(one) for one in aggregates]
        self._inputs = {name for one in aggregates for name in (one.column, one.condition) if name is not None}
        self.sided = bool(self._distinct) or updating
        self.additive = not self._distinct and all(function.additive for function in self._functions.values())
        self.needs_times = any(one.kind in ORDERED_KINDS for one in aggregates)
        self.counts_rows = any(
            one.kind == "count" and one.column is None and one.condition is None for one in aggregates
        )

    def _function(self, bound: BoundAggregate) -> AggregateFunction:
        function = aggregate_function(bound, self._updating)
        if self._updating and bound.kind in ("min", "max", "first", "last"):
            return RetractableFunction(function, self._keys)
        return function

    def _result(self, bound: BoundAggregate) -> _Result:
        function = self._functions.get(bound.name)
        if function is not None:
            return function.result
        assert bound.column is not None, "different values are values of a column"
        counter = self._distinct[bound.column].counter(bound.condition)
        return lambda fetch: pa.array(fetch(counter))

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """The state columns, of rows counted and of all aggregates."""
        lanes = [spec for lane in self._lanes for spec in lane.fields]
        counters = [spec for values in self._distinct.values() for spec in values.fields]
        own = [spec for function in self._functions.values() for spec in function.fields]
        numbers = () if self._numbers is None else self._numbers.fields
        return (ColumnSpec(ROWS, pa.int64(), 0), *numbers, *lanes, *counters, *own)

    def open(self, context: OperatorContext, table: StateTable) -> None:
        """Open the side tables.

        Args:
            context: The operator's.
            table: The table that has the columns; one pane of it for each of the side tables.
        """
        if self._numbers is not None:
            self._numbers.open(context)
        for values in self._distinct.values():
            values.open(context, table)
        for function in self._functions.values():
            if isinstance(function, RetractableFunction):
                function.open(context)
        self.opened(not table.namespaces())

    def opened(self, empty: bool) -> None:
        """As `open`, where there are no side tables: whether the state starts empty, or was restored."""
        for function in self._functions.values():
            function.opened(empty)

    def read(self, batch: pa.RecordBatch, times_us: Rows, keys: Sequence[pa.Array] = ()) -> Inputs:
        """Look at a batch's input columns, each once.

        Args:
            batch: The batch.
            times_us: Its event times; any, if not `needs_times`.
            keys: Its key columns, for the side tables.
        """
        columns = {name: InputColumn.of(batch.column(name)) for name in self._inputs}
        return Inputs(columns, keys if self.sided else (), times_us, signs(kinds_of(batch)) if self._updating else None)

    def add(self, fetch: Fetch, slots: Rows, inputs: Inputs, namespace: int = 0) -> None:
        """Add rows to the state.

        Args:
            fetch: Gives the state columns.
            slots: Where each row goes in them; a slot may come many times.
            inputs: The rows.
            namespace: The pane of the side tables.
        """
        count_rows(fetch(ROWS), slots, inputs.signs)
        for lane, functions in self._lanes.items():
            rows = lane.rows(inputs)
            lane.count(fetch, slots, inputs, rows)
            if not functions or (rows is not None and not len(rows)):
                continue
            given = lane.given(slots, inputs, rows, keyed=self._updating)
            for function in functions:
                function.add(fetch, given)
        if self._numbers is not None:
            self._numbers.assign(fetch, slots, inputs)
        for values in self._distinct.values():
            values.add(fetch, slots, inputs, namespace)

    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Add partial results of another pane: row i of `part` to row `ids[i]` of `into`.

        Counts of different values are added up too, which is only right if `part` is all there is: see `merge_sides`.
        """
        np.add.at(into(ROWS), ids, part(ROWS))
        for values in self._distinct.values():
            for spec in values.fields:
                np.add.at(into(spec.name), ids, part(spec.name))
        for lane in self._lanes:
            lane.merge(into, ids, part)
        for function in self._functions.values():
            function.combine(into, ids, part)

    def merge_sides(self, into: Fetch, namespaces: Sequence[int], keys: Sequence[pa.Array]) -> None:
        """Fill in, for each of these keys, what the side tables say about several panes together.

        Args:
            into: State columns with a row a key.
            namespaces: The panes.
            keys: The key columns, all keys different.
        """
        for values in self._distinct.values():
            for name, counts in values.union(namespaces, keys).items():
                into(name)[:] = counts

    def results(self, fetch: Fetch) -> list[pa.Array]:
        """The output columns, one row a row of the state columns."""
        return [result(fetch) for result in self._results]

    def fresh(self, count: int) -> dict[str, Values]:
        """State columns of this many new rows."""
        return {spec.name: filled(spec.type, spec.default, count) for spec in self.columns}

    def drop(self, namespace: int) -> None:
        """Forget a pane of the side tables."""
        for values in self._distinct.values():
            values.drop(namespace)

    def forget(self, namespace: int, keys: Sequence[pa.Array]) -> None:
        """Forget some keys, all different, of a pane of the side tables, while they are still in the table itself."""
        for values in self._distinct.values():
            values.forget(namespace, keys)


def _distinct_values(aggregates: Sequence[BoundAggregate], updating: bool) -> Mapping[str, DistinctValues]:
    """One table a column, for all the conditions under which its values are counted."""
    conditions: dict[str, list[str | None]] = {}
    kinds: dict[str, pa.DataType] = {}
    for one in aggregates:
        assert one.column is not None, "different values are values of a column"
        kinds[one.column] = one.input_type
        listed = conditions.setdefault(one.column, [])
        if one.condition not in listed:
            listed.append(one.condition)
    return {column: DistinctValues(column, kinds[column], listed, updating) for column, listed in conditions.items()}
