"""The plain types in which whole values, nested ones too, are kept as bytes."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.types as pt

from lakeward.operators.row_values import is_list


def without_dictionaries(kind: pa.DataType) -> pa.DataType:
    """The type with dictionaries, also inside of it, as their values.

    >>> without_dictionaries(pa.struct({"a": pa.dictionary(pa.int32(), pa.string())}))
    StructType(struct<a: string>)
    """
    if pt.is_dictionary(kind):
        return without_dictionaries(kind.value_type)
    return with_parts(kind, without_dictionaries)


def stored_type(kind: pa.DataType) -> pa.DataType | None:
    """The type that values are cast to, to be written as msgpack, and from to be given back; None: there is none.

    >>> stored_type(pa.struct({"at": pa.timestamp("us"), "price": pa.decimal128(9, 2)}))
    StructType(struct<at: int64, price: decimal128(9, 2)>)
    """
    if pt.is_temporal(kind) and not pt.is_interval(kind):
        return pa.int32() if kind.bit_width == 32 else pa.int64()
    if pt.is_nested(kind):
        try:
            return with_parts(kind, _stored_part)
        except TypeError:
            return None
    return pa.float32() if pt.is_float16(kind) else kind if _is_plain(kind) else None


def shape_of(stored: pa.DataType) -> Any:
    """What msgspec is to make of a value of a stored type: of maps pairs, of text decimals.

    >>> shape_of(pa.list_(pa.int64()))
    list[typing.Any] | None
    """
    if pt.is_struct(stored):
        fields = {field.name: shape_of(field.type) for field in stored}
        return TypedDict("Fields", fields, total=False) | None  # type: ignore[operator]
    if pt.is_map(stored):
        return list[tuple[shape_of(stored.key_type), shape_of(stored.item_type)]] | None  # type: ignore[misc]
    if is_list(stored):
        return list[shape_of(stored.value_type)] | None  # type: ignore[misc]
    return Decimal | None if pt.is_decimal(stored) else Any


def has_maps(kind: pa.DataType) -> bool:
    """Whether a type is a map, or has some inside of it."""
    return pt.is_map(kind) or any(has_maps(kind.field(index).type) for index in range(kind.num_fields))


def _is_plain(kind: pa.DataType) -> bool:
    tests: tuple[Callable[[pa.DataType], bool], ...] = (
        *(pt.is_boolean, pt.is_integer, pt.is_floating, pt.is_decimal, pt.is_null),
        *(pt.is_string, pt.is_large_string, pt.is_binary, pt.is_large_binary, pt.is_fixed_size_binary),
    )
    return any(test(kind) for test in tests)


def _stored_part(kind: pa.DataType) -> pa.DataType:
    stored = stored_type(kind)
    if stored is None:
        raise TypeError(f"{kind} cannot be stored")
    return stored


def with_parts(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A nested type with the types inside of it changed; others as they are."""
    if pt.is_struct(kind):
        return pa.struct([field.with_type(change(field.type)) for field in kind])
    if pt.is_map(kind):
        return pa.map_(change(kind.key_type), change(kind.item_type))
    if pt.is_fixed_size_list(kind):
        return pa.list_(change(kind.value_type), kind.list_size)
    if is_list(kind):
        return (pa.large_list if pt.is_large_list(kind) else pa.list_)(change(kind.value_type))
    if pt.is_nested(kind):
        raise TypeError(f"{kind} has parts of no known kind")
    return kind
