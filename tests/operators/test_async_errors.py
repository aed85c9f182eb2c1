"""Rows on which asynchronous functions fail: what the error shows, and what becomes of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import OnError
from lakeward.engine.core.errors import ConfigError, SchemaError, SourceError, UserCodeError
from lakeward.engine.core.redaction import Redaction
from lakeward.operators.async_map import AsyncMap
from lakeward.operators.async_options import AsyncOptions, AsyncRetry
from lakeward.testing import BARRIER, FAIL, CollectSink, JobHarness, ScriptedSource
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"n": pa.int64(), "name": pa.string()})
OUT = pa.schema({"n": pa.int64()})
FAILING = lw.OutputTag("failing")
SIDE = OnError.side_output(FAILING)
ONCE = AsyncRetry(attempts=1)


class Refused(Exception):
    """What the functions under test raise: no mistake, so it is tried again."""


async def refuses_odd(row: dict[str, Any]) -> dict[str, Any]:
    if row["n"] % 2:
        raise Refused(f"not {row['n']}")
    return {"n": row["n"]}


async def refuses_lists_with_odd(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [await refuses_odd(row) for row in rows]


async def misfits_odd(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": "odd" if row["n"] % 2 else row["n"]}


@dataclass
class Even:
    n: int

    def __post_init__(self) -> None:
        if self.n % 2:
            raise Refused(f"not {self.n}")


async def of_even(row: Even) -> dict[str, Any]:
    return {"n": row.n}


async def of_evens(rows: list[Even]) -> list[dict[str, Any]]:
    return [{"n": row.n} for row in rows]


def mapped(function: Any, **options: Any) -> AsyncMap:
    return AsyncMap(function, SCHEMA, OUT, options=AsyncOptions(**options))


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": n, "name": f"name {n}"} for n in numbers]


def numbers(events: Sequence[Any]) -> list[Any]:
    return [one if isinstance(one, int) else one["n"] for one in events]


# -- what an error shows


def test_an_answer_that_does_not_fit_is_shown_with_its_row_and_the_function() -> None:
    with OperatorHarness(mapped(misfits_odd), SCHEMA) as harness:
        harness.send(rows(2, 5, 6))
        with pytest.raises(UserCodeError) as caught:
            harness.finish()
        assert harness.take() == []
    message = str(caught.value)
    assert "misfits_odd" in message
    assert "test_async_errors.py" in message
    assert "async def misfits_odd" in message
    assert "row: {'n': 5, 'name': 'name 5'}" in message


def test_of_a_list_of_answers_the_one_that_does_not_fit_is_shown() -> None:
    async def misfit(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [await misfits_odd(row) for row in rows]

    with OperatorHarness(mapped(misfit, batch_rows=4), SCHEMA) as harness:
        harness.send(rows(2, 4, 5))
        with pytest.raises(UserCodeError, match=r"(?s)async def misfit.* row: \{'n': 5"):
            harness.finish()


def test_an_error_of_ours_that_the_function_raises_is_shown_with_the_row_too() -> None:
    async def raises(row: dict[str, Any]) -> dict[str, Any]:
        raise UserCodeError("the service knows no such name")

    env = lw.StreamExecutionEnvironment()
    with pytest.raises(UserCodeError, match=r"(?s)no such name.*in raises: raise UserCodeError.*row: \{'n': 1"):
        env.from_collection(rows(1)).map_async(raises, returns={"n": int}).execute_and_collect()


# -- rows that are left out, or sent aside


@pytest.mark.parametrize("function", [refuses_odd, misfits_odd, of_even])
@pytest.mark.parametrize("on_error", [OnError.skip(), SIDE])
@pytest.mark.parametrize("ordered", [True, False])
def test_rows_that_fail_cost_the_others_nothing(function: Any, on_error: OnError, ordered: bool) -> None:
    factory = mapped(function, on_error=on_error, ordered=ordered, retry=AsyncRetry(attempts=3, backoff="1ms"))
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.send(rows(*range(10)))
        assert sorted(numbers(harness.end())) == [0, 2, 4, 6, 8]
        assert harness.counter("failed_rows") == 5
        failed = harness.take_side("failing")
    assert sorted(numbers(failed)) == ([1, 3, 5, 7, 9] if on_error is SIDE else [])
    assert {row["name"] for row in failed} == {f"name {n}" for n in numbers(failed)}


def test_the_policy_comes_after_the_tries() -> None:
    retry = AsyncRetry(attempts=3, backoff="100ms")
    with OperatorHarness(mapped(refuses_odd, on_error=SIDE, retry=retry), SCHEMA) as harness:
        harness.send(rows(1))
        for wait_ms in (100, 200):
            harness.finish()
            assert harness.take_side("failing") == []
            harness.tick(wait_ms)
        harness.finish()
        failed = harness.take_side("failing")
        assert [harness.counter(name) for name in ("calls", "retries", "failed_rows")] == [3, 2, 1]
    assert [row["error_type"] for row in failed] == ["Refused"]
    assert failed[0]["error_message"] == "not 1"
    assert "test_async_errors.py" in failed[0]["error_at"]


def test_a_row_that_fails_leaves_at_its_place() -> None:
    with OperatorHarness(mapped(refuses_odd, on_error=SIDE, retry=ONCE), SCHEMA) as harness:
        harness.send(rows(0))
        harness.watermark(100)
        harness.send(rows(1, 2))
        harness.watermark(200)
        harness.finish(1, 2)
        assert (harness.take_events(), harness.take_side("failing")) == ([], [])
        harness.finish(0)
        assert numbers(harness.take_events()) == [0, 100, 2, 200]
        assert numbers(harness.take_side("failing")) == [1]


@pytest.mark.parametrize("function", [refuses_lists_with_odd, of_evens])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_in_lists_the_rows_at_fault_are_found_and_no_others_are_lost(function: Any, size: int) -> None:
    factory = mapped(function, on_error=SIDE, batch_rows=size, retry=ONCE, timeout_ms=1000)
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.send(rows(2, 4, 6, 8, 9, 10, 12, 14, 1))
        assert numbers(harness.end()) == [2, 4, 6, 8, 10, 12, 14]
        assert numbers(harness.take_side("failing")) == [9, 1]


def test_a_list_that_is_answered_by_too_few_fails_row_by_row() -> None:
    async def none(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return []

    with OperatorHarness(mapped(none, on_error=SIDE, batch_rows=2), SCHEMA) as harness:
        harness.send(rows(1, 2))
        harness.end()
        failed = harness.take_side("failing")
    assert ["returned 0 answers for a row" in row["error_message"] for row in failed] == [True, True]


@pytest.mark.parametrize("batch_rows", [None, 2])
def test_rows_without_an_answer_in_time_fail_too(batch_rows: int | None) -> None:
    function = refuses_odd if batch_rows is None else refuses_lists_with_odd
    with OperatorHarness(mapped(function, on_error=SIDE, timeout_ms=50, batch_rows=batch_rows), SCHEMA) as harness:
        harness.send(rows(0, 2))
        harness.tick(50)
        assert not harness.calls.running
        failed = harness.take_side("failing")
    assert numbers(failed) == [0, 2]
    assert {row["error_type"] for row in failed} == {"ExternalCallError"}
    assert all("gave no answer within 0.05 s" in row["error_message"] for row in failed)


@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.parametrize("batch_rows", [None, 3])
def test_what_answers_in_time_of_need_may_fail_for_some_rows(is_async: bool, batch_rows: int | None) -> None:
    def plain(row: Any) -> Any:
        if batch_rows is None and row["n"] % 2:
            raise Refused
        if batch_rows is not None and any(one["n"] % 2 for one in row):
            raise Refused
        return row if batch_rows is None else [{"n": one["n"]} for one in row]

    async def late(row: Any) -> Any:
        return plain(row)

    function = refuses_odd if batch_rows is None else refuses_lists_with_odd
    default = late if is_async else plain
    options = {"timeout_ms": 500, "on_timeout": default, "batch_rows": batch_rows, "on_error": SIDE}
    with OperatorHarness(AsyncMap(function, OUT, OUT, options=AsyncOptions(**options)), OUT) as harness:
        harness.send([{"n": 0}, {"n": 1}, {"n": 2}])
        harness.tick(500)
        assert numbers(harness.end()) == [0, 2]
        assert numbers(harness.take_side("failing")) == [1]


def test_an_error_that_is_none_of_the_row_ends_the_job() -> None:
    async def away(row: dict[str, Any]) -> dict[str, Any]:
        raise SourceError("no broker")

    with OperatorHarness(mapped(away, on_error=OnError.skip(), retry=ONCE), SCHEMA) as harness:
        harness.send(rows(1))
        with pytest.raises(SourceError, match="no broker"):
            harness.finish()


def test_hidden_values_do_not_show_in_the_side_output() -> None:
    async def tells(row: dict[str, Any]) -> dict[str, Any]:
        raise Refused(f"nobody is called {row['name']}")

    config = HarnessConfig(redaction=Redaction(("name",)))
    with OperatorHarness(mapped(tells, on_error=SIDE, retry=ONCE), SCHEMA, config) as harness:
        harness.send(rows(1))
        harness.finish()
        assert [row["error_message"] for row in harness.take_side("failing")] == ["nobody is called ***"]


# -- checkpoints


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_failed_rows_are_sent_once_over_checkpoints(seed: int, ordered: bool) -> None:
    rng = random.Random(seed)
    factory = mapped(refuses_odd, on_error=SIDE, ordered=ordered, retry=ONCE, capacity=5)
    kept: list[int] = []
    failed: list[int] = []
    saved: list[Any] = []
    for first in range(0, 60, 20):
        with OperatorHarness.restore(factory, SCHEMA, saved) as harness:
            harness.poll()
            for n in range(first, first + 20):
                harness.send(rows(n))
                if harness.calls.running and rng.random() < 0.7:
                    harness.finish(rng.randrange(len(harness.calls.running)))
            saved = [harness.snapshot()]
            kept += numbers(harness.take())
            failed += numbers(harness.take_side("failing"))
            harness.finish_all()  # lost with the process
    with OperatorHarness.restore(factory, SCHEMA, saved) as harness:
        kept += numbers(harness.end())
        failed += numbers(harness.take_side("failing"))
    assert sorted(kept) == list(range(0, 60, 2))
    assert sorted(failed) == list(range(1, 60, 2))
    assert not ordered or (kept, failed) == (sorted(kept), sorted(failed))


@pytest.mark.parametrize("ordered", [True, False])
def test_a_job_that_fails_elsewhere_doubles_no_failed_row(ordered: bool) -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        script = [item for n in range(0, 40, 4) for item in (rows(*range(n, n + 4)), BARRIER, *([FAIL] * (n == 20)))]
        source = env.from_source(ScriptedSource(SCHEMA, script), uid="source")
        asked = source.map_async(
            refuses_odd, returns={"n": int}, on_error=SIDE, retries=ONCE, ordered=ordered, uid="asked"
        )
        asked.sink_to(CollectSink(), uid="kept")
        asked.side_output(FAILING).select("n", "error_type").sink_to(CollectSink(), uid="failed")

    harness = JobHarness(job)
    harness.run_to_end()
    assert sorted(row["n"] for row in harness.rows("kept")) == list(range(0, 40, 2))
    assert sorted(row["n"] for row in harness.rows("failed")) == list(range(1, 40, 2))


# -- the verb


def test_what_cannot_work_is_refused_where_it_is_written() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"n": 1, "error_at": "x"}])
    returns: Any = {"n": int}
    with pytest.raises(SchemaError, match="'error_at'"):
        stream.map_async(refuses_odd, returns=returns, on_error=SIDE)
    with pytest.raises(ConfigError, match=r"(?s)on_error cannot be 'retry 4x, then skip'.*AsyncRetry\(attempts=4\)"):
        stream.map_async(refuses_odd, returns=returns, on_error=OnError.retry(attempts=4).then(OnError.skip()))
    with pytest.raises(ConfigError, match="map_async: on_error"):
        stream.map_async(refuses_odd, returns=returns, on_error="skip")  # type: ignore[arg-type]


def test_the_plan_names_the_policy_and_columns_that_are_not_read_go_aside_too() -> None:
    env = lw.StreamExecutionEnvironment()

    async def refuses(n: int) -> dict[str, Any]:
        raise Refused

    source = env.from_collection(rows(1, 2))
    asked = source.map_async(refuses, columns=["n"], returns={"n": int}, on_error=SIDE, retries=ONCE, uid="asked")
    assert asked.side_output(FAILING).execute_and_collect()["name"].to_pylist() == ["name 1", "name 2"]
    asked.sink_to(lw.MemorySink())
    assert "on error side output failing" in env.explain()
