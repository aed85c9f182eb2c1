"""State files between this machine's disk and the store: named by run and content, checked on the way back."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import check_stored_file, sha256_hex
from lakeward.engine.checkpoint.reuse import Reusable
from lakeward.engine.checkpoint.store import CheckpointStore, missing_file
from lakeward.engine.core.errors import CheckpointError, CorruptionError
from lakeward.engine.core.ids import Generation
from lakeward.engine.core.snapshots import LocalFile, StoredFile

_REMEMBERED_BYTES_MIN = 64 * 1024
_REMEMBERED_MAX = 100_000

_Identity = tuple[str, int, int, int, int]


class FileTransfer:
    """Uploads each content once, and remembers checksums of files that have not changed.

    A generation stores new files in a folder of its own. To files of older generations it refers where no stale process
    may still delete them (see `reuse`); so checkpoints are incremental across starts too.

    Args:
        store: Where the files go.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._hashes: dict[_Identity, str] = {}
        self._sent: set[str] = set()  # paths that this object has written, whole
        self.in_flight: set[str] = set()
        """Paths of what was uploaded and may not yet be in any manifest."""
        self.reusable: Reusable = {}
        """What older generations have stored, or who began this one, and was found whole."""

    def upload(self, files: Sequence[LocalFile], generation: Generation) -> tuple[StoredFile, ...]:
        """Store files, leaving out those that this object has stored before, and those that may be reused.

        Another file that is there already is written again: it may be damaged.
        """
        return tuple(self._upload(file, generation) for file in files)

    def download(self, files: Iterable[StoredFile], directory: str) -> None:
        """Fetch files and compare each with its checksum."""
        for file in files:
            self._download(file, Path(directory))

    def problem(self, file: StoredFile) -> str:
        """Read a stored file and say what is wrong with it; empty if nothing is."""
        path = paths.state_file(file.generation, file.sha256)
        size_bytes = self._store.size(path)
        if size_bytes is None:
            return f"{path} ({file.name}) is missing"
        if size_bytes != file.size_bytes:
            return f"{path} ({file.name}) has {size_bytes} bytes instead of {file.size_bytes}"
        data = self._store.read(path)
        if data is None or sha256_hex(data) != file.sha256:
            return f"{path} ({file.name}) does not match its checksum"
        return ""

    def _upload(self, file: LocalFile, generation: Generation) -> StoredFile:
        try:
            before = os.stat(file.path)
            sha256 = self._hash(file.path, before)
        except OSError as error:
            raise CheckpointError(f"cannot read the state file {file.path}: {error}") from error
        reusable = self.reusable.get(sha256)
        for holder in (generation, generation if reusable is None else reusable):
            path = paths.state_file(holder, sha256)
            self.in_flight.add(path)
            known = path in self._sent or holder == reusable
            if known and self._store.size(path) == before.st_size:
                return StoredFile(file.name, before.st_size, sha256, holder)
        path = paths.state_file(generation, sha256)
        self._store.put_file(path, file.path)
        self._check_unchanged(file, before)
        self._remember_sent(path)
        return StoredFile(file.name, before.st_size, sha256, generation)

    def _remember_sent(self, path: str) -> None:
        if len(self._sent) >= _REMEMBERED_MAX:
            self._sent.clear()
        self._sent.add(path)

    def _check_unchanged(self, file: LocalFile, before: os.stat_result) -> None:
        after = os.stat(file.path)
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise CheckpointError(
                f"the state file {file.path} changed while it was uploaded",
                hint="only finished files belong into a snapshot; nothing else may write to the state directory",
            )

    def _hash(self, path: str, stat: os.stat_result) -> str:
        """Large files are remembered by inode, not by path: each snapshot links the same SST to a new name.

        Small ones are always read: it costs nothing, and a new file can get a dead one's inode, size and time.
        """
        if stat.st_size < _REMEMBERED_BYTES_MIN:
            return _hash_file(path)
        identity = _identity(path, stat)
        known = self._hashes.get(identity)
        if known is None:
            known = _hash_file(path)
            self._remember(identity, known)
        return known

    def _remember(self, identity: _Identity, sha256: str) -> None:
        if len(self._hashes) >= _REMEMBERED_MAX:
            self._hashes.clear()
        self._hashes[identity] = sha256

    def _download(self, file: StoredFile, directory: Path) -> None:
        check_stored_file(file, "a checkpoint")
        path = paths.state_file(file.generation, file.sha256)
        target = directory / file.name
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"cannot make the state folder {target.parent}: {error}") from error
        if self._store.size(path) is None:
            raise missing_file(f"{path} ({file.name})", "the checkpoint directory")
        self._store.get_file(path, str(target))
        self._check_downloaded(file, target)

    def _check_downloaded(self, file: StoredFile, target: Path) -> None:
        stat = target.stat()
        found = _hash_file(str(target))
        if stat.st_size != file.size_bytes or found != file.sha256:
            path = paths.state_file(file.generation, file.sha256)
            raise CorruptionError(
                f"the state file {path} ({file.name}) is damaged: {stat.st_size} bytes with checksum {found} instead "
                f"of {file.size_bytes} bytes",
                hint="the disk or a copy changed it; restore an older checkpoint or a savepoint",
            )
        if stat.st_size >= _REMEMBERED_BYTES_MIN:
            self._remember(_identity(str(target), stat), found)


def _identity(path: str, stat: os.stat_result) -> _Identity:
    return os.path.basename(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hash_file(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
