"""A key-value store whose snapshot is written later, by whoever comes first: a background thread, or the next access.

Writing a million changed keys takes seconds, taking copies of them takes milliseconds. So the worker loop only takes
copies (`defer`), and goes on; the thread that stores the snapshot writes them, piece by piece, and links the files
(`DeferredSnapshot.finish`). What the loop does to the store in between, which is rare as long as state fits in memory,
has to find it as if all had been written at once, and must not get into the snapshot: it first writes what is left,
itself. So there is no order of threads that can be seen from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from lakeward.engine.core.locks import Mutex
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.kv import KeyValue, KeyValueStore

Piece = tuple[Sequence[KeyValue], Sequence[bytes]]
"""What is written at once: rows in the order of their keys, and keys to forget before."""


class DeferredSnapshot:
    """A snapshot that has been taken, and is being written.

    Args:
        store: The store itself.
        lock: Held while it is used.
        pieces: What is to be written.
        target_dir: Where the files go.
    """

    def __init__(self, store: KeyValueStore, lock: Mutex, pieces: Iterator[Piece], target_dir: str) -> None:
        self._store = store
        self._lock = lock
        self._pieces = pieces
        self._target_dir = target_dir
        self._files: list[LocalFile] | None = None
        self._error: Exception | None = None
        self._written = False
        self._wanted = True

    def finish(self) -> list[LocalFile]:
        """Write what is left, and make the files; others may use the store between two pieces.

        Returns:
            The files.

        Raises:
            CheckpointError: The files cannot be written.
        """
        while self._step():
            pass
        if self._error is not None:
            raise self._error
        assert self._files is not None, "it is done"
        return self._files

    def settle(self) -> None:
        """Do the same before the store is used otherwise. That files cannot be made is left to `finish` to say.

        Raises:
            Exception: Not all could be written: the store lacks rows.
        """
        while self._step():
            pass
        if self._error is not None and not self._written:
            raise self._error

    def give_up(self) -> None:
        """No files are wanted any more: what is left is written when the store is used next, for the store alone."""
        with self._lock:
            self._wanted = False

    def _step(self) -> bool:
        """Write one piece, or make the files if they are wanted; False when there is nothing more to do."""
        with self._lock:
            if self._error is not None or self._files is not None:
                return False
            try:
                piece = next(self._pieces, None)
                if piece is not None:
                    self._store.write(*piece)
                    return True
                self._written = True
                self._files = self._store.checkpoint(self._target_dir) if self._wanted else []
            except Exception as error:
                self._error = error
            return False


class DeferredStore:
    """A `KeyValueStore` over another one.

    Args:
        store: The store itself; nobody else uses it.
    """

    def __init__(self, store: KeyValueStore) -> None:
        self._store = store
        self._lock = Mutex()
        self._snapshot: DeferredSnapshot | None = None

    def defer(self, pieces: Iterable[Piece], target_dir: str) -> DeferredSnapshot:
        """Take a snapshot of what the store holds when these pieces have been written.

        Args:
            pieces: Made when they are written, from copies.
            target_dir: A directory that does not exist yet.
        """
        self._settle()
        self._snapshot = DeferredSnapshot(self._store, self._lock, iter(pieces), target_dir)
        return self._snapshot

    def _settle(self) -> None:
        if self._snapshot is not None:
            self._snapshot.settle()
            self._snapshot = None

    def write(self, puts: Iterable[KeyValue], deletes: Sequence[bytes] = ()) -> None:
        """Delete `deletes`, then store `puts`."""
        self._settle()
        self._store.write(puts, deletes)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Forget every key with `start <= key < end`."""
        self._settle()
        self._store.delete_range(start, end)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none."""
        self._settle()
        return self._store.get_many(keys)

    def scan(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        """Keys with `start <= key < end` and their values, in key order."""
        self._settle()
        return self._store.scan(start, end)

    def checkpoint(self, target_dir: str) -> list[LocalFile]:
        """Make files from which a store with the present content can be opened."""
        return self.defer((), target_dir).finish()

    def close(self) -> None:
        """Release memory and locks; a snapshot that is not finished never will be."""
        with self._lock:
            self._store.close()
