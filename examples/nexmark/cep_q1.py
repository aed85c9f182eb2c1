"""Low prices: how long the average of a bidder's bids for an auction stays below a limit."""

from __future__ import annotations

import lakeward as lw
from lakeward import var

LOW = lw.pattern().start("a", var("a").mean("price") < 10_000).one_or_more().next("b")
"""Bids whose average so far is low, and the next one."""

MEASURES = {
    "start_tstamp": var("a").first("dateTime"),
    "end_tstamp": var("a").last("dateTime"),
    "avg_price": var("a").sum("price") // var("a").count(),
}
"""The average is a whole number, as Flink's of BIGINT is."""


def cep_q1(bids: lw.DataStream) -> lw.DataStream:
    """When each run of low bids began and ended, and its average; every bid is in one run at most."""
    return bids.key_by("auction", "bidder").match(LOW.skip("past_last_row"), MEASURES, uid="runs")
