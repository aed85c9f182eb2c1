"""Whole jobs through `execute`: restarts, stops, resumes, corruption, several sinks, rescaling."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.api.sink import Sink
from lakeward.engine.api.source import Split
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.engine.core.errors import (
    ConfigError,
    GraphError,
    JobFailedError,
    LakewardError,
    SourceError,
    UserCodeError,
)
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.execute import execute
from lakeward.testing import BARRIER, EOF, FAIL, CollectSink, Item, JobHarness, ScriptedSource

SCHEMA = pa.schema({"k": pa.int64(), "v": pa.int64(), "at": pa.timestamp("us")})
WATERMARK = lw.WatermarkStrategy.bounded_out_of_orderness("at", "0s")
FAST = lw.EngineConfig(checkpoint_interval_ms=5, restart=lw.RestartConfig(attempts_max=2, delay_min_ms=1))


def rows(first: int, count: int = 10) -> list[dict[str, Any]]:
    return [{"k": n % 3, "v": n, "at": n * 1_000_000} for n in range(first, first + count)]


def values(sink: lw.MemorySink) -> list[int]:
    return sorted(sink.table()["v"].to_pylist())


def job(
    source: ScriptedSource, sink: lw.MemorySink | None = None
) -> tuple[lw.StreamExecutionEnvironment, lw.MemorySink]:
    env = lw.StreamExecutionEnvironment(config=FAST)
    sink = sink or lw.MemorySink()
    env.from_source(source, uid="source", parallelism=1).sink_to(sink, uid="sink")
    return env, sink


def test_a_failure_is_healed_by_a_restart_that_loses_and_doubles_nothing() -> None:
    source = ScriptedSource(SCHEMA, [rows(0), BARRIER, rows(10), FAIL, rows(20), FAIL, rows(30)])
    env, sink = job(source)
    result = execute(env.definition())
    assert values(sink) == list(range(40))
    assert result.restarts == 2


def test_a_failure_before_the_first_checkpoint_replays_everything() -> None:
    env, sink = job(ScriptedSource(SCHEMA, [rows(0), FAIL, rows(10)]))
    execute(env.definition())
    assert values(sink) == list(range(20))


def test_a_job_that_fails_without_progress_gives_up_and_names_the_last_error() -> None:
    source = ScriptedSource(SCHEMA, [FAIL, FAIL, FAIL, rows(0)])
    env, _ = job(source)
    with pytest.raises(JobFailedError, match="the script says to fail here") as caught:
        execute(env.definition())
    assert isinstance(caught.value.__cause__, SourceError)


def test_an_error_that_cannot_heal_is_not_retried() -> None:
    calls = []

    def explode(row: dict[str, Any]) -> dict[str, Any]:
        calls.append(row)
        raise ValueError("no")

    env = lw.StreamExecutionEnvironment(config=FAST)
    stream = env.from_source(ScriptedSource(SCHEMA, [rows(0)]), uid="source")
    stream.map(explode, returns=SCHEMA, uid="explode").sink_to(lw.BlackholeSink())
    with pytest.raises(UserCodeError) as caught:
        execute(env.definition())
    assert caught.value.operator == "explode"
    assert __file__ in caught.value.location
    assert len(calls) == 1


def test_a_stopped_job_goes_on_where_it_was() -> None:
    env, sink = job(ScriptedSource(SCHEMA, [rows(0), EOF, rows(10), EOF, rows(20)]), CollectSink())
    harness = JobHarness(env)
    seen = [(harness.run().ended, values(sink)) for _ in range(3)]
    assert seen == [(False, list(range(10))), (False, list(range(20))), (True, list(range(30)))]


def test_running_a_finished_job_again_does_nothing() -> None:
    store = MemoryStore()
    env, sink = job(ScriptedSource(SCHEMA, [rows(0)]))
    first = execute(env.definition("job", store))
    env, _ = job(ScriptedSource(SCHEMA, [rows(0)]), sink)
    second = execute(env.definition("job", store))
    assert values(sink) == list(range(10))
    assert second.ended
    assert second.checkpoint == first.checkpoint


def test_two_sinks_of_one_stream_both_get_every_row_once() -> None:
    source = ScriptedSource(SCHEMA, [rows(0), BARRIER, rows(10), FAIL, rows(20)])
    env = lw.StreamExecutionEnvironment(config=FAST)
    stream = env.from_source(source, uid="source")
    even, odd = lw.MemorySink(), lw.MemorySink()
    stream.filter(col("v") % 2 == 0).sink_to(even, uid="even")
    stream.filter(col("v") % 2 == 1).sink_to(odd, uid="odd")
    execute(env.definition())
    assert values(even) == list(range(0, 30, 2))
    assert values(odd) == list(range(1, 30, 2))


def windows(script: Sequence[Item], sink: Sink) -> lw.StreamExecutionEnvironment:
    env = lw.StreamExecutionEnvironment(config=FAST)
    stream = env.from_source(ScriptedSource(SCHEMA, script), watermark=WATERMARK, uid="source", parallelism=1)
    keyed = stream.key_by("k").window(lw.Tumbling("20s"))
    keyed.aggregate(v=lw.sum("v"), uid="windows").sink_to(sink, uid="sink")
    return env


def test_window_state_survives_a_restart_on_disk_at_another_parallelism(tmp_path: Path) -> None:
    sink = CollectSink()
    env = windows([rows(0, 15), EOF, rows(15, 15), EOF, rows(30, 10)], sink)
    harness = JobHarness(env, checkpoints=open_store(str(tmp_path)), state="rocksdb")
    assert len(harness.run_to_end(parallelism=(1, 3, 2))) == 3
    found = [(row["k"], row["v"]) for row in sink.table().to_pylist()]
    expected = [(k, sum(n for n in range(start, start + 20) if n % 3 == k)) for start in (0, 20) for k in range(3)]
    assert sorted(found) == sorted(expected)


def test_a_corrupt_state_file_makes_it_fall_back_to_the_checkpoint_before_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = [rows(0, 15), BARRIER, rows(15, 3), BARRIER, rows(18, 1), EOF, rows(19, 11)]
    # A sink with a marker would rightly refuse to go on from an older checkpoint.
    env = windows(script, lw.BlackholeSink())
    harness = JobHarness(env, checkpoints=open_store(str(tmp_path)), state="rocksdb")
    first = harness.run().result
    newest = max((p for p in (tmp_path / "files").rglob("*") if p.is_file()), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING, "lakeward"):
        second = harness.run()
    assert first is not None
    assert first.checkpoint is not None
    assert second.restored is not None
    assert second.restored < first.checkpoint
    assert f"checkpoint {first.checkpoint} cannot be used" in caplog.text
    assert second.metrics["sink"]["input_rows"] == 6


def test_state_of_an_operator_that_is_gone_is_not_dropped_silently() -> None:
    store = MemoryStore()
    assert JobHarness(windows([rows(0, 15), EOF, rows(15)], lw.MemorySink()), checkpoints=store).run().stopped
    env, _ = job(ScriptedSource(SCHEMA, [rows(0)]))
    with pytest.raises(GraphError, match="holds state of 'windows', which the job no longer has"):
        execute(env.definition("job", store))


def test_another_max_parallelism_than_the_states_is_refused() -> None:
    store = MemoryStore()
    source = ScriptedSource(SCHEMA, [rows(0), EOF, rows(10)])
    env, _ = job(source)
    assert JobHarness(env, checkpoints=store).run().stopped
    other = lw.StreamExecutionEnvironment(config=lw.EngineConfig(max_parallelism=64))
    other.from_source(source, uid="source").sink_to(lw.MemorySink(), uid="sink")
    with pytest.raises(ConfigError, match="max_parallelism=128"):
        execute(other.definition("job", store))


def test_counters_tell_what_was_read_and_written() -> None:
    env, _ = job(ScriptedSource(SCHEMA, [rows(0), rows(10)]))
    metrics = execute(env.definition()).metrics
    assert metrics["source"]["output_rows"] == 20
    assert metrics["sink"]["input_rows"] == 20


def test_a_union_of_sources_of_different_length_ends_with_all_rows() -> None:
    env = lw.StreamExecutionEnvironment(parallelism=2, config=FAST)
    one = env.from_source(ScriptedSource(SCHEMA, [rows(0)]), uid="one", watermark=WATERMARK)
    two = env.from_source(ScriptedSource(SCHEMA, [rows(100), BARRIER, rows(110)]), uid="two", watermark=WATERMARK)
    table = one.union(two).execute_and_collect()
    assert sorted(table["v"].to_pylist()) == [*range(10), *range(100, 120)]


def test_windows_without_event_time_are_refused_while_the_job_is_written() -> None:
    env = lw.StreamExecutionEnvironment()
    stream = env.from_source(ScriptedSource(SCHEMA, [rows(0)]), uid="source")
    with pytest.raises(LakewardError, match="windows need event time"):
        stream.key_by("k").window(lw.Tumbling("1s"))


def test_windows_of_windows_use_the_end_of_the_inner_window() -> None:
    env = lw.StreamExecutionEnvironment(config=FAST)
    stream = env.from_source(ScriptedSource(SCHEMA, [rows(0, 60)]), watermark=WATERMARK, uid="source")
    inner = stream.key_by("k").window(lw.Tumbling("10s")).aggregate(v=lw.sum("v"))
    outer = inner.window_all(lw.Tumbling("30s")).aggregate(v=lw.sum("v"), n=lw.count())
    found = outer.execute_and_collect().sort_by("window_start").to_pylist()
    assert [(row["v"], row["n"]) for row in found] == [(sum(range(30)), 9), (sum(range(30, 60)), 9)]


class GrowingSource(ScriptedSource):
    """Has its first split only when the job starts; the others appear while it runs."""

    listings = 0

    @property
    def discovery_interval_ms(self) -> int | None:
        return 10

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        self.listings += 1
        splits = super().list_splits(known)
        return splits[:1] if self.listings == 1 else splits


def test_a_split_that_appears_while_the_job_runs_is_read_from_its_beginning() -> None:
    source = GrowingSource(SCHEMA, [rows(0)], [rows(10), BARRIER, rows(20), EOF], bounded=False)
    env, sink = job(source)
    assert JobHarness(env).run().stopped
    assert values(sink) == list(range(30))


def test_a_listing_of_splits_that_fails_while_the_job_runs_is_tried_again() -> None:
    class Flaky(GrowingSource):
        def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
            if self.listings == 1:
                self.listings += 1
                raise SourceError("no answer")
            return super().list_splits(known)

    source = Flaky(SCHEMA, [rows(0)], [rows(10), EOF], bounded=False)
    env, sink = job(source)
    run = JobHarness(env).run()
    assert run.stopped
    assert run.restarts == 0
    assert values(sink) == list(range(20))
