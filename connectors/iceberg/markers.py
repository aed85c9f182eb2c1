"""The sink's mark on the table: which checkpoint was committed last, and whether readers still see it.

Every commit carries its marker twice, written in one atomic step: in the snapshot's summary, and as a table property
`lakeward.sink.<sink id>`. The **property** says what was committed: it survives expiry, compaction and other writers,
and a rollback of the table does not move it. The **history** of the main branch says what readers see. Where the two
differ, somebody rolled the table back.

A marker's position is (lineage, checkpoint). The lineage rises whenever checkpoint ids stop being comparable: at a
stateless restart that appends, and after a rewind. So positions only ever rise, and a writer of an abandoned lineage
is told apart from a live one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

MARKER_VERSION = 1
PROPERTY_PREFIX = "lakeward.sink."
SINK_ID = "lakeward.sink-id"
JOB_ID = "lakeward.job-id"
CHECKPOINT_ID = "lakeward.checkpoint-id"
LINEAGE = "lakeward.lineage"
TOKEN = "lakeward.commit-token"


class Position(NamedTuple):
    """A place in the order of a sink's commits."""

    lineage: int
    checkpoint: int


@dataclass(frozen=True, slots=True)
class Marker:
    """One commit of one sink.

    Args:
        position: Its lineage and checkpoint.
        token: Names the files it added (`commit_token`).
        job_id: The job that made it, for the record.
        snapshot_id: Its snapshot; None after a rollback to an empty table.
        sequence_number: That snapshot's place in the table's history.
        base: Set by a rollback: the restored checkpoint whose rows are exactly what the table holds.
    """

    position: Position
    token: str
    job_id: str
    snapshot_id: int | None = None
    sequence_number: int = 0
    base: Position | None = None

    def same_commit(self, other: Marker | None) -> bool:
        """Whether both stand for one commit."""
        return other is not None and (self.position, self.token) == (other.position, other.token)

    def __str__(self) -> str:
        return f"checkpoint {self.position.checkpoint} (lineage {self.position.lineage}, job {self.job_id})"


@dataclass(frozen=True, slots=True)
class SinkHistory:
    """What a table tells about one sink id.

    Args:
        recorded: Its last commit, visible or not; None if it never committed.
        visible: Its newest commit whose rows readers see.
        rolled_back: Whether rows that were committed are no longer visible, because the table was rolled back.
        abandoned: Positions of its commits that are still stored but no longer part of the table's history.
    """

    recorded: Marker | None
    visible: Marker | None
    rolled_back: bool
    abandoned: tuple[Position, ...] = ()


def property_key(sink_id: str) -> str:
    """The table property of a sink's marker."""
    return PROPERTY_PREFIX + sink_id


def summary_properties(sink_id: str, marker: Marker) -> dict[str, str]:
    """The marker as snapshot summary properties."""
    return {
        SINK_ID: sink_id,
        JOB_ID: marker.job_id,
        CHECKPOINT_ID: str(marker.position.checkpoint),
        LINEAGE: str(marker.position.lineage),
        TOKEN: marker.token,
    }


def encode_marker(marker: Marker) -> str:
    """The marker as a table property's value."""
    return json.dumps(
        {
            "v": MARKER_VERSION,
            "lineage": marker.position.lineage,
            "checkpoint": marker.position.checkpoint,
            "token": marker.token,
            "job": marker.job_id,
            "snapshot": marker.snapshot_id,
            "sequence": marker.sequence_number,
            "base": marker.base,
        },
        separators=(",", ":"),
    )


def decode_marker(text: str) -> Marker:
    """Undo `encode_marker`."""
    stored = json.loads(text)
    return Marker(
        position=Position(stored["lineage"], stored["checkpoint"]),
        token=stored["token"],
        job_id=stored["job"],
        snapshot_id=stored["snapshot"],
        sequence_number=stored["sequence"],
        base=Position(*stored["base"]) if stored["base"] else None,
    )


