"""A disk that fills up in mid-run: the attempt fails and says where, and the job ends by itself when there is room.

The disk is a real one of a few megabytes where this process may mount one. Besides, and everywhere, a limit on the size
of files, which writes meet in the same way. Room is made from outside while the job waits for its next attempt.
"""

from __future__ import annotations

import logging
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lakeward as lw
from lakeward.engine.api.sink import Sink
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.disk import make_state_folder
from lakeward.engine.core.errors import CheckpointError, Retry
from lakeward.engine.execute import BACKOFF_SLICE_MS, JobDefinition, JobResult, Ports, execute
from lakeward.engine.state.rocksdb import RocksDbConfig, RocksDbStoreFactory
from lakeward.testing import BARRIER, CollectSink, LocalLake, ScriptedSource

DISK_BYTES = 6 << 20
FILE_BYTES_MAX = 64 << 10
ROWS_A_BATCH = 400
BATCHES = 8
FULL_AT = 4 * ROWS_A_BATCH


class SmallDisk:
    """A file system of a few megabytes.

    Args:
        folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self) -> None:
        """Use up all room."""
        with suppress(OSError), self._filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)


class LimitedFiles:
    """A limit on the length of files of this process, in place of a full disk.

    Args:
        folder: Any.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        """From now on files can be short only."""
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, self._before[1]))

    def free(self) -> None:
        """As long as they want to be."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


Disk = SmallDisk | LimitedFiles


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process may not mount a file system (that needs root on Linux)")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def limited_files(tmp_path: Path) -> Iterator[LimitedFiles]:
    disk = LimitedFiles(tmp_path)
    yield disk
    disk.free()


class FreesInBackoff(SystemClock):
    """Makes room when a job waits for its next attempt: the second time, so that one attempt begins on a full disk."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.waits = 0

    def sleep_ms(self, duration_ms: float) -> None:
        """Waits."""
        if duration_ms >= BACKOFF_SLICE_MS / 2:
            self.waits += 1
            if self.waits == 2:
                self._disk.free()
        super().sleep_ms(duration_ms)


def rows(batch: int) -> list[dict[str, Any]]:
    rng = random.Random(batch)
    first = batch * ROWS_A_BATCH
    return [{"n": first + n, "text": rng.randbytes(150).hex()} for n in range(ROWS_A_BATCH)]


def job(disk: Disk, sink: Sink) -> lw.StreamExecutionEnvironment:
    """Counts rows by their text, so that all texts are state; the disk fills up in the middle."""
    filled = []

    def fills_the_disk(row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] == FULL_AT and not filled:
            filled.append(True)
            disk.fill()
        return row

    restart = lw.RestartConfig(attempts_max=20, delay_min_ms=100, delay_max_ms=100)
    config = lw.EngineConfig(restart=restart, checkpoint_interval_ms=20)
    env = lw.StreamExecutionEnvironment(config=config)
    schema = pa.schema({"n": pa.int64(), "text": pa.string()})
    script = [item for batch in range(BATCHES) for item in (rows(batch), BARRIER)]
    stream = env.from_source(ScriptedSource(schema, script), uid="rows").map(
        fills_the_disk, returns=schema, uid="fills"
    )
    counted = stream.key_by("text").process(Numbered(), returns={"n": int, "text": str}, uid="numbered")
    counted.sink_to(sink, uid="out")
    return env


class Numbered(lw.KeyedProcessFunction):
    """Every row is the first of its text, unless state has rows that it should not have."""

    seen: lw.ValueState[int] = lw.ValueState(default=0)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        """Count."""
        self.seen.value += 1
        yield {"n": row["n"] if self.seen.value == 1 else -1, "text": row["text"]}


def run(disk: Disk, sink: Sink, store: CheckpointStore, local: Path) -> JobResult:
    written = job(disk, sink).definition()
    definition = JobDefinition(written.graph, "job", written.config, store)
    return execute(definition, Ports(clock=FreesInBackoff(disk), directory=str(local)))


