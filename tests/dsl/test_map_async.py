"""Whole jobs with asynchronous functions: on a real event loop, and stepped from a seed."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import threading
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import ConfigError, ExternalCallError, GraphError, SchemaError, UserCodeError
from lakeward.engine.execute import Attempt, JobDefinition, Ports, execute
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.runtime.async_calls import SteppedJobCalls
from lakeward.engine.runtime.drivers import SimulatedDriver
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.job import IoResult
from lakeward.engine.runtime.metrics import Metrics
from lakeward.testing import BARRIER, ScriptedSource

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
SCHEMA = pa.schema({"n": pa.int64(), "at": pa.timestamp("us", tz="UTC")})
FAST = lw.EngineConfig(checkpoint_interval_ms=5, restart=lw.RestartConfig(attempts_max=3, delay_min_ms=1))
WATERMARK = lw.WatermarkStrategy.bounded_out_of_orderness("at", "0s")


@dataclass
class Row:
    n: int
    at: dt.datetime


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [{"n": n, "at": NOON + dt.timedelta(seconds=n)} for n in range(first, first + count)]


async def turns(count: int) -> None:
    """Let others have so many turns on the event loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def unchanged(row: Row) -> Row:
    return row


def stream(count: int = 50, **options: Any) -> lw.DataStream:
    env = lw.StreamExecutionEnvironment(**options)
    return env.from_collection(rows(0, count), watermark=WATERMARK)


def numbers(table: pa.Table) -> list[int]:
    found: list[int] = table["n"].to_pylist()
    return found


# -- on a real event loop


def test_ordered_answers_keep_their_order_and_unordered_ones_are_all_there() -> None:
    async def slowly(row: Row) -> Row:
        await turns(row.n * 7 % 5)
        return row

    assert numbers(stream().map_async(slowly, capacity=10).execute_and_collect()) == list(range(50))
    unordered = stream().map_async(slowly, capacity=10, ordered=False)
    assert sorted(numbers(unordered.execute_and_collect())) == list(range(50))


@pytest.mark.parametrize("blocking", [False, True])
def test_so_many_calls_run_at_a_time_and_no_more(blocking: bool) -> None:
    lock, running, most = threading.Lock(), 0, 0

    def enter(step: int) -> None:
        nonlocal running, most
        with lock:
            running += step
            most = max(most, running)

    together = threading.Barrier(5)

    def waits(row: Row) -> Row:
        enter(1)
        together.wait(30)
        enter(-1)
        return row

    async def awaits(row: Row) -> Row:
        enter(1)
        await turns(20)
        enter(-1)
        return row

    mapped = stream(100).map_async(waits if blocking else awaits, capacity=5)
    assert numbers(mapped.execute_and_collect()) == list(range(100))
    assert most == 5


def test_rows_in_flight_do_not_come_late_to_windows() -> None:
    async def slowly(row: Row) -> Row:
        await turns(row.n * 7 % 3)
        return row

    mapped = stream(200).map_async(slowly, ordered=False, capacity=30)
    counts = mapped.window_all(lw.Tumbling("10s")).aggregate(rows=lw.count())
    assert counts.execute_and_collect()["rows"].to_pylist() == [10] * 20


def test_batched_calls_answer_every_row() -> None:
    sizes: Counter[int] = Counter()

    async def embed(n: list[int], at: list[dt.datetime]) -> list[Row]:
        sizes[len(n)] += 1
        return [Row(*each) for each in zip(n, at, strict=True)]

    assert numbers(stream(100).map_async(embed, batch_rows=16).execute_and_collect()) == list(range(100))
    assert max(sizes) == 16


def test_a_client_may_be_opened_and_closed_by_plain_methods_too() -> None:
    log: list[str] = []

    class Plain(lw.AsyncFunction):
        def open(self) -> None:  # type: ignore[override]
            asyncio.get_running_loop()
            log.append("open")

        async def invoke(self, row: Row) -> Row:
            assert log == ["open"]
            return row

        def close(self) -> None:  # type: ignore[override]
            asyncio.get_running_loop()
            log.append("close")

    assert numbers(stream(3).map_async(Plain()).execute_and_collect()) == [0, 1, 2]
    assert log == ["open", "close"]


