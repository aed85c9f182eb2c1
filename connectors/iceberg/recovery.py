"""Do the table and the restored checkpoint belong together? A pure decision, and the reasons to refuse."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lakeward.connectors.iceberg.committables import EMPTY_TOKEN
from lakeward.connectors.iceberg.markers import Marker, Position, SinkHistory
from lakeward.connectors.iceberg.options import OnExisting, OnRewind
from lakeward.engine.core.errors import SinkStateError

FIRST_LINEAGE = 1
NO_COMMIT = Position(0, 0)


@dataclass(frozen=True, slots=True)
class Restored:
    """What the restored checkpoint says.

    Args:
        position: The checkpoint, and the lineage the sink was in.
        known: The sink's last commit when the checkpoint was taken; `NO_COMMIT` if there was none; None if the
            checkpoint says nothing about this sink id.
        pending_token: The token of the committables whose commit may not have happened; None when it has.
    """

    position: Position
    known: Position | None
    pending_token: str | None

    @property
    def has_pending_rows(self) -> bool:
        """Whether there are files to commit."""
        return self.pending_token not in (None, EMPTY_TOKEN)


@dataclass(frozen=True, slots=True)
class Policy:
    """What the user chose, and the names for the error texts."""

    table: str
    sink_id: str
    on_rewind: OnRewind = "refuse"
    on_existing: OnExisting = "refuse"


class Step(Enum):
    """What to do before the job goes on."""

    GO_ON = "the table is where the checkpoint expects it"
    COMMIT_PENDING = "commit the restored checkpoint's files"
    ROLL_BACK = "roll the table back to the restored checkpoint"
    ROLL_BACK_AND_COMMIT = "roll the table back to the commit before the restored checkpoint, then commit its files"


@dataclass(frozen=True, slots=True)
class Decision:
    """How to go on.

    Args:
        step: What to do.
        lineage: What later commits belong to.
        to: For a rollback, the sink's last commit that stays.
    """

    step: Step
    lineage: int
    to: Position | None = None


def decide(history: SinkHistory, restored: Restored | None, policy: Policy) -> Decision:
    """Compare the table's marker with the restored checkpoint.

    Args:
        history: What the table tells about this sink id.
        restored: The restored checkpoint; None on a first run or a stateless restart.
        policy: What the user chose for the cases that are refused otherwise.

    Returns:
        How to go on.

    Raises:
        SinkStateError: Going on would lose or double rows.
    """
    if restored is None:
        return _first_run(history, policy)
    recorded, at = history.recorded, restored.position
    if recorded is not None and recorded.base is not None and not history.rolled_back:
        if recorded.base == at:
            return Decision(Step.GO_ON, recorded.position.lineage)  # an earlier attempt rolled back to exactly here
        if recorded.base == restored.known and restored.has_pending_rows:  # and here, to just before it
            return Decision(Step.COMMIT_PENDING, recorded.position.lineage)
    if _is_ahead(history.visible, restored):
        return _rewound(history, restored, policy)
    if history.rolled_back:
        return _rolled_back(history, restored, policy)
    if _is_behind(history.visible, restored.known):
        return _rows_are_gone(history, restored, policy)
    if _is_in_between(history.visible, restored):
        return _overtaken(history, restored, policy)
    if restored.has_pending_rows and (history.visible is None or history.visible.position != at):
        return Decision(Step.COMMIT_PENDING, at.lineage)
    return Decision(Step.GO_ON, at.lineage)


def _is_ahead(visible: Marker | None, restored: Restored) -> bool:
    """Readers see a later commit, or another commit of the same checkpoint id."""
    if visible is None:
        return False
    if visible.position == restored.position:
        return restored.pending_token not in (None, visible.token)
    return visible.position > restored.position


def _is_behind(visible: Marker | None, known: Position | None) -> bool:
    return known not in (None, NO_COMMIT) and (visible is None or visible.position < known)


def _is_in_between(visible: Marker | None, restored: Restored) -> bool:
    """Readers see a commit that the restored checkpoint does not know, and that is not its own either."""
    return (
        restored.known is not None
        and visible is not None
        and visible.position not in (restored.position, restored.known)
    )


def _first_run(history: SinkHistory, policy: Policy) -> Decision:
    if history.recorded is None:
        return Decision(Step.GO_ON, FIRST_LINEAGE)
    if policy.on_existing == "append":
        return Decision(Step.GO_ON, history.recorded.position.lineage + 1)
    raise SinkStateError(
        f"the job starts without a checkpoint, but the Iceberg table {policy.table} already holds rows that the sink"
        f" id '{policy.sink_id}' committed: {history.recorded}",
        hint="start from the checkpoint directory or a savepoint that these rows belong to; or, to add to the table,"
        " set on_existing='append' (rows that the source replays come twice) or another sink_id; or drop the table",
    )


def _rewound(history: SinkHistory, restored: Restored, policy: Policy) -> Decision:
    assert history.recorded is not None
    lineage = history.recorded.position.lineage + 1
    if policy.on_rewind == "rollback":
        return Decision(Step.ROLL_BACK, lineage, restored.position)
    if policy.on_rewind == "append":
        return Decision(Step.GO_ON, lineage)
    raise SinkStateError(
        f"the job was restored from checkpoint {restored.position.checkpoint}, but the Iceberg table {policy.table}"
        f" already holds {history.visible} of the sink id '{policy.sink_id}': rows after the restored checkpoint"
        " would come twice",
        hint="restore the newest checkpoint; or set on_rewind='rollback' to take the table back to the restored"
        " checkpoint, or on_rewind='append' to accept double rows; or give the job another sink_id",
    )


def _overtaken(history: SinkHistory, restored: Restored, policy: Policy) -> Decision:
    """A run that was taken for dead has committed after the run of the restored checkpoint had begun."""
    assert history.recorded is not None
    lineage = history.recorded.position.lineage + 1
    if policy.on_rewind == "rollback":
        step = Step.ROLL_BACK_AND_COMMIT if restored.has_pending_rows else Step.ROLL_BACK
        return Decision(step, lineage, restored.known)
    if policy.on_rewind == "append":
        return Decision(Step.COMMIT_PENDING if restored.has_pending_rows else Step.GO_ON, lineage)
    known = restored.known or NO_COMMIT
    before = "no commit" if known == NO_COMMIT else f"its commit of checkpoint {known.checkpoint}"
    raise SinkStateError(
        f"the job was restored from checkpoint {restored.position.checkpoint}, which was made when the Iceberg table"
        f" {policy.table} held {before} of the sink id '{policy.sink_id}', but now it holds {history.visible}: an older"
        " run of the job has committed since, and its rows would come twice",
        hint="restore the checkpoint that the table holds; or set on_rewind='rollback' to take that commit away, or"
        " on_rewind='append' to accept double rows",
    )


def _rolled_back(history: SinkHistory, restored: Restored, policy: Policy) -> Decision:
    """The table was rolled back by hand: to where the restored checkpoint expects it, or further?"""
    assert history.recorded is not None
    at, visible = restored.position, history.visible
    floor = visible.position if visible is not None else Position(0, 0)
    gone = (
        _is_behind(visible, restored.known)
        or history.recorded.position <= at
        or (restored.has_pending_rows and floor != at)
        or any(floor < position <= at for position in history.abandoned)
    )
    if gone:
        return _rows_are_gone(history, restored, policy)
    return Decision(Step.ROLL_BACK, history.recorded.position.lineage + 1, at)  # nothing to move, but a marker to set


def _rows_are_gone(history: SinkHistory, restored: Restored, policy: Policy) -> Decision:
    newest = history.recorded.position.lineage if history.recorded is not None else restored.position.lineage
    if policy.on_rewind == "append":
        return Decision(Step.GO_ON, max(newest, restored.position.lineage) + 1)
    raise SinkStateError(
        f"the job was restored from checkpoint {restored.position.checkpoint}, but the Iceberg table {policy.table}"
        f" only holds {history.visible or 'no commit'} of the sink id '{policy.sink_id}': it was rolled back or"
        " replaced, and rows between the two would be missing",
        hint="restore the checkpoint that the table was rolled back to, or roll the table forward again; or set"
        " on_rewind='append' to go on from here without these rows",
    )
