"""How a running job is getting on, for people who watch it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lakeward.engine.core.ids import CheckpointId


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One look at a running job.

    Args:
        rows: Rows that its sources have read, in all attempts of this process.
        watermark_us: How far event time has come at the source that is furthest behind; None: no source has come to
            know one, or all have ended.
        checkpoint: The newest completed checkpoint; None: there is none.
        restarts: Attempts that failed before this one.
    """

    rows: int
    watermark_us: int | None
    checkpoint: CheckpointId | None
    restarts: int = 0


Observer = Callable[[JobStatus], None]
"""Is told some ten times a second; must be quick."""


def nobody(status: JobStatus) -> None:
    """Nobody watches."""
