"""What `lakeward run` shows of a running job: one line that changes on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from lakeward.engine.core.clock import Clock
from lakeward.engine.runtime.status import JobStatus

TERMINAL_INTERVAL_MS = 500
PLAIN_INTERVAL_MS = 10_000
_ERASE = "\r\x1b[2K"


@dataclass(slots=True)
class _Look:
    """When rows were counted, and how many there were."""

    at_ms: float
    rows: int


class LiveLine:
    """Shows the status of a job.

    On a terminal it is one line that is written over, and goes out of the way of log lines; elsewhere each is a log
    line of its own, so that files stay readable.

    Args:
        clock: Time.
        stream: Where a terminal is.
        terminal: Whether there is one.
        log: Takes the lines where there is none.
    """

    def __init__(self, clock: Clock, stream: TextIO, *, terminal: bool, log: Callable[[str], None] = print) -> None:
        self._clock = clock
        self._stream = stream
        self._terminal = terminal
        self._log = log
        self._last = _Look(clock.monotonic_ms(), 0)
        self._shown = ""

    def __call__(self, status: JobStatus) -> None:
        """Show it, if it is time."""
        now_ms = self._clock.monotonic_ms()
        passed_ms = now_ms - self._last.at_ms
        if passed_ms < (TERMINAL_INTERVAL_MS if self._terminal else PLAIN_INTERVAL_MS):
            return
        text = describe(status, (status.rows - self._last.rows) / passed_ms * 1000, self._clock.wall_us())
        self._last = _Look(now_ms, status.rows)
        if not self._terminal:
            self._log(text)
            return
        self._shown = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps cannot be written over
        self._write(_ERASE + self._shown)

    def erase(self) -> None:
        """Make room for another line."""
        if self._shown:
            self._write(_ERASE)

    def redraw(self) -> None:
        """Show the line again below it."""
        if self._shown:
            self._write(self._shown)

    def close(self) -> None:
        """Leave nothing behind."""
        self.erase()
        self._shown = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class LineKeepingHandler(logging.StreamHandler[TextIO]):
    """Writes log lines above the live line."""

    def __init__(self, stream: TextIO, line: LiveLine) -> None:
        super().__init__(stream)
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Write one."""
        self._line.erase()
        super().emit(record)
        self._line.redraw()


def describe(status: JobStatus, rows_a_second: float, now_us: int) -> str:
    """A status as a line.

    >>> from lakeward.engine.core.ids import CheckpointId
    >>> at = 1_767_225_600_000_000
    >>> describe(JobStatus(1_234_567, at, CheckpointId(42), restarts=1), 85_123.4, at + 3_200_000)
    '1,234,567 rows  85,123 rows/s  event time 2026-01-01 00:00:00, 3.2 s behind  checkpoint 42  1 restart'
    """
    parts = [f"{status.rows:,} rows", f"{rows_a_second:,.0f} rows/s"]
    if status.watermark_us is not None:
        behind = _duration((now_us - status.watermark_us) / 1e6)
        parts.append(f"event time {_moment(status.watermark_us)}, {behind} behind")
    parts.append("no checkpoint yet" if status.checkpoint is None else f"checkpoint {status.checkpoint}")
    if status.restarts:
        parts.append(f"{status.restarts} restart{'s' if status.restarts > 1 else ''}")
    return "  ".join(parts)


def _moment(time_us: int) -> str:
    try:
        return datetime.fromtimestamp(time_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):  # data may say anything
        return f"{time_us} µs"


def _duration(seconds: float) -> str:
    """Seconds in the unit that people would use.

    >>> [_duration(seconds) for seconds in (0.25, 75, 7_500, 100_000, 260_000)]
    ['0.2 s', '75.0 s', '125 min', '28 h', '3 days']
    """
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 14_400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"
