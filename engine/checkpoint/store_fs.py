"""A checkpoint store in a folder of this machine (or a mounted one).

Durable and atomic by the book: write to a temporary file, fsync it, give it its name by `rename` (replace) or `link`
(create if absent: the kernel lets exactly one link win), fsync the folder.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore, checked_path, missing_file
from lakeward.engine.checkpoint.store_object import OBJECT_STORE_SCHEMES, ObjectStore
from lakeward.engine.core.errors import CheckpointError, ConfigError
from lakeward.engine.core.links import link_or_copy

_TEMPORARY = ".tmp"
_ABANDONED_S = 3600
"""Since the last byte was written. A writer that has stood still for so long fails its checkpoint, and no more."""
_HINTS = {
    errno.ENOSPC: "the disk is full: free space, keep fewer checkpoints, or use another directory",
    errno.EDQUOT: "the disk quota is used up: free space, keep fewer checkpoints, or use another directory",
    errno.EACCES: "this user may not do that there: change the owner or the mode of the directory",
    errno.EPERM: "this user may not do that there: change the owner or the mode of the directory",
    errno.EROFS: "the file system is mounted read-only",
    errno.EIO: "the disk reports errors: check its health before anything else",
    errno.ESTALE: "the network file system lost the file: check the mount",
    errno.EMFILE: "this process has too many open files: raise its limit (ulimit -n)",
}
_OWNER_ONLY = 0o600
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


class FileSystemStore:
    """Checkpoints in a folder.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = FileSystemStore(folder)
    ...     store.create_if_absent("a/b", b"first"), store.create_if_absent("a/b", b"second"), store.read("a/b")
    (True, False, b'first')

    Guarantees: a write that returned survives a power cut (as far as the disk keeps its promises); a crash at any
    moment leaves a file whole or absent; temporary files of dead processes are removed after an hour.

    Args:
        location: A path or a `file://` URI; the folder is made if it does not exist.

    Raises:
        ConfigError: The location cannot be used; says why.
    """

    def __init__(self, location: str) -> None:
        self._root = _local_root(location)
        self._temporary = self._root / _TEMPORARY
        try:
            self._temporary.mkdir(parents=True, exist_ok=True)
            self._check_links()
            self._remove_abandoned()
        except (FileExistsError, NotADirectoryError) as error:
            raise ConfigError(
                f"the checkpoint directory {self._root} cannot be made: a part of its path is a file",
                hint="give the path of a folder, or remove the file",
            ) from error
        except OSError as error:
            raise ConfigError(
                f"the checkpoint directory {self._root} cannot be written: {error.strerror or error}",
                hint=_HINTS.get(error.errno or 0, "check that the path exists and can be written"),
            ) from error

    @property
    def root(self) -> str:
        """The folder."""
        return str(self._root)

    def read(self, path: str) -> bytes | None:
        """The whole content; None if there is no such file."""
        target = self._target(path)
        with self._explained("read", path):
            try:
                return target.read_bytes()
            except FileNotFoundError:
                return None

    def put(self, path: str, data: bytes) -> None:
        """Write, replacing what was there."""
        self._write(path, self._temporary_with(data), _replace)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Write unless the name is taken."""
        target = self._target(path)
        with self._explained("write", path):
            if target.exists():  # the usual loser needs no temporary file
                return False
        return self._write(path, self._temporary_with(data), _link)

    def put_file(self, path: str, local_path: str) -> None:
        """Take a finished file of this machine into the store: a link if both are on one file system, else a copy.

        As all files of the store it can be read by its owner alone; so can the local one, if it was linked.
        """

        def take(temporary: str) -> None:
            os.unlink(temporary)
            link_or_copy(local_path, temporary)
            os.chmod(temporary, _OWNER_ONLY)  # state lies in a folder that others may not enter; this one they may

        self._write(path, take, _replace)

    def get_file(self, path: str, local_path: str) -> None:
        """Copy a stored file to this machine."""
        target = self._target(path)
        with self._explained("copy", path):
            if not target.is_file():
                raise missing_file(path, str(self._root))
            with suppress(FileNotFoundError):
                os.unlink(local_path)  # it may be a link to a file that the store has taken: never write into it
            shutil.copyfile(target, local_path)

    def size(self, path: str) -> int | None:
        """Length in bytes; None if there is no such file."""
        target = self._target(path)
        with self._explained("look at", path):
            try:
                return target.stat().st_size
            except FileNotFoundError:
                return None

    def list(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`, sorted."""
        folder = prefix.rpartition("/")[0]
        start = self._target(folder) if folder else self._root
        with self._explained("list", prefix or "."):
            return sorted(path for path in self._walk(start) if path.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove a file, and the folders that it leaves empty."""
        target = self._target(path)
        with self._explained("delete", path):
            with suppress(FileNotFoundError):
                target.unlink()
            for parent in target.parents:
                if parent == self._root or not _remove_empty(parent):
                    break

    def _target(self, path: str) -> Path:
        return self._root / checked_path(path)

    def _write(self, path: str, fill: Callable[[str], None], name: Callable[[str, Path], bool]) -> bool:
        target = self._target(path)
        with self._explained("write", path):
            handle, temporary = tempfile.mkstemp(dir=self._temporary)
            os.close(handle)
            try:
                fill(temporary)
                _fsync(temporary)
                done = _with_parents(target, self._root, lambda: name(temporary, target))
                _fsync(target.parent)
                return done
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary)

    @contextmanager
    def _explained(self, what: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = _HINTS.get(error.errno or 0, "check the checkpoint directory and the disk that it is on")
            if isinstance(error, NotADirectoryError | IsADirectoryError):
                hint = "something else has put files there: a checkpoint directory belongs to one job alone"
            raise CheckpointError(
                f"cannot {what} {path} in the checkpoint directory {self._root}: {error}", hint=hint
            ) from error

    def _walk(self, start: Path) -> Iterator[str]:
        for folder, subfolders, names in os.walk(start, onerror=_raise_unless_gone):
            if Path(folder) == self._root:
                subfolders[:] = [name for name in subfolders if name != _TEMPORARY]
            relative = Path(folder).relative_to(self._root)
            yield from ((relative / name).as_posix() for name in names)

    def _temporary_with(self, data: bytes) -> Callable[[str], None]:
        def fill(temporary: str) -> None:
            Path(temporary).write_bytes(data)

        return fill

    def _check_links(self) -> None:
        """The protocol stands on hard links; better refused now than at the first checkpoint."""
        handle, probe = tempfile.mkstemp(dir=self._temporary)
        os.close(handle)
        linked = f"{probe}.linked"
        try:
            os.link(probe, linked)
            os.unlink(linked)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            raise ConfigError(
                f"the file system of {self._root} has no hard links, so it cannot create a file only if it is absent",
                hint="put the checkpoint directory on a local disk or NFS; FAT, and some mounted buckets, will not do",
            ) from error
        finally:
            os.unlink(probe)

    def _remove_abandoned(self) -> None:
        """Temporary files of processes that died; by the file system's own clock, which all its users share."""
        handle, probe = tempfile.mkstemp(dir=self._temporary)
        os.close(handle)
        now_s = os.stat(probe).st_mtime
        os.unlink(probe)
        for entry in os.scandir(self._temporary):
            with suppress(FileNotFoundError):
                if now_s - _touched_s(entry.stat()) > _ABANDONED_S:
                    os.unlink(entry.path)


def open_store(location: str | None) -> CheckpointStore:
    """Open the checkpoint directory at a path or URI; in memory when there is none.

    >>> type(open_store(None)).__name__
    'MemoryStore'

    Args:
        location: A folder ("state/revenue", "file:///var/lakeward/revenue") or a prefix in an object store
            ("s3://bucket/revenue", also gs:// and az://). None keeps checkpoints in memory: they survive a restart of
            the job inside this process, not the end of the process.

    Returns:
        The store. A folder is made if it does not exist.

    Raises:
        ConfigError: The location cannot be a checkpoint directory; says why.
    """
    if location is None:
        return MemoryStore()
    if not location.strip():
        raise ConfigError("the checkpoint directory is empty text", hint="give a folder or a URI, or leave it out")
    if urlsplit(location).scheme in OBJECT_STORE_SCHEMES:
        return ObjectStore(location)
    return FileSystemStore(location)


def _local_root(location: str) -> Path:
    parts = urlsplit(location)
    if parts.scheme == "" or len(parts.scheme) == 1:  # a path; one letter is a Windows drive
        return Path(location).expanduser().absolute()
    if parts.scheme != "file":
        raise ConfigError(
            f"{location} cannot hold checkpoints: no way is known to create a file on {parts.scheme}:// only if it is "
            "absent, and without that two runs of a job could both believe to own it",
            hint=f"use a folder (a path or a file:// URI), or one of {', '.join(OBJECT_STORE_SCHEMES)}",
        )
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise ConfigError(
            f"{location} is not the URI of a folder on this machine", hint="write three slashes: file:///var/lakeward"
        )
    return Path(unquote(parts.path))


def _replace(temporary: str, target: Path) -> bool:
    os.replace(temporary, target)
    return True


def _link(temporary: str, target: Path) -> bool:
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    return True


def _with_parents(target: Path, root: Path, action: Callable[[], bool]) -> bool:
    """Run an action that needs the target's folder; another process may be deleting that folder, empty, just now."""
    for _ in range(10):
        _make_folder(target.parent, root)
        try:
            return action()
        except FileNotFoundError:
            continue
    return action()


def _make_folder(folder: Path, root: Path) -> None:
    if folder.is_dir():
        return
    if folder != root:
        _make_folder(folder.parent, root)
    folder.mkdir(exist_ok=True)
    _fsync(folder.parent)


def _remove_empty(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:  # not empty, or gone: both fine
        return False
    return True


def _fsync(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _touched_s(stat: os.stat_result) -> float:
    """When a temporary file was last worked on. A link is younger than its bytes; making it changed the inode."""
    return max(stat.st_mtime, stat.st_ctime) if stat.st_nlink > 1 else stat.st_mtime


def _raise_unless_gone(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
