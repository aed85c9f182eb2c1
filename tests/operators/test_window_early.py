"""Results before a window's end: changelogs that leave the final results, and deltas that add up to them."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.aggregates import count, max, sum
from lakeward.engine.api.changelog import ROW_KIND, SHORT_NAMES, kinds_of
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.operators.windows.assigners import CumulativeAssigner, GlobalAssigner, PaneAssigner, WindowAssigner
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"k": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "v": pa.int64()})
SECOND_MS = 1_000.0


def factory(windows: PaneAssigner, trigger: Trigger | None, lateness: int = 0) -> WindowAggregate:
    aggregates = {"n": count(), "total": sum("v"), "most": max("v")}
    bound = tuple(aggregate.bind(SCHEMA, name) for name, aggregate in aggregates.items())
    return WindowAggregate(SCHEMA, ("k",), "at", windows, bound, lateness, None, trigger)


def row(key: int, time: int, value: int | None = 1) -> dict[str, Any]:
    return {"k": key, "at": time, "v": value}


def changes(harness: OperatorHarness) -> list[tuple[str, int, int]]:
    return [(SHORT_NAMES[one[ROW_KIND]], one["k"], one["n"]) for one in harness.take()]


def test_a_window_sends_what_it_has_every_so_often_and_only_what_changed() -> None:
    with OperatorHarness(factory(WindowAssigner(10, 10), Trigger(interval_us=1_000_000)), SCHEMA) as harness:
        harness.tick()
        harness.send([row(1, 0), row(2, 0)])
        assert changes(harness) == []
        harness.tick(SECOND_MS)
        assert sorted(changes(harness)) == [("+I", 1, 1), ("+I", 2, 1)]
        harness.send([row(1, 1)])
        harness.tick(SECOND_MS)
        assert changes(harness) == [("-U", 1, 1), ("+U", 1, 2)]
        harness.tick(SECOND_MS)
        assert changes(harness) == []
        harness.send([row(2, 1), row(3, 1)])
        harness.watermark(9)
        assert sorted(changes(harness)) == [("+I", 3, 1), ("+U", 2, 2), ("-U", 2, 1)]
        assert harness.operator._sent._table.namespaces() == []  # type: ignore[attr-defined]


def test_a_key_fires_when_it_has_got_its_rows() -> None:
    with OperatorHarness(factory(GlobalAssigner(), Trigger(rows=2)), SCHEMA) as harness:
        harness.send([row(1, 0), row(2, 0)])
        assert changes(harness) == []
        harness.send([row(1, 0)])
        assert changes(harness) == [("+I", 1, 2)]
        harness.send([row(1, 0), row(1, 0), row(1, 0)])
        assert changes(harness) == [("-U", 1, 2), ("+U", 1, 5)]
        harness.watermark(WATERMARK_MAX_US)
        assert changes(harness) == [("+I", 2, 1)]


def test_nothing_is_pending_in_a_checkpoint() -> None:
    made = factory(WindowAssigner(10, 10), Trigger(interval_us=1_000_000))
    with OperatorHarness(made, SCHEMA) as harness:
        harness.send([row(1, 0)])
        snapshot = harness.snapshot()
        assert changes(harness) == [("+I", 1, 1)]
    with OperatorHarness.restore(made, SCHEMA, [snapshot]) as restored:
        restored.send([row(1, 1)])
        restored.watermark(9)
        assert changes(restored) == [("-U", 1, 1), ("+U", 1, 2)]


def test_late_rows_replace_what_was_sent() -> None:
    with OperatorHarness(factory(WindowAssigner(10, 10), Trigger(rows=100), lateness=5), SCHEMA) as harness:
        harness.send([row(1, 0)])
        harness.watermark(9)
        assert changes(harness) == [("+I", 1, 1)]
        harness.send([row(1, 1)])
        assert changes(harness) == [("-U", 1, 1), ("+U", 1, 2)]


def test_discarded_results_add_up() -> None:
    trigger = Trigger(rows=2, discarding=True)
    with OperatorHarness(factory(WindowAssigner(10, 10), trigger, lateness=5), SCHEMA) as harness:
        harness.send([row(1, 0), row(1, 1), row(2, 2)])
        assert [(one["k"], one["n"]) for one in harness.take()] == [(1, 2)]
        harness.send([row(1, 3)])
        harness.watermark(9)
        assert sorted((one["k"], one["n"]) for one in harness.take()) == [(1, 1), (2, 1)]
        harness.send([row(1, 4)])
        assert [(one["k"], one["n"]) for one in harness.take()] == [(1, 1)]


ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 29), st.none() | st.integers(0, 5)), min_size=1, max_size=8)
STEPS = st.lists(
    st.one_of(ROWS, ROWS, st.just("tick"), st.tuples(st.just("watermark"), st.integers(0, 30)), st.integers(1, 2)),
    min_size=1,
    max_size=12,
)
TRIGGERS = st.sampled_from([Trigger(interval_us=1_000), Trigger(rows=2), Trigger(rows=1)])
WINDOWS = st.sampled_from([WindowAssigner(10, 10), WindowAssigner(10, 5), CumulativeAssigner(5, 10), GlobalAssigner()])


@given(WINDOWS, TRIGGERS, STEPS)
@settings(max_examples=60, deadline=None)
def test_a_changelog_of_early_results_leaves_the_results_of_windows_that_fire_once(
    windows: PaneAssigner, trigger: Trigger, steps: list[Any]
) -> None:
    early, plain = factory(windows, trigger, 1_000), factory(windows, None, 1_000)
    final: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    wanted: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for table in run(early, steps):
        apply(final, table)
    for table in run(plain, steps):
        wanted |= {split(one): values(one) for one in table.to_pylist()}
    assert final == wanted


@given(st.sampled_from([WindowAssigner(10, 10), GlobalAssigner()]), TRIGGERS, STEPS)
@settings(max_examples=40, deadline=None)
def test_deltas_add_up_to_the_results_of_windows_that_fire_once(
    windows: PaneAssigner, trigger: Trigger, steps: list[Any]
) -> None:
    deltas = Trigger(trigger.interval_us, trigger.rows, discarding=True)
    counts: dict[tuple[Any, ...], int] = defaultdict(int)
    for table in run(factory(windows, deltas, 1_000), steps):
        for one in table.to_pylist():
            counts[split(one)] += one["n"]
    wanted: dict[tuple[Any, ...], int] = {}
    for table in run(factory(windows, None, 1_000), steps):
        wanted |= {split(one): one["n"] for one in table.to_pylist()}
    assert counts == wanted


def split(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["k"], one.get("window_start"), one.get("window_end")


def values(one: dict[str, Any]) -> tuple[Any, ...]:
    return one["n"], one["total"], one["most"]


def apply(final: dict[tuple[Any, ...], tuple[Any, ...]], table: pa.Table) -> None:
    for batch in table.to_batches():
        for kind, one in zip(kinds_of(batch).tolist(), batch.to_pylist(), strict=True):
            if kind == 0:
                assert split(one) not in final
            elif kind == 1:
                assert final[split(one)] == values(one)
            else:
                assert kind == 2
            final[split(one)] = values(one)


def run(made: WindowAggregate, steps: list[Any]) -> list[pa.Table]:
    """All that it sends, restored twice at another parallelism's key groups on the way."""
    tables = []
    harness = OperatorHarness(made, SCHEMA)
    try:
        for step in [*steps, ("watermark", WATERMARK_MAX_US)]:
            if step == "tick":
                harness.tick(1.0)
            elif isinstance(step, int):
                snapshot = harness.snapshot()
                tables.append(harness.take_table())
                harness.close()
                harness = OperatorHarness.restore(made, SCHEMA, [snapshot], HarnessConfig())
            elif step[0] == "watermark":
                harness.watermark(step[1])
            else:
                harness.send([row(*one) for one in step])
            tables.append(harness.take_table())
    finally:
        harness.close()
    return [table for table in tables if table is not None]


@pytest.mark.parametrize("trigger", [{"rows": 0}, {"interval_us": 0}])
def test_triggers_that_cannot_work_are_refused(trigger: dict[str, int]) -> None:
    with pytest.raises(Exception, match="needs more than 0"):
        Trigger(**trigger)  # type: ignore[arg-type]
