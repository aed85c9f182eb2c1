"""A cluster of any size in one thread: the control side of a job as it is, over modelled workers, in virtual time.

Real are the job's start and recovery, the checkpoint coordinator, the manifests, the messages of the control channel
and all that the coordinator does with them: its CPU time is measured, and passes in virtual time too. Modelled are the
workers, the network and the object store: each takes as long as `ClusterModel` says. So what grows with the square of
the workers shows, and what bounds a large cluster can be told apart: the coordinator, the store or the workers.
"""

from __future__ import annotations

import hashlib
import heapq
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import orjson
import pyarrow as pa

from lakeward.connectors.nexmark.source import NexmarkSource
from lakeward.dsl.aggregates import count
from lakeward.dsl.aggregates import sum as sum_of
from lakeward.dsl.environment import StreamExecutionEnvironment
from lakeward.dsl.windows import Tumbling
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.api.time import WatermarkStrategy
from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.events import Acked, to_json
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.checkpoint.workflow import Started
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import WorkerLostError
from lakeward.engine.core.ids import CheckpointId, Generation, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.keygroups import key_group_range
from lakeward.engine.core.snapshots import OperatorSnapshot, StoredFile, TableSnapshot
from lakeward.engine.execute import Attempt, JobDefinition, Ports
from lakeward.engine.graph.plan import Plan
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.processes.connection import Connection
from lakeward.engine.processes.frames import Frame, Kind
from lakeward.engine.processes.heartbeat import BeatListener
from lakeward.engine.processes.launcher import Launcher, Place, WorkerSpec
from lakeward.engine.processes.remote import ProcessesDriver, StartOrder, WorkerProcesses
from lakeward.engine.processes.worker_core import STATUS_INTERVAL_MS
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.job import IoResult
from lakeward.engine.runtime.metrics import Metrics
from lakeward.engine.runtime.worker import Worker

MB = 1_000_000
KEYED = (OperatorId("windows"), OperatorId("again"))
"""The operators with state, each with half of it."""


@dataclass(frozen=True, slots=True)
class ClusterModel:
    """How large a cluster is, and how long its parts take.

    Args:
        workers: Worker processes, with one subtask of each operator.
        state_mb: Keyed state of a worker, in MB of a million bytes.
        file_mb: Size of its files.
        changed: Share of it that is new in each checkpoint.
        alignment_ms: Least and longest time until a worker's barriers are aligned.
        transfer_mb_s: What a worker sends to the store or reads from it, in a second; the coordinator as well.
        store_ms: How long a call of the store takes, besides its bytes; a list of a thousand names is one call.
        latency_ms: How long a message is on its way.
        process_ms: How long a worker process takes to start and to meet the others.
        checkpoint_interval_ms: Time between checkpoint starts.
        cpu_scale: Virtual seconds that a CPU second of the coordinator takes; with 0 each run is the same.
        seed: For what is drawn.
    """

    workers: int
    state_mb: float = 50_000
    file_mb: float = 64
    changed: float = 0.01
    alignment_ms: tuple[float, float] = (10, 200)
    transfer_mb_s: float = 200
    store_ms: float = 20
    latency_ms: float = 0.5
    process_ms: float = 2_000
    checkpoint_interval_ms: int = 60_000
    cpu_scale: float = 1
    seed: int = 0

    @property
    def files(self) -> int:
        """Files of one keyed subtask."""
        return max(1, round(self.state_mb / len(KEYED) / self.file_mb))

    @property
    def new_files(self) -> int:
        """Those that each checkpoint replaces."""
        return max(1, round(self.files * self.changed))


