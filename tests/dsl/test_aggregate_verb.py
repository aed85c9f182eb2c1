"""`aggregate` without windows, and `where`, as users write them."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.api.changelog import ROW_KIND
from lakeward.engine.core.errors import ConfigError, GraphError, SchemaError

ROWS = [
    {"shop": "a", "amount": 5, "paid": True},
    {"shop": "b", "amount": 7, "paid": None},
    {"shop": "a", "amount": 5, "paid": False},
    {"shop": "a", "amount": None, "paid": True},
    {"shop": "b", "amount": 90, "paid": True},
]


def orders(batch_rows: int = 2, **config: Any) -> lw.DataStream:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows), **config)
    return env.from_collection(ROWS)


def final(stream: lw.DataStream) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = stream.collect_final().to_pylist()
    return sorted(rows, key=lambda row: str(row))


def test_a_group_aggregation_is_an_updating_stream_known_by_its_keys() -> None:
    totals = orders().key_by("shop").aggregate(n=lw.count(), total=lw.sum("amount"))
    assert totals.is_updating
    assert totals.upsert_key == ("shop",)
    assert totals.schema.names == ["shop", "n", "total", ROW_KIND]
    assert totals.event_time is None
    assert final(totals) == [{"shop": "a", "n": 3, "total": 10}, {"shop": "b", "n": 2, "total": 97}]


def test_every_aggregate_can_be_limited_to_some_rows() -> None:
    result = (
        orders()
        .key_by("shop")
        .aggregate(
            {"paid": lw.count().where(col("paid")), "large": lw.sum(col("amount") * 2).where(col("amount") > 6)},
            kinds=lw.count_distinct("amount").where(col("amount") < 50),
            none=lw.max("amount").where(col("amount") > 1000),
            both=lw.count().where(col("amount") > 6).where(col("paid")),
        )
    )
    assert final(result) == [
        {"shop": "a", "paid": 2, "large": None, "kinds": 1, "none": None, "both": 0},
        {"shop": "b", "paid": 1, "large": 194, "kinds": 1, "none": None, "both": 1},
    ]


def test_equal_inputs_and_conditions_are_computed_once() -> None:
    low = col("amount") < 50
    result = (
        orders()
        .key_by("shop")
        .aggregate(
            a=lw.count().where(low),
            b=lw.count_distinct("amount").where(col("amount") < 50),
            c=lw.sum(col("amount") + 1),
            d=lw.max(col("amount") + 1).where(low),
        )
    )
    graph = result._context.builder.graph()
    inputs = next(node for node in graph.nodes if node.uid.startswith("aggregate-input"))
    assert len(inputs.schema.names) == len({"shop", "amount", "amount < 50", "amount + 1"})


def test_windows_take_filtered_aggregates_too() -> None:
    noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    rows = [{"k": n % 2, "v": n, "at": noon + dt.timedelta(seconds=n)} for n in range(10)]
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=3))
    stream = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
    windows = stream.key_by("k").window(lw.Sliding("4s", "2s"))
    result = windows.aggregate(n=lw.count(), high=lw.count().where(col("v") > 4), d=lw.count_distinct("v"))
    for row in result.execute_and_collect().to_pylist():
        inside = [r["v"] for r in rows if r["k"] == row["k"] and row["window_start"] <= r["at"] < row["window_end"]]
        assert (row["n"], row["high"], row["d"]) == (len(inside), sum(v > 4 for v in inside), len(set(inside)))


def test_an_aggregation_of_an_aggregation_takes_back_what_has_changed() -> None:
    totals = orders(1).key_by("shop").aggregate(total=lw.sum("amount"), n=lw.count())
    spread = totals.key_by("n").aggregate(shops=lw.count(), most=lw.max("total"), least=lw.min("total"))
    assert final(spread) == [
        {"n": 2, "shops": 1, "most": 97, "least": 97},
        {"n": 3, "shops": 1, "most": 10, "least": 10},
    ]


def test_without_keys_one_row_is_the_result() -> None:
    result = orders().aggregate(rows=lw.count(), shops=lw.count_distinct("shop"), last=lw.last("shop"))
    assert result.upsert_key == ()
    assert final(result) == [{"rows": 5, "shops": 2, "last": "b"}]


def test_counting_rows_needs_no_column_at_all() -> None:
    assert final(orders().aggregate(n=lw.count())) == [{"n": 5}]


def test_an_interval_sends_fewer_changes_with_the_same_outcome() -> None:
    every = orders(1).key_by("shop").aggregate(n=lw.count()).execute_and_collect()
    some = orders(1).key_by("shop").aggregate(n=lw.count(), emit_interval="10m").execute_and_collect()
    assert every.num_rows == 2 + 2 * 3
    assert some.num_rows < every.num_rows
    assert final(orders(1).key_by("shop").aggregate(n=lw.count(), emit_interval="10m")) == [
        {"shop": "a", "n": 3},
        {"shop": "b", "n": 2},
    ]


def test_upsert_mode_leaves_out_what_is_replaced() -> None:
    result = orders(1).key_by("shop").aggregate(n=lw.count(), update_before=False)
    assert set(result.execute_and_collect()[ROW_KIND].to_pylist()) == {0, 2}
    assert final(result) == [{"shop": "a", "n": 3}, {"shop": "b", "n": 2}]


def test_an_aggregation_refuses_an_upsert_stream_whose_old_rows_it_would_need() -> None:
    upserts = orders().key_by("shop").aggregate(n=lw.count(), update_before=False, uid="counts")
    with pytest.raises(SchemaError, match="the rows that 'counts' replaces"):
        upserts.filter(col("n") > 1).key_by("n").aggregate(shops=lw.count())
    whole = orders().key_by("shop").aggregate(n=lw.count())
    again = whole.key_by("n").aggregate(shops=lw.count(), update_before=False)
    assert final(again) == [{"n": 2, "shops": 1}, {"n": 3, "shops": 1}]


def test_first_and_last_go_by_event_time_where_there_is_one() -> None:
    noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    rows = [{"k": 1, "v": n, "at": noon + dt.timedelta(seconds=(n * 3) % 5)} for n in range(5)]
    env = lw.StreamExecutionEnvironment()
    strategy = lw.WatermarkStrategy.bounded_out_of_orderness("at", "10s")
    result = env.from_collection(rows, watermark=strategy).key_by("k").aggregate(a=lw.first("v"), z=lw.last("v"))
    assert final(result) == [{"k": 1, "a": 0, "z": 3}]


def test_null_keys_and_dictionary_inputs_are_groups_and_values_like_others() -> None:
    table = pa.table({"k": [None, "a", None], "x": pa.array(["u", "v", "u"]).dictionary_encode()})
    stream = lw.StreamExecutionEnvironment().from_collection(table)
    result = stream.key_by("k").aggregate(n=lw.count(), d=lw.count_distinct("x"), most=lw.max("x"))
    assert final(result) == [{"k": "a", "n": 1, "d": 1, "most": "v"}, {"k": None, "n": 2, "d": 1, "most": "u"}]


def test_explain_says_what_is_aggregated_under_which_condition() -> None:
    stream = orders().key_by("shop").aggregate(n=lw.count().where(col("amount") > 6), emit_interval="2s")
    stream.sink_to(lw.BlackholeSink())
    plan = stream._context.environment.explain()
    assert 'by shop: n=count() where col("amount") > 6, sent every 2s' in plan


@pytest.mark.parametrize(
    ("aggregates", "options", "error", "words"),
    [
        ({}, {}, GraphError, "at least one aggregate"),
        ({"shop": lw.count()}, {}, SchemaError, "already has a column 'shop'"),
        ({"n": lw.sum("shop")}, {}, SchemaError, "sum of column 'shop' of type string"),
        ({"n": lw.count().where(col("amount") + 1)}, {}, SchemaError, "where needs a boolean"),
        ({"n": lw.count().where(col("amuont") > 1)}, {}, SchemaError, "amuont"),
        ({"n": 5}, {}, ConfigError, "the aggregate 'n'"),
        ({"n": lw.count()}, {"emit_interval": "soon"}, ConfigError, "soon"),
        ({"n": lw.count()}, {"update_before": 1}, ConfigError, "update_before"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_written(
    aggregates: dict[str, Any], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        orders().key_by("shop").aggregate(aggregates, **options)


def test_a_condition_that_is_no_expression_is_refused() -> None:
    with pytest.raises(ConfigError, match="the argument of where"):
        lw.count().where(True)  # type: ignore[arg-type]


def test_what_an_aggregation_computes_on_the_way_keeps_the_order_of_a_single_reader() -> None:
    env = lw.StreamExecutionEnvironment(parallelism=3)
    stream = env.from_collection([{"k": 1, "v": n} for n in range(30)])
    ends = stream.key_by("k").aggregate(first=lw.first(col("v") + 1), last=lw.last(col("v") + 1))
    sums = stream.key_by((col("k") + 1).alias("next")).window(lw.CountWindow(10)).aggregate(total=lw.sum(col("v") + 1))
    assert ends.collect_final().to_pylist() == [{"k": 1, "first": 1, "last": 30}]
    assert sums.execute_and_collect()["total"].to_pylist() == [55, 155, 255]
    for result in (ends, sums):
        result.sink_to(lw.BlackholeSink())
    assert "rebalance" not in env.explain()
