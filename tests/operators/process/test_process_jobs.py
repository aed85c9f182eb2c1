"""Process functions in jobs with checkpoints every few milliseconds and hardly any memory for state."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lakeward as lw

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
ROWS = [{"k": n % 37, "n": n, "at": NOON + dt.timedelta(seconds=n)} for n in range(600)]
RETURNS = {"k": int, "n": int, "seen": int}


def refuse(row: dict[str, Any]) -> None:
    if row["n"] % 7 == 3:
        raise ValueError(f"{row['n']} is refused")


class Waits(lw.CoProcessFunction):
    """Counts the rows of the second stream as of the times of the first one's."""

    waiting: lw.ListState[int]
    seen: lw.MapState[int, bool]

    def process1(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.waiting.append(row["n"])
        ctx.timers.register_event_time(row["at"])
        refuse(row)

    def process2(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.seen[row["n"]] = True

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        upto = (timestamp - NOON) // dt.timedelta(seconds=1)
        due = [n for n in self.waiting if n <= upto]
        self.waiting.replace([n for n in self.waiting if n > upto])
        for n in due:
            yield {"k": ctx.current_key, "n": n, "seen": sum(one <= n for one in self.seen)}


class WaitsForRules(lw.BroadcastProcessFunction):
    """The same with a second stream that is broadcast."""

    waiting: lw.ListState[int]
    seen: lw.BroadcastState[int, int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.waiting.append(row["n"])
        ctx.timers.register_event_time(row["at"])
        refuse(row)

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None:
        self.seen[row["n"]] = row["k"]

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        upto = (timestamp - NOON) // dt.timedelta(seconds=1)
        due = [n for n in self.waiting if n <= upto]
        self.waiting.replace([n for n in self.waiting if n > upto])
        for n in due:
            seen = sum(one <= n and k == ctx.current_key for one, k in self.seen.items())
            yield {"k": ctx.current_key, "n": n, "seen": seen}


@pytest.mark.parametrize("broadcast", [False, True], ids=["connected", "broadcast"])
def test_two_streams_meet_with_checkpoints_all_the_time_and_state_on_disk(broadcast: bool, tmp_path: Path) -> None:
    config = lw.EngineConfig(parallelism=3, batch_rows=20, state_memory_bytes=2_000, checkpoint_interval_ms=5)
    env = lw.StreamExecutionEnvironment(config=config, checkpoint_dir=str(tmp_path))
    times = lw.WatermarkStrategy.monotonous("at")
    one, other = (env.from_collection(ROWS, watermark=times, uid=uid) for uid in ("one", "other"))
    policy, sink = lw.OnError.skip(), lw.MemorySink()
    if broadcast:
        found = one.key_by("k").connect(other.broadcast()).process(WaitsForRules(), returns=RETURNS, on_error=policy)
    else:
        found = one.key_by("k").connect(other.key_by("k")).process(Waits(), returns=RETURNS, on_error=policy)
    found.sink_to(sink, uid="out")
    env.execute("waits")
    rows = sorted(sink.table().to_pylist(), key=lambda row: row["n"])
    assert rows == [{"k": n % 37, "n": n, "seen": n // 37 + 1} for n in range(600) if n % 7 != 3]
