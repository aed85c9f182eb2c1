"""The open sessions of each key, in levels: the latest session of every key, the one before it, and so on.

Nearly every key has one open session, which lies in level 0 and is found by one lookup of the key. Only where rows come
out of order, or a gap is shorter than the watermark's delay, a key has several; level n holds, for the keys that have
that many, the session that is the n-th from the end. A level is a pane of one state table, so all of them move with
their keys when a job is rescaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, Keys, Pane, SlotArray, StateTable, TableSpec
from lakeward.operators.windows.accumulate import Accumulated, Accumulator
from lakeward.operators.windows.columns import Rows, Values
from lakeward.operators.windows.timed import KeyTypes

START, END, MORE = "#start", "#end", "#more"
"""First event time, last event time plus gap, and (in level 0) how many more open sessions the key has."""

NO_START_US, NO_END_US = 2**63 - 1, -(2**63)
"""Bounds of a session without rows: any row widens them."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """Some sessions of some keys.

    Args:
        owners: Which key each belongs to, by its number.
        starts_us: Their first event times.
        ends_us: Their last event times plus the gap.
        values: What else is kept of them: an accumulator's columns, and more.
    """

    owners: Rows
    starts_us: Rows
    ends_us: Rows
    values: Accumulated

    def __len__(self) -> int:
        return len(self.owners)

    def take(self, rows: Rows) -> Sessions:
        """Some of them."""
        values = {name: column[rows] for name, column in self.values.items()}
        return Sessions(self.owners[rows], self.starts_us[rows], self.ends_us[rows], values)

    def in_order(self) -> Sessions:
        """The same, by owner and start."""
        return self.take(np.lexsort((self.starts_us, self.owners)))


class SessionState:
    """The state tables of a session operator.

    Args:
        keys: Name and type of the key columns.
        accumulator: What is kept a session.
        more: What else is.
    """

    def __init__(self, keys: KeyTypes, accumulator: Accumulator, more: Sequence[ColumnSpec] = ()) -> None:
        bounds = (
            ColumnSpec(START, pa.int64(), NO_START_US),
            ColumnSpec(END, pa.int64(), NO_END_US),
            ColumnSpec(MORE, pa.int64(), 0),
        )
        values = (*accumulator.columns, *more)
        self._spec = TableSpec("sessions", keys, (*bounds, *values))
        self._names = [spec.name for spec in values]
        self._key_count = len(keys)
        self._accumulator = accumulator
        self.levels = 1

    def open(self, context: OperatorContext) -> None:
        """Open the table."""
        self._table = context.table(self._spec)
        namespaces = self._table.namespaces()
        self.levels = namespaces[-1] + 1 if namespaces else 1
        self._accumulator.opened(not namespaces)

    @property
    def table(self) -> StateTable:
        """The table."""
        return self._table

    @property
    def latest(self) -> Pane:
        """Level 0."""
        return self._table.pane(0)

    def scan(self) -> Iterator[tuple[list[pa.Array], Rows]]:
        """Keys and ends of all sessions, in batches."""
        for level in range(self.levels):
            for batch in self._table.pane(level).scan():
                yield list(batch.columns[: self._key_count]), batch.column(END).to_numpy()

    def more(self, slots: SlotArray) -> Rows:
        """How many sessions beside the latest each key has."""
        if self.levels == 1:
            return np.zeros(len(slots), np.int64)
        more: Rows = self.latest.column(MORE)[slots]
        return more

    def held(self, keys: Keys, slots: SlotArray) -> Sessions:
        """All open sessions of some keys.

        Args:
            keys: The keys, all different.
            slots: Their slots in level 0.
        """
        more = self.more(slots)
        owners = np.flatnonzero(self.latest.column(END)[slots] != NO_END_US)
        parts = [self._at(self.latest, owners, slots[owners])]
        for level in range(1, int(more.max(initial=0)) + 1):
            owners = np.flatnonzero(more >= level)
            pane = self._table.pane(level)
            at = pane.find(keys.take(owners))
            assert (at >= 0).all(), "a key has a session in each level that it counts"
            parts.append(self._at(pane, owners, at))
        return parts[0] if len(parts) == 1 else concat(parts)

    def _at(self, pane: Pane, owners: Rows, slots: SlotArray) -> Sessions:
        starts, ends = pane.column(START)[slots], pane.column(END)[slots]
        values: dict[str, Values] = {name: pane.column(name)[slots] for name in self._names}
        return Sessions(owners, starts, ends, values)

    def write(self, keys: Keys, sessions: Sessions, more: Rows) -> None:
        """Set all open sessions of some keys.

        Args:
            keys: The keys, all different.
            sessions: Theirs, at least one each; sorted by owner and start.
            more: How many sessions beside the latest each key had.
        """
        counts = np.bincount(sessions.owners, minlength=len(keys))
        levels = np.cumsum(counts)[sessions.owners] - 1 - np.arange(len(sessions))
        for level in range(int(counts.max(initial=1))):
            rows = np.flatnonzero(levels == level)
            pane = self._table.pane(level)
            slots = pane.slots(keys.take(sessions.owners[rows]))
            pane.column(START)[slots] = sessions.starts_us[rows]
            pane.column(END)[slots] = sessions.ends_us[rows]
            pane.column(MORE)[slots] = counts[sessions.owners[rows]] - 1 if level == 0 else 0
            for name in self._names:
                pane.column(name)[slots] = sessions.values[name][rows]
        self.levels = max(self.levels, int(counts.max(initial=1)))
        self._remove_between(keys, counts, more)

    def forget_oldest(self, keys: Keys, more: Rows, removed: Rows) -> None:
        """Forget the sessions that began first.

        Args:
            keys: The keys, all different.
            more: How many sessions beside the latest each has.
            removed: How many of them each loses.
        """
        left = more + 1 - removed
        changed = np.flatnonzero((removed > 0) & (left > 0))
        if len(changed):
            at = self.latest.slots(keys.take(changed))  # not those of `find`, which are not written to the store
            self.latest.column(MORE)[at] = left[changed] - 1
        self._remove_between(keys, np.maximum(left, 1), more)
        gone = np.flatnonzero(left == 0)
        if len(gone):
            self.latest.remove(keys if len(gone) == len(keys) else keys.take(gone))
        while self.levels > 1 and not len(self._table.pane(self.levels - 1)):
            self._table.drop(self.levels - 1)
            self.levels -= 1

    def _remove_between(self, keys: Keys, counts: Rows, more: Rows) -> None:
        """Remove the levels that keys no longer need."""
        for level in range(1, int(more.max(initial=0)) + 1):
            rows = np.flatnonzero((counts <= level) & (level <= more))
            if len(rows):
                self._table.pane(level).remove(keys.take(rows))


def concat(parts: Sequence[Sessions]) -> Sessions:
    """One after the other."""
    values: dict[str, Values] = {
        name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values
    }
    return Sessions(
        np.concatenate([part.owners for part in parts]),
        np.concatenate([part.starts_us for part in parts]),
        np.concatenate([part.ends_us for part in parts]),
        values,
    )


@dataclass(frozen=True, slots=True)
class Merged:
    """Intervals joined where they overlap or touch.

    Args:
        groups: For each interval, the number of the joined one it is part of.
        owners: For each joined one, whose it is; rising.
        starts_us: Where it begins; rising within an owner.
        ends_us: Where it ends.
    """

    groups: Rows
    owners: Rows
    starts_us: Rows
    ends_us: Rows


def merge_intervals(owners: Rows, starts_us: Rows, ends_us: Rows) -> Merged:
    """Join the intervals of each owner that overlap or touch, as Flink's TimeWindow.intersects has it.

    >>> owners = np.array([7, 7, 7, 8])
    >>> merged = merge_intervals(owners, np.array([5, 0, 11, 10]), np.array([10, 5, 12, 20]))
    >>> merged.groups.tolist(), merged.owners.tolist(), merged.starts_us.tolist(), merged.ends_us.tolist()
    ([0, 0, 1, 2], [7, 7, 8], [0, 11, 10], [10, 12, 20])

    Args:
        owners: Whose each interval is; small numbers.
        starts_us: Where each begins.
        ends_us: Where each ends; what begins there belongs together with it.

    Returns:
        The joined intervals, sorted by owner and start.
    """
    count = len(owners)
    order = np.lexsort((starts_us, owners))
    owner, start, end = owners[order], starts_us[order], ends_us[order]
    # The furthest end so far within an owner: of ranks, so that a later owner's always exceed an earlier one's.
    ranks = np.empty(count, np.int64)
    by_end = np.argsort(end, kind="stable")
    ranks[by_end] = np.arange(count)
    furthest = np.maximum.accumulate(owner * count + ranks) - owner * count
    reach = end[by_end][furthest]
    first = np.ones(count, dtype=np.bool_)
    first[1:] = (owner[1:] != owner[:-1]) | (start[1:] > reach[:-1])
    numbers = np.cumsum(first) - 1
    groups = np.empty(count, np.int64)
    groups[order] = numbers
    begins = np.flatnonzero(first)
    lasts = np.append(begins[1:], count) - 1
    return Merged(groups, owner[begins], start[begins], reach[lasts])
