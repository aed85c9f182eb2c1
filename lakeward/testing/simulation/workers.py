"""The worker processes of a simulated job: real tasks, exchange and control messages over a simulated network."""

from __future__ import annotations

import random
import selectors
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import orjson
import pyarrow as pa

from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.workflow import Started
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import InternalError, WorkerLostError
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.execute import Attempt, JobDefinition, Ports
from lakeward.engine.graph.plan import Plan
from lakeward.engine.processes.agreement import check_agreement
from lakeward.engine.processes.connection import Caller, Connection, Role
from lakeward.engine.processes.frames import Frame, Kind
from lakeward.engine.processes.heartbeat import BEAT, INTERVAL_S, ORPHANED
from lakeward.engine.processes.launcher import Launcher, Place, WorkerSpec, how_it_ended
from lakeward.engine.processes.remote import StartOrder, WorkerProcesses
from lakeward.engine.processes.settings import WorkerJob, WorkerPorts
from lakeward.engine.processes.worker_core import WorkerCore
from lakeward.engine.runtime.async_calls import SteppedJobCalls
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.job import IoResult, JobRunner
from lakeward.engine.runtime.metrics import Metrics
from lakeward.engine.runtime.task import RunnableTask
from lakeward.engine.runtime.worker import Worker
from lakeward.testing.crash import SimulatedCrash
from lakeward.testing.simulation.io import LateIo, make_late
from lakeward.testing.simulation.network import Network, NetworkSelector, SimSocket

WAIT_MS = 20
"""How long whoever waits does so at a time."""
KILLED = -9


class Watch(Protocol):
    """What simulated workers need of their world."""

    def acting(self, worker: SimWorker | None) -> None:
        """A worker, or the coordinator, does something from now on."""
        ...

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        ...


class SimulatedAttempt(Attempt):
    """An attempt whose worker processes are simulated.

    Args:
        job: The job.
        plan: What runs.
        ports: The outside world of the coordinator.
        host: Where it runs: network, faults, chance and its name.
    """

    def __init__(self, job: JobDefinition, plan: Plan, ports: Ports, host: Host) -> None:
        self._host = host
        super().__init__(job, plan, ports, Metrics(), launcher=SimulatedLauncher(host))

    def _start_processes(self, started: Started, order: StartOrder) -> Sequence[Worker]:
        job, host = self._job, self._host
        host.make_worker = partial(
            _make_worker, host, self._plan, job, self._ports.store_factory, self._ports.directory
        )
        assert self._launcher is not None, "it has one"
        self._processes = host.processes = SimulatedProcesses(
            self._launcher, self._plan, started.generation, job.config, self._ports.clock, self._metrics
        )
        self._processes.simulate(host)
        self._processes.start(Path())
        self._processes.begin(order)
        return self._processes.workers


class Host:
    """The coordinator's process and its workers, wherever these are.

    Args:
        name: The coordinator's.
        network: Between them.
        rng: Chooses who takes the next step.
        watch: The world.
    """

    def __init__(self, name: str, network: Network, rng: random.Random, watch: Watch) -> None:
        self.name = name
        self.network = network
        self.rng = rng
        self.watch = watch
        self.clock = network.clock
        self.processes: SimulatedProcesses | None = None
        self.workers: list[SimWorker] = []
        self.exits: list[tuple[int, int, str]] = []
        self.is_waiting = False
        self.make_worker: Callable[[WorkerSpec], SimWorker] | None = None

    @property
    def living(self) -> list[SimWorker]:
        """Workers that have not ended, those of a dead coordinator too."""
        return [worker for worker in self.workers if worker.alive]

    def step(self, runner: JobRunner, io: SteppedIo[IoResult]) -> bool:
        """Let the coordinator or a worker take a step; whether the job has finished."""
        actor = self.rng.choice([None, *self.living])
        if actor is not None:
            actor.step()
        elif io.is_ready and self.rng.random() < 0.5:
            io.step()
        else:
            assert self.processes is not None, "it has begun"
            self.processes.poll(0)
            runner.pump()
        self.clock.advance_ms(self.rng.choice((0, 0, 0, 1, 5, 20)))
        return runner.finished

    def wait(self) -> None:
        """The coordinator waits for its workers: nobody else takes a step meanwhile."""
        self.is_waiting = True
        try:
            self.clock.advance_ms(WAIT_MS)
            self.beat()
            for worker in self.living:
                worker.step()
        finally:
            self.is_waiting = False

    def beat(self) -> None:
        """Let all workers give their signs of life."""
        for worker in self.living:
            worker.beat()

    def coordinator_died(self) -> None:
        """Its end of every connection is closed."""
        if self.processes is not None:
            for worker in self.processes.workers:
                for one in (worker.control, worker.beats):
                    if one is not None:
                        one.close()


