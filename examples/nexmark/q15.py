"""Bidding statistics report: bids, bidders and auctions of each day, by price."""

from __future__ import annotations

import lakeward as lw
from lakeward import col

LOW = col("price") < 10_000
MIDDLE = (col("price") >= 10_000) & (col("price") < 1_000_000)
HIGH = col("price") >= 1_000_000

STATISTICS = {
    "total_bids": lw.count(),
    "rank1_bids": lw.count().where(LOW),
    "rank2_bids": lw.count().where(MIDDLE),
    "rank3_bids": lw.count().where(HIGH),
    "total_bidders": lw.count_distinct("bidder"),
    "rank1_bidders": lw.count_distinct("bidder").where(LOW),
    "rank2_bidders": lw.count_distinct("bidder").where(MIDDLE),
    "rank3_bidders": lw.count_distinct("bidder").where(HIGH),
    "total_auctions": lw.count_distinct("auction"),
    "rank1_auctions": lw.count_distinct("auction").where(LOW),
    "rank2_auctions": lw.count_distinct("auction").where(MIDDLE),
    "rank3_auctions": lw.count_distinct("auction").where(HIGH),
}
"""All bids, and those of three ranges of price: how many, by how many bidders, for how many auctions."""


def q15(bids: lw.DataStream) -> lw.DataStream:
    """The statistics of each day; updated with every bid."""
    day = col("dateTime").dt.strftime("%Y-%m-%d").alias("day")
    return bids.key_by(day).aggregate(STATISTICS, uid="statistics")
