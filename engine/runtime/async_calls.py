"""Where asynchronous calls run: coroutines on one event loop a job, blocking functions in pools of threads."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import selectors
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from lakeward.engine.api.calls import AsyncCalls, Finished, Work
from lakeward.engine.core.errors import UserCodeError

log = logging.getLogger("lakeward")

STOP_TIMEOUT_S = 10.0
"""How long calls that were given up may take to notice."""


class JobCalls(Protocol):
    """The asynchronous calls of one attempt of a job."""

    def open(self, threads: int | None) -> AsyncCalls:
        """Those of one operator subtask: coroutines, or functions that block in so many threads."""
        ...

    def close(self) -> None:
        """Release everything; operators have stopped their calls by then."""
        ...


class ThreadedJobCalls:
    """The real thing. The event loop's thread is started when the first operator asks for it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def open(self, threads: int | None) -> AsyncCalls:
        """The calls of one operator subtask."""
        return LoopCalls(self._running_loop()) if threads is None else PoolCalls(threads)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            # A daemon: a coroutine that never gives control back must not keep the process alive.
            self._thread = threading.Thread(target=self._loop.run_forever, name="lakeward-calls", daemon=True)
            self._thread.start()
        return self._loop

    def close(self) -> None:
        """Stop the event loop."""
        if self._loop is None or self._thread is None:
            return
        loop, self._loop = self._loop, None
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        if self._thread.is_alive():
            log.warning("a coroutine does not give control back; its event loop is left behind")
        else:
            loop.close()


