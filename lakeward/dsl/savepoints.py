"""Savepoints from Python: write one, and read the state of a savepoint or checkpoint as tables."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa

from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.savepoint import Owner, to_save, write_savepoint
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.core.scratch import ScratchFolder
from lakeward.engine.core.snapshots import OperatorSnapshot
from lakeward.engine.state.reader import read_tables, table_schemas
from lakeward.engine.state.rocksdb import RocksDbStoreFactory


@dataclass(frozen=True, slots=True)
class StateTable:
    """One table of an operator's keyed state, as `state_tables` finds it.

    >>> StateTable("counts", "group", 2, pa.schema({"word": pa.string(), "rows": pa.int64()})).rows
    2

    Args:
        uid: The operator.
        name: The table: of a process function, the state's name.
        rows: How many rows it has.
        schema: Its columns.
    """

    uid: str
    name: str
    rows: int
    schema: pa.Schema


def open_existing(directory: str | os.PathLike[str]) -> CheckpointStore:
    """Open a checkpoint or savepoint directory that must be there already.

    Raises:
        ConfigError: There is none.
    """
    location = os.fspath(directory)
    local = urlsplit(location).scheme in ("", "file")
    if local and not Path(urlsplit(location).path if location.startswith("file:") else location).expanduser().is_dir():
        raise ConfigError(f"there is no directory {location}", hint="give a checkpoint_dir or a savepoint")
    return open_store(location)


def savepoint(
    checkpoint_dir: str | os.PathLike[str], savepoint_dir: str | os.PathLike[str], checkpoint: int | None = None
) -> int:
    """Make a savepoint of a job's newest committed checkpoint: a copy that no job writes to or deletes.

    The job may be running, also elsewhere. `env.execute(savepoint=...)` and `lakeward run --from` start from it.

    >>> import tempfile, lakeward as lw
    >>> folder = tempfile.TemporaryDirectory()
    >>> env = lw.StreamExecutionEnvironment(checkpoint_dir=f"{folder.name}/checkpoints")
    >>> _ = env.from_collection([{"n": 1}], uid="numbers").sink_to(lw.BlackholeSink(), uid="nowhere")
    >>> env.execute("count").checkpoint == lw.savepoint(f"{folder.name}/checkpoints", f"{folder.name}/savepoint")
    True
    >>> folder.cleanup()

    Args:
        checkpoint_dir: The job's checkpoint directory: a path or URI.
        savepoint_dir: Where the savepoint goes: a path or URI; empty, or left by a call that was killed.
        checkpoint: Which checkpoint; None: the newest whole one.

    Returns:
        The checkpoint's number.

    Raises:
        ConfigError: There is no committed checkpoint, or the target is not empty.
        CheckpointError: A store failed, or every checkpoint is damaged.
    """
    number = None if checkpoint is None else CheckpointId(checkpoint)
    source = open_existing(checkpoint_dir)
    to_save(CheckpointWorkflow(source), number)  # before there is a folder for it
    target = open_store(os.fspath(savepoint_dir))
    scratch = ScratchFolder()
    try:
        owner = Owner(f"{socket.gethostname()}:{os.getpid()}", SystemClock().wall_us(), scratch.path)
        return write_savepoint(source, target, owner, number).checkpoint
    finally:
        scratch.close()


def read_state(
    directory: str | os.PathLike[str], uid: str, table: str | None = None, checkpoint: int | None = None
) -> pa.Table:
    """The keyed state of an operator in a savepoint or checkpoint directory, without the job that wrote it.

    >>> import tempfile, lakeward as lw
    >>> folder = tempfile.TemporaryDirectory()
    >>> env = lw.StreamExecutionEnvironment(checkpoint_dir=folder.name)
    >>> words = env.from_collection([{"word": "lake"}, {"word": "sea"}, {"word": "lake"}], uid="words")
    >>> _ = words.key_by("word").aggregate(n=lw.count(), uid="counts").sink_to(lw.BlackholeSink(), uid="nowhere")
    >>> _ = env.execute("count")
    >>> read_state(folder.name, "counts").select(["word", "rows"]).sort_by("word").to_pylist()
    [{'word': 'lake', 'rows': 2}, {'word': 'sea', 'rows': 1}]
    >>> folder.cleanup()

    Args:
        directory: A savepoint or a checkpoint directory: a path or URI.
        uid: The operator.
        table: Which of its tables; None if it has one only.
        checkpoint: Which checkpoint; None: the newest whole one.

    Returns:
        A row for each entry of all subtasks: the key, the fields as they are stored, and `namespace`, which is the
        number of the pane for windows and 0 else.

    Raises:
        ConfigError: There is no such checkpoint, operator or table; names those that there are.
        CheckpointError: The directory is damaged or of a newer version of Lakeward.
    """
    return scan_state(directory, uid, table, checkpoint).read_all()


def scan_state(
    directory: str | os.PathLike[str], uid: str, table: str | None = None, checkpoint: int | None = None
) -> pa.RecordBatchReader:
    """As `read_state`, but the rows come as batches, for state that is larger than memory."""
    workflow, manifest = _opened(directory, checkpoint)
    keyed = [one for one in manifest.operators if one.keyed is not None]
    if uid not in {one.uid for one in keyed}:
        hint = did_you_mean(uid, sorted({str(one.uid) for one in keyed}))
        raise ConfigError(f"operator '{uid}' has no keyed state in {os.fspath(directory)}", hint=hint)
    tables = _Tables(workflow, [one for one in keyed if one.uid == uid])
    names = list(tables.schemas)
    if table is None and len(names) > 1:
        raise ConfigError(f"operator '{uid}' has several tables", hint=f"choose one: {', '.join(names)}")
    name = table or names[0]
    if name not in names:
        raise ConfigError(f"operator '{uid}' has no table '{name}'", hint=did_you_mean(name, names))
    return pa.RecordBatchReader.from_batches(tables.schemas[name], tables.read(name))


def state_tables(directory: str | os.PathLike[str], checkpoint: int | None = None) -> list[StateTable]:
    """All tables of keyed state in a savepoint or checkpoint directory, which `read_state` reads.

    >>> import tempfile, lakeward as lw
    >>> folder = tempfile.TemporaryDirectory()
    >>> env = lw.StreamExecutionEnvironment(checkpoint_dir=folder.name)
    >>> words = env.from_collection([{"word": "lake"}, {"word": "sea"}, {"word": "lake"}], uid="words")
    >>> _ = words.key_by("word").aggregate(n=lw.count(), uid="counts").sink_to(lw.BlackholeSink(), uid="nowhere")
    >>> _ = env.execute("count")
    >>> [(one.uid, one.name, one.rows) for one in state_tables(folder.name)]
    [('counts', 'group', 2)]
    >>> folder.cleanup()

    Args:
        directory: A savepoint or a checkpoint directory: a path or URI.
        checkpoint: Which checkpoint; None: the newest whole one.

    Returns:
        A description of each table.

    Raises:
        ConfigError: There is no such checkpoint.
        CheckpointError: The directory is damaged or of a newer version of Lakeward.
    """
    workflow, manifest = _opened(directory, checkpoint)
    found = []
    for uid in dict.fromkeys(one.uid for one in manifest.operators if one.keyed is not None):
        tables = _Tables(workflow, [one for one in manifest.operators if one.uid == uid and one.keyed is not None])
        for name, schema in tables.schemas.items():
            found.append(StateTable(uid, name, sum(batch.num_rows for batch in tables.read(name)), schema))
    return found


class _Tables:
    """The tables of one operator.

    Attributes:
        schemas: Of all of them, by name; where subtasks have stored different versions, of what fits all.
    """

    def __init__(self, workflow: CheckpointWorkflow, snapshots: Sequence[OperatorSnapshot]) -> None:
        self._workflow = workflow
        self._parts = [one.keyed for one in snapshots if one.keyed is not None]
        self._stored = [table_schemas(one.tables) for one in self._parts]
        names = dict.fromkeys(name for schemas in self._stored for name in schemas)
        self.schemas = {name: self._schema(name) for name in names}

    def _schema(self, name: str) -> pa.Schema:
        parts = [_plain(schemas[name]) for schemas in self._stored if name in schemas]
        return pa.unify_schemas(parts, promote_options="permissive")

    def read(self, name: str) -> Iterator[pa.RecordBatch]:
        """All rows of a table; the files of one subtask at a time lie on the local disk."""
        for part, schemas in zip(self._parts, self._stored, strict=True):
            if name not in schemas:
                continue
            scratch = ScratchFolder()
            try:
                folder = scratch.path / "files"
                folder.mkdir()
                self._workflow.download(part.files, str(folder))
                plain = _plain(schemas[name])
                for batch in read_tables(RocksDbStoreFactory(), str(folder), part.tables)[name]:
                    yield _fitted(batch.rename_columns(plain.names), self.schemas[name])
            finally:
                scratch.close()


def _fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of an older version with the columns of the newest: what it does not have is null."""
    if batch.schema.equals(schema):
        return batch
    there = set(batch.schema.names)
    columns = [
        batch.column(field.name).cast(field.type) if field.name in there else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _plain(schema: pa.Schema) -> pa.Schema:
    names = _plain_names(schema.names)
    return pa.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def _plain_names(names: list[str]) -> list[str]:
    """Column names without the marks that set apart keys and what Lakeward keeps for itself, where that is unique."""
    plain = [name.lstrip("#") for name in names]
    return [short if short and plain.count(short) == 1 else name for short, name in zip(plain, names, strict=True)]


def _opened(directory: str | os.PathLike[str], checkpoint: int | None) -> tuple[CheckpointWorkflow, CheckpointManifest]:
    workflow = CheckpointWorkflow(open_existing(directory))
    found = workflow.newest_whole(None if checkpoint is None else CheckpointId(checkpoint))
    if found is None:
        number = "" if checkpoint is None else f" {checkpoint}"
        raise ConfigError(
            f"there is no committed checkpoint{number} in {os.fspath(directory)}",
            hint="`lakeward checkpoints list` shows what a directory holds",
        )
    return workflow, found.manifest
