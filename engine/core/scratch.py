"""Folders for state on this machine's disk, which do not outlive their process for long, however it dies.

A process that is killed cannot remove its folder, so the next one does. It knows the dead by a lock on the folder
itself, which the kernel lets go of with the process (`flock`): a number in a file may be another process's by then, and
a file in the folder could be missing. `systemd-tmpfiles` leaves locked folders alone, too, however old they are.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import socket
import sys
import tempfile
import weakref
from pathlib import Path

if sys.platform != "win32":
    import fcntl

log = logging.getLogger("lakeward")

_RANDOM = re.compile(r"[a-z0-9_]{8}")
"""What `mkdtemp` adds to a name."""


class ScratchFolder:
    """A new folder that is this process's own, and is removed when it is closed.

    First it removes what dead processes have left beside it: folders of its kind, made by this user on this host, that
    nobody holds. Those of living processes, and everything else, are left alone. Where folders cannot be locked
    (Windows, NFS) none is known to be of a dead process, and none is removed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     folder = ScratchFolder(parent)
    ...     made = folder.path.is_dir()
    ...     folder.close()
    ...     made, folder.path.exists()
    (True, False)

    Guarantees: a folder is never removed while its process lives, a forked child's death included; what a child that
    was forked does with this object does not touch the folder.

    Args:
        parent: Where it lies; None: the temporary directory (`$TMPDIR`).
    """

    def __init__(self, parent: str | None = None) -> None:
        where = Path(tempfile.gettempdir() if parent is None else parent)
        remove_abandoned(where)
        self.path, self._lock = _make(where)
        self._owned = True
        _open.add(self)

    def close(self) -> None:
        """Remove the folder; a second call does nothing."""
        if self._owned:
            self._owned = False
            _remove(self.path)
            self._unlock()

    def _disown(self) -> None:
        """In a forked child: the folder is the parent's, and the child may live longer."""
        self._owned = False
        self._unlock()

    def _unlock(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()


class _Lock:
    """A descriptor that holds the lock on a folder until it is closed, which it is with this object at the latest."""

    def __init__(self, descriptor: int) -> None:
        self.release = weakref.finalize(self, os.close, descriptor)


def remove_abandoned(parent: Path) -> None:
    """Remove the scratch folders of dead processes; what cannot be removed is named in a warning.

    Args:
        parent: Where they lie.
    """
    if sys.platform == "win32":
        return
    prefix = _prefix()
    try:
        names = os.listdir(parent)
    except OSError as error:
        log.warning("no folders of dead processes can be looked for in %s: %s", parent, error)
        return
    for name in (one for one in names if one.startswith(prefix) and _RANDOM.fullmatch(one, len(prefix))):
        path = parent / name
        lock = _lock_if_ours(path)
        if lock is not None:
            log.info("removing %s, left behind by a process that has died", path)
            _remove(path)
            lock.release()


def _prefix() -> str:
    """With the host's name: of a disk that several hosts share, each might see its own locks only."""
    return f"lakeward-local-{re.sub(r'[^A-Za-z0-9.]', '-', socket.gethostname())}-"


def _make(parent: Path) -> tuple[Path, _Lock | None]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=_prefix(), dir=parent))
        try:
            lock = _lock(path)
        except OSError as error:
            log.debug("%s cannot be locked, and will stay if this process is killed: %s", path, error)
            return path, None
        if lock is not None or sys.platform == "win32":
            return path, lock
        # Between the two calls somebody took it for one of a dead process, and is removing it: make another.


def _lock_if_ours(path: Path) -> _Lock | None:
    try:
        return _lock(path) if os.lstat(path).st_uid == os.getuid() else None
    except OSError:  # not a folder, gone, or on a file system without locks: nothing that we could call abandoned
        return None


def _lock(path: Path) -> _Lock | None:
    """Lock a folder; None when somebody else has it, or it is gone.

    Raises:
        OSError: It cannot be locked at all.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    lock = _Lock(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass  # taken, or removed by the one who had it
    except OSError:
        lock.release()
        raise
    lock.release()
    return None


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        pass  # somebody else is removing it, too
    except OSError as error:
        log.warning("the folder %s cannot be removed, and takes up room on the disk: %s", path, error)


_open: weakref.WeakSet[ScratchFolder] = weakref.WeakSet()


def _disown_all() -> None:
    for folder in _open:
        folder._disown()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_disown_all)
