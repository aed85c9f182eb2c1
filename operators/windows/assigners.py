"""Which windows a row belongs to: windows cut into panes; pure arithmetic on microseconds.

A pane is the longest stretch of time that all windows contain whole or not at all: the greatest common divisor of
size and slide. Rows are added up once, in their pane; a window is the sum of its panes (Li, Maier, Tufte, Papadimos
and Tucker, "No pane, no gain", 2005). A tumbling window is its own single pane.

A window is known by one number, its id: the start of a tumbling or sliding window, the end of a cumulative one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.messages import WATERMARK_MAX_US

PANES_PER_WINDOW_MAX = 10_000
"""A window in more panes than this costs more to fire than it saves; nearly always a slide that was mistyped."""


class PaneAssigner(ABC):
    """Windows made of panes."""

    processing: bool = False
    """Whether time is the clock when rows arrive, not a column."""

    event_timed: bool = True
    """Whether windows follow from a time at all."""

    starts_apart: bool = True
    """Whether no two windows have one start, so that the start alone tells windows apart."""

    @property
    @abstractmethod
    def pane_us(self) -> int:
        """Length of a pane; 1 where panes have no length."""

    @property
    @abstractmethod
    def description(self) -> str:
        """In a few words."""

    @abstractmethod
    def pane_starts(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The pane of each time."""

    @abstractmethod
    def windows_of(self, pane_start_us: int) -> range:
        """The windows that contain a pane, in the order in which they end."""

    @abstractmethod
    def windows_due(self, pane_start_us: int, after_us: int, upto_us: int) -> range:
        """The windows that contain a pane and are complete after one watermark, but not after another."""

    @abstractmethod
    def panes_of(self, window: int) -> range:
        """The panes of a window."""

    @abstractmethod
    def fire_time_us(self, window: int) -> int:
        """The window is complete once the watermark has reached this."""

    @abstractmethod
    def last_fire_time_us(self, pane_start_us: int) -> int | None:
        """When the last window that contains a pane is complete; None for a pane in a gap."""

    @abstractmethod
    def bounds_us(self, window: int) -> dict[str, int]:
        """The columns that say which window a result is of."""

    @property
    def single_pane(self) -> bool:
        """Whether every window is one pane of its own."""
        return False


