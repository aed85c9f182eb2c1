"""The rows of many keys, and conditions computed for many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from lakeward.operators.grouping import plain
from lakeward.operators.over.functions import Parts, SliceFunction
from lakeward.operators.over.slices import Slices
from lakeward.operators.patterns.pattern import Formula, Reference
from lakeward.operators.windows.columns import Mask, Rows

Span = tuple[Rows, Rows]
"""The first row that each of some paths has of a variable, and how many it has."""

Spans = Callable[[int], Span]
"""Of a variable, by its number."""


class KeyRows:
    """Rows sorted by key and time, with how far a match that begins at each may reach.

    Args:
        batch: The rows.
        groups: The key of each, sorted.
        times_us: The time of each, sorted within a key.
        within_us: The time that a match may take; None: any.
        closed_us: No more rows will come up to this time.
        end_us: The time that closes everything.
    """

    def __init__(
        self, batch: pa.RecordBatch, groups: Rows, times_us: Rows, within_us: int | None, until: tuple[int, int]
    ) -> None:
        closed_us, end_us = until
        self._columns = {name: batch.column(name) for name in batch.schema.names}
        self._masks: dict[int, Mask] = {}
        self._next: dict[tuple[int, bool], Rows] = {}
        self._folds: dict[Reference, tuple[SliceFunction, Parts]] = {}
        self.groups = groups
        places = np.arange(len(groups))
        lasts = np.flatnonzero(np.diff(groups, append=-1))
        self.key_ends: Rows = lasts[np.searchsorted(lasts, places)] + 1 if len(groups) else places
        self.limits: Rows = self.key_ends
        self.due_us: Rows = np.full(len(groups), end_us, np.int64)
        if within_us is not None:
            self.limits = _limits(groups, times_us, within_us)
            self.due_us = times_us + (within_us - 1)
        self.closed: Mask = (self.limits < self.key_ends) | (self.due_us <= closed_us)

    def __len__(self) -> int:
        return len(self.groups)

    def mask(self, formula: Formula) -> Mask | None:
        """Where a condition on the row alone holds; None: it depends on other rows too."""
        if formula.references:
            return None
        found = self._masks.get(id(formula))
        if found is None:
            found = self._masks[id(formula)] = _true(self.values(formula, np.arange(len(self)), _no_spans))
        return found

    def next_row(self, formula: Formula, value: bool) -> Rows:
        """For each row, and one behind them, the next one (or itself) for which a condition on it alone is so."""
        key = (id(formula), value)
        if key not in self._next:
            mask = self.mask(formula)
            assert mask is not None, "it depends on the row alone"
            size = len(self)
            following = np.where(mask == value, np.arange(size), size)
            self._next[key] = np.append(np.minimum.accumulate(following[::-1])[::-1], size)
        return self._next[key]

    def holds(self, formula: Formula | None, rows: Rows, spans: Spans) -> Mask:
        """Whether a condition holds for some rows.

        Args:
            formula: The condition; None: it always does.
            rows: The row at hand of each path.
            spans: The rows of each path by variable.
        """
        if formula is None:
            return np.ones(len(rows), np.bool_)
        mask = self.mask(formula)
        return mask[rows] if mask is not None else _true(self.values(formula, rows, spans))

    def values(self, formula: Formula, rows: Rows, spans: Spans) -> pa.Array:
        """The values of an expression, arguments as for `holds`."""
        references = dict(formula.references)
        arrays: dict[str, pa.Array] = {"row#": pa.array(rows)}
        for name in formula.expression.columns:
            reference = references.get(name)
            arrays[name] = self._referred(reference, spans) if reference else self._columns[name].take(pa.array(rows))
        return formula.expression.evaluate(pa.RecordBatch.from_arrays(list(arrays.values()), list(arrays)))

    def _referred(self, reference: Reference, spans: Spans) -> pa.Array:
        parts = [spans(stage) for stage in reference.stages]
        if reference.aggregate is not None:
            return self._aggregated(reference, parts)
        assert reference.column is not None, "it has a column or an aggregate"
        rows = _picked(parts, reference)
        return self._columns[reference.column].take(pa.array(np.maximum(rows, 0), mask=rows < 0))

    def _aggregated(self, reference: Reference, spans: Sequence[Span]) -> pa.Array:
        function, parts = self._parts(reference)
        folded = [_folded(function, parts, span) for span in spans]
        if len(folded) == 1:
            return function.result(folded[0])
        paths, width = len(spans[0][0]), len(folded)
        together = folded[0]
        for one in folded[1:]:
            together = together.then(one)
        together = together.take(np.arange(paths * width).reshape(width, paths).T.ravel())
        starts = np.arange(paths) * width
        return function.result(function.fold(together, Slices(starts, starts + width - 1)))

    def _parts(self, reference: Reference) -> tuple[SliceFunction, Parts]:
        """What is folded, of all rows."""
        found = self._folds.get(reference)
        if found is None:
            bound = reference.aggregate
            assert bound is not None, "it is an aggregate"
            function = SliceFunction(bound)
            column = None if bound.column is None else plain(self._columns[bound.column])
            found = self._folds[reference] = function, function.parts(column, None, len(self))
        return found


def _folded(function: SliceFunction, parts: Parts, span: Span) -> Parts:
    """Fold a slice a path; no more rows are looked at than lie between the first and the last of them."""
    begins, counts = span
    some = counts > 0
    if not some.any():
        low, high = 0, 1
    else:
        low, high = int(begins[some].min()), int((begins + counts)[some].max())
    values = None if parts.values is None else parts.values.slice(low, high - low)
    starts = np.where(some, begins - low, 0)
    return function.fold(Parts(values, parts.counts[low:high]), Slices(starts, starts + np.where(some, counts, 0) - 1))


def _picked(spans: Sequence[Span], reference: Reference) -> Rows:
    """The row that is referred to in each path; -1: there is none."""
    rows = np.full(1, -1, np.int64)
    left = np.full(1, reference.offset, np.int64)
    for begins, counts in reversed(spans) if reference.from_end else spans:
        found = begins + (counts - 1 - left) if reference.from_end else begins + left
        rows = np.where((rows < 0) & (left < counts), found, rows)
        left = left - counts
    return rows


def _limits(groups: Rows, times_us: Rows, within_us: int) -> Rows:
    """Of each row the first row of its key, or the one behind them, that is too late for a match from here."""
    known, codes = np.unique(times_us, return_inverse=True)
    width = len(known) + 1
    late = groups * width + np.searchsorted(known, times_us + within_us, side="left")
    return np.searchsorted(groups * width + codes, late, side="left")


def _true(values: pa.Array) -> Mask:
    """Where a condition is true; null is not."""
    filled = values.fill_null(False) if values.null_count else values
    return np.asarray(filled.to_numpy(zero_copy_only=False), np.bool_)


def _no_spans(stage: int) -> Span:
    raise AssertionError(f"it depends on the row alone, not on variable {stage}")