def read_history(metadata: TableMetadata, sink_id: str) -> SinkHistory:
    """What the table tells about a sink id, from its metadata alone."""
    by_property = metadata.properties.get(property_key(sink_id))
    in_history = next(_markers(ancestors(metadata), sink_id), None)
    known = [m for m in (decode_marker(by_property) if by_property else None, in_history) if m is not None]
    if not known:
        return SinkHistory(None, None, rolled_back=False)
    recorded = max(known, key=lambda marker: marker.position)  # the property, unless somebody took it away
    if _is_visible(recorded, metadata):
        return SinkHistory(recorded, recorded, rolled_back=False)
    return SinkHistory(recorded, in_history, rolled_back=True, abandoned=_abandoned(metadata, sink_id))


def ancestors(metadata: TableMetadata) -> Iterator[Snapshot]:
    """The snapshots that make up the table now, newest first, as far back as they are kept."""
    by_id = {snapshot.snapshot_id: snapshot for snapshot in metadata.snapshots}
    current = by_id.get(metadata.current_snapshot_id) if metadata.current_snapshot_id is not None else None
    while current is not None:
        yield current
        parent = current.parent_snapshot_id
        current = by_id.get(parent) if parent is not None else None


def is_marked(snapshot: Snapshot, sink_id: str) -> bool:
    """Whether the snapshot is a commit of this sink."""
    return _summary(snapshot).get(SINK_ID) == sink_id


def snapshot_position(snapshot: Snapshot) -> Position:
    """The position of a marked snapshot."""
    summary = _summary(snapshot)
    return Position(int(summary.get(LINEAGE, "1")), int(summary[CHECKPOINT_ID]))


def last_marked_snapshots(metadata: TableMetadata) -> set[int]:
    """Each sink's last marked snapshot, for all sinks that ever wrote to the table: expiry must keep them."""
    markers = [decode_marker(v) for k, v in metadata.properties.items() if k.startswith(PROPERTY_PREFIX)]
    newest = {
        _summary(s)[SINK_ID]: s.snapshot_id
        for s in sorted(metadata.snapshots, key=lambda s: s.sequence_number or 0)
        if SINK_ID in _summary(s)
    }
    return {m.snapshot_id for m in markers if m.snapshot_id is not None} | set(newest.values())


def _markers(snapshots: Iterator[Snapshot], sink_id: str) -> Iterator[Marker]:
    for snapshot in snapshots:
        if is_marked(snapshot, sink_id):
            summary = _summary(snapshot)
            yield Marker(
                position=snapshot_position(snapshot),
                token=summary.get(TOKEN, ""),
                job_id=summary.get(JOB_ID, ""),
                snapshot_id=snapshot.snapshot_id,
                sequence_number=snapshot.sequence_number or 0,
            )


def _is_visible(marker: Marker, metadata: TableMetadata) -> bool:
    """Whether the marker's snapshot is part of the table's history, as far as that can be told.

    Sequence numbers fall along the history, so reaching a smaller one without having met the snapshot proves that
    the table was rolled back past it. Where expiry has cut the history off before, the rows count as visible.
    """
    if marker.snapshot_id is None:
        return True
    if metadata.current_snapshot_id is None:
        return False
    for snapshot in ancestors(metadata):
        if snapshot.snapshot_id == marker.snapshot_id:
            return True
        if (snapshot.sequence_number or 0) < marker.sequence_number:
            return False
    return True


def _abandoned(metadata: TableMetadata, sink_id: str) -> tuple[Position, ...]:
    alive = {snapshot.snapshot_id for snapshot in ancestors(metadata)}
    return tuple(
        snapshot_position(s) for s in metadata.snapshots if s.snapshot_id not in alive and is_marked(s, sink_id)
    )


def _summary(snapshot: Snapshot) -> Mapping[str, str]:
    return snapshot.summary.additional_properties if snapshot.summary is not None else {}
