"""Maps by key: how `MapState` is kept."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any, Generic, TypeVar

import numpy as np

from lakeward.operators.process.held_rows import HeldRows
from lakeward.operators.process.key_batch import KeyBatch
from lakeward.operators.process.states import MapState, unbound

K = TypeVar("K")
V = TypeVar("V")

_NEW = -1
_NEVER = 2**63 - 1


@dataclass(slots=True)
class Entry:
    """A value of a map.

    Args:
        value: The value.
        id: Its row; -1: it has none yet.
        touched_us: When it was written or read in this batch; None: it was not.
        due_us: When it expires.
    """

    value: Any
    id: int = _NEW
    touched_us: int | None = None
    due_us: int = _NEVER


_Due = tuple[int, int, Any, Entry]
"""When an entry is due at the earliest, a number of its own, its name, and the entry."""


class MapCells:
    """The maps of the keys of a batch: read when one of them is touched; entries that changed are written at its end.

    Args:
        rows: Where their entries lie.
        batch: The keys that are being handled.
        reads_count: Whether reading an entry lets it live longer.
    """

    def __init__(self, rows: HeldRows, batch: KeyBatch, reads_count: bool) -> None:
        self.rows = rows
        self.reads_count = reads_count
        self.canonical_name = rows.canonical_name
        self._batch = batch
        self._held: list[dict[Any, Entry]] | None = None
        self._changed: dict[tuple[int, Any], Entry] = {}
        self._read: dict[tuple[int, Any], Entry] = {}
        self._gone: list[int] = []
        self._due: dict[int, list[_Due]] = {}
        self._numbers = count()

    def current(self) -> dict[Any, Entry]:
        """The current key's map."""
        if self._held is None:
            self._held = self._load()
        held, expiry = self._held[self._batch.index], self.rows.expiry
        if expiry is not None:
            self._drop_expired(held, expiry.now_us(self._batch))
        return held

    def _drop_expired(self, held: dict[Any, Entry], now_us: int) -> None:
        """Only entries are looked at that were due by now when they were noted."""
        due = self._due.get(self._batch.index)
        if due is None:
            due = [(entry.due_us, next(self._numbers), name, entry) for name, entry in held.items()]
            heapq.heapify(due)
            self._due[self._batch.index] = due
        while due and due[0][0] <= now_us:
            _, _, name, entry = heapq.heappop(due)
            if held.get(name) is not entry:  # it is gone, or another one has its name
                continue
            if entry.due_us <= now_us:
                self._drop(held, name)
            else:  # it was touched since
                self._note(name, entry)

    def _note(self, name: Any, entry: Entry) -> None:
        heapq.heappush(self._due[self._batch.index], (entry.due_us, next(self._numbers), name, entry))

    def _load(self) -> list[dict[Any, Entry]]:
        held: list[dict[Any, Entry]] = [{} for _ in range(len(self._batch))]
        found = self.rows.find()
        if len(found.ids):
            names, values = self.rows.values(found.ids)
            if self.canonical_name is not None:
                names = list(map(self.canonical_name, names))
            due_us = repeat(_NEVER) if found.due_us is None else found.due_us.tolist()
            rows = zip(found.keys.tolist(), names, values, found.ids.tolist(), due_us, strict=False)
            for key, name, value, row, due in rows:
                held[key][name] = Entry(value, row, None, due)
        return held

    def _touch(self, name: Any, entry: Entry) -> None:
        expiry = self.rows.expiry
        if expiry is not None:
            entry.touched_us, before_us = expiry.touched_us(self._batch), entry.due_us
            entry.due_us = expiry.due_at(entry.touched_us)
            if entry.due_us < before_us:  # it is new, or time has gone back: rows come in any order
                self._note(name, entry)

    def get(self, name: Any) -> Any:
        """An entry's value.

        Raises:
            KeyError: There is none.
        """
        entry = self.current()[name]
        if self.reads_count:
            self._touch(name, entry)
            self._read[self._batch.index, name] = entry
        return entry.value

    def put(self, name: Any, value: Any) -> None:
        """Set an entry."""
        entries = self.current()
        old = entries.pop(name, None)  # its place is the end, as it will be when the map is read again
        if old is not None:
            self._changed.pop((self._batch.index, name), None)
            if old.id != _NEW:
                self._gone.append(old.id)
        entries[name] = entry = Entry(value)
        self._touch(name, entry)
        self._changed[self._batch.index, name] = entry

    def remove(self, name: Any) -> None:
        """Forget an entry.

        Raises:
            KeyError: There is none.
        """
        self._drop(self.current(), name)

    def _drop(self, held: dict[Any, Entry], name: Any) -> None:
        entry = held.pop(name)
        if entry.id != _NEW:
            self._gone.append(entry.id)
        self._changed.pop((self._batch.index, name), None)
        self._read.pop((self._batch.index, name), None)

    def discard(self) -> None:
        """Forget what has changed."""
        self._held, self._changed, self._gone, self._read, self._due = None, {}, [], {}, {}

    def finish(self) -> None:
        """Write what has changed."""
        changed, gone, read = self._changed, self._gone, self._read
        if self._held is None:
            return
        self.discard()
        self.rows.remove(np.array(gone, np.int64))
        gone_ids = set(gone)
        kept = [one for one in read.values() if one.id != _NEW and one.touched_us is not None]
        kept = [one for one in kept if one.id not in gone_ids]
        if kept:
            self.rows.touch(np.array([one.id for one in kept], np.int64), [one.touched_us or 0 for one in kept])
        if changed:
            keys = np.fromiter((key for key, _ in changed), np.int64, len(changed))
            names, values = [name for _, name in changed], [entry.value for entry in changed.values()]
            self.rows.append(keys, [names, values], [entry.touched_us or 0 for entry in changed.values()])


class BoundMap(MapState[K, V], Generic[K, V]):
    """A `MapState` in a running job."""

    def __init__(self, declared: MapState[K, V], cells: MapCells, batch: KeyBatch) -> None:
        super().__init__(declared.key, declared.value, ttl=declared.ttl)
        self._cells = cells
        self._batch = batch
        self._name = cells.canonical_name
        self._settle = cells.rows.settle

    def _check(self) -> MapCells:
        if self._batch.index < 0:
            unbound(self)
        return self._cells

    def __getitem__(self, key: K) -> V:
        return self._check().get(key if self._name is None else self._name(key))  # type: ignore[no-any-return]

    def __setitem__(self, key: K, value: V) -> None:
        cells, value = self._check(), value if self._settle is None else self._settle(value)
        cells.put(key if self._name is None else self._name(key), value)

    def __delitem__(self, key: K) -> None:
        self._check().remove(key if self._name is None else self._name(key))

    def __contains__(self, key: object) -> bool:
        return (key if self._name is None else self._name(key)) in self._check().current()

    def __iter__(self) -> Iterator[K]:
        return iter(list(self._check().current()))

    def __len__(self) -> int:
        return len(self._check().current())

    def clear(self) -> None:
        """Forget the map."""
        cells = self._check()
        for key in list(cells.current()):
            cells.remove(key)
