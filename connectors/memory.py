"""A sink into this process's memory: for tests, notebooks and `execute_and_collect`."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import get_args

import pyarrow as pa

from lakeward.connectors.commit_log import (
    CommitLog,
    EntryKind,
    LogCommitter,
    LogEntry,
    LogPolicy,
    OnExisting,
    OnRewind,
    sink_id_of,
)
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.core.errors import SinkError
from lakeward.engine.core.expect import expect_choice
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject


class MemorySink(Sink):
    """Collects rows in this process; a row is there once its checkpoint is committed.

    Rows travel from writers to the committer inside the committables, so writers may be in other processes; the rows of
    a checkpoint that never completed are never seen. Meant for results that fit in memory.

    >>> sink = MemorySink()
    >>> sink.table().num_rows
    0

    Args:
        on_rewind: When a job goes back behind rows that are here: "refuse", "rollback" (drop them) or "append".
        on_existing: When a job without a checkpoint finds rows of its own here: "refuse" or "append".

    Guarantees: exactly once, as long as this process lives.

    Raises:
        ConfigError: An option is none of these.
    """

    def __init__(self, *, on_rewind: OnRewind = "refuse", on_existing: OnExisting = "refuse") -> None:
        expect_choice(on_rewind, get_args(OnRewind), "MemorySink: on_rewind")
        expect_choice(on_existing, get_args(OnExisting), "MemorySink: on_existing")
        self._policy = LogPolicy(None, on_rewind, on_existing)
        self._store = _Store()

    @property
    def description(self) -> str:
        """Always "memory"."""
        return "memory"

    @property
    def takes_updates(self) -> bool:
        """Yes: rows keep their kinds."""
        return True

    def check_schema(self, schema: pa.Schema) -> None:
        """Any schema will do; it is that of `table()`."""
        self._store.schema = schema

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """A writer that keeps rows until the next checkpoint."""
        return _MemoryWriter(f"{context.attempt}/{context.subtask}")

    def open_committer(self, context: CommitterContext) -> Committer:
        """The committer that makes rows visible here."""
        self._store.schema = context.schema
        sink_id = sink_id_of(self._policy, context)
        log = self._store.logs.setdefault(sink_id, _MemoryLog())
        return LogCommitter("the memory sink", sink_id, log, self._policy, context)

    def with_options(self, *, on_rewind: OnRewind = "refuse", on_existing: OnExisting = "refuse") -> MemorySink:
        """A sink with other options over the same rows."""
        other = MemorySink(on_rewind=on_rewind, on_existing=on_existing)
        other._store = self._store
        return other

    def batches(self) -> list[pa.RecordBatch]:
        """The committed batches, in the order of their commits."""
        return [batch for log in self._store.logs.values() for _, made in log.commits() for batch in made]

    def table(self) -> pa.Table:
        """The committed rows, in the order of their commits."""
        batches = self.batches()
        return pa.Table.from_batches(batches, schema=batches[0].schema if batches else self._store.schema)

    def clear(self) -> None:
        """Forget all rows, and that anything was ever committed."""
        self._store.logs.clear()


@dataclass(slots=True)
class _Store:
    """What committers of one sink fill, in whatever attempt of the job."""

    logs: dict[str, _MemoryLog] = field(default_factory=dict)
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))


class _MemoryWriter(SinkWriter):
    def __init__(self, name: str) -> None:
        self._name = name
        self._batches: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._batches.append(batch)

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        batches, self._batches = self._batches, []
        return [_encode(batch, self._name) for batch in batches]

    def close(self) -> None:
        self._batches = []


class _MemoryLog(CommitLog):
    """The log is the store: rows are the commits in it less the rollbacks."""

    def __init__(self) -> None:
        self._entries: list[LogEntry] = []

    def entries(self) -> Sequence[LogEntry]:
        return list(self._entries)

    def append(self, entry: LogEntry) -> LogEntry | None:
        if entry.version <= len(self._entries):
            return self._entries[entry.version - 1]
        self._entries.append(entry)
        return None

    def carry_out(self, entry: LogEntry) -> None:
        pass  # what is in the log is visible

    def commits(self) -> list[tuple[int, list[pa.RecordBatch]]]:
        """Checkpoints and the batches that each has made visible; without what was rolled back since."""
        visible: list[tuple[int, Sequence[JsonObject]]] = []
        for entry in self._entries:
            if entry.kind is EntryKind.ROLLBACK:
                left = [(at, made, [one for one in made if one not in entry.committables]) for at, made in visible]
                visible = [(at, kept) for at, made, kept in left if kept or not made]
            elif entry.kind is EntryKind.COMMIT:
                visible.append((entry.checkpoint, entry.committables))
        return [(checkpoint, [_decode(one) for one in made]) for checkpoint, made in visible]


def _encode(batch: pa.RecordBatch, writer: str) -> JsonObject:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    arrow = base64.b64encode(sink.getvalue()).decode("ascii")
    return {"v": 1, "writer": writer, "rows": batch.num_rows, "arrow": arrow}


def _decode(committable: JsonObject) -> pa.RecordBatch:
    if committable.get("v") != 1:
        raise SinkError(f"a memory committable of version {committable.get('v')} is not known")
    return pa.ipc.open_stream(base64.b64decode(str(committable["arrow"]))).read_next_batch()
