"""A savepoint starts the same job at another parallelism, in another directory, and the answer stays the same."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from everything_job import BATCHES, job
from make_savepoint import BEFORE, copied

import lakeward as lw
from lakeward.engine.checkpoint.savepoint import Beginning
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.core.errors import ConfigError, GraphError
from lakeward.testing import ABORT, BARRIER, EOF, FAIL, CollectSink, Item, JobHarness, ScriptedSource

Rows = dict[str, list[dict[str, Any]]]
DEFAULT = [(before, after) for before in (1, 2, 3) for after in (1, 2, 3)]
ALL = [(before, after) for before in range(1, 9) for after in range(1, 9) if (before, after) not in DEFAULT]


def harness(script: Sequence[Item]) -> JobHarness:
    return JobHarness(lambda env: job(env, script), state="rocksdb")


def sorted_rows(found: JobHarness) -> Rows:
    return {uid: sorted(rows, key=repr) for uid, rows in found.all_rows().items()}


@cache
def straight() -> Rows:
    found = harness(BATCHES)
    assert found.run().ended
    answer = sorted_rows(found)
    assert all(answer.values()), "every part of the job answers something"
    return answer


def check_pair(before: int, after: int) -> None:
    """Stopped well, then killed with a commit open; each time another job goes on from a savepoint."""
    script = [*BATCHES[:3], BARRIER, BATCHES[3], EOF, *BATCHES[4:6], BARRIER, BATCHES[6], ABORT, *BATCHES[7:]]
    found = harness(script)
    assert found.run(parallelism=before).stopped
    first = found.savepoint()
    assert found.run(parallelism=after, savepoint=first).crashed
    assert found.run(parallelism=before, savepoint=found.savepoint()).ended
    assert sorted_rows(found) == straight()


@pytest.mark.parametrize(("before", "after"), DEFAULT)
def test_a_savepoint_is_restored_at_any_parallelism(before: int, after: int) -> None:
    check_pair(before, after)


@pytest.mark.soak
@pytest.mark.parametrize(("before", "after"), ALL)
def test_a_savepoint_is_restored_at_any_parallelism_up_to_eight(before: int, after: int) -> None:
    check_pair(before, after)


def test_a_job_that_goes_on_does_not_change_its_savepoint() -> None:
    found = harness([*BATCHES[:4], EOF, *BATCHES[4:7], EOF, *BATCHES[7:]])
    assert found.run().stopped
    kept = found.savepoint()
    before = {path: kept.read(path) for path in kept.list("")}
    assert found.run(savepoint=kept).stopped
    assert found.run().ended
    assert {path: kept.read(path) for path in kept.list("")} == before


def test_state_without_a_home_is_refused_unless_its_operator_is_named() -> None:
    source = [[{"k": 1, "n": 1}], EOF, [{"k": 1, "n": 2}]]

    uids = ["old"]

    def make(env: lw.StreamExecutionEnvironment) -> None:
        stream = env.from_source(ScriptedSource({"k": int, "n": int}, source), uid="in")
        stream.key_by("k").aggregate(total=lw.sum("n"), uid=uids[-1]).sink_to(CollectSink(), uid="out")

    new = JobHarness(make)
    assert new.run().stopped
    kept = new.savepoint()
    uids.append("new")
    with pytest.raises(GraphError, match="holds state of 'old', which the job no longer has"):
        new.run(savepoint=kept)
    assert new.run(savepoint=kept, drop_state=["old"]).ended
    assert new.rows() == [{"k": 1, "total": 2}]


@pytest.mark.parametrize("golden", sorted(Path(__file__).parent.glob("savepoints/*")), ids=lambda one: one.name)
def test_a_savepoint_of_every_format_there_ever_was_is_restored(golden: Path) -> None:
    kept = MemoryStore()
    copied(FileSystemStore(str(golden / "savepoint")), kept)
    # The sinks are new ones: those of then are gone with the process that wrote the savepoint.
    found = JobHarness(lambda env: job(env, [*BATCHES[:BEFORE], *BATCHES[BEFORE:]], sinks="new-"), state="rocksdb")
    assert found.run(savepoint=kept, parallelism=3).ended
    before = json.loads((golden / "answers.json").read_text())
    for uid, wanted in straight().items():
        after = json.loads(json.dumps(found.rows(f"new-{uid}"), default=str))
        whole = json.loads(json.dumps(wanted, default=str))
        if uid == "totals-out":  # an updating stream: the newest answer of each key
            after = [row for row in before[uid] if row["name"] not in {one["name"] for one in after}] + after
            assert sorted(after, key=repr) == sorted(whole, key=repr)
        else:
            assert sorted(before[uid] + after, key=repr) == sorted(whole, key=repr)


def test_a_job_does_not_begin_empty_where_it_should_have_begun_from_a_savepoint() -> None:
    found = harness([*BATCHES[:2], EOF, *BATCHES[2:]])
    assert found.run().stopped
    directory = MemoryStore()
    Beginning(found.savepoint(), directory).job_id()  # and the process dies
    with pytest.raises(ConfigError, match="was to be begun from a savepoint"):
        JobHarness(lambda env: job(env, BATCHES), checkpoints=directory).run()


def test_a_job_that_has_begun_is_restarted_without_its_savepoint() -> None:
    class DeletesIt(lw.ProcessFunction):
        def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> Iterator[dict[str, Any]]:
            for path in kept.list("") if row["n"] == 2 else ():
                kept.delete(path)
            yield row

    def make(env: lw.StreamExecutionEnvironment) -> None:
        script = [[{"n": 1}], EOF, [{"n": 2}], FAIL, [{"n": 3}]]
        stream = env.from_source(ScriptedSource({"n": int}, script), uid="in")
        stream.process(DeletesIt(), returns={"n": int}, uid="deletes").sink_to(CollectSink(), uid="out")

    found = JobHarness(make)
    assert found.run().stopped
    kept = found.savepoint()
    run = found.run(savepoint=kept)
    assert (run.ended, run.restarts, kept.list("")) == (True, 1, [])
