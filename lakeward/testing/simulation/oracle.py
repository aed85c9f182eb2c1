"""The truth: the same programs over a prefix of the input, in plain Python, without any of the engine's operators."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pyarrow as pa

from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.keygroups import key_groups
from lakeward.testing.simulation.source import InputRow, SplitData
from lakeward.testing.simulation.table import Row

Run = tuple[int, int, int]
"""First key group, one past the last, and how far event time has come in them."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a checkpoint cuts through the job.

    Args:
        positions: Rows read of every split.
        watermarks: Event time in each windowed operator, by uid.
        max_parallelism: Number of key groups.
        held: What tables hold at this checkpoint: the one that is looked at, and those committed before it.
    """

    positions: Mapping[SplitId, int]
    watermarks: Mapping[str, Sequence[Run]]
    max_parallelism: int
    held: dict[str, Counter[Row]]

    def rows(self, splits: Iterable[SplitData]) -> Iterator[InputRow]:
        """The rows that were read."""
        for split in splits:
            yield from split.rows[: self.positions.get(split.id, 0)]

    def watermark_us(self, uid: str, key: object) -> int:
        """How far event time has come for a key; None is the key of windows over everything."""
        group = 0 if key is None else _group_of(key, self.max_parallelism)
        return next(time_us for start, end, time_us in self.watermarks[uid] if start <= group < end)


@cache
def _group_of(key: object, max_parallelism: int) -> int:
    return int(key_groups(hash_columns([pa.array([key])]), max_parallelism)[0])


Truth = Callable[[Cut], Counter[Row]]
"""What a sink has to hold, exactly, when the job was cut there."""


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of event time.

    Args:
        uid: The operator.
        size_us: Length.
        slide_us: Distance of starts.
    """

    uid: str
    size_us: int
    slide_us: int

    def starts(self, time_us: int) -> Iterator[int]:
        """Starts of the windows that a time falls into."""
        start = time_us - time_us % self.slide_us
        while start + self.size_us > time_us:
            yield start
            start -= self.slide_us

    def all(self, events: Iterable[tuple[object, int, int]]) -> dict[tuple[object, int], list[int]]:
        """Values by key and start, of all windows; events are key, time and value."""
        windows: dict[tuple[object, int], list[int]] = defaultdict(list)
        for key, time_us, value in events:
            for start in self.starts(time_us):
                windows[key, start].append(value)
        return windows

    def fired(self, cut: Cut, events: Iterable[tuple[object, int, int]]) -> dict[tuple[object, int], list[int]]:
        """Of all windows those that have fired."""
        return {
            (key, start): values
            for (key, start), values in self.all(events).items()
            if start + self.size_us - 1 <= cut.watermark_us(self.uid, key)
        }

    def count_and_sum(self, cut: Cut, events: Iterable[tuple[object, int, int]]) -> Counter[Row]:
        """Key, start, end, count and sum of each fired window."""
        fired = self.fired(cut, events)
        return Counter(
            (*(() if key is None else (key,)), start, start + self.size_us, len(values), sum(values))
            for (key, start), values in fired.items()
        )
