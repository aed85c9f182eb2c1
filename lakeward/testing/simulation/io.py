"""The job's I/O with faults: acknowledgements that come late, or only when the checkpoint has been given up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lakeward.engine.checkpoint.events import Acked
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.job import IoResult
from lakeward.engine.runtime.task import RunnableTask, TaskReport
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.knobs import Fault

LATE_MS_MAX = 1000
TOO_LATE_MS = 3000
"""Later than any checkpoint timeout that seeds draw."""


class LateIo(SteppedIo[IoResult]):
    """Runs the job's I/O when it is stepped; delays acknowledgements of tasks with state files.

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
        delay_ms = _delay_ms(self._faults, result.task)
        if delay_ms:
            self._late.append((self._clock.monotonic_ms() + delay_ms, self._done.pop()))

    def poll(self) -> IoResult | None:
        """The oldest result, or a late one whose time has come."""
        now_ms = self._clock.monotonic_ms()
        for entry in self._late:
            if entry[0] <= now_ms:
                self._late.remove(entry)
                return entry[1]
        return super().poll()


class LateReports:
    """Stands in for a task's `take_reports`: delays the reports of a task, all in their order.

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
        if new:
            self._until_ms = max(self._until_ms, self._clock.monotonic_ms() + _delay_ms(self._faults, self._id))
        self._held += new
        if self._clock.monotonic_ms() < self._until_ms:
            return []
        reports, self._held = self._held, []
        return reports


def _delay_ms(faults: Faults, task: str) -> int:
    if faults.happens(Fault.ACK_TOO_LATE):
        faults.note(f"ACK_TOO_LATE of {task}")
        return TOO_LATE_MS + faults.choose(LATE_MS_MAX)
    return faults.choose(LATE_MS_MAX) if faults.happens(Fault.ACK_LATE) else 0


def make_late(tasks: Sequence[RunnableTask], faults: Faults, clock: ManualClock) -> None:
    """Put faults between the tasks and the control side of a job."""
    for task in tasks:
        replaced: Any = task
        replaced.take_reports = LateReports(task, faults, clock)
