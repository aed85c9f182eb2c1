"""Deletes old checkpoints and the state files that nothing refers to any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.inventory import CheckpointView
from lakeward.engine.checkpoint.protocol import CheckpointState
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.core.ids import CheckpointId, Generation


@dataclass(frozen=True, slots=True)
class Retention:
    """What `retain` deleted.

    Args:
        checkpoints: Checkpoints that are gone, oldest first.
        files: Number of state files that are gone.
        refused: Why nothing was deleted; empty if it was. Worth a warning.
    """

    checkpoints: tuple[CheckpointId, ...] = ()
    files: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What may go.

    Args:
        checkpoints: Old checkpoints, oldest first, and the writers of their manifests.
        freed: Checksums of files that only those refer to.
        kept: Checksums of files that other checkpoints refer to.
        refused: Why nothing may go.
    """

    checkpoints: tuple[tuple[CheckpointId, tuple[Generation, ...]], ...] = ()
    freed: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    refused: str = ""


def plan_retention(views: Sequence[CheckpointView], count: int) -> RetentionPlan:
    """Decide which checkpoints to delete; pure.

    Args:
        views: The whole inventory.
        count: Committed checkpoints to keep.

    Returns:
        All checkpoints older than the `count`-th newest committed one. Nothing, with the reason, if any manifest that
        is there cannot be read: the files that it refers to are not known.
    """
    ready = sorted({view.checkpoint for view in views if view.state is CheckpointState.READY}, reverse=True)
    oldest_kept = ready[count - 1] if len(ready) >= count else CheckpointId(0)
    for view in views:
        if view.damage:
            return RetentionPlan(refused=f"checkpoint {view.checkpoint}: {view.damage}")
    old = [view for view in views if view.checkpoint < oldest_kept]
    kept = _references(view for view in views if view.checkpoint >= oldest_kept)
    doomed = sorted({view.checkpoint for view in old})
    return RetentionPlan(
        checkpoints=tuple((checkpoint, _writers(old, checkpoint)) for checkpoint in doomed),
        freed=_references(old) - kept,
        kept=kept,
    )


def delete_checkpoints(store: CheckpointStore, plan: RetentionPlan) -> None:
    """Delete the plan's checkpoints, oldest first.

    Of each, the manifest goes last: cut off in between, it is an unclaimed checkpoint below claimed ones, which
    recovery passes over and the next retention deletes. The other way round, the rest would look like damage.
    """
    for checkpoint, writers in plan.checkpoints:
        store.delete(paths.claim(checkpoint))
        store.delete(paths.committed(checkpoint))
        for writer in writers:
            store.delete(paths.manifest(checkpoint, writer))


def delete_generations(store: CheckpointStore, newest_kept: Generation, count: int) -> None:
    """Delete the records of starts older than the last `count`."""
    for path in store.list(paths.GENERATIONS):
        number = paths.parse_generation(path)
        if number is not None and number <= newest_kept - count:
            store.delete(path)


def stray_files(store: CheckpointStore, plan: RetentionPlan) -> frozenset[str]:
    """Checksums of stored files that no checkpoint refers to, neither a kept nor a deleted one."""
    stored = (paths.parse_state_file(path) for path in store.list(paths.FILES))
    return frozenset(sha256 for sha256 in stored if sha256) - plan.kept - plan.freed


def delete_files(store: CheckpointStore, doomed: Iterable[str], in_flight: Collection[str]) -> int:
    """Delete state files, but none that an upload has just put there for the next checkpoint."""
    count = 0
    for sha256 in sorted(doomed):
        if sha256 not in in_flight:
            store.delete(paths.state_file(sha256))
            count += 1
    return count


def _references(views: Iterable[CheckpointView]) -> frozenset[str]:
    manifests = (view.manifest for view in views if view.manifest is not None)
    return frozenset(file.sha256 for manifest in manifests for file in manifest.files())


def _writers(views: Iterable[CheckpointView], checkpoint: CheckpointId) -> tuple[Generation, ...]:
    writers: AbstractSet[Generation] = {
        view.generation for view in views if view.checkpoint == checkpoint and view.generation is not None
    }
    return tuple(sorted(writers))
