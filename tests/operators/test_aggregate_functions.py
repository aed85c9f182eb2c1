"""Every aggregate of every type against plain Python, in one pane and merged from several."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.operators.aggregate import AGGREGATE_KINDS, BoundAggregate, aggregate_type
from lakeward.operators.windows.assigners import WindowAssigner
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.testing.harness import HarnessConfig, OperatorHarness

UTC = dt.UTC
Case = tuple[pa.DataType, st.SearchStrategy[Any]]

CASES: dict[str, Case] = {
    "int8": (pa.int8(), st.integers(-128, 127)),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "int64": (pa.int64(), st.integers(-(2**58), 2**58)),
    "uint16": (pa.uint16(), st.integers(0, 2**16 - 1)),
    "uint64": (pa.uint64(), st.integers(0, 2**58)),
    "float32": (pa.float32(), st.integers(-100, 100).map(lambda i: i / 4) | st.just(math.nan)),
    "float64": (pa.float64(), st.integers(-100, 100).map(lambda i: i / 4) | st.sampled_from([math.nan, math.inf])),
    "short decimal": (pa.decimal128(12, 2), st.integers(-(10**11), 10**11).map(lambda i: Decimal(i).scaleb(-2))),
    "long decimal": (
        pa.decimal128(36, 3),
        st.integers(-(10**35), 10**35).map(lambda i: Context(prec=40).scaleb(Decimal(i), -3)),
    ),
    "string": (pa.string(), st.text("abé€", max_size=9)),
    "binary": (pa.binary(), st.binary(max_size=3)),
    "bool": (pa.bool_(), st.booleans()),
    "timestamp": (
        pa.timestamp("ms", "UTC"),
        st.integers(-9, 9).map(lambda s: dt.datetime(2026, 1, 1, 0, 0, 30 + s, tzinfo=UTC)),
    ),
    "date": (pa.date32(), st.integers(1, 20).map(lambda d: dt.date(2026, 2, d))),
    "time": (pa.time64("us"), st.integers(1, 20).map(lambda h: dt.time(h, 30))),
}


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def order(value: Any) -> tuple[bool, Any]:
    """NaN is the greatest; strings go by their bytes."""
    if is_nan(value):
        return True, 0.0
    return False, value.encode() if isinstance(value, str) else value


def mean_of(values: Sequence[Any], kind: pa.DataType) -> Any:
    if not pa.types.is_decimal(kind):
        return math.fsum(values) / len(values) if not any(map(math.isinf, values)) else sum(values) / len(values)
    exact = Context(prec=76, rounding=ROUND_HALF_UP)
    total = Decimal(0)
    for value in values:
        total = exact.add(total, value)
    return exact.quantize(
        exact.divide(total, Decimal(len(values))), Decimal(1).scaleb(-aggregate_type("mean", kind).scale)
    )


def sum_of(values: Sequence[Any], kind: pa.DataType) -> Any:
    total = values[0]
    for value in values[1:]:
        total = Context(prec=76).add(total, value) if pa.types.is_decimal(kind) else total + value
    return total


MODEL: dict[str, Callable[[list[Any], pa.DataType], Any]] = {
    "count": lambda values, kind: len(values),
    "count_distinct": lambda values, kind: len({order(value) for value in values}),
    "sum": sum_of,
    "mean": mean_of,
    "min": lambda values, kind: min(values, key=order),
    "max": lambda values, kind: max(values, key=order),
}


def expected(kind: str, rows: list[tuple[int, Any]], type_: pa.DataType) -> Any:
    present = [(time, i, value) for i, (time, value) in enumerate(rows) if value is not None]
    if not present and not kind.startswith("count"):
        return None
    if kind == "first":
        return min(present, key=lambda row: (row[0], row[1]))[2]
    if kind == "collect":
        return [value for _, _, value in sorted(present, key=lambda row: (row[0], row[1]))]
    if kind == "last":
        return max(present, key=lambda row: (row[0], row[1]))[2]
    return MODEL[kind]([value for _, _, value in present], type_)


def same(a: Any, b: Any, largest: float = 0.0) -> bool:
    """Equal; floats but for rounding, which goes by the `largest` number that was added up."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return (is_nan(a) and is_nan(b)) or a == b or math.isclose(a, b, rel_tol=1e-9, abs_tol=largest * 1e-12)
    return bool(a == b)


def schema_of(kind: pa.DataType) -> pa.Schema:
    return pa.schema({"k": pa.string(), "at": pa.timestamp("us", tz="UTC"), "x": kind})


def all_aggregates(kind: pa.DataType) -> tuple[BoundAggregate, ...]:
    bound = []
    for name in AGGREGATE_KINDS:
        try:
            bound.append(BoundAggregate(name, name, "x", kind, aggregate_type(name, kind, "x")))
        except SchemaError:
            assert name in ("sum", "mean")
    return tuple(bound)


@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
@settings(max_examples=20, deadline=None)
def test_aggregates_agree_with_plain_python(case: str, data: st.DataObject) -> None:
    kind, values = CASES[case]
    rows = data.draw(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 11), st.none() | values), min_size=1, max_size=25)
    )
    cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=2).map(sorted))
    windows = data.draw(st.sampled_from([WindowAssigner(12, 12), WindowAssigner(12, 4)]))
    schema = schema_of(kind)
    with OperatorHarness(WindowAggregate(schema, ("k",), "at", windows, all_aggregates(kind)), schema) as harness:
        for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
            if rows[start:end]:
                harness.send([{"k": k, "at": t, "x": x} for k, t, x in rows[start:end]])
        results = harness.end()
    assert_results(results, rows, kind)


