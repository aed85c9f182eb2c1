"""A key-value store in a dictionary: the reference model of the port, and the simulator's store."""

from __future__ import annotations

import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

from lakeward.engine.core.errors import CheckpointError, CorruptionError
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.kv import KeyValue

_FILE_NAME = "rows.lwkv"
_MAGIC = b"LWKV\x01"  # the last byte is the format's version
_LENGTHS = struct.Struct("<II")
_CHECKSUM = struct.Struct("<I")


class MemoryKeyValueStore:
    """All rows in a dict; a checkpoint is one file with all of them.

    >>> store = MemoryKeyValueStore()
    >>> store.write([(b"a", b"1"), (b"b", b"2")])
    >>> store.get_many([b"b", b"x"]), list(store.scan(b"a", b"b"))
    ([b'2', None], [(b'a', b'1')])
    """

    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self._rows = {} if rows is None else rows
        self._sorted: list[bytes] | None = None

    def write(self, puts: Iterable[KeyValue], deletes: Sequence[bytes] = ()) -> None:
        """Delete `deletes`, then store `puts`."""
        for key in deletes:
            self._rows.pop(key, None)
        self._rows.update(puts)
        self._sorted = None

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Forget every key with `start <= key < end`."""
        for key in self._keys_between(start, end):
            del self._rows[key]
        self._sorted = None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none."""
        return [self._rows.get(key) for key in keys]

    def scan(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        """Keys with `start <= key < end` and their values, in key order."""
        for key in self._keys_between(start, end):
            yield key, self._rows[key]

    def checkpoint(self, target_dir: str) -> list[LocalFile]:
        """Write all rows to one file in a new directory."""
        path = os.path.join(target_dir, _FILE_NAME)
        try:
            os.makedirs(target_dir)
            with open(path, "wb") as file:
                file.write(_encode(self._rows))
        except OSError as error:
            raise CheckpointError(f"cannot write the state snapshot {path}: {error}") from error
        return [LocalFile(_FILE_NAME, path)]

    def close(self) -> None:
        """Forget all rows."""
        self._rows = {}
        self._sorted = None

    def _keys_between(self, start: bytes, end: bytes) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self._rows)
        return self._sorted[bisect_left(self._sorted, start) : bisect_left(self._sorted, end)]


class MemoryStoreFactory:
    """Opens `MemoryKeyValueStore`s."""

    def open(self, directory: str) -> MemoryKeyValueStore:
        """An empty store, or the one whose checkpoint file lies in `directory`.

        Raises:
            CorruptionError: The file is damaged, or the directory holds files of another kind of store.
        """
        names = os.listdir(directory) if os.path.isdir(directory) else []
        if not names:
            return MemoryKeyValueStore()
        path = os.path.join(directory, _FILE_NAME)
        try:
            with open(path, "rb") as file:
                return MemoryKeyValueStore(_decode(file.read(), path))
        except FileNotFoundError as error:
            raise CorruptionError(
                f"no state snapshot {path}; the directory holds {sorted(names)[:3]}",
                hint="the state may have been written by another kind of store (RocksDB)",
            ) from error


def _encode(rows: dict[bytes, bytes]) -> bytes:
    parts = [_MAGIC]
    for key in sorted(rows):
        value = rows[key]
        parts += (_LENGTHS.pack(len(key), len(value)), key, value)
    body = b"".join(parts)
    return body + _CHECKSUM.pack(zlib.crc32(body))


def _decode(content: bytes, path: str) -> dict[bytes, bytes]:
    end = len(content) - _CHECKSUM.size
    if not content.startswith(_MAGIC) or content[end:] != _CHECKSUM.pack(zlib.crc32(content[:end])):
        raise CorruptionError(f"the state snapshot {path} is damaged: wrong header or checksum")
    rows, position = {}, len(_MAGIC)
    while position < end:
        key_size, value_size = _LENGTHS.unpack_from(content, position)
        middle = position + _LENGTHS.size + key_size
        rows[content[position + _LENGTHS.size : middle]] = content[middle : middle + value_size]
        position = middle + value_size
    return rows
