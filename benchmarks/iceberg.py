"""How fast the Iceberg sink writes, and how its commit latency grows with the number of commits.

    python benchmarks/iceberg.py [--rows 4000000] [--commits 400]

Rows are Nexmark bids (seven columns, about 210 bytes each as JSON). Prints rows per CPU second next to bare pyarrow
writing the same batches in this run, and the latency of commits around the first, the 100th and the last one.
"""

from __future__ import annotations

import argparse
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakeward.connectors.iceberg import IcebergSink, PartitionTransform, bucket, hour
from lakeward.engine.api.sink import CommitterContext, WriterContext
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.testing.source_suite import TestCounters

BATCH_ROWS = 32_768
POOL_BATCHES = 16
ROUNDS = 3
COMPARED = 20
SCHEMA = pa.schema(
    [
        pa.field("auction", pa.int64()),
        pa.field("bidder", pa.int64()),
        pa.field("price", pa.int64()),
        pa.field("channel", pa.string()),
        pa.field("url", pa.string()),
        pa.field("dateTime", pa.timestamp("us")),
        pa.field("extra", pa.string()),
    ]
)
_START_US = 1_767_225_600_000_000
_US_PER_ROW = 2_000  # 500 events a second: a batch spans about a minute


def bids(seed: int = 7) -> list[pa.RecordBatch]:
    """A pool of batches, different from each other, in event-time order."""
    random = np.random.default_rng(seed)
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8)
    batches = []
    for n in range(POOL_BATCHES):
        rows = BATCH_ROWS
        channels = random.integers(0, 10_000, rows)
        hot = random.random(rows) < 0.5
        names = np.where(hot, np.array(["Google", "Facebook", "Baidu", "Apple"])[channels % 4], "")
        channel = [name or f"channel-{c}" for name, c in zip(names.tolist(), channels.tolist(), strict=True)]
        noise = letters[random.integers(0, 26, (rows, 52))].tobytes().decode()
        batches.append(
            pa.record_batch(
                [
                    pa.array(1000 + (random.pareto(1.2, rows) * 100).astype(np.int64) % 100_000),
                    pa.array(1000 + random.integers(0, 50_000, rows)),
                    pa.array((10 ** (random.random(rows) * 6)).astype(np.int64) * 100),
                    pa.array(channel),
                    pa.array([f"https://www.nexmark.com/{c % 977}/item.htm?query=1&channel_id={c}" for c in channels]),
                    pa.array((_START_US + (n * rows + np.arange(rows)) * _US_PER_ROW).view("M8[us]")),
                    pa.array([noise[i : i + 52] for i in range(0, len(noise), 52)]),
                ],
                schema=SCHEMA,
            )
        )
    return batches


def measure_writer(rows: int, partition_by: list[str | PartitionTransform], pool: list[pa.RecordBatch]) -> float:
    """Rows per CPU second through one writer with a checkpoint every million rows, commits included."""
    with _Job(partition_by) as job:
        job.checkpoint(1)
        started, written, checkpoint = time.process_time(), 0, 1
        for batch in _endless(pool, rows):
            job.writer.write(batch)
            written += batch.num_rows
            if written // 1_000_000 >= checkpoint:
                checkpoint += 1
                job.checkpoint(checkpoint)
        job.checkpoint(checkpoint + 1)
        return written / (time.process_time() - started)


def measure_pyarrow(rows: int, pool: list[pa.RecordBatch]) -> float:
    """The limit: the same batches through a bare ParquetWriter with the same codec."""
    folder = Path(tempfile.mkdtemp())
    try:
        started, written = time.process_time(), 0
        with pq.ParquetWriter(folder / "bare.parquet", SCHEMA, compression="zstd") as writer:
            group: list[pa.RecordBatch] = []
            for batch in _endless(pool, rows):
                group.append(batch)
                written += batch.num_rows
                if len(group) == 12:
                    writer.write_table(pa.Table.from_batches(group))
                    group = []
            if group:
                writer.write_table(pa.Table.from_batches(group))
        return written / (time.process_time() - started)
    finally:
        shutil.rmtree(folder)


@dataclass
class Commits:
    """What commits into one table took; all times in milliseconds.

    Args:
        wall_ms: Latency of each commit.
        cpu_ms: CPU time of each.
        collector_ms: What Python's garbage collector took of each one's CPU time when it went over everything.
        young_cpu_ms: CPU time of the first commits into a new table, taken in turns with the last ones into this.
        size_bytes: Bytes of the metadata files at the end.
        files: Their number.
    """

    wall_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    collector_ms: list[float] = field(default_factory=list)
    young_cpu_ms: list[float] = field(default_factory=list)
    size_bytes: int = 0
    files: int = 0


def measure_commits(commits: int) -> Commits:
    """Commits of one small file each. The last twenty alternate with a new table's first: the machine's mood is out."""
    taken, small = Commits(), bids()[0].slice(0, 100)
    with _Job([]) as job, _Job([]) as young, _FullCollections() as collections:
        for n in range(1, commits + 1):
            collections.cpu_ms = 0.0
            wall_ms, cpu_ms = job.measure_commit(n, small)
            taken.wall_ms.append(wall_ms)
            taken.cpu_ms.append(cpu_ms)
            taken.collector_ms.append(collections.cpu_ms)
            if n > commits - COMPARED:
                taken.young_cpu_ms.append(young.measure_commit(n - commits + COMPARED, small)[1])
        sizes = [file.stat().st_size for file in (job.folder / "bench" / "bids" / "metadata").iterdir()]
    taken.size_bytes, taken.files = sum(sizes), len(sizes)
    return taken