class WaitingClock(ManualClock):
    """The coordinator's clock: while it sleeps, its workers go on.

    Args:
        clock: Virtual time.
        wait: What happens meanwhile.
    """

    def __init__(self, clock: ManualClock, wait: Callable[[], None]) -> None:
        super().__init__()
        self._clock = clock
        self._wait = wait

    def wall_us(self) -> int:
        """As the world's."""
        return self._clock.wall_us()

    def monotonic_ms(self) -> int:
        """As the world's."""
        return self._clock.monotonic_ms()

    def advance_ms(self, duration_ms: float) -> None:
        """Move the world's."""
        self._clock.advance_ms(duration_ms)

    def sleep_ms(self, duration_ms: float) -> None:
        """Let the workers go on for as long, and a little longer."""
        until_ms = self.monotonic_ms() + duration_ms
        while self.monotonic_ms() < until_ms:
            self._wait()


class SimulatedLauncher(Launcher):
    """Starts workers, each on a host of its own: who cannot be reached cannot be killed.

    Args:
        host: The coordinator's.
    """

    def __init__(self, host: Host) -> None:
        self._host = host

    def place(self, directory: Path, worker: int | None) -> Place:
        """Nowhere: they are connected by hand."""
        return Place("", "")

    def fileno(self) -> int:
        """It has to be asked."""
        return -1

    def start(self, spec: WorkerSpec) -> None:
        """Start a worker."""
        host = self._host
        assert host.make_worker is not None, "the attempt has begun"
        host.workers.append(host.make_worker(spec))

    def exits(self) -> list[tuple[int, int, str]]:
        """Workers that have ended since the last call."""
        exits, self._host.exits = self._host.exits, []
        return exits

    def kill(self, attempt: int, number: int) -> None:
        """Kill a worker, if it can be reached."""
        for worker in self._host.living:
            if worker.spec.number == number and self._host.network.reaches((self._host.name, worker.name)):
                worker.die(KILLED)

    def close(self) -> None:
        """Nothing more than `kill` does."""


class SimulatedProcesses(WorkerProcesses):
    """The coordinator's side as it is, over simulated connections."""

    def simulate(self, host: Host) -> None:
        """Put it on a simulated network.

        Args:
            host: The coordinator's.
        """
        self._selector.close()
        self._selector = cast(selectors.DefaultSelector, NetworkSelector(host.wait))
        self._host = host

    def start(self, directory: Path) -> None:
        """Start the workers: each calls at once. How it shows who it is, other tests look at."""
        for worker in self.workers:
            self._launcher.start(WorkerSpec(worker.number, len(self.workers), self._attempt, "", "", "", ""))
            started = self._host.workers[-1]
            for role in (Role.HEARTBEAT, Role.CONTROL):
                ours, theirs = self._host.network.connect(self._host.name, started.name, role is Role.CONTROL)
                self._welcome(cast(Any, ours), Caller(role, worker.number))
                started.called(role, theirs)
            worker.pid, worker.address = worker.number + 1, started.name


class _CoordinatorLostError(Exception):
    """The control connection is gone."""