class LoopCalls:
    """Coroutines on an event loop in another thread.

    Args:
        loop: The loop, running.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._finished: deque[Finished] = deque()
        self._is_stuck = False
        # Touched on the loop's thread only.
        self._running: dict[int, asyncio.Task[Finished]] = {}

    def start(self, calls: Sequence[tuple[int, Work]]) -> None:
        """Start calls; the loop is woken once for all of them."""
        self._loop.call_soon_threadsafe(self._begin, calls)

    def cancel(self, call: int) -> None:
        """Cancel a call."""
        self._loop.call_soon_threadsafe(self._cancel, call)

    def take(self) -> list[Finished]:
        """The calls that have ended since the last `take`."""
        return _drained(self._finished)

    def run(self, work: Work) -> Any:
        """Make one call and wait for it."""

        async def call() -> Finished:
            try:
                return Finished(0, await work())
            except (KeyboardInterrupt, SystemExit) as error:  # here they would end the loop, and nobody would answer
                return Finished(0, error=error)

        if self._is_stuck:
            raise UserCodeError("a coroutine does not give control back", hint="let it await what takes long")
        ended = asyncio.run_coroutine_threadsafe(call(), self._loop).result()
        if ended.error is not None:
            raise ended.error
        return ended.result

    def stop(self) -> None:
        """Cancel all calls and wait until they have ended."""
        stopping = asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        try:
            stopping.result(2 * STOP_TIMEOUT_S)
        except TimeoutError:
            self._is_stuck = True

    def _begin(self, calls: Sequence[tuple[int, Work]]) -> None:
        for number, work in calls:
            self._running[number] = self._loop.create_task(self._call(number, work))
            self._running[number].add_done_callback(partial(self._ended, number))

    @staticmethod
    async def _call(number: int, work: Work) -> Finished:
        try:
            return Finished(number, await work())
        except BaseException as error:  # whatever user's code may raise: the operator decides what becomes of it
            return Finished(number, error=error)

    def _ended(self, number: int, task: asyncio.Task[Finished]) -> None:
        del self._running[number]
        never_begun = Finished(number, error=asyncio.CancelledError())
        self._finished.append(never_begun if task.cancelled() else task.result())

    def _cancel(self, call: int) -> None:
        task = self._running.get(call)
        if task is not None:
            task.cancel()

    async def _stop(self) -> None:
        running = list(self._running.values())
        for task in running:
            task.cancel()
        if running:
            _, left = await asyncio.wait(running, timeout=STOP_TIMEOUT_S)
            if left:
                log.warning("%d calls go on although they were cancelled", len(left))


class PoolCalls:
    """Functions that block, in threads. What is given up runs on to its end, and nobody hears of it.

    A thread whose call was given up no longer counts, so that calls which never end leave others their turn; but there
    are never more of those threads than of the others. A call that was given up before it began is not made.

    The threads are daemons, which those of a `ThreadPoolExecutor` are not: a call that never ends must not keep the
    process alive.

    Args:
        threads: How many at a time.
    """

    def __init__(self, threads: int) -> None:
        self._threads_max = threads
        self._begun: SimpleQueue[tuple[int, Work] | None] = SimpleQueue()
        """Calls that no thread has taken, those that were given up too; None ends a thread."""
        self._finished: deque[Finished] = deque()
        self._lock = threading.Lock()
        # Touched with the lock only.
        self._threads = 0
        """But for those whose call was given up."""
        self._waiting: set[int] = set()
        self._running: set[int] = set()
        self._given_up: set[int] = set()
        """Calls that were given up and run on."""

    def start(self, calls: Sequence[tuple[int, Work]]) -> None:
        """Start calls."""
        with self._lock:
            self._waiting.update(number for number, _ in calls)
            for call in calls:
                self._begun.put(call)
            self._add_threads()

    def cancel(self, call: int) -> None:
        """Let others have the thread's turn; itself it cannot be interrupted."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                return
            if call not in self._running:
                return
            if len(self._given_up) == self._threads_max:
                log.warning("%d calls that were given up do not end, and others wait for them", self._threads_max)
                return
            self._given_up.add(call)
            self._threads -= 1
            self._add_threads()

    def take(self) -> list[Finished]:
        """The calls that have ended since the last `take`."""
        return _drained(self._finished)

    def run(self, work: Work) -> Any:
        """Make one call and wait for it, here."""
        return work()

    def stop(self) -> None:
        """Drop the calls that no thread has begun."""
        with suppress(Empty):
            while True:
                self._begun.get_nowait()
        with self._lock:
            count = self._threads + len(self._given_up)
        for _ in range(count):
            self._begun.put(None)

    def _add_threads(self) -> None:
        """As many as calls wait that no thread is free for."""
        free = self._threads - (len(self._running) - len(self._given_up))
        for _ in range(min(len(self._waiting) - free, self._threads_max - self._threads)):
            self._threads += 1
            threading.Thread(target=self._serve, name="lakeward-calls", daemon=True).start()

    def _serve(self) -> None:
        while (call := self._begun.get()) is not None:
            if self._begin(call[0]):
                self._call(*call)
                if not self._may_go_on(call[0]):
                    return

    def _begin(self, number: int) -> bool:
        """Whether a call is still wanted."""
        with self._lock:
            if number not in self._waiting:
                return False
            self._waiting.remove(number)
            self._running.add(number)
            return True

    def _may_go_on(self, number: int) -> bool:
        """Whether the thread of a call that has ended is wanted: if that was given up, it may be one too many."""
        with self._lock:
            self._running.remove(number)
            if number in self._given_up:
                self._given_up.remove(number)
                if self._threads == self._threads_max:
                    return False
                self._threads += 1
            return True

    def _call(self, number: int, work: Work) -> None:
        try:
            ended = Finished(number, _no_coroutine(work()))
        except BaseException as error:  # whatever user's code may raise: the operator decides what becomes of it
            ended = Finished(number, error=error)
        self._finished.append(ended)


