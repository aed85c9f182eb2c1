"""From Arrow batches to JSON records, by joining columns of text: no Python code a row."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.connectors.formats.json_columns import TimestampForm
from lakeward.engine.api.codec import Encoder
from lakeward.engine.core.errors import SchemaError

_CHUNK = 16_384
_MUST_ESCAPE = r'["\\\x00-\x1f]'


@dataclass(frozen=True, slots=True)
class JsonEncoder(Encoder):
    r"""Writes one JSON object a row. What it writes, the decoder of the same format reads back.

    Nulls are written as null; so are NaN and the infinities, for which JSON has no form. Points in time are ISO 8601
    text with a T, and a Z if the column has a time zone.

    >>> batch = pa.RecordBatch.from_pydict({"id": [1, None], "name": ["a", 'say "b"']})
    >>> JsonEncoder().encode(batch)
    [b'{"id":1,"name":"a"}', b'{"id":null,"name":"say \\"b\\""}']

    Args:
        timestamps: How points in time are written: "text", or "s", "ms", "us", "ns" since 1970 UTC.
        by_column: The same for single columns, by top-level name.
    """

    timestamps: TimestampForm = "text"
    by_column: Mapping[str, TimestampForm] = field(default_factory=dict)

    def encode(self, batch: pa.RecordBatch) -> list[bytes]:
        """One message for each row, in order.

        Raises:
            SchemaError: A column's type has no form in JSON.
        """
        if batch.num_columns == 0:
            return [b"{}"] * batch.num_rows
        messages: list[bytes] = []
        for start in range(0, batch.num_rows, _CHUNK):
            part = batch.slice(start, _CHUNK)
            names = part.schema.names
            forms = [self.by_column.get(name, self.timestamps) for name in names]
            texts = [_text(part.column(i), form) for i, form in enumerate(forms)]
            messages += _objects(names, texts).cast(pa.binary()).to_pylist()
        return messages


def _objects(names: list[str], texts: list[pa.Array]) -> pa.Array:
    """`{"a":..,"b":..}` from the columns' texts."""
    pieces: list[Any] = []
    for i, (name, text) in enumerate(zip(names, texts, strict=True)):
        pieces += [("{" if i == 0 else ",") + json.dumps(name, ensure_ascii=False) + ":", text]
    return pc.binary_join_element_wise(*pieces, "}", "")


def _text(array: pa.Array, form: TimestampForm) -> pa.Array:
    """JSON text of each value; "null" for nulls."""
    return pc.fill_null(_text_or_null(array, form), "null")


def _text_or_null(array: pa.Array, form: TimestampForm) -> pa.Array:
    t, kind = pa.types, array.type
    if t.is_dictionary(kind):
        return _text_or_null(array.cast(kind.value_type), form)
    if t.is_integer(kind) or t.is_boolean(kind) or t.is_decimal(kind):
        return array.cast(pa.string())
    if t.is_floating(kind):
        wide = array.cast(pa.float64()) if t.is_float16(kind) else array
        return pc.if_else(pc.is_finite(wide), wide.cast(pa.string()), None)
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return _escaped(array.cast(pa.string()))
    if t.is_timestamp(kind):
        return _moments(array, form)
    if t.is_date(kind) or t.is_time(kind):
        return _quoted(array.cast(pa.string()))
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind):
        encoded = [None if value is None else base64.b64encode(value).decode() for value in array.to_pylist()]
        return _quoted(pa.array(encoded, pa.string()))
    return _nested(array, form)


def _nested(array: pa.Array, form: TimestampForm) -> pa.Array:
    t, kind = pa.types, array.type
    if t.is_struct(kind):
        texts = [_text(array.field(i), form) for i in range(kind.num_fields)]
        whole = _objects([one.name for one in kind], texts) if texts else pa.array(["{}"] * len(array))
        return pc.if_else(array.is_valid(), whole, None)
    if t.is_map(kind):
        keys = _escaped(array.keys.cast(pa.string()))
        entries = pc.binary_join_element_wise(keys, _text(array.items, form), ":")
        return _wrapped("{", _joined(array, entries), "}")
    if t.is_list(kind) or t.is_large_list(kind):
        return _wrapped("[", _joined(array, _text(array.values, form)), "]")
    raise SchemaError(f"a column of type {kind} has no form in JSON", hint="cast it first, for example to a string")


def _joined(array: pa.Array, elements: pa.Array) -> pa.Array:
    """The elements' texts of each list with commas between, null where the list is null."""
    offsets = np.asarray(array.offsets).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), elements)
    return pc.if_else(array.is_valid(), pc.binary_join(lists, ","), None)


def _moments(array: pa.Array, form: TimestampForm) -> pa.Array:
    if form != "text":
        counted = array.cast(options=pc.CastOptions(target_type=pa.timestamp(form), allow_time_truncate=True))
        return counted.cast(pa.int64()).cast(pa.string())
    text = pc.binary_replace_slice(array.cast(pa.timestamp(array.type.unit)).cast(pa.string()), 10, 11, "T")
    return _wrapped('"', text, 'Z"') if array.type.tz else _quoted(text)


def _escaped(text: pa.Array) -> pa.Array:
    """Quoted, with a slower way for the few that hold quotes, backslashes or control characters."""
    quoted = _quoted(text)
    special = pc.fill_null(pc.match_substring_regex(text, _MUST_ESCAPE), False)
    if not pc.any(special).as_py():
        return quoted
    escaped = [json.dumps(value, ensure_ascii=False) for value in text.filter(special).to_pylist()]
    return pc.replace_with_mask(quoted, special, pa.array(escaped, pa.string()))


def _quoted(text: pa.Array) -> pa.Array:
    return _wrapped('"', text, '"')


def _wrapped(before: str, text: pa.Array, after: str) -> pa.Array:
    return pc.binary_join_element_wise(before, text, after, "")
