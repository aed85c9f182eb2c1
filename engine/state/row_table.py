"""Tables of whole rows: chunks of Arrow rows, an index from key to row ids, and the chunks' copies in the store.

A row id is a number in a directory of arrays (`row_directory.py`) that say in which chunk, at which place the row lies,
so that chunks can be put together and cleaned of dead rows without anybody noticing. Each namespace has an index of its
own (`row_index.py`), made when its rows are looked for (`row_log.py`), and is dropped with it as a whole. Small chunks
are joined with the one before them as in a binary counter, so that each row is copied a logarithmic number of times and
there are few chunks (the logarithmic method of Bentley and Saxe, 1980; Lucene and LSM trees merge alike). What is
written to the store are chunks, when a checkpoint is taken or memory runs short (`row_blobs.py`); the index always
stays in memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.state import Matches, RowIds, RowsSpec, RowTable, StateUsage
from lakeward.engine.core.errors import InternalError, SchemaError
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.budget import MemoryBudget
from lakeward.engine.state.deferred import Piece
from lakeward.engine.state.row_blobs import RowBlobs, Runs, StoredChunk
from lakeward.engine.state.row_cache import Change, ChunkCache
from lakeward.engine.state.row_chunks import CHUNK_ROWS_MAX, CHUNK_ROWS_MIN, Chunk, compact, join, owned
from lakeward.engine.state.row_directory import NO_CHUNK, RowDirectory
from lakeward.engine.state.row_index import grouped
from lakeward.engine.state.row_pane import RowPane
from lakeward.engine.state.row_spec import RowForm
from lakeward.engine.state.row_unique import UniqueKeyRows
from lakeward.engine.state.values import AnyArray, to_arrow

_NO_SLOT = -1
_NEW = -1


class ChunkedRowTable(RowTable):
    """The `RowTable` of the engine.

    Made by `lakeward.engine.state.backend.StateBackend.rows`.

    Args:
        form: Its description.
        blobs: Its chunks in the store; those that are there are taken over.
        budget: The backend's memory.
    """

    def __init__(self, form: RowForm, blobs: RowBlobs, budget: MemoryBudget) -> None:
        self._form = form
        self._blobs = blobs
        self._directory = RowDirectory(form.fields)
        self._cache = ChunkCache(form, blobs, budget, self._directory)
        self._panes: dict[int, RowPane] = {}
        self._chunks: list[Chunk | None] = []
        self._free_handles: list[int] = []
        self._deletes: list[bytes] = []
        self._live = self._next_append = self._next_number = self._index_bytes = 0
        for stored in blobs.scan(form.spec.key):
            self._take_over(stored)
        self._settle(self._panes.values())

    @property
    def spec(self) -> RowsSpec:
        """Its description."""
        return self._form.spec

    def __len__(self) -> int:
        return self._live

    def namespaces(self) -> list[int]:
        """Namespaces that hold rows, sorted."""
        return sorted(namespace for namespace, pane in self._panes.items() if pane.live)

    def append(self, batch: pa.RecordBatch, namespace: int = 0) -> RowIds:
        """Add rows; returns their ids.

        Raises:
            SchemaError: The batch has other columns than the table, or a null in a mutable one.
        """
        return self.put(batch, np.full(batch.num_rows, _NEW, dtype=np.int64), namespace)

    def put(self, batch: pa.RecordBatch, ids: RowIds, namespace: int = 0) -> RowIds:
        """Give rows the place of others of the same key, whose ids they get; where the id is -1, add them.

        Raises:
            InternalError: There is no such row in this namespace, or it is named twice.
            SchemaError: The batch has other columns than the table, or a null in a mutable one.
        """
        batch = self._form.checked(batch)
        fields = self._form.fields_part(batch)  # refuses nulls, before anything has changed
        if not batch.num_rows:
            return np.zeros(0, dtype=np.int64)
        pane = self._pane(namespace)
        worn = self._vacate(pane, ids[ids != _NEW])
        new = np.flatnonzero(ids == _NEW)
        ids = ids.copy()
        ids[new] = self._directory.allocate(len(new))
        self._log(pane, ids, new, batch)
        self._enter_rows(self._form.rows_part(batch), fields, ids, pane)
        self._clean([chunk for chunk in worn if self._chunks[chunk.handle] is chunk])
        self._settle([pane])
        return ids

    def find_or_append(self, batch: pa.RecordBatch, namespace: int = 0) -> tuple[RowIds, RowIds]:
        """Find the row of each key, and add those rows whose key has none; only in tables whose keys are unique.

        Raises:
            InternalError: The table's keys are not unique.
            SchemaError: The batch has other columns than the table, or a null in a key or mutable one.
        """
        batch = self._form.checked(batch)
        fields = self._form.fields_part(batch)
        left, keys = self._form.encode([batch.column(name) for name in self.spec.key])
        if left is not None:
            raise SchemaError(f"state table '{self.spec.name}' is given a null in a key column")
        pane = self._pane(namespace)
        if not isinstance(pane.keys, UniqueKeyRows):
            raise InternalError(f"the keys of state table '{self.spec.name}' are not unique")
        pane.index(self._directory)
        ids = pane.keys.look_up(keys)
        new = np.flatnonzero(ids < 0)
        if len(new):
            all_new = len(new) == len(ids)
            ids[new] = new_ids = self._directory.allocate(len(new))
            self._directory.slots[new_ids] = pane.keys.add_new(keys if all_new else keys.take(new), new_ids)
            rows = self._form.rows_part(batch)
            self._enter_rows(
                rows if all_new else rows.take(pa.array(new)),
                fields if all_new else {name: values[new] for name, values in fields.items()},
                new_ids,
                pane,
            )
        self._settle([pane])
        return ids, new

    def find(self, keys: Sequence[pa.Array], namespaces: Sequence[int] | None = None) -> Matches:
        """The rows that have these keys, in all namespaces or in some.

        Raises:
            SchemaError: Number or types of the columns are not the key's.
        """
        rows, batch = self._form.encode(keys)
        wanted = self._panes if namespaces is None else {*namespaces} & self._panes.keys()
        panes = [self._panes[name] for name in sorted(wanted)]
        read = [pane for pane in panes if pane.log.rows]
        found = [pane.find(batch, self._directory) for pane in panes]
        if read:
            self._settle(read)
        found = [pair for pair in found if len(pair[0])]
        if not found:
            return Matches(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        positions, ids = found[0] if len(found) == 1 else self._merged(found)
        return Matches(positions if rows is None else rows[positions], ids)

    def take(self, ids: RowIds, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Rows by id, in the order of `ids`, all columns or some; an id may come many times.

        Raises:
            SchemaError: There is no such column.
            InternalError: There is no such row.
        """
        form = self._form
        names = form.spec.schema.names if columns is None else list(columns)
        schema = pa.schema([self._field(name) for name in names])
        chunks = self._directory.chunks_of(ids)
        plain = [name for name in names if name not in form.fields]
        rows = self._gather(ids, chunks, plain) if plain else None
        arrays = [
            rows.column(name) if rows is not None and name not in form.fields else self._field_array(name, ids)
            for name in names
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def reading_order(self, ids: RowIds) -> Int64Array:
        """The positions of `ids` in the order in which the rows lie in memory, where `take` copies them fastest.

        Raises:
            InternalError: There is no such row.
        """
        places = self._directory.chunks_of(ids) * CHUNK_ROWS_MAX + self._directory.places.take(ids)
        bits = len(ids).bit_length()
        if int(places.max(initial=0)) >> (63 - bits):
            return np.argsort(places, kind="stable")
        packed = (places << bits) | np.arange(len(ids))  # sorts faster than any `argsort`
        packed.sort()
        return packed & ((1 << bits) - 1)

    def get(self, name: str, ids: RowIds) -> npt.NDArray[Any]:
        """The values of a mutable column; times and dates as integers."""
        self._directory.chunks_of(ids)
        return self._mutable(name).take(ids)

    def set(self, name: str, ids: RowIds, values: npt.NDArray[Any]) -> None:
        """Change a mutable column; of an id that comes twice the last value stays."""
        column = self._mutable(name)
        values = np.asarray(values)
        if not np.can_cast(values.dtype, column.dtype, "same_kind"):
            kinds = f"{column.dtype} is set to {values.dtype}"
            raise SchemaError(f"state table '{self.spec.name}': column '{name}' of {kinds}")
        chunks = self._directory.chunks_of(ids)
        column[ids] = values
        for number in np.unique(chunks).tolist():
            self._chunk(number).fields_changed = True

    def remove(self, ids: RowIds) -> None:
        """Forget these rows; each id once.

        Raises:
            InternalError: There is no such row, or it is named twice.
        """
        buried = self._bury(ids)
        chunks, gone = [chunk for chunk, _ in buried], dict[int, list[RowIds]]()
        for chunk, part in buried:
            gone.setdefault(chunk.namespace, []).append(part)
        for namespace, parts in gone.items():
            self._unindex(self._panes[namespace], np.concatenate(parts))
            if not self._panes[namespace].live:
                self.drop(namespace)
        self._clean([chunk for chunk in chunks if chunk.namespace in self._panes])
        self._settle([self._panes[namespace] for namespace in gone if namespace in self._panes])

    def _bury(self, ids: RowIds) -> list[tuple[Chunk, RowIds]]:
        """Mark rows as dead in their chunks; returns which ones those are."""
        order, numbers, starts, counts = grouped(self._directory.chunks_of(ids))
        buried = []
        for number, start, count in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
            chunk, part = self._chunk(number), ids[order[start : start + count]]
            if not chunk.bury(self._directory.places[part]):
                raise InternalError(f"a row is removed twice from state table '{self.spec.name}'")
            buried.append((chunk, part))
        return buried

    def _vacate(self, pane: RowPane, ids: RowIds) -> list[Chunk]:
        """Make rows dead whose ids other rows get; the index knows nothing of it. Returns their chunks."""
        if not len(ids):
            return []
        chunks = [chunk for chunk, _ in self._bury(ids)]
        if any(chunk.namespace != pane.namespace for chunk in chunks):
            raise InternalError(f"a row of state table '{self.spec.name}' is replaced by one of another namespace")
        pane.live -= len(ids)
        self._live -= len(ids)
        return chunks

    def drop(self, namespace: int) -> None:
        """Forget a namespace as a whole; what never reached the store costs it nothing."""
        pane = self._panes.pop(namespace, None)
        if pane is None:
            return
        ids = pane.all_ids(self._directory)
        self._directory.chunks[ids] = NO_CHUNK
        self._directory.release(ids)
        if any(chunk.written for chunk in pane.chunks):
            self._blobs.drop(namespace)
        for chunk in pane.chunks:
            self._forget(chunk)
        self._live -= pane.live
        self._index_bytes -= pane.counted_bytes
        self._settle([])

    def scan(self, namespace: int | None = None) -> Iterator[tuple[RowIds, pa.RecordBatch]]:
        """All rows of a namespace or of all, a batch at a time, in the order of append within a namespace."""
        for name in self.namespaces() if namespace is None else [namespace] if namespace in self._panes else []:
            for chunk in self._panes[name].chunks:
                batch = self._cache.read(chunk) if chunk.batch is None else chunk.batch
                places, ids = chunk.live_places(), chunk.live_ids()
                yield ids, self._whole(batch if places is None else batch.take(pa.array(places)), ids)

    def usage(self) -> StateUsage:
        """How much it holds."""
        chunks = sum(chunk.size_bytes for chunk in self._chunks if chunk is not None)
        return StateUsage(self._live, chunks + self._index_bytes + self._directory.size_bytes)

    def freeze(self) -> Iterator[Piece]:
        """Copy what has changed since the last time; what comes out is for the store, before anything else is."""
        deletes, self._deletes = sorted(self._deletes), []
        changes: deque[Change] = deque()
        for name in sorted(self._panes):
            changes.extend(filter(None, map(self._cache.freeze, self._panes[name].chunks)))
        return _pieces(deletes, changes)

    def _pane(self, namespace: int) -> RowPane:
        if namespace not in self._panes:
            self._panes[namespace] = RowPane(namespace, self._form)
        return self._panes[namespace]

    def _chunk(self, number: int) -> Chunk:
        chunk = self._chunks[number]
        assert chunk is not None
        return chunk

    def _field(self, name: str) -> pa.Field:
        position = self.spec.schema.get_field_index(name)
        if position < 0:
            raise SchemaError(f"state table '{self.spec.name}' has no column '{name}', only: {self.spec.schema.names}")
        return self.spec.schema.field(position)

    def _mutable(self, name: str) -> AnyArray:
        if name not in self._form.fields:
            known = list(self._form.fields)
            raise SchemaError(f"state table '{self.spec.name}' has no mutable column '{name}', only: {known}")
        return self._directory.fields[name]

    def _field_array(self, name: str, ids: RowIds) -> pa.Array:
        return to_arrow(self._mutable(name).take(ids), self._field(name).type)

    def _settle(self, panes: Iterable[RowPane]) -> None:
        """Count the memory of the panes that a call has changed."""
        for pane in panes:
            size = pane.size_bytes
            self._index_bytes += size - pane.counted_bytes
            pane.counted_bytes = size
        self._cache.settle(self._index_bytes + self._directory.size_bytes)

    def _enter_rows(self, rows: pa.RecordBatch, fields: Mapping[str, AnyArray], ids: RowIds, pane: RowPane) -> None:
        """Make chunks of new rows and their mutable columns."""
        for name, values in fields.items():
            self._directory.fields[name][ids] = values
        for first in range(0, rows.num_rows, CHUNK_ROWS_MAX):
            self._append(rows.slice(first, CHUNK_ROWS_MAX), ids[first : first + CHUNK_ROWS_MAX], pane)
        self._next_append += 1

    def _append(self, rows: pa.RecordBatch, ids: RowIds, pane: RowPane) -> None:
        chunk = Chunk(pane.namespace, self._next_number, owned(rows), ids, Runs.one(self._next_append))
        self._next_number += 1
        self._enter(chunk, pane)
        self._directory.place(ids, chunk.handle)
        self._cache.keep(chunk)
        while len(pane.chunks) > 1 and _joinable(*pane.chunks[-2:]):
            self._join(pane, len(pane.chunks) - 2)

    def _enter(self, chunk: Chunk, pane: RowPane) -> None:
        if self._free_handles:
            chunk.handle = self._free_handles.pop()
            self._chunks[chunk.handle] = chunk
        else:
            chunk.handle = len(self._chunks)
            self._chunks.append(chunk)
        pane.chunks.append(chunk)
        pane.rows += len(chunk)
        pane.live += chunk.live
        self._live += chunk.live

    def _log(self, pane: RowPane, ids: RowIds, new: Int64Array, batch: pa.RecordBatch) -> None:
        """Note new rows under their keys, for when they are looked for; those with a null in the key never are."""
        if not len(new):
            return
        keys = [batch.column(name) for name in self.spec.key]
        if len(new) < batch.num_rows:
            ids, keys = ids[new], [array.take(pa.array(new)) for array in keys]
        self._directory.slots[ids] = _NO_SLOT
        pane.log.append(ids, keys)

    def _take_over(self, stored: StoredChunk) -> None:
        """Enter a chunk of the store, whose rows stay there until they are used."""
        pane, alive = self._pane(stored.namespace), None if stored.dead is None else ~stored.dead
        live = stored.rows.num_rows if alive is None else int(np.count_nonzero(alive))
        ids = self._directory.allocate(live)
        places = np.arange(live) if alive is None else np.flatnonzero(alive)
        chunk_ids = np.full(stored.rows.num_rows, -1, dtype=np.int64)
        chunk_ids[places] = ids
        chunk = Chunk(stored.namespace, stored.number, None, chunk_ids, stored.runs)
        chunk.size_bytes, chunk.dead, chunk.dead_count = stored.size_bytes, stored.dead, len(chunk_ids) - live
        self._enter(chunk, pane)
        pane.restored = True
        self._directory.chunks[ids] = chunk.handle
        self._directory.places[ids] = places
        self._log(pane, ids, np.arange(live), stored.rows.take(pa.array(places)))
        for name, values in self._form.stored_fields(stored).items():
            self._directory.fields[name][ids] = values[places]
        self._next_number = max(self._next_number, stored.number + 1)
        self._next_append = max(self._next_append, int(stored.runs.appends.max()) + 1)

    def _merged(self, found: Sequence[tuple[Int64Array, RowIds]]) -> tuple[Int64Array, RowIds]:
        """Matches of several namespaces, by key and then by append."""
        positions, ids = (np.concatenate(part) for part in zip(*found, strict=True))
        order = np.lexsort((self._appends(ids), positions))
        return positions[order], ids[order]

    def _appends(self, ids: RowIds) -> Int64Array:
        """The number of the append that each row came with."""
        order, numbers, starts, counts = grouped(self._directory.chunks_of(ids))
        appends = np.empty(len(ids), dtype=np.int64)
        for number, start, count in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
            part = order[start : start + count]
            appends[part] = self._chunk(number).runs.of(self._directory.places[ids[part]])
        return appends

    def _gather(self, ids: RowIds, chunks: Int64Array, names: Sequence[str]) -> pa.RecordBatch:
        """Columns that never change of rows of any chunks."""
        if not len(ids):
            return pa.RecordBatch.from_pylist([], schema=pa.schema([self._field(name) for name in names]))
        places = self._directory.places.take(ids)
        if (chunks == chunks[0]).all():
            return self._columns(self._chunk(int(chunks[0])), names).take(pa.array(places))
        order, numbers, starts, counts = grouped(chunks)
        several = [self._chunk(number) for number in numbers.tolist()]
        # Not by `Table.take`: it joins the texts of all chunks first, however few rows are wanted.
        parts = [
            self._columns(chunk, names).take(pa.array(places[order[start : start + count]]))
            for chunk, start, count in zip(several, starts.tolist(), counts.tolist(), strict=True)
        ]
        whole = pa.concat_batches(parts)
        if (chunks[:-1] <= chunks[1:]).all():
            return whole
        back = np.empty(len(ids), dtype=np.int64)
        back[order] = np.arange(len(ids))
        return whole.take(pa.array(back))

    def _columns(self, chunk: Chunk, names: Sequence[str]) -> pa.RecordBatch:
        rows = self._cache.rows(chunk)
        return rows if names == rows.schema.names else rows.select(names)

    def _whole(self, rows: pa.RecordBatch, ids: RowIds) -> pa.RecordBatch:
        """Rows with their mutable columns."""
        if not self._form.fields:
            return rows
        names = self.spec.schema.names
        arrays = [self._field_array(n, ids) if n in self._form.fields else rows.column(n) for n in names]
        return pa.RecordBatch.from_arrays(arrays, schema=self.spec.schema)

    def _unindex(self, pane: RowPane, ids: RowIds) -> None:
        """Rows have died; their ids are given out again when no list holds them any longer."""
        self._directory.chunks[ids] = NO_CHUNK
        slots = self._directory.slots.take(ids).astype(np.int64)
        if pane.log.rows and int(slots.min(initial=0)) < 0:
            pane.index(self._directory)
            slots = self._directory.slots.take(ids).astype(np.int64)
        indexed = slots != _NO_SLOT
        self._directory.release(ids[~indexed])
        self._directory.release(pane.keys.forget(slots[indexed], self._directory.chunks))
        pane.live -= len(ids)
        self._live -= len(ids)

    def _clean(self, chunks: Sequence[Chunk]) -> None:
        """Forget chunks without rows; leave out dead rows where they are more than half; join what has become small."""
        worn = [chunk for chunk in chunks if 2 * chunk.dead_count > len(chunk)]
        for chunk in worn:
            pane = self._panes[chunk.namespace]
            pane.rows -= chunk.dead_count
            if chunk.live:
                compact(chunk, self._cache.rows(chunk))
                self._directory.place(chunk.live_ids(), chunk.handle)
                self._cache.keep(chunk)
            else:
                del pane.chunks[_position(pane, chunk)]
                self._retire(chunk)
        for chunk in worn:
            if self._chunks[chunk.handle] is chunk:
                self._join_neighbours(self._panes[chunk.namespace], chunk)

    def _join_neighbours(self, pane: RowPane, chunk: Chunk) -> None:
        chunks, position = pane.chunks, _position(pane, chunk)
        if position + 1 < len(chunks) and len(chunk) + len(chunks[position + 1]) <= CHUNK_ROWS_MIN:
            self._join(pane, position)
        if position > 0 and len(chunks[position - 1]) + len(chunk) <= CHUNK_ROWS_MIN:
            self._join(pane, position - 1)

    def _join(self, pane: RowPane, position: int) -> None:
        """Put a chunk and the one behind it together, under the number of the first."""
        first, second = pane.chunks[position : position + 2]
        ids, places = second.live_ids(), second.live_places()
        self._directory.chunks[ids] = first.handle
        self._directory.places[ids] = len(first) + (np.arange(len(second)) if places is None else places)
        join(first, second, [self._cache.rows(first), self._cache.rows(second)])
        self._cache.keep(first)
        del pane.chunks[position + 1]
        self._retire(second)

    def _retire(self, chunk: Chunk) -> None:
        """The chunk is gone, here and in the store."""
        if chunk.written:
            self._deletes += self._blobs.keys(chunk.namespace, chunk.number)
        self._forget(chunk)

    def _forget(self, chunk: Chunk) -> None:
        self._cache.forget(chunk)
        self._chunks[chunk.handle] = None
        self._free_handles.append(chunk.handle)


def _pieces(deletes: Sequence[bytes], changes: deque[Change]) -> Iterator[Piece]:
    if deletes:
        yield [], deletes
    while changes:  # each is forgotten as soon as it is written
        yield changes.popleft()()


def _position(pane: RowPane, chunk: Chunk) -> int:
    return bisect_left(pane.chunks, chunk.number, key=lambda one: one.number)


def _joinable(first: Chunk, second: Chunk) -> bool:
    rows = len(first) + len(second)
    return len(first) < CHUNK_ROWS_MIN and len(first) <= 2 * len(second) and rows <= CHUNK_ROWS_MAX
