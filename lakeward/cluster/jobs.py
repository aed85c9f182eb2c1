"""The jobs of a session cluster as a state machine: it hears what happens, and says what is to be done. Pure.

```
           slots are free          finished               STOPPED  (asked to stop)
  WAITING ---------------> RUNNING ------> FINISHED          ^
     ^                        |  ^                           |
     |   rescale: stop, then  |  '-- the process dies: again |
     '------------------------'------> STOPPING -------------'
                              '------> FAILED, CANCELED
```

What has to survive the coordinator is in `JobRecord`, and is stored before anything is done about it: an action that
was not carried out, or of which the answer is lost, is asked for again by `resume`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.names import did_you_mean

RESTARTS_MAX = 10
"""Times in a row that a job's process may die without a new checkpoint in between."""
BACKOFF_MIN_MS, BACKOFF_MAX_MS = 500, 30_000
SAVEPOINTS_KEPT = 20
"""Requests for savepoints that a record remembers."""


class JobState(StrEnum):
    """What a job does."""

    WAITING = "WAITING"
    """For free slots."""
    RUNNING = "RUNNING"
    """Its process runs, or is started again."""
    STOPPING = "STOPPING"
    """It was asked to stop, or to stop and go on with another parallelism."""
    FINISHED = "FINISHED"
    """Its input has ended."""
    STOPPED = "STOPPED"
    """It was stopped, with a last checkpoint."""
    CANCELED = "CANCELED"
    """It was ended without one."""
    FAILED = "FAILED"
    """It gave up; `error` says why."""

    @property
    def is_over(self) -> bool:
        """Whether nothing will happen any more."""
        return self in (JobState.FINISHED, JobState.STOPPED, JobState.CANCELED, JobState.FAILED)


class SavepointState(StrEnum):
    """How far a savepoint has come."""

    PENDING = "PENDING"
    DONE = "DONE"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Savepoint:
    """A savepoint that was asked of a job.

    Args:
        id: Names it among those of its job.
        target: The directory.
        state: How far it has come.
        stops: Whether the job has to stop with it.
        checkpoint: The checkpoint that was saved.
        error: Why it failed.
    """

    id: str
    target: str
    state: SavepointState = SavepointState.PENDING
    stops: bool = False
    checkpoint: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that has to be known of a job to take it up again.

    Args:
        id: Names it for ever.
        name: For people.
        job: `package.module:function`.
        folder: The allowed folder that the module is in.
        parallelism: Subtasks of each operator, and slots that it takes.
        venv: Folder of a virtual environment; None: the cluster's own.
        savepoint: What it begins from; None: from nothing.
        created_us: When it was submitted, in microseconds since 1970 UTC.
        state: What it does.
        rescale_to: The parallelism that it goes on with once it has stopped.
        error: Why it has failed.
        restarts: Times that its process has died.
        savepoints: Those that were asked for, oldest first.
    """

    id: str
    name: str
    job: str
    folder: str
    parallelism: int
    venv: str | None = None
    savepoint: str | None = None
    created_us: int = 0
    state: JobState = JobState.WAITING
    rescale_to: int | None = None
    error: str | None = None
    restarts: int = 0
    savepoints: tuple[Savepoint, ...] = ()

    @property
    def pending(self) -> list[Savepoint]:
        """Savepoints that were not answered yet."""
        return [one for one in self.savepoints if one.state is SavepointState.PENDING]

    def with_savepoint(self, savepoint: Savepoint) -> JobRecord:
        """The record with a savepoint, which takes the place of one with its id."""
        others = [one for one in self.savepoints if one.id != savepoint.id]
        at = next((n for n, one in enumerate(self.savepoints) if one.id == savepoint.id), len(others))
        return replace(self, savepoints=(*others[:at], savepoint, *others[at:])[-SAVEPOINTS_KEPT:])


@dataclass(frozen=True, slots=True)
class Save:
    """Store a record, before anything else is done."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class Start:
    """Start the process of a job."""

    record: JobRecord


