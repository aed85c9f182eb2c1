"""Reading a snapshot without the job that wrote it: its tables as Arrow batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec, RowsSpec
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.scratch import ScratchFolder
from lakeward.engine.state.evolution import evolved
from lakeward.engine.state.keys import KeyCodec
from lakeward.engine.state.kv import KeyValueStore, StoreFactory
from lakeward.engine.state.layout import Layouts
from lakeward.engine.state.registry import StoredRows, StoredTable, TableRegistry
from lakeward.engine.state.renames import stored_name
from lakeward.engine.state.rescale import RestoreSource, link_files
from lakeward.engine.state.row_blobs import RowBlobs
from lakeward.engine.state.row_spec import RowForm
from lakeward.engine.state.row_store import RowStore
from lakeward.engine.state.values import to_arrow

_Reader = Callable[[KeyValueStore], Iterator[pa.RecordBatch]]
NAMESPACE_COLUMN = "namespace"


def read_tables(factory: StoreFactory, directory: str, tables: JsonObject) -> dict[str, Iterator[pa.RecordBatch]]:
    """The tables of one subtask's snapshot.

    Args:
        factory: Opens the kind of store that wrote the files.
        directory: Holds the files under their names; is not changed.
        tables: `StateFiles.tables` of the snapshot.

    Returns:
        By table name: batches of an int64 column `namespace`, the key columns, and the fields of the newest layout; of
        row tables the namespace and the rows.
        Each iterator opens the files for itself when it is first asked, and leaves nothing behind when it ends.

    Raises:
        CheckpointError: The snapshot is of a newer version.
        CorruptionError: It is damaged (also while iterating).
    """
    registry = TableRegistry.from_json(tables)
    readers = {name: _slot_reader(table, registry.max_parallelism) for name, table in registry.tables.items()}
    readers |= {name: _row_reader(table) for name, table in registry.row_tables.items()}
    return {name: _read(factory, directory, read) for name, read in readers.items()}


def table_schemas(tables: JsonObject) -> dict[str, pa.Schema]:
    """The schemas of the batches that `read_tables` yields, by table name."""
    registry = TableRegistry.from_json(tables)
    schemas = {name: table_schema(table) for name, table in registry.tables.items()}
    return schemas | {name: _with_namespace(list(table.spec.schema)) for name, table in registry.row_tables.items()}


def read_rows(factory: StoreFactory, sources: Iterable[RestoreSource], spec: RowsSpec) -> Iterator[pa.RecordBatch]:
    """The rows of one row table in the snapshots of several subtasks, without their namespaces.

    Args:
        factory: Opens the kind of store that wrote the files.
        sources: The snapshots.
        spec: The table; rows that were stored with more columns are read without them.

    Raises:
        CheckpointError: A snapshot is of a newer version.
        CorruptionError: It is damaged.
    """
    evolution = spec.evolution
    for source in sources:
        described = TableRegistry.from_json(source.tables).row_tables
        old_names = () if evolution is None else evolution.renamed_from
        name = stored_name("state table", spec.name, old_names, described)
        if name is None:
            continue
        stored = described[name]
        old = stored.spec if evolution is not None else spec
        for batch in read_tables(factory, source.directory, source.tables)[stored.spec.name]:
            rows = pa.RecordBatch.from_arrays([batch.column(name) for name in old.schema.names], schema=old.schema)
            yield rows if evolution is None else evolved(rows, old, spec)


def table_schema(table: StoredTable) -> pa.Schema:
    """The schema of a table's batches."""
    return _with_namespace([*table.key, *_newest(table)])


def _with_namespace(fields: Sequence[pa.Field]) -> pa.Schema:
    taken = NAMESPACE_COLUMN in [field.name for field in fields]
    return pa.schema([pa.field(f"_{NAMESPACE_COLUMN}" if taken else NAMESPACE_COLUMN, pa.int64()), *fields])


def _newest(table: StoredTable) -> pa.Schema:
    return max(table.layouts, key=lambda layout: layout.version).schema


def _read(factory: StoreFactory, directory: str, read: _Reader) -> Iterator[pa.RecordBatch]:
    """What `read` yields of a store with these files."""
    scratch = ScratchFolder(os.path.dirname(directory))  # where links may do
    try:
        link_files(directory, str(scratch.path))
        store = factory.open(str(scratch.path))
        try:
            yield from read(store)
        finally:
            store.close()
    finally:
        scratch.close()


def _slot_reader(table: StoredTable, max_parallelism: int) -> _Reader:
    codec = KeyCodec([(field.name, field.type) for field in table.key], table.routing)
    columns = [ColumnSpec(field.name, field.type) for field in _newest(table)]
    layouts = Layouts(table.name, columns, table.layouts)

    def read(store: KeyValueStore) -> Iterator[pa.RecordBatch]:
        rows = RowStore(store, table.id, codec, max_parallelism)
        for namespace in rows.counts():
            yield from _read_pane(rows, codec, layouts, columns, namespace, table_schema(table))

    return read


def _row_reader(table: StoredRows) -> _Reader:
    schema = _with_namespace(list(table.spec.schema))

    def read(store: KeyValueStore) -> Iterator[pa.RecordBatch]:
        form = RowForm(table.spec)
        for chunk in RowBlobs(store, table.id, table.spec.name).scan():
            form.stored_fields(chunk)  # checks that they are there
            parts = [chunk.rows, chunk.fields] if chunk.fields is not None else [chunk.rows]
            columns = {field.name: part.column(field.name) for part in parts for field in part.schema}
            namespaces = pa.array(np.full(chunk.rows.num_rows, chunk.namespace))
            batch = pa.RecordBatch.from_arrays(
                [namespaces, *(columns[f.name] for f in table.spec.schema)], schema=schema
            )
            yield batch if chunk.dead is None else batch.filter(pa.array(~chunk.dead))

    return read


def _read_pane(
    rows: RowStore, codec: KeyCodec, layouts: Layouts, columns: Sequence[ColumnSpec], namespace: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for keys, values in rows.scan(namespace):
        fields = layouts.unpack(values)
        arrays = [pa.array([namespace] * len(values), pa.int64()), *codec.decode(keys)]
        arrays += [to_arrow(fields[column.name], column.type) for column in columns]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
