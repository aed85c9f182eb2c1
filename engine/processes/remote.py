"""The coordinator's side of worker processes: starting them, talking to them, noticing when one is lost."""

from __future__ import annotations

import logging
import secrets
import selectors
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson

from lakeward.engine.checkpoint.events import Acked, Event, from_json
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.reuse import Reusable
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.error_json import error_from_json
from lakeward.engine.core.errors import JobFailedError, LakewardError, WorkerLostError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId, SplitId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.graph.outline import outline
from lakeward.engine.graph.plan import Plan
from lakeward.engine.processes.connection import Caller, Connection, Role, address_of, listen
from lakeward.engine.processes.frames import Frame, Kind
from lakeward.engine.processes.heartbeat import BeatListener
from lakeward.engine.processes.launcher import Launcher, WorkerSpec
from lakeward.engine.processes.reception import Reception
from lakeward.engine.processes.shares import shares
from lakeward.engine.runtime.build import task_id
from lakeward.engine.runtime.drivers import StopSignal
from lakeward.engine.runtime.job import JobRunner
from lakeward.engine.runtime.metrics import Metrics, MetricValues
from lakeward.engine.runtime.source_task import SplitState, split_states
from lakeward.engine.runtime.worker import HandedOver, WorkerEvent

log = logging.getLogger("lakeward")

POLL_MS = 20.0
CHECK_INTERVAL_MS = 50
CONNECT_TIMEOUT_MS = 30_000
CLOSE_TIMEOUT_MS = 10_000
"""How long workers may take to end when all is well."""
FAILED_CLOSE_TIMEOUT_MS = 1000
"""The same after a failure: their successors wait."""
ROOT_CAUSE_TIMEOUT_MS = 1000
"""When a worker has lost another, how long to wait for what became of that one."""

Dealt = Mapping[OperatorId, Sequence[Sequence[SplitState]]]


@dataclass(frozen=True, slots=True)
class StartOrder:
    """What workers are started with.

    Args:
        job_id: The job's identity.
        attempt: A name that no other run of the job ever had.
        manifest: The checkpoint to restore; None for a first run.
        splits: The splits of each source, dealt to its subtasks.
        reusable: Files of that checkpoint that later ones may refer to.
    """

    job_id: JobId
    attempt: str
    manifest: CheckpointManifest | None
    splits: Dealt
    reusable: Reusable = field(default_factory=dict)


@dataclass(slots=True)
class RemoteSource:
    """A source's subtask in another process; positions are those of its last snapshot."""

    uid: OperatorId
    subtask: SubtaskIndex
    splits: dict[SplitId, SplitState]
    worker: RemoteWorker

    def add_split(self, state: SplitState) -> None:
        """Read this split too."""
        self.splits[state.split.id] = state
        order: JsonObject = {"type": "add_split", "task": task_id(self.uid, self.subtask), "split": state.to_json()}
        self.worker.tell(order)


