"""The rows of each key: a slot a key, and a list of row ids a slot that grows in place.

All lists lie in one array of row numbers. A list has room for some more entries behind it; when that is used up it
moves to the end with twice the room, and what it leaves is garbage until the array is compacted (dynamic arrays, as an
adjacency list of a growing graph is kept). So the rows of a key are always one slice, and the rows of a batch of keys
one gather, whether keys have one row or thousands.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.key_columns import grown, key_column
from lakeward.engine.state.keys import KeyBatch, KeyCodec, spread
from lakeward.engine.state.slots import SlotMap

Int32Array = npt.NDArray[np.int32]

_CAPACITY_MIN = 64
_LOW = (1 << 32) - 1


def grouped(values: Int64Array) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array]:
    """Group equal values, which must be below 2**31.

    Packing value and position into one number makes an unstable sort stable, and faster than any `argsort`.

    >>> order, distinct, starts, counts = grouped(np.array([7, 3, 7]))
    >>> order.tolist(), distinct.tolist(), starts.tolist(), counts.tolist()
    ([1, 0, 2], [3, 7], [0, 1], [1, 2])

    Returns:
        Positions by value, those of one value rising; the distinct values; where each begins in the positions; how many
        there are of each.
    """
    packed = (values << 32) | np.arange(len(values))
    packed.sort()
    ordered = packed >> 32
    first = np.ones(len(values), dtype=np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    starts = np.flatnonzero(first)
    ends = np.append(starts[1:], len(values)) if len(starts) else starts
    return packed & _LOW, ordered[starts], starts, ends - starts


class KeyRows:
    """Keys and the ids of their rows, in the order in which they were added.

    Args:
        codec: The key.
    """

    def __init__(self, codec: KeyCodec) -> None:
        self._map = SlotMap(key_column(codec))
        self._starts = np.zeros(0, dtype=np.int64)
        self._counts = np.zeros(0, dtype=np.int32)
        self._rooms = np.zeros(0, dtype=np.int32)
        self._dead = np.zeros(0, dtype=np.int32)
        self._entries: Int32Array = np.zeros(0, dtype=np.int32)
        self._used = 0
        self._garbage = 0
        self.dead_entries = 0

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        lists = self._starts.nbytes + self._counts.nbytes + self._rooms.nbytes + self._dead.nbytes
        return self._map.size_bytes + lists + self._entries.nbytes

    @property
    def used(self) -> bool:
        """Whether any row was ever added."""
        return len(self._starts) > 0

    def add(self, keys: KeyBatch, ids: Int64Array) -> Int64Array:
        """Add a row to each key, none of which is null; returns the keys' slots."""
        self._map.move_some()
        slots = self._map.find(keys)
        missing = np.flatnonzero(slots < 0)
        if len(missing):
            created, _ = self._map.insert(keys, missing, slots)
            self._ensure_slots(self._map.slot_count)
            if len(created) == len(slots):  # every key is new, and comes once
                self._begin(slots, ids)
                return slots
        if len(slots):
            self._append(slots, ids)
        return slots

    def find(self, keys: KeyBatch, chunks: Int32Array) -> tuple[Int64Array, Int64Array]:
        """The rows of keys, none of which is null.

        Args:
            keys: What to look for.
            chunks: The chunk of each row, negative for a dead one.

        Returns:
            Positions in `keys`, rising, and row ids.
        """
        slots = self._map.find(keys)
        found = np.flatnonzero(slots >= 0)
        slots = slots[found]
        counts = self._counts[slots].astype(np.int64)
        ids = self._entries[spread(self._starts[slots], counts)].astype(np.int64)
        positions = np.repeat(found, counts)
        if not self.dead_entries:
            return positions, ids
        alive = chunks[ids] >= 0
        return positions[alive], ids[alive]

    def forget(self, slots: Int64Array, chunks: Int32Array) -> Int64Array:
        """Rows of these slots have died (as many as a slot is named).

        Returns:
            Ids that no list holds any longer. The others follow when half of their list is dead.
        """
        _, distinct, _, counts = grouped(slots)
        self._dead[distinct] += counts.astype(np.int32)
        self.dead_entries += len(slots)
        return self._clean(distinct[2 * self._dead[distinct] > self._counts[distinct]], chunks)

    def dead_ids(self, chunks: Int32Array) -> Int64Array:
        """Ids of dead rows that lists still hold."""
        if not self.dead_entries:
            return np.zeros(0, dtype=np.int64)
        slots = np.flatnonzero(self._dead)
        counts = self._counts[slots].astype(np.int64)
        ids = self._entries[spread(self._starts[slots], counts)].astype(np.int64)
        return ids[chunks[ids] < 0]

    def _clean(self, slots: Int64Array, chunks: Int32Array) -> Int64Array:
        if not len(slots):
            return slots
        counts = self._counts[slots].astype(np.int64)
        starts = self._starts[slots]
        ids = self._entries[spread(starts, counts)]
        alive = chunks[ids] >= 0
        left = np.add.reduceat(alive.astype(np.int64), np.cumsum(counts) - counts)
        self._entries[spread(starts, left)] = ids[alive]
        self._counts[slots] = left
        self.dead_entries -= int(self._dead[slots].sum())
        self._dead[slots] = 0
        self._release(slots[left == 0])
        return ids[~alive].astype(np.int64)

    def _release(self, slots: Int64Array) -> None:
        """Slots without rows are given back."""
        self._map.remove(slots)
        self._garbage += int(self._rooms[slots].sum())
        self._rooms[slots] = 0

    def _begin(self, slots: Int64Array, ids: Int64Array) -> None:
        """Lists of one row each."""
        self._ensure_entries(len(slots))
        self._starts[slots] = np.arange(self._used, self._used + len(slots))
        self._entries[self._used : self._used + len(slots)] = ids
        self._counts[slots] = self._rooms[slots] = 1
        self._used += len(slots)

    def _append(self, slots: Int64Array, ids: Int64Array) -> None:
        order, distinct, _, more = grouped(slots)
        have = self._counts[distinct].astype(np.int64)
        need = have + more
        short = np.flatnonzero(need > self._rooms[distinct])
        if len(short):
            self._move(distinct[short], have[short], need[short])
        self._entries[spread(self._starts[distinct] + have, more)] = ids[order]
        self._counts[distinct] = need

    def _move(self, slots: Int64Array, have: Int64Array, need: Int64Array) -> None:
        """Give lists more room, at the end; a new list gets what it needs, an old one the next power of two."""
        rooms = np.where(have == 0, need, np.int64(1) << np.frexp(need - 1)[1].astype(np.int64))
        total = int(rooms.sum())
        self._ensure_entries(total)
        ends = np.cumsum(rooms)
        starts = self._used + ends - rooms
        old = np.flatnonzero(have)
        if len(old):
            moved = self._entries[spread(self._starts[slots[old]], have[old])]
            self._entries[spread(starts[old], have[old])] = moved
        self._garbage += int(self._rooms[slots].sum())
        self._starts[slots] = starts
        self._rooms[slots] = rooms
        self._used += total

    def _ensure_slots(self, count: int) -> None:
        old = len(self._starts)
        if count <= old:
            return
        capacity = max(_CAPACITY_MIN, count, old + old // 2)
        for name in ("_starts", "_counts", "_rooms", "_dead"):
            array = grown(getattr(self, name), capacity)
            array[old:] = 0
            setattr(self, name, array)

    def _ensure_entries(self, more: int) -> None:
        if self._used + more > len(self._entries) and self._garbage > self._used // 4:
            self._compact()
        need = self._used + more
        if need > len(self._entries):
            size = max(_CAPACITY_MIN, need, len(self._entries) + len(self._entries) // 2)
            self._entries = grown(self._entries, size)  # type: ignore[assignment]

    def _compact(self) -> None:
        slots = np.flatnonzero(self._rooms)
        counts, rooms = self._counts[slots].astype(np.int64), self._rooms[slots].astype(np.int64)
        starts = np.cumsum(rooms) - rooms
        entries = np.zeros(int(rooms.sum()), dtype=np.int32)
        entries[spread(starts, counts)] = self._entries[spread(self._starts[slots], counts)]
        self._starts[slots] = starts
        self._entries, self._used, self._garbage = entries, len(entries), 0
