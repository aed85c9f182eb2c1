"""Winning bids: for each auction the highest bid while it was open."""

from __future__ import annotations

import lakeward as lw


def q9(auctions: lw.DataStream, bids: lw.DataStream) -> lw.DataStream:
    """Every auction with its winning bid: of equal prices the earliest; replaced when a better one comes."""
    offered = bids.rename({"dateTime": "bid_dateTime", "extra": "bid_extra"}).interval_join(
        auctions, left_on="auction", right_on="id", within=("dateTime", "expires"), validate="m:1", uid="bids-in-time"
    )
    best = offered.key_by("id").top_n(
        1, by=[lw.desc("price"), "bid_dateTime", "bidder", "bid_extra"], uid="winning-bids"
    )
    bid = ("auction", "bidder", "price", "bid_dateTime", "bid_extra")
    return best.select(*auctions.schema.names, *bid)
