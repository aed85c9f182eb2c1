"""Rows of Python objects from Arrow batches and back, an order of magnitude faster than `to_pylist`.

Columns become lists first, times through numpy; rows are then built in chunks that stay in the cache, by a
comprehension generated for the schema (as `collections.namedtuple` does it). Results are taken apart by column again.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from itertools import repeat
from operator import attrgetter, itemgetter, sub
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import types as pt

from lakeward.engine.api.row_types import is_named_tuple, row_fields
from lakeward.engine.core.errors import RecordError, UserCodeError
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.core.plain import plain_value
from lakeward.engine.core.redaction import FailedRow
from lakeward.operators.aggregates.stored_types import with_parts
from lakeward.operators.row_values import field_makers, is_list, keys_left_out, matched_fields, or_none

CHUNK_ROWS = 512
"""Rows that are Python objects at one time; larger chunks fall out of the processor's cache."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_NAIVE = datetime(1970, 1, 1)  # noqa: DTZ001 (for columns without a time zone)
_RANGE_HINT = "Python has no datetime for it: filter such rows out by an expression before the function"


def column_to_list(column: pa.Array) -> list[Any]:
    """The values of a column as Python objects.

    >>> column_to_list(pa.array([0, None], pa.timestamp("us", "UTC")))
    [datetime.datetime(1970, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), None]

    Args:
        column: Of any type. Times come as `datetime`, aware if the column has a time zone; nanoseconds are cut off.
            Structs and maps come as dicts (maps whose keys are nested: as lists of pairs).

    Raises:
        RecordError: A time lies outside of the years 1 to 9999, or a map has a key twice.
    """
    kind = column.type
    if pt.is_timestamp(kind):
        return _times(column)
    if (coarser := _in_microseconds(kind)) != kind:
        column, kind = column.cast(coarser, safe=False), coarser
    if pt.is_date32(kind) or pt.is_duration(kind):
        return _by_numpy(column)
    if pt.is_dictionary(kind):
        return column_to_list(column.dictionary_decode())
    return _nested_to_list(column) if pt.is_nested(kind) else _plain_list(column)


@cache
def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    """The type with nanoseconds, also inside of it, as microseconds; as Python has no finer times."""
    if pt.is_timestamp(kind):
        return pa.timestamp("us", kind.tz) if kind.unit == "ns" else kind
    if kind in (pa.time64("ns"), pa.duration("ns")):
        return pa.time64("us") if pt.is_time64(kind) else pa.duration("us")
    try:
        return with_parts(kind, _in_microseconds)
    except TypeError:  # parts of no known kind
        return kind


def _plain_list(column: pa.Array, **options: str) -> list[Any]:
    values: list[Any] = column.to_pylist(**options)
    return values


def _nested_to_list(column: pa.Array) -> list[Any]:
    if not _keys_are_hashable(column.type):
        return _plain_list(column)
    try:
        return _plain_list(column, maps_as_pydicts="strict")
    except KeyError as error:
        raise RecordError(
            f"a map has a key twice: {error}", hint="a dict cannot hold both: drop one before the function"
        ) from error


def _keys_are_hashable(kind: pa.DataType) -> bool:
    """Whether all maps inside of a type can be dicts."""
    if pt.is_map(kind):
        return not pt.is_nested(kind.key_type) and _keys_are_hashable(kind.item_type)
    if is_list(kind):
        return _keys_are_hashable(kind.value_type)
    return not pt.is_struct(kind) or all(_keys_are_hashable(field.type) for field in kind)


def _by_numpy(column: pa.Array) -> list[Any]:
    values: npt.NDArray[Any] = column.to_numpy(zero_copy_only=False)
    if values.dtype == np.dtype("m8[ns]"):
        values = values.astype("m8[us]")
    objects: list[Any] = values.astype(object).tolist()
    return objects


def _times(column: pa.Array) -> list[Any]:
    """Durations since 1970 added to it: six times as fast as making each datetime from its fields."""
    kind = column.type
    ticks = column.view(pa.duration(kind.unit))
    since = _by_numpy(ticks)
    add = (_EPOCH_NAIVE if kind.tz is None else _EPOCH).__add__
    try:
        if column.null_count:
            times: list[Any] = [None if each is None else add(each) for each in since]
        else:
            times = list(map(add, since))
    except (OverflowError, TypeError) as error:
        raise RecordError(f"a time of type {kind} lies outside of the years 1 to 9999", hint=_RANGE_HINT) from error
    if kind.tz is None or kind.tz == "UTC":
        return times
    if kind.tz[0] in "+-":
        return _plain_list(column)
    zone = ZoneInfo(kind.tz)
    return [None if each is None else each.astimezone(zone) for each in times]


