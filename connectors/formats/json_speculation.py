"""Decoding many messages of one shape at once, column by column, without a parser.

It is a bet: the first message tells a template, and whatever does not fit it exactly is left to the parser. The columns
are the same, value for value, as the parser's. Where messages have no common shape the bet is made less and less often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.connectors.formats.json_columns import Column, IntColumn, PlainColumn, TextColumn, TimestampColumn
from lakeward.connectors.formats.json_numbers import Mask, are_numbers, floats, integers
from lakeward.connectors.formats.json_segments import Buffer, Cut, Cutter
from lakeward.connectors.formats.json_template import Template, learn

FEWEST = 512
"""Messages that are worth it: below, the parser is as quick."""

_GOOD_SHARE = 0.95  # of the messages that have to fit; one message the other way costs as much as five this way
_MERGED_COLUMNS_MIN = 5
_SAMPLES = 16  # messages looked at before all of them are
_MOST_SKIPPED = 64  # chunks that are left to the parser after repeated failure


@dataclass(frozen=True, slots=True)
class Guessed:
    """What was decoded at once.

    Args:
        arrays: The columns.
        rows: For each row the place of its message.
    """

    arrays: list[pa.Array]
    rows: npt.NDArray[np.int64]


class Speculation:
    """Decodes chunks of messages if most have one shape.

    Args:
        schema: The wanted fields.
        columns: Their builders.
        parse: The parser of a message: it has to take the message that the template is learnt from.
    """

    def __init__(self, schema: pa.Schema, columns: Sequence[Column], parse: Callable[[bytes], object]) -> None:
        self._schema = schema
        self._columns = columns
        self._parse = parse
        self._template: Template | None = None
        self._cutter: Cutter | None = None
        self._failures = 0
        self._skip = 0

    def decode(self, messages: Sequence[bytes | None]) -> Guessed | None:
        """The rows that could be decoded at once, nearly all; None if too few of them could."""
        if self._skip:
            self._skip -= 1
            return None
        guessed = self._try(messages)
        if guessed is None:
            self._skip = min(2**self._failures, _MOST_SKIPPED)
            self._failures = min(self._failures + 1, 16)
        else:
            self._failures = 0
        return guessed

    def _try(self, messages: Sequence[bytes | None]) -> Guessed | None:
        template, cutter = self._agree(messages)
        buffer = Buffer.of(messages) if template else None
        if template is None or cutter is None or buffer is None:
            return None
        # With few columns the parser is nearly as fast as cutting around odd messages: then all or nothing.
        few = len(self._columns) < _MERGED_COLUMNS_MIN
        enough = len(messages) if few else int(_GOOD_SHARE * len(messages)) + 1
        found = cutter.cut(buffer, enough)
        return self._build(template, found, enough) if found else None

    def _agree(self, messages: Sequence[bytes | None]) -> tuple[Template | None, Cutter | None]:
        """The last template if it still fits most samples, or else a new one that does."""
        samples = messages[:: max(1, len(messages) // _SAMPLES)]
        if self._template is None or not _fits_most(self._template, samples):
            self._template = self._learn(samples)
            self._cutter = Cutter(self._template) if self._template else None
        return self._template, self._cutter

    def _learn(self, samples: Sequence[bytes | None]) -> Template | None:
        for message in samples[:2]:
            template = learn(message)
            if message is not None and template is not None and _fits_most(template, samples):
                return template if self._is_good(message) else None
        return None

    def _is_good(self, message: bytes) -> bool:
        try:
            self._parse(message)
        except msgspec.MsgspecError:
            return False
        return True

    def _build(self, template: Template, found: Cut, enough: int) -> Guessed | None:
        places = {name: i for i, name in enumerate(template.keys)}
        good = _Good(len(found.rows))
        for name, place in places.items():
            if name not in self._schema.names and not template.quoted[place]:
                good.keep(are_numbers(found.values(place)))
        arrays = []
        for name, column in zip(self._schema.names, self._columns, strict=True):
            if name in places:
                arrays.append(_column(column, found.values(places[name]), template.quoted[places[name]], good))
            else:
                arrays.append(column.build([None] * len(found.rows))[0])
            if good.count < enough:
                return None
        if good.mask is None:
            return Guessed(arrays, found.rows)
        kept = pa.array(good.mask)
        return Guessed([array.filter(kept) for array in arrays], found.rows[good.mask])


class _Good:
    """Which rows are good so far."""

    def __init__(self, count: int) -> None:
        self.mask: Mask | None = None
        self.count = count

    def keep(self, mask: Mask | None) -> None:
        """Only what is in the mask, too; None is all."""
        if mask is not None and not mask.all():
            self.mask = mask if self.mask is None else self.mask & mask
            self.count = int(np.count_nonzero(self.mask))

    def drop(self, rows: Sequence[int]) -> None:
        """Not these rows."""
        if rows:
            mask = np.ones(len(self.mask) if self.mask is not None else self.count, np.bool_)
            mask[rows] = False
            self.keep(mask)


def _fits_most(template: Template, samples: Sequence[bytes | None]) -> bool:
    return sum(map(template.fits, samples)) >= 0.8 * len(samples)


def _column(column: Column, text: pa.Array, quoted: bool, good: _Good) -> pa.Array:
    if isinstance(column, TimestampColumn | TextColumn):
        array, reasons = column.build_text(text)
        good.drop(list(reasons))
        return array
    t = pa.types
    if isinstance(column, PlainColumn) and (t.is_string(column.type) or t.is_large_string(column.type)):
        return text.cast(column.type)
    mask: Mask | None = None
    if isinstance(column, IntColumn):
        array, mask = integers(text, column.type)
    elif isinstance(column, PlainColumn) and (t.is_float64(column.type) or t.is_float32(column.type)):
        array, mask = floats(text, column.type)
    else:
        array = _parsed(column, text, quoted, good)
    good.keep(mask)
    return array


def _parsed(column: Column, text: pa.Array, quoted: bool, good: _Good) -> pa.Array:
    """The values of any other type: through the parser, but without the rest of the messages."""
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


def _parsed_singly(type: Any, texts: Sequence[str], good: _Good) -> list[Any]:
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
