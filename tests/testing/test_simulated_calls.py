"""Simulated jobs whose functions wait: for time, which is virtual, and for each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import lakeward as lw
from lakeward.engine.core.errors import UserCodeError
from lakeward.testing import CollectSink, simulate


class Client(lw.AsyncFunction):
    """Asks a slow service, a few calls at a time, and gives some up."""

    async def open(self) -> None:
        self.free = asyncio.Semaphore(2)

    async def invoke(self, row: dict[str, Any]) -> dict[str, Any]:
        async with self.free:
            try:
                await asyncio.wait_for(asyncio.sleep(60 if row["n"] % 7 == 0 else 0), timeout=0.002)
            except TimeoutError:
                return {"n": -row["n"]}
            return row


@pytest.mark.parametrize("seed", range(3))
def test_a_function_that_sleeps_holds_in_any_simulation(seed: int) -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        numbers = env.from_collection([{"n": n} for n in range(30)], uid="numbers")
        asked = numbers.map_async(
            Client(), returns={"n": int}, capacity=5, ordered=seed % 2 == 0, timeout=None, uid="asked"
        )
        asked.sink_to(CollectSink(), uid="out")

    result = simulate(job, seed, expected=[{"n": -n if n % 7 == 0 else n} for n in range(30)])
    assert len(result.rows["out"]) == 30


def test_a_function_that_waits_for_something_real_is_told_of_what_it_may_await() -> None:
    async def wait(row: dict[str, Any]) -> dict[str, Any]:
        await asyncio.to_thread(print)
        return row

    def job(env: lw.StreamExecutionEnvironment) -> None:
        env.from_collection([{"n": 1}]).map_async(wait, returns={"n": int}).sink_to(CollectSink(), uid="out")

    with pytest.raises(UserCodeError, match=r"waits for something real.*\n.*it may await asyncio.sleep"):
        simulate(job, 1)
