"""User sessions: how many bids a bidder made before a pause."""

from __future__ import annotations

import lakeward as lw


def q11(bids: lw.DataStream) -> lw.DataStream:
    """The bids of each bidder between pauses of more than ten seconds."""
    sessions = bids.key_by("bidder").window(lw.Session("10s")).aggregate(bid_count=lw.count(), uid="sessions")
    return sessions.select("bidder", "bid_count", starttime="window_start", endtime="window_end")
