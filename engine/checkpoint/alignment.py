"""Barrier alignment: when a task with several inputs may take its snapshot.

A task that has seen the barrier on one input must not read on from it until the barrier came on all others: else rows
of the next checkpoint would get into this one's state. After Chandy and Lamport, "Distributed Snapshots" (1985), in the
form of Carbone et al., "Lightweight Asynchronous Snapshots for Distributed Dataflows" (2015).
"""

from __future__ import annotations

from dataclasses import dataclass

from lakeward.engine.checkpoint.events import CheckpointFailure
from lakeward.engine.core.errors import InternalError
from lakeward.engine.core.ids import ChannelIndex, CheckpointId
from lakeward.engine.core.messages import Barrier


@dataclass(frozen=True, slots=True)
class Block:
    """Read no further from this channel until the alignment ends."""

    channel: ChannelIndex


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The barrier is there on every channel: take the snapshot now. All channels are free again."""

    checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class Ignore:
    """The barrier belongs to a checkpoint that is over; read on."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The alignment in progress is given up, and all its channels are free.

    Args:
        checkpoint: The one given up; it has to be declined.
        reason: Why.
        then: What the arriving barrier leads to, as if it had come after the abort.
    """

    checkpoint: CheckpointId
    reason: CheckpointFailure
    then: Decision


Decision = Block | Snapshot | Ignore | Abort


class BarrierAligner:
    """Counts barriers over the input channels of one task.

    >>> aligner = BarrierAligner(channels=2)
    >>> aligner.on_barrier(ChannelIndex(0), Barrier(CheckpointId(7)))
    Block(channel=0)
    >>> aligner.is_blocked(ChannelIndex(0)), aligner.is_blocked(ChannelIndex(1))
    (True, False)
    >>> aligner.on_barrier(ChannelIndex(1), Barrier(CheckpointId(7)))
    Snapshot(checkpoint=7)
    >>> aligner.is_blocked(ChannelIndex(0))
    False

    A channel that has ended still carries barriers, so it is counted like any other.

    Guarantees: at most one `Snapshot` a checkpoint, in rising order; a channel is blocked only while an alignment is
    in progress.

    Args:
        channels: Number of input channels, at least one.
    """

    def __init__(self, channels: int) -> None:
        if channels < 1:
            raise InternalError(f"a barrier aligner was made for {channels} channels")
        self._channels = channels
        self._aligning: CheckpointId | None = None
        self._arrived: set[ChannelIndex] = set()
        self._over = CheckpointId(-1)  # this checkpoint and all before it are done or given up

    def on_barrier(self, channel: ChannelIndex, barrier: Barrier) -> Decision:
        """Take note of a barrier that was read from a channel.

        Args:
            channel: Where it was read.
            barrier: The barrier.

        Returns:
            What to do now.

        Raises:
            InternalError: There is no such channel.
        """
        if not 0 <= channel < self._channels:
            raise InternalError(f"a barrier came on channel {channel} of {self._channels}")
        checkpoint = barrier.checkpoint
        if checkpoint <= self._over or (self._aligning is not None and checkpoint < self._aligning):
            return Ignore()
        if self._aligning is not None and checkpoint > self._aligning:
            given_up = self._aligning
            self._finish(given_up)
            return Abort(given_up, CheckpointFailure.SUBSUMED, self._arrive(channel, checkpoint))
        return self._arrive(channel, checkpoint)

    def is_blocked(self, channel: ChannelIndex) -> bool:
        """Whether the task must not read from this channel now."""
        return channel in self._arrived

    @property
    def aligning(self) -> CheckpointId | None:
        """The checkpoint whose barriers are being collected; None between alignments."""
        return self._aligning

    def on_abort(self, checkpoint: CheckpointId) -> bool:
        """The coordinator gave a checkpoint up: its late barriers are ignored from now on.

        Returns:
            Whether an alignment was cut short, so that blocked channels are free again.
        """
        if self._aligning is not None and self._aligning <= checkpoint:
            self._finish(checkpoint)
            return True
        if self._aligning is None:
            self._over = max(self._over, checkpoint)
        return False

    def on_overtaken(self, checkpoint: CheckpointId) -> frozenset[ChannelIndex]:
        """The task takes its snapshot before all barriers have come: those that are late are ignored from now on.

        Returns:
            The channels whose barrier had come; they are free.
        """
        arrived = frozenset(self._arrived) if self._aligning == checkpoint else frozenset()
        self._finish(checkpoint)
        return arrived

    def validate(self) -> None:
        """Check that the parts of the state fit together.

        Raises:
            InternalError: They do not.
        """
        if (self._aligning is None) != (not self._arrived):
            raise InternalError(f"aligner: aligning {self._aligning}, but channels {sorted(self._arrived)} are blocked")
        if len(self._arrived) >= self._channels:
            raise InternalError("aligner: every channel is blocked")
        if self._aligning is not None and self._aligning <= self._over:
            raise InternalError(f"aligner: aligning {self._aligning}, which is over ({self._over})")

    def _arrive(self, channel: ChannelIndex, checkpoint: CheckpointId) -> Decision:
        self._aligning = checkpoint
        self._arrived.add(channel)
        if len(self._arrived) < self._channels:
            return Block(channel)
        self._finish(checkpoint)
        return Snapshot(checkpoint)

    def _finish(self, checkpoint: CheckpointId) -> None:
        self._aligning = None
        self._arrived.clear()
        self._over = max(self._over, checkpoint)
