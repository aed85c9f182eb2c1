"""JSON text, lists, structs and maps inside of columns."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.expressions import col, evaluate, struct
from lakeward.dsl.expressions.json_rules import parse_path
from lakeward.engine.core.errors import GraphError, RecordError, SchemaError

DOC = (
    '{"a": {"b": [10, 20], "c d": "x"}, "n": null, "t": "2024-05-17T08:00:00Z", "p": 1.25, "ok": true, "s": "\\u00e9"}'
)


@pytest.mark.parametrize(
    ("path", "kind", "wanted"),
    [
        ("$.a.b[0]", int, 10),
        ("$.a.b[-1]", "int8", 20),
        ("$.a.b[7]", int, None),
        ("$['a']['c d']", str, "x"),
        ("$.n", int, None),
        ("$.missing.deep", str, None),
        ("$.t", datetime, datetime(2024, 5, 17, 8, tzinfo=UTC)),
        ("$.p", float, 1.25),
        ("$.p", "decimal(5, 3)", Decimal("1.250")),
        ("$.ok", bool, True),
        ("$.s", str, "é"),
        ("$.a.b", list[int], [10, 20]),
        ("$.a", {"b": list[int]}, {"b": [10, 20]}),
        ("$", {"p": float, "ok": bool}, {"p": 1.25, "ok": True}),
    ],
)
def test_a_value_at_a_path_is_decoded_as_a_type(path: str, kind: Any, wanted: Any) -> None:
    made = col("doc").json.get(path, kind)
    assert evaluate(made, doc=[DOC, None, "{}"])[:2] == [wanted, None]


def test_documents_that_are_no_objects_are_read_too() -> None:
    assert evaluate(col("doc").json.get("$[1].x", int), doc=['[{}, {"x": 5}]', "[]", None]) == [5, None, None]
    assert evaluate(col("doc").json.get("$", int), doc=["5", "null"]) == [5, None]
    assert evaluate(col("doc").json.get("$", list[int]), doc=["[1, 2]"]) == [[1, 2]]


BAD = ["broken", '{"a": "x"}', '{"a": 1.5}', '{"a": 300}', "5", '{"a": 1} {"a": 2}', '{"a": [1]}', ""]


@pytest.mark.parametrize("bad", BAD)
def test_what_does_not_fit_is_an_error_that_shows_it_or_null(bad: str) -> None:
    docs = ['{"a": 1}', None, bad, '{"a": 2}', "{}"]
    made = col("doc").json.get("$.a", "int8", errors="null")
    assert evaluate(made, doc=docs) == [1, None, None, 2, None]
    with pytest.raises(RecordError) as caught:
        evaluate(col("doc").json.get("$.a", "int8"), doc=docs)
    assert repr(bad) in str(caught.value)
    assert 'errors="null"' in str(caught.value)


def test_many_bad_documents_keep_their_neighbours_in_place() -> None:
    docs = [None if i % 5 == 0 else "{" if i % 3 == 0 else f'{{"a": {i}, "b": {{"c": "{i}"}}}}' for i in range(200)]
    good = [i if i % 5 and i % 3 else None for i in range(200)]
    assert evaluate(col("doc").json.get("$.a", int, errors="null"), doc=docs) == good
    wanted = [None if i is None else str(i) for i in good]
    assert evaluate(col("doc").json.get("$.b.c", str, errors="null"), doc=docs) == wanted


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None)
@given(documents=st.lists(values, max_size=6), path=st.sampled_from(["$.a", "$.a.b", "$.a[0]", "$[1].a", "$.é.a[-1]"]))
def test_text_at_a_path_is_what_python_finds(documents: list[Any], path: str) -> None:
    def walk(value: Any) -> Any:
        for step in parse_path(path):
            if isinstance(step, str):
                value = value.get(step) if isinstance(value, dict) else None
            else:
                value = value[step] if isinstance(value, list) and -len(value) <= step < len(value) else None
        return value

    texts = [msgspec.json.encode(document).decode() for document in documents]
    found = evaluate(col("doc").json.text(path), doc=pa.array(texts, pa.string()))
    parts = [walk(document) for document in documents]
    wanted = [part if part is None or isinstance(part, str) else msgspec.json.encode(part).decode() for part in parts]
    assert found == wanted
    numbers = evaluate(col("doc").json.get(path, int, errors="null"), doc=pa.array(texts, pa.string()))
    assert numbers == [part if isinstance(part, int) and not isinstance(part, bool) else None for part in parts]


@pytest.mark.parametrize("path", ["a", "", "$a", "$.", "$..a", "$.a[", "$.a[x]", "$.a[*]", "$.a b["])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(GraphError, match="no path"):
        col("doc").json.get(path, int)


def test_json_comes_as_text() -> None:
    with pytest.raises(SchemaError, match="takes text"):
        col("doc").json.get("$.a", int).bind(pa.schema({"doc": pa.int64()}))
    with pytest.raises(GraphError, match="errors"):
        col("doc").json.get("$.a", int, errors="skip")  # type: ignore[arg-type]


LISTS = pa.array([[1], [1, None, 3], None, [], [4, 5, 6]])


@pytest.mark.parametrize("layout", [pa.list_(pa.int64()), pa.large_list(pa.int64())])
@pytest.mark.parametrize(
    ("start", "length"), [(0, None), (1, None), (-2, None), (-2, 1), (1, 1), (9, 2), (-9, 2), (0, 0)]
)
def test_lists_are_sliced_as_in_python(layout: pa.DataType, start: int, length: int | None) -> None:
    array = LISTS.cast(layout).slice(1)

    def wanted(values: list[Any]) -> list[Any]:
        begin = start if start >= 0 else max(len(values) + start, 0)
        return values[begin:] if length is None else values[begin : begin + length]

    found = evaluate(col("a").list.slice(start, length), a=array)
    assert found == [None if each is None else wanted(each) for each in array.to_pylist()]


def test_membership_takes_constants_and_columns_and_lists_of_any_layout() -> None:
    assert evaluate(col("a").list.contains(3), a=LISTS.slice(1)) == [True, None, False, False]
    assert evaluate(col("a").list.contains(col("b")), a=LISTS, b=[1, 2, 3, 4, None]) == [True, False, None, False, None]
    fixed = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int8(), 2))
    assert evaluate(col("a").list.contains(4), a=fixed) == [False, None, True]
    assert evaluate(col("a").list.contains("x"), a=[["x", None], ["y"]]) == [True, False]
    with pytest.raises(SchemaError):
        col("a").list.contains("x").bind(pa.schema({"a": pa.list_(pa.int64())}))


MAPS = pa.array([[("x", 1)], [("a", 1), ("b", None)], None, [], [("a", 5)]], pa.map_(pa.string(), pa.int64()))


def test_maps_are_looked_into_also_when_cut() -> None:
    cut = MAPS.slice(1, 4)
    assert evaluate(col("m").map.get("a"), m=cut) == [1, None, None, 5]
    assert evaluate(col("m").map.keys(), m=cut) == [["a", "b"], None, [], ["a"]]
    assert evaluate(col("m").map.values(), m=cut) == [[1, None], None, [], [5]]
    assert evaluate(col("m").map.length(), m=cut) == [2, None, 0, 1]
    assert evaluate(col("m").map.keys().list.contains("b"), m=cut) == [True, None, False, False]
    with pytest.raises(SchemaError, match="no key"):
        col("m").map.get(3).bind(pa.schema({"m": MAPS.type}))
    with pytest.raises(SchemaError, match="takes maps"):
        col("m").map.keys().bind(pa.schema({"m": pa.int64()}))


def test_structs_are_made_and_taken_apart() -> None:
    made = struct(x=col("a"), y=col("a") * 2)
    assert evaluate(made.struct.field("y"), a=[1, None]) == [2, None]
    with pytest.raises(GraphError):
        struct()


@pytest.mark.parametrize("errors", ["raise", "null"])
def test_what_lies_beside_the_path_in_a_list_may_be_of_any_type(errors: Literal["raise", "null"]) -> None:
    docs = ['{"a": [1, {"b": "x"}, "y"]}', '{"a": [2, 3]}', '{"a": []}', '{"a": null}', "null", None]
    assert evaluate(col("doc").json.get("$.a[0]", int, errors), doc=docs) == [1, 2, None, None, None, None]
    assert evaluate(col("doc").json.get("$.a[-1]", str, "null"), doc=docs) == ["y", None, None, None, None, None]
    assert evaluate(col("doc").json.get("$.a[1].b", str, errors), doc=[docs[0], docs[2]]) == ["x", None]
    times = ['{"a": ["2024-01-01T00:00:00Z", 5]}']
    assert evaluate(col("doc").json.get("$.a[0]", datetime, errors), doc=times) == [datetime(2024, 1, 1, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("doc", "place"), [('{"a": ["x", {}]}', r"\$\.a\[0\]"), ('{"a": 5}', r"\$\.a"), ("[1]", r"\$")]
)
def test_a_value_of_another_type_is_an_error_that_says_where(doc: str, place: str) -> None:
    with pytest.raises(RecordError, match=place):
        evaluate(col("doc").json.get("$.a[0]", int), doc=[doc])
    assert evaluate(col("doc").json.get("$.a[0]", int, errors="null"), doc=[doc]) == [None]
