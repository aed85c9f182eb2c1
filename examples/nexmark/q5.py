"""Hot items: which auctions got the most bids."""

from __future__ import annotations

import lakeward as lw


def q5(bids: lw.DataStream) -> lw.DataStream:
    """Every two seconds, the auctions with the most bids in the last ten, and how many those are."""
    counts = bids.key_by("auction").window(lw.Sliding("10s", slide="2s")).aggregate(num=lw.count(), uid="counts")
    hottest = counts.window_top_n(1, by=lw.desc("num"), method="rank", uid="hottest")
    return hottest.select("auction", "num")
