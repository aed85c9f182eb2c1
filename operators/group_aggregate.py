"""Aggregates over all rows of a key so far: an updating stream with one row a key.

A batch is handled as a whole. Its different keys are numbered, and looked up once each; their state is copied out, the
batch is added to the copy, and the copy is put back. The results of the copy before and after are the old
and the new row of each key, so that updates of a key within a batch are folded into one pair, and keys whose result is
the same send nothing. (Flink calls this mini-batch aggregation; there it is an option, since its state is a row a key.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.changelog import (
    DELETE,
    INSERT,
    UPDATE_AFTER,
    UPDATE_BEFORE,
    is_updating,
    updating,
)
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.state import TableSpec
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.aggregate import ROWS, Aggregation, BoundAggregate
from lakeward.operators.aggregates.compare import differing
from lakeward.operators.grouping import group_keys, plain
from lakeward.operators.windows.columns import Mask, Rows, Values, group_rows
from lakeward.operators.windows.operator import key_types
from lakeward.operators.windows.timed import ALL_KEY, KeyTypes, event_times_us

_EMIT_ROWS_MAX = 65_536
_PENDING_ROWS_MIN = 65_536


@dataclass(frozen=True, slots=True)
class Results:
    """The results of some keys at one moment.

    Args:
        columns: The aggregates; of keys that have no result, anything.
        present: Which keys have a result.
    """

    columns: Sequence[pa.Array]
    present: Mask

    def take(self, rows: Rows) -> Results:
        """Those of some keys."""
        picked = pa.array(rows)
        return Results([column.take(picked) for column in self.columns], self.present[rows])

    @classmethod
    def concat(cls, parts: Sequence[Results]) -> Results:
        """Several one after the other."""
        columns = [pa.concat_arrays(pieces) for pieces in zip(*(part.columns for part in parts), strict=True)]
        return cls(columns, np.concatenate([part.present for part in parts]))


class Changelog:
    """Turns results before and after into the rows that say what has changed.

    Args:
        schema: Of the rows that are sent.
        update_before: Whether replaced rows are sent as well.
        always: Whether a result that stays is known to have changed.
    """

    def __init__(self, schema: pa.Schema, update_before: bool, always: bool) -> None:
        self._schema = schema
        self._update_before = update_before
        self.always = always

    def emit(self, keys: Sequence[pa.Array], before: Results, after: Results, out: Output) -> None:
        """Send what has changed.

        Args:
            keys: The key columns, all keys different; none for a single row in all.
            before: What was sent before.
            after: What is now.
            out: Where to.
        """
        taken, given = before.present, after.present
        if self.always:
            changed = np.flatnonzero(taken | given)
        else:
            differs: Mask = taken != given
            both = np.flatnonzero(taken & given)
            differs[both] = self._differing(before, after, both)
            changed = np.flatnonzero(differs)
        if len(changed):
            self._send(keys, before, after, changed, out)

    def _differing(self, before: Results, after: Results, rows: Rows) -> Mask:
        picked = None if len(rows) == len(before.present) else pa.array(rows)
        unequal = np.zeros(len(rows), np.bool_)
        for one, other in zip(before.columns, after.columns, strict=True):
            unequal |= differing(
                one if picked is None else one.take(picked), other if picked is None else other.take(picked)
            )
        return unequal

    def _send(self, keys: Sequence[pa.Array], before: Results, after: Results, changed: Rows, out: Output) -> None:
        taken, given = before.present[changed], after.present[changed]
        old = taken & ~given if not self._update_before else taken
        places = np.cumsum(old.astype(np.int64) + given)
        total = int(places[-1])
        if not total:
            return
        olds, news = places[old] - 1 - given[old], places[given] - 1
        kinds = np.empty(total, np.int8)
        kinds[olds] = np.where(given[old], UPDATE_BEFORE, DELETE)
        kinds[news] = np.where(taken[given], UPDATE_AFTER, INSERT)
        owners = np.empty(total, np.int64)
        owners[olds], owners[news] = changed[old], changed[given]
        sources = owners.copy()
        sources[news] += len(before.present)
        arrays = [key.take(pa.array(owners)) for key in keys]
        if len(olds):
            picked = pa.array(sources)
            pairs = zip(before.columns, after.columns, strict=True)
            arrays += [pa.concat_arrays(pair).take(picked) for pair in pairs]
        else:
            arrays += [column.take(pa.array(owners)) for column in after.columns]
        batch = pa.RecordBatch.from_arrays([*arrays, pa.array(kinds)], schema=self._schema)
        for start in range(0, total, _EMIT_ROWS_MAX):
            out.emit(batch.slice(start, _EMIT_ROWS_MAX))


class Pending:
    """Keys that have changed since their rows were sent, with what was sent.

    Memory is bounded by the keys that change between two flushes, each once.
    """

    def __init__(self) -> None:
        self._keys: list[Sequence[pa.Array]] = []
        self._sent: list[Results] = []
        self._rows = 0
        self._limit = _PENDING_ROWS_MIN

    def add(self, keys: Sequence[pa.Array], sent: Results) -> None:
        """Note keys, all different; of a key that is noted already what was noted first stays."""
        self._keys.append(keys)
        self._sent.append(sent)
        self._rows += len(sent.present)
        if self._rows > self._limit:
            merged, results = self.take()
            self._keys, self._sent, self._rows = [merged], [results], len(results.present)
            self._limit = max(_PENDING_ROWS_MIN, 2 * self._rows)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def take(self) -> tuple[list[pa.Array], Results]:
        """All keys, each once, with what was sent of them; nothing is pending any more."""
        keys = [pa.concat_arrays(pieces) for pieces in zip(*self._keys, strict=True)]
        sent = Results.concat(self._sent)
        self._keys, self._sent, self._rows, self._limit = [], [], 0, _PENDING_ROWS_MIN
        _, firsts = group_rows(keys)
        if len(firsts) == len(sent.present):
            return keys, sent
        return [key.take(pa.array(firsts)) for key in keys], sent.take(firsts)


class GroupOperator(Operator):
    """One subtask of an unbounded aggregation.

    Args:
        factory: Its description.
    """

    def __init__(self, factory: GroupAggregate) -> None:
        self._factory = factory
        self._keys = factory.key_types or ALL_KEY
        self._keyed = bool(factory.keys)
        self._retracts = is_updating(factory.input_schema)
        self._aggregation = Aggregation(factory.aggregates, self._keys, self._retracts)
        self._columns = [spec.name for spec in self._aggregation.columns]
        always = self._aggregation.counts_rows and not self._retracts
        self._changelog = Changelog(factory.schema, factory.update_before, always)
        self._pending = Pending() if factory.emit_interval_us is not None else None
        self._due_us: int | None = None
        self._before_matters = factory.update_before or not always or factory.emit_interval_us is not None

    def open(self, context: OperatorContext) -> None:
        """Open the tables."""
        self._table = context.table(TableSpec("group", self._keys, self._aggregation.columns))
        self._aggregation.open(context, self._table)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Add rows to their keys; send what has changed, or note it."""
        if not batch.num_rows:
            return
        arrays = self._key_arrays(batch)
        groups = group_keys(arrays)
        picked = pa.array(groups.rows)
        own = [array.take(picked) for array in arrays]
        keys = self._table.keys(own, distinct=True)
        pane = self._table.pane()
        slots, new = pane.insert(keys)
        state = {name: pane.column(name)[slots] for name in self._columns}
        known = state[ROWS] > 0 if self._keyed else np.array([not new.any()])  # without keys the one row stays
        before = Results((), known)
        if self._before_matters:
            before = self._results(state, known)
            state = {name: column.copy() for name, column in state.items()}  # Arrow arrays may share the others
        inputs = self._aggregation.read(batch, self._times_us(batch), arrays)
        self._aggregation.add(state.__getitem__, groups.numbers, inputs)
        for name in self._columns:
            pane.column(name)[slots] = state[name]
        if self._pending is not None:
            self._pending.add(own, before)
        else:
            after = self._results(state, self._given(state))
            self._changelog.emit(own if self._keyed else (), before, after, out)
        if self._retracts and self._keyed:
            gone = np.flatnonzero(state[ROWS] == 0)
            if len(gone):
                pane.remove(keys.take(gone))

    def _key_arrays(self, batch: pa.RecordBatch) -> list[pa.Array]:
        if not self._keyed:
            return [pa.array(np.zeros(batch.num_rows, np.int8))]
        return [_key_values(batch.column(name)) for name, _ in self._keys]

    def _times_us(self, batch: pa.RecordBatch) -> Rows:
        if self._aggregation.needs_times and self._factory.time_column is not None:
            return event_times_us(batch, self._factory.time_column)
        return np.zeros(batch.num_rows, np.int64)

    def _given(self, state: dict[str, Values]) -> Mask:
        """Which of the keys have a result now."""
        return state[ROWS] > 0 if self._keyed else np.ones(1, np.bool_)

    def _results(self, state: dict[str, Values], present: Mask) -> Results:
        return Results(self._aggregation.results(state.__getitem__), present)

    def on_tick(self, now_us: int, out: Output) -> None:
        """Send what is pending, when it is time."""
        interval_us = self._factory.emit_interval_us
        if interval_us is None:
            return
        if self._due_us is None or now_us >= self._due_us:
            self._due_us = now_us + interval_us
            self._flush(out)

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """Send what is pending, so that no checkpoint has to remember what was sent."""
        self._flush(out)
        return ()

    def on_end(self, out: Output) -> None:
        """Send what is pending."""
        self._flush(out)

    def _flush(self, out: Output) -> None:
        if not self._pending:
            return
        keys, sent = self._pending.take()
        pane = self._table.pane()
        slots = pane.find(self._table.keys(keys))
        found = np.flatnonzero(slots >= 0)
        state = self._aggregation.fresh(len(slots))
        for name in self._columns:
            state[name][found] = pane.column(name)[slots[found]]
        after = self._results(state, self._given(state))
        self._changelog.emit(keys if self._keyed else (), sent, after, out)


