"""The interval join: rows of equal keys whose event times lie near each other, or within bounds that one side names.

Every right row stands for an interval of left event time: its own time plus or minus constants, or two expressions of
the right row (an auction's start and end). A pair is sent when its second row comes. Rows wait in buckets by the time
at which nothing can match them any more, and a bucket is dropped as a whole once the watermark has passed; those that
are also sent without a partner are sent then, so that nothing is ever taken back (after Flink's IntervalJoinOperator).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import INSERT
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import Matches, RowsSpec, RowTable
from lakeward.engine.core.errors import RecordError
from lakeward.engine.core.hashing import null_mask
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.joins.factory import SIDES, JoinFactory, LateRows
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
from lakeward.operators.joins.times import Buckets, bounded, bucket_width_us, from_us, to_us
from lakeward.operators.joins.unique import check_unique
from lakeward.operators.windows.progress import Progress

FROM, UPTO, MET = "from$", "upto$", "met$"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which left event times a right row goes with: `from <= left time <= upto`.

    Args:
        lower_us: Least difference of right time minus left time.
        upper_us: Greatest difference.
        within: Instead of `lower_us`, the first and last left time, computed of the right row; a null bound matches
            nothing. `upper_us` says then how far the first left time may lie before the right row's own event time.
    """

    lower_us: int = 0
    upper_us: int = 0
    within: tuple[BoundExpression, BoundExpression] | None = None

    def left_dead_us(self, times_us: Rows) -> Rows:
        """From which watermark on no right row can come for these left times."""
        return times_us + self.upper_us

    def intervals_us(self, batch: pa.RecordBatch, times_us: Rows) -> tuple[Rows, Rows]:
        """First and last left time of each right row; the last before the first where there is none.

        Raises:
            RecordError: An interval begins earlier than left rows are kept for it.
        """
        if self.within is None:
            return times_us - self.upper_us, times_us - self.lower_us
        arrays = [bound.evaluate(batch) for bound in self.within]
        first, last = (bounded(to_us(array)) for array in arrays)
        for array in arrays:
            if array.null_count:
                missing = null_mask(array)
                first, last = np.where(missing, times_us, first), np.where(missing, times_us - 1, last)
        early = (first < times_us - self.upper_us) & (first <= last)
        if early.any():
            by_us = np.where(early, times_us - first, 0)
            raise self._too_early(batch, int(by_us.argmax()), int(by_us.max()))
        return first, last

    def _too_early(self, batch: pa.RecordBatch, row: int, by_us: int) -> RecordError:
        return RecordError(
            f"the interval of a right row begins {by_us / 1e6:g} s before its own event time, when left rows are no "
            "longer kept for it",
            hint=f'say how far back intervals reach: lookback="{by_us / 1e6:g}s", or more',
            rows=[failed_row(batch, row)],
        )

    @property
    def description(self) -> str:
        """In a few words."""
        if self.within is not None:
            return f"within {self.within[0].description} .. {self.within[1].description}"
        return f"{self.lower_us / 1e6:g}s .. {self.upper_us / 1e6:g}s"


@dataclass(frozen=True, slots=True)
class IntervalJoin(JoinFactory):
    """Joins rows of equal keys whose event times are near each other.

    A row whose event time the watermark has already reached is late: it is counted (`late_rows`) and goes to its
    side's side output, not into the join.

    Args:
        inputs: Left and right, append-only, with event time.
        how: What is sent; rows without a partner when the watermark says that none can come.
        bounds: What near means.
        options: Names of further columns and side outputs.
    """

    bounds: Bounds = field(kw_only=True)
    options: IntervalOptions | None = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _IntervalJoin(self)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result."""
        time = self.options.event_time if self.options is not None else None
        if time is None:
            return self.sent.schema
        return self.sent.schema.append(pa.field(time, self.inputs[LEFT].time_type))

    @property
    def description(self) -> str:
        """What is joined by what."""
        return f"{self.described('interval join')}, {self.bounds.description}"

    @property
    def vectorised(self) -> bool:
        """Whether all conditions are computed by kernels alone."""
        within = self.bounds.within or ()
        return all(part.vectorised for part in (*within, *(() if self.where is None else (self.where,))))

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that are sent, and what rows are joined by."""
        left, right = JoinFactory.required_columns(self, sent, inputs)
        return left, right.union(*(bound.columns for bound in self.bounds.within or ()))

    def narrowed(self, columns: Sequence[str]) -> IntervalJoin | None:
        """The same join, which keeps and sends fewer columns."""
        narrow, options = JoinFactory.narrowed(self, columns), self.options
        if narrow is not None and options is not None and options.event_time not in columns:
            return replace(narrow, options=replace(options, event_time=None))
        return narrow


