"""What becomes of rows on which vectorised functions fail, and of windows on which functions of windows do."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import GraphError, SchemaError, UserCodeError

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000
FAILED = lw.OutputTag("failed")
SEEN = lw.OutputTag("seen", {"n": int})
SIDE = lw.OnError.side_output(FAILED)
RESULT = {"k": str, "total": int, "n": int}
BAD = {3, 4, 13, 20, 21, 22, 39}


def stream(ns: list[int], batch_rows: int) -> lw.DataStream:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
    rows = [{"k": "ab"[n % 2], "n": n, "at": NOON + dt.timedelta(seconds=n)} for n in ns]
    return env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))


class Careful(lw.KeyedBatchFunction):
    """Changes state, timers and side streams before it fails."""

    total: lw.ValueState[int] = lw.ValueState(default=0)
    kept: lw.ValueState[int] = lw.ValueState(default=0, ttl=lw.StateTtl("1h", refresh="read"))

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        ns = batch.column("n").to_numpy()
        totals = np.array(self.total.column.to_numpy())
        results = np.empty(len(ns), np.int64)
        for row, key in enumerate(ctx.key_numbers):
            totals[key] += ns[row]
            results[row] = totals[key]
        self.total.column = totals
        totals += 1_000_000  # what was given to the state is not changed by this
        self.kept.column = pa.array(self.kept.column.to_numpy() + np.bincount(ctx.key_numbers))
        ctx.timers.register_event_time(NOON_US + 1_000_000 * ns, ctx.key_numbers)
        ctx.output(SEEN, batch.select(["n"]))
        if BAD & set(ns.tolist()):
            self.total.clear()
            raise ValueError("refused")
        return pa.record_batch({"k": batch.column("k"), "total": results, "n": ns})

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        seconds = timers.column("timestamp").cast(pa.int64()).to_numpy() // 1_000_000 - NOON_US // 1_000_000
        return pa.record_batch({"k": timers.column("k"), "total": self.kept.column, "n": -seconds})


def run(ns: list[int], batch_rows: int, on_error: lw.OnError) -> tuple[Any, Any, Any, Any]:
    made = stream(ns, batch_rows).key_by("k").process(Careful(), returns=RESULT, on_error=on_error, uid="careful")
    rows, seen, failed = lw.MemorySink(), lw.MemorySink(), lw.MemorySink()
    made.sink_to(rows)
    made.side_output(SEEN).sink_to(seen)
    if on_error.tag is not None:
        made.side_output(FAILED).sink_to(failed)
    metrics = made._context.environment.execute("careful").metrics["careful"]
    side = failed.table().to_pylist() if on_error.tag is not None else []
    return rows.table().to_pylist(), seen.table().to_pylist(), side, metrics


@pytest.mark.parametrize("batch_rows", [1, 7, 100])
def test_rows_on_which_a_vectorised_function_fails_leave_nothing_behind(batch_rows: int) -> None:
    good = [n for n in range(40) if n not in BAD]
    found, seen, failed, metrics = run(list(range(40)), batch_rows, SIDE)
    wanted, wanted_seen, _, _ = run(good, batch_rows, lw.OnError.fail())
    assert [row for row in found if row["n"] > 0] == [row for row in wanted if row["n"] > 0]
    assert sorted(row["n"] for row in found if row["n"] <= 0) == sorted(row["n"] for row in wanted if row["n"] <= 0)
    assert seen == wanted_seen
    assert [row["n"] for row in failed] == sorted(BAD)
    assert {row["error_type"] for row in failed} == {"ValueError"}
    assert metrics["failed_rows"] == len(BAD)


def test_a_vectorised_function_that_answers_at_last_loses_no_row_and_counts_none_twice() -> None:
    class Flaky(Careful):
        failures = 2

        def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
            made = super().process_batch(batch, ctx)
            if self.failures:
                self.failures -= 1
                raise ValueError("not yet")
            return made

    made = stream([1, 5, 7], 100).key_by("k")
    result = made.process(Flaky(), returns=RESULT, on_error=lw.OnError.retry(attempts=3, backoff=0))
    totals = [row["total"] for row in result.execute_and_collect().to_pylist() if row["n"] > 0]
    assert totals == [1, 6, 13]


def test_a_timer_on_which_a_vectorised_function_fails_ends_the_job() -> None:
    class Broken(Careful):
        def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
            raise ValueError("in a timer")

    result = stream([1], 1).key_by("k").process(Broken(), returns=RESULT, on_error=lw.OnError.skip())
    with pytest.raises(UserCodeError, match="in a timer"):
        result.execute_and_collect()


def test_what_is_sent_to_the_side_stream_of_failed_rows_by_the_function_itself_is_refused() -> None:
    def sending(row: dict[str, Any], ctx: lw.ProcessContext) -> None:
        ctx.output(lw.OutputTag("failed", {"n": int}), {"n": 1})

    with pytest.raises(GraphError, match="which is that of failed rows"):
        stream([1], 1).process(sending, returns=RESULT, on_error=SIDE).execute_and_collect()


def test_a_function_that_changes_its_row_gets_a_whole_one_when_it_is_called_again() -> None:
    def changing(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        n = row.pop("n")
        if n == 3:
            raise ValueError("refused")
        yield {"k": row["k"], "total": 0, "n": n}

    made = stream([1, 2, 3, 4], 100).process(changing, returns=RESULT, on_error=lw.OnError.skip())
    assert made.execute_and_collect()["n"].to_pylist() == [1, 2, 4]


@dataclass
class Checked:
    k: str
    n: int

    def __post_init__(self) -> None:
        if self.n in BAD:
            raise ValueError("no such row")


@pytest.mark.parametrize("batch_rows", [1, 7, 100])
def test_rows_of_which_the_user_s_class_makes_nothing_fail_by_themselves(batch_rows: int) -> None:
    def numbers(row: Checked) -> Iterator[dict[str, Any]]:
        yield {"k": row.k, "total": 0, "n": row.n}

    made = stream(list(range(40)), batch_rows).process(numbers, returns=RESULT, on_error=SIDE)
    rows, failed = lw.MemorySink(), lw.MemorySink()
    made.sink_to(rows)
    made.side_output(FAILED).sink_to(failed)
    made._context.environment.execute("checked")
    assert rows.table()["n"].to_pylist() == [n for n in range(40) if n not in BAD]
    assert failed.table()["n"].to_pylist() == sorted(BAD)
    assert set(failed.table()["error_type"].to_pylist()) == {"ValueError"}


# -- functions of windows


class Sums(lw.ProcessWindowFunction):
    windows: lw.ValueState[int] = lw.ValueState(default=0)

    def process(
        self, key: str | None, window: lw.TimeWindow, rows: list[dict[str, Any]], ctx: lw.KeyedContext
    ) -> Iterator[dict[str, Any]]:
        self.windows.value += 1
        ns = [row.pop("n") for row in rows]
        yield {"k": key, "total": self.windows.value, "n": sum(ns)}
        if 13 in ns or 24 in ns:
            raise ValueError("refused")


@pytest.mark.parametrize("window", [lw.Tumbling("10s"), lw.Session("3s")])
@pytest.mark.parametrize("batch_rows", [1, 100])
def test_a_window_that_fails_is_left_out_whole_and_sent_aside_with_its_rows(
    window: lw.WindowSpec, batch_rows: int
) -> None:
    ns = [n for n in range(40) if n % 10 < 6]
    windows = stream(ns, batch_rows).key_by("k").window(window)
    made = windows.process(Sums(), returns=RESULT, on_error=SIDE, uid="sums")
    rows, failed = lw.MemorySink(), lw.MemorySink()
    made.sink_to(rows)
    made.side_output(FAILED).sink_to(failed)
    metrics = made._context.environment.execute("sums").metrics["sums"]
    found = {(row["k"], row["total"], row["n"]) for row in rows.table().to_pylist()}
    assert found == {("a", 1, 6), ("b", 1, 9), ("a", 2, 36), ("b", 2, 69), ("a", 3, 96), ("b", 3, 99)}
    aside = {row["k"]: row for row in failed.table().to_pylist()}
    assert failed.table().schema.names[:4] == ["k", "window_start", "window_end", "rows"]
    assert {key: [one["n"] for one in row["rows"]] for key, row in aside.items()} == {
        "a": [20, 22, 24],
        "b": [11, 13, 15],
    }
    assert metrics["failed_rows"] == 2


def test_windows_without_keys_take_a_policy_too() -> None:
    windows = stream(list(range(40)), 7).window_all(lw.Tumbling("10s"))
    made = windows.process(Sums(), returns=RESULT, on_error=SIDE)
    rows, failed = lw.MemorySink(), lw.MemorySink()
    made.sink_to(rows)
    made.side_output(FAILED).sink_to(failed)
    made._context.environment.execute("all")
    assert rows.table()["n"].to_pylist() == [45, 345]
    assert [len(row["rows"]) for row in failed.table().to_pylist()] == [10, 10]
    assert failed.table().schema.names[:3] == ["window_start", "window_end", "rows"]


def test_side_outputs_of_windows_that_cannot_be_told_apart_are_refused() -> None:
    keyed = stream([1], 1).key_by("k")
    late = keyed.window(lw.Tumbling("1m")).side_output_late_data(FAILED)
    with pytest.raises(GraphError, match="late rows and windows that fail are both sent"):
        late.process(Sums(), returns=RESULT, on_error=SIDE)
    odd = stream([1], 1).rename({"k": "rows"}).key_by("rows").window(lw.Tumbling("1m"))
    with pytest.raises(SchemaError, match="adds a column 'rows'"):
        odd.process(Sums(), returns=RESULT, on_error=SIDE)


class RefusesPairs(lw.ProcessWindowFunction):
    calls: lw.ValueState[int] = lw.ValueState(default=0)

    def process(
        self, key: str | None, window: lw.TimeWindow, rows: list[dict[str, Any]], ctx: lw.KeyedContext
    ) -> Iterator[dict[str, Any]]:
        self.calls.value += 1
        if len(rows) == 2:
            raise ValueError("refused")
        yield {"k": key, "total": self.calls.value, "n": len(rows)}


def test_a_window_that_was_skipped_is_tried_again_when_a_late_row_comes() -> None:
    # 0, 2 are window one (refused: two rows); 14 ends it; 4 is late and within the lateness: three rows, which is fine
    windows = stream([0, 2, 14, 4, 40], 1).key_by("k").window(lw.Tumbling("10s")).allowed_lateness("20s")
    made = windows.process(RefusesPairs(), returns=RESULT, on_error=lw.OnError.skip(), uid="pairs")
    sink = lw.MemorySink()
    made.sink_to(sink)
    metrics = made._context.environment.execute("pairs").metrics["pairs"]
    rows = [(row["total"], row["n"]) for row in sink.table().to_pylist()]
    assert rows == [(1, 3), (2, 1), (3, 1)], "the call that was refused counts nowhere"
    assert metrics["failed_rows"] == 1
