from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import lakeward as lw
from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.savepoint import Beginning, Owner, check_has_begun, read_origin, write_savepoint
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, Recovery
from lakeward.engine.core.errors import CheckpointError, ConfigError, CorruptionError
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import LocalFile, OperatorSnapshot, TableSnapshot

UID = OperatorId("window")


class Killed(BaseException):
    """The process dies here. Not an Exception: nothing may catch it."""


class DyingStore(MemoryStore):
    """Dies before or after one of its writes."""

    def __init__(self, dies_at: int) -> None:
        super().__init__()
        self._left = dies_at

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Killed

    def put(self, path: str, data: bytes) -> None:
        self._step()
        super().put(path, data)
        self._step()

    def create_if_absent(self, path: str, data: bytes) -> bool:
        self._step()
        made = super().create_if_absent(path, data)
        self._step()
        return made

    @property
    def survived(self) -> bool:
        return self._left > 0


def owner(folder: Path) -> Owner:
    return Owner("host:1", 5, folder)


def job_with_checkpoints(folder: Path, numbers: int = 2, commit_last: bool = True) -> MemoryStore:
    """A directory with checkpoints 1 .. `numbers`, each of two subtasks with a file each."""
    store = MemoryStore()
    workflow = CheckpointWorkflow(store)
    started = workflow.start_generation("revenue", JobId("j-1"), "host:1", now_us=1)
    for number in range(1, numbers + 1):
        operators = []
        for subtask in range(2):
            path = folder / f"{number}-{subtask}"
            path.write_bytes(f"state {number} {subtask}".encode())
            files = workflow.upload([LocalFile("db/000017.sst", str(path))])
            keyed = TableSnapshot({}, 64 * subtask, 64 * subtask + 64, files)
            operators.append(OperatorSnapshot(UID, SubtaskIndex(subtask), {"at": number}, keyed))
        taken = CheckpointManifest(
            job_id=started.job_id,
            job_name="revenue",
            checkpoint=CheckpointId(number),
            generation=started.generation,
            created_us=number,
            max_parallelism=128,
            parallelism={UID: 2},
            operators=tuple(operators),
        )
        workflow.publish(taken)
        permit = workflow.claim(taken)
        if commit_last or number < numbers:
            workflow.mark_committed(permit, now_us=number)
    return store


def saved(folder: Path, **how: int) -> MemoryStore:
    target = MemoryStore()
    write_savepoint(job_with_checkpoints(folder, **how), target, owner(folder))
    return target


def begin(savepoint: CheckpointStore, directory: CheckpointStore, folder: Path, name: str = "revenue") -> Recovery:
    """What a job does when it starts."""
    workflow, beginning = CheckpointWorkflow(directory), Beginning(savepoint, directory)
    taken_on = beginning.job_id()
    started = workflow.start_generation(name, taken_on or JobId("fresh"), "host:2", now_us=7)
    if taken_on is not None:
        started = beginning.copy(workflow, started, name, owner(folder))
        assert started.next_checkpoint == CheckpointId(3)
    return workflow.recover(started.generation)


def content(store: CheckpointStore, manifest: CheckpointManifest, folder: Path) -> list[bytes]:
    """The files of a checkpoint, fetched and checked."""
    found = []
    for one in manifest.operators:
        assert one.keyed is not None
        target = folder / f"content-{one.subtask}"
        CheckpointWorkflow(store).download(one.keyed.files, str(target))
        found.append((target / "db/000017.sst").read_bytes())
    return found


def test_a_savepoint_holds_the_newest_committed_checkpoint_and_outlives_the_job(tmp_path: Path) -> None:
    source, target = job_with_checkpoints(tmp_path), MemoryStore()
    assert write_savepoint(source, target, owner(tmp_path)).checkpoint == 2
    for path in source.list(""):
        source.delete(path)
    recovery = begin(target, MemoryStore(), tmp_path)
    assert recovery.manifest is not None
    assert not recovery.needs_commit
    assert recovery.manifest.operators[0].state == {"at": 2}