@dataclass(frozen=True, slots=True)
class IntervalOptions:
    """What else an interval join may send.

    Args:
        event_time: A further column, of the greater of both event times; None: none. (Inner joins only.)
        late_tags: Side outputs of late left and late right rows.
    """

    event_time: str | None = None
    late_tags: tuple[str | None, str | None] = (None, None)


class _Side:
    def __init__(self, config: IntervalJoin, index: int) -> None:
        self.index, self.input = index, config.inputs[index]
        how = config.how
        self.sends_alone = how in (("left", "full", "anti") if index == LEFT else ("right", "full"))
        self.sends_met = how == "semi" and index == LEFT
        once = how in ("semi", "anti") and index == LEFT
        self.ends_when_met = once or config.inputs[1 - index].unique
        self.flagged = self.sends_alone and not self.ends_when_met

    def open(self, context: OperatorContext) -> None:
        """Open its table."""
        schema = self.input.schema
        if self.index == RIGHT:
            for name in (FROM, UPTO):
                schema = schema.append(pa.field(name, pa.int64(), nullable=False))
        if self.flagged:
            schema = schema.append(pa.field(MET, pa.int8(), nullable=False))
        mutable = (*((FROM, UPTO) if self.index == RIGHT else ()), *((MET,) if self.flagged else ()))
        spec = RowsSpec(SIDES[self.index], schema, self.input.keys, mutable, unique=self.input.unique)
        self.table: RowTable = context.rows(spec)
        self.buckets = Buckets(self.table)


@dataclass(frozen=True, slots=True)
class _Arrivals:
    """Rows that are not late, with their times and, right ones, their intervals."""

    batch: pa.RecordBatch
    times_us: Rows
    dead_us: Rows
    intervals_us: tuple[Rows, Rows] | None


