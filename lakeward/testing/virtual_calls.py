"""Asynchronous calls in virtual time: what a call waits for passes on the job's clock."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Sequence

from lakeward.engine.api.calls import AsyncCalls, Finished, Work
from lakeward.engine.core.clock import Clock
from lakeward.engine.runtime.async_calls import NeverWokenError, SteppedCalls

log = logging.getLogger("lakeward")


class VirtualJobCalls:
    """The asynchronous calls of a job under test.

    Args:
        clock: The job's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def open(self, threads: int | None) -> AsyncCalls:
        """Those of one operator subtask."""
        return VirtualCalls(self._clock)

    def close(self) -> None:
        """Nothing runs."""


class VirtualCalls(SteppedCalls):
    """Each call runs when it is started, by itself; that it has ended is heard of when as much time has passed.

    One that waits for what nobody does (an event that is never set) never ends; one that waits for a socket or a thread
    is refused.

    Args:
        clock: The job's.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._due: list[tuple[float, int, Finished]] = []

    def start(self, calls: Sequence[tuple[int, Work]]) -> None:
        """Make the calls, one after the other; each takes as long as it waits."""
        super().start(calls)
        for number, _ in calls:
            before_s = self.waited_s
            try:
                self.finish(number)
            except NeverWokenError as error:  # as in life, its timeout ends it
                log.warning("%s", error)
                continue
            (ended,) = super().take()
            heapq.heappush(self._due, (self._clock.monotonic_ms() + 1000 * (self.waited_s - before_s), number, ended))

    def cancel(self, call: int) -> None:
        """Nobody hears of the call any more."""
        self._due = [one for one in self._due if one[1] != call]
        heapq.heapify(self._due)

    def take(self) -> list[Finished]:
        """The calls that have ended since the last `take`."""
        ended = []
        while self._due and self._due[0][0] <= self._clock.monotonic_ms():
            ended.append(heapq.heappop(self._due)[2])
        return ended

    def stop(self) -> None:
        """Forget all calls."""
        super().stop()
        self._due = []
