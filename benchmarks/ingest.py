"""Kafka JSON bids to Iceberg: raw, and as 10 s windows. Rows per CPU second of all processes but the broker.

    python benchmarks/ingest.py [--bids 4000000] [--broker noida]

Checkpoints every 5 s. Each row is run at two sizes; the difference is free of start-up. The limit is computed
from constants: what the libraries in the path did at best when measured earlier, one after the other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from measure import HEADER, Measured, row, run_child

import lakeward as lw
from lakeward.connectors.nexmark import NexmarkSource, json_lines
from lakeward.testing.brokers import Broker, start_broker

PARTITIONS = 4
PIECE = 200_000
EXTRA_CHARACTERS = 29
# Library ceilings, rows per CPU second: constants from earlier measurements (docs/performance.md), not of this run.
CONSUME, DECODE_ALL, DECODE_THREE, PARQUET, WINDOW = 1.6e6, 1.4e6, 2.2e6, 1.5e6, 12e6
BID = pa.schema(
    [
        ("auction", pa.int64()),
        ("bidder", pa.int64()),
        ("price", pa.int64()),
        ("channel", pa.string()),
        ("url", pa.string()),
        ("dateTime", pa.timestamp("us")),
        ("extra", pa.string()),
    ]
)


def child(options: dict[str, str]) -> None:
    """The job that is measured."""
    directory = options["directory"]
    catalog = {"type": "sql", "uri": f"sqlite:///{directory}/catalog.db", "warehouse": f"file://{directory}/warehouse"}
    env = lw.StreamExecutionEnvironment(checkpoint_interval="5s", checkpoint_dir=f"{directory}/checkpoints")
    schema = BID if options["query"] == "raw" else pa.schema([BID.field(n) for n in ("auction", "price", "dateTime")])
    source = lw.KafkaSource(options["bootstrap"], options["topic"], format=lw.Json(schema=schema), stop="latest")
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
    bids = env.from_source(source, watermark=watermark, uid="bids")
    if options["query"] == "window":
        windows = bids.key_by("auction").window(lw.Tumbling("10s"))
        bids = windows.aggregate(n=lw.count(), revenue=lw.sum("price"), top=lw.max("price"), uid="windows")
    bids.sink_to(lw.IcebergSink(f"db.{options['query']}", catalog=catalog, compression="zstd"), uid="table")
    env.execute(f"bench-{options['query']}")


def shortened(bids: pa.RecordBatch) -> pa.RecordBatch:
    """Nexmark's bids are 257 bytes long as JSON; with less padding they are about 210, as the targets say."""
    extra = pc.utf8_slice_codeunits(bids["extra"], 0, EXTRA_CHARACTERS)
    return bids.set_column(bids.schema.get_field_index("extra"), "extra", extra)


def fill(broker: Broker, topic: str, bids: int) -> int:
    """Produce bids; returns how many."""
    broker.create_topic(topic, PARTITIONS)
    source = NexmarkSource(None)
    produced = first = size = 0
    while produced < bids:
        lines = json_lines(shortened(source.read(0, first, PIECE)))[: bids - produced]
        for partition in range(PARTITIONS):
            broker.produce(topic, lines[partition::PARTITIONS], partition=partition)
        produced, first, size = produced + len(lines), first + PIECE, size + sum(map(len, lines))
    print(f"{topic}: {produced:,} bids of {size / produced:.0f} bytes", file=sys.stderr)
    return produced


def measure(broker: Broker, topic: str, rows: int, query: str) -> Measured:
    """Run the job once over a topic."""
    with tempfile.TemporaryDirectory() as directory:
        options = {"bootstrap": broker.bootstrap, "topic": topic, "query": query, "directory": directory}
        return run_child(__file__, options, rows)


def main() -> None:
    """Run both queries at two sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids", type=int, default=4_000_000)
    parser.add_argument("--broker", choices=["kafka", "noida", "external"])
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    with tempfile.TemporaryDirectory() as directory, start_broker(Path(directory), kind=arguments.broker) as broker:
        sizes = [(f"bids-{n}", fill(broker, f"bids-{n}", n)) for n in (arguments.bids // 4, arguments.bids)]
        print(HEADER)
        limits = {
            "raw": (350e3, 1 / (1 / CONSUME + 1 / DECODE_ALL + 1 / PARQUET), "Kafka JSON -> Iceberg, raw, zstd"),
            "window": (
                500e3,
                1 / (1 / CONSUME + 1 / DECODE_THREE + 1 / WINDOW),
                "Kafka JSON -> 10 s windows -> Iceberg",
            ),
        }
        for query, (target, limit, what) in limits.items():
            small, large = (measure(broker, topic, rows, query) for topic, rows in sizes)
            print(row(what, small, large, target, limit))


if __name__ == "__main__":
    main()
