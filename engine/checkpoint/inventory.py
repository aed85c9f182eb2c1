"""Reads which checkpoints a directory holds and what state each is in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointClaim, CheckpointManifest, CommitMarker, sha256_hex
from lakeward.engine.checkpoint.protocol import Candidate, CheckpointState, ManifestId, ObservedFiles, derive_state
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.core.ids import CheckpointId, Generation


@dataclass(frozen=True, slots=True)
class CheckpointView:
    """One manifest of a checkpoint, or the place where one should be.

    Args:
        checkpoint: The checkpoint.
        generation: Who wrote the manifest; None when nothing says so.
        state: What the files amount to.
        manifest: The decoded manifest; None if it is missing or damaged.
        sha256: Checksum of the manifest's bytes; empty if it is missing.
        damage: Why it cannot be restored although it should be; empty when nothing is known against it.
        remark: Something that is wrong with it and does not prevent that.
    """

    checkpoint: CheckpointId
    generation: Generation | None
    state: CheckpointState
    manifest: CheckpointManifest | None = None
    sha256: str = ""
    damage: str = ""
    remark: str = ""

    def candidate(self, damage: str = "") -> Candidate:
        """The same for the protocol, with what has since been found out against it."""
        return Candidate(self.checkpoint, self.generation, self.state, self.damage or damage)


@dataclass(slots=True)
class _Found:
    """Files of one checkpoint, before they are read."""

    writers: list[Generation] = field(default_factory=list)
    has_claim: bool = False
    has_marker: bool = False


@dataclass(frozen=True, slots=True)
class _Facts:
    """Claim and marker of one checkpoint."""

    claimed: ManifestId | None
    committed: ManifestId | None
    damage: str
    remark: str


def take_inventory(store: CheckpointStore) -> list[CheckpointView]:
    """Read every manifest, claim and marker.

    Args:
        store: The directory.

    Returns:
        Views, newest checkpoint first; of one checkpoint, the newest generation's manifest first. A claim or marker
        below the oldest manifest is not damage: a zombie put it there after its checkpoint had been deleted.

    Raises:
        CheckpointError: The store failed, or a newer version of Lakeward wrote one of the files. Damage alone raises
            nothing: it is in the views.
    """
    found: dict[CheckpointId, _Found] = {}
    for path in store.list(paths.CHECKPOINTS):
        file = paths.parse_checkpoint_file(path)
        if file is not None:
            entry = found.setdefault(file.checkpoint, _Found())
            if file.generation is not None:
                entry.writers.append(file.generation)
            entry.has_claim = entry.has_claim or file.kind == "claim"
            entry.has_marker = entry.has_marker or file.kind == "committed"
    views = [
        view for checkpoint in sorted(found, reverse=True) for view in _views(store, checkpoint, found[checkpoint])
    ]
    oldest = min((view.checkpoint for view in views if view.sha256), default=CheckpointId(0))
    return [replace(view, damage="") if view.checkpoint < oldest else view for view in views]


def _views(store: CheckpointStore, checkpoint: CheckpointId, found: _Found) -> Iterator[CheckpointView]:
    facts = _read_facts(store, checkpoint, found)
    chosen = facts.committed or facts.claimed
    present = [_view(store, checkpoint, writer, facts) for writer in sorted(found.writers, reverse=True)]
    views = [view for view in present if view is not None]
    if chosen is not None and all(view.generation != chosen.generation for view in views):
        yield CheckpointView(
            checkpoint,
            chosen.generation,
            CheckpointState.INVISIBLE,
            damage=f"its claim or commit marker is there, but not {paths.manifest(checkpoint, chosen.generation)}",
        )
    elif facts.damage and not views:
        yield CheckpointView(checkpoint, None, CheckpointState.INVISIBLE, damage=f"{facts.damage}; it has no manifest")
    yield from views


def _view(store: CheckpointStore, checkpoint: CheckpointId, writer: Generation, facts: _Facts) -> CheckpointView | None:
    path = paths.manifest(checkpoint, writer)
    data = store.read(path)
    if data is None:  # deleted since it was listed
        return None
    mine = ManifestId(writer, sha256_hex(data))
    state = derive_state(ObservedFiles(mine, facts.claimed, facts.committed))
    damage = facts.damage
    manifest: CheckpointManifest | None = None
    try:
        manifest = CheckpointManifest.from_bytes(data, path)
        damage = damage or _contradiction(manifest, mine, facts, path)
    except CorruptionError as error:
        damage = error.message
    if damage and _is_chosen(writer, facts):  # it is the claimed one, only its bytes have changed
        state = CheckpointState.COMMITTING if facts.committed is None else CheckpointState.READY
    return CheckpointView(
        checkpoint, writer, state, None if damage else manifest, mine.sha256, damage=damage, remark=facts.remark
    )  # fmt: skip


def _contradiction(manifest: CheckpointManifest, mine: ManifestId, facts: _Facts, path: str) -> str:
    if path != paths.manifest(manifest.checkpoint, manifest.generation):
        return f"{path} holds checkpoint {manifest.checkpoint} of generation {manifest.generation}"
    for other in (facts.claimed, facts.committed):
        if other is not None and other.generation == mine.generation and other != mine:
            return f"{path} is not the file that was claimed: its checksum differs"
    return ""


def _is_chosen(writer: Generation, facts: _Facts) -> bool:
    chosen = facts.committed or facts.claimed
    return chosen is not None and chosen.generation == writer


def _read_facts(store: CheckpointStore, checkpoint: CheckpointId, found: _Found) -> _Facts:
    claimed, damage = _read_claim(store, checkpoint) if found.has_claim else (None, "")
    committed, remark = _read_marker(store, checkpoint) if found.has_marker else (None, "")
    if committed is not None:  # the marker alone is enough, and a damaged claim does not matter any more
        remark, damage = damage, ""
    elif remark and claimed is None and not damage:
        damage = f"{remark}, and there is no claim"
    if committed is not None and claimed is not None and claimed != committed:
        damage = f"{paths.claim(checkpoint)} and {paths.committed(checkpoint)} name different manifests"
    return _Facts(claimed, committed, damage, remark)


def _read_claim(store: CheckpointStore, checkpoint: CheckpointId) -> tuple[ManifestId | None, str]:
    path = paths.claim(checkpoint)
    data = store.read(path)
    if data is None:
        return None, ""
    try:
        claim = CheckpointClaim.from_bytes(data, path)
        _check_belongs(claim.checkpoint, checkpoint, path)
    except CorruptionError as error:
        return None, error.message
    return ManifestId(claim.generation, claim.manifest_sha256), ""


def _read_marker(store: CheckpointStore, checkpoint: CheckpointId) -> tuple[ManifestId | None, str]:
    """A marker that cannot be read counts as none: repeating a commit is harmless, leaving one out is not."""
    path = paths.committed(checkpoint)
    data = store.read(path)
    if data is None:
        return None, ""
    try:
        marker = CommitMarker.from_bytes(data, path)
        _check_belongs(marker.checkpoint, checkpoint, path)
    except CorruptionError as error:
        return None, error.message
    return ManifestId(marker.generation, marker.manifest_sha256), ""


def _check_belongs(said: CheckpointId, expected: CheckpointId, path: str) -> None:
    if said != expected:
        raise CorruptionError(f"{path} speaks of checkpoint {said}, not of {expected}")
