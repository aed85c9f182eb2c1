"""The functions behind `.str` of an expression."""

from __future__ import annotations

from typing import Literal

from lakeward.dsl.expressions import digests, parsing, patterns, strings
from lakeward.dsl.expressions.expr import Expr, col, evaluate, to_node  # noqa: F401 (col, evaluate: for the examples)
from lakeward.dsl.expressions.namespaces import Namespace, unless_raise
from lakeward.dsl.expressions.nodes import Call


class StringNamespace(Namespace):
    """Functions of text. Characters are Unicode code points; regular expressions are RE2's. Null stays null."""

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

    def title(self) -> Expr:
        """Each word with a capital.

        >>> evaluate(col("a").str.title(), a=["ann lee"])
        ['Ann Lee']
        """
        return self._call(strings.TITLE)

    def length(self) -> Expr:
        """The number of characters, int32.

        >>> evaluate(col("a").str.length(), a=["äb", "", None])
        [2, 0, None]
        """
        return self._call(strings.LENGTH)

    def byte_length(self) -> Expr:
        """The number of bytes in UTF-8, int32.

        >>> evaluate(col("a").str.byte_length(), a=["äb", ""])
        [3, 0]
        """
        return self._call(strings.BYTE_LENGTH)

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

    def find(self, text: str) -> Expr:
        """How many characters stand before a text's first occurrence, int32; null if it does not occur.

        >>> evaluate(col("a").str.find("b"), a=["äb", "b", "x"])
        [1, 0, None]
        """
        return self._call(strings.FIND, text)

    def like(self, pattern: str) -> Expr:
        r"""SQL's LIKE: % is any text, _ any character, a backslash takes the next one literally.

        >>> evaluate(col("a").str.like("a%c"), a=["abbc", "abcd"])
        [True, False]
        """
        return self._call(patterns.LIKE, pattern)

    def ilike(self, pattern: str) -> Expr:
        r"""As `like`, for capitals and small letters alike.

        >>> evaluate(col("a").str.ilike("A%c"), a=["abbC", "abcd"])
        [True, False]
        """
        return self._call(patterns.ILIKE, pattern)

    def matches(self, pattern: str) -> Expr:
        """Whether a regular expression is found anywhere in the text.

        >>> evaluate(col("a").str.matches("^[0-9]+$"), a=["12", "1x"])
        [True, False]
        """
        return self._call(patterns.MATCHES, pattern)

    regexp_matches = matches

    def count_matches(self, pattern: str, *, literal: bool = False) -> Expr:
        """How often a regular expression is found, or a text if it is taken literally; int32.

        >>> evaluate(col("a").str.count_matches("[0-9]"), a=["a1b22", ""])
        [3, 0]
        >>> evaluate(col("a").str.count_matches("c", literal=True), a=["cocoa", None])
        [2, None]
        """
        return self._call(patterns.COUNT_MATCHES, pattern, literal)

    def replace(self, old: str, new: str, count: int | None = None) -> Expr:
        """With every occurrence of a text replaced, or the first `count` ones.

        >>> evaluate(col("a").str.replace(".", "-"), a=["a.b.c"])
        ['a-b-c']
        >>> evaluate(col("a").str.replace(".", "-", 1), a=["a.b.c"])
        ['a-b.c']
        """
        return self._call(patterns.REPLACE, old, new, count)

    def replace_regex(self, pattern: str, new: str, count: int | None = None) -> Expr:
        r"""With every match of a regular expression replaced, or the first `count`; \1 in `new` is its first group.

        >>> evaluate(col("a").str.replace_regex("([a-z])[0-9]", r"<\1>"), a=["a1b2"])
        ['<a><b>']
        """
        return self._call(patterns.REPLACE_REGEX, pattern, new, count)

    regexp_replace = replace_regex

    def extract(self, pattern: str, group: int | str = 1) -> Expr:
        r"""A group of a regular expression's first match; null without a match.

        >>> evaluate(col("a").str.extract(r"channel_id=([^&]*)"), a=["?channel_id=7&x=1", "?x=1"])
        ['7', None]

        Args:
            pattern: The regular expression.
            group: Its number from 1, its name, or 0 for the whole match. An optional group that took no part is "".
        """
        return self._call(patterns.EXTRACT, pattern, group)

    regexp_extract = extract

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

    def pad_start(self, width: int, fill: str = " ") -> Expr:
        """With a character put before until it is so wide; longer text stays as it is.

        >>> evaluate(col("a").str.pad_start(3, "0"), a=["7", "1234"])
        ['007', '1234']
        """
        return self._call(strings.PAD_START, width, fill)

    def pad_end(self, width: int, fill: str = " ") -> Expr:
        """With a character put behind until it is so wide; longer text stays as it is.

        >>> evaluate(col("a").str.pad_end(3, "."), a=["7", "1234"])
        ['7..', '1234']
        """
        return self._call(strings.PAD_END, width, fill)

    def repeat(self, times: int | Expr) -> Expr:
        """Several times in a row.

        >>> evaluate(col("a").str.repeat(col("n")), a=["ab", "x"], n=[2, 0])
        ['abab', '']
        """
        return Expr(Call(strings.REPEAT, (self._node, to_node(times))))

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

    def strip_prefix(self, prefix: str) -> Expr:
        """Without a text that it begins with.

        >>> evaluate(col("a").str.strip_prefix("https://"), a=["https://a.org", "b.org"])
        ['a.org', 'b.org']
        """
        return self._call(strings.STRIP_PREFIX, prefix)

    def strip_suffix(self, suffix: str) -> Expr:
        """Without a text that it ends with.

        >>> evaluate(col("a").str.strip_suffix(".org"), a=["a.org", "b.com"])
        ['a', 'b.com']
        """
        return self._call(strings.STRIP_SUFFIX, suffix)

    def strptime(self, format: str, errors: Literal["raise", "null"] = "raise") -> Expr:
        """The instant (microseconds UTC) that a text in this format names; ISO 8601 is `.cast("timestamp")`.

        Text without an offset (%z) is UTC; for clocks of another zone add `.dt.replace_time_zone("Europe/Berlin")`.

        >>> made = col("a").str.strptime("%d.%m.%Y %H:%M", errors="null")
        >>> evaluate(made.dt.epoch_s(), a=["02.01.1970 00:00", "tomorrow"])
        [86400, None]
        """
        return self._call(parsing.STRPTIME, format, unless_raise(errors))

    def md5(self) -> Expr:
        """The MD5 digest of text (in UTF-8) or bytes, in hexadecimal.

        >>> evaluate(col("a").str.md5(), a=["a", None])
        ['0cc175b9c0f1b6a831c399e269772661', None]
        """
        return self._call(digests.MD5)

    def sha256(self) -> Expr:
        """The SHA-256 digest of text (in UTF-8) or bytes, in hexadecimal.

        >>> evaluate(col("a").str.sha256().str.slice(0, 8), a=["a", None])
        ['ca978112', None]
        """
        return self._call(digests.SHA256)
