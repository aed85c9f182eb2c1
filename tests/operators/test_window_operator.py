from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from lakeward.dsl.aggregates import count, count_distinct, max, sum
from lakeward.dsl.windows import Sliding, Tumbling, WindowSpec
from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.operators.windows import operator as window_operator
from lakeward.operators.windows import panes
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.operators.windows.timed import event_times_us
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SECOND = 1_000_000
SCHEMA = pa.schema({"shop": pa.string(), "at": pa.timestamp("us", tz="UTC"), "amount": pa.int64()})


def factory(
    window: WindowSpec, keys: tuple[str, ...] = ("shop",), lateness_s: int = 0, schema: pa.Schema = SCHEMA
) -> WindowAggregate:
    aggregates = (count().bind(schema, "orders"), sum("amount").bind(schema, "revenue"))
    return WindowAggregate(schema, keys, "at", window.layout(), aggregates, lateness_s * SECOND, "late")


def order(shop: str | None, second: float, amount: int | None = 1) -> dict[str, Any]:
    return {"shop": shop, "at": int(second * SECOND), "amount": amount}


def results(harness: OperatorHarness) -> list[tuple[Any, int, Any]]:
    rows = harness.take()
    return sorted((r["shop"] or "", int(r["window_start"].timestamp()), r["revenue"]) for r in rows)


def test_a_window_fires_when_the_watermark_reaches_its_last_microsecond() -> None:
    with OperatorHarness(factory(Tumbling("10s")), SCHEMA) as harness:
        harness.send([order("a", 1, 5), order("a", 9.999999, 7), order("b", 10, 1)])
        harness.watermark(10 * SECOND - 2)
        assert harness.take() == []
        harness.watermark(10 * SECOND - 1)
        assert results(harness) == [("a", 0, 12)]


def test_a_result_has_keys_bounds_and_aggregates() -> None:
    with OperatorHarness(factory(Tumbling("10s")), SCHEMA) as harness:
        harness.send([order("a", 11, 5)])
        (row,) = harness.end()
    start = dt.datetime(1970, 1, 1, 0, 0, 10, tzinfo=dt.UTC)
    bounds = {"window_start": start, "window_end": start + dt.timedelta(seconds=10)}
    assert row == {"shop": "a", **bounds, "orders": 1, "revenue": 5}
    assert list(row) == factory(Tumbling("10s")).schema.names


def test_windows_fire_in_the_order_of_their_ends() -> None:
    with OperatorHarness(factory(Sliding("10s", "5s")), SCHEMA) as harness:
        harness.send([order("a", 31), order("a", 2), order("a", 17)])
        starts = [row["window_start"] for row in harness.end()]
    assert starts == sorted(starts)
    assert len(starts) == 6


def test_empty_windows_are_not_emitted() -> None:
    with OperatorHarness(factory(Tumbling("10s")), SCHEMA) as harness:
        harness.send([order("a", 1), order("a", 95)])
        assert [r["window_start"].second for r in harness.end()] == [0, 30]


def test_a_late_row_is_counted_and_sent_aside_as_it_came() -> None:
    with OperatorHarness(factory(Tumbling("10s")), SCHEMA) as harness:
        harness.send([order("a", 1, 5)])
        harness.watermark(10 * SECOND - 1)
        harness.take()
        harness.send([order("a", 2, 7), order("a", 12, 1), order("b", 3, None)])
        late = harness.take_side("late")
        assert [(r["shop"], r["at"].second, r["amount"]) for r in late] == [("a", 2, 7), ("b", 3, None)]
        assert harness.counter("late_rows") == 2
        harness.end()


def test_without_a_tag_late_rows_are_only_counted() -> None:
    plain = WindowAggregate(SCHEMA, ("shop",), "at", Tumbling("10s").layout(), (count().bind(SCHEMA, "n"),))
    with OperatorHarness(plain, SCHEMA) as harness:
        harness.watermark(20 * SECOND)
        harness.send([order("a", 2)])
        assert harness.counter("late_rows") == 1
        assert harness.end() == []


def test_rows_within_the_lateness_send_the_new_result_of_the_keys_they_touch_once_a_batch() -> None:
    with OperatorHarness(factory(Tumbling("10s"), lateness_s=5), SCHEMA) as harness:
        harness.send([order("a", 1, 5), order("b", 1, 1)])
        harness.watermark(10 * SECOND - 1)
        assert results(harness) == [("a", 0, 5), ("b", 0, 1)]
        harness.send([order("a", 2, 7), order("a", 3, 1), order("c", 4, 2)])
        assert results(harness) == [("a", 0, 13), ("c", 0, 2)]
        harness.watermark(15 * SECOND - 2)
        harness.send([order("a", 2, 1)])
        assert results(harness) == [("a", 0, 14)]
        harness.watermark(15 * SECOND - 1)
        harness.send([order("a", 2, 1)])
        assert results(harness) == []
        assert harness.counter("late_rows") == 1


