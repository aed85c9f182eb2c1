"""Pass-through: every bid, as it is. What reading and writing alone cost."""

from __future__ import annotations

import lakeward as lw


def q0(bids: lw.DataStream) -> lw.DataStream:
    """All bids, less the columns that no query looks at."""
    return bids.select("auction", "bidder", "price", "dateTime", "extra")
