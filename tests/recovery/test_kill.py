"""kill -9 of a real process, against a real Kafka broker and a real Iceberg table, with a reader watching."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lakeward as lw
from lakeward.cli.demo import compare
from lakeward.connectors.nexmark import NexmarkSource, json_lines
from lakeward.testing.brokers import Broker
from lakeward.testing.kill_points import KillPoint
from lakeward.testing.lake import LocalLake, read_independently

JOB = Path(__file__).parent / "kill_job.py"
PARTITIONS = 4
COLUMNS = ["auction", "bidder", "price", "dateTime"]
ROUND_TIMEOUT_S = 60
MOVES_EVERY = 5
"""After so many deaths the job goes on from a savepoint, in another checkpoint directory."""


@dataclass
class Arena:
    """One topic and the tables it goes to."""

    options: dict[str, Any]
    lake: LocalLake
    expected: pa.Table
    seen: set[int] = field(default_factory=set)
    visible_rows: int = 0
    moves: int = 0
    worker_deaths: int = 0
    running: subprocess.Popen[bytes] | None = None

    def start(self, kill_at: str, nth: int, parallelism: int) -> subprocess.Popen[bytes]:
        options = self.options | {"kill_at": kill_at, "nth": nth, "parallelism": parallelism}
        with self.log.open("wb") as log:
            self.running = subprocess.Popen([sys.executable, str(JOB), json.dumps(options)], stderr=log)
        return self.running

    @property
    def workers(self) -> list[int]:
        """The worker processes of what runs: children of the process that starts them."""
        assert self.running is not None
        return [worker for starter in children(self.running.pid) for worker in children(starter)]

    def count_worker_deaths(self) -> int:
        """Workers of the last run that were killed; the job went on without them."""
        count = self.log.read_text().count("was killed by signal 9")
        self.worker_deaths += count
        return count

    def move(self) -> None:
        """From now on the job runs from a savepoint of where it is, in a directory of its own."""
        self.moves += 1
        savepoint = f"{self.options['checkpoints']}-saved"
        lw.savepoint(self.options["checkpoints"], savepoint)
        self.options |= {"savepoint": savepoint, "checkpoints": f"{savepoint}-{self.moves}"}

    def close(self) -> None:
        """End what runs, also after a failed assertion."""
        if self.running is not None and self.running.poll() is None:
            self.running.kill()
            self.running.wait()
        self.lake.close()

    @property
    def log(self) -> Path:
        """What the last run of the job said."""
        return self.lake.folder / "job.log"

    def look(self) -> None:
        """What a reader polling the table must hold true in every snapshot it ever sees."""
        if not (self.lake.folder / "catalog.db").exists() or not self.lake.open_catalog().table_exists("db.raw"):
            return
        table = self.lake.load("db.raw")
        for snapshot in table.snapshots():
            if snapshot.snapshot_id not in self.seen:
                self.seen.add(snapshot.snapshot_id)
                self.check(table.scan(snapshot_id=snapshot.snapshot_id).to_arrow())

    def check(self, rows: pa.Table) -> None:
        """A snapshot holds a prefix of each partition, each record once: no partial checkpoint, nothing doubled."""
        assert len(rows) >= self.visible_rows, "rows that were visible have vanished"
        self.visible_rows = len(rows)
        offsets = rows.group_by("partition").aggregate(
            [("offset", "max"), ("offset", "count_distinct"), ([], "count_all")]
        )
        for one in offsets.to_pylist():
            assert one["count_all"] == one["offset_count_distinct"], f"doubled records in {one}"
            assert one["offset_max"] == one["count_all"] - 1, f"missing records in {one}"


def make_arena(broker: Broker, directory: Path, events: int, topic: str) -> Arena:
    bids = NexmarkSource(None).read(0, 0, events)
    broker.create_topic(topic, PARTITIONS)
    lines = json_lines(bids)
    for partition in range(PARTITIONS):
        broker.produce(topic, lines[partition::PARTITIONS], partition=partition)
    lake = LocalLake(directory / "warehouse")
    options = {
        "bootstrap": broker.bootstrap,
        "topic": topic,
        "catalog": lake.catalog,
        "checkpoints": str(directory / "checkpoints"),
        "savepoint": None,
        "batch_rows": 300,
    }
    return Arena(options, lake, pa.Table.from_batches([bids]).select(COLUMNS))


def rounds(count: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Kill points in turn, every sixth round at a random moment; at another parallelism each time."""
    rng = random.Random(seed)
    points = [point.value for point in KillPoint] + [""]
    for number in range(count):
        yield points[number % len(points)], rng.randint(1, 4), rng.choice((1, 2, 2, 3))


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def run_rounds(arena: Arena, count: int, seed: int) -> int:
    """Kill the job again and again, moving it by a savepoint now and then; returns how often it really died.

    Where a worker is killed, at a point or at random, the job goes on by itself, until its coordinator is killed, too.
    """
    rng = random.Random(seed + 1)
    deaths = 0
    for number, (kill_at, nth, parallelism) in enumerate(rounds(count, seed)):
        if number % MOVES_EVERY == MOVES_EVERY - 1 and arena.visible_rows:
            arena.move()
        process = arena.start(kill_at, nth, parallelism)
        deadline = time.monotonic() + ROUND_TIMEOUT_S
        random_kill = time.monotonic() + rng.uniform(0.8, 3.0)
        worker_kill = time.monotonic() + rng.uniform(0.5, 2.0) if rng.random() < 0.6 else float("inf")
        while process.poll() is None:
            assert time.monotonic() < deadline, f"round {kill_at} neither died nor ended\n{arena.log.read_text()}"
            if kill_at == KillPoint.AFTER_PREPARE.value and "was killed by signal 9" in arena.log.read_text():
                kill_at, random_kill = "", time.monotonic() + rng.uniform(0.2, 2.0)
            if time.monotonic() > worker_kill and (workers := arena.workers):
                os.kill(rng.choice(workers), signal.SIGKILL)
                worker_kill, random_kill = float("inf"), time.monotonic() + rng.uniform(0.2, 2.0)
            if not kill_at and time.monotonic() > random_kill:
                process.kill()
            arena.look()
        arena.count_worker_deaths()
        assert process.returncode in (0, -9), f"{kill_at}: status {process.returncode}\n{arena.log.read_text()}"
        deaths += process.returncode == -9
    return deaths


