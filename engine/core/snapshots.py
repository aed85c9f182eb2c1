"""What a snapshot leaves behind: small, frozen, JSON-able descriptions of state files and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lakeward.engine.core.ids import OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file of a state snapshot on this machine's disk, not yet in the checkpoint store.

    Args:
        name: Its name inside the snapshot ("000017.sst").
        path: Where it lies now; it does not change any more.
    """

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the checkpoint store, addressed by its content.

    Args:
        name: Its name inside the snapshot.
        size_bytes: Its length.
        sha256: Its checksum, and its name in the store.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TableSnapshot:
    """The keyed tables of one operator subtask at a checkpoint.

    Args:
        tables: The table specs as JSON (names, key types, columns, layout version), so that the state can be read
            without the job.
        key_group_start: First key group in it.
        key_group_end: One past the last.
        files: The key-value store's files.
    """

    tables: JsonObject
    key_group_start: int
    key_group_end: int
    files: tuple[StoredFile, ...]


@dataclass(frozen=True, slots=True)
class OperatorSnapshot:
    """All state of one operator subtask at a checkpoint.

    Args:
        uid: The operator.
        subtask: Which parallel instance.
        state: What `Operator.snapshot` returned (for a source: its splits and positions); None when nothing.
        keyed: Its keyed tables; None when it has none.
        committables: What a sink's writer prepared for this checkpoint.
    """

    uid: OperatorId
    subtask: SubtaskIndex
    state: JsonObject | None = None
    keyed: TableSnapshot | None = None
    committables: Sequence[JsonObject] = ()
