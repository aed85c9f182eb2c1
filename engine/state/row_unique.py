"""The row of each key, in tables whose keys are unique: a slot a key, and the row's id beside it."""

from __future__ import annotations

import numpy as np

from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.key_columns import grown, key_column
from lakeward.engine.state.keys import KeyBatch, KeyCodec
from lakeward.engine.state.row_index import Int32Array
from lakeward.engine.state.slots import SlotMap

_CAPACITY_MIN = 64


class TwoRowsError(Exception):
    """Two rows have one key in a table whose keys are unique.

    Args:
        position: Of the second one among those that are added.
    """

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class UniqueKeyRows:
    """As `KeyRows`, of at most one row a key. A row that dies leaves at once.

    Args:
        codec: The key.
    """

    dead_entries = 0

    def __init__(self, codec: KeyCodec) -> None:
        self._map = SlotMap(key_column(codec))
        self._ids: Int32Array = np.zeros(0, dtype=np.int32)

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return self._map.size_bytes + self._ids.nbytes

    @property
    def used(self) -> bool:
        """Whether any row was ever added."""
        return len(self._ids) > 0

    def add(self, keys: KeyBatch, ids: Int64Array) -> Int64Array:
        """Add a row to each key, none of which is null; returns the keys' slots.

        Raises:
            TwoRowsError: A key has a row already, or comes twice.
        """
        self._map.move_some()
        slots = self._map.find(keys)
        known = slots >= 0
        created, first_rows = self._map.insert(keys, np.flatnonzero(~known), slots)
        if len(created) < len(slots):
            known[np.setdiff1d(np.arange(len(slots)), first_rows)] = True
            raise TwoRowsError(int(np.argmax(known)))
        self._enter(slots, ids)
        return slots

    def add_new(self, keys: KeyBatch, ids: Int64Array) -> Int64Array:
        """Add rows of different keys, of which it is known that they have none; returns their slots."""
        slots = self._map.insert_distinct(keys)
        self._enter(slots, ids)
        return slots

    def look_up(self, keys: KeyBatch) -> Int64Array:
        """The id of each key's row, -1 where there is none."""
        self._map.move_some()
        slots = self._map.find(keys)
        if not self.used:
            return slots
        ids = self._ids.take(slots, mode="clip").astype(np.int64)
        ids[slots < 0] = -1
        return ids

    def find(self, keys: KeyBatch, chunks: Int32Array) -> tuple[Int64Array, Int64Array]:
        """Positions in `keys`, none of which is null, rising, and row ids."""
        ids = self.look_up(keys)
        positions = np.flatnonzero(ids >= 0)
        return positions, ids[positions]

    def forget(self, slots: Int64Array, chunks: Int32Array) -> Int64Array:
        """The rows of these slots have died; returns their ids."""
        ids = self._ids[slots].astype(np.int64)
        self._map.remove(slots)
        return ids

    def dead_ids(self, chunks: Int32Array) -> Int64Array:
        """None."""
        return np.zeros(0, dtype=np.int64)

    def _enter(self, slots: Int64Array, ids: Int64Array) -> None:
        count = self._map.slot_count
        if count > len(self._ids):
            self._ids = grown(self._ids, max(_CAPACITY_MIN, count, len(self._ids) * 3 // 2))  # type: ignore[assignment]
        self._ids[slots] = ids
