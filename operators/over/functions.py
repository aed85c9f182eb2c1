"""Aggregates over slices, and over what was carried on from earlier batches.

Each keeps a *part* a row: a value and how many values it stands for. Of an input row it is the row's own value, of a
slice their fold, and of all earlier rows of a key it can be carried on and put before the next ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.core.errors import RecordError
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.aggregates.sums import MeanDecimals, SumDecimals
from lakeward.operators.grouping import plain, plain_type
from lakeward.operators.over.slices import Slices
from lakeward.operators.ranking.order import SortColumn, sort_codes, sorted_rows
from lakeward.operators.windows.columns import Mask, Rows, Values, decimal_words, to_arrow, to_numpy

_LOW32 = np.int64(0xFFFFFFFF)
_COUNTS = ("count", "count_distinct")


@dataclass(frozen=True, slots=True)
class Parts:
    """Values, and how many each stands for.

    Args:
        values: Null where it stands for none; None: only counts matter.
        counts: How many.
    """

    values: pa.Array | None
    counts: Rows

    def take(self, rows: Rows) -> Parts:
        """Some of them."""
        return Parts(None if self.values is None else self.values.take(pa.array(rows)), self.counts[rows])

    def then(self, others: Parts) -> Parts:
        """These, and others behind them."""
        counts = np.concatenate([self.counts, others.counts])
        if self.values is None:
            return Parts(None, counts)
        return Parts(pa.concat_arrays([self.values, others.values]), counts)


class SliceFunction:
    """One aggregate.

    Args:
        bound: What is aggregated.
    """

    def __init__(self, bound: BoundAggregate) -> None:
        self.bound = bound

    @property
    def part_type(self) -> pa.DataType | None:
        """Type of the parts' values; None: there are none."""
        kind, given = self.bound.kind, self.bound.input_type
        if kind in _COUNTS:
            return None
        assert given is not None, "it has an input"
        given = plain_type(given)
        if kind not in ("sum", "mean"):
            return given
        if pa.types.is_decimal(given):
            return pa.decimal128(38, given.scale)
        return pa.float64() if kind == "mean" else self.bound.output_type

    def parts(self, column: pa.Array | None, holds: pa.Array | None, rows: int) -> Parts:
        """The parts of input rows.

        Args:
            column: The input; None for `count()`.
            holds: The condition; rows where it is not true do not count.
            rows: How many rows there are.
        """
        present = np.ones(rows, np.bool_)
        if column is not None and column.null_count:
            present = column.is_valid().to_numpy(zero_copy_only=False)
        if holds is not None:
            present = present & pc.fill_null(holds, False).to_numpy(zero_copy_only=False)
        if self.part_type is None or column is None:
            return Parts(None, present.astype(np.int64))
        values = self._lifted(plain(column))
        if not present.all():
            values = pc.if_else(pa.array(present), values, pa.scalar(None, values.type))
        return Parts(values, present.astype(np.int64))

    def _lifted(self, values: pa.Array) -> pa.Array:
        try:
            return values.cast(self.part_type)
        except pa.ArrowInvalid as error:
            raise self._too_great() from error

    def _too_great(self) -> RecordError:
        return RecordError(
            f"the {self.bound.kind} '{self.bound.name}' of {self.bound.input_name} does not fit {self.part_type}",
            hint="aggregate it as a float: cast the input to float64",
        )

    def fold(self, parts: Parts, slices: Slices) -> Parts:
        """The parts of slices."""
        counts = slices.counts(parts.counts)
        if parts.values is None:
            return Parts(None, counts)
        if self.bound.kind in ("sum", "mean"):
            return Parts(self._sums(parts, slices, counts > 0), counts)
        return Parts(parts.values.take(self._picked(parts, slices)), counts)

    def result(self, parts: Parts) -> pa.Array:
        """The output column."""
        if parts.values is None:
            return pa.array(parts.counts)
        if self.bound.kind != "mean":
            return parts.values.cast(self.bound.output_type)
        valid: Mask = parts.counts > 0
        if pa.types.is_decimal(parts.values.type):
            return self._decimals(MeanDecimals(self._wide), _limbs(parts.values), parts.counts, valid)
        means = to_numpy(parts.values) / np.maximum(parts.counts, 1)
        return to_arrow(means, self.bound.output_type, valid)

    def _picked(self, parts: Parts, slices: Slices) -> pa.Array:
        """Which row's value is that of each slice, of those that are picked and not computed; null: none."""
        wanted: Mask = parts.counts > 0
        if self.bound.kind == "first":
            rows = slices.first_of(wanted)
        elif self.bound.kind == "last":
            rows = slices.last_of(wanted)
        else:
            # NaN is the greatest number, for min and max alike; the first of equal values stands for all.
            order = SortColumn("", descending=self.bound.kind == "max")
            by_value = sorted_rows(np.zeros(len(wanted), np.int64), sort_codes([parts.values], (order,)))
            places = np.empty(len(by_value), np.int64)
            places[by_value] = np.arange(len(by_value))
            worst = len(places)
            best = slices.fold(np.where(wanted, places, worst), worst, np.minimum)
            rows = np.append(by_value, -1)[best]
        return pa.array(np.maximum(rows, 0), mask=rows < 0)

    def _sums(self, parts: Parts, slices: Slices, valid: Mask) -> pa.Array:
        values = parts.values
        kind = self.part_type
        assert values is not None, "sums have values"
        if pa.types.is_decimal(kind):
            limbs = [slices.fold(limb, 0, np.add) for limb in _limbs(values)]
            total = replace(self._wide, kind="sum", output_type=kind)
            return self._decimals(SumDecimals(total), limbs, slices.lengths, valid)
        numbers = to_numpy(pc.fill_null(values, 0))
        if pa.types.is_floating(kind):
            with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is NaN, and meant
                return to_arrow(slices.fold(numbers, 0.0, np.add), kind, valid)
        sums, too_great = slices.sums(numbers)
        if too_great.any():
            raise self._too_great()
        return to_arrow(sums, kind, valid)

    @property
    def _wide(self) -> BoundAggregate:
        """The aggregate of decimals as wide as their sums."""
        kind = self.part_type
        return replace(self.bound, input_type=kind)

    def _decimals(self, function: SumDecimals, limbs: Sequence[Values], counts: Rows, valid: Mask) -> pa.Array:
        named = dict(zip((spec.name for spec in function.fields), limbs, strict=True))
        return function.values(named.__getitem__, counts, valid)


def _limbs(values: pa.Array) -> list[Values]:
    """The four 32-bit limbs of 128-bit decimals, lowest first; the top one is signed, nulls are 0."""
    words = decimal_words(pc.fill_null(values, pa.scalar(0, values.type)))
    low, high = np.ascontiguousarray(words[:, 0]), np.ascontiguousarray(words[:, 1])
    return [low & _LOW32, (low >> 32) & _LOW32, high & _LOW32, high >> 32]


def previous_equal(groups: Rows, values: Rows, wanted: Mask) -> Rows:
    """The row before each with the same key and value; -1: there is none."""
    rows = np.flatnonzero(wanted)
    order = rows[np.lexsort((values[rows], groups[rows]))]
    previous = np.full(len(groups), -1, np.int64)
    same = (groups[order[1:]] == groups[order[:-1]]) & (values[order[1:]] == values[order[:-1]])
    previous[order[1:][same]] = order[:-1][same]
    return previous
