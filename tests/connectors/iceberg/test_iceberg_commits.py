"""Commits against rivals, foreign writers, lost answers, and tables that change underneath."""

import threading
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException
from pyiceberg.io.pyarrow import _dataframe_to_data_files
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import IntegerType, LongType, StringType

from lakeward.connectors.iceberg import IcebergSink, bucket, truncate
from lakeward.connectors.iceberg.maintenance import plan_expiry
from lakeward.connectors.iceberg.markers import SINK_ID, read_history
from lakeward.connectors.iceberg.options import EXPIRE_AT_ONCE_MAX
from lakeward.engine.core.errors import SchemaError, SinkError, SinkStateError, StaleWriterError
from lakeward.testing.lake import LocalLake, check_readers_agree, intercept_commit, read_files_bare
from lakeward.testing.sink_suite import (
    SUITE_SCHEMA,
    RunSpec,
    SinkHarness,
    SinkPolicy,
    SinkRun,
    TakenCheckpoint,
    check_raises,
)

TABLE = "shop.orders"
DEFAULT_ID = "suite/sink"


class Lakeside(SinkHarness):
    """A harness whose sink takes any options."""

    def __init__(self, lake: LocalLake, **options: Any) -> None:
        self.lake = lake
        self.options = options

    def sink(self, policy: SinkPolicy) -> IcebergSink:
        chosen: dict[str, Any] = {"on_rewind": policy.on_rewind, "on_existing": policy.on_existing}
        return IcebergSink(TABLE, catalog=self.lake.catalog, sink_id=policy.sink_id, **chosen, **self.options)

    def visible_rows(self) -> list[tuple[int, str]]:
        return [(row["id"], row["name"]) for row in self.lake.rows(TABLE)]

    def ids(self) -> list[int]:
        return sorted(row["id"] for row in self.lake.rows(TABLE))


@pytest.fixture
def side(lake: LocalLake) -> Lakeside:
    return Lakeside(lake)


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


def foreign_append(lake: LocalLake, ids: list[int]) -> None:
    lake.load(TABLE).append(pa.table({"id": ids, "name": [f"foreign-{i}" for i in ids]}))


# --- rivals and foreign writers -------------------------------------------------------------------------------------


def test_a_rival_that_lands_between_check_and_commit_wins_and_we_stop(side: Lakeside) -> None:
    ours, rival = SinkRun(side), SinkRun(side, RunSpec(job_id="job-2"))
    mine, theirs = ours.take(1, range(3)), rival.take(1, range(10, 13))
    with intercept_commit(before=lambda: rival.commit(theirs)):
        check_raises(StaleWriterError, lambda: ours.commit(mine))
    assert side.ids() == [10, 11, 12]


def test_a_zombie_with_the_same_files_that_lands_in_between_is_our_success(side: Lakeside) -> None:
    zombie = SinkRun(side)
    first = zombie.take(1, range(3))
    with intercept_commit(before=lambda: zombie.commit(first)):
        run = SinkRun(side, RunSpec(restored=first))
    run.advance(2, [3])
    assert side.ids() == [0, 1, 2, 3]
    assert len(side.lake.load(TABLE).metadata.snapshots) == 2


def test_foreign_commits_in_between_cost_another_attempt_and_nothing_else(side: Lakeside) -> None:
    run = SinkRun(side)
    run.advance(1, range(3))
    with intercept_commit(before=lambda: foreign_append(side.lake, [100])):
        run.advance(2, range(3, 6))
    assert side.ids() == [0, 1, 2, 3, 4, 5, 100]
    check_readers_agree(side.lake.load(TABLE), "id")


