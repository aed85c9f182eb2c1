"""The key-value store of jobs: RocksDB, through rocksdict. The only file that imports it.

The write-ahead log is off: between checkpoints the job's inputs can be read again, and a checkpoint flushes.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, starmap

from rocksdict import (
    BlockBasedOptions,
    Cache,
    Checkpoint,
    DBCompressionType,
    Options,
    Rdict,
    ReadOptions,
    WriteBatch,
    WriteOptions,
)

from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.disk import full_hint, is_full
from lakeward.engine.core.errors import CheckpointError, CorruptionError
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.kv import KeyValue

log = logging.getLogger("lakeward")

_LOCAL_ROOM = "free some space there, or put local state on another one with $TMPDIR"
_used = False
_STALL_PAUSE_MS = 2
_WRITE_ROWS_MAX = 4_096  # more at once would not stay in the processor's cache
_REOPEN_PREFIXES = ("CURRENT", "MANIFEST-")
_TABLE_SUFFIXES = (".sst", ".blob")
_BLOB_BYTES_MIN = 16 << 10
"""Values of this size (chunks of row tables) lie in files of their own, which compactions do not write again: less
work, and less to store at the next checkpoint (WiscKey, Lu and others, 2016)."""


def is_used() -> bool:
    """Whether this process has opened a RocksDB: from then on it has threads, which a process forked from it lacks."""
    return _used


@dataclass(frozen=True, slots=True)
class RocksDbConfig:
    """How a RocksDB is set up.

    Args:
        block_cache_bytes: Memory for blocks read from disk.
        write_buffer_bytes: Size at which the memory table goes to disk.
        bloom_bits_per_key: Size of the filter that makes looking up a missing key cheap.
        background_jobs: Threads for flushes and compactions.
    """

    block_cache_bytes: int = 32 << 20
    write_buffer_bytes: int = 64 << 20
    bloom_bits_per_key: int = 10
    background_jobs: int = 2


class RocksDbStore:
    """One RocksDB in one directory."""

    def __init__(self, directory: str, config: RocksDbConfig | None = None) -> None:
        global _used
        _used = True
        self._directory = directory
        config = config or RocksDbConfig()
        self._write_options = WriteOptions()
        self._write_options.disable_wal = True  # type: ignore[method-assign, assignment]  # a property, whatever the .pyi says
        self._ask_options = WriteOptions()
        self._ask_options.disable_wal = True  # type: ignore[method-assign, assignment]
        self._ask_options.no_slowdown = True
        try:
            self._db = Rdict(directory, _options(config))
        except Exception as error:
            what = f"cannot open the state store {directory}: {error}"
            if is_full(error):
                raise CheckpointError(what, hint=full_hint(error, "", _LOCAL_ROOM)) from error
            raise CorruptionError(what) from error
        self._db.set_write_options(self._write_options)

    def write(self, puts: Iterable[KeyValue], deletes: Sequence[bytes] = ()) -> None:
        """Delete `deletes`, then store `puts`; sorted input makes this several times faster.

        Raises:
            CheckpointError: The disk is full or fails; the store lacks rows from then on.
        """
        try:
            self._write(puts, deletes)
        except Exception as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"cannot write the state store {self._directory}: {error}",
            hint=full_hint(error, "is its disk all right?", _LOCAL_ROOM),
        )

    def _wait_for_flush(self) -> None:
        """Wait until a write can be taken: with full memory tables RocksDB does so inside the write.

        It would hold the interpreter's lock meanwhile, so that nothing else of this process would run; and if the flush
        fails because the disk is full, it would go on waiting until there is room. Asked by a write of nothing that
        must not wait, it says at once that tables are full, or why they cannot be flushed.
        """
        while self._is_stalled():
            SystemClock().sleep_ms(_STALL_PAUSE_MS)

    def _is_stalled(self) -> bool:
        try:
            self._db.write(WriteBatch(raw_mode=True), self._ask_options)
        except Exception as error:
            if "Result incomplete" not in str(error):
                raise
            return self._db.property_int_value("rocksdb.is-write-stopped") != 0  # else it only asks to slow down
        return False

    def _write(self, puts: Iterable[KeyValue], deletes: Sequence[bytes]) -> None:
        if deletes:
            batch = WriteBatch(raw_mode=True)
            for key in deletes:
                batch.delete(key)
            self._wait_for_flush()
            self._db.write(batch, self._write_options)
        rest = iter(puts)
        while True:
            batch = WriteBatch(raw_mode=True)
            deque(starmap(batch.put, islice(rest, _WRITE_ROWS_MAX)), maxlen=0)
            if batch.is_empty():
                return
            self._wait_for_flush()
            self._db.write(batch, self._write_options)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Forget every key with `start <= key < end`."""
        try:
            self._wait_for_flush()
            self._db.delete_range(start, end, write_opt=self._write_options)
        except Exception as error:
            raise self._unwritten(error) from error

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none."""
        if not keys:
            return []
        try:
            values: list[bytes | None] = self._db.get(list(keys))  # type: ignore[assignment]
        except Exception as error:
            raise CorruptionError(f"cannot read the state store {self._directory}: {error}") from error
        return values

    def scan(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        """Keys with `start <= key < end` and their values, in key order."""
        options = ReadOptions()
        options.set_iterate_upper_bound(end)
        row: KeyValue | None = None
        for row in self._db.items(from_key=start, read_opt=options):  # type: ignore[assignment]
            yield row  # type: ignore[misc]
        self._check_scanned(start if row is None else row[0] + b"\0", options)

    def _check_scanned(self, start: bytes, options: ReadOptions) -> None:
        """An iterator of rocksdict stops without a word at a damaged block; so look again where it stopped."""
        rest = self._db.iter(options)
        try:
            rest.seek(start)
            rest.status()
        except Exception as error:
            raise CorruptionError(f"cannot read the state store {self._directory}: {error}") from error
        if rest.valid():
            raise CorruptionError(f"the state store {self._directory} stopped a scan before its end")

    def checkpoint(self, target_dir: str) -> list[LocalFile]:
        """Hard-link the tables (after a flush) into a new directory; milliseconds, whatever the size."""
        try:
            os.makedirs(os.path.dirname(target_dir) or ".", exist_ok=True)
            Checkpoint(self._db).create_checkpoint(target_dir)
            return _keep_needed_files(target_dir)
        except Exception as error:
            raise CheckpointError(
                f"cannot write the state snapshot {target_dir}: {error}", hint=full_hint(error, "", _LOCAL_ROOM)
            ) from error

    def close(self) -> None:
        """Close the database and release its lock, also when the disk is full."""
        try:
            self._db.close()
        except Exception as error:  # RocksDB flushes here what nobody asks for any more: snapshots are what counts
            log.debug("the state store %s was closed without its last rows: %s", self._directory, error)


class RocksDbStoreFactory:
    """Opens `RocksDbStore`s."""

    def __init__(self, config: RocksDbConfig | None = None) -> None:
        self._config = config or RocksDbConfig()

    def open(self, directory: str) -> RocksDbStore:
        """A store in `directory`: empty, or with the checkpoint files that lie there.

        Raises:
            CorruptionError: The files are damaged, incomplete, or of another kind of store.
        """
        names = os.listdir(directory) if os.path.isdir(directory) else []
        if names and "CURRENT" not in names:
            raise CorruptionError(
                f"no RocksDB in {directory}: it holds {sorted(names)[:3]} but no file CURRENT",
                hint="the state may have been written by another kind of store, or a file was lost",
            )
        os.makedirs(directory, exist_ok=True)
        return RocksDbStore(directory, self._config)


def _options(config: RocksDbConfig) -> Options:
    blocks = BlockBasedOptions()
    blocks.set_bloom_filter(config.bloom_bits_per_key, False)
    blocks.set_block_cache(Cache(config.block_cache_bytes))
    options = Options(raw_mode=True)  # anything else overwrites rocksdict's own config file in the directory
    options.create_if_missing(True)
    options.set_block_based_table_factory(blocks)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(config.write_buffer_bytes)
    options.set_max_background_jobs(config.background_jobs)
    options.set_keep_log_file_num(1)
    options.set_enable_blob_files(True)
    options.set_min_blob_size(_BLOB_BYTES_MIN)
    options.set_blob_compression_type(DBCompressionType.none())  # chunks of row tables come compressed
    options.set_enable_blob_gc(True)
    options.set_paranoid_checks(True)
    return options


def _keep_needed_files(directory: str) -> list[LocalFile]:
    files = []
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        if name.endswith(_TABLE_SUFFIXES) or name.startswith(_REOPEN_PREFIXES):
            files.append(LocalFile(name, path))
        elif os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)  # an empty log and options that are always given anew
    return files
