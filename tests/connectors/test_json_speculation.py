"""Decoding many messages at once: the same rows, places and reasons as with the parser alone, whatever comes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.connectors.formats import json as json_format
from lakeward.connectors.formats.json import JsonDecoder
from lakeward.connectors.formats.json_columns import ColumnFactory
from lakeward.connectors.formats.json_lines import Lines
from lakeward.connectors.formats.json_speculation import FEWEST, Speculation
from lakeward.connectors.formats.json_template import learn
from lakeward.engine.api.codec import Decoded

ROWS = FEWEST + 88
FACTORY = ColumnFactory("text", {"epoch": "ms"})

NUMBERS = ["0", "7", "-3", "-0", "1.5", "1e3", "-0.0", "2147483648", "9223372036854775807", "9223372036854775808"]
ODD_NUMBERS = [
    "18446744073709551615",
    "007",
    "0x1F",
    "+1",
    "1.",
    "-",
    "1e999",
    "1E-400",
    "9" * 30,
    "0xFFFFFFFF",
    " 5",
    "",
]
TEXTS = ["", "web", "ü€😀", "a:b", ",", "{}", "\x7f", "2026-01-01 00:00:00.123", "2026-01-01T00:00:00Z", "2026-02-30"]
VALUES = [*NUMBERS, *ODD_NUMBERS, "null", "true", "[]", '{"a":1}', '"\\u00e9"', '"\\ud83d"', '"a\\"b"', '"x"y"', '"']


def usual(kind: pa.DataType, i: int) -> Any:
    """A value of the type, as most messages of a topic have it."""
    t = pa.types
    if t.is_string(kind) or t.is_dictionary(kind):
        return ["web", "", "a:b", "ü"][i % 4]
    if t.is_timestamp(kind):
        return f"2026-01-01 00:00:{i % 60:02}.{i % 1000:03}"
    if t.is_date(kind):
        return f"2026-01-{i % 28 + 1:02}"
    if t.is_time(kind):
        return f"00:00:{i % 60:02}"
    return (
        "AAAA"
        if t.is_binary(kind)
        else i % 4 == 0
        if t.is_boolean(kind)
        else i % 100 / (4 if t.is_floating(kind) else 1)
    )


KINDS = [
    pa.int64(),
    pa.int8(),
    pa.uint64(),
    pa.float64(),
    pa.float32(),
    pa.string(),
    pa.large_string(),
    pa.timestamp("us", "UTC"),
    pa.timestamp("s"),
    pa.timestamp("ns"),
    pa.date32(),
    pa.time64("us"),
    pa.decimal128(10, 2),
    pa.binary(),
    pa.bool_(),
    pa.dictionary(pa.int32(), pa.string()),
]


def message(fields: Sequence[tuple[str, pa.DataType]], i: int, style: Any) -> bytes:
    row = {}
    for name, kind in fields:
        value = usual(kind, i)
        whole = isinstance(value, float) and not pa.types.is_floating(kind)
        row[name] = int(value) if whole else value
    return json.dumps(row, ensure_ascii=False, separators=style).encode()


def plain(batch: pa.RecordBatch) -> list[pa.Array]:
    """The columns without dictionaries: the order of values in these means nothing."""
    return [one.dictionary_decode() if pa.types.is_dictionary(one.type) else one for one in batch.columns]


def same(schema: pa.Schema, messages: Sequence[bytes | None], batches: int = 1) -> Decoded:
    quick, slow = JsonDecoder(schema, FACTORY), JsonDecoder(schema, FACTORY, speculate=False)
    for _ in range(batches):
        got, want = quick.decode(messages), slow.decode(messages)
        got.batch.validate(full=True)
        assert got.batch.schema == want.batch.schema
        assert plain(got.batch) == plain(want.batch)
        for mine, other in zip(got.batch.columns, want.batch.columns, strict=True):
            if pa.types.is_floating(mine.type):
                assert np.array_equal(np.signbit(mine.to_numpy(False)), np.signbit(other.to_numpy(False)))
        assert (got.rows is None) == (want.rows is None)
        assert got.rows is None or want.rows is None or got.rows.tolist() == want.rows.tolist()
        assert list(got.bad) == list(want.bad)
    same_as_lines(schema, messages)
    return got


def same_as_lines(schema: pa.Schema, messages: Sequence[bytes | None]) -> None:
    """The messages as lines of a file: the same rows and bad records, but blank lines are neither."""
    lines = Lines.of(messages)
    if lines is None:
        return
    filled = [i for i, message in enumerate(messages) if message and not message.isspace()]
    got = JsonDecoder(schema, FACTORY).decode_lines(lines)
    want = JsonDecoder(schema, FACTORY, speculate=False).decode([messages[i] for i in filled])
    assert plain(got.batch) == plain(want.batch)
    assert [(bad.index, bad.reason) for bad in got.bad] == [(filled[bad.index], bad.reason) for bad in want.bad]
    rows = range(len(filled)) if want.rows is None else want.rows.tolist()
    assert got.rows is None or got.rows.tolist() == [filled[row] for row in rows]
    assert got.rows is not None or len(rows) == len(messages)


@st.composite
def cases(draw: st.DrawFn) -> tuple[pa.Schema, list[bytes | None]]:
    names = draw(st.lists(st.sampled_from(["id", "epoch", "größe", "a b", "x.y", "f0", "k"]), min_size=1, unique=True))
    fields = [(name, draw(st.sampled_from(KINDS))) for name in names]
    style = draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", ":  ")]))
    messages: list[bytes | None] = [message(fields, i, style) for i in range(ROWS)]
    for _ in range(draw(st.sampled_from([0, 1, 3, 12, 28, 60]))):
        row = draw(st.integers(0, ROWS - 1))
        messages[row] = draw(spoilt(messages[row] or b""))
    wanted = draw(st.lists(st.sampled_from(fields), unique=True))
    extra = draw(st.sampled_from([[], [("missing", pa.int32())]]))
    nullable = draw(st.booleans())
    return pa.schema([pa.field(*one, nullable=nullable) for one in [*wanted, *extra]]), messages


@st.composite
def spoilt(draw: st.DrawFn, good: bytes) -> bytes | None:
    """A message with something wrong or unusual in it; often still good."""
    kind = draw(st.integers(0, 8))
    place = draw(st.integers(0, max(0, len(good) - 1)))
    if kind <= 2:
        byte = draw(st.sampled_from([*b'":,{}[] \\\n\x00\x1f\x7f\x80\xff0-x', 0xC3]))
        return good[:place] + bytes([byte]) + good[place + (kind == 0) :]
    if kind == 3:
        return good[:place]
    if kind == 4:
        value = draw(st.sampled_from([*VALUES, *(json.dumps(text, ensure_ascii=False) for text in TEXTS)])).encode()
        start = good.find(b":", place) + 1
        ends = [end for end in (good.find(b",", start), good.find(b"}", start)) if end > 0]
        return good[:start] + value + good[min(ends, default=len(good)) :]
    if kind == 5:
        parts = good.strip(b"{} ").split(b",")
        return b"{" + b",".join(draw(st.permutations(parts))) + b"}"
    if kind == 6:
        return good[:-1] + b"," + good[1:]
    return draw(
        st.sampled_from(
            [None, b"", b"{}", good + good, b" " + good, good + b"\n", b"null", good[:-1] + b',"z":{"a":[1]}}']
        )
    )


@settings(max_examples=120, deadline=None)
@given(cases())
def test_rows_and_bad_records_are_those_of_the_parser(case: tuple[pa.Schema, list[bytes | None]]) -> None:
    same(*case)


BID = pa.schema(
    {
        "auction": pa.int64(),
        "price": pa.int32(),
        "channel": pa.string(),
        "at": pa.timestamp("us"),
        "ratio": pa.float64(),
    }
)


def bids(count: int) -> list[bytes | None]:
    return [
        b'{"auction":%d,"price":%d,"channel":"c%d","at":"2026-01-01 00:00:%02d.5","ratio":%d.5}'
        % (i, i % 7, i % 5, i % 60, i)
        for i in range(count)
    ]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("columns", [["auction"], ["channel"], ["ratio"], ["price", "at"]], ids=str)
def test_any_value_in_a_few_messages_is_what_the_parser_makes_of_it(value: str, columns: list[str]) -> None:
    messages = bids(ROWS)
    for row, field in (
        (5, b'"price":5'),
        (77, b'"channel":"c2"'),
        (300, b'"auction":300'),
        (ROWS - 1, b'"channel":"c4"'),
    ):
        key = field[: field.index(b":") + 1]
        before = messages[row] or b""
        messages[row] = before.replace(field, key + value.encode())
        assert messages[row] != before
    same(pa.schema([BID.field(name) for name in columns]), messages)


def parsed_rows(messages: Sequence[bytes | None], monkeypatch: pytest.MonkeyPatch, batches: int = 1) -> int:
    """How many messages the parser had to do."""
    count = 0
    original = JsonDecoder._parse_all

    def counting(self: JsonDecoder, some: Sequence[bytes | None]) -> Any:
        nonlocal count
        count += len(some)
        return original(self, some)

    decoder = JsonDecoder(BID, FACTORY)
    with monkeypatch.context() as patch:
        patch.setattr(JsonDecoder, "_parse_all", counting)
        for _ in range(batches):
            decoder.decode(messages)
    return count


def test_regular_messages_need_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = bids(2 * json_format._GUESSED_CHUNK + 600)
    assert parsed_rows(messages, monkeypatch) == 0
    assert same(BID, messages).rows is None


def test_only_messages_of_another_shape_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = bids(3000)
    odd = [0, 1, 17, 1500, 2999]
    for i, row in enumerate(odd):
        messages[row] = [b'{"price":1,"auction":2}', b"{", None, b'{"channel":"\\u00e9"}', b'{"ratio":1e999}'][i]
    assert parsed_rows(messages, monkeypatch) <= len(odd)
    assert [bad.index for bad in same(BID, messages).bad] == [1, 2999]


def test_quotes_too_few_in_one_message_do_not_hide_quotes_too_many_in_another() -> None:
    messages = bids(ROWS)
    messages[10] = (messages[10] or b"").replace(b'"channel":"c0"', b'"channel":00')
    messages[400] = (messages[400] or b"").replace(b'"channel":"c0"', b'"channel":"c"0"')
    messages[401] = (messages[401] or b"").replace(b'"channel":"c1"', b'"channel":"c""1"')
    messages[402] = (messages[402] or b"").replace(b'"price":', b"price:")
    assert [bad.index for bad in same(BID, messages).bad] == [10, 400, 401, 402]


def test_parts_of_a_message_that_make_a_whole_with_their_neighbours_are_bad() -> None:
    messages = bids(ROWS)
    whole = messages[7] or b""
    messages[7], messages[8] = whole[:40], whole[40:] + (messages[8] or b"")
    messages[100], messages[101] = (messages[100] or b"") + (messages[101] or b""), b""
    assert [bad.index for bad in same(BID, messages).bad] == [7, 8, 100, 101]


def test_irregular_messages_are_tried_less_and_less(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = 0
    original = Speculation._try

    def counting(self: Speculation, messages: Sequence[bytes | None]) -> Any:
        nonlocal tries
        tries += 1
        return original(self, messages)

    monkeypatch.setattr(Speculation, "_try", counting)
    messages = [json.dumps({"a": 1, "b": list(range(i % 7))}).encode() for i in range(ROWS)]
    same(pa.schema({"a": pa.int64()}), messages, batches=100)
    assert 2 <= tries <= 10


def test_a_topic_that_changes_its_shape_is_learnt_again(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = JsonDecoder(BID, FACTORY)
    for messages in (bids(ROWS), [one.replace(b'":', b'": ') for one in bids(ROWS) if one], bids(ROWS)):
        assert decoder.decode(messages).batch.num_rows == ROWS
    with monkeypatch.context() as patch:
        patch.setattr(JsonDecoder, "_parse_all", None)
        assert decoder.decode(bids(ROWS)).batch.num_rows == ROWS


@pytest.mark.parametrize(
    "odd",
    [
        None,
        b"",
        b"[1]",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b'{"a":[1]}',
        b'{"a":"\\n"}',
        b'{"\\u0061":1}',
        b'{"a":1} x',
        b'{"a":01}',
        b'{"a":\n1}',
        b'{"a":"\xff"}',
        b'{"%s":1}' % (b"long" * 100),
        b"{%s}" % b",".join(b'"%d":1' % i for i in range(300)),
    ],
)
def test_some_messages_have_no_template(odd: bytes | None) -> None:
    assert learn(odd) is None
    assert learn(b'{"a":1}') is not None


SHAPES = pa.schema(
    {
        "kind": pa.int8(),
        "id": pa.int64(),
        "flag": pa.bool_(),
        "name": pa.string(),
        "at": pa.timestamp("us"),
        "person": pa.struct({"id": pa.int64(), "home": pa.struct({"city": pa.string(), "zip": pa.int32()})}),
    }
)


def shaped(kind: int, i: int) -> bytes:
    """One of several shapes of messages of a topic: flat, nested, with nulls and flags, with other keys."""
    at = f"2026-01-01 00:{i // 60 % 60:02}:{i % 60:02}.5"
    rows: list[dict[str, Any]] = [
        {"kind": 0, "id": i, "name": f"n{i}", "at": at},
        {"kind": 1, "person": {"id": i, "home": {"city": "x" * (i % 90), "zip": -i}}, "flag": True},
        {"kind": 2, "id": None, "flag": False, "name": "", "other": {"deep": {"er": i * 1.5}}},
        {"id": 10**i if i < 20 else i, "person": None, "at": at + "Z"},
        {"kind": 4, "person": {"home": None, "id": i}, "id": i},
        {"kind": 5, "person": {}, "name": "p"},
        {"name": 7, "kind": 6},
        {"kind": 7, "list": [i] * (i % 3)},
    ]
    return json.dumps(rows[kind]).encode()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_messages_of_several_shapes_are_decoded_as_by_the_parser(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=12))
    messages: list[bytes | None] = [shaped(kinds[i % len(kinds)], i) for i in range(ROWS)]
    for _ in range(data.draw(st.sampled_from([0, 0, 2, 30]))):
        row = data.draw(st.integers(0, ROWS - 1))
        messages[row] = data.draw(spoilt(messages[row] or b""))
    names = data.draw(st.lists(st.sampled_from(SHAPES.names), min_size=1, unique=True))
    same(pa.schema([SHAPES.field(name) for name in names]), messages, batches=2)


def test_messages_of_several_shapes_need_no_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"price": i, "auction": i} if i % 3 else {"auction": i, "channel": "c", "x": {"y": None}} for i in range(4000)
    ]
    assert parsed_rows([json.dumps(row).encode() for row in rows], monkeypatch, batches=2) == 0
