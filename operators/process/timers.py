"""Timers: a key wants to be called back at a time.

What is set lies in a table of state, a row a key and time; when it is due, in memory alone, in runs sorted by time. A
timer that is deleted, or set twice, is found out when its time comes: only what is in the table fires.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import TableSpec
from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.process.key_batch import KeyBatch, prefixed
from lakeward.operators.rows import column_to_list
from lakeward.operators.windows.columns import Rows, group_rows
from lakeward.operators.windows.due import DueIndex
from lakeward.operators.windows.timed import KeyTypes

_TIME = "##time_us"  # no key column begins so
_AT_ONCE = 32_768
_NEVER = -(2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MOMENT = pa.timestamp("us", tz="UTC")
_FIRST_US, _LAST_US = ((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND for year in (1, 9999))

Time = int | datetime
"""A time as users give it: a datetime (without a time zone: UTC), or microseconds since 1970 UTC."""


def in_range(time: int) -> bool:
    """Whether a time in microseconds lies within the years that Python's datetimes know."""
    return _FIRST_US <= time <= _LAST_US


def time_us(time: Time) -> int:
    """A time in microseconds.

    >>> time_us(datetime(1970, 1, 1, 0, 0, 1)), time_us(5)
    (1000000, 5)

    Raises:
        UserCodeError: It is neither a datetime nor a whole number, or lies outside of the years 1 to 9999.
    """
    if isinstance(time, datetime):
        aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
        return (aware - _EPOCH) // _MICROSECOND
    if isinstance(time, int | np.integer) and in_range(int(time)):
        return int(time)
    raise UserCodeError(
        f"a timer is set to {time!r} ({type(time).__name__})",
        hint="give a datetime, or microseconds since 1970 UTC within the years 1 to 9999",
    )


def to_datetime(time: int) -> datetime:
    """Microseconds as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=time)


@dataclass(frozen=True, slots=True)
class DueTimers:
    """Timers whose time has come, in the order of their times.

    Args:
        arrays: The key columns, a row a different key.
        firsts: The first timer of each key.
        keys: The number of each timer's key.
        times_us: Their times.
    """

    arrays: Sequence[pa.Array]
    firsts: Rows
    keys: Rows
    times_us: Rows


class TimerQueue:
    """The timers of one time domain.

    Args:
        context: The operator's.
        name: The table's name in checkpoints.
        keys: Name and type of the key columns.
        batch: The keys that are being handled.
    """

    def __init__(self, context: OperatorContext, name: str, keys: KeyTypes, batch: KeyBatch) -> None:
        spec = TableSpec(name, (*prefixed(keys), (_TIME, pa.int64())), routing=len(keys))
        self._table = context.table(spec)
        self._batch = batch
        self._due = DueIndex()
        self._set: dict[tuple[int, int], bool] = {}
        self._firing: list[tuple[int, int]] | None = None
        self._firing_upto_us = 0
        for rows in self._table.pane().scan():
            self._note(rows.columns)

    def __len__(self) -> int:
        return len(self._table.pane())

    # -- for the current key

    def register(self, time: int) -> None:
        """Call the current key back at a time; setting a timer twice is setting it once."""
        index = self._batch.index
        self._set[index, time] = True
        if self._firing is not None and time <= self._firing_upto_us:
            heapq.heappush(self._firing, (time, index))

    def register_all(self, times_us: Rows, keys: Rows) -> None:
        """Call keys of the batch back; what this sets cannot be deleted before the batch is done.

        Args:
            times_us: When.
            keys: Their numbers.
        """
        self._insert(self._arrays(keys, times_us), distinct=False)

    def delete_all(self, times_us: Rows, keys: Rows) -> None:
        """Forget timers of keys of the batch."""
        self._table.pane().remove(self._table.keys(self._arrays(keys, times_us)))

    def delete(self, time: int) -> None:
        """Forget a timer of the current key; one that was not set is ignored."""
        self._set[self._batch.index, time] = False

    def discard(self) -> None:
        """Forget what was set and deleted."""
        self._set = {}

    def finish(self) -> None:
        """Write what was set and deleted."""
        if not self._set:
            return
        wanted, self._set = self._set, {}
        count = len(wanted)
        keys = np.fromiter((key for key, _ in wanted), np.int64, count)
        times = np.fromiter((time for _, time in wanted), np.int64, count)
        on = np.fromiter(wanted.values(), np.bool_, count)
        pane = self._table.pane()
        if not on.all():
            pane.remove(self._table.keys(self._arrays(keys[~on], times[~on]), distinct=True))
            keys, times = keys[on], times[on]
        if len(keys):
            self._insert(self._arrays(keys, times), distinct=True)

    def _insert(self, arrays: list[pa.Array], distinct: bool) -> None:
        _, new = self._table.pane().insert(self._table.keys(arrays, distinct=distinct))
        self._note(arrays if new.all() else [array.filter(pa.array(new)) for array in arrays])

    def _arrays(self, keys: Rows, times: Rows) -> list[pa.Array]:
        chosen = pa.array(keys)
        return [*(array.take(chosen) for array in self._batch.arrays), pa.array(times)]

    def _note(self, arrays: Sequence[pa.Array]) -> None:
        self._due.add(arrays[-1].to_numpy(), arrays)

    # -- when time has come

    def due(self, upto_us: int) -> Iterator[DueTimers]:
        """Timers that are set for a time up to this one, some ten thousand at once; they are not set any more.

        Those that are set for such a time while others fire come in a later part, or by `late`.
        """
        while (cutoff := self._due.cutoff(upto_us, _AT_ONCE)) is not None:
            found = self._taken(cutoff)
            if found is not None:
                yield found

    def _taken(self, upto_us: int) -> DueTimers | None:
        arrays = self._due.take(upto_us)
        assert arrays is not None, "a cutoff is the time of an entry"
        # A timer that was deleted and set again was noted twice: of equal ones, one is removed.
        left = np.flatnonzero(self._table.pane().remove(self._table.keys(arrays)))
        if not len(left):
            return None
        times = arrays[-1].to_numpy()[left]
        if (times[1:] < times[:-1]).any():
            order = np.argsort(times, kind="stable")
            left, times = left[order], times[order]
        chosen = pa.array(left)
        columns = [array.take(chosen) for array in arrays[:-1]]
        numbers, firsts = group_rows(columns)
        chosen = pa.array(firsts)
        return DueTimers([column.take(chosen) for column in columns], firsts, numbers, times)

    def firing(self, timers: DueTimers, chained: bool = True) -> Iterator[tuple[int, int, datetime]]:
        """The timers in the order of their times, with those that are set meanwhile; without those that are deleted.

        Args:
            timers: From `due`.
            chained: Whether those that are set meanwhile fire too, if their time is not after the last one's.

        Returns:
            The number of the key, and the time as a number and as a datetime in UTC.
        """
        times = timers.times_us.tolist()
        moments = column_to_list(pa.array(timers.times_us).view(_MOMENT))
        self._firing_upto_us = times[-1] if chained else _NEVER
        added = self._firing = []
        wanted = self._set
        try:
            for key, time, moment in zip(timers.keys.tolist(), times, moments, strict=True):
                while added and added[0] < (time, -1):
                    yield from self._fire_added(added)
                if not wanted or wanted.pop((key, time), True):
                    yield key, time, moment
            while added:
                yield from self._fire_added(added)
        finally:
            self._firing = None

    def _fire_added(self, added: list[tuple[int, int]]) -> Iterator[tuple[int, int, datetime]]:
        time, key = heapq.heappop(added)
        if self._set.pop((key, time), False):
            yield key, time, to_datetime(time)
