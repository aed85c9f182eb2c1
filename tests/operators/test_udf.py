"""Python row and batch functions: what they are given, what they may return, and what their mistakes look like."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.api.row_types import arrow_type, schema_of
from lakeward.engine.core.errors import GraphError, RecordError, SchemaError, UserCodeError
from lakeward.operators.function_names import function_name
from lakeward.operators.rows import CHUNK_ROWS, RowReader, RowWriter, column_to_list, list_to_column
from lakeward.operators.signatures import output_schema_of
from lakeward.operators.udf import FilterRows, FlatMapRows, MapBatches, MapRows

AT = datetime(2024, 5, 17, 8, 30, tzinfo=UTC)
SCHEMA = pa.schema({"a": pa.int64(), "b": pa.string(), "at": pa.timestamp("us", tz="UTC")})
BATCH = pa.RecordBatch.from_pylist(
    [{"a": 1, "b": "x", "at": AT}, {"a": None, "b": None, "at": None}, {"a": 3, "b": "z", "at": AT}], schema=SCHEMA
)


@dataclass(frozen=True)
class Order:
    a: int | None
    at: datetime | None
    note: str = "none"


@dataclass
class KeywordOrder:
    b: str = field(kw_only=True)
    a: int | None = None


class Pair(NamedTuple):
    a: int | None
    b: str | None


class Record(TypedDict):
    a: int
    b: str


@dataclass
class Inner:
    x: int
    y: str | None


@dataclass
class Outer:
    inner: Inner
    tags: list[str]


class Collected(Output):
    """Keeps what an operator sends."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def emit(self, batch: pa.RecordBatch) -> None:
        self.batches.append(batch)

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        raise AssertionError(tag)


def run(factory: OperatorFactory, *batches: pa.RecordBatch) -> list[dict[str, Any]]:
    out, operator = Collected(), factory.create()
    for batch in batches or (BATCH,):
        operator.on_batch(batch, out)
    for batch in out.batches:
        batch.validate(full=True)
    return [row for batch in out.batches for row in batch.to_pylist()]


def test_rows_come_as_dicts_with_aware_times() -> None:
    seen: list[Any] = []
    run(MapRows(lambda row: seen.append(row) or row, SCHEMA, SCHEMA))  # type: ignore[func-returns-value]
    assert seen == [
        {"a": 1, "b": "x", "at": AT},
        {"a": None, "b": None, "at": None},
        {"a": 3, "b": "z", "at": AT},
    ]
    assert seen[0]["at"].tzinfo is UTC


def test_rows_come_as_the_class_that_the_parameter_is_annotated_with() -> None:
    def by_dataclass(row: Order) -> Pair:
        assert isinstance(row, Order)
        return Pair(row.a, f"{row.note} {row.at}")

    def by_tuple(row: Pair) -> Pair:
        assert isinstance(row, Pair)
        return row

    def by_keyword(row: KeywordOrder) -> Pair:
        assert isinstance(row, KeywordOrder)
        return Pair(row.a, row.b)

    made = output_schema_of(by_dataclass)
    assert run(MapRows(by_dataclass, SCHEMA, made))[0] == {"a": 1, "b": f"none {AT}"}
    assert run(MapRows(by_tuple, SCHEMA, made))[2] == {"a": 3, "b": "z"}
    assert run(MapRows(by_keyword, SCHEMA, made))[0] == {"a": 1, "b": "x"}


def test_a_parameter_class_that_does_not_fit_the_stream_is_refused_before_the_job_runs() -> None:
    class Wrong(NamedTuple):
        aa: int

    class Text(NamedTuple):
        a: str

    with pytest.raises(SchemaError, match="no column 'aa'"):
        FilterRows(_annotated(Wrong), SCHEMA)
    with pytest.raises(SchemaError, match=r"Text\.a is annotated str, but the column is int64"):
        FilterRows(_annotated(Text), SCHEMA)


def _annotated(row_class: type) -> Any:
    def function(row: Any) -> bool:
        return True

    function.__annotations__["row"] = row_class
    return function


PAIR = schema_of(Pair)


