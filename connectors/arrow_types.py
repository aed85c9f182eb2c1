"""The Arrow types that batches have inside a job, and how rows from elsewhere are brought to them.

Timestamps are microseconds: with a zone they are instants and become UTC; naive ones stay naive. View types become the
plain ones, since state and hashing know only those.
"""

from __future__ import annotations

import pyarrow as pa


def inside_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column of type `kind` has inside a job.

    >>> inside_type(pa.timestamp("ns", tz="Europe/Berlin")), inside_type(pa.timestamp("s"))
    (TimestampType(timestamp[us, tz=UTC]), TimestampType(timestamp[us]))
    >>> inside_type(pa.list_(pa.timestamp("ms")))
    ListType(list<item: timestamp[us]>)
    """
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", tz="UTC" if kind.tz else None)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([_inside_field(kind.field(i)) for i in range(kind.num_fields)])
    if pa.types.is_list(kind):
        return pa.list_(_inside_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_inside_field(kind.value_field))
    return kind


def inside_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with every column's inside type; metadata of other systems is dropped."""
    return pa.schema([pa.field(f.name, inside_type(f.type), f.nullable) for f in schema])


def cast_column(column: pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Bring a column to `kind` without losing values, but for nanoseconds, which are cut to microseconds.

    Raises:
        pa.ArrowInvalid: A value does not fit.
        pa.ArrowNotImplementedError: The types have nothing to do with each other.
    """
    if column.type == kind:
        return column
    return column.cast(kind, safe=not _loses_nanoseconds(column.type))


def _loses_nanoseconds(kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind):
        return bool(kind.unit == "ns")
    return any(_loses_nanoseconds(kind.field(i).type) for i in range(kind.num_fields)) if kind.num_fields else False


def _inside_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, inside_type(field.type), field.nullable)
