"""Auction top ten: the highest bids of each auction."""

from __future__ import annotations

import lakeward as lw


def q19(bids: lw.DataStream) -> lw.DataStream:
    """The ten bids of each auction with the highest prices, and their ranks; the earlier of equal ones first."""
    return bids.key_by("auction").top_n(10, by=lw.desc("price"), rank_column="rank_number", uid="top-bids")
