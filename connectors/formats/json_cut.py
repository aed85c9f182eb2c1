"""Cutting many lines at once where a template says, and finding those that it does not fit.

Value by value, all lines in step: a text ends at the next quote, a short whole number where its digits do, another
number before the literal with the next quote; there the next literal must be. No byte is left unchecked: what is no
literal is a value, and values that are not checked here are by whoever reads them. The text of a last value ends where
the line does, and has no quote if the quotes of all lines add up.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from lakeward.connectors.formats.json_digits import DIGITS_MAX, Digits
from lakeward.connectors.formats.json_lines import PAD, Lines, Mask, Places, Quotes, Words
from lakeward.connectors.formats.json_template import Template

_ENOUGH = 0.98  # of the lines that are still followed: with fewer, those that do not fit are left behind
_ODD_NUMBERS = 1 / 16  # of the lines may have numbers other than short whole ones before these are no longer expected


@dataclass(frozen=True, slots=True)
class Found:
    """A value of a template in the lines that fit.

    Args:
        starts: Where it begins in each line.
        ends: Where it ends; no sooner than it begins.
        is_digits: Whether it is known to be a whole number, not negative.
        number: That number, if somebody wants it.
    """

    starts: Places
    ends: Places
    is_digits: bool = False
    number: Places | None = None

    def only(self, kept: Mask) -> Found:
        """In the lines of the mask alone."""
        number = None if self.number is None else self.number[kept]
        return Found(self.starts[kept], self.ends[kept], self.is_digits, number)


@dataclass(frozen=True, slots=True)
class Cut:
    """Lines that fit a template.

    Args:
        rows: Their places among all lines; None: all of them.
        values: The values of the template's leaves.
        count: How many lines.
    """

    rows: Places | None
    values: list[Found]
    count: int

    def only(self, kept: Mask) -> Cut:
        """Without the lines that the mask does not have."""
        rows = np.flatnonzero(kept) if self.rows is None else self.rows[kept]
        return Cut(rows, [one.only(kept) for one in self.values], len(rows))


class Cutter:
    """Cuts the lines that fit a template.

    Args:
        template: What they should look like.
        sample: The text that the template comes from.
        wanted: The leaves whose numbers somebody wants.
    """

    def __init__(self, template: Template, sample: bytes, wanted: Collection[int]) -> None:
        self.template = template
        self._wanted = wanted
        self._literals = [Literal.of(one) for one in template.literals]
        self._wide = [False] * len(template.leaves)  # texts that often are longer than a word of the bitmap
        self._digits = [value.isdigit() and len(value) <= DIGITS_MAX for value in template.values_of(sample)]
        for i, leaf in enumerate(template.leaves):
            self._digits[i] &= not leaf.quoted

    def cut(self, lines: Lines, quotes: Quotes, rows: Places | None) -> Cut:
        """Cut the lines that fit.

        Their values may still be any text without quotes, or, where a number should be, anything.

        Args:
            lines: The lines; none of those looked at may have a backslash or a control character.
            quotes: Their quotes.
            rows: The lines to look at; None: all.
        """
        walk = _Walk(lines, quotes, rows)
        last = len(self.template.leaves) - 1
        for i, literal in enumerate(self._literals):
            if i <= last and self._digits[i]:
                self._digits[i] = walk.expect_digits(literal, i in self._wanted)
                continue
            walk.expect(literal)
            if i < last:
                self._wide[i] = walk.expect_value(self.template.closings[i + 1], self._wide[i])
            elif i == last:
                walk.expect_last_value(len(self.template.literals[-1]))
        return self._finish(walk, quotes)

    def _finish(self, walk: _Walk, quotes: Quotes) -> Cut:
        walk.good &= walk.place == walk.ends
        whole = bool(walk.good.all())
        cut = walk.cut if whole else walk.cut.only(walk.good)
        if not self.template.leaves or not self.template.leaves[-1].quoted or not cut.count:
            return cut
        if whole and cut.rows is None and quotes.total == cut.count * self.template.quotes:
            return cut
        without = quotes.next(cut.values[-1].starts, wide=True)[0] == cut.values[-1].ends
        return cut if without.all() else cut.only(without)


class _Walk:
    """All lines, followed from value to value."""

    def __init__(self, lines: Lines, quotes: Quotes, rows: Places | None) -> None:
        self._lines = lines
        self._quotes = quotes
        self._limit = len(lines.data) - PAD
        self.place = lines.starts if rows is None else lines.starts[rows]
        self.ends = lines.ends if rows is None else lines.ends[rows]
        self.cut = Cut(rows, [], len(self.place))
        self.good = np.ones(self.cut.count, np.bool_)

    def expect(self, literal: Literal) -> None:
        """This text must follow; go behind it."""
        words = self._lines.words(self.place, len(literal.words))
        self._note(literal.matches(words), self.place + literal.length)

    def expect_value(self, closing: int, wide: bool) -> bool:
        """A value goes up to so many bytes before the next quote; whether one should look further ahead for that."""
        found, far = self._quotes.next(self.place, wide)
        if closing:
            found -= closing
            self.good &= found >= self.place
        self._add(found)
        return far

    def expect_last_value(self, tail: int) -> None:
        """A value goes up to so many bytes before the line's end."""
        end = self.ends - tail
        self.good &= end >= self.place
        self._add(end)

    def expect_digits(self, literal: Literal, wanted: bool) -> bool:
        """This text and a whole number must follow; whether such numbers are still to be expected."""
        count = (literal.length + DIGITS_MAX + 7) // 8
        words = self._lines.words(self.place, max(count, len(literal.words)))
        followed = literal.matches(words)
        digits = Digits.at(words, literal.length)
        value = self.place + literal.length
        odd = np.count_nonzero(followed & ~digits.fits)
        end = value + digits.lengths
        self.cut.values.append(Found(value, end, True, digits.numbers() if wanted else None))
        self._note(followed & digits.fits, end)
        return int(odd) <= _ODD_NUMBERS * len(followed)

    def _add(self, end: Places) -> None:
        self.cut.values.append(Found(self.place, end))
        self.place = np.minimum(end, self._limit)

    def _note(self, matches: Mask, place: Places) -> None:
        """Go on at a place, without those lines that don't match if they are many."""
        self.good &= matches
        if np.count_nonzero(self.good) < _ENOUGH * len(self.good):
            good = self.good
            self.cut, self.ends, place = self.cut.only(good), self.ends[good], place[good]
            self.good = np.ones(self.cut.count, np.bool_)
        self.place = np.minimum(place, self._limit)


@dataclass(frozen=True, slots=True)
class Literal:
    """A text to compare with, as words.

    Args:
        length: Its length in bytes.
        words: The text, filled up with zeros.
        mask: Which bits of the last word count; None: all.
    """

    length: int
    words: tuple[np.uint64, ...]
    mask: np.uint64 | None

    @classmethod
    def of(cls, text: bytes) -> Literal:
        """The literal of a text."""
        over = -len(text) % 8
        words = np.frombuffer(text + bytes(over), np.uint64)
        return cls(len(text), tuple(words), np.uint64(2 ** (64 - 8 * over) - 1) if over else None)

    def matches(self, found: Words) -> Mask:
        """Which rows begin with the text."""
        last = len(self.words) - 1
        different = found[:, last] ^ self.words[last]
        if self.mask is not None:
            different &= self.mask
        for i, word in enumerate(self.words[:-1]):
            different |= found[:, i] ^ word
        matches: Mask = different == 0
        return matches
