"""Filtered aggregates and exact counts of different values, in windows and over all time, against plain Python."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.changelog import ROW_KIND
from lakeward.engine.core.errors import CheckpointError, SchemaError
from lakeward.operators.aggregate import Aggregation, BoundAggregate, aggregate_type
from lakeward.operators.aggregates import identity
from lakeward.operators.group_aggregate import GroupAggregate
from lakeward.operators.grouping import group_keys
from lakeward.operators.windows.assigners import WindowAssigner
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.testing.harness import HarnessConfig, OperatorHarness

Row = tuple[str, int, Any, bool | None, bool | None]
"""Key, time, value, two flags."""

VALUES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int64": (pa.int64(), st.integers(-2, 2)),
    "string": (pa.string(), st.sampled_from(["", "a", "b", "ab"])),
    "float64": (pa.float64(), st.sampled_from([0.0, -0.0, 1.5, math.nan])),
    "decimal": (pa.decimal128(20, 2), st.integers(-1, 2).map(lambda n: Decimal(n).scaleb(-2))),
    "date": (pa.date32(), st.integers(1, 3).map(lambda day: dt.date(2026, 2, day))),
}


def schema_of(kind: pa.DataType) -> pa.Schema:
    plain = {"k": pa.string(), "at": pa.timestamp("us", tz="UTC"), "x": kind, "f": pa.bool_(), "g": pa.bool_()}
    return pa.schema(plain)


def bound(kind: str, value_type: pa.DataType | None, condition: str | None) -> BoundAggregate:
    column = None if value_type is None else "x"
    name = f"{kind} {column} {condition}"
    return BoundAggregate(name, kind, column, value_type, aggregate_type(kind, value_type, "x"), condition=condition)


def aggregates_of(kind: pa.DataType) -> tuple[BoundAggregate, ...]:
    conditions = (None, "f", "g")
    counts = [bound("count", None, condition) for condition in conditions]
    values = [bound(name, kind, one) for name in ("count", "count_distinct", "max") for one in conditions]
    return (*counts, *values)


def expected(aggregate: BoundAggregate, rows: list[Row]) -> Any:
    if aggregate.condition is not None:
        rows = [row for row in rows if row[3 if aggregate.condition == "f" else 4]]
    if aggregate.column is None:
        return len(rows)
    values = [row[2] for row in rows if row[2] is not None]
    if aggregate.kind == "count":
        return len(values)
    if aggregate.kind == "count_distinct":
        return len({"nan" if value != value else value for value in values})
    return max(values, key=lambda value: (value != value, 0 if value != value else value), default=None)


def same(one: Any, other: Any) -> bool:
    return bool(one == other or (one != one and other != other))


def as_rows(rows: list[Row]) -> list[dict[str, Any]]:
    return [dict(zip(("k", "at", "x", "f", "g"), row, strict=True)) for row in rows]


FLAGS = st.sampled_from([True, False, None])


def batches_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[list[Row]]]:
    row = st.tuples(st.sampled_from("ab"), st.integers(0, 23), st.none() | values, FLAGS, FLAGS)
    return st.lists(st.lists(row, min_size=1, max_size=8), min_size=1, max_size=4)


@pytest.mark.parametrize("case", VALUES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_filtered_aggregates_in_windows_agree_with_plain_python(case: str, data: st.DataObject) -> None:
    kind, values = VALUES[case]
    batches = data.draw(batches_of(values))
    windows = data.draw(st.sampled_from([WindowAssigner(12, 12), WindowAssigner(12, 4), WindowAssigner(12, 8)]))
    factory = WindowAggregate(schema_of(kind), ("k",), "at", windows, aggregates_of(kind))
    restart = data.draw(st.integers(0, len(batches)))
    harness = OperatorHarness(factory, schema_of(kind))
    for number, batch in enumerate(batches):
        if number == restart:
            snapshot = harness.snapshot()
            harness.close()
            harness = OperatorHarness.restore(factory, schema_of(kind), [snapshot])
        harness.send(as_rows(batch))
    results = harness.end()
    harness.close()
    every = [row for batch in batches for row in batch]
    assert results
    for result in results:
        start = int(result["window_start"].timestamp() * 1_000_000)
        inside = [row for row in every if row[0] == result["k"] and start <= row[1] < start + 12]
        for aggregate in aggregates_of(kind):
            assert same(result[aggregate.name], expected(aggregate, inside)), (aggregate, result, inside)


@given(batches=batches_of(st.integers(0, 3)))
@settings(max_examples=20, deadline=None)
def test_late_rows_correct_distinct_counts_of_several_panes(batches: list[list[Row]]) -> None:
    factory = WindowAggregate(
        schema_of(pa.int64()), ("k",), "at", WindowAssigner(24, 8), aggregates_of(pa.int64()), allowed_lateness_us=1000
    )
    seen: list[Row] = []
    with OperatorHarness(factory, schema_of(pa.int64())) as harness:
        for batch in batches:
            harness.send(as_rows(batch))
            seen += batch
            harness.watermark(30)
            for result in harness.take():
                start = int(result["window_start"].timestamp() * 1_000_000)
                inside = [row for row in seen if row[0] == result["k"] and start <= row[1] < start + 24]
                for aggregate in aggregates_of(pa.int64()):
                    assert same(result[aggregate.name], expected(aggregate, inside)), (aggregate, result, inside)


def test_distinct_values_of_all_conditions_are_in_one_table_and_shared_inputs_are_counted_once() -> None:
    aggregation = Aggregation(aggregates_of(pa.int64()), (("k", pa.string()),))
    assert len(aggregation._distinct) == 1
    names = [spec.name for spec in aggregation.columns]
    assert len(names) == len(set(names))
    # rows and a key's number; seen by (x, -), (-, f), (x, f), (-, g), (x, g); three counters; three maxima
    assert len(names) == 2 + 5 + 3 + 3


def test_keys_whose_hashes_are_equal_get_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "hash_columns", lambda arrays: np.zeros(len(arrays[0]), np.uint64))
    factory = GroupAggregate(schema_of(pa.int64()), ("k",), (bound("count_distinct", pa.int64(), None),))
    with OperatorHarness(factory, schema_of(pa.int64())) as harness:
        harness.send(as_rows([(f"key {i}", 0, i % 3, None, None) for i in range(30)]))
        harness.send(as_rows([(f"key {i}", 0, j, None, None) for i in range(60) for j in range(i % 5)]))
        final = {row["k"]: row["count_distinct x None"] for row in harness.take() if row[ROW_KIND] in (0, 2)}
    for i in range(60):
        assert final.get(f"key {i}", 0) == len({*range(i % 5), *([i % 3] if i < 30 else [])}), i


def test_numbers_of_keys_stay_different_over_restores_at_other_parallelisms() -> None:
    factory = GroupAggregate(schema_of(pa.int64()), ("k",), (bound("count_distinct", pa.int64(), None),))
    schema, snapshots = schema_of(pa.int64()), []
    for sent, parallelism in enumerate((2, 3, 1)):
        harnesses = [
            OperatorHarness.restore(factory, schema, snapshots, HarnessConfig(i, parallelism, 16))
            for i in range(parallelism)
        ]
        numbers: list[int] = []
        for i, harness in enumerate(harnesses):
            harness.send(as_rows([(f"{i} {sent} {n}", 0, n, None, None) for n in range(50)]))
        snapshots = [harness.snapshot() for harness in harnesses]
        for harness in harnesses:
            for batch in harness.operator._table.pane().scan():  # type: ignore[attr-defined]
                numbers += batch.column(identity.ID).to_pylist()
            harness.close()
        assert len(numbers) == len(set(numbers))
        assert 0 not in numbers


def test_the_number_that_would_be_zero_is_never_given() -> None:
    numbers = identity.KeyNumbers()
    factory = GroupAggregate(schema_of(pa.int64()), ("k",), (bound("count_distinct", pa.int64(), None),))
    with OperatorHarness(factory, schema_of(pa.int64())) as harness:
        numbers = harness.operator._aggregation._numbers  # type: ignore[attr-defined]
        numbers._next = identity._ZERO - 2
        harness.send(as_rows([(f"key {n}", 0, n, None, None) for n in range(5)]))
        assert numbers._next == identity._ZERO + 1 + 5


def test_forgetting_keys_of_a_pane_forgets_their_values() -> None:
    kind = pa.int64()
    factory = WindowAggregate(
        schema_of(kind), ("k",), "at", WindowAssigner(12, 12), (bound("count_distinct", kind, None),)
    )
    with OperatorHarness(factory, schema_of(kind)) as harness:
        harness.send(as_rows([("a", 1, 7, None, None), ("b", 1, 7, None, None)]))
        harness.operator._state.forget(0, [pa.array(["a"])])  # type: ignore[attr-defined]
        harness.send(as_rows([("a", 2, 7, None, None), ("a", 3, 8, None, None), ("b", 3, 7, None, None)]))
        assert {row["k"]: row["count_distinct x None"] for row in harness.end()} == {"a": 2, "b": 1}


def test_more_conditions_than_bits_are_refused() -> None:
    aggregates = [bound("count_distinct", pa.int64(), f"c{number}") for number in range(63)]
    with pytest.raises(SchemaError, match="63 conditions"):
        Aggregation(aggregates, (("k", pa.string()),))


@given(
    st.lists(
        st.tuples(st.none() | st.integers(-2, 2), st.none() | st.sampled_from("ab"), st.sampled_from([0.0, math.nan])),
        min_size=1,
        max_size=40,
    )
)
def test_rows_are_numbered_by_their_values(rows: list[tuple[Any, ...]]) -> None:
    columns = list(zip(*rows, strict=True))
    arrays = [pa.array(columns[0], pa.int64()), pa.array(columns[1], pa.string()), pa.array(columns[2], pa.float64())]
    groups = group_keys(arrays)
    assert len(groups) == len({repr(row) for row in rows})
    assert len({(repr(row), number) for row, number in zip(rows, groups.numbers.tolist(), strict=True)}) == len(groups)
    assert groups.numbers[groups.rows].tolist() == list(range(len(groups)))


def test_a_restored_job_may_have_another_aggregate_but_no_other_conditions_of_distinct_counts() -> None:
    kind = pa.int64()
    schema = schema_of(kind)

    def factory(*aggregates: BoundAggregate) -> GroupAggregate:
        return GroupAggregate(schema, ("k",), aggregates)

    distinct_f = bound("count_distinct", kind, "f")
    with OperatorHarness(factory(distinct_f), schema) as harness:
        harness.send(as_rows([("a", 0, 1, True, None), ("a", 0, 2, True, None)]))
        snapshot = harness.snapshot()
    with OperatorHarness.restore(factory(bound("count", None, "g"), distinct_f), schema, [snapshot]) as harness:
        harness.send(as_rows([("a", 0, 2, True, True), ("a", 0, 3, True, None)]))
        assert [(row["count None g"], row["count_distinct x f"]) for row in harness.take()] == [(0, 2), (1, 3)]
    with pytest.raises(CheckpointError, match="distinct x"):
        OperatorHarness.restore(factory(distinct_f, bound("count_distinct", kind, "g")), schema, [snapshot])
