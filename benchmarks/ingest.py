"""Kafka JSON bids to Iceberg: raw, and as 10 s windows. Rows per CPU second of all processes but the broker.

    python benchmarks/ingest.py [--bids 12000000] [--rounds 3] [--broker noida]

Checkpoints every 5 s. Each case is run at two sizes (a quarter, and all), in rounds, with the median printed; the
difference of the sizes is free of start-up. The limit is measured in the same rounds: what the libraries in the path
(librdkafka's client, msgspec, pyarrow) need for the same messages one after the other, with nothing between them.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from confluent_kafka import Consumer, Message, TopicPartition
from measure import HEADER, median, result_row, run_rounds

import lakeward as lw
from lakeward.connectors.nexmark import NexmarkSource, json_lines
from lakeward.testing.brokers import Broker, start_broker

PARTITIONS = 4
PIECE = 200_000
EXTRA_CHARACTERS = 29
TARGETS = {"raw": 350e3, "window": 500e3}
FIELDS = {"raw": "auction bidder price channel url dateTime extra", "window": "auction price dateTime"}
CEILING_MESSAGES = 1_000_000
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


def job(options: dict[str, str]) -> None:
    """Lakeward, from topic to table."""
    directory = options["directory"]
    catalog = {"type": "sql", "uri": f"sqlite:///{directory}/catalog.db", "warehouse": f"file://{directory}/warehouse"}
    env = lw.StreamExecutionEnvironment(checkpoint_interval="5s", checkpoint_dir=f"{directory}/checkpoints")
    schema = pa.schema([BID.field(name) for name in FIELDS[options["query"]].split()])
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


class Bid(msgspec.Struct, gc=False):
    """All fields."""

    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    dateTime: str
    extra: str


class Three(msgspec.Struct, gc=False):
    """The fields of the windows."""

    auction: int
    price: int
    dateTime: str


def ceilings(options: dict[str, str]) -> None:
    """Print the CPU seconds a row that each library needs by itself, in this process."""
    started = time.process_time()
    values = consumed(options["bootstrap"], options["topic"], int(options["rows"]))
    costs = {"consume": (time.process_time() - started) / len(values)}
    chunks = [values[first : first + 8192] for first in range(0, len(values), 8192)]
    tables: list[pa.Table] = []
    costs["decode all"] = seconds(lambda: tables.append(decoded(chunks, Bid))) / len(values)
    costs["decode three"] = seconds(lambda: tables.append(decoded(chunks, Three))) / len(values)
    costs["Parquet, zstd"] = seconds(lambda: pq.write_table(tables[0], os.devnull, compression="zstd")) / len(values)
    texts = pc.utf8_slice_codeunits(tables[1]["dateTime"], 0, 18)  # "2026-01-01 00:00:1": ten seconds
    windows = tables[1].set_column(2, "window", pc.index_in(texts, pc.unique(texts)))
    aggregates = [([], "count_all"), ("price", "sum"), ("price", "max")]
    group = windows.group_by(["auction", "window"], use_threads=False)
    costs["group by"] = seconds(lambda: group.aggregate(aggregates)) / len(values)
    print(json.dumps(costs))


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of all threads."""
    started = time.process_time()
    work()
    return time.process_time() - started


def consumed(bootstrap: str, topic: str, rows: int) -> list[bytes]:
    """The values of a topic, by the client alone."""
    settings = {"bootstrap.servers": bootstrap, "group.id": "ceiling", "enable.auto.commit": False}
    more = {"fetch.queue.backoff.ms": 10, "queued.min.messages": 1_000_000, "receive.message.max.bytes": 1_000_000_000}
    consumer = Consumer(settings | more)
    consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
    values: list[bytes] = []
    while len(values) < rows:
        values.extend(map(Message.value, consumer.consume(500, timeout=0.1)))
    consumer.close()
    return values


def decoded(chunks: Sequence[Sequence[bytes]], kind: type[msgspec.Struct]) -> pa.Table:
    """The columns of the values, by msgspec and pyarrow alone; times stay text."""
    decode = msgspec.json.Decoder(kind).decode
    names = [field.name for field in msgspec.structs.fields(kind)]
    batches = []
    for chunk in chunks:
        rows = list(map(decode, chunk))
        batches.append(pa.record_batch([pa.array(list(map(operator.attrgetter(name), rows))) for name in names], names))
    return pa.Table.from_batches(batches)


def child(options: dict[str, str]) -> None:
    """What is measured: the job, or the libraries alone."""
    if options["query"] == "ceilings":
        ceilings(options)
    else:
        with tempfile.TemporaryDirectory() as directory:
            job(options | {"directory": directory})


def main() -> None:
    """Run both queries at two sizes, in rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bids", type=int, default=12_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--broker", choices=["kafka", "noida", "external"])
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    with tempfile.TemporaryDirectory() as directory, start_broker(Path(directory), kind=arguments.broker) as broker:
        measure(broker, arguments.bids, arguments.rounds)


def measure(broker: Broker, bids: int, rounds: int) -> None:
    """Fill the topics, run all cases in turn, print the medians."""
    sizes = {f"bids-{n}": fill(broker, f"bids-{n}", n) for n in (bids // 4, bids)}
    small, large = sizes
    cases = {(query, topic): {"query": query, "topic": topic} for query in TARGETS for topic in sizes}
    cases["ceilings", large] = {"query": "ceilings", "topic": large, "rows": min(bids, CEILING_MESSAGES)}
    runs = run_rounds(
        __file__,
        {case: {"bootstrap": broker.bootstrap} | options for case, options in cases.items()},
        {case: sizes[case[1]] for case in cases},
        rounds,
    )
    alone = [json.loads(one.output) for one in runs.pop(("ceilings", large))]
    costs = {step: median(one[step] for one in alone) for step in alone[0]}
    print(HEADER)
    for query, steps, what in (
        ("raw", ("consume", "decode all", "Parquet, zstd"), "Kafka JSON -> Iceberg, raw, zstd"),
        ("window", ("consume", "decode three", "group by"), "Kafka JSON -> 10 s windows -> Iceberg"),
    ):
        limit = 1 / sum(costs[step] for step in steps)
        print(result_row(what, runs[query, small], runs[query, large], TARGETS[query], limit))
    print("the libraries alone: " + ", ".join(f"{step} {1 / cost / 1e3:,.0f}" for step, cost in costs.items()))


if __name__ == "__main__":
    main()
