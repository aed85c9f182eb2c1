"""Timers that set one another, go back in time, or are many."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.process import timer_loops
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.testing.harness import OperatorHarness

SCHEMA = pa.schema({"k": pa.string(), "n": pa.int64()})
RESULT = pa.schema({"k": pa.string(), "at": pa.int64()})
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
Next = Callable[[int, int], list[int]]
"""Takes the time of a timer and how many have fired before; gives the times of those to set."""


def since_epoch(moment: dt.datetime) -> int:
    return (moment - EPOCH) // dt.timedelta(microseconds=1)


class Chained(lw.KeyedProcessFunction):
    """Sets a timer for each row's n, and in each timer those that `next` says."""

    def __init__(self, following: Next, domain: str = "event", deleting: Next = lambda at, _: []) -> None:
        self.following, self.domain, self.deleting, self.fired = following, domain, deleting, 0

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        getattr(ctx.timers, f"register_{self.domain}_time")(row["n"])

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        at = since_epoch(timestamp)
        for time in self.following(at, self.fired):
            getattr(ctx.timers, f"register_{self.domain}_time")(time)
        for time in self.deleting(at, self.fired):
            getattr(ctx.timers, f"delete_{self.domain}_time")(time)
        self.fired += 1
        yield {"k": ctx.current_key, "at": at}


class BatchChained(lw.KeyedBatchFunction):
    """The same for whole batches."""

    def __init__(self, following: Next, domain: str = "event", deleting: Next = lambda at, _: []) -> None:
        self.following, self.domain, self.deleting, self.fired = following, domain, deleting, 0

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        getattr(ctx.timers, f"register_{self.domain}_time")(batch.column("n"), ctx.key_numbers)

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> Any:
        times = timers.column("timestamp").cast(pa.int64())
        for key, at in enumerate(times.to_pylist()):
            following = self.following(at, self.fired)
            getattr(ctx.timers, f"register_{self.domain}_time")(following, np.full(len(following), key))
            gone = self.deleting(at, self.fired)
            getattr(ctx.timers, f"delete_{self.domain}_time")(gone, np.full(len(gone), key))
            self.fired += 1
        return pa.record_batch({"k": timers.column("k"), "at": times})


@pytest.fixture(autouse=True)
def _few_steps_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timer_loops, "_BACK_MAX", 50)


ROADS = pytest.mark.parametrize("road", [Chained, BatchChained])
DOMAINS = pytest.mark.parametrize("domain", ["event", "processing"])


def harness(function: Any) -> OperatorHarness:
    return OperatorHarness(
        Process(Callee(function, _methods(function)), (ProcessInput(SCHEMA, ("k",)),), RESULT), SCHEMA
    )


def _methods(function: Any) -> tuple[str, ...]:
    return ("process_batch",) if isinstance(function, lw.KeyedBatchFunction) else ("process",)


def fired(function: Any, rows: list[tuple[str, int]], upto_us: int = 1_000_000) -> list[tuple[str, int]]:
    """The timers that fire in one advance."""
    with harness(function) as one:
        one.send([{"k": key, "n": n} for key, n in rows])
        if function.domain == "event":
            one.watermark(upto_us)
        else:
            one.tick()
        return [(row["k"], row["at"]) for row in one.take()]


OTHER = 5_000
ENDLESS: dict[str, Next] = {
    "its own time": lambda at, _: [at],
    "earlier and earlier": lambda at, _: [at - 1],
    "to and fro": lambda at, _: [at + 1 if at == 10 else 10],
    "its own time among others": lambda at, _: [at, 500_000],
}


@ROADS
@DOMAINS
@pytest.mark.parametrize("following", ENDLESS.values(), ids=ENDLESS)
def test_timers_that_never_get_on_are_an_error_that_names_key_time_and_function(
    road: Any, domain: str, following: Next
) -> None:
    with pytest.raises(UserCodeError) as caught:
        fired(road(lambda at, n: [] if at == OTHER else following(at, n), domain), [("other", OTHER), ("stuck", 10)])
    text = str(caught.value)
    assert "'stuck'" in text
    assert "1970-01-01 00:00:00" in text or "1969-12-31 23:59:59" in text
    assert road.__name__ in text
    assert "later" in caught.value.hint


@ROADS
@DOMAINS
def test_timers_that_set_themselves_some_times_fire_in_one_advance(road: Any, domain: str) -> None:
    again = road(lambda at, fired: [at] if fired < 40 else [], domain)
    assert fired(again, [("a", 10), ("a", 20)]) == [("a", 10)] * 41 + [("a", 20)]


@ROADS
@DOMAINS
def test_chains_that_get_on_fire_in_one_advance_however_long_they_are(road: Any, domain: str) -> None:
    steps = road(lambda at, _: [at + 1] if at < 70 else [], domain)
    assert fired(steps, [("a", 0), ("a", 150)]) == [*(("a", at) for at in range(71)), ("a", 150)]


@ROADS
def test_a_chain_may_go_back_once_and_come_again(road: Any) -> None:
    steps = road(lambda at, fired: [0] if not fired else [at + 1] if at < 70 else [])
    assert fired(steps, [("a", 150)]) == [("a", 150), *(("a", at) for at in range(71))]


@ROADS
def test_many_timers_may_be_set_at_once_for_times_that_have_passed(road: Any) -> None:
    past = road(lambda at, fired: list(range(70)) if not fired else [])
    assert fired(past, [("a", 500)]) == [("a", 500), *(("a", at) for at in range(70))]


