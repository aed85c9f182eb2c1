"""Rows in memory become a stream, and rows that do not fit are named."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.connectors.collection import CollectionSource, to_table
from lakeward.engine.api.row_types import SchemaLike, schema_of
from lakeward.engine.core.errors import SchemaError, SourceError
from lakeward.testing.source_suite import check_source, read_splits


@dataclass
class Order:
    shop: str
    amount: int


@dataclass
class Place:
    name: str
    orders: dict[str, Order]


@dataclass
class Visit:
    user: str
    age: int | None = None
    tags: list[str] | None = None
    seen: list[Place | None] | None = None
    at: datetime | None = None
    spent: Decimal | None = None


@dataclass
class Loose:
    any: Any
    either: int | str


class Point(NamedTuple):
    x: int
    y: float


def test_the_source_keeps_the_contract() -> None:
    rows = [{"n": i, "text": f"row {i}"} for i in range(100)]
    check_source(lambda: CollectionSource(rows), rows, batch_rows=7)


def test_a_table_of_many_chunks_keeps_the_contract() -> None:
    table = pa.concat_tables([pa.table({"n": [i, i + 1], "s": ["a", None]}) for i in range(20)])
    check_source(lambda: CollectionSource(table), table, batch_rows=3)


@pytest.mark.parametrize(
    "rows",
    [
        [{"shop": "a", "amount": 1}, {"shop": "b", "amount": 2}],
        [Order("a", 1), Order("b", 2)],
        pa.table({"shop": ["a", "b"], "amount": [1, 2]}),
        pa.record_batch({"shop": ["a", "b"], "amount": [1, 2]}),
        [pa.record_batch({"shop": [s], "amount": [n]}) for s, n in (("a", 1), ("b", 2))],
        (row for row in [{"shop": "a", "amount": 1}, {"shop": "b", "amount": 2}]),
    ],
    ids=["dicts", "dataclasses", "table", "batch", "batches", "generator"],
)
def test_rows_may_come_in_many_shapes(rows: Any) -> None:
    table = to_table(rows)
    assert table.to_pylist() == [{"shop": "a", "amount": 1}, {"shop": "b", "amount": 2}]
    assert table.schema.types == [pa.string(), pa.int64()]


def test_named_tuples_name_their_columns() -> None:
    assert to_table([Point(1, 2.5)]).to_pylist() == [{"x": 1, "y": 2.5}]


def test_the_annotations_of_rows_say_the_types_even_where_every_value_is_none_or_empty() -> None:
    table = to_table([Visit("a"), Visit("b", tags=[])])
    assert table.schema == schema_of(Visit)
    assert table.to_pylist()[0] == {"user": "a", "age": None, "tags": None, "seen": None, "at": None, "spent": None}
    assert to_table([Point(1, 2)]).schema.types == [pa.int64(), pa.float64()]  # type: ignore[arg-type]


def test_rows_may_hold_rows_at_any_depth() -> None:
    seen = [Place("x", {"a": Order("b", 1)}), None]
    table = to_table([Visit("a", seen=seen), Visit("b", seen=[])])
    expected = [{"name": "x", "orders": [("a", {"shop": "b", "amount": 1})]}, None]
    assert table["seen"].to_pylist() == [expected, []]
    assert to_table([{"n": 1, "order": Order("b", 2)}]).to_pylist() == [{"n": 1, "order": {"shop": "b", "amount": 2}}]


def test_an_annotation_that_means_nothing_to_arrow_promises_nothing() -> None:
    assert to_table([Loose(1, 2)]).schema == pa.schema({"any": pa.int64(), "either": pa.int64()})
    with pytest.raises(SchemaError, match="'any' is null in every row"):
        to_table([Loose(None, "x")])


def test_a_value_that_is_not_as_annotated_is_named() -> None:
    with pytest.raises(SchemaError, match=r"column 'amount', row 1: 'many' \(str\) does not fit int64"):
        to_table([Order("a", 1), Order("a", "many")])  # type: ignore[arg-type]


def test_plain_tuples_take_their_names_from_the_schema() -> None:
    schema = pa.schema({"a": pa.int32(), "b": pa.string()})
    table = to_table([(1, "x"), (2, None)], schema)
    assert table.schema == schema
    assert table.to_pylist() == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def test_plain_values_are_rows_of_one_column() -> None:
    assert to_table([1, 2], pa.schema({"n": pa.int64()}))["n"].to_pylist() == [1, 2]


def test_a_missing_key_is_null() -> None:
    assert to_table([{"a": 1}, {"b": 2}]).to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_timestamps_become_microseconds_and_zones_utc() -> None:
    berlin = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=1)))
    table = to_table([{"zoned": berlin, "naive": datetime(2026, 1, 1)}])  # noqa: DTZ001
    assert table.schema.types == [pa.timestamp("us", "UTC"), pa.timestamp("us")]
    assert table["zoned"][0].as_py() == datetime(2026, 1, 1, 11, tzinfo=UTC)
    nanos = pa.table({"t": pa.array([1_500], pa.timestamp("ns"))})
    assert to_table(nanos)["t"].cast(pa.int64()).to_pylist() == [1]


@pytest.mark.parametrize(
    ("rows", "schema", "text"),
    [
        ([], None, "empty collection"),
        ([{"a": 1}, {"a": 2}, {"a": "x"}], None, r"column 'a', row 2: 'x' \(str\)"),
        ([{"a": 1}, Order("a", 1)], None, "row 1 is a Order, row 0 a dict"),
        ([{"a": None}], None, "null in every row"),
        ([(1, 2)], None, "a tuple row has no column names"),
        ([(1, 2)], {"a": pa.int64()}, "2 values, the schema 1"),
        ([{"a": 1, "b": 2}], {"a": pa.int64()}, "'b' that the schema does not have"),
        ([{"a": 300}], {"a": pa.int8()}, r"column 'a', row 0: 300 \(int\) does not fit int8"),
        ([{"a": datetime(2026, 1, 1)}, {"a": datetime(2026, 1, 1, tzinfo=UTC)}], None, "with and without"),  # noqa: DTZ001
        (pa.table({"a": ["x"]}), {"a": pa.int64()}, "column 'a' has type string"),
        (pa.table({"a": ["x"]}), {"b": pa.int64()}, "no column 'b'"),
    ],
)
def test_rows_that_do_not_fit_are_named(rows: Any, schema: dict[str, pa.DataType] | None, text: str) -> None:
    with pytest.raises(SchemaError, match=text):
        CollectionSource(rows, None if schema is None else pa.schema(schema))


def test_nulls_are_refused_where_the_schema_rules_them_out() -> None:
    schema = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    with pytest.raises(SchemaError, match="'a' has nulls"):
        CollectionSource([{"a": None}], schema)


def test_a_position_behind_the_last_row_is_refused() -> None:
    source = CollectionSource([{"a": 1}])
    split = source.list_splits(None)[0]
    with pytest.raises(SourceError, match="row 5 of a collection that has only 1"):
        read_splits(source, [(split, {"v": 1, "next": 5})])


@pytest.mark.parametrize("schema", [{"n": int}, {"n": "int64"}, {"n": pa.int64()}, pa.schema([("n", pa.int64())])])
def test_a_schema_may_be_given_in_the_words_of_python(schema: SchemaLike) -> None:
    assert CollectionSource([{"n": 1}], schema=schema).schema == pa.schema([("n", pa.int64())])


def test_a_schema_that_names_a_field_twice_is_refused() -> None:
    with pytest.raises(SchemaError, match="names a field twice"):
        CollectionSource([(1, 2)], schema=pa.schema([("n", pa.int64()), ("n", pa.int64())]))


@pytest.mark.parametrize("value", [1.5, 2.0, Decimal("1.9")])
def test_what_is_no_integer_is_not_cut_off_to_one(value: object) -> None:
    with pytest.raises(SchemaError, match=r"column 'n', row 1: .* is no integer"):
        CollectionSource([{"n": 1}, {"n": value}], schema={"n": int})


def test_a_schema_may_hold_rows_as_dicts_of_types_but_no_list_of_types() -> None:
    source = CollectionSource([{"r": {"a": 1}}], schema={"r": {"a": int}})
    assert source.schema.field("r").type == pa.struct({"a": pa.int64()})
    with pytest.raises(SchemaError, match="column 'r': no Arrow type"):
        CollectionSource([{"r": 1}], schema={"r": [int]})


@pytest.mark.parametrize("rows", [[{"a": None}], [{"a": 1}, {"a": "x"}], [(1, 2)]])
def test_rows_that_cannot_be_a_collection_are_refused_at_the_line_that_gives_them(rows: Any) -> None:
    with pytest.raises(SchemaError) as caught:
        lw.StreamExecutionEnvironment().from_collection(rows)
    line = next(one.lineno for one in caught.traceback if one.path.name == "test_collection.py")
    assert caught.value.location == f"{__file__}:{line + 1}"
