"""All committers of a job: recovery before it runs, one commit of each for every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lakeward.engine.api.sink import Committer, CommitterContext, Sink
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.snapshots import OperatorSnapshot
from lakeward.engine.graph.logical import LogicalGraph, Node
from lakeward.engine.runtime.chain import errors_named


class JobCommitters:
    """The committers of all sinks that have one.

    Args:
        graph: The job.
        job_id: Its identity.
        job_name: Its name.
        manifest: The restored checkpoint; None on a first run.
    """

    def __init__(self, graph: LogicalGraph, job_id: JobId, job_name: str, manifest: CheckpointManifest | None) -> None:
        self._committers: dict[OperatorId, tuple[Node, Committer]] = {}
        self._known = frozenset(manifest.committers if manifest is not None else ())
        for node in graph:
            if isinstance(node.work, Sink):
                with errors_named(node):
                    committer = _open(node, node.work, (job_id, job_name), manifest)
                if committer is not None:
                    self._committers[node.uid] = (node, committer)

    def recover(self, pending: Sequence[OperatorSnapshot] | None) -> None:
        """Let each compare its marker with the restored checkpoint and repeat a commit that may be missing.

        For a sink that the job did not have then, it is a first run.

        Args:
            pending: The restored checkpoint's snapshots when its commit may not have happened, else None.
        """
        for uid, (node, committer) in self._committers.items():
            with errors_named(node):
                own = None if pending is None or uid not in self._known else _committables(pending, uid)
                committer.recover(own)

    def commit(self, checkpoint: CheckpointId, snapshots: Sequence[OperatorSnapshot]) -> None:
        """Make the rows of a checkpoint visible in every sink, in the order of the graph."""
        for uid, (node, committer) in self._committers.items():
            with errors_named(node):
                committer.commit(checkpoint, _committables(snapshots, uid))

    def snapshot(self) -> Mapping[OperatorId, JsonObject | None]:
        """What each must know after a restart."""
        return {uid: committer.snapshot() for uid, (_, committer) in self._committers.items()}

    def close(self) -> None:
        """Close all."""
        for node, committer in self._committers.values():
            with errors_named(node):
                committer.close()


def _open(node: Node, sink: Sink, job: tuple[JobId, str], manifest: CheckpointManifest | None) -> Committer | None:
    if manifest is not None and node.uid not in manifest.committers:
        manifest = None  # the job did not have this sink then
    return sink.open_committer(
        CommitterContext(
            uid=node.uid,
            job_id=job[0],
            job_name=job[1],
            schema=node.schema,
            restored=manifest.checkpoint if manifest else None,
            restored_state=manifest.committers.get(node.uid) if manifest else None,
        )
    )


def _committables(snapshots: Sequence[OperatorSnapshot], uid: OperatorId) -> list[JsonObject]:
    own = sorted((one for one in snapshots if one.uid == uid), key=lambda one: one.subtask)
    return [committable for one in own for committable in one.committables]
