"""The checkpoint coordinator: decides when a checkpoint starts, is complete, is given up, and when the job ends.

A plain state machine, one a job attempt: it hears events, it says instructions, and does nothing else. Which
event does what in which phase stands in one table, `_TRANSITIONS`.

```
IDLE --due--> COLLECTING --all acked--> PUBLISHING --Published--> COMMITTING --Committed--> IDLE or FINISHED
 ^                |                          |                         |
 '-- timed out, declined, PublishFailed -----'                         '--CommitFailed--> FAILED
```
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from lakeward.engine.checkpoint.events import (
    Acked,
    AckResult,
    AllTasksEnded,
    CheckpointFailure,
    CheckpointRequested,
    Commit,
    CommitFailed,
    Committed,
    Declined,
    Event,
    FailJob,
    FinishJob,
    InjectBarriers,
    Instruction,
    NotifyAborted,
    NotifyComplete,
    Publish,
    Published,
    PublishFailed,
    StopRequested,
    Tick,
)
from lakeward.engine.core.errors import ConfigError, InternalError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.snapshots import OperatorSnapshot


@dataclass(frozen=True, slots=True)
class CoordinatorConfig:
    """How often checkpoints are taken and how much failure is borne.

    Args:
        interval_ms: Time between the starts of two checkpoints.
        timeout_ms: A checkpoint whose tasks have not all acknowledged by then is given up.
        failures_tolerated: Failed checkpoints in a row that do not yet fail the job.
        first_checkpoint: The id of the first one.
    """

    interval_ms: int
    timeout_ms: int
    failures_tolerated: int
    first_checkpoint: CheckpointId

    def __post_init__(self) -> None:
        for name, least in (("interval_ms", 1), ("timeout_ms", 1), ("failures_tolerated", 0), ("first_checkpoint", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"checkpoint {name} is {getattr(self, name)}", hint=f"it has to be at least {least}")


class Phase(Enum):
    """What the coordinator waits for."""

    IDLE = "the next checkpoint's time"
    COLLECTING = "acknowledgements"
    PUBLISHING = "the manifest to be stored"
    COMMITTING = "the sinks to commit"
    FINISHED = "nothing: the job has ended well"
    FAILED = "nothing: the job attempt has failed"


@dataclass(slots=True)
class _Pending:
    """The checkpoint in flight."""

    checkpoint: CheckpointId
    started_ms: int
    last: bool  # the job ends with it
    final: bool  # and it does so because the input ended
    acks: dict[str, tuple[OperatorSnapshot, ...]] = field(default_factory=dict)


class CheckpointCoordinator:
    """The checkpoints of one attempt of a job, one in flight at a time.

    >>> config = CoordinatorConfig(100, timeout_ms=1000, failures_tolerated=0, first_checkpoint=CheckpointId(7))
    >>> coordinator = CheckpointCoordinator(config, frozenset({"source-0"}))
    >>> coordinator.handle(Tick(), 0), coordinator.handle(Tick(), 100)
    ([], [InjectBarriers(checkpoint=7, aligned=False)])
    >>> coordinator.handle(Acked(CheckpointId(7), "source-0", ()), 120)
    [Publish(checkpoint=7, snapshots=(), final=False)]
    >>> coordinator.handle(Published(CheckpointId(7)), 130), coordinator.handle(Committed(CheckpointId(7)), 140)
    ([Commit(checkpoint=7)], [NotifyComplete(checkpoint=7)])

    The first event sets the time from which the first interval counts.

    Guarantees: checkpoint ids rise by one; `Publish` only after every task has acknowledged; `Commit` only after
    `Published`; for each checkpoint one of `NotifyComplete`, `NotifyAborted` and a failed commit's `FailJob`.

    Args:
        config: Intervals and limits.
        tasks: The ids of all tasks; each has to acknowledge every checkpoint.
    """

    def __init__(self, config: CoordinatorConfig, tasks: frozenset[str]) -> None:
        if not tasks:
            raise InternalError("a checkpoint coordinator was made for a job without tasks")
        self._config = config
        self._tasks = tasks
        self._phase = Phase.IDLE
        self._next = config.first_checkpoint
        self._pending: _Pending | None = None
        self._last_start_ms: int | None = None
        self._failures = 0
        self._ended = False
        self._stopping = False
        self._requested = False
        self.acks: dict[AckResult, int] = dict.fromkeys(AckResult, 0)
        self.last_ack: AckResult | None = None

    @property
    def phase(self) -> Phase:
        """What it waits for."""
        return self._phase

    @property
    def in_flight(self) -> CheckpointId | None:
        """The checkpoint between its barriers and its commit; None if there is none."""
        return self._pending.checkpoint if self._pending else None

    @property
    def next_checkpoint(self) -> CheckpointId:
        """The checkpoint that starts next."""
        return self._next

    @property
    def failures_in_a_row(self) -> int:
        """Failed checkpoints since the last completed one."""
        return self._failures

    def waiting_for(self) -> frozenset[str]:
        """Tasks that have not acknowledged the checkpoint in flight."""
        return self._tasks - self._pending.acks.keys() if self._pending else frozenset()

    def handle(self, event: Event, now_ms: int) -> list[Instruction]:
        """Take in an event.

        Args:
            event: What happened.
            now_ms: Monotonic milliseconds; never less than in the call before.

        Returns:
            What to do, in this order.

        Raises:
            InternalError: The event cannot happen in this phase: its sender has a bug.
        """
        if self._phase in (Phase.FINISHED, Phase.FAILED):
            self._record_late(event)
            return []
        if self._last_start_ms is None:
            self._last_start_ms = now_ms
        transition = _TRANSITIONS.get((self._phase, type(event)))
        if transition is None:
            raise InternalError(f"checkpoint coordinator: {event!r} came while waiting for {self._phase.value}")
        return transition(self, event, now_ms) + self._start_if_due(now_ms)

    def validate(self) -> None:
        """Check that the parts of the state fit together.

        Raises:
            InternalError: They do not.
        """
        if (self._pending is not None) != (self._phase in (Phase.COLLECTING, Phase.PUBLISHING, Phase.COMMITTING)):
            raise InternalError(f"coordinator: phase {self._phase.name}, in flight {self.in_flight}")
        if self._pending is None:
            return
        if self._pending.checkpoint != self._next - 1:
            raise InternalError(f"coordinator: {self.in_flight} is in flight, but {self._next} is next")
        if not self._pending.acks.keys() <= self._tasks:
            raise InternalError("coordinator: a task that does not exist has acknowledged")
        if (self._phase is Phase.COLLECTING) != bool(self.waiting_for()):
            raise InternalError(f"coordinator: {self._phase.name}, still waiting for {sorted(self.waiting_for())}")

    # Transitions: one for each thing that can happen, named after it.

    def _on_tick(self, event: Event, now_ms: int) -> list[Instruction]:
        return []

    def _on_tick_while_collecting(self, event: Event, now_ms: int) -> list[Instruction]:
        pending = self._in_flight()
        if now_ms - pending.started_ms < self._config.timeout_ms:
            return []
        missing = ", ".join(sorted(self.waiting_for()))
        return self._abort(CheckpointFailure.TIMED_OUT, f"after {self._config.timeout_ms} ms without {missing}")

    def _on_acked(self, event: Acked, now_ms: int) -> list[Instruction]:
        result = self._record(self._classify(event.checkpoint, event.task))
        if result is not AckResult.ACCEPTED:
            return []
        pending = self._in_flight()
        pending.acks[event.task] = event.snapshots
        if len(pending.acks) < len(self._tasks):
            return []
        self._phase = Phase.PUBLISHING
        snapshots = (snapshot for snapshots in pending.acks.values() for snapshot in snapshots)
        ordered = tuple(sorted(snapshots, key=lambda snapshot: (snapshot.uid, snapshot.subtask)))
        return [Publish(pending.checkpoint, ordered, pending.final)]

    def _on_declined(self, event: Declined, now_ms: int) -> list[Instruction]:
        if event.checkpoint != self.in_flight or event.task not in self._tasks:
            return []
        return self._abort(CheckpointFailure.DECLINED, f"{event.task}: {event.reason}")

    def _on_late_decline(self, event: Declined, now_ms: int) -> list[Instruction]:
        return []

    def _on_published(self, event: Published, now_ms: int) -> list[Instruction]:
        self._check_in_flight(event.checkpoint, event)
        self._phase = Phase.COMMITTING
        return [Commit(event.checkpoint)]

    def _on_publish_failed(self, event: PublishFailed, now_ms: int) -> list[Instruction]:
        self._check_in_flight(event.checkpoint, event)
        return self._abort(CheckpointFailure.PUBLISH_FAILED, event.reason)

    def _on_committed(self, event: Committed, now_ms: int) -> list[Instruction]:
        self._check_in_flight(event.checkpoint, event)
        pending = self._in_flight()
        self._pending = None
        self._failures = 0
        self._phase = Phase.FINISHED if pending.last else Phase.IDLE
        done: list[Instruction] = [NotifyComplete(pending.checkpoint)]
        return [*done, FinishJob(pending.final)] if pending.last else done

    def _on_commit_failed(self, event: CommitFailed, now_ms: int) -> list[Instruction]:
        """The checkpoint stays: whoever restores it repeats the commit. Going on would let a later one overtake it."""
        self._check_in_flight(event.checkpoint, event)
        return self._fail(f"checkpoint {event.checkpoint}: {CheckpointFailure.COMMIT_FAILED.value}: {event.reason}")

    def _on_all_tasks_ended(self, event: Event, now_ms: int) -> list[Instruction]:
        self._ended = True
        return []

    def _on_stop_requested(self, event: Event, now_ms: int) -> list[Instruction]:
        self._stopping = True
        return []

    def _on_checkpoint_requested(self, event: Event, now_ms: int) -> list[Instruction]:
        self._requested = True
        return []

    # What they are made of.

    def _start_if_due(self, now_ms: int) -> list[Instruction]:
        if self._phase is not Phase.IDLE or self._last_start_ms is None:
            return []
        last = self._ended or self._stopping
        if not (last or self._requested) and now_ms - self._last_start_ms < self._config.interval_ms:
            return []
        aligned = last or self._requested
        self._requested = False
        self._pending = _Pending(self._next, now_ms, last=last, final=self._ended)
        self._next = CheckpointId(self._next + 1)
        self._last_start_ms = now_ms
        self._phase = Phase.COLLECTING
        return [InjectBarriers(self._pending.checkpoint, aligned)]

    def _abort(self, reason: CheckpointFailure, detail: str) -> list[Instruction]:
        pending = self._in_flight()
        self._pending = None
        self._phase = Phase.IDLE
        self._failures += 1
        aborted = NotifyAborted(pending.checkpoint, reason, detail)
        text = f"checkpoint {pending.checkpoint} failed: {reason.value} ({detail})"
        if pending.last:
            return [aborted, *self._fail(f"{text}; it was the last one, which the job has to end with")]
        if self._failures > self._config.failures_tolerated:
            tolerated = self._config.failures_tolerated
            return [aborted, *self._fail(f"{text}; {self._failures} in a row, and {tolerated} are tolerated")]
        return [aborted]

    def _fail(self, reason: str) -> list[Instruction]:
        self._pending = None
        self._phase = Phase.FAILED
        return [FailJob(reason)]

    def _classify(self, checkpoint: CheckpointId, task: str) -> AckResult:
        known = self._config.first_checkpoint <= checkpoint < self._next
        if not known or task not in self._tasks:
            return AckResult.UNKNOWN
        if self._pending is None or checkpoint != self._pending.checkpoint:
            return AckResult.LATE
        return AckResult.DUPLICATE if task in self._pending.acks else AckResult.ACCEPTED

    def _record(self, result: AckResult) -> AckResult:
        self.acks[result] += 1
        self.last_ack = result
        return result

    def _record_late(self, event: Event) -> None:
        if isinstance(event, Acked):
            self._record(self._classify(event.checkpoint, event.task))

    def _in_flight(self) -> _Pending:
        if self._pending is None:
            raise InternalError(f"checkpoint coordinator: no checkpoint is in flight in phase {self._phase.name}")
        return self._pending

    def _check_in_flight(self, checkpoint: CheckpointId, event: Event) -> None:
        if checkpoint != self.in_flight:
            raise InternalError(f"checkpoint coordinator: {event!r}, but {self.in_flight} is in flight")


_C = CheckpointCoordinator
_Transition = Callable[[CheckpointCoordinator, Event, int], list[Instruction]]
_TRANSITIONS: dict[tuple[Phase, type[Event]], _Transition] = {}


def _on(phases: tuple[Phase, ...], kind: type[Event], transition: Callable[..., list[Instruction]]) -> None:
    for phase in phases:
        _TRANSITIONS[phase, kind] = transition


_LIVE = (Phase.IDLE, Phase.COLLECTING, Phase.PUBLISHING, Phase.COMMITTING)
_on(_LIVE, Tick, _C._on_tick)
_on((Phase.COLLECTING,), Tick, _C._on_tick_while_collecting)
_on(_LIVE, Acked, _C._on_acked)
_on(_LIVE, Declined, _C._on_late_decline)
_on((Phase.COLLECTING,), Declined, _C._on_declined)
_on((Phase.PUBLISHING,), Published, _C._on_published)
_on((Phase.PUBLISHING,), PublishFailed, _C._on_publish_failed)
_on((Phase.COMMITTING,), Committed, _C._on_committed)
_on((Phase.COMMITTING,), CommitFailed, _C._on_commit_failed)
_on(_LIVE, AllTasksEnded, _C._on_all_tasks_ended)
_on(_LIVE, StopRequested, _C._on_stop_requested)
_on(_LIVE, CheckpointRequested, _C._on_checkpoint_requested)
