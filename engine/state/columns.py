"""The fields of a pane's slots, one numpy column each, and what the pane must know of each slot."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import TableSpec
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.key_columns import grown
from lakeward.engine.state.keys import BoolArray
from lakeward.engine.state.values import AnyArray, default_value, fixed_dtype, repeat_default, to_arrow

_CAPACITY_MIN = 64
_SAMPLE = 32
_TICK_MAX = 1 << 30


def next_capacity(capacity: int, wanted: int) -> int:
    """Capacities grow by half: few copies, little waste."""
    while capacity < wanted:
        capacity = max(_CAPACITY_MIN, capacity + capacity // 2)
    return capacity


class Columns:
    """Columns by name; beside them, per slot, when it was used last, whether it changed, and whether it is stored.

    Args:
        spec: The table.
    """

    def __init__(self, spec: TableSpec) -> None:
        self._spec = spec
        self._defaults = {c.name: default_value(c.type, c.default) for c in spec.columns}
        self._objects = [c.name for c in spec.columns if fixed_dtype(c.type) is None]
        self.arrays: dict[str, AnyArray] = {
            c.name: np.empty(0, dtype=fixed_dtype(c.type) or object) for c in spec.columns
        }
        self.marks = np.zeros(0, dtype=np.int32)  # 2 * tick of the last use, + 1 if changed since the last flush
        self.stored = np.zeros(0, dtype=np.bool_)
        self.tick = 1
        self._object_bytes = 0.0
        self._fixed_bytes_per_slot = 5 + sum(array.itemsize for array in self.arrays.values())

    @property
    def capacity(self) -> int:
        """Slots there is room for."""
        return len(self.marks)

    @property
    def bytes_per_slot(self) -> float:
        """Memory of one slot; that of Python objects is estimated from a sample."""
        return self._fixed_bytes_per_slot + self._object_bytes

    @property
    def size_bytes(self) -> int:
        """Memory of all slots there is room for."""
        return int(self.capacity * self.bytes_per_slot)

    def column(self, name: str) -> AnyArray:
        """A field's column.

        Raises:
            SchemaError: There is no such field.
        """
        try:
            return self.arrays[name]
        except KeyError:
            known = ", ".join(self.arrays)
            raise SchemaError(f"state table '{self._spec.name}' has no field '{name}', only: {known}") from None

    def ensure(self, count: int) -> None:
        """Make room for `count` slots."""
        if count <= self.capacity:
            return
        capacity, old = next_capacity(self.capacity, count), self.capacity
        for name, array in self.arrays.items():
            self.arrays[name] = grown(array, capacity)
        self.marks = grown(self.marks, capacity)  # type: ignore[assignment]
        self.marks[old:] = 0
        self.stored = grown(self.stored, capacity)  # type: ignore[assignment]
        self.stored[old:] = False

    def reset(self, slots: Int64Array) -> None:
        """Give slots the defaults, as not stored."""
        for name, array in self.arrays.items():
            default = self._defaults[name]
            array[slots] = repeat_default(default, len(slots)) if array.dtype == object else default
        self.stored[slots] = False

    def load(self, slots: Int64Array, values: Mapping[str, AnyArray]) -> None:
        """Give slots the values of stored rows."""
        for name, array in self.arrays.items():
            array[slots] = values[name]
        self.stored[slots] = True
        self._sample_objects(slots)

    def copy_from(self, other: Columns, theirs: Int64Array, ours: Int64Array) -> None:
        """Take over slots of other columns, with all that is known of them."""
        for name, array in self.arrays.items():
            array[ours] = other.arrays[name][theirs]
        self.marks[ours] = other.marks[theirs]
        self.stored[ours] = other.stored[theirs]
        self.tick = other.tick
        self._object_bytes = other._object_bytes

    def clear(self, slots: Int64Array) -> None:
        """The slots are free: let go of their objects, and of their changes."""
        for name in self._objects:
            self.arrays[name][slots] = None
        self.marks[slots] = 0
        self.stored[slots] = False

    def advance(self) -> None:
        """A new operation begins: what it uses is newer than everything else."""
        self.tick += 1
        if self.tick >= _TICK_MAX:
            self.marks &= 1
            self.tick = 1

    def mark_changed(self, slots: Int64Array) -> None:
        """These slots are used, and may be changed, from now on."""
        self.marks[slots] = 2 * self.tick + 1

    def mark_used(self, slots: Int64Array) -> None:
        """These slots are used."""
        self.marks[slots] = (self.marks[slots] & 1) | (2 * self.tick)

    def changed(self) -> Int64Array:
        """Slots that may have been changed since they were written."""
        return np.flatnonzero(self.marks & 1)

    def mark_written(self, slots: Int64Array) -> None:
        """These slots are in the store as they are here."""
        self.marks[slots] &= ~1
        self.stored[slots] = True
        self._sample_objects(slots)

    def last_used(self, slots: Int64Array) -> Int64Array:
        """The tick at which each slot was used last."""
        return (self.marks[slots] >> 1).astype(np.int64)

    def is_changed(self, slots: Int64Array) -> BoolArray:
        """Which slots may have been changed since they were written."""
        changed: BoolArray = (self.marks[slots] & 1).astype(np.bool_)
        return changed

    def to_arrow(self, slots: Int64Array) -> list[pa.Array]:
        """The fields of slots."""
        return [to_arrow(self.arrays[c.name].take(slots), c.type) for c in self._spec.columns]

    def _sample_objects(self, slots: Int64Array) -> None:
        if self._objects and len(slots):
            some: list[Any] = slots[:: max(1, len(slots) // _SAMPLE)].tolist()
            sizes = [sys.getsizeof(self.arrays[name][slot]) for name in self._objects for slot in some]
            self._object_bytes = sum(sizes) / len(some)
