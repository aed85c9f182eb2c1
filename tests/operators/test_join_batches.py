"""Joins at the edges of batches: hot keys, folded changes, unknown retractions, rows that are forgotten."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from lakeward import col
from lakeward.engine.api.changelog import ROW_KIND, updating
from lakeward.engine.core.errors import LakewardError, RecordError
from lakeward.operators.joins import rows as join_rows
from lakeward.operators.joins.factory import JoinInput
from lakeward.operators.joins.interval import Bounds, IntervalJoin
from lakeward.operators.joins.layout import How, JoinLayout
from lakeward.operators.joins.regular import RegularJoin
from lakeward.operators.joins.rows import EMIT_ROWS_MAX
from lakeward.operators.joins.temporal import TemporalJoin
from lakeward.operators.joins.times import TimeColumn
from lakeward.testing.harness import OperatorHarness

LEFT = pa.schema({"k": pa.int64(), "v": pa.int64()})
RIGHT = pa.schema({"k": pa.int64(), "w": pa.int64()})
TIMED = pa.schema({"k": pa.int64(), "at": pa.timestamp("us")})


def regular(how: How, left: pa.Schema = LEFT, right: pa.Schema = RIGHT, *, unique: bool = False) -> RegularJoin:
    layout = JoinLayout.of(left, right, [("k", "k")], how)
    identity = ("k",) if left != LEFT else None
    return RegularJoin((JoinInput(left, ("k",), identity), JoinInput(right, ("k",), unique=unique)), layout, how)


def test_the_partners_of_a_hot_key_are_sent_in_batches_of_a_bounded_size() -> None:
    layout = JoinLayout.of(LEFT, RIGHT, [("k", "k")])
    where = (col("v") < col("w")).bind(layout.schema)
    inputs = (JoinInput(LEFT, ("k",)), JoinInput(RIGHT, ("k",)))
    with OperatorHarness(RegularJoin(inputs, layout, "inner", where), [LEFT, RIGHT]) as harness:
        harness.send([{"k": 1, "w": n} for n in range(600)], 1)
        harness.send([{"k": 1, "v": n} for n in range(600)])
        table = harness.take_table()
        assert table is not None
        assert table.num_rows == 600 * 599 // 2
        assert max(len(chunk) for chunk in table["k"].chunks) <= EMIT_ROWS_MAX


def test_a_row_that_is_replaced_and_put_back_within_a_batch_is_not_mentioned() -> None:
    left = updating(LEFT)
    with OperatorHarness(regular("left", left), [left, RIGHT]) as harness:
        harness.send([{"k": 1, "v": 5, ROW_KIND: 0}])
        assert [row[ROW_KIND] for row in harness.take()] == [0]
        there_and_back = [(5, 1), (6, 2), (6, 1), (5, 2)]
        harness.send([{"k": 1, "v": v, ROW_KIND: kind} for v, kind in there_and_back])
        assert harness.take() == []
        harness.send([{"k": 1, "v": v, ROW_KIND: kind} for v, kind in there_and_back[:2]])
        assert [(row["v"], row[ROW_KIND]) for row in harness.take()] == [(5, 3), (6, 0)]


def test_a_partner_that_comes_and_goes_within_a_batch_changes_nothing() -> None:
    right = updating(RIGHT)
    with OperatorHarness(regular("left", right=right), [LEFT, right]) as harness:
        harness.send([{"k": 1, "v": 5}])
        harness.take()
        harness.send([{"k": 1, "w": 1, ROW_KIND: 0}, {"k": 1, "w": 1, ROW_KIND: 3}], 1)
        assert harness.take() == []


def test_of_equal_rows_only_as_many_are_taken_back_as_were_there() -> None:
    right = updating(RIGHT)
    with OperatorHarness(regular("inner", right=right), [LEFT, right]) as harness:
        harness.send([{"k": 1, "w": 1, ROW_KIND: 0}] * 2, 1)
        harness.send([{"k": 1, "w": 1, ROW_KIND: 3}] * 3, 1)
        assert harness.counter("unknown_retractions") == 1
        harness.send([{"k": 1, "v": 5}])
        assert harness.take() == []


@pytest.mark.parametrize("together", [True, False])
def test_a_second_row_of_a_key_that_was_said_to_have_one_is_an_error(together: bool) -> None:
    with OperatorHarness(regular("inner", unique=True), [LEFT, RIGHT]) as harness:
        rows = [{"k": None, "w": 1}, {"k": None, "w": 2}, {"k": 7, "w": 1}, {"k": 7, "w": 2}]
        if not together:
            harness.send(rows[:3], 1)
        with pytest.raises(RecordError, match=r"(?s)right rows .* have different keys, but two.*key: \{'k': 7\}"):
            harness.send(rows if together else rows[3:], 1)


@pytest.mark.parametrize(
    "come", [[{"k": 7, "w": 3}], [{"k": n, "w": 3} for n in range(20, 60)]], ids=["same", "others"]
)
def test_restored_rows_of_one_key_are_named_when_the_job_now_says_that_there_are_none(come: list[Any]) -> None:
    with OperatorHarness(regular("inner"), [LEFT, RIGHT]) as harness:
        harness.send([{"k": 5, "w": 1}, {"k": 7, "w": 1}, {"k": None, "w": 1}, {"k": 6, "w": 1}, {"k": 7, "w": 2}], 1)
        snapshot = harness.snapshot()
    with OperatorHarness.restore(regular("inner", unique=True), [LEFT, RIGHT], [snapshot]) as harness:
        with pytest.raises(LakewardError, match=r"two (have|rows of) \{'k': 7\}") as caught:
            harness.send(come, 1)
        assert "validate" in str(caught.value)


def test_interval_state_is_empty_when_the_watermark_has_passed_all_rows() -> None:
    layout = JoinLayout.of(TIMED, TIMED, [("k", "k")], suffix="_right")
    inputs = (JoinInput(TIMED, ("k",), time=TimeColumn("at")), JoinInput(TIMED, ("k",), time=TimeColumn("at")))
    with OperatorHarness(IntervalJoin(inputs, layout, bounds=Bounds(-1_000_000, 1_000_000)), [TIMED, TIMED]) as harness:
        for second in range(200):
            for side in (0, 1):
                harness.send([{"k": n, "at": second * 1_000_000 + 1} for n in range(20)], side)
            harness.watermark(second * 1_000_000)
        kept = [len(side.table) for side in harness.operator._sides]  # type: ignore[attr-defined]
        assert max(kept) < 20 * 6, "only rows of the last seconds are kept"
        harness.watermark(300 * 1_000_000)
        assert [len(side.table) for side in harness.operator._sides] == [0, 0]  # type: ignore[attr-defined]
        assert len(harness.take()) == 20 * (3 * 200 - 2)


def test_a_side_that_is_far_ahead_waits_in_few_buckets() -> None:
    layout = JoinLayout.of(TIMED, TIMED, [("k", "k")], suffix="_right")
    inputs = (JoinInput(TIMED, ("k",), time=TimeColumn("at")), JoinInput(TIMED, ("k",), time=TimeColumn("at")))
    with OperatorHarness(IntervalJoin(inputs, layout, bounds=Bounds(-1_000_000, 1_000_000)), [TIMED, TIMED]) as harness:
        left = harness.operator._sides[0]  # type: ignore[attr-defined]
        for hour in range(100):
            harness.send([{"k": n, "at": (hour * 3600 + n) * 1_000_000} for n in range(0, 3600, 60)])
            harness.watermark(hour * 1_000_000)
            assert len(left.table.namespaces()) < 60
        harness.watermark(101 * 3600 * 1_000_000)
        assert len(left.table) < 6000 // 2, "rows stay at most half as long again as they had to wait"
        harness.watermark(200 * 3600 * 1_000_000)
        assert len(left.table) == 0


@pytest.mark.parametrize("wide", [False, True], ids=["few right columns", "many right columns"])
@pytest.mark.parametrize("how", ["inner", "left"])
def test_temporal_joins_send_in_the_order_of_event_time(how: How, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_rows, "EMIT_ROWS_MAX", 7)
    right = pa.schema([*TIMED, *(pa.field(f"c{n}", pa.int64()) for n in range(3 if wide else 0))])
    layout = JoinLayout.of(TIMED, right, [("k", "k")], how, suffix="_right")
    inputs = (JoinInput(TIMED, ("k",), time=TimeColumn("at")), JoinInput(right, ("k",), time=TimeColumn("at")))
    with OperatorHarness(TemporalJoin(inputs, layout, how), [TIMED, right]) as harness:
        harness.send([{"k": n, "at": 1} for n in range(10)], 1)
        harness.send([{"k": 17 - n if n % 5 else None, "at": 100 - n} for n in range(20)])
        assert harness.take() == [], "rows without a key have their place in the order too"
        harness.watermark(1000)
        found = [(row["at"].microsecond, row["k"]) for row in harness.take()]
    every = [(100 - n, 17 - n if n % 5 else None) for n in range(19, -1, -1)]
    assert found == [row for row in every if how == "left" or row[1] in range(10)]


def test_versions_that_newer_ones_have_replaced_are_forgotten() -> None:
    layout = JoinLayout.of(TIMED, TIMED, [("k", "k")], suffix="_right")
    inputs = (JoinInput(TIMED, ("k",), time=TimeColumn("at")), JoinInput(TIMED, ("k",), time=TimeColumn("at")))
    with OperatorHarness(TemporalJoin(inputs, layout), [TIMED, TIMED]) as harness:
        for second in range(20):
            harness.send([{"k": n, "at": second * 1_000_000} for n in (1, 2, 2)], 1)
        harness.watermark(9_500_000)
        versions = harness.operator._tables[1]  # type: ignore[attr-defined]
        assert len(versions) == 2 + 10 * 3, "the newest one reached of each key, and those to come"
        harness.send([{"k": 2, "at": 9_600_000}])
        harness.watermark(30_000_000)
        assert [row["at_right"].second for row in harness.take()] == [9]
        assert len(versions) == 2
