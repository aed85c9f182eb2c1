"""Rules of functions of structs, lists and maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types as pt

from lakeward.dsl.expressions.compiled import Compiled, apply, convert, kernel, mismatch, normal, unify
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.types import is_list, is_text
from lakeward.engine.core.errors import GraphError, SchemaError
from lakeward.engine.core.names import did_you_mean

Places = npt.NDArray[np.int64]


def spans(lists: pa.Array) -> tuple[Places, Places]:
    """Where the elements of each list begin in `lists.values`, and how many there are; none of a null."""
    if not len(lists):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    offsets = lists.offsets.to_numpy(zero_copy_only=False).astype(np.int64)
    sizes = np.diff(offsets)
    if lists.null_count:
        sizes[lists.is_null().to_numpy(zero_copy_only=False)] = 0
    return offsets[:-1], sizes


def element(lists: pa.Array, index: int) -> pa.Array:
    """One element of each list, counted from 0 or, when negative, from the end; null where there is none."""
    starts, sizes = spans(lists)
    inside = (sizes > index) if index >= 0 else (sizes >= -index)
    places = starts + index if index >= 0 else starts + sizes + index
    return lists.values.take(pa.array(np.where(inside, places, 0), mask=~inside))


def _list_arg(call: Call, arg: Compiled) -> Compiled:
    """A list of variable size."""
    if not is_list(arg.type):
        raise mismatch(call, [arg], f"{call.function.name}() takes lists")
    return convert(arg, pa.list_(arg.type.value_field)) if pt.is_fixed_size_list(arg.type) else arg


def _get(call: Call, args: Sequence[Compiled]) -> Compiled:
    (index,) = call.params
    return apply(call, lambda lists: element(lists, index), [_list_arg(call, args[0])])


def _length(call: Call, args: Sequence[Compiled]) -> Compiled:
    return apply(call, kernel("list_value_length"), [_list_arg(call, args[0])])


def _slice(call: Call, args: Sequence[Compiled]) -> Compiled:
    start, length = call.params
    if length is not None and length < 0:
        raise GraphError(f"list.slice: the length is negative: {length}")
    lists = _list_arg(call, args[0])
    make = pa.LargeListArray if pt.is_large_list(lists.type) else pa.ListArray

    def function(array: Any) -> pa.Array:
        starts, sizes = spans(array)
        first = np.minimum(sizes, start) if start >= 0 else np.maximum(sizes + start, 0)
        count = sizes - first if length is None else np.minimum(sizes - first, length)
        ends = np.cumsum(count)
        places = np.repeat(starts + first - ends + count, count) + np.arange(int(ends[-1]) if len(ends) else 0)
        offsets = pa.array(np.append(0, ends)).cast(pa.int64() if pt.is_large_list(array.type) else pa.int32())
        mask = array.is_null() if array.null_count else None
        return make.from_arrays(offsets, array.values.take(pa.array(places)), type=array.type, mask=mask)

    return apply(call, function, [lists])


def _same(elements: pa.Array, other: Any) -> pa.Array:
    """Where elements are the other, NaN being one value as in `is_in`."""
    equal = pc.equal(elements, other)
    return pc.or_(equal, pc.and_(pc.is_nan(elements), pc.is_nan(other))) if pt.is_floating(elements.type) else equal


def _contains(call: Call, args: Sequence[Compiled]) -> Compiled:
    lists = _list_arg(call, args[0])
    inside = normal(Compiled(lists.node, lists.type.value_type, lists.run))
    wanted = unify(call, [inside, args[1]])
    kind = wanted[0].type
    same = kernel("cast", pc.CastOptions(kind, allow_float_truncate=True))

    def function(array: Any, value: Any) -> pa.Array:
        if isinstance(array, pa.Scalar):
            array = pa.repeat(array, len(value))
        starts, sizes = spans(array)
        rows = np.repeat(np.arange(len(array)), sizes)
        places = np.repeat(starts - np.cumsum(sizes) + sizes, sizes) + np.arange(len(rows))
        elements = same(array.values.take(pa.array(places)))
        other = value if isinstance(value, pa.Scalar) else value.take(pa.array(rows))
        hits = _same(elements, other).fill_null(False).to_numpy(zero_copy_only=False)
        found = np.bincount(rows[hits], minlength=len(array)) > 0
        unknown = array.is_null() if isinstance(value, pa.Scalar) else pc.or_(array.is_null(), value.is_null())
        none = isinstance(value, pa.Scalar) and not value.is_valid
        mask = np.ones(len(array), np.bool_) if none else unknown.to_numpy(zero_copy_only=False)
        return pa.array(found, mask=mask)

    return apply(call, function, [lists, wanted[1]])


def _join(call: Call, args: Sequence[Compiled]) -> Compiled:
    lists = _list_arg(call, args[0])
    if not is_text(lists.type.value_type):
        raise mismatch(call, [lists], "list.join() takes lists of text")
    glue = pa.scalar(call.params[0], lists.type.value_type)
    join = kernel("binary_join")
    return apply(call, lambda array: join(array, glue), [lists])


LIST_GET = Function("list.get", Style.METHOD, _get)
LIST_LENGTH = Function("list.length", Style.METHOD, _length)
LIST_SLICE = Function("list.slice", Style.METHOD, _slice)
LIST_CONTAINS = Function("list.contains", Style.METHOD, _contains)
LIST_JOIN = Function("list.join", Style.METHOD, _join)


def _field(call: Call, args: Sequence[Compiled]) -> Compiled:
    (name,) = call.params
    kind = args[0].type
    if not pt.is_struct(kind):
        raise mismatch(call, args, "struct.field() takes structs")
    names = [field.name for field in kind]
    if name not in names:
        raise SchemaError(f"{args[0].node} has no field {name!r}", hint=did_you_mean(name, names))
    return apply(call, kernel("struct_field", pc.StructFieldOptions([names.index(name)])), args)


def _struct(call: Call, args: Sequence[Compiled]) -> Compiled:
    return apply(call, kernel("make_struct", pc.MakeStructOptions(list(call.params))), args)


STRUCT_FIELD = Function("struct.field", Style.METHOD, _field)
STRUCT = Function("struct", Style.FUNCTION, _struct)


def _map_arg(call: Call, arg: Compiled) -> Compiled:
    if not pt.is_map(arg.type):
        raise mismatch(call, [arg], f"{call.function.name}() takes maps", "a struct has fields: .struct.field(...)")
    return arg


def _entries(name: str) -> Function:
    """The keys or the items of each map, as lists."""

    def rule(call: Call, args: Sequence[Compiled]) -> Compiled:
        maps = _map_arg(call, args[0])

        def function(array: Any) -> pa.Array:
            starts, sizes = spans(array)
            ends = np.cumsum(sizes)
            places = np.repeat(starts - ends + sizes, sizes) + np.arange(int(ends[-1]) if len(ends) else 0)
            children = array.keys if name == "keys" else array.items
            offsets = pa.array(np.append(0, ends), pa.int32())
            mask = array.is_null() if array.null_count else None
            return pa.ListArray.from_arrays(offsets, children.take(pa.array(places)), mask=mask)

        return apply(call, function, [maps])

    return Function(f"map.{name}", Style.METHOD, rule)


def _lookup(call: Call, args: Sequence[Compiled]) -> Compiled:
    maps = _map_arg(call, args[0])
    key, kind = call.params[0], maps.type.key_type
    try:
        wanted = pa.scalar(key, kind)
    except (pa.ArrowException, TypeError) as error:
        raise mismatch(call, args, f"{key!r} is no key of type {kind}") from error
    return apply(call, kernel("map_lookup", pc.MapLookupOptions(wanted, "last")), [maps])


def _map_length(call: Call, args: Sequence[Compiled]) -> Compiled:
    maps = _map_arg(call, args[0])

    def function(array: Any) -> pa.Array:
        mask = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
        return pa.array(spans(array)[1].astype(np.int32), mask=mask)

    return apply(call, function, [maps])


MAP_GET = Function("map.get", Style.METHOD, _lookup)
MAP_KEYS, MAP_VALUES = _entries("keys"), _entries("values")
MAP_LENGTH = Function("map.length", Style.METHOD, _map_length)
