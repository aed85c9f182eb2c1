from __future__ import annotations

import pytest

from lakeward.engine.checkpoint.protocol import (
    Candidate,
    CheckpointState,
    ManifestId,
    ObservedFiles,
    RefuseDamaged,
    Restore,
    StartFresh,
    StopStale,
    derive_state,
    resolve,
)
from lakeward.engine.core.ids import CheckpointId, Generation

MINE = ManifestId(Generation(1), "aa")
OTHER = ManifestId(Generation(2), "bb")
NOW = Generation(9)


def seen(checkpoint: int, generation: int | None, state: CheckpointState, damage: str = "") -> Candidate:
    return Candidate(CheckpointId(checkpoint), None if generation is None else Generation(generation), state, damage)


def restore(checkpoint: int, generation: int, *, claim: bool, commit: bool) -> Restore:
    return Restore(CheckpointId(checkpoint), Generation(generation), claim_first=claim, repeat_commit=commit)


@pytest.mark.parametrize(
    ("observed", "state"),
    [
        (ObservedFiles(None), CheckpointState.INVISIBLE),
        (ObservedFiles(None, claimed=OTHER), CheckpointState.INVISIBLE),
        (ObservedFiles(MINE), CheckpointState.UNCLAIMED),
        (ObservedFiles(MINE, claimed=OTHER), CheckpointState.ORPHANED),
        (ObservedFiles(MINE, claimed=ManifestId(Generation(1), "cc")), CheckpointState.ORPHANED),
        (ObservedFiles(MINE, claimed=OTHER, committed=OTHER), CheckpointState.ORPHANED),
        (ObservedFiles(MINE, committed=OTHER), CheckpointState.ORPHANED),
        (ObservedFiles(MINE, claimed=MINE), CheckpointState.COMMITTING),
        (ObservedFiles(MINE, claimed=MINE, committed=MINE), CheckpointState.READY),
        (ObservedFiles(MINE, committed=MINE), CheckpointState.READY),
    ],
)
def test_the_state_follows_from_the_files_alone(observed: ObservedFiles, state: CheckpointState) -> None:
    assert derive_state(observed) is state


def test_a_ready_checkpoint_is_restored_as_it_is() -> None:
    assert resolve([seen(7, 1, CheckpointState.READY)], NOW) == restore(7, 1, claim=False, commit=False)


def test_a_committing_checkpoint_is_restored_and_its_commit_repeated() -> None:
    assert resolve([seen(7, 1, CheckpointState.COMMITTING)], NOW) == restore(7, 1, claim=False, commit=True)


def test_an_unclaimed_newest_checkpoint_is_claimed_first_and_its_commit_repeated() -> None:
    candidates = [seen(8, 1, CheckpointState.UNCLAIMED), seen(7, 1, CheckpointState.READY)]
    assert resolve(candidates, NOW) == restore(8, 1, claim=True, commit=True)


def test_an_invisible_checkpoint_is_passed_over_without_a_word() -> None:
    candidates = [seen(8, None, CheckpointState.INVISIBLE), seen(7, 1, CheckpointState.READY)]
    assert resolve(candidates, NOW) == restore(7, 1, claim=False, commit=False)


def test_an_orphaned_checkpoint_is_passed_over_for_the_one_that_won() -> None:
    candidates = [seen(8, 3, CheckpointState.ORPHANED), seen(8, 2, CheckpointState.COMMITTING)]
    decision = resolve(candidates, NOW)
    assert isinstance(decision, Restore)
    assert (decision.checkpoint, decision.generation, decision.repeat_commit) == (8, 2, True)
    assert decision.skipped == ((8, "generation 3 lost it to another generation"),)


def test_the_newest_generations_manifest_of_an_unclaimed_checkpoint_is_taken() -> None:
    candidates = [seen(8, 3, CheckpointState.UNCLAIMED), seen(8, 2, CheckpointState.UNCLAIMED)]
    assert resolve(candidates, NOW) == restore(8, 3, claim=True, commit=True)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said_so() -> None:
    candidates = [seen(8, 1, CheckpointState.READY, "a file is missing"), seen(7, 1, CheckpointState.READY)]
    decision = resolve(candidates, NOW)
    assert decision == Restore(CheckpointId(7), Generation(1), False, False, ((CheckpointId(8), "a file is missing"),))


def test_an_unclaimed_checkpoint_under_a_claimed_one_was_given_up() -> None:
    candidates = [
        seen(8, 1, CheckpointState.READY, "a file is missing"),
        seen(7, 1, CheckpointState.UNCLAIMED),
        seen(6, 1, CheckpointState.READY),
    ]
    decision = resolve(candidates, NOW)
    assert isinstance(decision, Restore)
    assert decision.checkpoint == 6
    assert [checkpoint for checkpoint, _ in decision.skipped] == [8, 7]


@pytest.mark.parametrize("state", [CheckpointState.UNCLAIMED, CheckpointState.COMMITTING])
def test_what_a_zombie_left_after_a_newer_generation_took_over_is_passed_over(state: CheckpointState) -> None:
    """Generation 2 went on from checkpoint 6 and committed 7; generation 1, also from 6, left an 8."""
    candidates = [seen(8, 1, state), seen(7, 2, CheckpointState.READY), seen(6, 1, CheckpointState.READY)]
    decision = resolve(candidates, NOW)
    assert isinstance(decision, Restore)
    assert decision.checkpoint == 7
    assert decision.skipped == ((8, "it was left by generation 1 after generation 2 had taken over"),)


def test_a_zombies_claim_counts_while_the_newer_generation_has_completed_nothing() -> None:
    candidates = [seen(8, 1, CheckpointState.COMMITTING), seen(6, 1, CheckpointState.READY)]
    assert resolve(candidates, NOW) == restore(8, 1, claim=False, commit=True)


def test_an_empty_directory_is_a_first_run() -> None:
    assert resolve([], NOW) == StartFresh()
    assert resolve([seen(1, None, CheckpointState.INVISIBLE)], NOW) == StartFresh()


def test_only_damaged_checkpoints_are_not_a_first_run() -> None:
    bad = [seen(2, 1, CheckpointState.READY, "x"), seen(1, None, CheckpointState.INVISIBLE, "its manifest is gone")]
    assert resolve(bad, NOW) == RefuseDamaged(((CheckpointId(2), "x"), (CheckpointId(1), "its manifest is gone")))


def test_a_generation_that_sees_checkpoints_of_a_newer_one_stops() -> None:
    candidates = [seen(8, 10, CheckpointState.UNCLAIMED), seen(7, 1, CheckpointState.READY)]
    assert resolve(candidates, NOW) == StopStale(Generation(10))
