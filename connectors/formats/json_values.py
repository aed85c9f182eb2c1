"""Values of many lines at once, from where they are in the text to Arrow columns, and which of them do not fit.

Integers and times of a fixed width are read straight from their digits, eight at a time; anything else is copied to a
column of text first. What the quick ways can't tell for sure they leave to the slower ones, which know every case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.connectors.formats.json_columns import Column, IntColumn, PlainColumn, TextColumn, TimestampColumn
from lakeward.connectors.formats.json_cut import Found
from lakeward.connectors.formats.json_digits import no_digits, number_of
from lakeward.connectors.formats.json_lines import Lines, Mask, Places, Words
from lakeward.connectors.formats.json_numbers import are_numbers, floats, integers

_MINUTE = 16  # characters of a time before its seconds
_TIME_LENGTHS = (19, 23, 26)  # characters of times without a zone: to the second, with 3 and with 6 digits more


@dataclass(frozen=True, slots=True)
class Span:
    """A value in some lines.

    Args:
        lines: The lines.
        found: Where it is in each.
        quoted: Whether it is text.
    """

    lines: Lines
    found: Found
    quoted: bool

    @property
    def starts(self) -> Places:
        """Where it begins."""
        return self.found.starts

    @property
    def lengths(self) -> Places:
        """How long it is."""
        return self.found.ends - self.found.starts

    def text(self) -> pa.Array:
        """A column of strings."""
        return self.lines.strings(self.found.starts, self.found.ends)


class Good:
    """Which rows are good so far."""

    def __init__(self, count: int) -> None:
        self.mask: Mask | None = None
        self.count = self.rows = count

    def keep(self, mask: Mask | None) -> None:
        """Only what is in the mask, too; None is all."""
        if mask is not None and not mask.all():
            self.mask = mask if self.mask is None else self.mask & mask
            self.count = int(np.count_nonzero(self.mask))

    def drop(self, rows: Sequence[int]) -> None:
        """Not these rows."""
        if rows:
            mask = np.ones(self.rows, np.bool_)
            mask[rows] = False
            self.keep(mask)


def check_number(span: Span, good: Good) -> None:
    """Leave only rows whose value is a number; nobody wants the number itself."""
    if not span.found.is_digits:
        good.keep(are_numbers(span.text()))


def build(column: Column, span: Span, good: Good) -> pa.Array:
    """The column of a value; rows in which it does not fit are taken from the good ones."""
    t = pa.types
    if isinstance(column, IntColumn):
        return _integers(column, span, good)
    if isinstance(column, TimestampColumn):
        quick = _times(column, span)
        if quick is not None:
            return quick
    text = span.text()
    if isinstance(column, TimestampColumn | TextColumn):
        array, reasons = column.build_text(text)
        good.drop(list(reasons))
        return array
    if isinstance(column, PlainColumn) and (t.is_string(column.type) or t.is_large_string(column.type)):
        return text.cast(column.type)
    if isinstance(column, PlainColumn) and (t.is_float64(column.type) or t.is_float32(column.type)):
        array, mask = floats(text, column.type)
        good.keep(mask)
        return array
    return _parsed(column, text, span.quoted, good)


def _integers(column: IntColumn, span: Span, good: Good) -> pa.Array:
    number = span.found.number
    if number is not None:
        info = np.iinfo(column.type.to_pandas_dtype())
        if info.bits == 64 or int(number.max(initial=0)) <= info.max:
            return pa.array(number if info.bits == 64 else number.astype(info.dtype)).view(column.type)
    array, mask = integers(span.text(), column.type)
    good.keep(mask)
    return array


def _times(column: TimestampColumn, span: Span) -> pa.Array | None:
    """Points in time, if all are written alike and most lie in few minutes; None if not, or if one is none.

    What comes before the seconds is the same in many lines: it is parsed once for each run of lines. The rest are
    digits at fixed places.
    """
    lengths = span.lengths
    if not len(lengths):
        return None
    length = int(lengths[0])
    zoned = bool(span.lines.data[span.found.ends[0] - 1] == ord("Z"))
    if length - zoned not in _TIME_LENGTHS or not (lengths == length).all():
        return None
    words = span.lines.words(span.starts, 4 if length > 24 else 3)
    micros = _micros_of_minute(words[:, 2:], length - _MINUTE, zoned)
    minutes = _minutes(span, words)
    if micros is None or minutes is None:
        return None
    micros += minutes
    try:
        return column.finish(pa.array(micros).view(pa.timestamp("us", "UTC")))
    except pa.ArrowInvalid:
        return None  # out of the type's range


def _minutes(span: Span, words: Words) -> Places | None:
    """The microseconds since 1970 at which each line's minute begins."""
    changes = (words[1:, 0] != words[:-1, 0]) | (words[1:, 1] != words[:-1, 1])
    firsts = np.flatnonzero(changes) + 1
    if len(firsts) > len(words) // 8:
        return None
    firsts = np.concatenate([[0], firsts])
    text = span.lines.strings(span.starts[firsts], span.starts[firsts] + _MINUTE)
    try:
        moments = pc.binary_join_element_wise(text, ":00", "").cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return None
    known: Places = np.asarray(moments.view(pa.int64()))
    if len(known) == 1:
        return known
    repeated: Places = np.repeat(known, np.diff(np.append(firsts, len(words))))
    return repeated


