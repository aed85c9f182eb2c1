"""What `run.py` asks besides Nexmark's own queries, by Lakeward: JSON lines of bids in, nothing out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lakeward as lw
from lakeward.connectors.nexmark.law import BID_SCHEMA


def windowed(bids: lw.DataStream, key: str, window: object, **aggregates: object) -> lw.DataStream:
    """Aggregates per key and window."""
    return bids.key_by(key).window(window).aggregate(**aggregates)  # type: ignore[arg-type]


@dataclass(slots=True)
class Bid:
    """What the process function reads."""

    auction: int


class Counted(lw.KeyedProcessFunction):
    """A running count, by a Python function of each row, as PyFlink's."""

    n: lw.ValueState[int] = lw.ValueState(default=0)

    def process(self, row: Bid, ctx: lw.KeyedContext) -> Iterator[tuple[int, int]]:
        """Count."""
        self.n.value += 1
        yield row.auction, self.n.value


FLOWS: dict[str, Callable[[lw.DataStream], lw.DataStream]] = {
    "tumbling": lambda bids: windowed(bids, "auction", lw.Tumbling("10s"), top=lw.max("price")),
    "sliding": lambda bids: windowed(bids, "auction", lw.Sliding("10s", "2s"), n=lw.count()),
    "process": lambda bids: bids.key_by("auction").process(Counted(), returns={"auction": int, "n": int}),
}


def main(query: str, path: str, directory: str) -> None:
    """Run one query to the end of the file."""
    env = lw.StreamExecutionEnvironment(checkpoint_interval="10s", checkpoint_dir=directory)
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "4s")
    bids = env.from_source(lw.FilesSource(path, format="jsonl", schema=BID_SCHEMA), watermark=watermark, uid="bids")
    FLOWS[query](bids).sink_to(lw.BlackholeSink(), uid="out")
    env.execute(f"peers-{query}")


if __name__ == "__main__":
    main(*sys.argv[1:])
