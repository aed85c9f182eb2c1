"""Files as an exactly-once sink: staged, logged, renamed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pyarrow import fs

from lakeward.connectors.commit_log import (
    LogCommitter,
    LogPolicy,
    OnExisting,
    OnRewind,
    sink_id_of,
)
from lakeward.connectors.files.log import STAGING, FilesLog, owner, writing
from lakeward.connectors.files.options import FormatName, format_name
from lakeward.connectors.files.parts import Part, open_part
from lakeward.connectors.files.paths import Location, resolve
from lakeward.connectors.files.storage import Storage
from lakeward.connectors.formats.json import Json
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.core.errors import ConfigError, SchemaError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject

Compression = Literal["auto", "none", "zstd", "gzip", "snappy", "lz4"]

ROLL_SIZE_DEFAULT = "128MB"
_ENDINGS = {"zstd": ".zst", "gzip": ".gz"}


class FilesSink(Sink):
    """Writes Parquet, JSON lines or CSV files into a directory, exactly once.

    Writers fill files under `_staging`; when a checkpoint is complete, its files are entered in a log under `_lakeward`
    and renamed to their final names. Readers that leave out names beginning with "_" (Spark, DuckDB's `*.parquet`,
    Lakeward) see whole files of completed checkpoints only. A file appears atomically; the files of one checkpoint
    appear one after another: for all or nothing, write to a table.

    >>> FilesSink("/tmp/out", format="jsonl").description
    'jsonl files /tmp/out'

    Args:
        directory: A local path or URI (file://, s3://, gs://); made when missing.
        format: "parquet", "jsonl" or "csv".
        roll_size: A file is closed when it has about this size, and at every checkpoint: "128MB", or bytes.
        compression: Parquet: "zstd" (also "auto"), "gzip", "snappy", "lz4" or "none". Text: "none" (also "auto"),
            "zstd" or "gzip".
        sink_id: The owner's name in the log, kept for as long as the directory is written; `<job name>.<uid>` if None.
        on_rewind: When a job is restored from a checkpoint older than what is in the directory: "refuse", "rollback"
            (delete the files written since) or "append" (keep them, so rows are there twice).
        on_existing: When a job starts without a checkpoint and this sink has written here before: "refuse" or "append".
        filesystem: The file system of `directory`; None: as its URI says.

    Guarantees: exactly once with a replayable source; at most one copy of each row is ever visible.

    Raises:
        ConfigError: An option has a value that cannot work.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        format: FormatName = "parquet",
        roll_size: int | str = ROLL_SIZE_DEFAULT,
        compression: Compression = "auto",
        sink_id: str | None = None,
        on_rewind: OnRewind = "refuse",
        on_existing: OnExisting = "refuse",
        filesystem: fs.FileSystem | None = None,
    ) -> None:
        self._directory = os.fspath(directory)
        self._format = format_name(format)
        self._roll_bytes = parse_size_bytes(roll_size)
        self._compression = _compression(self._format, compression)
        self._policy = LogPolicy(sink_id, on_rewind, on_existing)
        self._filesystem = filesystem

    @property
    def description(self) -> str:
        """For example "parquet files /data/orders"."""
        return f"{self._format} files {self._directory}"

    def check_schema(self, schema: pa.Schema) -> None:
        """Whether the format can hold every column.

        Raises:
            SchemaError: It cannot; names the column and its type.
        """
        for field in schema:
            if not _can_write(self._format, field):
                raise SchemaError(
                    f"{self.description}: column {field.name!r} of type {field.type} cannot be written",
                    hint="convert the column, or write Parquet" if self._format != "parquet" else "convert the column",
                )

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """A writer of staged files."""
        naming = _Naming(
            staging=f"{STAGING}/{owner(context.job_id, context.uid)}",
            stem=f"part-{owner(context.job_id, context.uid)}-{_clean(context.attempt)}-{context.subtask:05d}",
            ending=f".{self._format}{_text_ending(self._format, self._compression)}",
        )
        layout = _Layout(self._format, self._compression, self._roll_bytes, context.schema)
        return _FilesWriter(self._storage(), naming, layout)

    def open_committer(self, context: CommitterContext) -> Committer:
        """The committer that renames."""
        sink_id = sink_id_of(self._policy, context)
        log = FilesLog(self._storage(), sink_id)
        return _FilesCommitter(self.description, sink_id, log, self._policy, context)

    def _storage(self) -> Storage:
        location: Location = resolve(self._directory, self._filesystem)
        return Storage(location)


