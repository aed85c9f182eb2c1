"""A job for tests/recovery/test_object_store.py: windows over bids into files, with checkpoints in an object store."""

from __future__ import annotations

import logging
import sys

import lakeward as lw


def main() -> None:
    checkpoints, out, parallelism, events = sys.argv[1:5]
    logging.basicConfig(level="INFO", format="%(message)s")
    env = lw.StreamExecutionEnvironment(
        parallelism=int(parallelism), checkpoint_interval="200ms", checkpoint_dir=checkpoints
    )
    time = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
    bids = env.from_source(lw.NexmarkSource(int(events), paced=True, rate=20_000, splits=4), watermark=time, uid="bids")
    counts = bids.key_by("auction").window(lw.Tumbling("1s")).aggregate(n=lw.count(), uid="counts")
    counts.sink_to(lw.FilesSink(f"{out}/windows"), uid="windows-out")
    bids.select("auction", "price").sink_to(lw.FilesSink(f"{out}/bids"), uid="bids-out")
    print("running", flush=True)
    result = env.execute("s3")
    assert result is not None
    print(f"ended={result.ended} restarts={result.restarts}", flush=True)


if __name__ == "__main__":
    main()