def _key_values(array: pa.Array) -> pa.Array:
    """Key values as they are sent: equal ones look the same, so that a reader by key finds them; -0.0 becomes 0.0."""
    array = plain(array)
    if pa.types.is_float64(array.type) or pa.types.is_float32(array.type):
        return pc.add(array, pa.scalar(0.0, array.type))
    return array


@dataclass(frozen=True, slots=True)
class GroupAggregate(OperatorFactory):
    """Aggregates over all rows of a key so far, or of the whole stream; sends the new result of keys that changed.

    The output has the key columns, the aggregates and the row kind; its rows are known by the key columns. For a
    batch a key sends at most one pair of old and new row, and none if its result stays. Where the input takes rows
    back, a key that has none left sends a delete and is forgotten; without keys the one row stays, with counts of 0.

    Args:
        input_schema: Schema of the input; with row kinds if it is updating.
        keys: Key columns; empty for one row over the whole stream, which must run with parallelism 1.
        aggregates: What to compute.
        time_column: The event-time column, for `first` and `last`; None: they go by the order of arrival.
        emit_interval_us: Changes are collected and sent this often (processing time), and at checkpoints and at the
            end; None: after every batch.
        update_before: Whether replaced rows are sent, before those that replace them.

    Raises:
        SchemaError: A column is missing, an output name comes twice, or an aggregate cannot take rows back.

    Guarantee: what was sent up to any checkpoint, applied in order, is the result over all rows up to it.
    """

    input_schema: pa.Schema
    keys: tuple[str, ...]
    aggregates: tuple[BoundAggregate, ...]
    time_column: str | None = None
    emit_interval_us: int | None = None
    update_before: bool = True

    def __post_init__(self) -> None:
        names = self.schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(
                f"the result of the aggregation has two columns '{twice[0]}'",
                hint=f"give the aggregate another name; the others are {', '.join(names)}",
            )
        Aggregation(self.aggregates, self.key_types or ALL_KEY, is_updating(self.input_schema))

    @property
    def key_types(self) -> KeyTypes:
        """Name and type of each key column."""
        return key_types(self.input_schema, self.keys)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the output."""
        keys = [self.input_schema.field(name).with_type(kind) for name, kind in self.key_types]
        return updating(pa.schema([*keys, *(aggregate.field for aggregate in self.aggregates)]))

    def create(self) -> GroupOperator:
        """Make the operator of one subtask."""
        return GroupOperator(self)

    @property
    def description(self) -> str:
        """For `explain()`: keys, aggregates and how often they are sent."""
        by = f"by {', '.join(self.keys)}: " if self.keys else ""
        pace = "" if self.emit_interval_us is None else f", sent every {self.emit_interval_us / 1e6:g}s"
        return f"{by}{', '.join(aggregate.description for aggregate in self.aggregates)}{pace}"

    @property
    def stateful(self) -> bool:
        """It keeps its keys in state tables."""
        return True
