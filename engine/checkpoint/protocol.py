"""The checkpoint protocol's decisions, pure: from the files that were seen to what they mean and what to do.

The state of a checkpoint is never stored; it is derived from which files exist:

| state      | seen                                | meaning                                 | on recovery           |
|------------|-------------------------------------|-----------------------------------------|-----------------------|
| Invisible  | no manifest                         | it was never completed                  | pass over             |
| Unclaimed  | a manifest, no claim                | complete; nobody began to commit it     | claim, commit, restore |
| Orphaned   | the claim names another manifest    | its writer lost to another generation   | pass over             |
| Committing | the claim names it, no marker       | the commit may or may not have happened | commit again, restore |
| Ready      | the commit marker names it          | complete and committed                  | restore               |

Why a zombie can do no harm: a generation first writes its claim and then looks for newer generations, and only
then commits; a newer generation first writes its record and then looks for claims. So either the old one sees the new
one and stops, or the new one sees the claim and goes on from that checkpoint (the idea of Dekker's algorithm; the
files and states are those of Arroyo's state protocol).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from lakeward.engine.core.ids import CheckpointId, Generation


class CheckpointState(Enum):
    """What the files of a checkpoint amount to."""

    INVISIBLE = "invisible"
    UNCLAIMED = "unclaimed"
    ORPHANED = "orphaned"
    COMMITTING = "committing"
    READY = "ready"


@dataclass(frozen=True, slots=True)
class ManifestId:
    """One manifest: who wrote it, and the checksum of its bytes.

    Args:
        generation: The writer.
        sha256: Of the whole file.
    """

    generation: Generation
    sha256: str


@dataclass(frozen=True, slots=True)
class ObservedFiles:
    """What was seen of a checkpoint, from one manifest's point of view.

    Args:
        manifest: The manifest; None if there is none.
        claimed: The manifest that the claim names; None if there is no claim.
        committed: The manifest that the commit marker names; None if there is no marker.
    """

    manifest: ManifestId | None
    claimed: ManifestId | None = None
    committed: ManifestId | None = None


def derive_state(observed: ObservedFiles) -> CheckpointState:
    """What a manifest's checkpoint is, from the files alone.

    >>> mine, other = ManifestId(Generation(1), "aa"), ManifestId(Generation(2), "bb")
    >>> derive_state(ObservedFiles(None)).name, derive_state(ObservedFiles(mine)).name
    ('INVISIBLE', 'UNCLAIMED')
    >>> derive_state(ObservedFiles(mine, claimed=other)).name, derive_state(ObservedFiles(mine, claimed=mine)).name
    ('ORPHANED', 'COMMITTING')
    >>> derive_state(ObservedFiles(mine, claimed=mine, committed=mine)).name
    'READY'
    """
    if observed.manifest is None:
        return CheckpointState.INVISIBLE
    if observed.committed is not None:
        return CheckpointState.READY if observed.committed == observed.manifest else CheckpointState.ORPHANED
    if observed.claimed is None:
        return CheckpointState.UNCLAIMED
    return CheckpointState.COMMITTING if observed.claimed == observed.manifest else CheckpointState.ORPHANED


@dataclass(frozen=True, slots=True)
class Candidate:
    """One manifest (or the lack of one) as recovery sees it.

    Args:
        checkpoint: The checkpoint.
        generation: The manifest's writer; None when there is no manifest.
        state: What the files amount to.
        damage: Why it cannot be used although it should be usable; empty when nothing is known against it.
    """

    checkpoint: CheckpointId
    generation: Generation | None
    state: CheckpointState
    damage: str = ""


Skipped = tuple[CheckpointId, str]


@dataclass(frozen=True, slots=True)
class Restore:
    """Go on from this checkpoint.

    Args:
        checkpoint: The checkpoint.
        generation: Whose manifest.
        claim_first: Nobody has claimed it: do so before anything else.
        repeat_commit: Its commit may not have happened: repeat it (it is idempotent) before any row is processed.
        skipped: Newer checkpoints that were passed over, and why.
    """

    checkpoint: CheckpointId
    generation: Generation
    claim_first: bool
    repeat_commit: bool
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class StartFresh:
    """There has never been a complete checkpoint: a first run."""

    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True, slots=True)
class StopStale:
    """A newer generation has written checkpoints: this process has to stop.

    Args:
        newer: That generation.
    """

    newer: Generation


@dataclass(frozen=True, slots=True)
class RefuseDamaged:
    """There are checkpoints, and none of them can be used: starting afresh would silently drop all state."""

    skipped: tuple[Skipped, ...]


Resolution = Restore | StartFresh | StopStale | RefuseDamaged

_RULES = {
    CheckpointState.UNCLAIMED: (True, True),
    CheckpointState.COMMITTING: (False, True),
    CheckpointState.READY: (False, False),
}
"""State -> (claim first, repeat the commit)."""


def resolve(candidates: Sequence[Candidate], generation: Generation) -> Resolution:
    """Decide what a starting generation restores.

    >>> ready = Candidate(CheckpointId(7), Generation(1), CheckpointState.READY)
    >>> bad = Candidate(CheckpointId(8), Generation(1), CheckpointState.COMMITTING, damage="x.sst is missing")
    >>> resolve([bad, ready], Generation(2))
    Restore(checkpoint=7, generation=1, claim_first=False, repeat_commit=False, skipped=((8, 'x.sst is missing'),))

    Args:
        candidates: All that was seen, newest checkpoint first.
        generation: The generation that starts.

    Returns:
        What to do.
    """
    newest_writer = max((c.generation for c in candidates if c.generation is not None), default=generation)
    if newest_writer > generation:
        return StopStale(newest_writer)
    skipped: list[Skipped] = []
    damaged = False
    for candidate, reason in _judge(candidates):
        if not reason and candidate.generation is not None and candidate.state in _RULES:
            claim_first, repeat_commit = _RULES[candidate.state]
            return Restore(candidate.checkpoint, candidate.generation, claim_first, repeat_commit, tuple(skipped))
        if reason:
            skipped.append((candidate.checkpoint, reason))
        damaged = damaged or bool(candidate.damage)
    return RefuseDamaged(tuple(skipped)) if damaged else StartFresh(tuple(skipped))


def passed_over(candidates: Sequence[Candidate]) -> list[str]:
    """Of each candidate, why recovery would pass it over even if it were whole; empty for one that may be restored.

    >>> passed_over([Candidate(CheckpointId(7), Generation(2), CheckpointState.ORPHANED)])
    ['generation 2 lost it to another generation']
    """
    return [reason for _, reason in _judge([replace(candidate, damage="") for candidate in candidates])]


def _judge(candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, str]]:
    """Each candidate with what speaks against it ("" for nothing)."""
    newer_was_claimed = False
    for index, candidate in enumerate(candidates):
        yield candidate, _objection(candidate, candidates[index + 1 :], newer_was_claimed)
        newer_was_claimed = newer_was_claimed or candidate.state in (CheckpointState.COMMITTING, CheckpointState.READY)


def _objection(candidate: Candidate, older: Sequence[Candidate], newer_was_claimed: bool) -> str:
    if candidate.damage:
        return candidate.damage
    if candidate.state is CheckpointState.ORPHANED:
        return f"generation {candidate.generation} lost it to another generation"
    if candidate.generation is None or candidate.state is CheckpointState.INVISIBLE:
        return ""
    rival = max((c.generation for c in older if _is_in_line(c) and c.generation is not None), default=Generation(0))
    if rival > candidate.generation:
        return f"it was left by generation {candidate.generation} after generation {rival} had taken over"
    if candidate.state is CheckpointState.UNCLAIMED and newer_was_claimed:
        return "it was given up: nobody claimed it, and a newer one was claimed"
    return ""


def _is_in_line(candidate: Candidate) -> bool:
    return candidate.state in _RULES
