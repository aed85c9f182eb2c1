"""Timers: a key wants to be called back at a time.

What is set lies in a table of state, a row a key and time; when it is due, in memory alone, in runs sorted by time. A
timer that is deleted, or set twice, is found out when its time comes: only what is in the table fires.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import TableSpec
from lakeward.engine.core.errors import UserCodeError
from lakeward.engine.core.redaction import FailedRow
from lakeward.operators.process.key_batch import KeyBatch, prefixed
from lakeward.operators.process.timer_loops import TimerLoops
from lakeward.operators.rows import column_to_list
from lakeward.operators.windows.columns import Mask, Rows, group_rows
from lakeward.operators.windows.due import DueIndex
from lakeward.operators.windows.timed import KeyTypes

_TIME = "##time_us"  # no key column begins so: see `prefixed`
_AT_ONCE = 32_768
_AT_LEAST = 64
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


class _Change(NamedTuple):
    """Timers that are set or deleted for keys of a batch, when the batch is done.

    Args:
        arrays: Their keys and times.
        set_for: The numbers of the keys for which they are set; None: they are deleted.
    """

    arrays: list[pa.Array]
    set_for: Rows | None


class TimerQueue:
    """The timers of one time domain.

    Args:
        context: The operator's.
        name: The table's name in checkpoints.
        keys: Name and type of the key columns.
        batch: The keys that are being handled.
        function: What gets the timers, for errors.
    """

    def __init__(self, context: OperatorContext, name: str, keys: KeyTypes, batch: KeyBatch, function: str) -> None:
        spec = TableSpec(name, (*prefixed(keys), (_TIME, pa.int64())), routing=len(keys))
        self._table = context.table(spec)
        self._batch = batch
        self._key_names = [name for name, _ in keys]
        self._function = function
        self._due = DueIndex()
        self._loops = TimerLoops()
        self._turn_us: Rows | None = None
        self._set: dict[tuple[int, int], bool] = {}
        self._of_all: list[_Change] = []
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
        if self._set.get((index, time)):
            return
        if self._firing is not None and time <= self._firing_upto_us:
            now_us = self._batch.time_us
            if (time <= now_us or self._loops) and self._loops.is_endless(index, now_us, time):
                raise self._endless(time, self._batch.key_values)
            heapq.heappush(self._firing, (time, index))
        self._set[index, time] = True

    def register_all(self, times_us: Rows, keys: Rows) -> None:
        """Call keys of the batch back.

        Args:
            times_us: When.
            keys: Their numbers.
        """
        self._of_all.append(_Change(self._arrays(keys, times_us), keys))

    def _set_all(self, arrays: list[pa.Array], keys: Rows) -> None:
        new = self._insert(arrays, distinct=False)
        if self._turn_us is None:
            return
        now_us, added = self._turn_us[keys[new]], [array.filter(pa.array(new)) for array in arrays]
        if self._loops or (added[-1].to_numpy() <= now_us).any():
            self._check_loops(added, now_us)

    def _check_loops(self, arrays: list[pa.Array], now_us: Rows) -> None:
        lists = [column_to_list(array) for array in arrays]
        for now, (*key, time) in zip(now_us.tolist(), zip(*lists, strict=True), strict=True):
            if self._loops.is_endless(repr(key), now, time):  # as text a NaN is like itself
                raise self._endless(time, key)

    def _endless(self, time: int, key: Sequence[Any]) -> UserCodeError:
        return UserCodeError(
            f"{self._function} sets timers of one key for their own time, or for earlier ones, again and again without "
            f"end; the last one for {to_datetime(time)}",
            hint="such timers fire at once, so time stands still: set the next one for a later time, or stop",
            rows=(FailedRow(dict(zip(self._key_names, key, strict=True)), label="key"),),
        )

    def delete_all(self, times_us: Rows, keys: Rows) -> None:
        """Forget timers of keys of the batch."""
        self._of_all.append(_Change(self._arrays(keys, times_us), None))

    def delete(self, time: int) -> None:
        """Forget a timer of the current key; one that was not set is ignored."""
        self._set[self._batch.index, time] = False

    def discard(self) -> None:
        """Forget what was set and deleted."""
        self._set, self._of_all = {}, []

    def finish(self) -> None:
        """Write what was set and deleted."""
        changes, self._of_all = self._of_all, []
        for arrays, new in changes:
            if new is None:
                self._table.pane().remove(self._table.keys(arrays))
            else:
                self._set_all(arrays, new)
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

    def _insert(self, arrays: list[pa.Array], distinct: bool) -> Mask:
        """Set timers; says which were not set before."""
        _, new = self._table.pane().insert(self._table.keys(arrays, distinct=distinct))
        self._note(arrays if new.all() else [array.filter(pa.array(new)) for array in arrays])
        return new

    def _arrays(self, keys: Rows, times: Rows) -> list[pa.Array]:
        chosen = pa.array(keys)
        return [*(array.take(chosen) for array in self._batch.arrays), pa.array(times)]

    def _note(self, arrays: Sequence[pa.Array]) -> None:
        self._due.add(arrays[-1].to_numpy(), arrays)

    # -- when time has come

    def due(self, upto_us: int) -> Iterator[DueTimers]:
        """Timers that are set for a time up to this one, some ten thousand at once; they are not set any more.

        Those that are set for such a time while others fire come by `firing`, or in a later part.
        """
        while (cutoff := self._due.cutoff(upto_us, _AT_ONCE)) is not None:
            found = self._taken(cutoff)
            if found is not None:
                yield found

    def due_once_a_key(self, upto_us: int) -> Iterator[DueTimers]:
        """Timers that are set for a time up to this one, in rounds that have each key once; they are not set any more.

        Between two rounds timers may be set and deleted. When one is set that may have its turn before others of the
        part, these are put back, and the next part is not much larger than what has fired of this one: so timers that
        set others all the time do not cost the number of those that wait.
        """
        rows = _AT_ONCE
        self._loops.clear()
        while (cutoff := self._due.cutoff(upto_us, rows)) is not None:
            arrays, fired = self._sorted(cutoff), 0
            last_us, keys, pane = arrays[-1][-1].as_py(), self._table.keys(arrays), self._table.pane()
            for turn, later in _turns(arrays[:-1]):
                turn = turn[pane.remove(keys.take(turn))]  # the others were deleted
                if not len(turn):
                    continue
                fired += len(turn)
                due = _different(_taken_rows(arrays, turn))
                self._turn_us = due.times_us
                yield due
                self._turn_us = None
                if len(later) and (first_us := self._due.first_us) is not None and first_us <= last_us:
                    self._note(_taken_rows(arrays, later))
                    break
            rows = min(_AT_ONCE, max(_AT_LEAST, 2 * fired))

    def _sorted(self, upto_us: int) -> list[pa.Array]:
        """Take entries out, in the order of their times."""
        arrays = self._due.take(upto_us)
        assert arrays is not None, "a cutoff is the time of an entry"
        times = arrays[-1].to_numpy()
        if (times[1:] < times[:-1]).any():
            return _taken_rows(arrays, np.argsort(times, kind="stable"))
        return arrays

    def _taken(self, upto_us: int) -> DueTimers | None:
        arrays = self._sorted(upto_us)
        # A timer that was deleted and set again was noted twice: of equal ones, one is removed.
        left = np.flatnonzero(self._table.pane().remove(self._table.keys(arrays)))
        if not len(left):
            return None
        *columns, times = _taken_rows(arrays, left)
        numbers, firsts = group_rows(columns)
        return DueTimers(_taken_rows(columns, firsts), firsts, numbers, times.to_numpy())

    def firing(self, timers: DueTimers, chained: bool = True) -> Iterator[tuple[int, int, datetime]]:
        """The timers in the order of their times, with those that are set meanwhile; without those that are deleted.

        Args:
            timers: From `due`.
            chained: Whether those that are set meanwhile fire too, if their time is not after the last one's.

        Returns:
            The number of the key, and the time as a number and as a datetime in UTC.

        Raises:
            UserCodeError: From `register`: timers set one another without end; names key, time and function.
        """
        times = timers.times_us.tolist()
        moments = column_to_list(pa.array(timers.times_us).view(_MOMENT))
        self._firing_upto_us = times[-1] if chained else _NEVER
        added = self._firing = []
        wanted = self._set
        self._loops.clear()
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


def _taken_rows(arrays: Sequence[pa.Array], rows: Rows) -> list[pa.Array]:
    chosen = pa.array(rows)
    return [array.take(chosen) for array in arrays]


def _different(arrays: Sequence[pa.Array]) -> DueTimers:
    """Timers of different keys."""
    *columns, times = arrays
    numbers = np.arange(len(times))
    return DueTimers(columns, numbers, numbers, times.to_numpy())


def _turns(keys: Sequence[pa.Array]) -> Iterator[tuple[Rows, Rows]]:
    """The first rows of all keys, then their second ones, and so on, each time with the rows that are left."""
    numbers, firsts = group_rows(keys)
    by_key = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers, minlength=len(firsts))
    turns = np.empty(len(numbers), np.int64)
    turns[by_key] = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
    order = np.argsort(turns, kind="stable")
    begin = 0
    for end in np.cumsum(np.bincount(turns)).tolist():
        yield order[begin:end], order[end:]
        begin = end
