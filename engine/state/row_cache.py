"""Which chunks of a row table are in memory, and how the others get out of it and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pyarrow as pa

from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.state.budget import MemoryBudget
from lakeward.engine.state.deferred import Piece
from lakeward.engine.state.row_blobs import Part, RowBlobs
from lakeward.engine.state.row_chunks import Chunk
from lakeward.engine.state.row_directory import RowDirectory
from lakeward.engine.state.row_spec import RowForm

_SLACK = 0.1

Change = Callable[[], Piece]
"""Makes, by any thread, what the store needs in order to have a chunk as it was."""


class ChunkCache:
    """Keeps the chunks that were used last, as the budget allows; the table's index counts, but never goes.

    Args:
        form: The table.
        blobs: Its chunks in the store.
        budget: The backend's memory.
        directory: Holds the mutable columns.
    """

    def __init__(self, form: RowForm, blobs: RowBlobs, budget: MemoryBudget, directory: RowDirectory) -> None:
        self._form = form
        self._blobs = blobs
        self._budget = budget
        self._directory = directory
        self._sizes: dict[Chunk, int] = {}
        self._bytes = 0
        self._tick = 0
        self.index_bytes = 0
        self.last_epoch = budget.epoch

    @property
    def size_bytes(self) -> int:
        """Memory in use, with the index."""
        return self._bytes + self.index_bytes

    @property
    def evictable_bytes(self) -> int:
        """Memory that `release` gives back."""
        return self._bytes

    def settle(self, index_bytes: int) -> None:
        """A call has ended: count what is used, and give back what is too much."""
        self.index_bytes = index_bytes
        self.last_epoch = self._budget.epoch
        self._make_room(0)

    def keep(self, chunk: Chunk) -> None:
        """The chunk's rows have come into memory, or become others."""
        self._bytes += chunk.size_bytes - self._sizes.get(chunk, 0)
        self._sizes[chunk] = chunk.size_bytes
        self._touch(chunk)

    def forget(self, chunk: Chunk) -> None:
        """The chunk is gone."""
        self._bytes -= self._sizes.pop(chunk, 0)

    def rows(self, chunk: Chunk) -> pa.RecordBatch:
        """The rows of a chunk, which stay in memory for a while."""
        if chunk.batch is None:
            self._make_room(chunk.size_bytes)
            chunk.batch = self.read(chunk)
            chunk.size_bytes = int(chunk.batch.get_total_buffer_size())
            self.keep(chunk)
        self._touch(chunk)
        return chunk.batch

    def read(self, chunk: Chunk) -> pa.RecordBatch:
        """The rows of a chunk that is in the store.

        Raises:
            CorruptionError: They are damaged.
        """
        schema = self._form.rows_schema
        batch = self._blobs.read_rows(chunk.namespace, chunk.number, schema.names)  # there may be more in the store
        if batch.schema.types != schema.types or batch.num_rows != len(chunk):
            raise CorruptionError(
                f"chunk {chunk.number} of state table '{self._form.spec.name}' holds {batch.num_rows} rows of types "
                f"{[str(kind) for kind in batch.schema.types]}, not {len(chunk)} of "
                f"{[str(kind) for kind in schema.types]}"
            )
        return pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    def freeze(self, chunk: Chunk) -> Change | None:
        """Copy what has changed of a chunk, which counts as stored from now on; None if nothing has."""
        blobs, place = self._blobs, (chunk.namespace, chunk.number)
        makers: list[tuple[bytes, Callable[[], bytes]]] = []
        deletes: list[bytes] = []
        if not chunk.stored:
            assert chunk.batch is not None
            chunk.stored = chunk.written = True
            value = partial(blobs.rows_value, chunk.batch, chunk.runs, chunk.size_bytes)  # others come in their places
            makers.append((blobs.key(*place, Part.ROWS), value))
        if chunk.dead_changed:
            key = blobs.key(*place, Part.DEAD)
            if chunk.dead is None:
                deletes.append(key)
            else:
                makers.append((key, partial(blobs.dead_value, chunk.dead.copy())))
        if chunk.fields_changed and self._form.fields:
            fields = self._form.fields_batch(self._directory.fields, chunk.ids.clip(0))
            makers.append((blobs.key(*place, Part.FIELDS), partial(blobs.fields_value, fields)))
        chunk.dead_changed = chunk.fields_changed = False
        return partial(_made, makers, deletes) if makers or deletes else None

    def release(self) -> None:
        """Move all chunks to the store; they come back when they are used."""
        self._spill(self._bytes)

    def shrink(self) -> None:
        """Move half of what is in memory to the store."""
        self._spill(self._bytes // 2)

    def _touch(self, chunk: Chunk) -> None:
        self._tick += 1
        chunk.last_used = self._tick
        self.last_epoch = self._budget.epoch

    def _make_room(self, more_bytes: int) -> None:
        self._budget.account(self)
        if not self._budget.make_room(self, more_bytes):
            self._spill(self._budget.used_bytes + more_bytes - int(self._budget.limit_bytes * (1 - _SLACK)))

    def _spill(self, wanted_bytes: int) -> None:
        """Move the chunks that were used least recently to the store: of those never read again the oldest."""
        if not self._sizes or wanted_bytes <= 0:
            return
        for chunk in sorted(self._sizes, key=lambda chunk: chunk.last_used):
            if wanted_bytes <= 0:
                break
            if not chunk.stored:
                assert chunk.batch is not None
                value = self._blobs.rows_value(chunk.batch, chunk.runs, chunk.size_bytes)
                self._blobs.write([(self._blobs.key(chunk.namespace, chunk.number, Part.ROWS), value)])
                chunk.stored = chunk.written = True
            chunk.batch = None
            wanted_bytes -= self._sizes[chunk]
            self.forget(chunk)
        self._budget.account(self)


def _made(makers: Sequence[tuple[bytes, Callable[[], bytes]]], deletes: Sequence[bytes]) -> Piece:
    return [(key, make()) for key, make in makers], deletes
