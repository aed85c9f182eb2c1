"""The two drivers of one process: `LocalDriver` for real runs, `SimulatedDriver` for reproducible ones.

Both run the same tasks and the same `JobRunner`; they differ in who chooses the next step and in what time is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from lakeward.engine.core.clock import Clock, ManualClock
from lakeward.engine.core.errors import CheckpointError
from lakeward.engine.runtime.async_calls import SteppedJobCalls
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.job import IoResult, JobRunner

StopSignal = Callable[[], bool]
"""Whether the user has asked the job to stop with a last checkpoint."""

IDLE_SLEEP_MIN_MS = 0.2
IDLE_SLEEP_MAX_MS = 5.0
DROWSY_SLEEP_MAX_MS = 40.0
"""After `DROWSY_AFTER_MS` without work: a job that waits for hours takes less than two hundredths of a core."""
DROWSY_AFTER_MS = 30.0
WAITING_SLEEP_MAX_MS = 1.0
"""While calls are in flight: how much later than it came an answer may be noticed."""


def longest_sleep_ms(slept_ms: float) -> float:
    """How long to sleep at most before sources are asked again, after some time in which nothing has happened.

    >>> longest_sleep_ms(10.0), longest_sleep_ms(10_000.0)
    (5.0, 40.0)
    """
    return IDLE_SLEEP_MAX_MS if slept_ms < DROWSY_AFTER_MS else DROWSY_SLEEP_MAX_MS


class LocalDriver:
    """Steps the tasks of this process, those nearest the sinks first, and sleeps when none has work.

    Args:
        clock: The one place where the process waits.
        stop: Asked between steps.
    """

    def __init__(self, clock: Clock, stop: StopSignal) -> None:
        self._clock = clock
        self._stop = stop

    def run(self, job: JobRunner) -> None:
        """Run an open job until it has finished; errors pass through."""
        tasks = list(reversed(job.tasks))
        stopping = False
        idle_ms, slept_ms = IDLE_SLEEP_MIN_MS, 0.0
        while not job.finished:
            if not stopping and self._stop():
                stopping = True
                job.request_stop()
            busy = False
            for task in tasks:
                busy = task.step() or busy
            busy = job.pump() or busy
            if busy:
                idle_ms, slept_ms = IDLE_SLEEP_MIN_MS, 0.0
            else:
                idle_ms = min(idle_ms, WAITING_SLEEP_MAX_MS if job.is_waiting else longest_sleep_ms(slept_ms))
                self._clock.sleep_ms(idle_ms)
                slept_ms += idle_ms
                idle_ms *= 2


class SimulatedDriver:
    """One thread, virtual time, every choice from a seeded generator: the same seed gives the same run.

    Args:
        rng: Chooses the next task or I/O step.
        clock: Virtual time; moves on only when nothing else can happen, or by chance.
        io: The job's I/O, stepped here.
        calls: The job's asynchronous calls, which end here in any order.
        steps_max: A run that takes more steps is stuck.
    """

    def __init__(
        self,
        rng: random.Random,
        clock: ManualClock,
        io: SteppedIo[IoResult],
        calls: SteppedJobCalls | None = None,
        steps_max: int = 100_000,
    ) -> None:
        self._rng = rng
        self._clock = clock
        self._io = io
        self._calls = calls or SteppedJobCalls()
        self._steps_left = steps_max

    def run(self, job: JobRunner, steps: int | None = None) -> bool:
        """Run an open job until it has finished, or for a number of steps.

        Returns:
            Whether it has finished.

        Raises:
            CheckpointError: It took more steps than it may.
        """
        while not job.finished and (steps is None or steps > 0):
            if self._steps_left <= 0:
                raise CheckpointError("the simulated job makes no progress")
            self._steps_left -= 1
            steps = None if steps is None else steps - 1
            self._step(job)
        return job.finished

    def _step(self, job: JobRunner) -> None:
        choices: list[Callable[[], object]] = [task.step for task in job.tasks]
        choices += [self._io.step] * (2 if self._io.is_ready else 0)
        choices += [partial(self._calls.finish, self._rng)] * (2 if self._calls.is_ready else 0)
        self._rng.choice(choices)()
        if self._rng.random() < 0.5:
            job.pump()
        self._clock.advance_ms(self._rng.choice((0, 0, 1, 5, 50)))
