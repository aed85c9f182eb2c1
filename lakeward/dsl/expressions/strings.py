"""Rules of text functions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.compiled import Compiled, Kernel, apply, convert, kernel, mismatch, unify
from lakeward.dsl.expressions.nested import element
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.types import is_text
from lakeward.engine.core.errors import GraphError


def _text_args(call: Call, args: Sequence[Compiled]) -> list[Compiled]:
    sides = [convert(arg, pa.string()) if pa.types.is_null(arg.type) else arg for arg in args]
    for side in sides:
        if not is_text(side.type):
            raise mismatch(call, args, f"{call.function.name}() takes text", f'cast first: {side.node}.cast("string")')
    return sides


def _function(name: str, make: Callable[..., Kernel]) -> Function:
    """A text function: `make` gets the fixed parameters and returns the kernel."""

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        return apply(call, make(*call.params), _text_args(call, args))

    return Function(f"str.{name}", Style.METHOD, rule)


def _match(function: str) -> Callable[[str], Kernel]:
    return lambda pattern: kernel(function, pc.MatchSubstringOptions(pattern))


def _matches(pattern: str) -> Kernel:
    return checked_regex(pattern, kernel("match_substring_regex", pc.MatchSubstringOptions(pattern)))


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


def _replace(function: str) -> Callable[[str, str], Kernel]:
    return lambda old, new: checked_regex(old, kernel(function, pc.ReplaceSubstringOptions(old, new)))


def _slice(start: int, length: int | None) -> Kernel:
    if length is not None and length < 0:
        raise GraphError(f"str.slice: the length is negative: {length}")
    stop = None if length is None or (start < 0 and start + length >= 0) else start + length
    return kernel("utf8_slice_codeunits", pc.SliceOptions(start, stop))


def _strip(function: str) -> Callable[[str | None], Kernel]:
    def make(characters: str | None) -> Kernel:
        if characters is None:
            return kernel(f"{function}_whitespace")
        return kernel(function, pc.TrimOptions(characters))

    return make


def _split_part(separator: str, part: int) -> Kernel:
    if part == 0 or separator == "":
        raise GraphError(
            "str.split_part counts parts from 1, and from the end with -1, -2, ...; the separator may not be empty",
            hint="str.split_part('/', 1) is the first part",
        )
    options = pc.SplitPatternOptions(separator, max_splits=part if part > 0 else None)
    split = kernel("split_pattern", options)
    return lambda array: element(split(array), part - 1 if part > 0 else part)


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
    return checked_regex(pattern, lambda array: field(extract(array)))


def _strptime(format: str, errors: str) -> Kernel:
    parse = kernel("strptime", pc.StrptimeOptions(format, "us", error_is_null=errors == "null"))
    utc = kernel("cast", pc.CastOptions(pa.timestamp("us", tz="UTC")))
    return lambda array: utc(parse(array))


LOWER = _function("lower", lambda: kernel("utf8_lower"))
UPPER = _function("upper", lambda: kernel("utf8_upper"))
LENGTH = _function("length", lambda: kernel("utf8_length"))
REVERSE = _function("reverse", lambda: kernel("utf8_reverse"))
CONTAINS = _function("contains", _match("match_substring"))
STARTS_WITH = _function("starts_with", _match("starts_with"))
ENDS_WITH = _function("ends_with", _match("ends_with"))
LIKE = _function("like", _match("match_like"))
MATCHES = _function("matches", _matches)
REPLACE = _function("replace", _replace("replace_substring"))
REPLACE_REGEX = _function("replace_regex", _replace("replace_substring_regex"))
EXTRACT = _function("extract", _extract)
SPLIT_PART = _function("split_part", _split_part)
SLICE = _function("slice", _slice)
STRIP = _function("strip", _strip("utf8_trim"))
LSTRIP = _function("lstrip", _strip("utf8_ltrim"))
RSTRIP = _function("rstrip", _strip("utf8_rtrim"))
STRPTIME = _function("strptime", _strptime)


def _split(separator: str) -> Kernel:
    if separator == "":
        raise GraphError("str.split: the separator may not be empty")
    return kernel("split_pattern", pc.SplitPatternOptions(separator))


SPLIT = _function("split", _split)


def _concat_str(call: Call, args: Sequence[Compiled]) -> Compiled:
    separator, ignore_nulls = call.params
    parts = unify(call, _text_args(call, args))
    join = kernel("binary_join_element_wise", pc.JoinOptions("skip" if ignore_nulls else "emit_null"))
    glue = pa.scalar(separator, parts[0].type)

    def function(*values: Any) -> Any:
        return join(*values, glue)

    return apply(call, function, parts)


CONCAT_STR = Function("concat_str", Style.FUNCTION, _concat_str, keywords=("separator", "ignore_nulls"))
