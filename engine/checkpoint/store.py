"""Where checkpoints are kept: eight calls that a folder and an object store can both do.

The one call that carries the protocol is `create_if_absent`: of any number of writers, on any number of machines,
exactly one wins a name. Everything else may be as weak as an object store is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from lakeward.engine.core.errors import CheckpointError, CorruptionError


class CheckpointStore(Protocol):
    """Named bytes. Paths are relative, with `/` between their parts.

    All calls raise `CheckpointError` when the storage fails; then a write may or may not have taken effect. None of
    them ever shows a part of a write.
    """

    def read(self, path: str) -> bytes | None:
        """The whole content; None if, and only if, there is no such file."""
        ...

    def put(self, path: str, data: bytes) -> None:
        """Write, replacing what was there; durable on return."""
        ...

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Write unless the name is taken; durable on return. Returns whether this call made the file."""
        ...

    def put_file(self, path: str, local_path: str) -> None:
        """Take a file of this machine, to which nobody writes any more, into the store; durable on return.

        It replaces what was there, and stays when the local file is deleted.
        """
        ...

    def get_file(self, path: str, local_path: str) -> None:
        """Copy a stored file to this machine.

        Raises:
            CorruptionError: There is no such file.
        """
        ...

    def size(self, path: str) -> int | None:
        """Length in bytes; None if there is no such file."""
        ...

    def list(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`, sorted."""
        ...

    def delete(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""
        ...


@runtime_checkable
class BulkDeletion(Protocol):
    """A store that removes many files with a call, as object stores do."""

    def delete_many(self, paths: Sequence[str]) -> None:
        """Remove files, in any order; those that are not there are left out. Some may be gone when it fails."""
        ...


def delete_all(store: CheckpointStore, paths: Sequence[str]) -> None:
    """Remove files, in any order, with as few calls as the store can.

    >>> store = MemoryStore()
    >>> store.put("a", b""), store.put("b", b""), store.put("c", b"")
    (None, None, None)
    >>> delete_all(store, ["a", "c", "x"]), store.list("")
    (None, ['b'])

    Args:
        store: The store.
        paths: What goes.
    """
    if isinstance(store, BulkDeletion):
        store.delete_many(paths)
        return
    for path in paths:
        store.delete(path)


def checked_path(path: str) -> str:
    """The path itself, if it stays inside the store.

    Raises:
        CheckpointError: It is absolute, or has an empty part, `.` or `..`.
    """
    if any(part in ("", ".", "..") for part in path.split("/")) or "\0" in path:
        raise CheckpointError(
            f"{path!r} is not a path inside a checkpoint directory",
            hint='paths are relative, with single slashes and without ".."',
        )
    return path


def missing_file(path: str, place: str) -> CorruptionError:
    """The error for a stored file that should be there and is not."""
    return CorruptionError(
        f"the checkpoint file {path} is missing from {place}",
        hint="it was deleted from outside, or the directory was only partly copied; put it back or use another one",
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Content:
    """Bytes with an identity, so that `setdefault` tells whose they are."""

    data: bytes


class MemoryStore:
    """A store in this process's memory: for tests, and for jobs that run without a checkpoint directory.

    >>> store = MemoryStore()
    >>> store.create_if_absent("a/b", b"first"), store.create_if_absent("a/b", b"second"), store.read("a/b")
    (True, False, b'first')
    """

    def __init__(self) -> None:
        self._files: dict[str, _Content] = {}

    def read(self, path: str) -> bytes | None:
        """The whole content, or None."""
        content = self._files.get(checked_path(path))
        return None if content is None else content.data

    def put(self, path: str, data: bytes) -> None:
        """Write, replacing what was there."""
        self._files[checked_path(path)] = _Content(bytes(data))

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Write unless the name is taken."""
        mine = _Content(bytes(data))
        return self._files.setdefault(checked_path(path), mine) is mine

    def put_file(self, path: str, local_path: str) -> None:
        """Copy a file of this machine into memory."""
        try:
            self.put(path, Path(local_path).read_bytes())
        except OSError as error:
            raise CheckpointError(f"cannot read {local_path} to store it as {path}: {error}") from error

    def get_file(self, path: str, local_path: str) -> None:
        """Write a stored file to this machine's disk."""
        data = self.read(path)
        if data is None:
            raise missing_file(path, "memory")
        try:
            Path(local_path).write_bytes(data)
        except OSError as error:
            raise CheckpointError(f"cannot write {local_path}: {error}") from error

    def size(self, path: str) -> int | None:
        """Length in bytes, or None."""
        data = self.read(path)
        return None if data is None else len(data)

    def list(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`, sorted."""
        return sorted(path for path in self._files.copy() if path.startswith(prefix))

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._files.pop(checked_path(path), None)
