"""Windows of processing time, and of other kinds of time: the clock, none at all, and the window that a row carries."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lakeward.dsl.aggregates import count, max, sum
from lakeward.operators.windows.assigners import (
    CarriedAssigner,
    CumulativeAssigner,
    GlobalAssigner,
    PaneAssigner,
    WindowAssigner,
)
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.operators.windows.sessions import SessionAggregate, SessionAssigner
from lakeward.testing.harness import OperatorHarness

SCHEMA = pa.schema({"k": pa.int64(), "v": pa.int64()})
SECOND = 1_000_000


def factory(windows: PaneAssigner, schema: pa.Schema = SCHEMA, time_column: str = "") -> WindowAggregate:
    aggregates = (count().bind(schema, "n"), sum("v").bind(schema, "total"))
    return WindowAggregate(schema, ("k",), time_column, windows, aggregates)


def taken(harness: OperatorHarness) -> list[tuple[int, int]]:
    return sorted((one["k"], one["n"]) for one in harness.take())


def row(key: int) -> dict[str, Any]:
    return {"k": key, "v": 1}


def test_windows_of_processing_time_fire_by_the_clock() -> None:
    with OperatorHarness(factory(WindowAssigner(10 * SECOND, 10 * SECOND, processing=True)), SCHEMA) as harness:
        harness.send([row(1), row(1)])
        harness.watermark(2**60)  # event time says nothing to it
        harness.tick(9_000)
        harness.send([row(1), row(2)])
        assert taken(harness) == []
        harness.tick(1_000)
        (one, two) = sorted(harness.take(), key=lambda found: found["k"])
        assert (one["n"], two["n"]) == (3, 1)
        assert (one["window_end"] - one["window_start"]).seconds == 10
        assert harness.counter("late_rows") == 0


def test_a_restored_window_whose_time_has_passed_fires_at_once() -> None:
    made = factory(WindowAssigner(10 * SECOND, 10 * SECOND, processing=True))
    with OperatorHarness(made, SCHEMA) as harness:
        harness.send([row(1)])
        snapshot = harness.snapshot()
    with OperatorHarness.restore(made, SCHEMA, [snapshot]) as restored:
        restored.tick(60_000)
        assert taken(restored) == [(1, 1)]


def test_a_clock_that_goes_back_makes_no_row_late() -> None:
    made = factory(WindowAssigner(10 * SECOND, 10 * SECOND, processing=True))
    with OperatorHarness(made, SCHEMA) as harness:
        harness.tick(600_000)
        snapshot = harness.snapshot()
    with OperatorHarness.restore(made, SCHEMA, [snapshot]) as restored:  # its clock starts where the other one did
        restored.send([row(1)])
        assert restored.counter("late_rows") == 0
        restored.tick(700_000)
        assert taken(restored) == [(1, 1)]


def test_the_end_of_the_input_fires_windows_of_processing_time() -> None:
    for windows in (WindowAssigner(10, 10, processing=True), CumulativeAssigner(5, 10, processing=True)):
        with OperatorHarness(factory(windows), SCHEMA) as harness:
            harness.send([row(1)])
            assert [one["n"] for one in harness.end()][-1] == 1


def test_sessions_of_processing_time_end_after_a_silence() -> None:
    bound = (count().bind(SCHEMA, "n"),)
    made = SessionAggregate(SCHEMA, ("k",), "", SessionAssigner(5 * SECOND, processing=True), bound)
    with OperatorHarness(made, SCHEMA) as harness:
        for _ in range(3):
            harness.send([row(1)])
            harness.tick(4_000)
        assert taken(harness) == []
        harness.tick(1_000)
        assert taken(harness) == [(1, 3)]


def test_a_global_window_is_sent_when_the_input_ends() -> None:
    with OperatorHarness(factory(GlobalAssigner()), SCHEMA) as harness:
        harness.send([row(1), row(2)])
        harness.send([row(1)])
        harness.watermark(2**62)
        assert taken(harness) == []
        assert sorted((one["k"], one["n"]) for one in harness.end()) == [(1, 2), (2, 1)]


def test_results_of_windows_go_on_within_their_window() -> None:
    time = pa.timestamp("us", tz="UTC")
    schema = pa.schema({"k": pa.int64(), "window_start": time, "window_end": time, "v": pa.int64()})
    keys = ("window_start",)
    made = WindowAggregate(schema, keys, "window_end", CarriedAssigner(), (max("v").bind(schema, "most"),))
    with OperatorHarness(made, schema) as harness:
        rows = [(0, 10, 1), (0, 10, 5), (5, 15, 2), (7, 15, 3)]
        harness.send([{"k": v, "window_start": start, "window_end": end, "v": v} for start, end, v in rows])
        harness.watermark(9)
        assert [one["most"] for one in harness.take()] == [5]
        harness.watermark(14)  # two windows with one end are two windows
        assert sorted(one["most"] for one in harness.take()) == [2, 3]
        assert made.schema.names == ["window_start", "window_end", "most"]
