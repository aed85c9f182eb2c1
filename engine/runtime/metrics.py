"""Counters of a run, by operator; names carry their units."""

from __future__ import annotations

from collections import defaultdict

from lakeward.engine.api.context import Counter
from lakeward.engine.api.source import CounterRegistry
from lakeward.engine.core.ids import OperatorId


class RunningCounter:
    """A counter of one process.

    >>> late = RunningCounter()
    >>> late.inc(3)
    >>> late.value
    3
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, amount: int = 1) -> None:
        """Add to it."""
        self.value += amount


class Metrics:
    """All counters of a job: by operator, then by name, summed over subtasks and attempts."""

    def __init__(self) -> None:
        self._counters: dict[OperatorId, dict[str, RunningCounter]] = defaultdict(dict)

    def counter(self, uid: OperatorId, name: str) -> RunningCounter:
        """The counter of this name, made at first use."""
        return self._counters[uid].setdefault(name, RunningCounter())

    def values(self) -> dict[str, dict[str, int]]:
        """A copy of all values."""
        return {uid: {name: c.value for name, c in named.items()} for uid, named in self._counters.items()}


class OperatorCounters(CounterRegistry):
    """The counters of one operator."""

    def __init__(self, metrics: Metrics, uid: OperatorId) -> None:
        self._metrics = metrics
        self._uid = uid

    def counter(self, name: str) -> Counter:
        """The counter of this name."""
        return self._metrics.counter(self._uid, name)
