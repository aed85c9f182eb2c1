"""What an over-aggregation remembers of earlier rows: the rows that later slices still reach, or their totals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import Matches, RowsSpec, StateTable, TableSpec
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.grouping import plain, plain_type
from lakeward.operators.over.functions import Parts, SliceFunction, previous_equal
from lakeward.operators.over.slices import Slices, slices_of_rows, slices_of_time
from lakeward.operators.ranking.keyed_rows import KeyedRows
from lakeward.operators.ranking.order import sorted_rows
from lakeward.operators.windows.columns import Mask, Rows, group_rows, positions
from lakeward.operators.windows.timed import KeyTypes, key_types

_TIME = "time$"


@dataclass(frozen=True, slots=True)
class OverConfig:
    """What is aggregated over which rows.

    Args:
        schema: The input's, append-only.
        keys: Key columns.
        time_column: The event time.
        offset_us: What to add to it to get the time.
        rows: How many rows a slice has, the row itself being the last; None: see `range_us`.
        range_us: How far a slice reaches back; None, and no `rows`: to the first row of the key.
        aggregates: What to compute.
        columns: The input's columns that are sent on.
    """

    schema: pa.Schema
    keys: tuple[str, ...]
    time_column: str
    offset_us: int
    rows: int | None
    range_us: int | None
    aggregates: tuple[BoundAggregate, ...]
    columns: tuple[str, ...]

    @property
    def bounded(self) -> bool:
        """Whether slices end somewhere, so that rows can be forgotten."""
        return self.rows is not None or self.range_us is not None

    @property
    def inputs(self) -> list[str]:
        """The columns that aggregates read."""
        read = [name for one in self.aggregates for name in (one.column, one.condition) if name is not None]
        return list(dict.fromkeys(read))


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows whose turn has come, in order of time, with their keys as numbers.

    Args:
        batch: The rows.
        times_us: Their times.
        groups: The key of each.
        keys: The different keys.
    """

    batch: pa.RecordBatch
    times_us: Rows
    groups: Rows
    keys: list[pa.Array]

    @classmethod
    def of(cls, batch: pa.RecordBatch, times_us: Rows, keys: tuple[str, ...]) -> Chunk:
        """Number the keys."""
        arrays = [plain(batch.column(name)) for name in keys]
        groups, firsts = group_rows(arrays)
        return cls(batch, times_us, groups, [array.take(pa.array(firsts)) for array in arrays])


class Memory(ABC):
    """Computes the aggregates of rows, and remembers what is needed for the next ones."""

    @abstractmethod
    def open(self, context: OperatorContext) -> None:
        """Open the tables."""

    @abstractmethod
    def results(self, chunk: Chunk) -> list[pa.Array]:
        """A column an aggregate."""