@ROADS
@DOMAINS
def test_timers_of_many_times_may_set_themselves_once_more_each(road: Any, domain: str) -> None:
    function = road(lambda at, fired: [at] if fired % 2 == 0 else [at + 1] if at < 60 else [], domain)
    assert fired(function, [("a", 0)]) == [("a", at // 2) for at in range(122)]


@ROADS
def test_a_timer_may_be_set_many_times_for_its_own_time_while_it_fires(road: Any) -> None:
    function = road(lambda at, fired: [at] * 100 if not fired else [])
    assert fired(function, [("a", 10)]) == [("a", 10)] * 2


@ROADS
def test_processing_timers_that_set_themselves_at_the_end_fire_once(road: Any) -> None:
    with harness(road(lambda at, _: [at], "processing")) as one:
        one.send([{"k": "a", "n": 4_102_444_800_000_000}])
        assert [row["at"] for row in one.end()] == [4_102_444_800_000_000]


@ROADS
def test_late_timers_that_never_get_on_are_an_error_too(road: Any) -> None:
    with harness(road(lambda at, _: [at])) as one:
        one.watermark(1_000)
        one.send([{"k": "a", "n": 10}])
        with pytest.raises(UserCodeError, match="again and again"):
            one.watermark(1_001)


def following_of(seed: int) -> tuple[Next, Next]:
    """What a timer sets and deletes: by its time alone, so that it does not matter in what order keys are called."""

    def some(at: int, salt: int) -> list[int]:
        rng = random.Random(f"{seed} {at} {salt}")
        return [at + rng.randrange(1, 40) for _ in range(rng.choice([0, 0, 0, 0, 1, 1, 2]))]

    return (lambda at, _: some(at, 1)), (lambda at, _: some(at, 2))


@ROADS
@pytest.mark.parametrize("seed", range(4))
def test_timers_of_each_key_fire_as_if_it_were_alone_and_one_came_after_the_other(road: Any, seed: int) -> None:
    rng = random.Random(seed)
    setting, deleting = following_of(seed)
    rows = [(f"k{rng.randrange(6)}", rng.randrange(300)) for _ in range(rng.choice([30, 120]))]
    wanted = {key: alone({at for one, at in rows if one == key}, setting, deleting) for key, _ in rows}
    found: dict[str, list[int]] = {key: [] for key in wanted}
    for key, at in fired(road(setting, deleting=deleting), rows, 600):
        found[key].append(at)
    assert found == wanted
    assert sum(map(len, found.values())) > len(set(rows))


def alone(waiting: set[int], setting: Next, deleting: Next) -> list[int]:
    """The timers of one key in the order in which they fire."""
    times = []
    while waiting and min(waiting) <= 600:
        at = min(waiting)
        waiting.remove(at)
        times.append(at)
        waiting |= set(setting(at, 0))
        waiting -= set(deleting(at, 0))
    return times


def test_a_thousand_steps_back_are_no_loop_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    again = Chained(lambda at, fired: [at] if fired < 1_000 else [])
    assert fired(again, [("a", 10)]) == [("a", 10)] * 1_001


class Kept(lw.KeyedProcessFunction):
    """The first timer of a key holds a value for ten microseconds, the others show it."""

    held = lw.ValueState(str, ttl=lw.StateTtl(dt.timedelta(microseconds=10), time="event"))
    listed = lw.ListState(str, ttl=lw.StateTtl(dt.timedelta(microseconds=10), time="event"))
    first: lw.ValueState[int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.first.value = min(row["n"], self.first.value or row["n"])
        ctx.timers.register_event_time(row["n"])

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Any:
        if since_epoch(timestamp) == self.first.value:
            self.held.value = "held"
            self.listed.append("listed")
        elif self.held.exists and list(self.listed):
            yield {"k": ctx.current_key, "at": since_epoch(timestamp)}


class KeptColumns(lw.KeyedBatchFunction):
    """The same for whole batches."""

    held = lw.ValueState(int, ttl=lw.StateTtl(dt.timedelta(microseconds=10), time="event"))
    first: lw.ValueState[int]

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        before = self.first.column.fill_null(1_000).to_numpy().copy()
        np.minimum.at(before, ctx.key_numbers, batch.column("n").to_numpy())
        self.first.column = before
        ctx.timers.register_event_time(batch.column("n"), ctx.key_numbers)

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> Any:
        times = timers.column("timestamp").cast(pa.int64())
        shown = self.held.column.is_valid()
        self.held.update(times, where=times.to_numpy() == self.first.column.to_numpy())
        return pa.record_batch({"k": timers.column("k"), "at": times}).filter(shown)


@pytest.mark.parametrize("road", [Kept, KeptColumns])
def test_a_late_timer_touches_state_by_the_watermark_and_not_by_its_own_time(road: Any) -> None:
    with harness(road()) as one:
        one.watermark(100)
        one.send([{"k": "late", "n": at} for at in (50, 105, 109, 110, 112)])
        one.watermark(200)
        assert [row["at"] for row in one.take()] == [105, 109]  # held at 100, not at 50
        one.send([{"k": "in time", "n": at} for at in (250, 255, 259, 260)])
        one.watermark(300)
        assert [row["at"] for row in one.take()] == [255, 259]
