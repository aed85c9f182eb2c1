"""The lookup join with a bounded side: every subtask holds the whole table, read to its end before the first look-up.

Every subtask has the table in memory, and saves the rows of its key groups as keyed state: what does not change any
more lies in files that later checkpoints refer to, so the table is written once. After a restore each subtask reads the
rows of all (Flink's broadcast state is instead written by every subtask, whole, each time). It is meant for side inputs
that fit memory. Larger ones are joined by `RegularJoin`, which shares them out by key.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import cast

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import kinds_of, with_kinds, without_kinds
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.errors import RecordError
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.keygroups import key_group_range, key_groups, keys_in_groups
from lakeward.operators.joins.factory import JoinFactory
from lakeward.operators.joins.index import StaticIndex
from lakeward.operators.joins.layout import LEFT, RIGHT
from lakeward.operators.joins.rows import (
    EMIT_ROWS_MAX,
    BatchRows,
    Condition,
    Mask,
    Pairs,
    Rows,
    key_arrays,
    pick,
    with_columns_of,
)

_OWNER = "#owner"


@dataclass(frozen=True, slots=True)
class BroadcastJoin(JoinFactory):
    """Looks every row of a stream up in a bounded table.

    Args:
        inputs: The stream, maybe an updating one, and the table, append-only.
        how: "inner", "left", "semi" or "anti".
    """

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _BroadcastJoin(self)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result."""
        left = self.inputs[LEFT]
        return pa.schema([*self.sent.schema, *([left.schema.field(-1)] if left.updating else [])])

    @property
    def description(self) -> str:
        """What is joined by what."""
        return self.described("lookup join")

    @property
    def first_input(self) -> int:
        """The table is read first."""
        return RIGHT


class _BroadcastJoin(Operator):
    def __init__(self, config: BroadcastJoin) -> None:
        self._config = config
        self._schemas = tuple(one.schema for one in config.inputs)
        self._parts: list[pa.RecordBatch] = []
        self._lookup: Lookup | None = None

    def open(self, context: OperatorContext) -> None:
        self._max_parallelism = context.max_parallelism
        self._groups = key_group_range(context.subtask, context.parallelism, context.max_parallelism)
        spec = RowsSpec("table", self._schemas[RIGHT], self._config.inputs[RIGHT].keys)
        self._table = context.rows(spec)
        self._parts = list(context.restored_rows(spec))
        self._owner = int(keys_in_groups(np.array([self._groups.start]), self._max_parallelism)[0])
        kept = self._schemas[LEFT].append(pa.field(_OWNER, pa.int64(), nullable=False))
        self._kept = context.rows(RowsSpec("kept", kept, (_OWNER,)))
        for number, state in enumerate(context.restored):
            self._restore_small(state, number % context.parallelism == context.subtask)
        if any(state.get("ended") for state in context.restored):
            self._end_table()

    def _restore_small(self, state: JsonObject, ours: bool) -> None:
        """Version 1 had all rows in the small state."""
        for batch in _decode(cast(str, state.get("table", "")), self._schemas[RIGHT]):
            self._add(batch)
        for batch in _decode(cast(str, state.get("kept", "")), self._schemas[LEFT]) if ours else ():
            self._keep(batch)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        self.on_input(LEFT, batch, out)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        batch = with_columns_of(batch, self._schemas[index])
        if index == RIGHT:
            self._add(batch)
        elif self._lookup is None:
            self._keep(batch)  # while a checkpoint is aligned, the table's end is not waited for
        else:
            self._send_kept(out)
            self._lookup.join(batch, out)

    def on_input_end(self, index: int, out: Output) -> None:
        if index == RIGHT and self._lookup is None:
            self._end_table()
        if self._lookup is not None:
            self._send_kept(out)

    def _add(self, batch: pa.RecordBatch) -> None:
        """Add rows of the table, and save those that are ours to save."""
        self._parts.append(batch)
        hashes = hash_columns(key_arrays(batch, self._config.inputs[RIGHT].keys))
        groups = key_groups(hashes, self._max_parallelism)
        ours: Mask = (groups >= self._groups.start) & (groups < self._groups.stop)
        if ours.any():
            self._table.append(pick(batch, ours))

    def _end_table(self) -> None:
        table = pa.Table.from_batches(self._parts, schema=self._schemas[RIGHT]).combine_chunks()
        batches = table.to_batches()
        whole = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=self._schemas[RIGHT])
        self._parts = []
        self._lookup = Lookup(self._config, whole)

    def _keep(self, batch: pa.RecordBatch) -> None:
        """Rows that wait for the table stay together, in their order, with one of our key groups."""
        owner = pa.array(np.full(batch.num_rows, self._owner))
        self._kept.append(pa.RecordBatch.from_arrays([*batch.columns, owner], schema=self._kept.spec.schema))

    def _send_kept(self, out: Output) -> None:
        for namespace in self._kept.namespaces():
            for _, batch in self._kept.scan(namespace):
                assert self._lookup is not None, "kept rows wait for the table"
                self._lookup.join(with_columns_of(batch, self._schemas[LEFT]), out)
            self._kept.drop(namespace)

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        if self._lookup is not None:
            self._send_kept(out)

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        return {"v": 2, "ended": self._lookup is not None}