@pytest.mark.parametrize(
    "make",
    [
        lambda row: {"b": "q", "a": 5},
        lambda row: Pair(5, "q"),
        lambda row: KeywordOrder(b="q", a=5),
        lambda row: (5, "q"),
        lambda row: {"a": 5, "b": "q"} if row["a"] else (5, "q"),
        lambda row: Pair(5, "q") if row["a"] else {"a": 5, "b": "q"},
    ],
)
def test_a_row_may_be_returned_as_a_dict_a_dataclass_or_a_tuple(make: Any) -> None:
    assert run(MapRows(make, SCHEMA, PAIR)) == [{"a": 5, "b": "q"}] * 3


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({"a": 1}, ["lacks column 'b'", "{'a': 1}"]),
        ({"a": 1, "b": "x", "c": 2}, ["unknown column 'c'"]),
        ({"a": 1, "bb": "x"}, ["lacks column 'b'"]),
        ({"a": "1", "b": "x"}, ["column 'a' is int64, but got a value of type str", "{'a': '1'}"]),
        ({"a": 1.5, "b": "x"}, ["column 'a' is int64, but got a value of type float", "{'a': 1.5}"]),
        ({"a": 2**70, "b": "x"}, ["column 'a' is int64"]),
        ({"a": 1, "b": 7}, ["column 'b' is string, but got a value of type int", "{'b': 7}"]),
        ((1,), ["1 values, expected 2", "a, b"]),
        (None, ["is no row", "result: None", "filter"]),
        ("text", ["is no row", "result: 'text'"]),
        (Order(1, None), ["Order, which has no field for column 'b'"]),
    ],
)
def test_a_wrong_result_is_reported_with_column_type_and_value(result: Any, words: list[str]) -> None:
    with pytest.raises(UserCodeError) as caught:
        run(MapRows(lambda row: result, SCHEMA, PAIR))
    for word in [*words, "test_udf.py:"]:
        assert word in str(caught.value)


def test_one_bad_result_among_many_is_the_one_reported() -> None:
    batch = pa.RecordBatch.from_pylist([{"a": i, "b": "x", "at": AT} for i in range(2 * CHUNK_ROWS)], schema=SCHEMA)
    bad = CHUNK_ROWS + 7
    with pytest.raises(UserCodeError, match=r"(?s)row: {'a': 519, .*result: {'a': 'seven'}"):
        run(MapRows(lambda row: {"a": "seven" if row["a"] == bad else 1, "b": None}, SCHEMA, PAIR), batch)


