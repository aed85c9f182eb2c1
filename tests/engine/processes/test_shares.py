"""What a worker is given of a checkpoint is what its subtasks read, and hardly more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lakeward as lw
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.core.errors import InternalError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.keygroups import key_group_range
from lakeward.engine.core.snapshots import OperatorSnapshot, StoredFile, TableSnapshot
from lakeward.engine.graph.plan import Plan
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.processes.shares import shares
from lakeward.engine.runtime.restore import RestoredState

GROUPS = 128
COUNTS = st.integers(1, 12)


def plan(parallelism: int, *, broadcast: bool = False) -> Plan:
    config = lw.EngineConfig(parallelism=parallelism, max_parallelism=GROUPS)
    env = lw.StreamExecutionEnvironment(config=config)
    rows = env.from_collection([{"k": 1, "v": 2}], uid="rows")
    if broadcast:
        names = env.from_collection([{"k": 1, "name": "a"}], uid="names")
        rows.lookup_join(names, on="k", uid="state").sink_to(lw.MemorySink(), uid="out")
    else:
        rows.key_by("k").aggregate(uid="state", n=lw.count()).sink_to(lw.MemorySink(), uid="out")
    return prepare(env.definition("job").graph, config)[1]


def keyed(subtask: int, parallelism: int) -> TableSnapshot:
    groups = key_group_range(SubtaskIndex(subtask), parallelism, GROUPS)
    file = StoredFile("1.sst", 1, f"{subtask:064x}", Generation(1))
    return TableSnapshot({}, groups.start, groups.stop, (file,))


def manifest(parallelism: int) -> CheckpointManifest:
    numbers = [SubtaskIndex(number) for number in range(parallelism)]
    operators = [
        *(OperatorSnapshot(OperatorId("gone"), number, {"n": 1}) for number in numbers),
        *(OperatorSnapshot(OperatorId("out"), number, None, None, [{"v": 1}]) for number in numbers),
        *(OperatorSnapshot(OperatorId("rows"), number, {"splits": []}) for number in numbers),
        *(OperatorSnapshot(OperatorId("state"), n, {"at": n}, keyed(n, parallelism)) for n in numbers),
    ]
    return CheckpointManifest(
        job_id=JobId("j"),
        job_name="job",
        checkpoint=CheckpointId(7),
        generation=Generation(1),
        created_us=0,
        max_parallelism=GROUPS,
        parallelism={OperatorId("state"): parallelism},
        operators=tuple(operators),
    )


def restored(of: CheckpointManifest, folder: Path) -> RestoredState:
    return RestoredState(of, lambda files, directory: None, folder, GROUPS)


@given(COUNTS, COUNTS, COUNTS)
def test_each_subtask_finds_in_its_workers_share_what_it_would_find_in_the_whole(
    tmp_path_factory: pytest.TempPathFactory, old: int, new: int, workers: int
) -> None:
    workers, folder = min(new, workers), tmp_path_factory.mktemp("restored")
    whole = manifest(old)
    parts = shares(whole, plan(new), workers)
    uid = OperatorId("state")
    for number in map(SubtaskIndex, range(new)):
        own = restored(CheckpointManifest.from_bytes(parts[number % workers].to_bytes()), folder)
        all_of_it = restored(whole, folder)
        assert own.keyed(uid, number, new) == all_of_it.keyed(uid, number, new)
        assert own.states(uid) == all_of_it.states(uid)


def test_a_share_holds_no_more_than_a_worker_needs() -> None:
    first, second = shares(manifest(4), plan(2), 2)
    assert [one.uid for one in first.operators] == ["state"] * 4  # the small state of all
    assert [one.subtask for one in first.operators if one.keyed] == [0, 1]
    assert [one.subtask for one in second.operators if one.keyed] == [2, 3]


def test_an_operator_with_a_broadcast_stream_gets_the_state_of_all(tmp_path: Path) -> None:
    for part in shares(manifest(4), plan(3, broadcast=True), 3):
        assert len(restored(part, tmp_path).all_keyed(OperatorId("state"))) == 4


def test_reading_the_state_of_all_subtasks_without_having_it_is_an_error(tmp_path: Path) -> None:
    part = shares(manifest(4), plan(2), 2)[0]
    with pytest.raises(InternalError, match="has 64 key groups"):
        restored(part, tmp_path).all_keyed(OperatorId("state"))
