"""Text functions that go their own way over bytes agree with Python, whatever the text is."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.expressions import Expr, col, concat_str, evaluate
from lakeward.dsl.expressions.marked_text import Marked
from lakeward.engine.core.errors import GraphError, SchemaError

texts = st.lists(st.none() | st.text(alphabet="ac=&/?dé😀 ", max_size=12), max_size=12)
PIECES = ["id=", "&", "?", "xid=", "7", "é", "#", "http://a/", "id", "=", ""]
urls = st.lists(st.none() | st.lists(st.sampled_from(PIECES), max_size=8).map("".join), max_size=12)


def by_python(function: Any, values: list[str | None]) -> list[Any]:
    return [None if value is None else function(value) for value in values]


def check(expression: Expr, values: list[str | None], wanted: list[Any]) -> None:
    """Also as large text, and as a slice with other rows around it."""
    for kind in (pa.string(), pa.large_string()):
        whole = pa.array(["a=/&id=x", *values, "/c&"], kind)
        batch = pa.record_batch({"s": whole}).slice(1, len(values))
        assert expression.bind(batch.schema).evaluate(batch).to_pylist() == wanted


@settings(max_examples=40, deadline=None)
@given(values=texts, byte=st.sampled_from("ac=/"))
def test_characters_are_counted(values: list[str | None], byte: str) -> None:
    wanted = by_python(lambda text: text.count(byte), values)
    check(col("s").str.count_matches(byte, literal=True), values, wanted)


@settings(max_examples=60, deadline=None)
@given(values=texts, separator=st.sampled_from(["/", "=", "ac"]), part=st.sampled_from([1, 2, 3, -1, -2]))
def test_parts_are_those_of_a_split(values: list[str | None], separator: str, part: int) -> None:
    def wanted(text: str) -> str | None:
        parts = text.split(separator)
        index = part - 1 if part > 0 else part
        return parts[index] if -len(parts) <= index < len(parts) else None

    check(col("s").str.split_part(separator, part), values, by_python(wanted, values))


PATTERNS = [
    (r"(&|^)id=([^&]*)", 2),
    (r"(?:^|&)id=([^&]*)", 1),
    (r"[?&]id=([^&#]+)", 1),
    (r"id=([^&]+)", 1),
    (r"http:\/\/([^/]*)", 1),
    (r"(\?|^)xid=([^&]*)", 2),
]


@settings(max_examples=60, deadline=None)
@given(values=urls, chosen=st.sampled_from(PATTERNS))
def test_a_mark_and_what_follows_it_is_found_as_by_regular_expressions(
    values: list[str | None], chosen: tuple[str, int]
) -> None:
    pattern, group = chosen
    assert Marked.of(pattern, group) is not None

    def found(text: str) -> str | None:
        match = re.search(pattern, text)
        return None if match is None else match[group]

    check(col("s").str.extract(pattern, group), values, by_python(found, values))
    check(col("s").str.matches(pattern), values, by_python(lambda text: re.search(pattern, text) is not None, values))


@pytest.mark.parametrize(
    ("pattern", "group"),
    [
        (r"(&|^)id=([^&]*)", 1),  # the group before
        (r"(&|^)id=([^&]*)$", 2),
        (r"(a|^)aa([^b]*)", 2),  # the mark may begin with what stands before it
        (r"(&|^)id=(\d+)", 2),
        (r"id=([^&]*)x", 1),
        (r"(é|^)id=([^&]*)", 2),
        (r"(?i)id=([^&]*)", 1),
        (r"id=([^\d]*)", 1),
        (r"[^&]id=([^&]*)", 1),
        (r"[a-f]id=([^&]*)", 1),
        (r"i?d=([^&]*)", 1),
    ],
)
def test_other_patterns_are_left_to_the_engine_of_regular_expressions(pattern: str, group: int) -> None:
    assert Marked.of(pattern, group) is None


def test_many_rows_are_looked_at_in_pieces() -> None:
    values = [f"http://host/{'x' * (i % 300)}?id={i}&c=c" if i % 7 else None for i in range(5_000)]
    batch = pa.record_batch({"s": values})
    made: dict[str, Expr] = {
        "id": col("s").str.extract(r"[?&]id=([^&]*)"),
        "path": col("s").str.split_part("/", 4),
        "c": col("s").str.count_matches("c", literal=True),
    }
    found = {name: each.bind(batch.schema).evaluate(batch).to_pylist() for name, each in made.items()}
    assert found["id"] == by_python(lambda text: re.search("id=([^&]*)", text)[1], values)  # type: ignore[index]
    assert found["path"] == by_python(lambda text: text.split("/")[3], values)
    assert found["c"] == by_python(lambda text: text.count("c"), values)


def test_places_count_characters_not_bytes() -> None:
    assert evaluate(col("s").str.find("x"), s=["éx", "x", "", None, "😀😀x"]) == [1, 0, None, None, 2]


def test_text_joined_without_nulls_keeps_rows_of_nulls_only() -> None:
    joined = concat_str(col("a"), col("b"), separator="-", ignore_nulls=True)
    assert evaluate(joined, a=["x", None, None], b=[None, None, "y"]) == ["x", "", "y"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: col("s").str.pad_start(3, ""),
        lambda: col("s").str.pad_end(3, "ab"),
        lambda: col("s").str.count_matches("", literal=True),
        lambda: col("s").str.count_matches("("),
        lambda: col("s").str.split_part("", 1),
        lambda: col("s").str.repeat("x"),  # type: ignore[arg-type]
        lambda: col("i").str.md5(),
        lambda: col("i").str.ilike("%"),
        lambda: col("l").hash(),
    ],
)
def test_what_cannot_work_is_refused_when_the_graph_is_built(make: Any) -> None:
    schema = pa.schema({"s": pa.string(), "i": pa.int64(), "l": pa.list_(pa.int64())})
    with pytest.raises((GraphError, SchemaError)):
        make().bind(schema)


def test_a_negative_number_of_repetitions_is_an_error_that_shows_it() -> None:
    with pytest.raises(Exception, match=r"n.*-1"):
        evaluate(col("s").str.repeat(col("n")), s=["a", "b"], n=[1, -1])


def test_digests_take_text_and_bytes() -> None:
    assert evaluate(col("a").str.md5(), a=["é"]) == evaluate(col("a").str.md5(), a=["é".encode()])


def test_replacing_nothing_is_refused_and_the_hint_says_what_puts_text_between_characters() -> None:
    schema = pa.schema({"a": pa.string()})
    for count in (None, 1):
        with pytest.raises(GraphError, match="nothing cannot be replaced"):
            col("a").str.replace("", "-", count).bind(schema)
    assert evaluate(col("a").str.replace_regex("", "-"), a=["ab", "", None]) == ["-a-b-", "-", None]


def test_a_like_pattern_that_ends_in_half_an_escape_is_refused() -> None:
    schema = pa.schema({"a": pa.string()})
    for pattern in ("a%\\", "\\", "a\\\\\\"):
        with pytest.raises(GraphError, match="backslash"):
            col("a").str.like(pattern).bind(schema)
    assert evaluate(col("a").str.like("a\\\\"), a=["a\\", "a"]) == [True, False]
