"""The one way into the engine: plan a graph, recover, run it, restart it when it fails."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from lakeward.engine.api.sink import Sink
from lakeward.engine.checkpoint.coordinator import CheckpointCoordinator, CoordinatorConfig
from lakeward.engine.checkpoint.local_copies import LocalCopies, tell_where_from
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.savepoint import Beginning, Owner, check_has_begun
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.checkpoint.store_object import ObjectStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, Recovery, Started
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.clock import Clock, SystemClock
from lakeward.engine.core.errors import (
    ConfigError,
    CorruptionError,
    InternalError,
    JobFailedError,
    LakewardError,
    Retry,
)
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId
from lakeward.engine.core.log_scope import log_scope, note_in_scope
from lakeward.engine.core.scratch import ScratchFolder, remove_abandoned
from lakeward.engine.graph.logical import LogicalGraph, SourceSpec
from lakeward.engine.graph.plan import Plan
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.processes.launcher import Launcher, WorkerSpec
from lakeward.engine.processes.remote import ProcessesDriver, StartOrder, WorkerProcesses, workers_of
from lakeward.engine.processes.settings import WorkerJob, WorkerPorts
from lakeward.engine.processes.worker_process import run_worker
from lakeward.engine.runtime.async_calls import JobCalls, ThreadedJobCalls
from lakeward.engine.runtime.build import BuildContext, build_tasks
from lakeward.engine.runtime.chain import errors_named
from lakeward.engine.runtime.committers import JobCommitters
from lakeward.engine.runtime.context import JobInfo
from lakeward.engine.runtime.control import JobControl
from lakeward.engine.runtime.drivers import LocalDriver, StopSignal
from lakeward.engine.runtime.io import IoExecutor, ThreadIo
from lakeward.engine.runtime.job import IoResult, JobHeader, JobRunner, JobServices
from lakeward.engine.runtime.metrics import Metrics
from lakeward.engine.runtime.restart import RestartPolicy
from lakeward.engine.runtime.restore import RestoredState, check_covers
from lakeward.engine.runtime.savepoints import RequestedSavepoints
from lakeward.engine.runtime.signals import stop_on_signals
from lakeward.engine.runtime.source_task import SplitState, split_states
from lakeward.engine.runtime.splits import assign_splits, merge_splits
from lakeward.engine.runtime.status import JobState, JobStatus, Observer, nobody
from lakeward.engine.runtime.worker import LocalWorker, Worker
from lakeward.engine.state.heap import keep_freed_memory
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.rocksdb import RocksDbStoreFactory

__all__ = ["Attempt", "JobDefinition", "JobResult", "Ports", "execute", "stop_on_signals", "work_for"]

log = logging.getLogger("lakeward")

BACKOFF_SLICE_MS = 100


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended.

    >>> from lakeward import MemorySink, StreamExecutionEnvironment
    >>> env = StreamExecutionEnvironment()
    >>> _ = env.from_collection([{"n": 1}, {"n": 2}], uid="numbers").sink_to(MemorySink(), uid="memory")
    >>> result = env.execute("count")
    >>> result.ended, result.restarts, result.restored
    (True, 0, None)
    >>> result.metrics["memory"]["input_rows"]
    2

    Args:
        job_id: The job's identity.
        checkpoint: The last completed checkpoint; None when there was none.
        restored: The checkpoint it went on from at first; None when it began anew.
        ended: True when all input was read to its end, False when the job was stopped.
        restarts: Attempts that failed before.
        metrics: By operator uid, then by name: counters, and what each state held at the last checkpoint
            (`state.NAME.entries` and `state.NAME.bytes`), so that a state that never shrinks is seen.
    """

    job_id: JobId
    checkpoint: CheckpointId | None
    restored: CheckpointId | None
    ended: bool
    restarts: int
    metrics: dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside the engine that a job touches; tests and the simulator replace them.

    Args:
        clock: Time.
        stop: Whether the user has asked the job to stop.
        control: Takes requests for the job while it runs; for one job only.
        new_id: Makes a name that was never used before.
        make_io: Makes the executor of an attempt's slow effects.
        make_calls: Makes what runs an attempt's asynchronous calls.
        store_factory: Opens the key-value stores behind keyed state.
        directory: Where the folders of local state lie; None: the temporary directory (`$TMPDIR`).
        observe: Is told how the job is getting on.
        make_launcher: Makes what starts worker processes; None: all runs in this process, whatever the parallelism.
    """

    clock: Clock = field(default_factory=SystemClock)
    stop: StopSignal = lambda: False
    control: JobControl = field(default_factory=JobControl)
    new_id: Callable[[], str] = lambda: uuid.uuid4().hex[:12]
    make_io: Callable[[], IoExecutor[IoResult]] = ThreadIo
    make_calls: Callable[[], JobCalls] = ThreadedJobCalls
    store_factory: StoreFactory = field(default_factory=RocksDbStoreFactory)
    directory: str | None = None
    observe: Observer = nobody
    make_launcher: Callable[[Callable[[WorkerSpec], None]], Launcher | None] | None = None

    def is_stopping(self) -> bool:
        """Whether the job has to take a last checkpoint and stop."""
        return self.stop() or self.control.stopping


@dataclass(frozen=True, slots=True)
class JobDefinition:
    """A job: what it does, its name, how it is run.

    Args:
        graph: The logical graph.
        name: Given to `execute`; part of the default sink ids.
        config: Limits and intervals.
        store: The checkpoint directory.
        savepoint: Another directory, from whose checkpoint this one is begun; None: it begins empty.
        dropped_state: Operators that the job no longer has, and whose state may be dropped.
    """

    graph: LogicalGraph
    name: str
    config: EngineConfig
    store: CheckpointStore
    savepoint: CheckpointStore | None = None
    dropped_state: frozenset[OperatorId] = frozenset()


def execute(job: JobDefinition, ports: Ports | None = None) -> JobResult:
    """Run a job until its input ends or it is stopped, restarting it from its newest good checkpoint when it fails.

    Exactly once: kill -9 at any moment loses nothing and doubles nothing in sinks that have a committer; run the job
    again with the same checkpoint directory.

    Args:
        job: The job.
        ports: The outside world; by default the real one.

    Returns:
        How it ended.

    Raises:
        LakewardError: It cannot run as written, an error said that trying again is useless, or it failed too often.
    """
    ports = ports or Ports()
    keep_freed_memory()
    graph, physical = prepare(job.graph, job.config)
    job = replace(job, graph=graph)
    with ExitStack() as stack:
        stack.enter_context(ports.control.until_end())
        job = _with_local_copies(job, ports, stack)
        job, launcher = _with_launcher(job, physical, ports, stack)  # before there are threads: it forks
        for node in job.graph:
            if isinstance(node.work, Sink):
                with errors_named(node):
                    node.work.check_schema(node.schema)
        with log_scope(job=job.name):
            return _run_until_done(job, physical, ports, launcher)


def _with_local_copies(job: JobDefinition, ports: Ports, stack: ExitStack) -> JobDefinition:
    """The job, with a store whose files a restore finds on this machine's disk as long as the job lives here."""
    if not isinstance(job.store, ObjectStore):
        return job
    folder = ScratchFolder(ports.directory)
    stack.callback(folder.close)
    return replace(job, store=LocalCopies(job.store, folder.path))


