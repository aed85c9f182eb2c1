"""Sliding folds: for each row of an array the fold of the slice that ends there, in a logarithmic number of passes.

Folds of 1, 2, 4, ... rows that end at each row are made by doubling, and a slice is put together of those whose lengths
add up to its own (Hillis and Steele, "Data parallel algorithms", 1986; sparse tables do the same for minima). Unlike
with prefix sums nothing is ever subtracted: a great number that has left the slice leaves no rounding error behind, and
neither do NaN and infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lakeward.operators.windows.columns import Mask, Rows, Values

_LOW32 = np.int64(0xFFFFFFFF)
_HALF = 2**31


@dataclass(frozen=True, slots=True)
class Slices:
    """One slice a row, of rows that are sorted by key and time.

    For folds there may be any number of slices in any order, also empty ones.

    Args:
        starts: The first row of each slice, never falling.
        ends: Its last row, never falling: the row itself, or the last one with its time.
    """

    starts: Rows
    ends: Rows

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Rows:
        """Rows a slice."""
        return self.ends - self.starts + 1

    def counts(self, weights: Rows) -> Rows:
        """The sum of whole numbers over each slice; exact, as long as it fits int64."""
        before = np.zeros(len(weights) + 1, np.int64)
        np.cumsum(weights, out=before[1:])
        return before[self.ends + 1] - before[self.starts]

    def fold(self, values: Values, neutral: Any, combine: Callable[..., Any]) -> Values:
        """Fold the values of each slice.

        >>> slices = Slices(np.array([0, 0, 1]), np.array([0, 1, 2]))
        >>> slices.fold(np.array([1, 2, 4]), 0, np.add).tolist()
        [1, 3, 6]

        Args:
            values: One a row.
            neutral: What changes nothing.
            combine: An associative function of two arrays, such as `numpy.add`.
        """
        folded = np.full(len(self), neutral, values.dtype)
        left, at = self.lengths, self.ends.copy()
        longest, size = int(left.max(initial=0)), 1
        while True:
            rows = np.flatnonzero(left & size)
            folded[rows] = combine(values[at[rows]], folded[rows])
            at[rows] -= size
            if 2 * size > longest:
                return folded
            # What reaches back over the beginning of a key is never asked for.
            values = np.concatenate([values[:size], combine(values[:-size], values[size:])])
            size *= 2

    def sums(self, values: Values) -> tuple[Rows, Mask]:
        """Exact sums of int64 values, and where they do not fit int64."""
        if not len(values):
            return values, np.zeros(0, np.bool_)
        greatest = max(abs(int(values.min())), abs(int(values.max())))
        if greatest * int(self.lengths.max()) < 2**63:
            return self.fold(values, 0, np.add), np.zeros(len(self), np.bool_)
        high, low = self.fold(values >> 32, 0, np.add), self.fold(values & _LOW32, 0, np.add)
        high = high + (low >> 32)
        return (high << 32) | (low & _LOW32), (high < -_HALF) | (high >= _HALF)

    def first_of(self, wanted: Mask) -> Rows:
        """The first wanted row of each slice; -1 where there is none."""
        size = len(wanted)
        following = np.where(wanted, np.arange(size), size)
        following = np.minimum.accumulate(following[::-1])[::-1]
        first = following[self.starts]
        return np.where(first <= self.ends, first, -1)

    def last_of(self, wanted: Mask) -> Rows:
        """The last wanted row of each slice; -1 where there is none."""
        before = np.maximum.accumulate(np.where(wanted, np.arange(len(wanted)), -1))
        last = before[self.ends]
        return np.where(last >= self.starts, last, -1)

    def distinct(self, previous: Rows, wanted: Mask) -> Rows:
        """How many different values each slice has.

        A row counts in the slices that hold it and begin after the row before it with the same value. These are
        neighbours, since slices never step back: the row adds one where they begin, and takes it off where they end.

        Args:
            previous: The row before with the same key and value; -1: there is none.
            wanted: The rows that have a value.
        """
        rows = np.flatnonzero(wanted)
        begin = np.maximum(
            np.searchsorted(self.ends, rows, side="left"), np.searchsorted(self.starts, previous[rows], side="right")
        )
        end = np.searchsorted(self.starts, rows, side="right")
        some = begin < end
        steps = np.bincount(begin[some], minlength=len(self) + 1) - np.bincount(end[some], minlength=len(self) + 1)
        return np.cumsum(steps[:-1])


def slices_of_rows(groups: Rows, rows: int | None) -> Slices:
    """Each row with those of its key before it.

    Args:
        groups: The key of each row, sorted.
        rows: The length of a slice; None: all rows of the key.
    """
    places = np.arange(len(groups))
    starts = np.maximum.accumulate(np.where(np.diff(groups, prepend=-1) != 0, places, 0))
    return Slices(starts if rows is None else np.maximum(starts, places - (rows - 1)), places)


def slices_of_time(groups: Rows, times_us: Rows, range_us: int) -> Slices:
    """Each row with those of its key that are at most so much older, and all that have its time.

    Args:
        groups: The key of each row; rows are sorted by it.
        times_us: Their times, sorted within a key.
        range_us: How far to look back.
    """
    # Times as small numbers, so that key and time fit one.
    known, codes = np.unique(times_us, return_inverse=True)
    width = len(known) + 1
    keyed = groups * width + codes
    oldest = groups * width + np.searchsorted(known, times_us - range_us, side="left")
    return Slices(np.searchsorted(keyed, oldest, side="left"), np.searchsorted(keyed, keyed, side="right") - 1)
