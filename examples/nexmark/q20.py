"""Expand bid with auction: every bid for an auction of one category, with the auction."""

from __future__ import annotations

import lakeward as lw
from lakeward import col


def q20(bids: lw.DataStream, auctions: lw.DataStream) -> lw.DataStream:
    """Bids with the auctions of category 10, whichever of the two comes first."""
    offers = auctions.filter(col("category") == 10)
    offers = offers.rename({"id": "auction", "dateTime": "auction_dateTime", "extra": "auction_extra"})
    return bids.rename({"dateTime": "bid_dateTime", "extra": "bid_extra"}).join(
        offers, on="auction", validate="m:1", uid="offers"
    )
