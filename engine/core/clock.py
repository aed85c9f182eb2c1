"""Time comes from here and nowhere else, so that tests and the simulator can move it by hand."""

from __future__ import annotations

import time
from typing import Protocol

from lakeward.engine.core.expect import refusal


class Clock(Protocol):
    """A wall clock and a monotonic clock, and the one place where a process waits."""

    def wall_us(self) -> int:
        """Microseconds since 1970 UTC; may jump. For processing time and for naming things only."""
        ...

    def monotonic_ms(self) -> int:
        """Milliseconds that never go back. For intervals and timeouts."""
        ...

    def sleep_ms(self, duration_ms: float) -> None:
        """Wait this long."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return time.time_ns() // 1000

    def monotonic_ms(self) -> int:
        """Milliseconds that never go back."""
        return time.monotonic_ns() // 1_000_000

    def sleep_ms(self, duration_ms: float) -> None:
        """Wait this long."""
        time.sleep(duration_ms / 1000)


class ManualClock:
    """A clock that moves only when told to.

    >>> clock = ManualClock(start_us=1_000_000)
    >>> clock.advance_ms(250)
    >>> clock.wall_us(), clock.monotonic_ms()
    (1250000, 250)
    """

    def __init__(self, start_us: int = 1_767_225_600_000_000) -> None:
        self._start_us = start_us
        self._elapsed_us = 0

    def wall_us(self) -> int:
        """Microseconds since 1970 UTC."""
        return self._start_us + self._elapsed_us

    def monotonic_ms(self) -> int:
        """Milliseconds since the clock was made."""
        return self._elapsed_us // 1000

    def advance_ms(self, duration_ms: float) -> None:
        """Move both clocks forward.

        Raises:
            ConfigError: It is no number, or they would go back.
        """
        if not isinstance(duration_ms, (int, float)) or duration_ms < 0:
            raise refusal(duration_ms, "ManualClock: a duration", "give milliseconds, 0 or more")
        self._elapsed_us += int(duration_ms * 1000)

    def jump_ms(self, duration_ms: int) -> None:
        """Set the wall clock, forth or back; the monotonic clock does not see it."""
        self._start_us += duration_ms * 1000

    def sleep_ms(self, duration_ms: float) -> None:
        """Returns at once; both clocks have moved."""
        self.advance_ms(duration_ms)
