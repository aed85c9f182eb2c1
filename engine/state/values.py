"""Field values: which Arrow types become numpy columns, and how the others become bytes."""

from __future__ import annotations

import base64
import copy
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.json_types import Json

AnyArray = npt.NDArray[Any]
_Convert = Callable[[Any], Any]


def fixed_dtype(kind: pa.DataType) -> np.dtype[Any] | None:
    """The numpy type of a fixed-width Arrow type, None for one whose values are Python objects.

    >>> fixed_dtype(pa.timestamp("us")), fixed_dtype(pa.string())
    (dtype('int64'), None)
    """
    if pa.types.is_boolean(kind):
        return np.dtype(np.bool_)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return dtype
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return np.dtype(np.int32 if kind.bit_width == 32 else np.int64)
    return None


def default_value(kind: pa.DataType, default: Any) -> Any:
    """A column's default as it is stored: None is zero in a fixed-width column; temporal values become integers.

    Raises:
        SchemaError: The default is not a value of the type.
    """
    dtype = fixed_dtype(kind)
    if dtype is None:
        return default
    if default is None:
        return dtype.type(0)
    if pa.types.is_temporal(kind) and not isinstance(default, int | np.integer):
        default = pa.scalar(default, kind).value
    try:
        return np.array([default], dtype=dtype)[0]
    except (OverflowError, ValueError, TypeError) as error:
        raise SchemaError(f"{default!r} is not a value of type {kind}") from error


def to_arrow(values: AnyArray, kind: pa.DataType) -> pa.Array:
    """An Arrow array of a column's values."""
    if pa.types.is_temporal(kind) and values.dtype != object:
        return pa.array(values).view(kind)
    if values.dtype == object:
        return pa.array(values.tolist(), type=kind)
    return pa.array(values, type=kind)


def as_objects(values: list[Any]) -> AnyArray:
    """A list as an object array, whatever it holds (numpy would take lists of one length for more dimensions)."""
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects


def repeat_default(default: Any, count: int) -> AnyArray:
    """`count` defaults of an object column, each an object of its own if it can be changed in place."""
    values = np.empty(count, dtype=object)
    if isinstance(default, list | dict | set | bytearray):
        for row in range(count):
            values[row] = copy.deepcopy(default)
    else:
        values.fill(default)
    return values


def object_codec(kind: pa.DataType) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """How values of a type that has no numpy column are written and read: strings and bytes as they are, else JSON.

    >>> encode, decode = object_codec(pa.list_(pa.decimal128(6, 2)))
    >>> decode(encode([Decimal("1.50"), None]))
    [Decimal('1.50'), None]

    Raises:
        TypeError: State cannot hold this type.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return str.encode, bytes.decode
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return bytes, bytes
    to_json, from_json = _nullable(_json_codec(kind))
    return (lambda value: orjson.dumps(to_json(value))), (lambda raw: from_json(orjson.loads(raw)))


def _nullable(codec: tuple[_Convert, _Convert]) -> tuple[_Convert, _Convert]:
    encode, decode = codec
    return (lambda v: None if v is None else encode(v)), (lambda v: None if v is None else decode(v))


def _json_codec(kind: pa.DataType) -> tuple[_Convert, _Convert]:
    for matches, codec in _SCALAR_CODECS:
        if matches(kind):
            return codec
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return (lambda v: pa.scalar(v, kind).value), (lambda v: pa.scalar(v, width).cast(kind).as_py())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _list_codec(kind.value_type)
    if pa.types.is_struct(kind):
        return _struct_codec(kind)
    if pa.types.is_map(kind):
        return _map_codec(kind)
    raise TypeError(f"state cannot hold values of type {kind}")


def _float_to_json(value: Any) -> Json:
    return float(value) if math.isfinite(value) else repr(float(value))


_SCALAR_CODECS: tuple[tuple[Callable[[pa.DataType], bool], tuple[_Convert, _Convert]], ...] = (
    (pa.types.is_boolean, (bool, bool)),
    (pa.types.is_integer, (int, int)),
    (pa.types.is_floating, (_float_to_json, float)),
    (pa.types.is_string, (str, str)),
    (pa.types.is_large_string, (str, str)),
    (pa.types.is_decimal, (str, Decimal)),
    (pa.types.is_binary, (lambda v: base64.b64encode(v).decode(), base64.b64decode)),
    (pa.types.is_large_binary, (lambda v: base64.b64encode(v).decode(), base64.b64decode)),
    (pa.types.is_fixed_size_binary, (lambda v: base64.b64encode(v).decode(), base64.b64decode)),
)


def _list_codec(item: pa.DataType) -> tuple[_Convert, _Convert]:
    encode, decode = _nullable(_json_codec(item))
    return (lambda v: [encode(x) for x in v]), (lambda v: [decode(x) for x in v])


def _struct_codec(kind: pa.DataType) -> tuple[_Convert, _Convert]:
    fields = [(field.name, *_nullable(_json_codec(field.type))) for field in kind]
    return (
        lambda v: {name: encode(v.get(name)) for name, encode, _ in fields},
        lambda v: {name: decode(v.get(name)) for name, _, decode in fields},
    )


def _map_codec(kind: pa.DataType) -> tuple[_Convert, _Convert]:
    encode_key, decode_key = _json_codec(kind.key_type)
    encode, decode = _nullable(_json_codec(kind.item_type))

    def to_json(value: Any) -> Json:
        pairs = value.items() if isinstance(value, dict) else value
        return [[encode_key(k), encode(v)] for k, v in pairs]

    return to_json, lambda v: [(decode_key(k), decode(x)) for k, x in v]
