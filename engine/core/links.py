"""A second name for a file, or a copy where the file system has no links."""

from __future__ import annotations

import os
import shutil


def link_or_copy(source: str, target: str) -> None:
    """Give a file that nobody will write to again a second name; copy it where that cannot be.

    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source, target = pathlib.Path(folder, "a"), pathlib.Path(folder, "b")
    ...     _ = source.write_bytes(b"finished")
    ...     link_or_copy(str(source), str(target))
    ...     source.unlink()
    ...     target.read_bytes()
    b'finished'

    Args:
        source: A finished file, or a symbolic link to one.
        target: Where there is no file.

    Raises:
        FileExistsError: There is one; it is left alone, since what is written into it may be seen under other names.
        OSError: It can be neither linked nor copied.
    """
    try:
        os.link(os.path.realpath(source), target)  # Linux would link a symbolic link itself, whatever Python is told
    except FileExistsError:
        raise
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
