"""One pane of a table: its slots in memory, backed by rows in the store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import Keys, Pane, SlotArray, TableSpec
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.budget import MemoryBudget
from lakeward.engine.state.columns import Columns, next_capacity
from lakeward.engine.state.deferred import Piece
from lakeward.engine.state.key_columns import key_column
from lakeward.engine.state.keys import BoolArray, KeyBatch, KeyCodec
from lakeward.engine.state.layout import FrozenRows, Layouts
from lakeward.engine.state.row_store import RowStore
from lakeward.engine.state.slots import NULL_SLOT, SlotMap
from lakeward.engine.state.values import AnyArray, to_arrow

_SCAN_ROWS = 32_768
_PIECE_ROWS = 8_192
_BULK_ROWS = 65_536
_BULK_FACTOR = 4
_PROTECTED_TICKS = 8


@dataclass(frozen=True, slots=True)
class PaneContext:
    """What the panes of a table share.

    Args:
        spec: The table.
        codec: Its key.
        rows: Its rows in the store.
        layouts: How its fields are stored.
        budget: The backend's memory.
    """

    spec: TableSpec
    codec: KeyCodec
    rows: RowStore
    layouts: Layouts
    budget: MemoryBudget


class SlotPane(Pane):
    """A write-back cache of one namespace's rows.

    Slot numbers stay valid as `SlotArray` says; beyond that, those of a pane that is not used for eight batches in a
    row, or held over a checkpoint, may become invalid when memory is short.

    Args:
        context: What the table's panes share.
        namespace: Which pane this is.
        stored_rows: Keys that are in the store already.
    """

    def __init__(self, context: PaneContext, namespace: int, stored_rows: int = 0) -> None:
        self._context = context
        self._namespace = namespace
        self._map = self._new_map()
        self._columns = Columns(context.spec)
        self._cold = stored_rows
        self._counted = stored_rows
        self._deletes: list[bytes] = []
        self._in_store = stored_rows > 0
        self._shrink_wanted = False
        self._scans = 0
        self.last_epoch = context.budget.epoch
        context.budget.account(self)

    def __len__(self) -> int:
        return len(self._map) + self._cold

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        return self._map.size_bytes + self._columns.size_bytes

    @property
    def evictable_bytes(self) -> int:
        """All of it."""
        return self.size_bytes

    @property
    def cold_keys(self) -> int:
        """Number of keys that are in the store alone."""
        return self._cold

    @property
    def bytes_per_key(self) -> float:
        """Memory of one key and its fields."""
        return self._columns.bytes_per_slot + self._map.keys.bytes_per_slot()

    @property
    def in_store(self) -> bool:
        """Whether the store may hold anything of this pane."""
        return self._in_store

    def slots(self, keys: Keys) -> SlotArray:
        """The slot of each key, made with the defaults where new; marks them as changed."""
        return self._find_or_create(keys)[0]

    def insert(self, keys: Keys) -> tuple[SlotArray, BoolArray]:
        """As `slots`, and for each row whether it is the first row ever of its key."""
        slots, new_rows = self._find_or_create(keys)
        first = np.zeros(len(slots), dtype=np.bool_)
        if new_rows is not None:
            first[new_rows] = True
        return slots, first

    def find(self, keys: Keys) -> SlotArray:
        """The slot of each key, -1 where there is none; changes nothing."""
        batch = self._begin(keys)
        slots = self._map.find(batch)
        rows = np.flatnonzero(slots < 0)
        known = slots if not len(rows) else slots[slots >= 0]
        self._columns.mark_used(known)
        if len(rows) and self._cold:
            self._load_found(batch, rows, slots)
        return slots

    def column(self, name: str) -> AnyArray:
        """The writable column of a field."""
        return self._columns.column(name)

    def mark_changed(self, slots: SlotArray) -> None:
        """Slots that `find` gave are changed by the caller."""
        self._columns.mark_changed(slots)

    def remove(self, keys: Keys) -> BoolArray:
        """Forget these keys; unknown ones are ignored. Returns which were known: of equal keys, one is."""
        batch = self._begin(keys)
        slots = self._map.find(batch)
        removed = slots >= 0
        if self._cold:
            cold = np.flatnonzero(~removed)
            removed[cold[self._remove_cold(batch.take(cold))]] = True
        known = slots[slots >= 0]
        if not batch.distinct:
            rows = np.flatnonzero(slots >= 0)
            last = np.empty(int(known.max(initial=0)) + 1, np.int64)
            last[known] = rows
            again = rows[last[known] != rows]
            removed[again] = False
            known = slots[removed & (slots >= 0)]
        stored = known[self._columns.stored[known]]
        if len(stored):
            self._deletes += self._context.rows.sorted_keys(self._namespace, self._map.keys.gather(stored))[0]
        self._map.remove(known)
        self._columns.clear(known)
        return removed

    def scan(self) -> Iterator[pa.RecordBatch]:
        """All rows, in memory or not, as batches of the table's schema."""
        self._scans += 1  # released to the store in the middle, because another pane grows, rows would come twice
        try:
            occupied = self._map.occupied()
            for start in range(0, len(occupied), _SCAN_ROWS):
                part = occupied[start : start + _SCAN_ROWS]
                yield self._to_batch(self._map.keys.gather(part), self._columns.to_arrow(part))
            if self._cold:
                yield from self._scan_cold()
        finally:
            self._scans -= 1

    def freeze(self) -> Iterator[Piece]:
        """What has changed, as it is now, to be written to the store later; it counts as written."""
        slots = self._columns.changed()
        deletes, self._deletes = self._deletes, []
        if not len(slots):
            return iter([((), sorted(deletes))] if deletes else [])
        keys = self._map.keys.gather(slots).detached()
        frozen = self._context.layouts.current.frozen(self._columns.arrays, slots)
        self._columns.mark_written(slots)
        self._in_store = True
        return self._pieces(keys, frozen, deletes)

    def _pieces(self, keys: KeyBatch, frozen: FrozenRows, deletes: Sequence[bytes]) -> Iterator[Piece]:
        if deletes:
            yield (), sorted(deletes)
        order = self._context.rows.order(keys)
        for start in range(0, len(order), _PIECE_ROWS):
            rows = order[start : start + _PIECE_ROWS]
            names, places = self._context.rows.sorted_keys(self._namespace, keys.take(rows))
            yield list(zip(names, frozen.pack(rows[places]), strict=True)), ()

    def shrink_if_wanted(self) -> None:
        """Give back half of the memory if that was asked for."""
        if self._shrink_wanted:
            self._shrink()

    def count_change(self) -> int | None:
        """Number of keys if it is another one than at the last call, else None."""
        if len(self) == self._counted:
            return None
        self._counted = len(self)
        return self._counted

    def release(self) -> None:
        """Write what has changed, and give back all memory, unless it is being scanned; keys come back when used."""
        if self._scans:
            return
        self._write_changed()
        self._cold = len(self)
        self._start_anew()

    def shrink(self) -> None:
        """Give back half of the memory when the slot numbers are next allowed to change."""
        self._shrink_wanted = True

    def _new_map(self) -> SlotMap:
        return SlotMap(key_column(self._context.codec))

    def _begin(self, keys: Keys) -> KeyBatch:
        assert isinstance(keys, KeyBatch)
        self.last_epoch = self._context.budget.epoch
        self._columns.advance()
        self._map.move_some()
        if self._cold and not len(self._map) and self._worth_bulk(len(keys)):
            self._load_all()
        return keys

    def _find_or_create(self, keys: Keys) -> tuple[SlotArray, Int64Array | None]:
        batch = self._begin(keys)
        if self._shrink_wanted:
            self._shrink()
        slots = self._map.find(batch)
        new_rows = None
        if len(slots) and slots.min() < 0:
            new_rows = self._create(batch, np.flatnonzero(slots < 0), slots)
        self._columns.mark_changed(slots)
        return slots, new_rows

    def _create(self, batch: KeyBatch, rows: Int64Array, slots: SlotArray) -> Int64Array:
        """Slots for rows whose keys are not in memory; returns those whose keys are new altogether."""
        if not self._reserve(len(rows)):
            self._columns.mark_used(slots[slots >= 0])
            self._evict(self._missing_room(len(rows)), self._columns.tick)
        new_slots, new_rows = self._map.insert(batch, rows, slots)
        self._columns.ensure(self._map.slot_count)
        self._columns.reset(new_slots)
        if self._cold:
            found, values = self._read(batch.take(new_rows))
            self._take_over(new_slots[found], values)
            new_rows = np.delete(new_rows, found)
        self._context.budget.account(self)
        return new_rows

    def _load_found(self, batch: KeyBatch, rows: Int64Array, slots: SlotArray) -> None:
        """For `find`: bring those of the rows' keys into memory that are in the store."""
        found, values = self._read(batch.take(rows))
        if not len(found):
            return
        order = np.argsort(found)
        rows = rows[found[order]]
        if not self._reserve(len(rows)):
            self._evict(self._missing_room(len(rows)), self._columns.tick - _PROTECTED_TICKS)
        new_slots, new_rows = self._map.insert(batch, rows, slots)
        self._columns.ensure(self._map.slot_count)
        self._columns.reset(new_slots)
        picked = order[np.searchsorted(rows, new_rows)]
        self._take_over(new_slots, [values[number] for number in picked.tolist()])
        self._columns.mark_used(new_slots)
        self._context.budget.account(self)

    def _read(self, keys: KeyBatch) -> tuple[Int64Array, list[bytes]]:
        self._write_deletes()
        return self._context.rows.get(self._namespace, keys)

    def _take_over(self, slots: Int64Array, values: list[bytes]) -> None:
        """Rows of the store become slots."""
        if values:
            self._columns.load(slots, self._context.layouts.unpack(values))
            self._cold -= len(values)

    def _worth_bulk(self, batch_rows: int) -> bool:
        few = self._cold <= max(_BULK_ROWS, _BULK_FACTOR * batch_rows)
        return few and self._context.budget.fits(self._growth_bytes(self._cold))

    def _load_all(self) -> None:
        self._write_deletes()
        for keys, values in self._context.rows.scan(self._namespace):
            slots = self._map.insert_distinct(keys)
            self._columns.ensure(self._map.slot_count)
            self._take_over(slots, values)
        self._context.budget.account(self)

    def _remove_cold(self, keys: KeyBatch) -> Int64Array:
        """Forget keys that are only in the store; returns where they are, each once."""
        self._write_deletes()
        found, _ = self._context.rows.get(self._namespace, keys)
        names, order = self._context.rows.sorted_keys(self._namespace, keys.take(found))
        places = dict(zip(names, order.tolist(), strict=True))
        self._cold -= len(places)
        self._deletes += places
        return found[np.fromiter(places.values(), np.int64, len(places))]

    def _scan_cold(self) -> Iterator[pa.RecordBatch]:
        self._write_deletes()
        spec, layouts = self._context.spec, self._context.layouts
        for keys, values in self._context.rows.scan(self._namespace):
            rows = np.flatnonzero(self._map.find(keys) < 0)
            if len(rows):
                fields = layouts.unpack([values[row] for row in rows.tolist()])
                yield self._to_batch(keys.take(rows), [to_arrow(fields[c.name], c.type) for c in spec.columns])

    def _to_batch(self, keys: KeyBatch, fields: list[pa.Array]) -> pa.RecordBatch:
        arrays = self._context.codec.decode(keys) + fields
        return pa.RecordBatch.from_arrays(arrays, schema=self._context.spec.schema)

    def _write_changed(self) -> None:
        self._write(self._columns.changed())

    def _write(self, slots: Int64Array) -> None:
        if not len(slots):
            self._write_deletes()
            return
        names, order = self._context.rows.sorted_keys(self._namespace, self._map.keys.gather(slots))
        values = self._context.layouts.current.pack(self._columns.arrays, slots, order)
        self._context.rows.write(names, values, self._deletes)
        self._deletes = []
        self._columns.mark_written(slots)
        self._in_store = True

    def _write_deletes(self) -> None:
        if self._deletes:
            self._context.rows.write([], [], self._deletes)
            self._deletes = []

    def _growth_bytes(self, more: int) -> int:
        """Memory that `more` new keys would need beyond what there is room for."""
        fresh = self._map.slot_count + more - self._map.free_count
        extra = next_capacity(self._columns.capacity, fresh) - self._columns.capacity
        per_slot = self._columns.bytes_per_slot + self._map.keys.bytes_per_slot()
        return int(extra * per_slot) + self._map.growth_bytes(more)

    def _reserve(self, more: int) -> bool:
        growth = self._growth_bytes(more)
        return growth == 0 or self._context.budget.make_room(self, growth)

    def _missing_room(self, more: int) -> int:
        """Slots to evict so that `more` fit, and the next batches too."""
        return max(more - self._map.free_count, len(self._map) // 4)

    def _evict(self, count: int, before_tick: int) -> None:
        """Write the `count` slots that were used least recently, before `before_tick`, and drop them from memory."""
        slots = self._map.occupied()
        slots = slots[slots != NULL_SLOT]
        used = self._columns.last_used(slots)
        slots, used = slots[used < before_tick], used[used < before_tick]
        if len(slots) > count:
            slots = np.sort(slots[np.argpartition(used, count)[:count]])
        self._write(slots[self._columns.is_changed(slots)])
        self._map.remove(slots)
        self._columns.clear(slots)
        self._cold += len(slots)
        self._context.budget.account(self)

    def _shrink(self) -> None:
        """Keep the half that was used most recently, under new slot numbers."""
        self._shrink_wanted = False
        self._evict(len(self._map) // 2, self._columns.tick)
        kept, old_map, old = self._map.occupied(), self._map, self._columns
        self._start_anew()
        keys = old_map.keys.gather(kept)
        slots = self._map.insert_distinct(keys)
        self._columns.ensure(self._map.slot_count)
        self._columns.copy_from(old, kept, slots)
        self._context.budget.account(self)

    def _start_anew(self) -> None:
        self._map = self._new_map()
        self._columns = Columns(self._context.spec)
        self._context.budget.account(self)
