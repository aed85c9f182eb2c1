"""The job that tests/recovery/test_async_kill.py kills: bids through slow calls, those that fail aside, into files."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import lakeward as lw
from lakeward.testing.kill_points import KillPoint, arm, pace

FAILED = lw.OutputTag("failed")


class Refused(Exception):
    """What a service may answer."""


async def asked(auction: int, bidder: int, price: int) -> dict[str, Any]:
    """The bid, some milliseconds later; so that rows are in flight at every checkpoint."""
    await asyncio.sleep((auction + bidder) % 7 / 200)
    if price % 5 == 0:
        raise Refused(f"not {price}")
    return {"auction": auction, "bidder": bidder, "price": price}


def main() -> None:
    options = json.loads(sys.argv[1])
    pace(2)
    if options["kill_at"]:
        arm(KillPoint(options["kill_at"]), options["nth"])
    folder = options["folder"]
    env = lw.StreamExecutionEnvironment(
        checkpoint_interval="30ms", checkpoint_dir=f"{folder}/checkpoints", config=lw.EngineConfig(batch_rows=100)
    )
    bids = env.from_source(lw.NexmarkSource(options["events"], splits=2), uid="bids", parallelism=2)
    answers = bids.map_async(
        asked,
        returns={"auction": int, "bidder": int, "price": int},
        ordered=options["ordered"],
        capacity=20,
        retries=lw.AsyncRetry(attempts=2, backoff="1ms"),
        on_error=lw.OnError.side_output(FAILED),
        uid="asked",
        parallelism=options["parallelism"],
    )
    answers.sink_to(lw.FilesSink(f"{folder}/answers"), uid="answers", parallelism=1)
    failed = answers.side_output(FAILED).select("auction", "bidder", "price")
    failed.sink_to(lw.FilesSink(f"{folder}/failed"), uid="failed", parallelism=1)
    env.execute("ask")


if __name__ == "__main__":
    main()
