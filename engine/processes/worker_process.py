"""A worker process: it calls the coordinator, is told what to restore, and steps its tasks until it is told to end."""

from __future__ import annotations

import logging
import os
import selectors
import socket
from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
import pyarrow as pa

from lakeward.engine.checkpoint.events import Acked, to_json
from lakeward.engine.checkpoint.local_copies import tell_where_from
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.error_json import error_to_json
from lakeward.engine.core.errors import InternalError, LakewardError, WorkerLostError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.log_scope import log_scope, note_in_scope
from lakeward.engine.core.scratch import ScratchFolder
from lakeward.engine.processes.agreement import check_agreement
from lakeward.engine.processes.connection import Caller, Connection, Role, address_of, call, listen
from lakeward.engine.processes.exchange import Exchange
from lakeward.engine.processes.frames import Frame, Kind
from lakeward.engine.processes.heartbeat import ORPHANED, start_beating
from lakeward.engine.processes.launcher import WorkerSpec
from lakeward.engine.processes.reception import Reception
from lakeward.engine.processes.settings import WorkerJob
from lakeward.engine.runtime.build import BuildContext, build_tasks
from lakeward.engine.runtime.context import JobInfo
from lakeward.engine.runtime.drivers import IDLE_SLEEP_MIN_MS, WAITING_SLEEP_MAX_MS, longest_sleep_ms
from lakeward.engine.runtime.io import IoExecutor
from lakeward.engine.runtime.job import TICK_INTERVAL_MS, IoResult, SplitsListed
from lakeward.engine.runtime.metrics import Metrics
from lakeward.engine.runtime.restore import RestoredState
from lakeward.engine.runtime.source_task import SourceTask, SplitState
from lakeward.engine.runtime.task import RunnableTask
from lakeward.engine.runtime.worker import HandedOver, LocalWorker, WorkerEvent

log = logging.getLogger("lakeward")

PEERS_TIMEOUT_MS = 30_000
PEERS_POLL_S = 0.5
STATUS_INTERVAL_MS = 200
STEPS_MAX = 64


def run_worker(job: WorkerJob, spec: WorkerSpec) -> None:
    """Be a worker until the coordinator says that it is enough, or is gone.

    Args:
        job: The job.
        spec: Which worker, and whom to call.
    """
    secret = bytes.fromhex(spec.secret)
    with log_scope(job=job.name, attempt=spec.attempt, worker=spec.number):
        beats = call(spec.coordinator, secret, spec.attempt, Caller(Role.HEARTBEAT, spec.number))
        start_beating(beats, job.config.heartbeat_timeout_ms)
        connected = call(spec.coordinator, secret, spec.attempt, Caller(Role.CONTROL, spec.number))
        control = Connection(connected, spec.attempt, "the coordinator")
        process = _WorkerProcess(job, spec, control)
        try:
            process.run_or_fail()
        except _CoordinatorLostError as error:
            log.warning("this worker ends: %s", error)
            os._exit(ORPHANED)


def say_why_not(spec: WorkerSpec, error: LakewardError) -> None:
    """Tell the coordinator that this worker cannot begin.

    Args:
        spec: The worker, and whom to tell.
        error: Why; what must not be shown is hidden by then.

    Raises:
        WorkerLostError: The coordinator cannot be reached.
    """
    connected = call(spec.coordinator, bytes.fromhex(spec.secret), spec.attempt, Caller(Role.CONTROL, spec.number))
    control = Connection(connected, spec.attempt, "the coordinator")
    control.send(Kind.CONTROL, 0, orjson.dumps({"type": "failed", "error": error_to_json(error)}))
    control.flush()
    control.close()


class _CoordinatorLostError(Exception):
    """The control connection is gone."""


class _PeerLostError(Exception):
    """The connection to another worker is gone; the coordinator knows better why."""

    def __init__(self, peer: int, error: WorkerLostError) -> None:
        super().__init__(str(error))
        self.peer = peer


