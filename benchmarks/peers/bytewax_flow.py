"""A Nexmark query by Bytewax: JSON lines in, nothing out.

Run by `run.py` with the interpreter of an environment that has bytewax and orjson. Stateless queries handle a batch at
a time, which is Bytewax's fastest way; the others use its windowing and stateful operators as its manual shows them.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import orjson
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.operators.windowing import EventClock, SessionWindower, SlidingWindower, TumblingWindower
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.testing import run_main

START = datetime(2026, 1, 1, tzinfo=UTC)


class _Nothing(StatelessSinkPartition[Any]):
    def write_batch(self, items: list[Any]) -> None:
        pass


class Blackhole(DynamicSink[Any]):
    """Forgets."""

    def build(self, step_id: str, worker_index: int, worker_count: int) -> _Nothing:
        """The one partition."""
        return _Nothing()


def stateless(query: str) -> Any:
    """A function from a batch of lines to rows."""
    if query == "q0":
        return lambda lines: [
            (b["auction"], b["bidder"], b["price"], b["dateTime"], b["extra"]) for b in map(orjson.loads, lines)
        ]
    if query == "q2":
        return lambda lines: [(b["auction"], b["price"]) for b in map(orjson.loads, lines) if b["auction"] % 123 == 0]
    return lambda lines: [
        (b["auction"], b["bidder"], b["price"], b["channel"], *b["url"].split("/")[3:6])
        for b in map(orjson.loads, lines)
    ]


def time_of(bid: dict[str, Any]) -> datetime:
    """Event time."""
    return datetime.fromisoformat(bid["dateTime"]).replace(tzinfo=UTC)


def day_stats(state: list[Any] | None, bid: dict[str, Any]) -> tuple[list[Any] | None, tuple[Any, ...]]:
    """q17: counts by rank, and the prices' minimum, maximum, mean and sum."""
    price = bid["price"]
    if state is None:
        state = [0, 0, 0, 0, price, price, 0]
    state[0] += 1
    state[1 if price < 10_000 else 2 if price < 1_000_000 else 3] += 1
    state[4], state[5], state[6] = min(state[4], price), max(state[5], price), state[6] + price
    return state, (*state, state[6] // state[0])


def latest(state: dict[str, Any] | None, bid: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """q18: the last bid."""
    if state is None or bid["dateTime"] >= state["dateTime"]:
        state = bid
    return state, state


def flow_of(query: str, path: str) -> Dataflow:
    """The dataflow of a query."""
    flow = Dataflow(query)
    lines = op.input("in", flow, FileSource(path, batch_size=1000))
    if query in ("q0", "q2", "q22"):
        op.output("out", op.flat_map_batch("answer", lines, stateless(query)), Blackhole())
        return flow
    bids = op.flat_map_batch("parse", lines, lambda batch: list(map(orjson.loads, batch)))
    if query in ("q17", "q18"):
        by_day = query == "q17"
        keyed = op.key_on(
            "key", bids, lambda b: f"{b['auction']}-{b['dateTime'][:10]}" if by_day else f"{b['bidder']}-{b['auction']}"
        )
        op.output("out", op.stateful_map("answer", keyed, day_stats if by_day else latest), Blackhole())
        return flow
    clock = EventClock(time_of, wait_for_system_duration=timedelta(seconds=4))
    ten = timedelta(seconds=10)
    if query == "tumbling":
        windower: Any = TumblingWindower(length=ten, align_to=START)
        keyed = op.key_on("key", bids, key_of(query))
        result = win.fold_window("answer", keyed, clock, windower, lambda: 0, lambda top, b: max(top, b["price"]), max)
    else:
        sliding = SlidingWindower(length=ten, offset=timedelta(seconds=2), align_to=START)
        windower = SessionWindower(gap=ten) if query == "q11" else sliding
        result = win.count_window("answer", bids, clock, windower, key_of(query))
    op.output("out", result.down, Blackhole())
    return flow


def key_of(query: str) -> Any:
    """The key of a counted bid."""
    name = "bidder" if query == "q11" else "auction"
    return lambda bid: str(bid[name])


if __name__ == "__main__":
    run_main(flow_of(sys.argv[1], sys.argv[2]))
