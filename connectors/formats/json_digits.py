"""Reading digits eight at a time, in the bytes of a word (after Daniel Lemire and Johnny Lee)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lakeward.connectors.formats.json_lines import Mask, Places, Words

DIGITS_MAX = 16
"""Digits of the longest number that is read here."""

_ZEROS = np.uint64(0x3030303030303030)
_OVER_NINE = np.uint64(0x7676767676767676)
_HIGH_BITS = np.uint64(0x8080808080808080)
_PAIRS = np.uint64(0x000000FF000000FF)
_TENS, _EVEN, _ODD = np.uint64(10), np.uint64(100 + (1_000_000 << 32)), np.uint64(1 + (10_000 << 32))
_BYTE, _TWO_BYTES, _HALF = np.uint64(8), np.uint64(16), np.uint64(32)
_FIRST_BYTE, _ONE = np.uint64(0xFF), np.uint64(1)
_POWERS = 10 ** np.arange(9, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Digits:
    """Whole numbers at the beginning of some texts.

    Args:
        lengths: How many digits they have, at most `DIGITS_MAX`.
        fits: Which are numbers as JSON writes them: there are digits, and no zero before others. One that is cut off at
            `DIGITS_MAX` digits fits, too.
        low: The first eight characters, less the character zero.
        high: The next eight; None when no number is that long.
    """

    lengths: Places
    fits: Mask
    low: Words
    high: Words | None

    @classmethod
    def at(cls, words: Words, offset: int) -> Digits:
        """The numbers so many bytes behind the beginning of each row."""
        low = _unaligned(words, offset) ^ _ZEROS
        lengths = _digits_of(low)
        high = None
        if lengths.max(initial=0) == 8:
            high = _unaligned(words, offset + 8) ^ _ZEROS
            lengths = lengths + np.where(lengths == 8, _digits_of(high), 0)
        leading = (low & _FIRST_BYTE) == 0
        leading &= lengths > 1
        return cls(lengths, (lengths > 0) & ~leading, low, high)

    def numbers(self) -> Places:
        """The numbers; anything where there are none."""
        first = number_of(self.low << _bits(8 - np.minimum(self.lengths, 8)))
        if self.high is None:
            return first
        more = np.maximum(self.lengths - 8, 0)
        return first * _POWERS[more] + number_of(self.high << _bits(8 - more))


def number_of(digits: Words) -> Places:
    """The number that eight digits make, the first one in the lowest byte."""
    pairs = digits * _TENS
    pairs += digits >> _BYTE
    fours = (pairs & _PAIRS) * _EVEN
    pairs >>= _TWO_BYTES
    pairs &= _PAIRS
    pairs *= _ODD
    fours += pairs
    fours >>= _HALF
    return fours.view(np.int64)


def no_digits(characters: Words) -> Words:
    """The high bit of each byte that is over nine; in bytes behind such a one it may be wrong."""
    over = characters + _OVER_NINE
    over |= characters
    over &= _HIGH_BITS
    return over


def _digits_of(characters: Words) -> Places:
    """How many bytes before the first one that is over nine."""
    over = no_digits(characters)
    below = over - _ONE
    below &= ~over  # all bits below the lowest one that is set
    count: Places = (np.bitwise_count(below) >> 3).astype(np.int64)
    return count


def _unaligned(words: Words, offset: int) -> Words:
    """Eight bytes of each row from an offset on."""
    first, rest = divmod(offset, 8)
    if not rest:
        return words[:, first]
    back = words[:, first + 1] << np.uint64(64 - 8 * rest)
    back |= words[:, first] >> np.uint64(8 * rest)
    return back


def _bits(characters: Places) -> Words:
    return (characters << 3).view(np.uint64)