def test_an_older_checkpoint_can_be_named(tmp_path: Path) -> None:
    source, target = job_with_checkpoints(tmp_path), MemoryStore()
    assert write_savepoint(source, target, owner(tmp_path), CheckpointId(1)).checkpoint == 1
    assert content(target, CheckpointWorkflow(target).newest_whole().manifest, tmp_path)[0] == b"state 1 0"  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="no committed checkpoint 9"):
        write_savepoint(source, MemoryStore(), owner(tmp_path), CheckpointId(9))


def test_a_commit_that_may_not_have_happened_is_repeated_by_who_starts_from_the_savepoint(tmp_path: Path) -> None:
    recovery = begin(saved(tmp_path, commit_last=False), MemoryStore(), tmp_path)
    assert recovery.manifest is not None
    assert recovery.manifest.checkpoint == 2
    assert recovery.needs_commit


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    source = job_with_checkpoints(tmp_path)
    newest = CheckpointWorkflow(source).newest_whole()
    assert newest is not None
    file = newest.manifest.files()[0]
    source.delete(paths.state_file(file.generation, file.sha256))
    assert write_savepoint(source, MemoryStore(), owner(tmp_path)).checkpoint == 1


def test_a_damaged_savepoint_is_refused_before_the_job_has_a_checkpoint(tmp_path: Path) -> None:
    savepoint, directory = saved(tmp_path), MemoryStore()
    path = savepoint.list(paths.FILES)[0]
    savepoint.put(path, b"x" + (savepoint.read(path) or b"")[1:])
    with pytest.raises(CorruptionError, match="does not match its checksum"):
        begin(savepoint, directory, tmp_path)
    assert directory.list(paths.CHECKPOINTS) == []


@pytest.mark.parametrize("what", ["write", "begin"])
def test_a_death_at_any_write_leaves_nothing_that_counts_and_the_same_call_goes_on(what: str, tmp_path: Path) -> None:
    source = job_with_checkpoints(tmp_path)
    savepoint = saved(tmp_path)

    def act(target: MemoryStore) -> None:
        if what == "write":
            write_savepoint(source, target, owner(tmp_path))
        else:
            begin(savepoint, target, tmp_path)

    for number in range(1, 100):
        target = DyingStore(number)
        try:
            act(target)
        except Killed:
            complete = CheckpointWorkflow(target).newest_whole() is not None
            if what == "write" and complete:  # only the note that it was committed may be missing
                with pytest.raises(ConfigError, match="already"):
                    act(target)
            else:
                act(target)
        assert_whole(target, tmp_path)
        if target.survived:
            return
    raise AssertionError("it writes more often than that")


def assert_whole(target: CheckpointStore, folder: Path) -> None:
    assert CheckpointWorkflow(target).verify() == ()
    newest = CheckpointWorkflow(target).newest_whole()
    assert newest is not None
    assert newest.manifest.checkpoint == 2
    assert content(target, newest.manifest, folder) == [b"state 2 0", b"state 2 1"]


def test_a_directory_that_was_used_is_not_begun_from_a_savepoint(tmp_path: Path) -> None:
    used = job_with_checkpoints(tmp_path)
    with pytest.raises(ConfigError, match="used already, and not from this savepoint"):
        begin(saved(tmp_path), used, tmp_path)
    fresh = MemoryStore()
    CheckpointWorkflow(fresh).start_generation(
        "revenue", JobId("other"), "host:3", now_us=1
    )  # died before a checkpoint
    with pytest.raises(ConfigError, match="used already"):
        begin(saved(tmp_path), fresh, tmp_path)


def test_a_directory_begun_from_one_savepoint_is_not_begun_from_another(tmp_path: Path) -> None:
    directory = MemoryStore()
    begin(saved(tmp_path), directory, tmp_path)
    other = MemoryStore()
    write_savepoint(job_with_checkpoints(tmp_path, numbers=3), other, owner(tmp_path))
    with pytest.raises(ConfigError, match="begun from another savepoint: checkpoint 2 of job j-1"):
        begin(other, directory, tmp_path)


