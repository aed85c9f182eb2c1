"""Windows as users write them: `Tumbling("1m")`, `Sliding("1m", slide="10s")`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.operators.windows.assigners import WindowAssigner


class WindowSpec(ABC):
    """A kind of window over event time."""

    @abstractmethod
    def assigner(self) -> WindowAssigner:
        """What the operator works with."""


@dataclass(frozen=True, slots=True)
class Tumbling(WindowSpec):
    """Windows of one length, one after the other: each row belongs to exactly one.

    Windows start at multiples of `size` since 1970-01-01 00:00 UTC, so a window of "1h" is an hour on the clock in UTC.

    >>> Tumbling("1h").assigner().description
    'tumbling 1h'

    Args:
        size: Length of a window, for example "1m".
        offset: Shifts all starts, for example "16h" for days that begin at midnight in UTC+8 (their midnight is 16:00
            UTC); below `size`.

    Raises:
        ConfigError: The size is zero, or a duration cannot be read.
    """

    size: Duration
    offset: Duration = 0

    def __post_init__(self) -> None:
        self.assigner()

    def assigner(self) -> WindowAssigner:
        """What the operator works with."""
        size_us = parse_duration_us(self.size, "window size")
        return WindowAssigner(size_us, size_us, parse_duration_us(self.offset, "window offset"))


@dataclass(frozen=True, slots=True)
class Sliding(WindowSpec):
    """Windows of one length that start every `slide`: each row belongs to `size / slide` of them.

    >>> Sliding("1m", slide="10s").assigner().description
    'sliding 1m every 10s'

    A row is added up once, in a pane as long as the greatest common divisor of size and slide; choose a slide that
    divides the size. With a slide longer than the size, rows between two windows belong to none and are left out.

    Args:
        size: Length of a window.
        slide: Distance of the windows' starts.
        offset: Shifts all starts; below `slide`.

    Raises:
        ConfigError: Size or slide is zero, a duration cannot be read, or the panes would be tiny.
    """

    size: Duration
    slide: Duration
    offset: Duration = 0

    def __post_init__(self) -> None:
        self.assigner()

    def assigner(self) -> WindowAssigner:
        """What the operator works with."""
        return WindowAssigner(
            parse_duration_us(self.size, "window size"),
            parse_duration_us(self.slide, "window slide"),
            parse_duration_us(self.offset, "window offset"),
        )