class _IntervalJoin(Operator):
    def __init__(self, config: IntervalJoin) -> None:
        self._config = config
        self._bounds = config.bounds
        self._sides = (_Side(config, LEFT), _Side(config, RIGHT))
        self._condition = Condition(config.layout, config.where)
        self._sender = Sender(config.sent)
        self._sends_pairs = config.how not in ("semi", "anti")

    def open(self, context: OperatorContext) -> None:
        for side in self._sides:
            side.open(context)
        options = self._config.options
        self._late_rows = LateRows(context, (None, None) if options is None else options.late_tags)
        self._progress = Progress.of(context)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        self.on_input(LEFT, batch, out)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        own, other = self._sides[index], self._sides[1 - index]
        arrivals = self._arrivals(own, with_columns_of(batch, own.input.schema), out)
        if not arrivals.batch.num_rows:
            return
        if own.input.unique:
            check_unique(own.table, arrivals.batch, own.input.keys, SIDES[index])
        matches = other.table.find(key_arrays(arrivals.batch, own.input.keys))
        rows = BatchRows(arrivals.batch)
        near = Pairs.of(index, rows, other.table, matches)
        near = near.keep(self._near(index, arrivals, matches)) if len(near) else near
        pairs = self._condition.keep(near)
        counts = np.bincount(pairs.numbers[index], minlength=arrivals.batch.num_rows)
        if self._sends_pairs:
            self._send_pairs(pairs, out)
        elif own.sends_met:
            self._sender.alone(index, rows, np.flatnonzero(counts), INSERT, out)
        self._note_partners(other, pairs.numbers[1 - index], out)
        self._remember(own, arrivals, counts, out)

    def _arrivals(self, own: _Side, batch: pa.RecordBatch, out: Output) -> _Arrivals:
        times_us = own.input.times_us(batch)
        marks = self._progress.watermarks(key_arrays(batch, own.input.keys))
        late: Mask = times_us <= (self._progress.watermark_us if marks is None else marks)
        self._late_rows.set_aside(own.index, batch, late, out)
        batch, times_us = pick(batch, ~late), times_us[~late]
        if own.index == LEFT:
            return _Arrivals(batch, times_us, self._bounds.left_dead_us(times_us), None)
        intervals = self._bounds.intervals_us(batch, times_us)
        dead_us = np.where(intervals[0] <= intervals[1], intervals[1], times_us)
        return _Arrivals(batch, times_us, dead_us, intervals)

    def _near(self, index: int, arrivals: _Arrivals, matches: Matches) -> Mask:
        """The pairs in which the left time is within the right row's interval."""
        table = self._sides[1 - index].table
        if index == LEFT:
            first, last = (table.get(name, matches.ids) for name in (FROM, UPTO))
            left_us = arrivals.times_us[matches.rows]
        else:
            assert arrivals.intervals_us is not None, "right rows have intervals"
            first, last = (bound[matches.rows] for bound in arrivals.intervals_us)
            time = self._sides[LEFT].input.event_time
            left_us = time.times_us(table.take(matches.ids, (time.name,)))
        near: Mask = (first <= left_us) & (left_us <= last)
        return near

    def _send_pairs(self, pairs: Pairs, out: Output) -> None:
        options = self._config.options
        if options is None or options.event_time is None or not len(pairs):
            self._sender.pairs(pairs, INSERT, out)
            return
        for chunk in pairs.chunks():
            times = []
            for side in self._sides:
                named = (side.input.event_time.name,)
                times.append(side.input.times_us(chunk.sources[side.index].take(chunk.numbers[side.index], named)))
            latest = from_us(np.maximum(*times), self._config.inputs[LEFT].time_type)
            columns = chunk.columns(self._config.sent)
            out.emit(pa.RecordBatch.from_arrays([*columns.columns, latest], schema=self._config.schema))

    def _note_partners(self, other: _Side, partners: Rows, out: Output) -> None:
        """What it means for remembered rows of the other side that partners have come."""
        if not (len(partners) and (other.sends_met or other.flagged or other.ends_when_met)):
            return
        ids = np.unique(partners)
        if other.sends_met:
            self._sender.alone(other.index, other.table, ids, INSERT, out)
        if other.flagged:
            other.table.set(MET, ids, np.ones(len(ids), np.int8))
        if other.ends_when_met:
            other.table.remove(ids)

    def _remember(self, own: _Side, arrivals: _Arrivals, counts: Rows, out: Output) -> None:
        """Keep the rows that may still find partners; those that cannot and have none are sent alone at once."""
        alive = self._alive(own, arrivals)
        batch = arrivals.batch
        if own.sends_alone:
            self._sender.alone(own.index, BatchRows(batch), np.flatnonzero(~alive & (counts == 0)), INSERT, out)
        if own.ends_when_met:
            alive &= counts == 0
        if not alive.any():
            return
        dead_us = arrivals.dead_us[alive]
        rows = pick(self._stored(own, arrivals, counts), alive)
        own.buckets.append(rows, dead_us, self._progress.watermark_us, self._width_us(own, arrivals))

    def _alive(self, own: _Side, arrivals: _Arrivals) -> Mask:
        alive: Mask = arrivals.dead_us > self._progress.watermark_us
        if arrivals.intervals_us is not None:
            alive &= arrivals.intervals_us[0] <= arrivals.intervals_us[1]
        nulls = null_keys(arrivals.batch, own.input.keys)
        return alive if nulls is None else alive & ~nulls

    def _stored(self, own: _Side, arrivals: _Arrivals, counts: Rows) -> pa.RecordBatch:
        arrays = [*arrivals.batch.columns, *map(pa.array, arrivals.intervals_us or ())]
        if own.flagged:
            arrays.append(pa.array((counts > 0).astype(np.int8)))
        return pa.RecordBatch.from_arrays(arrays, schema=own.table.spec.schema)

    def _width_us(self, own: _Side, arrivals: _Arrivals) -> int:
        """The shortest buckets are about a quarter of the time for which rows wait."""
        if self._bounds.within is None:
            return bucket_width_us(self._bounds.upper_us - self._bounds.lower_us)
        if own.index == LEFT:
            return bucket_width_us(max(self._bounds.upper_us, 8_000_000))
        return bucket_width_us(int(np.median(np.maximum(arrivals.dead_us - arrivals.times_us, 0))))

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        for side in self._sides:
            for end in side.buckets.due(timestamp_us):
                if side.sends_alone:
                    self._send_alone(side, end, out)
                side.table.drop(end)
        self._progress.advance(timestamp_us)

    def _send_alone(self, side: _Side, end: int, out: Output) -> None:
        for _, batch in side.table.scan(end):
            alone = np.arange(batch.num_rows)
            if side.flagged:
                alone = np.flatnonzero(batch.column(MET).to_numpy() == 0)
            self._sender.alone(side.index, BatchRows(batch), alone, INSERT, out)

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        return self._progress.snapshot()