def assert_results(results: list[dict[str, Any]], rows: list[tuple[str, int, Any]], kind: pa.DataType) -> None:
    assert results
    for result in results:
        start = int(result["window_start"].timestamp() * 1_000_000)
        inside = [(t, x) for k, t, x in rows if k == result["k"] and start <= t < start + 12]
        for bound in all_aggregates(kind):
            wanted = expected(bound.kind, inside, kind)
            largest = max((abs(x) for _, x in inside if isinstance(x, int)), default=0)
            assert same(result[bound.name], wanted, largest), (bound.kind, result[bound.name], wanted, inside)


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize("case", CASES)
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_aggregates_come_back_from_a_snapshot(case: str, store: Any, data: st.DataObject) -> None:
    kind, values = CASES[case]
    rows = data.draw(
        st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 11), st.none() | values), min_size=2, max_size=12)
    )
    half = len(rows) // 2
    schema, config = schema_of(kind), HarnessConfig(store=store)
    factory = WindowAggregate(schema, ("k",), "at", WindowAssigner(12, 6), all_aggregates(kind))
    with OperatorHarness(factory, schema, config) as harness:
        harness.send([{"k": k, "at": t, "x": x} for k, t, x in rows[:half]])
        snapshot = harness.snapshot()
    with OperatorHarness.restore(factory, schema, [snapshot], config) as harness:
        harness.send([{"k": k, "at": t, "x": x} for k, t, x in rows[half:]])
        results = harness.end()
    assert_results(results, rows, kind)


def run_one(bound: BoundAggregate, values: list[Any], batches: int = 1) -> Any:
    assert bound.input_type is not None
    schema = schema_of(bound.input_type)
    factory = WindowAggregate(schema, ("k",), "at", WindowAssigner(100, 100), (bound,))
    with OperatorHarness(factory, schema) as harness:
        size = -(-len(values) // batches)
        for start in range(0, len(values), size):
            harness.send([{"k": "a", "at": 1, "x": value} for value in values[start : start + size]])
        return harness.end()[0][bound.name]


def bind(kind: str, input_type: pa.DataType) -> BoundAggregate:
    return BoundAggregate("result", kind, "x", input_type, aggregate_type(kind, input_type, "x"))


@pytest.mark.parametrize("batches", [1, 2, 4])
def test_an_integer_sum_that_does_not_fit_raises_and_does_not_wrap(batches: int) -> None:
    with pytest.raises(RecordError, match="the sum 'result' of x does not fit int64"):
        run_one(bind("sum", pa.int64()), [2**62, 2**62, 5, 5], batches)


def test_an_unsigned_sum_that_does_not_fit_raises() -> None:
    with pytest.raises(RecordError, match="does not fit int64"):
        run_one(bind("sum", pa.uint64()), [2**63 + 7])


def test_an_integer_sum_at_the_very_limits_is_exact() -> None:
    assert run_one(bind("sum", pa.int64()), [2**63 - 1, -5, 5, 0]) == 2**63 - 1
    assert run_one(bind("sum", pa.int64()), [-(2**63), 2**62, -(2**62)], batches=3) == -(2**63)


def test_an_intermediate_overflow_inside_one_batch_is_none() -> None:
    assert run_one(bind("sum", pa.int64()), [2**62, 2**62, -(2**62)]) == 2**62


def test_a_decimal_sum_beyond_38_digits_raises() -> None:
    with pytest.raises(RecordError, match="38 digits"):
        run_one(bind("sum", pa.decimal128(38, 0)), [Decimal(9 * 10**37), Decimal(10**37)])
    assert run_one(bind("sum", pa.decimal128(38, 0)), [Decimal(9 * 10**37), Decimal(10**37 - 1)]) == Decimal(10**38 - 1)


def test_a_max_of_infinities_only_is_not_mistaken_for_nothing() -> None:
    assert run_one(bind("max", pa.float64()), [-math.inf, None]) == -math.inf
    assert run_one(bind("min", pa.int64()), [2**63 - 1]) == 2**63 - 1
    assert run_one(bind("max", pa.int64()), [None, -(2**63)]) == -(2**63)


def test_dictionary_encoded_input_counts_as_its_values() -> None:
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema({"k": kind, "at": pa.timestamp("us", tz="UTC"), "x": kind})
    aggregates = tuple(bind(name, kind) for name in ("max",))
    with OperatorHarness(WindowAggregate(schema, ("k",), "at", WindowAssigner(9, 9), aggregates), schema) as harness:
        words = pa.array(["b", "c", None]).dictionary_encode()
        times = pa.array([1, 2, 3], type=pa.timestamp("us", tz="UTC"))
        harness.send(pa.RecordBatch.from_arrays([words, times, words], schema=schema))
        results = {(row["k"], row["result"]) for row in harness.end()}
    assert results == {("b", "b"), ("c", "c"), (None, None)}


@pytest.mark.parametrize(
    ("kind", "input_type", "words"),
    [
        ("sum", pa.string(), "sum of column 'x' of type string"),
        ("mean", pa.bool_(), "mean of column 'x' of type bool"),
        ("min", pa.list_(pa.int64()), "min of column 'x' of type list"),
        ("count_distinct", pa.struct({"a": pa.int64()}), "count_distinct of column 'x' of type struct"),
        ("median", pa.int64(), "there is no aggregate 'median'"),
        ("sum", None, r"sum\(\) needs a column"),
    ],
)
def test_aggregates_that_make_no_sense_name_the_column_and_its_type(kind: str, input_type: Any, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        aggregate_type(kind, input_type, "x")
