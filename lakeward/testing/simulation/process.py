"""One start of the job in the simulated world: an attempt of the real engine, stepped from outside."""

from __future__ import annotations

import random
from dataclasses import replace
from enum import Enum

from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.ids import Generation
from lakeward.engine.execute import Attempt, JobDefinition, Ports
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.runtime.async_calls import SteppedJobCalls
from lakeward.engine.runtime.drivers import SimulatedDriver
from lakeward.engine.runtime.job import JobRunner
from lakeward.engine.runtime.metrics import Metrics
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.io import LateIo, make_late
from lakeward.testing.simulation.knobs import AttemptKnobs

JOB_NAME = "simulated"


class Life(Enum):
    """What has become of a process."""

    LIVE = "live"
    DEAD = "dead"
    ENDED = "ended"


class Process:
    """A process that runs the job.

    Args:
        number: Its name in the trace.
        job: Graph, limits and checkpoint store.
        ports: Everything outside, but for the I/O, which each process has for itself.
        rng: Chooses its next step.
        world: Virtual time and faults.
    """

    def __init__(
        self, number: int, job: JobDefinition, ports: Ports, rng: random.Random, world: tuple[ManualClock, Faults]
    ) -> None:
        clock, self._faults = world
        self.number = number
        self.knobs = job.config
        self.life = Life.LIVE
        self.suspended = False
        self.stopping = False
        self.runner: JobRunner | None = None
        self._clock = clock
        io = LateIo(self._faults, clock)
        calls = SteppedJobCalls()
        self._driver = SimulatedDriver(rng, clock, io, calls, steps_max=2**31)
        own_ports = Ports(
            clock=clock,
            new_id=ports.new_id,
            make_io=lambda: io,
            make_calls=lambda: calls,
            store_factory=ports.store_factory,
            directory=ports.directory,
        )
        graph, physical = prepare(job.graph, job.config)
        self.attempt = Attempt(replace(job, graph=graph), physical, own_ports, Metrics())

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
        make_late(runner, self._faults, self._clock)
        runner.open()
        self.runner = runner
        return True

    def step(self) -> None:
        """One step of some task or of the I/O."""
        assert self.runner is not None, "only started processes are stepped"
        if self._driver.run(self.runner, steps=1):
            self.life = Life.ENDED

    def request_stop(self) -> None:
        """The user stops the job."""
        assert self.runner is not None, "only started processes are stopped"
        self.stopping = True
        self.runner.request_stop()


def define_job(graph: LogicalGraph, knobs: AttemptKnobs, store: CheckpointStore) -> JobDefinition:
    """A job as its user wrote it."""
    return JobDefinition(graph, JOB_NAME, knobs.config, store)
