"""Results of `reduce` before a window's end: they change when and as those of aggregates over the same rows do."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.aggregates import sum
from lakeward.engine.api.changelog import ROW_KIND, SHORT_NAMES
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.errors import SchemaError, UserCodeError
from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import key_groups, subtask_of
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.operators.windows.assigners import CarriedAssigner, CumulativeAssigner, GlobalAssigner, WindowAssigner
from lakeward.operators.windows.counts import CountAggregate, CountAssigner
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.operators.windows.reduced import WindowReduce
from lakeward.operators.windows.sessions import SessionAggregate, SessionAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

GROUPS, KEYS = 16, 3
SCHEMA = pa.schema({"n": pa.int64(), "k": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "tags": pa.list_(pa.int64())})
GROUP_OF = key_groups(hash_array(pa.array(range(KEYS))), GROUPS).tolist()
SECOND_MS = 1_000.0


def gathered(a: Any, b: Any) -> Any:
    """Of both rows, in this order."""
    return {**a, "n": a["n"] + b["n"], "tags": [*a["tags"], *b["tags"]]}


def row(key: int, time: int, tag: int = 0) -> dict[str, Any]:
    return {"n": 1, "k": key, "at": time, "tags": [tag]}


def reduced(window: Any, trigger: Trigger, lateness: int = 0, function: Any = gathered) -> WindowReduce:
    return WindowReduce(("k",), SCHEMA, "at", window, function, lateness, None, trigger)


def aggregated(window: Any, trigger: Trigger, lateness: int) -> OperatorFactory:
    bound = (sum("n").bind(SCHEMA, "n"),)
    if isinstance(window, CountAssigner):
        return CountAggregate(SCHEMA, ("k",), "at", window, bound, trigger)
    if isinstance(window, SessionAssigner):
        return SessionAggregate(SCHEMA, ("k",), "at", window, bound, lateness, None, trigger)
    return WindowAggregate(SCHEMA, ("k",), "at", window, bound, lateness, None, trigger)


def changes(harness: OperatorHarness) -> list[tuple[str, int, list[int]]]:
    return [(SHORT_NAMES[one[ROW_KIND]], one["k"], one["tags"]) for one in harness.take()]


def test_a_reduced_row_is_replaced_by_the_next_and_by_that_of_the_window_that_has_ended() -> None:
    made = reduced(WindowAssigner(10, 10), Trigger(interval_us=1_000_000))
    assert made.schema.names == ["k", "window_start", "window_end", "n", "at", "tags", ROW_KIND]
    with OperatorHarness(made, SCHEMA) as harness:
        harness.tick()
        harness.send([row(1, 0, 7), row(2, 0, 8)])
        assert changes(harness) == []
        harness.tick(SECOND_MS)
        assert changes(harness) == [("+I", 1, [7]), ("+I", 2, [8])]
        harness.tick(SECOND_MS)
        assert changes(harness) == []
        harness.send([row(1, 5, 9)])
        harness.watermark(9)
        assert changes(harness) == [("-U", 1, [7]), ("+U", 1, [7, 9])]


def test_a_row_that_is_no_different_is_not_sent_again() -> None:
    made = reduced(GlobalAssigner(), Trigger(rows=1), function=lambda a, b: a)
    with OperatorHarness(made, SCHEMA) as harness:
        for tag in range(3):
            harness.send([row(1, 0, tag)])
        harness.watermark(WATERMARK_MAX_US)
        assert changes(harness) == [("+I", 1, [0])]


def test_a_row_that_joins_two_sessions_that_were_sent_leaves_one_row() -> None:
    with OperatorHarness(reduced(SessionAssigner(6), Trigger(rows=1)), SCHEMA) as harness:
        harness.send([row(1, 0, 1), row(1, 10, 2)])
        assert sorted(changes(harness)) == [("+I", 1, [1]), ("+I", 1, [2])]
        harness.send([row(1, 5, 3)])
        assert changes(harness) == [("-D", 1, [2]), ("-D", 1, [1]), ("+I", 1, [1, 2, 3])]


def test_the_row_of_a_full_count_window_stays() -> None:
    with OperatorHarness(reduced(CountAssigner(2, 2), Trigger(rows=1)), SCHEMA) as harness:
        for tag in range(3):
            harness.send([row(1, 0, tag)])
        assert changes(harness) == [("+I", 1, [0]), ("-U", 1, [0]), ("+U", 1, [0, 1]), ("+I", 1, [2])]


def test_what_was_discarded_is_not_in_the_next_reduced_row() -> None:
    made = reduced(WindowAssigner(10, 10), Trigger(rows=2, discarding=True))
    assert ROW_KIND not in made.schema.names
    with OperatorHarness(made, SCHEMA) as harness:
        harness.send([row(1, 0, 1), row(1, 1, 2), row(2, 2, 3)])
        harness.send([row(1, 3, 4)])
        harness.watermark(9)
        assert [(one["k"], one["tags"]) for one in harness.take()] == [(1, [1, 2]), (1, [4]), (2, [3])]


def test_windows_that_rows_carry_have_the_columns_of_the_rows() -> None:
    time = pa.timestamp("us", tz="UTC")
    schema = pa.schema({"k": pa.int64(), "window_start": time, "window_end": time, "n": pa.int64()})
    made = WindowReduce(
        ("window_start",), schema, "window_end", CarriedAssigner(), lambda a, b: b, trigger=Trigger(rows=1)
    )
    assert made.schema.names == ["window_start", "window_end", "k", "n", ROW_KIND]
    with OperatorHarness(made, schema) as harness:
        for n in (1, 2):
            harness.send([{"k": n, "window_start": 0, "window_end": 10, "n": n}])
        assert [(SHORT_NAMES[one[ROW_KIND]], one["k"]) for one in harness.take()] == [("+I", 1), ("-U", 1), ("+U", 2)]


def test_a_function_that_changes_what_results_are_known_by_is_told_so() -> None:
    def moved(a: Any, b: Any) -> Any:
        return {**a, "k": a["k"] + 1}

    with (
        OperatorHarness(reduced(GlobalAssigner(), Trigger(rows=1), function=moved), SCHEMA) as harness,
        pytest.raises(UserCodeError, match=r"(?s)changed 'k'.*'k': 7.*result: {'k': 8}") as caught,
    ):
        harness.send([row(7, 0), row(7, 0)])
    assert f"test_window_early_reduce.py:{moved.__code__.co_firstlineno} in moved" in str(caught.value)


def test_a_key_that_is_no_number_stays_as_it_is() -> None:
    schema = pa.schema({"k": pa.float64(), "n": pa.int64()})
    made = WindowReduce(("k",), schema, "", GlobalAssigner(), lambda a, b: b, trigger=Trigger(rows=1))
    with OperatorHarness(made, schema) as harness:
        for n in range(3):
            harness.send([{"k": math.nan, "n": n}, {"k": math.nan, "n": n}])
        assert [one["n"] for one in harness.take()] == [0, 0, 1, 1, 2]


def test_rows_with_bounds_of_their_own_are_refused_when_the_graph_is_built() -> None:
    time = pa.timestamp("us", tz="UTC")
    schema = pa.schema({"window_start": time, "at": time})
    with pytest.raises(SchemaError, match="get a column 'window_start', and they have one") as caught:
        WindowReduce((), schema, "at", WindowAssigner(10, 10), gathered, trigger=Trigger(rows=1))
    assert ".rename({" in (caught.value.hint or "")
    WindowReduce((), schema, "at", GlobalAssigner(), gathered, trigger=Trigger(rows=1))


# -- beside aggregates


class Subtasks:
    """An operator at some parallelism, fed as a job would feed it."""

    def __init__(self, factory: OperatorFactory) -> None:
        self.factory = factory
        self.harnesses = [OperatorHarness(factory, SCHEMA, HarnessConfig(0, 1, GROUPS))]

    def step(self, step: Any) -> list[dict[str, Any]]:
        """Do it; returns what was sent."""
        if isinstance(step, int):
            return self._rescale(step)
        for number, harness in enumerate(self.harnesses):
            if step == "tick":
                harness.tick()
                harness.tick(1.0)
            elif step[0] == "watermark":
                harness.watermark(step[1])
            elif mine := [row(*one) for one in step if self._subtask(one[0]) == number]:
                harness.send(mine)
        return self._sent()

    def _subtask(self, key: int) -> int:
        return subtask_of(KeyGroup(GROUP_OF[key]), len(self.harnesses), GROUPS)

    def _sent(self) -> list[dict[str, Any]]:
        return [one for harness in self.harnesses for one in harness.take()]

    def _rescale(self, parallelism: int) -> list[dict[str, Any]]:
        snapshots = [harness.snapshot() for harness in self.harnesses]
        sent = self._sent()
        self.close()
        configs = [HarnessConfig(i, parallelism, GROUPS) for i in range(parallelism)]
        self.harnesses = [OperatorHarness.restore(self.factory, SCHEMA, snapshots, config) for config in configs]
        return sent

    def close(self) -> None:
        for harness in self.harnesses:
            harness.close()


ROWS = st.lists(st.tuples(st.integers(0, KEYS - 1), st.integers(0, 40)), min_size=1, max_size=8)
STEPS = st.lists(
    st.one_of(ROWS, ROWS, st.just("tick"), st.tuples(st.just("watermark"), st.integers(0, 45)), st.integers(1, 3)),
    min_size=1,
    max_size=12,
)
WINDOWS = [
    WindowAssigner(10, 10),
    WindowAssigner(10, 5),
    CumulativeAssigner(5, 15),
    GlobalAssigner(),
    SessionAssigner(4),
    CountAssigner(3, 3),
    CountAssigner(4, 2),
]
TRIGGERS = [Trigger(interval_us=1_000), Trigger(rows=1), Trigger(rows=2)]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.description)
@given(trigger=st.sampled_from(TRIGGERS), lateness=st.sampled_from([0, 6]), steps=STEPS)
@settings(max_examples=12, deadline=None)
def test_reduced_rows_change_as_aggregates_do_over_snapshots_and_rescaling(
    window: Any, trigger: Trigger, lateness: int, steps: list[Any]
) -> None:
    pair = Subtasks(reduced(window, trigger, lateness)), Subtasks(aggregated(window, trigger, lateness))
    visible: list[dict[str, Any]] = []
    try:
        for step in [*numbered(steps), ("watermark", WATERMARK_MAX_US)]:
            sent, wanted = (one.step(step) for one in pair)
            assert [without(one, "at", "tags") for one in sent] == wanted
            apply(visible, sent)
            assert all(one["n"] == len(one["tags"]) == len(set(one["tags"])) for one in visible)
    finally:
        for one in pair:
            one.close()


def numbered(steps: list[Any]) -> list[Any]:
    """Rows with a number of their own each."""
    found: list[Any] = []
    for step in steps:
        first = len(found) * 100
        found.append([(*one, first + i) for i, one in enumerate(step)] if isinstance(step, list) else step)
    return found


def without(one: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name not in names}


def apply(visible: list[dict[str, Any]], sent: list[dict[str, Any]]) -> None:
    """Every row that is taken back must be there, as it was sent."""
    for one in sent:
        plain = without(one, ROW_KIND)
        if SHORT_NAMES[one[ROW_KIND]] in ("-U", "-D"):
            visible.remove(plain)
        else:
            visible.append(plain)


@pytest.mark.parametrize("window", WINDOWS[:5], ids=lambda window: window.description)
def test_rows_that_come_in_order_are_reduced_in_order_whenever_they_are_sent(window: Any) -> None:
    with OperatorHarness(reduced(window, Trigger(rows=1)), SCHEMA) as harness:
        for start in (0, 5, 10):
            harness.send([row(1, time, time) for time in range(start, start + 5)])
        harness.watermark(WATERMARK_MAX_US)
        sent = harness.take()
    assert sent
    assert all(one["tags"] == sorted(one["tags"]) for one in sent)
