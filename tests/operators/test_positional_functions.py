"""Python functions that get the values of columns as their arguments, instead of whole rows."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.api.row_types import schema_of
from lakeward.engine.core.errors import GraphError, LakewardError, SchemaError, UserCodeError
from lakeward.operators.arguments import calls_of
from lakeward.operators.rows import CHUNK_ROWS
from lakeward.operators.udf import FilterRows, FlatMapRows, MapRows
from lakeward.testing.harness import OperatorHarness

AT = datetime(2024, 5, 17, 8, 30, tzinfo=UTC)


class Spot(NamedTuple):
    x: int
    y: int


class Bid(NamedTuple):
    auction: int
    price: float | None


@dataclass
class Priced:
    price: float
    auction: int


SCHEMA = pa.schema(
    {
        "auction": pa.int64(),
        "price": pa.float64(),
        "url": pa.string(),
        "at": pa.timestamp("us", tz="UTC"),
        "spot": pa.struct({"x": pa.int64(), "y": pa.int64()}),
    }
)
ROWS: list[dict[str, Any]] = [
    {"auction": 1, "price": 2.5, "url": "a", "at": AT, "spot": {"x": 1, "y": 2}},
    {"auction": 2, "price": None, "url": None, "at": AT, "spot": None},
]
BID = schema_of(Bid)


def run(factory: OperatorFactory, rows: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.send(ROWS if rows is None else rows)
        return harness.take()


def test_parameters_get_the_columns_that_they_are_named_like_in_any_order() -> None:
    def doubled(price: float | None, auction: int) -> Bid:
        return Bid(auction, None if price is None else price * 2)

    assert run(MapRows(doubled, SCHEMA, BID)) == [{"auction": 1, "price": 5.0}, {"auction": 2, "price": None}]
    assert run(FilterRows(lambda auction, url: url is None and auction == 2, SCHEMA)) == [ROWS[1]]


def test_listed_columns_are_given_by_position_whatever_the_parameters_are_called() -> None:
    pairs = MapRows(lambda a, b: (a, b), SCHEMA, BID, columns=("auction", "price"))
    assert run(pairs) == [{"auction": 1, "price": 2.5}, {"auction": 2, "price": None}]
    assert run(FilterRows(lambda value: value == 1, SCHEMA, columns=("auction",))) == [ROWS[0]]
    assert run(MapRows(lambda *values: values, SCHEMA, BID, columns=("auction", "price")))[0]["price"] == 2.5
    assert run(FilterRows(operator.contains, SCHEMA, columns=("url", "url")), ROWS[:1]) == ROWS[:1]


def test_flat_map_takes_columns_too() -> None:
    def copies(auction: int, price: float) -> Iterator[Bid]:
        for number in range(auction):
            yield Bid(number, price)

    made = run(FlatMapRows(copies, SCHEMA, BID))
    assert made == [{"auction": 0, "price": 2.5}, {"auction": 0, "price": None}, {"auction": 1, "price": None}]


def test_a_class_may_be_the_function() -> None:
    assert run(MapRows(Priced, SCHEMA, schema_of(Priced)), ROWS[:1]) == [{"price": 2.5, "auction": 1}]


def test_times_and_structs_come_as_annotated() -> None:
    seen: list[Any] = []

    def keep(spot: Spot | None, at: datetime) -> bool:
        seen.append((spot, at))
        return True

    run(FilterRows(keep, SCHEMA))
    assert seen == [(Spot(1, 2), AT), (None, AT)]
    assert isinstance(seen[0][0], Spot)


def test_parameters_with_a_default_are_columns_only_if_there_are_such() -> None:
    def text(auction: int, price: float, scale: int = 3, url: str = "none", *, at: datetime) -> dict[str, Any]:
        return {"text": f"{auction} {price} {scale} {url} {at.year}"}

    made = pa.schema({"text": pa.string()})
    assert run(MapRows(text, SCHEMA, made), ROWS[:1]) == [{"text": "1 2.5 3 a 2024"}]
    assert run(MapRows(functools.partial(text, scale=4), SCHEMA, made), ROWS[:1]) == [{"text": "1 2.5 4 a 2024"}]
    assert run(MapRows(lambda row, scale=3: {"text": str(row["auction"] * scale)}, SCHEMA, made), ROWS[:1]) == [
        {"text": "3"}
    ]


@pytest.mark.parametrize(
    ("function", "columns", "kind", "words"),
    [
        (
            lambda auction, prise: True,
            None,
            SchemaError,
            ["parameter 'prise'", "did you mean 'price'", "one parameter"],
        ),
        (lambda row, context: True, None, SchemaError, ["parameter 'row'", "one parameter"]),
        (lambda: True, None, GraphError, ["takes no argument"]),
        (lambda **values: True, None, GraphError, ["takes no argument that could be the row or a column"]),
        (lambda *, cents=3: True, None, GraphError, ["takes no argument that could be the row or a column"]),
        (functools.partial(lambda row: True, 1), None, GraphError, ["takes no argument"]),
        (lambda: True, ("price",), GraphError, ["1 values (price)", "too many"]),
        (lambda **values: True, ("price",), GraphError, ["1 values (price)", "too many"]),
        (lambda price: True, None, SchemaError, ["'price' of", "named like a column", "as a dict", '["price"]']),
        (lambda price, rate=2: True, None, SchemaError, ["'price' of", "named like a column", '["price"]']),
        (lambda price=3: True, None, SchemaError, ["'price' of", "named like a column", '["price"]']),
        (lambda a: True, ("auction", "price"), GraphError, ["2 values (auction, price)", "too many"]),
        (lambda a, b, c: True, ("auction", "price"), GraphError, ["missing a required argument: 'c'"]),
        (lambda a: True, ("prise",), SchemaError, ["no column 'prise'", "did you mean 'price'"]),
    ],
)
def test_a_signature_that_does_not_fit_is_refused_when_the_graph_is_built(
    function: Callable[..., bool], columns: tuple[str, ...] | None, kind: type[LakewardError], words: list[str]
) -> None:
    with pytest.raises(kind) as caught:
        FilterRows(function, SCHEMA, columns=columns)
    for word in words:
        assert word in str(caught.value)


def test_keywords_alone_get_the_columns_that_they_are_named_like() -> None:
    assert (
        run(FilterRows(lambda *, auction=7, cents=3, **more: (auction, cents, more) == (1, 3, {}), SCHEMA)) == ROWS[:1]
    )


def test_one_parameter_that_is_annotated_with_a_value_gets_no_row() -> None:
    def cents(price: float) -> bool:
        return price > 2

    def other(amount: int | None) -> bool:
        return True

    for function, said in ((cents, "'price' of .* is annotated float"), (other, r"'amount' of .* is annotated int \|")):
        with pytest.raises(SchemaError, match=f"{said}.*whole row, as a dict"):
            FilterRows(function, SCHEMA)
    assert run(FilterRows(cents, SCHEMA, columns=("price",)), ROWS[:1]) == ROWS[:1]


def test_one_parameter_gets_the_row_if_it_is_named_or_annotated_so() -> None:
    def annotated(price: dict[str, Any]) -> bool:
        return bool(price["auction"] == 1)

    def positional(price: Any, /) -> bool:
        return bool(price["auction"] == 1)

    def typed(price: Bid) -> bool:
        return price.auction == 1

    for function in (annotated, positional, typed, lambda row: row["auction"] == 1, lambda *price: price[0]["url"]):
        assert run(FilterRows(function, SCHEMA)) == ROWS[:1]


def test_a_function_that_takes_its_row_for_something_else_is_told_what_it_got() -> None:
    for function in (lambda row: row.auction == 1, lambda value: value > 2):
        with pytest.raises(UserCodeError, match="dict") as caught:
            run(FilterRows(function, SCHEMA))
        assert """it gets the row as a dict: row["auction"]; for the value""" in (caught.value.hint or "")
    with pytest.raises(UserCodeError) as caught:
        run(FilterRows(lambda row: row["prise"], SCHEMA))
    assert "as a dict" not in (caught.value.hint or "")


def test_an_annotation_that_does_not_fit_its_column_is_refused() -> None:
    def wrong(auction: str, price: float) -> bool:
        return True

    for columns in (None, ("auction", "price")):
        with pytest.raises(
            SchemaError, match=r"column 'auction' .*'.*wrong'.* is annotated str, but the column is int"
        ):
            FilterRows(wrong, SCHEMA, columns=columns)


def test_an_exception_names_the_function_and_the_values_it_was_given() -> None:
    def halved(auction: int, price: float, *, url: str) -> Bid:
        return Bid(auction, price / (auction - CHUNK_ROWS - 3))

    rows = [ROWS[0] | {"auction": number} for number in range(2 * CHUNK_ROWS)]
    with pytest.raises(UserCodeError, match="ZeroDivisionError") as caught:
        run(MapRows(halved, SCHEMA, BID), rows)
    assert f"{{'auction': {CHUNK_ROWS + 3}, 'price': 2.5, 'url': 'a'}}" in str(caught.value)
    assert "halved' (" in str(caught.value)
    with pytest.raises(UserCodeError, match=r"(?s)ZeroDivisionError.*'auction': 515"):
        run(FlatMapRows(lambda auction, price: [(auction, price // (auction - 515))], SCHEMA, BID), rows)


@pytest.mark.parametrize("columns", [None, ("auction",)])
def test_a_function_that_raises_stop_iteration_loses_no_rows_silently(columns: tuple[str, ...] | None) -> None:
    def ends(value: Any) -> bool:
        raise StopIteration

    with pytest.raises(UserCodeError, match="raised StopIteration"):
        run(FilterRows(ends, SCHEMA, columns=columns))


def test_tuples_of_a_wrong_length_are_reported() -> None:
    for wrong in ((1,), (1, 2.0, 3)):
        with pytest.raises(UserCodeError, match=f"has {len(wrong)} values, expected 2"):
            run(MapRows(lambda auction, price, wrong=wrong: wrong, SCHEMA, BID))
    with pytest.raises(UserCodeError, match="has 1 values, expected 2"):
        run(MapRows(lambda auction, price: (1, 2.0) if auction == 1 else (1,), SCHEMA, BID))


def test_the_plan_says_which_columns_a_function_gets_and_reads_no_others(tmp_path: Path) -> None:
    path = tmp_path / "bids.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS, schema=SCHEMA), path)
    env = lw.StreamExecutionEnvironment()
    bids, sink = env.from_source(lw.FilesSource(path), uid="bids"), lw.MemorySink()
    bids.map(lambda price, auction: (auction, price), returns=BID).sink_to(sink)
    plan = env.explain()
    assert re.search(r"map function .* of price, auction +\[row by row in Python\]", plan)
    assert "reads auction, price of 5 columns" in plan
    env.execute()
    assert sink.table().to_pylist() == [{"auction": 1, "price": 2.5}, {"auction": 2, "price": None}]


def test_the_verbs_check_functions_and_columns_at_the_users_line() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"auction": 1, "price": 2.0}])
    wrong: list[Callable[[], Any]] = [
        lambda: stream.map(lambda auction, prise: (1,), returns={"a": int}),
        lambda: stream.flat_map(lambda auction: [], columns=["auktion"], returns={"a": int}),
        lambda: stream.filter(lambda a, b, c: True, columns=["auction", "price"]),
        lambda: stream.filter(lw.col("price") > 1, columns=["price"]),
        lambda: stream.filter(lambda a: True, columns="price"),
        lambda: stream.filter(lambda **k: True),
        lambda: stream.filter(lambda price: price > 1),
        lambda: stream.map(lambda *, prise=3: (prise,), returns={"a": int}),
        lambda: stream.flat_map(lambda price: [(price,)], returns={"a": float}),
    ]
    for verb in wrong:
        with pytest.raises(LakewardError) as caught:
            verb()
        assert __file__ in str(caught.value)


VALUES = st.fixed_dictionaries(
    {
        "auction": st.none() | st.integers(-5, 5),
        "price": st.none() | st.floats(allow_nan=False),
        "url": st.none() | st.text(max_size=3),
        "at": st.none() | st.datetimes(timezones=st.just(UTC)),
        "spot": st.none() | st.fixed_dictionaries({"x": st.integers(0, 3), "y": st.integers(0, 3)}),
    }
)


@given(st.lists(VALUES, max_size=8), st.lists(st.sampled_from(SCHEMA.names), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_values_are_those_of_the_dict_form(rows: list[dict[str, Any]], columns: list[str]) -> None:
    batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
    as_dicts = calls_of(lambda row: tuple(row[name] for name in columns), SCHEMA)
    as_values = calls_of(lambda *values: values, SCHEMA, columns)
    wanted = [result for chunk in as_dicts.chunks(batch) for result in map(as_dicts.call, *chunk)]
    assert [result for chunk in as_values.chunks(batch) for result in map(as_values.call, *chunk)] == wanted