def test_a_job_that_has_begun_goes_on_from_its_own_checkpoints_when_it_is_started_so_again(tmp_path: Path) -> None:
    savepoint, directory = saved(tmp_path), MemoryStore()
    begin(savepoint, directory, tmp_path)
    again = Beginning(savepoint, directory)
    assert again.job_id() is None
    assert CheckpointWorkflow(directory).start_generation("revenue", JobId("x"), "h", 1).next_checkpoint == 3


def test_a_directory_that_should_have_begun_from_a_savepoint_does_not_begin_empty(tmp_path: Path) -> None:
    directory = MemoryStore()
    assert Beginning(saved(tmp_path), directory).job_id() == "j-1"  # and dies here
    with pytest.raises(ConfigError, match="was to be begun from a savepoint"):
        check_has_begun(directory)
    check_has_begun(MemoryStore())


def test_a_running_job_s_own_directory_can_be_begun_from_though_it_moves_on(tmp_path: Path) -> None:
    source, directory = job_with_checkpoints(tmp_path, numbers=1), MemoryStore()
    Beginning(source, directory).job_id()  # dies; then the source takes another checkpoint
    newer = job_with_checkpoints(tmp_path, numbers=2)
    assert begin(newer, directory, tmp_path).manifest is not None
    origin = read_origin(directory)
    assert origin is not None
    assert origin.checkpoint == 2


def test_the_job_may_have_a_new_name(tmp_path: Path) -> None:
    recovery = begin(saved(tmp_path), MemoryStore(), tmp_path, name="turnover")
    assert recovery.manifest is not None
    assert recovery.manifest.job_name == "turnover"


@pytest.mark.parametrize("where", [lambda folder: saved(folder), job_with_checkpoints], ids=["savepoint", "job"])
def test_a_directory_that_holds_checkpoints_is_no_place_for_a_savepoint(
    where: Callable[[Path], MemoryStore], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="checkpoints already"):
        write_savepoint(job_with_checkpoints(tmp_path), where(tmp_path), owner(tmp_path))


def test_a_checkpoint_that_a_running_job_deletes_meanwhile_is_left_for_a_newer_one(tmp_path: Path) -> None:
    source = job_with_checkpoints(tmp_path)

    class MovesOn(MemoryStore):
        moved = False

        def create_if_absent(self, path: str, data: bytes) -> bool:
            if path.startswith(paths.GENERATIONS) and not self.moved:  # chosen, and not copied yet
                self.moved = True
                file = CheckpointWorkflow(source).newest_whole().manifest.files()[0]  # type: ignore[union-attr]
                source.delete(paths.state_file(file.generation, file.sha256))
            return super().create_if_absent(path, data)

    assert write_savepoint(source, MovesOn(), owner(tmp_path)).checkpoint == 1


def test_an_empty_directory_is_no_savepoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no savepoint to start from"):
        begin(MemoryStore(), MemoryStore(), tmp_path)
    with pytest.raises(ConfigError, match="no committed checkpoint"):
        write_savepoint(MemoryStore(), MemoryStore(), owner(tmp_path))


def test_a_store_that_fails_says_so(tmp_path: Path) -> None:
    class Fails(MemoryStore):
        def put_file(self, path: str, local_path: str) -> None:
            raise CheckpointError("no room")

    with pytest.raises(CheckpointError, match="no room"):
        write_savepoint(job_with_checkpoints(tmp_path), Fails(), owner(tmp_path))


@pytest.mark.parametrize("checkpoint", [None, 1])
def test_a_savepoint_of_nothing_leaves_no_folder(tmp_path: Path, checkpoint: int | None) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="there is no committed checkpoint"):
        lw.savepoint(tmp_path / "checkpoints", tmp_path / "savepoints" / "new", checkpoint)
    assert not (tmp_path / "savepoints").exists()
