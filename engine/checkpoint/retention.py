"""Deletes old checkpoints and the state files that nothing refers to any more.

A process may stand still between two deletions and go on when it is long stale. That is harmless: what it is about to
delete was stored by its own generation or by an older one, was of no use when it looked, and it has announced it, so
that no newer generation's checkpoint ever refers to it (see `reuse`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.inventory import CheckpointView
from lakeward.engine.checkpoint.protocol import CheckpointState, passed_over
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
class Doomed:
    """Manifests of one checkpoint that may go.

    Args:
        checkpoint: The checkpoint.
        writers: Whose manifests.
        whole: Those are all: claim and commit marker go with them.
    """

    checkpoint: CheckpointId
    writers: tuple[Generation, ...]
    whole: bool


@dataclass(frozen=True, slots=True)
class RetentionPlan:
    """What may go.

    Args:
        doomed: Old and useless manifests, oldest first.
        freed: Paths of files that only those refer to.
        kept: Paths of files that other manifests refer to.
        refused: Why nothing may go.
    """

    doomed: tuple[Doomed, ...] = ()
    freed: frozenset[str] = frozenset()
    kept: frozenset[str] = frozenset()
    refused: str = ""


def plan_retention(views: Sequence[CheckpointView], count: int) -> RetentionPlan:
    """Decide which checkpoints to delete; pure.

    Args:
        views: The whole inventory.
        count: Committed checkpoints to keep.

    Returns:
        All checkpoints older than the `count`-th newest committed one, and among the kept ones what zombies have left,
        which recovery would pass over. Nothing, with the reason, if any manifest that is there cannot be read: the
        files that it refers to are not known.
    """
    for view in views:
        if view.damage:
            return RetentionPlan(refused=f"checkpoint {view.checkpoint}: {view.damage}")
    ready = sorted({view.checkpoint for view in views if view.state is CheckpointState.READY}, reverse=True)
    newest = ready[0] if ready else CheckpointId(0)
    oldest_kept = ready[count - 1] if len(ready) >= count else CheckpointId(0)
    useless = passed_over([view.candidate() for view in views])
    doomed: list[CheckpointView] = []
    kept: list[CheckpointView] = []
    for view, reason in zip(views, useless, strict=True):
        goes = view.checkpoint < oldest_kept or (bool(reason) and view.checkpoint <= newest)
        (doomed if goes else kept).append(view)
    references = _references(kept)
    return RetentionPlan(_group(doomed, kept), _references(doomed) - references, references)


def delete_checkpoints(store: CheckpointStore, plan: RetentionPlan) -> None:
    """Delete the plan's checkpoints, oldest first.

    Of each, the manifest goes last: cut off in between, it is an unclaimed checkpoint below claimed ones, which
    recovery passes over and the next retention deletes. The other way round, the rest would look like damage.
    """
    for doomed in plan.doomed:
        if doomed.whole:
            store.delete(paths.claim(doomed.checkpoint))
            store.delete(paths.committed(doomed.checkpoint))
        for writer in doomed.writers:
            store.delete(paths.manifest(doomed.checkpoint, writer))


def delete_generations(store: CheckpointStore, newest_kept: Generation, count: int) -> None:
    """Delete the records of starts older than the last `count`."""
    for path in store.list(paths.GENERATIONS):
        number = paths.parse_generation(path)
        if number is not None and number <= newest_kept - count:
            store.delete(path)


def stray_files(store: CheckpointStore, plan: RetentionPlan) -> frozenset[str]:
    """Paths of stored files that no checkpoint refers to, neither a kept nor a deleted one."""
    stored = (path for path in store.list(paths.FILES) if paths.parse_state_file(path))
    return frozenset(stored) - plan.kept - plan.freed


def deletable(doomed: Iterable[str], in_flight: Collection[str], generation: Generation) -> tuple[str, ...]:
    """Those state files that a run may delete: none of a newer one, and none that an upload has just stored.

    Args:
        doomed: Paths of files that nothing refers to.
        in_flight: Paths of files that may be on their way into the next checkpoint.
        generation: Who deletes.

    Returns:
        Their paths, sorted.
    """
    found = ((path, paths.parse_state_file(path)) for path in sorted(doomed))
    return tuple(
        path for path, file in found if file is not None and file.generation <= generation and path not in in_flight
    )


def _references(views: Iterable[CheckpointView]) -> frozenset[str]:
    manifests = (view.manifest for view in views if view.manifest is not None)
    return frozenset(
        paths.state_file(file.generation, file.sha256) for manifest in manifests for file in manifest.files()
    )


def _group(doomed: Sequence[CheckpointView], kept: Sequence[CheckpointView]) -> tuple[Doomed, ...]:
    staying = {view.checkpoint for view in kept}
    return tuple(
        Doomed(checkpoint, _writers(doomed, checkpoint), whole=checkpoint not in staying)
        for checkpoint in sorted({view.checkpoint for view in doomed})
    )


def _writers(views: Iterable[CheckpointView], checkpoint: CheckpointId) -> tuple[Generation, ...]:
    writers = {view.generation for view in views if view.checkpoint == checkpoint and view.generation is not None}
    return tuple(sorted(writers))
