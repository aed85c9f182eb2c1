"""Everything that reaches below pyiceberg's public interface; written for, and only allowed with, pyiceberg 0.12.

Three things are missing from the public interface: publishing data files that another process wrote, under whatever
partition spec and schema they were written; one single commit attempt whose outcome the caller judges (the library's
own retry cannot re-check our marker between attempts, and it deletes manifests after a conflict without looking whether
the conflict was with this very commit, whose answer was lost); and loading a table without parsing the metadata that
this process has just written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.conversions import from_bytes
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import (
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)
from pyiceberg.manifest import (
    UNASSIGNED_SEQ,
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    write_manifest,
)
from pyiceberg.partitioning import PartitionKey, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableResponse, Table, TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata, TableMetadataV2
from pyiceberg.table.refs import MAIN_BRANCH, SnapshotRefType
from pyiceberg.table.snapshots import Operation, SnapshotSummaryCollector, Summary, update_snapshot_summaries
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotRefUpdate,
    RemoveSnapshotsUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)
from pyiceberg.table.update.snapshot import _ManifestMergeManager, _MergeAppendFiles
from pyiceberg.typedef import EMPTY_DICT, Record
from pyiceberg.types import PrimitiveType
from pyiceberg.utils.properties import property_as_bool

from lakeward.connectors.iceberg.committables import WrittenFile
from lakeward.connectors.iceberg.manifest_lists import ManifestLists
from lakeward.connectors.iceberg.manifest_merge import choose_merge, copy_entries, live_files, merge_summaries

SUPPORTED_VERSION = "0.12."
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StagedAppend:
    """An append whose manifests are written and which the catalog has not seen yet.

    Args:
        snapshot_id: The id its snapshot will have.
        sequence_number: Its place in the table's history.
        updates: What the catalog is to apply.
        requirements: What must hold for it; one is that the main branch has not moved.
        manifest_list: Its list of manifests.
        manifests: What a reader will find in that list; None where that takes reading it.
        producer: Knows the manifests it wrote.
    """

    snapshot_id: int
    sequence_number: int
    updates: tuple[TableUpdate, ...]
    requirements: tuple[TableRequirement, ...]
    manifest_list: str
    manifests: tuple[ManifestFile, ...] | None
    producer: _SpecAwareAppend

    def discard(self) -> None:
        """Delete its manifests. Only when it is certain that the commit did not and will not happen."""
        self.producer._clean_all_uncommitted()


class _FrozenTransaction(Transaction):
    """A transaction that stages nothing; the stock one copies the whole metadata at every look at it."""

    @property
    def table_metadata(self) -> TableMetadata:
        return self._table.metadata


class _SpecAwareAppend(_MergeAppendFiles):
    """A merge append of files that may have been written under older partition specs or schemas.

    The stock one writes all of them into one manifest of the current spec, which fails, or worse, when the spec has
    changed since. Here each (spec, schema) pair gets a manifest of its own. Manifests of other specs than the current
    one are not merged any further: merging would need source columns that may be gone. And only manifests that are
    committed already are merged, in tiers (`choose_merge`); the stock one rewrites the largest with every merge.
    """

    def __init__(
        self, table: Table, files: Sequence[WrittenFile], snapshot_properties: dict[str, str], lists: ManifestLists
    ) -> None:
        super().__init__(Operation.APPEND, _FrozenTransaction(table), table.io, snapshot_properties=snapshot_properties)
        # pyiceberg leaves merging off unless asked; Iceberg's own default is on, and without it commits get ever slower
        self._merge_enabled = property_as_bool(table.metadata.properties, TableProperties.MANIFEST_MERGE_ENABLED, True)
        self._lists = lists
        self.used: list[ManifestFile] = []  # the new snapshot's manifests
        self._layouts: dict[tuple[int, int], list[DataFile]] = {}
        for file in files:
            self._layouts.setdefault((file.spec_id, file.schema_id), []).append(_data_file(table.metadata, file))

    def _manifests(self) -> list[ManifestFile]:
        added = [self._write_added(spec, schema, files) for (spec, schema), files in self._layouts.items()]
        self.used = added + self._process_manifests(self._existing_manifests())
        return self.used

    def _existing_manifests(self) -> list[ManifestFile]:
        head = self._transaction.table_metadata.current_snapshot()
        stored = self._lists.read(head, self._io) if head is not None else ()
        return [manifest for manifest in stored if manifest.has_added_files() or manifest.has_existing_files()]

    def _write_added(self, spec_id: int, schema_id: int, files: Iterable[DataFile]) -> ManifestFile:
        metadata = self._transaction.table_metadata
        with write_manifest(
            format_version=metadata.format_version,
            spec=metadata.specs()[spec_id],
            schema=_schema(metadata, schema_id),
            output_file=self.new_manifest_output(),
            snapshot_id=self._snapshot_id,
            avro_compression=self._compression,
        ) as writer:
            for file in files:
                writer.add(
                    ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED,
                        snapshot_id=self._snapshot_id,
                        sequence_number=None,
                        file_sequence_number=None,
                        data_file=file,
                    )
                )
        return writer.to_manifest_file()

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        current_spec = self._transaction.table_metadata.default_spec_id
        current = [m for m in manifests if m.partition_spec_id == current_spec]
        chosen = choose_merge(current, self._min_count_to_merge, self._target_size_bytes) if self._merge_enabled else []
        if not chosen:
            return manifests
        merged, gone = self._merge(chosen), set(chosen)
        place = manifests.index(chosen[0])  # where its age belongs: they are listed newest first
        return (
            [m for m in manifests[:place] if m not in gone] + [merged] + [m for m in manifests[place:] if m not in gone]
        )

    def _merge(self, manifests: list[ManifestFile]) -> ManifestFile:
        metadata = self._transaction.table_metadata
        spec, held = metadata.spec(), live_files(manifests)
        summaries = merge_summaries(manifests, spec.partition_type(metadata.schema()))
        copied = copy_entries(self._io, manifests) if summaries is not None and held is not None else None
        if copied is None or held is None or copied.files != held[0]:  # not written by us: decode all entries
            manager = _ManifestMergeManager(self._target_size_bytes, self._min_count_to_merge, True, self)
            return manager._create_manifest(spec.spec_id, manifests)
        output = self.new_manifest_output()
        with output.create(overwrite=True) as stream:
            stream.write(copied.content)
        return ManifestFile.from_args(
            manifest_path=output.location,
            manifest_length=len(copied.content),
            partition_spec_id=spec.spec_id,
            content=ManifestContent.DATA,
            sequence_number=UNASSIGNED_SEQ,
            min_sequence_number=copied.min_sequence_number,
            added_snapshot_id=self._snapshot_id,
            added_files_count=0,
            existing_files_count=copied.files,
            deleted_files_count=0,
            added_rows_count=0,
            existing_rows_count=held[1],
            deleted_rows_count=0,
            partitions=summaries,
            key_metadata=None,
        )

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        metadata = self._transaction.table_metadata
        collector = SnapshotSummaryCollector()
        for (spec_id, schema_id), files in self._layouts.items():
            for file in files:
                collector.add_file(file, _schema(metadata, schema_id), metadata.specs()[spec_id])
        head = metadata.current_snapshot()
        return update_snapshot_summaries(
            Summary(operation=Operation.APPEND, **collector.build(), **snapshot_properties),
            head.summary if head is not None else None,
        )


def stage_append(
    table: Table,
    files: Sequence[WrittenFile],
    snapshot_properties: dict[str, str],
    lists: ManifestLists | None = None,
) -> StagedAppend:
    """Write the manifests of a new snapshot on top of the table as loaded.

    Args:
        table: Just loaded; the commit is refused by the catalog if its main branch has moved since.
        files: What to add; may be empty.
        snapshot_properties: For the snapshot's summary.
        lists: Manifest lists that are known from before.

    Returns:
        What `commit_once` needs.
    """
    producer = _SpecAwareAppend(table, files, snapshot_properties, lists or ManifestLists())
    updates, requirements = producer._commit()
    sequence_number = table.metadata.next_sequence_number()
    is_known = table.metadata.format_version == 2  # of version 1, readers see other sequence numbers than we do
    return StagedAppend(
        snapshot_id=producer.snapshot_id,
        sequence_number=sequence_number,
        updates=updates,
        requirements=requirements,
        manifest_list=producer._written_manifest_lists[-1],
        manifests=tuple(_as_listed(m, sequence_number) for m in producer.used) if is_known else None,
        producer=producer,
    )


def _as_listed(manifest: ManifestFile, sequence_number: int) -> ManifestFile:
    """A manifest as the list has it: a new one gets the snapshot's sequence number when the list is written."""
    listed = copy(manifest)
    if listed.sequence_number == UNASSIGNED_SEQ:
        listed.sequence_number = sequence_number
    if listed.min_sequence_number == UNASSIGNED_SEQ:
        listed.min_sequence_number = sequence_number
    return listed


