"""Which windows a row belongs to: tumbling and sliding windows cut into panes; pure arithmetic on microseconds.

A pane is the longest stretch of time that all windows contain whole or not at all: the greatest common divisor of
size and slide. Rows are added up once, in their pane; a window is the sum of its panes (Li, Maier, Tufte, Papadimos
and Tucker, "No pane, no gain", 2005). A tumbling window is its own single pane.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lakeward.engine.core.errors import ConfigError

PANES_PER_WINDOW_MAX = 10_000
"""A window in more panes than this costs more to fire than it saves; nearly always a slide that was mistyped."""


@dataclass(frozen=True, slots=True)
class WindowAssigner:
    """Windows `[start, start + size)` that start every `slide`, shifted by `offset` from 1970 UTC.

    >>> sliding = WindowAssigner(size_us=10, slide_us=4)
    >>> sliding.pane_us, sliding.windows_of(8), sliding.panes_of(4)
    (2, range(0, 9, 4), range(4, 14, 2))

    Args:
        size_us: Length of a window.
        slide_us: Distance of window starts; equal to the size for tumbling windows.
        offset_us: Shift of all starts, 0 .. slide - 1.
    """

    size_us: int
    slide_us: int
    offset_us: int = 0

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
        shift = f" from {_short(self.offset_us)}" if self.offset_us else ""
        if self.tumbling:
            return f"tumbling {_short(self.size_us)}{shift}"
        return f"sliding {_short(self.size_us)} every {_short(self.slide_us)}{shift}"

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

    def panes_of(self, window_start_us: int) -> range:
        """Starts of the panes of a window."""
        return range(window_start_us, window_start_us + self.size_us, self.pane_us)

    def fire_time_us(self, window_start_us: int) -> int:
        """The window is complete once the watermark has reached this: its last microsecond."""
        return window_start_us + self.size_us - 1

    def last_fire_time_us(self, pane_start_us: int) -> int | None:
        """When the last window that contains a pane is complete; None for a pane in a gap."""
        start = self._last_start(pane_start_us)
        return self.fire_time_us(start) if pane_start_us < start + self.size_us else None

    def _last_start(self, time_us: int) -> int:
        """Start of the last window that starts at or before a time."""
        return (time_us - self.offset_us) // self.slide_us * self.slide_us + self.offset_us


_UNITS = ((86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms"))


def _short(duration_us: int) -> str:
    for unit_us, name in _UNITS:
        if duration_us % unit_us == 0:
            return f"{duration_us // unit_us}{name}"
    return f"{duration_us}us"
