"""A Nexmark query by Lakeward, as `run.py` asks the others for it: JSON lines in, nothing out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import lakeward as lw  # isort: skip  # before pyarrow: it says how Arrow keeps memory
import pyarrow as pa

from lakeward import col

BID = pa.schema(
    [
        *((name, pa.int64()) for name in ("auction", "bidder", "price")),
        *((name, pa.string()) for name in ("channel", "url")),
        ("dateTime", pa.timestamp("us")),
        ("extra", pa.string()),
    ]
)


def q22(bids: lw.DataStream) -> lw.DataStream:
    """Parts of the URL's path."""
    parts = {f"dir{n}": col("url").str.split_part("/", n + 3) for n in (1, 2, 3)}
    return bids.select("auction", "bidder", "price", "channel", **parts)


def q17(bids: lw.DataStream) -> lw.DataStream:
    """Statistics per auction and day."""
    price = col("price")
    low, high = price < 10_000, price >= 1_000_000
    return (
        bids.with_columns(day=col("dateTime").dt.format("%Y-%m-%d"))
        .key_by("auction", "day")
        .aggregate(
            total_bids=lw.count(),
            rank1_bids=lw.count().where(low),
            rank2_bids=lw.count().where(~low & ~high),
            rank3_bids=lw.count().where(high),
            min_price=lw.min("price"),
            max_price=lw.max("price"),
            avg_price=lw.mean("price"),
            sum_price=lw.sum("price"),
        )
    )


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
    "q0": lambda bids: bids.select("auction", "bidder", "price", "dateTime", "extra"),
    "q2": lambda bids: bids.filter(col("auction") % 123 == 0).select("auction", "price"),
    "q22": q22,
    "tumbling": lambda bids: windowed(bids, "auction", lw.Tumbling("10s"), top=lw.max("price")),
    "sliding": lambda bids: windowed(bids, "auction", lw.Sliding("10s", "2s"), n=lw.count()),
    "q11": lambda bids: windowed(bids, "bidder", lw.Session("10s"), bid_count=lw.count()),
    "q17": q17,
    "q18": lambda bids: bids.key_by("bidder", "auction").deduplicate(keep="last", order_by="dateTime"),
    "process": lambda bids: bids.key_by("auction").process(Counted(), returns={"auction": int, "n": int}),
}


def main(query: str, path: str, directory: str) -> None:
    """Run one query to the end of the file."""
    env = lw.StreamExecutionEnvironment(checkpoint_interval="10s", checkpoint_dir=directory)
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "4s")
    bids = env.from_source(lw.FilesSource(path, format="jsonl", schema=BID), watermark=watermark, uid="bids")
    FLOWS[query](bids).sink_to(lw.BlackholeSink(), uid="out")
    env.execute(f"peers-{query}")


if __name__ == "__main__":
    main(*sys.argv[1:])
