"""The temporal join: each left row with the version of the right row that was valid at its event time.

Left rows wait until the watermark has reached their event time: then every version up to it is there. Of the versions
of a key, those before the newest one that the watermark has reached are forgotten: no row to come can ask for them
(after Flink's TemporalRowTimeJoinOperator).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, UPDATE_BEFORE, is_updating, kinds_of
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import Matches, RowTable
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.grouping import row_codes
from lakeward.operators.joins.factory import JoinFactory, LateRows, open_tables
from lakeward.operators.joins.layout import LEFT, RIGHT
from lakeward.operators.joins.rows import (
    BatchRows,
    Condition,
    Mask,
    Pairs,
    Rows,
    Sender,
    key_arrays,
    null_keys,
    pick,
    with_columns_of,
)
from lakeward.operators.joins.times import TimeColumn
from lakeward.operators.windows.progress import Progress


@dataclass(frozen=True, slots=True)
class TemporalJoin(JoinFactory):
    """Joins each left row with the newest right row of its key that is not newer than it.

    The result comes in the order of event time, which is the left's. Of right rows of one key and time the last one
    counts. A left row whose event time the watermark has already reached is late: counted in `late_rows`, and sent to
    the side output. A late version counts from when it came.

    The right may be an updating stream whose rows are told apart by the join's key, as in Flink: what it adds is a
    version from its time on, a deletion ends the last one at the time of the deleted row, and what an update takes back
    stays the version of its time.

    Args:
        inputs: Left, append-only, and right; the right's time is that of its versions.
        how: "inner", or "left": left rows without a version come too.
        where: A further condition over the joined rows: the version that was valid either fulfils it or not.
        late_tag: Side output of late left rows; None: they are only counted.
    """

    late_tag: str | None = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _TemporalJoin(self)

    @property
    def description(self) -> str:
        """What is joined by what."""
        return f"{self.described('temporal join')}, as of {self.inputs[RIGHT].event_time.name}"


class _Waiting:
    """Rows of a table by time, as an index beside it: which of them has the watermark reached?

    Args:
        table: The rows.
        time: Their time.
        after_us: Rows up to this time are not waiting.
    """

    def __init__(self, table: RowTable, time: TimeColumn, after_us: int) -> None:
        self.table = table
        self.time = time
        self._parts: list[tuple[int, Rows, Rows]] = []
        for ids, batch in table.scan():
            times_us = time.times_us(batch)
            waits = times_us > after_us
            self.add(times_us[waits], ids[waits])

    def add(self, times_us: Rows, ids: Rows) -> None:
        """Rows that were appended."""
        if len(ids):
            self._parts.append((int(times_us.min()), times_us, ids))

    def due(self, watermark_us: int) -> tuple[Rows, Rows]:
        """Times and ids of the rows reached, in the order of time, then of coming; they no longer wait."""
        due: list[tuple[Rows, Rows]] = []
        rest = []
        for part in self._parts:
            first_us, times_us, ids = part
            if first_us > watermark_us:
                rest.append(part)
                continue
            reached = times_us <= watermark_us
            due.append((times_us[reached], ids[reached]))
            if not reached.all():
                left = times_us[~reached]
                rest.append((int(left.min()), left, ids[~reached]))
        self._parts = rest
        if not due:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        times_us, ids = (np.concatenate([part[n] for part in due]) for n in (0, 1))
        order = np.argsort(times_us, kind="stable")
        return times_us[order], ids[order]


class _TemporalJoin(Operator):
    def __init__(self, config: TemporalJoin) -> None:
        self._config = config
        self._condition = Condition(config.layout, config.where)
        self._sender = Sender(config.sent)
        self._times = (config.inputs[LEFT].event_time, config.inputs[RIGHT].event_time)
        self._updating = is_updating(config.inputs[RIGHT].schema)

    def open(self, context: OperatorContext) -> None:
        left, right = self._tables = open_tables(context, self._config.inputs)
        self._late_rows = LateRows(context, (self._config.late_tag, None))
        self._late_versions = context.counter("late_versions")
        self._progress = Progress.of(context)
        self._left = _Waiting(left, self._times[LEFT], -(2**63))
        self._right = _Waiting(right, self._times[RIGHT], self._progress.watermark_us)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        self.on_input(LEFT, batch, out)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        if not batch.num_rows:
            return
        batch = with_columns_of(batch, self._config.inputs[index].schema)
        if index == LEFT:
            self._on_left(batch, out)
        else:
            self._on_right(batch)

    def _on_left(self, batch: pa.RecordBatch, out: Output) -> None:
        times_us = self._times[LEFT].times_us(batch)
        marks = self._progress.watermarks(key_arrays(batch, self._config.inputs[LEFT].keys))
        late: Mask = times_us <= (self._progress.watermark_us if marks is None else marks)
        self._late_rows.set_aside(LEFT, batch, late, out)
        batch, times_us = pick(batch, ~late), times_us[~late]
        nulls = null_keys(batch, self._config.inputs[LEFT].keys)
        if nulls is not None and self._config.how == "inner":  # else they wait for their turn as all do
            batch, times_us = pick(batch, ~nulls), times_us[~nulls]
        if batch.num_rows:
            self._left.add(times_us, self._tables[LEFT].append(batch))

    def _on_right(self, batch: pa.RecordBatch) -> None:
        nulls = null_keys(batch, self._config.inputs[RIGHT].keys)
        batch = batch if nulls is None else pick(batch, ~nulls)
        if self._updating:
            batch = pick(batch, kinds_of(batch) != UPDATE_BEFORE)
        if not batch.num_rows:
            return
        times_us = self._times[RIGHT].times_us(batch)
        self._late_versions.inc(int(np.count_nonzero(times_us <= self._progress.watermark_us)))
        self._right.add(times_us, self._tables[RIGHT].append(batch))

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        times_us, ids = self._left.due(timestamp_us)
        if len(ids):
            self._join(times_us, ids, out)
            self._tables[LEFT].remove(ids)
        _, settled = self._right.due(timestamp_us)
        if len(settled):
            self._prune(settled, timestamp_us)
        self._progress.advance(timestamp_us)

    def _join(self, times_us: Rows, ids: Rows, out: Output) -> None:
        left = BatchRows(self._tables[LEFT].take(ids))
        versions = self._versions(key_arrays(left.batch, self._config.inputs[LEFT].keys), times_us)
        by_time = Pairs((left, self._tables[RIGHT]), (versions.rows, versions.ids), ordered=True)
        pairs = self._condition.keep(by_time)
        if self._config.how == "inner" or len(pairs) == len(ids):
            self._sender.pairs(pairs, INSERT, out)
        else:
            self._sender.left_rows(pairs, len(ids), INSERT, out)

    def _versions(self, keys: Sequence[pa.Array], times_us: Rows) -> Matches:
        """For each key the newest version that is not newer than its time, if there is one."""
        table = self._tables[RIGHT]
        matches = table.find(keys)
        if not len(matches.ids):
            return matches
        versions_us = self._version_times_us(matches.ids)
        past = versions_us <= times_us[matches.rows]
        rows, ids, versions_us = matches.rows[past], matches.ids[past], versions_us[past]
        if len(rows) and (np.diff(rows) == 0).any():
            order = np.lexsort((versions_us, rows))  # stable: of equal times the last that came stays last
            last = np.append(np.diff(rows) != 0, True)  # rows were rising before, so they are as they were
            rows, ids = rows[last], ids[order][last]
        there = ~self._ends(ids)
        return Matches(rows[there], ids[there])

    def _ends(self, ids: Rows) -> Mask:
        """Which versions are none, but the end of the one before."""
        if not self._updating or not len(ids):
            return np.zeros(len(ids), np.bool_)
        ends: Mask = kinds_of(self._tables[RIGHT].take(ids, (ROW_KIND,))) == DELETE
        return ends

    def _version_times_us(self, ids: Rows) -> Rows:
        time = self._times[RIGHT]
        return time.times_us(self._tables[RIGHT].take(ids, (time.name,)))

    def _prune(self, settled: Rows, watermark_us: int) -> None:
        """Forget the versions that newer ones, reached by the watermark too, have replaced."""
        table = self._tables[RIGHT]
        keys = key_arrays(table.take(settled, table.spec.key), table.spec.key)
        firsts = pa.array(np.unique(row_codes(keys), return_index=True)[1])
        matches = table.find([array.take(firsts) for array in keys])
        versions_us = self._version_times_us(matches.ids)
        reached = versions_us <= watermark_us
        rows, ids, versions_us = matches.rows[reached], matches.ids[reached], versions_us[reached]
        ids = ids[np.lexsort((versions_us, rows))]
        replaced = np.append(np.diff(rows) == 0, False)  # a key's last end stays, so that a late version is before it
        if replaced.any():
            table.remove(ids[replaced])

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        return self._progress.snapshot()
