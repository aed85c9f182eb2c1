"""What errors hide."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.core.errors import JobFailedError, LakewardError, UserCodeError
from lakeward.engine.core.redaction import HIDDEN, FailedRow, Redaction

EMAIL = Redaction(("email", "card_*", "buyer.name"))


@dataclass
class Buyer:
    name: str
    email: str


class Order(NamedTuple):
    id: int
    buyer: Buyer


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"email": "a@b.c", "id": 1}, "{'email': ***, 'id': 1}"),
        ({"Email": "a@b.c", "CARD_NUMBER": 4111}, "{'Email': ***, 'CARD_NUMBER': ***}"),
        ({"buyer": {"name": "Ada"}, "name": "shop"}, "{'buyer': {'name': ***}, 'name': 'shop'}"),
        ({"user": {"password": "x", "in": [{"token": 1}]}}, "{'user': {'password': ***, 'in': [{'token': ***}]}}"),
        (Order(1, Buyer("Ada", "a@b.c")), "Order(id=1, buyer=Buyer(name=***, email=***))"),
        ({"at": datetime(2026, 1, 2, tzinfo=UTC)}, "{'at': 2026-01-02T00:00:00+00:00}"),
        ({1: "a"}, "{1: 'a'}"),
        (None, "None"),
    ],
)  # fmt: skip
def test_hidden_fields_do_not_show_at_any_depth(row: Any, shown: str) -> None:
    assert EMAIL.show(row) == shown


def test_secrets_are_hidden_without_being_asked() -> None:
    row = dict.fromkeys(
        ("password", "api_key", "Authorization", "client_secret", "access-key", "credentials"), "hunter2"
    )
    assert "hunter2" not in Redaction().show(row)
    assert Redaction().show({"shop": "a"}) == "{'shop': 'a'}"


def test_long_rows_and_values_are_cut() -> None:
    assert len(Redaction().show({"text": "x" * 10_000_000})) < 100
    assert len(Redaction().show({f"column {n}": n for n in range(1000)})) == 400
    assert Redaction().show(list(range(100))).endswith("19, …]")
    endless: dict[str, Any] = {}
    endless["self"] = endless
    assert "…" in Redaction().show(endless)
    assert Redaction().text("text", endless) == "text"


def test_a_broken_repr_does_not_hide_the_error() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise ValueError("no")

    assert "Broken, whose repr fails: no" in Redaction().show({"a": Broken()})


@pytest.mark.parametrize(
    "value", ["ada@example.org", "a'b\"c\n", "größe", 41111111, b"bytes", {"inner": ["deep-value"]}]
)
def test_a_hidden_value_does_not_show_in_the_exception_s_text(value: Any) -> None:
    for text in (f"no {value}", f"no {value!r}", repr({"a": value}), json.dumps(str(value))):
        shown = EMAIL.text(text, {"email": value})
        for leaf in ("ada@", "a'b", "größe", "4111", "bytes", "deep-value"):
            assert leaf not in shown
    assert EMAIL.text("id ab", {"email": "ab"}) == "id ab"  # too short to be known again


def test_operands_of_expressions_are_hidden_by_the_columns_in_their_texts() -> None:
    shown = EMAIL.show_operands({'col("email").str.lower()': "a@b.c", 'col("id") + 1': 3})
    assert shown == 'col("email").str.lower() = ***, col("id") + 1 = 3'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(JSON, JSON, st.integers(0, 200), st.sampled_from([None, 1]))
def test_hidden_json_values_do_not_show_and_the_rest_stays(
    hidden: Any, other: Any, length: int, indent: int | None
) -> None:
    row = {"before": other, "email": ["MARK", hidden, "MARK"], "after": other}
    text = json.dumps(row, indent=indent)
    found = EMAIL.json(text)
    assert "MARK" not in found
    assert json.loads(found.replace(HIDDEN, "null")) == json.loads(
        EMAIL.json(json.dumps(row | {"email": None}, indent=indent)).replace(HIDDEN, "null")
    )
    assert "MARK" not in EMAIL.json(text[:length])


def test_text_that_is_no_json_is_taken_as_it_comes() -> None:
    for text in ("", "{", '"email"', '{"email":', '"email": "a', '{"email": {"a": "b', "not json"):
        assert "a" not in EMAIL.json(text).replace("email", "")


def test_an_error_hides_what_it_is_told_to_wherever_it_says_something() -> None:
    def make() -> UserCodeError:
        raised = KeyError("ada@example.org")
        error = UserCodeError(
            "raised KeyError: 'ada@example.org'", hint="ada@example.org?", rows=[FailedRow({"mail": "ada@example.org"})]
        )
        error.__cause__ = raised
        return error

    plain = make()
    plain.redact(Redaction())
    assert "ada@example.org" in str(plain)
    assert isinstance(plain.__cause__, KeyError)
    hidden = make()
    outer = JobFailedError("failed")
    outer.__cause__ = hidden
    outer.redact(Redaction(("mail",)))
    for text in (str(hidden), repr(hidden), hidden.message, hidden.hint, *hidden.details):
        assert "ada@" not in text
    assert hidden.__cause__ is None, "Python would print it"


def test_rows_are_found_in_another_batch() -> None:
    error = LakewardError("x", rows=[FailedRow(1, 2), FailedRow(1)])
    error.place_rows(lambda row: row + 5)
    assert [row.index for row in error.rows] == [7, None]
