"""Where each row of a row table lies: arrays indexed by row id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lakeward.engine.api.state import RowIds
from lakeward.engine.core.errors import InternalError
from lakeward.engine.state.key_columns import grown
from lakeward.engine.state.row_index import Int32Array
from lakeward.engine.state.values import AnyArray

NO_CHUNK = -1
_CAPACITY_MIN = 64
_CAPACITY_MAX = (1 << 31) - 1


class RowDirectory:
    """Chunk, place and slot of each row, and the mutable columns. Ids of forgotten rows are given out again.

    Args:
        fields: The mutable columns' numpy types by name.
    """

    def __init__(self, fields: Mapping[str, npt.DTypeLike]) -> None:
        self.chunks: Int32Array = np.zeros(0, dtype=np.int32)
        self.places: Int32Array = np.zeros(0, dtype=np.int32)
        self.slots: Int32Array = np.zeros(0, dtype=np.int32)
        self.fields: dict[str, AnyArray] = {name: np.zeros(0, dtype=dtype) for name, dtype in fields.items()}
        self._next = 0
        self._free: Int32Array = np.zeros(0, dtype=np.int32)
        self._free_count = 0

    @property
    def size_bytes(self) -> int:
        """Memory in use."""
        fields = sum(array.nbytes for array in self.fields.values())
        return self.chunks.nbytes + self.places.nbytes + self.slots.nbytes + self._free.nbytes + fields

    def allocate(self, count: int) -> RowIds:
        """Ids for new rows."""
        reused = min(count, self._free_count)
        fresh = np.arange(self._next, self._next + count - reused)
        self._ensure(self._next + len(fresh))
        self._next += len(fresh)
        if not reused:
            return fresh
        self._free_count -= reused
        return np.concatenate([self._free[self._free_count : self._free_count + reused], fresh])

    def place(self, ids: RowIds, chunk: int, first: int = 0) -> None:
        """These rows lie in a chunk, one after the other."""
        self.chunks[ids] = chunk
        self.places[ids] = np.arange(first, first + len(ids), dtype=np.int32)

    def release(self, ids: RowIds) -> None:
        """Nothing refers to these ids any more."""
        need = self._free_count + len(ids)
        if need > len(self._free):
            self._free = grown(self._free, max(_CAPACITY_MIN, need, 2 * len(self._free)))  # type: ignore[assignment]
        self._free[self._free_count : need] = ids
        self._free_count = need

    def chunks_of(self, ids: RowIds) -> npt.NDArray[np.int64]:
        """The chunk of each row.

        Raises:
            InternalError: There is no such row.
        """
        if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= self._next):
            raise InternalError("a row id was never given out by this state table")
        chunks = self.chunks.take(ids).astype(np.int64)
        if len(ids) and int(chunks.min()) < 0:
            raise InternalError("a row id belongs to a row that was removed from its state table")
        return chunks

    def field(self, name: str) -> npt.NDArray[Any]:
        """A mutable column, by row id."""
        return self.fields[name]

    def _ensure(self, count: int) -> None:
        old = len(self.chunks)
        if count <= old:
            return
        if count > _CAPACITY_MAX:
            raise InternalError(f"a state table cannot hold more than {_CAPACITY_MAX} rows in one subtask")
        capacity = min(_CAPACITY_MAX, max(_CAPACITY_MIN, count, old + old // 2))
        self.chunks = grown(self.chunks, capacity)  # type: ignore[assignment]
        self.places = grown(self.places, capacity)  # type: ignore[assignment]
        self.slots = grown(self.slots, capacity)  # type: ignore[assignment]
        self.fields = {name: grown(array, capacity) for name, array in self.fields.items()}
