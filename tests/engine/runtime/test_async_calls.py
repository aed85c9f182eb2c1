"""Where asynchronous calls run: a real event loop, real threads, and the stand-in that tests step."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from lakeward.engine.api.calls import AsyncCalls, Finished
from lakeward.engine.core.errors import UserCodeError
from lakeward.engine.runtime.async_calls import SteppedCalls, SteppedJobCalls, ThreadedJobCalls


@pytest.fixture
def job() -> Iterator[ThreadedJobCalls]:
    calls = ThreadedJobCalls()
    yield calls
    calls.close()


def ended(calls: AsyncCalls, count: int) -> list[Finished]:
    """Poll until so many calls have ended."""
    found: list[Finished] = []
    waiting = threading.Event()
    while len(found) < count:
        found += calls.take()
        waiting.wait(0.001)
    return found


def returning(value: Any) -> Callable[[], Any]:
    async def work() -> Any:
        return value

    return work


async def fail() -> None:
    raise OSError("away")


def test_coroutines_run_at_the_same_time_and_end_in_any_order(job: ThreadedJobCalls) -> None:
    gate = asyncio.Event()

    async def waits() -> str:
        await gate.wait()
        return "last"

    async def opens() -> str:
        gate.set()
        return "first"

    calls = job.open(None)
    calls.start([(0, waits), (1, opens), (2, fail)])
    by_call = {one.call: one for one in ended(calls, 3)}
    assert (by_call[0].result, by_call[1].result) == ("last", "first")
    assert isinstance(by_call[2].error, OSError)
    calls.stop()


def test_a_cancelled_coroutine_ends_and_stopping_ends_all_of_them(job: ThreadedJobCalls) -> None:
    noticed: list[str] = []

    def forever(name: str) -> Callable[[], Any]:
        async def work() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                noticed.append(name)

        return work

    calls = job.open(None)
    calls.start([(0, forever("a")), (1, forever("b")), (2, returning("both have begun"))])
    assert ended(calls, 1) == [Finished(2, "both have begun")]
    calls.cancel(0)
    assert isinstance(ended(calls, 1)[0].error, asyncio.CancelledError)
    calls.stop()
    assert noticed == ["a", "b"]
    assert calls.run(returning(7)) == 7


def test_a_coroutine_that_is_cancelled_before_it_begins_ends_too(job: ThreadedJobCalls) -> None:
    calls = job.open(None)

    async def hold() -> None:  # so that the loop sees the start and the cancelling of a call at once
        calls.start([(0, returning(1))])
        calls.cancel(0)

    calls.run(hold)
    assert isinstance(ended(calls, 1)[0].error, asyncio.CancelledError)


def test_all_subtasks_of_a_job_share_one_event_loop(job: ThreadedJobCalls) -> None:
    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    one, two = job.open(None), job.open(None)
    assert one.run(loop) is two.run(loop)


def test_blocking_functions_run_in_so_many_threads(job: ThreadedJobCalls) -> None:
    together = threading.Barrier(3)
    calls = job.open(3)
    calls.start([(n, lambda: together.wait(30)) for n in range(3)])
    assert sorted(one.result for one in ended(calls, 3)) == [0, 1, 2]
    calls.stop()


@pytest.mark.parametrize("threads", [1, 4])
def test_every_blocking_call_is_made_however_few_threads_there_are(job: ThreadedJobCalls, threads: int) -> None:
    calls = job.open(threads)
    for first in range(0, 200, 20):
        calls.start([(n, partial(abs, -n)) for n in range(first, first + 20)])
    assert sorted(one.result for one in ended(calls, 200)) == list(range(200))
    calls.stop()


def test_blocking_calls_that_never_end_leave_others_their_turn_when_they_are_given_up(job: ThreadedJobCalls) -> None:
    calls, gate, begun = job.open(2), threading.Event(), threading.Semaphore(0)

    def hangs() -> None:
        begun.release()
        gate.wait()

    calls.start([(0, hangs), (1, hangs), (2, partial(abs, -2)), (3, partial(abs, -3))])
    for _ in range(2):
        assert begun.acquire(timeout=30)
    calls.cancel(0)
    assert [one.result for one in ended(calls, 2)] == [2, 3]
    calls.cancel(1)
    calls.start([(n, partial(abs, -n)) for n in (4, 5)])
    assert sorted(one.result for one in ended(calls, 2)) == [4, 5]
    gate.set()
    assert {one.call for one in ended(calls, 2)} == {0, 1}
    calls.start([(n, partial(abs, -n)) for n in range(6, 50)])
    assert sorted(one.result for one in ended(calls, 44)) == list(range(6, 50))
    calls.stop()


def test_a_call_that_waited_for_its_thread_and_hangs_leaves_others_their_turn(job: ThreadedJobCalls) -> None:
    calls, gate, begun = job.open(1), threading.Event(), threading.Event()
    calls.start([(0, partial(abs, 0)), (1, lambda: (begun.set(), gate.wait()))])
    assert begun.wait(30)
    calls.cancel(1)
    calls.start([(2, partial(abs, -2))])
    assert [one.result for one in ended(calls, 2)] == [0, 2]
    gate.set()
    calls.stop()


def test_a_blocking_call_that_is_given_up_before_it_begins_is_not_made(job: ThreadedJobCalls) -> None:
    calls, gate, made = job.open(1), threading.Event(), list[int]()
    calls.start([(0, gate.wait), *((n, partial(made.append, n)) for n in (1, 2, 3))])
    calls.cancel(2)
    gate.set()
    ended(calls, 3)
    assert made == [1, 3]
    calls.stop()


def test_a_blocking_call_that_never_ends_does_not_keep_the_process_alive() -> None:
    script = """
