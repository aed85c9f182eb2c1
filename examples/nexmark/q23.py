"""Expand bid with bidder and auctions: a join of three streams."""

from __future__ import annotations

import lakeward as lw


def q23(bids: lw.DataStream, persons: lw.DataStream, auctions: lw.DataStream) -> lw.DataStream:
    """Every bid with the person who made it, and with each auction that this person sells.

    The two small streams are joined first: so bids, of which there are most, go through one join, and are kept once.
    """
    bids = bids.select("bidder", "price", "channel", "url", bid_extra="extra")
    persons = persons.rename({"id": "person_id", "extra": "person_extra"}).drop("dateTime")
    auctions = auctions.rename({"dateTime": "auction_dateTime", "extra": "auction_extra"}).drop("id")
    sellers = persons.join(auctions, left_on="person_id", right_on="seller", validate="1:m", uid="sellers")
    return bids.join(sellers, left_on="bidder", right_on="person_id", uid="offers")
