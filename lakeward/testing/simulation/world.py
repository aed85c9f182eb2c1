"""The simulated world: processes that run the job, what befalls them, and the checks after every step."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import CorruptionError, InternalError, LakewardError, Retry, SinkStateError
from lakeward.engine.execute import Ports
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.testing.simulation.checks import ContentCheck, check_restorable, validate_runner
from lakeward.testing.simulation.faults import Faults, SimulatedCrash, ViolationFound
from lakeward.testing.simulation.knobs import CALM_TIMEOUT_MS, Fault, Knobs, Swarm, draw_attempt
from lakeward.testing.simulation.process import Life, Process, define_job
from lakeward.testing.simulation.program import Bench
from lakeward.testing.simulation.programs import PROGRAMS_BY_NAME
from lakeward.testing.simulation.source import SimSource, make_splits
from lakeward.testing.simulation.store import FaultyStore
from lakeward.testing.simulation.table import SimTable, TableSnapshot
from lakeward.testing.simulation.trace import Trace

CALM_STEPS_MAX = 40_000
"""Steps within which a healed job has to finish."""

ZOMBIE_STEPS_AT_END = 60
PAUSE_STEPS_MAX = 150
NESTED_PAUSES_MAX = 2


class World:
    """One run.

    Args:
        seed: Everything random comes from it.
        knobs: What was drawn for it.
        swarm: Limits for what is drawn on the way.
        directory: Where local state lies.
    """

    def __init__(self, seed: int, knobs: Knobs, swarm: Swarm, directory: str) -> None:
        self._seed = seed
        self.knobs = knobs
        self._swarm = swarm
        self._rng = self.fork("world")
        self._attempts_rng = self.fork("attempts")
        self._plans_rng = self.fork("plans")
        self.clock = ManualClock()
        self.trace = Trace(self.clock)
        self.faults = Faults(self.fork("faults"), knobs.rates)
        self.faults.stage = self
        self.store = FaultyStore(MemoryStore(), self.faults)
        self._ports = Ports(
            clock=self.clock, new_id=self._new_id, store_factory=MemoryStoreFactory(), directory=directory
        )
        self._program = PROGRAMS_BY_NAME[knobs.program]
        inputs_rng = self.fork("inputs")
        self.inputs = {uid: make_splits(inputs_rng, uid, knobs) for uid in self._program.sources}
        truths = self._program.truths(self.inputs)
        self.tables = {uid: SimTable(f"table-{uid}", self.faults) for uid in truths}
        self.check = ContentCheck(self.store, self.inputs, truths, self.tables, knobs)
        for uid, table in self.tables.items():
            table.on_commit = partial(self._on_commit, uid)
        self._current: Process | None = None
        self._active: Process | None = None
        self._zombies: list[Process] = []
        self._pauses = 0
        self._ids = 0
        self._recovered = 0
        self._changes_checked = 0
        self.processes = 0
        self.steps = 0
        self.finished = False
        self.calm = False

    def fork(self, label: str) -> random.Random:
        """A generator of its own for each purpose, so that more draws in one do not shift another."""
        return random.Random(f"{self._seed}/{label}")

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
        self.calm = True
        self.store.repair()
        current = self._current
        if current is not None and (self.knobs.timeout_ms < CALM_TIMEOUT_MS or self._chance(0.5)):
            self._kill(current, "is killed, to be started without timeouts")

    def _check_end(self) -> None:
        versions = {uid: table.current.version for uid, table in self.tables.items()}
        self.faults.heal()
        self.calm = True
        self.store.repair()
        for zombie in self._zombies:
            for _ in range(ZOMBIE_STEPS_AT_END):
                if zombie.is_steppable:
                    self._guarded(zombie, zombie.step)
        self._start()
        if self._current is None or self._current.life is not Life.ENDED:
            raise ViolationFound("the job has ended, and still found something to do when it was started once more")
        changed = [uid for uid, table in self.tables.items() if table.current.version != versions[uid]]
        if changed:
            raise ViolationFound(f"{changed} changed after the job had ended")
        for uid in self.tables:
            self.check.at_end(uid)
        check_restorable(self.store, self.knobs.retained, self.store.committed)

    # -- one step

    def _step(self) -> None:
        self.steps += 1
        if self._current is None:
            self._start()
            return
        self._befall()
        process = self._pick()
        if process is None:
            return
        self._guarded(process, process.step)
        if process.life is Life.ENDED:
            self._ended(process)
        elif process.life is Life.LIVE and process.runner is not None:
            validate_runner(process.runner)
        if self.store.changes != self._changes_checked:
            self._changes_checked = self.store.changes
            check_restorable(self.store, self.knobs.retained, self.store.committed)

    def _pick(self) -> Process | None:
        zombies = [zombie for zombie in self._zombies if zombie.is_steppable]
        if zombies and self._chance(0.15):
            return self._rng.choice(zombies)
        return self._current

    def _befall(self) -> None:
        """What may happen to the running process from outside, between two steps."""
        if self.calm:
            return
        current = self._current
        if self.faults.happens(Fault.BIT_ROT):
            self.store.rot()
        if self.faults.happens(Fault.STATELESS):
            self._start_without_checkpoints()
        if current is None or current.runner is None:
            return
        if self.faults.happens(Fault.CRASH_BETWEEN):
            self._kill(current, "dies between two steps")
        elif self.faults.happens(Fault.PAUSE_BETWEEN):
            self.note_of(current, "is taken for dead")
            self._zombies.append(current)
            self._current = None
        elif not current.stopping and self.faults.happens(Fault.STOP):
            self.note_of(current, "is stopped by the user")
            self._guarded(current, current.request_stop)

    # -- processes

    def _start(self) -> None:
        attempt = draw_attempt(self._attempts_rng, self._plans_rng, self.knobs, self._swarm, calm=self.calm)
        sources = {
            uid: SimSource(splits, self.fork(f"{uid}/{self.processes}"), self.faults)
            for uid, splits in self.inputs.items()
        }
        graph = self._program.graph(Bench(sources, self.tables, self.knobs, attempt))
        job = define_job(graph, attempt, self.store)
        self.processes += 1
        rng = self.fork(f"process/{self.processes}")
        process = Process(self.processes, job, self._ports, rng, (self.clock, self.faults))
        self._current = process
        counts = (attempt.parallelism, attempt.keyed_parallelism, attempt.sink_parallelism)
        how = "as optimised" if attempt.config.optimise else "as written"
        self.note_of(process, f"starts {how} with parallelism {counts}")
        self._guarded(process, lambda: self._start_process(process))

    def _start_process(self, process: Process) -> None:
        if not process.start():
            process.life = Life.ENDED
            self.finished = True
        if process.life is Life.LIVE:
            self.note(f"runs as generation {process.generation} from checkpoint {process.attempt.restored}")
        self._recovered = max(self._recovered, process.generation)

    def _start_without_checkpoints(self) -> None:
        """A table that is marked has to refuse a job that remembers nothing."""
        marked = any(table.marker(f"simulated.{uid}") is not None for uid, table in self.tables.items())
        if not marked or self._current is None:
            return
        self.note("somebody starts the job without its checkpoints")
        quiet = Faults(random.Random(0), {})
        sources = {uid: SimSource(splits, random.Random(0), quiet) for uid, splits in self.inputs.items()}
        knobs = draw_attempt(self._attempts_rng, self._plans_rng, self.knobs, self._swarm, calm=True)
        graph = self._program.graph(Bench(sources, self.tables, self.knobs, knobs))
        job = define_job(graph, knobs, FaultyStore(MemoryStore(), quiet))
        rogue = Process(0, job, self._ports, random.Random(0), (self.clock, quiet))
        try:
            rogue.attempt.start()
        except SimulatedCrash:
            return
        except LakewardError as error:
            self.note(f"it is refused: {type(error).__name__}")
            return
        finally:
            rogue.attempt.close()
        raise ViolationFound("a job without its checkpoints was let loose on a table that holds its rows")

    def _guarded(self, process: Process, action: Callable[[], None]) -> None:
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
        if isinstance(error, CorruptionError | SinkStateError) and self.store.repair():
            self.note("the checkpoint directory is restored from a backup")

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
        process.life = Life.DEAD
        self._forget(process)

    def _forget(self, process: Process) -> None:
        if process is self._current:
            self._current = None
        self._zombies = [zombie for zombie in self._zombies if zombie is not process]

    def _is_newest(self, process: Process) -> bool:
        """Whether no later generation has begun; a process that stood still while it started may be the newest."""
        numbers = (paths.parse_generation(path) for path in self.store.inner.list(paths.GENERATIONS))
        return process.generation >= max((number for number in numbers if number is not None), default=0)

    def _ended(self, process: Process) -> None:
        read_all = process.attempt.ended
        self.note_of(process, "has ended" if read_all else "has stopped")
        process.attempt.close()
        if self._is_newest(process):  # else a newer one has started since the last commit, and finds nothing to do
            self.finished = self.finished or read_all
        self._forget(process)

    # -- what faults and checks need

    def pause(self) -> None:
        """Let the active process stand still inside a port call, and the world go on without it for a while."""
        process = self._active
        if process is None or process is not self._current or self._pauses >= NESTED_PAUSES_MAX:
            return
        process.suspended = True
        self._zombies.append(process)
        self._current = None
        self._pauses += 1
        for _ in range(self._rng.randint(1, PAUSE_STEPS_MAX)):
            if not self.finished:
                self._step()
        self._pauses -= 1
        process.suspended = False
        self._active = process

    def note(self, text: str) -> None:
        """Add a line to the trace."""
        self.trace.note(f"p{self._active.number}" if self._active else "--", text)

    def note_of(self, process: Process, text: str) -> None:
        """Add a line about a process."""
        self.trace.note(f"p{process.number}", text)

    def _on_commit(self, uid: str, table: SimTable, snapshot: TableSnapshot) -> None:
        process = self._active
        if process is None:
            raise ViolationFound(f"{table.name} was changed by nobody")
        if process.generation < self._recovered and not self.store.was_damaged:
            raise ViolationFound(
                f"process {process.number} of generation {process.generation} has changed {table.name}, although "
                f"generation {self._recovered} had recovered by then"
            )
        self.check.at_commit(uid, snapshot)

    def _new_id(self) -> str:
        self._ids += 1
        return f"{self._seed}x{self._ids}"

    def _chance(self, rate: float) -> bool:
        return self._rng.random() < rate