class RememberedRows(Memory):
    """For slices of so many rows, or of so much time: the inputs of the rows that later slices reach.

    Args:
        config: What is aggregated.
    """

    def __init__(self, config: OverConfig) -> None:
        self._config = config
        self._functions = [SliceFunction(one) for one in config.aggregates]
        types = key_types(config.schema, config.keys)
        named = [pa.field(f"key${name}", kind) for name, kind in types]
        inputs = [config.schema.field(name) for name in config.inputs]
        self._schema = pa.schema([*named, pa.field(_TIME, pa.int64()), *inputs])
        self._keys = tuple(field.name for field in named)

    def open(self, context: OperatorContext) -> None:
        """Open the table of rows."""
        self._rows = KeyedRows(context, RowsSpec("remembered", self._schema, self._keys))

    def results(self, chunk: Chunk) -> list[pa.Array]:
        """Put the rows behind those that are remembered, and fold their slices."""
        held = self._rows.find(chunk.keys)
        new = self._reduced(chunk)
        kept = self._rows.take(held.ids, self._schema.names)
        rows = pa.concat_batches([kept, new])
        groups = np.concatenate([held.rows, chunk.groups])
        times_us = rows.column(_TIME).to_numpy()
        order = sorted_rows(groups, [times_us])
        groups, times_us = groups[order], times_us[order]
        slices = self._slices(groups, times_us)
        places = pa.array(positions(order)[len(held.ids) :])
        ordered = {name: rows.column(name).take(pa.array(order)) for name in self._config.inputs}
        results = [self._result(one, ordered, groups, slices).take(places) for one in self._functions]
        self._forget(held, new, order, groups, chunk)
        return results

    def _reduced(self, chunk: Chunk) -> pa.RecordBatch:
        columns = [key.take(pa.array(chunk.groups)) for key in chunk.keys]
        columns.append(pa.array(chunk.times_us))
        columns += [chunk.batch.column(name) for name in self._config.inputs]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _slices(self, groups: Rows, times_us: Rows) -> Slices:
        if self._config.range_us is not None:
            return slices_of_time(groups, times_us, self._config.range_us)
        return slices_of_rows(groups, self._config.rows)

    def _result(self, function: SliceFunction, columns: dict[str, pa.Array], groups: Rows, slices: Slices) -> pa.Array:
        bound = function.bound
        column = None if bound.column is None else columns[bound.column]
        parts = function.parts(column, None if bound.condition is None else columns[bound.condition], len(groups))
        if bound.kind != "count_distinct":
            return function.result(function.fold(parts, slices))
        wanted: Mask = parts.counts > 0
        values, _ = group_rows([column])
        return pa.array(slices.distinct(previous_equal(groups, values, wanted), wanted))

    def _forget(self, held: Matches, new: pa.RecordBatch, order: Rows, groups: Rows, chunk: Chunk) -> None:
        """Keep what later slices may reach: the last rows of each key, or those of the last stretch of time."""
        rows, range_us = self._config.rows, self._config.range_us
        if range_us is not None:
            oldest_us = int(chunk.times_us[-1]) - range_us
            stretch_us = max(range_us, 1)
            self._rows.drop_below(oldest_us // stretch_us)
            stretches = chunk.times_us // stretch_us
            for stretch in np.unique(stretches[chunk.times_us >= oldest_us]).tolist():
                self._rows.append(new.filter(pa.array(stretches == stretch)), stretch)
            return
        assert rows is not None, "slices that end nowhere are summed up"
        ends = np.flatnonzero(np.diff(groups, append=-1))
        from_end = np.repeat(ends, np.diff(ends, prepend=-1)) - np.arange(len(groups))
        stays = np.zeros(len(groups), np.bool_)
        stays[order[from_end < rows - 1]] = True
        gone = held.ids[~stays[: len(held.ids)]]
        self._rows.replace(gone, new.filter(pa.array(stays[len(held.ids) :])))


class RememberedTotals(Memory):
    """For slices that begin with the first row of the key: its totals, and the different values of what is counted.

    Args:
        config: What is aggregated.
    """

    def __init__(self, config: OverConfig) -> None:
        self._config = config
        self._functions = [SliceFunction(one) for one in config.aggregates]
        self._types = key_types(config.schema, config.keys)
        fields = [pa.field(f"key${name}", kind) for name, kind in self._types]
        self._keys = tuple(field.name for field in fields)
        for function in self._functions:
            if function.part_type is not None:
                fields.append(pa.field(f"{function.bound.name}#value", function.part_type))
            fields.append(pa.field(f"{function.bound.name}#count", pa.int64(), nullable=False))
        self._schema = pa.schema(fields)

    def open(self, context: OperatorContext) -> None:
        """Open the tables."""
        self._rows = KeyedRows(context, RowsSpec("totals", self._schema, self._keys))
        self._seen = {
            one.name: _SeenValues(context, one, self._types)
            for one in self._config.aggregates
            if one.kind == "count_distinct"
        }

    def results(self, chunk: Chunk) -> list[pa.Array]:
        """Put each key's totals before its rows, and fold."""
        held = self._rows.find(chunk.keys)
        kept = self._rows.take(held.ids, self._schema.names)
        groups = np.concatenate([held.rows, chunk.groups])
        order = sorted_rows(groups, [])
        groups = groups[order]
        slices = slices_of_rows(groups, None)
        lasts = np.flatnonzero(np.diff(groups, append=-1))
        places = positions(order)[len(held.ids) :]
        totals: list[pa.Array] = list(chunk.keys)
        results: list[pa.Array] = []
        for function in self._functions:
            parts = self._held(function, kept).then(self._new(function, chunk)).take(order)
            folded = function.fold(parts, slices)
            results.append(function.result(folded.take(places)))
            last = folded.take(lasts)
            totals += [pa.array(last.counts)] if last.values is None else [last.values, pa.array(last.counts)]
        self._rows.replace(held.ids, pa.RecordBatch.from_arrays(totals, schema=self._schema))
        return results

    def _held(self, function: SliceFunction, kept: pa.RecordBatch) -> Parts:
        name = function.bound.name
        values = None if function.part_type is None else kept.column(f"{name}#value")
        return Parts(values, kept.column(f"{name}#count").to_numpy())

    def _new(self, function: SliceFunction, chunk: Chunk) -> Parts:
        bound, batch = function.bound, chunk.batch
        column = None if bound.column is None else batch.column(bound.column)
        parts = function.parts(
            column, None if bound.condition is None else batch.column(bound.condition), batch.num_rows
        )
        if bound.kind != "count_distinct" or column is None:
            return parts
        keys = [key.take(pa.array(chunk.groups)) for key in chunk.keys]
        return Parts(None, self._seen[bound.name].first_seen(keys, plain(column), parts.counts))


class _SeenValues:
    """The different values of one column, by key."""

    def __init__(self, context: OperatorContext, bound: BoundAggregate, keys: KeyTypes) -> None:
        kind = bound.input_type
        assert kind is not None, "count_distinct has an input"
        kind = plain_type(kind)
        self._as_text = pa.types.is_decimal(kind)
        value = ("value", pa.string() if self._as_text else kind)
        self._table: StateTable = context.table(TableSpec(f"{bound.name}#seen", (*keys, value), (), len(keys)))

    def first_seen(self, keys: Sequence[pa.Array], values: pa.Array, counts: Rows) -> Rows:
        """1 for rows that count and have a value that their key had not before; 0 for the others."""
        rows = np.flatnonzero(counts)
        some = pa.array(rows)
        values = values.take(some)
        if self._as_text:
            values = values.cast(pa.string())
        _, new = self._table.pane().insert(self._table.keys([*(key.take(some) for key in keys), values]))
        first = np.zeros(len(counts), np.int64)
        first[rows] = new
        return first
