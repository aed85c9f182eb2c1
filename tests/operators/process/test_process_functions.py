"""Process functions in jobs, as users write them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import GraphError, SchemaError, UserCodeError
from lakeward.testing import CollectSink, JobHarness, ScriptedSource

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@dataclass
class Order:
    shop: str
    amount: int
    at: dt.datetime


class Alert(NamedTuple):
    shop: str
    total: int


ALERTS = lw.OutputTag("alerts", Alert)


def orders(amounts: list[tuple[str, int]], batch_rows: int = 2) -> lw.DataStream:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
    rows = [{"shop": s, "amount": a, "at": NOON + dt.timedelta(seconds=n)} for n, (s, a) in enumerate(amounts)]
    return env.from_collection(rows, schema=Order, watermark=lw.WatermarkStrategy.monotonous("at"))


class Totals(lw.KeyedProcessFunction):
    total: lw.ValueState[int] = lw.ValueState(default=0)

    def __init__(self, limit: int = 100) -> None:
        self.limit = limit

    def process(self, row: Order, ctx: lw.KeyedContext) -> Iterator[Alert]:
        self.total.value += row.amount
        if self.total.value > self.limit:
            yield Alert(ctx.current_key, self.total.value)
            ctx.output(ALERTS, Alert(row.shop, self.total.value))
            self.total.clear()


AMOUNTS = [("a", 60), ("b", 10), ("a", 50), ("b", 95), ("a", 10)]


def test_rows_come_typed_and_state_is_that_of_the_key() -> None:
    alerts = orders(AMOUNTS).key_by("shop").process(Totals())
    assert alerts.schema == pa.schema({"shop": pa.string(), "total": pa.int64()})
    assert sorted(alerts.execute_and_collect()["total"].to_pylist()) == [105, 110]


def test_a_side_output_has_the_rows_of_its_tag() -> None:
    alerts = orders(AMOUNTS).key_by("shop").process(Totals(50))
    found = [tuple(row.values()) for row in alerts.side_output(ALERTS).execute_and_collect().to_pylist()]
    assert sorted(found) == [("a", 60), ("a", 60), ("b", 105)]


def test_one_object_in_two_subtasks_has_two_states() -> None:
    env = lw.StreamExecutionEnvironment(parallelism=2)
    rows = [{"shop": f"s{n % 7}", "amount": 1, "at": NOON} for n in range(70)]
    stream = env.from_collection(rows, schema=Order, watermark=lw.WatermarkStrategy.monotonous("at"))
    alerts = stream.key_by("shop").process(Totals(9)).execute_and_collect()
    assert sorted(alerts.to_pylist(), key=lambda row: row["shop"]) == [{"shop": f"s{n}", "total": 10} for n in range(7)]


@pytest.mark.parametrize("kind", [dict, tuple, Order])
def test_rows_come_as_the_parameter_is_annotated(kind: Any) -> None:
    seen: list[Any] = []

    def look(row: Any) -> Iterator[Alert]:
        seen.append(row)
        return iter(())

    look.__annotations__["row"] = kind
    orders(AMOUNTS[:1]).process(look).execute_and_collect()
    row = ("a", 60, NOON)
    assert seen == [row if kind is tuple else Order(*row) if kind is Order else Order(*row).__dict__]


def test_a_plain_function_takes_states_and_the_context_by_name_in_any_order() -> None:
    def numbered(row: Order, seen: lw.ValueState[int], ctx: lw.KeyedContext) -> Iterator[Alert]:
        seen.value = (seen.value or 0) + 1
        yield Alert(ctx.current_key, seen.value)

    found = orders(AMOUNTS).key_by("shop").process(numbered).execute_and_collect()
    assert sorted(tuple(row.values()) for row in found.to_pylist()) == [
        ("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2),
    ]  # fmt: skip


class Beats(lw.KeyedProcessFunction):
    """Sets a timer with every row, which sets another one."""

    def process(self, row: Order, ctx: lw.KeyedContext) -> None:
        assert ctx.timestamp == row.at
        ctx.timers.register_event_time(row.at + dt.timedelta(seconds=row.amount))

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[Alert]:
        assert ctx.time_domain == "event"
        assert ctx.timestamp == timestamp
        after = int((timestamp - NOON).total_seconds())
        if after < 30:
            ctx.timers.register_event_time(timestamp + dt.timedelta(seconds=10))
        yield Alert(ctx.current_key, after)


class ShowsTheWatermark(lw.KeyedProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        ctx.timers.register_event_time(ctx.timestamp_us + 1)
        yield {"what": f"row {row['n']}", "at": ctx.watermark}

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        yield {"what": f"timer {(timestamp - NOON) // dt.timedelta(seconds=1)}", "at": ctx.watermark}


def test_the_watermark_of_a_row_is_the_last_one_before_its_batch_and_that_of_a_timer_made_it_fire() -> None:
    schema = pa.schema({"n": pa.int64(), "at": pa.timestamp("us", tz="UTC")})

    def job(env: lw.StreamExecutionEnvironment) -> None:
        second = dt.timedelta(seconds=1)
        script = [[{"n": n, "at": NOON + n * second} for n in batch] for batch in ((0, 3), (4, 1), (9,))]
        time = lw.WatermarkStrategy.monotonous("at")
        stream = env.from_source(ScriptedSource(schema, script), watermark=time, uid="in").key_by("n")
        stream.process(ShowsTheWatermark(), returns={"what": str, "at": dt.datetime}, uid="p").sink_to(CollectSink())

    harness = JobHarness(job)
    harness.run()
    shown = {one["what"]: one["at"] and (one["at"] - NOON) / dt.timedelta(seconds=1) for one in harness.rows()}
    assert [shown[f"row {n}"] for n in (0, 3, 4, 1, 9)] == [None, None, 2.999999, 2.999999, 3.999999]
    assert [shown[f"timer {n}"] for n in (0, 3, 4, 1, 9)] == [2.999999, 3.999999, 8.999999, 3.999999, None]


def test_timers_fire_in_the_order_of_their_times_with_those_that_they_set() -> None:
    beats = orders([("a", 3), ("a", 12), ("b", 1), ("a", 2)], batch_rows=4).key_by("shop")
    found = beats.process(Beats(), returns=Alert).execute_and_collect().to_pylist()
    assert [row["total"] for row in found if row["shop"] == "a"] == [3, 5, 13, 15, 23, 25, 33, 35]
    assert [row["total"] for row in found if row["shop"] == "b"] == [3, 13, 23, 33]


class Endless(lw.KeyedProcessFunction):
    def process(self, row: Order, ctx: lw.KeyedContext) -> None:
        ctx.timers.register_event_time(row.at)

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> None:
        if not ctx.input_has_ended:
            ctx.timers.register_event_time(timestamp + dt.timedelta(minutes=1))


def test_a_periodic_timer_ends_with_the_input_if_it_asks_for_it() -> None:
    found = orders(AMOUNTS).key_by("shop").process(Endless(), returns=Alert).execute_and_collect()
    assert found.num_rows == 0


class Clocked(lw.KeyedProcessFunction):
    def process(self, row: Order, ctx: lw.KeyedContext) -> None:
        ctx.timers.register_processing_time(dt.datetime(2200, 1, 1, tzinfo=dt.UTC))

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[Alert]:
        assert ctx.time_domain == "processing"
        ctx.timers.register_processing_time(timestamp + dt.timedelta(days=1))
        yield Alert(ctx.current_key, 1)


def test_processing_time_timers_fire_once_when_the_input_ends() -> None:
    found = orders(AMOUNTS, batch_rows=9).key_by("shop").process(Clocked(), returns=Alert).execute_and_collect()
    assert sorted(row["shop"] for row in found.to_pylist()) == ["a", "b"]


class Both(lw.CoProcessFunction):
    price: lw.ValueState[int | None]
    waiting: lw.ListState[int]

    def process1(self, row: Order, ctx: lw.KeyedContext) -> Iterator[Alert]:
        if self.price.value is None:
            self.waiting.append(row.amount)
        else:
            yield Alert(row.shop, row.amount * self.price.value)

    def process2(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[Alert]:
        self.price.value = row["price"]
        for amount in self.waiting:
            yield Alert(row["store"], amount * row["price"])
        self.waiting.clear()


def test_two_streams_share_the_state_of_a_key_whatever_its_columns_are_called() -> None:
    stream = orders(AMOUNTS)
    env = stream._context.environment
    prices = env.from_collection([{"price": 3, "store": "a"}, {"price": 2, "store": "b"}])
    both = stream.key_by("shop").connect(prices.key_by("store")).process(Both(), uid="both")
    found = [tuple(row.values()) for row in both.execute_and_collect().to_pylist()]
    assert sorted(found) == [("a", 30), ("a", 150), ("a", 180), ("b", 20), ("b", 190)]


class Rules(lw.BroadcastProcessFunction):
    limits: lw.BroadcastState[str, int]
    seen: lw.ValueState[int] = lw.ValueState(default=0)

    def process(self, row: Order, ctx: lw.KeyedContext) -> Iterator[Alert]:
        self.seen.value += 1
        yield Alert(row.shop, self.limits.get(row.shop, -1))

    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None:
        self.limits[row["shop"]] = row["limit"]


class Careless(Rules):
    def process(self, row: Order, ctx: lw.KeyedContext) -> Iterator[Alert]:
        self.limits[row.shop] = 1
        yield Alert(row.shop, 1)


class KeyedInBroadcast(Rules):
    def process_broadcast(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None:
        self.seen.value = 1


def with_rules(function: lw.BroadcastProcessFunction) -> lw.DataStream:
    stream = orders(AMOUNTS)
    rules = stream._context.environment.from_collection([{"shop": "a", "limit": 5}, {"shop": "b", "limit": 7}])
    return stream.key_by("shop").connect(rules.broadcast()).process(function, returns=Alert)


def test_broadcast_state_is_read_by_all_and_written_by_the_broadcast_stream_alone() -> None:
    found = with_rules(Rules()).execute_and_collect().to_pylist()
    assert len(found) == 5
    assert {row["total"] for row in found} <= {-1, 5, 7}
    with pytest.raises(UserCodeError, match="a row that not every subtask gets") as caught:
        with_rules(Careless()).execute_and_collect()
    assert "process_broadcast" in str(caught.value)
    with pytest.raises(UserCodeError, match="where no row is being handled"):
        with_rules(KeyedInBroadcast()).execute_and_collect()


class Stateful(lw.ProcessFunction):
    seen: lw.ValueState[int]

    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> None: ...


class NoContext(lw.KeyedProcessFunction):
    def process(self, row: dict[str, Any]) -> None: ...  # type: ignore[override]


class BadTimer(lw.KeyedProcessFunction):
    def process(self, row: dict[str, Any], ctx: Any) -> None: ...

    def on_timer(self, ctx: Any) -> None: ...  # type: ignore[override]


class BadRow(lw.KeyedProcessFunction):
    def process(self, row: Alert, ctx: Any) -> None: ...


class Untyped(lw.KeyedProcessFunction):
    seen = lw.ValueState()

    def process(self, row: dict[str, Any], ctx: Any) -> None: ...


class Foldless(lw.KeyedProcessFunction):
    seen: lw.ReducingState[int]

    def process(self, row: dict[str, Any], ctx: Any) -> None: ...


class Listed(lw.KeyedBatchFunction):
    seen: lw.ListState[int]

    def process_batch(self, batch: pa.RecordBatch, ctx: Any) -> None: ...


class Object(lw.KeyedProcessFunction):
    seen: lw.ValueState[object]

    def process(self, row: dict[str, Any], ctx: Any) -> None: ...


async def later(row: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    ("function", "keyed", "said"),
    [
        (Stateful(), False, "the state 'seen' needs a key"),
        (Stateful(), True, "neither an lw.KeyedProcessFunction nor a function"),
        (Totals, True, "make one: Totals()"),
        (NoContext(), True, "too many positional arguments"),
        (BadTimer(), True, "it gets (self, timestamp, ctx)"),
        (BadRow(), True, "no column 'total'"),
        (Untyped(), True, "the type of state 'seen' is not known"),
        (Foldless(), True, "a ReducingState, which needs a function"),
        (Listed(), True, "a vectorised function has ValueStates only"),
        (Object(), True, "no Arrow type for <class 'object'>"),
        (later, True, "is async"),
        (lambda row, other: None, True, "missing a required argument: 'other'"),
        (3, True, "3 is neither"),
    ],
)
def test_what_cannot_work_is_refused_when_the_graph_is_built(function: Any, keyed: bool, said: str) -> None:
    stream = orders(AMOUNTS)
    with pytest.raises((GraphError, SchemaError)) as caught:
        (stream.key_by("shop") if keyed else stream).process(function, returns=Alert)
    assert said in str(caught.value)
    assert "test_process_functions.py" in str(caught.value)


def test_connected_streams_need_keys_of_the_same_types_and_a_function_of_two() -> None:
    stream = orders(AMOUNTS)
    with pytest.raises(SchemaError, match="the keys of connected streams differ: string and int64"):
        stream.key_by("shop").connect(stream.key_by("amount"))
    with pytest.raises(GraphError, match=r"is no lw\.CoProcessFunction"):
        stream.key_by("shop").connect(stream.key_by("shop")).process(Totals(), returns=Alert)


def bad(what: str) -> Any:
    def function(row: Order, ctx: lw.KeyedContext, held: lw.ValueState[int], all_held: lw.ListState[int]) -> Any:
        if what == "raises":
            return [1 / (row.amount - 60)]
        if what == "single":
            return Alert("a", 1)
        if what == "value":
            held.value = "text"  # type: ignore[assignment]
        if what == "list":
            all_held.append("text")  # type: ignore[arg-type]
        if what == "timer":
            ctx.timers.register_event_time("noon")  # type: ignore[arg-type]
        if what == "far":
            ctx.timers.register_event_time(2**62)
        if what == "tag":
            ctx.output(ALERTS, {"shop": "a"})
        return None

    return function


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("raises", "ZeroDivisionError"),
        ("single", "returned a single Alert"),
        ("value", "state 'held' holds int64, but was given a value of type str"),
        ("list", "state 'all_held' holds int64, but was given a value of type str"),
        ("timer", "a timer is set to 'noon' (str)"),
        ("far", "within the years 1 to 9999"),
        ("tag", "a row for the side stream 'alerts' lacks column 'total'"),
    ],
)
def test_mistakes_while_it_runs_are_named(what: str, said: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        orders(AMOUNTS).key_by("shop").process(bad(what), returns=Alert, uid="checked").execute_and_collect()
    assert said in str(caught.value)
    assert "operator 'checked'" in str(caught.value)


def test_a_side_stream_that_is_sent_and_read_as_different_rows_is_refused() -> None:
    result = orders(AMOUNTS).key_by("shop").process(Totals(50))
    other = lw.OutputTag("alerts", {"shop": str})
    with pytest.raises(UserCodeError, match="is sent rows of shop: string, total: int64, but is read as shop: string"):
        result.side_output(other).execute_and_collect()
    with pytest.raises(GraphError, match=r"'alerts' is read as rows of shop: string, total: .* of shop: s"):
        result.side_output(ALERTS)
    with pytest.raises(GraphError, match="the rows of the side stream 'bare' are not known"):
        result.side_output(lw.OutputTag("bare"))


def test_two_tags_of_one_name_and_different_rows_are_refused_naming_both_places() -> None:
    first = orders(AMOUNTS)
    keyed = first.key_by("shop")
    keyed.process(Totals(50)).side_output(ALERTS)
    keyed.process(Totals(60)).side_output(lw.OutputTag("alerts", ALERTS.schema))
    with pytest.raises(GraphError, match="is read as rows of two: int64, and at") as caught:
        first.process(lambda row: [row], returns=first.schema).side_output(lw.OutputTag("alerts", {"two": int}))
    (line,) = (one.lineno for one in caught.traceback if one.name.startswith("test_two_tags"))
    assert caught.value.location == f"{__file__}:{line + 1}"
    assert f"at {__file__}:{line - 2} of shop: string" in str(caught.value)


class BatchTotals(lw.KeyedBatchFunction):
    total: lw.ValueState[int] = lw.ValueState(default=0)
    first: lw.ValueState[dt.datetime | None]

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        totals = self.total.column.to_numpy(zero_copy_only=False).copy()
        new = np.flatnonzero(totals == 0)
        np.add.at(totals, ctx.key_numbers, batch.column("amount").to_numpy())
        self.total.column = totals
        assert ctx.times_us is not None
        first = np.full(len(totals), np.iinfo(np.int64).max)
        np.minimum.at(first, ctx.key_numbers, ctx.times_us)
        mask = np.zeros(len(totals), np.bool_)
        mask[new] = True
        self.first.update(pa.array(first).view(pa.timestamp("us", tz="UTC")), where=mask)
        for seconds in (3, 60):
            ctx.timers.register_event_time(first[new] + seconds * 1_000_000, new)

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        result = pa.record_batch({"shop": timers.column("shop"), "total": self.total.column})
        late = (timers.column("timestamp").to_numpy() - self.first.column.to_numpy()) / np.timedelta64(1, "s") > 30
        self.total.clear(where=late)
        return result


def test_the_vectorised_form_has_the_state_of_its_keys_as_columns() -> None:
    rows = [("a", 1), ("b", 2), ("a", 3), ("c", 4), ("a", 5), ("b", 6), ("c", 7), ("a", 8)]
    stream = orders(rows, batch_rows=2).key_by("shop").process(BatchTotals(), returns=Alert)
    found = [tuple(row.values()) for row in stream.execute_and_collect().to_pylist()]
    by_shop = {shop: [total for one, total in found if one == shop] for shop in "abc"}
    assert by_shop == {"a": [9, 17], "b": [8, 8], "c": [11, 11]}


class BadBatches(lw.KeyedBatchFunction):
    total: lw.ValueState[int] = lw.ValueState(default=0)

    def __init__(self, what: str) -> None:
        self.what = what

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> Any:
        if self.what == "short":
            self.total.column = [1]
        if self.what == "type":
            self.total.column = ["text"] * ctx.keys.num_rows
        if self.what == "result":
            return batch
        if self.what == "raises":
            raise KeyError("x")
        return None


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("short", "a state of 2 keys is given 1 values"),
        ("type", "state 'total' holds int64"),
        ("result", "lacks column 'total'"),
        ("raises", "KeyError"),
    ],
)
def test_mistakes_of_a_vectorised_function_are_named(what: str, said: str) -> None:
    with pytest.raises(UserCodeError) as caught:
        orders(AMOUNTS, batch_rows=9).key_by("shop").process(BadBatches(what), returns=Alert).execute_and_collect()
    assert said in str(caught.value)


def test_explain_says_which_functions_leave_the_fast_road() -> None:
    stream = orders(AMOUNTS)
    slow = stream.key_by("shop").process(Totals(), uid="slow")
    slow.sink_to(lw.BlackholeSink(), uid="out")
    text = stream._context.environment.explain()
    assert "process by shop with function 'Totals.process'" in text


def test_columns_that_the_rows_class_has_not_are_not_read() -> None:
    @dataclass
    class Amount:
        amount: int

    def total(row: Any, ctx: lw.KeyedContext, held: lw.ValueState[int]) -> Iterator[Alert]:
        held.value = (held.value or 0) + row.amount
        yield Alert(ctx.current_key, held.value)

    total.__annotations__["row"] = Amount
    rows = [{"shop": "a", "amount": n, "at": NOON, "text": "x"} for n in (1, 2)]
    stream = lw.StreamExecutionEnvironment().from_collection(rows)
    result = stream.with_columns(long=lw.col("text") + lw.col("text")).key_by("shop").process(total)
    result.sink_to(lw.BlackholeSink(), uid="out")
    assert "long" not in stream._context.environment.explain()
    assert result.execute_and_collect()["total"].to_pylist() == [1, 3]
