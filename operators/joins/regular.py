"""The regular join of two streams: every row of one side with every row of the other that has its key, for ever.

After Flink's StreamingJoinOperator: both sides are remembered whole; a side whose rows are also sent without a partner
keeps for each row the number of its partners. Where Flink goes row by row, a batch is taken as a whole here: first
what it comes to (`net_changes`), then one look-up in the other side, then what its rows do to the partner counts. What
is taken back is sent before what is new. Only net effects are sent: a row that finds and loses its partner within a
batch is not mentioned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import DELETE, INSERT, append_only, updating
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import Matches, RowsSpec, RowTable
from lakeward.engine.core.messages import WATERMARK_MIN_US
from lakeward.operators.grouping import row_codes
from lakeward.operators.joins.changes import locate, net_changes
from lakeward.operators.joins.factory import SIDES, JoinFactory
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
from lakeward.operators.joins.times import Buckets, bounded, bucket_width_us
from lakeward.operators.joins.unique import check_unique

MATCHES = "matches$"
"""The hidden column of partner counts."""


@dataclass(frozen=True, slots=True)
class RegularJoin(JoinFactory):
    """Joins two streams by equality of keys. State grows with the input unless `state_ttl_us` is given.

    Args:
        state_ttl_us: Rows are forgotten when the watermark has passed their event time by this (and up to half of it
            more); None: never.
    """

    state_ttl_us: int | None = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _RegularJoin(self)

    @property
    def updating(self) -> bool:
        """Whether rows that were sent may be taken back."""
        changing = self.inputs[LEFT].updating or self.inputs[RIGHT].updating
        return changing or self.how not in ("inner", "semi")

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result."""
        sent = self.sent.schema
        return updating(sent) if self.updating else sent

    @property
    def description(self) -> str:
        """What is joined by what."""
        return self.described("join")


class _Side:
    """One side's rows, and what is sent for those with and without partners.

    Args:
        config: The join.
        index: Which side.
    """

    def __init__(self, config: RegularJoin, index: int) -> None:
        own, other = config.inputs[index], config.inputs[1 - index]
        self.index = index
        self.input = own
        how = config.how
        self.sends_alone = how in (("left", "full", "anti") if index == LEFT else ("right", "full"))
        self.sends_met = how == "semi" and index == LEFT
        append_only = not (own.updating or other.updating)
        once = how in ("semi", "anti") and index == LEFT
        self.ends_when_met = append_only and (other.unique or once)
        self.first_only = how in ("semi", "anti") and index == RIGHT and append_only and config.where is None
        self.first_only = self.first_only and config.state_ttl_us is None
        self.counted = (self.sends_alone or self.sends_met) and not self.ends_when_met

    def open(self, context: OperatorContext) -> None:
        """Open its table."""
        schema = append_only(self.input.schema)
        if self.counted:
            schema = schema.append(pa.field(MATCHES, pa.int32(), nullable=False))
        mutable = (MATCHES,) if self.counted else ()
        spec = RowsSpec(SIDES[self.index], schema, self.input.keys, mutable, unique=self.input.unique)
        self.table: RowTable = context.rows(spec)
        self.buckets = Buckets(self.table)


@dataclass(frozen=True, slots=True)
class _Change:
    """Rows that come or go, and their partners.

    Args:
        rows: The rows.
        pairs: With the other side's rows, as the condition leaves them.
        counts: Partners of each row.
        met: Rows of the other side with an equal key, whatever the condition says.
        met_counts: Of those, the number for each row.
    """

    rows: BatchRows
    pairs: Pairs
    counts: Rows
    met: Rows
    met_counts: Rows

    def partners(self, index: int) -> Rows:
        """The other side's rows, one a pair."""
        return self.pairs.numbers[1 - index]


