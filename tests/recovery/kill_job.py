"""The job that tests/recovery/test_kill.py kills: Kafka to two Iceberg tables, slowed down so that it can be caught."""

from __future__ import annotations

import json
import sys
import time

import pyarrow as pa

import lakeward as lw
from lakeward.testing.kill_points import KillPoint, arm

BID = pa.schema(
    [("auction", pa.int64()), ("bidder", pa.int64()), ("price", pa.int64()), ("dateTime", pa.timestamp("us"))]
)


def slowly(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, a little later."""
    time.sleep(0.002)
    return batch


def main() -> None:
    options = json.loads(sys.argv[1])
    if options["kill_at"]:
        arm(KillPoint(options["kill_at"]), options["nth"])
    env = lw.StreamExecutionEnvironment(
        checkpoint_interval="100ms",
        checkpoint_dir=options["checkpoints"],
        parallelism=options["parallelism"],
        config=lw.EngineConfig(
            processes=options["parallelism"],
            batch_rows=options["batch_rows"],
            linger_ms=5,
            restart=lw.RestartConfig(delay_min_ms=10),
        ),
    )
    source = lw.KafkaSource(
        options["bootstrap"],
        options["topic"],
        format=lw.Json(schema=BID),
        stop="latest",
        metadata=("partition", "offset"),
    )
    bids = env.from_source(
        source, watermark=lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s"), uid="bids"
    ).map_batches(slowly, uid="slowly")
    bids.sink_to(lw.IcebergSink("db.raw", catalog=options["catalog"]), uid="raw")
    (
        bids.key_by("auction")
        .window(lw.Tumbling("10s"))
        .aggregate(n=lw.count(), total=lw.sum("price"), uid="windows")
        .sink_to(lw.IcebergSink("db.windows", catalog=options["catalog"]), uid="windows-table")
    )
    env.execute("kill", savepoint=options["savepoint"])


if __name__ == "__main__":
    main()
