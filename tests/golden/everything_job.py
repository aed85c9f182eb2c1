"""A job with every kind of state, for tests that move state: windows, timers, joins, totals, sinks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

import lakeward as lw
from lakeward import col
from lakeward.engine.api.sink import Sink
from lakeward.testing import CollectSink, Item, ScriptedSource

SCHEMA = pa.schema({"k": pa.int64(), "name": pa.string(), "v": pa.int64(), "at": pa.timestamp("us")})
SECOND = 1_000_000
WATERMARK = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1s")


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Rows of 50 keys, about ten a second, a little out of order."""
    numbers = range(first, first + count)
    return [
        {"k": n * 7919 % 50, "name": f"n{n % 5}", "v": n, "at": (n // 10 * SECOND) + (n * 37 % 10) * SECOND // 10}
        for n in numbers
    ]


BATCHES = [rows(first, 40) for first in range(0, 400, 40)]


class Silence(lw.KeyedProcessFunction):
    """Tells how many rows a key had, and its last names, when it has been silent for two seconds."""

    rows: lw.ValueState[int] = lw.ValueState(default=0)
    until: lw.ValueState[int] = lw.ValueState()
    names: lw.ListState[str] = lw.ListState()
    values: lw.MapState[str, int] = lw.MapState()

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        """Count, and set the timer anew."""
        self.rows.value += 1
        self.names.append(row["name"])
        self.values[row["name"]] = max(row["v"], self.values.get(row["name"], 0))
        until = (ctx.timestamp_us or 0) + 2 * SECOND
        if self.until.value is None or until > self.until.value:
            if self.until.value is not None:
                ctx.timers.delete_event_time(self.until.value)
            ctx.timers.register_event_time(until)
            self.until.value = until

    def on_timer(self, timestamp: datetime, ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        """Tell, and forget."""
        names = ",".join(sorted(self.names))
        yield {"k": ctx.current_key, "rows": self.rows.value, "names": names, "values": sum(self.values.values())}
        for state in (self.rows, self.until, self.names, self.values):
            state.clear()


def job(
    env: lw.StreamExecutionEnvironment,
    script: Sequence[Item],
    sinks: str = "",
    make_sink: Callable[[str], Sink] = lambda _uid: CollectSink(),
) -> lw.DataStream:
    """Build it, and return its source's stream; the uids of sinks begin with `sinks`."""
    stream = env.from_source(ScriptedSource(SCHEMA, script), watermark=WATERMARK, uid="source", parallelism=1)
    keyed = stream.key_by("k")
    windows = keyed.window(lw.Sliding("6s", "2s")).aggregate(n=lw.count(), total=lw.sum("v"), uid="windows")
    sessions = keyed.window(lw.Session("1s")).aggregate(n=lw.count(), names=lw.count_distinct("name"), uid="sessions")
    returns = {"k": "int64", "rows": "int64", "names": "string", "values": "int64"}
    silence = keyed.process(Silence(), returns=returns, uid="silence")
    evens, odds = stream.filter(col("v") % 2 == 0), stream.filter(col("v") % 2 == 1)
    pairs = evens.interval_join(odds, "name", lower="-1s", upper="1s", uid="pairs").select("name", "v", "v_right")
    totals = stream.key_by("name").aggregate(n=lw.count(), top=lw.max("v"), uid="totals")
    answers = {"windows": windows, "sessions": sessions, "silence": silence, "pairs": pairs, "totals": totals}
    for name, answer in answers.items():
        answer.sink_to(make_sink(f"{sinks}{name}-out"), uid=f"{sinks}{name}-out")
    return stream
