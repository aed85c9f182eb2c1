"""Files of older runs that a run refers to, and the deletions of runs that are stale and do not know it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointManifest, CondemnedFiles, GenerationRecord
from lakeward.engine.checkpoint.reuse import announce
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, Started
from lakeward.engine.core.errors import CheckpointError, InternalError, StaleWriterError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import LocalFile, OperatorSnapshot, StoredFile, TableSnapshot

UID = OperatorId("counts")


class WatchedStore(MemoryStore):
    """Calls somebody before each deletion."""

    def __init__(self) -> None:
        super().__init__()
        self.before_delete: Callable[[str], None] = lambda path: None

    def delete(self, path: str) -> None:
        self.before_delete(path)
        super().delete(path)


class Run:
    """One start of a job, whose checkpoints consist of files with given contents."""

    def __init__(self, store: MemoryStore, folder: Path) -> None:
        self.store = store
        self.folder = folder
        self.workflow = CheckpointWorkflow(store)
        self.started: Started = self.workflow.start_generation("revenue", JobId("j"), "test", 0)
        self.recovery = self.workflow.recover(self.started.generation)
        self.next = self.started.next_checkpoint

    def upload(self, *contents: str) -> tuple[StoredFile, ...]:
        files = []
        for content in contents:
            path = self.folder / content
            path.write_text(content)
            files.append(LocalFile(f"{content}.sst", str(path)))
        return self.workflow.upload(files)

    def publish(self, files: tuple[StoredFile, ...]) -> CheckpointManifest:
        manifest = CheckpointManifest(
            job_id=JobId("j"),
            job_name="revenue",
            checkpoint=self.next,
            generation=self.started.generation,
            created_us=0,
            max_parallelism=128,
            parallelism={UID: 1},
            operators=(OperatorSnapshot(UID, SubtaskIndex(0), None, TableSnapshot({}, 0, 128, files)),),
        )
        self.workflow.publish(manifest)
        return manifest

    def complete(self, *contents: str) -> tuple[StoredFile, ...]:
        files = self.upload(*contents)
        manifest = self.publish(files)
        self.workflow.mark_committed(self.workflow.claim(manifest), now_us=0)
        self.next = CheckpointId(self.next + 1)
        return files

    def retain(self, count: int = 1) -> int:
        return self.workflow.retain(count, self.started.generation).files


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore()


@pytest.fixture
def start(store: WatchedStore, tmp_path: Path) -> Callable[[], Run]:
    return lambda: Run(store, tmp_path)


Start = Callable[[], Run]


def generations(files: tuple[StoredFile, ...]) -> list[int]:
    return [file.generation for file in files]


def stored(store: MemoryStore) -> set[str]:
    return set(store.list(paths.FILES))


def path_of(file: StoredFile) -> str:
    return paths.state_file(file.generation, file.sha256)


def test_a_start_stores_nothing_again_that_it_has_restored(store: WatchedStore, start: Start) -> None:
    start().complete("a", "b")
    before = stored(store)
    second = start()
    assert generations(second.complete("a", "b", "c")) == [1, 1, 2]
    assert len(stored(store) - before) == 1
    third = start()
    assert generations(third.complete("b", "c", "d")) == [1, 2, 3]
    assert third.workflow.verify() == ()


def test_other_processes_of_a_run_refer_to_what_its_coordinator_has_found_whole(
    store: WatchedStore, start: Start
) -> None:
    start().complete("a")
    run = start()
    worker = CheckpointWorkflow(store, run.started.generation)
    worker.reuse(run.recovery.reusable)
    files = worker.upload([LocalFile("a.sst", str(run.folder / "a"))])
    assert generations(files) == [1]
    run.publish(files)


def test_files_that_nothing_refers_to_any_more_go_whoever_has_stored_them(store: WatchedStore, start: Start) -> None:
    start().complete("a", "b")
    run = start()
    kept = run.complete("b")
    assert run.retain() == 1
    assert stored(store) == {path_of(file) for file in kept}
    assert store.list(paths.CONDEMNED) == []


def test_a_reused_file_that_has_vanished_is_stored_again(store: WatchedStore, start: Start) -> None:
    (file,) = start().complete("a")
    run = start()
    store.delete(path_of(file))
    assert generations(run.complete("a")) == [2]
    assert run.workflow.newest_whole() is not None


def test_what_another_run_is_about_to_delete_is_stored_again(store: WatchedStore, start: Start) -> None:
    (file, _) = start().complete("a", "b")
    announce(store, Generation(1), 1, [path_of(file)])
    assert generations(start().complete("a", "b")) == [2, 1]


def test_a_run_says_what_it_deletes_before_it_deletes_and_not_after(store: WatchedStore, start: Start) -> None:
    run = start()
    run.complete("a")
    run.complete("b")
    said: list[CondemnedFiles] = []

    def look(path: str) -> None:
        if paths.parse_state_file(path):
            (name,) = store.list(paths.CONDEMNED)
            said.append(CondemnedFiles.from_bytes(store.read(name) or b""))
            assert path in said[-1].files

    store.before_delete = look
    assert run.retain() == 1
    assert [one.generation for one in said] == [1]
    assert store.list(paths.CONDEMNED) == []


def test_a_run_that_is_overtaken_before_it_deletes_leaves_all_there(store: WatchedStore, start: Start) -> None:
    """It announces, a newer one starts that sees nothing of it or all, and it looks."""
    run = start()
    run.complete("a", "b")
    run.complete("b")
    before = stored(store)
    create = store.create_if_absent

    def start_another(path: str, data: bytes) -> bool:
        created = create(path, data)
        if path.startswith(paths.CONDEMNED):
            store.create_if_absent = create  # type: ignore[method-assign]
            start()
        return created

    store.create_if_absent = start_another  # type: ignore[method-assign]
    with pytest.raises(StaleWriterError):
        run.retain()
    assert stored(store) == before


def test_a_stale_run_that_goes_on_deleting_deletes_nothing_that_a_newer_one_refers_to(
    store: WatchedStore, start: Start, tmp_path: Path
) -> None:
    """Between two deletions a newer run starts, restores, and takes a checkpoint with all that was there."""
    run = start()
    run.complete("a", "b", "c")
    run.complete("c")
    newer: list[Run] = []

    def overtake(path: str) -> None:
        if paths.parse_state_file(path) and not newer:
            newer.append(start())
            newer[0].complete("a", "b", "c")

    store.before_delete = overtake
    run.retain()
    assert newer[0].workflow.verify() == ()
    assert newer[0].workflow.list()[0].checkpoint == 3


@pytest.mark.parametrize("how", ["older version", "missing", "damaged", "newer version"])
def test_files_that_a_run_of_another_version_may_delete_are_stored_again(
    how: str, store: WatchedStore, start: Start
) -> None:
    start().complete("a")
    path = paths.generation(Generation(1))
    record = GenerationRecord.from_bytes(store.read(path) or b"")
    match how:
        case "older version":
            store.put(path, replace(record, version=1).to_bytes())
        case "newer version":
            store.put(path, replace(record, version=99).to_bytes())
        case "damaged":
            store.put(path, b"{}")
        case _:
            store.delete(path)
    again = start()
    assert generations(again.complete("a")) == [2]
    assert generations(start().complete("a")) == [2], "of its own kind"


def test_only_runs_that_could_delete_a_file_matter(store: WatchedStore, start: Start) -> None:
    start()
    store.delete(paths.generation(Generation(1)))
    assert start().started.generation == 1, "nothing was left of it"
    start().complete("a")
    store.put(paths.generation(Generation(1)), b"{}")
    assert generations(start().complete("a")) == [2]


def test_nothing_is_reused_where_an_announcement_cannot_be_read(store: WatchedStore, start: Start) -> None:
    start().complete("a")
    store.put(paths.condemned(Generation(1), 1), b"{}")
    assert generations(start().complete("a")) == [2]


def test_an_announcement_in_the_name_of_a_run_that_is_not_its_own_is_an_error(
    store: WatchedStore, start: Start
) -> None:
    announce(store, Generation(1), 1, ["files/000001/aa/aa"])
    announce(store, Generation(1), 1, ["files/000001/aa/aa"])
    with pytest.raises(CheckpointError, match="another content"):
        announce(store, Generation(1), 1, ["files/000001/bb/bb"])


def test_announcements_of_runs_that_died_go_when_those_are_long_forgotten(store: WatchedStore, start: Start) -> None:
    start().complete("a")
    announce(store, Generation(1), 1, ["files/000001/aa/aa"])
    for _ in range(99):
        start()
    run = start()
    assert run.started.generation == 101
    run.complete("b")
    run.complete("c")
    assert run.retain() > 0
    assert store.list(paths.CONDEMNED) == []


def test_a_checkpoint_never_refers_to_files_of_others_that_nobody_has_found_safe(start: Start) -> None:
    (file,) = start().complete("a")
    run = start()
    run.workflow.reuse({})
    with pytest.raises(InternalError, match=r"a\.sst of generation 1"):
        run.publish((file,))
