"""Channel statistics report: as q15, for each channel and day, with the minute of the last bid."""

from __future__ import annotations

import lakeward as lw
from lakeward import col
from lakeward.examples.nexmark.q15 import STATISTICS


def q16(bids: lw.DataStream) -> lw.DataStream:
    """The statistics of each channel and day; updated with every bid."""
    day = col("dateTime").dt.strftime("%Y-%m-%d").alias("day")
    statistics = bids.key_by("channel", day).aggregate(STATISTICS, last=lw.max("dateTime"), uid="statistics")
    minute = col("last").dt.strftime("%H:%M")  # written once a result, not once a bid
    return statistics.select("channel", "day", minute.alias("minute"), *STATISTICS)
