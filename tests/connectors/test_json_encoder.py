"""JSON encoding: what is written is read back the same, and is JSON for anybody."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.connectors.formats.json import Json
from lakeward.engine.core.errors import SchemaError

SCHEMA = pa.schema(
    {
        "n": pa.int64(),
        "ratio": pa.float64(),
        "name": pa.string(),
        "raw": pa.binary(),
        "at": pa.timestamp("us", "UTC"),
        "day": pa.date32(),
        "exact": pa.decimal128(12, 3),
        "tags": pa.list_(pa.string()),
        "inner": pa.struct({"x": pa.int32(), "y": pa.list_(pa.timestamp("us", "UTC"))}),
        "scores": pa.map_(pa.string(), pa.bool_()),
    }
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001
ROWS = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**63), 2**63 - 1),
        "ratio": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "name": st.none() | TEXT,
        "raw": st.none() | st.binary(max_size=8),
        "at": st.none() | MOMENTS,
        "day": st.none() | st.dates(date(1, 1, 1)),
        "exact": st.none() | st.decimals(-(10**8), 10**8, places=3),
        "tags": st.none() | st.lists(st.none() | TEXT, max_size=3),
        "inner": st.none() | st.fixed_dictionaries({"x": st.integers(-5, 5), "y": st.lists(MOMENTS, max_size=2)}),
        "scores": st.none()
        | st.dictionaries(TEXT, st.none() | st.booleans(), max_size=3).map(lambda d: list(d.items())),
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, max_size=8))
def test_what_is_encoded_is_decoded_the_same(rows: list[dict[str, Any]]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
    messages = Json(SCHEMA).encoder().encode(batch)
    decoded = Json(SCHEMA).decoder().decode(messages)
    assert not decoded.bad
    assert decoded.batch.equals(batch)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_every_message_is_json_of_the_same_values(rows: list[dict[str, Any]]) -> None:
    messages = Json(SCHEMA).encoder().encode(pa.RecordBatch.from_pylist(rows, SCHEMA))
    for row, message in zip(rows, messages, strict=True):
        read = json.loads(message)
        assert list(read) == SCHEMA.names
        for name in ("n", "ratio", "name", "tags"):
            assert read[name] == row[name]


def test_a_sliced_batch_with_nested_columns_is_encoded_from_its_own_rows() -> None:
    batch = pa.RecordBatch.from_pydict(
        {"tags": [["a"], None, [], ["b", "c"]], "o": [{"x": 1}, None, {"x": 3}, {"x": 4}]}
    )
    assert Json(batch.schema).encoder().encode(batch.slice(1)) == [
        b'{"tags":null,"o":null}',
        b'{"tags":[],"o":{"x":3}}',
        b'{"tags":["b","c"],"o":{"x":4}}',
    ]


def test_numbers_that_json_has_no_form_for_become_null() -> None:
    batch = pa.RecordBatch.from_pydict({"x": [math.nan, math.inf, 1e300, -0.5]})
    assert [json.loads(m)["x"] for m in Json(batch.schema).encoder().encode(batch)] == [None, None, 1e300, -0.5]


@pytest.mark.parametrize(
    ("form", "written"), [("text", "2026-01-01T00:00:00.250000Z"), ("s", 1767225600), ("ms", 1767225600250)]
)
def test_times_are_written_as_the_format_says(form: Any, written: object) -> None:
    schema = pa.schema({"at": pa.timestamp("us", "UTC")})
    batch = pa.RecordBatch.from_pydict({"at": [datetime(2026, 1, 1, 0, 0, 0, 250_000, UTC)]}, schema=schema)
    assert json.loads(Json(schema, timestamps=form).encoder().encode(batch)[0]) == {"at": written}


def test_odd_column_types_are_written_or_refused_by_name() -> None:
    batch = pa.RecordBatch.from_arrays(
        [
            pa.array(["a", None]).dictionary_encode(),
            pa.array([Decimal("1.50"), None]),
            pa.array([1.5, None], pa.float16()),
            pa.array(["x", 'y"'], pa.large_string()),
        ],
        ["d", "e", "h", "l"],
    )
    assert Json({"d": pa.string()}).encoder().encode(batch) == [
        b'{"d":"a","e":1.50,"h":1.5,"l":"x"}',
        b'{"d":null,"e":null,"h":null,"l":"y\\""}',
    ]
    with pytest.raises(SchemaError, match="duration"):
        Json({"d": pa.string()}).encoder().encode(pa.RecordBatch.from_pydict({"d": pa.array([1], pa.duration("s"))}))


def test_a_batch_without_columns_is_empty_objects() -> None:
    batch = pa.RecordBatch.from_pydict({"a": [1, 2]}).select([])
    assert Json({"a": pa.int64()}).encoder().encode(batch) == [b"{}"] * batch.num_rows
