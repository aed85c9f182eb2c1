"""Aggregate functions over columns of state: count, sum, min, max, mean, first, last, count_distinct.

An aggregate keeps a few state columns a key (`ColumnSpec`), adds a batch to them by scatter at the keys' slots, merges
the columns of several panes into one, and turns them into a result column. Nulls follow SQL: they are skipped, and an
aggregate that saw nothing but nulls is null (a count is 0). What makes a value null is not kept with each row but
counted: every table has a `#rows` column, and an aggregate counts the nulls it skipped, a column that is only touched
by batches that have some.

The rules for single types:

- Integers are summed in int64; a sum that does not fit raises and never wraps around. Means are taken in float64.
- Decimals are summed exactly, in 32-bit limbs, up to 38 digits; their mean has 6 digits after the point,
  or their own scale.
- NaN is greater than every number, as in PostgreSQL and DuckDB: `max` is NaN if any value is, `min` only if all are. A
  sum with a NaN is NaN.
- Strings and bytes compare by their (UTF-8) bytes.
- `first` and `last` go by event time; among equal times by the order of arrival at the operator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.state import ColumnSpec, SlotArray
from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.operators.windows.columns import (
    InputColumn,
    Mask,
    Rows,
    Values,
    as_objects,
    decimal_array,
    group_rows,
    is_fixed,
    positions,
    storage_type,
    to_arrow,
    winners,
)

AGGREGATE_KINDS = ("count", "sum", "min", "max", "mean", "first", "last", "count_distinct")
ROWS = "#rows"
"""The state column that counts all rows of a key, whatever is aggregated."""

Fetch = Callable[[str], Values]
"""Gives a state column by name: `Pane.column`, or the columns of rows that were read from one."""

_INT64_MAX = 2**63 - 1
_MASK32 = 0xFFFFFFFF
_ROWS_MAX = 2**31  # beyond this many rows of one key a limb of a decimal sum could overflow
_LIMB_DIGITS_CHECK = 10**38 >> 96  # a top limb below this cannot belong to a number of more than 38 digits


@dataclass(frozen=True, slots=True)
class BoundAggregate:
    """One aggregate of an operator, with its types settled.

    Args:
        name: The output column.
        kind: One of `AGGREGATE_KINDS`.
        column: The input column; None for `count()` of rows.
        input_type: Its type; None for `count()` of rows.
        output_type: Type of the output column, from `aggregate_type`.
        label: How the user wrote the input, where it is not a column's name.
    """

    name: str
    kind: str
    column: str | None
    input_type: pa.DataType | None
    output_type: pa.DataType
    label: str = ""

    @property
    def input_name(self) -> str:
        """The input for a reader: the expression or the column."""
        return self.label or self.column or ""

    @property
    def field(self) -> pa.Field:
        """The output column; counts are never null."""
        return pa.field(self.name, self.output_type, nullable=not self.kind.startswith("count"))

    @property
    def description(self) -> str:
        """For `explain()`: "revenue=sum(amount)"."""
        return f"{self.name}={self.kind}({self.input_name})"


def aggregate_type(kind: str, input_type: pa.DataType | None, column: str = "") -> pa.DataType:
    """The result type of an aggregate.

    >>> aggregate_type("sum", pa.int32()), aggregate_type("mean", pa.int32())
    (DataType(int64), DataType(double))

    Args:
        kind: One of `AGGREGATE_KINDS`.
        input_type: Type of the input column; None for `count()` of rows.
        column: How the input is called in errors.

    Returns:
        The type of the output column.

    Raises:
        SchemaError: There is no such aggregate for this type; the text names column and type.
    """
    if kind in ("count", "count_distinct"):
        _check_distinct(kind, input_type, column)
        return pa.int64()
    if input_type is None:
        raise SchemaError(f"{kind}() needs a column", hint=f'write for example lw.{kind}("amount")')
    if pa.types.is_dictionary(input_type):
        input_type = input_type.value_type
    if kind in ("sum", "mean"):
        return _numeric_type(kind, input_type, column)
    if kind in ("first", "last") or (kind in ("min", "max") and _is_ordered(input_type)):
        return input_type
    if kind in AGGREGATE_KINDS:
        raise SchemaError(f"{kind} of column '{column}' of type {input_type}: its values have no order")
    raise SchemaError(f"there is no aggregate '{kind}'", hint=f"there are {', '.join(AGGREGATE_KINDS)}")


def _numeric_type(kind: str, input_type: pa.DataType, column: str) -> pa.DataType:
    if pa.types.is_decimal128(input_type):
        # A mean has no more digits before the point than its values: what is left of 38 goes behind it, up to 6.
        scale, whole = input_type.scale, input_type.precision - input_type.scale
        return pa.decimal128(38, scale if kind == "sum" else max(scale, min(6, 38 - whole)))
    if pa.types.is_integer(input_type):
        return pa.int64() if kind == "sum" else pa.float64()
    if pa.types.is_floating(input_type):
        return pa.float64()
    raise SchemaError(
        f"{kind} of column '{column}' of type {input_type}: only integers, floats and decimals can be added up",
        hint=f'cast it first, for example lw.{kind}(col("{column}").cast("float64"))',
    )


def _is_ordered(kind: pa.DataType) -> bool:
    return is_fixed(kind) or _is_text(kind) or bool(pa.types.is_decimal128(kind))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    )


def _check_distinct(kind: str, input_type: pa.DataType | None, column: str) -> None:
    if kind != "count_distinct":
        return
    if input_type is None:
        raise SchemaError("count_distinct() needs a column", hint='write for example lw.count_distinct("user")')
    if not pa.types.is_dictionary(input_type) and not _is_ordered(input_type):
        raise SchemaError(f"count_distinct of column '{column}' of type {input_type}: its values cannot be compared")


class AggregateFunction(ABC):
    """How one aggregate is kept. All its state is in the columns that it is handed.

    Args:
        bound: The aggregate.
    """

    def __init__(self, bound: BoundAggregate) -> None:
        self.bound = bound
        self._nulls = f"{bound.name}#nulls"

    @property
    @abstractmethod
    def fields(self) -> tuple[ColumnSpec, ...]:
        """State columns of its own, named after the output column."""

    @property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """All its state columns."""
        return (ColumnSpec(self._nulls, pa.int64(), 0), *self.fields)

    @abstractmethod
    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Add values, none of them null, at these slots (a slot may come many times)."""

    @abstractmethod
    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Add partial results: row i of `part` to row `ids[i]` of `into`."""

    @abstractmethod
    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The results; `counts` are the values seen, `valid` marks the rows that saw any (None: all did)."""

    def opened(self, empty: bool) -> None:  # noqa: B027 - a hook
        """Called once before anything else: whether the state starts empty, or was restored."""

    def update(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Add a batch, nulls included, at these slots."""
        rows, present = column.present()
        if rows is None:
            self.add(fetch, slots, present, times_us)
            return
        np.add.at(fetch(self._nulls), slots[~_given(column.valid)], 1)
        if len(rows):
            self.add(fetch, slots[rows], present, times_us[rows])

    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Add partial results of another pane: row i of `part` to row `ids[i]` of `into`."""
        np.add.at(into(self._nulls), ids, part(self._nulls))
        self.combine(into, ids, part)

    def result(self, fetch: Fetch) -> pa.Array:
        """The output column, one row a row of the state columns."""
        counts = fetch(ROWS) - fetch(self._nulls)
        valid: Mask = counts > 0
        return self.values(fetch, counts, None if valid.all() else valid)


def _given(valid: Mask | None) -> Mask:
    assert valid is not None, "a column without nulls has no rows to leave out"
    return valid


class CountRows(AggregateFunction):
    """`count()`: all rows, which every table counts anyway."""

    fields = ()
    columns = ()

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Nothing to add."""

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Nothing to add."""

    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Nothing to add."""

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The counts."""
        return pa.array(counts)

    def result(self, fetch: Fetch) -> pa.Array:
        """The counts."""
        return pa.array(fetch(ROWS))


class CountValues(AggregateFunction):
    """`count(x)`: rows less nulls."""

    fields = ()

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Nothing to add: rows and nulls are counted already."""

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Nothing to add."""

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The counts."""
        return pa.array(counts)


class _OneColumn(AggregateFunction):
    """Base of aggregates with a single state column."""

    part = ""

    @property
    def state(self) -> str:
        """Name of the state column."""
        return f"{self.bound.name}#{self.part}"

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The state column itself."""
        return to_arrow(fetch(self.state), self.bound.output_type, valid)


class SumIntegers(_OneColumn):
    """Sum of integers, exact: it fits int64 or raises.

    No sum can exceed the greatest value of each batch times its rows, added up over all batches. While that bound fits
    int64, nothing needs to be checked; state of unknown origin, and sums past the bound, are checked a batch at a time.
    """

    part = "sum"
    _bound = _INT64_MAX

    def opened(self, empty: bool) -> None:
        """Nothing is known of restored sums."""
        self._bound = 0 if empty else _INT64_MAX

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The sum."""
        return (ColumnSpec(self.state, pa.int64(), 0),)

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Scatter-add."""
        assert column.values is not None, "integers are fixed-width"
        sums, values = fetch(self.state), column.values
        self._bound += _reach(values)
        if self._bound > _INT64_MAX:
            self._check(sums, slots, values)
        np.add.at(sums, slots, values.astype(np.int64, copy=False))

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter-add; every row was counted in the bound when it came."""
        if self._bound > _INT64_MAX:
            self._check(into(self.state), ids, part(self.state))
        np.add.at(into(self.state), ids, part(self.state))

    def _check(self, sums: Values, slots: Rows, values: Values) -> None:
        """Raise if a total does not fit; totals that come near are added up in Python integers.

        Intermediate sums may wrap around: where the total fits, arithmetic modulo 2**64 arrives at it.
        """
        held = sums[slots]
        if _peak(held) + _reach(values) <= _INT64_MAX:
            return
        totals = {slot: int(sums[slot]) for slot in np.unique(slots).tolist()}
        for slot, value in zip(slots.tolist(), values.tolist(), strict=True):
            totals[slot] += value
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


class SumFloats(_OneColumn):
    """Sum of floats in float64, in the order of arrival."""

    part = "sum"

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The sum."""
        return (ColumnSpec(self.state, pa.float64(), 0.0),)

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Scatter-add."""
        assert column.values is not None, "numbers are fixed-width"
        with np.errstate(invalid="ignore"):  # inf - inf is NaN, and meant
            np.add.at(fetch(self.state), slots, column.values.astype(np.float64, copy=False))

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter-add."""
        with np.errstate(invalid="ignore"):
            np.add.at(into(self.state), ids, part(self.state))


class MeanFloats(SumFloats):
    """Mean of integers or floats: a float64 sum by the count."""

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """Sum by count."""
        return to_arrow(fetch(self.state) / np.maximum(counts, 1), self.bound.output_type, valid)


class SumDecimals(AggregateFunction):
    """Sum of decimals in 32-bit limbs, each in an int64 column that has room for the carries of 2**31 rows."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        assert bound.input_type is not None, "a sum has an input"
        limbs = 2 if bound.input_type.precision <= 18 else 4
        self._limbs = tuple(f"{bound.name}#limb{i}" for i in range(limbs))

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The limbs, lowest first; the top one is signed."""
        return tuple(ColumnSpec(limb, pa.int64(), 0) for limb in self._limbs)

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Scatter-add limb by limb."""
        assert column.values is not None, "decimals come as words"
        words = column.values[:, : len(self._limbs) // 2]
        for i, name in enumerate(self._limbs):
            limb = words[:, i // 2]
            top = i == len(self._limbs) - 1
            shifted = limb >> 32 if i % 2 else limb
            np.add.at(fetch(name), slots, shifted if top else shifted & _MASK32)

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


class ExtremeOfNumbers(_OneColumn):
    """Min or max of fixed-width values, and of decimals of up to 18 digits, by one scatter."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        self.part = bound.kind
        self._decimal = bool(pa.types.is_decimal(bound.output_type))
        self._kind = pa.int64() if self._decimal else storage_type(bound.output_type)
        # NaN is the greatest: maximum keeps it, and fmin only gives it where there is nothing else.
        floats = np.maximum if bound.kind == "max" else np.fmin
        self._ufunc = floats if pa.types.is_floating(self._kind) else getattr(np, f"{bound.kind}imum")

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The extreme so far; at first the one that any value replaces."""
        return (ColumnSpec(self.state, self._kind, _worst(self._kind, self.bound.kind == "max")),)

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Scatter."""
        assert column.values is not None, "numbers are fixed-width"
        values = np.ascontiguousarray(column.values[:, 0]) if self._decimal else column.values
        self._at(fetch(self.state), slots, values)

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Scatter; a part that saw no value holds the neutral one."""
        self._at(into(self.state), ids, part(self.state))

    def _at(self, state: Values, slots: Rows, values: Values) -> None:
        if state.dtype == np.bool_:
            state, values = state.view(np.uint8), values.view(np.uint8)
        with np.errstate(invalid="ignore"):  # comparing with NaN, and meant
            self._ufunc.at(state, slots, values)

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The extremes."""
        if not self._decimal:
            return super().values(fetch, counts, valid)
        low = fetch(self.state)
        return decimal_array(np.stack([low, low >> 63], axis=1), self.bound.output_type, valid)


def _worst(kind: pa.DataType, lowest: bool) -> Any:
    """The value that every other one replaces."""
    if pa.types.is_boolean(kind):
        return not lowest
    if pa.types.is_floating(kind):
        return -np.inf if lowest else np.nan
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min if lowest else limits.max)


