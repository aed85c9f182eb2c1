"""The memory budget of one backend: what its panes use together, and who has to give some back."""

from __future__ import annotations

from typing import Protocol

_IDLE_EPOCHS = 8
_TURNS_MAX = 256
_SLACK = 0.1
_GROWTH_SHARE = 0.95


class Evictable(Protocol):
    """A pane or a row table, as the budget sees it."""

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        ...

    @property
    def evictable_bytes(self) -> int:
        """The part of it that `release` gives back."""
        ...

    @property
    def last_epoch(self) -> int:
        """The budget's epoch when it was used last."""
        ...

    def release(self) -> None:
        """Write all changes to the store and give back memory."""
        ...

    def shrink(self) -> None:
        """Give back half of the memory at the next chance."""
        ...


class MemoryBudget:
    """Counts the memory of panes against a limit.

    A pane that has not been used for the last few batches is released as a whole. One that is in use evicts its own
    coldest slots; if it is small and another one large, the other is asked to shrink when it is used next, since only
    then nobody holds its slot numbers.

    Args:
        limit_bytes: Memory for all panes together. The slots of the batch being worked on stay in any case.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.epoch = 0
        self._first: object = None
        self._turns = 0
        self._panes: dict[Evictable, int] = {}

    def advance(self, table: object) -> None:
        """A table looks at keys. When the one that began the epoch does so again, a new batch has begun.

        The others belong to the same batch: an operator may hold slot numbers of its first table while it works on any
        number of further ones. A table that falls silent hands over after a while.
        """
        self._turns += 1
        if self._first is None or table is self._first or self._turns > _TURNS_MAX:
            self.epoch += 1
            self._first, self._turns = table, 0

    def account(self, pane: Evictable) -> None:
        """The pane's size has changed."""
        size = pane.size_bytes
        self.used_bytes += size - self._panes.get(pane, 0)
        self._panes[pane] = size

    def forget(self, pane: Evictable) -> None:
        """The pane is gone."""
        self.used_bytes -= self._panes.pop(pane, 0)

    def fits(self, more_bytes: int) -> bool:
        """Whether this much more stays within the limit."""
        return self.used_bytes + more_bytes <= self.limit_bytes * _GROWTH_SHARE

    def make_room(self, asking: Evictable, more_bytes: int) -> bool:
        """Try to free memory of other panes; False if `asking` must make do with what it has."""
        if self.fits(more_bytes):
            return True
        target = int(self.limit_bytes * (1 - _SLACK)) - more_bytes
        others = sorted((p for p in self._panes if p is not asking), key=lambda p: p.evictable_bytes, reverse=True)
        for pane in [p for p in others if self.epoch - p.last_epoch >= _IDLE_EPOCHS]:
            if self.used_bytes <= target:
                break
            pane.release()
        if others and not self.fits(more_bytes) and others[0].evictable_bytes > asking.size_bytes + more_bytes:
            others[0].shrink()
        return self.fits(more_bytes)