@dataclass(slots=True)
class RemoteWorker:
    """A worker in another process.

    Args:
        number: Which.
        task_ids: Its tasks.
        processes: All workers.
    """

    number: int
    task_ids: Sequence[str]
    processes: WorkerProcesses
    control: Connection | None = None
    beats: BeatListener | None = None
    address: str = ""
    pid: int = 0
    sources: list[RemoteSource] = field(default_factory=list)
    has_ended: bool = False
    watermark_us: int | None = None
    opened: bool = False
    closing: bool = False
    closed: bool = False
    lost_another: bool = False
    events: list[WorkerEvent] = field(default_factory=list)

    def open(self) -> None:
        """Wait until its tasks are open; they open beside those of the others."""
        while not self.opened:
            self.processes.poll(POLL_MS)

    def inject(self, checkpoint: CheckpointId, aligned: bool = False) -> None:
        """A checkpoint begins."""
        self.tell({"type": "inject", "checkpoint": checkpoint, "aligned": aligned})

    def complete(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is durable and committed."""
        self.tell({"type": "complete", "checkpoint": checkpoint})

    def abort(self, checkpoint: CheckpointId) -> None:
        """The checkpoint was given up."""
        self.tell({"type": "abort", "checkpoint": checkpoint})

    def tick(self, now_us: int) -> None:
        """It has a clock of its own."""

    def take_events(self) -> list[WorkerEvent]:
        """What has happened there."""
        events, self.events = self.events, []
        return events

    def close(self) -> None:
        """Ask it to end; `WorkerProcesses.close` sees that it does."""
        if not self.closing:
            self.closing = True
            self.tell({"type": "close"})

    def tell(self, message: JsonObject) -> None:
        """Send it a message, after those before."""
        if self.control is not None:
            self.control.send(Kind.CONTROL, 0, orjson.dumps(message))
            self.processes.unsent[self.number] = self

    def heard(self, message: Mapping[str, Any], metrics: Metrics) -> None:
        """It has said something."""
        match message["type"]:
            case "hello":
                self.pid, self.address = message["pid"], message["address"]
            case "opened":
                self.opened = True
            case "status":
                self.watermark_us = message["watermark_us"]
                metrics.put(self.number, MetricValues(message["counters"], message["gauges"]))
            case "event":
                event = cast(Event, from_json(message["event"]))
                self.events.append(event)
                self._note_positions(event)
            case "handed_over":
                uid, subtask = OperatorId(message["uid"]), SubtaskIndex(message["subtask"])
                checkpoint = CheckpointId(message["checkpoint"])
                self.events.append(HandedOver(checkpoint, uid, subtask, message["committables"]))
            case "ended":
                self.has_ended = True
                self.watermark_us = None
            case "closed":
                self.closed = True
            case "failed":
                raise error_from_json(message["error"])
            case unknown:
                raise WorkerLostError(f"worker {self.number} said '{unknown}', which is no message")

    def _note_positions(self, event: Event) -> None:
        if isinstance(event, Acked):
            for source in self.sources:
                for one in event.snapshots:
                    if (one.uid, one.subtask) == (source.uid, source.subtask) and one.state is not None:
                        source.splits.update({state.split.id: state for state in split_states([one.state])})


class WorkerProcesses:
    """All worker processes of one attempt.

    Args:
        launcher: Starts them.
        plan: What runs.
        attempt: The generation they belong to.
        config: How many there are, and how long one may give no sign of life.
        clock: Time.
        metrics: Where their counters go.
    """

    def __init__(
        self, launcher: Launcher, plan: Plan, attempt: Generation, config: EngineConfig, clock: Clock, metrics: Metrics
    ) -> None:
        self._launcher = launcher
        self._attempt = attempt
        self._clock = clock
        self._timeout_ms = config.heartbeat_timeout_ms
        self._metrics = metrics
        self._selector = selectors.DefaultSelector()
        if launcher.fileno() >= 0:
            self._selector.register(launcher, selectors.EVENT_READ)
        self._secret = secrets.token_bytes(32)
        self._plan = plan
        self._outline = outline(plan)
        self.unsent: dict[int, RemoteWorker] = {}
        """Workers to whom something may have to be sent."""
        self._next_check_ms = 0
        count = workers_of(plan, config)
        self.workers = [RemoteWorker(number, _tasks_of(plan, number, count), self) for number in range(count)]
        self._reception: Reception | None = None
        self._second_hand: tuple[int, WorkerLostError] | None = None

    def start(self, directory: Path) -> None:
        """Start the processes, and wait until all have called.

        Args:
            directory: Where their sockets may lie: nobody else can enter it.
        """
        place = self._launcher.place(directory, None)
        listener = listen(place.listen)
        self._reception = Reception(self._selector, listener, self._secret, self._attempt, 0, self._clock)
        address = address_of(listener, place.advertise)
        for worker in self.workers:
            place = self._launcher.place(directory, worker.number)
            count, secret = len(self.workers), self._secret.hex()
            self._launcher.start(
                WorkerSpec(worker.number, count, self._attempt, address, secret, place.listen, place.advertise)
            )
        until_ms = self._clock.monotonic_ms() + CONNECT_TIMEOUT_MS
        while missing := [w.number for w in self.workers if not w.address or w.beats is None]:
            if self._clock.monotonic_ms() > until_ms:
                raise WorkerLostError(f"workers {missing} did not call within {CONNECT_TIMEOUT_MS // 1000} s")
            self.poll(POLL_MS)
        self._reception.close()
        self._reception = None

    def begin(self, order: StartOrder) -> None:
        """Tell all what to restore and what to read; they open their tasks then."""
        peers = [worker.address for worker in self.workers]
        manifests: Sequence[CheckpointManifest | None] = [None] * len(self.workers)
        if order.manifest is not None:
            manifests = shares(order.manifest, self._plan, len(self.workers))
        for worker, manifest in zip(self.workers, manifests, strict=True):
            own = self._own_splits(worker, order.splits)
            files = () if manifest is None else manifest.files()
            assert worker.control is not None, "all have called"
            worker.control.send(Kind.MANIFEST, 0, b"" if manifest is None else manifest.to_bytes())
            worker.tell(
                {
                    "type": "start",
                    "job_id": order.job_id,
                    "attempt": order.attempt,
                    "reusable": {
                        file.sha256: order.reusable[file.sha256] for file in files if file.sha256 in order.reusable
                    },
                    "splits": own,
                    "peers": list(peers),
                    "plan": list(self._outline),
                }
            )

    def poll(self, wait_ms: float) -> None:
        """Send, receive, and see who is alive.

        Raises:
            WorkerLostError: A worker is dead, hangs or cannot be reached.
            LakewardError: What a worker failed with.
        """
        for number, worker in list(self.unsent.items()):
            if worker.control is not None and not worker.lost_another:
                self._flush(worker, worker.control)
                if worker.control.has_unsent:
                    continue
            del self.unsent[number]
        for key, _ in self._selector.select(wait_ms / 1000):
            if key.fileobj is self._launcher:
                self._note_exits()
            elif isinstance(key.fileobj, BeatListener):
                self._hear_beat(key.data, key.fileobj)
            elif isinstance(key.data, RemoteWorker):
                self._receive(key.data)
        if self._reception is not None:
            for connection, caller in self._reception.take():
                self._welcome(connection, caller)
        if self._launcher.fileno() < 0:
            self._note_exits()
        self._check_alive()

    def close(self, failed: bool) -> None:
        """End all workers: those that answer have some time for it, the others none."""
        for worker in self.workers:
            worker.close()
        until_ms = self._clock.monotonic_ms() + (FAILED_CLOSE_TIMEOUT_MS if failed else CLOSE_TIMEOUT_MS)
        living = [worker for worker in self.workers if worker.control is not None and not worker.closed]
        while living and self._clock.monotonic_ms() < until_ms:
            living = [worker for worker in living if self._goes_on(worker)]
            if living:
                self._clock.sleep_ms(1)
        for worker in living if not failed else ():
            log.warning("worker %d has not ended within %d s, and is killed", worker.number, CLOSE_TIMEOUT_MS // 1000)
        for worker in self.workers:
            with suppress(JobFailedError):  # whoever starts workers has died, and they with it
                self._launcher.kill(self._attempt, worker.number)
            for one in (worker.control, worker.beats):
                if one is not None:
                    one.close()
        if self._reception is not None:
            self._reception.close()
        self._selector.close()

    def _goes_on(self, worker: RemoteWorker) -> bool:
        """Whether a worker that is to end has not done so yet."""
        assert worker.control is not None, "it has called"
        now_ms = self._clock.monotonic_ms()
        if worker.beats is not None:
            worker.beats.answer(now_ms)
            if now_ms - worker.beats.heard_ms > self._timeout_ms:
                return False
        try:
            worker.control.flush()
            frames = worker.control.receive()
        except WorkerLostError:
            return False
        for frame in frames:
            try:
                self._heard(worker, frame)
            except LakewardError as error:
                log.warning("while worker %d closed: %s", worker.number, error)
        return not worker.closed

    def _own_splits(self, worker: RemoteWorker, splits: Dealt) -> JsonObject:
        """The splits of a worker's source subtasks; those of the others are left out."""
        own: dict[str, JsonObject] = {}
        for uid, dealt in splits.items():
            here = [SubtaskIndex(at) for at in range(worker.number, len(dealt), len(self.workers))]
            own[uid] = {"subtasks": len(dealt), "own": {str(at): [one.to_json() for one in dealt[at]] for at in here}}
            worker.sources += [RemoteSource(uid, at, {one.split.id: one for one in dealt[at]}, worker) for at in here]
        return cast(JsonObject, own)

    def _welcome(self, connection: socket.socket, caller: Caller) -> None:
        worker = self.workers[caller.number] if caller.number < len(self.workers) else None
        if worker is not None and caller.role is Role.CONTROL and worker.control is None:
            worker.control = Connection(connection, self._attempt, f"worker {worker.number}")
            self._selector.register(worker.control, selectors.EVENT_READ, worker)
        elif worker is not None and caller.role is Role.HEARTBEAT and worker.beats is None:
            worker.beats = BeatListener(connection, self._clock.monotonic_ms())
            self._selector.register(worker.beats, selectors.EVENT_READ, worker)
        else:
            connection.close()

    def _flush(self, worker: RemoteWorker, control: Connection) -> None:
        try:
            control.flush()
        except WorkerLostError as error:
            self._hear_out(worker, control)
            if not worker.closed:
                raise self._death_of(worker, error) from error

    def _receive(self, worker: RemoteWorker) -> None:
        assert worker.control is not None, "it has called"
        try:
            frames = worker.control.receive()
        except WorkerLostError as error:
            if worker.closed or worker.lost_another:
                self._selector.unregister(worker.control)
                return
            raise self._death_of(worker, error) from error
        for frame in frames:
            self._heard(worker, frame)

    def _hear_out(self, worker: RemoteWorker, control: Connection) -> None:
        """Take what a dead worker said last: why it ended is worth more than how."""
        while True:
            try:
                frames = control.receive()
            except WorkerLostError:
                return
            for frame in frames:
                self._heard(worker, frame)
            if not frames:
                return  # a child of its own holds the connection open

    def _heard(self, worker: RemoteWorker, frame: Frame) -> None:
        message = frame.message()
        if message["type"] == "peer_lost":
            said = f"worker {worker.number} has lost the connection to worker {message['peer']}: {message['error']}"
            self._second_hand = self._second_hand or (self._clock.monotonic_ms(), WorkerLostError(said))
            worker.lost_another = True  # it ends, but is not the one to blame
        else:
            worker.heard(message, self._metrics)

    def _hear_beat(self, worker: RemoteWorker, beats: BeatListener) -> None:
        if not beats.answer(self._clock.monotonic_ms()):
            self._selector.unregister(beats)  # the control connection ends, too, and says more

    def _death_of(self, worker: RemoteWorker, error: WorkerLostError) -> WorkerLostError:
        """How a worker has died, if whoever starts workers gets to know it."""
        until_ms = self._clock.monotonic_ms() + ROOT_CAUSE_TIMEOUT_MS
        while self._clock.monotonic_ms() < until_ms:
            for attempt, number, how in self._launcher.exits():
                if (attempt, number) == (self._attempt, worker.number):
                    return WorkerLostError(f"worker {worker.number} (process {worker.pid}) {how}")
            self._clock.sleep_ms(1)
        return WorkerLostError(f"worker {worker.number} (process {worker.pid}) is lost: {error.message}")

    def _note_exits(self) -> None:
        for attempt, number, how in self._launcher.exits():
            worker = self.workers[number]
            if attempt != self._attempt:
                continue
            if worker.control is not None:
                self._hear_out(worker, worker.control)
            if not (worker.closed or worker.lost_another):
                raise WorkerLostError(f"worker {number} (process {worker.pid or 'unknown'}) {how}")

    def _check_alive(self) -> None:
        now_ms = self._clock.monotonic_ms()
        if now_ms < self._next_check_ms:
            return
        self._next_check_ms = now_ms + CHECK_INTERVAL_MS
        for worker in self.workers:
            if worker.beats is not None and not (worker.closed or worker.lost_another):
                silent_ms = now_ms - worker.beats.heard_ms
                if silent_ms > self._timeout_ms:
                    raise WorkerLostError(
                        f"worker {worker.number} (process {worker.pid}) has given no sign of life for {silent_ms} ms",
                        hint="a call that keeps Python's lock for as long looks the same: raise `heartbeat_timeout_ms`",
                    )
        if self._second_hand is not None and now_ms - self._second_hand[0] > ROOT_CAUSE_TIMEOUT_MS:
            raise self._second_hand[1]


class ProcessesDriver:
    """Runs the control side of a job whose tasks are in other processes.

    Args:
        stop: Whether the user has asked the job to stop.
    """

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def run(self, job: JobRunner, processes: WorkerProcesses) -> None:
        """Run an open job until it has finished; errors pass through."""
        stopping = False
        busy = True
        while not job.finished:
            if not stopping and self._stop():
                stopping = True
                job.request_stop()
            processes.poll(0 if busy else POLL_MS)
            busy = job.pump()


def workers_of(plan: Plan, config: EngineConfig) -> int:
    """How many worker processes a job has: as many as its parallelism, or fewer if its configuration says so."""
    most = max(vertex.parallelism for vertex in plan.vertices)
    return most if config.processes is None else min(most, config.processes)


def _tasks_of(plan: Plan, worker: int, workers: int) -> list[str]:
    return [
        task_id(vertex.id, number) for vertex in plan.vertices for number in range(worker, vertex.parallelism, workers)
    ]
