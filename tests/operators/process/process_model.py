"""The plainest process operator that could work: a dict of Python objects a key, one row after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

NOTHING = object()


class Now:
    """The times that count for expiry: of the row or timer, the watermark (of a timer: its time), and the clock."""

    def __init__(self) -> None:
        self.time_us: int | None = None
        self.watermark_us = -(2**63)
        self.clock_us = 0
        self.by_clock = False

    def current(self, event: bool) -> int:
        return self.watermark_us if event else self.clock_us

    def touched(self, event: bool) -> int:
        if not event:
            return self.clock_us
        if self.time_us is None or self.by_clock:
            return self.watermark_us
        return max(self.time_us, self.watermark_us)


class Cell:
    """A value that may expire."""

    def __init__(self, now: Now, ttl: Any) -> None:
        self.now = now
        self.ttl = ttl
        self.held: Any = NOTHING
        self.touched_us = 0

    @property
    def event(self) -> bool:
        return self.ttl is not None and self.ttl.time == "event"

    def touch(self) -> None:
        if self.ttl is not None:
            self.touched_us = self.now.touched(self.event)

    def there(self) -> bool:
        if self.held is NOTHING:
            return False
        return self.ttl is None or self.touched_us + self.ttl.duration_us > self.now.current(self.event)

    def read(self) -> Any:
        if not self.there():
            return NOTHING
        if self.ttl is not None and self.ttl.refresh == "read":
            self.touch()
        return self.held

    def write(self, value: Any) -> None:
        self.held = value
        self.touch()


class ModelValue:
    def __init__(self, now: Now, state: Any) -> None:
        self.cell = Cell(now, state.ttl)
        self.default = state.default
        self.lent: Any = NOTHING

    def settle(self) -> None:
        """What was changed in place was updated."""
        if self.lent is not NOTHING and self.cell.held != self.lent:
            self.cell.touch()
        self.lent = NOTHING

    @property
    def value(self) -> Any:
        held = self.cell.read()
        if isinstance(held, list | dict) and self.lent is NOTHING:
            self.lent = copy.deepcopy(held)
        if held is NOTHING and isinstance(self.default, list | dict):
            self.cell.write(copy.deepcopy(self.default))
            return self.cell.held
        return copy.deepcopy(self.default) if held is NOTHING else held

    @value.setter
    def value(self, value: Any) -> None:
        self.cell.write(NOTHING if value is None else value)

    @property
    def exists(self) -> bool:
        return self.cell.there() and not (isinstance(self.default, list | dict) and self.cell.held == self.default)

    def clear(self) -> None:
        self.cell.held = NOTHING


class ModelFolded:
    def __init__(self, now: Now, state: Any, create: Callable[[], Any] | None, fold: Any, result: Any) -> None:
        self.cell = Cell(now, state.ttl)
        self.create, self.fold, self.result = create, fold, result

    def add(self, value: Any) -> None:
        held = self.cell.read()
        if held is NOTHING:
            self.cell.write(value if self.create is None else self.fold(self.create(), value))
        else:
            self.cell.write(self.fold(held, value))

    @property
    def value(self) -> Any:
        held = self.cell.read()
        return None if held is NOTHING else self.result(held)

    def clear(self) -> None:
        self.cell.held = NOTHING


class ModelList:
    def __init__(self, now: Now, state: Any) -> None:
        self.now, self.ttl = now, state.ttl
        self.cells: list[Cell] = []

    def append(self, value: Any) -> None:
        cell = Cell(self.now, self.ttl)
        cell.write(value)
        self.cells.append(cell)

    def replace(self, values: Any) -> None:
        values = list(values)
        self.clear()
        for value in values:
            self.append(value)

    def clear(self) -> None:
        self.cells = []

    def __iter__(self) -> Iterator[Any]:
        return iter([cell.held for cell in self.cells if cell.there()])

    def __len__(self) -> int:
        return len(list(iter(self)))


class ModelMap(MutableMapping[Any, Any]):
    def __init__(self, now: Now, state: Any) -> None:
        self.now, self.ttl = now, state.ttl
        self.cells: dict[Any, Cell] = {}

    def _there(self) -> dict[Any, Cell]:
        return {name: cell for name, cell in self.cells.items() if cell.there()}

    def __getitem__(self, name: Any) -> Any:
        return self._there()[name].read()

    def __setitem__(self, name: Any, value: Any) -> None:
        self.cells.pop(name, None)
        self.cells[name] = cell = Cell(self.now, self.ttl)
        cell.write(value)

    def __delitem__(self, name: Any) -> None:
        del self._there()[name]
        del self.cells[name]

    def __contains__(self, name: object) -> bool:
        return name in self._there()

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._there()))

    def __len__(self) -> int:
        return len(self._there())


class ModelTimers:
    """The timers of all keys, and the key that is being handled."""

    def __init__(self) -> None:
        self.set: dict[str, set[tuple[int, Any]]] = {"event": set(), "processing": set()}
        self.key: Any = None

    def register_event_time(self, time: int) -> None:
        self.set["event"].add((time, self.key))

    def register_processing_time(self, time: int) -> None:
        self.set["processing"].add((time, self.key))

    def delete_event_time(self, time: int) -> None:
        self.set["event"].discard((time, self.key))

    def delete_processing_time(self, time: int) -> None:
        self.set["processing"].discard((time, self.key))


class ModelContext:
    def __init__(self) -> None:
        self.timers = ModelTimers()
        self.current_key: Any = None
        self.timestamp_us: int | None = None
        self.time_domain: str | None = None
        self.side: list[Any] = []

    def output(self, tag: Any, row: Any) -> None:
        self.side.append(row)
