"""Processing time windows: how many bids of a bidder came within ten seconds of the clock."""

from __future__ import annotations

import lakeward as lw


def q12(bids: lw.DataStream) -> lw.DataStream:
    """The bids of each bidder that arrived in the same ten seconds, whatever their own time says."""
    windows = bids.key_by("bidder").window(lw.Tumbling("10s", time="processing"))
    return windows.aggregate(bid_count=lw.count(), uid="counts").select("bidder", "bid_count")
