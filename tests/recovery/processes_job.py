"""The job of tests/recovery/test_processes.py: bids and windows over them into files, by several worker processes."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

import pyarrow as pa

import lakeward as lw


def main() -> None:
    options = json.loads(sys.argv[1])
    logging.basicConfig(level="INFO", format="%(message)s")
    folder = options["folder"]

    def slowly(batch: pa.RecordBatch) -> pa.RecordBatch:
        time.sleep(options["batch_s"])
        return batch

    def checked(row: dict[str, Any]) -> dict[str, Any]:
        if row["price"] == options["bad_price"]:
            raise ValueError(f"no bid may cost {row['price']}")
        return row

    env = lw.StreamExecutionEnvironment(
        parallelism=options["parallelism"],
        checkpoint_interval="100ms",
        checkpoint_dir=f"{folder}/checkpoints",
        config=lw.EngineConfig(
            processes=options["processes"],
            batch_rows=200,
            restart=lw.RestartConfig(delay_min_ms=10),
            alignment_timeout_ms=options.get("alignment_ms"),
        ),
    )
    bids = env.from_source(
        lw.NexmarkSource(options["events"], splits=4),
        watermark=lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s"),
        uid="bids",
    ).map_batches(slowly, uid="slowly")
    if options["bad_price"]:
        bids = bids.map(checked, returns=bids.schema, uid="checked")
    rewind = options.get("on_rewind", "refuse")
    out = lw.FilesSink(f"{folder}/bids", on_rewind=rewind)
    bids.select("auction", "bidder", "price").sink_to(out, uid="bids-files")
    (
        bids.key_by("auction")
        .window(lw.Tumbling("10s"))
        .aggregate(n=lw.count(), total=lw.sum("price"), uid="windows")
        .sink_to(lw.FilesSink(f"{folder}/windows", on_rewind=rewind), uid="windows-files")
    )
    result = env.execute(options.get("name", "processes"))
    if result is None:  # a worker of another job
        return
    said = {"ended": result.ended, "restarts": result.restarts, "metrics": result.metrics}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
