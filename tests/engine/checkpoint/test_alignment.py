from __future__ import annotations

import random

import pytest

from lakeward.engine.checkpoint.alignment import Abort, BarrierAligner, Block, Decision, Ignore, Snapshot
from lakeward.engine.checkpoint.events import CheckpointFailure
from lakeward.engine.core.errors import InternalError
from lakeward.engine.core.ids import ChannelIndex, CheckpointId
from lakeward.engine.core.messages import Barrier


def barrier(aligner: BarrierAligner, channel: int, checkpoint: int) -> Decision:
    decision = aligner.on_barrier(ChannelIndex(channel), Barrier(CheckpointId(checkpoint)))
    aligner.validate()
    return decision


def blocked(aligner: BarrierAligner, channels: int) -> list[int]:
    return [channel for channel in range(channels) if aligner.is_blocked(ChannelIndex(channel))]


def test_a_single_channel_snapshots_at_once() -> None:
    aligner = BarrierAligner(1)
    assert barrier(aligner, 0, 1) == Snapshot(CheckpointId(1))
    assert blocked(aligner, 1) == []


def test_channels_stay_blocked_until_the_last_barrier_and_are_free_after_it() -> None:
    aligner = BarrierAligner(3)
    assert barrier(aligner, 2, 5) == Block(ChannelIndex(2))
    assert barrier(aligner, 0, 5) == Block(ChannelIndex(0))
    assert blocked(aligner, 3) == [0, 2]
    assert aligner.aligning == 5
    assert barrier(aligner, 1, 5) == Snapshot(CheckpointId(5))
    assert blocked(aligner, 3) == []


def test_a_newer_barrier_gives_the_older_alignment_up_and_starts_its_own() -> None:
    aligner = BarrierAligner(3)
    barrier(aligner, 0, 5)
    expected = Abort(CheckpointId(5), CheckpointFailure.SUBSUMED, Block(ChannelIndex(1)))
    assert barrier(aligner, 1, 6) == expected
    assert blocked(aligner, 3) == [1]
    assert barrier(aligner, 1, 5) == Ignore()
    barrier(aligner, 0, 6)
    assert barrier(aligner, 2, 6) == Snapshot(CheckpointId(6))


def test_a_barrier_that_comes_twice_on_a_channel_counts_once() -> None:
    aligner = BarrierAligner(2)
    assert barrier(aligner, 0, 5) == Block(ChannelIndex(0))
    assert barrier(aligner, 0, 5) == Block(ChannelIndex(0))
    assert barrier(aligner, 1, 5) == Snapshot(CheckpointId(5))


def test_an_abort_in_the_middle_frees_all_channels() -> None:  # B04
    aligner = BarrierAligner(3)
    barrier(aligner, 0, 5)
    barrier(aligner, 1, 5)
    assert aligner.on_abort(CheckpointId(5)) is True
    assert blocked(aligner, 3) == []


def test_late_barriers_of_an_aborted_checkpoint_are_ignored_and_the_next_completes() -> None:  # B05
    aligner = BarrierAligner(2)
    barrier(aligner, 0, 5)
    aligner.on_abort(CheckpointId(5))
    assert barrier(aligner, 1, 5) == Ignore()
    assert blocked(aligner, 2) == []
    barrier(aligner, 1, 6)
    assert barrier(aligner, 0, 6) == Snapshot(CheckpointId(6))


def test_an_abort_before_the_first_barrier_makes_all_its_barriers_late() -> None:
    aligner = BarrierAligner(2)
    assert aligner.on_abort(CheckpointId(5)) is False
    assert barrier(aligner, 0, 5) == Ignore()
    assert barrier(aligner, 1, 5) == Ignore()
    assert blocked(aligner, 2) == []


def test_the_abort_of_an_older_checkpoint_does_not_disturb_the_one_that_subsumed_it() -> None:  # B06
    aligner = BarrierAligner(2)
    barrier(aligner, 0, 5)
    barrier(aligner, 0, 6)
    assert aligner.on_abort(CheckpointId(5)) is False
    assert blocked(aligner, 2) == [0]
    assert barrier(aligner, 1, 6) == Snapshot(CheckpointId(6))


def test_aborts_out_of_order_leave_no_channel_blocked() -> None:  # B01
    aligner = BarrierAligner(2)
    barrier(aligner, 0, 1)
    for checkpoint in (3, 2, 3):
        aligner.on_abort(CheckpointId(checkpoint))
        aligner.validate()
    assert blocked(aligner, 2) == []
    assert barrier(aligner, 1, 1) == Ignore()


def test_a_barrier_from_a_channel_that_does_not_exist_is_a_bug() -> None:
    with pytest.raises(InternalError, match="channel 2 of 2"):
        BarrierAligner(2).on_barrier(ChannelIndex(2), Barrier(CheckpointId(1)))
    with pytest.raises(InternalError, match="0 channels"):
        BarrierAligner(0)


@pytest.mark.parametrize("seed", range(20))
def test_random_barriers_and_aborts_never_leave_a_channel_blocked_nor_snapshot_twice(seed: int) -> None:  # B08
    """Each channel carries rising barriers, some left out; the reader obeys blocks; aborts come at any time."""
    rng = random.Random(seed)
    channels = rng.randint(1, 6)
    aligner = BarrierAligner(channels)
    last = 60
    queues = [[n for n in range(1, last) if rng.random() > 0.1] + [last] for _ in range(channels)]
    taken: list[int] = []
    while any(queues):
        readable = [c for c in range(channels) if queues[c] and not aligner.is_blocked(ChannelIndex(c))]
        if rng.random() < 0.05:
            aligner.on_abort(CheckpointId(rng.randint(0, last - 1)))
            continue
        assert readable, f"seed {seed}: every channel that has something to read is blocked"
        channel = rng.choice(readable)
        decision = barrier(aligner, channel, queues[channel].pop(0))
        while isinstance(decision, Abort):
            decision = decision.then
        if isinstance(decision, Snapshot):
            taken.append(decision.checkpoint)
    assert blocked(aligner, channels) == []
    assert taken == sorted(set(taken))
    assert taken[-1] == last
