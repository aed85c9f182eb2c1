"""Opening the state of earlier subtasks: directly when the key groups are the same, else by copying rows."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from lakeward.engine.core.errors import CheckpointError
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.links import link_or_copy
from lakeward.engine.state.kv import KeyValue, KeyValueStore, StoreFactory
from lakeward.engine.state.registry import StoredTable, TableRegistry
from lakeward.engine.state.row_blobs import RowBlobs
from lakeward.engine.state.row_rescale import ChunkCopier
from lakeward.engine.state.row_store import pane_range, read_counts, write_counts

_COPY_ROWS = 32_768


@dataclass(frozen=True, slots=True)
class RestoreSource:
    """The keyed state of one subtask in the checkpoint that is restored.

    Args:
        tables: `StateFiles.tables` of its snapshot.
        directory: Holds the snapshot's files under their names; is not changed.
        key_group_start: Its first key group.
        key_group_end: One past its last.
    """

    tables: JsonObject
    directory: str
    key_group_start: int
    key_group_end: int

    def overlap(self, groups: range) -> range:
        """The key groups that are both in it and in `groups`."""
        return range(max(groups.start, self.key_group_start), min(groups.stop, self.key_group_end))


def link_files(source: str, target: str) -> None:
    """Fill a new directory with the files of another one: hard links where the file system can, else copies.

    Raises:
        CheckpointError: A file cannot be read or written.
    """
    try:
        os.makedirs(target, exist_ok=True)
        for name in os.listdir(source):
            link_or_copy(os.path.join(source, name), os.path.join(target, name))
    except OSError as error:
        raise CheckpointError(f"cannot take over the state files in {source}: {error}") from error


def copy_rows(
    store: KeyValueStore,
    registry: TableRegistry,
    sources: Iterable[RestoreSource],
    groups: range,
    factory: StoreFactory,
) -> None:
    """Copy the rows of some key groups out of other subtasks' state.

    Args:
        store: Where they go.
        registry: The tables of `store`; those of the sources are added.
        sources: The other subtasks' state.
        groups: The key groups to copy.
        factory: Opens the sources.

    Raises:
        CheckpointError: Two sources do not agree on a table's key.
        CorruptionError: A source's files are damaged.
    """
    counts: dict[int, Counter[int]] = {}
    copiers: dict[str, ChunkCopier] = {}
    for number, source in enumerate(sources):
        scratch = f"{source.directory}.reading-{groups.start}-{number}"
        link_files(source.directory, scratch)
        origin = factory.open(scratch)
        described = TableRegistry.from_json(source.tables)
        try:
            for table in described.tables.values():
                target = _merge(registry, table)
                copied = _copy_table(origin, table, store, target, source.overlap(groups))
                counts.setdefault(target.id, Counter()).update(copied)
            for name, rows in described.row_tables.items():
                stored = registry.register_rows(rows.spec)
                blobs = RowBlobs(store, stored.id, name)
                copier = ChunkCopier(blobs, rows.spec, groups, registry.max_parallelism)
                copiers.setdefault(name, copier).copy(RowBlobs(origin, rows.id, name))
        finally:
            origin.close()
            shutil.rmtree(scratch)
    for table_id, panes in counts.items():
        write_counts(store, table_id, panes)


def _merge(registry: TableRegistry, table: StoredTable) -> StoredTable:
    target = registry.register(table.name, table.key, table.routing)
    if not target.key.equals(table.key) or target.routing != table.routing:
        raise CheckpointError(f"state table '{table.name}' has different keys in the parts of one checkpoint")
    for layout in table.layouts:
        target.layout_like(layout.schema)
    return target


def _copy_table(
    origin: KeyValueStore, table: StoredTable, store: KeyValueStore, target: StoredTable, groups: range
) -> Counter[int]:
    """Rows keep their bytes, but for the numbers of table and layout."""
    versions = {
        layout.version.to_bytes(2, "little"): target.layout_like(layout.schema).version.to_bytes(2, "little")
        for layout in table.layouts
    }
    prefix = target.id.to_bytes(2, "big")
    counts: Counter[int] = Counter()
    for namespace in read_counts(origin, table.id):
        rows = origin.scan(*pane_range(table.id, namespace, groups))
        while part := list(islice(rows, _COPY_ROWS)):
            store.write(_renumbered(part, prefix, versions))
            counts[namespace] += len(part)
    return counts


def _renumbered(rows: Sequence[KeyValue], prefix: bytes, versions: dict[bytes, bytes]) -> list[KeyValue]:
    return [(prefix + key[2:], versions[value[:2]] + value[2:]) for key, value in rows]
