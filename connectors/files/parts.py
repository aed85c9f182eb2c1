"""One output file being written, by format."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from lakeward.connectors.files.options import FormatName
from lakeward.connectors.formats.json_encoder import JsonEncoder

_ROW_GROUP_BYTES = 64 << 20  # of Arrow memory: some tens of megabytes of Parquet, or less


class Part(ABC):
    """A file that takes rows and becomes whole when closed."""

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """About how long the file is by now."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""

    @abstractmethod
    def close(self) -> None:
        """Write what is buffered and close the file."""


def open_part(format: FormatName, stream: pa.NativeFile, schema: pa.Schema, compression: str | None) -> Part:
    """A part of the format, over an open stream that it closes."""
    if format == "parquet":
        return _ParquetPart(stream, schema, compression)
    if format == "csv":
        return _CsvPart(stream, schema, compression)
    return _JsonLinesPart(stream, compression)


class _ParquetPart(Part):
    """Gathers batches to row groups of a good size: readers skip and fetch by row group."""

    def __init__(self, stream: pa.NativeFile, schema: pa.Schema, compression: str | None) -> None:
        self._stream = stream
        self._writer = pq.ParquetWriter(stream, schema, compression=compression or "none")
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = 0

    @property
    def size_bytes(self) -> int:
        return int(self._stream.tell()) + self._waiting_bytes // 4  # Parquet is about that much denser than Arrow

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._waiting.append(batch)
            self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._stream.close()

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._waiting)
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting, self._waiting_bytes = [], 0


class _TextPart(Part):
    def __init__(self, stream: pa.NativeFile, compression: str | None) -> None:
        self._raw = stream
        self._out = pa.CompressedOutputStream(stream, compression) if compression else stream

    @property
    def size_bytes(self) -> int:
        return int(self._raw.tell())

    def close(self) -> None:
        self._out.close()
        if not self._raw.closed:
            self._raw.close()


class _JsonLinesPart(_TextPart):
    def __init__(self, stream: pa.NativeFile, compression: str | None) -> None:
        super().__init__(stream, compression)
        self._encoder = JsonEncoder()

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._out.write(b"\n".join([*self._encoder.encode(batch), b""]))


class _CsvPart(_TextPart):
    def __init__(self, stream: pa.NativeFile, schema: pa.Schema, compression: str | None) -> None:
        super().__init__(stream, compression)
        self._writer = pcsv.CSVWriter(self._out, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()
        super().close()
