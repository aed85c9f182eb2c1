"""Typed rows go to Arrow and come back as they were, whatever they hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, NotRequired, Required, TypedDict

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward.engine.api.row_types import schema_of
from lakeward.engine.core.errors import RecordError, SchemaError, UserCodeError
from lakeward.operators.row_values import optional_keys
from lakeward.operators.rows import RowReader, RowWriter, column_to_list
from lakeward.operators.signatures import output_schema_of
from lakeward.operators.udf import MapRows
from lakeward.testing.harness import OperatorHarness


@dataclass
class Item:
    name: str
    price: float | None


class Spot(NamedTuple):
    x: int
    item: Item | None


class Note(TypedDict):
    text: Required[str]
    by: NotRequired[Item]
    lang: NotRequired[str | None]


class Loose(TypedDict, total=False):
    a: Required[int]
    b: str
    c: Annotated[Required[int], "marked inside"]


class Longer(Loose):
    d: int
    e: Annotated[NotRequired[int], "marked inside"]


@dataclass
class Basket:
    id: int
    main: Item | None
    items: list[Item]
    maybe: list[Item | None] | None
    by_name: dict[str, Item]
    spots: dict[str, list[Spot]]
    grid: list[list[Spot]]
    tags: set[str]
    levels: tuple[int, ...]
    notes: list[Note]
    counts: dict[str, int] = field(default_factory=dict)


NAMES = st.text("abc", max_size=3)
ITEMS = st.builds(Item, NAMES, st.none() | st.floats(allow_nan=False))
SPOTS = st.builds(Spot, st.integers(-5, 5), st.none() | ITEMS)
NOTES = st.fixed_dictionaries({"text": NAMES, "lang": st.none() | NAMES}, optional={"by": ITEMS})
BASKETS = st.builds(
    Basket,
    st.integers(-5, 5),
    main=st.none() | ITEMS,
    items=st.lists(ITEMS, max_size=3),
    maybe=st.none() | st.lists(st.none() | ITEMS, max_size=3),
    by_name=st.dictionaries(NAMES, ITEMS, max_size=3),
    spots=st.dictionaries(NAMES, st.lists(SPOTS, max_size=2), max_size=2),
    grid=st.lists(st.lists(SPOTS, max_size=2), max_size=2),
    tags=st.sets(NAMES, max_size=3),
    levels=st.lists(st.integers(-5, 5), max_size=3).map(tuple),
    notes=st.lists(NOTES, max_size=2),
    counts=st.dictionaries(NAMES, st.integers(-5, 5), max_size=2),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(BASKETS, max_size=4))
def test_a_typed_row_comes_back_as_it_went(rows: list[Basket]) -> None:
    schema = schema_of(Basket)
    batch = RowWriter(schema, "a row").batch(rows)
    batch.validate(full=True)
    assert list(RowReader(schema, Basket).rows(batch)) == rows


@settings(max_examples=30, deadline=None)
@given(st.lists(NOTES, min_size=1, max_size=4))
def test_a_typed_dict_comes_back_with_the_keys_it_went_with(rows: list[Any]) -> None:
    schema = schema_of(Note)
    batch = RowWriter(schema, "a row", optional_keys(Note)).batch(rows)
    assert list(RowReader(schema, Note).rows(batch)) == rows


def test_a_job_carries_typed_rows_from_a_collection_through_a_function() -> None:
    def grow(row: Basket) -> Basket:
        assert all(isinstance(item, Item) for item in (*row.items, *row.by_name.values()))
        assert isinstance(row.tags, set)
        return Basket(row.id + 1, None, [*row.items, Item("new", 1.0)], None, row.by_name, {}, [], row.tags, (), [])

    basket = Basket(1, None, [], None, {"k": Item("k", None)}, {}, [], {"t"}, (1,), [{"text": "t"}])
    stream = lw.StreamExecutionEnvironment().from_collection([basket])
    assert stream.schema == schema_of(Basket)
    result = stream.map(grow).execute_and_collect().to_batches()
    rows = [row for batch in result for row in RowReader(batch.schema, Basket).rows(batch)]
    assert rows == [Basket(2, None, [Item("new", 1.0)], None, {"k": Item("k", None)}, {}, [], {"t"}, (), [])]


def test_maps_come_as_dicts_in_untyped_rows_too() -> None:
    kind = pa.struct({"m": pa.map_(pa.string(), pa.list_(pa.map_(pa.int64(), pa.string())))})
    values = [{"m": {"a": [{1: "x"}, None]}}, None, {"m": None}]
    assert column_to_list(pa.array(values, kind)) == values
    rows = [{"a": {"x": 1}}, {"a": {}}, {"a": None}]
    schema = pa.schema({"a": pa.map_(pa.string(), pa.int64())})
    assert list(RowReader(schema).rows(RowWriter(schema, "a row").batch(rows))) == rows


def test_a_map_that_no_dict_can_hold_comes_as_pairs_or_is_an_error() -> None:
    nested = pa.array([[({"x": 1}, 2)]], pa.map_(pa.struct({"x": pa.int64()}), pa.int64()))
    assert column_to_list(nested) == [[({"x": 1}, 2)]]
    twice = pa.array([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))
    with pytest.raises(RecordError, match="a map has a key twice"):
        column_to_list(twice)


def test_optional_keys_are_found_though_annotations_are_text() -> None:
    assert optional_keys(Note) == {"by", "lang"}
    assert optional_keys(Loose) == {"b"}
    assert optional_keys(Longer) == {"b", "e"}
    assert optional_keys(Item) == optional_keys(None) == frozenset()


def test_a_function_may_leave_out_the_keys_that_are_not_required_and_no_others() -> None:
    schema = pa.schema({"a": pa.int64()})
    batch = pa.record_batch({"a": [1, 2]})

    def some(row: dict[str, Any]) -> Note:
        return {"text": "even"} if row["a"] % 2 == 0 else {"text": "odd", "lang": "en", "by": Item("i", 1.0)}

    def none(row: dict[str, Any]) -> Note:
        return {"lang": None}  # type: ignore[typeddict-item]

    made = output_schema_of(some)
    assert made.names == ["text", "by", "lang"]
    expected = [
        {"text": "odd", "by": {"name": "i", "price": 1.0}, "lang": "en"},
        {"text": "even", "by": None, "lang": None},
    ]
    for factory in (MapRows(some, schema, made), MapRows(lambda row: some(row), schema, made, Note)):
        assert run(factory, batch) == expected
    with pytest.raises(UserCodeError, match="lacks column 'text'"):
        run(MapRows(none, schema, made), batch)
    with pytest.raises(UserCodeError, match="lacks column 'by'"):
        run(MapRows(lambda row: some(row), schema, made), batch)


def run(factory: MapRows, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    with OperatorHarness(factory, batch.schema) as harness:
        harness.send(batch.to_pylist())
        return harness.take()


class NeedsMore(NamedTuple):
    name: str
    price: float
    missing: int


@dataclass
class Mismatched:
    items: list[NeedsMore]


@dataclass
class WrongElement:
    items: list[int]


@dataclass
class WrongItem:
    by_name: dict[str, int]


class Absent(TypedDict):
    id: int
    absent: int
    fine: NotRequired[int]


@pytest.mark.parametrize(
    ("row_class", "words"),
    [
        (Mismatched, r"NeedsMore\.missing: the stream has no column 'missing'"),
        (WrongElement, r"WrongElement\.items is annotated list\[int\], but the column is list<"),
        (WrongItem, r"WrongItem\.by_name is annotated dict\[str, int\], but the column is map<"),
        (Absent, r"Absent\.absent: the stream has no column 'absent'"),
    ],
)
def test_what_is_inside_of_a_row_is_checked_before_the_job_runs(row_class: type, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        RowReader(schema_of(Basket), row_class)


def test_a_typed_dict_is_given_all_columns_and_columns_of_nulls_fit_everything() -> None:
    batch = pa.record_batch({"a": [1], "other": ["x"], "b": pa.nulls(1), "c": [3]})
    assert list(RowReader(batch.schema, Loose).rows(batch)) == [{"a": 1, "other": "x", "c": 3}]
    empty = pa.record_batch({"items": pa.array([[], None], pa.list_(pa.null()))})
    assert list(RowReader(empty.schema, WrongElement).rows(empty)) == [WrongElement([]), WrongElement(None)]  # type: ignore[arg-type]


def test_times_inside_of_rows_keep_their_zone() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    schema = schema_of({"times": dict[str, list[datetime]]})
    rows = [{"times": {"a": [at]}}]
    assert list(RowReader(schema).rows(RowWriter(schema, "a row").batch(rows))) == rows
