"""Lists by key: how `ListState` is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from lakeward.operators.process.held_rows import HeldRows
from lakeward.operators.process.key_batch import KeyBatch
from lakeward.operators.process.states import ListState, unbound

T = TypeVar("T")


class ListCells:
    """The lists of the keys of a batch: read when one is read, what was added written when the batch is done.

    Args:
        rows: Where their values lie.
        batch: The keys that are being handled.
    """

    def __init__(self, rows: HeldRows, batch: KeyBatch) -> None:
        self.rows = rows
        self._settle = rows.settle
        self._batch = batch
        self._held: list[list[Any]] | None = None
        self._added: dict[int, list[tuple[Any, int]]] = {}
        self._replaced: set[int] = set()

    def current(self) -> list[Any]:
        """The current key's list, not to be changed."""
        if self._held is None:
            self._held = self._load()
        held, expiry = self._held[self._batch.index], self.rows.expiry
        if expiry is None:
            return held
        now_us = expiry.now_us(self._batch)
        return [value for value, due_us in held if due_us > now_us]

    def _load(self) -> list[list[Any]]:
        """The lists of all keys; of states that expire, pairs of values and the times when they do."""
        held: list[list[Any]] = [[] for _ in range(len(self._batch))]
        found = self.rows.find()
        if len(found.ids):
            (values,) = self.rows.values(found.ids)
            if found.due_us is not None:
                values = list(zip(values, found.due_us.tolist(), strict=True))
            for key, value in zip(found.keys.tolist(), values, strict=True):
                held[key].append(value)
        for key in self._replaced:
            held[key] = []
        for key, added in self._added.items():
            held[key].extend(self._shown(value, touched_us) for value, touched_us in added)
        return held

    def _shown(self, value: Any, touched_us: int) -> Any:
        expiry = self.rows.expiry
        return value if expiry is None else (value, expiry.due_at(touched_us))

    def append(self, value: Any) -> None:
        """Add to the current key's list."""
        index = self._batch.index
        value = value if self._settle is None else self._settle(value)
        expiry = self.rows.expiry
        touched_us = 0 if expiry is None else expiry.touched_us(self._batch)
        self._added.setdefault(index, []).append((value, touched_us))
        if self._held is not None:
            self._held[index].append(self._shown(value, touched_us))

    def clear(self) -> None:
        """Forget the current key's list."""
        index = self._batch.index
        self._replaced.add(index)
        self._added.pop(index, None)
        if self._held is not None:
            self._held[index] = []

    def discard(self) -> None:
        """Forget what has changed."""
        self._held, self._added, self._replaced = None, {}, set()

    def finish(self) -> None:
        """Write what has changed."""
        added, replaced = self._added, self._replaced
        self.discard()
        if replaced:
            self.rows.remove(self.rows.ids_of(np.array(sorted(replaced), np.int64)))
        pairs = [(key, value, time) for key, values in added.items() for value, time in values]
        if pairs:
            keys, values, times = zip(*pairs, strict=True)
            self.rows.append(np.array(keys, np.int64), [values], times)


class BoundList(ListState[T], Generic[T]):
    """A `ListState` in a running job."""

    def __init__(self, declared: ListState[T], cells: ListCells, batch: KeyBatch) -> None:
        super().__init__(declared.type, ttl=declared.ttl)
        self._cells = cells
        self._batch = batch

    def _check(self) -> ListCells:
        if self._batch.index < 0:
            unbound(self)
        return self._cells

    def append(self, value: T) -> None:
        """Add a value."""
        self._check().append(value)

    def replace(self, values: Iterable[T]) -> None:
        """Hold these values instead."""
        values = list(values)  # may be made of this very list
        self.clear()
        self.extend(values)

    def clear(self) -> None:
        """Forget the list."""
        self._check().clear()

    def __iter__(self) -> Iterator[T]:
        return iter(tuple(self._check().current()))

    def __len__(self) -> int:
        return len(self._check().current())

    def __getitem__(self, index: int) -> T:
        return self._check().current()[index]  # type: ignore[no-any-return]
