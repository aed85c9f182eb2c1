"""Whole jobs, start by start: marks in scripts, crashes that are crashes, restores at other parallelism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.core.errors import ConfigError, JobFailedError
from lakeward.testing import (
    ABORT,
    BARRIER,
    EOF,
    FAIL,
    PAUSE,
    CollectSink,
    Item,
    JobHarness,
    ManualClock,
    ScriptedSource,
)

SCHEMA = pa.schema({"k": pa.int64(), "n": pa.int64(), "at": pa.timestamp("us")})
TIME = lw.WatermarkStrategy.monotonous("at")


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"k": n % 3, "n": n, "at": n * 1_000_000} for n in numbers]


def copied(*script: Item) -> tuple[JobHarness, CollectSink]:
    """A job that copies a script."""
    sink, source = CollectSink(), ScriptedSource(SCHEMA, script)
    return JobHarness(lambda env: env.from_source(source, uid="in").sink_to(sink, uid="out")), sink


def summed(*script: Item, state: Any = "memory") -> JobHarness:
    """A job with keyed state."""

    def job(env: lw.StreamExecutionEnvironment) -> None:
        stream = env.from_source(ScriptedSource(SCHEMA, script), watermark=TIME, uid="in")
        windows = stream.key_by("k").window(lw.Tumbling("10s"))
        windows.aggregate(uid="windows", n=lw.sum("n")).sink_to(CollectSink(), uid="out")

    return JobHarness(job, state=state)


def numbers(sink: CollectSink) -> list[int]:
    return [row["n"] for row in sink.rows()]


def test_at_a_barrier_all_that_came_before_is_committed() -> None:
    harness, sink = copied(rows(1, 2), BARRIER, rows(3), ABORT)
    assert harness.run().crashed
    assert numbers(sink) == [1, 2]


def test_a_crash_loses_what_was_not_committed_and_the_next_run_brings_it() -> None:
    harness, sink = copied(rows(1), ABORT, rows(2), BARRIER, rows(3), ABORT, rows(4))
    seen = []
    for _ in range(3):
        run = harness.run()
        seen.append((run.crashed, run.restored is not None, numbers(sink)))
    assert seen == [(True, False, []), (True, False, [1, 2]), (False, True, [1, 2, 3, 4])]


def test_a_crashed_run_says_where() -> None:
    harness, _ = copied(rows(1), ABORT)
    run = harness.run()
    assert run.crash == "ABORT in script-0"
    assert (run.ended, run.stopped, run.restored, run.restarts, run.metrics) == (False, False, None, 0, {})


def test_at_an_eof_the_run_stops_with_everything_committed_and_windows_left_open() -> None:
    harness = summed(rows(0, 3), EOF, rows(6), rows(20))
    assert harness.run().stopped
    assert harness.rows() == []
    assert harness.run().ended
    assert [(row["k"], row["n"]) for row in harness.rows()] == [(0, 9), (2, 20)]


def test_transient_failures_are_healed_within_the_run() -> None:
    harness, sink = copied(rows(1), BARRIER, rows(2), FAIL, rows(3), FAIL, rows(4))
    run = harness.run()
    assert run.ended
    assert run.restarts == 2
    assert numbers(sink) == [1, 2, 3, 4]


def test_a_job_that_fails_for_good_says_so_as_in_production() -> None:
    restart = lw.RestartConfig(attempts_max=1)
    source = ScriptedSource(SCHEMA, [FAIL, FAIL, FAIL])
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(restart=restart))
    env.from_source(source, uid="in").sink_to(CollectSink(), uid="out")
    with pytest.raises(JobFailedError, match="the script says to fail here"):
        JobHarness(env).run()


@pytest.mark.parametrize(("item", "least_ms"), [(PAUSE, 1_000), (PAUSE(60_000), 60_000)])
def test_a_pause_takes_time_by_the_clock_and_none_of_ours(item: Item, least_ms: int) -> None:
    harness, sink = copied(rows(1), item, rows(2))
    harness.run()
    assert isinstance(harness.clock, ManualClock)
    assert least_ms <= harness.clock.monotonic_ms() < least_ms + 100
    assert numbers(sink) == [1, 2]


@pytest.mark.parametrize("state", ["memory", "rocksdb"])
@pytest.mark.parametrize("parallelism", [(1, 3), (3, 1, 2), ()])
def test_state_survives_crashes_at_any_parallelism(state: str, parallelism: Sequence[int]) -> None:
    harness = summed(
        rows(0, 1, 2), BARRIER, rows(3, 4), ABORT, rows(5), BARRIER, rows(6), ABORT, rows(7, 8), state=state
    )
    runs = harness.run_to_end(parallelism=parallelism)
    assert [run.crashed for run in runs] == [True, True, False]
    assert sorted((row["k"], row["n"]) for row in harness.rows()) == [(0, 9), (1, 12), (2, 15)]


class Witness(lw.BlackholeSink):
    """Says when it is closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def open_writer(self, context: Any) -> Any:
        writer = super().open_writer(context)
        closed, close = self.closed, writer.close

        def say_close() -> None:
            closed.append("closed")
            close()

        writer.close = say_close  # type: ignore[method-assign]
        return writer


def test_a_dead_process_closes_nothing() -> None:
    sink = Witness()
    source = ScriptedSource(SCHEMA, [rows(1), ABORT, rows(2)])
    harness = JobHarness(lambda env: env.from_source(source, uid="in").sink_to(sink, uid="out"))
    assert harness.run().crashed
    assert sink.closed == []
    assert harness.run().ended
    assert sink.closed == ["closed"]


