"""The collecting sink says what is committed, and with which checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

import lakeward as lw
from lakeward.testing import ABORT, BARRIER, CollectSink, JobHarness, ScriptedSource, SinkFeature, SinkHarness
from lakeward.testing.sink_suite import RunSpec, SinkPolicy, SinkRun

SCHEMA = pa.schema({"n": pa.int64()})


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": n} for n in numbers]


def test_commits_say_which_checkpoint_brought_which_rows() -> None:
    sink = CollectSink()
    source = ScriptedSource(SCHEMA, [rows(1, 2), BARRIER, rows(3), BARRIER, rows(4), ABORT, rows(5)])
    JobHarness(lambda env: env.from_source(source, uid="in").sink_to(sink, uid="out")).run_to_end()
    brought = [commit.rows() for commit in sink.commits if commit.table.num_rows]
    assert brought == [rows(1, 2), rows(3), rows(4, 5)]
    checkpoints = [commit.checkpoint for commit in sink.commits]
    assert checkpoints == sorted(set(checkpoints)), "each checkpoint once, in order, also after the crash"


def test_a_commit_without_rows_has_the_schema_of_the_others() -> None:
    env, sink = lw.StreamExecutionEnvironment(), CollectSink()
    env.from_source(ScriptedSource(SCHEMA, [BARRIER, rows(1)]), uid="in").sink_to(sink, uid="out")
    JobHarness(env).run()
    assert {commit.table.schema for commit in sink.commits} == {SCHEMA}


class CollectHarness(SinkHarness):
    features = frozenset({SinkFeature.ROLLBACK})

    def __init__(self) -> None:
        self.first = CollectSink()

    def sink(self, policy: SinkPolicy) -> CollectSink:
        sink = CollectSink(on_rewind=policy.on_rewind, on_existing=policy.on_existing)  # type: ignore[arg-type]
        sink.share(self.first)
        return sink

    def visible_rows(self) -> Sequence[tuple[int, str]]:
        return [(row["id"], row["name"]) for row in self.first.rows()]


def test_what_was_rolled_back_is_in_no_commit() -> None:
    harness = CollectHarness()
    run = SinkRun(harness)
    kept, _ = run.advance(1, [1]), run.advance(2, [2, 3])
    SinkRun(harness, RunSpec(restored=kept, commit_done=True, policy=SinkPolicy(on_rewind="rollback")))
    assert [(commit.checkpoint, commit.table["id"].to_pylist()) for commit in harness.first.commits] == [(1, [1])]
