"""The sink's writer: one a subtask, many open data files at a time, invisible until committed."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.conversions import to_bytes
from pyiceberg.table import Table
from pyiceberg.types import PrimitiveType

from lakeward.connectors.iceberg.committables import WrittenFile
from lakeward.connectors.iceberg.data_file import DataFileWriter, DictionaryChoice, FileFormatSpec, pieces
from lakeward.connectors.iceberg.lake_table import LakeTable
from lakeward.connectors.iceberg.partitions import Partitioner, PartitionKey
from lakeward.connectors.iceberg.pyiceberg_internals import file_statistics, leaf_columns, partition_path
from lakeward.connectors.iceberg.schemas import to_arrow
from lakeward.engine.api.failed_rows import failed_row, first_failing_row
from lakeward.engine.api.sink import SinkWriter, WriterContext
from lakeward.engine.core.disk import full_hint
from lakeward.engine.core.errors import LakewardError, RecordError, SinkError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject

FILE_PREFIX = "lw-"
"""All data files of the sink begin with it. One that no snapshot refers to belongs to an attempt that died, and may be
deleted once no checkpoint holds it any more."""

_JOB_DIGITS = 8


@dataclass(frozen=True, slots=True)
class WriterLimits:
    """How data files are written, and what a writer may use.

    Args:
        compression: Parquet codec.
        compression_level: Its level; None for the codec's default.
        target_size_bytes: Compressed size at which a file is closed.
        open_files_max: Open files (partitions) at a time.
        buffer_bytes_max: Arrow bytes buffered over all open files.
    """

    compression: str
    compression_level: int | None
    target_size_bytes: int
    open_files_max: int
    buffer_bytes_max: int


class IcebergWriter(SinkWriter):
    """Writes Parquet files with Iceberg's field ids, one open file a partition.

    The schema and the partition spec are those of the table when the writer was opened; each committable names them.

    Args:
        lake: Opened for this writer, closed with it.
        table: Just loaded.
        limits: Sizes and bounds.
        context: The subtask's.
    """

    def __init__(self, lake: LakeTable, table: Table, limits: WriterLimits, context: WriterContext) -> None:
        self._lake = lake
        self._table = table
        self._limits = limits
        self._names = _FileNames(context)
        self._schema = table.schema()
        self._spec = table.spec()
        self._arrow = to_arrow(self._schema)
        self._format = FileFormatSpec(
            schema=self._arrow,
            nested_leaves=tuple(path for path in leaf_columns(self._schema) if path not in self._arrow.names),
            compression=limits.compression,
            compression_level=limits.compression_level,
            target_size_bytes=limits.target_size_bytes,
        )
        self._dictionary = DictionaryChoice()
        self._partitioner = Partitioner(self._spec, self._schema)
        self._partition_types = [f.field_type for f in self._spec.partition_type(self._schema).fields]
        self._field_ids = {field.name: field.field_id for field in self._schema.fields}
        self._open: OrderedDict[PartitionKey, DataFileWriter] = OrderedDict()  # least recently used first
        self._finished: list[WrittenFile] = []
        self._buffered_bytes = 0
        self._files_closed = context.counters.counter("closed_files")
        self._bytes_written = context.counters.counter("written_bytes")

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows; they reach disk when a row group is full, at the latest with the checkpoint.

        Raises:
            RecordError: A null in a required column, or a value that the column's type cannot hold.
            SinkError: A file could not be written.
        """
        if batch.num_rows == 0:
            return
        rows = _conform(batch, self._arrow, self._lake.spec.name)
        try:
            for key, part in self._partitioner.split(rows):
                for piece in pieces(part, self._format.row_group_bytes):
                    self._write_piece(key, piece)
            self._relieve_memory()
        except OSError as error:
            raise self._failed(error) from error

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        """Close all files; the committables are what `IcebergCommitter` publishes.

        Raises:
            SinkError: A file could not be completed.
        """
        try:
            while self._open:
                self._finish(*self._open.popitem(last=False))
        except OSError as error:
            raise self._failed(error) from error
        self._dictionary.forget()
        done, self._finished = self._finished, []
        return [file.to_json() for file in done]

    def close(self) -> None:
        """Delete files that no checkpoint knows."""
        try:
            with ExitStack() as files:  # goes on behind those that cannot be closed
                for open_file in self._open.values():
                    files.callback(open_file.abort)
                for finished in self._finished:
                    files.callback(self._table.io.delete, finished.path)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            self._open.clear()
            self._finished.clear()
            self._lake.close()

    def _write_piece(self, key: PartitionKey, piece: pa.RecordBatch) -> None:
        file = self._open.get(key)
        if file is None:
            file = self._open_file(key)
        self._open.move_to_end(key)
        before = file.buffered_bytes
        file.write(piece)
        self._buffered_bytes += file.buffered_bytes - before
        if file.is_full:
            del self._open[key]
            self._finish(key, file)

    def _open_file(self, key: PartitionKey) -> DataFileWriter:
        while len(self._open) >= self._limits.open_files_max:
            self._finish(*self._open.popitem(last=False))
        path = partition_path(self._table, self._names.next(), self._spec, self._schema, key)
        file = self._open[key] = DataFileWriter(self._table.io, path, self._format, self._dictionary)
        return file

    def _relieve_memory(self) -> None:
        while self._buffered_bytes > self._limits.buffer_bytes_max:
            largest = max(self._open.values(), key=lambda file: file.buffered_bytes)
            self._buffered_bytes -= largest.buffered_bytes
            largest.flush()

    def _finish(self, key: PartitionKey, file: DataFileWriter) -> None:
        self._buffered_bytes -= file.buffered_bytes
        try:
            footer, size_bytes = file.finish()
        except OSError:
            with suppress(OSError):  # the first error says it
                file.abort()
            raise
        statistics = cast("Mapping[str, Any]", file_statistics(footer, self._schema, self._table.metadata.properties))
        self._finished.append(
            WrittenFile(
                path=file.path,
                spec_id=self._spec.spec_id,
                schema_id=self._schema.schema_id,
                partition=self._encode_key(key),
                record_count=statistics["record_count"],
                size_bytes=size_bytes,
                column_sizes=statistics["column_sizes"],
                value_counts=statistics["value_counts"],
                null_counts=statistics["null_value_counts"],
                nan_counts={self._field_ids[name]: count for name, count in file.nan_counts.items()},
                lower_bounds=statistics["lower_bounds"],
                upper_bounds=statistics["upper_bounds"],
                split_offsets=tuple(statistics["split_offsets"]),
            )
        )
        self._files_closed.inc()
        self._bytes_written.inc(size_bytes)

    def _encode_key(self, key: PartitionKey) -> tuple[bytes | None, ...]:
        return tuple(
            None if value is None else to_bytes(kind, cast("Any", value))
            for kind, value in zip(self._partition_types, key, strict=True)
            if isinstance(kind, PrimitiveType)
        )

    def _failed(self, error: OSError) -> LakewardError:
        return SinkError(
            f"a data file of the Iceberg table {self._lake.spec.name} could not be written below"
            f" {self._table.location()}: {error}",
            hint=full_hint(error, "check that the storage is reachable and may be written to; the job tries again"),
        )