def test_a_call_that_hangs_is_cancelled() -> None:
    async def hangs(row: Row) -> Row:
        if row.n == 3:
            await asyncio.Event().wait()
        return row

    env = lw.StreamExecutionEnvironment()
    sink = lw.MemorySink()
    mapped = env.from_collection(rows(0, 5)).map_async(hangs, timeout="20ms", on_timeout=lambda row: [], uid="ask")
    mapped.sink_to(sink)
    result = env.execute()
    assert numbers(sink.table()) == [0, 1, 2, 4]
    assert {name: result.metrics["ask"][name] for name in ("calls", "timeouts")} == {"calls": 5, "timeouts": 1}


def test_a_failing_function_ends_the_job_with_an_error_that_says_where() -> None:
    async def fails(row: Row) -> Row:
        raise KeyError("shop")

    with pytest.raises(UserCodeError, match=r"(?s)operator 'ask'.*fails.*KeyError: 'shop'.*row: "):
        stream().map_async(fails, uid="ask").execute_and_collect()


def test_a_job_whose_function_fails_goes_on_from_its_checkpoint_and_answers_every_row_once() -> None:
    left = {30: 2, 60: 1}
    asked: Counter[int] = Counter()

    async def flaky(row: Row) -> Row:
        asked[row.n] += 1
        await turns(20)
        if left.get(row.n):
            left[row.n] -= 1
            raise ConnectionError("refused")
        return row

    script = [item for n in range(0, 100, 10) for item in (rows(n, 10), BARRIER)]
    env, sink = lw.StreamExecutionEnvironment(config=FAST), lw.MemorySink()
    source = env.from_source(ScriptedSource(SCHEMA, script), uid="source", parallelism=1)
    source.map_async(flaky, capacity=25, retries=lw.AsyncRetry(attempts=1), uid="ask").sink_to(sink, uid="sink")
    result = execute(env.definition())
    assert result.restarts == 3
    assert sorted(numbers(sink.table())) == list(range(100))
    assert max(asked.values()) > 1


def test_a_function_that_never_recovers_fails_the_job_which_goes_on_when_it_is_started_again(tmp_path: Path) -> None:
    is_away = True

    async def flaky(row: Row) -> Row:
        if is_away and row.n >= 40:
            raise ConnectionError("refused")
        return row

    def job(parallelism: int) -> lw.StreamExecutionEnvironment:
        config = replace(FAST, parallelism=parallelism)
        env = lw.StreamExecutionEnvironment(config=config, checkpoint_dir=str(tmp_path / "checkpoints"))
        source = env.from_source(ScriptedSource(SCHEMA, script), uid="source", parallelism=1)
        mapped = source.map_async(flaky, retries=lw.AsyncRetry(attempts=2, backoff="1ms"), uid="ask")
        mapped.sink_to(sink, uid="sink")
        return env

    script = [item for n in range(0, 100, 10) for item in (rows(n, 10), BARRIER)]
    sink = lw.MemorySink()
    with pytest.raises(Exception, match="refused") as caught:
        execute(job(1).definition())
    assert isinstance(caught.value.__cause__, ExternalCallError)
    is_away = False
    execute(job(3).definition())
    assert sorted(numbers(sink.table())) == list(range(100))


# -- stepped from a seed, in virtual time


