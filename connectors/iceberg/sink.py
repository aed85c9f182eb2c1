"""The Iceberg sink as users see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import NoneType
from typing import TYPE_CHECKING

import pyarrow as pa

from lakeward.connectors.iceberg.options import (
    BUFFER_BYTES_MAX,
    OPEN_FILES_MAX,
    TARGET_FILE_SIZE_BYTES,
    Create,
    OnExisting,
    OnRewind,
)
from lakeward.connectors.iceberg.transforms import PartitionTransform, as_transforms
from lakeward.engine.api.secrets import Secret
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect, expect_choice, expect_whole
from lakeward.engine.core.sizes import Size, parse_size_bytes

if TYPE_CHECKING:
    from lakeward.connectors.iceberg.lake_table import LakeTable

_CHOICES = {
    "create": ("if_not_exists", "never"),
    "on_rewind": ("refuse", "rollback", "append"),
    "on_existing": ("refuse", "append"),
    "compression": ("zstd", "snappy", "gzip", "lz4", "brotli", "none"),
}


@dataclass(frozen=True, eq=False)
class IcebergSink(Sink):
    """Appends rows to an Apache Iceberg table, one snapshot a checkpoint, exactly once.

    >>> IcebergSink("shop.revenue", partition_by=[PartitionTransform("window_start", "day")])
    IcebergSink(shop.revenue, partition_by=[day(window_start)])

    Writers make Parquet files that no reader sees; when a checkpoint is complete, one commit makes its files part of
    the table, together with a marker (sink id, checkpoint). The marker is checked again inside the commit's
    compare-and-swap, so a crash or a lost answer at any point, a restart, a second committer that is still alive, or
    other writers of the table neither lose nor double a row.

    Args:
        table: "namespace.table"; made on first use unless `create="never"`.
        catalog: None: an embedded SQLite catalog and warehouse in `./lakeward-warehouse` (or `$LAKEWARD_WAREHOUSE`).
            A name: that catalog of pyiceberg's own configuration (`.pyiceberg.yaml`, `PYICEBERG_CATALOG__...`). A
            mapping: pyiceberg's catalog properties, e.g. `{"type": "rest", "uri": ..., "token": "${env:TOKEN}"}`, and
            "name" for the catalog's name if it is not "default", so that `load_catalog(**mapping)` opens the same;
            secrets go by reference, `${env:NAME}` or `${file:/path}`.
        partition_by: Hidden partitioning: column names, or `day`, `hour`, `month`, `year`, `bucket`, `truncate` of
            columns. Empty: unpartitioned, or as the existing table is.
        create: Whether a missing table is created ("if_not_exists") or an error ("never").
        sink_id: Who the rows belong to; survives job ids. By default "<job name>/<uid>". A table takes rows of any
            number of sinks, each with its own sink id.
        on_rewind: When the job was restored from an older checkpoint than the table holds: "refuse", "rollback" the
            table to that checkpoint (refused if other writers' rows would go, too), or "append" (rows come twice).
            "append" also goes on over a table that was rolled back further than the checkpoint.
        on_existing: When the job starts without a checkpoint over rows of this sink id: "refuse" or "append".
        target_file_size_bytes: Compressed size at which a data file is closed before the checkpoint closes it: "128MB",
            or bytes.
        compression: Parquet codec: "zstd", "snappy", "gzip", "lz4", "brotli" or "none".
        compression_level: The codec's level; None for its default.
        table_properties: Properties of a new table, over Lakeward's defaults.
        nulls_for_missing: Whether optional table columns that the rows lack are filled with nulls, not refused.
        snapshots_retained: Newest snapshots to keep; older ones of Lakeward sinks are expired along with commits. None:
            as the table's property "lakeward.snapshots-retained" says (30 in tables that the sink creates, else never);
            0: never.
        open_files_max: Data files (partitions) that one writer keeps open.
        buffer_bytes_max: Arrow bytes that one writer buffers over all open files, "256MB" or a number.

    Raises:
        ConfigError: An option has an unknown value.
    """

    table: str
    _: KW_ONLY
    catalog: str | Mapping[str, str | Secret] | None = None
    partition_by: Sequence[str | PartitionTransform] = ()
    create: Create = "if_not_exists"
    sink_id: str | None = None
    on_rewind: OnRewind = "refuse"
    on_existing: OnExisting = "refuse"
    target_file_size_bytes: Size = TARGET_FILE_SIZE_BYTES
    compression: str = "zstd"
    compression_level: int | None = None
    table_properties: Mapping[str, str] = field(default_factory=dict)
    nulls_for_missing: bool = False
    snapshots_retained: int | None = None
    open_files_max: int = OPEN_FILES_MAX
    buffer_bytes_max: Size = BUFFER_BYTES_MAX

    def __post_init__(self) -> None:
        self._check_arguments()
        namespace, _, name = self.table.rpartition(".")
        if not namespace or not name:
            raise ConfigError(
                f"'{self.table}' is not the name of an Iceberg table",
                hint="write 'namespace.table', e.g. 'shop.revenue'",
            )
        object.__setattr__(self, "partition_by", as_transforms(self.partition_by))

    def _check_arguments(self) -> None:
        expect(self.table, str, "IcebergSink: table", "write 'namespace.table', e.g. 'shop.revenue'")
        name = f"IcebergSink('{self.table}')"
        hint = "give a catalog's name, or its properties: {'type': 'rest', 'uri': ...}"
        expect(self.catalog, (str, Mapping, NoneType), f"{name}: catalog", hint, secret=True)
        expect(self.partition_by, (list, tuple, str), f"{name}: partition_by", 'give a list: [day("ts"), "shop"]')
        expect(self.sink_id, (str, NoneType), f"{name}: sink_id", "give a name")
        expect(self.table_properties, Mapping, f"{name}: table_properties", "give a dict of texts")
        expect(self.compression_level, (int, NoneType), f"{name}: compression_level", "give a whole number")
        expect(self.nulls_for_missing, bool, f"{name}: nulls_for_missing", "give True or False")
        for option, choices in _CHOICES.items():
            expect_choice(getattr(self, option), choices, f"{name}: {option}")
        for option in ("target_file_size_bytes", "buffer_bytes_max"):
            parse_size_bytes(getattr(self, option), f"{name}: {option}")
        expect_whole(self.open_files_max, f"{name}: open_files_max", least=1)
        if self.snapshots_retained is not None:
            expect_whole(self.snapshots_retained, f"{name}: snapshots_retained", least=0)

    def __repr__(self) -> str:
        """Without the catalog, which may hold secrets."""
        parts = ", ".join(map(str, self.partition_by))
        return f"IcebergSink({self.table}, partition_by=[{parts}])"

    @property
    def description(self) -> str:
        """The table: "iceberg shop.revenue"."""
        return f"iceberg {self.table}"

    @property
    def identity(self) -> str | None:
        """The sink id on its table; None without an explicit one."""
        if self.sink_id is None:
            return None
        from lakeward.connectors.iceberg.catalogs import catalog_fingerprint

        return f"iceberg {catalog_fingerprint(self.catalog)} {self.table} {self.sink_id}"

    def check_schema(self, schema: pa.Schema) -> None:
        """Compare with the existing table, or see whether one can be made; writes nothing.

        Raises:
            SchemaError: The rows do not fit; every column is listed with both types.
            ConfigError: The table is missing and must not be created.
            SinkError: The catalog cannot be reached.
        """
        from lakeward.connectors.iceberg.lake_table import check_partitioning, partition_spec
        from lakeward.connectors.iceberg.schemas import check_fits, to_iceberg

        partition_by = as_transforms(self.partition_by)
        lake = self._lake()
        try:
            table = lake.find()
            if table is None:
                lake.check_may_create()
                partition_spec(partition_by, to_iceberg(schema), self.table)
                return
            check_fits(schema, table.schema(), self.table, nulls_for_missing=self.nulls_for_missing)
            check_partitioning(table, partition_by)
        finally:
            lake.close()

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """Make the writer of one subtask; makes the table if it is missing."""
        from lakeward.connectors.iceberg.writer import IcebergWriter, WriterLimits

        lake = self._lake()
        limits = WriterLimits(
            compression=self.compression,
            compression_level=self.compression_level,
            target_size_bytes=parse_size_bytes(self.target_file_size_bytes),
            open_files_max=self.open_files_max,
            buffer_bytes_max=parse_size_bytes(self.buffer_bytes_max),
        )
        return IcebergWriter(lake, lake.ensure(context.schema), limits, context)

    def open_committer(self, context: CommitterContext) -> Committer:
        """Make the committer; it contacts the catalog first in `recover`."""
        from lakeward.connectors.iceberg.committer import IcebergCommitter, SavedState
        from lakeward.connectors.iceberg.recovery import Policy

        saved = SavedState.read(context.restored_state)
        inherited = saved.sink_id if saved is not None else f"{context.job_name}/{context.uid}"
        policy = Policy(self.table, self.sink_id or inherited, self.on_rewind, self.on_existing)
        return IcebergCommitter(self._lake(), policy, context, self.snapshots_retained, SystemClock())

    def _lake(self) -> LakeTable:
        from lakeward.connectors.iceberg.lake_table import LakeTable, TableSpec

        return LakeTable(
            TableSpec(
                name=self.table,
                catalog=self.catalog,
                partition_by=as_transforms(self.partition_by),
                create=self.create == "if_not_exists",
                properties=dict(self.table_properties),
            )
        )