class Lookup:
    """Joins batches with a table that does not change.

    Args:
        config: The join.
        table: All rows of the right.

    Raises:
        RecordError: The right is said to have one row a key, and has two.
    """

    def __init__(self, config: BroadcastJoin, table: pa.RecordBatch) -> None:
        self._config = config
        self._sent = config.sent
        self._schema = config.schema
        self._table = BatchRows(table)
        self._index = StaticIndex(key_arrays(table, config.inputs[RIGHT].keys))
        self._condition = Condition(config.layout, config.where)
        if config.inputs[RIGHT].unique and not self._index.is_unique:
            raise RecordError(
                f"validate says that the table's rows have different {', '.join(config.inputs[RIGHT].keys)}, "
                "but some have the same",
                hint="leave validate out, or leave only one row a key",
            )

    def join(self, batch: pa.RecordBatch, out: Output) -> None:
        """Send what the rows of a batch make, in their order."""
        plain = without_kinds(batch)
        rows = BatchRows(plain)
        matches = self._index.find(key_arrays(plain, self._config.inputs[LEFT].keys))
        pairs = self._condition.keep(Pairs.of(LEFT, rows, self._table, matches))
        left, right = pairs.numbers
        if self._config.how in ("semi", "anti", "left"):
            counts = np.bincount(left, minlength=plain.num_rows)
            if self._config.how != "left":
                left = np.flatnonzero((counts > 0) == (self._config.how == "semi"))
            elif not counts.all():
                left, right = _with_missing(left, right, np.flatnonzero(counts == 0))
        for start in range(0, len(left), EMIT_ROWS_MAX):
            part = slice(start, start + EMIT_ROWS_MAX)
            joined = self._joined(rows, left[part], right[part])
            out.emit(with_kinds(joined, kinds_of(batch)[left[part]]) if self._config.inputs[LEFT].updating else joined)

    def _joined(self, rows: BatchRows, left: Rows, right: Rows) -> pa.RecordBatch:
        names = self._sent.sources(RIGHT)
        ours = rows.take(left, self._sent.sources(LEFT))
        if not names:
            return self._sent.compose(ours, None)
        missing = right < 0
        theirs = self._table.batch.select(names)
        if missing.any():
            numbers = pa.array(right, mask=missing)
            arrays = [column.take(numbers) for column in theirs.columns]
            theirs = pa.RecordBatch.from_arrays(arrays, names=names)
        else:
            theirs = self._table.take(right, names)
        return self._sent.compose(ours, theirs)


def _with_missing(left: Rows, right: Rows, alone: Rows) -> tuple[Rows, Rows]:
    """Pairs and rows without a partner, whose right number is -1, in the order of the left rows."""
    rows = np.concatenate([left, alone])
    order = np.argsort(rows, kind="stable")
    return rows[order], np.concatenate([right, np.full(len(alone), -1)])[order]


def _decode(text: str, schema: pa.Schema) -> list[pa.RecordBatch]:
    if not text:
        return []
    with pa.ipc.open_stream(base64.b64decode(text)) as reader:
        batches = [with_columns_of(batch, schema) for batch in reader]
    return [batch.cast(schema) if batch.schema != schema else batch for batch in batches]
