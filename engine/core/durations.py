"""Durations as users write them: "10s", "5 min", a timedelta, or a number of seconds."""

from __future__ import annotations

import re
from datetime import timedelta

from lakeward.engine.core.errors import ConfigError

Duration = str | timedelta | int | float

_UNITS_US = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "sec": 1_000_000,
    "m": 60_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*")


def parse_duration_us(value: Duration, what: str = "duration") -> int:
    """Microseconds of a duration.

    >>> parse_duration_us("10s"), parse_duration_us("1h 30m"), parse_duration_us(0.5)
    (10000000, 5400000000, 500000)

    Args:
        value: Text with units (us, ms, s, m, h, d, also several: "1h 30m"), a timedelta, or seconds.
        what: The option's name, for the error.

    Returns:
        Whole microseconds, zero or more.

    Raises:
        ConfigError: The text has no known unit, or the duration is negative.
    """
    if isinstance(value, timedelta):
        total = value // timedelta(microseconds=1)
    elif isinstance(value, int | float):
        total = round(value * 1_000_000)
    elif isinstance(value, str):
        total = _parse_text_us(value, what)
    else:
        raise ConfigError(f"{what} is not a duration: {value!r}", hint='write for example "10s", or a timedelta')
    if total < 0:
        raise ConfigError(f"{what} is negative: {value!r}")
    return total


def _parse_text_us(text: str, what: str) -> int:
    total, end = 0.0, 0
    while end < len(text):
        match = _PATTERN.match(text, end)
        if match is None or match[2] not in _UNITS_US:
            raise ConfigError(
                f"{what} is not a duration: {text!r}", hint='write for example "500ms", "10s", "5m" or "1h 30m"'
            )
        total += float(match[1]) * _UNITS_US[match[2]]
        end = match.end()
    if end == 0:
        raise ConfigError(f"{what} is empty", hint='write for example "10s"')
    return round(total)
