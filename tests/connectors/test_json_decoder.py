"""JSON decoding: types, bad records told apart, and the odd payloads that decoders disagree on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.connectors.formats.json import Json
from lakeward.engine.core.errors import ConfigError, SchemaError

BID = pa.schema(
    {
        "auction": pa.int64(),
        "price": pa.int32(),
        "channel": pa.string(),
        "at": pa.timestamp("us", "UTC"),
    }
)
GOOD = b'{"auction": 1, "price": 2, "channel": "web", "at": "2026-01-01 00:00:00.123"}'
GOOD_ROW = {"auction": 1, "price": 2, "channel": "web", "at": datetime(2026, 1, 1, 0, 0, 0, 123_000, UTC)}


def decode(schema: Any, *messages: bytes | None, **options: Any) -> tuple[list[dict[str, Any]], dict[int, str]]:
    decoded = Json(schema, **options).decoder().decode(messages)
    assert decoded.batch.num_rows + len(decoded.bad) == len(messages)
    good = [i for i in range(len(messages)) if i not in {bad.index for bad in decoded.bad}]
    assert (list(range(len(messages))) if decoded.rows is None else decoded.rows.tolist()) == good
    return decoded.batch.to_pylist(), {bad.index: bad.reason for bad in decoded.bad}


BAD = {
    "truncated": GOOD[:20],
    "not JSON": b"hello",
    "two objects": GOOD + GOOD,
    "two objects on two lines": GOOD + b"\n" + GOOD,
    "empty": b"",
    "blank": b"  \n",
    "top-level null": b"null",
    "top-level array": b"[" + GOOD + b"]",
    "top-level number": b"17",
    "text for a number": GOOD.replace(b"1,", b'"1",', 1),
    "word for a number": GOOD.replace(b"1,", b'"abc",', 1),
    "fraction for an integer": GOOD.replace(b"1,", b"1.5,", 1),
    "2 to the 63": GOOD.replace(b"1,", b"9223372036854775808,", 1),
    "1e30": GOOD.replace(b"1,", b"1e30,", 1),
    "too large for int32": GOOD.replace(b"2,", b"2147483648,", 1),
    "number for text": GOOD.replace(b'"web"', b"3"),
    "object for text": GOOD.replace(b'"web"', b"{}"),
    "true for a number": GOOD.replace(b"1,", b"true,", 1),
    "lone surrogate": GOOD.replace(b"web", b"\\ud83d"),
    "invalid UTF-8": GOOD.replace(b"web", b"\xff\xfe"),
    "NaN": GOOD.replace(b"1,", b"NaN,", 1),
    "no such month": GOOD.replace(b"2026-01", b"2026-13"),
    "no such day": GOOD.replace(b"2026-01-01", b"2026-02-30"),
    "word for a time": GOOD.replace(b"2026-01-01 00:00:00.123", b"yesterday"),
    "number for a time": GOOD.replace(b'"2026-01-01 00:00:00.123"', b"1767225600"),
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD.keys())
def test_a_bad_record_hits_only_itself(payload: bytes) -> None:
    rows, bad = decode(BID, GOOD, payload, GOOD)
    assert rows == [GOOD_ROW, GOOD_ROW]
    assert list(bad) == [1]
    assert bad[1]


@pytest.mark.parametrize(
    ("payload", "difference"),
    [
        (GOOD.replace(b'"price": 2, ', b""), {"price": None}),
        (GOOD.replace(b"2,", b"null,"), {"price": None}),
        (b"{}", dict.fromkeys(GOOD_ROW)),
        (GOOD.replace(b"{", b'{"more": [1, {"x": null}], "late": "\\u00e9", ', 1), {}),
        (GOOD.replace(b", ", b",\n  "), {}),
        (GOOD + b"\n", {}),
        (GOOD.replace(b"{", b'{"auction": 7, ', 1), {}),  # a name twice: the last counts
        (GOOD.replace(b"1,", b"9223372036854775807,", 1), {"auction": 2**63 - 1}),
        (GOOD.replace(b"web", b"\\ud83d\\ude00\\u0000"), {"channel": "\U0001f600\0"}),
    ],
)
def test_unusual_but_valid_records_are_rows(payload: bytes, difference: dict[str, Any]) -> None:
    assert decode(BID, payload) == ([GOOD_ROW | difference], {})


def test_tombstones_are_rows_of_nulls_where_every_field_may_be_null() -> None:
    assert decode(BID, None, GOOD) == ([dict.fromkeys(GOOD_ROW), GOOD_ROW], {})


def test_fields_that_cannot_be_null_make_records_without_them_bad() -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("name", pa.string())])
    rows, bad = decode(schema, b'{"id": 1}', b'{"name": "a"}', b'{"id": null}', None)
    assert rows == [{"id": 1, "name": None}]
    assert sorted(bad) == [1, 2, 3]
    assert "missing required field `id`" in bad[1]


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01 00:00:01", 1_000_000),
        ("1970-01-01T00:00:01.5", 1_500_000),
        ("1970-01-01T00:00:01.123456Z", 1_123_456),
        ("1970-01-01T00:00:01.123456789Z", 1_123_456),
        ("1970-01-01 00:00:01.123456789", 1_123_456),
        ("1970-01-01T02:00:01+02:00", 1_000_000),
        ("1970-01-01T02:00:01.25+0200", 1_250_000),
        ("1969-12-31T23:59:59.999Z", -1000),
        ("1970-01-02", 86_400_000_000),
    ],
)
def test_times_may_be_written_in_any_usual_form(text: str, micros: int) -> None:
    schema = pa.schema({"at": pa.timestamp("us", "UTC")})
    usual = b'{"at": "1970-01-01 00:00:00.000"}'
    batch = Json(schema).decoder().decode([usual, b'{"at": "%s"}' % text.encode(), usual]).batch
    assert batch.column("at").cast(pa.int64()).to_pylist() == [0, micros, 0]


def test_times_without_a_zone_and_in_seconds_keep_their_type() -> None:
    schema = pa.schema({"s": pa.timestamp("s"), "ns": pa.timestamp("ns")})
    batch = (
        Json(schema)
        .decoder()
        .decode([b'{"s": "2026-01-01T00:00:00.999Z", "ns": "2026-01-01 00:00:00.123456789"}'])
        .batch
    )
    assert batch.schema == schema
    assert batch.column("s").to_pylist() == [datetime(2026, 1, 1)]  # noqa: DTZ001 - the column has no zone
    assert str(batch.column("ns")[0].value)[-9:] == "123456789"


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_mixed_and_bad_times_in_one_batch_are_each_treated_by_themselves(share: float) -> None:
    random = np.random.default_rng(7)
    texts = [f"2026-01-01 00:00:{i % 60:02}.5" if i % 3 else f"2026-01-01T00:00:{i % 60:02}Z" for i in range(6000)]
    spoilt = set(random.choice(6000, int(6000 * share), replace=False).tolist())
    messages = [b'{"at": "%s"}' % ("?" if i in spoilt else text).encode() for i, text in enumerate(texts)]
    rows, bad = decode(pa.schema({"at": pa.timestamp("us", "UTC")}), *messages)
    assert set(bad) == spoilt
    good = [i for i in range(6000) if i not in spoilt]
    assert [row["at"] for row in rows] == [
        datetime(2026, 1, 1, 0, 0, i % 60, 500_000 if i % 3 else 0, UTC) for i in good
    ]


@pytest.mark.parametrize(
    ("unit", "number"), [("s", "1.5"), ("ms", "1500"), ("us", "1500000"), ("ns", "1500000999"), ("ms", "1500.0")]
)
def test_times_may_be_numbers(unit: Any, number: str) -> None:
    schema = pa.schema({"at": pa.timestamp("us", "UTC"), "text": pa.timestamp("us", "UTC")})
    row = b'{"at": %s, "text": "1970-01-01 00:00:00"}' % number.encode()
    rows, bad = decode(schema, row, row.replace(number.encode(), b"9223372036854775807000"), timestamps={"at": unit})
    assert [row["at"] for row in rows] == [datetime(1970, 1, 1, 0, 0, 1, 500_000, UTC)]
    assert list(bad) == [1]


def test_every_supported_type_is_decoded() -> None:
    schema = pa.schema(
        {
            "yes": pa.bool_(),
            "small": pa.uint8(),
            "big": pa.uint64(),
            "ratio": pa.float32(),
            "exact": pa.decimal128(10, 2),
            "day": pa.date32(),
            "clock": pa.time64("us"),
            "raw": pa.binary(),
            "colour": pa.dictionary(pa.int32(), pa.string()),
            "tags": pa.list_(pa.string()),
            "place": pa.struct({"x": pa.int32(), "seen": pa.list_(pa.timestamp("us", "UTC"))}),
            "scores": pa.map_(pa.string(), pa.float64()),
        }
    )
    message = (
        b'{"yes": true, "small": 255, "big": 18446744073709551615, "ratio": 1, "exact": 12.34, "day": "2026-02-03", '
        b'"clock": "01:02:03.5", "raw": "AAH/", "colour": "red", "tags": ["a", null], '
        b'"place": {"x": 1, "seen": ["2026-01-01T00:00:00Z"], "z": 0}, "scores": {"a": 1.5, "b": null}}'
    )
    rows, bad = decode(schema, message, b"{}")
    assert not bad
    assert rows[0] == {
        "yes": True,
        "small": 255,
        "big": 2**64 - 1,
        "ratio": 1.0,
        "exact": Decimal("12.34"),
        "day": date(2026, 2, 3),
        "clock": time(1, 2, 3, 500_000),
        "raw": b"\x00\x01\xff",
        "colour": "red",
        "tags": ["a", None],
        "place": {"x": 1, "seen": [datetime(2026, 1, 1, tzinfo=UTC)]},
        "scores": [("a", 1.5), ("b", None)],
    }
    assert set(rows[1].values()) == {None}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (pa.uint64(), b"1", b"18446744073709551616"),
        (pa.uint8(), b"1", b"256"),
        (pa.decimal128(4, 2), b'"1.25"', b"1.255"),
        (pa.decimal128(4, 2), b"1.25", b"1000"),
        (pa.date32(), b'"2026-01-01"', b'"2026-02-30"'),
        (pa.time64("us"), b'"01:02:03"', b'"25:00:00"'),
        (pa.binary(), b'"AAAA"', b'"*"'),
        (pa.binary(3), b'"AAAA"', b'"AAA="'),
        (pa.list_(pa.int8()), b"[1]", b"[1, 128]"),
        (pa.list_(pa.date32()), b'["2026-01-01"]', b'["2026-01-01", "x"]'),
        (pa.struct({"at": pa.timestamp("us")}), b'{"at": "2026-01-01 00:00:00"}', b'{"at": "x"}'),
        (pa.map_(pa.string(), pa.date32()), b'{"a": "2026-01-01"}', b'{"a": "2026-01-01", "b": ""}'),
    ],
)
def test_values_that_do_not_fit_their_type_hit_only_their_record(kind: pa.DataType, good: bytes, bad: bytes) -> None:
    messages = [b'{"v": %s}' % (bad if i in (3, 50) else b"null" if i == 4 else good) for i in range(100)]
    rows, reasons = decode(pa.schema({"v": kind}), *messages)
    assert sorted(reasons) == [3, 50]
    assert rows[3] == {"v": None}
    assert rows[0]["v"] is not None


def test_bad_records_keep_their_places_over_many_chunks() -> None:
    count = 20_000
    bad_at = {0, 1, 4095, 4096, 9999, count - 1}
    misfit = {17, 4097}
    messages = [
        b"{" if i in bad_at else b'{"id": %d, "day": "%s"}' % (i, b"never" if i in misfit else b"2026-01-01")
        for i in range(count)
    ]
    rows, bad = decode(pa.schema({"id": pa.int64(), "day": pa.date32()}), *messages)
    assert set(bad) == bad_at | misfit
    assert [row["id"] for row in rows] == [i for i in range(count) if i not in bad]


def test_fewer_columns_are_decoded_and_checked_on_demand() -> None:
    decoder = Json(BID).decoder(["price", "auction"])
    decoded = decoder.decode([GOOD, GOOD.replace(b'"web"', b"3")])
    assert decoded.batch.to_pydict() == {"price": [2, 2], "auction": [1, 1]}
    counted = Json(BID).decoder([]).decode([GOOD, b"{", GOOD])
    assert (counted.batch.num_rows, [bad.index for bad in counted.bad]) == (2, [1])
    with pytest.raises(SchemaError, match="no such field"):
        Json(BID).decoder(["cost"])


def test_nothing_is_decoded_to_an_empty_batch_of_the_schema() -> None:
    decoded = Json(BID).decoder().decode([])
    assert decoded.batch.schema == BID
    assert decoded.batch.num_rows == 0


@dataclass
class Order:
    id: int
    shop: str
    at: datetime


def test_a_schema_may_be_a_dataclass_or_a_dict_of_types() -> None:
    expected = [("id", pa.int64()), ("shop", pa.string()), ("at", pa.timestamp("us", "UTC"))]
    assert [(one.name, one.type) for one in Json(Order).schema] == expected
    assert [(one.name, one.type) for one in Json({"id": int, "shop": str, "at": datetime}).schema] == expected


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Json(pa.schema({"a": pa.duration("s")})), SchemaError),
        (lambda: Json(pa.schema({"a": pa.map_(pa.int32(), pa.int32())})), SchemaError),
        (lambda: Json(pa.schema([("a", pa.int32()), ("a", pa.int32())])), SchemaError),
        (lambda: Json(17), ConfigError),
        (lambda: Json(BID, timestamps="minutes"), ConfigError),
        (lambda: Json(BID, timestamps={"when": "ms"}), ConfigError),
    ],
)
def test_schemas_that_json_has_no_form_for_are_refused_at_once(make: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


def test_names_need_not_be_identifiers() -> None:
    schema = pa.schema({"user-id": pa.int64(), "from": pa.string(), "": pa.string(), "größe": pa.int8()})
    message = '{"user-id": 1, "from": "x", "": "y", "größe": 2}'.encode()
    assert decode(schema, message) == ([{"user-id": 1, "from": "x", "": "y", "größe": 2}], {})


def test_deep_nesting_in_a_record_is_bad_and_harmless() -> None:
    deep = b'{"auction": ' + b"[" * 100_000 + b"}"
    _, bad = decode(BID, deep, GOOD, b'{"more": ' + b"[" * 100_000)
    assert sorted(bad) == [0, 2]
