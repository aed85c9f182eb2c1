from __future__ import annotations

import itertools

import pytest

from lakeward.engine.api.time import WatermarkStrategy
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.messages import WATERMARK_MIN_US, Watermark
from lakeward.engine.runtime.watermarks import END_OF_TIME, SplitWatermarks, WatermarkMin

A, B = SplitId("a"), SplitId("b")
STRATEGY = WatermarkStrategy.bounded_out_of_orderness("at", "10us")


def test_the_watermark_is_the_minimum_over_inputs() -> None:
    valve = WatermarkMin(2)
    assert valve.update(0, Watermark(50)) is None
    assert valve.update(1, Watermark(30)) == Watermark(30)
    assert valve.update(1, Watermark(80)) == Watermark(50)


def test_the_watermark_never_goes_back_when_an_idle_input_wakes_up_behind() -> None:
    valve = WatermarkMin(2)
    valve.update(0, Watermark(50))
    valve.update(1, Watermark(WATERMARK_MIN_US, idle=True))
    assert valve.update(0, Watermark(60)) == Watermark(60)
    assert valve.update(1, Watermark(10)) is None
    assert valve.update(0, Watermark(90)) is None
    assert valve.update(1, Watermark(95)) == Watermark(90)


def test_an_idle_input_does_not_hold_the_others_back() -> None:
    valve = WatermarkMin(3)
    valve.update(0, Watermark(50))
    valve.update(1, Watermark(40))
    assert valve.update(2, Watermark(WATERMARK_MIN_US, idle=True)) == Watermark(40)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_when_all_inputs_are_idle_event_time_is_that_of_the_furthest_whichever_was_idle_first(
    order: tuple[int, ...],
) -> None:
    valve, times = WatermarkMin(3), [50, 70, 60]
    for channel in range(3):
        valve.update(channel, Watermark(times[channel]))
    last = [valve.update(channel, Watermark(times[channel], idle=True)) for channel in order][-1]
    assert last == Watermark(70, idle=True)
    assert valve.update(0, Watermark(55)) == Watermark(70), "back, and behind"
    assert valve.update(0, Watermark(80)) == Watermark(80)


def test_inputs_that_are_idle_before_they_said_anything_leave_event_time_at_its_beginning() -> None:
    valve = WatermarkMin(2)
    assert valve.update(0, Watermark(WATERMARK_MIN_US, idle=True)) is None
    assert valve.update(1, Watermark(WATERMARK_MIN_US, idle=True)) == Watermark(WATERMARK_MIN_US, idle=True)


def test_an_input_that_has_ended_does_not_end_event_time_while_the_others_are_idle() -> None:
    valve = WatermarkMin(3)
    assert valve.update(0, END_OF_TIME) is None
    valve.update(1, Watermark(50))
    assert valve.update(2, Watermark(60)) == Watermark(50)
    assert valve.update(1, Watermark(50, idle=True)) == Watermark(60)
    assert valve.update(2, Watermark(60, idle=True)) == Watermark(60, idle=True)
    assert valve.update(1, Watermark(70)) == Watermark(70)
    assert valve.update(1, END_OF_TIME) == Watermark(70, idle=True)
    assert valve.update(2, END_OF_TIME) == END_OF_TIME


def test_of_inputs_that_belong_together_none_is_passed_over_until_all_are_idle() -> None:
    valve = WatermarkMin(3, [[0, 1]])
    valve.update(0, Watermark(50))
    valve.update(1, Watermark(40))
    assert valve.update(2, Watermark(90)) == Watermark(40)
    assert valve.update(1, Watermark(40, idle=True)) is None
    assert valve.update(0, Watermark(60)) is None
    assert valve.update(0, Watermark(60, idle=True)) == Watermark(90)
    assert valve.update(0, Watermark(95)) is None
    assert valve.update(1, Watermark(95)) is None
    assert valve.update(2, Watermark(99)) == Watermark(95)
    assert valve.update(1, END_OF_TIME) is None
    assert valve.update(0, END_OF_TIME) == Watermark(99)


