"""Keeping metadata small: expiring the sink's own old snapshots, and deleting the manifests that only they used.

Only snapshots of Lakeward sinks are expired, never one that a branch or tag names, never any sink's last marked one,
and only in tables that ask for it by the property `lakeward.snapshots-retained` (tables which the sink creates do).
Data files are never deleted: a sink only appends, so all of its files stay part of the table; files that other
writers replaced are for their own clean-up.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import takewhile

from pyiceberg.io import FileIO
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import TableUpdate

from lakeward.connectors.iceberg.manifest_lists import ManifestLists
from lakeward.connectors.iceberg.markers import SINK_ID, ancestors, last_marked_snapshots
from lakeward.connectors.iceberg.options import EXPIRE_AT_ONCE_MAX, RETAINED_PROPERTY
from lakeward.connectors.iceberg.pyiceberg_internals import delete_files, remove_snapshots

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Expiry:
    """Snapshots to expire together with a commit.

    Args:
        expired: Them.
        witnesses: Kept snapshots whose manifests, together, are all that the kept ones share with the expired; first
            the one that is likely to share most.
    """

    expired: tuple[Snapshot, ...] = ()
    witnesses: tuple[Snapshot, ...] = ()

    @property
    def updates(self) -> tuple[TableUpdate, ...]:
        """What the catalog is to apply."""
        ids = [snapshot.snapshot_id for snapshot in self.expired]
        return (remove_snapshots(ids),) if ids else ()

    def delete_unreachable(self, io: FileIO, lists: ManifestLists) -> None:
        """Delete the expired snapshots' manifest lists, and the manifests that no kept snapshot uses.

        Call it after the commit has landed. What cannot be deleted is logged and left: the commit is not undone by it.
        """
        try:
            delete_files(io, self._unreachable(io, lists))
        except Exception:
            _log.warning("could not list the manifests of expired snapshots; they stay", exc_info=True)
        for snapshot in self.expired:
            lists.forget(snapshot.manifest_list)

    def _unreachable(self, io: FileIO, lists: ManifestLists) -> list[str]:
        dead = {manifest for snapshot in self.expired for manifest in lists.read(snapshot, io)}
        for snapshot in self.witnesses:
            if dead and (snapshot.sequence_number or 0) >= min(manifest.sequence_number for manifest in dead):
                dead.difference_update(lists.read(snapshot, io))  # an older snapshot cannot know a newer manifest
        return [*(m.manifest_path for m in dead), *(snapshot.manifest_list for snapshot in self.expired)]


def plan_expiry(metadata: TableMetadata, retained: int | None) -> Expiry:
    """Choose the snapshots to expire: the oldest, a few with each commit, so that no commit has to expire many.

    Args:
        metadata: The table as loaded for the commit.
        retained: Newest snapshots to keep, the commit's own among them; None: as the table's property says; 0: expire
            nothing.

    Returns:
        The plan.
    """
    limit = retained if retained is not None else int(metadata.properties.get(RETAINED_PROPERTY, "0"))
    if limit <= 0 or len(metadata.snapshots) < limit:
        return Expiry()
    newest_first = sorted(metadata.snapshots, key=lambda s: (s.sequence_number or 0, s.timestamp_ms), reverse=True)
    protected = {ref.snapshot_id for ref in metadata.refs.values()} | last_marked_snapshots(metadata)
    spare = [s for s in newest_first[limit - 1 :] if s.snapshot_id not in protected and _is_ours(s)]
    expired = spare[-EXPIRE_AT_ONCE_MAX:]
    return Expiry(tuple(expired), _witnesses(metadata, expired))


def _witnesses(metadata: TableMetadata, expired: list[Snapshot]) -> tuple[Snapshot, ...]:
    """The kept snapshots whose manifest lists must be read, to know which manifests of the expired ones live on.

    Along the main branch a manifest that was dropped never comes back, so of the line of kept snapshots that ends in
    the newest one, the oldest speaks for all, as long as the expired ones are older than it.
    """
    gone = {snapshot.snapshot_id for snapshot in expired}
    line = list(takewhile(lambda s: s.snapshot_id not in gone, ancestors(metadata)))
    kept = [s for s in metadata.snapshots if s.snapshot_id not in gone]
    if not line or any((s.sequence_number or 0) >= (line[-1].sequence_number or 0) for s in expired):
        return tuple(kept)
    spoken_for = {snapshot.snapshot_id for snapshot in line[:-1]}
    return (line[-1], *(s for s in kept if s.snapshot_id not in spoken_for and s is not line[-1]))


def _is_ours(snapshot: Snapshot) -> bool:
    return snapshot.summary is not None and SINK_ID in snapshot.summary.additional_properties
