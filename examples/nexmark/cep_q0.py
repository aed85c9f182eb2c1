"""Falling prices: from where the bids of a bidder for an auction begin to fall to where they rise again."""

from __future__ import annotations

import lakeward as lw
from lakeward import col, var


def cep_q0(bids: lw.DataStream) -> lw.DataStream:
    """When each fall began, reached its bottom, and ended.

    In the condition of `price_up` the second to last row that fell is compared, as the query is written:
    `LAST(PRICE_DOWN.price, 1)`. A fall of a single row therefore never ends.
    """
    fell = var("price_down").last("price", 1)
    first = fell.is_null() & (col("price") < var("start_row").last("price"))
    pattern = (
        lw.pattern()
        .start("start_row")
        .next("price_down", first | (col("price") < fell))
        .one_or_more()
        .next("price_up", col("price") > fell)
        .skip(lw.to_last("price_up"))
    )
    measures = {
        "start_tstamp": var("start_row").last("dateTime"),
        "bottom_tstamp": var("price_down").last("dateTime"),
        "end_tstamp": var("price_up").last("dateTime"),
    }
    return bids.key_by("auction", "bidder").match(pattern, measures, uid="falls")