class SimWorker:
    """A worker process.

    Args:
        spec: Which.
        job: The job.
        host: The coordinator's, through which the others are found.
        io: Its uploads.
        calls: Its asynchronous calls.
    """

    control: Connection

    def __init__(
        self, spec: WorkerSpec, job: WorkerJob, host: Host, io: SteppedIo[IoResult], calls: SteppedJobCalls
    ) -> None:
        self.spec = spec
        self.name = f"{host.name}.{spec.number}"
        self.alive = True
        self.suspended = False
        """Whether it stands still in the middle of something."""
        self.stopped_until_ms = 0
        """It does nothing until then, and gives no sign of life."""
        self.host = host
        self.core = WorkerCore(job, spec, self._tell, self._post)
        self._job = job
        self._io = io
        self._calls = calls
        self._beats: SimSocket | None = None
        self._beat_ms = host.clock.monotonic_ms()
        self._is_answered = True
        self._manifest: CheckpointManifest | None = None
        self._has_begun = False
        self._is_over = False
        self._offered: dict[int, SimSocket] = {}
        self._peers: dict[int, Connection] = {}

    def stop_for(self, duration_ms: int) -> None:
        """It stands still, and its heartbeat with it."""
        self.stopped_until_ms = self.host.clock.monotonic_ms() + duration_ms

    def called(self, role: Role, connection: SimSocket) -> None:
        """A connection to the coordinator is there."""
        if role is Role.HEARTBEAT:
            self._beats = connection
        else:
            self.control = Connection(cast(Any, connection), self.spec.attempt, "the coordinator")

    @property
    def tasks(self) -> list[RunnableTask]:
        """Its tasks, while they run."""
        return self.core.tasks if self.alive and self._has_begun and not self._is_over else []

    # -- steps

    def step(self) -> None:
        """Do one thing. It may die of it."""
        if not self.alive or self.suspended or self.host.clock.monotonic_ms() < self.stopped_until_ms:
            return
        self.host.watch.acting(self)
        try:
            self._step()
        except SimulatedCrash:
            self.die(KILLED)
        except _CoordinatorLostError:
            self.die(ORPHANED)
        except Exception as error:
            self._fail(error)
        finally:
            self.host.watch.acting(None)

    def _step(self) -> None:
        if self._is_over:
            self._deliver()
        elif not self._has_begun:
            self._hear_coordinator()
        else:
            self._work()

    def _work(self) -> None:
        rng = self.host.rng
        choices: list[Callable[[], object]] = [task.step for task in self.core.tasks]
        choices += [self._io.step] * (2 if self._io.is_ready else 0)
        choices += [partial(self._calls.finish, rng)] * (2 if self._calls.is_ready else 0)
        if choices:
            rng.choice(choices)()
        if rng.random() < 0.5:
            self.core.report()
        if rng.random() < 0.7:
            self._talk()
        if self.core.is_closing:
            self._is_over = True
            self.core.close()
            self._tell({"type": "closed"})

    def _fail(self, error: Exception) -> None:
        self.host.watch.note(f"fails with {type(error).__name__}: {str(error)[:100]}")
        if self._is_over:
            self.die(1)
            return
        self._is_over = True
        if isinstance(error, _PeerLostError):
            self._tell({"type": "peer_lost", "peer": error.peer, "error": str(error)})
        else:
            self.core.fail(error)
        try:
            self.core.close()
        except SimulatedCrash:
            self.die(KILLED)
        except Exception as closing:
            self.host.watch.note(f"while closing: {closing}")

    def _deliver(self) -> None:
        """Send what waits, then end."""
        self._flush_control()
        if not self.control.has_unsent:
            self.die(0)

    def die(self, status: int) -> None:
        """The process is gone, and its connections with it."""
        if not self.alive:
            return
        self.alive = False
        self.host.watch.note(f"{self.name} {how_it_ended(status)}")
        self.host.exits.append((self.spec.attempt, self.spec.number, how_it_ended(status)))
        self.control.close()
        for one in (self._beats, *self._peers.values(), *self._offered.values()):
            if one is not None:
                one.close()

    # -- talking

    def _hear_coordinator(self) -> None:
        for frame in self._from_coordinator():
            if self._has_begun:
                self.core.obey(frame.message())
            elif frame.kind is Kind.MANIFEST:
                data = frame.payload.to_pybytes()
                self._manifest = CheckpointManifest.from_bytes(data) if data else None
            else:
                self._begin(frame)
        self._flush_control()

    def _begin(self, frame: Frame) -> None:
        start = frame.message()
        if start["type"] != "start":
            raise InternalError(f"a worker was told '{start['type']}' before it was started")
        check_agreement(self._job, self.spec, start["plan"])
        for peer in self.host.workers:
            if peer.spec.attempt == self.spec.attempt and peer is not self:
                self._peers[peer.spec.number] = Connection(
                    cast(Any, self._meet(peer)), self.spec.attempt, f"worker {peer.spec.number}"
                )
        self.core.begin(self._manifest, start)
        make_late(self.core.tasks, self.host.network.faults, self.host.clock)
        self._has_begun = True

    def _meet(self, peer: SimWorker) -> SimSocket:
        """The end of the connection that a peer has left for this worker; else one is made."""
        if self.spec.number in peer._offered:
            return peer._offered.pop(self.spec.number)
        if not peer.alive:
            raise _PeerLostError(peer.spec.number, WorkerLostError(f"{peer.name} cannot be reached"))
        ours, theirs = self.host.network.connect(self.name, peer.name)
        self._offered[peer.spec.number] = theirs
        return ours

    def _talk(self) -> None:
        for number, connection in self._peers.items():
            try:
                connection.flush()
                frames = connection.receive()
            except WorkerLostError as error:
                raise _PeerLostError(number, error) from error
            for frame in frames:
                self.core.on_frame(number, frame)
        self._hear_coordinator()

    def _post(self, worker: int, kind: Kind, channel: int, payload: bytes | pa.Buffer) -> None:
        self._peers[worker].send(kind, channel, payload)

    def _tell(self, message: JsonObject) -> None:
        self.control.send(Kind.CONTROL, 0, orjson.dumps(message))

    def _flush_control(self) -> None:
        try:
            self.control.flush()
        except WorkerLostError as error:
            raise _CoordinatorLostError(str(error)) from error

    def _from_coordinator(self) -> list[Frame]:
        try:
            return self.control.receive()
        except WorkerLostError as error:
            raise _CoordinatorLostError(str(error)) from error

    def beat(self) -> None:
        """What the thread beside the tasks does: give a sign of life, and end the process when there is no answer."""
        now_ms = self.host.clock.monotonic_ms()
        if not self.alive or self._beats is None or now_ms < self.stopped_until_ms:
            return
        try:
            with suppress(BlockingIOError):
                if self._is_answered and now_ms - self._beat_ms >= INTERVAL_S * 1000:
                    self._beats.send(BEAT)
                    self._beat_ms, self._is_answered = now_ms, False
            with suppress(BlockingIOError):
                if not self._beats.recv(1):
                    self.die(ORPHANED)
                self._is_answered = True
        except OSError:
            self.die(ORPHANED)
        if not self._is_answered and now_ms - self._beat_ms > self._job.config.heartbeat_timeout_ms:
            self.die(ORPHANED)


class _PeerLostError(Exception):
    """The connection to another worker is gone."""

    def __init__(self, peer: int, error: WorkerLostError) -> None:
        super().__init__(str(error))
        self.peer = peer


def _make_worker(
    host: Host, plan: Plan, job: JobDefinition, store_factory: Any, directory: str | None, spec: WorkerSpec
) -> SimWorker:
    io, calls = LateIo(host.network.faults, host.clock), SteppedJobCalls()
    ports = WorkerPorts(host.clock, lambda: io, lambda: calls, store_factory, directory)
    own = WorkerJob(plan, job.name, job.config, job.store, ports)
    return SimWorker(spec, own, host, io, calls)
