"""Arrow types and schemas from Python types: dataclasses, TypedDicts, NamedTuples, annotations and type names.

Every column may hold nulls, whether its annotation says Optional or not: casts, outer joins and late decoding make
nulls anywhere, and a stream's schema must not change because of them.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa

from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.engine.core.expect import refusal

TIMESTAMP = pa.timestamp("us", tz="UTC")
"""The type of an instant: microseconds, UTC."""

DECIMAL = pa.decimal128(38, 9)
"""The type of a `decimal.Decimal` that says nothing more."""

_SCALARS: dict[Any, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    bytes: pa.binary(),
    datetime: TIMESTAMP,
    date: pa.date32(),
    time: pa.time64("us"),
    timedelta: pa.duration("us"),
    Decimal: DECIMAL,
    type(None): pa.null(),
}
_NAMES: dict[str, pa.DataType] = {
    "int": pa.int64(),
    "integer": pa.int64(),
    "bigint": pa.int64(),
    "long": pa.int64(),
    "float": pa.float64(),
    "str": pa.string(),
    "bytes": pa.binary(),
    "boolean": pa.bool_(),
    "timestamp": TIMESTAMP,
    "datetime": TIMESTAMP,
    "date": pa.date32(),
    "time": pa.time64("us"),
    "duration": pa.duration("us"),
    "timedelta": pa.duration("us"),
    "decimal": DECIMAL,
}
_DECIMAL_NAME = re.compile(r"(?:decimal|decimal128|numeric)\s*\(\s*(\d+)\s*,\s*(-?\d+)\s*\)")
_ZONED_NAME = re.compile(r"timestamp\[(s|ms|us|ns),\s*tz=([^\]]+)\]")
_TYPE_HINT = (
    "use int, float, str, bytes, bool, datetime, date, time, timedelta, Decimal, list[T], dict[K, V], T | None, "
    "a dataclass, TypedDict or NamedTuple, a pyarrow type, or Annotated[T, <pyarrow type>]"
)


def is_row_class(hint: object) -> bool:
    """Whether a class describes a row: a dataclass, TypedDict or NamedTuple.

    >>> class Point(typing.NamedTuple):
    ...     x: int
    >>> is_row_class(Point), is_row_class(int)
    (True, False)
    """
    if not isinstance(hint, type):
        return False
    return dataclasses.is_dataclass(hint) or typing.is_typeddict(hint) or is_named_tuple(hint)


def is_named_tuple(hint: object) -> bool:
    """Whether a class is a NamedTuple."""
    return isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields")


def row_fields(row_class: type) -> dict[str, Any]:
    """The fields of a dataclass, TypedDict or NamedTuple, in order, with their resolved annotations.

    Raises:
        SchemaError: An annotation cannot be evaluated: it names something that cannot be found, for example.
    """
    try:
        hints = typing.get_type_hints(row_class, include_extras=True)
    except Exception as error:  # whatever the code of an annotation may raise
        raise SchemaError(
            f"the annotations of {row_class.__qualname__} cannot be resolved: {error}",
            hint="define the class and the types it names at the top level of a module",
        ) from error
    if dataclasses.is_dataclass(row_class):
        return {field.name: hints[field.name] for field in dataclasses.fields(row_class) if field.init}
    return hints


def field_names(row_class: type) -> tuple[str, ...]:
    """The names of all fields of a dataclass or NamedTuple, in order.

    >>> class Point(typing.NamedTuple):
    ...     x: int
    >>> field_names(Point)
    ('x',)
    """
    if dataclasses.is_dataclass(row_class):
        return tuple(field.name for field in dataclasses.fields(row_class))
    fields: tuple[str, ...] = getattr(row_class, "_fields", ())
    return fields


def arrow_type(hint: Any, where: str = "") -> pa.DataType:
    """The Arrow type of a Python annotation, a type name or an Arrow type.

    >>> arrow_type(int), arrow_type(list[str]), arrow_type(float | None)
    (DataType(int64), ListType(list<item: string>), DataType(double))
    >>> arrow_type("decimal(10, 2)"), arrow_type("timestamp")
    (Decimal128Type(decimal128(10, 2)), TimestampType(timestamp[us, tz=UTC]))

    Args:
        hint: An annotation (`int`, `list[float]`, `datetime | None`, a dataclass for a struct), a name as pyarrow
            writes it ("int64", "timestamp[ms]") or as Python does ("int", "float", "datetime"), or a pyarrow type.
        where: What the type is for, for the error: "column 'price'".

    Returns:
        The type. Instants are microseconds UTC, decimals (38, 9) unless `Annotated[Decimal, pa.decimal128(p, s)]`.

    Raises:
        SchemaError: No Arrow type stands for it.
    """
    if isinstance(hint, pa.DataType):
        return hint
    if isinstance(hint, str):
        return _named_type(hint, where)
    if isinstance(hint, type) and hint in _SCALARS:
        return _SCALARS[hint]
    if is_row_class(hint):
        return pa.struct(list(schema_of(hint)))
    if isinstance(hint, Mapping):
        return pa.struct(list(schema_of(hint)))
    found = _generic_type(hint, where) if get_origin(hint) is not None else _scalar(hint)
    if found is None:
        raise SchemaError(f"{where + ': ' if where else ''}no Arrow type for {hint!r}", hint=_TYPE_HINT)
    return found


def _scalar(hint: Any) -> pa.DataType | None:
    try:
        return _SCALARS.get(hint)
    except TypeError:  # it has no hash: a list, for example
        return None


def schema_of(row_type: Any) -> pa.Schema:
    """The Arrow schema of a row description.

    >>> @dataclasses.dataclass
    ... class Order:
    ...     shop: str
    ...     amount: float | None
    >>> schema_of(Order)
    shop: string
    amount: double
    >>> schema_of({"shop": str, "at": "timestamp"})
    shop: string
    at: timestamp[us, tz=UTC]

    Args:
        row_type: A dataclass, TypedDict or NamedTuple class, a mapping of names to types (see `arrow_type`), or a
            pyarrow schema, which is returned as it is.

    Returns:
        The schema, its columns in the order of the fields, all of them nullable.

    Raises:
        SchemaError: It is none of these, is empty, has a column whose name is no text, or a field's type has no Arrow
            type.
    """
    if isinstance(row_type, pa.Schema):
        return row_type
    if isinstance(row_type, Mapping):
        name, fields = "the schema", dict(row_type)
    elif is_row_class(row_type):
        name, fields = row_type.__qualname__, row_fields(row_type)
    else:
        raise SchemaError(
            f"no schema can be made of {row_type!r}",
            hint="give a dataclass, TypedDict, NamedTuple, a pyarrow.Schema or a dict of column names to types",
        )
    if not fields:
        raise SchemaError(f"{name} has no columns")
    unnamed = [key for key in fields if not isinstance(key, str)]
    if unnamed:
        raise SchemaError(f"{name} has a column {unnamed[0]!r}", hint='a column\'s name is text: {"price": int}')
    return pa.schema([pa.field(key, arrow_type(kind, f"{name}: column {key!r}")) for key, kind in fields.items()])


SchemaLike: typing.TypeAlias = pa.Schema | type[Any] | Mapping[str, Any]
"""An Arrow schema, a dataclass, TypedDict or NamedTuple, or names with Arrow types, Python types or names of types."""


def given_schema(value: SchemaLike, what: str) -> pa.Schema:
    """The schema that a user gave as an argument.

    >>> given_schema({"name": str, "size": pa.int32()}, "FilesSource: schema").names
    ['name', 'size']

    Args:
        value: What was given.
        what: The argument, for the error.

    Raises:
        ConfigError: It describes no schema; names the user's line.
        SchemaError: It names a field twice, or a field's type has no Arrow type.
    """
    if not isinstance(value, pa.Schema | Mapping) and not is_row_class(value):
        hint = 'give a pyarrow schema, a dict of names to types ({"amount": int}), a dataclass or a TypedDict'
        raise refusal(value, what, hint)
    schema = schema_of(value)
    if len(set(schema.names)) != len(schema.names):
        raise SchemaError(f"{what} names a field twice: {schema.names}")
    return schema


def _named_type(name: str, where: str) -> pa.DataType:
    text = name.strip().lower()
    if text in _NAMES:
        return _NAMES[text]
    if match := _DECIMAL_NAME.fullmatch(text):
        return pa.decimal128(int(match[1]), int(match[2]))
    if match := _ZONED_NAME.fullmatch(name.strip()):
        return pa.timestamp(match[1], tz=match[2])
    try:
        return pa.type_for_alias(text)
    except ValueError as error:
        raise SchemaError(
            f"{where + ': ' if where else ''}no type is called {name!r}",
            hint='write for example "int64", "double", "string", "bool", "timestamp", "date" or "decimal(10, 2)"',
        ) from error


def _generic_type(hint: Any, where: str) -> pa.DataType | None:
    """The type of a subscripted annotation; None when it means nothing to Arrow."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        chosen = [extra for extra in args[1:] if isinstance(extra, pa.DataType)]
        return chosen[0] if chosen else arrow_type(args[0], where)
    if origin in _required_markers():
        return arrow_type(args[0], where)
    if origin is Literal:
        return _single({type(value) for value in args} - {type(None)}, where)
    if origin is Union or origin is types.UnionType:
        return _single(set(args) - {type(None)}, where)
    if origin is dict or origin is Mapping:
        return pa.map_(arrow_type(args[0], where), arrow_type(args[1], where))
    if origin in (list, Sequence, set, frozenset) or (origin is tuple and len(args) == 2 and args[1] is Ellipsis):
        return pa.list_(arrow_type(args[0], where))
    return None


def _single(choices: set[Any], where: str) -> pa.DataType | None:
    """The type of a union: of its only member beside None."""
    return arrow_type(next(iter(choices)), where) if len(choices) == 1 else None


def _required_markers() -> tuple[Any, ...]:
    return (typing.Required, typing.NotRequired, typing.Final)


def resolve_annotation(annotation: Any, scope: Mapping[str, Any], where: str) -> Any:
    """An annotation that may be text, evaluated where it was written.

    With `from __future__ import annotations` all are, and those that are quoted besides are text in text.

    Args:
        annotation: The raw annotation.
        scope: The names it may use.
        where: What it belongs to, for the error.

    Raises:
        GraphError: It cannot be evaluated: it names something that is not in scope, for example.
    """
    if not isinstance(annotation, str):
        return annotation
    names = {**vars(sys.modules["builtins"]), **scope}
    try:
        found = eval(annotation, names)
        return eval(found, names) if isinstance(found, str) else found
    except Exception as error:  # whatever the code of an annotation may raise
        raise GraphError(
            f"{where}: the annotation {annotation!r} cannot be resolved: {error}",
            hint="define the type at the top level of the module, or say the output's schema with returns=",
        ) from error
