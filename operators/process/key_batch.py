"""The keys of a batch, each once, and which of them is being handled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lakeward.engine.api.state import Keys, StateTable
from lakeward.operators.rows import column_to_list
from lakeward.operators.windows.columns import Rows
from lakeward.operators.windows.timed import KeyTypes

NO_TIME = -(2**63)
"""The time of rows that have none."""


class KeyBatch:
    """The different keys that a batch of rows or timers has; what is loaded and written is once a key.

    Attributes:
        arrays: The key columns, a row a key.
        index: The number of the key that is being handled.
        time_us: The time of what is being handled: a row's event time, or a timer's.
        by_clock: Whether that is processing time.
        now_us: Processing time when the batch began.
        watermark_us: How far event time has come: the watermark, for a timer its time.
        times_us: For all keys at once: the newest event time of each; None: there is none.
        watermarks_us: For all keys at once: how far event time has come for each; None: the watermark, for all.
    """

    __slots__ = (
        "_encoded",
        "_values",
        "arrays",
        "by_clock",
        "index",
        "now_us",
        "time_us",
        "times_us",
        "watermark_us",
        "watermarks_us",
    )

    def __init__(self) -> None:
        self.arrays: Sequence[pa.Array] = ()
        self.index = -1
        self.time_us = NO_TIME
        self.by_clock = False
        self.now_us = 0
        self.watermark_us = 0
        self.times_us: Rows | None = None
        self.watermarks_us: Rows | None = None
        self._encoded: Keys | None = None
        self._values: list[Any] | None = None

    def begin(self, arrays: Sequence[pa.Array], now_us: int, watermark_us: int) -> None:
        """Handle these keys from now on."""
        self.arrays, self.now_us, self.watermark_us = arrays, now_us, watermark_us
        self.by_clock = False
        self.times_us = self.watermarks_us = self._encoded = self._values = None

    def end(self) -> None:
        """No key is being handled."""
        self.arrays, self.index = (), -1
        self._encoded = self._values = None

    def __len__(self) -> int:
        return len(self.arrays[0]) if self.arrays else 0

    def encoded(self, table: StateTable) -> Keys:
        """The keys, hashed once for all tables."""
        if self._encoded is None:
            self._encoded = table.keys(self.arrays, distinct=True)
        return self._encoded

    @property
    def key_values(self) -> tuple[Any, ...]:
        """The values of the key columns of the key that is being handled."""
        return tuple(column_to_list(array.slice(self.index, 1))[0] for array in self.arrays)

    @property
    def current(self) -> Any:
        """The key that is being handled: a value, or a tuple of the values of several columns."""
        if self._values is None:
            lists = [column_to_list(array) for array in self.arrays]
            self._values = lists[0] if len(lists) == 1 else list(zip(*lists, strict=True))
        return self._values[self.index]


def prefixed(keys: KeyTypes) -> KeyTypes:
    """Key columns under names that no field of a state has, and that do not begin with "##".

    >>> [name for name, _ in prefixed((("shop", pa.string()), ("#shop", pa.string())))]
    ['#shop', '#/#shop']
    """
    odd = {name for name, _ in keys if name.lstrip("/").startswith("#")}
    return tuple((f"#/{name}" if name in odd else f"#{name}", kind) for name, kind in keys)
