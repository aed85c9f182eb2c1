from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lakeward.engine.checkpoint import paths, transfer
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.protocol import CheckpointState
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, Started
from lakeward.engine.core.errors import (
    CheckpointError,
    ConfigError,
    CorruptionError,
    InternalError,
    StaleWriterError,
)
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import LocalFile, OperatorSnapshot, StoredFile, TableSnapshot

JOB = JobId("j-1")


def start(store: MemoryStore, job_id: str = JOB) -> tuple[CheckpointWorkflow, Started]:
    workflow = CheckpointWorkflow(store)
    return workflow, workflow.start_generation("revenue", JobId(job_id), "host:1", now_us=5)


def manifest(checkpoint: int, generation: int, files: Sequence[StoredFile] = ()) -> CheckpointManifest:
    keyed = TableSnapshot({}, 0, 128, tuple(files))
    return CheckpointManifest(
        job_id=JOB,
        job_name="revenue",
        checkpoint=CheckpointId(checkpoint),
        generation=Generation(generation),
        created_us=1000 + checkpoint,
        max_parallelism=128,
        parallelism={OperatorId("window"): 1},
        operators=(OperatorSnapshot(OperatorId("window"), SubtaskIndex(0), keyed=keyed),),
    )


def complete(workflow: CheckpointWorkflow, taken: CheckpointManifest) -> None:
    workflow.publish(taken)
    workflow.mark_committed(workflow.claim(taken), now_us=9)


def stored_at(file: StoredFile) -> str:
    return paths.state_file(file.generation, file.sha256)


def local(folder: Path, name: str, content: bytes) -> LocalFile:
    (folder / name).write_bytes(content)
    return LocalFile(name, str(folder / name))


def test_each_start_is_a_new_generation_of_the_same_job() -> None:
    store = MemoryStore()
    assert start(store)[1] == Started(Generation(1), JOB, CheckpointId(1))
    assert start(store, "another id")[1] == Started(Generation(2), JOB, CheckpointId(1))


def test_checkpoint_ids_go_on_above_everything_that_left_a_trace() -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    workflow.publish(manifest(41, 1))
    assert start(store)[1].next_checkpoint == 42


def test_a_directory_of_another_job_is_refused_before_anything_is_written() -> None:  # L05
    store = MemoryStore()
    start(store)
    before = store.list("")
    with pytest.raises(ConfigError, match="belongs to job 'revenue', and this job is 'costs'"):
        CheckpointWorkflow(store).start_generation("costs", JobId("j-2"), "host:2", now_us=6)
    assert store.list("") == before


def test_a_directory_that_has_lost_its_job_record_is_not_given_to_another_job() -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    complete(workflow, manifest(1, 1))
    store.delete(paths.JOB)
    before = store.list("")
    with pytest.raises(CorruptionError, match=r"job\.json is missing"):
        start(store, "another id")
    assert store.list("") == before


def test_a_start_whose_record_is_lost_does_not_make_its_successors_stale() -> None:
    store = MemoryStore()
    start(store)
    workflow, started = start(store)
    complete(workflow, manifest(1, started.generation))
    for path in store.list(paths.GENERATIONS):
        store.delete(path)
    workflow, started = start(store)
    assert started.generation == 3
    recovery = workflow.recover(started.generation)
    assert recovery.manifest is not None
    assert recovery.manifest.checkpoint == 1


def test_a_commit_marker_of_another_checkpoint_counts_as_none_and_is_written_anew() -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    complete(workflow, manifest(1, 1))
    workflow, started = start(store)
    complete(workflow, manifest(2, started.generation))
    marker, of_another = store.read(paths.committed(CheckpointId(2))), store.read(paths.committed(CheckpointId(1)))
    assert marker is not None
    assert of_another is not None
    store.put(paths.committed(CheckpointId(2)), of_another)
    workflow, started = start(store)
    recovery = workflow.recover(started.generation)
    assert recovery.manifest is not None
    assert recovery.needs_commit
    workflow.mark_committed(workflow.claim(recovery.manifest), now_us=9)
    assert store.read(paths.committed(CheckpointId(2))) == marker


def test_an_empty_directory_is_a_first_run() -> None:
    workflow, started = start(MemoryStore())
    recovery = workflow.recover(started.generation)
    assert (recovery.manifest, recovery.needs_commit, recovery.skipped) == (None, False, ())


