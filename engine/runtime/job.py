"""One attempt of a job: turns coordinator instructions into task calls and I/O, and reports back into events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lakeward.engine.api.source import Source, Split
from lakeward.engine.checkpoint.coordinator import CheckpointCoordinator
from lakeward.engine.checkpoint.events import (
    Acked,
    AllTasksEnded,
    Commit,
    Committed,
    Declined,
    Event,
    FailJob,
    FinishJob,
    InjectBarriers,
    Instruction,
    NotifyAborted,
    NotifyComplete,
    Publish,
    Published,
    PublishFailed,
    StopRequested,
    Tick,
)
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, CommitPermit
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import CheckpointError, SourceError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId
from lakeward.engine.core.log_scope import note_in_scope
from lakeward.engine.core.snapshots import OperatorSnapshot, TableSnapshot
from lakeward.engine.runtime.carried import CarriedCommittables
from lakeward.engine.runtime.chain import SnapshotPart
from lakeward.engine.runtime.committers import JobCommitters
from lakeward.engine.runtime.io import IoExecutor
from lakeward.engine.runtime.source_task import SourceTask, SplitState
from lakeward.engine.runtime.splits import new_splits
from lakeward.engine.runtime.task import RunnableTask, SnapshotDeclined, SnapshotTaken

log = logging.getLogger("lakeward")

TICK_INTERVAL_MS = 100


@dataclass(frozen=True, slots=True)
class SplitsListed:
    """A source was asked for its splits while the job runs."""

    source: OperatorId
    splits: tuple[Split, ...]


IoResult = Event | SplitsListed


@dataclass(frozen=True, slots=True)
class JobHeader:
    """What every manifest of a run says.

    Args:
        job_id: The job's identity.
        job_name: Its name.
        generation: The run's number.
        parallelism: Subtasks of each operator.
    """

    job_id: JobId
    job_name: str
    generation: Generation
    parallelism: Mapping[OperatorId, int]


@dataclass(frozen=True, slots=True)
class JobServices:
    """The ports a run works through.

    Args:
        workflow: The checkpoint directory.
        committers: The sinks' committers.
        io: Runs slow effects in order.
        clock: Time.
        config: Limits and intervals.
        sources: The sources, for finding new splits.
        on_tick: Called some ten times a second.
    """

    workflow: CheckpointWorkflow
    committers: JobCommitters
    io: IoExecutor[IoResult]
    clock: Clock
    config: EngineConfig
    sources: Mapping[OperatorId, Source]
    on_tick: Callable[[], None] = lambda: None


class JobRunner:
    """The control side of one attempt. A driver steps the tasks and calls `pump` in between; neither ever waits.

    Args:
        tasks: All tasks, each after those it reads from.
        coordinator: Decides about checkpoints.
        header: What every manifest says.
        services: The ports.
    """

    def __init__(
        self,
        tasks: Sequence[RunnableTask],
        coordinator: CheckpointCoordinator,
        header: JobHeader,
        services: JobServices,
    ) -> None:
        self.tasks = tasks
        self._coordinator = coordinator
        self._header = header
        self._services = services
        self._snapshots: dict[CheckpointId, tuple[OperatorSnapshot, ...]] = {}
        self._permits: dict[CheckpointId, CommitPermit] = {}
        self._carried = CarriedCommittables()
        now_ms = services.clock.monotonic_ms()
        self._next_tick_ms = now_ms
        self._discovery_ms = dict.fromkeys(services.sources, now_ms)
        self._ended_reported = False
        self.finished = False
        self.ended = False
        """Whether it has finished because all input was read; a stop's last checkpoint may lie before the end."""
        self.completed: list[CheckpointId] = []

    def open(self) -> None:
        """Open all tasks, receivers first."""
        for task in reversed(self.tasks):
            task.open()

    @property
    def is_waiting(self) -> bool:
        """Whether a task waits for something that comes from outside, and has to be stepped soon."""
        return any(task.is_waiting for task in self.tasks)

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come at the source that is furthest behind; None: no source says so."""
        return min((at for task in self._source_tasks() if (at := task.watermark_us) is not None), default=None)

    def request_stop(self) -> None:
        """Take one last checkpoint, then finish."""
        self._handle(StopRequested())

    def pump(self) -> bool:
        """Do everything of the control side that is due; True when something was."""
        busy = self._take_reports()
        while (result := self._services.io.poll()) is not None:
            self._take(result)
            busy = True
        if not self._ended_reported and all(task.has_ended for task in self.tasks):
            self._ended_reported = True
            self._handle(AllTasksEnded())
            busy = True
        return self._tick() or busy

    def close(self) -> None:
        """Release everything; the first error is raised when all are closed."""
        self._services.io.close()
        closers: list[Callable[[], None]] = [task.close for task in self.tasks]
        first: Exception | None = None
        for close in [*closers, self._services.committers.close]:
            try:
                close()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first

    def _take(self, result: IoResult) -> None:
        if isinstance(result, SplitsListed):
            self._add_splits(result)
        else:
            self._handle(result)

    def _tick(self) -> bool:
        now_ms = self._services.clock.monotonic_ms()
        if now_ms < self._next_tick_ms:
            return False
        self._next_tick_ms = now_ms + TICK_INTERVAL_MS
        self._handle(Tick())
        now_us = self._services.clock.wall_us()
        for task in self.tasks:
            task.tick(now_us)
        self._discover(now_ms)
        self._services.on_tick()
        return False

    # -- checkpoints

    def _handle(self, event: Event) -> None:
        for instruction in self._coordinator.handle(event, self._services.clock.monotonic_ms()):
            self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case InjectBarriers(checkpoint):
                note_in_scope(checkpoint=checkpoint)
                for task in self.tasks:
                    task.inject(checkpoint)
            case Publish(checkpoint, acknowledged, final):
                snapshots = self._carried.added_to(checkpoint, acknowledged)
                self._snapshots[checkpoint] = snapshots
                self._services.io.submit(lambda: self._publish(checkpoint, snapshots, final))
            case Commit(checkpoint):
                self._services.io.submit(lambda: self._commit(checkpoint))
            case NotifyComplete(checkpoint):
                self.completed.append(checkpoint)
                self._carried.forget(checkpoint)
                for one in self.tasks:
                    one.complete(checkpoint)
            case NotifyAborted(checkpoint, reason):
                log.warning("checkpoint %d was given up: %s %s", checkpoint, reason.value, instruction.detail)
                for one in self.tasks:
                    one.abort(checkpoint)
            case FailJob(reason):
                raise CheckpointError(f"the job cannot go on: {reason}")
            case FinishJob(final):
                self.finished = True
                self.ended = final

    def _take_reports(self) -> bool:
        busy = False
        for task in self.tasks:
            for report in task.take_reports():
                busy = True
                if isinstance(report, SnapshotDeclined):
                    self._handle(Declined(report.checkpoint, report.task, report.reason))
                else:
                    self._carried.note(report)
                    self._submit_upload(report)
        return busy

    def _submit_upload(self, taken: SnapshotTaken) -> None:
        if any(part.frozen is not None for part in taken.parts):
            self._services.io.submit(lambda: self._upload(taken))
        else:
            self._handle(self._upload(taken))

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
        if part.frozen is not None:
            try:
                state = part.frozen.finish()
                files = self._services.workflow.upload(state.files)
            finally:
                part.discard_files()
            keyed = TableSnapshot(state.tables, part.key_groups.start, part.key_groups.stop, files)
        return OperatorSnapshot(part.uid, part.subtask, part.state, keyed, tuple(part.committables))

    def _publish(self, checkpoint: CheckpointId, snapshots: tuple[OperatorSnapshot, ...], final: bool) -> Event:
        manifest = CheckpointManifest(
            job_id=self._header.job_id,
            job_name=self._header.job_name,
            checkpoint=checkpoint,
            generation=self._header.generation,
            created_us=self._services.clock.wall_us(),
            max_parallelism=self._services.config.max_parallelism,
            parallelism=dict(self._header.parallelism),
            operators=snapshots,
            committers=dict(self._services.committers.snapshot()),
            final=final,
        )
        try:
            self._services.workflow.publish(manifest)
            # The claim says that this run, and no other, may commit the checkpoint.
            self._permits[checkpoint] = self._services.workflow.claim(manifest)
        except CheckpointError as error:
            return PublishFailed(checkpoint, str(error))
        return Published(checkpoint)

    def _commit(self, checkpoint: CheckpointId) -> Event:
        # A failure here passes through as an error: the next attempt repeats the commit before it goes on.
        self._services.committers.commit(checkpoint, self._snapshots.pop(checkpoint))
        self._services.workflow.mark_committed(self._permits.pop(checkpoint), self._services.clock.wall_us())
        self._delete_old_checkpoints()
        return Committed(checkpoint)

    def _delete_old_checkpoints(self) -> None:
        """Old checkpoints that stay a while longer harm nobody: what fails here is said, and tried again next time."""
        try:
            kept = self._services.workflow.retain(self._services.config.checkpoints_retained, self._header.generation)
        except CheckpointError as error:
            log.warning("old checkpoints could not be deleted: %s", error)
            return
        if kept.refused:
            log.warning("old checkpoints are not deleted: %s", kept.refused)

    # -- splits

    def _source_tasks(self) -> list[SourceTask]:
        return [task for task in self.tasks if isinstance(task, SourceTask)]

    def _discover(self, now_ms: int) -> None:
        for uid, source in self._services.sources.items():
            interval_ms = source.discovery_interval_ms
            if interval_ms is not None and not source.bounded and now_ms >= self._discovery_ms[uid] + interval_ms:
                self._discovery_ms[uid] = now_ms
                self._services.io.submit(self._list_splits(uid, source))

    def _list_splits(self, uid: OperatorId, source: Source) -> Callable[[], IoResult]:
        known = {
            split: state.position or state.split.start
            for task in self._source_tasks()
            if task.uid == uid
            for split, state in task.splits.items()
        }

        def work() -> IoResult:
            try:
                return SplitsListed(uid, tuple(source.list_splits(known)))
            except SourceError as error:
                # Readers notice a source that is really gone; a listing that fails once is tried again.
                log.warning("could not look for new splits of '%s': %s", uid, error, extra={"operator": uid})
                return SplitsListed(uid, ())

        return work

    def _add_splits(self, listed: SplitsListed) -> None:
        tasks = [task for task in self._source_tasks() if task.uid == listed.source]
        known = {split: state for task in tasks for split, state in task.splits.items()}
        for split in new_splits(listed.splits, known):
            log.info("source '%s' has a new split: %s", listed.source, split.id, extra={"operator": listed.source})
            min(tasks, key=lambda task: len(task.splits)).add_split(SplitState(split))
