"""Values of typed rows: what a column holds, as the annotation of its field says it.

Arrow knows structs, lists and maps. An annotation may say more: that a struct is a dataclass, a list a set, and that a
key of a TypedDict may be left out. `value_maker` bridges the two, at any depth.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, NotRequired, Required, Union, get_args, get_origin

import pyarrow as pa
from pyarrow import types as pt

from lakeward.engine.api.row_types import arrow_type, is_named_tuple, is_row_class, row_fields
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.names import did_you_mean
from lakeward.operators.grouping import plain_type

Maker = Callable[[Any], Any]
"""Makes a value that is not None."""

_COLLECTIONS: Mapping[Any, Callable[[Any], Any]] = {tuple: tuple, set: set, frozenset: frozenset}


def value_maker(hint: Any, kind: pa.DataType) -> Maker | None:
    """How to make a value of an annotation from one of an Arrow type; None if it is one as it comes.

    >>> class Point(typing.NamedTuple):
    ...     x: int
    >>> make = value_maker(list[Point | None], pa.list_(pa.struct({"x": pa.int64()})))
    >>> make([{"x": 1}, None]) if make else ...
    [Point(x=1), None]

    Args:
        hint: A resolved annotation.
        kind: The type of the column, or of the part of it; structs come as dicts, maps as dicts, lists as lists.

    Raises:
        SchemaError: A row class inside of it needs a field that the type has not, or has as another type.
    """
    hint = bare(hint)
    kind = plain_type(kind)
    if is_row_class(hint) and pt.is_struct(kind):
        return _row_maker(hint, {field.name: field.type for field in kind})
    args = get_args(hint)
    if pt.is_map(kind) and len(args) == 2:
        return _map_maker(value_maker(args[0], kind.key_type), value_maker(args[1], kind.item_type))
    if is_list(kind) and args:
        return _list_maker(_COLLECTIONS.get(get_origin(hint), list), value_maker(args[0], kind.value_type))
    return None


def _row_maker(row_class: type, have: Mapping[str, pa.DataType]) -> Maker | None:
    names = matched_fields(row_class, have)
    makers = field_makers(row_class, names, have)
    if issubclass(row_class, dict):
        left_out = keys_left_out(row_class)
        return _dict_maker(makers, left_out) if makers or left_out else None

    def make(value: dict[str, Any]) -> Any:
        arguments = {name: value[name] for name in names}
        for name, maker in makers.items():
            if arguments[name] is not None:
                arguments[name] = maker(arguments[name])
        return row_class(**arguments)

    return make


def _dict_maker(makers: Mapping[str, Maker], left_out: frozenset[str]) -> Maker:
    def make(value: dict[str, Any]) -> Any:
        changed = {name: maker(value[name]) for name, maker in makers.items() if value[name] is not None}
        return {k: v for k, v in {**value, **changed}.items() if v is not None or k not in left_out}

    return make


def _map_maker(key: Maker | None, item: Maker | None) -> Maker | None:
    if key is None and item is None:
        return None
    make_key, make_item = or_none(key), or_none(item)

    def make(value: Any) -> Any:
        pairs = value.items() if isinstance(value, dict) else value
        return {make_key(k): make_item(v) for k, v in pairs}

    return make


def _list_maker(collect: Callable[[Any], Any], element: Maker | None) -> Maker | None:
    if element is None:
        return None if collect is list else collect
    make_element = or_none(element)
    return lambda values: collect([make_element(value) for value in values])


def or_none(maker: Maker | None) -> Maker:
    """The maker for values of which some are None."""
    if maker is None:
        return lambda value: value
    return lambda value: None if value is None else maker(value)


def field_makers(row_class: type, names: list[str], have: Mapping[str, pa.DataType]) -> dict[str, Maker]:
    """The makers of those fields that need one."""
    hints = row_fields(row_class)
    makers = {name: value_maker(hints[name], have[name]) for name in names}
    return {name: maker for name, maker in makers.items() if maker is not None}


def matched_fields(row_class: type, have: Mapping[str, pa.DataType]) -> list[str]:
    """The fields of a row class that a schema or struct has, in the order of the class.

    Raises:
        SchemaError: One is missing that may not be, or has another type.
    """
    fields = row_fields(row_class)
    may_be_missing = fields_with_default(row_class)
    for name, hint in fields.items():
        if name in have:
            check_annotation(f"{row_class.__qualname__}.{name}", hint, have[name])
        elif name not in may_be_missing:
            raise SchemaError(
                f"{row_class.__qualname__}.{name}: the stream has no column {name!r}", hint=did_you_mean(name, have)
            )
    return [name for name in fields if name in have]


def fields_with_default(row_class: type) -> frozenset[str]:
    """The fields that need not be given: those with a default, and the keys that a TypedDict may lack."""
    if is_named_tuple(row_class):
        return frozenset(getattr(row_class, "_field_defaults", ()))
    if typing.is_typeddict(row_class):
        return optional_keys(row_class)
    missing = dataclasses.MISSING
    fields = dataclasses.fields(row_class)
    return frozenset(one.name for one in fields if one.default is not missing or one.default_factory is not missing)


def optional_keys(row_class: Any) -> frozenset[str]:
    """The keys that a TypedDict may lack: `NotRequired`, or all but the `Required` ones with `total=False`.

    >>> class Order(typing.TypedDict):
    ...     shop: str
    ...     note: NotRequired[str]
    >>> optional_keys(Order)
    frozenset({'note'})

    Returns:
        The keys; none for other classes.
    """
    if not typing.is_typeddict(row_class):
        return frozenset()
    # Where annotations are text, the class itself does not know which of its keys are marked.
    marks = {name: _required(hint) for name, hint in row_fields(row_class).items()}
    unmarked = row_class.__optional_keys__
    return frozenset(name for name, mark in marks.items() if mark is False or (mark is None and name in unmarked))


def keys_left_out(row_class: type) -> frozenset[str]:
    """The keys of a TypedDict for which null can only mean that they are not there."""
    hints = row_fields(row_class)
    return frozenset(name for name in optional_keys(row_class) if not _admits_none(hints[name]))


def _required(hint: Any) -> bool | None:
    """What a key's annotation says of its presence; None: nothing."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return {Required: True, NotRequired: False}.get(get_origin(hint))


