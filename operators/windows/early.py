"""Early firing: results of windows that are still open, sent by processing time or by count.

Accumulating results replace each other: what was sent last for a key and window is kept beside the window's state
(`lakeward.operators.windows.sent`), and compared with, so that a result that has not changed is not sent again (an
updating stream). Discarding results add up: what was sent is forgotten, and the next result is of the rows that came
since (an append-only stream of deltas).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, Keys, TableSpec
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.windows.columns import Rows, group_rows
from lakeward.operators.windows.timed import KeyTypes

_TOUCHED_MIN = 65_536


@dataclass(frozen=True, slots=True)
class Trigger:
    """When windows that are still open send what they have.

    Args:
        interval_us: Every so much processing time, for the keys that got rows; also before each checkpoint.
        rows: For a key, after so many of its rows (counted a pane, looked at once a batch).
        discarding: Whether what was sent is forgotten.
        unkept: Result columns of which nobody wants to know what was sent, large ones: where they are taken back, they
            are null. They change only where another column does.
    """

    interval_us: int | None = None
    rows: int | None = None
    discarding: bool = False
    unkept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for value in (self.interval_us, self.rows):
            if value is not None and value <= 0:
                raise ConfigError(f"a trigger needs more than {value}", hint='every("1s"), every_rows(1000)')

    @property
    def description(self) -> str:
        """In a few words."""
        when = f"{self.rows} rows" if self.rows is not None else f"{(self.interval_us or 0) / 1e6:g}s"
        return f"early every {when}{', discarding' if self.discarding else ''}"


class Pace:
    """When it is time to fire early by the clock.

    Args:
        interval_us: Every so often; None: never.
    """

    def __init__(self, interval_us: int | None) -> None:
        self._interval_us = interval_us
        self._next_us: int | None = None

    def due(self, now_us: int) -> bool:
        """Whether it is time now; it is not again until the next interval has passed."""
        if self._interval_us is None:
            return False
        due = self._next_us is not None and now_us >= self._next_us
        if due or self._next_us is None:
            self._next_us = now_us + self._interval_us
        return due


class TouchedKeys:
    """The keys that got rows since the last early firing, by pane. In memory: a checkpoint is preceded by a firing."""

    def __init__(self) -> None:
        self._panes: dict[int, list[list[pa.Array]]] = {}
        self._rows: dict[int, int] = {}

    def add(self, pane_us: int, keys: Sequence[pa.Array]) -> None:
        """Note key columns, in which a key may come many times."""
        held = self._panes.setdefault(pane_us, [])
        held.append(distinct(keys))
        rows = sum(len(part[0]) for part in held)
        if rows > max(_TOUCHED_MIN, 2 * self._rows.get(pane_us, 0)):
            held[:] = [distinct([pa.concat_arrays(columns) for columns in zip(*held, strict=True)])]
            self._rows[pane_us] = len(held[0][0])

    def take(self) -> dict[int, list[pa.Array]]:
        """The keys of each pane; some may come twice."""
        panes, self._panes, self._rows = self._panes, {}, {}
        return {
            pane: [pa.concat_arrays(columns) for columns in zip(*parts, strict=True)]
            for pane, parts in sorted(panes.items())
        }


def distinct(keys: Sequence[pa.Array]) -> list[pa.Array]:
    """Key columns with each key once."""
    _, firsts = group_rows(keys)
    return [column.take(pa.array(firsts)) for column in keys]


class RowCounts:
    """How many rows came for a key and pane since its last early firing.

    Args:
        keys: Name and type of the key columns.
        rows: After how many a key fires.
    """

    def __init__(self, keys: KeyTypes, rows: int) -> None:
        self._spec = TableSpec("since", keys, (ColumnSpec("#since", pa.int64(), 0),))
        self._limit = rows

    def open(self, context: OperatorContext) -> None:
        """Open the table."""
        self._table = context.table(self._spec)

    def add(self, pane_us: int, keys: Keys) -> Rows:
        """Count rows; returns those that make their keys fire, one a key."""
        pane = self._table.pane(pane_us)
        slots = pane.slots(keys)
        counts = pane.column("#since")
        np.add.at(counts, slots, 1)
        full = np.flatnonzero(counts[slots] >= self._limit)
        if not len(full):
            return full
        _, firsts = group_rows([pa.array(slots[full])])
        chosen: Rows = full[firsts]
        counts[slots[chosen]] = 0
        return chosen

    def drop(self, pane_us: int) -> None:
        """Forget a pane."""
        self._table.drop(pane_us)
