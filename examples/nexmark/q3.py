"""Local item suggestion: who sells in Oregon, Idaho and California, in one category."""

from __future__ import annotations

import lakeward as lw
from lakeward import col


def q3(persons: lw.DataStream, auctions: lw.DataStream) -> lw.DataStream:
    """Name, city and state of the seller of every auction of category 10, where the seller lives in the three states.

    They meet whichever comes first: persons are kept for ever, auctions until their seller comes.
    """
    sellers = persons.filter(col("state").is_in(["OR", "ID", "CA"])).select("name", "city", "state", seller="id")
    offers = auctions.filter(col("category") == 10).select("seller", "id")
    return sellers.join(offers, on="seller", validate="1:m", uid="sellers").select("name", "city", "state", "id")
