"""Removal of expired state in the background: which keys have to be looked at, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from lakeward.operators.process.key_batch import KeyBatch
from lakeward.operators.process.states import StateTtl
from lakeward.operators.windows.columns import Rows
from lakeward.operators.windows.due import DueIndex

_KEYS_AT_ONCE = 65_536

Check = Callable[[Sequence[pa.Array], int], Rows]
"""Removes what has expired by a time from some keys; returns when each is due next, -1 for those that hold nothing."""


class Expiry:
    """The times at which the keys of one state have something that may have expired.

    A key is noted once, when it begins to hold something. When its time has come it is looked at: what has expired
    is removed, and if something is left the key is noted anew. So a key that is written all the time is looked at once
    a TTL, not once a write.

    Args:
        ttl: The state's.
        check: Removes what has expired.
    """

    def __init__(self, ttl: StateTtl, check: Check) -> None:
        self.ttl = ttl
        self._check = check
        self._due = DueIndex()

    @property
    def by_event_time(self) -> bool:
        """Whose time counts."""
        return self.ttl.time == "event"

    def now_us(self, batch: KeyBatch) -> int:
        """The time by which state has expired or not."""
        return batch.watermark_us if self.by_event_time else batch.now_us

    def touched_us(self, batch: KeyBatch) -> int:
        """The time at which what is being handled touches state; the watermark for rows without a time."""
        if not self.by_event_time:
            return batch.now_us
        return batch.watermark_us if batch.by_clock else max(batch.time_us, batch.watermark_us)

    def touched_of_all(self, batch: KeyBatch) -> Rows:
        """The time at which the state of each key of a batch is touched."""
        times = self.now_of_all(batch)
        if self.by_event_time and batch.times_us is not None:
            times = np.maximum(times, batch.times_us)
        return times

    def now_of_all(self, batch: KeyBatch) -> Rows:
        """The time by which the state of each key of a batch has expired or not."""
        if self.by_event_time and batch.watermarks_us is not None:
            return batch.watermarks_us
        return np.full(len(batch), self.now_us(batch))

    def note(self, arrays: Sequence[pa.Array], touched_us: Rows) -> None:
        """These keys hold something that was touched at these times."""
        self._due.add(self.due_us(touched_us), list(arrays))

    def due_us(self, touched_us: Rows) -> Rows:
        """When what was touched then has expired."""
        limit = np.iinfo(np.int64).max - self.ttl.duration_us
        return np.minimum(touched_us, limit) + self.ttl.duration_us

    def due_at(self, touched_us: int) -> int:
        """When what was touched at one time has expired."""
        return touched_us + self.ttl.duration_us

    def advance(self, now_us: int) -> None:
        """Time has come to here: remove what has expired."""
        taken = self._due.take(now_us)
        for start in range(0, len(taken[0]) if taken else 0, _KEYS_AT_ONCE):
            assert taken is not None, "it has a length"
            arrays = [column[start : start + _KEYS_AT_ONCE] for column in taken]
            due_us = self._check(arrays, now_us)
            left = np.flatnonzero(due_us >= 0)
            if len(left):
                self._due.add(due_us[left], [array.take(pa.array(left)) for array in arrays])
