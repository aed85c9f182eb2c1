"""Price drops: bids of a bidder for an auction that fall by more than 50 within 5 seconds."""

from __future__ import annotations

import lakeward as lw
from lakeward import col, var


def cep_q3(bids: lw.DataStream) -> lw.DataStream:
    """When each drop was, and how deep."""
    level = var("a").last("price") - 50
    pattern = (
        lw.pattern()
        .start("a")
        .next("b", col("price") > level)
        .zero_or_more()
        .next("c", col("price") < level)
        .within("5s")
        .skip("past_last_row")
    )
    measures = {
        "drop_time": lw.match_time(),
        "drop_diff": var("a").last("price") - var("c").last("price"),
    }
    return bids.key_by("auction", "bidder").match(pattern, measures, uid="drops")
