"""Selection: the bids for some auctions, by their numbers."""

from __future__ import annotations

import lakeward as lw
from lakeward import col


def q2(bids: lw.DataStream) -> lw.DataStream:
    """Auction and price of every bid for an auction whose number is a multiple of 123."""
    return bids.filter(col("auction") % 123 == 0).select("auction", "price")
