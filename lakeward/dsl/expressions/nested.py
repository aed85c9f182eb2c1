"""Rules of struct and list functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.expressions.compiled import Compiled, apply, kernel, mismatch
from lakeward.dsl.expressions.nodes import Call, Function, Style
from lakeward.dsl.expressions.types import is_list
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.names import did_you_mean


def element(lists: pa.Array, index: int) -> pa.Array:
    """One element of each list, counted from 0 or, when negative, from the end; null where there is none."""
    lengths = pc.list_value_length(lists)
    if lists.null_count:
        lengths = lengths.fill_null(0)
    sizes = lengths.to_numpy(zero_copy_only=False).astype(np.int64)
    starts = lists.offsets.to_numpy(zero_copy_only=False)[:-1].astype(np.int64) if len(lists) else sizes
    inside = (sizes > index) if index >= 0 else (sizes >= -index)
    places = starts + index if index >= 0 else starts + sizes + index
    return lists.values.take(pa.array(np.where(inside, places, 0), mask=~inside))


def _get(call: Call, args: Sequence[Compiled]) -> Compiled:
    (arg,) = _list_arg(call, args)
    (index,) = call.params
    layout = pa.list_(arg.type.value_type)
    fixed = pa.types.is_fixed_size_list(arg.type)

    def function(array: Any) -> pa.Array:
        return element(array.cast(layout) if fixed else array, index)

    return apply(call, function, [arg])


def _length(call: Call, args: Sequence[Compiled]) -> Compiled:
    return apply(call, kernel("list_value_length"), _list_arg(call, args))


def _list_arg(call: Call, args: Sequence[Compiled]) -> Sequence[Compiled]:
    if not is_list(args[0].type):
        raise mismatch(call, args, f"{call.function.name}() takes lists")
    return args


def _field(call: Call, args: Sequence[Compiled]) -> Compiled:
    (name,) = call.params
    kind = args[0].type
    if not pa.types.is_struct(kind):
        raise mismatch(call, args, "struct.field() takes structs")
    names = [field.name for field in kind]
    if name not in names:
        raise SchemaError(f"{args[0].node} has no field {name!r}", hint=did_you_mean(name, names))
    return apply(call, kernel("struct_field", pc.StructFieldOptions([names.index(name)])), args)


LIST_GET = Function("list.get", Style.METHOD, _get)
LIST_LENGTH = Function("list.length", Style.METHOD, _length)
STRUCT_FIELD = Function("struct.field", Style.METHOD, _field)
