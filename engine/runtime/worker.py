"""A worker as the control side of a job sees it: some of the job's tasks, in this process or in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lakeward.engine.checkpoint.events import Acked, Declined, Event
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.errors import CheckpointError
from lakeward.engine.core.ids import CheckpointId, OperatorId, SplitId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.snapshots import InFlightRows, OperatorSnapshot, TableSnapshot
from lakeward.engine.runtime.chain import SnapshotPart
from lakeward.engine.runtime.source_task import SourceTask, SplitState
from lakeward.engine.runtime.task import RunnableTask, SnapshotDeclined, SnapshotTaken, TaskReport
from lakeward.engine.runtime.unaligned import write_rows


@dataclass(frozen=True, slots=True)
class HandedOver:
    """A sink writer has handed over its rows at a barrier, whatever becomes of the checkpoint."""

    checkpoint: CheckpointId
    uid: OperatorId
    subtask: SubtaskIndex
    committables: Sequence[JsonObject]


WorkerEvent = Event | HandedOver


class SourceSubtask(Protocol):
    """What the control side needs of a source's subtask: which splits it reads, and a way to give it more."""

    @property
    def uid(self) -> OperatorId:
        """The source."""
        ...

    @property
    def splits(self) -> Mapping[SplitId, SplitState]:
        """Its splits, finished ones too; their positions may be those of its last snapshot."""
        ...

    def add_split(self, state: SplitState) -> None:
        """Read this split too."""
        ...


class Worker(Protocol):
    """Some of the tasks of a job. What it is told to do it may do later, but in the order in which it is told."""

    @property
    def task_ids(self) -> Sequence[str]:
        """The tasks that have to acknowledge every checkpoint."""
        ...

    @property
    def has_ended(self) -> bool:
        """Whether all its tasks have seen the end of their input."""
        ...

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come at the source that is furthest behind; None: no source says so."""
        ...

    @property
    def sources(self) -> Sequence[SourceSubtask]:
        """Its subtasks of sources."""
        ...

    def open(self) -> None:
        """Open the tasks; returns when they are."""
        ...

    def inject(self, checkpoint: CheckpointId, aligned: bool = False) -> None:
        """A checkpoint begins; in an aligned one, no barrier may overtake rows."""
        ...

    def complete(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is durable and committed."""
        ...

    def abort(self, checkpoint: CheckpointId) -> None:
        """The checkpoint was given up."""
        ...

    def tick(self, now_us: int) -> None:
        """Processing time has advanced."""
        ...

    def take_events(self) -> list[WorkerEvent]:
        """What happened since the last call. Raises what ended the worker."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


Submit = Callable[[Callable[[], Event]], None]
"""Runs a function beside the tasks, in order; somebody else takes its result."""


class LocalWorker:
    """Tasks of this process.

    Args:
        tasks: The tasks, each after those it reads from.
        workflow: Stores their state files.
        submit: Runs uploads.
    """

    def __init__(self, tasks: Sequence[RunnableTask], workflow: CheckpointWorkflow, submit: Submit) -> None:
        self.tasks = tasks
        self._workflow = workflow
        self._submit = submit

    @property
    def task_ids(self) -> Sequence[str]:
        """The ids of the tasks."""
        return [task.id for task in self.tasks]

    @property
    def has_ended(self) -> bool:
        """Whether all tasks have seen the end of their input."""
        return all(task.has_ended for task in self.tasks)

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits for something that comes from outside, and has to be stepped soon."""
        return any(task.is_waiting for task in self.tasks)

    @property
    def sources(self) -> Sequence[SourceTask]:
        """The source tasks."""
        return [task for task in self.tasks if isinstance(task, SourceTask)]

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come at the source that is furthest behind; None: no source says so."""
        return min((at for task in self.sources if (at := task.watermark_us) is not None), default=None)

    def open(self) -> None:
        """Open all tasks, receivers first."""
        for task in reversed(self.tasks):
            task.open()

    def inject(self, checkpoint: CheckpointId, aligned: bool = False) -> None:
        """Sources send the barrier, others are told that it is on its way."""
        for task in self.tasks:
            task.inject(checkpoint, aligned)

    def complete(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is durable and committed."""
        for task in self.tasks:
            task.complete(checkpoint)

    def abort(self, checkpoint: CheckpointId) -> None:
        """The checkpoint was given up."""
        for task in self.tasks:
            task.abort(checkpoint)

    def tick(self, now_us: int) -> None:
        """Processing time has advanced."""
        for task in self.tasks:
            task.tick(now_us)

    def take_events(self) -> list[WorkerEvent]:
        """What happened since the last call; acknowledgements of tasks with state files come through `submit`."""
        return [event for task in self.tasks for report in task.take_reports() for event in self._events(report)]

    def close(self) -> None:
        """Close all tasks; the first error is raised when all are closed."""
        close_all([task.close for task in self.tasks])

    def _events(self, report: TaskReport) -> list[WorkerEvent]:
        if isinstance(report, SnapshotDeclined):
            return [Declined(report.checkpoint, report.task, report.reason)]
        events: list[WorkerEvent] = [
            HandedOver(report.checkpoint, part.uid, part.subtask, tuple(part.committables))
            for part in report.parts
            if part.committables
        ]
        if any(part.frozen is not None or part.in_flight for part in report.parts):
            self._submit(lambda: self._upload(report))
        else:
            events.append(self._upload(report))
        return events

    def _upload(self, taken: SnapshotTaken) -> Event:
        try:
            snapshots = tuple(self._store_part(part) for part in taken.parts)
        except CheckpointError as error:
            for part in taken.parts:  # those that have not had their turn, too: files of theirs would stay for ever
                part.discard_files()
            return Declined(taken.checkpoint, taken.task, str(error))
        return Acked(taken.checkpoint, taken.task, snapshots)

    def _store_part(self, part: SnapshotPart) -> OperatorSnapshot:
        keyed = None
        try:
            if part.frozen is not None:
                state = part.frozen.finish()
                files = self._workflow.upload(state.files)
                keyed = TableSnapshot(state.tables, part.key_groups.start, part.key_groups.stop, files)
            rows = write_rows(part.in_flight, Path(part.directory) / "in-flight") if part.in_flight else []
            stored = self._workflow.upload([file for _, file in rows])
        finally:
            part.discard_files()
        in_flight = tuple(InFlightRows(index, file) for (index, _), file in zip(rows, stored, strict=True))
        return OperatorSnapshot(part.uid, part.subtask, part.state, keyed, tuple(part.committables), in_flight)


def close_all(closers: Sequence[Callable[[], None]]) -> None:
    """Call all; the first error is raised when all have been called."""
    first: Exception | None = None
    for close in closers:
        try:
            close()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
