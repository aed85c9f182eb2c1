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

from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.core.error_json import error_to_json
from lakeward.engine.core.errors import InternalError, LakewardError, WorkerLostError
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.log_scope import log_scope
from lakeward.engine.processes.agreement import check_agreement
from lakeward.engine.processes.connection import Caller, Connection, Role, address_of, call, listen
from lakeward.engine.processes.frames import Frame, Kind
from lakeward.engine.processes.heartbeat import ORPHANED, start_beating
from lakeward.engine.processes.launcher import WorkerSpec
from lakeward.engine.processes.reception import Reception
from lakeward.engine.processes.settings import WorkerJob
from lakeward.engine.processes.worker_core import WorkerCore
from lakeward.engine.runtime.drivers import IDLE_SLEEP_MIN_MS, WAITING_SLEEP_MAX_MS, longest_sleep_ms
from lakeward.engine.runtime.job import TICK_INTERVAL_MS
from lakeward.engine.runtime.source_task import SourceTask
from lakeward.engine.runtime.task import RunnableTask
from lakeward.engine.runtime.worker import LocalWorker

log = logging.getLogger("lakeward")

PEERS_TIMEOUT_MS = 30_000
PEERS_POLL_S = 0.5
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
        self._core = WorkerCore(job, spec, self._tell, self._post)

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
        self._core.begin(manifest, start)
        self._loop()
        self._close()
        self._tell({"type": "closed"})
        self._deliver()

    def _fail(self, error: BaseException) -> None:
        """Say what went wrong, before anything else: closing may take long. Then release everything."""
        if isinstance(error, _PeerLostError):
            self._tell({"type": "peer_lost", "peer": error.peer, "error": str(error)})
        else:
            self._core.fail(error)
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

    # -- running

    def _loop(self) -> None:
        core, worker = self._core, self._core.worker
        tasks = list(reversed(worker.tasks))
        idle_ms = slept_ms = 0.0
        while not core.is_closing:
            busy = False
            for task in tasks:
                busy = _step(task) or busy
            busy = core.report() or busy
            if busy:
                idle_ms = slept_ms = 0.0
            else:
                idle_ms = min(max(idle_ms * 2, IDLE_SLEEP_MIN_MS), self._idle_max_ms(worker, slept_ms))
                slept_ms += idle_ms
            if self._talk(idle_ms):
                idle_ms = slept_ms = 0.0

    @staticmethod
    def _idle_max_ms(worker: LocalWorker, slept_ms: float) -> float:
        """Frames wake the worker; readers of sources and calls in flight have to be asked."""
        if worker.is_waiting:
            return WAITING_SLEEP_MAX_MS
        reads = any(not source.has_ended for source in worker.sources)
        return longest_sleep_ms(slept_ms) if reads else TICK_INTERVAL_MS

    def _talk(self, wait_ms: float) -> bool:
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
                    self._core.obey(frame.message())
                came = True
            else:
                came = self._from_peer(key.data) or came
        return came

    def _from_peer(self, peer: int) -> bool:
        frames = self._with_peer(peer, self._peers[peer].receive)
        for frame in frames:
            self._core.on_frame(peer, frame)
        return bool(frames)

    def _with_peer(self, peer: int, action: Any) -> Any:
        try:
            return action()
        except WorkerLostError as error:
            raise _PeerLostError(peer, error) from error

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
        try:
            self._core.close()
        finally:
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
