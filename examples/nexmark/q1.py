"""Currency conversion: every bid with its price in euros instead of dollars."""

from __future__ import annotations

from decimal import Decimal

import lakeward as lw
from lakeward import col


def q1(bids: lw.DataStream) -> lw.DataStream:
    """Prices times 0.908, exactly, with three digits after the point."""
    euros = (col("price") * Decimal("0.908")).cast("decimal(23, 3)")
    return bids.select("auction", "bidder", euros.alias("price"), "dateTime", "extra")
