"""From Python values, as the JSON parser gives them, to Arrow columns, one builder a type.

A value that does not fit spoils only its own record: a column is built as a whole first, and cut in halves around what
fails when that does not work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any, Literal, Optional, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from msgspec.structs import astuple

from lakeward.connectors.formats.iso_times import TimeShape, looks_like_time
from lakeward.engine.core.errors import SchemaError

TimestampForm = Literal["text", "s", "ms", "us", "ns"]
"""How a point in time is written: ISO 8601 text, or a number since 1970 in this unit."""

Reasons = dict[int, str]
"""Why values do not fit, by their place; the column holds a null there."""

_LEAF = 16  # values that are built one by one when one of them does not fit
_LEAF_OF_CASTS = 256  # a cast costs as much as parsing a dozen texts in Python
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DOES_NOT_FIT = (pa.ArrowException, ValueError, TypeError, OverflowError, ArithmeticError)


class Column(Protocol):
    """Builds one Arrow column."""

    @property
    def type(self) -> pa.DataType:
        """The column's type."""
        ...

    @property
    def wire_type(self) -> Any:
        """What the parser is to expect: a type annotation for msgspec, without null."""
        ...

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """The column of `values` (None being null), and what does not fit."""
        ...


class IntColumn:
    """Integers of any width; the parser checks the range."""

    def __init__(self, type: pa.DataType) -> None:
        self._type = type
        self._numpy = type.to_pandas_dtype()
        self._nulls_seen = False

    @property
    def type(self) -> pa.DataType:
        """The column's type."""
        return self._type

    @property
    def wire_type(self) -> Any:
        """An integer within the type's range; the parser knows no bound above int64's, Arrow checks that one."""
        info = np.iinfo(self._numpy)
        low, high = int(info.min), int(info.max)
        return Annotated[int, msgspec.Meta(ge=low, le=high) if high < 2**63 else msgspec.Meta(ge=low)]

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """Through numpy, which is quicker but knows no null, until the first null shows up."""
        if not self._nulls_seen:
            try:
                return pa.array(np.fromiter(values, self._numpy, len(values))), {}
            except (TypeError, OverflowError):
                self._nulls_seen = None in values
        return build_each(lambda part: pa.array(part, self._type), values, self._type)


@dataclass(frozen=True, slots=True)
class PlainColumn:
    """Values that Arrow takes as they are: strings, booleans, floats, bytes, decimals."""

    type: pa.DataType
    wire_type: Any

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """Straight into Arrow."""
        return build_each(lambda part: pa.array(part, self.type), values, self.type)


@dataclass(frozen=True, slots=True)
class TextColumn:
    """Values written as text that Arrow can cast: dates, times of day, dictionaries of strings."""

    type: pa.DataType
    wire_type: Any = str

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """As strings, then one cast."""
        return self.build_text(pa.array(values, pa.string()))

    def build_text(self, text: pa.Array) -> tuple[pa.Array, Reasons]:
        """The column of strings that are in Arrow already."""
        cast = self._time_of_day if pa.types.is_time(self.type) else self._cast
        return build_each(cast, text, self.type)

    def _cast(self, text: pa.Array | list[str | None]) -> pa.Array:
        return _as_text(text).cast(self.type)

    def _time_of_day(self, text: pa.Array | list[str | None]) -> pa.Array:
        """Arrow casts no text to a time of day, but to a point in time, and that to its time of day."""
        moments = pc.binary_join_element_wise("1970-01-01", _as_text(text), " ")
        return moments.cast(pa.timestamp(self.type.unit)).cast(self.type)


