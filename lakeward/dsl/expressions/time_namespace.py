"""The functions behind `.dt` of an expression."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta  # noqa: F401 (UTC, datetime: for the examples)
from typing import Literal

from lakeward.dsl.expressions import temporal, zones
from lakeward.dsl.expressions.expr import Expr, col, evaluate, to_node  # noqa: F401 (col, evaluate: for the examples)
from lakeward.dsl.expressions.namespaces import Namespace
from lakeward.dsl.expressions.nodes import Call
from lakeward.engine.core.errors import GraphError


class TimeNamespace(Namespace):
    """Functions of timestamps and dates; calendar fields are UTC's unless the column was cast to another zone.

    In a local zone they follow Arrow, which knows no daylight saving after 2037.
    """

    __slots__ = ()

    def year(self) -> Expr:
        """The year, int64.

        >>> evaluate(col("a").dt.year(), a=[datetime(2024, 5, 17, 8, 30)])
        [2024]
        """
        return self._call(temporal.YEAR)

    def quarter(self) -> Expr:
        """The quarter, 1 to 4.

        >>> evaluate(col("a").dt.quarter(), a=[datetime(2024, 5, 17)])
        [2]
        """
        return self._call(temporal.QUARTER)

    def month(self) -> Expr:
        """The month, 1 to 12.

        >>> evaluate(col("a").dt.month(), a=[datetime(2024, 5, 17)])
        [5]
        """
        return self._call(temporal.MONTH)

    def week(self) -> Expr:
        """The ISO week, 1 to 53.

        >>> evaluate(col("a").dt.week(), a=[datetime(2024, 5, 17)])
        [20]
        """
        return self._call(temporal.WEEK)

    def day(self) -> Expr:
        """The day of the month, 1 to 31.

        >>> evaluate(col("a").dt.day(), a=[datetime(2024, 5, 17)])
        [17]
        """
        return self._call(temporal.DAY)

    def day_of_year(self) -> Expr:
        """The day of the year, 1 to 366.

        >>> evaluate(col("a").dt.day_of_year(), a=[datetime(2024, 5, 17)])
        [138]
        """
        return self._call(temporal.DAY_OF_YEAR)

    def weekday(self) -> Expr:
        """The ISO day of the week: Monday is 1, Sunday 7.

        >>> evaluate(col("a").dt.weekday(), a=[datetime(2024, 5, 17)])
        [5]
        """
        return self._call(temporal.WEEKDAY)

    def iso_year(self) -> Expr:
        """The year that the ISO week belongs to.

        >>> evaluate(col("a").dt.iso_year(), a=[datetime(2024, 12, 30)])
        [2025]
        """
        return self._call(temporal.ISO_YEAR)

    def hour(self) -> Expr:
        """The hour, 0 to 23.

        >>> evaluate(col("a").dt.hour(), a=[datetime(2024, 5, 17, 8, 30)])
        [8]
        """
        return self._call(temporal.HOUR)

    def minute(self) -> Expr:
        """The minute, 0 to 59.

        >>> evaluate(col("a").dt.minute(), a=[datetime(2024, 5, 17, 8, 30)])
        [30]
        """
        return self._call(temporal.MINUTE)

    def second(self) -> Expr:
        """The second, 0 to 59.

        >>> evaluate(col("a").dt.second(), a=[datetime(2024, 5, 17, 8, 30, 15)])
        [15]
        """
        return self._call(temporal.SECOND)

    def millisecond(self) -> Expr:
        """The whole milliseconds of the second, 0 to 999.

        >>> evaluate(col("a").dt.millisecond(), a=[datetime(2024, 5, 17, 8, 30, 15, 42_001)])
        [42]
        """
        return self._call(temporal.MILLISECOND)

    def microsecond(self) -> Expr:
        """The microseconds of the second, 0 to 999999.

        >>> evaluate(col("a").dt.microsecond(), a=[datetime(2024, 5, 17, 8, 30, 15, 42_001)])
        [42001]
        """
        return self._call(temporal.MICROSECOND)

    def date(self) -> Expr:
        """The day, as a date.

        >>> evaluate(col("a").dt.date(), a=[datetime(2024, 5, 17, 8, 30)])
        [datetime.date(2024, 5, 17)]
        """
        return self._call(temporal.DATE)

    def time(self) -> Expr:
        """The time of day.

        >>> evaluate(col("a").dt.time(), a=[datetime(2024, 5, 17, 8, 30)])
        [datetime.time(8, 30)]
        """
        return self._call(temporal.TIME)

    def floor(self, every: str | timedelta) -> Expr:
        """The beginning of the interval that the time lies in; intervals are counted from 1970.

        >>> evaluate(col("a").dt.floor("10s").dt.second(), a=[datetime(2024, 5, 17, 8, 30, 15)])
        [10]

        Args:
            every: The interval: "10s", "5m", "1h", "1d" or a timedelta; or a unit: "second", "minute", "hour", "day",
                "week" (from Monday), "month", "quarter", "year".
        """
        return self._call(temporal.FLOOR, _text(every))

    truncate = floor

    def ceil(self, every: str | timedelta) -> Expr:
        """The end of the interval that the time lies in; a time at an interval's beginning stays.

        >>> evaluate(col("a").dt.ceil("1h").dt.hour(), a=[datetime(2024, 5, 17, 8, 30), datetime(2024, 5, 17, 8)])
        [9, 8]

        Args:
            every: The interval, as for `floor`.
        """
        return self._call(temporal.CEIL, _text(every))

    def offset(self, by: str | timedelta = "", *, microseconds: int = 0) -> Expr:
        """Moved by a duration; a leading minus moves back. The same as adding a `timedelta`.

        >>> evaluate(col("a").dt.offset("-1h").dt.hour(), a=[datetime(2024, 5, 17, 8, 30)])
        [7]

        Args:
            by: The duration: "10s", "-1h 30m", or a timedelta.
            microseconds: The duration as a number.

        Raises:
            GraphError: Neither or both are given, or the text is no duration.
        """
        if (by == "") == (microseconds == 0):
            raise GraphError("dt.offset takes a duration, once", hint='write .dt.offset("10s") or microseconds=...')
        if isinstance(by, timedelta):
            by = _text(by)
        return self._call(temporal.OFFSET, by or f"{microseconds}us")

    def add_months(self, months: int | Expr) -> Expr:
        """Moved by calendar months; a day that the month does not have becomes its last.

        >>> evaluate(col("a").dt.add_months(1).dt.date(), a=[datetime(2024, 1, 31)])
        [datetime.date(2024, 2, 29)]
        """
        return Expr(Call(temporal.ADD_MONTHS, (self._node, to_node(months))))

    def convert_time_zone(self, zone: str) -> Expr:
        """The same instant on the clocks of another zone: what `hour`, `floor("1d")` and `strftime` then show.

        >>> berlin = col("a").dt.convert_time_zone("Europe/Berlin")
        >>> evaluate(berlin.dt.hour(), a=[datetime(2024, 5, 17, 8, tzinfo=UTC)])
        [10]

        Args:
            zone: A name ("Europe/Berlin"), "UTC", or an offset ("+02:00"). The column must have a zone.
        """
        return self._call(zones.CONVERT_ZONE, zone)

    def replace_time_zone(
        self,
        zone: str | None,
        *,
        ambiguous: Literal["raise", "earliest", "latest"] = "raise",
        nonexistent: Literal["raise", "earliest", "latest"] = "raise",
    ) -> Expr:
        """The instant at which the clocks of a zone show what this time shows; the zone it had is forgotten.

        >>> local = col("a").dt.replace_time_zone("Europe/Berlin")
        >>> evaluate(local.dt.convert_time_zone("UTC").dt.hour(), a=[datetime(2024, 5, 17, 10)])
        [8]

        Args:
            zone: The zone, or None for a time without one.
            ambiguous: Which of two instants is meant where the clocks showed a time twice.
            nonexistent: What is meant where they skipped it: the last instant before or the first one after.

        Raises:
            GraphError: There is no such zone.
        """
        choices = [None if choice == "raise" else choice for choice in (ambiguous, nonexistent)]
        return self._call(zones.REPLACE_ZONE, zone, *choices)

    def epoch_us(self) -> Expr:
        """Microseconds since 1970 UTC, int64.

        >>> evaluate(col("a").dt.epoch_us(), a=[datetime(1970, 1, 1, 0, 0, 1)])
        [1000000]
        """
        return self._call(temporal.EPOCH_US)

    def epoch_ms(self) -> Expr:
        """Milliseconds since 1970 UTC, rounded down, int64.

        >>> evaluate(col("a").dt.epoch_ms(), a=[datetime(1970, 1, 1, 0, 0, 1)])
        [1000]
        """
        return self._call(temporal.EPOCH_MS)

    def epoch_s(self) -> Expr:
        """Seconds since 1970 UTC, rounded down, int64.

        >>> evaluate(col("a").dt.epoch_s(), a=[datetime(1970, 1, 1, 0, 1)])
        [60]
        """
        return self._call(temporal.EPOCH_S)

    def total_days(self) -> Expr:
        """The length of a duration in days, double.

        >>> evaluate((col("a") - col("b")).dt.total_days(), a=[datetime(2024, 1, 2, 12)], b=[datetime(2024, 1, 1)])
        [1.5]
        """
        return self._call(temporal.TOTAL_DAYS)

    def total_hours(self) -> Expr:
        """The length of a duration in hours, double.

        >>> evaluate((col("a") - col("b")).dt.total_hours(), a=[datetime(2024, 1, 2, 12)], b=[datetime(2024, 1, 1)])
        [36.0]
        """
        return self._call(temporal.TOTAL_HOURS)

    def total_minutes(self) -> Expr:
        """The length of a duration in minutes, double.

        >>> evaluate((col("a") - col("b")).dt.total_minutes(), a=[datetime(2024, 1, 2, 12)], b=[datetime(2024, 1, 1)])
        [2160.0]
        """
        return self._call(temporal.TOTAL_MINUTES)

    def total_seconds(self) -> Expr:
        """The length of a duration in seconds, double.

        >>> evaluate((col("a") - col("b")).dt.total_seconds(), a=[datetime(2024, 1, 2, 12)], b=[datetime(2024, 1, 1)])
        [129600.0]
        """
        return self._call(temporal.TOTAL_SECONDS)

    def total_milliseconds(self) -> Expr:
        """The length of a duration in milliseconds, rounded down, int64.

        >>> evaluate(col("a").dt.total_milliseconds(), a=[timedelta(seconds=1.5), timedelta(milliseconds=-1.5)])
        [1500, -2]
        """
        return self._call(temporal.TOTAL_MS)

    def total_microseconds(self) -> Expr:
        """The length of a duration in microseconds, rounded down, int64.

        >>> evaluate(col("a").dt.total_microseconds(), a=[timedelta(seconds=1.5), timedelta(milliseconds=-1.5)])
        [1500000, -1500]
        """
        return self._call(temporal.TOTAL_US)

    def strftime(self, format: str) -> Expr:
        """Text in a format of C's strftime. Seconds are whole; write "%S.%f" for microseconds.

        >>> evaluate(col("a").dt.strftime("%Y-%m-%d %H:%M"), a=[datetime(2024, 5, 17, 8, 30)])
        ['2024-05-17 08:30']
        """
        return self._call(temporal.STRFTIME, format)

    format = strftime


def _text(duration: str | timedelta) -> str:
    """A duration as text."""
    return f"{duration // timedelta(microseconds=1)}us" if isinstance(duration, timedelta) else duration
