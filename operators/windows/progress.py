"""How far event time has come in a keyed operator: one watermark, or one a key group for a while after a restore.

Which rows are late and which windows have fired is a function of the watermark alone. Subtasks of one checkpoint may
have stood at different watermarks (unaligned barriers, idle inputs); a subtask restored at another parallelism can
inherit key groups from several of them. It starts from the lowest, and remembers for each key group how far it had
come, so that no window fires a second time for a key, and every row meets the same late decision as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.keygroups import key_group_range, key_groups
from lakeward.engine.core.messages import WATERMARK_MIN_US


class Progress:
    """The watermarks of one subtask.

    Args:
        groups: The key groups that the subtask owns.
        max_parallelism: Number of key groups of the job.
        restored: What `snapshot` returned in the restored checkpoint, for every old subtask.
    """

    def __init__(self, groups: range, max_parallelism: int, restored: Sequence[JsonObject] = ()) -> None:
        self._owned = groups
        self._max_parallelism = max_parallelism
        self._groups: npt.NDArray[np.int64] | None = None
        self.watermark_us = WATERMARK_MIN_US
        if restored and len(groups):
            self._restore(restored)

    @classmethod
    def of(cls, context: OperatorContext) -> Progress:
        """The progress of a subtask, taken back from its restored state."""
        groups = context.max_parallelism
        return cls(key_group_range(context.subtask, context.parallelism, groups), groups, context.restored)

    def _restore(self, restored: Sequence[JsonObject]) -> None:
        groups = np.full(self._max_parallelism, WATERMARK_MIN_US, dtype=np.int64)
        for state in restored:
            for start, end, watermark_us in cast(Sequence[Sequence[int]], state["watermarks"]):
                groups[start:end] = watermark_us
        owned = groups[self._owned.start : self._owned.stop]
        self.watermark_us = int(owned.min())
        self._groups = None if self.watermark_us == int(owned.max()) else groups

    def advance(self, watermark_us: int) -> None:
        """Event time has come to here; an earlier time changes nothing."""
        self.watermark_us = max(self.watermark_us, watermark_us)
        if self._groups is not None and self.watermark_us >= self.furthest_us:
            self._groups = None

    @property
    def furthest_us(self) -> int:
        """The watermark of the key group that had come furthest."""
        if self._groups is None:
            return self.watermark_us
        return max(self.watermark_us, int(self._groups[self._owned.start : self._owned.stop].max()))

    def watermarks(self, keys: Sequence[pa.Array]) -> npt.NDArray[np.int64] | None:
        """The watermark that holds for each row's key; None when one holds for all."""
        if self._groups is None:
            return None
        return np.maximum(self._groups[key_groups(hash_columns(keys), self._max_parallelism)], self.watermark_us)

    def reached(self, time_us: int) -> bool:
        """Whether some key group was already at or past a time that the watermark has not reached."""
        return self._groups is not None and self.furthest_us >= time_us

    def snapshot(self) -> JsonObject:
        """The watermarks as runs of key groups: `[first group, one past the last, watermark]`."""
        if self._groups is None:
            return _state([[self._owned.start, self._owned.stop, self.watermark_us]])
        now = np.maximum(self._groups, self.watermark_us)
        starts = [g for g in self._owned if g == self._owned.start or now[g] != now[g - 1]]
        ends = [*starts[1:], self._owned.stop]
        return _state([[start, end, int(now[start])] for start, end in zip(starts, ends, strict=True)])


def _state(runs: list[Any]) -> JsonObject:
    return {"v": 1, "watermarks": runs}
