"""Log to a file system: every bid with its day and minute, which a partitioned table would be written by."""

from __future__ import annotations

import lakeward as lw
from lakeward import col


def q10(bids: lw.DataStream) -> lw.DataStream:
    """All bids, with the day and the minute of their time as text."""
    return bids.select(
        "auction",
        "bidder",
        "price",
        "dateTime",
        "extra",
        dt=col("dateTime").dt.strftime("%Y-%m-%d"),
        hm=col("dateTime").dt.strftime("%H:%M"),
    )
