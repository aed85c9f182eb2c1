"""One Parquet data file while it is being written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as pat
from pyiceberg.io import FileIO

from lakeward.connectors.iceberg.options import ROW_GROUP_BYTES_MAX

_SAMPLE_ROWS = 32_768
_DICTIONARY_DISTINCT_SHARE_MAX = 0.5
_ROW_GROUP_BYTES_MIN = 64 << 10


@dataclass(frozen=True, slots=True)
class FileFormatSpec:
    """How data files are written.

    Args:
        schema: Arrow schema with Iceberg's field ids.
        nested_leaves: Parquet paths of leaf columns inside lists, maps and structs.
        compression: Parquet codec ("zstd", "snappy", "none", ...).
        compression_level: The codec's level; None for its default.
        target_size_bytes: Compressed size at which a file is full.
    """

    schema: pa.Schema
    nested_leaves: tuple[str, ...]
    compression: str
    compression_level: int | None
    target_size_bytes: int

    @property
    def row_group_bytes(self) -> int:
        """Arrow bytes that make a row group; small targets get small groups, so that files roll in time."""
        return max(_ROW_GROUP_BYTES_MIN, min(ROW_GROUP_BYTES_MAX, self.target_size_bytes))


class DictionaryChoice:
    """Remembers which columns repeat enough for a dictionary, for all files of a writer between two checkpoints."""

    def __init__(self) -> None:
        self._columns: list[str] | None = None

    def columns(self, rows: pa.Table) -> list[str]:
        """The columns; the first table that is asked for since `forget` decides."""
        if self._columns is None:
            self._columns = dictionary_columns(rows)
        return self._columns

    def forget(self) -> None:
        """Look again at the next table."""
        self._columns = None


class DataFileWriter:
    """Gathers batches into row groups and encodes them; nothing is on disk before the first row group.

    Args:
        io: The table's file access.
        path: The file's full location; must not exist.
        spec: How to write it.
        dictionary: Which columns to dictionary-encode.
    """

    def __init__(self, io: FileIO, path: str, spec: FileFormatSpec, dictionary: DictionaryChoice) -> None:
        self.path = path
        self.buffered_bytes = 0
        self._io = io
        self._spec = spec
        self._dictionary = dictionary
        self._buffer: list[pa.RecordBatch] = []
        self._out: Any = None
        self._parquet: pq.ParquetWriter | None = None
        self._encoded_bytes = 0
        self._nan_counts: dict[str, int] = {}

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows of the file schema, at most one of `pieces`; encode a row group when enough have gathered."""
        self._buffer.append(batch)
        self.buffered_bytes += batch.nbytes
        if self.buffered_bytes >= self._spec.row_group_bytes:
            self.flush()

    @property
    def is_full(self) -> bool:
        """Whether the compressed size has reached the target, with what is buffered by its share so far."""
        if self._out is None:
            return False
        written = self._out.tell()
        return bool(written * (1 + self.buffered_bytes / self._encoded_bytes) >= self._spec.target_size_bytes)

    def flush(self) -> None:
        """Encode what is buffered as a row group."""
        if not self._buffer:
            return
        table = pa.Table.from_batches(self._buffer, self._spec.schema)
        writer = self._parquet or self._open(table)
        writer.write_table(table, row_group_size=table.num_rows)
        self._count_nans(table)
        self._encoded_bytes += self.buffered_bytes
        self._buffer.clear()
        self.buffered_bytes = 0

    def finish(self) -> tuple[pq.FileMetaData, int]:
        """Complete the file.

        Returns:
            Its footer, and its size in bytes.
        """
        self.flush()
        assert self._parquet is not None, "a data file is opened for its first row"
        self._parquet.close()
        size_bytes = self._out.tell()
        self._out.close()
        return self._parquet.writer.metadata, size_bytes

    @property
    def nan_counts(self) -> dict[str, int]:
        """NaNs by name of top-level float column."""
        return self._nan_counts

    def abort(self) -> None:
        """Forget the rows and delete the file."""
        self._buffer.clear()
        if self._out is None:
            return
        try:
            if self._parquet is not None and self._parquet.is_open:
                self._parquet.close()
            if not self._out.closed:
                self._out.close()
        finally:  # what cannot be completed, because the disk is full, must not go on filling it
            self._io.delete(self.path)

    def _open(self, first: pa.Table) -> pq.ParquetWriter:
        self._out = self._io.new_output(self.path).create(overwrite=False)
        self._parquet = pq.ParquetWriter(
            self._out,
            self._spec.schema,
            compression=self._spec.compression,
            compression_level=self._spec.compression_level,
            use_dictionary=[*self._dictionary.columns(first), *self._spec.nested_leaves],
            store_decimal_as_integer=True,
        )
        return self._parquet

    def _count_nans(self, table: pa.Table) -> None:
        for field in table.schema:
            if pat.is_floating(field.type):
                nans = pc.sum(pc.is_nan(table[field.name])).as_py() or 0
                self._nan_counts[field.name] = self._nan_counts.get(field.name, 0) + nans


def dictionary_columns(table: pa.Table) -> list[str]:
    """Flat columns whose values repeat enough for dictionary encoding to pay, judged by a sample.

    Without the sample every column is dictionary-encoded until its dictionary is full, which costs unique strings
    most of their encoding time and gains nothing.
    """
    sample = table.slice(0, _SAMPLE_ROWS)
    return [
        field.name
        for field in table.schema
        if not pat.is_nested(field.type)
        and not pat.is_boolean(field.type)
        and _distinct(sample[field.name]) <= _DICTIONARY_DISTINCT_SHARE_MAX * sample.num_rows
    ]


def _distinct(column: pa.ChunkedArray) -> int:
    if isinstance(column.type, pa.BaseExtensionType):
        return len(column)
    return int(pc.count_distinct(column).as_py())


def pieces(batch: pa.RecordBatch, bytes_max: int) -> Iterator[pa.RecordBatch]:
    """The batch, cut so that one piece is at most about `bytes_max`."""
    size_bytes = batch.nbytes
    rows = max(1, batch.num_rows * bytes_max // size_bytes) if size_bytes > bytes_max else batch.num_rows
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)
