"""Rules of text functions that take a pattern: regular expressions (RE2's) and SQL's LIKE."""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.compiled import Kernel, kernel
from lakeward.dsl.expressions.marked_text import Marked, following, matching
from lakeward.dsl.expressions.text_kernels import count_byte
from lakeward.dsl.expressions.text_rules import text_function
from lakeward.engine.core.errors import GraphError


def _matches(pattern: str) -> Kernel:
    search = checked_regex(pattern, kernel("match_substring_regex", pc.MatchSubstringOptions(pattern)))
    marked = Marked.of(pattern)
    return search if marked is None else matching(marked, search)


def _like(ignore_case: bool) -> Callable[[str], Kernel]:
    def make(pattern: str) -> Kernel:
        if re.search(r"(?<!\\)(?:\\\\)*\\\Z", pattern):
            raise GraphError(
                f"the pattern {pattern!r} ends in a backslash that takes nothing",
                hint="for a backslash as such, write two of them",
            )
        return kernel("match_like", pc.MatchSubstringOptions(pattern, ignore_case=ignore_case))

    return make


def checked_regex(pattern: str, function: Kernel) -> Kernel:
    """The kernel, after one try: Arrow looks at a pattern only when there is text to match.

    Raises:
        GraphError: The pattern is none, or uses what RE2 leaves out (look-around, back references).
    """
    try:
        function(pa.array([""]))
    except pa.ArrowInvalid as error:
        raise GraphError(
            f"the regular expression {pattern!r} does not work: {error}",
            hint="patterns are RE2: no look-around, no back references; a replacement names groups as \\1",
        ) from error
    return function


def _replace(function: str) -> Callable[[str, str, int | None], Kernel]:
    def make(old: str, new: str, count: int | None) -> Kernel:
        if old == "" and function == "replace_substring":  # Arrow would look for it without end
            raise GraphError(
                "str.replace: nothing cannot be replaced",
                hint=f'to put {new!r} between all characters: .str.replace_regex("", {new!r})',
            )
        return checked_regex(old, kernel(function, pc.ReplaceSubstringOptions(old, new, max_replacements=count)))

    return make


def _count_matches(pattern: str, literal: bool) -> Kernel:
    if not literal:
        return checked_regex(pattern, kernel("count_substring_regex", pc.MatchSubstringOptions(pattern)))
    if pattern == "":
        raise GraphError("str.count_matches: nothing cannot be counted", hint="for characters: .length()")
    if len(pattern.encode()) == 1:
        return lambda array: count_byte(array, ord(pattern))
    return kernel("count_substring", pc.MatchSubstringOptions(pattern))


def named_group(pattern: str, group: int | str) -> str:
    r"""The pattern with one group named, as Arrow's kernel wants it, and all others unnamed.

    >>> named_group(r"(\w+)-(?P<n>\d+)", 1), named_group(r"(\w+)-(?P<n>\d+)", "n")
    ('(?P<found>\\w+)-(?:\\d+)', '(?:\\w+)-(?P<found>\\d+)')

    Raises:
        GraphError: There is no such group.
    """
    pieces, number, found, end = [], 0, group == 0, 0
    for match in _GROUPS.finditer(pattern):
        if match[0] != "(" and match["name"] is None:
            continue  # an escape, a character class or a group that captures nothing
        number += 1
        here = group in (number, match["name"])
        found = found or here
        pieces += [pattern[end : match.start()], "(?P<found>" if here else "(?:"]
        end = match.end()
    if not found:
        raise GraphError(f"str.extract: the pattern {pattern!r} has no group {group!r}")
    text = "".join([*pieces, pattern[end:]])
    return f"(?P<found>{text})" if group == 0 else text


_GROUPS = re.compile(r"\\Q.*?\\E|\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\(\?P?<(?P<name>\w+)>|\(\?|\(", re.DOTALL)


def _extract(pattern: str, group: int | str) -> Kernel:
    extract = kernel("extract_regex", pc.ExtractRegexOptions(named_group(pattern, group)))
    field = kernel("struct_field", pc.StructFieldOptions([0]))
    search = checked_regex(pattern, lambda array: field(extract(array)))
    marked = Marked.of(pattern, group) if isinstance(group, int) else None
    return search if marked is None else following(marked, search)


MATCHES = text_function("matches", _matches, costly=True)
LIKE = text_function("like", _like(False))
ILIKE = text_function("ilike", _like(True))
REPLACE = text_function("replace", _replace("replace_substring"), keywords=("count",))
REPLACE_REGEX = text_function("replace_regex", _replace("replace_substring_regex"), keywords=("count",), costly=True)
EXTRACT = text_function("extract", _extract, costly=True)
COUNT_MATCHES = text_function("count_matches", _count_matches, keywords=("literal",))
