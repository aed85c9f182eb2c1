"""Arrow schemas and Iceberg schemas: making one from the other, and telling where they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pyarrow as pa
import pyarrow.types as pat
from pyiceberg import types as ice
from pyiceberg.schema import Schema

from lakeward.engine.core.errors import SchemaError

_FIELD_ID = b"PARQUET:field_id"
_DECIMAL_DIGITS_MAX = 38


class _UnsupportedError(Exception):
    """A column's Arrow type has no Iceberg type; args: column, type, what to do."""


def to_iceberg(schema: pa.Schema) -> Schema:
    """The Iceberg schema of new table for rows of this Arrow schema.

    int8/16/32 and uint8/16 become int; int64 and uint32 long; timestamps without time zone timestamp, with one
    timestamptz (both in microseconds); dictionaries their values; columns that are not nullable become required.

    Args:
        schema: The rows' schema.

    Returns:
        The schema, with field ids from 1.

    Raises:
        SchemaError: Columns have types that Iceberg lacks; names each one.
    """
    ids = count(1)
    fields, refused = [], []
    for field in schema:
        try:
            fields.append(_iceberg_field(field, field.name, ids))
        except _UnsupportedError as error:
            refused.append(error.args)
    if refused:
        columns = "; ".join(f"column '{name}' of type {kind}" for name, kind, _ in refused)
        raise SchemaError(f"Iceberg has no type for {columns}", hint="; ".join(dict.fromkeys(r[2] for r in refused)))
    return Schema(*fields)


def to_arrow(schema: Schema) -> pa.Schema:
    """The Arrow schema of data files: plain types, Iceberg's field ids as Parquet field ids."""
    return pa.schema([_arrow_field(field) for field in schema.fields])


def check_fits(stream: pa.Schema, table: Schema, name: str, *, nulls_for_missing: bool) -> None:
    """Refuse rows that a table cannot hold.

    A narrower type fits a wider one as Iceberg's own type promotion goes (int into long, float into double, a decimal
    into one with more digits); so does a timestamp without time zone into timestamptz, as UTC. Column order is free.

    Args:
        stream: The rows' schema.
        table: The table's.
        name: The table's name, for the text.
        nulls_for_missing: Whether optional columns that the rows lack are filled with nulls.

    Raises:
        SchemaError: Lists every column that is missing, extra, of another type, or null where it must not be.
    """
    problems = list(_differences(to_iceberg(stream).as_struct(), table.as_struct(), "", nulls_for_missing))
    if problems:
        raise SchemaError(
            f"rows do not fit the Iceberg table {name}: " + "; ".join(problems),
            hint="select, cast or rename columns before the sink, or change the table (update_schema in pyiceberg);"
            " nulls_for_missing=True fills missing optional columns",
        )


def _differences(stream: ice.StructType, table: ice.StructType, path: str, nulls_for_missing: bool) -> Iterator[str]:
    ours = {field.name: field for field in stream.fields}
    theirs = {field.name: field for field in table.fields}
    for name in theirs.keys() - ours.keys():
        if theirs[name].required or not nulls_for_missing:
            yield f"column '{path}{name}' ({theirs[name].field_type}) is missing from the rows"
    for name in ours.keys() - theirs.keys():
        yield f"column '{path}{name}' ({ours[name].field_type}) is not in the table"
    for name, field in ours.items():
        if name in theirs:
            yield from _field_differences(field, theirs[name], f"{path}{name}", nulls_for_missing)


def _field_differences(
    ours: ice.NestedField, theirs: ice.NestedField, path: str, nulls_for_missing: bool
) -> Iterator[str]:
    if theirs.required and ours.optional:
        yield f"column '{path}' may be null in the rows but is required in the table"
    yield from _type_differences(ours.field_type, theirs.field_type, path, nulls_for_missing)


def _type_differences(
    ours: ice.IcebergType, theirs: ice.IcebergType, path: str, nulls_for_missing: bool
) -> Iterator[str]:
    if isinstance(ours, ice.StructType) and isinstance(theirs, ice.StructType):
        yield from _differences(ours, theirs, f"{path}.", nulls_for_missing)
    elif isinstance(ours, ice.ListType) and isinstance(theirs, ice.ListType):
        yield from _field_differences(ours.element_field, theirs.element_field, f"{path}.element", nulls_for_missing)
    elif isinstance(ours, ice.MapType) and isinstance(theirs, ice.MapType):
        yield from _type_differences(ours.key_type, theirs.key_type, f"{path}.key", nulls_for_missing)
        yield from _field_differences(ours.value_field, theirs.value_field, f"{path}.value", nulls_for_missing)
    elif not _fits(ours, theirs):
        yield f"column '{path}' is {ours} in the rows but {theirs} in the table"


def _fits(ours: ice.IcebergType, theirs: ice.IcebergType) -> bool:
    if isinstance(ours, ice.DecimalType) and isinstance(theirs, ice.DecimalType):
        return ours.scale == theirs.scale and ours.precision <= theirs.precision
    return ours == theirs or (type(ours), type(theirs)) in _PROMOTIONS


_PROMOTIONS = {
    (ice.IntegerType, ice.LongType),
    (ice.FloatType, ice.DoubleType),
    (ice.TimestampType, ice.TimestamptzType),
}


