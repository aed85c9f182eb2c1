"""Rows of each kind of event, a batch of events at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.connectors.nexmark.law import (
    ACTIVE_PERSONS,
    AUCTION_SCHEMA,
    BID_SCHEMA,
    CATEGORIES,
    CHANNELS,
    CITIES,
    EPOCH_AUCTIONS,
    EPOCH_EVENTS,
    EPOCH_PERSONS,
    FIRST_AUCTION,
    FIRST_CATEGORY,
    FIRST_NAMES,
    FIRST_PERSON,
    HOT_AUCTION_RATIO,
    HOT_BATCH,
    HOT_BIDDER_RATIO,
    HOT_SELLER_RATIO,
    IN_FLIGHT,
    LAST_NAMES,
    LEAD,
    PERSON_SCHEMA,
    STATES,
    Law,
    Use,
    extra_lengths,
)
from lakeward.connectors.nexmark.pools import Pools, pools_of, text_up_to
from lakeward.connectors.nexmark.randomness import Draws, Int64Array, Letters, below, prices
from lakeward.engine.core.hashing import UInt64Array

_S32 = np.uint64(32)
_TIMESTAMP = pa.timestamp("us")


def persons(law: Law, events: Int64Array) -> pa.RecordBatch:
    """The persons among the events."""
    events = events[events % EPOCH_EVENTS < EPOCH_PERSONS]
    draws, pools = Draws(law.seed, events), pools_of(law.seed)
    city, state = draws.halves(Use.PLACE)
    first, last = draws.halves(Use.FULL_NAME)
    columns = [
        _last_person(events) + FIRST_PERSON,
        pools.names.take(pa.array(below(first, len(FIRST_NAMES)) * len(LAST_NAMES) + below(last, len(LAST_NAMES)))),
        _emails(draws, pools),
        _cards(draws, pools),
        pa.array(CITIES).take(pa.array(below(city, len(CITIES)))),
        pa.array(STATES).take(pa.array(below(state, len(STATES)))),
        _event_times(law, events),
        _extra(draws, pools.letters, 90, 200),
    ]
    return pa.record_batch(columns, schema=PERSON_SCHEMA)


def auctions(law: Law, events: Int64Array) -> pa.RecordBatch:
    """The auctions among the events."""
    rest = events % EPOCH_EVENTS
    events = events[(rest >= EPOCH_PERSONS) & (rest < EPOCH_PERSONS + EPOCH_AUCTIONS)]
    draws, letters = Draws(law.seed, events), pools_of(law.seed).letters
    start, reserve = draws.halves(Use.PRICES)
    initial = prices(start)
    when = _event_times_ms(law, events)
    horizon_ms = max(IN_FLIGHT * EPOCH_EVENTS // EPOCH_AUCTIONS * 1000 // law.rate * 2, 1)
    hot = draws.below(Use.SELLER_HOT, HOT_SELLER_RATIO) > 0
    person = _last_person(events)
    seller = np.where(hot, person // HOT_BATCH * HOT_BATCH, _some_person(person, draws.word(Use.SELLER) >> _S32))
    columns = [
        _last_auction(events) + FIRST_AUCTION,
        text_up_to(draws, letters, Use.ITEM_LENGTH, Use.ITEM_TEXT, 20),
        text_up_to(draws, letters, Use.DESCRIPTION_LENGTH, Use.DESCRIPTION_TEXT, 100),
        initial,
        initial + prices(reserve),
        _timestamps(when),
        _timestamps(when + 1 + draws.below(Use.EXPIRES, horizon_ms)),
        seller + FIRST_PERSON,
        FIRST_CATEGORY + draws.below(Use.CATEGORY, CATEGORIES),
        _extra(draws, letters, 110, 500),
    ]
    return pa.record_batch(columns, schema=AUCTION_SCHEMA)


def bids(law: Law, events: Int64Array) -> pa.RecordBatch:
    """The bids among the events."""
    events = events[events % EPOCH_EVENTS >= EPOCH_PERSONS + EPOCH_AUCTIONS]
    draws, pools = Draws(law.seed, events), pools_of(law.seed)
    some_auction, flags = draws.halves(Use.BID_AUCTION)
    some_bidder, price = draws.halves(Use.BID_BIDDER)
    person, auction = events // EPOCH_EVENTS, events // EPOCH_EVENTS * EPOCH_AUCTIONS + EPOCH_AUCTIONS - 1
    bits = flags.view(np.int64)  # one word serves every small choice: each takes bits of its own
    hot_auction, hot_bidder = bits & (HOT_AUCTION_RATIO - 1) > 0, (bits >> 1) & (HOT_BIDDER_RATIO - 1) > 0
    hot_channel, which_hot = (bits >> 3) & 1 > 0, (bits >> 4) & 3
    channel = np.where(hot_channel, CHANNELS + which_hot, ((bits >> 8) * CHANNELS) >> 24)
    chosen = pa.array(channel)
    columns = [
        np.where(hot_auction, auction // HOT_BATCH * HOT_BATCH, _some_auction(auction, some_auction)) + FIRST_AUCTION,
        np.where(hot_bidder, person // HOT_BATCH * HOT_BATCH + 1, _some_person(person, some_bidder)) + FIRST_PERSON,
        prices(price),
        pools.channels.take(chosen),
        pools.urls.take(chosen),
        _event_times(law, events),
        _extra(draws, pools.letters, 32, 100),
    ]
    return pa.record_batch(columns, schema=BID_SCHEMA)


def _last_person(events: Int64Array) -> Int64Array:
    return events // EPOCH_EVENTS * EPOCH_PERSONS + np.minimum(events % EPOCH_EVENTS, EPOCH_PERSONS - 1)


def _last_auction(events: Int64Array) -> Int64Array:
    epoch, rest = events // EPOCH_EVENTS, events % EPOCH_EVENTS
    return epoch * EPOCH_AUCTIONS + np.minimum(rest - EPOCH_PERSONS, EPOCH_AUCTIONS - 1)


def _some_person(newest: Int64Array, bits32: UInt64Array) -> Int64Array:
    active = np.minimum(newest + 1, ACTIVE_PERSONS)
    return newest + 1 - active + below(bits32, active + LEAD)


def _some_auction(newest: Int64Array, bits32: UInt64Array) -> Int64Array:
    oldest = np.maximum(newest - IN_FLIGHT, 0)
    return oldest + below(bits32, newest - oldest + 1 + LEAD)


def _event_times_ms(law: Law, events: Int64Array) -> Int64Array:
    return law.base_ms + events * 1000 // law.rate


def _event_times(law: Law, events: Int64Array) -> pa.Array:
    return _timestamps(_event_times_ms(law, events))


def _timestamps(times_ms: Int64Array) -> pa.Array:
    return pa.array(times_ms * 1000).view(_TIMESTAMP)


def _extra(draws: Draws, letters: Letters, current: int, average: int) -> pa.StringArray:
    """Filler that brings a row to its kind's average size, give or take a fifth of the filler."""
    shortest, spread = extra_lengths(current, average)
    length, text = draws.halves(Use.EXTRA)
    return letters.strings(text, shortest + below(length, spread))


def _emails(draws: Draws, pools: Pools) -> pa.StringArray:
    lengths, texts = draws.halves(Use.EMAIL_LENGTHS), draws.halves(Use.EMAIL_TEXTS)
    name = pools.letters.strings(texts[0], 3 + below(lengths[0], 4))
    host = pools.letters.strings(texts[1], 3 + below(lengths[1], 2))
    return _join(name, pa.scalar("@"), host, pa.scalar(".com"))


def _cards(draws: Draws, pools: Pools) -> pa.StringArray:
    quarters = (*draws.halves(Use.CARD_FIRST), *draws.halves(Use.CARD_SECOND))
    a, b, c, d = (pools.four_digits.take(pa.array(below(bits, 10_000))) for bits in quarters)
    space = pa.scalar(" ")
    return _join(a, space, b, space, c, space, d)


def _join(*pieces: pa.Array | pa.Scalar) -> pa.StringArray:
    return pc.binary_join_element_wise(*pieces, "")