@dataclass(slots=True)
class ClusterFigures:
    """What was seen. Times in virtual milliseconds, CPU in milliseconds of the coordinator's.

    Args:
        checkpoint_ms: Of each completed checkpoint: from its start to its commit.
        slowest_ack_ms: Of each, when its last acknowledgement came.
        cpu_ms: Of each, the CPU time of the coordinator's loop.
        io_ms: Of each, CPU time and waits of the thread beside it: manifest, commit, retention.
        control_bytes: Of each, what workers sent.
        idle_cpu: Share of a core that the loop takes between checkpoints.
        manifest_bytes: Size of the last manifest.
        start_bytes: What was sent to all workers when the job was started again.
        recovery_ms: From the death of a worker until all tasks are open again.
        recovery: The same by parts.
    """

    checkpoint_ms: list[float] = field(default_factory=list)
    slowest_ack_ms: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    io_ms: list[float] = field(default_factory=list)
    control_bytes: list[int] = field(default_factory=list)
    idle_cpu: float = 0
    manifest_bytes: int = 0
    start_bytes: int = 0
    recovery_ms: float = 0
    recovery: dict[str, float] = field(default_factory=dict)


def simulate_cluster(model: ClusterModel, checkpoints: int = 3) -> ClusterFigures:
    """Run a job on a modelled cluster: some checkpoints, then the host of a worker is lost, then one more checkpoint.

    >>> figures = simulate_cluster(ClusterModel(workers=3, state_mb=300, cpu_scale=0), checkpoints=2)
    >>> len(figures.checkpoint_ms), figures.recovery_ms > 4000  # a lost host is noticed by its silence
    (3, True)

    Args:
        model: The cluster.
        checkpoints: How many before the loss.

    Returns:
        What was seen.
    """
    cluster = _Cluster(model)
    first = cluster.attempt()
    runner = first.start()
    assert runner is not None, "the job has only begun"
    assert first.processes is not None, "it runs in processes"
    runner.open()
    first.processes.ends = lambda: len(runner.completed) >= checkpoints
    try:
        ProcessesDriver(lambda: False).run(runner, first.processes)
    except _EnoughError:
        idle = cluster.idle
        cluster.figures.idle_cpu = idle[0] / idle[1] if idle[1] else 0
    died_ms = cluster.now_ms
    first.processes.lose(0)
    try:
        ProcessesDriver(lambda: False).run(runner, first.processes)
    except WorkerLostError:
        cluster.note("noticed", died_ms)
    first.close()
    cluster.note("closed", died_ms)
    second = cluster.attempt()
    again = second.start()
    assert again is not None, "nothing has ended the job"
    assert second.processes is not None, "it runs in processes"
    again.open()
    cluster.note("restored", died_ms)
    cluster.figures.recovery_ms = cluster.now_ms - died_ms
    second.processes.ends = lambda: len(again.completed) >= 1
    try:
        ProcessesDriver(lambda: False).run(again, second.processes)
    except _EnoughError:
        second.close()
    return cluster.figures


class _EnoughError(Exception):
    """The cluster has done what was to be seen."""


