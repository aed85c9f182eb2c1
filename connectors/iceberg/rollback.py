"""Taking the table back to a restored checkpoint, if nobody else's rows are lost by it."""

from __future__ import annotations

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update import SetPropertiesUpdate

from lakeward.connectors.iceberg.markers import (
    Marker,
    Position,
    ancestors,
    encode_marker,
    is_marked,
    property_key,
    snapshot_position,
)
from lakeward.connectors.iceberg.pyiceberg_internals import commit_once, main_is_at, move_main
from lakeward.connectors.iceberg.recovery import Policy
from lakeward.engine.core.errors import SinkError, SinkStateError

_FIRST_SEQUENCE_NUMBER = 1
ROLLBACK_TOKEN = "rollback"


def roll_back(table: Table, policy: Policy, to: Position, base: Position, lineage: int, job_id: str) -> Marker:
    """Move the main branch to where the sink had committed `to` and nothing later.

    Args:
        table: Just loaded.
        policy: Names the table and the sink id.
        to: The last commit that stays.
        base: The checkpoint whose rows are exactly what the table then holds.
        lineage: The new lineage, which fences writers of the abandoned one.
        job_id: For the record.

    Returns:
        The marker that the table now has.

    Raises:
        SinkStateError: Rows of other writers would go, too, or the snapshot was expired.
        SinkError: The table changed meanwhile, or the catalog failed.
    """
    metadata = table.metadata
    target = _target(metadata, policy, to)
    marker = Marker(
        position=Position(lineage, base.checkpoint),
        token=ROLLBACK_TOKEN,
        job_id=job_id,
        snapshot_id=target.snapshot_id if target is not None else None,
        sequence_number=(target.sequence_number or 0) if target is not None else 0,
        base=base,
    )
    recorded = SetPropertiesUpdate(updates={property_key(policy.sink_id): encode_marker(marker)})
    try:
        commit_once(table, (move_main(marker.snapshot_id), recorded), (main_is_at(metadata.current_snapshot_id),))
    except CommitFailedException as error:
        raise SinkError(
            f"the Iceberg table {policy.table} changed while it was rolled back: {error}",
            hint="the job tries again on the table as it is now",
        ) from error
    return marker


def _target(metadata: TableMetadata, policy: Policy, to: Position) -> Snapshot | None:
    """The snapshot before the sink's first commit after `to`; None for the empty table."""
    target: Snapshot | None = metadata.current_snapshot()
    passed: list[Snapshot] = []
    for snapshot in ancestors(metadata):
        passed.append(snapshot)
        if not is_marked(snapshot, policy.sink_id):
            continue
        if snapshot_position(snapshot) <= to:
            return target
        _check_own(passed, policy)
        passed = []
        target = metadata.snapshot_by_id(snapshot.parent_snapshot_id) if snapshot.parent_snapshot_id else None
        if target is None and snapshot.sequence_number != _FIRST_SEQUENCE_NUMBER:
            raise SinkStateError(
                f"the Iceberg table {policy.table} cannot be rolled back to checkpoint {to.checkpoint}: the snapshot"
                " before the commits that follow it was expired",
                hint="restore a newer checkpoint, or set on_rewind='append'",
            )
    return target


def _check_own(passed: list[Snapshot], policy: Policy) -> None:
    """Everything that a rollback drops must be the sink's own, or a compaction (which adds no rows)."""
    for snapshot in passed:
        replaces = snapshot.summary is not None and snapshot.summary.operation == Operation.REPLACE
        if not is_marked(snapshot, policy.sink_id) and not replaces:
            raise SinkStateError(
                f"the Iceberg table {policy.table} cannot be rolled back: another writer has added snapshot"
                f" {snapshot.snapshot_id} after the restored checkpoint, and its changes would be lost",
                hint="restore a newer checkpoint, or set on_rewind='append', or roll the table back by hand",
            )