class _WorkerProcess:
    def __init__(self, job: WorkerJob, spec: WorkerSpec, control: Connection) -> None:
        self._job = job
        self._spec = spec
        self._control = control
        self._peers: dict[int, Connection] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(control, selectors.EVENT_READ)
        self._exchange = Exchange(spec.number, spec.workers, self._post)
        self._metrics = Metrics()
        self._worker: LocalWorker | None = None
        self._io: IoExecutor[IoResult] = job.ports.make_io()
        self._calls = job.ports.make_calls()
        self._scratch = ScratchFolder(job.ports.directory)
        self._workflow = CheckpointWorkflow(job.store, Generation(spec.attempt))
        self._next_tick_ms = self._next_status_ms = 0
        self._ended_told = False
        self._closing = False

    def run_or_fail(self) -> None:
        """From the first message to the last; what a function ends Python with is an error like others."""
        try:
            self._run()
        except _CoordinatorLostError:
            raise
        except BaseException as error:
            self._fail(error)

    def _run(self) -> None:
        manifest, start = self._wait_for_start()
        self._worker = self._build(manifest, start)
        self._worker.open()
        tell_where_from(self._job.store)
        self._tell({"type": "opened"})
        self._loop(self._worker)
        self._close()
        self._tell({"type": "closed"})
        self._deliver()

    def _fail(self, error: BaseException) -> None:
        """Say what went wrong, before anything else: closing may take long. Then release everything."""
        if self._worker is not None:
            self._tell_status(self._worker)
        if isinstance(error, _PeerLostError):
            said: JsonObject = {"type": "peer_lost", "peer": error.peer, "error": str(error)}
        else:
            if isinstance(error, LakewardError):
                error.redact(self._job.config.redaction)
            said = {"type": "failed", "error": error_to_json(error)}
        self._tell(said)
        self._deliver()
        try:
            self._close()
        except Exception as closing:
            log.warning("while closing: %s", closing)

    # -- beginning

    def _wait_for_start(self) -> tuple[CheckpointManifest | None, Mapping[str, Any]]:
        listener = listen(self._spec.listen)
        try:
            self._tell({"type": "hello", "pid": os.getpid(), "address": address_of(listener, self._spec.advertise)})
            manifest: CheckpointManifest | None = None
            while True:
                for frame in self._wait_for_control():
                    if frame.kind is Kind.MANIFEST:
                        data = frame.payload.to_pybytes()
                        manifest = CheckpointManifest.from_bytes(data) if data else None
                        continue
                    start = frame.message()
                    if start["type"] != "start":
                        raise InternalError(f"a worker was told '{start['type']}' before it was started")
                    check_agreement(self._job, self._spec, start["plan"])
                    self._meet_peers(listener, start["peers"])
                    return manifest, start
        finally:
            listener.close()

    def _wait_for_control(self) -> list[Frame]:
        self._flush_control()
        self._selector.select()
        return self._from_coordinator()

    def _meet_peers(self, listener: socket.socket, addresses: list[str]) -> None:
        """One connection between each two workers: the one with the higher number calls."""
        spec, secret = self._spec, bytes.fromhex(self._spec.secret)
        for peer in range(spec.number):
            caller = Caller(Role.DATA, spec.number, peer)
            self._met(peer, self._with_peer(peer, partial(call, addresses[peer], secret, spec.attempt, caller)))
        awaited = set(range(spec.number + 1, spec.workers))
        clock = self._job.ports.clock
        until_ms = clock.monotonic_ms() + PEERS_TIMEOUT_MS
        with selectors.DefaultSelector() as selector:
            reception = Reception(selector, listener, secret, spec.attempt, spec.number, clock)
            while awaited:
                if clock.monotonic_ms() > until_ms:
                    raise WorkerLostError(f"workers {sorted(awaited)} did not call in {PEERS_TIMEOUT_MS // 1000} s")
                selector.select(PEERS_POLL_S)
                for connection, caller in reception.take():
                    if caller.role is Role.DATA and caller.number in awaited:
                        awaited.discard(caller.number)
                        self._met(caller.number, connection)
                    else:
                        connection.close()
            reception.close()

    def _met(self, peer: int, connection: socket.socket) -> None:
        self._peers[peer] = Connection(connection, self._spec.attempt, f"worker {peer}")
        self._selector.register(self._peers[peer], selectors.EVENT_READ, peer)

    def _build(self, manifest: CheckpointManifest | None, start: Mapping[str, Any]) -> LocalWorker:
        job, ports = self._job, self._job.ports
        self._workflow.reuse({sha256: Generation(holder) for sha256, holder in start["reusable"].items()})
        restored = RestoredState(
            manifest, self._workflow.download, self._scratch.path / "restored", job.config.max_parallelism
        )
        info = JobInfo(
            JobId(start["job_id"]),
            job.name,
            start["attempt"],
            ports.clock,
            job.config.max_parallelism,
            self._calls,
            job.config.redaction,
        )
        splits = {
            OperatorId(uid): [
                [SplitState.from_json(one) for one in dealt["own"].get(str(subtask), ())]
                for subtask in range(dealt["subtasks"])
            ]
            for uid, dealt in start["splits"].items()
        }
        context = BuildContext(
            job.config, info, self._metrics, restored, splits, ports.store_factory, self._scratch.path
        )
        tasks = build_tasks(job.plan, context, self._exchange)
        return LocalWorker(tasks, self._workflow, self._io.submit)

    # -- running

    def _loop(self, worker: LocalWorker) -> None:
        tasks = list(reversed(worker.tasks))
        idle_ms = slept_ms = 0.0
        while not self._closing:
            busy = False
            for task in tasks:
                busy = _step(task) or busy
            busy = self._report(worker) or busy
            self._tick(worker)
            if busy:
                idle_ms = slept_ms = 0.0
            else:
                idle_ms = min(max(idle_ms * 2, IDLE_SLEEP_MIN_MS), self._idle_max_ms(worker, slept_ms))
                slept_ms += idle_ms
            if self._talk(worker, idle_ms):
                idle_ms = slept_ms = 0.0

    @staticmethod
    def _idle_max_ms(worker: LocalWorker, slept_ms: float) -> float:
        """Frames wake the worker; readers of sources and calls in flight have to be asked."""
        if worker.is_waiting:
            return WAITING_SLEEP_MAX_MS
        reads = any(not source.has_ended for source in worker.sources)
        return longest_sleep_ms(slept_ms) if reads else TICK_INTERVAL_MS

    def _report(self, worker: LocalWorker) -> bool:
        events: list[WorkerEvent] = worker.take_events()
        while (result := self._io.poll()) is not None:
            if isinstance(result, SplitsListed):
                raise InternalError("splits are listed by the coordinator")
            events.append(result)
        if any(isinstance(event, Acked) for event in events):
            self._tell_status(worker)
        for event in events:
            self._tell(_event_to_json(event))
        if worker.has_ended and not self._ended_told:
            self._ended_told = True
            self._tell_status(worker)
            self._tell({"type": "ended"})
        return bool(events)

    def _tick(self, worker: LocalWorker) -> None:
        now_ms = self._job.ports.clock.monotonic_ms()
        if now_ms >= self._next_tick_ms:
            self._next_tick_ms = now_ms + TICK_INTERVAL_MS
            worker.tick(self._job.ports.clock.wall_us())
        if now_ms >= self._next_status_ms:
            self._next_status_ms = now_ms + STATUS_INTERVAL_MS
            self._tell_status(worker)

    def _tell_status(self, worker: LocalWorker) -> None:
        values = self._metrics.own()
        self._tell(
            {
                "type": "status",
                "counters": values.counters,
                "gauges": values.gauges,
                "watermark_us": worker.watermark_us,
            }
        )

    def _talk(self, worker: LocalWorker, wait_ms: float) -> bool:
        """Send and receive; wait for something to come if there is nothing to do. True when something came."""
        for peer, connection in self._peers.items():
            if connection.has_unsent:
                self._with_peer(peer, connection.flush)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.has_unsent else 0)
            if self._selector.get_key(connection).events != events:
                self._selector.modify(connection, events, peer)
        self._flush_control()
        came = False
        for key, _ in self._selector.select(wait_ms / 1000):
            if key.fileobj is self._control:
                for frame in self._from_coordinator():
                    self._obey(worker, frame.message())
                came = True
            else:
                came = self._from_peer(key.data) or came
        return came

    def _from_peer(self, peer: int) -> bool:
        frames = self._with_peer(peer, self._peers[peer].receive)
        for frame in frames:
            self._exchange.on_frame(peer, frame)
        return bool(frames)

    def _with_peer(self, peer: int, action: Any) -> Any:
        try:
            return action()
        except WorkerLostError as error:
            raise _PeerLostError(peer, error) from error

    def _obey(self, worker: LocalWorker, order: Mapping[str, Any]) -> None:
        match order["type"]:
            case "inject":
                note_in_scope(checkpoint=order["checkpoint"])
                worker.inject(CheckpointId(order["checkpoint"]), order["aligned"])
            case "complete":
                self._workflow.forget_uploads()
                worker.complete(CheckpointId(order["checkpoint"]))
            case "abort":
                worker.abort(CheckpointId(order["checkpoint"]))
            case "add_split":
                state = SplitState.from_json(order["split"])
                next(source for source in worker.sources if source.id == order["task"]).add_split(state)
            case "close":
                self._closing = True
            case unknown:
                raise InternalError(f"the coordinator said '{unknown}', which no worker understands")

    # -- talking

    def _post(self, worker: int, kind: Kind, channel: int, payload: bytes | pa.Buffer) -> None:
        self._peers[worker].send(kind, channel, payload)

    def _tell(self, message: JsonObject) -> None:
        self._control.send(Kind.CONTROL, 0, orjson.dumps(message))

    def _flush_control(self) -> None:
        """Messages are small and the coordinator always reads: what does not fit is sent in the next turn."""
        try:
            self._control.flush()
        except WorkerLostError as error:
            raise _CoordinatorLostError(str(error)) from error

    def _deliver(self) -> None:
        """Send all that waits, however long it is: there is no next turn."""
        self._selector.modify(self._control, selectors.EVENT_WRITE)
        self._flush_control()
        while self._control.has_unsent:
            self._selector.select()
            self._flush_control()

    def _from_coordinator(self) -> list[Frame]:
        try:
            return self._control.receive()
        except WorkerLostError as error:
            raise _CoordinatorLostError(str(error)) from error

    def _close(self) -> None:
        self._io.close()
        try:
            if self._worker is not None:
                self._worker.close()
        finally:
            self._calls.close()
            self._scratch.close()
            for connection in self._peers.values():
                connection.close()


def _step(task: RunnableTask) -> bool:
    """A source steps once; others take what waits, so that senders have credit while this worker reads."""
    if isinstance(task, SourceTask):
        return task.step()
    for steps in range(STEPS_MAX):
        if not task.step():
            return steps > 0
    return True


def _event_to_json(event: WorkerEvent) -> JsonObject:
    if isinstance(event, HandedOver):
        return {
            "type": "handed_over",
            "checkpoint": event.checkpoint,
            "uid": event.uid,
            "subtask": event.subtask,
            "committables": list(event.committables),
        }
    return {"type": "event", "event": to_json(event)}
