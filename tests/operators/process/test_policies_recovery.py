"""Rows and windows on which functions fail: over crashes and other parallelisms, and in windows of every kind."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import UserCodeError
from lakeward.testing import CollectSink, CrashPoint, assert_survives_crashes

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
FAILED = lw.OutputTag("failed")
LATE = lw.OutputTag("late")
SIDE = lw.OnError.side_output(FAILED)
PATIENT = lw.OnError.retry(attempts=2, backoff="1s").then(SIDE)
POINTS = [CrashPoint.AFTER_READ, CrashPoint.AFTER_UPLOAD, CrashPoint.AMID_COMMIT, CrashPoint.AFTER_COMMIT]
RESULT = {"k": str, "total": int, "n": int}


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"k": "abc"[n % 3], "n": n, "at": NOON + dt.timedelta(seconds=n)} for n in range(count)]


def keyed(env: lw.StreamExecutionEnvironment, count: int = 40) -> lw.KeyedStream:
    time = lw.WatermarkStrategy.bounded_out_of_orderness("at", "5s")
    return env.from_collection(rows_of(count), watermark=time, uid="rows").key_by("k")


def into_sinks(result: lw.DataStream, *columns: str) -> None:
    result.sink_to(CollectSink(), uid="out")
    result.side_output(FAILED).select(*columns).sink_to(CollectSink(), uid="side-failed")


# -- crashes


class Totals(lw.KeyedProcessFunction):
    """Changes state and sets a timer, then fails for some rows."""

    total: lw.ValueState[int] = lw.ValueState(default=0)
    listed: lw.ListState[int]

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        n = row.pop("n")
        self.total.value += n
        self.listed.append(n)
        ctx.timers.register_event_time(NOON + dt.timedelta(minutes=10, seconds=n))
        yield {"k": row["k"], "total": "text" if n % 7 == 5 else self.total.value, "n": n}
        if n % 7 == 3:
            raise ValueError(f"refused {n}")

    def on_timer(self, timestamp: dt.datetime, ctx: lw.KeyedContext) -> Iterator[dict[str, Any]]:
        yield {"k": ctx.current_key, "total": sum(self.listed), "n": -int((timestamp - NOON).total_seconds())}


class BatchTotals(lw.KeyedBatchFunction):
    """The same for whole batches."""

    total: lw.ValueState[int] = lw.ValueState(default=0)

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        ns = batch.column("n").to_numpy()
        totals = self.total.column.to_numpy().copy()
        shown = np.empty(len(ns), np.int64)
        for row, key in enumerate(ctx.key_numbers.tolist()):
            totals[key] += ns[row]
            shown[row] = totals[key]
        self.total.column = totals
        ctx.timers.register_event_time((600 + ns) * 1_000_000 + int(NOON.timestamp()) * 1_000_000, ctx.key_numbers)
        if (ns % 7 == 3).any():
            raise ValueError("refused")
        return pa.record_batch({"k": batch.column("k"), "total": shown, "n": ns})

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        seconds = timers.column("timestamp").cast(pa.int64()).to_numpy() // 1_000_000 - int(NOON.timestamp())
        return pa.record_batch({"k": timers.column("k"), "total": self.total.column, "n": -seconds})


def totals_of(bad: set[int]) -> dict[str, list[dict[str, Any]]]:
    """What comes of 40 rows."""
    totals: Counter[str] = Counter()
    out, failed = [], []
    for row in rows_of(40):
        if row["n"] % 7 in bad:
            failed.append(row)
            continue
        totals[row["k"]] += row["n"]
        out.append({"k": row["k"], "total": totals[row["k"]], "n": row["n"]})
    timers = [{"k": row["k"], "total": totals[row["k"]], "n": -600 - row["n"]} for row in out]
    return {"out": out + timers, "side-failed": failed}


@pytest.mark.parametrize(("function", "bad"), [(Totals, {3, 5}), (BatchTotals, {3})])
def test_rows_that_fail_are_exactly_once_in_every_stream_over_crashes(function: type, bad: set[int]) -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        result = keyed(env).process(function(), returns=RESULT, on_error=PATIENT, uid="totals")
        into_sinks(result, "k", "n", "at")

    assert_survives_crashes(job, expected=totals_of(bad), parallelism=(1, 2, 1), points=POINTS)


# -- windows


class Sums(lw.ProcessWindowFunction):
    """Counts a key's windows, and fails for some of them, for a few at the first try alone."""

    windows: lw.ValueState[int] = lw.ValueState(default=0)

    def process(
        self, key: str | None, window: lw.TimeWindow | None, rows: list[dict[str, Any]], ctx: lw.KeyedContext
    ) -> Iterator[dict[str, Any]]:
        self.windows.value += 1
        ns = [row.pop("n") for row in rows]
        yield {"k": key, "total": self.windows.value, "n": sum(ns)}
        if is_bad(ns):
            raise ValueError("refused")