class TimestampColumn:
    """ISO 8601 text with a blank or a T, with or without an offset (without: UTC), up to nanoseconds (cut off)."""

    def __init__(self, type: pa.DataType) -> None:
        self._type = type
        coarse = "ns" if type.unit == "ns" else "us"
        self._shapes = [
            (TimeShape(zoned, digits), pa.timestamp(unit, "UTC" if zoned else None))
            for unit, digits in ((coarse, range(7)), ("ns", range(7, 10)))
            for zoned in (False, True)
        ]
        self._form: pa.DataType | None = self._shapes[0][1]  # what all texts had lately

    @property
    def type(self) -> pa.DataType:
        """The column's type."""
        return self._type

    @property
    def wire_type(self) -> Any:
        """Text."""
        return str

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """By one cast while all texts have the same form. A cast of texts of another form is slow: it is not tried."""
        return self.build_text(pa.array(values, pa.string()))

    def build_text(self, text: pa.Array) -> tuple[pa.Array, Reasons]:
        """The column of strings that are in Arrow already."""
        if self._form is not None:
            try:
                return self.finish(text.cast(self._form)), {}
            except pa.ArrowInvalid:
                pass  # found out below, which
        return self._build_mixed(text)

    def _build_mixed(self, text: pa.Array) -> tuple[pa.Array, Reasons]:
        """What has one of the usual shapes is cast, a shape at a time; anything else is parsed in Python."""
        built, left = pa.nulls(len(text), self._type), np.asarray(text.is_valid())
        reasons: Reasons = {}
        seen = []
        for shape, form in self._shapes:
            fits = looks_like_time(text, shape)
            if fits.any():
                some = pc.if_else(pa.array(fits), text, None)
                caster, few = self._caster(form), self._parse_one_by_one
                part, found = build_each(caster, some, self._type, few, leaf=_LEAF_OF_CASTS)
                built, reasons, left = pc.coalesce(built, part), reasons | found, left & ~fits
                seen.append(form)
        self._form = seen[0] if len(seen) == 1 else None
        odd = np.flatnonzero(left)
        if len(odd):
            part, found = self._parse_one_by_one(text.take(pa.array(odd)))
            built = pc.replace_with_mask(built, pa.array(left), part)
            reasons |= {int(odd[place]): reason for place, reason in found.items()}
        return built, reasons

    def _caster(self, form: pa.DataType) -> Callable[[pa.Array], pa.Array]:
        return lambda part: self.finish(part.cast(form))

    def finish(self, parsed: pa.Array) -> pa.Array:
        """Moments of any unit as the column has them; what is finer is cut off."""
        return parsed.cast(options=pc.CastOptions(target_type=self._type, allow_time_truncate=True))

    def _parse_one_by_one(self, text: pa.Array) -> tuple[pa.Array, Reasons]:
        micros, reasons = convert_each(_micros, text.to_pylist())
        return self.finish(pa.array(micros, pa.timestamp("us", "UTC"))), reasons


