"""Kill this very process with SIGKILL at a chosen point of a checkpoint. For tests of exactly-once under kill -9.

Used inside the process that is to die: `arm(KillPoint.AFTER_COMMIT, nth=3)`, then run the job. The engine itself has no
hooks; `arm` wraps the method that the point lies at. Of a job with worker processes, one of them dies where sinks have
prepared, at the other points the coordinator.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NoReturn

from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.runtime.chain import Chain
from lakeward.engine.runtime.committers import JobCommitters
from lakeward.engine.runtime.sink_operator import SinkOperator
from lakeward.engine.runtime.source_task import SourceTask


class KillPoint(Enum):
    """Where a process dies."""

    AFTER_PREPARE = "after-prepare"
    """Sinks have written their files; nothing else of the checkpoint exists."""
    AFTER_MANIFEST = "after-manifest"
    """The manifest is there, the claim is not."""
    BEFORE_COMMIT = "before-commit"
    """Manifest and claim are there; no table knows of the checkpoint."""
    AMID_COMMIT = "amid-commit"
    """The first sink has committed, the others have not."""
    AFTER_COMMIT = "after-commit"
    """All tables have the rows; the commit marker is missing."""


def arm(point: KillPoint, nth: int) -> None:
    """Kill this process when it reaches a point of its n-th checkpoint (1: the first).

    >>> from lakeward.testing.kill_points import KillPoint
    >>> KillPoint("after-commit").name
    'AFTER_COMMIT'

    Args:
        point: Where.
        nth: Of which of this process's checkpoints.
    """
    match point:
        case KillPoint.AFTER_PREPARE:
            _wrap_prepare(nth)
        case KillPoint.AFTER_MANIFEST:
            _wrap(CheckpointWorkflow, "claim", nth, before=True)
        case KillPoint.BEFORE_COMMIT:
            _wrap(JobCommitters, "commit", nth, before=True)
        case KillPoint.AMID_COMMIT:
            _wrap_first_commit(nth)
        case KillPoint.AFTER_COMMIT:
            _wrap(JobCommitters, "commit", nth, before=False)


def pace(batches: int) -> None:
    """Let each subtask of a source read so many batches at most, and no more until a checkpoint has completed.

    So a job over a small input has checkpoints all the way, however fast the machine is: a kill at one of the first
    lies in mid-run for certain. For the rest of this process.

    Args:
        batches: How many.
    """
    step, send, complete = SourceTask.step, SourceTask._send, SourceTask.complete
    read: Counter[str] = Counter()

    def paced_step(self: SourceTask) -> bool:
        return (read[self.id] < batches or bool(self._barriers)) and step(self)

    def counted_send(self: SourceTask, polled: Any) -> None:
        read[self.id] += 1
        send(self, polled)

    def complete_and_go_on(self: SourceTask, checkpoint: Any) -> None:
        read[self.id] = 0
        complete(self, checkpoint)

    for name, method in (("step", paced_step), ("_send", counted_send), ("complete", complete_and_go_on)):
        setattr(SourceTask, name, method)


def die() -> NoReturn:
    """Kill this process, now."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")


def _wrap(owner: type, method: str, nth: int, *, before: bool) -> None:
    inner: Callable[..., Any] = getattr(owner, method)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == nth:
            die()
        result = inner(*args, **kwargs)
        if not before and calls == nth:
            die()
        return result

    setattr(owner, method, wrapped)


def _wrap_prepare(nth: int) -> None:
    """Die when the first sink has prepared the n-th checkpoint; a task without a sink prepares nothing.

    With worker processes that is one of them; once, or those that replace it would die in their turn.
    """
    inner = Chain.prepare
    died = mmap.mmap(-1, 1)  # all processes that are forked from this one see it
    checkpoints: set[CheckpointId] = set()

    def wrapped(self: Chain, checkpoint: CheckpointId) -> list[Sequence[JsonObject]]:
        prepared = inner(self, checkpoint)
        if any(isinstance(one.operator, SinkOperator) for one in self._operators):
            checkpoints.add(checkpoint)
            if len(checkpoints) == nth and not died[0]:
                died[0] = 1
                die()
        return prepared

    Chain.prepare = wrapped  # type: ignore[method-assign]


def _wrap_first_commit(nth: int) -> None:
    """Let the n-th checkpoint's commit die after its first sink."""
    inner = JobCommitters.commit
    calls = 0

    def wrapped(self: JobCommitters, checkpoint: Any, snapshots: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            committers = self._committers
            first = next(iter(committers))
            self._committers = {first: committers[first]}
            inner(self, checkpoint, snapshots)
            die()
        inner(self, checkpoint, snapshots)

    JobCommitters.commit = wrapped  # type: ignore[method-assign]
