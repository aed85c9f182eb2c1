"""Calculation: conversion, a filter, a case and a count of letters."""

from __future__ import annotations

from decimal import Decimal

import lakeward as lw
from lakeward import col

EUROS = (col("price") * Decimal("0.908")).cast("decimal(23, 3)")


def q14(bids: lw.DataStream) -> lw.DataStream:
    """Bids between one and fifty million euros: with the time of day, and how many letters "c" their extra has."""
    hour, extra = col("dateTime").dt.hour(), col("extra")
    time_type = (
        lw.when(hour.between(8, 18)).then("dayTime").when((hour <= 6) | (hour >= 20)).then("nightTime")
    ).otherwise("otherTime")
    return bids.filter((EUROS > 1_000_000) & (EUROS < 50_000_000)).select(
        "auction",
        "bidder",
        EUROS.alias("price"),
        time_type.alias("bidTimeType"),
        "dateTime",
        "extra",
        c_counts=(extra.str.length() - extra.str.replace("c", "").str.length()).cast("int64"),
    )
