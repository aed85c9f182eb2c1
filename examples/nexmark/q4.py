"""Average price of a category: what its auctions closed at."""

from __future__ import annotations

import lakeward as lw
from lakeward import col


def q4(auctions: lw.DataStream, bids: lw.DataStream) -> lw.DataStream:
    """The average over each category of the highest bid that each auction got while it was open.

    Updated with every bid that is the highest so far.
    """
    offers = auctions.select("id", "category", "dateTime", "expires")
    in_time = bids.select("auction", "price", "dateTime").interval_join(
        offers, left_on="auction", right_on="id", within=("dateTime", "expires"), validate="m:1", uid="bids-in-time"
    )
    closing = in_time.key_by("auction", "category").aggregate(final=lw.max("price"), uid="closing-prices")
    average = closing.key_by("category").aggregate(final=lw.mean("final"), uid="averages")
    return average.select("category", final=col("final").floor().cast("int64"))