def test_a_foreign_commit_to_another_branch_is_a_conflict_that_heals(side: Lakeside) -> None:
    run = SinkRun(side)
    run.advance(1, range(3))
    head = side.lake.load(TABLE).metadata.current_snapshot_id
    assert head is not None
    side.lake.load(TABLE).manage_snapshots().create_branch(head, "audit").commit()

    def append_to_branch() -> None:
        side.lake.load(TABLE).append(pa.table({"id": [9], "name": ["x"]}), branch="audit")

    with intercept_commit(before=append_to_branch):
        run.advance(2, range(3, 6))
    assert side.ids() == list(range(6))


def test_a_conflict_leaves_no_manifests_behind(side: Lakeside) -> None:
    run = SinkRun(side)
    run.advance(1, range(3))
    before = len(side.lake.metadata_files(TABLE))
    with intercept_commit(before=fail_with(CommitFailedException("moved"))):
        run.advance(2, range(3, 6))
    after = len(side.lake.metadata_files(TABLE))
    run.advance(3, range(6, 9))
    assert after - before == len(side.lake.metadata_files(TABLE)) - after


def test_conflicts_without_end_give_up_with_an_error_that_may_be_retried(
    side: Lakeside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakeward.connectors.iceberg.publish.COMMIT_ATTEMPTS_MAX", 3)
    monkeypatch.setattr(
        "pyiceberg.catalog.sql.SqlCatalog.commit_table",
        lambda *_: fail_with(CommitFailedException("compaction again"))(),
    )
    run = SinkRun(side)
    first = run.take(1, range(3))
    error = check_raises(SinkError, lambda: run.commit(first))
    assert "3 attempts" in error.message
    assert "compaction again" in error.message
    monkeypatch.undo()
    run.commit(first)
    assert side.ids() == [0, 1, 2]


def test_two_committers_in_threads_commit_each_checkpoint_once(side: Lakeside) -> None:
    one, two = SinkRun(side), SinkRun(side, RunSpec(job_id="job-2"))
    outcomes: list[str] = []

    def race(run: SinkRun, base: int) -> None:
        try:
            for n in range(1, 4):
                run.advance(n, range(base + n * 10, base + n * 10 + 2))
            outcomes.append("won")
        except StaleWriterError:
            outcomes.append("stopped")

    threads = [threading.Thread(target=race, args=(run, base)) for run, base in ((one, 0), (two, 1000))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["stopped", "won"]
    assert len(side.ids()) == 6
    assert len({i >= 1000 for i in side.ids()}) == 1


def test_many_sinks_and_a_foreign_writer_race_and_every_row_lands_once(lake: LocalLake) -> None:
    runs = [SinkRun(Lakeside(lake), RunSpec(writers=1, policy=SinkPolicy(sink_id=f"sink-{n}"))) for n in range(3)]
    errors: list[BaseException] = []

    def write(n: int) -> None:
        try:
            for checkpoint in range(1, 5):
                runs[n].advance(checkpoint, [n * 100 + checkpoint])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sorted(r["id"] for r in lake.rows(TABLE)) == sorted(n * 100 + c for n in range(3) for c in range(1, 5))


# --- lost answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [CommitFailedException("409 after a resent request"), CommitStateUnknownException("502"), TimeoutError("read")],
    ids=["conflict with our own commit", "state unknown", "timeout"],
)
def test_a_commit_that_landed_is_recognised_whatever_the_catalog_says(side: Lakeside, error: Exception) -> None:
    run = SinkRun(side)
    with intercept_commit(after=fail_with(error)):
        run.advance(1, range(3))
    assert side.ids() == [0, 1, 2]
    run.advance(2, range(3, 5))
    check_readers_agree(side.lake.load(TABLE), "id")
    assert side.ids() == list(range(5))


def test_a_commit_that_did_not_land_is_an_error_that_names_catalog_and_checkpoint(side: Lakeside) -> None:
    run = SinkRun(side)
    taken = run.take(7, range(3))
    with intercept_commit(before=fail_with(CommitStateUnknownException("502"))):
        error = check_raises(SinkError, lambda: run.commit(taken))
    assert "checkpoint 7" in error.message
    assert "catalog.db" in error.message
    assert side.ids() == []


def test_commits_that_failed_are_made_up_in_order_by_the_next_one(side: Lakeside) -> None:
    run = SinkRun(side)
    first, second = run.take(1, [1]), run.take(2, [2])
    with intercept_commit(before=fail_with(TimeoutError("down"))):
        check_raises(SinkError, lambda: run.commit(first))
    run.commit(second)
    positions = [s.summary["lakeward.checkpoint-id"] for s in side.lake.load(TABLE).metadata.snapshots if s.summary]
    assert positions == ["1", "2"]


# --- the table changes underneath -----------------------------------------------------------------------------------


def rolled_back_to(side: Lakeside, checkpoint: int) -> None:
    table = side.lake.load(TABLE)
    target = next(
        s.snapshot_id
        for s in table.metadata.snapshots
        if s.summary and s.summary["lakeward.checkpoint-id"] == str(checkpoint)
    )
    table.manage_snapshots().set_current_snapshot(target).commit()


def three_checkpoints(side: Lakeside) -> tuple[SinkRun, list[TakenCheckpoint]]:
    run = SinkRun(side)
    return run, [run.advance(n, [n]) for n in (1, 2, 3)]


def test_a_table_rolled_back_under_the_running_job_stops_it(side: Lakeside) -> None:
    run, _ = three_checkpoints(side)
    rolled_back_to(side, 2)
    error = check_raises(SinkStateError, lambda: run.advance(4, [4]))
    assert "rolled back" in error.message
    assert side.ids() == [1, 2]


def test_a_table_rolled_back_further_than_the_checkpoint_is_refused(side: Lakeside) -> None:
    _, taken = three_checkpoints(side)
    rolled_back_to(side, 1)
    for done in (True, False):
        check_raises(SinkStateError, lambda done=done: SinkRun(side, RunSpec(taken[2], commit_done=done)))
    run = SinkRun(side, RunSpec(taken[2], policy=SinkPolicy(on_rewind="append")))
    run.advance(4, [4])
    assert side.ids() == [1, 4]


def test_a_table_rolled_back_to_the_restored_checkpoint_goes_on_and_fences_the_old_run(side: Lakeside) -> None:
    old, taken = three_checkpoints(side)
    rolled_back_to(side, 1)
    run = SinkRun(side, RunSpec(taken[0]))
    check_raises(StaleWriterError, lambda: old.advance(4, [50]))
    second = run.advance(2, [2, 20])
    assert side.ids() == [1, 2, 20]
    SinkRun(side, RunSpec(second)).advance(3, [3])
    assert side.ids() == [1, 2, 3, 20]


def test_a_rollback_keeps_foreign_rows_from_before_and_refuses_to_lose_later_ones(side: Lakeside) -> None:
    run = SinkRun(side)
    first = run.advance(1, [1])
    foreign_append(side.lake, [100])
    run.advance(2, [2])
    rollback = RunSpec(first, policy=SinkPolicy(on_rewind="rollback"))
    foreign_append(side.lake, [101])
    error = check_raises(SinkStateError, lambda: SinkRun(side, rollback))
    assert "another writer" in error.message
    assert side.ids() == [1, 2, 100, 101]
    side.lake.load(TABLE).delete("id = 101")
    check_raises(SinkStateError, lambda: SinkRun(side, rollback))
    rolled_back_to(side, 2)
    SinkRun(side, rollback)
    assert side.ids() == [1, 100]


def test_a_rollback_to_before_the_first_rows_empties_the_table(side: Lakeside) -> None:
    run = SinkRun(side)
    empty = run.advance(1)
    run.advance(2, [2])
    run = SinkRun(side, RunSpec(empty, policy=SinkPolicy(on_rewind="rollback")))
    assert side.ids() == []
    third = run.advance(3, [3])
    assert side.ids() == [3]
    SinkRun(side, RunSpec(third)).advance(4, [4])
    assert side.ids() == [3, 4]


def test_a_table_dropped_and_made_anew_is_refused(side: Lakeside) -> None:
    run = SinkRun(side)
    first = run.advance(1, [1])
    side.lake.open_catalog().drop_table(TABLE)
    gone = check_raises(SinkStateError, lambda: SinkRun(side, RunSpec(first)))
    assert "is gone" in gone.message
    SinkRun(side, RunSpec(policy=SinkPolicy(sink_id="another")))
    anew = check_raises(SinkStateError, lambda: SinkRun(side, RunSpec(first)))
    assert "made anew" in anew.message
    check_raises(SinkStateError, lambda: run.advance(2, [2]))
    assert side.ids() == []


def test_the_marker_survives_that_foreign_maintenance_expires_all_our_snapshots(side: Lakeside) -> None:
    _, taken = three_checkpoints(side)
    foreign_append(side.lake, [100])
    table = side.lake.load(TABLE)
    ours = [s.snapshot_id for s in table.metadata.snapshots if s.summary and s.summary[SINK_ID]]
    table.maintenance.expire_snapshots().by_ids(ours).commit()
    assert len(side.lake.load(TABLE).metadata.snapshots) == 1
    run = SinkRun(side, RunSpec(taken[2]))
    assert side.ids() == [1, 2, 3, 100]
    run.advance(4, [4])
    check_raises(SinkStateError, lambda: SinkRun(side))
    assert side.ids() == [1, 2, 3, 4, 100]


def test_the_marker_survives_that_its_property_is_removed(side: Lakeside) -> None:
    _, taken = three_checkpoints(side)
    with side.lake.load(TABLE).transaction() as change:
        change.remove_properties(f"lakeward.sink.{DEFAULT_ID}")
    check_raises(SinkStateError, lambda: SinkRun(side))
    SinkRun(side, RunSpec(taken[2])).advance(4, [4])
    assert side.ids() == [1, 2, 3, 4]


def test_a_foreign_rewrite_of_our_files_does_not_look_like_a_lost_commit(side: Lakeside) -> None:
    run, _ = three_checkpoints(side)
    rows = side.lake.load(TABLE).scan().to_arrow()
    side.lake.load(TABLE).overwrite(rows)
    run.advance(4, [4])
    history = read_history(side.lake.load(TABLE).metadata, DEFAULT_ID)
    assert not history.rolled_back
    assert side.ids() == [1, 2, 3, 4]


def test_pending_files_are_committed_under_the_partition_spec_they_were_written_with(lake: LocalLake) -> None:
    properties = {"commit.manifest.min-count-to-merge": "5"}
    side = Lakeside(lake, partition_by=[bucket("id", 4)], table_properties=properties)
    run = SinkRun(side)
    run.advance(1, range(4))
    pending = run.take(2, range(4, 12))
    with lake.load(TABLE).update_spec() as spec:
        spec.remove_field("id_bucket")
        spec.add_field("name", IdentityTransform(), "name_id")
    plain = Lakeside(lake)
    run = SinkRun(plain, RunSpec(pending))
    run.advance(3, range(12, 14))
    table = lake.load(TABLE)
    check_readers_agree(table, "id")
    assert side.ids() == list(range(14))
    assert {task.file.spec_id for task in table.scan().plan_files()} == {0, table.spec().spec_id}
    assert table.scan("id = 5").to_arrow().num_rows == 1
    assert table.scan("name = 'row-13'").to_arrow().num_rows == 1
    for n in range(4, 11):  # enough for manifests to be merged
        run.advance(n, [10 * n])
    manifests = lake.load(TABLE).inspect.manifests().to_pylist()
    assert len(manifests) < 8
    check_readers_agree(lake.load(TABLE), "id")


def test_manifests_of_a_spec_whose_column_was_dropped_are_left_alone(
    lake: LocalLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = {"commit.manifest.min-count-to-merge": "3"}
    side = Lakeside(lake, partition_by=[truncate("name", 4)], table_properties=properties)
    run = SinkRun(side, RunSpec(writers=1))
    run.advance(1, [1])
    with lake.load(TABLE).update_spec() as spec:
        spec.remove_field("name_trunc")
    with lake.load(TABLE).update_schema() as change:
        change.delete_column("name")
    for n in range(2, 8):  # the writer was opened before, and goes on under the old spec and schema
        run.advance(n, [n])
    summary = lake.load(TABLE).metadata.snapshots[-1].summary
    assert summary is not None
    assert summary["total-records"] == "7"
    assert side.ids() == list(range(1, 8))
    assert sorted(read_files_bare(lake.load(TABLE))["id"].to_pylist()) == list(range(1, 8))
    # DuckDB 1.5.5 aborts on manifests of such a spec, whoever wrote them; it reads the table when the rows are written
    # anew and no manifest is kept (pyiceberg's `overwrite` would write one of the old spec, to say what it deletes).
    rewritten = lake.load(TABLE)
    with rewritten.transaction() as transaction, transaction.update_snapshot().overwrite() as update:
        monkeypatch.setattr(update, "_existing_manifests", list)
        monkeypatch.setattr(update, "_deleted_entries", list)
        for file in _dataframe_to_data_files(rewritten.metadata, rewritten.scan().to_arrow(), rewritten.io):
            update.append_data_file(file)
    assert check_readers_agree(rewritten, "id")["id"].to_pylist() == list(range(1, 8))


def test_pending_files_survive_that_columns_are_added_renamed_and_widened(lake: LocalLake) -> None:
    side = Lakeside(lake)
    lake.open_catalog().create_namespace("shop")
    schema = pa.schema([("id", pa.int32()), ("name", pa.string())])
    lake.open_catalog().create_table(TABLE, schema)
    with pytest.raises(SchemaError, match="long in the rows but int"):
        SinkRun(side)
    with lake.load(TABLE).update_schema() as change:
        change.update_column("id", field_type=LongType())
    run = SinkRun(side)
    pending = run.take(1, range(3))
    with lake.load(TABLE).update_schema() as change:
        change.add_column("note", StringType())
        change.rename_column("name", "label")
    run.commit(pending)
    rows = check_readers_agree(lake.load(TABLE), "id").to_pylist()
    assert rows == [{"id": i, "label": f"row-{i}", "note": None} for i in range(3)]


def test_pending_files_without_a_column_that_became_required_are_kept_and_refused(lake: LocalLake) -> None:
    side = Lakeside(lake)
    run = SinkRun(side)
    pending = run.take(1, range(3))
    with lake.load(TABLE).update_schema(allow_incompatible_changes=True) as change:
        change.add_column("shop", IntegerType(), required=True)
    error = check_raises(SinkStateError, lambda: run.commit(pending))
    assert "'shop' became required" in error.message
    with lake.load(TABLE).update_schema(allow_incompatible_changes=True) as change:
        change.make_column_optional("shop")
    run.commit(pending)
    assert side.ids() == [0, 1, 2]


# --- empty checkpoints, sink ids ------------------------------------------------------------------------------------


def test_empty_checkpoints_make_one_snapshot_in_ten(side: Lakeside) -> None:
    run = SinkRun(side)
    for n in range(1, 31):
        run.advance(n)
    snapshots = side.lake.load(TABLE).metadata.snapshots
    assert [s.summary["lakeward.checkpoint-id"] for s in snapshots if s.summary] == ["10", "20", "30"]
    check_readers_agree(side.lake.load(TABLE), "id")


def test_the_restored_sink_id_wins_over_a_new_job_name(side: Lakeside) -> None:
    run = SinkRun(side)
    first = run.advance(1, [1])
    assert first.state is not None
    assert first.state["sink_id"] == DEFAULT_ID
    renamed = TakenCheckpoint(first.id, first.committables, {**first.state, "sink_id": "old job/sink"})
    SinkRun(side, RunSpec(renamed, commit_done=True, policy=SinkPolicy(on_rewind="append"))).advance(2, [2])
    assert read_history(side.lake.load(TABLE).metadata, "old job/sink").recorded is not None


def test_pending_files_that_landed_under_the_old_sink_id_are_not_committed_under_a_new_one(side: Lakeside) -> None:
    old = SinkRun(side)
    first = old.advance(1, [1])
    SinkRun(side, RunSpec(first, policy=SinkPolicy(sink_id="new"))).advance(2, [2])
    assert side.ids() == [1, 2]
    pending = old.take(2, [20])
    SinkRun(side, RunSpec(pending, policy=SinkPolicy(sink_id="newer")))
    assert side.ids() == [1, 2, 20]


def test_state_of_a_newer_version_is_refused_with_the_way_out(side: Lakeside) -> None:
    first = SinkRun(side).advance(1, [1])
    newer = TakenCheckpoint(first.id, first.committables, {**(first.state or {}), "v": 99})
    error = check_raises(SinkStateError, lambda: SinkRun(side, RunSpec(newer)))
    assert "99" in error.message
    strange = TakenCheckpoint(first.id, ({"v": 99},), first.state)
    check_raises(SinkStateError, lambda: SinkRun(side, RunSpec(strange)))


# --- metadata stays small -------------------------------------------------------------------------------------------


def test_metadata_stays_bounded_over_many_commits(lake: LocalLake) -> None:
    side = Lakeside(lake, snapshots_retained=5)
    idle = SinkRun(side, RunSpec(writers=1, policy=SinkPolicy(sink_id="idle")))
    idle.advance(1, [1000])
    tagged = lake.load(TABLE).metadata.current_snapshot_id
    assert tagged is not None
    still = SinkRun(side, RunSpec(writers=1, policy=SinkPolicy(sink_id="still")))
    still.advance(1, [1001])
    untagged = lake.load(TABLE).metadata.current_snapshot_id
    run = SinkRun(side, RunSpec(writers=1))
    run.advance(1, [1])
    lake.load(TABLE).manage_snapshots().create_tag(tagged, "keep").commit()
    for n in range(2, 61):
        run.advance(n, [n])
    table = lake.load(TABLE)
    assert len(table.metadata.snapshots) <= 5 + 2
    assert {tagged, untagged} <= {s.snapshot_id for s in table.metadata.snapshots}
    live = {m.manifest_path for s in table.metadata.snapshots for m in s.manifests(table.io)}
    stored = {f"file://{f}" for f in lake.metadata_files(TABLE) if f.name.endswith(".avro") and "snap-" not in f.name}
    assert stored == live
    assert len(lake.metadata_files(TABLE)) < 80
    assert max(f.stat().st_size for f in lake.metadata_files(TABLE)) < 64_000
    assert side.ids() == [*range(1, 61), 1000, 1001]
    check_readers_agree(table, "id")
    assert table.scan(snapshot_id=tagged).to_arrow().num_rows == 1
    still.advance(2, [1002])
    check_raises(SinkStateError, lambda: SinkRun(side, RunSpec(policy=SinkPolicy(sink_id="idle"))))


def test_tables_that_the_sink_did_not_make_keep_their_whole_history(lake: LocalLake) -> None:
    lake.open_catalog().create_namespace("shop")
    lake.open_catalog().create_table(TABLE, SUITE_SCHEMA)
    run = SinkRun(Lakeside(lake), RunSpec(writers=1))
    for n in range(1, 16):
        run.advance(n, [n])
    metadata = lake.load(TABLE).metadata
    assert len(metadata.snapshots) == 15
    assert not plan_expiry(metadata, None).expired
    assert len(plan_expiry(metadata, 5).expired) == EXPIRE_AT_ONCE_MAX