class _Cluster:
    """Virtual time, what is due in it, and who takes how much of it."""

    def __init__(self, model: ClusterModel) -> None:
        self.model = model
        self.clock = ManualClock()
        self.rng = random.Random(model.seed)
        self.store = _SlowStore(self)
        self.figures = ClusterFigures()
        self.idle = [0.0, 0.0]
        self.messages = 0  # that have come and wait for the coordinator
        self.in_checkpoint = False
        self._spent_s = 0.0
        self._begun_ms = self._looked_ms = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._marked_s: float | None = time.process_time()
        self._files = 0
        self._definition, self.plan = self._job()

    @property
    def now_ms(self) -> float:
        """Virtual time."""
        return (self.clock.wall_us() - ManualClock().wall_us()) / 1000

    def note(self, part: str, since_ms: float) -> None:
        """A part of the recovery is over."""
        before = sum(self.figures.recovery.values())
        self.figures.recovery[part] = self.now_ms - since_ms - before

    def attempt(self) -> _ModelledAttempt:
        """A start of the job."""
        ports = Ports(
            clock=self.clock,
            new_id=lambda: f"n{self.count()}",
            make_io=lambda: cast(Any, _BesideIo(self)),
            store_factory=cast(Any, None),
        )
        attempt = _ModelledAttempt(self, self._definition, self.plan, ports)
        attempt.reads_all = False
        return attempt

    def count(self) -> int:
        """A number that was not there before."""
        self._count += 1
        return self._count

    def later(self, delay_ms: float, do: Callable[[], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._due, (self.now_ms + delay_ms, self.count(), do))

    def advance(self, until_ms: float) -> None:
        """Let happen what is due, until a time, or until there is something for the coordinator."""
        self.run_due()
        while not self.messages and self._due and self._due[0][0] <= until_ms:
            at_ms, _, do = heapq.heappop(self._due)
            self._move_to(at_ms)
            do()
        if not self.messages:
            self._move_to(until_ms)

    def run_due(self) -> None:
        """Let happen what is due by now."""
        while self._due and self._due[0][0] <= self.now_ms:
            heapq.heappop(self._due)[2]()

    def _move_to(self, at_ms: float) -> None:
        self.clock.advance_ms(max(0.0, at_ms - self.now_ms))

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What happens in here is not the coordinator's work, and that before was: its CPU time passes."""
        spent_s = time.process_time() - self._marked_s if self._marked_s is not None else 0.0
        nested = self._marked_s is None
        self._marked_s = None
        self._spent_s += spent_s
        self.clock.advance_ms(spent_s * 1000 * self.model.cpu_scale)
        try:
            yield
        finally:
            if not nested:
                self._marked_s = time.process_time()

    # -- what is seen

    def begun(self) -> None:
        """The barriers of a checkpoint are on their way."""
        if not self.in_checkpoint:
            self.in_checkpoint = True
            self._begun_ms = self.now_ms - self.model.latency_ms
            for figures in (self.figures.slowest_ack_ms, self.figures.cpu_ms, self.figures.io_ms):
                figures.append(0)
            self.figures.control_bytes.append(0)

    def acked(self, in_ms: float, size_bytes: int) -> None:
        """An acknowledgement is on its way."""
        self.figures.slowest_ack_ms[-1] = max(self.figures.slowest_ack_ms[-1], self.now_ms + in_ms - self._begun_ms)
        self.figures.control_bytes[-1] += size_bytes

    def completed(self) -> None:
        """A checkpoint is complete."""
        if self.in_checkpoint:
            self.in_checkpoint = False
            self.figures.checkpoint_ms.append(self.now_ms - self.model.latency_ms - self._begun_ms)

    def io_took(self, took_ms: float) -> None:
        """The thread beside the loop has been busy."""
        if self.figures.io_ms:
            self.figures.io_ms[-1] += took_ms

    def account(self) -> None:
        """Put down what the coordinator's loop has taken since the last time."""
        spent_ms, self._spent_s = self._spent_s * 1000, 0.0
        if self.in_checkpoint:
            self.figures.cpu_ms[-1] += spent_ms
        else:
            self.idle[0] += spent_ms
            self.idle[1] += self.now_ms - self._looked_ms
        self._looked_ms = self.now_ms

    # -- what is stored

    def stored_file(self, generation: Generation) -> StoredFile:
        """A new state file, in the store."""
        self._files += 1
        content = b"%032d" % self._files
        sha256 = hashlib.sha256(content).hexdigest()
        self.store.inner.put(paths.state_file(generation, sha256), content)
        return StoredFile(f"{self._files:06d}.sst", len(content), sha256, generation)

    def _job(self) -> tuple[JobDefinition, Plan]:
        model = self.model
        config = EngineConfig(
            parallelism=model.workers,
            max_parallelism=max(128, 4 * model.workers),
            checkpoint_interval_ms=model.checkpoint_interval_ms,
        )
        env = StreamExecutionEnvironment(config=config)
        event_time = WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
        bids = env.from_source(NexmarkSource(None, splits=model.workers), watermark=event_time, uid="bids")
        first = bids.key_by("auction").window(Tumbling("10s")).aggregate(uid=KEYED[0], n=count())
        second = first.key_by("auction").window(Tumbling("60s")).aggregate(uid=KEYED[1], n=sum_of("n"))
        second.sink_to(_TableSink(), uid="out")
        graph, physical = prepare(env.definition("scaling").graph, config)
        return JobDefinition(graph, "scaling", config, cast(Any, self.store)), physical


class _SlowStore:
    """An object store: each call takes its time, and the bytes of state files, which are modelled, take theirs."""

    def __init__(self, cluster: _Cluster) -> None:
        self.inner = MemoryStore()
        self.waited_ms = 0.0
        self._cluster = cluster

    def read(self, path: str) -> bytes | None:
        """The whole content, or None."""
        data = self.inner.read(path)
        is_state = paths.parse_state_file(path) is not None
        self._wait(self._cluster.model.file_mb if is_state else len(data or b"") / MB)
        return data

    def put(self, path: str, data: bytes) -> None:
        """Write, replacing what was there."""
        self._wait(len(data) / MB)
        self.inner.put(path, data)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Write unless the name is taken."""
        self._wait(len(data) / MB)
        if "/manifest-" in path:
            self._cluster.figures.manifest_bytes = len(data)
        return self.inner.create_if_absent(path, data)

    def size(self, path: str) -> int | None:
        """Length in bytes, or None."""
        self._wait()
        return self.inner.size(path)

    def list(self, prefix: str) -> list[str]:
        """All paths that begin with `prefix`."""
        found = self.inner.list(prefix)
        self._wait(calls=1 + len(found) // 1000)
        return found

    def delete(self, path: str) -> None:
        """Remove a file, if it is there."""
        self._wait()
        self.inner.delete(path)

    def delete_many(self, paths: Sequence[str]) -> None:
        """Remove files, a thousand with a call."""
        self._wait(calls=1 + len(paths) // 1000)
        for path in paths:
            self.inner.delete(path)

    def _wait(self, megabytes: float = 0, calls: int = 1) -> None:
        model = self._cluster.model
        self.waited_ms += calls * model.store_ms + megabytes / model.transfer_mb_s * 1000

    def take_wait(self) -> float:
        """Milliseconds of all calls since the last call."""
        waited_ms, self.waited_ms = self.waited_ms, 0.0
        return waited_ms


class _BesideIo(SteppedIo[IoResult]):
    """The thread beside the loop: what it does takes its time, and the loop goes on meanwhile."""

    def __init__(self, cluster: _Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        self._free_ms = 0.0
        self._ready: list[float] = []

    def submit(self, work: Callable[[], IoResult]) -> None:
        """Do it now; the result is there when it would be."""
        cluster = self._cluster
        super().submit(work)
        with cluster.outside():
            before_s = time.process_time()
            self.step()
            took_ms = (time.process_time() - before_s) * 1000 * cluster.model.cpu_scale + cluster.store.take_wait()
            cluster.io_took(took_ms)
            self._free_ms = max(self._free_ms, cluster.now_ms) + took_ms
            self._ready.append(self._free_ms)
            cluster.later(self._free_ms - cluster.now_ms, lambda: None)

    def poll(self) -> IoResult | None:
        """The oldest result, when its time has come."""
        if not self._ready or self._ready[0] > self._cluster.now_ms:
            return None
        self._ready.pop(0)
        return super().poll()


class _ModelledAttempt(Attempt):
    """An attempt whose worker processes are modelled."""

    def __init__(self, cluster: _Cluster, job: JobDefinition, plan: Plan, ports: Ports) -> None:
        super().__init__(job, plan, ports, Metrics(), launcher=_NoLauncher())
        self._cluster = cluster
        self.processes: _ModelledProcesses | None = None

    def _start_processes(self, started: Started, order: StartOrder) -> Sequence[Worker]:
        cluster = self._cluster
        with cluster.outside():  # what has been read of the store up to here
            cluster.clock.advance_ms(cluster.store.take_wait())
        self._processes = self.processes = _ModelledProcesses(
            cluster, _NoLauncher(), self._plan, started.generation, self._job.config, self._ports.clock, self._metrics
        )
        self._processes.start(Path())
        self._processes.begin(order)
        return self._processes.workers


class _NoLauncher(Launcher):
    """Starts nothing: the workers are modelled."""

    def place(self, directory: Path, worker: int | None) -> Place:
        return Place("", "")

    def fileno(self) -> int:
        return -1

    def start(self, spec: WorkerSpec) -> None:
        pass

    def exits(self) -> list[tuple[int, int, str]]:
        return []

    def kill(self, attempt: int, number: int) -> None:
        pass

    def close(self) -> None:
        pass


class _ModelledProcesses(WorkerProcesses):
    """The coordinator's side as it is; only that nothing comes through sockets."""

    def __init__(self, cluster: _Cluster, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._cluster = cluster
        self.ends: Callable[[], bool] = lambda: False
        self._models: list[_ModelledWorker] = []

    def start(self, directory: Path) -> None:
        """All have called."""
        cluster = self._cluster
        with cluster.outside():
            cluster.clock.advance_ms(cluster.model.process_ms)
            for worker in self.workers:
                model = _ModelledWorker(cluster, worker.number, self._attempt)
                worker.control = cast(Connection, model)
                worker.beats = cast(BeatListener, _Beats(model))
                worker.address = f"tcp:10.0.{worker.number // 250}.{worker.number % 250}:4000"
                self._models.append(model)

    def begin(self, order: StartOrder) -> None:
        """As it is."""
        for model in self._models:
            model.restores = order.manifest is not None
        super().begin(order)
        self._cluster.figures.start_bytes = sum(model.received_bytes for model in self._models)

    def poll(self, wait_ms: float) -> None:
        """Let the modelled part of the world go on, then take what has come."""
        cluster = self._cluster
        with cluster.outside():
            cluster.account()
            cluster.advance(cluster.now_ms + wait_ms)
            due = [worker for worker, model in zip(self.workers, self._models, strict=True) if model.inbox]
        if self.ends():
            self.ends = lambda: False
            raise _EnoughError
        for worker in due:
            self._receive(worker)
        super().poll(0)

    def lose(self, number: int) -> None:
        """The host of a worker is gone."""
        self._models[number].is_lost = True


class _Beats:
    """Signs of life, whenever somebody looks."""

    def __init__(self, worker: _ModelledWorker) -> None:
        self._worker = worker
        self._heard_ms = 0

    @property
    def heard_ms(self) -> int:
        if not self._worker.is_lost:
            self._heard_ms = self._worker.cluster.clock.monotonic_ms()
        return self._heard_ms

    def answer(self, now_ms: int) -> bool:
        return True

    def close(self) -> None:
        pass


class _ModelledWorker:
    """A worker, and the connection to it: the coordinator's end of it is this object's methods."""

    has_unsent = False

    def __init__(self, cluster: _Cluster, number: int, attempt: Generation) -> None:
        self.cluster = cluster
        self.number = SubtaskIndex(number)
        self.inbox: list[Frame] = []
        self.received_bytes = 0
        self.is_lost = False
        self.restores = False
        self._attempt = attempt
        self._files: dict[OperatorId, list[StoredFile]] = {}
        self._splits: list[JsonObject] = []

    # -- the coordinator's end

    def send(self, kind: Kind, channel: int, payload: bytes = b"") -> None:
        """A message to the worker."""
        with self.cluster.outside():
            self.received_bytes += len(payload)
            seconds = len(payload) / MB / self.cluster.model.transfer_mb_s
            self.cluster.later(self.cluster.model.latency_ms + seconds * 1000, lambda: self._hear(kind, payload))

    def flush(self) -> None:
        """Nothing waits here."""

    def receive(self) -> list[Frame]:
        """What has come."""
        with self.cluster.outside():
            self.cluster.run_due()
        frames, self.inbox = self.inbox, []
        self.cluster.messages -= len(frames)
        return frames

    def close(self) -> None:
        """Hang up."""
        self.is_lost = True

    # -- the worker's end

    def _tell(self, message: Mapping[str, Any], delay_ms: float = 0) -> int:
        """A message to the coordinator; returns its size."""
        data = orjson.dumps(message)

        def arrive() -> None:
            if not self.is_lost:
                self.cluster.messages += 1
                self.inbox.append(Frame(Kind.CONTROL, 0, pa.py_buffer(data)))

        self.cluster.later(delay_ms + self.cluster.model.latency_ms, arrive)
        return len(data)

    def _hear(self, kind: Kind, payload: bytes) -> None:
        if self.is_lost:
            return
        if kind is Kind.MANIFEST:
            self._take_on(payload)
            return
        order = orjson.loads(payload)
        match order["type"]:
            case "start":
                self._splits = order["splits"]["bids"]["own"][str(self.number)]
                model = self.cluster.model
                self._tell({"type": "opened"}, model.state_mb / model.transfer_mb_s * 1000 if self.restores else 0)
                self._status()
            case "inject":
                self._take_snapshots(order["checkpoint"])
            case "complete":
                self.cluster.completed()
            case "close":
                self._tell({"type": "closed"})

    def _take_on(self, manifest: bytes) -> None:
        if manifest:
            own = CheckpointManifest.from_bytes(manifest).operators
            self._files = {one.uid: list(one.keyed.files) for one in own if one.keyed is not None}
        else:
            new = self.cluster.stored_file
            self._files = {uid: [new(self._attempt) for _ in range(self.cluster.model.files)] for uid in KEYED}

    def _status(self) -> None:
        """What a worker says of itself, again and again."""
        if self.is_lost:
            return
        uids = ("bids", *KEYED, "out")
        counters = {uid: {"input_rows": 10**9, "output_rows": 10**9, "late_rows": 0} for uid in uids}
        gauges = {uid: {f"state_bytes/{self.number}": 10**9} for uid in uids}
        self._tell({"type": "status", "counters": counters, "gauges": gauges, "watermark_us": 1_767_225_600_000_000})
        self.cluster.later(STATUS_INTERVAL_MS, self._status)

    def _take_snapshots(self, checkpoint: CheckpointId) -> None:
        """Acknowledge a checkpoint for each task, when its barriers are aligned and its new files are stored."""
        model, cluster = self.cluster.model, self.cluster
        cluster.begun()
        aligned_ms = cluster.rng.uniform(*model.alignment_ms)
        new_mb = model.state_mb / len(KEYED) * model.changed
        stored_ms = model.new_files * model.store_ms + new_mb / model.transfer_mb_s * 1000
        for vertex in cluster.plan.vertices:
            parts = tuple(self._part(node.uid, checkpoint) for node in vertex.nodes)
            acked_ms = aligned_ms + (stored_ms if OperatorId(vertex.id) in KEYED else 0)
            for part in parts:
                if part.committables:
                    self._tell(_handed_over(checkpoint, part), aligned_ms)
            event = to_json(Acked(checkpoint, f"{vertex.id}-{self.number}", parts))
            cluster.acked(acked_ms, self._tell({"type": "event", "event": event}, acked_ms))

    def _part(self, uid: OperatorId, checkpoint: CheckpointId) -> OperatorSnapshot:
        """What one operator leaves."""
        if uid == "bids":
            splits = [{**cast(dict[str, Any], one), "position": {"event": checkpoint}} for one in self._splits]
            return OperatorSnapshot(uid, self.number, {"splits": splits})
        if uid == "out":
            name = f"data/part-{self.number:05d}-{checkpoint:06d}.parquet"
            return OperatorSnapshot(uid, self.number, committables=({"v": 1, "file": name, "rows": 10**6},))
        if uid not in self._files:
            return OperatorSnapshot(uid, self.number)
        files, new = self._files[uid], self.cluster.model.new_files
        self._files[uid] = files[new:] + [self.cluster.stored_file(self._attempt) for _ in range(min(new, len(files)))]
        groups = key_group_range(self.number, self.cluster.model.workers, self.cluster.plan.max_parallelism)
        state = TableSnapshot({"tables": []}, groups.start, groups.stop, tuple(self._files[uid]))
        return OperatorSnapshot(uid, self.number, keyed=state)


def _handed_over(checkpoint: CheckpointId, part: OperatorSnapshot) -> JsonObject:
    return {
        "type": "handed_over",
        "checkpoint": checkpoint,
        "uid": part.uid,
        "subtask": part.subtask,
        "committables": list(part.committables),
    }


class _TableSink(Sink):
    """A table of which only the commits are."""

    @property
    def description(self) -> str:
        return "a table"

    def open_writer(self, context: WriterContext) -> SinkWriter:
        raise NotImplementedError("workers are modelled")

    def open_committer(self, context: CommitterContext) -> Committer:
        return _TableCommitter()


class _TableCommitter(Committer):
    """Commits take no time: how long a lakehouse takes, its own benchmark says."""

    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        pass

    def commit(self, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
        pass