@pytest.mark.parametrize(
    ("steps", "state", "needs_commit"),
    [(1, CheckpointState.UNCLAIMED, True), (2, CheckpointState.COMMITTING, True), (3, CheckpointState.READY, False)],
)
def test_what_is_done_on_recovery_follows_from_how_far_the_checkpoint_got(
    steps: int, state: CheckpointState, needs_commit: bool
) -> None:
    store = MemoryStore()
    first, _ = start(store)
    taken = manifest(1, 1)
    first.publish(taken)
    if steps >= 2:
        permit = first.claim(taken)
    if steps >= 3:
        first.mark_committed(permit, now_us=9)
    assert [info.state for info in first.list()] == [state]
    second, started = start(store)
    recovery = second.recover(started.generation)
    assert (recovery.manifest, recovery.needs_commit) == (taken, needs_commit)
    assert store.read(paths.claim(CheckpointId(1))) is not None
    second.mark_committed(second.claim(taken), now_us=10)
    assert [info.state for info in second.list()] == [CheckpointState.READY]


def test_publishing_claiming_and_marking_again_changes_nothing() -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    complete(workflow, manifest(1, 1))
    before = {path: store.read(path) for path in store.list("")}
    complete(workflow, manifest(1, 1))
    assert {path: store.read(path) for path in store.list("")} == before


def test_another_manifest_under_the_same_id_is_refused() -> None:
    workflow, _ = start(MemoryStore())
    workflow.publish(manifest(1, 1))
    with pytest.raises(CheckpointError, match="exists already, with another content"):
        workflow.publish(replace(manifest(1, 1), final=True))


def test_a_stale_generation_can_neither_publish_nor_claim_nor_mark_nor_delete_nor_recover() -> None:  # L03
    store = MemoryStore()
    old, _ = start(store)
    taken = manifest(1, 1)
    old.publish(taken)
    permit = old.claim(taken)
    start(store)
    before = store.list("")
    for call in (
        lambda: old.publish(manifest(2, 1)),
        lambda: old.claim(taken),
        lambda: old.mark_committed(permit, now_us=9),
        lambda: old.retain(1, Generation(1)),
        lambda: old.recover(Generation(1)),
    ):
        with pytest.raises(StaleWriterError, match="generation 2 of this job has started; this is generation 1"):
            call()
    assert store.list("") == before


def test_an_id_that_a_zombie_claimed_at_its_last_moment_is_lost_without_stopping_the_newer_run() -> None:  # L04
    store = MemoryStore()
    old, _ = start(store)
    old.publish(manifest(1, 1))
    old.claim(manifest(1, 1))
    newer, _ = start(store)
    newer.publish(manifest(1, 2))
    with pytest.raises(CheckpointError, match="lost its id to generation 1") as caught:
        newer.claim(manifest(1, 2))
    assert caught.value.retry.value == "backoff"
    assert {info.generation: info.state for info in newer.list()} == {
        1: CheckpointState.COMMITTING,
        2: CheckpointState.ORPHANED,
    }


def test_an_unpublished_checkpoint_cannot_be_claimed() -> None:
    workflow, _ = start(MemoryStore())
    with pytest.raises(CheckpointError, match="was not published"):
        workflow.claim(manifest(1, 1))


def test_a_checkpoint_of_another_job_is_passed_over() -> None:
    store = MemoryStore()
    workflow, started = start(store)
    complete(workflow, manifest(1, 1))
    complete(workflow, replace(manifest(2, 1), job_id=JobId("stranger")))
    recovery = workflow.recover(started.generation)
    assert recovery.manifest == manifest(1, 1)
    why = "it belongs to job stranger ('revenue'), not to j-1, whose directory this is by its job.json"
    assert recovery.skipped == ((2, why),)
    assert [problem.checkpoint for problem in workflow.verify()] == [2]


def test_a_store_that_cannot_be_read_is_not_a_first_run() -> None:  # F09
    class Unreadable(MemoryStore):
        def read(self, path: str) -> bytes | None:
            if "manifest" in path:
                raise CheckpointError("the network is down")
            return super().read(path)

    store = Unreadable()
    workflow, started = start(store)
    workflow.publish(manifest(1, 1))
    with pytest.raises(CheckpointError, match="the network is down"):
        CheckpointWorkflow(store).recover(started.generation)


