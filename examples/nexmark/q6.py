"""Average selling price by seller: of the last auctions that each has closed."""

from __future__ import annotations

import lakeward as lw
from lakeward import col
from lakeward.examples.nexmark.q9 import q9


def q6(auctions: lw.DataStream, bids: lw.DataStream) -> lw.DataStream:
    """The average price of each seller's last eleven winning bids; updated as auctions find better bids."""
    winners = q9(auctions.select("id", "seller", "dateTime", "expires"), bids)
    last = winners.key_by("seller").top_n(11, by=[lw.desc("bid_dateTime"), lw.desc("id")], uid="last-winners")
    average = last.key_by("seller").aggregate(avg_price=lw.mean("price"), uid="averages")
    return average.select("seller", avg_price=col("avg_price").floor().cast("int64"))
