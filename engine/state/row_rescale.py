"""Copying the rows of some key groups out of the chunks of another subtask."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby

import pyarrow as pa

from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.keygroups import key_groups
from lakeward.engine.state.kv import KeyValue
from lakeward.engine.state.row_blobs import Part, RowBlobs, StoredChunk
from lakeward.engine.state.row_chunks import CHUNK_ROWS_MIN


class ChunkCopier:
    """Copies the rows of one table, from any number of sources; their chunks are numbered anew.

    Args:
        target: Where the rows go.
        spec: The table's description, whose columns are copied; a chunk may have others besides.
        groups: The key groups to copy.
        max_parallelism: Number of key groups of the job.
    """

    def __init__(self, target: RowBlobs, spec: RowsSpec, groups: range, max_parallelism: int) -> None:
        self._target = target
        self._routing = spec.key[: spec.routing]
        self._columns = [name for name in spec.schema.names if name not in spec.mutable]
        self._groups = groups
        self._max_parallelism = max_parallelism
        self._next_number = 0

    def copy(self, origin: RowBlobs) -> None:
        """Copy out of one source. Of a namespace's small chunks larger ones are made, in the order of append.

        Raises:
            CorruptionError: A chunk is damaged.
        """
        for _, chunks in groupby(origin.scan(self._columns), key=lambda chunk: chunk.namespace):
            for chunk in _joined(kept for chunk in chunks if (kept := self._ours(chunk)) is not None):
                self._target.write(self._values(chunk))
                self._next_number += 1

    def _ours(self, chunk: StoredChunk) -> StoredChunk | None:
        """The live rows of our key groups; None when there are none."""
        groups = key_groups(hash_columns([chunk.rows.column(name) for name in self._routing]), self._max_parallelism)
        ours = (groups >= self._groups.start) & (groups < self._groups.stop)
        if chunk.dead is not None:
            ours &= ~chunk.dead
        if not ours.any():
            return None
        mask = pa.array(ours)
        rows, runs = chunk.rows.filter(mask), chunk.runs.keeping(ours)
        fields = None if chunk.fields is None else chunk.fields.filter(mask)
        return replace(chunk, rows=rows, runs=runs, size_bytes=rows.nbytes, dead=None, fields=fields)

    def _values(self, chunk: StoredChunk) -> list[KeyValue]:
        namespace, number, blobs = chunk.namespace, self._next_number, self._target
        rows = blobs.rows_value(chunk.rows, chunk.runs, chunk.size_bytes)
        puts = [(blobs.key(namespace, number, Part.ROWS), rows)]
        if chunk.fields is not None:
            puts.append((blobs.key(namespace, number, Part.FIELDS), blobs.fields_value(chunk.fields)))
        return puts


def _joined(chunks: Iterator[StoredChunk]) -> Iterator[StoredChunk]:
    """Chunks of one namespace, put together until they are large enough."""
    parts: list[StoredChunk] = []
    for chunk in chunks:
        parts.append(chunk)
        if sum(part.rows.num_rows for part in parts) >= CHUNK_ROWS_MIN:
            yield _concatenated(parts)
            parts = []
    if parts:
        yield _concatenated(parts)


def _concatenated(parts: list[StoredChunk]) -> StoredChunk:
    if len(parts) == 1:
        return parts[0]
    runs, rows = parts[0].runs, parts[0].rows.num_rows
    for part in parts[1:]:
        runs, rows = runs.then(part.runs, rows), rows + part.rows.num_rows
    fields = [part.fields for part in parts if part.fields is not None]
    return replace(
        parts[0],
        rows=pa.concat_batches([part.rows for part in parts]),
        runs=runs,
        size_bytes=sum(part.size_bytes for part in parts),
        fields=pa.concat_batches(fields) if fields else None,
    )
