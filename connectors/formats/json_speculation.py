"""Decoding many JSON texts of a few shapes at once, column by column, without a parser.

It is a bet: texts tell templates, and whatever does not fit one of them exactly is left to the parser. The columns are
the same, value for value, as the parser's. Where texts have no common shapes the bet is made less and less often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pyarrow as pa

from lakeward.connectors.formats.json_columns import Column, PlainColumn, StructColumn
from lakeward.connectors.formats.json_cut import Cut, Cutter
from lakeward.connectors.formats.json_lines import Lines, Places, Quotes
from lakeward.connectors.formats.json_template import Path, Template, learn
from lakeward.connectors.formats.json_values import Good, Span, build, check_number

FEWEST = 512
"""Texts that are worth it: below, the parser is as quick."""

_WORTH = 0.2  # of the texts that have to fit some template: looking at them all costs a fifth of parsing them
_SHAPES_MAX = 8
_SHAPE_WORTH = 1 / 64  # of the texts that have to fit a template for it to be kept
_LESSONS = 4  # templates that are looked for in a chunk whose texts don't all fit those there are
_MOST_SKIPPED = 64  # chunks that are left to the parser after repeated failure


@dataclass(frozen=True, slots=True)
class Part:
    """Rows that were decoded together.

    Args:
        arrays: The columns; None where all values are null.
        rows: For each row the place of its text, rising.
    """

    arrays: list[pa.Array | None]
    rows: Places


@dataclass(frozen=True, slots=True)
class Guessed:
    """What was decoded at once.

    Args:
        parts: Rows by shape.
        left: The places of the texts that are left to the parser.
    """

    parts: list[Part]
    left: Places


class Speculation:
    """Decodes chunks of texts if most have one of a few shapes.

    Args:
        schema: The wanted fields.
        columns: Their builders.
        parse: The parser of a text: it has to take the text that a template is learnt from.
    """

    def __init__(self, schema: pa.Schema, columns: Sequence[Column], parse: Callable[[bytes], object]) -> None:
        self._fields = list(zip(schema.names, columns, strict=True))
        self._parse = parse
        self._shapes: list[_Shape] = []
        self._failures = 0
        self._skip = 0

    def rests(self) -> bool:
        """Whether the next chunk is left to the parser because it did not work lately."""
        if self._skip:
            self._skip -= 1
            return True
        return False

    def decode(self, lines: Lines) -> Guessed | None:
        """The rows that could be decoded at once; None if they were too few."""
        guessed = self._try(lines)
        if len(guessed.left) > (1 - _WORTH) * len(lines):
            self._skip = min(2**self._failures, _MOST_SKIPPED)
            self._failures = min(self._failures + 1, 16)
            return None
        self._failures = 0
        return guessed

    def _try(self, lines: Lines) -> Guessed:
        attempt = _Attempt(lines)
        for shape in self._shapes:
            if attempt.is_done:
                break
            shape.rows = attempt.add(shape)
        self._shapes.sort(key=lambda one: -one.rows)
        if not attempt.is_done:
            self._learn(attempt)
        return attempt.result()

    def _learn(self, attempt: _Attempt) -> None:
        """Look for templates of the texts that are left, while enough are."""
        worth = max(1, int(_SHAPE_WORTH * len(attempt.lines)))
        for lesson in range(_LESSONS):
            left = attempt.left_rows()
            if len(left) < worth:
                return
            shape = self._shape_of(attempt.lines.texts(left[[len(left) * lesson // _LESSONS]])[0])
            if shape is None:
                continue
            shape.rows = attempt.add(shape)
            if shape.rows >= worth:
                self._shapes = sorted([*self._shapes, shape], key=lambda one: -one.rows)[:_SHAPES_MAX]

    def _shape_of(self, text: bytes) -> _Shape | None:
        template = learn(text)
        if template is None or any(shape.template == template for shape in self._shapes):
            return None
        try:
            self._parse(text)
        except msgspec.MsgspecError:
            return None
        makers = [_maker(column, (name,), template) for name, column in self._fields]
        known = [maker for maker in makers if maker is not None]
        return _Shape(template, text, known) if len(known) == len(makers) else None


class _Attempt:
    """A chunk on its way: the rows so far, and which texts are left."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.parts: list[Part] = []
        self._quotes = Quotes(lines.data)
        self._free = None if lines.odd is None else ~lines.odd
        self._plain = self._free is None

    @property
    def is_done(self) -> bool:
        """Whether nothing is left that could fit a template."""
        return self._free is not None and not self._free.any()

    def add(self, shape: _Shape) -> int:
        """Decode the texts of a shape; how many there were."""
        rows = None if self._plain else self.left_rows()
        cut = shape.cutter.cut(self.lines, self._quotes, rows)
        part = shape.build(self.lines, cut) if cut.count else None
        if part is None or not len(part.rows):
            return 0
        self.parts.append(part)
        if self._free is None:
            self._free = np.ones(len(self.lines), np.bool_)
        self._free[part.rows] = False
        self._plain = False
        return len(part.rows)

    def result(self) -> Guessed:
        """What came of it."""
        left = self.left_rows()
        if self.lines.odd is not None:
            left = np.union1d(left, np.flatnonzero(self.lines.odd))
        return Guessed(self.parts, left)

    def left_rows(self) -> Places:
        """The texts that are left, those with backslashes and the like apart."""
        return np.arange(len(self.lines)) if self._free is None else np.flatnonzero(self._free)


