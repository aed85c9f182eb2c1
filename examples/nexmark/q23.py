"""Expand bid with bidder and auctions: a join of three streams."""

from __future__ import annotations

import lakeward as lw


def q23(bids: lw.DataStream, persons: lw.DataStream, auctions: lw.DataStream) -> lw.DataStream:
    """Every bid with the person who made it, and with each auction that this person sells."""
    bids = bids.select("bidder", "price", "channel", "url", bid_extra="extra")
    persons = persons.rename({"id": "person_id", "extra": "person_extra"}).drop("dateTime")
    auctions = auctions.rename({"dateTime": "auction_dateTime", "extra": "auction_extra"}).drop("id")
    with_person = bids.join(persons, left_on="bidder", right_on="person_id", validate="m:1", uid="bidders")
    return with_person.join(auctions, left_on="bidder", right_on="seller", uid="offers")
