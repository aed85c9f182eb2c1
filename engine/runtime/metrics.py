"""Counters of a run, by operator; names carry their units."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from lakeward.engine.api.context import Counter
from lakeward.engine.api.source import CounterRegistry
from lakeward.engine.core.ids import OperatorId, SubtaskIndex


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


@dataclass(frozen=True, slots=True)
class MetricValues:
    """What one process has counted, by operator and name.

    Args:
        counters: What only grows.
        gauges: What there is now, summed over the process's subtasks.
    """

    counters: Mapping[str, Mapping[str, int]]
    gauges: Mapping[str, Mapping[str, int]]


class Metrics:
    """All counters of a job: by operator, then by name, summed over subtasks and attempts; and gauges.

    >>> metrics = Metrics()
    >>> metrics.gauge(OperatorId("totals"), SubtaskIndex(0), "state.total.entries", 5)
    >>> metrics.gauge(OperatorId("totals"), SubtaskIndex(1), "state.total.entries", 2)
    >>> metrics.values()
    {'totals': {'state.total.entries': 7}}
    """

    def __init__(self) -> None:
        self._counters: dict[OperatorId, dict[str, RunningCounter]] = defaultdict(dict)
        self._gauges: dict[OperatorId, dict[str, dict[SubtaskIndex, int]]] = defaultdict(dict)
        self._elsewhere: dict[int, MetricValues] = {}

    def counter(self, uid: OperatorId, name: str) -> RunningCounter:
        """The counter of this name, made at first use."""
        return self._counters[uid].setdefault(name, RunningCounter())

    def gauge(self, uid: OperatorId, subtask: SubtaskIndex, name: str, value: int) -> None:
        """How much there is of something in a subtask now."""
        self._gauges[uid].setdefault(name, {})[subtask] = value

    def begin_attempt(self) -> None:
        """A new attempt begins, perhaps with fewer subtasks: counters go on, gauges begin anew."""
        self._gauges.clear()
        for values in self._elsewhere.values():
            for uid, named in values.counters.items():
                for name, value in named.items():
                    self.counter(OperatorId(uid), name).inc(value)
        self._elsewhere.clear()

    def own(self) -> MetricValues:
        """What this process has counted, for another one's `put`."""
        counters: dict[str, dict[str, int]] = {
            uid: {name: c.value for name, c in named.items()} for uid, named in self._counters.items()
        }
        gauges: dict[str, dict[str, int]] = {
            uid: {name: sum(parts.values()) for name, parts in named.items()} for uid, named in self._gauges.items()
        }
        return MetricValues(counters, gauges)

    def put(self, worker: int, values: MetricValues) -> None:
        """What a worker process has counted in this attempt so far."""
        self._elsewhere[worker] = values

    def values(self) -> dict[str, dict[str, int]]:
        """A copy of all values; of gauges the sum over subtasks."""
        found: dict[str, dict[str, int]] = {}
        for values in (self.own(), *self._elsewhere.values()):
            for kind in (values.counters, values.gauges):
                for uid, named in kind.items():
                    sums = found.setdefault(uid, {})
                    for name, value in named.items():
                        sums[name] = sums.get(name, 0) + value
        return found


class OperatorCounters(CounterRegistry):
    """The counters and gauges of one operator."""

    def __init__(self, metrics: Metrics, uid: OperatorId) -> None:
        self._metrics = metrics
        self._uid = uid

    def counter(self, name: str) -> Counter:
        """The counter of this name."""
        return self._metrics.counter(self._uid, name)

    def gauge(self, subtask: SubtaskIndex, name: str, value: int) -> None:
        """Set the gauge of this name."""
        self._metrics.gauge(self._uid, subtask, name, value)