def list_to_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column from Python objects, strictly: no text for numbers, no numbers for text, no fractions for integers.

    >>> list_to_column([1, None], pa.int64()).to_pylist()
    [1, None]

    Raises:
        pyarrow.ArrowException: A value does not fit the type.
        TypeError: A value is of another kind (aware and naive times; a fraction where an integer is wanted).
    """
    if pt.is_timestamp(kind):
        return _time_column(values, kind)
    if code := _NUMBER_CODES.get(kind):
        return _number_column(values, kind, code)
    return pa.array([plain_value(value) for value in values] if pt.is_nested(kind) else values, kind)


_NUMBER_CODES = {
    pa.int8(): "b",
    pa.int16(): "h",
    pa.int32(): "i",
    pa.int64(): "q",
    pa.uint8(): "B",
    pa.uint16(): "H",
    pa.uint32(): "I",
    pa.uint64(): "Q",
    pa.float32(): "f",
    pa.float64(): "d",
}


def _number_column(values: Sequence[Any], kind: pa.DataType, code: str) -> pa.Array:
    """By the standard library's `array`, which is twice as fast as Arrow and as strict, but knows no null."""
    try:
        data = array(code, values)
    except TypeError:
        if pt.is_integer(kind):
            _check_integers(values)
        return pa.array(values, kind)
    return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)], 0)


def _check_integers(values: Sequence[Any]) -> None:
    """Arrow would cut fractions off."""
    for value in values:
        if isinstance(value, float | np.floating | Decimal):
            raise TypeError(f"{value!r} is no integer")


