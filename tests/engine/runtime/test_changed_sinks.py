"""Jobs that go on from a checkpoint with other sinks than they had when it was taken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import lakeward as lw
from lakeward.engine.core.errors import GraphError, SinkStateError
from lakeward.testing import ABORT, BARRIER, EOF, CollectSink, Item, JobHarness, ScriptedSource
from lakeward.testing.lake import LocalLake

Build = Callable[[lw.DataStream], None]


class Job:
    """A job whose sinks are changed between its starts."""

    def __init__(self, script: list[Item]) -> None:
        self.source = ScriptedSource({"n": int}, script)
        self.build: Build = lambda stream: None
        self.harness = JobHarness(self._make)

    def _make(self, env: lw.StreamExecutionEnvironment) -> None:
        self.build(env.from_source(self.source, uid="in"))


def first(stream: lw.DataStream) -> None:
    stream.sink_to(CollectSink(), uid="first")


def both(stream: lw.DataStream) -> None:
    first(stream)
    stream.sink_to(CollectSink(), uid="second")


@pytest.mark.parametrize("end", [EOF, ABORT], ids=["stop", "crash"])
def test_a_sink_that_is_added_gets_what_is_read_from_then_on(end: Item) -> None:
    job = Job([[{"n": 1}], BARRIER, [{"n": 2}], end, [{"n": 3}]])
    job.build = first
    assert not job.harness.run().ended
    job.build = both
    assert job.harness.run().ended
    assert job.harness.rows("first") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert job.harness.rows("second") == ([{"n": 3}] if end is EOF else [{"n": 2}, {"n": 3}])


def test_a_table_or_folder_is_added_to_a_job_that_goes_on(tmp_path: Path, lake: LocalLake) -> None:
    job = Job([[{"n": 1}], EOF, [{"n": 2}], EOF, [{"n": 3}]])
    job.build = first
    assert job.harness.run().stopped

    def with_more(stream: lw.DataStream) -> None:
        first(stream)
        stream.sink_to(lw.FilesSink(str(tmp_path / "files")), uid="files")
        stream.sink_to(lw.IcebergSink("shop.numbers", catalog=lake.catalog), uid="table")

    job.build = with_more
    assert job.harness.run().stopped
    assert job.harness.run().ended
    assert sorted(row["n"] for row in lake.rows("shop.numbers")) == [2, 3]


def test_an_added_sink_over_rows_of_its_own_is_refused_as_on_a_first_run(tmp_path: Path) -> None:
    old = Job([[{"n": 1}]])
    old.build = lambda stream: stream.sink_to(lw.FilesSink(str(tmp_path), sink_id="mine"), uid="files") and None
    assert old.harness.run().ended
    job = Job([[{"n": 1}], EOF, [{"n": 2}]])
    job.build = first
    assert job.harness.run().stopped
    job.build = old.build
    with pytest.raises(SinkStateError, match="starts without a checkpoint"):
        job.harness.run()


def test_a_sink_that_is_gone_with_rows_to_be_committed_is_refused_unless_it_is_named() -> None:
    job = Job([[{"n": 1}], BARRIER, [{"n": 2}], ABORT, [{"n": 3}]])
    job.build = both
    assert job.harness.run().crashed
    store = job.harness.savepoint()
    for path in store.list("checkpoints/"):
        if path.endswith("committed.json"):
            store.delete(path)  # as if it had died before the commit
    job.build = first
    with pytest.raises(GraphError, match="'second', which the job no longer has"):
        job.harness.run(savepoint=store)
    assert job.harness.run(savepoint=store, drop_state=["second"]).ended
    assert job.harness.rows("first") == [{"n": 1}, {"n": 2}, {"n": 3}]


def test_a_sink_that_is_gone_and_has_committed_everything_is_not_missed() -> None:
    job = Job([[{"n": 1}], EOF, [{"n": 2}]])
    job.build = both
    assert job.harness.run().stopped
    job.build = first
    assert job.harness.run().ended
    assert job.harness.rows("first") == [{"n": 1}, {"n": 2}]