class _FileNames:
    """Names that no other writer ever uses: job and sink (as a digest), attempt, subtask, a running number."""

    def __init__(self, context: WriterContext) -> None:
        owner = hashlib.sha256(f"{context.job_id}/{context.uid}".encode()).hexdigest()[:_JOB_DIGITS]
        attempt = re.sub(r"[^A-Za-z0-9_-]", "_", context.attempt)
        self._stem = f"{FILE_PREFIX}{owner}-{attempt}-{context.subtask:05d}"
        self._count = 0

    def next(self) -> str:
        self._count += 1
        return f"{self._stem}-{self._count:06d}.parquet"


def _conform(batch: pa.RecordBatch, schema: pa.Schema, table: str) -> pa.RecordBatch:
    """The batch in the table's column order and types; missing columns (allowed beforehand) become null."""
    columns = []
    for field in schema:
        index = batch.schema.get_field_index(field.name)
        column = pa.nulls(batch.num_rows, field.type) if index < 0 else _cast(batch, index, field, table)
        if not field.nullable and column.null_count:
            row = pc.index(pc.is_null(column), True).as_py()
            raise RecordError(
                f"column '{field.name}' of the Iceberg table {table} is required, but {column.null_count} of"
                f" {batch.num_rows} rows of a batch are null, the first is row {row}",
                hint=f"filter or fill nulls before the sink, or make '{field.name}' optional in the table",
                rows=[failed_row(batch, row)],
            )
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(batch: pa.RecordBatch, index: int, field: pa.Field, table: str) -> pa.Array:
    column = batch.column(index)
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RecordError(
            f"column '{field.name}' of the Iceberg table {table} is {field.type}; a value of {column.type} does not"
            f" fit: {error}",
            hint="cast the column before the sink",
            rows=[failed_row(batch, first_failing_row(column, lambda part: part.cast(field.type)))],
        ) from error
