"""Winning bids: for each auction the highest bid while it was open."""

from __future__ import annotations

import lakeward as lw


def q9(auctions: lw.DataStream, bids: lw.DataStream) -> lw.DataStream:
    """Every auction with its winning bid: of equal prices the earliest; replaced when a better one comes.

    Bids are ranked before whole auctions are put beside them: most bids never win.
    """
    opened = auctions.select("id", "dateTime", "expires")
    offered = bids.rename({"dateTime": "bid_dateTime", "extra": "bid_extra"}).interval_join(
        opened, left_on="auction", right_on="id", within=("dateTime", "expires"), validate="m:1", uid="bids-in-time"
    )
    best = offered.key_by("auction").top_n(
        1, by=[lw.desc("price"), "bid_dateTime", "bidder", "bid_extra"], uid="winning-bids"
    )
    winners = best.select("auction", "bidder", "price", "bid_dateTime", "bid_extra")
    return auctions.join(winners, left_on="id", right_on="auction", validate="1:1", uid="auctions-won")
