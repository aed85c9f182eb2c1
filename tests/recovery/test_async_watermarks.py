"""Watermarks that asynchronous functions hold back: after a restore they stand where they stood among the rows."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward.engine.core.messages import Watermark
from lakeward.operators.async_map import AsyncMap
from lakeward.operators.async_options import AsyncOptions
from lakeward.testing import CollectSink, ScriptedSource, simulate
from lakeward.testing import Watermark as Reached
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

SCHEMA = pa.schema({"n": pa.int64(), "at": pa.timestamp("us", tz="UTC")})
LATE = lw.OutputTag("late")
FAILED = lw.OutputTag("failed")
SECOND_US = 1_000_000


async def same(row: dict[str, Any]) -> dict[str, Any]:
    return row


def mapped(*, ordered: bool = True, capacity: int = 3) -> AsyncMap:
    return AsyncMap(same, SCHEMA, SCHEMA, options=AsyncOptions(ordered=ordered, capacity=capacity))


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": n, "at": n * SECOND_US} for n in numbers]


def taken(harness: OperatorHarness) -> list[Any]:
    """Rows by their number, watermarks as text."""
    return [f"W{one}" if isinstance(one, int) else one["n"] for one in harness.take_events()]


def rest(snapshots: Sequence[HarnessSnapshot], factory: AsyncMap, subtask: int = 0, parallelism: int = 1) -> list[Any]:
    """What a restored subtask sends of what it has taken back."""
    config = HarnessConfig(subtask, parallelism)
    with OperatorHarness.restore(factory, SCHEMA, snapshots, config) as harness:
        harness.poll()
        harness.finish_all()
        return taken(harness)


@pytest.mark.parametrize("ordered", [True, False])
def test_watermarks_that_were_held_stand_at_their_places_among_restored_rows(ordered: bool) -> None:
    factory = mapped(ordered=ordered)
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.watermark(1)
        harness.send(rows(0, 1))
        harness.watermark(2)
        harness.watermark(3)
        harness.send(rows(2, 3, 4, 5))
        harness.watermark(4)
        harness.send(rows(6))
        harness.watermark(5)
        harness.finish(0)
        assert taken(harness) == ["W1", 0]
        saved = harness.snapshot()
    expected = [1, "W3", 2, 3, 4, 5, "W4", 6, "W5"]
    assert rest([saved], factory) == expected
    # And again, when nothing has come since.
    with OperatorHarness.restore(factory, SCHEMA, [saved]) as harness:
        again = harness.snapshot()
    assert rest([again], factory) == expected


def test_rows_that_come_after_a_restore_are_behind_the_watermarks_before_it() -> None:
    with OperatorHarness(mapped(), SCHEMA) as harness:
        harness.send(rows(0))
        harness.watermark(7)
        saved = harness.snapshot()
    with OperatorHarness.restore(mapped(), SCHEMA, [saved]) as harness:
        harness.send(rows(1))
        harness.watermark(8)
        harness.finish_all()
        assert taken(harness) == [0, "W7", 1, "W8"]


def test_the_end_of_time_is_not_saved_since_the_input_says_it_again() -> None:
    with OperatorHarness(mapped(), SCHEMA) as harness:
        harness.send(rows(0))
        harness.watermark(7)
        harness.send(rows(1))
        harness.watermark(2**63 - 1)
        saved = harness.snapshot()
    assert rest([saved], mapped()) == [0, "W7", 1]


def test_at_another_parallelism_none_passes_the_slowest_subtask_unless_it_is_idle() -> None:
    saved = []
    for subtask, last in enumerate([Watermark(30), Watermark(20), Watermark(5, idle=True)]):
        with OperatorHarness(mapped(), SCHEMA, HarnessConfig(subtask, 3)) as harness:
            harness.send(rows(subtask))
            harness.watermark(10 if subtask < 2 else 5)
            harness.send(rows(10 + subtask))
            harness.watermark(last.timestamp_us, idle=last.idle)
            saved.append(harness.snapshot())
    assert rest(saved, mapped()) == [0, 1, 2, "W5", 12, "W10", 10, 11, "W20"]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), ordered=st.booleans())
def test_however_often_it_is_restored_no_row_is_behind_a_watermark_that_it_was_in_front_of(
    data: st.DataObject, ordered: bool
) -> None:
    """Rows are numbered by the watermark in front of which they come; those of one subtask behind the one before."""
    factory = mapped(ordered=ordered)
    saved: list[HarnessSnapshot] = []
    now, sent = 0, 0
    received: list[int] = []
    for _ in range(data.draw(st.integers(1, 3))):
        parallelism = data.draw(st.integers(1, 3))
        restored, saved = saved, []
        reached: list[int] = []
        outputs = []
        for subtask in range(parallelism):
            config, time = HarnessConfig(subtask, parallelism), now
            with OperatorHarness.restore(factory, SCHEMA, restored, config) as harness:
                harness.poll()
                for _ in range(data.draw(st.integers(0, 4))):
                    count = data.draw(st.integers(0, 3))
                    time += 1
                    harness.send(rows(*[time] * count))
                    sent += count
                    harness.watermark(time)
                    if harness.calls.running and data.draw(st.booleans()):
                        harness.finish(data.draw(st.integers(0, len(harness.calls.running) - 1)))
                saved.append(harness.snapshot())
                outputs.append(taken(harness))
                reached.append(time)
        received += checked(outputs)
        now = max(reached)
    received += checked([rest(saved, factory)])
    assert len(received) == sent


def checked(outputs: Sequence[Sequence[Any]]) -> list[int]:
    """The rows; none may come behind a watermark of its time or later in its subtask."""
    found = []
    for events in outputs:
        newest = 0
        for one in events:
            if isinstance(one, str):
                newest = max(newest, int(one[1:]))
            else:
                assert one > newest, events
                found.append(one)
    return found


# -- whole jobs


def script(seed: int) -> list[Any]:
    """Rows of which some are late: event time is said by marks, so that it does not depend on the size of batches."""
    rng = random.Random(seed)
    items: list[Any] = []
    reached = 0
    for n in range(60):
        times = [max(0, reached + rng.randint(-6, 12)) for _ in range(rng.randint(1, 3))]
        items.append([{"n": n, "at": second * SECOND_US} for second in times])
        if rng.random() < 0.6:
            reached += rng.randint(1, 6)
            items.append(Reached(reached * SECOND_US))
    return items


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_a_row_is_late_in_a_job_that_dies_if_and_only_if_it_is_late_in_one_that_does_not(
    seed: int, ordered: bool
) -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        time = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1000d")
        source = env.from_source(ScriptedSource(SCHEMA, script(seed)), watermark=time, uid="rows", parallelism=1)
        first = source.map_async(same, returns=SCHEMA, ordered=ordered, capacity=4, uid="first", parallelism=1)
        asked = first.map_async(same, returns=SCHEMA, ordered=not ordered, capacity=2, uid="second", parallelism=1)
        windows = asked.key_by("n").window(lw.Tumbling("5s")).side_output_late_data(LATE)
        counts = windows.aggregate(rows=lw.count(), uid="windows")
        counts.sink_to(CollectSink(), uid="counts")
        counts.side_output(LATE).sink_to(CollectSink(), uid="late")

    result = simulate(job, seed)
    assert result.rows["late"]
    assert result.starts > 1


class Totals(lw.KeyedProcessFunction):
    """How many rows there were of a key, ten seconds of event time after each of them."""

    total: lw.ValueState[int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        self.total.value = (self.total.value or 0) + 1
        ctx.timers.register_event_time(row["at"] + dt.timedelta(seconds=10))

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        yield {"n": ctx.current_key, "at": timestamp, "total": self.total.value}


@pytest.mark.parametrize("seed", range(4))
def test_retries_failing_rows_and_timers_behind_calls_are_the_same_in_a_job_that_dies(seed: int) -> None:
    ordered = bool(seed % 2)
    on_error = lw.OnError.side_output(FAILED)

    def job(env: lw.StreamExecutionEnvironment) -> None:
        asked: set[tuple[int, dt.datetime]] = set()

        async def one(row: dict[str, Any]) -> dict[str, Any]:
            known = (row["n"], row["at"]) in asked
            asked.add((row["n"], row["at"]))
            if row["n"] % 3 == 0 and not known:
                raise ConnectionError("try again")
            if row["n"] % 10 == 7:
                raise KeyError("nobody")
            return row

        async def several(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            if any(row["n"] % 10 == 5 for row in rows):
                raise ValueError("not for all")
            return rows

        time = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1000d")
        source = env.from_source(ScriptedSource(SCHEMA, script(seed)), watermark=time, uid="rows", parallelism=1)
        retries = lw.AsyncRetry(attempts=2, backoff="20ms")
        options: dict[str, Any] = {"returns": SCHEMA, "retries": retries, "on_error": on_error, "parallelism": 1}
        first = source.map_async(one, ordered=ordered, capacity=1, uid="one", **options)
        second = first.map_async(
            several, ordered=not ordered, capacity=5, batch_rows=3, timeout=None, uid="several", **options
        )
        totals = second.key_by("n").process(Totals(), returns={"n": int, "at": dt.datetime, "total": int}, uid="totals")
        totals.sink_to(CollectSink(), uid="out")
        first.side_output(FAILED).select("n", "error_type").sink_to(CollectSink(), uid="failed-one")
        second.side_output(FAILED).select("n", "error_type").sink_to(CollectSink(), uid="failed-several")

    result = simulate(job, seed)
    assert all(result.rows.values())
