"""Checkpoints in a folder share files with the stores that write them; nobody may ever change one."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lakeward.engine.api.state import ColumnSpec, RowsSpec, TableSpec
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.checkpoint.transfer import FileTransfer
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import Generation
from lakeward.engine.core.keygroups import key_groups
from lakeward.engine.core.snapshots import StoredFile
from lakeward.engine.state.backend import RestoreSource, StateBackend, StateFiles
from lakeward.engine.state.rocksdb import RocksDbConfig, RocksDbStoreFactory

COUNTS = TableSpec("counts", (("k", pa.int64()),), (ColumnSpec("n", pa.int64()),))
ROWS = RowsSpec("rows", pa.schema([("k", pa.int64()), ("text", pa.string())]), ("k",))
GROUPS = 16
FACTORY = RocksDbStoreFactory(RocksDbConfig(write_buffer_bytes=64 << 10))

Identity = tuple[int, int, bytes]
Part = tuple[StateFiles, tuple[StoredFile, ...], range]


class Subtask:
    """A backend with a table of each kind; small write buffers make RocksDB flush and compact all the time."""

    def __init__(self, directory: Path, groups: range, sources: list[RestoreSource]) -> None:
        self.groups = groups
        self.backend = StateBackend(FACTORY, str(directory), groups, GROUPS, memory_bytes=1 << 16)
        self.backend.restore(sources)
        self._counts, self._rows = self.backend.table(COUNTS), self.backend.rows(ROWS)

    def write(self, keys: np.ndarray) -> None:
        """Count our keys among these, and keep a row of each."""
        theirs = key_groups(hash_columns([pa.array(keys)]), GROUPS)
        ours = pa.array(keys[(theirs >= self.groups.start) & (theirs < self.groups.stop)])
        pane = self._counts.pane()
        slots = pane.slots(self._counts.keys([ours]))
        pane.column("n")[slots] += 1
        ids = self._rows.append(pa.record_batch([ours, ours.cast(pa.string())], schema=ROWS.schema))
        self._rows.remove(ids[: len(ids) // 4])

    def counted(self) -> int:
        """Over all keys."""
        return sum(int(np.sum(batch.column("n").to_numpy())) for batch in self._counts.pane().scan())


def identities(folder: Path) -> dict[Path, Identity]:
    """What would not stay the same if somebody wrote to a file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size, path.read_bytes()) for path in files}


@pytest.mark.parametrize("seed", range(2))
def test_stored_files_never_change_whatever_becomes_of_the_stores_that_share_them(seed: int, tmp_path: Path) -> None:
    random, stored, seen = np.random.default_rng(seed), tmp_path / "stored", dict[Path, Identity]()
    parts, written, shared = list[Part](), 0, 0
    for generation, parallelism in enumerate([1, 1, 2, 2, 3, 1], start=1):
        transfer, attempt = FileTransfer(FileSystemStore(str(stored))), tmp_path / str(generation)
        sources = [restored(transfer, part, attempt / f"restored-{number}") for number, part in enumerate(parts)]
        bounds = [GROUPS * number // parallelism for number in range(parallelism + 1)]
        subtasks = [Subtask(attempt / str(a), range(a, b), sources) for a, b in pairwise(bounds)]
        assert sum(subtask.counted() for subtask in subtasks) == written
        for round_ in range(6):
            keys = np.unique(random.integers(0, 5_000, 1_500))
            for subtask in subtasks:
                subtask.write(keys)
            snapshots = [one.backend.snapshot(str(attempt / f"{one.groups.start}-{round_}")) for one in subtasks]
            if round_ < 3:  # what is written afterwards is lost
                written += len(keys)
                parts = [
                    (files, transfer.upload(files.files, Generation(generation)), subtask.groups)
                    for files, subtask in zip(snapshots, subtasks, strict=True)
                ]
            now = identities(stored)
            assert {path: now[path] for path in seen} == seen
            seen = now
        shared += sum(path.stat().st_nlink > 1 for path in seen)
        for subtask in subtasks:
            subtask.backend.close()
    assert identities(stored) == seen
    assert shared > 20, "hardly any file was shared"


def restored(transfer: FileTransfer, part: Part, directory: Path) -> RestoreSource:
    """The files of a part of a checkpoint, fetched."""
    files, stored, groups = part
    transfer.download(stored, str(directory))
    return RestoreSource(files.tables, str(directory), groups.start, groups.stop)