def _with_launcher(
    job: JobDefinition, physical: Plan, ports: Ports, stack: ExitStack
) -> tuple[JobDefinition, Launcher | None]:
    """The job, with checkpoints where its worker processes see them, and what starts those, if it has any."""
    if ports.make_launcher is None or workers_of(physical, job.config) == 1:
        return job, None
    if isinstance(job.store, MemoryStore):
        folder = ScratchFolder(ports.directory)
        stack.callback(folder.close)
        job = replace(job, store=FileSystemStore(str(folder.path / "checkpoints")))
    launcher = ports.make_launcher(partial(run_worker, _workers_job(job, physical, ports)))
    if launcher is not None:
        stack.callback(remove_abandoned, Path(ports.directory or tempfile.gettempdir()))  # of workers that were killed
        stack.callback(launcher.close)
    return job, launcher


def _workers_job(job: JobDefinition, physical: Plan, ports: Ports) -> WorkerJob:
    own = WorkerPorts(ports.clock, ports.make_io, ports.make_calls, ports.store_factory, ports.directory)
    return WorkerJob(physical, job.name, job.config, job.store, own)


def work_for(job: JobDefinition, spec: WorkerSpec, ports: Ports | None = None) -> None:
    """Be one of the workers of a job that another process runs, perhaps on another host, until that one ends it.

    Args:
        job: The same job as there; the coordinator refuses a worker with another.
        spec: Which worker, and whom to call.
        ports: The outside world; by default the real one.

    Raises:
        LakewardError: The job cannot run as written, or the coordinator cannot be reached.
    """
    keep_freed_memory()
    _, physical = prepare(job.graph, job.config)
    run_worker(_workers_job(job, physical, ports or Ports()), spec)


