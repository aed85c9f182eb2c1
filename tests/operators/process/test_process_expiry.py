"""When state with a TTL is there and when it is gone, for one key among others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.operator import FunctionOperator, Process, ProcessInput
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"k": pa.string(), "n": pa.int64(), "at": pa.timestamp("us", tz="UTC")})
RESULT = pa.schema({"k": pa.string(), "at": pa.int64(), "held": pa.int64()})
BRIEFLY = lw.StateTtl("10us", time="event")


def harness(function: Any) -> OperatorHarness:
    factory = Process(Callee(function, methods_of(function)), (ProcessInput(SCHEMA, ("k",), "at"),), RESULT, RESULT)
    return OperatorHarness(factory, SCHEMA, HarnessConfig())


def methods_of(function: Any) -> tuple[str, ...]:
    return ("process_batch",) if isinstance(function, lw.KeyedBatchFunction) else ("process",)


class ShowsAtTimers(lw.KeyedProcessFunction):
    held = lw.ValueState(int, ttl=BRIEFLY)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.held.value = row["n"]
        ctx.timers.register_event_time(row["n"])

    def on_timer(self, timestamp: Any, ctx: lw.KeyedContext) -> Any:
        yield ctx.current_key, ctx.timestamp_us, self.held.value


class ShowsManyAtTimers(lw.KeyedBatchFunction):
    held = lw.ValueState(int, ttl=BRIEFLY)

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        last = np.zeros(len(ctx.keys), np.int64)
        last[ctx.key_numbers] = batch.column("n")
        self.held.column = last
        ctx.timers.register_event_time(batch.column("n"), ctx.key_numbers)

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        return pa.record_batch([timers.column("k"), pa.array(ctx.times_us), self.held.column], schema=RESULT)


@pytest.mark.parametrize("function", [ShowsAtTimers(), ShowsManyAtTimers()], ids=["rows", "batches"])
def test_state_has_expired_by_the_time_of_each_key_s_own_timer(function: Any) -> None:
    rows = [{"k": k, "n": n, "at": 0} for k, n in (("a", 4), ("b", 9), ("c", 10), ("d", 25))]
    with harness(function) as one:
        one.send(rows)
        one.watermark(30)
        assert {(row["k"], row["held"]) for row in one.take()} == {("a", 4), ("b", 9), ("c", None), ("d", None)}


class SetsAndClears(lw.KeyedProcessFunction):
    value = lw.ValueState(int, ttl=BRIEFLY)
    listed = lw.ListState(int, ttl=BRIEFLY)
    mapped = lw.MapState(str, int, ttl=BRIEFLY)

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        if row["n"] % 2:
            for state in (self.value, self.listed, self.mapped):
                state.clear()
        else:
            self.value.value = self.mapped["x"] = row["n"]
            self.listed.append(row["n"])


def test_a_key_that_is_cleared_and_set_again_and_again_is_not_noted_for_ever() -> None:
    with harness(SetsAndClears()) as one:
        for n in range(400):
            one.send([{"k": "a", "n": n, "at": n}])
            one.watermark(n)
        assert isinstance(one.operator, FunctionOperator)
        assert one.operator._states is not None
        assert [len(expiry._due) <= 15 for expiry in one.operator._states._expiries] == [True] * 3


class Reads(lw.KeyedProcessFunction):
    held = lw.ValueState(int, ttl=lw.StateTtl("10us", time="event", refresh="read"))

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Any:
        if row["n"] == 0:
            self.held.value = 1
        elif row["n"] == 1:
            yield ctx.current_key, row["n"], self.held.value


class ReadsMany(lw.KeyedBatchFunction):
    held = lw.ValueState(int, ttl=lw.StateTtl("10us", time="event", refresh="read"))

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch | None:
        (n,) = batch.column("n").unique().to_pylist()
        if n == 0:
            self.held.column = [1] * len(ctx.keys)
        elif n == 1:
            return pa.record_batch([ctx.keys.column("k"), batch.column("n"), self.held.column], schema=RESULT)
        elif n == 2:
            self.held.update([2] * len(ctx.keys), where=np.zeros(len(ctx.keys), np.bool_))
        return None


@pytest.mark.parametrize("function", [Reads(), ReadsMany()], ids=["rows", "batches"])
def test_state_that_is_read_lives_longer_where_reading_counts(function: Any) -> None:
    with harness(function) as one:
        one.send([{"k": k, "n": 0, "at": 0} for k in "abc"])
        found = []
        for time, n, keys in ((8, 1, "a"), (9, 2, "b"), (12, 1, "abc"), (15, 1, "ac"), (24, 1, "a"), (34, 1, "a")):
            one.watermark(time)
            one.send([{"k": k, "n": n, "at": time} for k in keys])
            found.append([row["held"] for row in one.take()])
        assert found == [[1], [], [1, None, None], [1, None], [1], [None]]