def is_bad(ns: list[int]) -> bool:
    return any(n % 11 == 4 for n in ns)


def spread(n: int) -> dt.datetime:
    """Times with pauses."""
    return NOON + dt.timedelta(seconds=n + 15 * (n // 9))


def by_time(width_s: int, slide_s: int) -> Callable[[list[dt.datetime]], list[list[int]]]:
    """Places of the rows of windows of a width, in the order of their ends."""

    def windows(times: list[dt.datetime]) -> list[list[int]]:
        seconds = [int((time - NOON).total_seconds()) for time in times]
        starts = range(-width_s, max(seconds) + 1, slide_s)
        found = [[at for at, one in enumerate(seconds) if start <= one < start + width_s] for start in starts]
        return [one for one in found if one]

    return windows


def by_pause(gap_s: int) -> Callable[[list[dt.datetime]], list[list[int]]]:
    def windows(times: list[dt.datetime]) -> list[list[int]]:
        found = [[0]]
        for at in range(1, len(times)):
            if (times[at] - times[at - 1]).total_seconds() < gap_s:
                found[-1].append(at)
            else:
                found.append([at])
        return found

    return windows


def by_three(times: list[dt.datetime]) -> list[list[int]]:
    return [[at, at + 1, at + 2] for at in range(0, len(times) - 2, 3)]


WINDOWS: dict[str, tuple[lw.WindowSpec, Callable[[list[dt.datetime]], list[list[int]]]]] = {
    "tumbling": (lw.Tumbling("10s"), by_time(10, 10)),
    "sliding": (lw.Sliding("20s", "10s"), by_time(20, 10)),
    "session": (lw.Session("10s"), by_pause(10)),
    "count": (lw.CountWindow(3), by_three),
}


def sums_of(count: int, windows: Callable[[list[dt.datetime]], list[list[int]]]) -> dict[str, list[dict[str, Any]]]:
    out: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for key in "abc":
        ns = [n for n in range(count) if "abc"[n % 3] == key]
        good = 0
        for places in windows([spread(n) for n in ns]):
            found = [ns[at] for at in places]
            if is_bad(found):
                failed.append({"k": key, "ns": found})
            else:
                good += 1
                out.append({"k": key, "total": good, "n": sum(found)})
    return {"out": out, "side-failed": failed}


@pytest.mark.parametrize("kind", WINDOWS)
def test_windows_that_fail_are_exactly_once_in_every_stream_over_crashes(kind: str) -> None:
    window, places = WINDOWS[kind]

    def job(env: lw.StreamExecutionEnvironment) -> None:
        rows = [{"k": "abc"[n % 3], "n": n, "at": spread(n)} for n in range(45)]
        time = lw.WatermarkStrategy.monotonous("at")
        windows = env.from_collection(rows, watermark=time, uid="rows").key_by("k").window(window)
        result = windows.process(Sums(), returns=RESULT, on_error=PATIENT, uid="sums")
        result.sink_to(CollectSink(), uid="out")
        ns = result.side_output(FAILED).map(
            lambda row: {"k": row["k"], "ns": [one["n"] for one in row["rows"]]}, returns={"k": str, "ns": list[int]}
        )
        ns.sink_to(CollectSink(), uid="side-failed")

    wanted = sums_of(45, places)
    assert all(wanted.values())
    assert_survives_crashes(job, expected=wanted, parallelism=(1, 2, 1), points=POINTS)


def run(windows: lw.WindowedStream, function: Any, *tags: lw.OutputTag) -> tuple[Any, ...]:
    """The rows, the side streams, and the metrics of a function of windows."""
    result = windows.process(function, returns=RESULT, on_error=PATIENT, uid="windows")
    sinks = [lw.MemorySink() for _ in range(1 + len(tags))]
    result.sink_to(sinks[0])
    for tag, sink in zip(tags, sinks[1:], strict=True):
        result.side_output(tag).sink_to(sink)
    metrics = result._context.environment.execute("windows").metrics["windows"]
    return *(sink.table().to_pylist() for sink in sinks), metrics


def one_by_one(times_s: list[int]) -> lw.KeyedStream:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    rows = [{"k": "a", "n": n, "at": NOON + dt.timedelta(seconds=at)} for n, at in enumerate(times_s)]
    return env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at")).key_by("k")


class Calls(lw.ProcessWindowFunction):
    """Fails where the window has so many rows, so many times."""

    good: lw.ValueState[int] = lw.ValueState(default=0)

    def __init__(self, size: int, failures: int) -> None:
        self.size = size
        self.failures = [failures]  # in all subtasks' copies the same list

    def process(
        self, key: str | None, window: lw.TimeWindow | None, rows: list[dict[str, Any]], ctx: lw.KeyedContext
    ) -> Iterator[dict[str, Any]]:
        self.good.value += 1
        yield {"k": key, "total": self.good.value, "n": sum(row.pop("n") for row in rows)}
        if len(rows) == self.size and self.failures[0]:
            self.failures[0] -= 1
            raise ValueError("refused")


def test_with_a_trigger_each_call_fails_or_succeeds_by_itself() -> None:
    windows = one_by_one(list(range(7))).window(lw.GlobalWindow()).trigger(lw.every_rows(2))
    found, failed, metrics = run(windows, Calls(4, 2), FAILED)
    assert [(row["total"], row["n"]) for row in found] == [(1, 1), (2, 15), (3, 21)]
    assert [[one["n"] for one in row["rows"]] for row in failed] == [[0, 1, 2, 3]]
    assert (metrics["failed_rows"], metrics["retried_calls"]) == (1, 1)


def test_with_a_discarding_trigger_the_rows_of_a_call_that_fails_are_in_the_side_output_alone() -> None:
    windows = one_by_one(list(range(7))).window(lw.GlobalWindow()).trigger(lw.every_rows(2), discarding=True)
    found, failed, _ = run(windows, Calls(2, 2), FAILED)
    assert [(row["total"], row["n"]) for row in found] == [(1, 5), (2, 9), (3, 6)]
    assert [[one["n"] for one in row["rows"]] for row in failed] == [[0, 1]]


def test_a_window_that_answers_at_the_second_try_is_sent_once() -> None:
    found, failed, metrics = run(one_by_one([0, 1, 12, 13]).window(lw.Tumbling("10s")), Calls(2, 1), FAILED)
    assert [(row["total"], row["n"]) for row in found] == [(1, 1), (2, 5)]
    assert failed == []
    assert (metrics["failed_rows"], metrics["retried_calls"]) == (0, 1)


def test_a_late_row_makes_a_window_that_has_failed_whole_and_later_ones_go_aside() -> None:
    windows = one_by_one([0, 1, 12, 2, 40, 3]).window(lw.Tumbling("10s"))
    windows = windows.allowed_lateness("5s").side_output_late_data(LATE)
    found, failed, late, _ = run(windows, Calls(2, 2), FAILED, LATE)
    assert [(row["total"], row["n"]) for row in found] == [(1, 4), (2, 2), (3, 4)]
    assert [[one["n"] for one in row["rows"]] for row in failed] == [[0, 1]]
    assert [row["n"] for row in late] == [5]


def test_sessions_that_a_late_row_joins_fail_as_one_and_leave_nothing_behind() -> None:
    times = [0, 1, 8, 9, 5, 30]  # the row at 5 joins the sessions at 0 and at 8, while both are open
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    rows = [{"k": "a", "n": n, "at": NOON + dt.timedelta(seconds=at)} for n, at in enumerate(times)]
    time = lw.WatermarkStrategy.bounded_out_of_orderness("at", "10s")
    windows = env.from_collection(rows, watermark=time).key_by("k").window(lw.Session("5s"))
    found, failed, _ = run(windows, Calls(5, 2), FAILED)
    assert [(row["total"], row["n"]) for row in found] == [(1, 5)]
    (row,) = failed
    assert sorted(one["n"] for one in row["rows"]) == [0, 1, 2, 3, 4]
    assert (row["window_start"], row["window_end"]) == (NOON, NOON + dt.timedelta(seconds=14))


@pytest.mark.parametrize("policy", [lw.OnError.skip(), PATIENT])
def test_what_a_vectorised_function_does_before_its_timers_fail_is_never_committed(policy: lw.OnError) -> None:
    class Broken(BatchTotals):
        def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
            self.total.clear()
            raise ValueError("in a timer")

    result = keyed(lw.StreamExecutionEnvironment()).process(Broken(), returns=RESULT, on_error=policy)
    with pytest.raises(UserCodeError, match="in a timer") as caught:
        result.execute_and_collect()
    line = Broken.on_timers.__code__.co_firstlineno + 2
    assert f"test_policies_recovery.py:{line} in on_timers" in str(caught.value)


def test_vectorised_timers_without_end_are_named_with_the_user_s_line() -> None:
    class Endless(BatchTotals):
        def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
            ctx.timers.register_event_time(timers.column("timestamp").cast(pa.int64()), np.arange(timers.num_rows))

    result = keyed(lw.StreamExecutionEnvironment()).process(Endless(), returns=RESULT, on_error=lw.OnError.skip())
    with pytest.raises(UserCodeError, match="timers") as caught:
        result.execute_and_collect()
    line = Endless.on_timers.__code__.co_firstlineno
    assert f"test_policies_recovery.py:{line}" in str(caught.value)
