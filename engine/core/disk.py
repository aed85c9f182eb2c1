"""Full disks: known by their errors, whoever reports them, and what to do about them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from lakeward.engine.core.errors import CheckpointError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TEXTS = tuple(os.strerror(number) for number in _NO_ROOM)


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room: on the disk, in the user's quota, or for so large a file.

    >>> is_full(OSError(errno.ENOSPC, "No space left")), is_full(ValueError("IO error: No space left on device"))
    (True, True)
    >>> is_full(OSError(errno.EACCES, "Permission denied"))
    False

    Args:
        error: Of Python, or of a library that quotes what the operating system said.
    """
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    return any(text in str(error) for text in _TEXTS)


def full_hint(error: BaseException, otherwise: str, room: str = "free some space there") -> str:
    """What to do about an error of a disk.

    >>> full_hint(OSError(errno.ENOSPC, "No space left on device"), "check the disk")
    'the disk is full: free some space there; the job tries again'

    Args:
        error: The error.
        otherwise: What to do if the disk is not full.
        room: How to make room if it is.
    """
    return f"the disk is full: {room}; the job tries again" if is_full(error) else otherwise


def make_state_folder(path: str | Path) -> None:
    """Make a folder for state on this machine's disk, unless it is there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     make_state_folder(f"{parent}/state/counts-0")
    ...     os.path.isdir(f"{parent}/state/counts-0")
    True

    Raises:
        CheckpointError: It cannot be made; a restart may find room.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"cannot make the state folder {path}: {error}", hint=full_hint(error, "is its disk all right?")
        ) from error
