"""State files that are still on this machine's disk: a restore reads them there instead of in a distant store.

Flink calls it task-local recovery. Here it is a store around the store: whatever goes up or comes down is linked into a
folder under its checksum, and goes when the file goes. The store stays what counts: a file that it no longer has is
missing, whatever lies here, and a copy that is not what its name says is not used.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.store import CheckpointStore, delete_all

log = logging.getLogger("lakeward")

_IMMUTABLE = ".sst"
"""Files that a key-value store never writes into; others that were restored belong to who has restored them."""


def tell_where_from(store: CheckpointStore) -> None:
    """Log how much of what was restored has come from where, if any of it could come from this machine's disk.

    Args:
        store: The job's.
    """
    if isinstance(store, LocalCopies) and store.local_bytes + store.distant_bytes:
        log.info(
            "restored %d bytes from this machine's disk and %d from the checkpoint store",
            store.local_bytes,
            store.distant_bytes,
        )


class LocalCopies:
    """A store that remembers, on this machine's disk, the state files that passed through it.

    >>> import tempfile
    >>> from lakeward.engine.checkpoint.store import MemoryStore
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sha256 = hashlib.sha256(b"state").hexdigest()
    ...     _ = Path(folder, "1.sst").write_bytes(b"state")
    ...     store = LocalCopies(MemoryStore(), Path(folder))
    ...     store.put_file(f"files/000001/{sha256[:2]}/{sha256}", f"{folder}/1.sst")
    ...     store.get_file(f"files/000001/{sha256[:2]}/{sha256}", f"{folder}/2.sst")
    ...     store.local_bytes, store.distant_bytes
    (5, 0)

    Processes of one machine share the folder. Copies are hard links: of a file that is in use they take no room.

    Args:
        inner: The store.
        folder: Where copies lie, on the file system of the local state; whoever made it removes it.
    """

    def __init__(self, inner: CheckpointStore, folder: Path) -> None:
        self._inner = inner
        self._folder = folder
        self.local_bytes = 0
        """What `get_file` has found here."""
        self.distant_bytes = 0
        """What it has fetched."""

    def read(self, path: str) -> bytes | None:
        """The store's: whoever reads wants to know what is there."""
        return self._inner.read(path)

    def put(self, path: str, data: bytes) -> None:
        """The store's."""
        self._inner.put(path, data)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """The store's."""
        return self._inner.create_if_absent(path, data)

    def put_file(self, path: str, local_path: str) -> None:
        """Into the store; then it is kept here too."""
        self._inner.put_file(path, local_path)
        self._keep(path, local_path)

    def get_file(self, path: str, local_path: str) -> None:
        """From here if it is here and whole, else from the store."""
        if self._copied(path, local_path):
            self.local_bytes += os.path.getsize(local_path)
            return
        self._inner.get_file(path, local_path)
        self.distant_bytes += os.path.getsize(local_path)
        if local_path.endswith(_IMMUTABLE):
            self._keep(path, local_path)

    def size(self, path: str) -> int | None:
        """The store's."""
        return self._inner.size(path)

    def list(self, prefix: str) -> list[str]:
        """The store's."""
        return self._inner.list(prefix)

    def delete(self, path: str) -> None:
        """There and here."""
        self._inner.delete(path)
        self._forget(path)

    def delete_many(self, paths: Sequence[str]) -> None:
        """There and here."""
        delete_all(self._inner, paths)
        for path in paths:
            self._forget(path)

    def _copy_of(self, path: str) -> Path | None:
        file = paths.parse_state_file(path)
        return None if file is None else self._folder / file.sha256

    def _keep(self, path: str, local_path: str) -> None:
        """A copy is a help and no more: where none can be made, there is none."""
        copy = self._copy_of(path)
        if copy is None:
            return
        try:
            os.link(local_path, copy)
        except FileExistsError:
            pass
        except OSError as error:
            log.debug("%s is not kept on this machine's disk: %s", path, error)

    def _copied(self, path: str, local_path: str) -> bool:
        copy = self._copy_of(path)
        if copy is None:
            return False
        try:
            shutil.copyfile(copy, local_path)
            with open(local_path, "rb") as file:
                is_whole = hashlib.file_digest(file, "sha256").hexdigest() == copy.name
        except OSError:
            return False
        if not is_whole:
            log.warning("the copy of %s on this machine's disk is damaged, and is fetched again", path)
            self._forget(path)
        return is_whole

    def _forget(self, path: str) -> None:
        copy = self._copy_of(path)
        if copy is not None:
            with suppress(OSError):  # it ends with the folder
                copy.unlink()