def _micros_of_minute(words: Words, length: int, zoned: bool) -> Places | None:
    """The microseconds of texts ":SS", ":SS.mmm", ":SS.mmmmmm", perhaps with a Z; None if one has another form."""
    form = (":00.000000" if length - zoned > 3 else ":00")[: length - zoned] + "Z" * zoned
    value: Places | None = None
    for i in range((len(form) + 7) // 8):
        part = form[8 * i : 8 * i + 8]
        digits = (np.ascontiguousarray(words[:, i]) ^ _word(part)) & _word_mask(part)
        # A digit less its zero is at most 9; anything else must be what the form says, less itself: zero.
        fixed = _word_mask("".join("\xff" if one != "0" else "\0" for one in part), of="\xff")
        if no_digits(digits).any() or (digits & fixed).any():
            return None
        number = number_of(_gathered(digits, part))
        value = number if value is None else value * 10 ** part.count("0") + number
    assert value is not None  # the form is not empty
    if (value >= 60 * 10 ** (form.count("0") - 2)).any():
        return None
    value *= 10 ** (8 - form.count("0"))
    return value


def _gathered(digits: Words, part: str) -> Words:
    """The digits of a form in the last places of a word, with zeros before them."""
    gathered = np.zeros_like(digits)
    left = part.count("0")
    for run in re.finditer("0+", part):
        mask = np.uint64(int.from_bytes(bytes(0xFF if run.start() <= i < run.end() else 0 for i in range(8)), "little"))
        shift = (8 - left - run.start()) * 8
        picked = digits & mask
        gathered |= picked << np.uint64(shift) if shift >= 0 else picked >> np.uint64(-shift)
        left -= run.end() - run.start()
    return gathered


def _word(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(text.encode("latin-1").ljust(8, b"\0"), "little"))


def _word_mask(text: str, of: str | None = None) -> np.uint64:
    """All bits of the characters of a text, or of those that are `of`."""
    return _word("".join("\xff" if of is None or one == of else "\0" for one in text))


def _parsed(column: Column, text: pa.Array, quoted: bool, good: Good) -> pa.Array:
    """The values of any other type: through the parser, but without the rest of the lines."""
    if quoted:
        written = pc.binary_join_element_wise('"', text, '"', "")
    else:
        numbers = are_numbers(text)
        good.keep(numbers)
        written = text if numbers is None else pc.if_else(pa.array(numbers), text, "0")
    texts = written.to_pylist()
    try:
        values = msgspec.json.decode("[" + ",".join(texts) + "]", type=list[column.wire_type])  # type: ignore[name-defined]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        values = _parsed_singly(column.wire_type, texts, good)
    array, reasons = column.build(values)
    good.drop(list(reasons))
    return array


def _parsed_singly(type: Any, texts: Sequence[str], good: Good) -> list[Any]:
    parse = msgspec.json.Decoder(type).decode
    values: list[Any] = []
    wrong = []
    for place, text in enumerate(texts):
        try:
            values.append(parse(text))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            values.append(None)
            wrong.append(place)
    good.drop(wrong)
    return values
