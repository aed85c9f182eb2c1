"""What process functions are told that use state, timers and keys in ways that cannot work."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import GraphError, SchemaError, UserCodeError
from lakeward.testing import ScriptedSource

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SHOWN = {"shown": str}


def keyed() -> lw.KeyedStream:
    rows = [{"k": k, "n": n, "at": n * 1_000_000} for n, k in enumerate("aba")]
    schema = {"k": str, "n": int, "at": pa.timestamp("us")}
    time = lw.WatermarkStrategy.monotonous("at")
    return lw.StreamExecutionEnvironment().from_collection(rows, schema=schema, watermark=time).key_by("k")


class Replaces(lw.KeyedProcessFunction):
    total: lw.ValueState[int]
    seen: lw.ListState[int]

    def __init__(self, name: str) -> None:
        self.name = name

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        setattr(self, self.name, 5)


@pytest.mark.parametrize(
    ("name", "hint"), [("total", r"self\.total\.value = \.\.\."), ("seen", r"what self\.seen can do")]
)
def test_a_state_that_is_replaced_instead_of_changed_is_named(name: str, hint: str) -> None:
    with pytest.raises(UserCodeError, match=rf"Replaces.process.* has replaced its state '{name}' by 5") as caught:
        keyed().process(Replaces(name), returns=SHOWN).execute_and_collect()
    assert caught.match(hint)


class WrongDefault(lw.KeyedProcessFunction):
    total = lw.ValueState(int, default="x")  # type: ignore[arg-type]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


def test_a_default_of_another_type_is_refused_before_the_job_runs() -> None:
    with pytest.raises(SchemaError, match="WrongDefault: the default of state 'total' does not fit"):
        keyed().process(WrongDefault(), returns=SHOWN)


@pytest.mark.parametrize("name", ["timers", "current_key"])
def test_a_function_without_a_key_is_told_what_belongs_to_keys(name: str) -> None:
    def asks(row: dict[str, Any], ctx: lw.ProcessContext) -> None:
        getattr(ctx, name)

    rows = lw.StreamExecutionEnvironment().from_collection([{"n": 1}])
    with pytest.raises(UserCodeError, match=rf"ctx\.{name} is used on a stream that has no key(?s:.*)key_by"):
        rows.process(asks, returns=SHOWN).execute_and_collect()

    def mistypes(row: dict[str, Any], ctx: Any) -> None:
        _ = ctx.timestmap

    with pytest.raises(UserCodeError, match="has no attribute 'timestmap'"):
        rows.process(mistypes, returns=SHOWN).execute_and_collect()


class Sets(lw.KeyedBatchFunction):
    def __init__(self, times: Any, keys: Any = None) -> None:
        self.times, self.keys = times, keys

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        keys = np.arange(ctx.keys.num_rows) if self.keys is None else self.keys
        ctx.timers.register_event_time(self.times, keys)

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        shown = [f"{k} {at.second}" for k, at in zip(*timers.to_pydict().values(), strict=True)]
        return pa.RecordBatch.from_pydict({"shown": shown})


@pytest.mark.parametrize(
    ("times", "keys", "said"),
    [
        (["a", "b"], None, "as times"),
        ([1.5, 2.5], None, "float64 as times"),
        ([1, 2], ["a", "b"], "as numbers of keys"),
    ],
)
def test_timers_of_a_batch_want_numbers(times: Any, keys: Any, said: str) -> None:
    with pytest.raises(UserCodeError, match=rf"timers are given .*{said}"):
        keyed().process(Sets(times, keys), returns=SHOWN).execute_and_collect()


@pytest.mark.parametrize(
    "times",
    [[3_000_000, 4_000_000], np.array([3, 4], "M8[s]"), pa.array([3_000, 4_000], pa.timestamp("ms"))],
    ids=["numbers", "numpy", "arrow"],
)
def test_timers_of_a_batch_may_be_times_of_any_unit(times: Any) -> None:
    found = keyed().process(Sets(times), returns=SHOWN).execute_and_collect()
    assert sorted(found["shown"].to_pylist()) == ["a 3", "b 4"]


class EventTimer(lw.KeyedProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        ctx.timers.delete_event_time(NOON)
        ctx.timers.register_event_time(NOON)

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        yield {"k": 1}


class EventTimers(lw.KeyedBatchFunction):
    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        ctx.timers.register_event_time([1], [0])

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None: ...


class EventTtl(lw.KeyedProcessFunction):
    listed = lw.ListState(int, ttl=lw.StateTtl("1h", time="event"))

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


def keyed_of(env: lw.StreamExecutionEnvironment, timed: bool) -> lw.KeyedStream:
    time = lw.WatermarkStrategy.monotonous("at") if timed else None
    return env.from_collection([{"k": 1, "at": NOON}], watermark=time).key_by("k")


@pytest.mark.parametrize("function", [EventTimer(), EventTimers()])
def test_a_timer_of_event_time_on_a_stream_without_it_ends_the_job_under_every_policy(function: Any) -> None:
    policy = lw.OnError.skip()
    result = keyed_of(lw.StreamExecutionEnvironment(), False).process(function, returns={"k": int}, on_error=policy)
    with pytest.raises(GraphError, match="a timer of event time is set, and the stream has no event time") as caught:
        result.execute_and_collect()
    assert "test_misused_functions.py:" in "".join(caught.value.details)
    rows = keyed_of(lw.StreamExecutionEnvironment(), True).reduce(lambda held, row: row)
    timed = rows.map(lambda row: {"k": row["k"]}, returns={"k": int})
    assert timed.event_time is None  # but its watermark goes on
    timed.key_by("k").process(function, returns={"k": int}, on_error=policy).execute_and_collect()


def test_state_that_expires_by_event_time_is_refused_on_a_stream_without_it() -> None:
    env = lw.StreamExecutionEnvironment()
    with pytest.raises(
        GraphError, match="the TTL of state 'listed' goes by event time, and the stream has no"
    ) as caught:
        keyed_of(env, False).process(EventTtl(), returns={"k": int})
    assert "test_misused_functions.py:" in caught.value.location
    assert "watermark=" in caught.value.hint
    keyed_of(env, True).process(EventTtl(), returns={"k": int})


class BothTtl(lw.CoProcessFunction):
    listed = lw.ListState(int, ttl=lw.StateTtl("1h", time="event"))

    def process1(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...

    def process2(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None: ...


def test_a_source_without_event_time_that_never_ends_would_hold_back_that_of_the_other() -> None:
    env = lw.StreamExecutionEnvironment()
    keyed_of(env, True).connect(keyed_of(env, False)).process(BothTtl(), returns={"k": int})
    endless = env.from_source(ScriptedSource({"k": int}, [[{"k": 1}]], bounded=False), uid="endless")
    with pytest.raises(GraphError, match="the source 'endless' has no event time, and holds back that of the others"):
        keyed_of(env, True).connect(endless.key_by("k")).process(BothTtl(), returns={"k": int})