def _run_until_done(job: JobDefinition, physical: Plan, ports: Ports, launcher: Launcher | None) -> JobResult:
    policy = RestartPolicy(job.config.restart)
    metrics = Metrics()
    first_restored: CheckpointId | None = None
    reads_all = False
    while True:
        ports.control.check_goes_on()
        attempt = Attempt(job, physical, ports, metrics, policy.restarts, launcher)
        attempt.reads_all = reads_all
        try:
            attempt.start()
            job = replace(job, savepoint=None)  # it is begun; a restart does not need the savepoint any more
            first_restored = attempt.restored if policy.restarts == 0 else first_restored
            attempt.run()
        except LakewardError as error:
            error.redact(job.config.redaction)
            attempt.close()
            reads_all = attempt.has_restored_damage(error)
            if not reads_all:
                _restart_or_raise(error, attempt, policy, ports)
            continue
        finally:
            attempt.close()
        return JobResult(
            attempt.job_id, attempt.last_checkpoint, first_restored, attempt.ended, policy.restarts, metrics.values()
        )


def _restart_or_raise(error: LakewardError, attempt: Attempt, policy: RestartPolicy, ports: Ports) -> None:
    if error.retry is Retry.NO or ports.is_stopping():
        raise error
    delay_ms = policy.next_delay_ms(progressed=attempt.progressed)
    if delay_ms is None:
        raise JobFailedError(
            f"the job failed {policy.restarts + 1} times in a row; the last time: {error}",
            hint="look at the error above; run the job again to go on from its last checkpoint",
        ) from error
    log.warning("the job failed and is restarted in %.1f s: %s", delay_ms / 1000, error)
    attempt.observe(JobState.RESTARTING, error)
    until_ms = ports.clock.monotonic_ms() + delay_ms
    while (left_ms := until_ms - ports.clock.monotonic_ms()) > 0:
        if ports.is_stopping() or ports.control.canceled:
            return
        ports.clock.sleep_ms(min(left_ms, BACKOFF_SLICE_MS))


