"""Exact counts of different values: a row for each key and value, and a counter a key that says how many there are.

A row says under which of the conditions its value was counted already. A batch is first reduced to its different pairs
of key and value; what a pair adds to the marks of its row changes the key's counter. So a result is read like any other
aggregate's, and no value is ever looked at twice.

The rows are in a row table, which takes them many at a time and writes them to checkpoints as chunks. They are found by
the key's number (see `identity`), with which they move when the job is rescaled, and the value.

Over an updating stream a row counts, for each condition, the rows that have its value; it goes when all are 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, RowIds, RowsSpec, StateTable
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.hashing import as_int64
from lakeward.operators.aggregates.identity import ID
from lakeward.operators.aggregates.lanes import Fetch, Inputs, holding
from lakeward.operators.grouping import Groups, group_rows_of, plain_type
from lakeward.operators.windows.columns import InputColumn, Mask, Rows, Values, group_rows, is_fixed, to_numpy

VALUE = "#value"
"""The column that holds the values."""

KeyTypes = tuple[tuple[str, pa.DataType], ...]

_CONDITIONS_MAX = 62


def pairs_of(slots: Rows, values: pa.Array) -> Groups:
    """The different pairs of slot and value."""
    if is_fixed(values.type):
        return group_rows_of([slots, as_int64(values)], len(slots))
    codes = values.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    return group_rows_of([slots, codes.astype(np.int64)], len(slots))


def key_type(kind: pa.DataType) -> pa.DataType:
    """The type in which values become a part of a key: decimals as their bytes, dictionaries as their values."""
    kind = plain_type(kind)
    return pa.binary() if pa.types.is_decimal(kind) else kind


def key_values(column: InputColumn) -> pa.Array:
    """The values of a column without nulls as a part of a key; all NaN are one, and so are 0.0 and -0.0."""
    kind = column.array.type
    if column.values is None:
        return column.arrow()
    if pa.types.is_decimal(kind):
        words = pa.py_buffer(np.ascontiguousarray(column.values, dtype="<i8"))
        return pa.Array.from_buffers(pa.binary(16), len(column.values), [None, words]).cast(pa.binary())
    values = column.values
    if values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 becomes 0.0
        values[np.isnan(values)] = np.nan
    stored = pa.array(values)
    return stored if stored.type == kind else stored.view(kind)


class DistinctValues:
    """The different values of one column for each key, and how many there are under each condition.

    Args:
        column: The column.
        kind: Its type.
        conditions: The conditions under which values are counted; None: all rows count.
        updating: Whether rows are also taken back.

    Raises:
        SchemaError: There are too many conditions.
    """

    def __init__(self, column: str, kind: pa.DataType, conditions: Sequence[str | None], updating: bool) -> None:
        if len(conditions) > _CONDITIONS_MAX:
            raise SchemaError(
                f"count_distinct of '{column}' under {len(conditions)} conditions; there can be {_CONDITIONS_MAX}",
                hint="make the others of a copy of the column, under another name",
            )
        self._column = column
        self._conditions = tuple(conditions)
        self._updating = updating
        self._fixed = is_fixed(key_type(kind))
        names = [_name(condition) for condition in conditions]
        self._marks = [f"rows {name}" for name in names] if updating else [" | ".join(["marks", *names])]
        value = pa.field(VALUE, pa.int64() if self._fixed else key_type(kind))
        schema = pa.schema([pa.field(ID, pa.int64()), value, *(pa.field(mark, pa.int64()) for mark in self._marks)])
        key = (ID, VALUE)
        self._spec = RowsSpec(f"distinct {column}", schema, key, tuple(self._marks), routing=1, unique=True)

    def open(self, context: OperatorContext, keys: StateTable) -> None:
        """Open the row table; `keys` is the table of aggregates."""
        self._keys = keys
        self._rows = context.rows(self._spec)

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The counters, in the table of aggregates."""
        return tuple(ColumnSpec(self.counter(condition), pa.int64(), 0) for condition in self._conditions)

    def counter(self, condition: str | None) -> str:
        """The name of a condition's counter."""
        return f"{self._column}#distinct" + ("" if condition is None else f" {condition}")

    def add(self, fetch: Fetch, slots: Rows, inputs: Inputs, namespace: int) -> None:
        """Mark the values of a batch, and count those that are new; or count their rows up and down.

        The keys must have their numbers.
        """
        chosen = self._chosen(inputs)
        column = inputs.columns[self._column]
        if chosen is not None and not len(chosen):
            return
        if chosen is not None:
            slots, column = slots[chosen], column.take(chosen)
        values = key_values(column)
        pairs = pairs_of(slots, values)
        homes = slots[pairs.rows]
        kept = values.take(pa.array(pairs.rows))
        key = [pa.array(fetch(ID)[homes]), pa.array(as_int64(kept)) if self._fixed else kept]
        held = [None if one is None else _some(holding(inputs, one), chosen) for one in self._conditions]
        if self._updating:
            signs = inputs.signs if inputs.signs is None or chosen is None else inputs.signs[chosen]
            changes = self._count(key, namespace, pairs, held, signs)
        else:
            changes = self._mark(key, namespace, pairs, held)
        for condition, moved in zip(self._conditions, changes, strict=True):
            where = np.flatnonzero(moved)
            np.add.at(fetch(self.counter(condition)), homes[where], moved[where])

    def _chosen(self, inputs: Inputs) -> Rows | None:
        """The rows that have a value that any condition counts; None: all."""
        valid = inputs.columns[self._column].valid
        if None in self._conditions:
            return None if valid is None else np.flatnonzero(valid)
        masks = [holding(inputs, condition) for condition in self._conditions if condition is not None]
        wanted: Mask = np.logical_or.reduce(masks)
        return np.flatnonzero(wanted if valid is None else wanted & valid)

    def _rows_of(self, key: Sequence[pa.Array], marks: Sequence[Rows], namespace: int) -> tuple[RowIds, RowIds]:
        """The row of each pair, and which pairs had none and got one with these marks."""
        columns = [*key, *map(pa.array, marks)]
        return self._rows.find_or_append(pa.RecordBatch.from_arrays(columns, schema=self._spec.schema), namespace)

    def _mark(self, key: Sequence[pa.Array], namespace: int, pairs: Groups, held: Sequence[Mask | None]) -> list[Rows]:
        """Mark the pairs, a bit a condition; for each condition, 1 for the pairs that were not marked."""
        marks: Rows = np.zeros(len(pairs), np.int64)
        for number, holds in enumerate(held):
            if holds is None:
                marks |= 1 << number
            else:
                met = np.zeros(len(pairs), np.int64)
                met[pairs.numbers[holds]] = 1 << number
                marks |= met
        ids, new = self._rows_of(key, [marks], namespace)
        fresh = marks
        if len(new) < len(ids):
            name = self._marks[0]
            known = np.ones(len(ids), np.bool_)
            known[new] = False
            rows = np.flatnonzero(known)
            before = self._rows.get(name, ids[rows])
            fresh = marks.copy()
            fresh[rows] &= ~before
            more = np.flatnonzero(fresh[rows])
            if len(more):
                self._rows.set(name, ids[rows[more]], before[more] | marks[rows[more]])
        return [fresh >> number & 1 for number in range(len(held))]

    def _count(
        self,
        key: Sequence[pa.Array],
        namespace: int,
        pairs: Groups,
        held: Sequence[Mask | None],
        signs: Rows | None,
    ) -> list[Rows]:
        """Count the rows of the pairs; for each condition, 1 for pairs that came, -1 for pairs that went."""
        at, _ = self._rows_of(key, [np.zeros(len(pairs), np.int64)] * len(held), namespace)
        changes = []
        unused = np.ones(len(pairs), np.bool_)
        for name, holds in zip(self._marks, held, strict=True):
            moves: Rows = np.zeros(len(pairs), np.int64)
            codes = pairs.numbers if holds is None else pairs.numbers[holds]
            np.add.at(moves, codes, 1 if signs is None else _some(signs, holds))
            before = self._rows.get(name, at)
            after = before + moves
            self._rows.set(name, at, after)
            unused &= after == 0
            changes.append((after > 0).astype(np.int64) - (before > 0))
        if unused.any():
            self._rows.remove(at[unused])
        return changes

    def union(self, namespaces: Sequence[int], keys: Sequence[pa.Array]) -> Mapping[str, Rows]:
        """The counters of some keys over several panes together.

        Args:
            namespaces: The panes.
            keys: The key columns, all keys different.
        """
        counters = {self.counter(condition): np.zeros(len(keys[0]), dtype=np.int64) for condition in self._conditions}
        parts = [part for namespace in namespaces for part in self._of_keys(namespace, keys)]
        if not parts:
            return counters
        homes = np.concatenate([owners for owners, _, _ in parts])
        whole = pa.concat_batches([batch for _, _, batch in parts])
        codes, firsts = group_rows([pa.array(homes), whole.column(VALUE)])
        marks: Rows = np.zeros(len(firsts), np.int64)
        np.bitwise_or.at(marks, codes, to_numpy(whole.column(self._marks[0])))
        for number, condition in enumerate(self._conditions):
            np.add.at(counters[self.counter(condition)], homes[firsts], marks >> number & 1)
        return counters

    def _of_keys(self, namespace: int, keys: Sequence[pa.Array]) -> Iterator[tuple[Rows, RowIds, pa.RecordBatch]]:
        """The rows of a pane that belong to these keys: which key, the row's id, and the row."""
        pane = self._keys.pane(namespace)
        slots = pane.find(self._keys.keys(keys))
        there = np.flatnonzero(slots >= 0)
        numbers = pane.column(ID)[slots[there]]
        order = np.argsort(numbers)
        numbers, there = numbers[order], there[order]
        if not len(numbers):
            return
        for row_ids, batch in self._rows.scan(namespace):
            owners = to_numpy(batch.column(ID))
            places = np.minimum(np.searchsorted(numbers, owners), len(numbers) - 1)
            rows = np.flatnonzero(numbers[places] == owners)
            if len(rows):
                yield there[places[rows]], row_ids[rows], batch.take(pa.array(rows))

    def forget(self, namespace: int, keys: Sequence[pa.Array]) -> None:
        """Forget the values of some keys, all different, of a pane; the table of aggregates still has the keys."""
        for _, row_ids, _ in list(self._of_keys(namespace, keys)):
            self._rows.remove(row_ids)

    def drop(self, namespace: int) -> None:
        """Forget a pane."""
        self._rows.drop(namespace)


def _name(condition: str | None) -> str:
    return "all" if condition is None else f"where {condition}"


def _some(values: Values, rows: Values | None) -> Values:
    return values if rows is None else values[rows]
