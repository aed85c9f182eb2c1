"""Runs a whole job in this process, start by start: until its input ends, an `EOF`, or its death at an `ABORT`."""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakeward.engine.checkpoint.savepoint import Owner, write_savepoint
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.config import EngineConfig
from lakeward.engine.core.clock import Clock, ManualClock
from lakeward.engine.core.expect import expect, expect_whole
from lakeward.engine.core.ids import CheckpointId, OperatorId
from lakeward.engine.core.scratch import ScratchFolder
from lakeward.engine.execute import JobDefinition, JobResult, Ports, execute
from lakeward.engine.runtime.async_calls import ThreadedJobCalls
from lakeward.engine.runtime.drivers import IDLE_SLEEP_MAX_MS
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.job import IoResult
from lakeward.testing.arguments import expect_port
from lakeward.testing.collect import CollectSink
from lakeward.testing.compare import Answer
from lakeward.testing.crash import Life, SimulatedCrash
from lakeward.testing.harness import Store, store_factory
from lakeward.testing.jobs import Collected, Job, Read, build_job, check_ends, check_job, sources
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.runner import fast_directory
from lakeward.testing.sources import ScriptedSource
from lakeward.testing.taps import Tap, tapped
from lakeward.testing.virtual_calls import VirtualJobCalls

JOB_NAME = "job"
STARTS_MAX = 100
VIRTUAL_MS_MAX = 300_000
"""Virtual time within which a run has to come to an end, a crash or an `EOF`, and its pauses besides: five minutes."""

LEAP_MS = 50
"""How far virtual time goes at once when nothing happens: half of the time between two looks at the clock."""


@dataclass(frozen=True, slots=True)
class JobRun:
    """How one start of a job went.

    >>> from lakeward.testing import ABORT, CollectSink, ScriptedSource
    >>> source = ScriptedSource({"n": int}, [[{"n": 1}], ABORT])
    >>> harness = JobHarness(lambda env: env.from_source(source, uid="in").sink_to(CollectSink(), uid="out"))
    >>> harness.run().crash
    'ABORT in script-0'
    >>> run = harness.run()
    >>> run.ended, run.metrics["out"]["input_rows"]
    (True, 1)

    Args:
        result: How it ended; None when it died.
        crash: Where it died; empty when it did not.
    """

    result: JobResult | None
    crash: str = ""

    @property
    def ended(self) -> bool:
        """Whether all input was read to its end."""
        return self.result is not None and self.result.ended

    @property
    def stopped(self) -> bool:
        """Whether it stopped at an `EOF`."""
        return self.result is not None and not self.result.ended

    @property
    def crashed(self) -> bool:
        """Whether it died."""
        return self.result is None

    @property
    def restored(self) -> CheckpointId | None:
        """The checkpoint it went on from; None when it began anew, or died."""
        return None if self.result is None else self.result.restored

    @property
    def restarts(self) -> int:
        """Failures that it healed by itself; 0 when it died."""
        return 0 if self.result is None else self.result.restarts

    @property
    def metrics(self) -> Mapping[str, Mapping[str, int]]:
        """Counters by operator uid, then by name; none when it died."""
        return {} if self.result is None else self.result.metrics


