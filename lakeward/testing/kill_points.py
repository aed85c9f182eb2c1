"""Kill this very process with SIGKILL at a chosen point of a checkpoint. For tests of exactly-once under kill -9.

Used inside the process that is to die: `arm(KillPoint.AFTER_COMMIT, nth=3)`, then run the job. The engine itself has no
hooks; `arm` wraps the method that the point lies at.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from enum import Enum
from typing import Any, NoReturn

from lakeward.engine.checkpoint.workflow import CheckpointWorkflow
from lakeward.engine.runtime.chain import Chain
from lakeward.engine.runtime.committers import JobCommitters


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
    """Kill this process when it reaches a point for the n-th time (1: the first).

    >>> from lakeward.testing.kill_points import KillPoint
    >>> KillPoint("after-commit").name
    'AFTER_COMMIT'

    Args:
        point: Where.
        nth: Which time.
    """
    match point:
        case KillPoint.AFTER_PREPARE:
            _wrap(Chain, "prepare", nth, before=False)
        case KillPoint.AFTER_MANIFEST:
            _wrap(CheckpointWorkflow, "claim", nth, before=True)
        case KillPoint.BEFORE_COMMIT:
            _wrap(JobCommitters, "commit", nth, before=True)
        case KillPoint.AMID_COMMIT:
            _wrap_first_commit(nth)
        case KillPoint.AFTER_COMMIT:
            _wrap(JobCommitters, "commit", nth, before=False)


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be survived")


def _wrap(owner: type, method: str, nth: int, *, before: bool) -> None:
    inner: Callable[..., Any] = getattr(owner, method)
    calls = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == nth:
            _die()
        result = inner(*args, **kwargs)
        if not before and calls == nth:
            _die()
        return result

    setattr(owner, method, wrapped)


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
            _die()
        inner(self, checkpoint, snapshots)

    JobCommitters.commit = wrapped  # type: ignore[method-assign]