class Attempt:
    """One start of a job: recover, build, run, close. Each has a generation of its own in the checkpoint directory."""

    def __init__(
        self,
        job: JobDefinition,
        physical: Plan,
        ports: Ports,
        metrics: Metrics,
        restarts: int = 0,
        launcher: Launcher | None = None,
    ) -> None:
        self._launcher = launcher
        self._processes: WorkerProcesses | None = None
        self._restarts = restarts
        self._job = job
        self._plan = physical
        self._ports = ports
        self._metrics = metrics
        self._parallelism = {node.uid: vertex.parallelism for vertex in physical.vertices for node in vertex.nodes}
        self._workflow = CheckpointWorkflow(job.store)
        self._scratch = ScratchFolder(ports.directory)
        self._calls = ports.make_calls()
        self._runner: JobRunner | None = None
        self._committers: JobCommitters | None = None
        self._savepoints = RequestedSavepoints(ports.control, job.store, self._owner)
        self.job_id = JobId("")
        self.restored: CheckpointId | None = None
        self._restored_us: int | None = None
        self._was_final = False
        self._is_open = False
        self._closed = False
        self.reads_all = True
        """Whether the restored checkpoint is read as a whole before anything else; see `CheckpointWorkflow.recover`."""

    @property
    def generation(self) -> Generation | None:
        """Its generation; None before it has one."""
        return self._workflow.generation

    @property
    def progressed(self) -> bool:
        """Whether this attempt completed a checkpoint."""
        return self._runner is not None and bool(self._runner.completed)

    @property
    def last_checkpoint(self) -> CheckpointId | None:
        """The newest completed checkpoint."""
        return self.restored if self._runner is None else self._runner.last_completed or self.restored

    @property
    def ended(self) -> bool:
        """Whether all input was read."""
        return self._was_final or (self._runner is not None and self._runner.ended)

    def start(self) -> JobRunner | None:
        """Recover and build; nothing of the input is read yet. None when the restored job had already ended."""
        self.observe(JobState.STARTING)
        started, recovery = self._recover()
        if recovery.manifest is not None and recovery.manifest.final:
            self._was_final = True
            return None
        restored = RestoredState(
            recovery.manifest,
            self._workflow.download,
            self._scratch.path / "restored",
            self._job.config.max_parallelism,
        )
        info = JobInfo(
            self.job_id,
            self._job.name,
            f"{started.generation:06d}-{self._ports.new_id()}",
            self._ports.clock,
            self._job.config.max_parallelism,
            self._calls,
            self._job.config.redaction,
        )
        self._metrics.begin_attempt()
        splits = self._deal_splits(restored)
        io = self._ports.make_io()
        if self._launcher is not None:
            order = StartOrder(self.job_id, info.attempt, recovery.manifest, splits, recovery.reusable)
            workers = self._start_processes(started, order)
        else:
            context = BuildContext(
                self._job.config,
                info,
                self._metrics,
                restored,
                splits,
                self._ports.store_factory,
                self._scratch.path,
            )
            workers = [LocalWorker(build_tasks(self._plan, context), self._workflow, io.submit)]
        self._runner = self._make_runner(started, workers, io)
        return self._runner

    def _start_processes(self, started: Started, order: StartOrder) -> Sequence[Worker]:
        assert self._launcher is not None, "without one there are no processes"
        self._processes = WorkerProcesses(
            self._launcher, self._plan, started.generation, self._job.config, self._ports.clock, self._metrics
        )
        self._processes.start(self._scratch.path)
        self._processes.begin(order)
        return self._processes.workers

    def has_restored_damage(self, error: LakewardError) -> bool:
        """Whether a checkpoint that was not read before has turned out damaged: the next attempt has to read it."""
        found = isinstance(error, CorruptionError) and self.restored is not None
        if not found or self.reads_all or self._is_open or self._ports.is_stopping():
            return False
        log.warning("checkpoint %d cannot be restored, and is read as a whole: %s", self.restored, error)
        return True

    def run(self) -> None:
        """Run until the job has finished."""
        if self._runner is not None:
            self._runner.open()
            self._is_open = True
            tell_where_from(self._job.store)
            if self._processes is None:
                LocalDriver(self._ports.clock, self._ports.is_stopping).run(self._runner)
            else:
                ProcessesDriver(self._ports.is_stopping).run(self._runner, self._processes)
        self.finish()

    def finish(self) -> None:
        """Write the savepoints that wait, now that the job has finished."""
        self._savepoints.finish()

    def close(self) -> None:
        """Release everything, also after an error; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        with ExitStack() as stack:
            stack.callback(self._scratch.close)
            stack.callback(self._calls.close)
            if self._processes is not None:
                finished = self._runner is not None and self._runner.finished
                stack.callback(self._processes.close, failed=not finished)
            try:
                if self._runner is not None:
                    self._runner.close()
                elif self._committers is not None:
                    self._committers.close()
            except Exception as error:
                # The error that ended the attempt matters more than one while cleaning up after it, whosever that is.
                if isinstance(error, LakewardError):
                    error.redact(self._job.config.redaction)
                log.warning("while closing: %s", error)

    def _recover(self) -> tuple[Started, Recovery]:
        started = self._start_generation()
        recovery = self._workflow.recover(started.generation, reads_all=self.reads_all)
        for checkpoint, reason in recovery.skipped:
            log.warning("checkpoint %d cannot be used: %s", checkpoint, reason)
        manifest = recovery.manifest
        if manifest is None:
            check_has_begun(self._job.store)
        else:
            _check_max_parallelism(manifest, self._job.config.max_parallelism)
            check_covers(manifest, self._job.graph, self._job.dropped_state, recovery.needs_commit)
            self.restored, self._restored_us = manifest.checkpoint, manifest.created_us
            log.info("going on from checkpoint %d", manifest.checkpoint)
        self._committers = JobCommitters(self._job.graph, self.job_id, self._job.name, manifest)
        pending = manifest.operators if manifest is not None and recovery.needs_commit else None
        self._committers.recover(pending)
        if manifest is not None and recovery.needs_commit:
            self._workflow.mark_committed(self._workflow.claim(manifest), self._ports.clock.wall_us())
        return started, recovery

    def _start_generation(self) -> Started:
        job, now_us = self._job, self._ports.clock.wall_us()
        owner = self._owner()
        beginning = None if job.savepoint is None else Beginning(job.savepoint, job.store)
        taken_on = None if beginning is None else beginning.job_id()
        fresh = taken_on or JobId(self._ports.new_id())
        started = self._workflow.start_generation(job.name, fresh, owner.name, now_us)
        note_in_scope(attempt=started.generation)
        self.job_id = started.job_id
        if beginning is not None and taken_on is not None:
            started = beginning.copy(self._workflow, started, job.name, owner)
            log.info("begun from a savepoint: checkpoint %d of job %s", started.next_checkpoint - 1, taken_on)
        return started

    def _owner(self) -> Owner:
        now_us = self._ports.clock.wall_us()
        return Owner(f"{socket.gethostname()}:{os.getpid()}", now_us, self._scratch.path)

    def _on_tick(self) -> None:
        if self._runner is None:
            return
        self._ports.control.check_goes_on()
        self._savepoints.serve(self._runner)
        self.observe(JobState.RUNNING)

    def observe(self, state: JobState, error: LakewardError | None = None) -> None:
        """Tell whoever watches how the job is getting on.

        Args:
            state: What it does.
            error: Why it is restarted.
        """
        if self._ports.observe is nobody:
            return
        counted = self._metrics.values()
        sources = (node.uid for node in self._job.graph if isinstance(node.work, SourceSpec))
        status = JobStatus(
            rows=sum(counted.get(uid, {}).get("output_rows", 0) for uid in sources),
            watermark_us=None if self._runner is None else self._runner.watermark_us,
            checkpoint=self.last_checkpoint,
            restarts=self._restarts,
            state=state,
            attempt=self.generation,
            checkpoint_us=(self._runner and self._runner.completed_us) or self._restored_us,
            error=error,
        )
        self._ports.observe(status)

    def _deal_splits(self, restored: RestoredState) -> dict[OperatorId, list[list[SplitState]]]:
        dealt = {}
        for node in self._job.graph:
            if isinstance(node.work, SourceSpec):
                with errors_named(node):
                    old = split_states(restored.states(node.uid))
                    known = {one.split.id: one.position or one.split.start for one in old}
                    listed = node.work.source.list_splits(known if old else None)
                dealt[node.uid] = assign_splits(merge_splits(listed, old), self._parallelism[node.uid])
        return dealt

    def _make_runner(self, started: Started, workers: Sequence[Worker], io: IoExecutor[IoResult]) -> JobRunner:
        config = self._job.config
        coordinator = CheckpointCoordinator(
            CoordinatorConfig(
                interval_ms=config.checkpoint_interval_ms,
                timeout_ms=config.checkpoint_timeout_ms,
                failures_tolerated=config.checkpoint_failures_tolerated,
                first_checkpoint=started.next_checkpoint,
            ),
            frozenset(task for worker in workers for task in worker.task_ids),
        )
        header = JobHeader(self.job_id, self._job.name, started.generation, self._parallelism)
        if self._committers is None:
            raise InternalError("committers are made before the tasks")
        sources = {n.uid: n.work.source for n in self._job.graph if isinstance(n.work, SourceSpec)}
        services = JobServices(self._workflow, self._committers, io, self._ports.clock, config, sources, self._on_tick)
        return JobRunner(workers, coordinator, header, services)


def _check_max_parallelism(manifest: CheckpointManifest, max_parallelism: int) -> None:
    if manifest.max_parallelism != max_parallelism:
        raise ConfigError(
            f"checkpoint {manifest.checkpoint} was taken with max_parallelism {manifest.max_parallelism}, the job has "
            f"{max_parallelism}",
            hint=f"set max_parallelism={manifest.max_parallelism}: it is fixed for the life of a job's state",
        )
