"""Functions that wait, in a job whose time is virtual."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import lakeward as lw
from lakeward.engine.core.errors import UserCodeError
from lakeward.testing import CollectSink, JobHarness


def answers(function: Any, rows: int = 20, **options: Any) -> list[dict[str, Any]]:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        numbers = env.from_collection([{"n": n} for n in range(rows)], uid="numbers")
        numbers.map_async(function, returns={"n": int}, uid="asked", **options).sink_to(CollectSink(), uid="out")

    harness = JobHarness(job)
    run = harness.run()
    assert run.ended
    assert run.restarts == 0
    return harness.rows()


async def slow(row: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(2)
    return row


def test_a_coroutine_that_sleeps_for_seconds_takes_none_and_is_in_time() -> None:
    start_s = time.monotonic()
    assert answers(slow, timeout="3s") == [{"n": n} for n in range(20)]
    assert time.monotonic() - start_s < 10


def test_answers_that_are_not_ordered_come_as_soon_as_they_are_there() -> None:
    async def slower_first(row: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(10 - row["n"])
        return row

    assert answers(slower_first, 10, ordered=False, timeout=None) == [{"n": n} for n in reversed(range(10))]


def test_a_coroutine_that_waits_too_long_or_for_ever_is_timed_out() -> None:
    async def late(row: dict[str, Any]) -> dict[str, Any]:
        await (asyncio.sleep(2) if row["n"] % 2 else asyncio.Event().wait())
        return row

    assert answers(late, timeout="1s", on_error=lw.OnError.skip()) == []


def test_retries_wait_in_virtual_time() -> None:
    tries: dict[int, int] = {}

    async def third_time(row: dict[str, Any]) -> dict[str, Any]:
        tries[row["n"]] = tries.get(row["n"], 0) + 1
        await asyncio.sleep(5)
        if tries[row["n"]] < 3:
            raise ConnectionError("busy")
        return row

    retries = lw.AsyncRetry(attempts=3, backoff="10s")
    assert answers(third_time, timeout="2m", retries=retries) == [{"n": n} for n in range(20)]
    assert set(tries.values()) == {3}


def test_a_coroutine_that_waits_for_a_thread_is_told_of_what_it_may_await() -> None:
    async def threaded(row: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(lambda: row)

    with pytest.raises(UserCodeError, match=r"waits for something real(?s:.*)it may await asyncio\.sleep"):
        answers(threaded)