def check(result: JobResult, found: list[dict[str, Any]], said: str, place: Path) -> None:
    assert result.ended
    assert result.restarts >= 1, "short files can still be written, so the second attempt may get through"
    assert sorted(found, key=lambda row: row["n"]) == [row for batch in range(BATCHES) for row in rows(batch)]
    assert "No space left on device" in said or "File too large" in said
    assert "the disk is full" in said
    assert str(place) in said


@pytest.fixture(autouse=True)
def _log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lakeward")


@pytest.mark.parametrize("kind", ["small_disk", "limited_files"])
def test_a_job_outlives_a_full_disk_of_local_state(
    kind: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    disk: Disk = request.getfixturevalue(kind)
    sink = CollectSink()
    result = run(disk, sink, MemoryStore(), disk.folder)
    assert result.restarts >= 2 or kind == "limited_files", "the second attempt has to make its store on a full disk"
    check(result, sink.rows(), caplog.text, disk.folder)


def test_a_job_outlives_a_full_disk_of_checkpoints(
    small_disk: SmallDisk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink, place = CollectSink(), small_disk.folder / "checkpoints"
    result = run(small_disk, sink, FileSystemStore(str(place)), tmp_path)
    check(result, sink.rows(), caplog.text, place)


@pytest.mark.parametrize("kind", ["small_disk", "limited_files"])
def test_a_job_outlives_a_full_disk_under_its_files(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk: Disk = request.getfixturevalue(kind)
    out = disk.folder / "out"
    sink = lw.FilesSink(out)
    result = run(disk, sink, MemoryStore(), tmp_path)
    found = [row for one in sorted(out.glob("*.parquet")) for row in pq.read_table(one).to_pylist()]
    check(result, found, caplog.text, out if kind == "small_disk" else tmp_path)
    assert not list(out.glob("_staging/*/*"))


@pytest.mark.parametrize("kind", ["small_disk", "limited_files"])
def test_a_job_outlives_a_full_disk_under_its_table(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    disk: Disk = request.getfixturevalue(kind)
    lake = LocalLake(disk.folder / "lake")
    result = run(disk, lw.IcebergSink("db.t", catalog=lake.catalog), MemoryStore(), tmp_path)
    check(result, lake.rows("db.t"), caplog.text, disk.folder if kind == "small_disk" else tmp_path)
    lake.close()


def test_a_state_store_on_a_full_disk_refuses_writes_and_lacks_no_row_that_it_took(small_disk: SmallDisk) -> None:
    store = RocksDbStoreFactory(RocksDbConfig(write_buffer_bytes=256 << 10)).open(str(small_disk.folder / "db"))
    rng, taken = random.Random(0), 0
    refused: CheckpointError | None = None
    while refused is None:
        try:
            store.write([(b"%08d" % key, rng.randbytes(100)) for key in range(taken, taken + 500)])
            taken += 500
        except CheckpointError as error:
            refused = error
    assert "No space left on device" in refused.message
    assert "the disk is full" in refused.hint
    with pytest.raises(CheckpointError, match="No space left on device"):
        store.checkpoint(str(small_disk.folder / "snapshot"))
    assert sum(1 for _ in store.scan(b"0", b"9")) in (taken, taken + 500)
    store.close()


def test_that_a_folder_of_state_cannot_be_made_may_pass(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot make the state folder") as refused:
        make_state_folder(tmp_path / "file" / "counts-0")
    assert refused.value.retry is Retry.BACKOFF


def test_that_a_state_store_cannot_be_made_on_a_full_disk_is_not_called_damage(small_disk: SmallDisk) -> None:
    small_disk.fill()
    with pytest.raises(CheckpointError, match="cannot open the state store") as refused:
        RocksDbStoreFactory().open(str(small_disk.folder / "db"))
    assert type(refused.value) is CheckpointError
    assert "the disk is full" in refused.value.hint
