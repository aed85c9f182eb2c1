"""The few things a sink does to a directory: durable writes, renames, and files that only one can create."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from lakeward.connectors.files.paths import Location
from lakeward.engine.core.errors import ConfigError, SinkError

_HOPELESS = {errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP}
"""What the file system says to places that will not become writable by waiting."""


class Storage:
    """A directory that files are put into; names are relative to it.

    On a local disk what is written is synced before it counts, and `create` is atomic. On an object store an object
    appears whole or not at all; there `create` looks before it writes, so two writers in the same instant could both
    succeed: the checkpoint's claim keeps such writers apart.

    Args:
        location: The directory.
    """

    def __init__(self, location: Location) -> None:
        self._filesystem = location.filesystem
        self._root = location.path.rstrip("/")
        self._local = isinstance(location.filesystem, fs.LocalFileSystem)

    def check_writable(self, below: Sequence[str]) -> None:
        """Refuse a local directory that nobody can write into or make: trying again would not help.

        Object stores say so when the first object is written.

        Args:
            below: Directories in it that will be written, too.

        Raises:
            ConfigError: Such a directory; names it and the reason.
            SinkError: Another reason, which may pass: a full disk.
        """
        for name in ("", *below) if self._local else ():
            wanted = Path(self._path(name))
            there = next(place for place in (wanted, *wanted.parents) if os.path.lexists(place))
            try:
                # Asking for rights is not enough: root has all of them, on read-only file systems and in /proc, too.
                os.rmdir(tempfile.mkdtemp(prefix=".lakeward-", dir=there))
            except OSError as error:
                hopeless = error.errno in _HOPELESS
                raise (ConfigError if hopeless else SinkError)(
                    f"{self._root or '/'} cannot be written: nothing can be made in {there}: {error.strerror}",
                    hint="give a directory that can be made or written, or correct the rights to it",
                ) from error

    def place(self, name: str) -> str:
        """Where a file is, for errors."""
        return self._path(name)

    def open_output(self, name: str) -> pa.NativeFile:
        """A new file to write to."""
        path = self._path(name)
        self._filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        return self._filesystem.open_output_stream(path, compression=None)

    def sync(self, name: str) -> None:
        """Make a closed file survive a power cut."""
        if self._local:
            _sync(self._path(name))
            _sync(self._path(name).rpartition("/")[0])

    def size_bytes(self, name: str) -> int | None:
        """A file's length; None when there is none."""
        info = self._filesystem.get_file_info(self._path(name))
        return int(info.size or 0) if info.type == fs.FileType.File else None

    def move(self, source: str, target: str) -> None:
        """Rename, atomically on a local disk, and durably."""
        self._filesystem.create_dir(self._path(target).rpartition("/")[0], recursive=True)
        self._filesystem.move(self._path(source), self._path(target))
        self.sync(target)

    def delete(self, name: str) -> None:
        """Delete a file; nothing when there is none."""
        if self.size_bytes(name) is not None:
            self._filesystem.delete_file(self._path(name))

    def read(self, name: str) -> bytes | None:
        """A whole file; None when there is none."""
        if self.size_bytes(name) is None:
            return None
        with self._filesystem.open_input_stream(self._path(name), compression=None) as stream:
            return bytes(stream.read())

    def create(self, name: str, data: bytes, *, token: str) -> bool:
        """Write a whole file unless one of that name exists; whether it was written.

        Args:
            name: The file.
            data: All of it.
            token: Unlike that of any other writer: part of a name that is used meanwhile.
        """
        if self.size_bytes(name) is not None:
            return False
        draft = f"{name}.{token}.tmp" if self._local else name
        with self.open_output(draft) as stream:
            stream.write(data)
        return not self._local or self._publish(draft, name)

    def _publish(self, draft: str, name: str) -> bool:
        self.sync(draft)
        try:
            os.link(self._path(draft), self._path(name))  # fails if it exists, where a rename would replace it
        except FileExistsError:
            return False
        finally:
            self.delete(draft)
        self.sync(name)
        return True

    def names(self, directory: str) -> list[str]:
        """Names of the files right in a directory, sorted; none when there is no such directory."""
        selector = fs.FileSelector(self._path(directory), allow_not_found=True)
        infos = self._filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == fs.FileType.File)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _sync(path: str) -> None:
    descriptor = os.open(Path(path), os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
