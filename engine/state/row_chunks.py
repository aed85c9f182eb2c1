"""A chunk of a row table: some thousand rows of one namespace, as one Arrow batch that never changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.row_blobs import BoolArray, Runs
from lakeward.engine.state.row_index import Int32Array

CHUNK_ROWS_MIN = 16_384
"""A chunk of so many rows is no longer put together with the one behind it."""
CHUNK_ROWS_MAX = 65_536


class Chunk:
    """Rows, in memory or in the store, and what has to be written of them.

    Args:
        namespace: Where it belongs.
        number: Its name in the store; chunks of a namespace were appended in the order of their numbers.
        batch: The rows without mutable columns; None: they are in the store.
        ids: The rows' ids.
        runs: When they were appended.
    """

    __slots__ = (
        "batch", "dead", "dead_changed", "dead_count", "fields_changed", "handle", "ids", "last_used", "namespace",
        "number", "runs", "size_bytes", "stored", "written",
    )  # fmt: skip

    def __init__(
        self, namespace: int, number: int, batch: pa.RecordBatch | None, ids: Int64Array | Int32Array, runs: Runs
    ) -> None:
        self.namespace = namespace
        self.number = number
        self.ids: Int32Array = ids.astype(np.int32, copy=False)
        self.runs = runs
        self.handle = -1
        self.last_used = 0
        self.dead: BoolArray | None = None
        self.dead_count = 0
        self.stored = self.written = batch is None
        self.dead_changed = False
        self.fields_changed = batch is not None
        self.batch = batch
        self.size_bytes = 0 if batch is None else int(batch.get_total_buffer_size())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def live(self) -> int:
        """Number of rows that were not removed."""
        return len(self.ids) - self.dead_count

    def live_places(self) -> Int64Array | None:
        """Places of the rows that were not removed; None: all."""
        return None if self.dead is None else np.flatnonzero(~self.dead)

    def live_ids(self) -> Int64Array:
        """Ids of the rows that were not removed."""
        return (self.ids if self.dead is None else self.ids[~self.dead]).astype(np.int64)

    def bury(self, places: Int32Array) -> bool:
        """Mark rows as dead; False if one of them is dead already or named twice."""
        if self.dead is None:
            self.dead = np.zeros(len(self.ids), dtype=np.bool_)
        self.dead[places] = True
        before, self.dead_count = self.dead_count, int(np.count_nonzero(self.dead))
        self.dead_changed = True
        return self.dead_count == before + len(places)

    def rewritten(self, batch: pa.RecordBatch, ids: Int32Array, runs: Runs, dead: BoolArray | None) -> None:
        """Other rows take the place of these, under the same number."""
        self.batch, self.ids, self.runs = batch, ids, runs
        self.size_bytes = int(batch.get_total_buffer_size())
        self.dead = dead if dead is not None and dead.any() else None
        self.dead_count = 0 if self.dead is None else int(np.count_nonzero(self.dead))
        self.stored = False
        self.dead_changed = self.fields_changed = True


def compact(chunk: Chunk, batch: pa.RecordBatch) -> None:
    """Leave the dead rows of a chunk out.

    Args:
        chunk: The chunk.
        batch: Its rows.
    """
    assert chunk.dead is not None
    alive = ~chunk.dead
    chunk.rewritten(batch.filter(pa.array(alive)), chunk.ids[alive], chunk.runs.keeping(alive), None)


def join(first: Chunk, second: Chunk, batches: Sequence[pa.RecordBatch]) -> None:
    """Put the rows of a chunk behind those of the one before it.

    Args:
        first: Holds all rows afterwards.
        second: Is not needed any more.
        batches: The rows of both.
    """
    dead = None
    if first.dead is not None or second.dead is not None:
        dead = np.concatenate(
            [np.zeros(len(part), dtype=np.bool_) if part.dead is None else part.dead for part in (first, second)]
        )
    runs = first.runs.then(second.runs, len(first))
    first.rewritten(pa.concat_batches(batches), np.concatenate([first.ids, second.ids]), runs, dead)
    first.last_used = max(first.last_used, second.last_used)


def owned(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, or a copy if it keeps more memory alive than it needs, as a slice of a larger one does."""
    if batch.get_total_buffer_size() * 3 <= batch.nbytes * 4 + 4096:
        return batch
    return pa.concat_batches([batch, batch.slice(0, 0)])
