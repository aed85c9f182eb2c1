"""Find last bid: of each bidder for each auction."""

from __future__ import annotations

import lakeward as lw


def q18(bids: lw.DataStream) -> lw.DataStream:
    """The bid with the latest time of each bidder and auction; replaced when a later one comes."""
    last = bids.key_by("bidder", "auction").deduplicate("last", order_by="dateTime", uid="last-bids")
    return last.select("auction", "bidder", "price", "channel", "url", "dateTime", "extra")
