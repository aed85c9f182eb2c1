"""A small job over a checkpoint directory and an idempotent sink, killed, raced and damaged in every way.

The job reads numbers; each checkpoint covers the next ten of them. Whatever happens, the lake must in the end hold
every number once, in order.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.protocol import CheckpointState
from lakeward.engine.checkpoint.store import CheckpointStore, MemoryStore
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, Recovery
from lakeward.engine.core.errors import CheckpointError, CorruptionError, StaleWriterError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.snapshots import LocalFile, OperatorSnapshot, TableSnapshot

ROWS_A_CHECKPOINT = 10
ROWS = 50
RETAINED = 3
UID = OperatorId("numbers")


class Crash(BaseException):
    """The process dies here. Not an Exception: nothing may catch it."""


T = TypeVar("T")
Gate = Callable[[str], None]
WRITE = "before a write"


class GatedStore:
    """Passes a gate before and after each call; the gate may crash, or let somebody else run."""

    def __init__(self, inner: CheckpointStore, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def _through(self, call: Callable[[], T], before: str = "before a read") -> T:
        self._gate(before)
        result = call()
        self._gate("after")
        return result

    def read(self, path: str) -> bytes | None:
        return self._through(lambda: self._inner.read(path))

    def put(self, path: str, data: bytes) -> None:
        self._through(lambda: self._inner.put(path, data), WRITE)

    def create_if_absent(self, path: str, data: bytes) -> bool:
        return self._through(lambda: self._inner.create_if_absent(path, data), WRITE)

    def put_file(self, path: str, local_path: str) -> None:
        self._through(lambda: self._inner.put_file(path, local_path), WRITE)

    def get_file(self, path: str, local_path: str) -> None:
        self._through(lambda: self._inner.get_file(path, local_path))

    def size(self, path: str) -> int | None:
        return self._through(lambda: self._inner.size(path))

    def list(self, prefix: str) -> list[str]:
        return self._through(lambda: self._inner.list(prefix))

    def delete(self, path: str) -> None:
        self._through(lambda: self._inner.delete(path), WRITE)


@dataclass
class Lake:
    """A sink with a marker. It asserts more than a sink has to: the protocol alone should keep zombies out."""

    rows: list[int] = field(default_factory=list)
    history: dict[CheckpointId, list[int]] = field(default_factory=dict)

    def commit(self, checkpoint: CheckpointId, rows: list[int], gate: Gate) -> None:
        gate(WRITE)
        if checkpoint in self.history:
            assert self.history[checkpoint] == rows, f"checkpoint {checkpoint} is committed with another content"
        else:
            assert checkpoint > max(self.history, default=0), f"a late commit of checkpoint {checkpoint}"
            assert rows[0] == len(self.rows), f"checkpoint {checkpoint} begins at {rows[0]}, not {len(self.rows)}"
            self.history[checkpoint] = rows
            self.rows.extend(rows)
        gate("after")


class Job:
    """One attempt of the job."""

    def __init__(self, store: CheckpointStore, lake: Lake, folder: Path, gate: Gate) -> None:
        self.workflow = CheckpointWorkflow(GatedStore(store, gate))
        self._lake = lake
        self._folder = folder
        self._gate = gate

    def run(self) -> Recovery:
        started = self.workflow.start_generation("numbers", JobId("j"), "test", 0)
        recovery = self.workflow.recover(started.generation)
        offset = self._restore(recovery)
        checkpoint = started.next_checkpoint
        while offset < ROWS:
            self.workflow.upload([self._file("given-up", f"of {started.generation}, before {checkpoint}")])
            manifest = self._snapshot(checkpoint, offset, started.generation)
            self.workflow.publish(manifest)
            self._commit(manifest)
            self.workflow.retain(RETAINED, started.generation)
            offset += ROWS_A_CHECKPOINT
            checkpoint = CheckpointId(checkpoint + 1 + started.generation % 2)  # an odd one gives every second id up
        return recovery

    def _restore(self, recovery: Recovery) -> int:
        if recovery.manifest is None:
            return 0
        (snapshot,) = recovery.manifest.operators
        assert snapshot.state is not None
        assert snapshot.keyed is not None
        self.workflow.download(snapshot.keyed.files, str(self._folder / "restored"))
        offset = snapshot.state["offset"]
        assert isinstance(offset, int)
        assert (self._folder / "restored" / "db" / "delta").read_text() == f"state at {offset}"
        assert (self._folder / "restored" / "db" / "base").read_text() == "never changes"
        if recovery.needs_commit:
            self._commit(recovery.manifest)
        return offset

    def _snapshot(self, checkpoint: CheckpointId, offset: int, generation: int) -> CheckpointManifest:
        upto = offset + ROWS_A_CHECKPOINT
        files = self.workflow.upload([self._file("base", "never changes"), self._file("delta", f"state at {upto}")])
        snapshot = OperatorSnapshot(
            UID,
            SubtaskIndex(0),
            {"offset": upto},
            TableSnapshot({}, 0, 128, files),
            committables=({"v": 1, "from": offset, "to": upto},),
        )
        return CheckpointManifest(
            job_id=JobId("j"),
            job_name="numbers",
            checkpoint=checkpoint,
            generation=generation,  # type: ignore[arg-type]
            created_us=0,
            max_parallelism=128,
            parallelism={UID: 1},
            operators=(snapshot,),
        )

    def _commit(self, manifest: CheckpointManifest) -> None:
        permit = self.workflow.claim(manifest)
        for committable in manifest.operators[0].committables:
            first, end = committable["from"], committable["to"]
            assert isinstance(first, int)
            assert isinstance(end, int)
            self._lake.commit(manifest.checkpoint, list(range(first, end)), self._gate)
        self.workflow.mark_committed(permit, now_us=0)

    def _file(self, name: str, content: str) -> LocalFile:
        path = self._folder / f"{name} {content}"
        if not path.exists():
            path.write_text(content)
        return LocalFile(f"db/{name}", str(path))


def open_gate(_moment: str) -> None:
    """Let everything pass."""


def finish(store: CheckpointStore, lake: Lake, folder: Path) -> Recovery:
    """Run an attempt to the end, and check what it left."""
    job = Job(store, lake, folder, open_gate)
    recovery = job.run()
    assert lake.rows == list(range(ROWS))
    assert job.workflow.verify() == ()
    return recovery


def check_nothing_is_left_over(store: CheckpointStore) -> None:
    """After two more retentions only what the kept checkpoints refer to is there."""
    workflow = CheckpointWorkflow(store)
    started = workflow.start_generation("numbers", JobId("j"), "test", 0)
    for _ in range(2):
        assert workflow.retain(RETAINED, started.generation).refused == ""
    assert sum(info.state is CheckpointState.READY for info in workflow.list()) <= RETAINED
    assert len(workflow.list()) <= RETAINED + 1  # the newest may be a zombie's: it goes as soon as a newer one is ready
    assert set(store.list(paths.FILES)) <= _state_files(store)


def _state_files(store: CheckpointStore) -> set[str]:
    workflow = CheckpointWorkflow(store)
    manifests = [workflow.read(info.checkpoint, info.generation) for info in workflow.list()]
    return {paths.state_file(file.generation, file.sha256) for manifest in manifests for file in manifest.files()}


def crash_at(number: int) -> Gate:
    """Die at the n-th passage. Each call of the store or the lake passes twice: before and after its effect."""
    passages = iter(range(1, 1 << 30))

    def gate(_moment: str) -> None:
        if next(passages) >= number:
            raise Crash

    return gate


def passages_of_a_whole_run(folder: Path) -> int:
    count = 0

    def gate(_moment: str) -> None:
        nonlocal count
        count += 1

    Job(MemoryStore(), Lake(), folder, gate).run()
    return count


def test_a_crash_at_any_point_of_the_first_run_loses_and_doubles_nothing(tmp_path: Path) -> None:
    passages = passages_of_a_whole_run(tmp_path)
    assert passages > 200
    for number in range(1, passages + 1):
        store, lake = MemoryStore(), Lake()
        with pytest.raises(Crash):
            Job(store, lake, tmp_path, crash_at(number)).run()
        finish(store, lake, tmp_path)
        check_nothing_is_left_over(store)


@pytest.mark.parametrize("seed", range(10))
def test_crashes_in_the_recovery_from_crashes_lose_and_double_nothing(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    for _ in range(15):
        store, lake = MemoryStore(), Lake()
        for _ in range(rng.randint(2, 6)):
            with suppress(Crash):  # an attempt with little left to do may get through
                Job(store, lake, tmp_path, crash_at(rng.randint(1, 120))).run()
        finish(store, lake, tmp_path)
        check_nothing_is_left_over(store)


@pytest.mark.parametrize("seed", range(3))
def test_a_folder_on_disk_survives_crashes_like_memory_does(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    store, lake = FileSystemStore(str(tmp_path / "store")), Lake()
    for _ in range(4):
        with suppress(Crash):
            Job(store, lake, tmp_path, crash_at(rng.randint(1, 60))).run()
    finish(store, lake, tmp_path)
    check_nothing_is_left_over(store)


class Turns:
    """Runs attempts of one job in threads, one at a time; who goes on at a gate, the test says."""

    def __init__(self, count: int, folder: Path) -> None:
        self.store = MemoryStore()
        self.lake = Lake()
        self.errors: list[BaseException] = []
        self._back = threading.Semaphore(0)
        self._go = [threading.Semaphore(0) for _ in range(count)]
        self._moments = ["before the start"] * count
        self._threads = [threading.Thread(target=self._thread, args=(n, folder / str(n))) for n in range(count)]
        for thread in self._threads:
            thread.start()

    def let_run(self, number: int, passages: int = 1 << 30) -> None:
        """Up to this many gates."""
        while passages and self._moments[number] != "ended":
            self._go[number].release()
            self._back.acquire()
            passages -= 1

    def let_run_to_write(self, number: int, writes: int) -> None:
        """Until just before its n-th write from now."""
        while writes and self._moments[number] != "ended":
            self.let_run(number, 1)
            writes -= self._moments[number] == WRITE

    def finish(self, folder: Path) -> None:
        """One attempt more, and then all has to be in order."""
        for number, thread in enumerate(self._threads):
            self.let_run(number)
            thread.join()
        lost_its_id = [error for error in self.errors if type(error) is CheckpointError and "lost its id" in str(error)]
        assert self.errors == lost_its_id
        finish(self.store, self.lake, folder)
        check_nothing_is_left_over(self.store)

    def ended(self, number: int) -> bool:
        return self._moments[number] == "ended"

    def _thread(self, number: int, folder: Path) -> None:
        def gate(moment: str) -> None:
            self._moments[number] = moment
            self._back.release()
            self._go[number].acquire()

        self._go[number].acquire()
        try:
            folder.mkdir(exist_ok=True)
            Job(self.store, self.lake, folder, gate).run()
        except StaleWriterError:
            pass  # a zombie has noticed
        except BaseException as error:
            self.errors.append(error)
        finally:
            self._moments[number] = "ended"
            self._back.release()


@pytest.mark.parametrize("newer_writes", [2, 6, 10, 20, 1000])
def test_a_zombie_that_wakes_before_any_of_its_writes_does_no_harm(newer_writes: int, tmp_path: Path) -> None:
    """Generation 1 is stopped before its n-th write, generation 2 runs for a while, 1 runs to its end, then 2."""
    for number in range(1, 40):
        turns = Turns(2, tmp_path)
        turns.let_run_to_write(0, number)
        turns.let_run_to_write(1, newer_writes)
        turns.let_run(0)
        turns.finish(tmp_path)


@pytest.mark.parametrize("deletion", range(1, 5))
def test_a_zombie_that_wakes_in_the_middle_of_retention_deletes_nothing_that_is_needed(
    deletion: int, tmp_path: Path
) -> None:
    """It stands still before a deletion, the last one being that of a state file whose content comes back meanwhile."""
    store, lake = MemoryStore(), Lake()
    before_write = iter(range(1, 1 << 30))
    retaining = False

    def gate(moment: str) -> None:
        if retaining and moment == WRITE and next(before_write) == deletion:
            newer = Job(store, lake, tmp_path, open_gate)
            started = newer.workflow.start_generation("numbers", JobId("j"), "test", 0)
            assert newer.workflow.recover(started.generation).manifest is not None
            _complete(newer, started.next_checkpoint, 0, started.generation)

    zombie = Job(store, lake, tmp_path, gate)
    started = zombie.workflow.start_generation("numbers", JobId("j"), "test", 0)
    for checkpoint in (CheckpointId(1), CheckpointId(2)):
        _complete(zombie, checkpoint, 10 * (checkpoint - 1), started.generation)
    retaining = True
    with suppress(StaleWriterError):
        zombie.workflow.retain(1, started.generation)
    workflow = CheckpointWorkflow(store)
    assert workflow.list()[0].checkpoint == 3
    assert workflow.verify() == ()


def _complete(job: Job, checkpoint: CheckpointId, offset: int, generation: Generation) -> None:
    manifest = job._snapshot(checkpoint, offset, generation)
    job.workflow.publish(manifest)
    job.workflow.mark_committed(job.workflow.claim(manifest), now_us=0)


@pytest.mark.parametrize("seed", range(25))
def test_generations_that_race_commit_every_row_once(seed: int, tmp_path: Path) -> None:
    """Old generations are never killed here: they go on as zombies until they notice."""
    rng = random.Random(seed)
    count = rng.randint(2, 3)
    turns = Turns(count, tmp_path)
    for number in range(count):  # each gets somewhere, and is then stopped in the middle of something
        turns.let_run(number, rng.randint(1, 160))
    while not all(turns.ended(number) for number in range(count)):
        turns.let_run(rng.randrange(count), rng.choice([1, 2, 5, 20, 1000]))
    turns.finish(tmp_path)


def damage(rng: random.Random, store: CheckpointStore, path: str) -> str:
    """Flip a bit, cut the end off, add a byte, or delete."""
    data = store.read(path)
    assert data is not None
    how = rng.choice(["flip", "truncate", "extend", "delete"])
    if how == "delete":
        store.delete(path)
    elif how == "truncate":
        store.put(path, data[: rng.randrange(len(data))])
    elif how == "extend":
        store.put(path, data + bytes([rng.randrange(256)]))
    else:
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        store.put(path, bytes(changed))
    return how


KEPT = [CheckpointId(9), CheckpointId(7), CheckpointId(5)]


def three_checkpoints(store: CheckpointStore, folder: Path) -> None:
    """The last three checkpoints of a run; the commit marker of the very last is not yet there."""
    Job(store, Lake(), folder, open_gate).run()
    store.delete(paths.committed(KEPT[0]))


def expected_after(store: CheckpointStore, path: str, how: str, before: dict[str, bytes]) -> set[CheckpointId]:
    """Which checkpoints a damaged file spoils."""
    file = paths.parse_checkpoint_file(path)
    if file is None:
        holders = [one for one in before if "manifest" in one and Path(path).name.encode() in before[one]]
        spoilt = [paths.parse_checkpoint_file(one) for one in holders]
        return {one.checkpoint for one in spoilt if one}
    committed = paths.committed(file.checkpoint) in before
    if file.kind == "manifest" or (file.kind == "claim" and not committed and how != "delete"):
        return {file.checkpoint}
    return set()


@pytest.mark.parametrize("seed", range(15))
def test_damage_to_any_file_is_found_and_the_newest_whole_checkpoint_is_taken(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    store = MemoryStore() if seed else FileSystemStore(str(tmp_path / "store"))
    three_checkpoints(store, tmp_path)
    before = {path: store.read(path) or b"" for path in store.list("")}
    targets = [path for path in before if path.startswith(paths.CHECKPOINTS) or path in _state_files(store)]
    assert len(targets) == 3 * 3 - 1 + 4
    for _ in range(20):
        path = rng.choice(targets)
        how = damage(rng, store, path)
        spoilt = expected_after(store, path, how, before)
        _check_recovery(store, spoilt, f"seed {seed}: {how} {path}")
        # A missing claim or marker, or a remnant older than all else, is what a crash or a zombie leaves, too.
        silent = how == "delete" and (not spoilt or path == paths.manifest(KEPT[-1], Generation(1)))
        assert bool(CheckpointWorkflow(store).verify()) is not silent, f"seed {seed}: {how} {path}"
        _restore_files(store, before)


def _check_recovery(store: CheckpointStore, spoilt: set[CheckpointId], what: str) -> None:
    whole = [checkpoint for checkpoint in KEPT if checkpoint not in spoilt]
    workflow = CheckpointWorkflow(store)
    started = workflow.start_generation("numbers", JobId("j"), "test", 0)
    assert started.next_checkpoint == KEPT[0] + 1
    if not whole:
        with pytest.raises(CorruptionError, match="not one of them can be restored"):
            workflow.recover(started.generation)
        return
    recovery = workflow.recover(started.generation)
    assert recovery.manifest is not None, what
    assert recovery.manifest.checkpoint == whole[0], what
    assert [checkpoint for checkpoint, _ in recovery.skipped] == [n for n in KEPT if n > whole[0]], what
    assert all(reason for _, reason in recovery.skipped)


def _restore_files(store: CheckpointStore, before: dict[str, bytes]) -> None:
    for path in store.list(""):
        if path not in before:
            store.delete(path)
    for path, data in before.items():
        if store.read(path) != data:
            store.put(path, data)


def test_a_damaged_job_record_stops_the_start(tmp_path: Path) -> None:
    store = MemoryStore()
    three_checkpoints(store, tmp_path)
    store.put(paths.JOB, b"{}")
    with pytest.raises(CorruptionError, match=r"job\.json is damaged"):
        CheckpointWorkflow(store).start_generation("numbers", JobId("j"), "test", 0)
