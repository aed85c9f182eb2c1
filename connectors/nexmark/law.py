"""Nexmark's law: which event is what, its ids, its skew, its strings; after the public generator (nexmark/nexmark).

In each epoch of 50 events come 1 person, 3 auctions and 46 bids. Bids go to recent auctions, half of them to the hot
one; three quarters of bids come from a hot bidder and three quarters of auctions from a hot seller.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, auto

import pyarrow as pa

from lakeward.connectors.nexmark.randomness import Int64Array

EPOCH_EVENTS, EPOCH_PERSONS, EPOCH_AUCTIONS, EPOCH_BIDS = 50, 1, 3, 46
FIRST_AUCTION, FIRST_PERSON, FIRST_CATEGORY, CATEGORIES = 1000, 1000, 10, 5
HOT_AUCTION_RATIO, HOT_BIDDER_RATIO, HOT_SELLER_RATIO = 2, 4, 4
"""One in this many rows goes elsewhere than to the hot auction, bidder or seller."""
HOT_BATCH = 100
"""Every so many auctions or persons another one is hot."""
IN_FLIGHT, ACTIVE_PERSONS, LEAD = 100, 1000, 10
"""Auctions open at a time, persons active at a time, and how far ahead of what exists ids may be drawn."""
CHANNELS = 10_000
HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
CITIES = (
    "Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne",
)  # fmt: skip
FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")

_TIMESTAMP = pa.timestamp("us")
PERSON_SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "name": pa.string(),
        "emailAddress": pa.string(),
        "creditCard": pa.string(),
        "city": pa.string(),
        "state": pa.string(),
        "dateTime": _TIMESTAMP,
        "extra": pa.string(),
    }
)
AUCTION_SCHEMA = pa.schema(
    {
        "id": pa.int64(),
        "itemName": pa.string(),
        "description": pa.string(),
        "initialBid": pa.int64(),
        "reserve": pa.int64(),
        "dateTime": _TIMESTAMP,
        "expires": _TIMESTAMP,
        "seller": pa.int64(),
        "category": pa.int64(),
        "extra": pa.string(),
    }
)
BID_SCHEMA = pa.schema(
    {
        "auction": pa.int64(),
        "bidder": pa.int64(),
        "price": pa.int64(),
        "channel": pa.string(),
        "url": pa.string(),
        "dateTime": _TIMESTAMP,
        "extra": pa.string(),
    }
)


class Use(IntEnum):
    """What random words are used for: a number each, so that no two uses share bits."""

    BID_AUCTION = auto()
    BID_BIDDER = auto()
    SELLER = auto()
    SELLER_HOT = auto()
    PRICES = auto()
    EXPIRES = auto()
    CATEGORY = auto()
    ITEM_LENGTH = auto()
    ITEM_TEXT = auto()
    DESCRIPTION_LENGTH = auto()
    DESCRIPTION_TEXT = auto()
    EXTRA = auto()
    PLACE = auto()
    FULL_NAME = auto()
    CARD_FIRST = auto()
    CARD_SECOND = auto()
    EMAIL_LENGTHS = auto()
    EMAIL_TEXTS = auto()
    URL_LENGTH = auto()
    URL_TEXT = auto()
    URL_CHANNEL = auto()


@dataclass(frozen=True, slots=True)
class Law:
    """What makes two streams the same stream.

    Args:
        seed: Of all randomness.
        rate: Events per second of event time.
        base_ms: Event time of event 0, milliseconds since 1970 UTC.
        out_of_order: Events come shuffled within groups of this size; 1: in order.
    """

    seed: int
    rate: int
    base_ms: int
    out_of_order: int


def shuffled(numbers: Int64Array, group: int) -> Int64Array:
    """The event that comes at each place of the stream, when groups of `group` events are shuffled.

    >>> import numpy as np
    >>> shuffled(np.arange(6), 3).tolist()
    [0, 2, 1, 3, 5, 4]
    """
    if group == 1:
        return numbers
    return numbers // group * group + numbers * 953 % group


def extra_lengths(current: int, average: int) -> tuple[int, int]:
    """Shortest filler of a kind, and how many lengths there are: a fifth around what is missing to the average.

    >>> extra_lengths(current=32, average=100)
    (54, 28)
    """
    wanted = average - current
    delta = round(wanted * 0.2)
    return wanted - delta, 2 * delta
