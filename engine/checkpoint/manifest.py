"""The JSON documents of a checkpoint directory, their versions, and their strict codecs.

Every document is one JSON object `{"sha256": <of the body's bytes>, "body": {...}}` and a newline. The checksum covers
the bytes as they lie in the file, so a single changed bit anywhere is found. Pure.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

import orjson

from lakeward.engine.checkpoint import paths
from lakeward.engine.core.errors import CheckpointError, CorruptionError, InternalError, StateMigrationError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId
from lakeward.engine.core.json_types import Json, JsonObject
from lakeward.engine.core.snapshots import (
    JsonFields,
    OperatorSnapshot,
    StoredFile,
    snapshot_from_json,
    snapshot_to_json,
)

FORMAT_VERSION = 1
"""The version of every document that this code writes, but for manifests with rows in flight."""

IN_FLIGHT_VERSION = 2
"""The version of a manifest with rows in flight, which older Lakewards would lose; and the newest that is read."""

ANNOUNCING_VERSION = 2
"""Of the records of runs that announce which state files they delete."""

_HEAD = b'{"sha256":"'
_MIDDLE = b'","body":'
_TAIL = b"}\n"
_BODY_START = len(_HEAD) + 64 + len(_MIDDLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointManifest:
    """What a checkpoint consists of, whole: with this and the files it names, a job can be restored.

    Args:
        version: Of the format; see `with_version`.
        job_id: The job's identity.
        job_name: The job's name.
        checkpoint: The checkpoint's number.
        generation: The run of the job that took it.
        created_us: When, in microseconds since 1970 UTC.
        max_parallelism: Number of key groups.
        parallelism: Subtasks of every operator, by uid.
        operators: The snapshot of every operator and subtask.
        committers: What each sink's committer has to remember, by the sink's uid.
        final: Whether the input had ended: nothing is left to be read.
    """

    version: int = FORMAT_VERSION
    job_id: JobId
    job_name: str
    checkpoint: CheckpointId
    generation: Generation
    created_us: int
    max_parallelism: int
    parallelism: Mapping[OperatorId, int]
    operators: tuple[OperatorSnapshot, ...]
    committers: Mapping[OperatorId, JsonObject | None] = field(default_factory=dict)
    final: bool = False

    def with_version(self) -> CheckpointManifest:
        """The manifest with the version that its content needs."""
        has_rows = any(snapshot.in_flight for snapshot in self.operators)
        return replace(self, version=IN_FLIGHT_VERSION if has_rows else FORMAT_VERSION)

    def files(self) -> tuple[StoredFile, ...]:
        """Every state file it refers to, each content once."""
        files = chain.from_iterable(snapshot.files() for snapshot in self.operators)
        return tuple({(file.generation, file.sha256): file for file in files}.values())

    def size_bytes(self) -> int:
        """Length of all its state files together."""
        return sum(file.size_bytes for file in self.files())

    def to_bytes(self) -> bytes:
        """The document; the same bytes for an equal manifest.

        Raises:
            CheckpointError: An operator's state holds something that JSON cannot (a NaN, an integer of more than
                64 bits, a key that is no text).
            InternalError: A subtask is in it twice.
        """
        if len({(snapshot.uid, snapshot.subtask) for snapshot in self.operators}) < len(self.operators):
            raise InternalError(f"checkpoint {self.checkpoint} holds two snapshots of one subtask")
        return _encode(
            "checkpoint manifest",
            {
                "version": self.version,
                "job_id": self.job_id,
                "job_name": self.job_name,
                "checkpoint": self.checkpoint,
                "generation": self.generation,
                "created_us": self.created_us,
                "max_parallelism": self.max_parallelism,
                "parallelism": {str(uid): count for uid, count in self.parallelism.items()},
                "operators": [snapshot_to_json(snapshot) for snapshot in self.operators],
                "committers": {str(uid): state for uid, state in self.committers.items()},
                "final": self.final,
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "checkpoint manifest") -> CheckpointManifest:
        """Read a document.

        Args:
            data: The bytes.
            where: The path, for errors.

        Raises:
            CorruptionError: The bytes are damaged, or no manifest.
            StateMigrationError: A newer version of Lakeward wrote it.
        """
        fields = _decode("checkpoint manifest", data, where)
        manifest = cls(
            version=fields.integer("version"),
            job_id=JobId(fields.text("job_id")),
            job_name=fields.text("job_name"),
            checkpoint=CheckpointId(fields.integer("checkpoint")),
            generation=Generation(fields.integer("generation")),
            created_us=fields.integer("created_us"),
            max_parallelism=fields.integer("max_parallelism"),
            parallelism=_parallelism(fields.obj("parallelism"), where),
            operators=tuple(snapshot_from_json(item) for item in fields.items("operators")),
            committers={OperatorId(uid): _committer(state, where) for uid, state in fields.obj("committers").items()},
            final=fields.flag("final"),
        )
        fields.done()
        _check_files(manifest, where)
        return manifest


@dataclass(frozen=True, slots=True)
class CheckpointClaim:
    """Which manifest of a checkpoint may be committed; the first claim holds for ever.

    Args:
        checkpoint: The checkpoint.
        generation: The writer of the manifest.
        manifest_sha256: The manifest's checksum.
        claimed_by: The generation that claimed: the writer, or one that recovered.
    """

    checkpoint: CheckpointId
    generation: Generation
    manifest_sha256: str
    claimed_by: Generation

    def to_bytes(self) -> bytes:
        """The document."""
        return _encode(
            "checkpoint claim",
            {
                "version": FORMAT_VERSION,
                "checkpoint": self.checkpoint,
                "generation": self.generation,
                "manifest_sha256": self.manifest_sha256,
                "claimed_by": self.claimed_by,
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "checkpoint claim") -> CheckpointClaim:
        """Read a document; raises as `CheckpointManifest.from_bytes` does."""
        fields = _decode("checkpoint claim", data, where)
        fields.integer("version")
        claim = cls(
            CheckpointId(fields.integer("checkpoint")),
            Generation(fields.integer("generation")),
            fields.text("manifest_sha256"),
            Generation(fields.integer("claimed_by")),
        )
        fields.done()
        return claim


@dataclass(frozen=True, slots=True)
class CommitMarker:
    """All sinks have committed this checkpoint.

    Args:
        checkpoint: The checkpoint.
        generation: The writer of the manifest.
        manifest_sha256: The manifest's checksum.
        committed_us: When, in microseconds since 1970 UTC.
    """

    checkpoint: CheckpointId
    generation: Generation
    manifest_sha256: str
    committed_us: int

    def to_bytes(self) -> bytes:
        """The document."""
        return _encode(
            "commit marker",
            {
                "version": FORMAT_VERSION,
                "checkpoint": self.checkpoint,
                "generation": self.generation,
                "manifest_sha256": self.manifest_sha256,
                "committed_us": self.committed_us,
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "commit marker") -> CommitMarker:
        """Read a document; raises as `CheckpointManifest.from_bytes` does."""
        fields = _decode("commit marker", data, where)
        fields.integer("version")
        marker = cls(
            CheckpointId(fields.integer("checkpoint")),
            Generation(fields.integer("generation")),
            fields.text("manifest_sha256"),
            fields.integer("committed_us"),
        )
        fields.done()
        return marker


@dataclass(frozen=True, slots=True)
class JobRecord:
    """Whose checkpoint directory it is; written once.

    Args:
        job_id: The job's identity.
        job_name: The job's name.
        created_us: When the directory was first used, in microseconds since 1970 UTC.
    """

    job_id: JobId
    job_name: str
    created_us: int

    def to_bytes(self) -> bytes:
        """The document."""
        body: JsonObject = {
            "version": FORMAT_VERSION,
            "job_id": self.job_id,
            "job_name": self.job_name,
            "created_us": self.created_us,
        }
        return _encode("job", body)

    @classmethod
    def from_bytes(cls, data: bytes, where: str = paths.JOB) -> JobRecord:
        """Read a document; raises as `CheckpointManifest.from_bytes` does."""
        fields = _decode("job", data, where)
        fields.integer("version")
        record = cls(JobId(fields.text("job_id")), fields.text("job_name"), fields.integer("created_us"))
        fields.done()
        return record


@dataclass(frozen=True, slots=True)
class SavepointOrigin:
    """Which savepoint a checkpoint directory was begun from; written once, before anything else.

    Args:
        checkpoint: The savepoint's number.
        job_id: The job that took it, whose identity the new job takes on.
        manifest_sha256: Checksum of its manifest.
    """

    checkpoint: CheckpointId
    job_id: JobId
    manifest_sha256: str

    def to_bytes(self) -> bytes:
        """The document."""
        return _encode(
            "savepoint origin",
            {
                "version": FORMAT_VERSION,
                "checkpoint": self.checkpoint,
                "job_id": self.job_id,
                "manifest_sha256": self.manifest_sha256,
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str = paths.SAVEPOINT) -> SavepointOrigin:
        """Read a document; raises as `CheckpointManifest.from_bytes` does."""
        fields = _decode("savepoint origin", data, where)
        fields.integer("version")
        origin = cls(
            CheckpointId(fields.integer("checkpoint")),
            JobId(fields.text("job_id")),
            fields.text("manifest_sha256"),
        )
        fields.done()
        return origin


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """One start of the job.

    Args:
        generation: Its number.
        job_id: The job's identity.
        job_name: The job's name.
        created_us: When, in microseconds since 1970 UTC.
        owner: The host and process, for people.
        version: Of the format; from the second on, the run announces what it deletes.
    """

    generation: Generation
    job_id: JobId
    job_name: str
    created_us: int
    owner: str
    version: int = ANNOUNCING_VERSION

    @property
    def announces(self) -> bool:
        """Whether the run says which state files it is about to delete before it does."""
        return self.version >= ANNOUNCING_VERSION

    def to_bytes(self) -> bytes:
        """The document."""
        return _encode(
            "generation",
            {
                "version": self.version,
                "generation": self.generation,
                "job_id": self.job_id,
                "job_name": self.job_name,
                "created_us": self.created_us,
                "owner": self.owner,
            },
        )

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "generation") -> GenerationRecord:
        """Read a document; raises as `CheckpointManifest.from_bytes` does."""
        fields = _decode("generation", data, where)
        version = fields.integer("version")
        record = cls(
            Generation(fields.integer("generation")),
            JobId(fields.text("job_id")),
            fields.text("job_name"),
            fields.integer("created_us"),
            fields.text("owner"),
            version,
        )
        fields.done()
        return record


@dataclass(frozen=True, slots=True)
class CondemnedFiles:
    """State files that a run is about to delete.

    Args:
        generation: The run.
        files: Their paths.
    """

    generation: Generation
    files: tuple[str, ...]

    def to_bytes(self) -> bytes:
        """The document."""
        body: JsonObject = {"version": FORMAT_VERSION, "generation": self.generation, "files": list(self.files)}
        return _encode("condemned files", body)

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "condemned files") -> CondemnedFiles:
        """Read a document; raises as `CheckpointManifest.from_bytes` does."""
        fields = _decode("condemned files", data, where)
        fields.integer("version")
        generation, files = Generation(fields.integer("generation")), fields.items("files")
        fields.done()
        if not all(isinstance(file, str) for file in files):
            raise CorruptionError(f"{where}: 'files' holds something that is no path")
        return cls(generation, tuple(str(file) for file in files))


def sha256_hex(data: bytes) -> str:
    """Checksum of some bytes, as it is written in claims and file names."""
    return hashlib.sha256(data).hexdigest()


def _encode(kind: str, body: JsonObject) -> bytes:
    try:
        _refuse_not_finite(body, kind)
        encoded = orjson.dumps({"kind": kind, **body}, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as error:
        raise CheckpointError(
            f"the {kind} cannot be written as JSON: {error}",
            hint="state and committables may hold null, booleans, 64-bit integers, finite floats, text, lists, objects",
        ) from error
    return b"".join((_HEAD, sha256_hex(encoded).encode(), _MIDDLE, encoded, _TAIL))


def _decode(kind: str, data: bytes, where: str) -> JsonFields:
    body = data[_BODY_START : -len(_TAIL)]
    checksum = data[len(_HEAD) : len(_HEAD) + 64]
    if data != b"".join((_HEAD, checksum, _MIDDLE, body, _TAIL)) or checksum != sha256_hex(body).encode():
        raise CorruptionError(
            f"{where} is damaged: its {len(data)} bytes do not match their own checksum",
            hint="the disk or a copy changed it; an older checkpoint may still be whole",
        )
    try:
        decoded: Json = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise CorruptionError(f"{where} is not JSON: {error}") from error
    fields = JsonFields(decoded, where)
    _check_kind(fields, decoded, kind, where)
    return fields


def _check_kind(fields: JsonFields, decoded: Json, kind: str, where: str) -> None:
    found = fields.text("kind")
    if found != kind:
        raise CorruptionError(f"{where} holds a {found}, not a {kind}")
    version = decoded.get("version") if isinstance(decoded, Mapping) else None
    if isinstance(version, int) and version > IN_FLIGHT_VERSION:
        raise StateMigrationError(
            f"{where} has format version {version}; this Lakeward reads versions up to {IN_FLIGHT_VERSION}",
            hint="a newer Lakeward wrote it: upgrade this one, or use another checkpoint directory",
        )


def _refuse_not_finite(value: Json, where: str) -> None:
    """JSON writers turn a NaN into null without a word; state must not change that way."""
    if isinstance(value, float) and not math.isfinite(value):
        raise CheckpointError(
            f"the {where} holds the number {value}, which JSON does not have",
            hint="store it as text, or keep it in keyed state",
        )
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_not_finite(item, f"{where} field '{name}'")
    elif isinstance(value, list | tuple):
        for item in value:
            _refuse_not_finite(item, where)


def _parallelism(data: JsonObject, where: str) -> dict[OperatorId, int]:
    fields = JsonFields(data, f"parallelism in {where}")
    return {OperatorId(uid): fields.integer(uid) for uid in data}


def _committer(state: Json, where: str) -> JsonObject | None:
    if state is not None and not isinstance(state, Mapping):
        raise CorruptionError(f"a committer's state in {where} is neither an object nor null")
    return state


def _check_files(manifest: CheckpointManifest, where: str) -> None:
    """Names and checksums become paths: a manifest must not be able to point outside the store or the state folder."""
    for snapshot in manifest.operators:
        for file in snapshot.files():
            check_stored_file(file, where)


def check_stored_file(file: StoredFile, where: str) -> None:
    """Refuse a stored file whose name or checksum could lead a path astray.

    Raises:
        CorruptionError: It could.
    """
    if not paths.is_sha256(file.sha256) or not paths.is_plain_name(file.name):
        raise CorruptionError(
            f"{where} names a file {file.name!r} with checksum {file.sha256!r}, which no Lakeward writes",
            hint="do not restore checkpoints from a source you do not trust",
        )