def _time_column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Naive times are taken to be UTC; plain numbers are refused."""
    start = _EPOCH if kind.tz is not None else _EPOCH_NAIVE
    try:
        since = pa.array(list(map(sub, values, repeat(start))), pa.duration("us"))
    except TypeError:
        since = pa.array([_since(value, start) for value in values], pa.duration("us"))
    return since.view(pa.timestamp("us", tz=kind.tz)).cast(kind)


def _since(value: Any, start: datetime) -> Any:
    if value is None:
        return None
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no datetime")
    if (value.tzinfo is None) != (start.tzinfo is None):
        value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    return value - start


class ColumnReader:
    """Reads some columns of batches as lists of Python values.

    >>> batch = pa.record_batch({"a": [1, 2], "b": ["x", None]})
    >>> list(ColumnReader(["b"]).chunks(batch))
    [([['x', None]], 2)]

    Args:
        columns: Their names.
        makers: What to make of the values of some, by the place in `columns`.
    """

    def __init__(self, columns: Sequence[str], makers: Mapping[int, Callable[[Any], Any]] | None = None) -> None:
        self.columns = columns
        self._makers = {index: or_none(maker) for index, maker in (makers or {}).items()}

    def chunks(self, batch: pa.RecordBatch) -> Iterator[tuple[list[list[Any]], int]]:
        """The values of each column, some hundred rows at a time, and how many."""
        columns = [batch.column(name) for name in self.columns]
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            size = min(CHUNK_ROWS, batch.num_rows - start)
            lists = [column_to_list(column.slice(start, size)) for column in columns]
            for index, make in self._makers.items():
                lists[index] = list(map(make, lists[index]))
            yield lists, size


class RowReader:
    """Makes rows of batches of one schema.

    >>> batch = pa.record_batch({"a": [1, 2], "b": ["x", None]})
    >>> list(RowReader(batch.schema).rows(batch))
    [{'a': 1, 'b': 'x'}, {'a': 2, 'b': None}]

    Args:
        schema: The batches' schema.
        row_class: A dataclass or NamedTuple to make rows of; columns that it has no field for are not read. A
            TypedDict, or None, for dicts of all columns; keys that are `NotRequired` and null are left out, unless the
            annotation admits None. What is inside of lists, maps and structs is made as annotated, too.

    Raises:
        SchemaError: A field without a default has no column, or the column has another type.
    """

    def __init__(self, schema: pa.Schema, row_class: type | None = None) -> None:
        have = dict(zip(schema.names, schema.types, strict=True))
        self.columns = list(schema.names)
        self._left_out: frozenset[str] = frozenset()
        by_index: dict[int, Callable[[Any], Any]] = {}
        if row_class is not None:
            names = matched_fields(row_class, have)
            makers = field_makers(row_class, names, have)
            if issubclass(row_class, dict):
                self._left_out = keys_left_out(row_class) & set(names)
            else:
                self.columns = names
            by_index = {self.columns.index(name): maker for name, maker in makers.items()}
        self._reader = ColumnReader(self.columns, by_index)
        if row_class is None or issubclass(row_class, dict):
            self._build = _dict_builder(self.columns)
        else:
            self._build = _class_builder(row_class, self.columns)

    def chunks(self, batch: pa.RecordBatch) -> Iterator[list[Any]]:
        """The rows of a batch, some hundred at a time."""
        for lists, size in self._reader.chunks(batch):
            rows = self._build(lists, size)
            for name in self._left_out:
                for row in rows:
                    if row[name] is None:
                        del row[name]
            yield rows

    def rows(self, batch: pa.RecordBatch) -> Iterator[Any]:
        """The rows of a batch, one by one."""
        for chunk in self.chunks(batch):
            yield from chunk


_Builder = Callable[[list[list[Any]], int], list[Any]]


def _dict_builder(names: Sequence[str]) -> _Builder:
    return _generated(f"{{{', '.join(f'{name!r}: v{index}' for index, name in enumerate(names))}}}", len(names), {})


def _class_builder(row_class: type, names: Sequence[str]) -> _Builder:
    arguments = ", ".join(f"{name}=v{index}" for index, name in enumerate(names))
    if _fields_in_order(row_class)[: len(names)] == list(names):
        arguments = ", ".join(f"v{index}" for index in range(len(names)))
    return _generated(f"row({arguments})", len(names), {"row": row_class})


def _fields_in_order(row_class: type) -> list[str]:
    """The names that may be given by position."""
    if dataclasses.is_dataclass(row_class):
        return [field.name for field in dataclasses.fields(row_class) if field.init and not field.kw_only]
    return list(row_fields(row_class))


def _generated(row: str, count: int, scope: dict[str, Any]) -> _Builder:
    """A function that makes `row` of the values v0, v1, ... of every row. Names enter the code as literals only."""
    names = "".join(f"v{index}, " for index in range(count))
    loop = f"for {names} in zip(*lists)" if count else "for _ in range(size)"
    builder: _Builder = eval(f"lambda lists, size: [{row} {loop}]", dict(scope))
    return builder


class RowWriter:
    """Makes batches of one schema from rows: dicts, dataclasses, NamedTuples, or tuples in the order of the columns.

    >>> writer = RowWriter(pa.schema({"a": pa.int64(), "b": pa.string()}), "rows")
    >>> writer.arrays([{"a": 1, "b": "x"}, {"a": 2, "b": None}])[1].to_pylist()
    ['x', None]

    Args:
        schema: The batches' schema.
        what: Where the rows come from, for errors: "the result of function 'f' (jobs/shop.py:12)".
        optional: Columns that a dict may lack; they are null then.
    """

    def __init__(self, schema: pa.Schema, what: str, optional: Collection[str] = ()) -> None:
        self.schema = schema
        self._optional = optional
        self._what = what
        self._names = list(schema.names)

    def arrays(self, rows: Sequence[Any]) -> list[pa.Array]:
        """The rows' columns.

        Raises:
            UserCodeError: A row is none, lacks a column, has one too many, or a value of another type.
        """
        lists = self._lists(rows)
        return [self._array(field, values) for field, values in zip(self.schema, lists, strict=True)]

    def batch(self, rows: Sequence[Any]) -> pa.RecordBatch:
        """The rows as one batch."""
        return pa.RecordBatch.from_arrays(self.arrays(rows), schema=self.schema)

    def _lists(self, rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
        if rows and type(rows[0]) is dict:
            try:
                return self._from_dicts(rows)
            except (TypeError, IndexError):
                pass  # not all of them are dicts: sorted out below
        classes = set(map(type, rows))
        if not classes:
            return [[] for _ in self._names]
        if len(classes) > 1:
            rows, classes = [self._as_dict(row) for row in rows], {dict}
        only = classes.pop()
        if issubclass(only, dict):
            return self._from_dicts(rows)
        if dataclasses.is_dataclass(only):
            self._check_names(only, [field.name for field in dataclasses.fields(only)])
            return [list(map(attrgetter(name), rows)) for name in self._names]
        if is_named_tuple(only):
            fields: tuple[str, ...] = only._fields  # type: ignore[attr-defined]
            if list(fields) == self._names:
                return self._from_tuples(rows)
            self._check_names(only, fields)
            return [list(map(attrgetter(name), rows)) for name in self._names]
        if issubclass(only, tuple):
            return self._from_tuples(rows)
        raise self._no_row(rows[0])

    def _from_dicts(self, rows: Sequence[Any]) -> list[list[Any]]:
        try:
            lists = [list(map(itemgetter(name), rows)) for name in self._names]
        except KeyError:
            lists = []
        if not lists or set(map(len, rows)) != {len(self._names)}:
            for row in rows:
                self._check_keys(row)
            return [[row.get(name) for row in rows] for name in self._names]
        return lists

    def _from_tuples(self, rows: Sequence[Any]) -> Sequence[Sequence[Any]]:
        width = len(self._names)
        try:
            columns = list(zip(*rows, strict=True))
        except ValueError:  # not all of one length
            columns = []
        if len(columns) == width:
            return columns
        wrong = next(row for row in rows if len(row) != width)
        raise UserCodeError(
            f"{self._what} has {len(wrong)} values, expected {width}",
            hint=f"the columns are {', '.join(self._names)}",
            rows=(_result(dict(zip(self._names, wrong, strict=False)) if len(wrong) < width else wrong),),
        )

    def _check_keys(self, row: Any) -> None:
        missing = [name for name in self._names if name not in row and name not in self._optional]
        if missing:
            raise UserCodeError(
                f"{self._what} lacks column {missing[0]!r}",
                hint="set it, to None where it has no value",
                rows=(_result(row),),
            )
        unknown = [name for name in row if name not in self._names]
        if unknown:
            raise UserCodeError(
                f"{self._what} has an unknown column {unknown[0]!r}",
                hint=did_you_mean(str(unknown[0]), self._names),
                rows=(_result(row),),
            )

    def _check_names(self, row_class: type, names: Sequence[str]) -> None:
        for name in self._names:
            if name not in names:
                raise UserCodeError(
                    f"{self._what} is a {row_class.__qualname__}, which has no field for column {name!r}",
                    hint=did_you_mean(name, names),
                )

    def _as_dict(self, row: Any) -> Any:
        """A row of a mixed lot."""
        if isinstance(row, dict):
            return row
        if dataclasses.is_dataclass(row) or is_named_tuple(type(row)) or isinstance(row, tuple):
            return {name: values[0] for name, values in zip(self._names, self._lists([row]), strict=True)}
        raise self._no_row(row)

    def _no_row(self, row: Any) -> UserCodeError:
        hint = "return a dict, a dataclass, a NamedTuple or a tuple of the columns"
        if row is None:
            hint = "every row must be answered; to leave rows out use filter, or flat_map with an empty list"
        return UserCodeError(f"{self._what} is no row", hint=hint, rows=(_result(row),))

    def _array(self, field: pa.Field, values: Sequence[Any]) -> pa.Array:
        try:
            column = list_to_column(values, field.type)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise self._misfit(field, values, error) from error
        if column.null_count and not field.nullable:
            raise UserCodeError(f"{self._what}: column {field.name!r} is None, but may not be null")
        return column

    def _misfit(self, field: pa.Field, values: Sequence[Any], error: Exception) -> UserCodeError:
        value = next((value for value in values if not fits(value, field.type)), None)
        return UserCodeError(
            f"{self._what}: column {field.name!r} is {field.type}, but got a value of type {type(value).__name__}",
            hint=f"{error}",
            rows=(_result({field.name: value}),),
        )


def fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a value can stand in a column of this type."""
    try:
        list_to_column([value], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True


def _result(value: Any) -> FailedRow:
    return FailedRow(value, label="result")
