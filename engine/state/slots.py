"""Keys to slot numbers by vectorised open addressing with triangular probing.

A bucket is a slot number, and at most a quarter of the buckets are taken. A probe of a whole batch is a gather of
buckets, a gather of the slots' keys and a comparison; only the rows that did not match go on, one bucket further, then
two, then three: after `n` steps a row stands `n (n + 1) / 2` from where it began, which visits every bucket of a table
whose size is a power of two (Knuth, volume 3, 6.4 exercise 20), and clusters little. Keys are always compared in full,
so colliding hashes cost time, never correctness. The table doubles without a pause: the old buckets are moved a share
at a time while new keys come in, and looked at after the new ones until then (incremental rehashing, as in Redis'
dict).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.hashing import Int64Array, UInt64Array, splitmix64
from lakeward.engine.state.key_columns import KeyColumn, grown
from lakeward.engine.state.keys import KeyBatch

Buckets = npt.NDArray[np.int32]

_EMPTY = 0
_DELETED = -1
_BUCKETS_PER_KEY = 4
_BUCKETS_MIN = 128
_CLEAN_SHARE = 32  # a full table is made anew, not larger, when at least this part of it is deleted buckets
_REHASH_AT_ONCE = 1 << 18
_MOVE_MIN = 16_384
_MOVE_PER_KEY = 16
NULL_SLOT = 0


class SlotMap:
    """A growing set of keys, numbered. Slot 0 is the null key's; others are 1, 2, ... and used again when freed.

    Args:
        keys: Where the keys of the slots are kept.
    """

    def __init__(self, keys: KeyColumn) -> None:
        self.keys = keys
        self._table: Buckets = np.zeros(_BUCKETS_MIN, dtype=np.int32)
        self._old: Buckets | None = None
        self._moved = 0
        self._tombstones = 0
        self._live = 0
        self._has_null = False
        self._next = 1
        self._free: Buckets = np.zeros(0, dtype=np.int32)
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
        old = 0 if self._old is None else self._old.nbytes
        return self._table.nbytes + old + self._free.nbytes + self.keys.size_bytes

    def growth_bytes(self, more: int) -> int:
        """Memory of the larger table that `more` new keys would make necessary; 0 when they fit."""
        size = self._size_for(more)
        kept = len(self._table) if size <= _REHASH_AT_ONCE else 0  # a larger one is there beside the old for a while
        return max(0, size - kept) * self._table.itemsize

    def occupied(self) -> Int64Array:
        """All slots that hold a key, rising."""
        taken = np.ones(self._next, dtype=np.bool_)
        taken[self._free[: self._free_count]] = False
        taken[NULL_SLOT] = self._has_null
        return np.flatnonzero(taken)

    def find(self, batch: KeyBatch) -> Int64Array:
        """The slot of each key, -1 where it is not in the map."""
        slots = self._probe(self._table, batch) if self._live else np.full(len(batch), -1, dtype=np.int64)
        if self._old is not None:
            rows = np.flatnonzero(slots < 0)
            if len(rows):
                slots[rows] = self._probe(self._old, batch.take(rows))
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
        self._tombstones += _erase(self._table, hashes, others)
        if self._old is not None:
            _erase(self._old, hashes, others)
        self.keys.free(others)
        self._live -= len(others)
        self._release(others)

    def move_some(self) -> None:
        """Go on with a rehash that is under way; called once a batch."""
        if self._old is not None:
            self._move(_MOVE_MIN)

    def _probe(self, table: Buckets, batch: KeyBatch) -> Int64Array:
        mask = np.uint64(len(table) - 1)
        buckets = (batch.hashes & mask).view(np.int64)
        slots = table.take(buckets, mode="clip").astype(np.int64)
        hit = self.keys.matches(slots, batch, None)
        hit &= slots > 0
        if hit.all():
            return slots
        rows = np.flatnonzero(~hit)
        others = slots.take(rows)
        slots[rows] = -1
        rows = rows[others != _EMPTY]
        if len(rows):
            self._probe_on(table, batch, rows, slots, buckets.take(rows))
        return slots

    def _probe_on(
        self, table: Buckets, batch: KeyBatch, rows: Int64Array, slots: Int64Array, buckets: Int64Array
    ) -> None:
        """Follow the chains of the rows whose first bucket held another key."""
        mask, step = len(table) - 1, 0
        while len(rows):
            step += 1
            buckets = (buckets + step) & mask
            found = table.take(buckets).astype(np.int64)
            hit = self.keys.matches(found, batch, rows)
            hit &= found > 0
            slots[rows[hit]] = found[hit]
            going = np.flatnonzero((found != _EMPTY) & ~hit)
            rows, buckets = rows.take(going), buckets.take(going)

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
        _place(self._table, batch.hashes, new)
        self._live += count
        if self._old is not None:
            self._move(max(_MOVE_MIN, _MOVE_PER_KEY * count))
        return new

    def _size_for(self, more: int) -> int:
        """Buckets of the table that `more` new keys make necessary; 0 when they fit."""
        size = len(self._table)
        if (self._live + self._tombstones + more) * _BUCKETS_PER_KEY <= size:
            return 0
        needed = _power_of_two((self._live + more) * _BUCKETS_PER_KEY)
        if needed <= size and not self._worth_cleaning():
            return size * 2
        return max(needed, size)

    def _resize(self, size: int) -> None:
        if self._old is not None:
            self._move(len(self._old))
        if len(self._table) <= _REHASH_AT_ONCE:
            self._rebuild(size)
            return
        self._old, self._moved = self._table, 0
        self._table = np.zeros(size, dtype=np.int32)
        self._tombstones = 0

    def _worth_cleaning(self) -> bool:
        """Whether leaving out the deleted buckets makes enough room."""
        return self._tombstones * _CLEAN_SHARE >= len(self._table)

    def _rebuild(self, size: int) -> None:
        slots = self.occupied()
        slots = slots[slots != NULL_SLOT]
        self._old = None
        self._table = np.zeros(size, dtype=np.int32)
        self._tombstones = 0
        _place(self._table, self.keys.hashes(slots), slots)

    def _move(self, buckets: int) -> None:
        assert self._old is not None
        part = self._old[self._moved : self._moved + buckets]
        slots = part[part > 0].astype(np.int64)
        _place(self._table, self.keys.hashes(slots), slots)
        self._moved += len(part)
        if self._moved >= len(self._old):
            self._old = None

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


def _power_of_two(at_least: int) -> int:
    return 1 << max(at_least - 1, _BUCKETS_MIN - 1).bit_length()


def _rounded_up(count: int) -> int:
    """Capacities grow by half, so that few copies are made and little is wasted."""
    capacity = 64
    while capacity < count:
        capacity += capacity // 2
    return capacity


def _place(table: Buckets, hashes: UInt64Array, slots: Int64Array) -> None:
    """Enter slots whose keys are distinct and not in the table: nothing has to be compared."""
    mask = len(table) - 1
    buckets = (hashes & np.uint64(mask)).view(np.int64)
    entries, step = slots.astype(table.dtype), 0  # of the table's type, else they are written at half the speed
    while len(entries):
        step += 1
        vacant = np.flatnonzero(table.take(buckets, mode="clip") == _EMPTY)
        table[buckets.take(vacant)] = entries.take(vacant)
        rest = np.flatnonzero(table.take(buckets, mode="clip") != entries)
        entries, buckets = entries.take(rest), (buckets.take(rest) + step) & mask


def _erase(table: Buckets, hashes: UInt64Array, slots: Int64Array) -> int:
    """Mark the buckets of slots as deleted; returns how many there were."""
    mask = len(table) - 1
    buckets = (hashes & np.uint64(mask)).view(np.int64)
    erased = step = 0
    while len(slots):
        step += 1
        entries = table[buckets]
        hit = entries == slots
        table[buckets[hit]] = _DELETED
        erased += int(np.count_nonzero(hit))
        going = np.flatnonzero(~hit & (entries != _EMPTY))
        buckets, slots = (buckets[going] + step) & mask, slots[going]
    return erased
