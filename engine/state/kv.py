"""The key-value store port: ordered bytes, batched reads and writes, cheap checkpoints.

Written by `lakeward.engine.state.table` only. Implementations: `RocksDbStore` for jobs, `MemoryKeyValueStore` as the
reference model and for simulation. `lakeward.testing.state_suite` holds the checks that every implementation passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from lakeward.engine.core.snapshots import LocalFile

KeyValue = tuple[bytes, bytes]


class KeyValueStore(Protocol):
    """An ordered map of bytes to bytes, owned by one subtask. Not durable by itself: its checkpoints are."""

    def write(self, puts: Iterable[KeyValue], deletes: Sequence[bytes] = ()) -> None:
        """Delete `deletes`, then store `puts`, as one step.

        Args:
            puts: Keys with values, sorted by key, each key once.
            deletes: Keys to forget; unknown ones are ignored.
        """
        ...

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Forget every key with `start <= key < end`; costs the same for one key and for millions."""
        ...

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none; fastest when the keys are sorted."""
        ...

    def scan(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        """Keys with `start <= key < end` and their values, in key order; do not write meanwhile."""
        ...

    def checkpoint(self, target_dir: str) -> list[LocalFile]:
        """Make files from which a store with the present content can be opened.

        Args:
            target_dir: A directory that does not exist yet; it is made. The files in it never change, and live until
                the caller deletes them.

        Raises:
            CheckpointError: The files could not be written.
        """
        ...

    def close(self) -> None:
        """Release memory and locks; the store's own directory may be deleted afterwards."""
        ...


class StoreFactory(Protocol):
    """Chooses the kind of store."""

    def open(self, directory: str) -> KeyValueStore:
        """Open a store in a directory: empty if the directory is missing or empty, else with the files of a checkpoint.

        The store works on the directory from then on, but never changes the content of a file that is there.

        Raises:
            CorruptionError: A file is missing or damaged.
        """
        ...
