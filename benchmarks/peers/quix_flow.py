"""A Nexmark query by Quix Streams: JSON from a Kafka topic, keyed by auction, nothing out.

Run by `run.py` with the interpreter of an environment that has quixstreams, against a broker that holds the bids: Quix
reads Kafka only. The broker's time is not counted.
"""

from __future__ import annotations

import sys
import uuid
from datetime import datetime, timedelta
from typing import Any

from quixstreams import Application, State
from quixstreams.dataframe.windows import Count, Max
from quixstreams.models import TimestampType


def event_time_ms(value: Any, headers: Any, timestamp: float, kind: TimestampType) -> int:
    """Event time, from the bid."""
    return int(datetime.fromisoformat(value["dateTime"] + "+00:00").timestamp() * 1000)


def day_stats(bid: dict[str, Any], state: State) -> dict[str, Any]:
    """q17: counts by rank, and the prices' minimum, maximum, mean and sum."""
    price, day = bid["price"], bid["dateTime"][:10]
    held = state.get(day) or [0, 0, 0, 0, price, price, 0]
    held[0] += 1
    held[1 if price < 10_000 else 2 if price < 1_000_000 else 3] += 1
    held[4], held[5], held[6] = min(held[4], price), max(held[5], price), held[6] + price
    state.set(day, held)
    return {"auction": bid["auction"], "day": day, "stats": held, "avg": held[6] // held[0]}


def main(query: str, bootstrap: str, topic_name: str, rows: int, directory: str) -> None:
    """Run one query over so many messages."""
    app = Application(
        broker_address=bootstrap,
        consumer_group=f"quix-{uuid.uuid4().hex}",
        auto_offset_reset="earliest",
        state_dir=f"{directory}/state",
        commit_interval=10.0,
        loglevel="ERROR",
    )
    bids = app.dataframe(app.topic(topic_name, value_deserializer="json", timestamp_extractor=event_time_ms))
    ten = timedelta(seconds=10)
    if query == "q0":
        bids.apply(lambda b: {name: b[name] for name in ("auction", "bidder", "price", "dateTime", "extra")})
    elif query == "q2":
        bids.filter(lambda b: b["auction"] % 123 == 0).apply(lambda b: {"auction": b["auction"], "price": b["price"]})
    elif query == "q22":
        bids.apply(lambda b: {**b, "dirs": b["url"].split("/")[3:6]})
    elif query == "q17":
        bids.apply(day_stats, stateful=True)
    elif query == "tumbling":
        bids.tumbling_window(ten, grace_ms=4000).agg(top=Max("price")).final()
    else:
        bids.hopping_window(ten, timedelta(seconds=2), grace_ms=4000).agg(n=Count()).final()
    app.run(count=rows, timeout=20.0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