class ExtremeOfObjects(_OneColumn):
    """Min or max of strings, bytes and long decimals: the best of a batch by sorting, then one comparison a key."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        self.part = bound.kind

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The extreme so far, None at first."""
        return (ColumnSpec(self.state, self.bound.output_type, None),)

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Sort the batch; compare its best with what is kept."""
        state, array = fetch(self.state), column.arrow()
        order = "ascending" if self.bound.kind == "max" else "descending"
        ranks = positions(pc.array_sort_indices(array, order=order).to_numpy().astype(np.int64))
        rows = winners(slots, ranks, len(state))
        self._keep(state, slots[rows], as_objects(array.take(pa.array(rows)).to_pylist()))

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """Compare row by row."""
        self._keep(into(self.state), ids, part(self.state))

    def _keep(self, state: Values, slots: Rows, values: Values) -> None:
        largest = self.bound.kind == "max"
        for slot, value in zip(slots.tolist(), values.tolist(), strict=True):
            held = state[slot]
            if value is not None and (held is None or (value > held if largest else value < held)):
                state[slot] = value


class FirstOrLast(AggregateFunction):
    """The value with the lowest or highest event time; among equals the first or last to arrive."""

    def __init__(self, bound: BoundAggregate) -> None:
        super().__init__(bound)
        self._last = bound.kind == "last"
        self._value, self._time = f"{bound.name}#value", f"{bound.name}#time"

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The value, and its event time in microseconds."""
        kind = storage_type(self.bound.output_type)
        value = ColumnSpec(self._value, kind, _zero(kind))
        return value, ColumnSpec(self._time, pa.int64(), -_INT64_MAX - 1 if self._last else _INT64_MAX)

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Find each key's winner of the batch, then compare its time with the one kept."""
        ranks = np.arange(len(times_us))
        if np.any(times_us[1:] < times_us[:-1]):
            ranks = positions(np.argsort(times_us, kind="stable"))
        if not self._last:
            ranks = len(ranks) - 1 - ranks
        rows = winners(slots, ranks, len(fetch(self._time)))
        rows = rows[self._wins(times_us[rows], fetch(self._time)[slots[rows]])]
        fetch(self._time)[slots[rows]] = times_us[rows]
        fetch(self._value)[slots[rows]] = self._plain(column, rows)

    def _wins(self, times_us: Rows, held_us: Rows) -> Mask:
        return times_us >= held_us if self._last else times_us < held_us

    def _plain(self, column: InputColumn, rows: Rows) -> Values:
        if column.values is not None and is_fixed(self.bound.output_type):
            return column.values[rows]
        return as_objects(column.arrow().take(pa.array(rows)).to_pylist())

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """As a batch that holds one row a partial result; panes must come in the order of time."""
        times_us = part(self._time)
        seen = np.flatnonzero(times_us != self.fields[1].default)
        ranks = positions(np.argsort(times_us[seen], kind="stable"))
        if not self._last:
            ranks = len(ranks) - 1 - ranks
        rows = seen[winners(ids[seen], ranks, len(into(self._time)))]
        rows = rows[self._wins(times_us[rows], into(self._time)[ids[rows]])]
        into(self._time)[ids[rows]] = times_us[rows]
        into(self._value)[ids[rows]] = part(self._value)[rows]

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The values."""
        return to_arrow(fetch(self._value), self.bound.output_type, valid)


def _zero(kind: pa.DataType) -> Any:
    if not is_fixed(kind):
        return None
    return False if pa.types.is_boolean(kind) else np.zeros(1, dtype=kind.to_pandas_dtype())[0].item()


class CountDistinct(_OneColumn):
    """Number of different values: a set of them for each key, kept as a list column.

    The set lies in the key's own row, not in a table keyed by key and value: such a row's key group would follow from
    the value as well, and it would not move with its key when the job is rescaled.
    """

    part = "values"

    @property
    def fields(self) -> tuple[ColumnSpec, ...]:
        """The values so far; None for none."""
        return (ColumnSpec(self.state, pa.list_(self._value_type), None),)

    @property
    def _value_type(self) -> pa.DataType:
        kind: Any = self.bound.input_type
        return storage_type(kind.value_type if pa.types.is_dictionary(kind) else kind)

    def add(self, fetch: Fetch, slots: SlotArray, column: InputColumn, times_us: Rows) -> None:
        """Reduce the batch to its different pairs of key and value; add those one by one."""
        state = fetch(self.state)
        values = column.arrow() if column.values is None or column.values.ndim == 2 else pa.array(column.values)
        _, firsts = group_rows([pa.array(slots), values])
        for slot, value in zip(slots[firsts].tolist(), values.take(pa.array(firsts)).to_pylist(), strict=True):
            _set_at(state, slot).add(value if value == value else math.nan)

    def combine(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        """The union."""
        state = into(self.state)
        for row, values in zip(ids.tolist(), part(self.state).tolist(), strict=True):
            if values is not None:
                _set_at(state, row).update(_as_set(values))

    def values(self, fetch: Fetch, counts: Rows, valid: Mask | None) -> pa.Array:
        """The sizes of the sets."""
        return pa.array([0 if v is None else len(v) for v in fetch(self.state).tolist()], type=pa.int64())


def _set_at(state: Values, slot: int) -> set[Any]:
    """The set at a slot, made from a list if it was just read from storage."""
    held = state[slot]
    if not isinstance(held, set):
        held = state[slot] = _as_set(held or ())
    return held


def _as_set(values: Iterable[Any]) -> set[Any]:
    """A set in which NaN, as one object, is in at most once."""
    return {value if value == value else math.nan for value in values}


def aggregate_function(bound: BoundAggregate) -> AggregateFunction:
    """The function that keeps an aggregate of this kind and type."""
    if bound.kind == "count":
        return CountRows(bound) if bound.column is None else CountValues(bound)
    if bound.kind == "count_distinct":
        return CountDistinct(bound)
    if bound.kind in ("first", "last"):
        return FirstOrLast(bound)
    if bound.kind in ("min", "max"):
        decimals = pa.types.is_decimal(bound.output_type) and bound.output_type.precision <= 18
        return (ExtremeOfNumbers if decimals or is_fixed(bound.output_type) else ExtremeOfObjects)(bound)
    if pa.types.is_decimal(bound.output_type):
        return (SumDecimals if bound.kind == "sum" else MeanDecimals)(bound)
    if bound.kind == "mean":
        return MeanFloats(bound)
    return (SumFloats if pa.types.is_floating(bound.output_type) else SumIntegers)(bound)
