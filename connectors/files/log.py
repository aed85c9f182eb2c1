"""The commit log of a directory: what belongs to which checkpoint, and the renames that carry it out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from urllib.parse import quote

import orjson
import pyarrow as pa

from lakeward.connectors.commit_log import CommitLog, EntryKind, LogEntry
from lakeward.connectors.files.storage import Storage
from lakeward.engine.core.disk import full_hint
from lakeward.engine.core.errors import CorruptionError, SinkError, SinkStateError
from lakeward.engine.core.ids import JobId, OperatorId
from lakeward.engine.core.json_types import JsonObject

STAGING, LOG = "_staging", "_lakeward"
LOG_ENTRIES_KEPT = 1000
"""So many checkpoints back the log can tell which files are whose, and `on_rewind="rollback"` can go."""


class FilesLog(CommitLog):
    """One file an entry under `_lakeward/<sink id>`, and a second one when it was carried out.

    Args:
        storage: The directory.
        sink_id: Whose log.
    """

    def __init__(self, storage: Storage, sink_id: str) -> None:
        self._storage = storage
        self._directory = f"{LOG}/{quote(sink_id, safe='')}"

    def entries(self) -> Sequence[LogEntry]:
        """All entries that are still kept."""
        with writing(self._directory):
            names = [name for name in self._storage.names(self._directory) if name.endswith(".json")]
            return [self._read(name) for name in names]

    def append(self, entry: LogEntry) -> LogEntry | None:
        """Create the entry's file unless it exists."""
        token = hashlib.sha256(orjson.dumps(_to_json(entry))).hexdigest()[:16]
        name = _entry_name(entry.version)
        with writing(self._directory):
            if self._storage.create(f"{self._directory}/{name}", orjson.dumps(_to_json(entry)), token=token):
                self._forget(entry.version - LOG_ENTRIES_KEPT)
                return None
            return self._read(name)

    def carry_out(self, entry: LogEntry) -> None:
        """Rename the entry's files, or delete them; then note that it was done."""
        done = f"{self._directory}/{_entry_name(entry.version)}.done"
        with writing(self._directory):
            if self._storage.size_bytes(done) is not None:
                return
            for committable in entry.committables:
                self._carry_out_one(entry.kind, committable)
            self._storage.create(done, b"", token=str(entry.version))

    def clear_staging(self, job_id: JobId, uid: OperatorId) -> None:
        """Delete what earlier attempts of this job's sink left behind and no checkpoint will commit."""
        directory = f"{STAGING}/{owner(job_id, uid)}"
        with writing(directory):
            for name in self._storage.names(directory):
                self._storage.delete(f"{directory}/{name}")

    def _carry_out_one(self, kind: EntryKind, committable: JsonObject) -> None:
        if committable.get("v") != 1:
            raise SinkStateError(
                f"{self._directory}: a committable of version {committable.get('v')} is not known",
                hint="run the version of Lakeward that wrote the checkpoint, or a newer one",
            )
        staged, final = str(committable["staged"]), str(committable["final"])
        if kind is EntryKind.ROLLBACK:
            self._storage.delete(final)
        elif self._storage.size_bytes(staged) is not None:
            self._storage.move(staged, final)
        elif self._storage.size_bytes(final) != committable["size_bytes"]:
            raise SinkStateError(
                f"{final} is neither staged at {staged} nor in place with {committable['size_bytes']} bytes",
                hint="its rows are lost: restore an older checkpoint with on_rewind='rollback'",
            )

    def _read(self, name: str) -> LogEntry:
        data = self._storage.read(f"{self._directory}/{name}")
        try:
            return _from_json(orjson.loads(data or b""))
        except (ValueError, KeyError) as error:
            raise CorruptionError(
                f"log entry {self._directory}/{name} cannot be read: {error}", hint="bring it back from a backup"
            ) from error

    def _forget(self, version: int) -> None:
        if version > 0:
            self._storage.delete(f"{self._directory}/{_entry_name(version)}.done")
            self._storage.delete(f"{self._directory}/{_entry_name(version)}")


def owner(job_id: JobId, uid: OperatorId) -> str:
    """A short name for one sink of one job, for file names."""
    return hashlib.sha256(f"{job_id}/{uid}".encode()).hexdigest()[:12]


class writing:
    """Turns errors of Arrow and of the file system into a `SinkError` that names the place."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Wrap what was raised inside."""
        if isinstance(error, OSError | pa.ArrowException):
            raise SinkError(
                f"writing {self._place} failed: {error}", hint=full_hint(error, "is the place there, and writable?")
            ) from error


def _entry_name(version: int) -> str:
    return f"{version:020d}.json"


def _to_json(entry: LogEntry) -> JsonObject:
    return {
        "v": 1,
        "version": entry.version,
        "kind": entry.kind.value,
        "checkpoint": entry.checkpoint,
        "committables": entry.committables,
        "job_id": entry.job_id,
    }


def _from_json(stored: dict[str, object]) -> LogEntry:
    if stored.get("v") != 1:
        raise ValueError(f"version {stored.get('v')} is not known")
    kind, committables = EntryKind(stored["kind"]), stored["committables"]
    assert isinstance(committables, list), "a log entry lists committables"
    version, checkpoint = int(str(stored["version"])), int(str(stored["checkpoint"]))
    return LogEntry(version, kind, checkpoint, tuple(committables), str(stored["job_id"]))
