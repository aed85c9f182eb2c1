"""`lakeward demo`: Kafka to Iceberg on this machine, killed twice with -9, then counted by an independent reader."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.connectors.nexmark import NexmarkSource, json_lines
from lakeward.engine.core.clock import SystemClock
from lakeward.engine.core.errors import ConfigError
from lakeward.testing.brokers import Broker, embedded_broker
from lakeward.testing.lake import LocalLake, read_independently

TOPIC = "bids"
BIDS, REVENUE = "auctions.bids", "auctions.revenue"
EVENTS_A_PIECE = 100_000
KILLS = 2
WAIT_MAX_MS = 120_000
_JOB = [
    sys.executable,
    "-m",
    "lakeward.cli.main",
    "run",
    str(Path(__file__).parent.parent / "examples/kafka_to_iceberg.py"),
]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the demo keeps what.

    Args:
        root: Its directory.
    """

    root: Path

    @property
    def warehouse(self) -> Path:
        """The Iceberg tables and their catalog."""
        return self.root / "warehouse"

    @property
    def checkpoints(self) -> Path:
        """The job's checkpoints."""
        return self.root / "checkpoints"

    @property
    def log(self) -> Path:
        """What the job said."""
        return self.root / "job.log"

    def read(self, table: str) -> pa.Table:
        """A table's rows, as an independent reader sees them."""
        lake = LocalLake(self.warehouse)
        try:
            return read_independently(lake.load(table))
        finally:
            lake.close()

    def snapshots(self) -> list[dict[str, str]]:
        """The summaries of the snapshots of the table of bids, oldest first; [] before the job has made it."""
        if not (self.warehouse / "catalog.db").exists():
            return []
        lake = LocalLake(self.warehouse)
        try:
            if not lake.open_catalog().table_exists(BIDS):
                return []
            return [_summary(snapshot) for snapshot in lake.load(BIDS).snapshots()]
        finally:
            lake.close()


def run_demo(directory: str, events: int, partitions: int) -> int:
    """Run the demo.

    Returns:
        The exit status: 0 when nothing was lost and nothing doubled, else 1.
    """
    place = _make_place(Path(directory).resolve())
    with embedded_broker(place.root / "broker") as broker:
        _say(f"an embedded Kafka-speaking broker answers at {broker.bootstrap}")
        bids = _produce(broker, events, partitions)
        environment = {
            **os.environ,
            "BOOTSTRAP": broker.bootstrap,
            "TOPIC": TOPIC,
            "WAREHOUSE": str(place.warehouse),
            "CHECKPOINTS": str(place.checkpoints),
            "CHECKPOINT_INTERVAL": "200ms",
            "STOP_AT_END": "1",
        }
        _run_with_kills(place, environment, len(bids))
    shutil.rmtree(place.root / "broker", ignore_errors=True)
    return _report(place, bids)


def _make_place(root: Path) -> Place:
    marker = root / ".lakeward-demo"
    if root.exists() and any(root.iterdir()) and not marker.exists():
        raise ConfigError(f"{root} is not empty, and not from a demo", hint="give another --directory")
    try:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        marker.touch()
        place = Place(root)
        place.warehouse.mkdir()
    except OSError as error:
        raise ConfigError(f"cannot write to {root}: {error.strerror}", hint="give another --directory") from error
    return place


def _produce(broker: Broker, events: int, partitions: int) -> pa.Table:
    broker.create_topic(TOPIC, partitions)
    source = NexmarkSource(None)
    pieces = []
    for first in range(0, events, EVENTS_A_PIECE):
        piece = source.read(0, first, min(EVENTS_A_PIECE, events - first))
        lines = json_lines(piece)
        for partition in range(partitions):
            broker.produce(TOPIC, lines[partition::partitions], partition=partition)
        pieces.append(piece)
        _progress("produced", sum(map(len, pieces)), "bids")
    click.echo(err=True)
    return pa.Table.from_batches(pieces)


