"""A source may say by itself how far event time has come in a split: with a batch, or without rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.testing import BARRIER, EOF, CollectSink, Item, JobHarness, ScriptedSource, Watermark

SCHEMA = pa.schema({"n": pa.int64(), "at": pa.timestamp("us", tz="UTC")})
SILENT = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1000d")
"""Lets no row advance event time: only the script does."""


def row(second: int) -> dict[str, Any]:
    return {"n": 1, "at": datetime(2026, 1, 1, 0, 0, second, tzinfo=UTC)}


def at(second: float) -> Watermark:
    return Watermark(datetime(2026, 1, 1, 0, 0, int(second), int(second % 1 * 1_000_000), tzinfo=UTC))


def windows(*scripts: list[Item]) -> JobHarness:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        stream = env.from_source(ScriptedSource(SCHEMA, *scripts), watermark=SILENT, uid="in")
        stream.window_all(lw.Tumbling("10s")).aggregate(uid="windows", n=lw.count()).sink_to(CollectSink(), uid="out")

    return JobHarness(job)


def counts(harness: JobHarness) -> list[int]:
    return [one["n"] for one in harness.rows()]


def test_a_watermark_in_a_script_ends_the_windows_it_passes_and_no_other() -> None:
    harness = windows([[row(1), row(12)], at(9.999999), BARRIER, EOF, [row(13)]])
    assert harness.run().stopped
    assert counts(harness) == [1]
    assert harness.run().ended
    assert counts(harness) == [1, 2]


def test_a_microsecond_less_does_not_end_the_window() -> None:
    harness = windows([[row(1)], at(9.999998), BARRIER, EOF])
    assert harness.run().stopped
    assert counts(harness) == []


def test_rows_behind_a_watermark_are_late() -> None:
    harness = windows([[row(1)], at(20), BARRIER, [row(2)]])
    harness.run()
    assert counts(harness) == [1]


def test_event_time_waits_for_the_split_that_is_behind() -> None:
    harness = windows([[row(1)], at(30), BARRIER, EOF], [[row(2)], at(5), BARRIER, [row(3)], at(30)])
    assert harness.run().stopped
    assert counts(harness) == []
    harness.run()
    assert counts(harness) == [3]


@pytest.mark.parametrize("parallelism", [(1, 2), (2, 1)])
def test_a_watermark_is_remembered_over_a_restart(parallelism: tuple[int, int]) -> None:
    harness = windows([[row(1)], at(20), EOF, [row(2), row(25)]])
    harness.run_to_end(parallelism=parallelism)
    assert counts(harness) == [1, 1], "the row of second 2 is late, also after the restart"
