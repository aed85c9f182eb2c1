"""Over-aggregation against a model that looks at every slice anew."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.changelog import updating
from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.operators.aggregate import BoundAggregate, aggregate_type
from lakeward.operators.over.memory import OverConfig
from lakeward.operators.over.operator import Over
from lakeward.operators.over.slices import Slices, slices_of_rows, slices_of_time
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

AT = pa.timestamp("us", "UTC")
SCHEMA = pa.schema(
    {"k": pa.string(), "at": AT, "x": pa.int64(), "f": pa.float64(), "s": pa.string(), "d": pa.decimal128(9, 2),
     "b": pa.bool_(), "n": pa.int64()}
)  # fmt: skip
COLUMNS = tuple(SCHEMA.names)
Row = dict[str, Any]


def bound(name: str, kind: str, column: str | None = None, condition: str | None = None) -> BoundAggregate:
    given_type = None if column is None else SCHEMA.field(column).type
    return BoundAggregate(name, kind, column, given_type, aggregate_type(kind, given_type), condition=condition)


AGGREGATES = (
    bound("rows", "count"),
    bound("given", "count", "x"),
    bound("true", "count", None, "b"),
    bound("sum_x", "sum", "x"),
    bound("sum_f", "sum", "f"),
    bound("sum_d", "sum", "d"),
    bound("mean_x", "mean", "x"),
    bound("mean_d", "mean", "d"),
    bound("min_x", "min", "x"),
    bound("max_f", "max", "f"),
    bound("min_f", "min", "f"),
    bound("max_s", "max", "s"),
    bound("min_d", "min", "d"),
    bound("first_s", "first", "s"),
    bound("last_x", "last", "x", "b"),
    bound("values_s", "count_distinct", "s"),
    bound("values_d", "count_distinct", "d"),
    bound("values_x", "count_distinct", "x", "b"),
)


def config(rows: int | None = None, range_us: int | None = None) -> OverConfig:
    return OverConfig(SCHEMA, ("k",), "at", 0, rows, range_us, AGGREGATES, COLUMNS)


def number(value: float | None) -> float | None:
    """Floats that compare: NaN as one value above all."""
    return None if value is None else (math.inf, 1) if math.isnan(value) else (value, 0)  # type: ignore[return-value]


def computed(kind: str, values: list[Any], output: pa.DataType) -> Any:
    if kind == "count":
        return len(values)
    if kind == "count_distinct":
        return len({repr(value) for value in values})
    if not values:
        return None
    if kind in ("first", "last"):
        return values[0 if kind == "first" else -1]
    if kind in ("min", "max"):
        return (min if kind == "min" else max)(values, key=lambda v: number(v) if isinstance(v, float) else v)
    total = sum(values)
    if kind == "sum":
        return total
    if isinstance(total, Decimal):
        return (total / len(values)).quantize(Decimal(1).scaleb(-output.scale), ROUND_HALF_UP)
    return total / len(values)


def expected(rows: Sequence[Row], over: OverConfig) -> list[Row]:
    """The answer, row by row, in the order of time and arrival."""
    ordered = sorted(rows, key=lambda row: row["at"])
    answer = []
    for at, row in enumerate(ordered):
        if over.range_us is not None:
            after, since = row["at"], row["at"] - over.range_us
            part = [other for other in ordered if other["k"] == row["k"] and since <= other["at"] <= after]
        else:
            part = [other for other in ordered[: at + 1] if other["k"] == row["k"]][-(over.rows or len(ordered)) :]
        results = {}
        for one in over.aggregates:
            counted = [other for other in part if one.condition is None or other[one.condition]]
            values = [other[one.column] if one.column else 1 for other in counted]
            results[one.name] = computed(one.kind, [value for value in values if value is not None], one.output_type)
        answer.append({**row, **results})
    return answer


def comparable(rows: Sequence[Row]) -> list[str]:
    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return "nan" if math.isnan(value) else round(value, 9) + 0.0
        return value

    texts = [repr([(k, plain(v)) for k, v in row.items() if k != "at"]) for row in rows]
    return sorted(texts)


row_values = st.tuples(
    st.sampled_from(["a", "b", None]),
    st.integers(0, 6),
    st.sampled_from([None, 1, 2, -3, 2**40]),
    st.sampled_from([None, 0.5, -1.0, 1e17, math.nan, math.inf]),
    st.sampled_from([None, "", "p", "q"]),
    st.sampled_from([None, Decimal("1.25"), Decimal("-3.10"), Decimal("1234567.89")]),
    st.sampled_from([None, True, False]),
)
batches_of_rows = st.lists(st.lists(row_values, max_size=7), min_size=1, max_size=5)
overs = [config(rows=1), config(rows=3), config(range_us=2), config(range_us=0), config()]


def numbered(batches: Sequence[Sequence[tuple[Any, ...]]]) -> list[list[Row]]:
    count = iter(range(10_000))
    return [[dict(zip(COLUMNS, (*row, next(count)), strict=True)) for row in batch] for batch in batches]


def without_infinity(rows: list[list[Row]]) -> list[list[Row]]:
    """Great numbers beside small ones would not add up alike in another order."""
    return [[{**row, "f": None if row["f"] == 1e17 else row["f"]} for row in batch] for batch in rows]


@pytest.mark.parametrize("over", overs, ids=["row", "3 rows", "range", "peers", "all"])
@given(given_batches=batches_of_rows)
@settings(max_examples=20, deadline=None)
def test_each_row_gets_the_aggregates_of_its_slice_however_rows_arrive(
    over: OverConfig, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    rows = without_infinity(numbered(given_batches))
    sent: list[Row] = []
    in_time: list[Row] = []
    late = 0
    with OperatorHarness(Over(over), SCHEMA) as harness:
        for watermark, batch in enumerate(rows):
            harness.send(batch)
            in_time += [row for row in batch if row["at"] > watermark - 1 or watermark == 0]
            late += sum(1 for row in batch if row["at"] <= watermark - 1 and watermark > 0)
            harness.watermark(watermark)
            sent += harness.take()
        sent += harness.end()
        assert harness.counter("late_rows") == late
    assert comparable(sent) == comparable(expected(in_time, over))
    times = [row["at"] for row in sent]
    assert times == sorted(times)


@pytest.mark.parametrize("over", overs[1:], ids=["3 rows", "range", "peers", "all"])
@given(given_batches=batches_of_rows)
@settings(max_examples=6, deadline=None)
def test_it_goes_on_after_a_restore_at_another_parallelism(
    over: OverConfig, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    from lakeward.engine.core.hashing import hash_columns
    from lakeward.engine.core.keygroups import key_groups

    rows = without_infinity(numbered(given_batches))
    sent: list[Row] = []
    snapshots: list[HarnessSnapshot] = []
    in_time = []
    for step, batch in enumerate(rows):
        parallelism = (1, 2, 3, 2, 1)[step]
        ports = [HarnessConfig(i, parallelism) for i in range(parallelism)]
        harnesses = [OperatorHarness(Over(over), SCHEMA, config=one, restored=snapshots) for one in ports]
        try:
            arrow = pa.RecordBatch.from_pylist(batch, schema=SCHEMA)
            groups = key_groups(hash_columns([arrow.column("k")]), 128).tolist()
            for harness, port in zip(harnesses, ports, strict=True):
                harness.send(arrow.filter(pa.array([group in port.key_groups for group in groups], pa.bool_())))
                harness.watermark(step)
            in_time += [row for row in batch if row["at"] > step - 1 or step == 0]
            snapshots = [harness.snapshot() for harness in harnesses]
            for harness in harnesses:
                if step == len(rows) - 1:
                    sent += harness.end()
                sent += harness.take()
        finally:
            for harness in harnesses:
                harness.close()
    assert comparable(sent) == comparable(expected(in_time, over))


def test_a_great_number_that_left_the_slice_leaves_no_rounding_error() -> None:
    over = replace(config(rows=2), aggregates=(bound("sum_f", "sum", "f"),))
    rows = [{"k": "a", "at": n, "f": f} for n, f in enumerate([1e17, 1.0, 2.0, math.inf, 3.0, 4.0])]
    with OperatorHarness(Over(over), SCHEMA) as harness:
        harness.send(rows)
        sums = [row["sum_f"] for row in harness.end()]
    assert sums == [1e17, 1e17, 3.0, math.inf, math.inf, 7.0]


def test_sums_are_exact_up_to_the_limit_and_fail_beyond_it() -> None:
    over = replace(config(rows=3), aggregates=(bound("sum_x", "sum", "x"),))
    most = 2**63 - 1
    with OperatorHarness(Over(over), SCHEMA) as harness:
        harness.send([{"k": "a", "at": n, "x": x} for n, x in enumerate([most, -most, most, -1, -most])])
        assert [row["sum_x"] for row in harness.end()] == [most, 0, most, -1, -1]
    with OperatorHarness(Over(over), SCHEMA) as harness:
        harness.send([{"k": "a", "at": n, "x": most} for n in range(2)])
        with pytest.raises(RecordError, match="does not fit int64"):
            harness.end()


def test_only_rows_that_later_slices_reach_are_remembered() -> None:
    for over, left in ((config(rows=4), 3), (config(range_us=10), 21), (config(), 1)):
        with OperatorHarness(Over(over), SCHEMA) as harness:
            for start in range(0, 200, 10):
                harness.send([{"k": "a", "at": start + i, "x": 1} for i in range(10)])
                harness.watermark(start + 9)
            memory = harness.operator._memory  # type: ignore[attr-defined]
            assert len(memory._rows) <= left
            assert len(harness.operator._waiting) == 0  # type: ignore[attr-defined]


def test_many_rows_at_once_are_handled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakeward.operators.over.operator._CHUNK_ROWS", 3)
    rows = [{"k": "ab"[n % 2], "at": n // 4, "x": n, "n": n} for n in range(40)]
    for over in overs:
        with OperatorHarness(Over(over), SCHEMA) as harness:
            harness.send(rows)
            sent = harness.end()
        full = [{**dict.fromkeys(COLUMNS), **row} for row in rows]
        assert comparable(sent) == comparable(expected(full, over))


slices = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from([None, 0, 1, 2])), max_size=40)
cuts: list[Callable[[Any, Any], Slices]] = [
    lambda groups, times: slices_of_rows(groups, 4),
    lambda groups, times: slices_of_rows(groups, None),
    lambda groups, times: slices_of_time(groups, times, 3),
]


@pytest.mark.parametrize("cut", cuts)
@given(rows=slices)
@settings(max_examples=60, deadline=None)
def test_folds_of_slices_are_those_of_their_rows(cut: Any, rows: list[tuple[int, int, int | None]]) -> None:
    from lakeward.operators.over.functions import previous_equal

    ordered = sorted(rows, key=lambda row: row[:2])
    groups, times = (np.array([row[i] for row in ordered], np.int64) for i in (0, 1))
    values = np.array([-1 if row[2] is None else row[2] for row in ordered], np.int64)
    found = cut(groups, times)
    wanted = values >= 0
    parts = [values[a : b + 1] for a, b in zip(found.starts, found.ends, strict=True)]
    assert found.fold(values, 0, np.add).tolist() == [part.sum() for part in parts]
    assert found.counts(values).tolist() == [part.sum() for part in parts]
    distinct = found.distinct(previous_equal(groups, values, wanted), wanted)
    assert distinct.tolist() == [len(Counter(part[part >= 0].tolist())) for part in parts]


def test_what_cannot_be_aggregated_is_refused() -> None:
    with pytest.raises(SchemaError, match="takes rows back"):
        Over(replace(config(rows=1), schema=updating(SCHEMA)))
    with pytest.raises(SchemaError, match="'n' already"):
        Over(replace(config(rows=1), aggregates=(bound("n", "count"),)))
    with pytest.raises(SchemaError, match="need a timestamp"):
        Over(replace(config(rows=1), time_column="x"))