def test_files_travel_there_and_back(tmp_path: Path) -> None:
    workflow, _ = start(MemoryStore())
    (tmp_path / "db").mkdir()
    files = workflow.upload([local(tmp_path, "db/1.sst", b"x" * 100_000), local(tmp_path, "CURRENT", b"m")])
    assert [(file.name, file.size_bytes) for file in files] == [("db/1.sst", 100_000), ("CURRENT", 1)]
    workflow.download(files, str(tmp_path / "out"))
    assert (tmp_path / "out" / "db" / "1.sst").read_bytes() == b"x" * 100_000
    assert (tmp_path / "out" / "CURRENT").read_bytes() == b"m"


def test_a_large_file_that_is_linked_to_a_new_name_is_neither_hashed_nor_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    first = workflow.upload([local(tmp_path, "1.sst", b"x" * 100_000)])
    (tmp_path / "next").mkdir()
    os.link(tmp_path / "1.sst", tmp_path / "next" / "1.sst")
    monkeypatch.setattr(transfer, "_hash_file", lambda _: pytest.fail("hashed again"))
    monkeypatch.setattr(store, "put_file", lambda *_: pytest.fail("sent again"))
    assert workflow.upload([LocalFile("1.sst", str(tmp_path / "next" / "1.sst"))]) == first


def test_a_file_that_was_deleted_from_the_store_is_sent_again(tmp_path: Path) -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    (stored,) = workflow.upload([local(tmp_path, "a", b"1")])
    store.delete(stored_at(stored))
    workflow.upload([local(tmp_path, "a", b"1")])
    assert store.read(stored_at(stored)) == b"1"


def test_a_file_that_another_process_of_the_run_left_damaged_is_replaced(tmp_path: Path) -> None:
    store = MemoryStore()
    workflow, started = start(store)
    (stored,) = workflow.upload([local(tmp_path, "a", b"good")])
    store.put(stored_at(stored), b"evil")
    worker = CheckpointWorkflow(store, started.generation)
    assert worker.upload([local(tmp_path, "a", b"good")]) == (stored,)
    assert store.read(stored_at(stored)) == b"good"


def test_a_run_that_does_not_know_what_others_delete_stores_everything_once_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    old, _ = start(store)
    (first,) = old.upload([local(tmp_path, "a", b"state")])
    complete(old, manifest(1, 1, [first]))
    store.delete(paths.generation(Generation(1)))
    new, started = start(store)
    new.recover(started.generation)
    new.download([first], str(tmp_path / "restored"))
    (second,) = new.upload([LocalFile("a", str(tmp_path / "restored" / "a"))])
    assert second == replace(first, generation=Generation(2))
    assert store.list(paths.FILES) == [stored_at(first), stored_at(second)]
    monkeypatch.setattr(store, "put_file", lambda *_: pytest.fail("sent again"))
    assert new.upload([local(tmp_path, "a", b"state")]) == (second,)
    complete(new, manifest(2, 2, [second]))
    assert new.retain(1, started.generation).files == 1
    assert store.list(paths.FILES) == [stored_at(second)]
    assert new.verify() == ()


def test_a_checkpoint_that_refers_to_a_file_of_another_run_is_not_published(tmp_path: Path) -> None:
    store = MemoryStore()
    files = start(store)[0].upload([local(tmp_path, "a", b"state")])
    workflow, _ = start(store)
    with pytest.raises(InternalError, match="checkpoint 1 of generation 2 refers to the file a of generation 1"):
        workflow.publish(manifest(1, 2, files))
    assert store.list(paths.CHECKPOINTS) == []


def test_files_are_not_uploaded_for_no_run(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="for no generation"):
        CheckpointWorkflow(MemoryStore()).upload([local(tmp_path, "a", b"state")])


