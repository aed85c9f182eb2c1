"""Auction statistics report: bids and prices of each auction and day."""

from __future__ import annotations

import lakeward as lw
from lakeward import col

price = col("price")


def q17(bids: lw.DataStream) -> lw.DataStream:
    """How many bids each auction got on a day, in three ranges of price, and their prices; updated with every bid."""
    day = col("dateTime").dt.strftime("%Y-%m-%d").alias("day")
    statistics = bids.key_by("auction", day).aggregate(
        total_bids=lw.count(),
        rank1_bids=lw.count().where(price < 10_000),
        rank2_bids=lw.count().where((price >= 10_000) & (price < 1_000_000)),
        rank3_bids=lw.count().where(price >= 1_000_000),
        min_price=lw.min("price"),
        max_price=lw.max("price"),
        avg_price=lw.mean("price"),
        sum_price=lw.sum("price"),
        uid="statistics",
    )
    return statistics.with_columns(avg_price=col("avg_price").floor().cast("int64"))
