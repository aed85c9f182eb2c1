"""The sink's committer: one snapshot a checkpoint, exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from pyiceberg.table import Table

from lakeward.connectors.iceberg.committables import EMPTY_TOKEN, WrittenFile, commit_token, read_committables
from lakeward.connectors.iceberg.lake_table import LakeTable
from lakeward.connectors.iceberg.markers import Marker, Position, read_history
from lakeward.connectors.iceberg.options import EMPTY_CHECKPOINTS_MAX
from lakeward.connectors.iceberg.publish import Publisher, check_same_table
from lakeward.connectors.iceberg.recovery import FIRST_LINEAGE, NO_COMMIT, Decision, Policy, Restored, Step, decide
from lakeward.connectors.iceberg.rollback import roll_back
from lakeward.engine.api.sink import Committer, CommitterContext
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import InternalError, SinkStateError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class SavedState:
    """What the restored checkpoint says of this sink.

    Args:
        sink_id: The sink id then.
        table_uuid: The table's identity.
        lineage: The lineage the sink was in.
        known: Its last commit that was known when the checkpoint was taken.
    """

    sink_id: str
    table_uuid: str
    lineage: int
    known: Position | None

    @classmethod
    def read(cls, state: JsonObject | None) -> SavedState | None:
        """Read the state of this or an older version.

        Raises:
            SinkStateError: A newer Lakeward wrote it.
        """
        if state is None:
            return None
        if state.get("v") != STATE_VERSION:
            raise SinkStateError(
                f"the checkpoint holds Iceberg sink state of version {state.get('v')!r}; this Lakeward reads version"
                f" {STATE_VERSION}",
                hint="restore with the Lakeward version that wrote the checkpoint, or a newer one",
            )
        stored = cast("dict[str, Any]", state)
        known = Position(*stored["known"]) if stored["known"] else None
        return cls(stored["sink_id"], stored["table_uuid"], stored["lineage"], known)


class IcebergCommitter(Committer):
    """Publishes checkpoints; see `Publisher` for how one commit stays exactly-once, `decide` for restarts.

    A checkpoint without rows makes no snapshot, up to a limit in a row; so the table's marker may lag behind the
    newest checkpoint by as many.

    Args:
        lake: Opened for this committer, closed with it.
        policy: The sink id and what the user chose.
        context: The job's.
        snapshots_retained: See `plan_expiry`.
        clock: For waits between attempts.
    """

    def __init__(
        self,
        lake: LakeTable,
        policy: Policy,
        context: CommitterContext,
        snapshots_retained: int | None,
        clock: Clock,
    ) -> None:
        self._lake = lake
        self._policy = policy
        self._context = context
        self._saved = SavedState.read(context.restored_state)
        self._snapshots_retained = snapshots_retained
        self._clock = clock
        self._publisher: Publisher | None = None
        self._lineage = FIRST_LINEAGE
        self._last: Marker | None = None  # the sink's last commit, as far as this run knows
        self._done = 0  # the highest checkpoint that needs nothing more
        self._empty_in_a_row = 0
        self._backlog: dict[CheckpointId, list[WrittenFile]] = {}  # asked for and not known to be done, in order

    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        """See `Committer.recover`; creates the table if it is missing."""
        publisher = self._publisher = self._open()
        table = publisher.load()
        history = read_history(table.metadata, self._policy.sink_id)
        files = None if pending is None else read_committables(pending)
        restored = self._restored(files)
        decision = decide(history, restored, self._policy)
        self._lineage, self._last = decision.lineage, history.recorded
        self._done = self._context.restored or 0
        if decision.to is not None and restored is not None:
            self._last = self._roll_back(table, decision, decision.to, restored)
        if decision.step in (Step.COMMIT_PENDING, Step.ROLL_BACK_AND_COMMIT) and files and restored is not None:
            self._commit_pending(publisher, decision.lineage, restored, files)

    def commit(self, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
        """See `Committer.commit`; commits that failed before are made up first, in order."""
        if self._publisher is None:
            raise InternalError("commit before recover", hint="please report it")
        if checkpoint <= self._done:
            return
        self._backlog[checkpoint] = read_committables(committables)
        for number in sorted(self._backlog):
            self._commit_one(self._publisher, number, self._backlog[number])
            del self._backlog[number]

    def snapshot(self) -> JsonObject | None:
        """The sink id, the table's identity, and the last known commit."""
        if self._publisher is None:
            return None
        return {
            "v": STATE_VERSION,
            "sink_id": self._policy.sink_id,
            "table_uuid": self._publisher.table_uuid,
            "lineage": self._lineage,
            "known": list(self._last.position) if self._last is not None else None,
        }

    def close(self) -> None:
        """Give back the catalog's connections."""
        self._lake.close()

    def _commit_one(self, publisher: Publisher, checkpoint: CheckpointId, files: list[WrittenFile]) -> None:
        if files or self._empty_in_a_row + 1 >= EMPTY_CHECKPOINTS_MAX:
            target = self._marker(Position(self._lineage, checkpoint), files)
            self._last = publisher.publish(files, target, self._last)
            self._empty_in_a_row = 0
        else:
            self._empty_in_a_row += 1
        self._done = checkpoint

    def _roll_back(self, table: Table, decision: Decision, to: Position, restored: Restored) -> Marker:
        base = to if decision.step is Step.ROLL_BACK_AND_COMMIT else restored.position
        return roll_back(table, self._policy, to, base, decision.lineage, self._context.job_id)

    def _commit_pending(self, publisher: Publisher, lineage: int, restored: Restored, files: list[WrittenFile]) -> None:
        target = self._marker(Position(lineage, restored.position.checkpoint), files)
        if lineage != restored.position.lineage:  # for the next attempt: these are the rows of the same checkpoint
            target = replace(target, base=restored.position)
        if not self._landed_under_old_sink_id(publisher, target):
            self._last = publisher.publish(files, target, self._last)

    def _landed_under_old_sink_id(self, publisher: Publisher, target: Marker) -> bool:
        """The user gave the sink another id: its pending files may be in the table under the old one."""
        if self._saved is None or self._saved.sink_id == self._policy.sink_id:
            return False
        old = read_history(publisher.load().metadata, self._saved.sink_id).recorded
        return old is not None and old.token == target.token

    def _marker(self, position: Position, files: list[WrittenFile]) -> Marker:
        return Marker(position, commit_token(files) if files else EMPTY_TOKEN, self._context.job_id)

    def _open(self) -> Publisher:
        table = self._lake.load() if self._saved is not None else self._lake.ensure(self._context.schema)
        if self._saved is not None:
            check_same_table(table, self._saved.table_uuid)
        uuid = str(table.metadata.table_uuid)
        return Publisher(self._lake, uuid, self._policy, self._snapshots_retained, self._clock)

    def _restored(self, files: list[WrittenFile] | None) -> Restored | None:
        """The restored checkpoint as `decide` wants it; None also when the sink is new in the job."""
        saved, checkpoint = self._saved, self._context.restored
        if saved is None or checkpoint is None:
            return None
        token = None if files is None else commit_token(files)
        if saved.sink_id != self._policy.sink_id:
            return Restored(Position(FIRST_LINEAGE, checkpoint), None, token)
        return Restored(Position(saved.lineage, checkpoint), saved.known or NO_COMMIT, token)
