"""The functions behind `.str`, `.dt`, `.struct` and `.list` of an expression."""

from __future__ import annotations

from datetime import datetime, timedelta  # noqa: F401 (datetime: for the examples)
from typing import Any, Literal

from lakeward.dsl.expressions import nested, strings, temporal
from lakeward.dsl.expressions.expr import Expr, col, evaluate  # noqa: F401 (col, evaluate: for the examples)
from lakeward.dsl.expressions.nodes import Call, Function, Node
from lakeward.engine.core.errors import GraphError


class Namespace:
    """Functions of one kind of value."""

    __slots__ = ("_node",)

    def __init__(self, node: Node) -> None:
        self._node = node

    def _call(self, function: Function, *params: Any) -> Expr:
        return Expr(Call(function, (self._node,), params))


class StringNamespace(Namespace):
    """Functions of text. Characters are Unicode code points; regular expressions are RE2's."""

    __slots__ = ()

    def lower(self) -> Expr:
        """In lower case.

        >>> evaluate(col("a").str.lower(), a=["ÄB"])
        ['äb']
        """
        return self._call(strings.LOWER)

    def upper(self) -> Expr:
        """In upper case.

        >>> evaluate(col("a").str.upper(), a=["äb"])
        ['ÄB']
        """
        return self._call(strings.UPPER)

    def length(self) -> Expr:
        """The number of characters, int32.

        >>> evaluate(col("a").str.length(), a=["äb", "", None])
        [2, 0, None]
        """
        return self._call(strings.LENGTH)

    def reverse(self) -> Expr:
        """Back to front.

        >>> evaluate(col("a").str.reverse(), a=["abc"])
        ['cba']
        """
        return self._call(strings.REVERSE)

    def contains(self, text: str) -> Expr:
        """Whether a text occurs, taken literally; for patterns see `matches` and `like`.

        >>> evaluate(col("a").str.contains("."), a=["a.b", "ab"])
        [True, False]
        """
        return self._call(strings.CONTAINS, text)

    def starts_with(self, text: str) -> Expr:
        """Whether it begins with a text.

        >>> evaluate(col("a").str.starts_with("ab"), a=["abc", "cab"])
        [True, False]
        """
        return self._call(strings.STARTS_WITH, text)

    def ends_with(self, text: str) -> Expr:
        """Whether it ends with a text.

        >>> evaluate(col("a").str.ends_with("ab"), a=["abc", "cab"])
        [False, True]
        """
        return self._call(strings.ENDS_WITH, text)

    def like(self, pattern: str) -> Expr:
        r"""SQL's LIKE: % is any text, _ any character, a backslash takes the next one literally.

        >>> evaluate(col("a").str.like("a%c"), a=["abbc", "abcd"])
        [True, False]
        """
        return self._call(strings.LIKE, pattern)

    def matches(self, pattern: str) -> Expr:
        """Whether a regular expression is found anywhere in the text.

        >>> evaluate(col("a").str.matches("^[0-9]+$"), a=["12", "1x"])
        [True, False]
        """
        return self._call(strings.MATCHES, pattern)

    def replace(self, old: str, new: str) -> Expr:
        """With every occurrence of a text replaced.

        >>> evaluate(col("a").str.replace(".", "-"), a=["a.b.c"])
        ['a-b-c']
        """
        return self._call(strings.REPLACE, old, new)

    def replace_regex(self, pattern: str, new: str) -> Expr:
        r"""With every match of a regular expression replaced; \1 in `new` is its first group.

        >>> evaluate(col("a").str.replace_regex("([a-z])[0-9]", r"<\1>"), a=["a1b2"])
        ['<a><b>']
        """
        return self._call(strings.REPLACE_REGEX, pattern, new)

    def extract(self, pattern: str, group: int | str = 1) -> Expr:
        r"""A group of a regular expression's first match; null without a match.

        >>> evaluate(col("a").str.extract(r"channel_id=([^&]*)"), a=["?channel_id=7&x=1", "?x=1"])
        ['7', None]

        Args:
            pattern: The regular expression.
            group: Its number from 1, its name, or 0 for the whole match. An optional group that took no part is "".
        """
        return self._call(strings.EXTRACT, pattern, group)

    def split_part(self, separator: str, part: int) -> Expr:
        """A part between separators, counted from 1 as in SQL, or from the end with -1; null where there are fewer.

        >>> evaluate(col("a").str.split_part("/", 2), a=["a/b/c", "a"])
        ['b', None]
        """
        return self._call(strings.SPLIT_PART, separator, part)

    def split(self, separator: str) -> Expr:
        """The list of parts between separators.

        >>> evaluate(col("a").str.split(","), a=["a,b", ""])
        [['a', 'b'], ['']]
        """
        return self._call(strings.SPLIT, separator)

    def slice(self, start: int, length: int | None = None) -> Expr:
        """Some characters, from `start` (counted from 0, or from the end when negative).

        >>> evaluate(col("a").str.slice(1, 2), a=["abcd", "a"])
        ['bc', '']
        """
        return self._call(strings.SLICE, start, length)

    def strip(self, characters: str | None = None) -> Expr:
        """Without white space, or without these characters, at both ends.

        >>> evaluate(col("a").str.strip(), a=["  a b "])
        ['a b']
        """
        return self._call(strings.STRIP, characters)

    def lstrip(self, characters: str | None = None) -> Expr:
        """Without white space, or without these characters, at the beginning.

        >>> evaluate(col("a").str.lstrip("0"), a=["0070"])
        ['70']
        """
        return self._call(strings.LSTRIP, characters)

    def rstrip(self, characters: str | None = None) -> Expr:
        """Without white space, or without these characters, at the end.

        >>> evaluate(col("a").str.rstrip(), a=["a  "])
        ['a']
        """
        return self._call(strings.RSTRIP, characters)

    def strptime(self, format: str, errors: Literal["raise", "null"] = "raise") -> Expr:
        """The instant (microseconds UTC) that a text in this format names; ISO 8601 is `.cast("timestamp")`.

        >>> made = col("a").str.strptime("%d.%m.%Y %H:%M", errors="null")
        >>> evaluate(made.dt.epoch_s(), a=["02.01.1970 00:00", "tomorrow"])
        [86400, None]
        """
        return self._call(strings.STRPTIME, format, errors)


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

    def date(self) -> Expr:
        """The day, as a date.

        >>> evaluate(col("a").dt.date(), a=[datetime(2024, 5, 17, 8, 30)])
        [datetime.date(2024, 5, 17)]
        """
        return self._call(temporal.DATE)

    def floor(self, every: str) -> Expr:
        """The beginning of the interval that the time lies in; intervals are counted from 1970.

        >>> evaluate(col("a").dt.floor("10s").dt.second(), a=[datetime(2024, 5, 17, 8, 30, 15)])
        [10]

        Args:
            every: The interval: "10s", "5m", "1h", "1d", or "week" (from Monday), "month", "quarter", "year".
        """
        return self._call(temporal.FLOOR, every)

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
            by = f"{by // timedelta(microseconds=1)}us"
        return self._call(temporal.OFFSET, by or f"{microseconds}us")

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

    def total_seconds(self) -> Expr:
        """The length of a duration in seconds, double.

        >>> evaluate((col("a") - col("b")).dt.total_seconds(), a=[datetime(2024, 1, 2)], b=[datetime(2024, 1, 1)])
        [86400.0]
        """
        return self._call(temporal.TOTAL_SECONDS)

    def strftime(self, format: str) -> Expr:
        """Text in a format of C's strftime. Seconds are whole; write "%S.%f" for microseconds.

        >>> evaluate(col("a").dt.strftime("%Y-%m-%d %H:%M"), a=[datetime(2024, 5, 17, 8, 30)])
        ['2024-05-17 08:30']
        """
        return self._call(temporal.STRFTIME, format)


class StructNamespace(Namespace):
    """Functions of structs."""

    __slots__ = ()

    def field(self, name: str) -> Expr:
        """A field; null where the struct is.

        >>> evaluate(col("a").struct.field("x"), a=[{"x": 1}, None])
        [1, None]
        """
        return self._call(nested.STRUCT_FIELD, name)

    def __getattr__(self, name: str) -> Expr:
        if name.startswith("_"):
            raise AttributeError(name)
        return self.field(name)


class ListNamespace(Namespace):
    """Functions of lists."""

    __slots__ = ()

    def length(self) -> Expr:
        """The number of elements.

        >>> evaluate(col("a").list.length(), a=[[1, 2], [], None])
        [2, 0, None]
        """
        return self._call(nested.LIST_LENGTH)

    def get(self, index: int) -> Expr:
        """An element, counted from 0 or, when negative, from the end; null where there is none.

        >>> evaluate(col("a").list.get(-1), a=[[1, 2], [], None])
        [2, None, None]
        """
        return self._call(nested.LIST_GET, index)