class _Maker:
    """Makes a column of the lines that fit a template. This one: of nulls."""

    def make(self, spans: _Spans) -> pa.Array | None:
        """The column; None when all values are null."""
        return None


@dataclass(frozen=True, slots=True)
class _LeafMaker(_Maker):
    column: Column
    leaf: int

    def make(self, spans: _Spans) -> pa.Array | None:
        return build(self.column, spans.of(self.leaf), spans.good)


@dataclass(frozen=True, slots=True)
class _ConstantMaker(_Maker):
    value: bool

    def make(self, spans: _Spans) -> pa.Array | None:
        return pa.repeat(self.value, spans.cut.count)


@dataclass(frozen=True, slots=True)
class _StructMaker(_Maker):
    type: pa.DataType
    fields: tuple[_Maker, ...]

    def make(self, spans: _Spans) -> pa.Array | None:
        made = [maker.make(spans) for maker in self.fields]
        arrays = [
            pa.nulls(spans.cut.count, one.type) if array is None else array
            for one, array in zip(self.type, made, strict=True)
        ]
        if not arrays:
            return None
        return pa.StructArray.from_arrays(arrays, fields=list(self.type))


def _maker(column: Column, path: Path, template: Template) -> _Maker | None:
    """What makes a column; None when the template has something there that only the parser knows about."""
    if path in template.places:
        return None if isinstance(column, StructColumn) else _LeafMaker(column, template.places[path])
    if path in template.objects:
        if not isinstance(column, StructColumn) or not column.columns:
            return None
        pairs = zip(column.type, column.columns, strict=True)
        fields = [_maker(one, (*path, field.name), template) for field, one in pairs]
        known = [maker for maker in fields if maker is not None]
        return _StructMaker(column.type, tuple(known)) if len(known) == len(fields) else None
    value = template.constants.get(path)
    if value is None:
        return _Maker()
    is_bool = isinstance(column, PlainColumn) and pa.types.is_boolean(column.type)
    return _ConstantMaker(value) if is_bool else None


@dataclass(frozen=True, slots=True)
class _Spans:
    """Where the values of a template are in the lines that fit it."""

    lines: Lines
    cut: Cut
    template: Template
    good: Good

    def of(self, leaf: int) -> Span:
        """A leaf's."""
        return Span(self.lines, self.cut.values[leaf], self.template.leaves[leaf].quoted)


class _Shape:
    """A template, and how its lines become columns."""

    def __init__(self, template: Template, sample: bytes, makers: Sequence[_Maker]) -> None:
        self.template = template
        self.rows = 0
        self._makers = makers
        wanted = set(_leaves_of(makers))
        self.cutter = Cutter(template, sample, wanted)
        self._others = [i for i, one in enumerate(template.leaves) if i not in wanted and not one.quoted]

    def build(self, lines: Lines, cut: Cut) -> Part | None:
        """The rows of the lines that fit and whose values do; None when there are none."""
        good = Good(cut.count)
        spans = _Spans(lines, cut, self.template, good)
        for leaf in self._others:
            check_number(spans.of(leaf), good)
        arrays = [maker.make(spans) for maker in self._makers]
        if not good.count:
            return None
        rows = np.arange(cut.count) if cut.rows is None else cut.rows
        if good.mask is None:
            return Part(arrays, rows)
        kept = pa.array(good.mask)
        return Part([one if one is None else one.filter(kept) for one in arrays], rows[good.mask])


def _leaves_of(makers: Sequence[_Maker]) -> list[int]:
    found: list[int] = []
    for maker in makers:
        if isinstance(maker, _LeafMaker):
            found.append(maker.leaf)
        elif isinstance(maker, _StructMaker):
            found += _leaves_of(maker.fields)
    return found


def merged(parts: Sequence[Part], schema: pa.Schema) -> tuple[list[pa.Array], Places]:
    """The rows of all parts in the order of their texts, and the texts' places."""
    if len(parts) == 1:
        rows = parts[0].rows
        pairs = zip(parts[0].arrays, schema, strict=True)
        return [pa.nulls(len(rows), field.type) if array is None else array for array, field in pairs], rows
    rows = np.concatenate([part.rows for part in parts]) if parts else np.empty(0, np.int64)
    order = np.argsort(rows, kind="stable")
    return [_merged(parts, i, field.type, order) for i, field in enumerate(schema)], rows[order]


def _merged(parts: Sequence[Part], column: int, type: pa.DataType, order: Places) -> pa.Array:
    """One column of several parts. Parts of nulls are not made, only pointed past."""
    arrays: list[pa.Array] = []
    first = 0
    shift = np.full(len(order), -len(order) - 1)  # from a row's place among all to that among those not null
    for part in parts:
        array = part.arrays[column]
        if array is not None:
            shift[first : first + len(array)] = sum(map(len, arrays)) - first
            arrays.append(array)
        first += len(part.rows)
    if not arrays:
        return pa.nulls(len(order), type)
    places = (np.arange(len(order)) + shift)[order]
    whole = arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    return whole.take(pa.array(places, mask=places < 0))
