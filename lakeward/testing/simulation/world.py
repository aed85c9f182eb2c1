"""The simulated world of our own programs: their inputs, their tables, and the checks after every commit."""

from __future__ import annotations

import random
from collections.abc import Hashable
from functools import partial

from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.testing.crash import SimulatedCrash
from lakeward.testing.simulation.base import SimulatedWorld
from lakeward.testing.simulation.checks import ContentCheck
from lakeward.testing.simulation.faults import Faults, ViolationFound
from lakeward.testing.simulation.knobs import AttemptKnobs, Knobs, Swarm, draw_attempt
from lakeward.testing.simulation.network import Network
from lakeward.testing.simulation.process import Process, Surroundings, define_job
from lakeward.testing.simulation.program import Bench
from lakeward.testing.simulation.programs import PROGRAMS_BY_NAME
from lakeward.testing.simulation.source import SimSource, make_splits
from lakeward.testing.simulation.store import FaultyStore
from lakeward.testing.simulation.table import SimTable, TableSnapshot


class World(SimulatedWorld):
    """One run of one of our own programs.

    Args:
        seed: Everything random comes from it.
        knobs: What was drawn for it.
        swarm: Limits for what is drawn on the way.
        directory: Where local state lies.
    """

    def __init__(self, seed: int, knobs: Knobs, swarm: Swarm, directory: str) -> None:
        super().__init__(seed, knobs, swarm, directory)
        self._program = PROGRAMS_BY_NAME[knobs.program]
        inputs_rng = self.fork("inputs")
        self.inputs = {uid: make_splits(inputs_rng, uid, knobs) for uid in self._program.sources}
        truths = self._program.truths(self.inputs)
        self.tables = {uid: SimTable(f"table-{uid}", self.faults) for uid in truths}
        self.check = ContentCheck(self.store, self.inputs, truths, self.tables, knobs)
        for uid, table in self.tables.items():
            table.on_commit = partial(self._on_commit, uid)

    def graph(self, attempt: AttemptKnobs) -> LogicalGraph:
        """The program over sources and tables with faults."""
        sources = {
            uid: SimSource(splits, self.fork(f"{uid}/{self.processes}"), self.faults)
            for uid, splits in self.inputs.items()
        }
        return self._program.graph(Bench(sources, self.tables, self.knobs, attempt))

    def output(self) -> Hashable:
        """The versions of the tables."""
        return tuple(table.current.version for table in self.tables.values())

    def check_output(self) -> None:
        """Each table is what its oracle says."""
        for uid in self.tables:
            self.check.at_end(uid)

    def start_without_checkpoints(self) -> None:
        """A table that is marked has to refuse a job that remembers nothing."""
        marked = any(table.marker(f"simulated.{uid}") is not None for uid, table in self.tables.items())
        if not marked or self.current is None:
            return
        self.note("somebody starts the job without its checkpoints")
        quiet = Faults(random.Random(0), {})
        sources = {uid: SimSource(splits, random.Random(0), quiet) for uid, splits in self.inputs.items()}
        knobs = draw_attempt(self._attempts_rng, self._plans, self.knobs, self._swarm, calm=True)
        graph = self._program.graph(Bench(sources, self.tables, self.knobs, knobs))
        job = define_job(graph, knobs, FaultyStore(MemoryStore(), quiet))
        still = Network(self.clock, quiet, random.Random(0))
        rogue = Process(0, job, self._ports, random.Random(0), Surroundings(still, self))
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

    def restore_what_was_written(self) -> None:
        """Ends all processes, and takes away the checkpoints after the newest that a table holds."""
        marks = [table.marker(f"simulated.{uid}") for uid, table in self.tables.items()]
        written = max((mark for mark in marks if mark is not None), default=None)
        if written is None:
            return
        self.end_all("is ended by the user")
        self.store.forget_after(CheckpointId(written))

    def has_moved(self) -> None:
        """Manifests are looked for in the new directory."""
        self.check.store = self.store

    def _on_commit(self, uid: str, table: SimTable, snapshot: TableSnapshot) -> None:
        process = self._active
        if process is None or self._worker is not None:
            raise ViolationFound(f"{table.name} was changed by nobody")
        is_stale = process.store is not self.store or process.generation < self._recovered
        if is_stale and not self.store.was_damaged:
            raise ViolationFound(
                f"process {process.number} of generation {process.generation} has changed {table.name}, although "
                f"generation {self._recovered} had recovered by then"
            )
        self.check.at_commit(uid, snapshot)