class JobHarness:
    """A job under test: each `run` is one start of its process, in this one, without threads.

    Time is virtual and moves when the job has nothing to do, so waiting costs nothing, and a test runs the same way
    every time. A crash is one: nothing is closed, flushed or committed after it; what the job's Python objects knew is
    gone if its function made them. The next `run` goes on from the newest checkpoint, at any parallelism.

    >>> from lakeward.testing import ABORT, BARRIER, CollectSink, ScriptedSource
    >>> script = [[{"n": 1}], BARRIER, [{"n": 2}], ABORT, [{"n": 3}]]
    >>> source, sink = ScriptedSource({"n": int}, script), CollectSink()
    >>> def job(env):
    ...     env.from_source(source, uid="numbers").sink_to(sink, uid="out")
    >>> harness = JobHarness(job)
    >>> harness.run().crashed, sink.rows()
    (True, [{'n': 1}])
    >>> harness.run().ended, sink.rows()
    (True, [{'n': 1}, {'n': 2}, {'n': 3}])

    Args:
        job: A function that writes the job on the environment it is given (and may take a folder as well, empty at
            first and kept over restarts), a function that returns an environment, or an environment. A function is
            called for every start.
        config: How it is run, instead of what an environment of the job's own says; None: as the job says, a checkpoint
            every 100 ms for functions of an environment.
        checkpoints: Where checkpoints go; None: in memory, for the life of this harness.
        state: The key-value store behind keyed state: "memory", or "rocksdb" as in production.
        clock: Time; None: a `ManualClock`, whose time passes for coroutines as well. Give a `SystemClock` for sources,
            sinks and coroutines that wait for other processes.

    Raises:
        ConfigError: An argument is of another kind.
    """

    def __init__(
        self,
        job: Job,
        *,
        config: EngineConfig | None = None,
        checkpoints: CheckpointStore | None = None,
        state: Store = "memory",
        clock: Clock | None = None,
    ) -> None:
        check_job(job)
        if config is not None:
            expect(config, EngineConfig, "JobHarness: config", "give lw.EngineConfig(...)")
        if checkpoints is not None:
            hint = 'give a store: lakeward.engine.checkpoint.store_fs.open_store("checkpoints")'
            expect_port(checkpoints, CheckpointStore, "JobHarness: checkpoints", hint)
        if clock is not None:
            expect_port(clock, Clock, "JobHarness: clock", "give a lakeward.testing.ManualClock()")
        self._job = job
        self._config = config
        self._store = checkpoints or MemoryStore()
        self._state = store_factory(state)
        self.clock: Clock = clock or VirtualClock()
        self._root = Path(tempfile.mkdtemp(prefix="lakeward-job-", dir=fast_directory()))
        self._forget = weakref.finalize(self, shutil.rmtree, str(self._root), ignore_errors=True)
        self.folder = self._root / "given"
        """What a job function gets as its second argument; removed with this object."""
        self.folder.mkdir()
        self._collected = Collected()
        self._ids = 0

    def run(
        self,
        *,
        parallelism: int | None = None,
        savepoint: CheckpointStore | None = None,
        drop_state: Collection[str] = (),
    ) -> JobRun:
        """Start the job, and let it run until its input ends, it meets an `EOF`, or it dies.

        Errors that a restart can heal are healed as in production, within the run.

        Args:
            parallelism: Subtasks of each operator that says nothing else, for this start; None: as the job says.
            savepoint: From `savepoint`: begin with it, in a checkpoint directory that is new.
            drop_state: Operators that the job no longer has, and whose state may be dropped.

        Returns:
            How it went.

        Raises:
            LakewardError: As `env.execute` does.
            AssertionError: It waits for what never comes: five minutes of virtual time went by, and all pauses.
        """
        if parallelism is not None:
            expect_whole(parallelism, "JobHarness.run: parallelism", least=1)
        if savepoint is not None:
            self._store = MemoryStore()
        dropped = frozenset(OperatorId(uid) for uid in drop_state)
        return self._run(replace(self._define(parallelism), savepoint=savepoint, dropped_state=dropped))

    def savepoint(self) -> CheckpointStore:
        """Make a savepoint of the newest committed checkpoint, in memory.

        >>> from lakeward.testing import BARRIER, EOF, CollectSink, ScriptedSource
        >>> source = ScriptedSource({"n": int}, [[{"n": 1}], BARRIER, [{"n": 2}], EOF, [{"n": 3}]])
        >>> harness = JobHarness(lambda env: env.from_source(source, uid="in").sink_to(CollectSink(), uid="out"))
        >>> harness.run().stopped, harness.run(savepoint=harness.savepoint(), parallelism=2).ended, harness.rows()
        (True, True, [{'n': 1}, {'n': 2}, {'n': 3}])

        Returns:
            The savepoint; other harnesses may start from it, too.

        Raises:
            ConfigError: There is no committed checkpoint.
        """
        target = MemoryStore()
        scratch = ScratchFolder(str(self._root))
        try:
            write_savepoint(self._store, target, Owner("harness", self.clock.wall_us(), scratch.path))
        finally:
            scratch.close()
        return target

    def run_to_end(self, parallelism: Sequence[int] = ()) -> list[JobRun]:
        """Start the job again and again until its input has ended.

        >>> from lakeward.testing import ABORT, CollectSink, ScriptedSource
        >>> source = ScriptedSource({"n": int}, [[{"n": 1}], ABORT, [{"n": 2}]])
        >>> harness = JobHarness(lambda env: env.from_source(source, uid="in").sink_to(CollectSink(), uid="out"))
        >>> [run.crashed for run in harness.run_to_end(parallelism=[1, 3])], harness.rows()
        ([True, False], [{'n': 1}, {'n': 2}])

        Args:
            parallelism: Of the first start, the second and so on; then round again. Empty: as the job says.

        Returns:
            How each start went; the last one has ended.

        Raises:
            LakewardError: As `env.execute` does, and when a source has no end.
            AssertionError: It did not end in a hundred starts.
        """
        expect(parallelism, (list, tuple), "parallelism", "give that of each start: (1, 3, 2)")
        for one in parallelism:
            expect_whole(one, "one of parallelism", least=1)
        runs: list[JobRun] = []
        while not runs or not runs[-1].ended:
            assert len(runs) < STARTS_MAX, f"the job was started {STARTS_MAX} times, and still has not ended"
            definition = self._define(parallelism[len(runs) % len(parallelism)] if parallelism else None)
            check_ends(definition.graph)
            runs.append(self._run(definition))
        return runs

    @property
    def sinks(self) -> Mapping[str, CollectSink]:
        """The job's collecting sinks by uid, once it was started."""
        return {str(uid): sink for uid, sink in self._collected.sinks.items()}

    def rows(self, uid: str | None = None) -> list[dict[str, Any]]:
        """What a collecting sink has; of an updating stream, what is left of it after all its changes.

        Args:
            uid: The sink's uid; None: the only one.

        Raises:
            ConfigError: There is no such sink, or not only one.
        """
        return self._collected.rows(uid)

    def table(self, uid: str | None = None) -> pa.Table:
        """The same rows as an Arrow table."""
        return self._collected.table(uid)

    def all_rows(self) -> dict[str, list[dict[str, Any]]]:
        """What every collecting sink has, by uid, as `rows` says it."""
        return self._collected.all_rows()

    def answer(self, read: Read | None = None) -> Answer:
        """What the job has made visible: in its collecting sinks, or what `read` finds in the job's folder."""
        return self._collected.answer(read, self.folder)

    def _define(self, parallelism: int | None) -> JobDefinition:
        graph, config = build_job(self._job, self._config, self.folder)
        if parallelism is not None:
            config = replace(config, parallelism=parallelism)
        return JobDefinition(graph, JOB_NAME, config, self._store)

    def _run(self, job: JobDefinition) -> JobRun:
        self._collected.bind(job.graph)
        scripts = list(sources(job.graph).values())
        ports = Ports(
            self.clock,
            stop=self._stop_signal(scripts),
            new_id=self._new_id,
            make_io=InlineIo,
            make_calls=partial(VirtualJobCalls, self.clock) if self._is_virtual else ThreadedJobCalls,
            store_factory=self._state,
            directory=str(self._root),
        )
        try:
            return JobRun(execute(replace(job, graph=tapped(job.graph, self._tap(Life()))), ports))
        except SimulatedCrash as crash:
            return JobRun(None, str(crash))

    def _stop_signal(self, scripts: Sequence[ScriptedSource]) -> Callable[[], bool]:
        """Asked between steps: whether a script has come to an `EOF`. Notices a job that waits, or fails, for ever."""
        until_ms = self.clock.monotonic_ms() + VIRTUAL_MS_MAX + sum(one.pauses_ms for one in scripts)
        failure: BaseException | None = None

        def signal() -> bool:
            nonlocal failure
            failure = sys.exception() or failure  # between two attempts it is the one that is being handled
            if isinstance(self.clock, ManualClock) and self.clock.monotonic_ms() > until_ms:
                why = "" if failure is None else f"; it was restarted, the last time because of: {failure}"
                raise AssertionError(f"minutes of virtual time went by, and the job still waits for something{why}")
            return any(one.stop() for one in scripts)

        return signal

    @property
    def _is_virtual(self) -> bool:
        return isinstance(self.clock, ManualClock)

    def _tap(self, life: Life) -> Tap:
        return Tap(Faults(random.Random(0), {}), life)

    def _new_id(self) -> str:
        self._ids += 1
        return f"start{self._ids}"


class VirtualClock(ManualClock):
    """A clock that moves when nothing happens, and then hurries.

    >>> clock = VirtualClock()
    >>> clock.sleep_ms(1)
    >>> clock.sleep_ms(IDLE_SLEEP_MAX_MS)
    >>> clock.monotonic_ms()
    51
    """

    def sleep_ms(self, duration_ms: float) -> None:
        """Returns at once; time has moved, the further the longer there was nothing to do."""
        self.advance_ms(duration_ms if duration_ms < IDLE_SLEEP_MAX_MS else max(duration_ms, LEAP_MS))


class InlineIo(SteppedIo[IoResult]):
    """Runs slow effects where their results are asked for: in order, without a thread, the same way every time."""

    def poll(self) -> IoResult | None:
        """Run the oldest waiting function and return its result."""
        if self.is_ready:
            self.step()
        return super().poll()
