"""Arguments of a wrong kind are refused with what, where and how to write them; sizes are read as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lakeward import IcebergSink, NexmarkSource
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect, expect_choice, expect_whole, refusal
from lakeward.engine.core.sizes import parse_size_bytes


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError("no")


def test_true_is_no_number_unless_it_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="n cannot be True"):
        expect(True, int, "n", "give a number")
    with pytest.raises(ConfigError, match="n cannot be True"):
        expect_whole(True, "n", least=0)
    expect(True, bool, "flag", "give True or False")


def test_long_values_and_secrets_are_named_by_their_type_only() -> None:
    assert refusal("x" * 100, "a", "").message == "a cannot be a str"
    assert refusal(Unprintable(), "a", "").message == "a cannot be an Unprintable"
    with pytest.raises(ConfigError) as caught:
        expect("token=abc", dict, "options", "give a dict", secret=True)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("value", ["keep", None, ["refuse"], 5])
def test_what_is_none_of_the_choices_is_refused_with_all_of_them(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"mode cannot be .*\n.*choose 'refuse', 'rollback' or 'append'"):
        expect_choice(value, ("refuse", "rollback", "append"), "mode")


@pytest.mark.parametrize("make", [lambda: NexmarkSource("10"), lambda: IcebergSink(None)])  # type: ignore[arg-type]
def test_the_error_names_the_users_line_even_through_a_generated_constructor(make: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert caught.value.location == f"{Path(__file__)}:{make.__code__.co_firstlineno}"


def test_sizes_are_read_as_people_write_them() -> None:
    sizes = ("5MB", "1.5 kib", 7, "10", "2 GiB")
    assert [parse_size_bytes(size) for size in sizes] == [5_000_000, 1536, 7, 10, 2 << 30]


@pytest.mark.parametrize("wrong", ["", "MB", "5 parsecs", 0, -1, 1.5, None, True, b"5MB", "0.1", "0.0001 B"])
def test_what_is_no_size_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="roll cannot be") as caught:
        parse_size_bytes(wrong, "roll")
    assert "128MB" in caught.value.hint
