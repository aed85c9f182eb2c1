"""How a running job is getting on, for people who watch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.ids import CheckpointId, Generation


class JobState(Enum):
    """What a job does."""

    STARTING = "looks for its last checkpoint, and loads it"
    RUNNING = "reads its input"
    RESTARTING = "has failed, and waits to be started again"


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One look at a running job.

    Args:
        rows: Rows that its sources have read, in all attempts of this process.
        watermark_us: How far event time has come at the source that is furthest behind; None: no source has come to
            know one, or all have ended.
        checkpoint: The newest completed checkpoint; None: there is none.
        restarts: Attempts that failed before this one.
        state: What it does.
        attempt: The attempt's generation; None before it has one.
        checkpoint_us: When that checkpoint was completed, in microseconds since 1970 UTC.
        error: Why it is restarted.
    """

    rows: int
    watermark_us: int | None
    checkpoint: CheckpointId | None
    restarts: int = 0
    state: JobState = JobState.RUNNING
    attempt: Generation | None = None
    checkpoint_us: int | None = None
    error: LakewardError | None = None


Observer = Callable[[JobStatus], None]
"""Is told some ten times a second; must be quick."""


def nobody(status: JobStatus) -> None:
    """Nobody watches."""