@dataclass(frozen=True, slots=True)
class EpochColumn:
    """Points in time as numbers since 1970 UTC, whole or with a fraction."""

    type: pa.DataType
    unit: str
    wire_type: Any = int | float

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """Whole numbers at once, fractions one by one."""
        return build_each(self._whole, values, self.type, self._one_by_one)

    def _whole(self, values: list[int | None]) -> pa.Array:
        moments = pa.array(values, pa.int64()).cast(pa.timestamp(self.unit, "UTC"))
        return moments.cast(options=pc.CastOptions(target_type=self.type, allow_time_truncate=True))

    def _one_by_one(self, values: list[int | float | None]) -> tuple[pa.Array, Reasons]:
        factor = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}[self.unit]

        def whole(value: int | float) -> int | float:
            nanos = value * factor if isinstance(value, int) else round(value * factor)
            self._whole([nanos // factor])  # raises when it is out of range
            return nanos

        nanos, reasons = convert_each(whole, values)
        moments = pa.array([value if value is None else value // 1000 for value in nanos], pa.timestamp("us", "UTC"))
        return moments.cast(options=pc.CastOptions(target_type=self.type, allow_time_truncate=True)), reasons


@dataclass(frozen=True, slots=True)
class StructColumn:
    """An object with known fields; fields it does not know are passed over."""

    type: pa.DataType
    columns: tuple[Column, ...]
    wire_type: Any

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """Column by column; where the object is null, so are its fields."""
        blank = (None,) * len(self.columns)
        flat = list(chain.from_iterable(blank if value is None else astuple(value) for value in values))
        built = [c.build(flat[i :: len(self.columns)]) for i, c in enumerate(self.columns)]
        mask = pa.array([value is None for value in values], pa.bool_())
        reasons: Reasons = {}
        for one, (_, found) in zip(self.type, built, strict=True):
            reasons |= {place: f"{one.name}: {reason}" for place, reason in found.items()}
        return pa.StructArray.from_arrays([a for a, _ in built], fields=list(self.type), mask=mask), reasons


@dataclass(frozen=True, slots=True)
class ListColumn:
    """An array of values of one type."""

    type: pa.DataType
    element: Column
    wire_type: Any

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """All elements as one column, and where each array begins."""
        offsets, mask = _offsets(values)
        elements, found = self.element.build(list(chain.from_iterable(value for value in values if value)))
        kind = pa.LargeListArray if pa.types.is_large_list(self.type) else pa.ListArray
        built = kind.from_arrays(pa.array(offsets, kind_of_offset(self.type)), elements, type=self.type, mask=mask)
        return built, _reasons_of_parents(offsets, found)


@dataclass(frozen=True, slots=True)
class MapColumn:
    """An object with any keys, all values of one type."""

    type: pa.DataType
    item: Column
    wire_type: Any

    def build(self, values: list[Any]) -> tuple[pa.Array, Reasons]:
        """All keys and all values as two columns, and where each object begins."""
        offsets, mask = _offsets(values)
        keys = pa.array(list(chain.from_iterable(value for value in values if value)), self.type.key_type)
        items, found = self.item.build(list(chain.from_iterable(value.values() for value in values if value)))
        built = pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, type=self.type, mask=mask)
        return built, _reasons_of_parents(offsets, found)


def build_each(
    build: Callable[[Any], pa.Array],
    values: Any,
    type: pa.DataType,
    build_few: Callable[[Any], tuple[pa.Array, Reasons]] | None = None,
    leaf: int = _LEAF,
) -> tuple[pa.Array, Reasons]:
    """Build a column at once, or, if something in it does not fit, in halves around that.

    >>> build_each(lambda part: pa.array(part, pa.int8()), [1, 2, 300, None], pa.int8())[1]
    {2: 'Value 300 too large to fit in C integer type'}

    Args:
        build: Builds the column of some values; raises when one does not fit.
        values: A list or an Arrow array.
        type: The column's type.
        build_few: Builds a column of a few values one by one, with more patience, and says what does not fit; None:
            each by `build`.
        leaf: How many are a few.

    Returns:
        The column, null where a value does not fit, and the reasons by place.
    """
    try:
        return build(values), {}
    except _DOES_NOT_FIT:
        few = build_few or (lambda part: _build_singly(build, part, type))
        reasons: Reasons = {}
        return pa.concat_arrays(_build_halves(_Halving(build, few, leaf), values, 0, reasons)), reasons


def convert_each(convert: Callable[[Any], Any], values: Sequence[Any]) -> tuple[list[Any], Reasons]:
    """Apply a Python function to each value that is not null; null, with a reason, where it raises."""
    converted: list[Any] = []
    reasons: Reasons = {}
    for place, value in enumerate(values):
        try:
            converted.append(value if value is None else convert(value))
        except _DOES_NOT_FIT as error:
            converted.append(None)
            reasons[place] = str(error)
    return converted, reasons


@dataclass(frozen=True, slots=True)
class _Halving:
    build: Callable[[Any], pa.Array]
    build_few: Callable[[Any], tuple[pa.Array, Reasons]]
    leaf: int


def _build_halves(how: _Halving, values: Any, first: int, reasons: Reasons) -> list[pa.Array]:
    if len(values) <= how.leaf:
        built, found = how.build_few(values)
        reasons.update({first + place: reason for place, reason in found.items()})
        return [built]
    middle = len(values) // 2
    parts: list[pa.Array] = []
    for start, half in ((first, values[:middle]), (first + middle, values[middle:])):
        try:
            parts.append(how.build(half))
        except _DOES_NOT_FIT:
            parts += _build_halves(how, half, start, reasons)
    return parts


def _build_singly(build: Callable[[Any], pa.Array], values: list[Any], type: pa.DataType) -> tuple[pa.Array, Reasons]:
    parts, reasons = convert_each(lambda value: build([value]), values)
    return pa.concat_arrays([pa.nulls(1, type) if part is None else part for part in parts]), reasons


def _micros(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def _as_text(values: pa.Array | list[str | None]) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, pa.string())


def kind_of_offset(type: pa.DataType) -> pa.DataType:
    """The integer type of a list type's offsets."""
    return pa.int64() if pa.types.is_large_list(type) else pa.int32()


def _offsets(
    values: Sequence[Sequence[Any] | Mapping[str, Any] | None],
) -> tuple[npt.NDArray[np.int64], pa.Array | None]:
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([0 if value is None else len(value) for value in values], out=offsets[1:])
    return offsets, pa.array([value is None for value in values], pa.bool_())


def _reasons_of_parents(offsets: npt.NDArray[np.int64], found: Reasons) -> Reasons:
    return {int(np.searchsorted(offsets, place, side="right")) - 1: reason for place, reason in found.items()}


@dataclass(frozen=True, slots=True)
class ColumnFactory:
    """Finds the builder of a type.

    Args:
        timestamps: How points in time are written; the forms of single columns (by top-level name) win.
        by_column: Forms of single columns.
    """

    timestamps: TimestampForm = "text"
    by_column: Mapping[str, TimestampForm] = field(default_factory=dict)

    def column(self, name: str, type: pa.DataType) -> Column:
        """The builder for the column `name`; a nested name has its parent's form of timestamps.

        Raises:
            SchemaError: JSON has no form for this type.
        """
        made = _simple_column(type) or self._timestamp_column(name, type) or self._nested_column(name, type)
        if made is None:
            raise SchemaError(
                f"column '{name}' has type {type}, which has no form in JSON",
                hint="declare it as a string and convert it in the job",
            )
        return made

    def _timestamp_column(self, name: str, type: pa.DataType) -> Column | None:
        if not pa.types.is_timestamp(type):
            return None
        form = self.by_column.get(name.split(".")[0], self.timestamps)
        return TimestampColumn(type) if form == "text" else EpochColumn(type, form)

    def _nested_column(self, name: str, type: pa.DataType) -> Column | None:
        if pa.types.is_struct(type):
            columns = tuple(self.column(f"{name}.{one.name}", one.type) for one in type)
            return StructColumn(type, columns, row_type(list(type), columns))
        if pa.types.is_map(type) and pa.types.is_string(type.key_type):
            item = self.column(f"{name}.value", type.item_type)
            return MapColumn(type, item, dict[str, optional(item, type.item_field)])  # type: ignore[misc]
        if pa.types.is_list(type) or pa.types.is_large_list(type):
            element = self.column(f"{name}.element", type.value_type)
            return ListColumn(type, element, list[optional(element, type.value_field)])  # type: ignore[misc]
        return None


def _simple_column(type: pa.DataType) -> Column | None:
    t = pa.types
    if t.is_integer(type):
        return IntColumn(type)
    if t.is_date(type) or t.is_time(type) or (t.is_dictionary(type) and t.is_string(type.value_type)):
        return TextColumn(type)
    python: list[tuple[bool, Any]] = [
        (t.is_boolean(type), bool),
        (t.is_floating(type), float),
        (t.is_decimal(type), Decimal),
        (t.is_string(type) or t.is_large_string(type) or t.is_string_view(type), str),
        (t.is_binary(type) or t.is_large_binary(type) or t.is_fixed_size_binary(type), bytes),
    ]
    return next((PlainColumn(type, wire) for fits, wire in python if fits), None)


def optional(column: Column, one: pa.Field) -> Any:
    """The parser's type of a field: with null when the field may be null."""
    return Optional[column.wire_type] if one.nullable else column.wire_type  # noqa: UP045 - built from a value


def row_type(fields: Sequence[pa.Field], columns: Sequence[Column]) -> type[msgspec.Struct]:
    """The parser's type of an object with these fields: what may be null may also be missing.

    The fields are called f0, f1, ... inside, since names in JSON need not be identifiers. Without `gc`, rows are no
    burden to the garbage collector; they can't form cycles.
    """
    members: list[Any] = []
    for i, (one, column) in enumerate(zip(fields, columns, strict=True)):
        kind = optional(column, one)
        members.append((f"f{i}", kind, None) if one.nullable else (f"f{i}", kind))
    rename = {f"f{i}": one.name for i, one in enumerate(fields)}
    return msgspec.defstruct("Record", members, rename=rename, gc=False, kw_only=True)
