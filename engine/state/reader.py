"""Reading a snapshot without the job that wrote it: its tables as Arrow batches."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence

import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.state.keys import KeyCodec
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.layout import Layouts
from lakeward.engine.state.registry import StoredTable, TableRegistry
from lakeward.engine.state.rescale import link_files
from lakeward.engine.state.row_store import RowStore
from lakeward.engine.state.values import to_arrow

NAMESPACE_COLUMN = "namespace"


def read_tables(factory: StoreFactory, directory: str, tables: JsonObject) -> dict[str, Iterator[pa.RecordBatch]]:
    """The tables of one subtask's snapshot.

    Args:
        factory: Opens the kind of store that wrote the files.
        directory: Holds the files under their names; is not changed.
        tables: `StateFiles.tables` of the snapshot.

    Returns:
        By table name: batches of an int64 column `namespace`, the key columns, and the fields of the newest layout.
        Each iterator opens the files for itself when it is first asked, and leaves nothing behind when it ends.

    Raises:
        CheckpointError: The snapshot is of a newer version.
        CorruptionError: It is damaged (also while iterating).
    """
    registry = TableRegistry.from_json(tables)
    return {
        name: _read_table(factory, directory, table, registry.max_parallelism)
        for name, table in registry.tables.items()
    }


def table_schema(table: StoredTable) -> pa.Schema:
    """The schema of a table's batches."""
    fields = _newest(table)
    if NAMESPACE_COLUMN in [*table.key.names, *fields.names]:
        namespace = f"_{NAMESPACE_COLUMN}"
    else:
        namespace = NAMESPACE_COLUMN
    return pa.schema([pa.field(namespace, pa.int64()), *table.key, *fields])


def _newest(table: StoredTable) -> pa.Schema:
    return max(table.layouts, key=lambda layout: layout.version).schema


def _read_table(
    factory: StoreFactory, directory: str, table: StoredTable, max_parallelism: int
) -> Iterator[pa.RecordBatch]:
    codec = KeyCodec([(field.name, field.type) for field in table.key])
    columns = [ColumnSpec(field.name, field.type) for field in _newest(table)]
    layouts = Layouts(table.name, columns, table.layouts)
    scratch = tempfile.mkdtemp(prefix="lakeward-state-")
    try:
        link_files(directory, scratch)
        store = factory.open(scratch)
        try:
            rows = RowStore(store, table.id, codec, max_parallelism)
            for namespace in rows.counts():
                yield from _read_pane(rows, codec, layouts, columns, namespace, table_schema(table))
        finally:
            store.close()
    finally:
        shutil.rmtree(scratch)


def _read_pane(
    rows: RowStore, codec: KeyCodec, layouts: Layouts, columns: Sequence[ColumnSpec], namespace: int, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for keys, values in rows.scan(namespace):
        fields = layouts.unpack(values)
        arrays = [pa.array([namespace] * len(values), pa.int64()), *codec.decode(keys)]
        arrays += [to_arrow(fields[column.name], column.type) for column in columns]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
