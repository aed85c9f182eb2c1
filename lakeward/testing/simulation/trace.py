"""What happened in a simulated run, as text: the last lines for people, a hash of all of them for replays."""

from __future__ import annotations

import hashlib
from collections import deque

from lakeward.engine.core.clock import ManualClock

LINES_KEPT = 30


class Trace:
    """Lines of virtual time, process and event.

    >>> trace = Trace(ManualClock())
    >>> trace.note("p1", "started")
    >>> trace.lines(), trace.events
    (['      0 ms  p1  started'], 1)

    Args:
        clock: Virtual time.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._last: deque[str] = deque(maxlen=LINES_KEPT)
        self._hash = hashlib.sha256()
        self.events = 0

    def note(self, who: str, text: str) -> None:
        """Add a line."""
        line = f"{self._clock.monotonic_ms():>7} ms  {who}  {text}"
        self._last.append(line)
        self._hash.update(line.encode())
        self.events += 1

    def lines(self) -> list[str]:
        """The last lines."""
        return list(self._last)

    def digest(self) -> str:
        """A hash of all lines: two runs with the same digest went the same way."""
        return self._hash.hexdigest()[:16]
