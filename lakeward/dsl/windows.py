"""Windows as users write them: `Tumbling("1m")`, `Session("10s")`, `CountWindow(100)`; and triggers, `every("1s")`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect
from lakeward.operators.windows.assigners import (
    CarriedAssigner,
    CumulativeAssigner,
    GlobalAssigner,
    PaneAssigner,
    WindowAssigner,
)
from lakeward.operators.windows.counts import CountAssigner
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.sessions import SessionAssigner

Time = Literal["event", "processing"]
"""Whose time windows go by: a column of the rows, or the clock when they arrive."""

Assigner = PaneAssigner | SessionAssigner | CountAssigner


class WindowSpec(ABC):
    """A kind of window."""

    @abstractmethod
    def layout(self) -> Assigner:
        """What the operator works with."""


@dataclass(frozen=True, slots=True)
class Tumbling(WindowSpec):
    """Windows of one length, one after the other: each row belongs to exactly one.

    Windows start at multiples of `size` since 1970-01-01 00:00 UTC, so a window of "1h" is an hour on the clock in UTC.

    >>> Tumbling("1h").layout().description
    'tumbling 1h'

    Args:
        size: Length of a window, for example "1m".
        offset: Shifts all starts, for example "16h" for days that begin at midnight in UTC+8 (their midnight is 16:00
            UTC); below `size`.
        time: "event" for the stream's event time; "processing" for the clock when rows arrive, which needs no event
            time, knows no late rows, and gives other results each time.

    Raises:
        ConfigError: The size is zero, or a duration cannot be read.
    """

    size: Duration
    offset: Duration = 0
    time: Time = "event"

    def __post_init__(self) -> None:
        self.layout()

    def layout(self) -> WindowAssigner:
        """What the operator works with."""
        size_us = parse_duration_us(self.size, "window size")
        return WindowAssigner(size_us, size_us, parse_duration_us(self.offset, "window offset"), _processing(self.time))


@dataclass(frozen=True, slots=True)
class Sliding(WindowSpec):
    """Windows of one length that start every `slide`: each row belongs to `size / slide` of them.

    >>> Sliding("1m", slide="10s").layout().description
    'sliding 1m every 10s'

    A row is added up once, in a pane as long as the greatest common divisor of size and slide; choose a slide that
    divides the size. With a slide longer than the size, rows between two windows belong to none and are left out.

    Args:
        size: Length of a window.
        slide: Distance of the windows' starts.
        offset: Shifts all starts; below `slide`.
        time: As for `Tumbling`.

    Raises:
        ConfigError: Size or slide is zero, a duration cannot be read, or the panes would be tiny.
    """

    size: Duration
    slide: Duration
    offset: Duration = 0
    time: Time = "event"

    def __post_init__(self) -> None:
        self.layout()

    def layout(self) -> WindowAssigner:
        """What the operator works with."""
        return WindowAssigner(
            parse_duration_us(self.size, "window size"),
            parse_duration_us(self.slide, "window slide"),
            parse_duration_us(self.offset, "window offset"),
            _processing(self.time),
        )


@dataclass(frozen=True, slots=True)
class Cumulative(WindowSpec):
    """Windows that start together every `size` and end a `step` apart: how much so far today, every ten minutes.

    >>> Cumulative("10m", size="1d").layout().description
    'cumulative 1d by 10m'

    Args:
        step: How much longer each window is than the one before.
        size: Length of the last one, a multiple of `step`.
        offset: Shifts all starts; below `size`.
        time: As for `Tumbling`.

    Raises:
        ConfigError: The size is no multiple of the step, or a duration cannot be read.
    """

    step: Duration
    size: Duration
    offset: Duration = 0
    time: Time = "event"

    def __post_init__(self) -> None:
        self.layout()

    def layout(self) -> CumulativeAssigner:
        """What the operator works with."""
        return CumulativeAssigner(
            parse_duration_us(self.step, "window step"),
            parse_duration_us(self.size, "window size"),
            parse_duration_us(self.offset, "window offset"),
            _processing(self.time),
        )


@dataclass(frozen=True, slots=True)
class Session(WindowSpec):
    """A window for each burst of rows of a key: it ends when there was none for `gap`.

    Rows exactly `gap` apart belong together. A session starts with its first row, and ends `gap` after its last.

    >>> Session("10s").layout().description
    'session 10s'

    Args:
        gap: The longest time between two rows of a session.
        time: As for `Tumbling`.

    Raises:
        ConfigError: The gap is zero, or cannot be read.
    """

    gap: Duration
    time: Time = "event"

    def __post_init__(self) -> None:
        self.layout()

    def layout(self) -> SessionAssigner:
        """What the operator works with."""
        return SessionAssigner(parse_duration_us(self.gap, "session gap"), _processing(self.time))


@dataclass(frozen=True, slots=True)
class CountWindow(WindowSpec):
    """Windows of `n` rows of a key, in the order of their arrival; rows that fill no window are never sent.

    >>> CountWindow(100).layout().description, CountWindow(100, slide=10).layout().description
    ('every 100 rows', 'the last 100 rows, every 10')

    Args:
        n: Rows of a window.
        slide: Send the last `n` rows (at first there are fewer) after each `slide` rows; None: after each `n`.

    Raises:
        ConfigError: A number is below one, or the slide is larger than the window.
    """

    n: int
    slide: int | None = None

    def __post_init__(self) -> None:
        self.layout()

    def layout(self) -> CountAssigner:
        """What the operator works with."""
        expect(self.n, int, "a count window's size", "give a number of rows: CountWindow(100)")
        expect(self.slide, (int, type(None)), "a count window's slide", "give a number of rows")
        return CountAssigner(self.n, self.n if self.slide is None else self.slide)


@dataclass(frozen=True, slots=True)
class GlobalWindow(WindowSpec):
    """One window of all rows of a key, sent when the input ends, and before that when a trigger says so.

    >>> GlobalWindow().layout().description
    'global window'
    """

    def layout(self) -> GlobalAssigner:
        """What the operator works with."""
        return GlobalAssigner()


@dataclass(frozen=True, slots=True)
class SameWindow(WindowSpec):
    """The windows that rows already have: for results of windows, to go on within each window.

    A row belongs to the window in its columns `window_start` and `window_end`.

    >>> SameWindow().layout().description
    'windows of the rows'
    """

    def layout(self) -> CarriedAssigner:
        """What the operator works with."""
        return CarriedAssigner()


def every(interval: Duration) -> Trigger:
    """Results of windows that are still open, every so often by the clock, for the keys that have new rows.

    >>> every("1s").description
    'early every 1s'

    Args:
        interval: For example "1s". Results are also sent before each checkpoint.

    Returns:
        For `WindowedStream.trigger`.
    """
    return Trigger(interval_us=parse_duration_us(interval, "trigger interval"))


def every_rows(n: int) -> Trigger:
    """Results of a window that is still open, for a key, each time it has got `n` rows or more since the last one.

    >>> every_rows(1000).description
    'early every 1000 rows'

    Args:
        n: Rows of a key; they are counted once a batch. Of windows that overlap, those of one pane are counted.

    Returns:
        For `WindowedStream.trigger`.
    """
    expect(n, int, "a trigger's rows", "give a number: lw.every_rows(1000)")
    return Trigger(rows=n)


def _processing(time: str) -> bool:
    if time not in ("event", "processing"):
        raise ConfigError(f"windows go by no time {time!r}", hint='give time="event" or time="processing"')
    return time == "processing"