class _RegularJoin(Operator):
    def __init__(self, config: RegularJoin) -> None:
        self._config = config
        self._sides = (_Side(config, LEFT), _Side(config, RIGHT))
        self._condition = Condition(config.layout, config.where)
        self._sender = Sender(config.sent, updating=config.updating)
        self._sends_pairs = config.how not in ("semi", "anti")
        self._ttl_us = config.state_ttl_us
        self._watermark_us = WATERMARK_MIN_US

    def open(self, context: OperatorContext) -> None:
        for side in self._sides:
            side.open(context)
        self._unknown = context.counter("unknown_retractions")

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        self.on_input(LEFT, batch, out)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        if not batch.num_rows:
            return
        own = self._sides[index]
        added, removed = net_changes(with_columns_of(batch, own.input.schema), own.input.identity)
        if own.first_only:
            added = self._first_of_keys(own, added)
        gone = self._take_back(own, removed) if removed is not None and removed.num_rows else None
        come = self._partners(own, added) if added.num_rows else None
        if come is not None and own.input.unique:
            check_unique(own.table, added, own.input.keys, SIDES[index])
        rose, fell = self._recount(index, gone, come)
        self._send(index, gone, come, (rose, fell), out)
        if come is not None:
            self._remember(own, come)
            self._end_met(self._sides[1 - index], come)

    def _take_back(self, own: _Side, removed: pa.RecordBatch) -> _Change | None:
        """Forget rows; those that are not known (any more) are left out, for nothing is to be said of them."""
        ids = locate(own.table, removed, own.input.identity)
        nulls = null_keys(removed, own.input.keys)  # such rows are not kept, but were sent if they stand alone
        known = ids >= 0 if nulls is None else (ids >= 0) | nulls
        if not known.all():
            self._unknown.inc(int(len(known) - np.count_nonzero(known)))
            removed = pick(removed, known)
        change = self._partners(own, removed) if removed.num_rows else None
        own.table.remove(ids[ids >= 0])
        return change

    def _partners(self, own: _Side, rows: pa.RecordBatch) -> _Change:
        other = self._sides[1 - own.index]
        matches: Matches = other.table.find(key_arrays(rows, own.input.keys))
        source = BatchRows(rows)
        pairs = self._condition.keep(Pairs.of(own.index, source, other.table, matches))
        met_counts = np.bincount(matches.rows, minlength=rows.num_rows)
        counts = met_counts
        if len(pairs) != len(matches.rows):
            counts = np.bincount(pairs.numbers[own.index], minlength=rows.num_rows)
        return _Change(source, pairs, counts, matches.ids, met_counts)

    def _recount(self, index: int, gone: _Change | None, come: _Change | None) -> tuple[Rows, Rows]:
        """The other side's rows that now have a partner and had none, and the other way round."""
        other = self._sides[1 - index]
        nobody = np.zeros(0, np.int64)
        if not (other.sends_alone or other.sends_met):
            return nobody, nobody
        if not other.counted:  # those that are remembered have no partner yet
            return (nobody if come is None else np.unique(come.partners(index))), nobody
        signed = [(change.partners(index), sign) for change, sign in ((gone, -1), (come, 1)) if change is not None]
        ids, places = np.unique(np.concatenate([ids for ids, _ in signed] or [nobody]), return_inverse=True)
        if not len(ids):
            return nobody, nobody
        before = other.table.get(MATCHES, ids)
        after = before.astype(np.int64)
        np.add.at(after, places, np.concatenate([np.full(len(ids), sign) for ids, sign in signed]))
        other.table.set(MATCHES, ids, after.astype(np.int32))
        return ids[(before == 0) & (after > 0)], ids[(before > 0) & (after == 0)]

    def _send(
        self, index: int, gone: _Change | None, come: _Change | None, turned: tuple[Rows, Rows], out: Output
    ) -> None:
        other = self._sides[1 - index]
        rose, fell = turned
        for change, alone, kind in ((gone, rose, DELETE), (come, fell, INSERT)):
            if change is not None:
                self._send_change(index, change, kind, out)
            if other.sends_alone:
                self._sender.alone(other.index, other.table, alone, kind, out)
            if other.sends_met:
                met = fell if kind == DELETE else rose
                self._sender.alone(other.index, other.table, met, kind, out)

    def _send_change(self, index: int, change: _Change, kind: int, out: Output) -> None:
        own = self._sides[index]
        if self._sends_pairs:
            self._sender.pairs(change.pairs, kind, out)
        if own.sends_alone or own.sends_met:
            wanted = change.counts > 0 if own.sends_met else change.counts == 0
            self._sender.alone(index, change.rows, np.flatnonzero(wanted), kind, out)

    def _remember(self, own: _Side, come: _Change) -> None:
        rows, keep = come.rows.batch, self._kept(own, come)
        if own.counted:
            rows = rows.append_column(pa.field(MATCHES, pa.int32(), nullable=False), pa.array(come.counts, pa.int32()))
        if keep is not None:
            rows = pick(rows, keep)
        if not rows.num_rows:
            return
        if self._ttl_us is None:
            own.table.append(rows)
            return
        dead_us = bounded(own.input.times_us(rows)) + self._ttl_us
        alive = dead_us > self._watermark_us
        least_us = bucket_width_us(self._ttl_us)
        own.buckets.append(pick(rows, alive), dead_us[alive], self._watermark_us, least_us)

    def _kept(self, own: _Side, come: _Change) -> Mask | None:
        """The rows that may find (further) partners; None: all."""
        nulls = null_keys(come.rows.batch, own.input.keys)
        keep = None if nulls is None else ~nulls
        if own.ends_when_met:
            ended = come.met_counts if self._sides[1 - own.index].input.unique else come.counts
            keep = ended == 0 if keep is None else keep & (ended == 0)
        return keep

    def _end_met(self, other: _Side, come: _Change) -> None:
        if other.ends_when_met:
            by_key = self._sides[1 - other.index].input.unique
            ended = come.met if by_key else come.partners(1 - other.index)
            if len(ended):
                other.table.remove(np.unique(ended))

    def _first_of_keys(self, own: _Side, rows: pa.RecordBatch) -> pa.RecordBatch:
        """The first row ever of each key: all that matters when only its being there does."""
        keys = key_arrays(rows, own.input.keys)
        codes = row_codes(keys)
        first = np.zeros(rows.num_rows, np.bool_)
        first[np.unique(codes, return_index=True)[1]] = True
        first[own.table.find(keys).rows] = False
        return pick(rows, first)

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        self._watermark_us = max(self._watermark_us, timestamp_us)
        if self._ttl_us is not None:
            for side in self._sides:
                for end in side.buckets.due(timestamp_us):
                    side.table.drop(end)