@dataclass(frozen=True, slots=True)
class Send:
    """Say something to the process of a job."""

    job: str
    message: JsonObject


@dataclass(frozen=True, slots=True)
class Kill:
    """End the process of a job at once."""

    job: str


Action = Save | Start | Send | Kill


@dataclass(slots=True)
class _Run:
    """What is known of a job only while it is taken care of.

    Args:
        alive: Whether it has a process.
        ready: Whether that has said that it runs, and so takes requests.
        due_ms: When its process is to be started; None: it was.
        failures: Deaths in a row.
        checkpoint: The newest that it has spoken of.
        ending: What the process has said last: how it ends.
        status: Its last status.
    """

    alive: bool = False
    ready: bool = False
    due_ms: int | None = None
    failures: int = 0
    checkpoint: int | None = None
    ending: dict[str, object] | None = None
    canceled: bool = False
    status: dict[str, object] = field(default_factory=dict)


class Jobs:
    """The jobs, and the slots that they share.

    >>> jobs = Jobs(slots=2)
    >>> record = JobRecord("j-1", "revenue", "shop.jobs:revenue", "/srv/jobs", parallelism=2)
    >>> [type(action).__name__ for action in jobs.submit(record, now_ms=0)]
    ['Save', 'Save', 'Start']
    >>> jobs.submit(replace(record, id="j-2"), now_ms=0)[-1].record.state.value
    'WAITING'
    >>> [type(action).__name__ for action in jobs.said("j-1", {"type": "finished"}, now_ms=5)]
    []
    >>> [type(action).__name__ for action in jobs.exited("j-1", "ended with status 0", "", now_ms=9)]
    ['Save', 'Save', 'Start']
    >>> jobs.record("j-1").state.value, jobs.record("j-2").state.value
    ('FINISHED', 'RUNNING')

    Guarantees: the parallelism of all jobs that run together is never more than there are slots; jobs get them in the
    order in which they were submitted; a record is stored before what it says is done.

    Args:
        slots: Subtasks of each operator that may run at a time, of all jobs together.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._records: dict[str, JobRecord] = {}
        self._runs: dict[str, _Run] = {}

    def resume(self, records: Iterable[JobRecord], now_ms: int) -> list[Action]:
        """Take up the jobs that a coordinator before had.

        Args:
            records: As they were stored.
            now_ms: Monotonic milliseconds.
        """
        for record in sorted(records, key=lambda one: (one.created_us, one.id)):
            self._records[record.id] = record
            self._runs[record.id] = _Run(due_ms=now_ms if self._runs_now(record) else None)
        return [*self._due(now_ms), *self._deal(now_ms)]

    # -- what people ask

    def submit(self, record: JobRecord, now_ms: int) -> list[Action]:
        """A new job.

        Raises:
            ConfigError: It wants more slots than there are.
        """
        self._check_slots(record.parallelism)
        self._records[record.id] = record
        self._runs[record.id] = _Run()
        return [Save(record), *self._deal(now_ms)]

    def ask_savepoint(self, job: str, savepoint: Savepoint) -> list[Action]:
        """A savepoint of a running job, with which it may have to stop.

        Raises:
            ConfigError: The job does not run.
        """
        record = self._running(job)
        record = record.with_savepoint(savepoint)
        if savepoint.stops:
            record = replace(record, state=JobState.STOPPING)
        return [self._save(record), *self._ask(record, [savepoint])]

    def ask_stop(self, job: str, rescale_to: int | None = None) -> list[Action]:
        """A last checkpoint, and the end; or another parallelism after that.

        Raises:
            ConfigError: The job does not run, or wants more slots than there are.
        """
        if rescale_to is not None:
            self._check_slots(rescale_to)
        record = replace(self._running(job), state=JobState.STOPPING, rescale_to=rescale_to)
        return [self._save(record), *self._ask(record, ())]

    def ask_cancel(self, job: str, now_ms: int) -> list[Action]:
        """The end of a job, without another checkpoint.

        Raises:
            ConfigError: It is over already.
        """
        record = self.record(job)
        if record.state.is_over:
            raise ConfigError(f"job {job} is {record.state.value}", hint="only a job that is not over can be canceled")
        run = self._runs[job]
        run.canceled, run.due_ms = True, None
        saved = self._save(self._closed(record, JobState.CANCELED, "the job was canceled"))
        return [saved, *([Kill(job)] if run.alive else self._deal(now_ms))]

    # -- what happens

    def tick(self, now_ms: int) -> list[Action]:
        """Time has passed."""
        return self._due(now_ms)

    def said(self, job: str, message: Mapping[str, object], now_ms: int) -> list[Action]:
        """The process of a job has said something."""
        run, record = self._runs[job], self._records[job]
        match message.get("type"):
            case "status":
                return self._status(run, record, message)
            case "answer":
                return self._answer(record, message)
            case "finished" | "failed" | "canceled":
                run.ending = dict(message)
        return []

    def exited(self, job: str, how: str, last_lines: str, now_ms: int) -> list[Action]:
        """The process of a job has ended.

        Args:
            job: The job.
            how: "was killed by signal 9".
            last_lines: What it printed last.
            now_ms: Monotonic milliseconds.
        """
        run, record = self._runs[job], self._records[job]
        ending, run.ending = run.ending or {}, None
        run.alive = run.ready = False
        if record.state.is_over:
            return self._deal(now_ms)
        match ending.get("type"):
            case "finished" if record.state is JobState.STOPPING and record.rescale_to is not None:
                record = replace(
                    record, state=JobState.WAITING, parallelism=record.rescale_to, rescale_to=None, savepoint=None
                )
                return [self._save(record), *self._deal(now_ms)]
            case "finished" if record.state is JobState.STOPPING:
                return [self._save(self._closed(record, JobState.STOPPED)), *self._deal(now_ms)]
            case "finished":
                return [self._save(self._closed(record, JobState.FINISHED)), *self._deal(now_ms)]
            case "failed":
                error = str(ending.get("error", how))
                return [self._save(self._closed(record, JobState.FAILED, error)), *self._deal(now_ms)]
        run.failures += 1
        if run.failures > RESTARTS_MAX:
            error = f"its process {how}, {run.failures} times in a row; the last time it said:\n{last_lines}"
            return [self._save(self._closed(record, JobState.FAILED, error)), *self._deal(now_ms)]
        run.due_ms = now_ms + min(BACKOFF_MAX_MS, BACKOFF_MIN_MS * 2 ** (run.failures - 1))
        return [self._save(replace(record, restarts=record.restarts + 1))]

    def saved_already(self, job: str, savepoint: str, checkpoint: int) -> list[Action]:
        """A savepoint that was asked for is there: whoever asked before has not lived to hear it."""
        record = self._records[job]
        found = next(one for one in record.savepoints if one.id == savepoint)
        done = replace(found, state=SavepointState.DONE, checkpoint=checkpoint)
        return [self._save(record.with_savepoint(done))]

    # -- questions

    def record(self, job: str) -> JobRecord:
        """A job by its id, or by its name if no other that is not over is called so.

        Raises:
            ConfigError: There is none, or there are several.
        """
        found = self._records.get(job)
        if found is not None:
            return found
        named = [one for one in self._records.values() if one.name == job]
        alive = [one for one in named if not one.state.is_over] or named[-1:]
        if not alive:
            names = [*self._records, *(one.name for one in self._records.values())]
            raise ConfigError(f"there is no job '{job}'", hint=did_you_mean(job, list(dict.fromkeys(names))))
        if len(alive) > 1:
            raise ConfigError(f"several jobs are called '{job}'", hint=f"give one's id: {_ids(alive)}")
        return alive[0]

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(list(self._records.values()))

    def status(self, job: str) -> dict[str, object]:
        """What a job's process has said last of how it is getting on."""
        return dict(self._runs[job].status) if self._runs[job].alive else {}

    @property
    def slots_free(self) -> int:
        """Slots that no job has."""
        return self.slots - sum(one.parallelism for one in self if self._runs_now(one) or self._runs[one.id].alive)

    # -- inside

    @staticmethod
    def _runs_now(record: JobRecord) -> bool:
        return record.state in (JobState.RUNNING, JobState.STOPPING)

    def _save(self, record: JobRecord) -> Save:
        self._records[record.id] = record
        return Save(record)

    def _closed(self, record: JobRecord, state: JobState, error: str | None = None) -> JobRecord:
        """A record at its end: no savepoint stays open."""
        why = error or "the job ended before the savepoint was written"
        for one in record.pending:
            record = record.with_savepoint(replace(one, state=SavepointState.FAILED, error=why))
        return replace(record, state=state, error=error if state is JobState.FAILED else None, rescale_to=None)

    def _running(self, job: str) -> JobRecord:
        record = self.record(job)
        if record.state is not JobState.RUNNING:
            raise ConfigError(
                f"job {record.id} is {record.state.value}", hint="this can be asked of a running job only"
            )
        return record

    def _check_slots(self, parallelism: int) -> None:
        if not 1 <= parallelism <= self.slots:
            raise ConfigError(
                f"a parallelism of {parallelism} does not fit into {self.slots} slots",
                hint="give less, or start the cluster with more: lakeward cluster start --slots N",
            )

    def _deal(self, now_ms: int) -> list[Action]:
        """Give free slots to those that wait, oldest first; the first that does not fit holds up those after it."""
        actions: list[Action] = []
        for record in list(self._records.values()):
            if record.state is not JobState.WAITING:
                continue
            if record.parallelism > self.slots_free:
                break
            actions.append(self._save(replace(record, state=JobState.RUNNING)))
            self._runs[record.id].due_ms = now_ms
        return [*actions, *self._due(now_ms)]

    def _due(self, now_ms: int) -> list[Action]:
        actions: list[Action] = []
        for job, run in self._runs.items():
            if run.due_ms is not None and run.due_ms <= now_ms and not run.alive:
                run.due_ms, run.alive, run.ready, run.status = None, True, False, {}
                actions.append(Start(self._records[job]))
        return actions

    def _status(self, run: _Run, record: JobRecord, message: Mapping[str, object]) -> list[Action]:
        run.status = {name: value for name, value in message.items() if name != "type"}
        checkpoint = message.get("checkpoint")
        if isinstance(checkpoint, int) and checkpoint != run.checkpoint:
            run.failures, run.checkpoint = 0, checkpoint
        if run.ready or message.get("state") != "RUNNING":
            return []
        run.ready = True
        return self._ask(record, record.pending)

    def _ask(self, record: JobRecord, savepoints: Iterable[Savepoint]) -> list[Action]:
        """Pass requests on to a process that takes them; one that does not yet gets them when it says that it runs."""
        if not self._runs[record.id].ready:
            return []
        actions: list[Action] = []
        for one in savepoints:
            if one.stops:
                actions.append(Send(record.id, {"do": "stop", "id": one.id, "savepoint": one.target}))
            else:
                actions.append(Send(record.id, {"do": "savepoint", "id": one.id, "target": one.target}))
        if record.state is JobState.STOPPING and not any(one.stops for one in record.pending):
            actions.append(Send(record.id, {"do": "stop", "id": "stop", "savepoint": None}))
        return actions

    def _answer(self, record: JobRecord, message: Mapping[str, object]) -> list[Action]:
        found = next((one for one in record.pending if one.id == message.get("id")), None)
        if found is None:
            return []
        if message.get("ok"):
            checkpoint = message.get("checkpoint")
            done = replace(
                found,
                state=SavepointState.DONE,
                checkpoint=checkpoint if isinstance(checkpoint, int) else None,
            )
            return [self._save(record.with_savepoint(done))]
        record = record.with_savepoint(
            replace(found, state=SavepointState.FAILED, error=str(message.get("error", "the job did not say why")))
        )
        if found.stops and record.state is JobState.STOPPING:
            record = replace(record, state=JobState.RUNNING)
        return [self._save(record)]


def _ids(records: Iterable[JobRecord]) -> str:
    return ", ".join(one.id for one in records)
