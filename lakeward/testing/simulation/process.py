"""One start of the job in the simulated world: an attempt of the real engine, stepped from outside."""

from __future__ import annotations

import random
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum

from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.core.ids import CheckpointId, Generation
from lakeward.engine.execute import Attempt, JobDefinition, Ports
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.processes.remote import workers_of
from lakeward.engine.runtime.async_calls import SteppedJobCalls
from lakeward.engine.runtime.control import JobControl
from lakeward.engine.runtime.drivers import SimulatedDriver
from lakeward.engine.runtime.job import JobRunner
from lakeward.engine.runtime.metrics import Metrics
from lakeward.engine.runtime.task import RunnableTask
from lakeward.testing.simulation.io import LateIo, make_late
from lakeward.testing.simulation.knobs import AttemptKnobs
from lakeward.testing.simulation.network import Network
from lakeward.testing.simulation.workers import Host, SimulatedAttempt, SimWorker, WaitingClock, Watch

JOB_NAME = "simulated"


class Life(Enum):
    """What has become of a process."""

    LIVE = "live"
    DEAD = "dead"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a process finds in its world.

    Args:
        network: The network, with virtual time and faults.
        watch: Who sees what workers do.
    """

    network: Network
    watch: Watch


class Process:
    """A process that runs the job.

    Args:
        number: Its name in the trace.
        job: Graph, limits and checkpoint store.
        ports: Everything outside, but for the I/O, which each process has for itself.
        rng: Chooses its next step.
        world: Virtual time, faults and the network.
    """

    def __init__(self, number: int, job: JobDefinition, ports: Ports, rng: random.Random, world: Surroundings) -> None:
        clock, self._faults = world.network.clock, world.network.faults
        self.number = number
        self.knobs = job.config
        self.life = Life.LIVE
        self.suspended = False
        self.stopping = False
        self.runner: JobRunner | None = None
        self._clock = clock
        self._io = io = LateIo(self._faults, clock)
        calls = SteppedJobCalls()
        self._driver = SimulatedDriver(rng, clock, io, calls, steps_max=2**31)
        graph, physical = prepare(job.graph, job.config)
        self.host: Host | None = None
        """Its worker processes; None: all tasks are in this one."""
        if job.config.processes is not None and workers_of(physical, job.config) > 1:
            self.host = Host(f"p{number}", world.network, rng, world.watch)
        self.store = job.store
        self.control = JobControl()
        self._saving: list[tuple[str, Future[CheckpointId]]] = []
        self._moving: tuple[str, Future[CheckpointId]] | None = None
        own_ports = Ports(
            control=self.control,
            clock=clock if self.host is None else WaitingClock(clock, self.host.wait),
            new_id=ports.new_id,
            make_io=lambda: io,
            make_calls=lambda: calls,
            store_factory=ports.store_factory,
            directory=ports.directory,
        )
        job = replace(job, graph=graph)
        if self.host is None:
            self.attempt = Attempt(job, physical, own_ports, Metrics())
        else:
            self.attempt = SimulatedAttempt(job, physical, own_ports, self.host)

    @property
    def generation(self) -> Generation:
        """Its generation; 0 before it has one."""
        return self.attempt.generation or Generation(0)

    @property
    def is_steppable(self) -> bool:
        """Whether it can do something."""
        return self.life is Life.LIVE and not self.suspended and self.runner is not None

    def start(self) -> bool:
        """Recover and open; False when the job had already ended."""
        runner = self.attempt.start()
        if runner is None:
            return False
        make_late(runner.tasks, self._faults, self._clock)
        runner.open()
        self.runner = runner
        return True

    def step(self) -> None:
        """One step of some task or of the I/O."""
        assert self.runner is not None, "only started processes are stepped"
        if self.control.stopping and not self.stopping:
            self.request_stop()
        finished = (
            self._driver.run(self.runner, steps=1) if self.host is None else self.host.step(self.runner, self._io)
        )
        if finished:
            self.attempt.finish()
            self.life = Life.ENDED

    def save(self, target: str) -> None:
        """The user wants a savepoint."""
        self._saving.append((target, self.control.savepoint(target)))

    def move(self, target: str) -> None:
        """The user wants the job to stop with a savepoint."""
        self._moving = (target, self.control.stop_with_savepoint(target))

    def take_saved(self) -> list[str]:
        """The savepoints that were written since the last call."""
        done = [(target, saved) for target, saved in self._saving if saved.done()]
        self._saving = [one for one in self._saving if one not in done]
        return [target for target, saved in done if saved.exception() is None]

    @property
    def moved_to(self) -> str | None:
        """The savepoint that it has stopped with; None if there is none."""
        if self._moving is None or not self._moving[1].done() or self._moving[1].exception() is not None:
            return None
        return self._moving[0]

    @property
    def tasks(self) -> list[RunnableTask]:
        """Its tasks, wherever they run."""
        if self.host is not None:
            return [task for worker in self.host.living for task in worker.tasks]
        return [] if self.runner is None else self.runner.tasks

    @property
    def loose(self) -> list[SimWorker]:
        """Worker processes that go on while their coordinator does nothing, or nothing more."""
        return [] if self.host is None or self.is_steppable else self.host.living

    def die(self) -> None:
        """The process is gone; worker processes get to know it."""
        self.life = Life.DEAD
        if self.host is not None:
            self.host.coordinator_died()

    def request_stop(self) -> None:
        """The user stops the job."""
        assert self.runner is not None, "only started processes are stopped"
        self.stopping = True
        self.runner.request_stop()


def define_job(
    graph: LogicalGraph, knobs: AttemptKnobs, store: CheckpointStore, savepoint: CheckpointStore | None = None
) -> JobDefinition:
    """A job as its user wrote it, to be begun from a savepoint if there is one."""
    return JobDefinition(graph, JOB_NAME, knobs.config, store, savepoint)