def test_an_exception_in_the_function_names_the_function_its_place_and_the_row() -> None:
    def halve(row: dict[str, Any]) -> Pair:
        return Pair(6 // (row["a"] - 3), "")

    batch = pa.RecordBatch.from_pylist([{"a": 1, "b": "x" * 500, "at": AT}, {"a": 3, "b": "y" * 500}], schema=SCHEMA)
    with pytest.raises(UserCodeError) as caught:
        run(MapRows(halve, SCHEMA, PAIR), batch)
    text = str(caught.value)
    assert "halve' (" in text
    assert "test_udf.py:" in text
    assert "raised ZeroDivisionError" in text
    assert "{'a': 3, 'b': 'yyy" in text
    assert len(text) < 600
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_flat_map_takes_lists_generators_and_none() -> None:
    def words(row: dict[str, Any]) -> Iterator[Pair]:
        for _ in range(row["a"] or 0):
            yield Pair(row["a"], row["b"])

    assert run(FlatMapRows(words, SCHEMA, output_schema_of(words))) == [{"a": 1, "b": "x"}] + [{"a": 3, "b": "z"}] * 3
    some = FlatMapRows(lambda row: [(1, "k")] if row["a"] == 1 else None, SCHEMA, PAIR)
    assert run(some) == [{"a": 1, "b": "k"}]
    assert run(FlatMapRows(lambda row: [], SCHEMA, PAIR)) == []


def test_flat_map_errors_inside_a_generator_name_the_row() -> None:
    def failing(row: dict[str, Any]) -> Iterator[Pair]:
        yield Pair(row["a"], row["b"])
        raise KeyError("gone")

    with pytest.raises(UserCodeError, match=r"(?s)raised KeyError: 'gone'.*row: \{'a': 1"):
        run(FlatMapRows(failing, SCHEMA, PAIR))
    with pytest.raises(UserCodeError, match="returned a single dict"):
        run(FlatMapRows(lambda row: {"a": 1, "b": "x"}, SCHEMA, PAIR))


def test_flat_map_cuts_large_outputs_into_batches() -> None:
    out = Collected()
    batch = pa.RecordBatch.from_pylist([{"a": 1, "b": "x", "at": AT}] * (2 * CHUNK_ROWS), schema=SCHEMA)
    FlatMapRows(lambda row: [(1, "x")] * 150, SCHEMA, PAIR).create().on_batch(batch, out)
    assert sum(part.num_rows for part in out.batches) == 300 * CHUNK_ROWS
    assert len(out.batches) == 2


def test_a_filter_function_keeps_rows_for_which_it_is_true() -> None:
    assert [row["a"] for row in run(FilterRows(lambda row: row["a"], SCHEMA))] == [1, 3]
    assert run(FilterRows(lambda row: False, SCHEMA)) == []
    out = Collected()
    FilterRows(lambda row: True, SCHEMA).create().on_batch(BATCH, out)
    assert out.batches[0] is BATCH


def test_map_batches_checks_what_comes_back() -> None:
    def reordered(batch: pa.RecordBatch) -> pa.Table:
        return pa.Table.from_batches([batch]).select(["b", "a"])

    assert run(MapBatches(reordered, PAIR)) == [{"a": 1, "b": "x"}, {"a": None, "b": None}, {"a": 3, "b": "z"}]
    assert run(MapBatches(lambda batch: batch.slice(0, 0).select(["a", "b"]), PAIR)) == []
    assert run(MapBatches(lambda batch: None, PAIR)) == []
    wrong = {
        "unknown column 'at'": lambda batch: batch,
        "lacks column 'b'": lambda batch: batch.select(["a"]),
        "has column 'a' as double, not int64": lambda batch: pa.record_batch({"a": [1.0], "b": ["x"]}),
        "returned a list": lambda batch: [1],
        "raised ValueError: no on a batch of 3 rows": _raises,
    }
    for words, function in wrong.items():
        with pytest.raises(UserCodeError, match=words):
            run(MapBatches(function, PAIR))


def _raises(batch: pa.RecordBatch) -> pa.RecordBatch:
    raise ValueError("no")


def test_empty_batches_go_through() -> None:
    assert run(MapRows(lambda row: row, SCHEMA, SCHEMA), BATCH.slice(0, 0)) == []


def test_a_coroutine_function_is_refused() -> None:
    async def later(row: dict[str, Any]) -> Pair:
        return Pair(1, "")

    with pytest.raises(GraphError, match="async"):
        MapRows(later, SCHEMA, PAIR)


class Doubler:
    """A function object."""

    def __call__(self, row: Pair) -> Pair:
        return row

    def method(self, row: Pair) -> Iterable[Pair]:
        return [row]


def test_the_output_schema_comes_from_the_annotation_or_from_returns() -> None:
    def typed(row: Any) -> Record: ...  # type: ignore[empty-body]

    def optional(row: Any) -> list[Pair] | None: ...

    assert output_schema_of(typed) == pa.schema({"a": pa.int64(), "b": pa.string()})
    assert output_schema_of(optional) == PAIR
    assert output_schema_of(Doubler()) == PAIR
    assert output_schema_of(Doubler().method) == PAIR
    assert output_schema_of(functools.partial(typed, 1)) == schema_of(Record)
    assert output_schema_of(lambda row: row, {"a": int, "at": "timestamp"}) == pa.schema(
        {"a": pa.int64(), "at": pa.timestamp("us", tz="UTC")}
    )
    assert output_schema_of(lambda row: row, Iterable[Order]) == schema_of(Order)
    assert output_schema_of(lambda row: row, PAIR) is PAIR
    assert run(MapRows(Doubler(), SCHEMA, PAIR))[0] == {"a": 1, "b": "x"}


def test_an_unknown_output_schema_says_how_to_give_it() -> None:
    def bare(row: Any) -> dict[str, int]:
        return {}

    class Hidden(NamedTuple):
        a: int

    def hidden(row: Any) -> Hidden: ...

    for function in (bare, lambda row: row):
        with pytest.raises(GraphError, match="returns="):
            output_schema_of(function)
    with pytest.raises(GraphError, match=r"'Hidden' cannot be resolved.*\n.*returns="):
        output_schema_of(hidden)
    assert function_name(bare).startswith("function 'test_an_unknown")


def test_python_types_map_to_arrow_types() -> None:
    pairs: list[tuple[Any, pa.DataType]] = [
        (int, pa.int64()),
        (float | None, pa.float64()),
        (bytes, pa.binary()),
        (bool, pa.bool_()),
        (datetime, pa.timestamp("us", tz="UTC")),
        (date, pa.date32()),
        (timedelta, pa.duration("us")),
        (Decimal, pa.decimal128(38, 9)),
        (Annotated[Decimal, pa.decimal128(10, 2)], pa.decimal128(10, 2)),
        (list[int | None], pa.list_(pa.int64())),
        (tuple[str, ...], pa.list_(pa.string())),
        (dict[str, int], pa.map_(pa.string(), pa.int64())),
        (Literal["a", "b"], pa.string()),
        (Inner, pa.struct({"x": pa.int64(), "y": pa.string()})),
        ("timestamp[ms, tz=Europe/Berlin]", pa.timestamp("ms", tz="Europe/Berlin")),
        ("float", pa.float64()),
        ("float32", pa.float32()),
    ]
    for hint, kind in pairs:
        assert arrow_type(hint) == kind, hint
    for bad in (int | str, Any, object, dict, "varchar2", 7):
        with pytest.raises(SchemaError):
            arrow_type(bad, "column 'x'")
    for empty in ({}, int, "orders"):
        with pytest.raises(SchemaError):
            schema_of(empty)


def test_nested_dataclasses_go_in_and_out_as_structs() -> None:
    schema = schema_of(Outer)
    batch = pa.RecordBatch.from_pylist([{"inner": {"x": 1, "y": None}, "tags": ["t"]}], schema=schema)

    def swap(row: Outer) -> Outer:
        assert isinstance(row.inner, Inner)
        return Outer(Inner(row.inner.x + 1, "y"), [*row.tags, "u"])

    assert run(MapRows(swap, schema, schema), batch) == [{"inner": {"x": 2, "y": "y"}, "tags": ["t", "u"]}]


def test_a_column_that_may_not_be_null_refuses_none() -> None:
    strict = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.string())])
    with pytest.raises(UserCodeError, match="'a' is None, but may not be null"):
        run(MapRows(lambda row: (row["a"], "x"), SCHEMA, strict))


