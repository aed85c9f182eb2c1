"""Committables of checkpoints that were given up: they go with the next one that is published. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lakeward.engine.core.ids import CheckpointId, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.snapshots import OperatorSnapshot
from lakeward.engine.runtime.worker import HandedOver

_Writer = tuple[OperatorId, SubtaskIndex]


class CarriedCommittables:
    """What sink writers have handed over and no completed checkpoint holds yet.

    A writer hands its rows over once, at the barrier. When that checkpoint is then given up (it timed out, an upload or
    its manifest failed) and the job goes on, the rows belong to the next checkpoint: its positions are behind them.

    Every task reports in the order of its barriers, so when a checkpoint is published, all earlier reports are here.
    """

    def __init__(self) -> None:
        self._handed_over: dict[CheckpointId, dict[_Writer, Sequence[JsonObject]]] = {}

    def note(self, handed: HandedOver) -> None:
        """A writer has handed over what it had."""
        self._handed_over.setdefault(handed.checkpoint, {})[handed.uid, handed.subtask] = handed.committables

    def added_to(self, checkpoint: CheckpointId, snapshots: Sequence[OperatorSnapshot]) -> tuple[OperatorSnapshot, ...]:
        """The snapshots of a checkpoint, with the committables of earlier ones before their own."""
        earlier = [self._handed_over[one] for one in sorted(self._handed_over) if one < checkpoint]
        if not earlier:
            return tuple(snapshots)
        return tuple(_with_earlier(snapshot, earlier) for snapshot in snapshots)

    def forget(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is complete: it holds everything up to it."""
        self._handed_over = {one: parts for one, parts in self._handed_over.items() if one > checkpoint}


def _with_earlier(
    snapshot: OperatorSnapshot, earlier: Sequence[dict[_Writer, Sequence[JsonObject]]]
) -> OperatorSnapshot:
    before = [one for parts in earlier for one in parts.get((snapshot.uid, snapshot.subtask), ())]
    return replace(snapshot, committables=(*before, *snapshot.committables)) if before else snapshot