def test_of_inputs_that_are_idle_or_have_ended_the_furthest_that_is_idle_counts() -> None:
    valve = WatermarkMin(3)
    valve.update(0, Watermark(90, idle=True))
    valve.update(1, Watermark(50))
    assert valve.update(2, END_OF_TIME) == Watermark(50)
    assert valve.update(1, Watermark(50, idle=True)) == Watermark(90, idle=True)
    assert valve.update(0, END_OF_TIME) is None
    assert valve.update(1, END_OF_TIME) == END_OF_TIME


def test_a_slow_split_holds_the_watermark_back_and_each_split_trails_its_own_newest_time() -> None:
    splits = SplitWatermarks(STRATEGY)
    splits.add(A, None, 0)
    splits.add(B, None, 0)
    splits.observe(A, 1_000, 1)
    assert splits.advance(1) is None
    splits.observe(B, 100, 2)
    assert splits.advance(2) == Watermark(89)
    splits.observe(B, 50, 3)
    assert splits.advance(3) is None


def test_a_silent_split_becomes_idle_after_its_timeout_and_counts_again_when_it_speaks() -> None:
    splits = SplitWatermarks(STRATEGY.with_idleness("1s"))
    splits.add(A, None, 0)
    splits.add(B, None, 0)
    splits.observe(A, 1_000, 900)
    assert splits.advance(950) is None
    assert splits.advance(1_000) == Watermark(989)
    splits.observe(B, 500, 1_001)
    assert splits.advance(1_002) is None
    splits.observe(B, 2_000, 1_003)
    splits.observe(A, 3_000, 1_003)
    assert splits.advance(1_004) == Watermark(1_989)


@pytest.mark.parametrize("ahead", [A, B])
def test_when_all_splits_are_silent_the_subtask_is_idle_at_the_time_of_the_furthest(ahead: SplitId) -> None:
    splits = SplitWatermarks(STRATEGY.with_idleness("1s"))
    for split in (A, B):
        splits.add(split, None, 0)
        splits.observe(split, 1_000 if split == ahead else 500, 10 if split == A else 20)
    assert splits.advance(20) == Watermark(489)
    splits.advance(1_015)
    assert splits.advance(1_020) == Watermark(989, idle=True)
    splits.observe(B, 700, 1_100)
    assert splits.advance(1_100) == Watermark(989)


def test_a_finished_split_no_longer_counts_and_a_subtask_without_splits_is_idle() -> None:
    splits = SplitWatermarks(STRATEGY)
    splits.add(A, None, 0)
    splits.add(B, None, 0)
    splits.observe(B, 500, 0)
    splits.finish(A)
    assert splits.advance(0) == Watermark(489)
    splits.finish(B)
    assert splits.advance(0) == Watermark(489, idle=True)
    assert SplitWatermarks(STRATEGY).advance(0) == Watermark(WATERMARK_MIN_US, idle=True)


def test_a_restored_split_goes_on_at_the_newest_time_that_the_checkpoint_knows() -> None:
    splits = SplitWatermarks(STRATEGY)
    splits.add(A, 700, 0)
    assert splits.advance(0) == Watermark(689)
    splits.observe(A, 600, 0)
    assert splits.newest_us(A) == 700


def test_splits_that_are_read_in_turn_hold_nothing_back_before_they_begin() -> None:
    splits = SplitWatermarks(STRATEGY, in_turn=True)
    splits.add(A, None, 0)
    splits.add(B, None, 0)
    assert splits.advance(0) is None
    splits.observe(A, 500, 0)
    assert splits.advance(0) == Watermark(489)
    splits.finish(A)
    assert splits.advance(0) is None, "not idle: another split is still to be read"
    splits.observe(B, 900, 0)
    assert splits.advance(0) == Watermark(889)
