"""The rows that an asynchronous operator has taken and not sent, with the watermarks between them.

Rows are in three states: they wait for their call, their call has begun, or it has been answered. Watermarks cut the
queue into segments: rows never cross a watermark, in either direction, and only rows of the first segment are sent.
Within a segment they leave in their order, or as they are answered (Flink's OrderedStreamElementQueue and
UnorderedStreamElementQueue).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, takewhile
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from lakeward.engine.core.errors import LakewardError

Values = tuple[Any, ...]
"""The arguments of a function for one row."""


class Mark(NamedTuple):
    """A watermark among rows.

    Args:
        place: So many rows stand in front of it.
        watermark_us: Event time.
    """

    place: int
    watermark_us: int


class QueuedRow:
    """A row whose call has begun.

    Args:
        batch: The batch that it came in.
        place: Where in it.
        values: The arguments of its call; or why there are none, which leaves nothing to be called.
        segment: Its part of the queue.
    """

    __slots__ = ("answer", "batch", "failure", "place", "segment", "values")

    def __init__(self, batch: pa.RecordBatch, place: int, values: Values | LakewardError, segment: _Segment) -> None:
        self.batch = batch
        self.place = place
        self.failure = values if isinstance(values, LakewardError) else None
        """Why it has no answer and gets none."""
        self.values: Values = () if isinstance(values, LakewardError) else values
        self.segment = segment
        self.answer: list[Any] | None = None

    @property
    def alone(self) -> pa.RecordBatch:
        """A batch of this row."""
        return self.batch.slice(self.place, 1)


class _Segment:
    """Rows between two watermarks."""

    __slots__ = ("answered", "end_us", "rows", "waiting")

    def __init__(self) -> None:
        self.rows: dict[QueuedRow, None] = {}
        """Rows whose call has begun, in the order in which they came."""
        self.answered: list[QueuedRow] = []
        """Those that have been answered since the last look, in the order of their answers."""
        self.waiting = 0
        self.end_us: int | None = None
        """The watermark behind it; None: it has not come."""

    @property
    def is_over(self) -> bool:
        """Whether the watermark behind it may go."""
        return self.end_us is not None and not self.rows and not self.waiting

    def take(self, ordered: bool) -> list[QueuedRow]:
        """Remove the rows that may be sent."""
        ready, self.answered = self.answered, []
        if ready and ordered:
            ready = list(takewhile(lambda row: row.answer is not None, self.rows))
        for row in ready:
            del self.rows[row]
        return ready


class _Arrival:
    """A batch of which some rows wait for their call."""

    __slots__ = ("batch", "next", "segment", "values")

    def __init__(self, batch: pa.RecordBatch, values: Iterator[Values | LakewardError], segment: _Segment) -> None:
        self.batch = batch
        self.values = values
        self.segment = segment
        self.next = 0


class AsyncQueue:
    """The rows of one subtask.

    Args:
        ordered: Whether rows leave in the order in which they came.
    """

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._segments = deque([_Segment()])
        self._arrivals: deque[_Arrival] = deque()
        self.waiting = 0
        """Rows whose call has not begun."""
        self.in_flight = 0
        """Rows whose call has begun, and that have not been sent."""

    def add(self, batch: pa.RecordBatch, values: Iterable[Values | LakewardError]) -> None:
        """Rows have come.

        Args:
            batch: What is to be saved of them.
            values: The arguments of their calls, which are made when they are needed; or why there are none.
        """
        segment = self._segments[-1]
        segment.waiting += batch.num_rows
        self.waiting += batch.num_rows
        self._arrivals.append(_Arrival(batch, iter(values), segment))

    def mark(self, watermark_us: int) -> None:
        """A watermark has come."""
        self._segments[-1].end_us = watermark_us
        self._segments.append(_Segment())

    def begin(self, count: int) -> list[QueuedRow]:
        """The next rows to call the function for."""
        begun: list[QueuedRow] = []
        while len(begun) < count and self._arrivals:
            arrival = self._arrivals[0]
            begun += self._begin(arrival, count - len(begun))
            if arrival.next == arrival.batch.num_rows:
                self._arrivals.popleft()
        self.waiting -= len(begun)
        self.in_flight += len(begun)
        return begun

    @staticmethod
    def _begin(arrival: _Arrival, count: int) -> list[QueuedRow]:
        segment, first = arrival.segment, arrival.next
        values = islice(arrival.values, count)
        rows = [QueuedRow(arrival.batch, place, each, segment) for place, each in enumerate(values, first)]
        segment.rows.update(dict.fromkeys(rows))
        segment.waiting -= len(rows)
        arrival.next += len(rows)
        return rows

    def answer(self, row: QueuedRow, answer: list[Any]) -> None:
        """A row has its answer."""
        row.answer = answer
        row.segment.answered.append(row)

    def fail(self, row: QueuedRow, error: LakewardError) -> None:
        """A row has failed for good; that takes its place in the order as an answer does."""
        row.failure = error
        self.answer(row, [])

    def take(self) -> Iterator[list[QueuedRow] | None]:
        """Remove what may be sent, in its order: rows, or None for a watermark."""
        while True:
            first = self._segments[0]
            rows = first.take(self._ordered)
            if rows:
                self.in_flight -= len(rows)
                yield rows
            if not first.is_over:
                return
            self._segments.popleft()
            yield None

    def unsent(self) -> Iterator[pa.RecordBatch]:
        """All rows that have not been sent, in the order in which they came."""
        begun = (row for segment in self._segments for row in segment.rows)
        for _, rows in groupby(begun, key=lambda row: id(row.batch)):
            some = list(rows)
            yield some[0].batch.take(pa.array(np.array([row.place for row in some], np.int64)))
        yield from (arrival.batch.slice(arrival.next) for arrival in self._arrivals)

    def marks(self) -> list[Mark]:
        """The watermarks among these rows, the latest one where several stand together."""
        found: list[Mark] = []
        before = 0
        for segment in self._segments:
            before += len(segment.rows) + segment.waiting
            if segment.end_us is None:
                continue
            if found and found[-1].place == before:
                found.pop()
            found.append(Mark(before, segment.end_us))
        return found