@dataclass(frozen=True, slots=True)
class WindowAssigner(PaneAssigner):
    """Windows `[start, start + size)` that start every `slide`, shifted by `offset` from 1970 UTC.

    >>> sliding = WindowAssigner(size_us=10, slide_us=4)
    >>> sliding.pane_us, sliding.windows_of(8), sliding.panes_of(4)
    (2, range(0, 9, 4), range(4, 14, 2))

    Args:
        size_us: Length of a window.
        slide_us: Distance of window starts; equal to the size for tumbling windows.
        offset_us: Shift of all starts, 0 .. slide - 1.
        processing: Whether time is the clock when rows arrive.
    """

    size_us: int
    slide_us: int
    offset_us: int = 0
    processing: bool = False

    def __post_init__(self) -> None:
        if self.size_us <= 0 or self.slide_us <= 0:
            raise ConfigError(
                f"window size and slide must be above zero, not {self.size_us} us and {self.slide_us} us",
                hint='write for example Tumbling("10s") or Sliding("1m", slide="10s")',
            )
        if not 0 <= self.offset_us < self.slide_us:
            raise ConfigError(f"window offset {self.offset_us} us is not between 0 and the slide of {self.slide_us} us")
        if self.size_us // self.pane_us > PANES_PER_WINDOW_MAX:
            raise ConfigError(
                f"a window of {self.size_us} us sliding by {self.slide_us} us needs panes of only {self.pane_us} us",
                hint="choose a slide that divides the size, or shares a larger factor with it",
            )

    @property
    def tumbling(self) -> bool:
        """Whether each row belongs to exactly one window."""
        return self.size_us == self.slide_us

    @property
    def pane_us(self) -> int:
        """Length of a pane."""
        return math.gcd(self.size_us, self.slide_us)

    @property
    def description(self) -> str:
        """In a few words: "tumbling 10s", "sliding 1m every 10s"."""
        more = f" from {short_duration(self.offset_us)}" if self.offset_us else ""
        more += " of processing time" if self.processing else ""
        if self.tumbling:
            return f"tumbling {short_duration(self.size_us)}{more}"
        return f"sliding {short_duration(self.size_us)} every {short_duration(self.slide_us)}{more}"

    def pane_starts(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The start of the pane of each event time, also before 1970.

        >>> WindowAssigner(10, 10, offset_us=3).pane_starts(np.array([-8, -7, 2, 3])).tolist()
        [-17, -7, -7, 3]
        """
        pane = self.pane_us
        return (times_us - self.offset_us) // pane * pane + self.offset_us

    def windows_of(self, pane_start_us: int) -> range:
        """Starts of the windows that contain a pane, rising; none for a gap (where the slide exceeds the size)."""
        first = self._last_start(pane_start_us - self.size_us) + self.slide_us
        return range(first, self._last_start(pane_start_us) + 1, self.slide_us)

    def windows_due(self, pane_start_us: int, after_us: int, upto_us: int) -> range:
        """Starts of the windows that contain a pane and are complete after one watermark, but not after another.

        >>> WindowAssigner(size_us=10, slide_us=4).windows_due(8, after_us=9, upto_us=13)
        range(4, 5, 4)
        """
        windows = self.windows_of(pane_start_us)
        first = max(windows.start, self._last_start(after_us - self.size_us + 1) + self.slide_us)
        end = min(windows.stop, upto_us - self.size_us + 2)
        return range(first, max(first, end), self.slide_us)

    def panes_of(self, window: int) -> range:
        """Starts of the panes of a window."""
        return range(window, window + self.size_us, self.pane_us)

    def fire_time_us(self, window: int) -> int:
        """The window is complete once the watermark has reached this: its last microsecond."""
        return window + self.size_us - 1

    def last_fire_time_us(self, pane_start_us: int) -> int | None:
        """When the last window that contains a pane is complete; None for a pane in a gap."""
        start = self._last_start(pane_start_us)
        return self.fire_time_us(start) if pane_start_us < start + self.size_us else None

    def bounds_us(self, window: int) -> dict[str, int]:
        """Start and end."""
        return {"window_start": window, "window_end": window + self.size_us}

    @property
    def single_pane(self) -> bool:
        """Whether every window is one pane of its own."""
        return self.tumbling

    def _last_start(self, time_us: int) -> int:
        """Start of the last window that starts at or before a time."""
        return (time_us - self.offset_us) // self.slide_us * self.slide_us + self.offset_us


@dataclass(frozen=True, slots=True)
class CumulativeAssigner(PaneAssigner):
    """Windows that all start every `size` and grow by `step` until they are as long (Flink's CUMULATE).

    >>> assigner = CumulativeAssigner(step_us=2, size_us=6)
    >>> list(assigner.windows_of(2)), [assigner.bounds_us(end) for end in (4, 6)]
    ([4, 6], [{'window_start': 0, 'window_end': 4}, {'window_start': 0, 'window_end': 6}])

    Args:
        step_us: How much longer each window is than the one before; the length of a pane.
        size_us: Length of the last one, a multiple of the step.
        offset_us: Shift of all starts, 0 .. size - 1.
        processing: Whether time is the clock when rows arrive.
    """

    step_us: int
    size_us: int
    offset_us: int = 0
    processing: bool = False
    starts_apart = False

    def __post_init__(self) -> None:
        if self.step_us <= 0 or self.size_us <= 0 or self.size_us % self.step_us:
            raise ConfigError(
                f"a cumulative window of {self.size_us} us cannot grow in steps of {self.step_us} us",
                hint='the size must be a multiple of the step, as in Cumulative("10m", size="1d")',
            )
        if not 0 <= self.offset_us < self.size_us:
            raise ConfigError(f"window offset {self.offset_us} us is not between 0 and the size of {self.size_us} us")
        if self.size_us // self.step_us > PANES_PER_WINDOW_MAX:
            raise ConfigError(
                f"a window of {self.size_us} us has more than {PANES_PER_WINDOW_MAX} steps of {self.step_us} us",
                hint="choose a longer step",
            )

    @property
    def pane_us(self) -> int:
        """The step."""
        return self.step_us

    @property
    def description(self) -> str:
        """In a few words: "cumulative 1d by 10m"."""
        more = f" from {short_duration(self.offset_us)}" if self.offset_us else ""
        more += " of processing time" if self.processing else ""
        return f"cumulative {short_duration(self.size_us)} by {short_duration(self.step_us)}{more}"

    def pane_starts(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The start of the step of each time."""
        return (times_us - self.offset_us) // self.step_us * self.step_us + self.offset_us

    def _start(self, time_us: int) -> int:
        """Start of the windows that a time is in."""
        return (time_us - self.offset_us) // self.size_us * self.size_us + self.offset_us

    def windows_of(self, pane_start_us: int) -> range:
        """Ends of the windows that contain a pane, rising."""
        return range(pane_start_us + self.step_us, self._start(pane_start_us) + self.size_us + 1, self.step_us)

    def windows_due(self, pane_start_us: int, after_us: int, upto_us: int) -> range:
        """The windows that contain a pane and are complete after one watermark, but not after another."""
        windows = self.windows_of(pane_start_us)
        passed = max(0, (after_us + 1 - windows.start) // self.step_us + 1)
        first = windows.start + passed * self.step_us
        return range(first, max(first, min(windows.stop, upto_us + 2)), self.step_us)

    def panes_of(self, window: int) -> range:
        """Starts of the panes of the window of this end."""
        return range(self._start(window - 1), window, self.step_us)

    def fire_time_us(self, window: int) -> int:
        """Its last microsecond."""
        return window - 1

    def last_fire_time_us(self, pane_start_us: int) -> int | None:
        """When the longest window is complete."""
        return self._start(pane_start_us) + self.size_us - 1

    def bounds_us(self, window: int) -> dict[str, int]:
        """Start and end."""
        return {"window_start": self._start(window - 1), "window_end": window}


@dataclass(frozen=True, slots=True)
class GlobalAssigner(PaneAssigner):
    """One window that never ends, but with the input."""

    event_timed = False

    @property
    def pane_us(self) -> int:
        """It has no length."""
        return 1

    @property
    def description(self) -> str:
        """In a word."""
        return "global window"

    def pane_starts(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The one pane."""
        return np.zeros(len(times_us), np.int64)

    def windows_of(self, pane_start_us: int) -> range:
        """The one window."""
        return range(1)

    def windows_due(self, pane_start_us: int, after_us: int, upto_us: int) -> range:
        """It is complete when the input has ended."""
        return range(1 if after_us < WATERMARK_MAX_US <= upto_us else 0)

    def panes_of(self, window: int) -> range:
        """The one pane."""
        return range(1)

    def fire_time_us(self, window: int) -> int:
        """The end of all time."""
        return WATERMARK_MAX_US

    def last_fire_time_us(self, pane_start_us: int) -> int | None:
        """The end of all time."""
        return WATERMARK_MAX_US

    def bounds_us(self, window: int) -> dict[str, int]:
        """It has no bounds."""
        return {}

    @property
    def single_pane(self) -> bool:
        """It is."""
        return True


@dataclass(frozen=True, slots=True)
class CarriedAssigner(PaneAssigner):
    """The windows that rows carry in `window_start` and `window_end`; the start is one of the operator's keys."""

    @property
    def pane_us(self) -> int:
        """Panes are known by the windows' ends, of which any can be."""
        return 1

    @property
    def description(self) -> str:
        """In a few words."""
        return "windows of the rows"

    def pane_starts(self, times_us: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The windows' ends, which are the times."""
        return times_us

    def windows_of(self, pane_start_us: int) -> range:
        """The window of this end."""
        return range(pane_start_us, pane_start_us + 1)

    def windows_due(self, pane_start_us: int, after_us: int, upto_us: int) -> range:
        """The window of this end, if the watermark reaches its last microsecond between the two."""
        due = after_us < pane_start_us - 1 <= upto_us
        return range(pane_start_us, pane_start_us + 1 if due else pane_start_us)

    def panes_of(self, window: int) -> range:
        """Its pane."""
        return range(window, window + 1)

    def fire_time_us(self, window: int) -> int:
        """Its last microsecond."""
        return window - 1

    def last_fire_time_us(self, pane_start_us: int) -> int | None:
        """Its last microsecond."""
        return pane_start_us - 1

    def bounds_us(self, window: int) -> dict[str, int]:
        """The end; the start is among the keys."""
        return {"window_end": window}

    @property
    def single_pane(self) -> bool:
        """It is."""
        return True


_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"))


def short_duration(duration_us: int) -> str:
    """A duration for a reader.

    >>> short_duration(90_000_000)
    '90s'
    """
    for unit_us, name in _UNITS:
        if duration_us % unit_us == 0:
            return f"{duration_us // unit_us}{name}"
    return f"{duration_us}us"