class Bench:
    """A job whose calls end in an order that a seed draws; stopped and started again over one checkpoint store."""

    def __init__(self, seed: int, count: int, *, ordered: bool) -> None:
        self.rng = random.Random(seed)
        self.clock = ManualClock()
        self.store = MemoryStore()
        self.sink = lw.MemorySink()
        self.count = count
        self.ordered = ordered

    def definition(self, parallelism: int) -> JobDefinition:
        config = lw.EngineConfig(parallelism=parallelism, checkpoint_interval_ms=20, batch_rows=7)
        env = lw.StreamExecutionEnvironment(config=config)
        source = env.from_collection(rows(0, self.count), watermark=WATERMARK, uid="source")
        mapped = source.map_async(unchanged, ordered=self.ordered, capacity=4, uid="ask", parallelism=parallelism)
        sums = mapped.key_by("n").window(lw.Tumbling("10s")).aggregate(rows=lw.count(), uid="window")
        sums.sink_to(self.sink, uid="sink")
        job = env.definition()
        return replace(job, store=self.store)

    def run(self, parallelism: int, steps: int | None) -> bool:
        io, calls = SteppedIo[IoResult](), SteppedJobCalls()
        ports = Ports(clock=self.clock, make_io=lambda: io, make_calls=lambda: calls)
        job = self.definition(parallelism)
        graph, physical = prepare(job.graph, job.config)
        attempt = Attempt(replace(job, graph=graph), physical, ports, Metrics())
        try:
            runner = attempt.start()
            if runner is None:
                return True
            runner.open()
            return SimulatedDriver(self.rng, self.clock, io, calls).run(runner, steps)
        finally:
            attempt.close()


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_a_job_that_dies_again_and_again_answers_every_row_once_at_any_parallelism(seed: int, ordered: bool) -> None:
    bench = Bench(seed, 60, ordered=ordered)
    for _ in range(4):
        if bench.run(bench.rng.randint(1, 3), bench.rng.randint(50, 400)):
            break
    else:
        assert bench.run(bench.rng.randint(1, 3), None)
    assert sorted(numbers(bench.sink.table())) == list(range(60))
    assert set(bench.sink.table()["rows"].to_pylist()) == {1}


def test_a_checkpoint_waits_for_no_call() -> None:
    """Not even for those of rows that are before its barrier in a channel that is full."""
    bench = Bench(1, 500, ordered=True)
    io, calls = SteppedIo[IoResult](), SteppedJobCalls()
    job = bench.definition(2)
    graph, physical = prepare(job.graph, job.config)
    attempt = Attempt(replace(job, graph=graph), physical, Ports(clock=bench.clock, make_io=lambda: io,
        make_calls=lambda: calls), Metrics())  # fmt: skip
    runner = attempt.start()
    assert runner is not None
    runner.open()
    # Without the calls no row is ever answered.
    SimulatedDriver(bench.rng, bench.clock, io, steps_max=5000).run(runner, 3000)
    assert len(runner.completed) > 3
    assert calls.is_ready
    attempt.close()


# -- the verb


def test_the_plan_says_how_rows_are_called() -> None:
    env = lw.StreamExecutionEnvironment()
    source = env.from_collection([{"n": 1, "text": "a"}])
    source.map_async(lambda n, text: (n, 1), returns={"n": int, "x": int}, ordered=False, batch_rows=8).sink_to(
        lw.MemorySink()
    )
    source.map_async(named, uid="ask").sink_to(lw.MemorySink())
    shown = env.explain()
    assert "map_async function 'named'" in shown
    assert "(ordered, capacity 100)" in shown
    assert "of n, text (unordered, capacity 100, up to 8 rows a call)" in shown


async def named(row: dict[str, Any]) -> Row: ...


def test_event_time_goes_on_with_its_column() -> None:
    assert stream().map_async(unchanged).event_time is not None
    assert stream().map_async(unchanged, returns={"n": int}).event_time is None


def test_the_schema_comes_from_the_annotation_also_of_lists_and_classes() -> None:
    async def several(row: dict[str, Any]) -> list[Row]: ...

    class Rows(lw.AsyncFunction):
        async def invoke(self, row: Row) -> Row | None: ...

    for function in (several, Rows()):
        assert stream().map_async(function).schema.names == ["n", "at"]


def test_what_cannot_work_is_refused_where_it_is_written() -> None:
    class Unmade(lw.AsyncFunction):
        async def invoke(self, row: Row) -> Row: ...

    ask: Any = stream().map_async
    with pytest.raises(GraphError, match="no function"):
        ask("name")
    with pytest.raises(GraphError, match=r"(?s)got the class .*Unmade.*give an instance"):
        ask(Unmade)
    with pytest.raises(GraphError, match="not known"):
        ask(lambda row: row)
    for name, value in [
        ("capacity", 0),
        ("batch_rows", 0),
        ("timeout", "0s"),
        ("on_timeout", "skip"),
        ("retries", 3),
        ("ordered", "yes"),
    ]:
        with pytest.raises(ConfigError, match=rf"(?s)test_map_async.*map_async: {name}"):
            ask(unchanged, **{name: value})
    with pytest.raises(SchemaError, match="map_async cannot take the updating stream"):
        stream().key_by("n").aggregate(rows=lw.count()).map_async(unchanged)
