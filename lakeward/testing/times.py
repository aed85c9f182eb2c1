"""Event times as tests write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_us(time: int | datetime) -> int:
    """Microseconds since 1970 UTC.

    >>> to_us(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)), to_us(7)
    (1000000, 7)

    Raises:
        ConfigError: It is neither a number nor a datetime, or a datetime without a time zone.
    """
    expect(time, (int, datetime), "an event time", "give microseconds since 1970 UTC, or a datetime with a time zone")
    if isinstance(time, int):
        return time
    if time.tzinfo is None:
        raise ConfigError(f"the datetime {time} has no time zone", hint="give it tzinfo=timezone.utc")
    return (time - _EPOCH) // timedelta(microseconds=1)
