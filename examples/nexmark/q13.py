"""Bounded side input join: every bid with a text from a table."""

from __future__ import annotations

import lakeward as lw
from lakeward import col


def q13(bids: lw.DataStream, side_input: lw.DataStream) -> lw.DataStream:
    """Looks the bids' auctions up in a table of 10,000 keys, which is read first and given to every subtask."""
    slot = (col("auction") % 10_000).alias("slot")
    found = bids.lookup_join(side_input, left_on=slot, right_on="key", validate="m:1", uid="lookup")
    return found.select("auction", "bidder", "price", "dateTime", "value")
