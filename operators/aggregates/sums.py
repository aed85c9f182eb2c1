"""Sums and means."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec
from lakeward.engine.core.errors import RecordError
from lakeward.operators.aggregates.bound import BoundAggregate
from lakeward.operators.aggregates.function import AggregateFunction, OneColumn
from lakeward.operators.aggregates.lanes import Fetch, Given
from lakeward.operators.windows.columns import Mask, Rows, Values, decimal_array, to_arrow

_INT64_MAX = 2**63 - 1
_MASK32 = 0xFFFFFFFF
_ROWS_MAX = 2**31  # beyond this many rows of one key a limb of a decimal sum could overflow
_LIMB_DIGITS_CHECK = 10**38 >> 96  # a top limb below this cannot belong to a number of more than 38 digits


class SumIntegers(OneColumn):
    """Sum of integers, exact: it fits int64 or raises.

    No sum can exceed the greatest value of each batch times its rows, added up over all batches. While that bound fits
    int64, nothing needs to be checked; state of unknown origin, and sums past the bound, are checked a batch at a time.
    """

    part = "sum"
    additive = True
    _bound = _INT64_MAX

    def opened(self, empty: bool) -> None:
        """Nothing is known of restored sums."""
        self._bound = 0 if empty else _INT64_MAX

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The sum."""
        return (ColumnSpec(self.state, pa.int64(), 0),)

    def add(self, fetch: Fetch, given: Given) -> None:
        """Scatter-add."""
        assert given.column.values is not None, "integers are fixed-width"
        sums, values = fetch(self.state), given.column.values
        self._bound += _reach(values)
        if self._bound > _INT64_MAX:
            self._check(sums, given.slots, values, given.signs)
        words = values.astype(np.int64, copy=False)
        np.add.at(sums, given.slots, words if given.signs is None else words * given.signs)

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter-add; every row was counted in the bound when it came."""
        if self._bound > _INT64_MAX:
            self._check(into(self.state), ids, part(self.state), None)
        np.add.at(into(self.state), ids, part(self.state))

    def _check(self, sums: Values, slots: Rows, values: Values, signs: Rows | None) -> None:
        """Raise if a total does not fit; totals that come near are added up in Python integers.

        Intermediate sums may wrap around: where the total fits, arithmetic modulo 2**64 arrives at it.
        """
        held = sums[slots]
        if _peak(held) + _reach(values) <= _INT64_MAX:
            return
        totals = {slot: int(sums[slot]) for slot in np.unique(slots).tolist()}
        factors = [1] * len(slots) if signs is None else signs.tolist()
        for slot, value, factor in zip(slots.tolist(), values.tolist(), factors, strict=True):
            totals[slot] += value * factor
        if any(not -_INT64_MAX - 1 <= total <= _INT64_MAX for total in totals.values()):
            raise RecordError(
                f"the sum '{self.bound.name}' of {self.bound.input_name} does not fit int64",
                hint="sum it as a float: cast the input to float64",
            )


def _peak(values: Values) -> int:
    """The greatest absolute value."""
    return max(abs(int(values.min())), abs(int(values.max()))) if len(values) else 0


def _reach(values: Values) -> int:
    """How far adding these values can move a sum, in whatever order, wherever they go."""
    return _peak(values) * len(values)


class SumFloats(OneColumn):
    """Sum of floats in float64, in the order of arrival."""

    part = "sum"

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The sum."""
        return (ColumnSpec(self.state, pa.float64(), 0.0),)

    def add(self, fetch: Fetch, given: Given) -> None:
        """Scatter-add."""
        assert given.column.values is not None, "numbers are fixed-width"
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, and meant
            np.add.at(fetch(self.state), given.slots, given.column.values.astype(np.float64, copy=False))

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter-add."""
        with np.errstate(invalid="ignore"):
            np.add.at(into(self.state), ids, part(self.state))

    def totals(self, fetch: Fetch) -> Values:
        """The sums."""
        return fetch(self.state)

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The sums."""
        return to_arrow(self.totals(fetch), self.bound.output_type, valid)


