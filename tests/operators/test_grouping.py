"""Numbering the different rows of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.operators.grouping import group_keys, row_codes
from lakeward.operators.windows.columns import group_rows

LONG = ["2026-01-01", "2026-01-02", "2026-02-01"]
texts = st.sampled_from(
    [LONG, ["12345678", "12345679"], ["", "a", "2026-01-01"], [None, *LONG], ["x" * 40, "y" * 40], ["2026-01-01"]]
).flatmap(lambda some: st.lists(st.sampled_from(some), min_size=1, max_size=30))


@settings(max_examples=80, deadline=None)
@given(texts, st.integers(0, 3))
def test_texts_are_numbered_in_the_order_of_their_first_appearance(values: list[str | None], skipped: int) -> None:
    array = pa.array([LONG[0]] * skipped + values, pa.string()).slice(skipped)
    groups = group_keys([array, pa.array([0] * len(values))])
    order = list(dict.fromkeys(values))
    assert groups.numbers.tolist() == [order.index(value) for value in values]
    assert groups.rows.tolist() == [values.index(value) for value in order]


@pytest.mark.parametrize("distinct", [1, 7, 30_000])
def test_many_rows_find_the_first_of_their_group(distinct: int) -> None:
    random = np.random.default_rng(distinct)
    left, right = random.integers(0, distinct, 40_000), random.integers(0, 2, 40_000)
    numbers, firsts = group_rows([pa.array(left), pa.array(right).cast(pa.string())])
    known: dict[Any, int] = {}
    wanted = [known.setdefault(pair, len(known)) for pair in zip(left.tolist(), right.tolist(), strict=True)]
    assert numbers.tolist() == wanted
    assert firsts.tolist() == [wanted.index(number) for number in range(min(len(known), 100))] + firsts.tolist()[100:]


def test_no_rows_have_no_groups() -> None:
    numbers, firsts = group_rows([pa.array([], pa.int64())])
    assert not len(numbers)
    assert not len(firsts)


@pytest.mark.parametrize(
    "array",
    [
        pa.array([[1], None, [1], [2]]),
        pa.array([{"a": 1}, None, {"a": 1}, {"a": 2}]),
        pa.array(["a", None, "a", "b"]).dictionary_encode(),
        pa.array([0.0, None, -0.0, 1.0]),
        pa.array([1, None, 1, 2], pa.decimal128(9, 2)),
        pa.array([1, None, 1, 2], pa.decimal32(9, 2)),
        pa.array([1, None, 1, 2], pa.decimal64(9, 2)),
        pa.array([b"a", None, b"a", b"b"]),
    ],
    ids=["list", "struct", "dictionary", "float", "decimal", "decimal32", "decimal64", "bytes"],
)
def test_rows_of_any_types_have_codes_that_are_equal_where_they_are(array: pa.Array) -> None:
    assert row_codes([array]).tolist() == [0, 1, 0, 2]
    assert row_codes([array, pa.array([1, 1, 2, 1])]).tolist() == [0, 1, 2, 3]
    assert row_codes([array[:0]]).tolist() == []