def test_naive_times_are_utc_and_others_are_converted() -> None:
    from zoneinfo import ZoneInfo

    naive, berlin = datetime(2024, 5, 17, 8, 30), AT.astimezone(ZoneInfo("Europe/Berlin"))  # noqa: DTZ001
    utc = pa.timestamp("us", tz="UTC")
    assert list_to_column([naive, berlin, None, AT], utc).to_pylist() == [AT, AT, None, AT]
    assert list_to_column([berlin, naive], pa.timestamp("us")).to_pylist() == [naive, naive]
    with pytest.raises(TypeError, match="no datetime"):
        list_to_column([5], utc)
    far = pa.array([2**62], pa.int64()).cast(utc)
    with pytest.raises(RecordError, match="years 1 to 9999"):
        column_to_list(far)


KINDS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "uint8": (pa.uint8(), st.integers(0, 255)),
    "double": (pa.float64(), st.floats(allow_nan=False)),
    "bool": (pa.bool_(), st.booleans()),
    "string": (pa.string(), st.text(max_size=5)),
    "binary": (pa.binary(), st.binary(max_size=5)),
    "timestamp": (pa.timestamp("us", tz="UTC"), st.datetimes(timezones=st.just(UTC))),
    "naive": (pa.timestamp("ns"), st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1))),  # noqa: DTZ001
    "date": (pa.date32(), st.dates()),
    "duration": (pa.duration("us"), st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000))),
    "decimal": (pa.decimal128(12, 2), st.decimals(-1_000_000, 1_000_000, places=2)),
    "list": (pa.list_(pa.int64()), st.lists(st.integers(0, 5), max_size=3)),
    "struct": (pa.struct({"k": pa.string()}), st.fixed_dictionaries({"k": st.text(max_size=2)})),
}


@settings(max_examples=40, deadline=None)
@given(data=st.data(), rows=st.integers(0, 8), cut=st.integers(0, 3))
def test_rows_survive_the_way_to_python_and_back(data: st.DataObject, rows: int, cut: int) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4, unique=True))
    schema = pa.schema([pa.field(name, KINDS[name][0]) for name in names])
    columns = [
        pa.array(data.draw(st.lists(st.none() | KINDS[name][1], min_size=rows, max_size=rows)), KINDS[name][0])
        for name in names
    ]
    batch = pa.RecordBatch.from_arrays(columns, schema=schema).slice(cut)
    again = RowWriter(schema, "a row").batch(list(RowReader(schema).rows(batch)))
    assert again.equals(batch)
