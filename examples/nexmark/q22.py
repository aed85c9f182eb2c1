"""Directories of the URL: the first three parts of its path."""

from __future__ import annotations

import lakeward as lw
from lakeward import col


def q22(bids: lw.DataStream) -> lw.DataStream:
    """Every bid, its URL cut at the slashes: "https:", "", host, and then what is asked for."""
    url = col("url").str
    return bids.select(
        "auction",
        "bidder",
        "price",
        "channel",
        dir1=url.split_part("/", 4),
        dir2=url.split_part("/", 5),
        dir3=url.split_part("/", 6),
    )
