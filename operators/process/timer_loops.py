"""Timers that set one another without end, and never get on."""

from __future__ import annotations

from typing import Any

_BACK_MAX = 1_000


class TimerLoops:
    """Notices timers that go back again and again in one advance of time.

    A timer may set one for its own time or an earlier one, which fires in the same advance; that one may, too. Of each
    is kept how many such steps led to it. The count begins anew where a key comes further than it ever was; an endless
    loop does not, within times that have an end, and so it counts on.

    >>> loops = TimerLoops()
    >>> sum(loops.is_endless("a", now_us=5, time_us=5) for _ in range(10))
    0
    >>> any(loops.is_endless("a", now_us=-n, time_us=-n - 1) for n in range(2_000))
    True
    """

    def __init__(self) -> None:
        self._furthest_us: dict[Any, int] = {}
        self._steps_back: dict[tuple[Any, int], int] = {}

    def __bool__(self) -> bool:
        return bool(self._furthest_us)

    def clear(self) -> None:
        """Another advance begins."""
        self._furthest_us, self._steps_back = {}, {}

    def is_endless(self, key: Any, now_us: int, time_us: int) -> bool:
        """A timer of a key sets another one: whether too many steps back led to it.

        Until a first one is set for its own time or an earlier one, there is nothing to note.

        Args:
            key: The key.
            now_us: The time of the timer that fires.
            time_us: The time of the one that is set.
        """
        furthest_us = self._furthest_us[key] = max(now_us, self._furthest_us.get(key, now_us))
        if time_us > furthest_us:
            return False
        steps = self._steps_back.get((key, now_us), 0) + (time_us <= now_us)
        self._steps_back[key, time_us] = max(steps, self._steps_back.get((key, time_us), 0))
        return steps > _BACK_MAX