class _FullCollections:
    """The CPU time of Python's full garbage collections: they walk all objects of the process, whatever it does."""

    def __init__(self) -> None:
        self.cpu_ms = 0.0
        self._started = 0.0

    def __enter__(self) -> _FullCollections:
        gc.callbacks.append(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._started = time.process_time()
        elif info["generation"] == 2:
            self.cpu_ms += (time.process_time() - self._started) * 1000


class _Job:
    """A writer and a committer over a fresh table."""

    def __init__(self, partition_by: list[str | PartitionTransform]) -> None:
        self.folder = Path(tempfile.mkdtemp())
        catalog = {"type": "sql", "uri": f"sqlite:///{self.folder}/c.db", "warehouse": self.folder.as_uri()}
        sink = IcebergSink("bench.bids", catalog=catalog, partition_by=partition_by)
        uid, job = OperatorId("bids"), JobId("bench")
        self.committer = sink.open_committer(CommitterContext(uid, job, "bench", SCHEMA, None, None))
        self.committer.recover(None)
        self.writer = sink.open_writer(
            WriterContext(uid, job, SubtaskIndex(0), "a1", SCHEMA, SystemClock(), TestCounters())
        )

    def checkpoint(self, number: int) -> None:
        self.committer.commit(CheckpointId(number), self.writer.prepare_commit(CheckpointId(number)))

    def measure_commit(self, number: int, rows: pa.RecordBatch) -> tuple[float, float]:
        """Write rows, and commit them: milliseconds that the commit took by the clock, and of CPU time."""
        self.writer.write(rows)
        committables = self.writer.prepare_commit(CheckpointId(number))
        started, started_cpu = time.perf_counter(), time.process_time()
        self.committer.commit(CheckpointId(number), committables)
        return (time.perf_counter() - started) * 1000, (time.process_time() - started_cpu) * 1000

    def __enter__(self) -> _Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.writer.close()
        self.committer.close()
        shutil.rmtree(self.folder)


def _endless(pool: list[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    for n in range(rows // BATCH_ROWS):
        yield pool[n % len(pool)]


def _report_writers(rows: int) -> None:
    pool = bids()
    cases: list[tuple[str, list[str | PartitionTransform]]] = [
        ("unpartitioned", []),
        ("hour(dateTime)", [hour("dateTime")]),
        ("bucket[16](bidder)", [bucket("bidder", 16)]),
        ("hour(dateTime), bucket[8](bidder)", [hour("dateTime"), bucket("bidder", 8)]),
    ]
    best = dict.fromkeys((name for name, _ in cases), 0.0)
    bare = 0.0
    for _ in range(ROUNDS):  # in turn, and the best of each, so that other load on the machine evens out
        bare = max(bare, measure_pyarrow(rows, pool))
        for name, partition_by in cases:
            best[name] = max(best[name], measure_writer(rows, partition_by, pool))
    print(f"{'bare pyarrow, one file':40} {bare / 1e6:6.2f} M rows per CPU second")
    for name, speed in best.items():
        print(f"{'sink, ' + name:40} {speed / 1e6:6.2f} M rows per CPU second, {speed / bare:5.2f} of bare pyarrow")


def _report_commits(commits: int) -> None:
    taken = measure_commits(commits)
    first = statistics.median(taken.cpu_ms[:COMPARED])
    for at in sorted({COMPARED, 100, 200, commits}):
        if at <= commits:
            part = slice(at - COMPARED, at)
            recent, wall = statistics.median(taken.cpu_ms[part]), statistics.median(taken.wall_ms[part])
            print(
                f"commit @{at:<5} median {recent:5.1f} ms of CPU ({recent / first:4.2f} of the first {COMPARED}),"
                f" {wall:5.1f} ms by the clock, worst {max(taken.cpu_ms[part]):5.1f} ms of CPU"
            )
    last, young = statistics.median(taken.cpu_ms[-COMPARED:]), statistics.median(taken.young_cpu_ms)
    print(f"in turns with the first {COMPARED} into a new table: {last:.1f} and {young:.1f} ms, {last / young:4.2f}")
    own = [cpu - collector for cpu, collector in zip(taken.cpu_ms, taken.collector_ms, strict=True)]
    print(
        f"worst of all: {max(taken.cpu_ms[1:]):.1f} ms of CPU, {max(own[1:]):.1f} ms without Python's"
        f" {sum(ms > 0 for ms in taken.collector_ms)} full garbage collections"
    )
    print(f"after {commits} commits: {taken.files} metadata files, {taken.size_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--commits", type=int, default=400)
    arguments = parser.parse_args()
    if arguments.rows:
        _report_writers(arguments.rows)
    if arguments.commits:
        _report_commits(arguments.commits)