def _run_with_kills(place: Place, environment: Mapping[str, str], bids: int) -> None:
    clock = SystemClock()
    for kill in range(KILLS + 1):
        with place.log.open("ab") as log:
            process = subprocess.Popen(_JOB, env=dict(environment), stdout=log, stderr=log)
        try:
            # Killed when a quarter, and then half, of the bids have been read; the last run is left to end by itself.
            _wait(place, process, clock.monotonic_ms() + WAIT_MAX_MS, None if kill == KILLS else bids * (kill + 1) // 4)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
        if kill < KILLS:
            click.echo(err=True)
            how = "killed with -9" if process.returncode == -signal.SIGKILL else "ended before it could be killed"
            _say(f"the job was {how} after {len(place.snapshots())} snapshots; it starts again")
    click.echo(err=True)
    if process.returncode != 0:
        tail = "\n".join(place.log.read_text().splitlines()[-8:])
        raise ConfigError(f"the job failed: {tail}", hint=f"its whole output is in {place.log}")


def _wait(place: Place, process: subprocess.Popen[bytes], until_ms: int, rows_max: int | None) -> None:
    """Until the process has ended, or the table has this many rows."""
    clock = SystemClock()
    while process.poll() is None:
        clock.sleep_ms(20)
        found = place.snapshots()
        rows = max((int(one["total-records"]) for one in found), default=0)
        _progress("ingested", rows, f"rows, {len(found)} snapshots")
        if rows_max is not None and rows >= rows_max:
            return
        if clock.monotonic_ms() > until_ms:
            raise ConfigError("the job makes no headway", hint=f"its output is in {place.log}")


def _summary(snapshot: Any) -> dict[str, str]:
    return {"snapshot": str(snapshot.snapshot_id), **snapshot.summary.additional_properties}


def _report(place: Place, bids: pa.Table) -> int:
    kept = bids.filter(pc.greater_equal(bids["price"], 1_000))
    raw, revenue = place.read(BIDS), place.read(REVENUE)
    names = kept.column_names
    lost, doubled = compare(kept, raw.select(names))
    expected = _revenue(kept)
    lost_windows, doubled_windows = compare(expected, revenue.select(expected.column_names))
    click.echo()
    click.echo(f"{'':24}{'bids':>12}{'windows':>12}")
    for label, of_bids, of_windows in (
        ("rows expected", len(kept), len(expected)),
        ("rows found", len(raw), len(revenue)),
        ("lost", lost, lost_windows),
        ("doubled", doubled, doubled_windows),
    ):
        click.echo(f"{label:24}{of_bids:>12,}{of_windows:>12,}")
    _show_top(revenue)
    _show_snapshots(place)
    _show_places(place)
    wrong = lost + doubled + lost_windows + doubled_windows
    click.echo()
    click.echo(
        "0 lost, 0 doubled" if wrong == 0 else f"WRONG: {lost + lost_windows} lost, {doubled + doubled_windows} doubled"
    )
    return 0 if wrong == 0 else 1


def compare(expected: pa.Table, found: pa.Table) -> tuple[int, int]:
    """Rows that are missing, and rows that are too many, as multisets.

    >>> compare(pa.table({"a": [1, 2, 2]}), pa.table({"a": [2, 3]}))
    (2, 1)
    """
    names = expected.column_names
    counts = [table.group_by(names).aggregate([([], "count_all")]) for table in (expected, found.cast(expected.schema))]
    joined = counts[0].join(counts[1], names, join_type="full outer", right_suffix="_found")
    want = joined["count_all"].fill_null(0)
    have = joined["count_all_found"].fill_null(0)
    difference = pc.subtract(want, have)
    zero = pa.scalar(0, pa.int64())
    lost = pc.sum(pc.max_element_wise(difference, zero)).as_py() or 0
    doubled = pc.sum(pc.max_element_wise(pc.negate(difference), zero)).as_py() or 0
    return lost, doubled


def _revenue(bids: pa.Table) -> pa.Table:
    start = pc.floor_temporal(bids["dateTime"], 10, "second")
    grouped = (
        bids.select(["auction", "price"]).append_column("window_start", start).group_by(["auction", "window_start"])
    )
    return grouped.aggregate([([], "count_all"), ("price", "sum")]).rename_columns(
        ["auction", "window_start", "bids", "revenue"]
    )


def _show_top(revenue: pa.Table) -> None:
    totals = revenue.group_by("auction").aggregate([("bids", "sum"), ("revenue", "sum")])
    click.echo("\ntop auctions by revenue")
    for row in totals.sort_by([("revenue_sum", "descending")]).slice(0, 5).to_pylist():
        click.echo(f"  auction {row['auction']:>8}  {row['bids_sum']:>8,} bids  {row['revenue_sum']:>16,}")


def _show_snapshots(place: Place) -> None:
    click.echo("\nsnapshots of auctions.bids (the last five)")
    for one in place.snapshots()[-5:]:
        checkpoint, added = one.get("lakeward.checkpoint-id", "-"), int(one.get("added-records", "0"))
        click.echo(f"  {one['snapshot']:>20}  checkpoint {checkpoint:>4}  {added:>9,} rows added")


def _show_places(place: Place) -> None:
    click.echo(f"\ntables       {place.warehouse}")
    click.echo(f"checkpoints  {place.checkpoints}")
    click.echo(f"job's output {place.log}")
    command = os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).name == "lakeward" else "lakeward"
    checkpoints = os.path.relpath(place.checkpoints)
    click.echo("\ntry next")
    click.echo(f"  {command} checkpoints list {checkpoints}")
    click.echo(f"  {command} checkpoints show {checkpoints}")
    click.echo(f"  {command} explain lakeward.examples.kafka_to_iceberg:main")


def _progress(verb: str, count: int, what: str) -> None:
    click.echo(f"\r{verb} {count:,} {what}    ", nl=False, err=True)


def _say(text: str) -> None:
    click.echo(text, err=True)