def bare(hint: Any) -> Any:
    """An annotation without what says nothing of a value's type: Annotated, Required, Final, a union with None."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Annotated, Required, NotRequired, Final):
        return bare(args[0])
    others = [arg for arg in args if arg is not type(None)]
    return bare(others[0]) if origin in (Union, types.UnionType) and len(others) == 1 else hint


def _admits_none(hint: Any) -> bool:
    while get_origin(hint) in (Annotated, Required, NotRequired, Final):
        hint = get_args(hint)[0]
    return hint in (Any, None, type(None)) or type(None) in get_args(hint)


def check_annotation(what: str, hint: Any, kind: pa.DataType) -> None:
    """Refuse an annotation of quite another kind than its column (text for a number); widths do not matter in Python.

    Args:
        what: What is annotated, for the error.
        hint: The annotation, resolved.
        kind: The column's type.

    Raises:
        SchemaError: Names both.
    """
    try:
        wanted = arrow_type(hint)
    except SchemaError:
        return  # an annotation that means nothing to Arrow promises nothing: Any, a Protocol
    if not _fits(wanted, kind):
        said = hint.__name__ if isinstance(hint, type) else hint
        raise SchemaError(
            f"{what} is annotated {said}, but the column is {kind}",
            hint="change the annotation, or cast the column before",
        )


def _fits(wanted: pa.DataType, kind: pa.DataType) -> bool:
    """Whether values of a column are of the wanted kind; the fields of structs are matched one by one elsewhere."""
    if pt.is_null(kind):
        return True
    if pt.is_dictionary(kind):
        return _fits(wanted, kind.value_type)
    if is_list(wanted) and is_list(kind):
        return _fits(wanted.value_type, kind.value_type)
    if pt.is_map(wanted) and pt.is_map(kind):
        return _fits(wanted.key_type, kind.key_type) and _fits(wanted.item_type, kind.item_type)
    return _kind(wanted) == _kind(kind) or (pt.is_floating(wanted) and pt.is_integer(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether values of the type are lists, of whatever layout."""
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))


def _kind(kind: pa.DataType) -> str:
    """The Python type of a column's values, roughly."""
    tests: dict[str, Callable[[pa.DataType], bool]] = {
        "integer": pt.is_integer,
        "float": pt.is_floating,
        "decimal": pt.is_decimal,
        "string": lambda t: pt.is_string(t) or pt.is_large_string(t) or pt.is_string_view(t),
        "binary": lambda t: pt.is_binary(t) or pt.is_large_binary(t) or pt.is_fixed_size_binary(t),
        "date": pt.is_date,
        "time": pt.is_time,
        "timestamp": pt.is_timestamp,
        "duration": pt.is_duration,
    }
    return next((name for name, test in tests.items() if test(kind)), str(kind.id))