import threading
from lakeward.engine.runtime.async_calls import ThreadedJobCalls
calls, begun = ThreadedJobCalls().open(2), threading.Event()
calls.start([(0, lambda: (begun.set(), threading.Event().wait()))])
assert begun.wait(30)
calls.stop()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ends_the_process_ends_no_event_loop(job: ThreadedJobCalls, error: BaseException) -> None:
    async def ends() -> None:
        raise error

    calls = job.open(None)
    with pytest.raises(type(error)):
        calls.run(ends)
    assert calls.run(returning(7)) == 7


def test_a_plain_function_that_makes_a_coroutine_is_told_so(job: ThreadedJobCalls) -> None:
    calls = job.open(1)
    calls.start([(0, returning(1))])
    (one,) = ended(calls, 1)
    assert "async def" in str(one.error)
    calls.stop()


def test_stepped_calls_end_when_they_are_told_to() -> None:
    calls = SteppedCalls()
    calls.start([(0, returning("a")), (1, lambda: "b"), (2, fail), (3, returning("d"))])
    calls.cancel(3)
    assert calls.take() == []
    calls.finish(1)
    calls.finish(0)
    assert [one.result for one in calls.take()] == ["b", "a"]
    calls.finish(2)
    assert isinstance(calls.take()[0].error, OSError)
    assert not calls.running


def test_stepped_coroutines_wait_for_time_and_each_other_without_waiting() -> None:
    async def hours(count: int) -> float:
        begun = asyncio.get_running_loop().time()
        await asyncio.sleep(3600 * count)
        return asyncio.get_running_loop().time() - begun

    async def waits() -> list[float]:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(hours(100), timeout=60)
        return await asyncio.gather(hours(1), hours(48), asyncio.create_task(hours(2)))

    calls = SteppedCalls()
    calls.start([(0, waits)])
    calls.finish(0)
    assert calls.take()[0].result == pytest.approx([3600, 48 * 3600, 2 * 3600])


def test_stepped_coroutines_of_one_subtask_share_their_clients() -> None:
    async def opened() -> asyncio.Queue[int]:
        return asyncio.Queue()

    calls = SteppedCalls()
    queue = calls.run(opened)
    calls.start([(0, queue.get), (1, lambda: queue.put(5))])
    calls.finish(1)
    calls.finish(0)
    assert [one.result for one in calls.take()] == [None, 5]
    calls.stop()
    assert calls.run(returning("closed")) == "closed"


def test_a_stepped_coroutine_must_not_wait_for_anything_real() -> None:
    undone = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            undone.append(True)

    calls = SteppedCalls()
    calls.start([(0, waits)])
    with pytest.raises(UserCodeError, match="waits for something real"):
        calls.finish(0)
    assert undone


def test_a_seed_says_in_which_order_the_calls_of_a_job_end() -> None:
    def order(seed: int) -> list[int]:
        job, rng = SteppedJobCalls(), random.Random(seed)
        subtasks: list[Any] = [job.open(None), job.open(2)]
        for first, calls in enumerate(subtasks):
            calls.start([(2 * n + first, lambda: None) for n in range(4)])
        found: list[int] = []
        while job.is_ready:
            job.finish(rng)
            found += [one.call for calls in subtasks for one in calls.take()]
        return found

    assert order(1) == order(1)
    assert sorted(order(2)) == list(range(8))
    assert order(1) != order(2)
