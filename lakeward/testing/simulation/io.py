"""The job's I/O with faults: acknowledgements that come late or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lakeward.engine.checkpoint.events import Acked
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.job import IoResult, JobRunner
from lakeward.engine.runtime.task import RunnableTask, TaskReport
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.knobs import Fault

LATE_MS_MAX = 1000


class LossyIo(SteppedIo[IoResult]):
    """Runs the job's I/O when it is stepped; loses and delays acknowledgements of tasks with state files.

    Args:
        faults: What goes wrong.
        clock: Virtual time.
    """

    def __init__(self, faults: Faults, clock: ManualClock) -> None:
        super().__init__()
        self._faults = faults
        self._clock = clock
        self._late: list[tuple[int, IoResult]] = []

    def step(self) -> None:
        """Run the oldest waiting function."""
        super().step()
        result = self._done[-1]
        if not isinstance(result, Acked):
            return
        if self._faults.happens(Fault.ACK_LOST):
            self._faults.note(f"ACK_LOST of {result.task}")
            self._done.pop()
        elif self._faults.happens(Fault.ACK_LATE):
            self._late.append((self._clock.monotonic_ms() + self._faults.choose(LATE_MS_MAX), self._done.pop()))

    def poll(self) -> IoResult | None:
        """The oldest result, or a late one whose time has come."""
        now_ms = self._clock.monotonic_ms()
        for entry in self._late:
            if entry[0] <= now_ms:
                self._late.remove(entry)
                return entry[1]
        return super().poll()


class LossyReports:
    """Stands in for a task's `take_reports`: loses and delays the reports of tasks without state files.

    Args:
        task: The task.
        faults: What goes wrong.
        clock: Virtual time.
    """

    def __init__(self, task: RunnableTask, faults: Faults, clock: ManualClock) -> None:
        self._id = task.id
        self._take: Callable[[], list[TaskReport]] = task.take_reports
        self._faults = faults
        self._clock = clock
        self._held: list[TaskReport] = []
        self._until_ms = 0

    def __call__(self) -> list[TaskReport]:
        """The reports that come through now."""
        new = self._take()
        if new and self._faults.happens(Fault.ACK_LOST):
            self._faults.note(f"ACK_LOST of {self._id}")
            new = []
        if new and self._faults.happens(Fault.ACK_LATE):
            self._until_ms = self._clock.monotonic_ms() + self._faults.choose(LATE_MS_MAX)
        self._held += new
        if self._clock.monotonic_ms() < self._until_ms:
            return []
        reports, self._held = self._held, []
        return reports


def make_lossy(runner: JobRunner, faults: Faults, clock: ManualClock) -> None:
    """Put faults between the tasks and the control side of a job."""
    for task in runner.tasks:
        replaced: Any = task
        replaced.take_reports = LossyReports(task, faults, clock)
