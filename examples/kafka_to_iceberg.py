"""Kafka to Iceberg, exactly once: every bid into one table, bids and revenue per auction and 10 seconds into another.

    lakeward run examples/kafka_to_iceberg.py

What it reads and writes is set by environment variables, so that it can be pointed at your own broker and catalog:

    BOOTSTRAP    Kafka brokers                           (localhost:9092)
    TOPIC        a topic of bids as JSON                 (bids)
    WAREHOUSE    a directory for the Iceberg tables      (lakeward-warehouse)
    CHECKPOINTS  a directory for this job's checkpoints  (lakeward-checkpoints)
    STOP_AT_END  1: stop at the end that the topic has at the first start; 0: run on  (0)

Stop it with Ctrl-C, or kill it with -9: run it again and it goes on where it was. Nothing is lost, nothing doubled.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime

import lakeward as lw
from lakeward import col


@dataclass
class Bid:
    """A bid of the Nexmark benchmark."""

    auction: int
    bidder: int
    price: int
    channel: str
    url: str
    dateTime: datetime
    extra: str


def main() -> None:
    """Build the job and run it."""
    warehouse = os.path.abspath(os.environ.get("WAREHOUSE", "lakeward-warehouse"))
    os.makedirs(warehouse, exist_ok=True)
    catalog = {"type": "sql", "uri": f"sqlite:///{warehouse}/catalog.db", "warehouse": f"file://{warehouse}"}

    env = lw.StreamExecutionEnvironment(
        checkpoint_interval=os.environ.get("CHECKPOINT_INTERVAL", "5s"),
        checkpoint_dir=os.environ.get("CHECKPOINTS", "lakeward-checkpoints"),
    )
    bids = env.from_source(
        lw.KafkaSource(
            os.environ.get("BOOTSTRAP", "localhost:9092"),
            os.environ.get("TOPIC", "bids"),
            format=lw.Json(schema=Bid),
            start="earliest",
            stop="latest" if os.environ.get("STOP_AT_END") == "1" else None,
            metadata=("partition", "offset"),
        ),
        watermark=lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "5s"),
        uid="bids",
    )
    worth_it = bids.filter(col("price") >= 1_000, uid="worth-it")

    worth_it.sink_to(
        lw.IcebergSink("auctions.bids", catalog=catalog, partition_by=[lw.hour("dateTime")]), uid="bids-table"
    )
    (
        worth_it.key_by("auction")
        .window(lw.Tumbling("10s"))
        .aggregate(bids=lw.count(), revenue=lw.sum("price"), uid="revenue")
        .sink_to(lw.IcebergSink("auctions.revenue", catalog=catalog), uid="revenue-table")
    )
    env.execute("kafka-to-iceberg")


if __name__ == "__main__":
    main()
