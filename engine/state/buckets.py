"""Buckets that lead from hashes to slot numbers, by vectorised open addressing with triangular probing.

A bucket holds a slot number and, in the bits that the number does not need, some of its key's hash: most buckets of
other keys are told apart without looking at keys, which lie anywhere in memory. A probe of a whole batch is a gather of
buckets, a comparison of those bits, and a comparison of the keys where they agree; only the rows that did not match go
on, one bucket further, then two, then three: after `n` steps a row stands `n (n + 1) / 2` from where it began, which
visits every bucket of a table whose size is a power of two (Knuth, volume 3, 6.4 exercise 20), and clusters little.
Keys are always compared in full in the end, so colliding hashes cost time, never correctness. The spare bits are used
as in Swiss tables (Abseil, 2018), whose control bytes are a part of the hash too.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.hashing import Int64Array, UInt64Array
from lakeward.engine.state.key_columns import KeyColumn
from lakeward.engine.state.keys import BoolArray, KeyBatch

Entries = npt.NDArray[np.int32]

_EMPTY = 0
_DELETED = -1
_ENTRY_BITS = (1 << 31) - 1


class BucketTable:
    """Buckets for the slots of a `SlotMap`. Slots are positive and below the number of buckets.

    Args:
        size: How many buckets, a power of two.
    """

    def __init__(self, size: int) -> None:
        self._entries: Entries = np.zeros(size, dtype=np.int32)
        self._slot_mask = np.int32(size - 1)
        self._tag_mask = _ENTRY_BITS & ~(size - 1)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Memory of the buckets."""
        return self._entries.nbytes

    def probe(self, batch: KeyBatch, keys: KeyColumn) -> Int64Array:
        """The slot of each key, -1 where it is not here.

        Args:
            batch: What to look for.
            keys: The keys of the slots.
        """
        buckets, tags = self._homes(batch.hashes), self._tags(batch.hashes)
        entries = self._entries.take(buckets, mode="clip")
        slots = (entries & self._slot_mask).astype(np.int64)
        alike = self._alike(entries, tags)
        if 2 * np.count_nonzero(alike) >= len(batch):
            hit = keys.matches(slots, batch, None)
            hit &= alike
            if hit.all():
                return slots
        else:
            hit = _compared(np.flatnonzero(alike), slots, batch, keys)
        rows = np.flatnonzero(~hit)
        slots[rows] = -1
        rows = rows[entries.take(rows) != _EMPTY]
        if len(rows):
            self._probe_on(batch, keys, rows, slots, buckets.take(rows), tags.take(rows))
        return slots

    def _probe_on(
        self,
        batch: KeyBatch,
        keys: KeyColumn,
        rows: Int64Array,
        slots: Int64Array,
        buckets: Int64Array,
        tags: Entries,
    ) -> None:
        """Follow the chains of the rows whose first bucket held another key."""
        mask, step = len(self) - 1, 0
        while len(rows):
            step += 1
            buckets = (buckets + step) & mask
            entries = self._entries.take(buckets)
            going = entries != _EMPTY
            alike = np.flatnonzero(self._alike(entries, tags))
            if len(alike):
                found, asked = (entries.take(alike) & self._slot_mask).astype(np.int64), rows.take(alike)
                hit = keys.matches(found, batch, asked)
                slots[asked[hit]] = found[hit]
                going[alike[hit]] = False
            on = np.flatnonzero(going)
            rows, buckets, tags = rows.take(on), buckets.take(on), tags.take(on)

    def place(self, hashes: UInt64Array, slots: Int64Array) -> None:
        """Enter slots whose keys are distinct and not here: nothing has to be compared."""
        mask, table = len(self) - 1, self._entries
        buckets = self._homes(hashes)
        entries, step = self._tags(hashes) | slots.astype(np.int32), 0
        while len(entries):
            step += 1
            vacant = np.flatnonzero(table.take(buckets, mode="clip") == _EMPTY)
            table[buckets.take(vacant)] = entries.take(vacant)
            rest = np.flatnonzero(table.take(buckets, mode="clip") != entries)
            entries, buckets = entries.take(rest), (buckets.take(rest) + step) & mask

    def erase(self, hashes: UInt64Array, slots: Int64Array) -> int:
        """Mark the buckets of slots as deleted; returns how many there were."""
        mask, table = len(self) - 1, self._entries
        buckets, wanted = self._homes(hashes), self._tags(hashes) | slots.astype(np.int32)
        erased = step = 0
        while len(wanted):
            step += 1
            entries = table.take(buckets)
            hit = entries == wanted
            table[buckets[hit]] = _DELETED
            erased += int(np.count_nonzero(hit))
            going = np.flatnonzero(~hit & (entries != _EMPTY))
            buckets, wanted = (buckets.take(going) + step) & mask, wanted.take(going)
        return erased

    def _homes(self, hashes: UInt64Array) -> Int64Array:
        return (hashes & np.uint64(len(self) - 1)).view(np.int64)

    def _tags(self, hashes: UInt64Array) -> Entries:
        return (hashes & np.uint64(self._tag_mask)).astype(np.int32)

    def _alike(self, entries: Entries, tags: Entries) -> BoolArray:
        """Which entries may be of keys with these tags."""
        alike: BoolArray = (entries & np.int32(self._tag_mask)) == tags
        alike &= entries > _EMPTY
        return alike


def _compared(rows: Int64Array, slots: Int64Array, batch: KeyBatch, keys: KeyColumn) -> BoolArray:
    """For each key of the batch whether it is among `rows` and its slot's key is the same."""
    hit: BoolArray = np.zeros(len(batch), dtype=np.bool_)
    if len(rows):
        hit[rows] = keys.matches(slots.take(rows), batch, rows)
    return hit