def commit_once(
    table: Table, updates: tuple[TableUpdate, ...], requirements: tuple[TableRequirement, ...]
) -> TableMetadata:
    """One attempt at the catalog, without any retry; returns the new metadata.

    Raises:
        CommitFailedException: A requirement did not hold. Over a network that may still mean that this very commit
            was applied and its request repeated on the way: look before concluding anything.
    """
    table._do_commit(updates=updates, requirements=(*requirements, AssertTableUUID(uuid=table.metadata.table_uuid)))
    return table.metadata


def remember_metadata(catalog: Catalog) -> Catalog:
    """The same catalog, but one that does not parse a metadata file again that it has just parsed or written.

    A metadata file never changes, so the catalog's word that the table is still at the same file makes the metadata in
    memory as fresh as a new copy. Only for SQL catalogs: others parse the answer of a server.
    """
    return _RememberingSqlCatalog.adopt(catalog) if type(catalog) is SqlCatalog else catalog


class _RememberingSqlCatalog(SqlCatalog):
    """Keeps the metadata of the table that was loaded or committed to last."""

    _newest: tuple[str, TableMetadata] | None = None

    @classmethod
    def adopt(cls, catalog: SqlCatalog) -> SqlCatalog:
        """Take over an open catalog's connections."""
        made = cls.__new__(cls)
        made.__dict__.update(catalog.__dict__)
        return made

    def commit_table(
        self, table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]
    ) -> CommitTableResponse:
        response = super().commit_table(table, requirements, updates)
        self._newest = (response.metadata_location, _shared(response.metadata))
        return response

    def _convert_orm_to_iceberg(self, orm_table: IcebergTables) -> Table:
        location = orm_table.metadata_location
        if self._newest is None or self._newest[0] != location:
            table = super()._convert_orm_to_iceberg(orm_table)
            table.metadata = _shared(table.metadata)
            self._newest = (table.metadata_location, table.metadata)
            return table
        metadata = self._newest[1]
        return Table(
            identifier=(*Catalog.identifier_to_tuple(orm_table.table_namespace), orm_table.table_name),
            metadata=metadata,
            metadata_location=location,
            io=self._load_file_io(metadata.properties, location),
            catalog=self,
        )


