"""Highest bid: which bids had the greatest price of their ten seconds."""

from __future__ import annotations

import lakeward as lw


def q7(bids: lw.DataStream) -> lw.DataStream:
    """Every bid with the highest price of a window of ten seconds; one at the moment of the window's end counts too."""
    highest = bids.window_all(lw.Tumbling("10s")).aggregate(price=lw.max("price"), uid="highest-prices")
    same_price = bids.interval_join(
        highest, on="price", within=("window_start", "window_end"), lookback="10s", uid="highest-bids"
    )
    return same_price.select("auction", "bidder", "price", "dateTime", "extra")
