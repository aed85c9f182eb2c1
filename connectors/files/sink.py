"""Files as an exactly-once sink: staged, logged, renamed."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Literal, get_args

import pyarrow as pa
from pyarrow import fs

from lakeward.connectors.commit_log import (
    LogCommitter,
    LogPolicy,
    OnExisting,
    OnRewind,
    sink_id_of,
)
from lakeward.connectors.files.log import LOG, STAGING, FilesLog, owner, writing
from lakeward.connectors.files.options import FormatName
from lakeward.connectors.files.parts import Part, open_part
from lakeward.connectors.files.paths import Location, place_text, resolve
from lakeward.connectors.files.storage import Storage
from lakeward.connectors.formats.json import Json
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.expect import expect, expect_choice, refusal
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.sizes import Size, parse_size_bytes

Compression = Literal["auto", "none", "zstd", "gzip", "snappy", "lz4"]

TARGET_FILE_SIZE_BYTES = 128 << 20
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
        target_file_size_bytes: A file is closed at about this size, and at every checkpoint: bytes, or "128MB".
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
        target_file_size_bytes: Size = TARGET_FILE_SIZE_BYTES,
        compression: Compression = "auto",
        sink_id: str | None = None,
        on_rewind: OnRewind = "refuse",
        on_existing: OnExisting = "refuse",
        filesystem: fs.FileSystem | None = None,
    ) -> None:
        self._directory = place_text(directory, "FilesSink: directory", "/data/orders")
        expect_choice(format, get_args(FormatName), "FilesSink: format")
        self._format = format
        self._target_size_bytes = parse_size_bytes(target_file_size_bytes, "FilesSink: target_file_size_bytes")
        self._compression = _compression(self._format, compression)
        expect(sink_id, (str, NoneType), "FilesSink: sink_id", 'give a name: sink_id="orders"')
        expect_choice(on_rewind, get_args(OnRewind), "FilesSink: on_rewind")
        expect_choice(on_existing, get_args(OnExisting), "FilesSink: on_existing")
        expect(filesystem, (fs.FileSystem, NoneType), "FilesSink: filesystem", "give a pyarrow.fs.FileSystem")
        self._policy = LogPolicy(sink_id, on_rewind, on_existing)
        self._filesystem = filesystem

    @property
    def description(self) -> str:
        """For example "parquet files /data/orders"."""
        return f"{self._format} files {self._directory}"

    @property
    def identity(self) -> str | None:
        """The sink id in its directory; None without an explicit one."""
        if self._policy.sink_id is None:
            return None
        where = "" if self._filesystem is None else f" in file system {id(self._filesystem)}"
        return f"files {self._directory.rstrip('/')}{where} {self._policy.sink_id}"

    def check_schema(self, schema: pa.Schema) -> None:
        """Whether the format can hold every column, and the directory can be written.

        Raises:
            SchemaError: A column cannot be held; names it and its type.
            ConfigError: The directory can neither be written nor made; nothing is left behind by the check.
        """
        for field in schema:
            if not _can_write(self._format, field):
                raise SchemaError(
                    f"{self.description}: column {field.name!r} of type {field.type} cannot be written",
                    hint="convert the column, or write Parquet" if self._format != "parquet" else "convert the column",
                )
        self._storage().check_writable((STAGING, LOG))

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """A writer of staged files."""
        naming = _Naming(
            staging=f"{STAGING}/{owner(context.job_id, context.uid)}",
            stem=f"part-{owner(context.job_id, context.uid)}-{_clean(context.attempt)}-{context.subtask:05d}",
            ending=f".{self._format}{_text_ending(self._format, self._compression)}",
        )
        layout = _Layout(self._format, self._compression, self._target_size_bytes, context.schema)
        return _FilesWriter(self._storage(), naming, layout)

    def open_committer(self, context: CommitterContext) -> Committer:
        """The committer that renames."""
        sink_id = sink_id_of(self._policy, context)
        log = FilesLog(self._storage(), sink_id)
        return _FilesCommitter(self.description, sink_id, log, self._policy, context)

    def _storage(self) -> Storage:
        location: Location = resolve(self._directory, self._filesystem)
        return Storage(location)


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
    target_size_bytes: int
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
        with writing(self._storage.place(self._staged())):
            self._part = self._part or self._open()
            self._part.write(batch)
            self._rows += batch.num_rows
            if self._part.size_bytes >= self._layout.target_size_bytes:
                self._roll()

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        with writing(self._storage.place(self._staged())):
            self._roll()
        closed, self._closed = self._closed, []
        return closed

    def close(self) -> None:
        """Delete what no checkpoint holds."""
        part, self._part = self._part, None
        closed, self._closed = self._closed, []
        with writing(self._storage.place(self._staged())):
            try:
                if part is not None:
                    part.close()
            finally:  # what cannot be completed, because the disk is full, must not go on filling it
                for staged in ([self._staged()] if part is not None else []) + [str(one["staged"]) for one in closed]:
                    self._storage.delete(staged)

    def _staged(self) -> str:
        return f"{self._naming.staging}/{self._naming.name(self._files)}"

    def _open(self) -> Part:
        stream = self._storage.open_output(self._staged())
        return open_part(self._layout.format, stream, self._layout.schema, self._layout.compression)

    def _roll(self) -> None:
        if self._part is None:
            return
        self._part.close()
        self._part = None
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
        hint = f"{format} files may have {', '.join(allowed)} or none"
        raise refusal(choice, "FilesSink: compression", hint)
    return choice


def _text_ending(format: FormatName, compression: str | None) -> str:
    return "" if format == "parquet" or compression is None else _ENDINGS[compression]


def _can_write(format: FormatName, field: pa.Field) -> bool:
    """Tries it with no rows: the writers know best."""
    schema = pa.schema([field])
    if format == "csv" and (pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type)):
        return False  # written as it is, which fails at the first value that is no text
    try:
        if format == "jsonl":
            Json(schema)
        part = open_part(format, pa.BufferOutputStream(), schema, None)
        part.write(pa.RecordBatch.from_pylist([], schema=schema))
        part.close()
    except (pa.ArrowException, TypeError, SchemaError):
        return False
    return True