def outside_the_function() -> Callable[[lw.StreamExecutionEnvironment], object]:
    source, sink = ScriptedSource(SCHEMA, [rows(1), BARRIER, rows(2), ABORT, rows(3)]), CollectSink()
    return lambda env: env.from_source(source, uid="in").sink_to(sink, uid="out")


def inside_the_function(env: lw.StreamExecutionEnvironment) -> None:
    source = ScriptedSource(SCHEMA, [rows(1), BARRIER, rows(2), ABORT, rows(3)])
    env.from_source(source, uid="in").sink_to(CollectSink(), uid="out")


def an_environment() -> lw.StreamExecutionEnvironment:
    env = lw.StreamExecutionEnvironment(checkpoint_interval="50ms")
    inside_the_function(env)
    return env


def with_a_folder(env: lw.StreamExecutionEnvironment, folder: Path) -> None:
    with (folder / "starts").open("a") as starts:
        starts.write("x")
    inside_the_function(env)


@pytest.mark.parametrize(
    "job",
    [outside_the_function(), inside_the_function, an_environment, an_environment(), with_a_folder],
    ids=["objects outside", "objects inside", "function of nothing", "environment", "folder"],
)
def test_a_job_may_be_given_in_any_of_these_ways(job: Any) -> None:
    harness = JobHarness(job)
    assert [run.crashed for run in harness.run_to_end()] == [True, False]
    assert [row["n"] for row in harness.rows()] == [1, 2, 3]
    if job is with_a_folder:
        assert (harness.folder / "starts").read_text() == "xx", "one call a start, over one folder"


def test_a_second_harness_begins_from_the_beginning() -> None:
    job = outside_the_function()
    for _ in range(2):
        harness = JobHarness(job)
        assert len(harness.run_to_end()) == 2
        assert [row["n"] for row in harness.rows()] == [1, 2, 3]


def test_checkpoints_may_lie_where_production_has_them(tmp_path: Path) -> None:
    first = JobHarness(inside_the_function, checkpoints=open_store(str(tmp_path)))
    assert first.run().crashed
    assert (tmp_path / "job.json").is_file()


def test_the_rows_of_an_updating_stream_are_what_is_left_of_it() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        stream = env.from_source(ScriptedSource(SCHEMA, [rows(0, 1, 3), BARRIER, rows(6), ABORT, rows(4)]), uid="in")
        stream.key_by("k").aggregate(uid="totals", n=lw.sum("n")).sink_to(CollectSink(), uid="out")

    harness = JobHarness(job)
    harness.run_to_end(parallelism=(1, 2))
    assert sorted((row["k"], row["n"]) for row in harness.rows()) == [(0, 9), (1, 5)]
    assert len(harness.sinks["out"].rows()) > 2, "the sink itself has all changes"


def test_of_several_sinks_each_has_its_rows() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        stream = env.from_source(ScriptedSource(SCHEMA, [rows(1, 2), BARRIER, rows(3), ABORT, rows(4)]), uid="in")
        stream.filter(col("n") % 2 == 0).sink_to(CollectSink(), uid="even")
        stream.filter(col("n") % 2 == 1).sink_to(CollectSink(), uid="odd")

    harness = JobHarness(job)
    harness.run_to_end()
    assert {uid: [row["n"] for row in found] for uid, found in harness.all_rows().items()} == {
        "even": [2, 4],
        "odd": [1, 3],
    }
    with pytest.raises(ConfigError, match="there are: even, odd"):
        harness.rows()


def test_a_run_that_waits_for_ever_is_an_error_and_not_a_wait() -> None:
    source = ScriptedSource(SCHEMA, [rows(1)], bounded=False)
    harness = JobHarness(lambda env: env.from_source(source, uid="in").sink_to(CollectSink(), uid="out"))
    with pytest.raises(ConfigError, match="source 'in' has no end"):
        harness.run_to_end()
    with pytest.raises(AssertionError, match="minutes of virtual time went by"):
        harness.run()


def test_a_job_that_dies_at_every_start_does_not_go_on_for_ever() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        source = ScriptedSource(SCHEMA, [rows(1), *[ABORT] * 150])
        env.from_source(source, uid="in").sink_to(CollectSink(), uid="out")

    with pytest.raises(AssertionError, match="started 100 times"):
        JobHarness(job).run_to_end()


@pytest.mark.parametrize("mark", [ABORT, EOF], ids=["ABORT", "EOF"])
def test_marks_that_need_a_harness_say_so_without_one(mark: Item) -> None:
    env = lw.StreamExecutionEnvironment()
    env.from_source(ScriptedSource(SCHEMA, [rows(1), mark]), uid="in").sink_to(CollectSink(), uid="out")
    with pytest.raises(ConfigError, match="nobody is there who would start the job again") as caught:
        env.execute()
    assert "JobHarness" in caught.value.hint


def test_a_function_that_returns_no_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match="returned NoneType"):
        JobHarness(lambda: None).run()  # type: ignore[arg-type, return-value]


def test_two_runs_of_one_job_go_the_same_way() -> None:
    def clock() -> int:
        harness = summed(rows(0, 1), BARRIER, rows(2), ABORT, rows(3), PAUSE, rows(4))
        harness.run_to_end(parallelism=(2, 1))
        return harness.clock.monotonic_ms()

    assert clock() == clock()


@pytest.mark.parametrize("parallelism", [0, -1, "2"])
def test_a_start_without_subtasks_is_refused(parallelism: Any) -> None:
    harness = JobHarness(lambda env: env.from_collection([{"n": 1}]).sink_to(CollectSink(), uid="out"))
    with pytest.raises(ConfigError, match="parallelism cannot be"):
        harness.run(parallelism=parallelism)
    with pytest.raises(ConfigError, match="parallelism cannot be"):
        harness.run_to_end(parallelism=parallelism)
