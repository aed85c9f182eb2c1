"""What lies in a cluster's directory: records, the token, the lock, and a folder for each job."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from lakeward.cluster.jobs import JobRecord
from lakeward.cluster.records import from_bytes, to_bytes
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.core.errors import ConfigError

TOKEN_BYTES = 32
_OWNER_ONLY = 0o077


class Endpoint(msgspec.Struct):
    """Where a cluster can be called.

    Args:
        url: Of its coordinator.
        pid: Of the coordinator.
    """

    url: str
    pid: int


@dataclass(frozen=True, slots=True)
class ClusterFiles:
    """The directory of a cluster; nobody but its owner may enter it.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> files = ClusterFiles.open(Path(folder.name) / "cluster")
    >>> files.save(JobRecord("j-1", "revenue", "shop:main", "/srv", 2))
    >>> [record.name for record in files.records()]
    ['revenue']
    >>> folder.cleanup()

    Args:
        root: The directory.
    """

    root: Path

    @classmethod
    def open(cls, directory: Path) -> ClusterFiles:
        """Make the directory, if need be.

        Raises:
            ConfigError: It cannot be made, or others can enter it.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = directory.stat().st_mode
        except OSError as error:
            raise ConfigError(f"the cluster's directory {directory} cannot be made: {error.strerror}") from error
        if stat.S_IMODE(mode) & _OWNER_ONLY:
            raise ConfigError(
                f"others may enter the cluster's directory {directory}, which holds its token",
                hint=f"chmod 700 {directory}, or give another --dir",
            )
        return cls(directory.resolve())

    def job_folder(self, job: str) -> Path:
        """Where a job's own files are."""
        return self.root / "jobs" / job

    @property
    def savepoints(self) -> Path:
        """Where savepoints go that are named only."""
        return self.root / "savepoints"

    def _store(self) -> FileSystemStore:
        return FileSystemStore(str(self.root / "records"))

    def save(self, record: JobRecord) -> None:
        """Store a record; it is durable when this returns.

        Raises:
            CheckpointError: The disk failed, or is full.
        """
        self._store().put(f"{record.id}.json", to_bytes(record))

    def records(self) -> list[JobRecord]:
        """All that are stored.

        Raises:
            CorruptionError: One is damaged; names it.
        """
        store = self._store()
        found = []
        for name in store.list(""):
            data = store.read(name)
            if name.endswith(".json") and data is not None:
                found.append(from_bytes(data, str(self.root / "records" / name)))
        return found

    def token(self) -> str:
        """The token that everybody has to show; made at first.

        Raises:
            ConfigError: Others may read its file, or it is none of ours.
        """
        path = self.root / "token"
        if not path.exists():
            made = secrets.token_hex(TOKEN_BYTES)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(made)
                file.flush()
                os.fsync(file.fileno())
        return read_token(path)

    def write_endpoint(self, endpoint: Endpoint) -> None:
        """Say where the coordinator is."""
        temporary = self.root / f".endpoint-{os.getpid()}"
        temporary.write_bytes(msgspec.json.encode(endpoint))
        temporary.replace(self.root / "endpoint.json")

    def endpoint(self) -> Endpoint:
        """Where the coordinator is, or was.

        Raises:
            ConfigError: None was ever started.
        """
        try:
            return msgspec.json.decode((self.root / "endpoint.json").read_bytes(), type=Endpoint)
        except (OSError, msgspec.MsgspecError) as error:
            raise ConfigError(
                f"no cluster was started in {self.root}", hint="lakeward cluster start --dir DIR --allow FOLDER"
            ) from error

    def lock(self) -> int:
        """Be the only coordinator of this directory, until the process ends.

        Raises:
            ConfigError: There is another.
        """
        handle = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            raise ConfigError(
                f"another coordinator works in {self.root}", hint="stop that cluster, or give another --dir"
            ) from error
        return handle


def read_token(path: Path) -> str:
    """A token from its file.

    Raises:
        ConfigError: It cannot be read, others may read it, or it is empty.
    """
    try:
        if stat.S_IMODE(path.stat().st_mode) & _OWNER_ONLY:
            raise ConfigError(f"others may read the token in {path}", hint=f"chmod 600 {path}, and make a new one")
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the token in {path} cannot be read: {error}", hint="is the cluster yours?") from error
    if len(token) < 2 * TOKEN_BYTES:
        raise ConfigError(f"{path} holds no token", hint="delete it, and start the cluster again")
    return token


def find_module(job: str, folders: Sequence[Path]) -> Path:
    """The allowed folder that a job's module is in; the module is not imported.

    Args:
        job: `package.module:function`.
        folders: The allowed ones.

    Raises:
        ConfigError: It is no such name, or in none of them.
    """
    module, _, function = job.partition(":")
    parts = module.split(".")
    if not function.isidentifier() or not all(part.isidentifier() for part in parts):
        raise ConfigError(f"{job[:200]!r} names no job", hint="give package.module:function")
    for folder in folders:
        root = folder.resolve()
        for path in (root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")):
            if path.is_file() and path.resolve().is_relative_to(root):
                return root
    raise ConfigError(
        f"module '{module}' is in none of the allowed folders",
        hint=f"allowed are: {', '.join(map(str, folders)) or 'none'} (lakeward cluster start --allow FOLDER)",
    )


def confined(path: str, roots: Sequence[Path], what: str) -> Path:
    """A path below one of the roots, wherever its links lead; a relative one is below the first.

    Args:
        path: As it was given.
        roots: Folders.
        what: What it is, for errors.

    Raises:
        ConfigError: It is below none of them.
    """
    if not path or "\0" in path or len(path) > 1000 or "%" in path or "\\" in path:
        raise ConfigError(f"{what} {path[:200]!r} is no path", hint="give a plain path")
    resolved = (roots[0] / path).resolve()
    if not any(resolved.is_relative_to(root.resolve()) and resolved != root.resolve() for root in roots):
        raise ConfigError(
            f"{what} {path[:200]!r} is outside of the allowed folders", hint=f"allowed: {', '.join(map(str, roots))}"
        )
    return resolved
