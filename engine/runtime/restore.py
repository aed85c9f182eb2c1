"""The restored checkpoint, as tasks of any parallelism need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.core.disk import make_state_folder
from lakeward.engine.core.errors import GraphError, InternalError
from lakeward.engine.core.ids import OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.keygroups import key_group_range
from lakeward.engine.core.snapshots import OperatorSnapshot, StoredFile, TableSnapshot
from lakeward.engine.graph.logical import LogicalGraph
from lakeward.engine.state.backend import RestoreSource

Download = Callable[[Sequence[StoredFile], str], None]
"""Fetches files of the checkpoint store into a local directory, checking their checksums."""


class RestoredState:
    """Looks up what a restored checkpoint holds for an operator; empty when nothing was restored.

    Args:
        manifest: The restored checkpoint, or None.
        download: Fetches its files.
        directory: A local directory for them.
        max_parallelism: Number of key groups.
    """

    def __init__(
        self, manifest: CheckpointManifest | None, download: Download, directory: Path, max_parallelism: int
    ) -> None:
        self._manifest = manifest
        self._download = download
        self._directory = directory
        self._max_parallelism = max_parallelism
        self._fetched: dict[tuple[OperatorId, SubtaskIndex], RestoreSource] = {}

    def snapshots(self, uid: OperatorId) -> list[OperatorSnapshot]:
        """What each old subtask of an operator left."""
        if self._manifest is None:
            return []
        return [one for one in self._manifest.operators if one.uid == uid]

    def states(self, uid: OperatorId) -> list[JsonObject]:
        """The small state of each old subtask."""
        return [one.state for one in self.snapshots(uid) if one.state is not None]

    def keyed(self, uid: OperatorId, subtask: SubtaskIndex, parallelism: int) -> list[RestoreSource]:
        """Keyed state that overlaps the key groups of a new subtask, fetched to local disk."""
        groups = key_group_range(subtask, parallelism, self._max_parallelism)
        return [self._fetch(one) for one in self._keyed(uid) if one.keyed is not None and _overlap(one.keyed, groups)]

    def all_keyed(self, uid: OperatorId) -> list[RestoreSource]:
        """Keyed state of all old subtasks, fetched to local disk.

        Raises:
            InternalError: This worker was not given all of it.
        """
        found = self._keyed(uid)
        here = sum(one.keyed.key_group_end - one.keyed.key_group_start for one in found if one.keyed is not None)
        if found and here < self._max_parallelism:
            raise InternalError(f"'{uid}' reads the state of all its old subtasks, and has {here} key groups of it")
        return [self._fetch(one) for one in found]

    def parallelism(self, uid: OperatorId) -> int:
        """How many subtasks an operator had; 0 if there was none."""
        return 0 if self._manifest is None else self._manifest.parallelism.get(uid, 0)

    def in_flight(self, uid: OperatorId) -> list[tuple[SubtaskIndex, int, str]]:
        """Rows that were on their way to the old subtasks of an operator: subtask, input, file on local disk."""
        found = []
        for one in self.snapshots(uid):
            target = self._directory / f"{uid}-{one.subtask}-in-flight"
            if one.in_flight and not target.is_dir():
                make_state_folder(target)
                self._download([rows.file for rows in one.in_flight], str(target))
            found += [(one.subtask, rows.index, str(target / rows.file.name)) for rows in one.in_flight]
        return found

    def _keyed(self, uid: OperatorId) -> list[OperatorSnapshot]:
        return [one for one in self.snapshots(uid) if one.keyed is not None]

    def _fetch(self, one: OperatorSnapshot) -> RestoreSource:
        """The files of an old subtask, fetched once for all that read them: they are not changed."""
        known = self._fetched.get((one.uid, one.subtask))
        if known is not None:
            return known
        assert one.keyed is not None, "only keyed snapshots are fetched"
        target = self._directory / f"{one.uid}-{one.subtask}"
        make_state_folder(target)
        self._download(one.keyed.files, str(target))
        source = RestoreSource(one.keyed.tables, str(target), one.keyed.key_group_start, one.keyed.key_group_end)
        self._fetched[one.uid, one.subtask] = source
        return source


def check_covers(
    manifest: CheckpointManifest,
    graph: LogicalGraph,
    dropped: frozenset[OperatorId] = frozenset(),
    needs_commit: bool = False,
) -> None:
    """Refuse a graph that has lost an operator whose state, or rows to be committed, the checkpoint holds.

    Args:
        manifest: The checkpoint.
        graph: The job.
        dropped: Operators whose state may be dropped.
        needs_commit: Whether its commit may not have happened.

    Raises:
        GraphError: State of an operator that is gone would be dropped silently.
    """
    known = {node.uid for node in graph}
    gone = [one for one in manifest.operators if one.uid not in known and one.uid not in dropped]
    lost = dict.fromkeys(
        one.uid
        for one in gone
        if one.files() or one.keyed is not None or one.state is not None or (needs_commit and one.committables)
    )
    if lost:
        names = ", ".join(f"'{uid}'" for uid in lost)
        raise GraphError(
            f"checkpoint {manifest.checkpoint} holds state of {names}, which the job no longer has "
            f"(it has: {', '.join(sorted(known))})",
            hint="give the operator its old uid=..., allow its state to be dropped by its name "
            "(--drop-state), or start with a new checkpoint_dir",
        )


def _overlap(keyed: TableSnapshot, groups: range) -> bool:
    return keyed.key_group_start < groups.stop and groups.start < keyed.key_group_end