class _SharedMetadata(TableMetadataV2):
    """Metadata whose next version shares with it what did not change.

    The stock one is copied in depth, every snapshot with its summary, for every commit: the slowest part of a commit to
    a table with many snapshots, and so many new objects that Python's garbage collector goes over the whole process.
    Updates replace what they change, so there is nothing to protect by a copy.
    """

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> _SharedMetadata:
        return super().model_copy(update=update)


def _shared(metadata: TableMetadata) -> TableMetadata:
    if type(metadata) is not TableMetadataV2:
        return metadata
    return _SharedMetadata.model_construct(set(metadata.model_fields_set), **metadata.__dict__)


def move_main(snapshot_id: int | None) -> TableUpdate:
    """Point the main branch at a snapshot; None empties the table."""
    if snapshot_id is None:
        return RemoveSnapshotRefUpdate.model_validate({"ref-name": MAIN_BRANCH})
    return SetSnapshotRefUpdate.model_validate(
        {"ref-name": MAIN_BRANCH, "type": SnapshotRefType.BRANCH, "snapshot-id": snapshot_id}
    )


def main_is_at(snapshot_id: int | None) -> TableRequirement:
    """The main branch has not moved from a snapshot; None: it has none yet."""
    return AssertRefSnapshotId.model_validate({"ref": MAIN_BRANCH, "snapshot-id": snapshot_id})


