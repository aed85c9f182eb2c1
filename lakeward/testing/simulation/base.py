"""Processes that run a job in virtual time, what befalls them from outside, and the phases with faults and without."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import CorruptionError, InternalError, LakewardError, Retry, SinkStateError
from lakeward.engine.execute import Ports
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.testing.crash import SimulatedCrash
from lakeward.testing.simulation.checks import check_restorable, validate_runner
from lakeward.testing.simulation.faults import Faults, ViolationFound
from lakeward.testing.simulation.knobs import CALM_TIMEOUT_MS, AttemptKnobs, Fault, Knobs, Plans, Swarm, draw_attempt
from lakeward.testing.simulation.network import Network
from lakeward.testing.simulation.process import Life, Process, Surroundings, define_job
from lakeward.testing.simulation.store import FaultyStore
from lakeward.testing.simulation.trace import Trace
from lakeward.testing.simulation.workers import KILLED, SimWorker

CALM_STEPS_MAX = 120_000
"""Steps within which a healed job has to finish."""

ZOMBIE_STEPS_AT_END = 60
PAUSE_STEPS_MAX = 150
STOPPED_MS_MAX = 10_000
BETWEEN_BEATS_MS = 500
WORKERS_END_WITHIN_MS = 30_000
"""How long a worker process may live without a coordinator: as long as it may be stopped, cut off, and more."""
NESTED_PAUSES_MAX = 2


class SimulatedWorld(ABC):
    """One run of some job.

    Args:
        seed: Everything random comes from it.
        knobs: What was drawn for it.
        swarm: Limits for what is drawn on the way.
        directory: Where local state lies.
    """

    def __init__(self, seed: int, knobs: Knobs, swarm: Swarm, directory: str) -> None:
        self.seed = seed
        self.knobs = knobs
        self._swarm = swarm
        self._rng = self.fork("world")
        self._attempts_rng = self.fork("attempts")
        self._plans = Plans(self.fork("plans"), self.fork("alignment"), self.fork("processes"), swarm.processes)
        self.clock = ManualClock()
        self.trace = Trace(self.clock)
        self.faults = Faults(self.fork("faults"), knobs.rates, self.fork("later faults"))
        self.faults.stage = self
        self.store = FaultyStore(MemoryStore(), self.faults)
        self._ports = Ports(
            clock=self.clock, new_id=self._new_id, store_factory=MemoryStoreFactory(), directory=directory
        )
        self._later_rng = self.fork("later")
        self.surroundings = Surroundings(Network(self.clock, self.faults, self.fork("network")), self)
        self.current: Process | None = None
        self._active: Process | None = None
        self._worker: SimWorker | None = None
        self._hosts: list[Process] = []
        self._zombies: list[Process] = []
        self._pauses = 0
        self._ids = 0
        self._directory = directory
        self._savepoints = 0
        self._begins_from: FileSystemStore | None = None
        self._recovered = 0
        self._reads_all = not swarm.trusting
        self._changes_checked = 0
        self.processes = 0
        self.steps = 0
        self.finished = False
        self.calm = False

    # -- what kind of job it is

    @abstractmethod
    def graph(self, attempt: AttemptKnobs) -> LogicalGraph:
        """The job, written anew for one start."""

    @abstractmethod
    def output(self) -> Hashable:
        """What has been written so far, to be compared with what is there later."""

    @abstractmethod
    def check_output(self) -> None:
        """All input has been read: the output holds everything, once; else a `ViolationFound`."""

    def describe_knobs(self) -> str:
        """What the seed has drawn, for the report of a violation."""
        return self.knobs.describe()

    def start_without_checkpoints(self) -> None:  # noqa: B027
        """Somebody starts the job and has lost its checkpoints. Here nobody does."""

    def has_moved(self) -> None:  # noqa: B027
        """The job has another checkpoint directory from now on."""

    def restore_what_was_written(self) -> None:  # noqa: B027
        """The user goes back to the checkpoint that the output holds. Where the output has no mark, nobody has to."""

    # -- chance

    def fork(self, label: str) -> random.Random:
        """A generator of its own for each purpose, so that more draws in one do not shift another."""
        return random.Random(f"{self.seed}/{label}")

    # -- the two phases

    def run(self) -> None:
        """Faults for a while, then none, until the job has ended.

        Raises:
            ViolationFound: An invariant does not hold, or the healed job does not end.
        """
        while not self.finished and self.steps < self.knobs.unsafe_steps:
            self._step()
        if not self.finished:
            self._heal()
        until = self.steps + CALM_STEPS_MAX
        while not self.finished:
            if self.steps >= until:
                raise ViolationFound(f"healed, and still not finished after {CALM_STEPS_MAX} steps")
            self._step()
        self._check_end()

    def _heal(self) -> None:
        self.note("all faults are healed")
        self.faults.heal()
        self.surroundings.network.heal()
        self.calm = True
        self.store.repair()
        current = self.current
        if current is not None and (self.knobs.timeout_ms < CALM_TIMEOUT_MS or self._chance(0.5)):
            self._kill(current, "is killed, to be started without timeouts")

    def _check_end(self) -> None:
        written = self.output()
        self.faults.heal()
        self.calm = True
        self.store.repair()
        for zombie in self._zombies:
            for _ in range(ZOMBIE_STEPS_AT_END):
                if zombie.is_steppable:
                    self.guarded(zombie, zombie.step)
        self._check_workers_end()
        self._start()
        if self.current is None or self.current.life is not Life.ENDED:
            raise ViolationFound("the job has ended, and still found something to do when it was started once more")
        if self.output() != written:
            raise ViolationFound("the output changed after the job had ended")
        self.check_output()
        check_restorable(self.store, self.knobs.retained, self.store.committed)

    def _check_workers_end(self) -> None:
        """Nobody's coordinator says anything any more: all worker processes end."""
        self.surroundings.network.heal()
        for _ in range(WORKERS_END_WITHIN_MS // BETWEEN_BEATS_MS):
            self.clock.advance_ms(BETWEEN_BEATS_MS)
            for process in self._hosts:
                for worker in process.host.living if process.host is not None else ():
                    worker.beat()
                    worker.step()
        living = [worker.name for process in self._hosts if process.host for worker in process.host.living]
        if living:
            raise ViolationFound(f"{living} go on without a coordinator")

    # -- one step

    def _step(self) -> None:
        self.steps += 1
        if self._hosts:
            self._tend_workers()
        if self.current is None:
            self._start()
            return
        self.befall()
        process = self._pick()
        if process is None:
            return
        self.guarded(process, process.step)
        for target in process.take_saved():
            self._check_savepoint(target)
        if process.life is Life.ENDED:
            self._ended(process)
        elif process.life is Life.LIVE and process.runner is not None:
            validate_runner(process.runner, process.tasks)
        if self.store.changes != self._changes_checked:
            self._changes_checked = self.store.changes
            check_restorable(self.store, self.knobs.retained, self.store.committed)

    def _tend_workers(self) -> None:
        """Signs of life of all worker processes, and a step of one whose coordinator does nothing."""
        self._hosts = [one for one in self._hosts if one.life is Life.LIVE or one.loose]
        for process in self._hosts:
            assert process.host is not None, "it has workers"
            process.host.beat()
        loose = [worker for process in self._hosts for worker in process.loose]
        if loose and self._later_rng.random() < 0.3:
            self._later_rng.choice(loose).step()

    def _pick(self) -> Process | None:
        zombies = [zombie for zombie in self._zombies if zombie.is_steppable]
        if zombies and self._chance(0.15):
            return self._rng.choice(zombies)
        return self.current

    def befall(self) -> None:
        """What may happen to the running process from outside, between two steps."""
        if self.calm:
            return
        current = self.current
        if self.faults.happens(Fault.CLOCK_JUMP):
            hours = self._later_rng.uniform(-48, 48)
            self.note(f"the wall clock jumps by {hours:.1f} hours")
            self.clock.jump_ms(round(hours * 3_600_000))
        if current is not None and current.host is not None and current.host.living:
            self._befall_worker(self._later_rng.choice(current.host.living))
        if self.faults.happens(Fault.BIT_ROT):
            self.store.rot()
        if self.faults.happens(Fault.STATELESS):
            self.start_without_checkpoints()
        if current is None or current.runner is None:
            return
        if self.faults.happens(Fault.CRASH_BETWEEN):
            self._kill(current, "dies between two steps")
        elif self.faults.happens(Fault.PAUSE_BETWEEN):
            self.note_of(current, "is taken for dead")
            self._zombies.append(current)
            self.current = None
        elif not current.stopping and self.faults.happens(Fault.STOP):
            self.note_of(current, "is stopped by the user")
            self.guarded(current, current.request_stop)
        elif not current.stopping and self.faults.happens(Fault.SAVEPOINT):
            self.note_of(current, "is asked for a savepoint")
            current.save(self._new_savepoint())
        elif not current.stopping and self.faults.happens(Fault.MOVE):
            self.note_of(current, "is asked to stop with a savepoint")
            current.move(self._new_savepoint())

    def _new_savepoint(self) -> str:
        self._savepoints += 1
        return f"{self._directory}/savepoint-{self._savepoints}"

    def _befall_worker(self, worker: SimWorker) -> None:
        if self.faults.happens(Fault.WORKER_DIES):
            worker.die(KILLED)
        elif self.faults.happens(Fault.WORKER_STOPS):
            self.note(f"{worker.name} is stopped")
            worker.stop_for(self._later_rng.randint(1, STOPPED_MS_MAX))
        elif self.faults.happens(Fault.NETWORK_PARTITION):
            self.note(f"{worker.name} is cut off")
            self.surroundings.network.cut_off(worker.name)

    # -- processes

    def draw(self) -> AttemptKnobs:
        """What one start of the job is like."""
        return draw_attempt(self._attempts_rng, self._plans, self.knobs, self._swarm, calm=self.calm)

    def _start(self) -> None:
        attempt = self.draw()
        job = define_job(self.graph(attempt), attempt, self.store, self._begins_from)
        self.processes += 1
        rng = self.fork(f"process/{self.processes}")
        process = Process(self.processes, job, self._ports, rng, self.surroundings)
        if process.host is not None:
            self._hosts.append(process)
        process.attempt.reads_all = self._reads_all
        self._reads_all = not self._swarm.trusting
        self.current = process
        counts = (attempt.parallelism, attempt.keyed_parallelism, attempt.sink_parallelism)
        how = "as optimised" if attempt.config.optimise else "as written"
        workers = "" if process.host is None else f", in {attempt.config.processes} worker processes"
        self.note_of(process, f"starts {how} with parallelism {counts}{workers}")
        self.guarded(process, lambda: self._start_process(process))

    def _start_process(self, process: Process) -> None:
        if not process.start():
            process.life = Life.ENDED
            self.finished = True
        if process.store is self.store:
            self._begins_from = None
        if process.life is Life.LIVE:
            self.note(f"runs as generation {process.generation} from checkpoint {process.attempt.restored}")
        self._recovered = max(self._recovered, process.generation)

    def guarded(self, process: Process, action: Callable[[], None]) -> None:
        """Let a process do something; it may die of it."""
        before, self._active = self._active, process
        try:
            action()
        except SimulatedCrash:
            self._kill(process, "is dead")
        except LakewardError as error:
            self._failed(process, error)
        finally:
            self._active = before

    def _failed(self, process: Process, error: LakewardError) -> None:
        self.note_of(process, f"fails with {type(error).__name__}: {error.message[:150]}")
        self._judge(process, error)
        process.attempt.close()
        self._kill(process, "is closed")
        if process.attempt.has_restored_damage(error):
            self._reads_all = True
        elif isinstance(error, CorruptionError | SinkStateError) and self.store.repair():
            self.note("the checkpoint directory is restored from a backup")
        elif isinstance(error, SinkStateError):
            self.restore_what_was_written()

    def _judge(self, process: Process, error: LakewardError) -> None:
        """Which errors a process may end with."""
        if isinstance(error, InternalError):
            raise ViolationFound(f"a bug in the engine shows: {error}") from error
        if not self._is_newest(process) or self.store.was_damaged:
            return
        if error.retry is Retry.NO:
            raise ViolationFound(f"nothing was damaged, nobody newer has started, and still: {error}") from error

    def _kill(self, process: Process, how: str) -> None:
        self.note_of(process, how)
        process.die()
        self._forget(process)

    def end_all(self, how: str) -> None:
        """No process of the job lives on."""
        for process in [*self._zombies, *([self.current] if self.current is not None else [])]:
            self._kill(process, how)

    def _forget(self, process: Process) -> None:
        if process is self.current:
            self.current = None
        self._zombies = [zombie for zombie in self._zombies if zombie is not process]

    def _is_newest(self, process: Process) -> bool:
        """Whether no later generation has begun; a process that stood still while it started may be the newest."""
        assert isinstance(process.store, FaultyStore), "all of them have such a one"
        numbers = (paths.parse_generation(path) for path in process.store.inner.list(paths.GENERATIONS))
        return process.generation >= max((number for number in numbers if number is not None), default=0)

    def _ended(self, process: Process) -> None:
        read_all = process.attempt.ended
        self.note_of(process, "has ended" if read_all else "has stopped")
        process.attempt.close()
        if self._is_newest(process):  # else a newer one has started since the last commit, and finds nothing to do
            self.finished = self.finished or read_all
            if process is self.current and process.moved_to is not None:
                self._move(process.moved_to)
        self._forget(process)

    def _check_savepoint(self, target: str) -> None:
        """What was called written is there, and whole."""
        self.note(f"{target.removeprefix(self._directory)} is written")
        try:
            found = CheckpointWorkflow(FileSystemStore(target)).newest_whole()
        except LakewardError as error:
            raise ViolationFound(f"a savepoint that was called written cannot be read: {error}") from error
        if found is None:
            raise ViolationFound("a savepoint that was called written is not there")

    def _move(self, target: str) -> None:
        """The job goes on from a savepoint, in an empty directory."""
        self._check_savepoint(target)
        self.note(f"the job goes on from {target.removeprefix(self._directory)} in another directory")
        was_damaged = self.store.was_damaged
        self.store = FaultyStore(MemoryStore(), self.faults)
        self.store.was_damaged = was_damaged
        self._begins_from = FileSystemStore(target)
        self._recovered = self._changes_checked = 0
        self.has_moved()

    # -- what faults and checks need

    def pause(self) -> None:
        """Let the active process stand still inside a port call, and the world go on without it for a while."""
        if self._worker is not None:
            self._pause_worker(self._worker)
            return
        process = self._active
        if process is None or process is not self.current or self._pauses >= NESTED_PAUSES_MAX:
            return
        process.suspended = True
        self._zombies.append(process)
        self.current = None
        self._go_on_without()
        process.suspended = False
        self._active = process

    def _pause_worker(self, worker: SimWorker) -> None:
        if worker.host.is_waiting or self._pauses >= NESTED_PAUSES_MAX:
            return
        active = self._active
        worker.suspended = True
        if self._chance(0.5):
            worker.stop_for(self._rng.randint(1, STOPPED_MS_MAX))
        self._worker = None
        self._go_on_without()
        worker.suspended = False
        self._active, self._worker = active, worker
        if not worker.alive:
            raise SimulatedCrash("killed while it stood still")

    def _go_on_without(self) -> None:
        self._pauses += 1
        for _ in range(self._rng.randint(1, PAUSE_STEPS_MAX)):
            if not self.finished:
                self._step()
        self._pauses -= 1

    def acting(self, worker: SimWorker | None) -> None:
        """A worker process does something from now on; None: no more."""
        self._worker = worker

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        if self._worker is not None:
            self.trace.note(self._worker.name, text)
            return
        self.trace.note(f"p{self._active.number}" if self._active else "--", text)

    def note_of(self, process: Process, text: str) -> None:
        """Add a line about a process."""
        self.trace.note(f"p{process.number}", text)

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self.seed}x{self._ids}"

    def _chance(self, rate: float) -> bool:
        return self._rng.random() < rate
