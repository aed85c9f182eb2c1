"""Add a channel id: the four big channels have numbers, the others name theirs in the URL."""

from __future__ import annotations

import lakeward as lw
from lakeward import col

BIG_CHANNELS = {"apple": "0", "google": "1", "facebook": "2", "baidu": "3"}
IN_URL = r"(?:&|^)channel_id=([^&]*)"


def q21(bids: lw.DataStream) -> lw.DataStream:
    """Every bid whose channel's id is known, with it."""
    channel, url = col("channel").str.lower(), col("url")
    known = lw.when(channel == "apple").then("0").when(channel == "google").then("1")
    known = known.when(channel == "facebook").then("2").when(channel == "baidu").then("3")
    with_id = bids.select("auction", "bidder", "price", "channel", channel_id=known.otherwise(url.str.extract(IN_URL)))
    return with_id.filter(col("channel_id").is_not_null())
