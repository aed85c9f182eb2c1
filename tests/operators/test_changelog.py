"""Applying a changelog gives the result; row kinds become text; everything else about updating streams."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakeward.engine.api.changelog import (
    DELETE,
    INSERT,
    ROW_KIND,
    UPDATE_AFTER,
    UPDATE_BEFORE,
    kinds_of,
    updating,
    with_kinds,
    without_kinds,
)
from lakeward.operators.changelog import Inserts, ToChangelog, materialise
from lakeward.testing.harness import OperatorHarness

SCHEMA = pa.schema([("k", pa.int64()), ("v", pa.string())])
ROWS = st.tuples(st.none() | st.integers(0, 3), st.none() | st.sampled_from(["a", "b"]))


def changes(rows: list[tuple[int | None, str | None, int]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, updating(SCHEMA), strict=True)]
    return pa.Table.from_arrays(arrays, schema=updating(SCHEMA))


@given(st.lists(st.tuples(ROWS, st.booleans()), max_size=40))
def test_without_a_key_rows_are_left_as_often_as_they_were_added_and_not_taken_back(
    steps: list[tuple[tuple[int | None, str | None], bool]],
) -> None:
    left: Counter[tuple[int | None, str | None]] = Counter()
    sent = []
    for row, adds in steps:
        if adds or not left[row]:
            left[row] += 1
            sent.append((*row, INSERT))
        else:
            left[row] -= 1
            sent.append((*row, DELETE))
    result = materialise(changes(sent), None)
    assert result.schema == SCHEMA
    assert Counter((row["k"], row["v"]) for row in result.to_pylist()) == +left


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | st.sampled_from("ab"), st.booleans()), max_size=40)
)
def test_with_a_key_the_last_change_of_each_key_counts(steps: list[tuple[int | None, str | None, bool]]) -> None:
    model: dict[int | None, str | None] = {}
    sent = []
    for key, value, removes in steps:
        if removes and key in model:
            sent.append((key, model.pop(key), DELETE))
            continue
        if key in model:
            sent.append((key, model[key], UPDATE_BEFORE))
        sent.append((key, value, UPDATE_AFTER if key in model else INSERT))
        model[key] = value
    result = materialise(changes(sent), ("k",))
    assert {row["k"]: row["v"] for row in result.to_pylist()} == model
    assert materialise(changes(sent), None).num_rows == len(model)


def test_a_result_of_one_row_has_an_empty_key() -> None:
    assert materialise(changes([(1, "a", INSERT), (2, "b", UPDATE_AFTER)]), ()).to_pylist() == [{"k": 2, "v": "b"}]
    assert materialise(changes([(1, "a", INSERT), (1, "a", DELETE)]), ()).num_rows == 0
    assert materialise(changes([]), ()).num_rows == 0


def test_a_row_that_was_never_there_cannot_be_taken_back() -> None:
    with pytest.raises(ValueError, match=r"'k': 1.*1 times more"):
        materialise(changes([(1, "a", DELETE)]), None)


def test_nested_values_are_told_apart_too() -> None:
    schema = updating(pa.schema([("tags", pa.list_(pa.string()))]))
    rows = [{"tags": ["a"], ROW_KIND: INSERT}, {"tags": ["b"], ROW_KIND: INSERT}, {"tags": ["a"], ROW_KIND: DELETE}]
    assert materialise(pa.Table.from_pylist(rows, schema=schema), None).to_pylist() == [{"tags": ["b"]}]


def test_plain_rows_get_kinds_and_lose_them_again() -> None:
    batch = pa.record_batch([pa.array([1, 2]), pa.array(["a", None])], schema=SCHEMA)
    with OperatorHarness(Inserts(), SCHEMA) as harness:
        harness.send(batch)
        table = harness.take_table()
    assert table is not None
    sent = table.to_batches()[0]
    assert kinds_of(sent).tolist() == [INSERT, INSERT]
    assert without_kinds(sent).equals(batch)


def test_row_kinds_are_written_as_flink_writes_them() -> None:
    batch = pa.record_batch([pa.array([1] * 4), pa.array(["a"] * 4)], schema=SCHEMA)
    strict = pa.schema([SCHEMA.field("k").with_nullable(False), SCHEMA.field("v")])
    batch = batch.cast(strict)
    kinds = pa.array([INSERT, UPDATE_BEFORE, UPDATE_AFTER, DELETE], pa.int8()).to_numpy()
    with OperatorHarness(ToChangelog("op"), updating(SCHEMA)) as harness:
        harness.send(with_kinds(batch, kinds))
        table = harness.take_table()
    assert table is not None
    assert table["op"].to_pylist() == ["+I", "-U", "+U", "-D"]
    assert not table.schema.field("k").nullable
