"""A reader for sources whose splits are read one batch at a time: one cursor a split, taken in turn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.source import Origin, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class Step:
    """What one read of a cursor gave: rows (perhaps none), the position right after them, where they were read."""

    batch: pa.RecordBatch
    position: JsonObject
    origin: Origin | None = None


class SplitCursor(ABC):
    """Reads one split from front to back."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the split has no more rows, ever; asked after a `read` that gave nothing."""

    @abstractmethod
    def read(self) -> Step | None:
        """The next rows; None at the end, or when nothing is there right now."""

    def close(self) -> None:  # noqa: B027
        """Release files."""


OpenCursor = Callable[[Split, JsonObject | None], SplitCursor]
"""Opens a split at a position, or at its start."""


@dataclass(slots=True)
class _Turn:
    split: Split
    position: JsonObject | None
    cursor: SplitCursor | None = None


class CursorReader(SourceReader):
    """Takes the splits in turn, at most `open_max` of them open at a time; the others wait in order.

    Args:
        open_cursor: Opens one split; called when its turn comes, so a reader of many files keeps few of them open.
        open_max: Splits that are read side by side.
    """

    def __init__(self, open_cursor: OpenCursor, open_max: int = 64) -> None:
        self._open_cursor = open_cursor
        self._open_max = open_max
        self._active: deque[_Turn] = deque()
        self._waiting: deque[_Turn] = deque()

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Put the split at the end of the queue."""
        self._waiting.append(_Turn(split, position))

    def poll(self) -> SplitBatch | SplitFinished | None:
        """The next batch of the first split in turn that has one."""
        self._admit()
        for _ in range(len(self._active)):
            turn = self._active.popleft()
            cursor = turn.cursor = turn.cursor or self._open_cursor(turn.split, turn.position)
            step = cursor.read()
            if step is None and cursor.finished:
                return self._finish(turn.split.id, cursor)
            self._active.append(turn)
            if step is not None:
                return SplitBatch(turn.split.id, step.batch, step.position, origin=step.origin)
        return None

    def close(self) -> None:
        """Close every open split."""
        for turn in self._active:
            if turn.cursor is not None:
                turn.cursor.close()
        self._active.clear()
        self._waiting.clear()

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._open_max:
            self._active.append(self._waiting.popleft())

    def _finish(self, split: SplitId, cursor: SplitCursor) -> SplitFinished:
        cursor.close()
        return SplitFinished(split)