class SteppedCalls:
    """Runs nothing by itself: whoever drives it says which call ends next, which makes everything reproducible.

    A call that is to end runs from its beginning to its end; coroutines do so on an event loop that hurries: they may
    wait for time and for each other, but not for anything real.
    """

    def __init__(self) -> None:
        self._loop: HurriedLoop | None = None
        self.running: dict[int, Work] = {}
        """Calls that were started and have not ended, in the order of their start."""
        self._finished: deque[Finished] = deque()

    @property
    def waited_s(self) -> float:
        """How long coroutines have waited, all together."""
        return 0.0 if self._loop is None else self._loop.time()

    def start(self, calls: Sequence[tuple[int, Work]]) -> None:
        """Start calls."""
        self.running.update(calls)

    def cancel(self, call: int) -> None:
        """Forget a call."""
        self.running.pop(call, None)

    def take(self) -> list[Finished]:
        """The calls that have ended since the last `take`."""
        return _drained(self._finished)

    def run(self, work: Work) -> Any:
        """Make one call, here."""
        return self._driven(work)

    def stop(self) -> None:
        """Forget all calls. The event loop stays: clients are closed on it afterwards."""
        self.running.clear()

    def finish(self, call: int) -> None:
        """Let a call run to its end."""
        work = self.running.pop(call)
        try:
            self._finished.append(Finished(call, self._driven(work)))
        except WaitsForeverError:
            raise
        except Exception as error:  # whatever user's code may raise: the operator decides what becomes of it
            self._finished.append(Finished(call, error=error))

    def _driven(self, work: Work) -> Any:
        """The result of a call; a coroutine is run to its end at once."""
        result = work()
        if not isinstance(result, Coroutine):
            return result
        if self._loop is None:
            self._loop = HurriedLoop()
            weakref.finalize(self, self._loop.close)  # a process that crashes closes nothing itself
        return self._loop.run(result)


class WaitsForeverError(UserCodeError):
    """A coroutine waits for something that cannot come where time is virtual."""


class NeverWokenError(WaitsForeverError):
    """A coroutine waits for what nobody does: an event that is never set, for example."""


class HurriedLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits: where there is nothing to do until some time, it is that time."""

    def __init__(self) -> None:
        self._waits = _Waits()
        super().__init__(self._waits)

    def time(self) -> float:
        """Seconds that were waited for since the beginning."""
        return self._waits.passed_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Refuse to wait for a thread: whether it is done in time is not ours to say."""
        raise _waits_for_something_real()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine to its end.

        Raises:
            WaitsForeverError: It waits for a socket or a thread.
            NeverWokenError: It waits for what nobody does.
        """
        task = self.create_task(coroutine)
        try:
            return self.run_until_complete(task)
        except WaitsForeverError:
            task.cancel()
            with suppress(asyncio.CancelledError, WaitsForeverError):
                self.run_until_complete(task)
            raise


_VIRTUAL_HINT = (
    "it may await asyncio.sleep and other coroutines; instead of sockets and threads give it, in the test, a client "
    "that answers from memory"
)


def _waits_for_something_real() -> WaitsForeverError:
    return WaitsForeverError(
        "a coroutine waits for something real, which in virtual time never comes", hint=_VIRTUAL_HINT
    )


class _Waits(selectors.DefaultSelector):
    """What the loop waits with: adds the time up instead."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What can be read or written now."""
        if timeout is None:
            if len(self.get_map()) > 1:  # more than the loop's own pipe
                raise _waits_for_something_real()
            raise NeverWokenError(
                "a coroutine waits for something real, which in virtual time never comes, or for what nobody does",
                hint=_VIRTUAL_HINT,
            )
        self.passed_s += max(timeout, 0.0)
        return super().select(0)


class SteppedJobCalls:
    """The calls of a job that are stepped, in any order."""

    def __init__(self) -> None:
        self._opened: list[SteppedCalls] = []

    def open(self, threads: int | None) -> AsyncCalls:
        """Those of one operator subtask."""
        self._opened.append(SteppedCalls())
        return self._opened[-1]

    @property
    def is_ready(self) -> bool:
        """Whether a call can end."""
        return any(calls.running for calls in self._opened)

    def finish(self, rng: random.Random) -> None:
        """Let some call end."""
        calls = rng.choice([calls for calls in self._opened if calls.running])
        calls.finish(rng.choice(list(calls.running)))

    def close(self) -> None:
        """Forget everything."""
        self._opened.clear()


def _drained(finished: deque[Finished]) -> list[Finished]:
    """What is in a queue that another thread appends to."""
    return [finished.popleft() for _ in range(len(finished))]


def _no_coroutine(result: Any) -> Any:
    """The result of a plain function; one that made a coroutine was meant to be awaited."""
    if inspect.isawaitable(result):
        if isinstance(result, Coroutine):
            result.close()
        raise TypeError("it returned a coroutine; write it as `async def`, and await in it")
    return result