def check_end(arena: Arena) -> None:
    process = arena.start("", 0, 1)
    assert process.wait(timeout=300) == 0, arena.log.read_text()
    arena.look()
    raw = read_independently(arena.lake.load("db.raw"))
    assert compare(arena.expected, raw.select(COLUMNS)) == (0, 0)
    start = pc.floor_temporal(arena.expected["dateTime"], 10, "second")
    grouped = arena.expected.append_column("window_start", start).group_by(["auction", "window_start"])
    windows = grouped.aggregate([([], "count_all"), ("price", "sum")])
    windows = windows.rename_columns(["auction", "window_start", "n", "total"])
    assert compare(windows, read_independently(arena.lake.load("db.windows")).select(windows.column_names)) == (0, 0)


@pytest.mark.kafka
@pytest.mark.kill
@pytest.mark.timeout(600)
def test_twenty_kills_lose_nothing_and_double_nothing(broker: Broker, tmp_path: Path) -> None:
    arena = make_arena(broker, tmp_path, 600_000, "kill-20")
    with closing(arena):
        deaths = run_rounds(arena, 22, seed=20)
        check_end(arena)
    print(
        f"{deaths} deaths and {arena.worker_deaths} of workers, {len(arena.seen)} snapshots seen by the reader, "
        f"{arena.visible_rows} rows"
    )
    assert deaths >= 20
    assert arena.worker_deaths >= 4
    assert arena.moves >= 3


@pytest.mark.soak
@pytest.mark.kafka
@pytest.mark.kill
@pytest.mark.timeout(3000)
def test_a_hundred_kills_lose_nothing_and_double_nothing(broker: Broker, tmp_path: Path) -> None:
    seed = int(os.environ.get("LAKEWARD_KILL_SEED", "100"))
    count = int(os.environ.get("LAKEWARD_KILL_ROUNDS", "110"))
    arena = make_arena(broker, tmp_path, 3_000_000, f"kill-{count}-{seed}")
    with closing(arena):
        deaths = run_rounds(arena, count, seed)
        check_end(arena)
    print(
        f"seed {seed}: {deaths} deaths and {arena.worker_deaths} of workers, {len(arena.seen)} snapshots seen by the "
        f"reader, {arena.visible_rows} rows"
    )
    assert deaths >= count * 9 // 10