def _iceberg_field(field: pa.Field, path: str, ids: Iterator[int]) -> ice.NestedField:
    number = next(ids)
    return ice.NestedField(number, field.name, _iceberg_type(field.type, path, ids), required=not field.nullable)


def _iceberg_type(kind: pa.DataType, path: str, ids: Iterator[int]) -> ice.IcebergType:
    for matches, made in _PRIMITIVES:
        if matches(kind):
            return made
    if pat.is_decimal(kind) and kind.precision <= _DECIMAL_DIGITS_MAX and 0 <= kind.scale <= kind.precision:
        return ice.DecimalType(kind.precision, kind.scale)
    if pat.is_fixed_size_binary(kind):
        return ice.FixedType(kind.byte_width)
    if pat.is_dictionary(kind):
        return _iceberg_type(kind.value_type, path, ids)
    return _nested_type(kind, path, ids)


def _nested_type(kind: pa.DataType, path: str, ids: Iterator[int]) -> ice.IcebergType:
    if pat.is_struct(kind):
        return ice.StructType(*[_iceberg_field(field, f"{path}.{field.name}", ids) for field in kind])
    if pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
        element = _iceberg_field(kind.value_field, f"{path}.element", ids)
        return ice.ListType(element.field_id, element.field_type, element.required)
    if pat.is_map(kind):
        key = _iceberg_field(kind.key_field, f"{path}.key", ids)
        value = _iceberg_field(kind.item_field, f"{path}.value", ids)
        return ice.MapType(key.field_id, key.field_type, value.field_id, value.field_type, value.required)
    raise _UnsupportedError(path, str(kind), _advice(kind))


def _advice(kind: pa.DataType) -> str:
    if pat.is_timestamp(kind) or pat.is_time(kind):
        return "cast nanoseconds to microseconds"
    if pat.is_uint64(kind):
        return "cast uint64 to int64 or decimal(20, 0)"
    if pat.is_null(kind):
        return "give a column of nulls a type with a cast"
    return "cast the column to a type that Iceberg has, or drop it"


def _is_zoned(kind: pa.DataType) -> bool:
    return pat.is_timestamp(kind) and kind.unit != "ns" and kind.tz is not None


def _is_zoneless(kind: pa.DataType) -> bool:
    return pat.is_timestamp(kind) and kind.unit != "ns" and kind.tz is None


def _is_int(kind: pa.DataType) -> bool:
    narrow = (pat.is_int8, pat.is_int16, pat.is_int32, pat.is_uint8, pat.is_uint16)
    return any(check(kind) for check in narrow)


_PRIMITIVES: list[tuple[Callable[[pa.DataType], bool], ice.IcebergType]] = [
    (pat.is_boolean, ice.BooleanType()),
    (_is_int, ice.IntegerType()),
    (lambda kind: pat.is_int64(kind) or pat.is_uint32(kind), ice.LongType()),
    (lambda kind: pat.is_float16(kind) or pat.is_float32(kind), ice.FloatType()),
    (pat.is_float64, ice.DoubleType()),
    (pat.is_date, ice.DateType()),
    (lambda kind: pat.is_time(kind) and kind.unit != "ns", ice.TimeType()),
    (_is_zoneless, ice.TimestampType()),
    (_is_zoned, ice.TimestamptzType()),
    (lambda kind: pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind), ice.StringType()),
    (lambda kind: pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind), ice.BinaryType()),
    (lambda kind: kind == pa.uuid(), ice.UUIDType()),
]

_ARROW: dict[type[ice.IcebergType], pa.DataType] = {
    ice.BooleanType: pa.bool_(),
    ice.IntegerType: pa.int32(),
    ice.LongType: pa.int64(),
    ice.FloatType: pa.float32(),
    ice.DoubleType: pa.float64(),
    ice.DateType: pa.date32(),
    ice.TimeType: pa.time64("us"),
    ice.TimestampType: pa.timestamp("us"),
    ice.TimestamptzType: pa.timestamp("us", tz="UTC"),
    ice.StringType: pa.string(),
    ice.BinaryType: pa.binary(),
    ice.UUIDType: pa.uuid(),
}


def _arrow_field(field: ice.NestedField, name: str | None = None) -> pa.Field:
    metadata = {_FIELD_ID: str(field.field_id).encode()}
    return pa.field(name or field.name, _arrow_type(field.field_type), nullable=field.optional, metadata=metadata)


def _arrow_type(kind: ice.IcebergType) -> pa.DataType:
    if isinstance(kind, ice.StructType):
        return pa.struct([_arrow_field(field) for field in kind.fields])
    if isinstance(kind, ice.ListType):
        return pa.list_(_arrow_field(kind.element_field, "element"))
    if isinstance(kind, ice.MapType):
        return pa.map_(_arrow_field(kind.key_field, "key"), _arrow_field(kind.value_field, "value"))
    if isinstance(kind, ice.DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    if isinstance(kind, ice.FixedType):
        return pa.binary(len(kind))
    if type(kind) not in _ARROW:
        raise SchemaError(
            f"the table has a column of type {kind}, which the Iceberg sink cannot write",
            hint="write to a table without it",
        )
    return _ARROW[type(kind)]
