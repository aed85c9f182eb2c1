"""A type for every identifier, so that two bare integers are never confused."""

from __future__ import annotations

from typing import NewType

JobId = NewType("JobId", str)
"""One job's identity; made at its first start and kept in its checkpoint directory."""

OperatorId = NewType("OperatorId", str)
"""The `uid` of an operator: names its state in checkpoints, so it must outlive code changes."""

SubtaskIndex = NewType("SubtaskIndex", int)
"""Number of a parallel instance of an operator, 0 .. parallelism - 1."""

CheckpointId = NewType("CheckpointId", int)
"""Number of a checkpoint; rises by at least one for each checkpoint of a job, over all its restarts."""

Generation = NewType("Generation", int)
"""Number of a run of the job over one checkpoint directory; a newer one fences all older ones."""

KeyGroup = NewType("KeyGroup", int)
"""Number of a key group, 0 .. max_parallelism - 1: the unit in which keyed state is redistributed."""

SplitId = NewType("SplitId", str)
"""Identity of a source split (a topic partition, a file): stable over restarts."""

ChannelIndex = NewType("ChannelIndex", int)
"""Number of an input channel of a task."""
