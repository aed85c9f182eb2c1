"""Which keys have something to do by a time: the timers of an operator, for many keys at once.

Entries lie in runs sorted by time, merged with each other as they grow (the logarithmic method of Bentley and Saxe,
1980), so that adding is a sort of what is added, and taking out looks at the front of a few runs. There is no removal:
an entry only says "look at this key then", and who looks sees whether there is still anything to do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.operators.windows.columns import Rows


class DueIndex:
    """Keys by the time at which they are due. In memory only: it is made anew from the state when a job is restored.

    >>> index = DueIndex()
    >>> index.add(np.array([30, 10, 20]), [pa.array(["c", "a", "b"])])
    >>> index.first_us, [column.to_pylist() for column in index.take(20) or []]
    (10, [['a', 'b']])
    >>> index.first_us
    30
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    @property
    def first_us(self) -> int | None:
        """The earliest time at which a key is due."""
        return min((run.first_us for run in self._runs), default=None)

    def add(self, due_us: Rows, keys: Sequence[pa.Array]) -> None:
        """Note keys.

        Args:
            due_us: When each is due.
            keys: Their key columns, cut from nothing larger: they are kept as they are.
        """
        if not len(due_us):
            return
        self._runs.append(_Run.sorted(due_us, list(keys)))
        while len(self._runs) > 1 and 2 * len(self._runs[-1]) > len(self._runs[-2]):
            self._runs[-2:] = [self._runs[-2].merged(self._runs[-1])]

    def cutoff(self, upto_us: int, rows: int) -> int | None:
        """A time up to which about so many entries are due, at least one; None: none is due by `upto_us`.

        Not many more, unless they are all of one time.
        """
        due = [run for run in self._runs if run.first_us <= upto_us]
        if not due:
            return None
        return min(upto_us, *(run.time_at(rows // len(due)) for run in due))

    def take(self, upto_us: int) -> list[pa.Array] | None:
        """Take out the keys that are due at or before a time, a key as often as it was noted; None: there are none."""
        parts = [run.take(upto_us) for run in self._runs if run.first_us <= upto_us]
        if not parts:
            return None
        self._runs = [run for run in self._runs if len(run)]
        if len(parts) == 1:
            return parts[0]
        return [pa.concat_arrays(columns) for columns in zip(*parts, strict=True)]


class _Run:
    """Entries sorted by time, and how many of them have been taken."""

    def __init__(self, due_us: Rows, keys: list[pa.Array]) -> None:
        self._due_us = due_us
        self._keys = keys
        self._taken = 0

    @classmethod
    def sorted(cls, due_us: Rows, keys: list[pa.Array]) -> _Run:
        """A run of entries in any order."""
        if np.all(due_us[1:] >= due_us[:-1]):
            return cls(due_us, keys)
        order = np.argsort(due_us, kind="stable")
        return cls(due_us[order], [column.take(pa.array(order)) for column in keys])

    def __len__(self) -> int:
        return len(self._due_us) - self._taken

    @property
    def first_us(self) -> int:
        """The time of the first entry that is left."""
        return int(self._due_us[self._taken])

    def time_at(self, number: int) -> int:
        """The time of the entry so many places behind the first one that is left; of the last if there is none."""
        return int(self._due_us[min(self._taken + number, len(self._due_us) - 1)])

    def merged(self, other: _Run) -> _Run:
        """One run of two."""
        due_us = np.concatenate([self._due_us[self._taken :], other._due_us[other._taken :]])
        pairs = zip(self._keys, other._keys, strict=True)
        return _Run.sorted(due_us, [pa.concat_arrays([a[self._taken :], b[other._taken :]]) for a, b in pairs])

    def take(self, upto_us: int) -> list[pa.Array]:
        """Take out the entries up to a time."""
        start, self._taken = self._taken, int(np.searchsorted(self._due_us, upto_us, side="right"))
        return [column[start : self._taken] for column in self._keys]