class SumRetractableFloats(SumFloats):
    """Sum of floats that may be taken back: what no subtraction undoes (NaN, infinities) is counted apart.

    The sum of the finite values is exact up to rounding, and becomes 0 again when the last value has gone.
    """

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The sum of the finite values; how many others there are."""
        return (*super().fields, *(ColumnSpec(name, pa.int64(), 0) for name in self._specials))

    @property
    def _specials(self) -> tuple[str, str, str]:
        name = self.bound.name
        return f"{name}#nan", f"{name}#inf", f"{name}#-inf"

    def add(self, fetch: Fetch, given: Given) -> None:
        """Add or subtract the finite values; count the others."""
        assert given.column.values is not None, "numbers are fixed-width"
        values = given.column.values.astype(np.float64, copy=False)
        signs = np.ones(len(values), np.int64) if given.signs is None else given.signs
        finite = np.isfinite(values)
        sums = fetch(self.state)
        np.add.at(sums, given.slots[finite], values[finite] * signs[finite])
        if not finite.all():
            for name, mask in zip(self._specials, (np.isnan(values), values == np.inf, values == -np.inf), strict=True):
                np.add.at(fetch(name), given.slots[mask], signs[mask])
        if given.signs is not None:
            sums[self.lane.counts(fetch) <= 0] = 0.0

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter-add."""
        for spec in self.fields:
            np.add.at(into(spec.name), ids, part(spec.name))

    def totals(self, fetch: Fetch) -> Values:
        """The sums, of all values."""
        nan, above, below = (fetch(name) > 0 for name in self._specials)
        sums = np.where(above, np.inf, np.where(below, -np.inf, fetch(self.state)))
        sums[nan | (above & below)] = np.nan
        return sums


class MeanFloats(SumFloats):
    """Mean of integers or floats: a float64 sum by the count."""

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """Sum by count."""
        return to_arrow(self.totals(fetch) / np.maximum(counts, 1), self.bound.output_type, valid)


class MeanRetractableFloats(MeanFloats, SumRetractableFloats):
    """Mean of values that may be taken back."""


class SumDecimals(AggregateFunction):
    """Sum of decimals in 32-bit limbs, each in an int64 column that has room for the carries of 2**31 rows."""

    additive = True

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        assert bound.input_type is not None, "a sum has an input"
        limbs = 2 if bound.input_type.precision <= 18 else 4
        self._limbs = tuple(f"{bound.name}#limb{i}" for i in range(limbs))

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The limbs, lowest first; the top one is signed."""
        return tuple(ColumnSpec(limb, pa.int64(), 0) for limb in self._limbs)

    def add(self, fetch: Fetch, given: Given) -> None:
        """Scatter-add limb by limb; taking back subtracts every limb, and the carries sort it out."""
        assert given.column.values is not None, "decimals come as words"
        words = given.column.values[:, : len(self._limbs) // 2]
        for i, name in enumerate(self._limbs):
            limb = words[:, i // 2]
            top = i == len(self._limbs) - 1
            shifted = limb >> 32 if i % 2 else limb
            part = shifted if top else shifted & _MASK32
            np.add.at(fetch(name), given.slots, part if given.signs is None else part * given.signs)

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter-add limb by limb."""
        for name in self._limbs:
            np.add.at(into(name), ids, part(name))

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The limbs with their carries resolved, as 128-bit decimals."""
        if len(counts) and int(counts.max()) > _ROWS_MAX:
            raise self._overflow(f"has more than {_ROWS_MAX} rows for one key")
        limbs = [fetch(name) for name in self._limbs] + [np.zeros(len(counts), np.int64)] * (4 - len(self._limbs))
        carry: Values = np.zeros(len(counts), np.int64)
        for i in range(3):
            limbs[i] = limbs[i] + carry
            carry = limbs[i] >> 32
        top = limbs[3] + carry
        low = (limbs[0] & _MASK32) | (limbs[1] & _MASK32) << 32
        for row in np.flatnonzero(np.abs(top) >= _LIMB_DIGITS_CHECK).tolist():
            exact = (int(top[row]) << 96) + (int(limbs[2][row] & _MASK32) << 64) + (int(low[row]) % 2**64)
            if abs(exact) >= 10**38:
                raise self._overflow("does not fit 38 digits")
        high = (limbs[2] & _MASK32) | top << 32
        kind = pa.decimal128(38, self.bound.output_type.scale if self.bound.kind == "sum" else self._scale)
        return decimal_array(np.stack([low, high], axis=1), kind, valid)

    @property
    def _scale(self) -> int:
        assert self.bound.input_type is not None, "a sum has an input"
        return int(self.bound.input_type.scale)

    def _overflow(self, what: str) -> RecordError:
        bound = self.bound
        return RecordError(
            f"the {bound.kind} '{bound.name}' of {bound.input_name} {what}",
            hint="aggregate it as a float: cast the input to float64",
        )


class MeanDecimals(SumDecimals):
    """Mean of decimals, rounded half up."""

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """Exact sum by count, in Python decimals."""
        sums = super().values(fetch, counts, valid).to_pylist()
        exact = Context(prec=76, rounding=ROUND_HALF_UP)
        unit = Decimal(1).scaleb(-self.bound.output_type.scale)
        means = [
            None if total is None else exact.quantize(exact.divide(total, Decimal(count)), unit)
            for total, count in zip(sums, counts.tolist(), strict=True)
        ]
        return pa.array(means, type=self.bound.output_type)
