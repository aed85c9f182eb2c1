"""Times from text in a format: Arrow's parser, with what it lets through or leaves out put right."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.compiled import Kernel, kernel
from lakeward.dsl.expressions.some_rows import Rows
from lakeward.dsl.expressions.text_rules import text_function
from lakeward.engine.core.errors import GraphError

_SHORT_FOR = {"%T": "%H:%M:%S", "%F": "%Y-%m-%d", "%R": "%H:%M", "%D": "%m/%d/%y", "%h": "%b", "%e": "%d"}
_KNOWN = frozenset("YymdHIMSpjbBaAz%")
_DIRECTIVE = re.compile(r"%(.)|(\s+)|([^%\s]+)", re.DOTALL)
_DAYS_IN_DOUBT = 4
"""A day that a month does not have (30 February) comes out as one of the first of the next month, zone included."""

_UTC = pa.timestamp("us", tz="UTC")


def _strptime(format: str, errors: str | None) -> Kernel:
    full = _spelled_out(format)
    parse = _with_fraction(full) if "%f" in full else _parser(full)
    doubtful = _late_day(full)
    to_utc = kernel("cast", pc.CastOptions(_UTC))

    def function(array: Any) -> pa.Array:
        found = to_utc(parse(array))
        lost = found.null_count - array.null_count
        wrong = _impossible_days(array, found, full, doubtful)
        if errors is None and (lost or len(wrong)):
            raise pa.ArrowInvalid(f"cannot parse the text as {format!r}")
        return pc.if_else(_mask(len(found), wrong), pa.scalar(None, _UTC), found) if len(wrong) else found

    return function


STRPTIME = text_function("strptime", _strptime, keywords=("errors",), decodes=True)


def _spelled_out(format: str) -> str:
    """The format without its abbreviations.

    Raises:
        GraphError: A part of it is not known.
    """
    full = re.sub(r"%(.)", lambda match: _SHORT_FOR.get(match[0], match[0]), format)
    rest = full.replace("%S.%f", "", 1)
    unknown = sorted(set(re.findall(r"%.?", rest)) - {f"%{letter}" for letter in _KNOWN})
    if unknown:
        raise GraphError(
            f"str.strptime: {unknown[0]} is not known in {format!r}",
            hint="use %Y %y %m %d %H %I %M %S %p %j %b %B %a %A %z, %F, %T, %R, %D, and %S.%f for fractions",
        )
    return full


def _parser(format: str) -> Kernel:
    """Arrow's own; what it cannot read is null."""
    return kernel("strptime", pc.StrptimeOptions(format, "us", error_is_null=True))


def _with_fraction(format: str) -> Kernel:
    """Arrow knows no fractions of a second: they are cut out, and added again."""
    before, after = format.split("%S.%f")
    pattern = f"^({_pattern(before + '%S')})[.]([0-9]{{1,6}})({_pattern(after)})$"
    digits = pattern.replace("(", "(?:").replace("(?:[0-9]{1,6})", "(?P<found>[0-9]{1,6})")
    parse, extract = _parser(before + "%S" + after), kernel("extract_regex", pc.ExtractRegexOptions(digits))

    def function(array: Any) -> pa.Array:
        whole = pc.replace_substring_regex(array, pattern, r"\1\3")
        fraction = pc.utf8_rpad(pc.struct_field(extract(array), [0]), 6, "0").cast(pa.int64())
        return pc.add(parse(whole), fraction.cast(pa.duration("us")))

    return function


def _pattern(format: str) -> str:
    """A regular expression for text in a format, loosely, without groups."""
    return "".join(_piece(match) for match in _DIRECTIVE.finditer(format))


def _piece(match: re.Match[str]) -> str:
    letter, space, text = match.groups()
    if letter is None:
        return r"\s+" if space else re.escape(text)
    if letter == "Y":
        return "-?[0-9]+"
    if letter in "bBaAp":
        return "[A-Za-z]+"
    return {"z": "(?:Z|[+-][0-9:]+)", "%": "%"}.get(letter, r"\s*[0-9]{1,3}")


def _late_day(format: str) -> Kernel | None:
    """Whether a text names the 29th to 31st of a month."""
    if "%d" not in format:
        return None
    pattern = rf"^\s*{_pattern(format.partition('%d')[0])}(?:29|3[01])"
    return kernel("match_substring_regex", pc.MatchSubstringOptions(pattern))


def _impossible_days(array: pa.Array, found: pa.Array, format: str, late: Kernel | None) -> Rows:
    """The rows whose day their month does not have; Arrow reads 30 February as 1 March."""
    if late is None:
        return np.zeros(0, dtype=np.int64)
    early = np.flatnonzero(pc.less_equal(pc.day(found), _DAYS_IN_DOUBT).fill_null(False).to_numpy(zero_copy_only=False))
    texts = array.take(pa.array(early))
    doubtful = np.flatnonzero(late(texts).to_numpy(zero_copy_only=False))
    wrong = [not _is_a_day(text, format) for text in texts.take(pa.array(doubtful)).to_pylist()]
    return early[doubtful[np.array(wrong, dtype=np.bool_)]]


def _is_a_day(text: str, format: str) -> bool:
    try:
        datetime.strptime(text, format)  # noqa: DTZ007 (only whether it is one)
    except ValueError:
        return False
    return True


def _mask(length: int, rows: Rows) -> pa.Array:
    mask = np.zeros(length, dtype=np.bool_)
    mask[rows] = True
    return pa.array(mask)
