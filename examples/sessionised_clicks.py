"""Clicks into visits: the pages of each visit in their order, how long it took, and whether the visitor left at once.

    python examples/sessionised_clicks.py

A visit ends when its visitor has not clicked for half an hour. Clicks may come a minute out of order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import lakeward as lw


@dataclass
class Click:
    """A visitor opens a page."""

    visitor: str
    page: str
    at: datetime


@dataclass
class Visit:
    """What a visitor did without a long pause."""

    visitor: str
    number: int
    started: datetime
    seconds: float
    pages: list[str]
    bounced: bool


def visit(visitor: str, window: lw.TimeWindow, clicks: list[Click], visits: lw.ValueState[int]) -> Iterator[Visit]:
    """Make a visit of a session's clicks, which come in the order of their times."""
    visits.value = (visits.value or 0) + 1  # of this visitor, over all sessions
    took = clicks[-1].at - clicks[0].at
    pages = [click.page for click in clicks]
    yield Visit(visitor, visits.value, clicks[0].at, took.total_seconds(), pages, bounced=len(pages) == 1)


def visits_of(clicks: lw.DataStream) -> lw.DataStream:
    """The job: from clicks to visits."""
    return clicks.key_by("visitor").window(lw.Session("30m")).process(visit, uid="visits")


def main() -> None:
    """Run it on a handful of clicks."""
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    pages = [("ann", "home", 0), ("bob", "tea", 1), ("ann", "cart", 5), ("ann", "tea", 4), ("ann", "home", 90)]
    rows = [Click(visitor, page, noon + timedelta(minutes=minute)) for visitor, page, minute in pages]
    env = lw.StreamExecutionEnvironment()
    clicks = env.from_collection(
        rows, watermark=lw.WatermarkStrategy.bounded_out_of_orderness("at", "1m"), uid="clicks"
    )
    visits_of(clicks).sink_to(lw.PrintSink(), uid="visits-out")
    env.execute("sessionised-clicks")


if __name__ == "__main__":
    main()