def remove_snapshots(snapshot_ids: Sequence[int]) -> TableUpdate:
    """Expire snapshots."""
    return RemoveSnapshotsUpdate.model_validate({"snapshot-ids": list(snapshot_ids)})


def file_statistics(metadata: pq.FileMetaData, schema: Schema, properties: dict[str, str]) -> dict[str, object]:
    """Iceberg's column metrics from a Parquet footer, as `DataFile` has them."""
    return data_file_statistics_from_parquet_metadata(
        parquet_metadata=metadata,
        stats_columns=compute_statistics_plan(schema, properties),
        parquet_column_mapping=leaf_columns(schema),
    ).to_serialized_dict()


def leaf_columns(schema: Schema) -> dict[str, int]:
    """Parquet's path of every leaf column, and its field id."""
    return parquet_path_to_id_mapping(schema)


def partition_path(table: Table, file_name: str, spec: PartitionSpec, schema: Schema, key: tuple[object, ...]) -> str:
    """Where a data file of a partition goes, as the table's own location provider says."""
    return table.location_provider().new_data_location(
        file_name, _KnownPartition(spec, schema, Record(*key)) if spec.fields else None
    )


def delete_files(io: FileIO, paths: Iterable[str]) -> None:
    """Delete garbage; a file that cannot be deleted is logged and left, since nothing refers to it."""
    for path in paths:
        try:
            io.delete(path)
        except Exception:
            _log.warning("could not delete the unreferenced file %s", path, exc_info=True)


class _KnownPartition(PartitionKey):
    """A partition key whose values are already in Iceberg's internal form."""

    def __init__(self, spec: PartitionSpec, schema: Schema, record: Record) -> None:
        super().__init__(field_values=[], partition_spec=spec, schema=schema)
        self.__dict__["partition"] = record


def _data_file(metadata: TableMetadata, file: WrittenFile) -> DataFile:
    types = metadata.specs()[file.spec_id].partition_type(_schema(metadata, file.schema_id)).fields
    values = [
        None if raw is None else from_bytes(field.field_type, raw)
        for field, raw in zip(types, file.partition, strict=True)
        if isinstance(field.field_type, PrimitiveType)
    ]
    return DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=file.path,
        file_format=FileFormat.PARQUET,
        partition=Record(*values),
        record_count=file.record_count,
        file_size_in_bytes=file.size_bytes,
        column_sizes=dict(file.column_sizes),
        value_counts=dict(file.value_counts),
        null_value_counts=dict(file.null_counts),
        nan_value_counts=dict(file.nan_counts),
        lower_bounds=dict(file.lower_bounds),
        upper_bounds=dict(file.upper_bounds),
        split_offsets=list(file.split_offsets),
        spec_id=file.spec_id,
        sort_order_id=None,
        equality_ids=None,
        key_metadata=None,
    )


def _schema(metadata: TableMetadata, schema_id: int) -> Schema:
    schema = metadata.schema_by_id(schema_id)
    if schema is None:
        raise KeyError(f"schema {schema_id}")
    return schema