def test_a_download_notices_missing_damaged_and_malicious_files(tmp_path: Path) -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    (stored,) = workflow.upload([local(tmp_path, "a", b"good")])
    with pytest.raises(CorruptionError, match="which no Lakeward writes"):
        workflow.download([replace(stored, name="../../escape")], str(tmp_path / "out"))
    store.put(stored_at(stored), b"evil")
    with pytest.raises(CorruptionError, match="is damaged: 4 bytes with checksum"):
        workflow.download([stored], str(tmp_path / "out"))
    store.delete(stored_at(stored))
    with pytest.raises(CorruptionError, match=r"\(a\) is missing"):
        workflow.download([stored], str(tmp_path / "out"))


def test_a_local_file_that_is_missing_is_named(tmp_path: Path) -> None:
    workflow, _ = start(MemoryStore())
    with pytest.raises(CheckpointError, match=r"cannot read the state file .*gone"):
        workflow.upload([LocalFile("gone", str(tmp_path / "gone"))])


def test_retention_keeps_the_newest_and_every_file_they_share(tmp_path: Path) -> None:  # G03
    store = MemoryStore()
    workflow, started = start(store)
    (shared,) = workflow.upload([local(tmp_path, "shared", b"shared")])
    own: list[StoredFile] = []
    for n in range(1, 5):
        own += workflow.upload([local(tmp_path, "own", b"%d" % n)])
        complete(workflow, manifest(n, 1, [shared, own[-1]]))
    deleted = workflow.retain(2, started.generation)
    assert (deleted.checkpoints, deleted.files, deleted.refused) == ((1, 2), 2, "")
    assert [info.checkpoint for info in workflow.list()] == [4, 3]
    kept = {stored_at(file) for file in (shared, own[2], own[3])}
    assert set(store.list(paths.FILES)) == kept
    assert workflow.verify() == ()


def test_an_uncommitted_checkpoint_does_not_count_as_kept() -> None:
    workflow, started = start(MemoryStore())
    complete(workflow, manifest(1, 1))
    workflow.publish(manifest(2, 1))
    assert workflow.retain(1, started.generation).checkpoints == ()
    assert [info.checkpoint for info in workflow.list()] == [2, 1]


def test_files_of_an_upload_in_flight_are_never_deleted(tmp_path: Path) -> None:
    store = MemoryStore()
    workflow, started = start(store)
    complete(workflow, manifest(1, 1))
    files = workflow.upload([local(tmp_path, "a", b"in flight")])
    for _ in range(3):
        workflow.retain(1, started.generation)
    complete(workflow, manifest(2, 1, files))
    assert workflow.verify() == ()


def test_a_file_that_another_process_has_just_uploaded_survives_the_next_retention(tmp_path: Path) -> None:
    store = MemoryStore()
    coordinator, started = start(store)
    complete(coordinator, manifest(1, 1))
    files = CheckpointWorkflow(store, started.generation).upload([local(tmp_path, "a", b"from a worker")])
    coordinator.retain(1, started.generation)
    complete(coordinator, manifest(2, 1, files))
    coordinator.retain(1, started.generation)
    assert coordinator.verify() == ()


def test_files_of_a_given_up_checkpoint_go_when_two_retentions_found_them_useless(tmp_path: Path) -> None:
    store = MemoryStore()
    workflow, started = start(store)
    workflow.upload([local(tmp_path, "a", b"given up")])
    complete(workflow, manifest(1, 1))
    assert workflow.retain(1, started.generation).files == 0
    assert workflow.retain(1, started.generation).files == 1
    assert store.list(paths.FILES) == []


def test_files_of_a_dead_run_go_and_files_of_a_newer_run_stay(tmp_path: Path) -> None:
    store = MemoryStore()
    (dead,) = start(store)[0].upload([local(tmp_path, "a", b"given up")])
    workflow, started = start(store)
    (newer,) = CheckpointWorkflow(store, Generation(3)).upload([local(tmp_path, "b", b"of a run to come")])
    complete(workflow, manifest(1, 2))
    assert [workflow.retain(1, started.generation).files for _ in range(3)] == [0, 1, 0]
    assert stored_at(dead) not in store.list("")
    assert store.list(paths.FILES) == [stored_at(newer)]


def test_what_somebody_else_put_beside_the_state_files_is_left_alone() -> None:
    store = MemoryStore()
    workflow, started = start(store)
    complete(workflow, manifest(1, 1))
    others = ["files/000001/README", "files/9f/" + "9f" * 32, "files/000001/00/" + "9f" * 32]
    for path in others:
        store.put(path, b"x")
    assert [workflow.retain(1, started.generation).files for _ in range(3)] == [0, 0, 0]
    assert store.list(paths.FILES) == sorted(others)