def test_a_sliding_row_is_late_only_when_all_its_windows_have_passed() -> None:
    with OperatorHarness(factory(Sliding("10s", "5s")), SCHEMA) as harness:
        harness.send([order("a", 7, 1)])
        harness.watermark(10 * SECOND - 1)
        assert results(harness) == [("a", 0, 1)]
        harness.send([order("a", 8, 2), order("a", 4, 4)])  # the first still counts for [5, 15)
        assert [r["amount"] for r in harness.take_side("late")] == [4]
        harness.watermark(15 * SECOND - 1)
        assert results(harness) == [("a", 5, 3)]


def test_rows_between_hopping_windows_belong_to_none_and_are_not_late() -> None:
    with OperatorHarness(factory(Sliding("2s", "5s")), SCHEMA) as harness:
        harness.send([order("a", 1, 1), order("a", 3, 9), order("a", 6, 2)])
        harness.end()
        harness.send([order("a", 3, 9)])
        assert harness.counter("late_rows") == 0


def test_a_null_event_time_names_the_column() -> None:
    with (
        OperatorHarness(factory(Tumbling("10s")), SCHEMA) as harness,
        pytest.raises(RecordError, match="event-time column 'at' is null in 1 of 2 rows"),
    ):
        harness.send([order("a", 1), {"shop": "b", "at": None, "amount": 1}])


def test_windows_before_1970_work() -> None:
    with OperatorHarness(factory(Tumbling("10s")), SCHEMA) as harness:
        harness.send([order("a", -1, 1), order("a", -10, 2), order("a", -11, 4)])
        assert [r["revenue"] for r in harness.end()] == [4, 3]


def test_null_keys_are_a_key_of_their_own() -> None:
    with OperatorHarness(factory(Sliding("10s", "5s")), SCHEMA) as harness:
        harness.send([order(None, 6, 1), order("", 6, 2), order(None, 2, 4)])
        rows = [(r["shop"], r["revenue"]) for r in harness.end() if r["window_start"].second == 0]
    assert sorted(rows, key=repr) == [("", 2), (None, 5)]


def test_windows_over_the_whole_stream_need_no_key() -> None:
    with OperatorHarness(factory(Sliding("10s", "5s"), keys=()), SCHEMA) as harness:
        harness.send([order("a", 6, 1), order("b", 7, 2)])
        rows = harness.end()
    assert [r["revenue"] for r in rows] == [3, 3]
    assert "shop" not in rows[0]


def test_several_keys_of_different_types() -> None:
    schema = SCHEMA.append(pa.field("day", pa.date32())).append(pa.field("x", pa.float64()))
    keys = ("shop", "day", "x")
    with OperatorHarness(factory(Sliding("10s", "5s"), keys, schema=schema), schema) as harness:
        day = dt.date(2026, 1, 1)
        rows = [order("a", 6) | {"day": day, "x": x} for x in (0.5, None, 0.5)]
        harness.send(rows)
        harness.send(rows)
        seen = {(r["shop"], r["day"], r["x"], r["orders"]) for r in harness.end()}
    assert seen == {("a", day, 0.5, 4), ("a", day, None, 2)}


@pytest.mark.parametrize("unit", ["s", "ms", "ns"])
def test_event_times_of_other_units_keep_their_type(unit: str) -> None:
    kind = pa.timestamp(unit)
    schema = pa.schema({"shop": pa.string(), "at": kind, "amount": pa.int64()})
    with OperatorHarness(factory(Tumbling("10s"), schema=schema), schema) as harness:
        times = pa.array([3, 14], type=pa.timestamp("s")).cast(kind)
        harness.send(pa.RecordBatch.from_arrays([pa.array(["a", "a"]), times, pa.array([1, 2])], schema=schema))
        harness.watermark(10 * SECOND - 1)
        table = harness.take_table()
    assert table is not None
    assert table.schema.field("window_end").type == kind
    assert table["window_end"].cast(pa.timestamp("s")).cast(pa.int64()).to_pylist() == [10]


def test_a_large_window_comes_in_bounded_batches_and_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panes, "MERGE_ROWS_MAX", 100)
    monkeypatch.setattr(window_operator, "EMIT_ROWS_MAX", 64)
    schema = pa.schema({"shop": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "amount": pa.int64()})
    extra = (count_distinct("amount").bind(schema, "different"), max("amount").bind(schema, "most"))
    base = factory(Sliding("10s", "5s"), schema=schema)
    whole = WindowAggregate(schema, ("shop",), "at", base.window, base.aggregates + extra)
    with OperatorHarness(whole, schema) as harness:
        for second in (1, 6):
            harness.send([{"shop": i, "at": second * SECOND, "amount": i % 7 + second} for i in range(500)])
        harness.watermark(10 * SECOND - 1)
        table = harness.take_table()
    assert table is not None
    middle = table.filter(pa.compute.equal(table["orders"], 2)).to_pylist()
    assert sorted(r["shop"] for r in middle) == list(range(500))
    assert all(r["revenue"] == 2 * (r["shop"] % 7) + 7 and r["different"] == 2 for r in middle)
    assert max_chunk(table) <= 64