def parse_size_bytes(size: int | str) -> int:
    """Bytes of a size.

    >>> parse_size_bytes("128MB"), parse_size_bytes("1 GiB"), parse_size_bytes(1000)
    (128000000, 1073741824, 1000)

    Raises:
        ConfigError: It is no size, or none above zero.
    """
    units = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", str(size).lower())
    if match is None or match[2] not in units or float(match[1]) <= 0:
        raise ConfigError(f"{size!r} is no file size", hint='write for example "128MB" or "1GiB"')
    return int(float(match[1]) * units[match[2]])


@dataclass(frozen=True, slots=True)
class _Naming:
    staging: str
    stem: str
    ending: str

    def name(self, number: int) -> str:
        return f"{self.stem}-{number:06d}{self.ending}"


@dataclass(frozen=True, slots=True)
class _Layout:
    format: FormatName
    compression: str | None
    roll_bytes: int
    schema: pa.Schema


class _FilesWriter(SinkWriter):
    """Writes staged files; a file is closed when it is full and at every checkpoint."""

    def __init__(self, storage: Storage, naming: _Naming, layout: _Layout) -> None:
        self._storage = storage
        self._naming = naming
        self._layout = layout
        self._part: Part | None = None
        self._rows = 0
        self._files = 0
        self._closed: list[JsonObject] = []

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows == 0:
            return
        with writing(self._naming.name(self._files)):
            self._part = self._part or self._open()
            self._part.write(batch)
            self._rows += batch.num_rows
            if self._part.size_bytes >= self._layout.roll_bytes:
                self._roll()

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        with writing(self._naming.name(self._files)):
            self._roll()
        closed, self._closed = self._closed, []
        return closed

    def close(self) -> None:
        """Delete what no checkpoint holds."""
        part, self._part = self._part, None
        if part is not None:
            part.close()
            self._storage.delete(self._staged())
        for committable in self._closed:
            self._storage.delete(str(committable["staged"]))
        self._closed = []

    def _staged(self) -> str:
        return f"{self._naming.staging}/{self._naming.name(self._files)}"

    def _open(self) -> Part:
        stream = self._storage.open_output(self._staged())
        return open_part(self._layout.format, stream, self._layout.schema, self._layout.compression)

    def _roll(self) -> None:
        part, self._part = self._part, None
        if part is None:
            return
        part.close()
        staged = self._staged()
        self._storage.sync(staged)
        size = self._storage.size_bytes(staged)
        name = self._naming.name(self._files)
        self._closed.append({"v": 1, "staged": staged, "final": name, "rows": self._rows, "size_bytes": size})
        self._rows, self._files = 0, self._files + 1


class _FilesCommitter(LogCommitter):
    def __init__(self, output: str, sink_id: str, log: FilesLog, policy: LogPolicy, context: CommitterContext) -> None:
        super().__init__(output, sink_id, log, policy, context)
        self._files = log
        self._owner = (context.job_id, context.uid)

    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        super().recover(pending)
        self._files.clear_staging(*self._owner)


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text)


def _compression(format: FormatName, choice: Compression) -> str | None:
    allowed = ("zstd", "gzip", "snappy", "lz4") if format == "parquet" else ("zstd", "gzip")
    if choice == "auto":
        return "zstd" if format == "parquet" else None
    if choice == "none":
        return None
    if choice not in allowed:
        raise ConfigError(
            f"FilesSink: compression={choice!r} does not go with {format}", hint=f"one of {', '.join(allowed)}, none"
        )
    return choice


def _text_ending(format: FormatName, compression: str | None) -> str:
    return "" if format == "parquet" or compression is None else _ENDINGS[compression]


def _can_write(format: FormatName, field: pa.Field) -> bool:
    """Tries it with no rows: the writers know best."""
    schema = pa.schema([field])
    try:
        if format == "jsonl":
            Json(schema)
        part = open_part(format, pa.BufferOutputStream(), schema, None)
        part.write(pa.RecordBatch.from_pylist([], schema=schema))
        part.close()
    except (pa.ArrowException, TypeError, SchemaError):
        return False
    return True
