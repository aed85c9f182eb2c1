"""The four things that travel a channel, and nothing else: batches, watermarks, barriers, end of input."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.core.ids import CheckpointId

WATERMARK_MIN_US = -(2**63)
"""The watermark before any event was seen."""

WATERMARK_MAX_US = 2**63 - 1
"""The watermark after the end of all input: every event time has been reached."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one stream, all of the stream's Arrow schema."""

    data: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class Watermark:
    """No row with an event time at or before `timestamp_us` is expected after it (microseconds UTC).

    An idle sender does not hold back its receivers: while `idle` is set, its watermark is left out of the minimum, and
    counts when all senders are idle.
    """

    timestamp_us: int
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Barrier:
    """Separates the rows that belong to a checkpoint from those after it (Chandy and Lamport, 1985)."""

    checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class EndOfInput:
    """No more batches or watermarks follow on this channel; barriers still may, for the last checkpoint."""


Message = Batch | Watermark | Barrier | EndOfInput
