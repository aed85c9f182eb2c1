"""The job of tests/recovery/test_process_savepoints.py: windows, sessions, timers, lists and a join, into files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa

import lakeward as lw

SECOND_US = 1_000_000
SPLITS = 8
TABLES = ("windows", "sessions", "silence", "joined")


class Silence(lw.KeyedProcessFunction):
    """Tells how often an auction was bid for, and by whom, when nobody has for three seconds."""

    bids: lw.ValueState[int] = lw.ValueState(default=0)
    until: lw.ValueState[int] = lw.ValueState()
    bidders: lw.ListState[int] = lw.ListState()

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        """Count, and set the timer anew."""
        self.bids.value += 1
        self.bidders.append(row["bidder"])
        until = (ctx.timestamp_us or 0) + 3 * SECOND_US
        if self.until.value is None or until > self.until.value:
            if self.until.value is not None:
                ctx.timers.delete_event_time(self.until.value)
            ctx.timers.register_event_time(until)
            self.until.value = until

    def on_timer(self, timestamp: datetime, ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        """Tell, and forget."""
        yield {"auction": ctx.current_key, "bids": self.bids.value, "bidders": sum(self.bidders)}
        for state in (self.bids, self.until, self.bidders):
            state.clear()


def main() -> None:
    options = json.loads(sys.argv[1])

    def slowly(batch: pa.RecordBatch) -> pa.RecordBatch:
        time.sleep(options["batch_s"])
        return batch

    env = lw.StreamExecutionEnvironment(
        parallelism=options["parallelism"],
        checkpoint_interval="50ms",
        checkpoint_dir=options["checkpoints"],
        config=lw.EngineConfig(batch_rows=100, alignment_timeout_ms=options["alignment_ms"]),
    )
    time_of = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
    source = lw.NexmarkSource(options["events"], splits=SPLITS)
    bids = env.from_source(source, watermark=time_of, uid="bids").map_batches(slowly, uid="slowly")
    keyed = bids.key_by("auction")
    results = {
        "windows": keyed.window(lw.Tumbling("1s")).aggregate(n=lw.count(), total=lw.sum("price"), uid="windows"),
        "sessions": keyed.window(lw.Session("2s")).aggregate(n=lw.count(), top=lw.max("price"), uid="sessions"),
        "silence": keyed.process(Silence(), returns={"auction": int, "bids": int, "bidders": int}, uid="silence"),
    }
    tops = results["sessions"].select("auction", "top", uid="tops")
    totals = results["windows"].select("auction", "total", uid="totals")
    results["joined"] = totals.join(tops, on="auction", uid="join")
    for name, stream in results.items():
        stream.sink_to(lw.FilesSink(f"{options['folder']}/{name}", format="jsonl"), uid=f"{name}-files")
    if env.execute("saved", savepoint=options["savepoint"]) is not None:
        print("ended", flush=True)


if __name__ == "__main__":
    main()
