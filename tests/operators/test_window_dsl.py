"""Windows as users write them, run as jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.dsl.windows import WindowSpec

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
ROWS = [{"shop": "ab"[n % 2], "amount": n, "at": NOON + dt.timedelta(seconds=7 * n)} for n in range(20)]


def orders(timed: bool = True) -> lw.DataStream:
    watermark = lw.WatermarkStrategy.monotonous("at") if timed else None
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=3))
    return env.from_collection(ROWS, watermark=watermark)


def test_sessions_with_filtered_aggregates() -> None:
    sessions = orders().key_by("shop").window(lw.Session("14s"))
    table = sessions.aggregate(n=lw.count(), large=lw.count().where(col("amount") > 5)).execute_and_collect()
    assert sorted((row["shop"], row["n"], row["large"]) for row in table.to_pylist()) == [("a", 10, 7), ("b", 10, 7)]


def test_cumulative_windows_grow() -> None:
    windows = orders().window_all(lw.Cumulative("20s", size="1m"))
    table = windows.aggregate(n=lw.count()).execute_and_collect()
    assert table["n"].to_pylist()[:4] == [3, 6, 9, 3]


def test_windows_of_windows_give_the_greatest_of_each() -> None:
    counts = orders().key_by("shop").window(lw.Sliding("1m", slide="20s")).aggregate(n=lw.count())
    most = counts.window_all(lw.SameWindow()).aggregate(most=lw.max("n"))
    assert most.schema.names == ["window_start", "window_end", "most"]
    wanted: dict[Any, int] = {}
    for row in counts.execute_and_collect().to_pylist():
        wanted[row["window_start"]] = sorted([wanted.get(row["window_start"], 0), row["n"]])[-1]
    assert {row["window_start"]: row["most"] for row in most.execute_and_collect().to_pylist()} == wanted


def test_early_results_are_an_updating_stream_known_by_key_and_window() -> None:
    windows = orders().key_by("shop").window(lw.Tumbling("1m"))
    early = windows.trigger(lw.every_rows(2)).aggregate(n=lw.count())
    assert early.upsert_key == ("shop", "window_start")
    growing = orders().window_all(lw.Cumulative("20s", size="1m")).trigger(lw.every("1s")).aggregate(n=lw.count())
    assert growing.upsert_key == ("window_start", "window_end")
    final = windows.aggregate(n=lw.count()).execute_and_collect().to_pylist()
    assert sorted(early.collect_final().to_pylist(), key=repr) == sorted(final, key=repr)
    assert len(early.execute_and_collect()) > len(final)


def test_early_results_of_sessions_leave_the_sessions() -> None:
    windows = orders().key_by("shop").window(lw.Session("14s"))
    early = windows.trigger(lw.every_rows(1)).aggregate(n=lw.count())
    assert early.upsert_key == ("shop", "window_start", "window_end")
    final = windows.aggregate(n=lw.count()).execute_and_collect().to_pylist()
    assert sorted(early.collect_final().to_pylist(), key=repr) == sorted(final, key=repr)
    assert len(early.execute_and_collect()) > len(final)


def test_early_results_of_count_windows_leave_the_windows_and_what_fills_none() -> None:
    windows = orders(timed=False).key_by("shop").window(lw.CountWindow(4))
    early = windows.trigger(lw.every_rows(1)).aggregate(n=lw.count())
    assert early.upsert_key is None
    counts = sorted((row["shop"], row["n"]) for row in early.collect_final().to_pylist())
    assert counts == [("a", 2), ("a", 4), ("a", 4), ("b", 2), ("b", 4), ("b", 4)]


@pytest.mark.parametrize("window", [lw.Session("14s"), lw.CountWindow(4), lw.Tumbling("1m")])
def test_the_plan_says_that_windows_fire_early(window: Any) -> None:
    stream = orders()
    stream.key_by("shop").window(window).trigger(lw.every("1s")).aggregate(n=lw.count()).sink_to(lw.MemorySink())
    assert "(early every 1s) by shop" in stream._context.environment.explain()


def test_windows_without_event_time() -> None:
    keyed = orders(timed=False).key_by("shop")
    for window in (lw.Tumbling("10s", time="processing"), lw.Session("10s", time="processing"), lw.GlobalWindow()):
        table = keyed.window(window).aggregate(n=lw.count()).execute_and_collect()
        counts: dict[str, int] = {"a": 0, "b": 0}
        for row in table.to_pylist():
            counts[row["shop"]] += row["n"]
        assert counts == {"a": 10, "b": 10}


def test_count_windows_go_by_arrival() -> None:
    table = orders(timed=False).key_by("shop").window(lw.CountWindow(4)).aggregate(n=lw.count(), s=lw.sum("amount"))
    found = sorted((row["shop"], row["s"]) for row in table.execute_and_collect().to_pylist())
    assert found == [("a", 12), ("a", 44), ("b", 16), ("b", 48)]


def test_reduce_over_windows_of_processing_time() -> None:
    windows = orders(timed=False).select("shop", "amount").key_by("shop").window(lw.Tumbling("1h", time="processing"))
    table = windows.reduce(lambda a, b: {**a, "amount": a["amount"] + b["amount"]}).execute_and_collect()
    assert len(table) >= 2


@pytest.mark.parametrize(
    "window", [lw.Session("14s"), lw.CountWindow(5), lw.GlobalWindow(), lw.Cumulative("20s", size="1m")]
)
def test_reduce_over_windows_of_other_kinds_is_of_the_same_rows_as_aggregates(window: Any) -> None:
    windows = orders().key_by("shop").window(window)
    table = windows.reduce(lambda a, b: {**b, "amount": a["amount"] + b["amount"]}).execute_and_collect()
    totals = windows.aggregate(amount=lw.sum("amount")).execute_and_collect()
    assert sorted(table["amount"].to_pylist()) == sorted(totals["amount"].to_pylist())
    assert table.schema.names == ["shop", "amount", "at"]


@pytest.mark.parametrize(
    ("window", "key"),
    [
        (lw.Tumbling("1m"), ("shop", "window_start")),
        (lw.Sliding("1m", slide="20s"), ("shop", "window_start")),
        (lw.Cumulative("20s", size="1m"), ("shop", "window_start", "window_end")),
        (lw.Session("14s"), ("shop", "window_start", "window_end")),
        (lw.GlobalWindow(), ("shop",)),
        (lw.CountWindow(5), None),
    ],
)
def test_early_results_of_reduce_leave_what_it_sends_once(window: Any, key: tuple[str, ...] | None) -> None:
    windows = orders().key_by("shop").window(window)
    early = windows.trigger(lw.every_rows(1)).reduce(lambda a, b: {**b, "amount": a["amount"] + b["amount"]})
    totals = windows.aggregate(amount=lw.sum("amount"))
    assert (early.is_updating, early.upsert_key) == (True, key)
    assert early.event_time == totals.event_time
    assert early.schema.names[:-1] == [*totals.schema.names, "at"]
    final, wanted = early.collect_final(), totals.execute_and_collect()
    order = [(name, "ascending") for name in wanted.schema.names]
    assert final.drop("at").sort_by(order) == wanted.sort_by(order)


class Minute(NamedTuple):
    shop: str
    window_start: dt.datetime
    window_end: dt.datetime
    n: int


def minutes() -> lw.DataStream:
    return orders().key_by("shop").window(lw.Tumbling("1m")).aggregate(n=lw.count())


def test_a_reduced_row_of_results_of_windows_has_their_columns_alone() -> None:
    def best(a: Minute, b: Minute) -> Minute:
        return a if a.n >= b.n else b

    reduced = minutes().key_by("shop").window(lw.Tumbling("1h")).reduce(best)
    assert reduced.schema.names == ["shop", "window_start", "window_end", "n"]
    assert len(reduced.execute_and_collect()) == 2
    renamed = minutes().rename({"window_start": "opened", "window_end": "closed"})
    early = renamed.window_all(lw.Tumbling("1h")).trigger(lw.every_rows(1)).reduce(lambda a, b: b)
    assert early.schema.names[:-1] == ["window_start", "window_end", "shop", "opened", "closed", "n"]


def test_reduce_within_the_windows_of_results() -> None:
    counts = minutes()
    most = counts.window_all(lw.SameWindow()).reduce(lambda a, b: a if a["n"] >= b["n"] else b)
    wanted = counts.window_all(lw.SameWindow()).aggregate(n=lw.max("n")).execute_and_collect()
    assert sorted(most.execute_and_collect()["n"].to_pylist()) == sorted(wanted["n"].to_pylist())


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: orders().key_by("shop").window(lw.SameWindow()), "no column 'window_start'"),
        (lambda: orders(timed=False).key_by("shop").window(lw.Session("1s")), "windows need event time"),
        (
            lambda: orders().key_by("shop").window(lw.Session("1s")).trigger(lw.every("1s"), discarding=True),
            "no bounds that stay cannot discard",
        ),
        (
            lambda: orders().window_all(lw.Sliding("2s", slide="1s")).trigger(lw.every("1s"), discarding=True),
            "overlap cannot discard",
        ),
        (
            lambda: minutes().window_all(lw.Tumbling("1h")).trigger(lw.every("1s")).reduce(lambda a, b: a),
            "get a column 'window_start', and they have one",
        ),
        (lambda: orders().key_by("shop").window(lw.CountWindow(2)).allowed_lateness("1s"), "no row is late"),
        (
            lambda: orders().key_by("shop").aggregate(n=lw.count()).key_by("shop").window(lw.CountWindow(2)),
            "windows cannot take the updating stream",
        ),
        (lambda: lw.Session("0s"), "gap must be above zero"),
        (lambda: lw.Cumulative("7s", size="1m"), "cannot grow in steps"),
        (lambda: lw.Tumbling("1s", time="ingestion"), "windows go by no time"),  # type: ignore[arg-type]
        (lambda: lw.every("0s"), "needs more than 0"),
    ],
)
def test_windows_that_cannot_work_are_refused_when_they_are_written(made: Callable[[], Any], words: str) -> None:
    with pytest.raises(lw.LakewardError, match=words):
        made()


def half_timed() -> lw.KeyedStream:
    """Rows of which every second one has no event time."""
    rows = [{"shop": "a", "amount": n, "at": NOON if n % 2 else None} for n in range(6)]
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=2))
    return env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at")).key_by("shop")


@pytest.mark.parametrize("window", [lw.CountWindow(6), lw.GlobalWindow()], ids=["count", "global"])
def test_windows_that_go_by_no_time_take_rows_without_an_event_time(window: WindowSpec) -> None:
    shops = half_timed().window(window)
    assert shops.aggregate(n=lw.sum("amount")).execute_and_collect()["n"].to_pylist() == [15]
    early = shops.trigger(lw.every_rows(2))
    assert early.aggregate(n=lw.sum("amount")).collect_final()["n"].to_pylist() == [15]
    largest = shops.reduce(lambda a, b: a if a["amount"] >= b["amount"] else b)
    assert largest.execute_and_collect()["amount"].to_pylist() == [5]
    with pytest.raises(lw.LakewardError, match="event-time column 'at' is null"):
        shops.aggregate(v=lw.first("amount")).execute_and_collect()


def test_first_and_last_of_count_windows_go_by_event_time() -> None:
    rows = [{"v": n, "at": NOON - dt.timedelta(seconds=n)} for n in range(4)]
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1m")
    stream = lw.StreamExecutionEnvironment().from_collection(rows, watermark=watermark)
    windows = stream.window_all(lw.CountWindow(4)).aggregate(first=lw.first("v"), last=lw.last("v"))
    assert windows.execute_and_collect().to_pylist() == [{"first": 3, "last": 0}]


def at_times(times: list[int], kind: pa.DataType) -> lw.DataStream:
    table = pa.table({"at": pa.array(times, pa.int64()).cast(kind)})
    return lw.StreamExecutionEnvironment().from_collection(table, watermark=lw.WatermarkStrategy.monotonous("at"))


WINDOWS = [lw.Tumbling("1m"), lw.Sliding("1m", slide="20s"), lw.Cumulative("20s", size="1m"), lw.Session("1m")]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: type(window).__name__)
@pytest.mark.parametrize("time_us", [2**63 - 1, -(2**63), 2**62 + 1])
def test_a_time_too_far_away_for_windows_to_have_bounds_is_an_error_that_names_it(
    window: WindowSpec, time_us: int
) -> None:
    stream = at_times([0, time_us], pa.timestamp("us"))
    with pytest.raises(lw.LakewardError, match=f"'at' is {time_us} us from 1970") as caught:
        stream.window_all(window).aggregate(n=lw.count()).execute_and_collect()
    assert "another unit" in str(caught.value)


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: type(window).__name__)
@pytest.mark.parametrize("time_us", [2**62, -(2**62)])
def test_no_row_of_a_time_that_is_taken_is_lost(window: WindowSpec, time_us: int) -> None:
    found = at_times([time_us], pa.timestamp("us")).window_all(window).aggregate(n=lw.count()).execute_and_collect()
    assert set(found["n"].to_pylist()) == {1}
