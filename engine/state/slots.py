"""Keys to slot numbers: the keys of the slots, and buckets that lead to them (`buckets.py`).

At most a quarter of the buckets are taken, or half of them where there are so many that they are in no cache: then
more of them cost more than longer chains do. The table doubles without a pause: the slots are moved a share at a time
while new keys come in, in the order of their numbers, in which their keys lie in memory; the old buckets are looked at
after the new ones until then (incremental rehashing, as in Redis' dict).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.hashing import Int64Array, UInt64Array, splitmix64
from lakeward.engine.state.buckets import BucketTable
from lakeward.engine.state.key_columns import KeyColumn, grown
from lakeward.engine.state.keys import BoolArray, KeyBatch

_BUCKETS_MIN = 128
_SPARSE_BUCKETS_MAX = 1 << 22
_BUCKETS_PER_KEY_SPARSE = 4
_BUCKETS_PER_KEY = 2
_CLEAN_SHARE = 32  # a full table is made anew, not larger, when at least this part of it is deleted buckets
_REHASH_AT_ONCE = 1 << 18
_MOVE_MIN = 4_096
_MOVE_PER_KEY = 4
NULL_SLOT = 0


class SlotMap:
    """A growing set of keys, numbered. Slot 0 is the null key's; others are 1, 2, ... and used again when freed.

    Args:
        keys: Where the keys of the slots are kept.
    """

    def __init__(self, keys: KeyColumn) -> None:
        self.keys = keys
        self._table = BucketTable(_BUCKETS_MIN)
        self._old: BucketTable | None = None
        self._waiting: BoolArray = np.zeros(0, dtype=np.bool_)  # slots that are in the old table only, from `_moved` on
        self._moved = 0
        self._tombstones = 0
        self._live = 0
        self._has_null = False
        self._next = 1
        self._free: npt.NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._free_count = 0

    def __len__(self) -> int:
        return self._live + self._has_null

    @property
    def slot_count(self) -> int:
        """One past the highest slot ever given out: the length that columns must have."""
        return self._next

    @property
    def free_count(self) -> int:
        """Slots below `slot_count` that the next new keys will take."""
        return self._free_count

    @property
    def size_bytes(self) -> int:
        """Memory of the buckets and keys."""
        old = 0 if self._old is None else self._old.size_bytes + self._waiting.nbytes
        return self._table.size_bytes + old + self._free.nbytes + self.keys.size_bytes

    def growth_bytes(self, more: int) -> int:
        """Memory of the larger table that `more` new keys would make necessary; 0 when they fit."""
        size = self._size_for(more)
        kept = len(self._table) if size <= _REHASH_AT_ONCE else 0  # a larger one is there beside the old for a while
        return max(0, size - kept) * self._table.size_bytes // len(self._table)

    def occupied(self) -> Int64Array:
        """All slots that hold a key, rising."""
        return np.flatnonzero(self._taken())

    def find(self, batch: KeyBatch) -> Int64Array:
        """The slot of each key, -1 where it is not in the map."""
        slots = self._table.probe(batch, self.keys) if self._live else np.full(len(batch), -1, dtype=np.int64)
        if self._old is not None:
            rows = np.flatnonzero(slots < 0)
            if len(rows):
                slots[rows] = self._old.probe(batch.take(rows), self.keys)
        if batch.nulls is not None:
            slots[batch.nulls] = NULL_SLOT if self._has_null else -1
        return slots

    def insert(self, batch: KeyBatch, rows: Int64Array, slots: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Give slots to keys that `find` did not know.

        Args:
            batch: All keys.
            rows: The rows to insert, rising; the same key may be there several times, unless the batch is distinct.
            slots: Where the slot numbers of `rows` are filled in.

        Returns:
            The new slots, and the first row of each, in the order of the rows.
        """
        null_rows, rows = self._insert_null(batch, rows, slots)
        keys = batch if len(rows) == len(batch) else batch.take(rows)
        leaders = None if batch.distinct else _leaders(keys)
        if leaders is None:
            slots[rows] = new = self._add(keys)
            new_rows = rows
        else:
            firsts = np.flatnonzero(leaders == np.arange(len(rows)))
            new, new_rows = self._add(keys.take(firsts)), rows.take(firsts)
            taken = np.empty(len(rows), dtype=np.int64)
            taken[firsts] = new
            slots[rows] = taken.take(leaders)
        if len(null_rows):
            return np.concatenate([[NULL_SLOT], new]), np.concatenate([null_rows, new_rows])
        return new, new_rows

    def insert_distinct(self, batch: KeyBatch) -> Int64Array:
        """Insert many keys that are known to be new and distinct (a restore); returns their slots."""
        slots = np.zeros(len(batch), dtype=np.int64)
        rows = np.arange(len(batch))
        if batch.nulls is not None:
            self._has_null = True
            rows = np.flatnonzero(~batch.nulls)
            batch = batch.take(rows)
        slots[rows] = self._add(batch)
        return slots

    def remove(self, slots: Int64Array) -> None:
        """Forget the keys of these slots, each named once; the slots will be given out again."""
        others = slots[slots != NULL_SLOT]
        if len(others) < len(slots):
            self._has_null = False
        hashes = self.keys.hashes(others)
        self._tombstones += self._table.erase(hashes, others)
        if self._old is not None:
            self._old.erase(hashes, others)
            self._waiting[others[others < len(self._waiting)]] = False
        self.keys.free(others)
        self._live -= len(others)
        self._release(others)

    def move_some(self) -> None:
        """Go on with a rehash that is under way; called once a batch."""
        if self._old is not None:
            self._move(_MOVE_MIN)

    def _insert_null(self, batch: KeyBatch, rows: Int64Array, slots: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Give the null key its slot; returns its first row if it is new, and the rows of other keys."""
        if batch.nulls is None:
            return rows[:0], rows
        is_null = batch.nulls[rows]
        null_rows = rows[is_null]
        slots[null_rows] = NULL_SLOT
        first = null_rows[: 0 if self._has_null else 1]
        self._has_null = self._has_null or len(null_rows) > 0
        return first, rows[~is_null]

    def _add(self, batch: KeyBatch) -> Int64Array:
        """Enter keys that are new, distinct and not null; returns their slots."""
        count = len(batch)
        size = self._size_for(count)
        if size:
            self._resize(size)
        new = self._allocate(count)
        self.keys.put(new, batch)
        self._table.place(batch.hashes, new)
        self._live += count
        if self._old is not None:
            self._move(max(_MOVE_MIN, _MOVE_PER_KEY * count))
        return new

    def _size_for(self, more: int) -> int:
        """Buckets of the table that `more` new keys make necessary; 0 when they fit."""
        size = len(self._table)
        if self._live + self._tombstones + more <= size // _buckets_per_key(size):
            return 0
        needed = _buckets_for(self._live + more)
        if needed <= size and not self._worth_cleaning():
            return size * 2
        return max(needed, size)

    def _resize(self, size: int) -> None:
        if self._old is not None:
            self._move(len(self._waiting))
        old, self._table, self._tombstones = self._table, BucketTable(size), 0
        if len(old) <= _REHASH_AT_ONCE:
            self._enter(self.occupied())
        else:
            self._old, self._waiting, self._moved = old, self._taken(), 0

    def _taken(self) -> BoolArray:
        """For each slot whether it holds a key."""
        taken: BoolArray = np.ones(self._next, dtype=np.bool_)
        taken[self._free[: self._free_count]] = False
        taken[NULL_SLOT] = self._has_null
        return taken

    def _worth_cleaning(self) -> bool:
        """Whether leaving out the deleted buckets makes enough room."""
        return self._tombstones * _CLEAN_SHARE >= len(self._table)

    def _move(self, count: int) -> None:
        """Move those of the next `count` slots that are waiting."""
        part = self._waiting[self._moved : self._moved + count]
        self._enter(self._moved + np.flatnonzero(part))
        self._moved += len(part)
        if self._moved >= len(self._waiting):
            self._old, self._waiting = None, np.zeros(0, dtype=np.bool_)

    def _enter(self, slots: Int64Array) -> None:
        slots = slots[slots != NULL_SLOT]
        self._table.place(self.keys.hashes(slots), slots)

    def _allocate(self, count: int) -> Int64Array:
        used = min(count, self._free_count)
        reused = self._free[self._free_count - used : self._free_count][::-1].astype(np.int64)
        fresh = np.arange(self._next, self._next + count - used)
        self._free_count -= used
        self._next += count - used
        self.keys.ensure(_rounded_up(self._next))
        return np.concatenate([reused, fresh]) if used else fresh

    def _release(self, slots: Int64Array) -> None:
        need = self._free_count + len(slots)
        if need > len(self._free):
            self._free = grown(self._free, max(need, 2 * len(self._free)))  # type: ignore[assignment]
        self._free[self._free_count : need] = slots
        self._free_count = need


def _leaders(keys: KeyBatch) -> Int64Array | None:
    """For each row the first row that has its key; None: all keys are different.

    A row looks for its first at a place that its hash says. Rows of several keys with one place try again at other
    places; each time at least one key a place is done, even if all hashes are the same.
    """
    hashes = keys.hashes
    leaders = _winners(hashes)
    if (leaders == np.arange(len(keys))).all():
        return None
    rest = rows = np.flatnonzero(~keys.equal(leaders))
    while len(rest):
        keys, hashes = keys.take(rest), splitmix64(hashes.take(rest))
        found = _winners(hashes)
        same = keys.equal(found)
        leaders[rows[same]] = rows[found[same]]
        rest = np.flatnonzero(~same)
        rows = rows[rest]
    return leaders


def _winners(hashes: UInt64Array) -> Int64Array:
    """Rows write their number to the place that their hash says, the first of them last; for each row who won."""
    count = len(hashes)
    size = _power_of_two(4 * count)
    places = (hashes & np.uint64(size - 1)).view(np.int64)
    table = np.empty(size, dtype=np.int32)
    table[np.ascontiguousarray(places[::-1])] = np.arange(count - 1, -1, -1, dtype=np.int32)
    return table.take(places, mode="clip").astype(np.int64)


def _buckets_per_key(size: int) -> int:
    return _BUCKETS_PER_KEY_SPARSE if size <= _SPARSE_BUCKETS_MAX else _BUCKETS_PER_KEY


def _buckets_for(keys: int) -> int:
    size = _power_of_two(keys * _BUCKETS_PER_KEY_SPARSE)
    return size if size <= _SPARSE_BUCKETS_MAX else max(2 * _SPARSE_BUCKETS_MAX, _power_of_two(keys * _BUCKETS_PER_KEY))


def _power_of_two(at_least: int) -> int:
    return 1 << max(at_least - 1, _BUCKETS_MIN - 1).bit_length()


def _rounded_up(count: int) -> int:
    """Capacities grow by half, so that few copies are made and little is wasted."""
    capacity = 64
    while capacity < count:
        capacity += capacity // 2
    return capacity
