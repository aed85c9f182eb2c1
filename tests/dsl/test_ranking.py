"""The ranking verbs, over-aggregation, unnest and union, as users write them, run as jobs."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, SchemaError

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


def at(second: int) -> dt.datetime:
    return NOON + dt.timedelta(seconds=second)


BIDS = [
    {"item": item, "bidder": bidder, "price": price, "at": at(second)}
    for second, (item, bidder, price) in enumerate(
        [(1, "a", 5), (1, "b", 9), (2, "a", 4), (1, "a", 7), (2, "c", 4), (1, "c", 9), (2, "b", 8), (1, "b", 1)]
    )
]


def bids(parallelism: int = 2, batch_rows: int = 3) -> lw.DataStream:
    env = lw.StreamExecutionEnvironment(parallelism=parallelism, config=lw.EngineConfig(batch_rows=batch_rows))
    time = lw.WatermarkStrategy.bounded_out_of_orderness("at", "2s")
    return env.from_collection(BIDS, watermark=time, uid="bids")


def rows(table: pa.Table, *columns: str) -> list[tuple[Any, ...]]:
    return sorted(tuple(row[name] for name in columns) for row in table.to_pylist())


def test_the_last_row_of_each_key_is_left() -> None:
    last = bids().key_by("item", "bidder").deduplicate("last", order_by="at", uid="last")
    assert last.is_updating
    assert last.upsert_key == ("item", "bidder")
    assert last.event_time is None
    expected = [(1, "a", 7), (1, "b", 1), (1, "c", 9), (2, "a", 4), (2, "b", 8), (2, "c", 4)]
    assert rows(last.collect_final(), "item", "bidder", "price") == expected


def test_the_first_row_by_arrival_keeps_its_event_time() -> None:
    first = bids().key_by("item").deduplicate()
    assert not first.is_updating
    assert first.event_time == bids().event_time
    counted = first.window_all(lw.Tumbling("1m")).aggregate(n=lw.count())
    assert counted.execute_and_collect()["n"].to_pylist() == [2]


def test_rows_are_deduplicated_in_the_order_of_an_expression() -> None:
    cheapest = bids().key_by("item").deduplicate("first", order_by=-col("price"))
    assert cheapest.schema.names == ["item", "bidder", "price", "at", "row_kind$"]
    assert rows(cheapest.collect_final(), "item", "bidder", "price") == [(1, "b", 9), (2, "b", 8)]


def test_the_best_rows_are_numbered() -> None:
    best = bids().key_by("item").top_n(2, by=[lw.desc("price"), lw.asc("at")], rank_column="rank", uid="best")
    assert best.upsert_key == ("item", "rank")
    expected = [(1, 1, "b", 9), (1, 2, "c", 9), (2, 1, "b", 8), (2, 2, "a", 4)]
    assert rows(best.collect_final(), "item", "rank", "bidder", "price") == expected


def test_ranks_follow_from_expressions_and_share_numbers() -> None:
    best = bids().key_by("item").top_n(1, by=lw.desc(col("price") * 2), method="rank", rank_column="rank")
    assert best.upsert_key is None
    expected = [(1, 1, "b"), (1, 1, "c"), (2, 1, "b")]
    assert rows(best.collect_final(), "item", "rank", "bidder") == expected


def test_without_update_before_the_upsert_key_leads_to_the_same_result() -> None:
    full = bids().key_by("item").top_n(2, by=lw.desc("price"), rank_column="rank")
    short = bids().key_by("item").top_n(2, by=lw.desc("price"), rank_column="rank", update_before=False)
    columns = ("item", "rank", "bidder")
    assert rows(short.collect_final(), *columns) == rows(full.collect_final(), *columns)
    assert "-U" not in short.to_changelog().execute_and_collect()["op"].to_pylist()
    with pytest.raises(GraphError, match="needs an upsert key"):
        bids().key_by("item").top_n(2, by="price", update_before=False)


def test_a_ranking_of_a_ranking_is_aggregated_as_it_changes() -> None:
    """The last winners of each seller and their average: an over-aggregation over a stream that changes."""
    best = bids().key_by("item").top_n(1, by=[lw.desc("price"), "at"])
    assert best.upsert_key == ("item",)
    last = best.with_columns(half=col("item") * 0).key_by("half").top_n(1, by=lw.desc("at"))
    assert rows(last.key_by("half").aggregate(mean=lw.mean("price")).collect_final(), "half", "mean") == [(0, 8.0)]


def test_a_row_that_moves_to_another_ranking_is_told_apart_by_both_keys() -> None:
    """Two subtasks send the changes of such a row, and nothing orders them: by its own key alone it could be lost."""
    counts = bids().key_by("bidder").aggregate(n=lw.count())
    halves = counts.with_columns(half=col("n") % 2).key_by("half")
    full, short = halves.top_n(2, by="bidder"), halves.top_n(2, by="bidder", update_before=False)
    assert full.upsert_key == ("half", "bidder")
    assert rows(short.collect_final(), "half", "bidder") == rows(full.collect_final(), "half", "bidder")


def test_the_best_of_each_window_is_sent_when_it_is_over() -> None:
    counts = bids().key_by("bidder").window(lw.Tumbling("4s")).aggregate(n=lw.count(), most=lw.max("price"))
    best = counts.window_top_n(1, by=lw.desc("n"), method="rank", rank_column="rank", uid="best")
    assert not best.is_updating
    assert best.event_time == counts.event_time
    found = [(row["window_start"].second, row["bidder"], row["n"]) for row in best.execute_and_collect().to_pylist()]
    assert sorted(found) == [(0, "a", 3), (4, "b", 2), (4, "c", 2)]
    by_bidder = counts.window_top_n(1, by="most", partition_by="bidder")
    assert by_bidder.execute_and_collect().num_rows == 4


def test_moving_averages_and_running_totals() -> None:
    keyed = bids().key_by("item")
    moving = keyed.over("at", rows=2).aggregate(usual=lw.mean("price"), uid="moving")
    found = rows(moving.execute_and_collect(), "item", "at", "usual")
    assert [usual for item, _, usual in found if item == 2] == [4.0, 4.0, 6.0]
    totals = keyed.over().aggregate({"spent": lw.sum(col("price") * 2), "dear": lw.count().where(col("price") > 4)})
    assert totals.schema.names == ["item", "bidder", "price", "at", "spent", "dear"]
    found = [
        (r["item"], r["price"], r["spent"], r["dear"]) for r in totals.execute_and_collect().sort_by("at").to_pylist()
    ]
    assert [one for one in found if one[0] == 2] == [(2, 4, 8, 0), (2, 4, 16, 0), (2, 8, 32, 1)]
    recent = keyed.over(range="3s").aggregate(n=lw.count()).execute_and_collect().sort_by("at")
    assert recent["n"].to_pylist() == [1, 2, 1, 3, 2, 2, 2, 2]


def test_over_windows_results_goes_by_the_windows_time() -> None:
    counts = bids().key_by("item").window(lw.Tumbling("4s")).aggregate(n=lw.count())
    totals = counts.key_by("item").over(rows=2).aggregate(both=lw.sum("n"))
    assert totals.event_time == counts.event_time
    assert rows(totals.execute_and_collect(), "item", "n", "both") == [(1, 2, 5), (1, 3, 3), (2, 1, 1), (2, 2, 3)]


def test_lists_become_rows() -> None:
    env = lw.StreamExecutionEnvironment()
    orders = env.from_collection([{"id": 1, "items": ["pen", "ink"]}, {"id": 2, "items": []}])
    lines = orders.unnest("items", "item", keep_empty=True, ordinality="line", uid="lines")
    assert rows(lines.filter(col("item").is_not_null()).execute_and_collect(), "id", "item", "line") == [
        (1, "ink", 2),
        (1, "pen", 1),
    ]
    assert orders.unnest("items").schema.names == ["id", "items"]


def test_an_updating_stream_and_an_append_only_one_are_united() -> None:
    stream = bids()
    best = stream.key_by("item").top_n(1, by=[lw.desc("price"), "at"])
    dear = stream.filter(col("price") > 8)
    both = best.union(dear)
    assert both.is_updating
    assert both.upsert_key is None
    assert rows(both.collect_final(), "item", "bidder", "price") == [(1, "b", 9), (1, "b", 9), (1, "c", 9), (2, "b", 8)]


def test_a_union_of_two_event_times_has_none_until_one_is_renamed() -> None:
    env = lw.StreamExecutionEnvironment()
    row = [{"at": at(0), "seen": at(1)}]
    first = env.from_collection(row, watermark=lw.WatermarkStrategy.monotonous("at"))
    second = env.from_collection(row, watermark=lw.WatermarkStrategy.monotonous("seen"))
    assert first.union(second).event_time is None
    swapped = second.select(at=col("seen"), seen=col("at"))
    united = first.union(swapped)
    assert united.event_time == first.event_time
    counted = united.window_all(lw.Tumbling("1m")).aggregate(n=lw.count())
    assert counted.execute_and_collect()["n"].to_pylist() == [2]


def test_columns_of_a_union_may_be_null_where_one_of_them_may() -> None:
    env = lw.StreamExecutionEnvironment()
    time = lw.WatermarkStrategy.monotonous("at")
    counted = env.from_collection(BIDS, watermark=time).window_all(lw.Tumbling("1m")).aggregate(n=lw.count())
    filled = counted.select("n")
    nullable = env.from_collection(pa.table({"n": pa.array([None, 1], pa.int64())}))
    for united in (filled.union(nullable), nullable.union(filled)):
        assert united.schema.field("n").nullable
        assert sorted(united.execute_and_collect()["n"].to_pylist(), key=str) == [1, 8, None]


@pytest.mark.parametrize(
    ("make", "kind", "problem"),
    [
        (lambda: bids().key_by("item").top_n(0, by="price"), ConfigError, "top_n: n cannot be 0"),
        (lambda: bids().key_by("item").top_n(1, by="prise"), SchemaError, "no column 'prise'"),
        (lambda: bids().key_by("item").top_n(1, by=[]), GraphError, "nothing to order by"),
        (lambda: bids().key_by("item").top_n(1, by=7), ConfigError, "what to order by cannot be 7"),  # type: ignore[arg-type]
        (lambda: bids().key_by("item").top_n(1, by="price", rank_column="at"), SchemaError, "'at' already"),
        (lambda: bids().key_by("item").deduplicate("newest"), ConfigError, "keep cannot be 'newest'"),  # type: ignore[arg-type]
        (lambda: bids().window_top_n(1, by="price"), GraphError, "results of windows"),
        (lambda: bids().key_by("item").over("price"), GraphError, "event time 'at', not by 'price'"),
        (lambda: bids().key_by("item").over(rows=2, range="1s"), ConfigError, "not both"),
        (lambda: bids().key_by("item").over(rows=0), ConfigError, "rows cannot be 0"),
        (lambda: bids().key_by("item").over().aggregate(), GraphError, "at least one"),
        (lambda: bids().key_by("item").over().aggregate(price=lw.count()), SchemaError, "'price'"),
        (lambda: bids().unnest("price"), SchemaError, "a list or a map"),
        (lambda: bids().key_by("item").top_n(1, by="price").key_by("item").over(), LakewardError, "updating"),
        (lambda: bids().key_by("item").top_n(1, by="price").key_by("item").deduplicate(), LakewardError, "updating"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_written(make: Any, kind: type[LakewardError], problem: str) -> None:
    with pytest.raises(kind, match=problem) as caught:
        make()
    assert "test_ranking.py" in str(caught.value)
