"""The Nexmark generator as a source: replayable from any event, in any number of splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa

from lakeward.connectors.cursors import CursorReader, SplitCursor, Step
from lakeward.connectors.nexmark.law import (
    AUCTION_SCHEMA,
    BID_SCHEMA,
    EPOCH_AUCTIONS,
    EPOCH_BIDS,
    EPOCH_EVENTS,
    EPOCH_PERSONS,
    PERSON_SCHEMA,
    Law,
    shuffled,
)
from lakeward.connectors.nexmark.randomness import Int64Array
from lakeward.connectors.nexmark.rows import auctions, bids, persons
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import ConfigError, SourceError
from lakeward.engine.core.expect import expect, expect_choice, expect_whole, refusal, user_location
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject

Kind = Literal["bid", "auction", "person"]

BASE_TIME = datetime(2026, 1, 1, tzinfo=UTC)
"""Event time of the first event, unless told otherwise."""

_BASE_TIME_HINT = "give a time with a zone: datetime(2026, 1, 1, tzinfo=UTC)"
_BLOCK_EVENTS = 500  # splits take turns of this many events, so that they advance through event time side by side
_SHUFFLE_FACTOR = 953
_EVENTS_A_READ_MAX = 1 << 20

_KINDS: Mapping[str, tuple[pa.Schema, Callable[[Law, Int64Array], pa.RecordBatch], int]] = {
    "bid": (BID_SCHEMA, bids, EPOCH_BIDS),
    "auction": (AUCTION_SCHEMA, auctions, EPOCH_AUCTIONS),
    "person": (PERSON_SCHEMA, persons, EPOCH_PERSONS),
}


class NexmarkSource(Source):
    """The Nexmark auction stream: bids, auctions or persons with the benchmark's default skew.

    What event number n is depends on the seed and on n alone: the same rows come whatever the batch size, the number of
    splits and the place it is resumed from, on every machine. Sources of different kinds with the same arguments belong
    together: the bids of one are for the auctions of the other.

    >>> source = NexmarkSource(1_000, kinds="bid")
    >>> source.schema.names
    ['auction', 'bidder', 'price', 'channel', 'url', 'dateTime', 'extra']

    Args:
        events: How many events there are, of all three kinds together: in every 50 are 1 person, 3 auctions and 46
            bids. None: without end.
        seed: Of all randomness.
        rate: Events per second of event time.
        kinds: Which of the three streams to read.
        splits: Into how many parts the stream is cut, to be read in parallel; part of the stream's identity.
        out_of_order: Events come shuffled within groups of this size; 1: in order of event time. No multiple of 953.
        base_time: Event time of the first event; a zone-aware datetime.
        paced: Rows are handed out no faster than `rate`, by the clock, as from a live stream.

    Guarantees: replayable, so exactly once with any exactly-once sink.

    Raises:
        ConfigError: An argument has a value that cannot work.
    """

    def __init__(
        self,
        events: int | None,
        *,
        seed: int = 7,
        rate: int = 10_000,
        kinds: Kind = "bid",
        splits: int = 1,
        out_of_order: int = 1,
        base_time: datetime = BASE_TIME,
        paced: bool = False,
    ) -> None:
        _check(events, rate, kinds, splits, out_of_order, base_time)
        expect(seed, int, "NexmarkSource: seed", "give a whole number")
        self._events = events
        self._kind: Kind = kinds
        self._splits = splits
        self._law = Law(seed, rate, int(base_time.timestamp() * 1000), out_of_order)
        self._paced = paced

    @property
    def schema(self) -> pa.Schema:
        """The schema of the chosen kind."""
        return _KINDS[self._kind][0]

    @property
    def bounded(self) -> bool:
        """Whether a number of events was given."""
        return self._events is not None

    @property
    def description(self) -> str:
        """For example "nexmark bid"."""
        return f"nexmark {self._kind}"

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """The parts of the stream; their number never changes."""
        return [self._split(i) for i in range(self._splits)]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """A reader that takes its parts in turn."""

        def open_cursor(split: Split, position: JsonObject | None) -> SplitCursor:
            return self._open(split, position, context)

        return CursorReader(open_cursor)

    def _split(self, index: int) -> Split:
        law = self._law
        identity = f"seed={law.seed} rate={law.rate} base={law.base_ms} group={law.out_of_order} splits={self._splits}"
        return Split(SplitId(f"{self._kind}-{index}"), {"v": 1, "stream": identity, "index": index, "next": 0})

    def _open(self, split: Split, position: JsonObject | None, context: ReaderContext) -> SplitCursor:
        start = position or split.start
        index = int(str(start["index"]))
        own = self._split(index).start
        if start["stream"] != own["stream"]:
            raise SourceError(
                f"nexmark split '{split.id}' was checkpointed as {start['stream']}, but now it is {own['stream']}",
                hint="restore with the arguments the checkpoint was taken with, or start without it",
            )
        pace = _Pace(context.clock, self._law.rate / self._splits) if self._paced else None
        return _NexmarkCursor(self, index, int(str(start["next"])), context.batch_rows, pace)

    def read(self, index: int, first: int, count: int) -> pa.RecordBatch:
        """The rows among `count` events of a split, from its `first` on."""
        places = np.arange(first, first + count, dtype=np.int64)
        block, within = places // _BLOCK_EVENTS, places % _BLOCK_EVENTS
        numbers = (block * self._splits + index) * _BLOCK_EVENTS + within
        return _KINDS[self._kind][1](self._law, shuffled(numbers, self._law.out_of_order))

    def events_of(self, index: int) -> int | None:
        """How many events belong to a split; None: without end."""
        if self._events is None:
            return None
        rounds, rest = divmod(self._events, _BLOCK_EVENTS * self._splits)
        return rounds * _BLOCK_EVENTS + min(max(rest - index * _BLOCK_EVENTS, 0), _BLOCK_EVENTS)

    def events_for(self, rows: int) -> int:
        """How many events hold about so many rows of the chosen kind."""
        return min(max(rows * EPOCH_EVENTS // _KINDS[self._kind][2], 1), _EVENTS_A_READ_MAX)


class _Pace:
    """How many events are due by the clock."""

    def __init__(self, clock: Clock, events_per_s: float) -> None:
        self._clock = clock
        self._start_ms = clock.monotonic_ms()
        self._events_per_s = events_per_s

    def due(self, handed_out: int) -> int:
        """Events that may be handed out now, after so many."""
        elapsed_ms = self._clock.monotonic_ms() - self._start_ms
        return int(elapsed_ms * self._events_per_s / 1000) - handed_out


class _NexmarkCursor(SplitCursor):
    def __init__(self, source: NexmarkSource, index: int, first: int, batch_rows: int, pace: _Pace | None) -> None:
        self._source = source
        self._index = index
        self._first = self._next = first
        self._end = source.events_of(index)
        self._step = source.events_for(batch_rows)
        self._pace = pace

    @property
    def finished(self) -> bool:
        return self._end is not None and self._next >= self._end

    def read(self) -> Step | None:
        count = self._step if self._end is None else min(self._step, self._end - self._next)
        if self._pace is not None:
            count = min(count, self._pace.due(self._next - self._first))
        if count <= 0:
            return None
        batch = self._source.read(self._index, self._next, count)
        self._next += count
        start = self._source.list_splits(None)[self._index].start
        return Step(batch, {**start, "next": self._next})


def _check(events: int | None, rate: int, kind: str, splits: int, out_of_order: int, base_time: datetime) -> None:
    expect_choice(kind, tuple(_KINDS), "NexmarkSource: kinds")
    if events is not None:
        expect_whole(events, "NexmarkSource: events", least=0)
    for name, value in (("rate", rate), ("splits", splits), ("out_of_order", out_of_order)):
        expect_whole(value, f"NexmarkSource: {name}", least=1)
    if out_of_order % _SHUFFLE_FACTOR == 0:
        raise refusal(out_of_order, "NexmarkSource: out_of_order", f"give no multiple of {_SHUFFLE_FACTOR}")
    expect(base_time, datetime, "NexmarkSource: base_time", _BASE_TIME_HINT)
    if base_time.tzinfo is None:
        raise ConfigError("NexmarkSource: base_time has no zone", hint=_BASE_TIME_HINT, location=user_location())
