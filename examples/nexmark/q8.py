"""Monitor new users: who offered something in the ten seconds in which they came in."""

from __future__ import annotations

import lakeward as lw


def q8(persons: lw.DataStream, auctions: lw.DataStream) -> lw.DataStream:
    """Persons who come in a window of ten seconds and are the seller of an auction of the same window."""
    sellers = persons.window_join(
        auctions, left_on="id", right_on="seller", window=lw.Tumbling("10s"), how="semi", uid="new-sellers"
    )
    return sellers.select("id", "name", starttime="window_start")