def test_nothing_is_deleted_while_any_manifest_cannot_be_read() -> None:  # G04
    store = MemoryStore()
    workflow, started = start(store)
    for n in range(1, 5):
        complete(workflow, manifest(n, 1))
    store.put(paths.manifest(CheckpointId(2), Generation(1)), b"garbage")
    before = store.list("")
    deleted = workflow.retain(1, started.generation)
    assert deleted.refused.startswith("checkpoint 2: ")
    assert store.list("") == before


def test_retention_of_no_checkpoint_is_refused() -> None:
    workflow, started = start(MemoryStore())
    with pytest.raises(ConfigError, match="cannot keep 0 checkpoints"):
        workflow.retain(0, started.generation)


def test_records_of_very_old_starts_are_deleted() -> None:
    store = MemoryStore()
    for _ in range(120):
        workflow, started = start(store)
    workflow.retain(1, started.generation)
    assert len(store.list(paths.GENERATIONS)) == 100
    assert start(store)[1].generation == 121


def test_the_list_says_what_people_want_to_know(tmp_path: Path) -> None:
    store = MemoryStore()
    workflow, _ = start(store)
    complete(workflow, manifest(1, 1, workflow.upload([local(tmp_path, "a", b"12345")])))
    workflow.publish(replace(manifest(2, 1), final=True))
    newest, oldest = workflow.list()
    assert (oldest.size_bytes, oldest.operators, oldest.created_us, oldest.final) == (5, ("window",), 1001, False)
    assert (newest.state, newest.final, newest.damage) == (CheckpointState.UNCLAIMED, True, "")
    assert workflow.read(oldest.checkpoint, oldest.generation).checkpoint == 1
    with pytest.raises(CorruptionError, match="is missing"):
        workflow.read(CheckpointId(9), Generation(1))


class ReadsSeen(MemoryStore):
    """Notes which state files are read."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def read(self, path: str) -> bytes | None:
        if path.startswith(paths.FILES):
            self.seen.append(path)
        return super().read(path)


def two_checkpoints(store: MemoryStore, folder: Path, *, committed: bool) -> tuple[StoredFile, StoredFile]:
    """Checkpoints 1 and 2, a file each; the second is committed, or claimed only."""
    workflow, _ = start(store)
    older, newer = workflow.upload([local(folder, "a", b"older"), local(folder, "b", b"newer")])
    complete(workflow, manifest(1, 1, [older]))
    workflow.publish(manifest(2, 1, [newer]))
    permit = workflow.claim(manifest(2, 1, [newer]))
    if committed:
        workflow.mark_committed(permit, now_us=9)
    return older, newer


def test_a_committed_checkpoint_need_not_be_read_before_it_is_restored(tmp_path: Path) -> None:
    store = ReadsSeen()
    two_checkpoints(store, tmp_path, committed=True)
    workflow, started = start(store)
    recovery = workflow.recover(started.generation, reads_all=False)
    assert recovery.manifest is not None
    assert (recovery.manifest.checkpoint, store.seen) == (2, [])


def test_a_checkpoint_whose_commit_is_repeated_is_read_before(tmp_path: Path) -> None:
    store = ReadsSeen()
    _, newer = two_checkpoints(store, tmp_path, committed=False)
    store.put(stored_at(newer), b"other")
    workflow, started = start(store)
    recovery = workflow.recover(started.generation, reads_all=False)
    assert recovery.manifest is not None
    assert (recovery.manifest.checkpoint, [skipped for skipped, _ in recovery.skipped]) == (1, [2])


def test_a_committed_checkpoint_with_a_missing_file_is_passed_over_without_reading(tmp_path: Path) -> None:
    store = ReadsSeen()
    _, newer = two_checkpoints(store, tmp_path, committed=True)
    store.delete(stored_at(newer))
    workflow, started = start(store)
    recovery = workflow.recover(started.generation, reads_all=False)
    assert recovery.manifest is not None
    assert (recovery.manifest.checkpoint, store.seen) == (1, [])
    assert "is missing" in recovery.skipped[0][1]