def max_chunk(table: pa.Table) -> int:
    return sorted(batch.num_rows for batch in table.to_batches())[-1]


def test_a_batch_over_many_panes_is_sorted_into_them() -> None:
    with OperatorHarness(factory(Tumbling("1s")), SCHEMA) as harness:
        harness.send([order("a", (i * 37) % 101, i) for i in range(101)])
        rows = harness.end()
    assert [(int(r["window_start"].timestamp()), r["revenue"]) for r in rows] == sorted(
        ((i * 37) % 101, i) for i in range(101)
    )


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
def test_the_same_late_decision_with_and_without_a_restore(store: Any) -> None:
    made = factory(Tumbling("10s"))
    config = HarnessConfig(store=store)
    with OperatorHarness(made, SCHEMA, config) as harness:
        harness.send([order("a", 1, 5), order("a", 12, 7)])
        harness.watermark(10 * SECOND - 1)
        harness.take()
        snapshot = harness.snapshot()
    with OperatorHarness.restore(made, SCHEMA, [snapshot], config) as restored:
        restored.send([order("a", 2, 1), order("a", 13, 1)])  # no watermark came yet
        assert len(restored.take_side("late")) == 1
        restored.watermark(0)  # a source that starts over sends low watermarks first
        restored.send([order("a", 2, 1)])
        assert len(restored.take_side("late")) == 1
        restored.watermark(30 * SECOND)
        assert results(restored) == [("a", 10, 8)]


@pytest.mark.parametrize("window", [Tumbling("10s"), Sliding("10s", "5s")])
def test_windows_larger_than_memory_are_exact(window: WindowSpec) -> None:
    made = factory(window, lateness_s=5)
    shops = [f"shop-{i}" for i in range(3_000)]
    config = HarnessConfig(store="rocksdb", memory_bytes=64 << 10)
    with OperatorHarness(made, SCHEMA, config) as harness:
        for second in (5, 6, 7):
            harness.send([order(shop, second, i) for i, shop in enumerate(shops)])
        harness.watermark(10 * SECOND - 1)
        fired = {r["shop"]: r["revenue"] for r in harness.take()}
        assert fired == {shop: 3 * i for i, shop in enumerate(shops)}
        harness.send([order(shop, 8, 1) for shop in shops[::10]])
        again = {r["shop"]: r["revenue"] for r in harness.take()}
        assert again == {shop: 30 * i + 1 for i, shop in enumerate(shops[::10])}


def test_state_of_passed_windows_is_freed() -> None:
    with OperatorHarness(factory(Sliding("10s", "5s"), lateness_s=5), SCHEMA) as harness:
        operator = harness.operator
        assert isinstance(operator, window_operator.WindowOperator)
        harness.send([order("a", 2)])
        harness.watermark(15 * SECOND - 2)
        assert operator._state.table.namespaces() == [0]
        harness.watermark(15 * SECOND - 1)
        assert operator._state.table.namespaces() == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"time_column": "then"}, "no event-time column 'then'"),
        ({"time_column": "amount"}, "'amount' has type int64, but windows need a timestamp"),
        ({"keys": ("shop", "region")}, "no column 'region' to key by"),
        ({"keys": ("shop", "amount"), "aggregates": ("amount",)}, "two columns 'amount'"),
    ],
)
def test_windows_that_cannot_work_are_refused_when_they_are_made(change: dict[str, Any], words: str) -> None:
    names = change.pop("aggregates", ("n",))
    arguments = {
        "input_schema": SCHEMA,
        "keys": ("shop",),
        "time_column": "at",
        "window": Tumbling("1s").layout(),
        "aggregates": tuple(count().bind(SCHEMA, name) for name in names),
    }
    with pytest.raises(SchemaError, match=words):
        WindowAggregate(**{**arguments, **change})


@pytest.mark.parametrize(("unit", "times"), [("s", 2**42), ("ms", 2**52), ("us", 2**62), ("ns", 2**63 - 1)])
def test_event_times_of_every_unit_become_microseconds_or_an_error_but_never_wrap_around(unit: str, times: int) -> None:
    def taken(value: int) -> list[int]:
        batch = pa.record_batch({"at": pa.array([0, value], pa.int64()).cast(pa.timestamp(unit))})
        return event_times_us(batch, "at").tolist()

    assert taken(times) == [0, times * {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit] // 1000]
    if unit != "ns":
        for far in (2**63 - 1, -(2**63)):
            with pytest.raises(RecordError, match=f"'at' is {far} {unit} from 1970"):
                taken(far)
