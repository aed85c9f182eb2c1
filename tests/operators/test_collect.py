"""Lists of values: types, order, nulls, and state that an older job has left. The models of windows have them too."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, updating
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.group_aggregate import GroupAggregate
from lakeward.testing.harness import OperatorHarness

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
VALUES: list[tuple[pa.DataType, list[Any]]] = [
    (pa.bool_(), [True, False]),
    (pa.uint64(), [2**64 - 1, 0]),
    (pa.float32(), [1.5, float("inf")]),
    (pa.float16(), [1.5, -2.0]),
    (pa.decimal128(38, 4), [Decimal("-12345678901234567890.1234"), Decimal("0.0000")]),
    (pa.large_string(), ["é", ""]),
    (pa.binary(), [b"\x00\xff", b""]),
    (pa.timestamp("ns"), [1, 2**62]),
    (pa.timestamp("s", tz="Europe/Berlin"), [NOON, NOON]),
    (pa.date32(), [dt.date(2026, 1, 1), dt.date(1, 1, 1)]),
    (pa.time64("us"), [dt.time(1, 2, 3, 4), dt.time()]),
    (pa.duration("ms"), [dt.timedelta(milliseconds=-5), dt.timedelta()]),
    (pa.list_(pa.timestamp("us")), [[dt.datetime(2026, 1, 1), None], []]),  # noqa: DTZ001
    (pa.list_(pa.int8(), 2), [[1, 2], [3, None]]),
    (pa.map_(pa.string(), pa.date32()), [[("a", dt.date(2026, 1, 1))], []]),
    (pa.struct({"a b": pa.int64(), "in": pa.struct({"x": pa.decimal64(9, 2)})}), [{"a b": 1, "in": None}] * 2),
]


@pytest.mark.parametrize(("kind", "values"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_values_of_every_type_come_back_as_they_were_also_after_a_restore(kind: pa.DataType, values: list[Any]) -> None:
    column = pa.array(values, kind)
    batch = pa.record_batch({"k": [1, 1], "x": column, "s": pa.StructArray.from_arrays([column], ["x"])})
    aggregates = tuple(lw.collect(name).bind(batch.schema, f"all_{name}") for name in ("x", "s"))
    factory = GroupAggregate(batch.schema, ("k",), aggregates)
    with OperatorHarness(factory, batch.schema) as harness:
        harness.send(batch)
        snapshot = harness.snapshot()
    with OperatorHarness.restore(factory, batch.schema, [snapshot]) as harness:
        harness.send(batch)
        result = harness.take_table()
    assert result is not None
    twice = pa.concat_arrays([column, column])
    assert result["all_x"].chunk(0)[-1].values.equals(twice)
    assert result["all_s"].chunk(0)[-1].values.field(0).equals(twice)


def test_dictionary_encoded_values_come_as_plain_ones() -> None:
    shops = pa.array(["a", "b", "a"]).dictionary_encode()
    table = pa.table({"k": [1, 1, 1], "shop": shops})
    stream = lw.StreamExecutionEnvironment().from_collection(table).key_by("k")
    result = stream.aggregate(shops=lw.collect("shop"), rows=lw.collect()).collect_final()
    assert result.to_pylist()[0]["shops"] == ["a", "b", "a"]
    assert result.to_pylist()[0]["rows"][1] == {"k": 1, "shop": "b"}


def test_rows_are_whole_whatever_their_columns_are_called() -> None:
    rows = [{"k": 1, "#row": n, "at": NOON} for n in range(2)]
    env = lw.StreamExecutionEnvironment()
    keyed = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at")).key_by("k")
    late = keyed.window(lw.Tumbling("1m")).side_output_late_data(lw.OutputTag("late"))
    for windows in (keyed.window(lw.Session("1m")), late, late.allowed_lateness("1h")):
        result = windows.aggregate(rows=lw.collect(), n=lw.count()).execute_and_collect()
        assert result["rows"].to_pylist() == [rows]


def test_nulls_are_left_out_and_nothing_but_nulls_is_null() -> None:
    rows = [{"k": 1, "v": None}, {"k": 1, "v": 5}, {"k": 2, "v": None}]
    stream = lw.StreamExecutionEnvironment().from_collection(rows).key_by("k")
    result = stream.aggregate(vs=lw.collect("v"), large=lw.collect("v").where(col("v") > 9)).collect_final()
    assert result.sort_by("k").to_pylist() == [{"k": 1, "vs": [5], "large": None}, {"k": 2, "vs": None, "large": None}]


def test_values_are_in_the_order_of_event_time_and_equal_times_in_that_of_arrival() -> None:
    rows = [{"n": n, "at": NOON + dt.timedelta(seconds=s)} for n, s in enumerate((5, 3, 5, 1, 3))]
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=2))
    stream = env.from_collection(rows, watermark=lw.WatermarkStrategy.bounded_out_of_orderness("at", "1m"))
    for window in (lw.Tumbling("1m"), lw.Session("10s"), lw.CountWindow(5), lw.GlobalWindow()):
        assert stream.window_all(window).aggregate(ns=lw.collect("n")).execute_and_collect()["ns"].to_pylist() == [
            [3, 1, 4, 0, 2]
        ]


def test_without_event_time_values_are_in_the_order_of_arrival() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"n": n} for n in (5, 3, 4)])
    for window in (lw.Tumbling("1h", time="processing"), lw.CountWindow(3)):
        result = stream.window_all(window).aggregate(ns=lw.collect("n")).execute_and_collect()
        assert result["ns"].to_pylist() == [[5, 3, 4]]


def test_a_value_that_is_taken_back_before_it_comes_is_never_in_the_list() -> None:
    schema = updating(pa.schema({"k": pa.int64(), "v": pa.int64()}))
    factory = GroupAggregate(schema, ("k",), (lw.collect("v").bind(schema, "vs"),))
    with OperatorHarness(factory, schema) as harness:
        kinds = zip((8, 9, 7), (INSERT, DELETE, INSERT), strict=True)
        harness.send([{"k": 1, "v": value, ROW_KIND: kind} for value, kind in kinds])
        snapshot = harness.snapshot()
        assert [row["vs"] for row in harness.take()] == [[8, 7]]
    with OperatorHarness.restore(factory, schema, [snapshot]) as harness:
        harness.send([{"k": 1, "v": value, ROW_KIND: INSERT} for value in (9, 6)])
        assert harness.take()[-1]["vs"] == [8, 7, 6]


def restored(before: pa.DataType, after: pa.DataType, first: Any, second: Any) -> list[Any]:
    def made(kind: pa.DataType) -> tuple[GroupAggregate, pa.Schema]:
        schema = pa.schema({"k": pa.int64(), "x": kind})
        return GroupAggregate(schema, ("k",), (lw.collect("x").bind(schema, "xs"),)), schema

    factory, schema = made(before)
    with OperatorHarness(factory, schema) as harness:
        harness.send([{"k": 1, "x": first}])
        snapshot = harness.snapshot()
    factory, schema = made(after)
    with OperatorHarness.restore(factory, schema, [snapshot]) as harness:
        harness.send([{"k": 1, "x": second}])
        found: list[Any] = harness.take()[-1]["xs"]
        return found


def test_rows_collected_before_a_column_came_or_went_are_kept() -> None:
    narrow, wide = pa.struct({"a": pa.int64()}), pa.struct({"a": pa.float64(), "b": pa.string()})
    assert restored(narrow, wide, {"a": 1}, {"a": 2.5, "b": "x"}) == [{"a": 1.0, "b": None}, {"a": 2.5, "b": "x"}]
    assert restored(wide, narrow, {"a": 1.0, "b": "x"}, {"a": 2}) == [{"a": 1}, {"a": 2}]


def test_values_collected_as_another_type_are_an_error_that_names_it() -> None:
    with pytest.raises(SchemaError, match=r"'xs' has collected values that are no int64"):
        restored(pa.string(), pa.int64(), "text", 5)


def test_values_that_cannot_be_kept_are_refused_where_the_job_is_written() -> None:
    schema = pa.schema({"x": pa.month_day_nano_interval()})
    with pytest.raises(SchemaError, match="collect of column 'x' of type month_day_nano_interval"):
        lw.collect("x").bind(schema, "xs")
