"""How fast file sources are: JSON lines and Parquet, few columns and all, to a blackhole. Rows per CPU second.

    python benchmarks/files.py [--events 2000000] [--rounds 3] [--only jsonl]

A job reads Nexmark's bids (256 bytes a line) or all three kinds mixed in one file, selects some columns, and throws the
rows away. Each case is run at two sizes (a quarter, and all) in processes of its own, in rounds; the difference of the
sizes is free of start-up. The limit, in the same rounds, is what a library needs by itself: msgspec, typed, for JSON
lines, to Python values; pyarrow's Parquet reader for the same columns.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from measure import HEADER, median, result_row, run_rounds

import lakeward as lw
from lakeward import col

COPIES = 12
"""Parquet files of the same rows that are read one after another: one would be read before the job has started well."""

WRITER = Path(__file__).with_name("nexmark_data.py")
BID = pa.schema(
    {
        "auction": pa.int64(),
        "bidder": pa.int64(),
        "price": pa.int64(),
        "channel": pa.string(),
        "url": pa.string(),
        "dateTime": pa.timestamp("us"),
        "extra": pa.string(),
    }
)
PERSON = pa.schema({"id": pa.int64(), "name": pa.string(), "city": pa.string(), "state": pa.string()})
AUCTION = pa.schema({"seller": pa.int64(), "category": pa.int64(), "initialBid": pa.int64()})
EVENT = pa.unify_schemas([pa.schema({"event_type": pa.int8()}), PERSON, AUCTION, BID])

CASES: dict[str, tuple[str, tuple[str, ...], float]] = {
    "JSON lines, 2 of 7 columns": ("bid.jsonl", ("auction", "price"), 1.5e6),
    "JSON lines, 3 of 7 columns": ("bid.jsonl", ("auction", "price", "dateTime"), 1.5e6),
    "JSON lines, all 7 columns": ("bid.jsonl", tuple(BID.names), 0.9e6),
    "JSON lines of 3 kinds, 4 columns": ("events.jsonl", ("event_type", "auction", "price", "seller"), 1.2e6),
    "JSON lines of 3 kinds, 15 columns": ("events.jsonl", tuple(EVENT.names), 0.7e6),
    "Parquet, 2 of 7 columns and a filter": ("bids", ("auction", "price"), 20e6),
    "Parquet, 3 of 7 columns": ("bids", ("auction", "price", "dateTime"), 15e6),
    "Parquet, all 7 columns": ("bids", tuple(BID.names), 6e6),
}
"""What is read: file, columns, and rows per CPU second that it should have."""


def schema_of(file: str) -> pa.Schema:
    """All columns of a file."""
    return EVENT if file.startswith("events") else BID


def job(path: Path, columns: list[str], *, filtered: bool) -> None:
    """Read, filter, select, forget."""
    env = lw.StreamExecutionEnvironment()
    rows = env.from_source(lw.FilesSource(path, schema=schema_of(path.name)), uid="rows")
    if filtered:
        rows = rows.filter((col("auction") % 123) == 0)
    rows.select(*columns).sink_to(lw.BlackholeSink(), uid="nowhere")
    env.execute("files")


def alone(path: Path, columns: list[str]) -> float:
    """CPU seconds that the library needs by itself."""
    if path.is_dir():
        started = time.process_time()
        for file in sorted(path.iterdir()):
            for _ in pq.ParquetFile(file).iter_batches(32_768, columns=columns, use_threads=False):
                pass
        return time.process_time() - started
    kinds = {pa.string(): str, pa.timestamp("us"): str}
    fields = [(name, kinds.get(schema_of(path.name).field(name).type, int) | None, None) for name in columns]
    decode = msgspec.json.Decoder(msgspec.defstruct("Row", fields, gc=False)).decode
    started = time.process_time()
    with path.open("rb") as file:
        for _ in map(decode, file):
            pass
    return time.process_time() - started


def child(options: dict[str, str]) -> None:
    """What is measured: the job, or the library alone."""
    path, columns = Path(options["path"]), options["columns"].split(",")
    if options["what"] == "alone":
        print(alone(path, columns))
    else:
        job(path, columns, filtered="filter" in options["case"])


def measure(folder: Path, events: int, rounds: int, only: str) -> None:
    """Write the files, run all cases in turn, print the table."""
    sizes = {"small": events // 4, "large": events}
    rows: dict[tuple[str, str], int] = {}
    for size, count in sizes.items():
        print(f"writing {count:,} events", file=sys.stderr)
        # In a process of its own: a child's peak memory, as the system counts it, is never below its parent's.
        subprocess.run([sys.executable, WRITER, folder / size, str(count), "--jsonl"], check=True, stdout=sys.stderr)
        bids = pq.read_metadata(folder / size / "bid.parquet").num_rows
        rows |= {(size, "bid.jsonl"): bids, (size, "bids"): bids * COPIES, (size, "events.jsonl"): count}
        (folder / size / "bids").mkdir()
        for i in range(COPIES):
            (folder / size / "bids" / f"{i:02}.parquet").hardlink_to(folder / size / "bid.parquet")
    chosen = {case: each for case, each in CASES.items() if only in each[0]}
    options = {
        (case, size): {"case": case, "path": str(folder / size / file), "columns": ",".join(columns), "what": "job"}
        for case, (file, columns, _) in chosen.items()
        for size in sizes
    }
    options |= {(case, "alone"): options[case, "large"] | {"what": "alone"} for case in chosen}
    counts = {(case, size): rows[size if size in sizes else "large", chosen[case][0]] for case, size in options}
    runs = run_rounds(__file__, options, counts, rounds)
    print(HEADER)
    for case, (_, _, target) in chosen.items():
        limit = counts[case, "large"] / median(float(one.output) for one in runs[case, "alone"])
        print(result_row(case, runs[case, "small"], runs[case, "large"], target, limit))


def main() -> None:
    """Run the benchmark, or one child of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="only cases whose file's name has this in it")
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    with tempfile.TemporaryDirectory() as directory:
        measure(Path(directory), arguments.events, arguments.rounds, arguments.only)


if __name__ == "__main__":
    main()
