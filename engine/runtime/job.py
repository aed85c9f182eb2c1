"""One attempt of a job: turns coordinator instructions into task calls and I/O, and reports back into events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lakeward.engine.api.source import Source, Split
from lakeward.engine.checkpoint.coordinator import CheckpointCoordinator
from lakeward.engine.checkpoint.events import (
    AllTasksEnded,
    CheckpointRequested,
    Commit,
    Committed,
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
from lakeward.engine.core.snapshots import OperatorSnapshot
from lakeward.engine.runtime.carried import CarriedCommittables
from lakeward.engine.runtime.committers import JobCommitters
from lakeward.engine.runtime.io import IoExecutor
from lakeward.engine.runtime.source_task import SplitState
from lakeward.engine.runtime.splits import new_splits
from lakeward.engine.runtime.task import RunnableTask
from lakeward.engine.runtime.worker import HandedOver, LocalWorker, SourceSubtask, Worker, close_all

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
    """The control side of one attempt. A driver calls `pump` again and again; it never waits.

    Args:
        workers: Where the tasks are.
        coordinator: Decides about checkpoints.
        header: What every manifest says.
        services: The ports.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        coordinator: CheckpointCoordinator,
        header: JobHeader,
        services: JobServices,
    ) -> None:
        self.workers = workers
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
        self.completed_us: int | None = None
        """When the newest of them was, in microseconds since 1970 UTC."""

    def open(self) -> None:
        """Open all tasks."""
        for worker in self.workers:
            worker.open()

    @property
    def tasks(self) -> list[RunnableTask]:
        """The tasks of this process, each after those it reads from."""
        return [task for worker in self.workers if isinstance(worker, LocalWorker) for task in worker.tasks]

    @property
    def is_waiting(self) -> bool:
        """Whether a task of this process waits for something that comes from outside."""
        return any(worker.is_waiting for worker in self.workers if isinstance(worker, LocalWorker))

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come at the source that is furthest behind; None: no source says so."""
        return min((at for worker in self.workers if (at := worker.watermark_us) is not None), default=None)

    @property
    def last_completed(self) -> CheckpointId | None:
        """The newest completed checkpoint of this attempt."""
        return self.completed[-1] if self.completed else None

    def request_checkpoint(self) -> CheckpointId:
        """Take a checkpoint as soon as can be; returns which."""
        checkpoint = self._coordinator.next_checkpoint
        self._handle(CheckpointRequested())
        return checkpoint

    def submit(self, work: Callable[[], IoResult]) -> None:
        """Do something slow beside the work of the tasks, after what was given before."""
        self._services.io.submit(work)

    def request_stop(self) -> None:
        """Take one last checkpoint, then finish."""
        self._handle(StopRequested())

    def pump(self) -> bool:
        """Do everything of the control side that is due; True when something was."""
        busy = self._take_events()
        while (result := self._services.io.poll()) is not None:
            self._take(result)
            busy = True
        if not self._ended_reported and all(one.has_ended for one in self.workers):
            self._ended_reported = True
            self._handle(AllTasksEnded())
            busy = True
        return self._tick() or busy

    def close(self) -> None:
        """Release everything; the first error is raised when all are closed."""
        self._services.io.close()
        close_all([*(worker.close for worker in self.workers), self._services.committers.close])

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
        for worker in self.workers:
            worker.tick(now_us)
        self._discover(now_ms)
        self._services.on_tick()
        return False

    # -- checkpoints

    def _handle(self, event: Event) -> None:
        for instruction in self._coordinator.handle(event, self._services.clock.monotonic_ms()):
            self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case InjectBarriers(checkpoint, aligned):
                note_in_scope(checkpoint=checkpoint)
                for worker in self.workers:
                    worker.inject(checkpoint, aligned)
            case Publish(checkpoint, acknowledged, final):
                snapshots = self._carried.added_to(checkpoint, acknowledged)
                self._snapshots[checkpoint] = snapshots
                self._services.io.submit(lambda: self._publish(checkpoint, snapshots, final))
            case Commit(checkpoint):
                self._services.io.submit(lambda: self._commit(checkpoint))
            case NotifyComplete(checkpoint):
                self.completed.append(checkpoint)
                self.completed_us = self._services.clock.wall_us()
                self._carried.forget(checkpoint)
                for worker in self.workers:
                    worker.complete(checkpoint)
            case NotifyAborted(checkpoint, reason):
                log.warning("checkpoint %d was given up: %s %s", checkpoint, reason.value, instruction.detail)
                for worker in self.workers:
                    worker.abort(checkpoint)
            case FailJob(reason):
                raise CheckpointError(f"the job cannot go on: {reason}")
            case FinishJob(final):
                self.finished = True
                self.ended = final

    def _take_events(self) -> bool:
        busy = False
        for worker in self.workers:
            for event in worker.take_events():
                busy = True
                if isinstance(event, HandedOver):
                    self._carried.note(event)
                else:
                    self._handle(event)
        return busy

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
        ).with_version()
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

    def _sources(self, uid: OperatorId) -> list[SourceSubtask]:
        return [source for worker in self.workers for source in worker.sources if source.uid == uid]

    def _discover(self, now_ms: int) -> None:
        for uid, source in self._services.sources.items():
            interval_ms = source.discovery_interval_ms
            if interval_ms is not None and not source.bounded and now_ms >= self._discovery_ms[uid] + interval_ms:
                self._discovery_ms[uid] = now_ms
                self._services.io.submit(self._list_splits(uid, source))

    def _list_splits(self, uid: OperatorId, source: Source) -> Callable[[], IoResult]:
        known = {
            split: state.position or state.split.start
            for source_task in self._sources(uid)
            for split, state in source_task.splits.items()
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
        tasks = self._sources(listed.source)
        known = {split: state for task in tasks for split, state in task.splits.items()}
        for split in new_splits(listed.splits, known):
            log.info("source '%s' has a new split: %s", listed.source, split.id, extra={"operator": listed.source})
            min(tasks, key=lambda task: len(task.splits)).add_split(SplitState(split))
