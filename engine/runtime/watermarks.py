"""Watermarks of several inputs become one; watermarks of a source come from its splits. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lakeward.engine.api.time import WatermarkStrategy
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US, Watermark

END_OF_TIME = Watermark(WATERMARK_MAX_US)
"""Sent before the end of input, so that every window fires."""


class WatermarkMin:
    """The minimum over all inputs that are not idle and have not ended; never goes back (Flink's StatusWatermarkValve).

    When all are idle, there is nobody to wait for, and event time goes to that of the input furthest ahead, as in
    Flink: where it stands must not depend on which of them was called idle first.

    Event time comes to its end with the last input. Were one that has ended taken for far ahead, event time would be at
    its end as soon as the others are idle, and all that they send afterwards would be late. (In Flink it is.)

    An input that is back from being idle counts at once, and holds event time where it is until it has caught up.
    (Flink goes on without it until then, so that more of its rows are late.)

    Inputs of one group come from subtasks that all read the same: they fall idle and wake together, but say so one
    after the other. None of them is passed over until all are idle, for one that has not yet said that it is awake may
    hold rows that are older than what the first one says. (In Flink their results are late.)

    >>> valve = WatermarkMin(2)
    >>> valve.update(0, Watermark(100))
    >>> valve.update(1, Watermark(70))
    Watermark(timestamp_us=70, idle=False)
    >>> valve.update(1, Watermark(70, idle=True))
    Watermark(timestamp_us=100, idle=False)

    Args:
        inputs: Number of input channels.
        groups: Channels that belong together; each one else is by itself.
    """

    def __init__(self, inputs: int, groups: Sequence[Sequence[int]] = ()) -> None:
        self._inputs = [Watermark(WATERMARK_MIN_US)] * inputs
        grouped = {channel for group in groups for channel in group}
        self._groups = [*groups, *([channel] for channel in range(inputs) if channel not in grouped)]
        self._current = Watermark(WATERMARK_MIN_US)

    def update(self, channel: int, watermark: Watermark) -> Watermark | None:
        """Take a watermark of one input.

        Returns:
            The combined watermark if it changed, else None.
        """
        self._inputs[channel] = watermark
        marks = [_together([self._inputs[channel] for channel in group]) for group in self._groups]
        combined = combine(marks, self._current.timestamp_us)
        if combined == self._current:
            return None
        self._current = combined
        return combined


def _together(group: Sequence[Watermark]) -> Watermark:
    """The watermark of inputs that are idle only when all are: the minimum."""
    if len(group) == 1:
        return group[0]
    running = [mark for mark in group if mark != END_OF_TIME]
    if not running:
        return END_OF_TIME
    return Watermark(min(mark.timestamp_us for mark in running), idle=all(mark.idle for mark in running))


def combine(watermarks: list[Watermark], floor_us: int) -> Watermark:
    """The minimum of those that are not idle; if there is none, idle, and the maximum. Never below `floor_us`.

    The end of time says that an input has ended: it counts when all have.
    """
    running = [mark for mark in watermarks if mark != END_OF_TIME]
    if watermarks and not running:
        return END_OF_TIME
    active = [mark.timestamp_us for mark in running if not mark.idle]
    if not active:
        return Watermark(max([floor_us, *(mark.timestamp_us for mark in running)]), idle=True)
    return Watermark(max(min(active), floor_us))


@dataclass(slots=True)
class _SplitClock:
    newest_us: int
    active_ms: int


class SplitWatermarks:
    """The watermark of one source subtask: the minimum over its splits, each trailing its own newest event time.

    When all splits are idle, so is the subtask, at the time of the one furthest ahead. A subtask without any split is
    idle. A finished split no longer counts.

    Args:
        strategy: How far a split's watermark trails, and when a silent split is idle.
        in_turn: Whether splits are read one after the other: those not begun do not count yet.
    """

    def __init__(self, strategy: WatermarkStrategy, *, in_turn: bool = False) -> None:
        self._strategy = strategy
        self._in_turn = in_turn
        self._splits: dict[SplitId, _SplitClock] = {}
        self._sent = Watermark(WATERMARK_MIN_US)

    @property
    def current_us(self) -> int:
        """The last one that was sent."""
        return self._sent.timestamp_us

    def add(self, split: SplitId, newest_us: int | None, now_ms: int) -> None:
        """Begin a split, at the newest event time that a restored checkpoint knows of it."""
        self._splits[split] = _SplitClock(WATERMARK_MIN_US if newest_us is None else newest_us, now_ms)

    def observe(self, split: SplitId, newest_us: int | None, now_ms: int) -> None:
        """Rows of a split were read; `newest_us` is their largest event time (None: all null)."""
        clock = self._splits[split]
        clock.active_ms = now_ms
        if newest_us is not None:
            clock.newest_us = max(clock.newest_us, newest_us)

    def reach(self, split: SplitId, watermark_us: int) -> None:
        """The input says that no later row of a split is at or before this time."""
        clock = self._splits[split]
        clock.newest_us = max(clock.newest_us, watermark_us + self._strategy.out_of_orderness_us + 1)

    def finish(self, split: SplitId) -> None:
        """The split has no more rows."""
        del self._splits[split]

    def newest_us(self, split: SplitId) -> int:
        """The largest event time seen in a split, for the checkpoint."""
        return self._splits[split].newest_us

    def advance(self, now_ms: int) -> Watermark | None:
        """The subtask's watermark if it changed since the last call, else None."""
        marks = [self._mark(clock, now_ms) for clock in self._splits.values()]
        combined = combine(marks, self._sent.timestamp_us)
        if combined.idle and self._in_turn and self._splits:
            # Between two files, or before the first: others must wait for what is still to be read here.
            combined = Watermark(self._sent.timestamp_us)
        if combined == self._sent:
            return None
        self._sent = combined
        return combined

    def _mark(self, clock: _SplitClock, now_ms: int) -> Watermark:
        timeout_us = self._strategy.idle_timeout_us
        idle = timeout_us is not None and (now_ms - clock.active_ms) * 1000 >= timeout_us
        if clock.newest_us == WATERMARK_MIN_US:
            return Watermark(WATERMARK_MIN_US, idle or self._in_turn)
        return Watermark(clock.newest_us - self._strategy.out_of_orderness_us - 1, idle)
