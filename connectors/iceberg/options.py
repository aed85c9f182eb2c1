"""The options of the Iceberg sink that go beyond its constructor's arguments, and their defaults."""

from __future__ import annotations

from typing import Literal

OnRewind = Literal["refuse", "rollback", "append"]
OnExisting = Literal["refuse", "append"]
Create = Literal["if_not_exists", "never"]

TARGET_FILE_SIZE_BYTES = 128 << 20
"""Compressed size at which a data file is closed. Most streams close files earlier, at every checkpoint."""

ROW_GROUP_BYTES_MAX = 64 << 20
"""Arrow bytes of one file that are gathered before they are encoded as a row group."""

BUFFER_BYTES_MAX = 256 << 20
"""Arrow bytes that all open files of a writer may hold together; beyond it the largest is written out."""

OPEN_FILES_MAX = 128
"""Data files (partitions) a writer keeps open; beyond it the least recently used is closed."""

EMPTY_CHECKPOINTS_MAX = 10
"""Checkpoints without rows in a row after which an empty snapshot is committed to move the marker on."""

SNAPSHOTS_RETAINED = 30
"""Newest snapshots that are kept in tables which the sink created; older ones of its own are expired."""

EXPIRE_AT_ONCE_MAX = 5
"""Snapshots that one commit expires. In the long run it is one for one; more is for a table that has many left over."""

RETAINED_PROPERTY = "lakeward.snapshots-retained"
"""Table property with the number of newest snapshots to keep; tables without it are never expired by us."""

COMMIT_ATTEMPTS_MAX = 20
COMMIT_BACKOFF_MIN_MS = 20
COMMIT_BACKOFF_MAX_MS = 2_000

TABLE_PROPERTIES = {
    "format-version": "2",
    "write.metadata.previous-versions-max": "5",
    "write.metadata.delete-after-commit.enabled": "true",
    "write.delete.isolation-level": "snapshot",
    "commit.manifest.min-count-to-merge": "10",
    "commit.manifest.target-size-bytes": str(1 << 20),
    RETAINED_PROPERTY: str(SNAPSHOTS_RETAINED),
}
"""What tables get that the sink creates: they keep metadata and commits small over thousands of commits, and let a
compaction run beside the stream (with the default isolation it would fail at every concurrent append)."""
