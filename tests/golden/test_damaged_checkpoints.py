"""Whatever happens to a file of a checkpoint or savepoint: the answer is right, or the job refuses and names it.

The directories are those of the job with every kind of state; what a case damages is a copy of its own. `make damage`
puts every file through every damage; the default run puts each kind of file through a few.
"""

from __future__ import annotations

import logging
import random
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from damage import (
    FOREIGN,
    REMOVE,
    REST,
    WAYS,
    Prepared,
    damage,
    forked,
    harness,
    new_sinks,
    prepare,
    prepare_savepoint,
    rows_of,
)
from everything_job import BATCHES

import lakeward as lw
from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.core.errors import CheckpointError, LakewardError
from lakeward.engine.core.ids import CheckpointId
from lakeward.testing.simulation.runner import fast_directory

NEWEST = CheckpointId(3)
State = dict[tuple[str, str], list[dict[str, Any]]]
NOT_STATE = ["job.json", "generations", "manifest", "claim", "committed"]


@dataclass(frozen=True)
class World:
    """What all cases begin with.

    Args:
        root: A folder for copies.
        prepared: Directories by what the job was about when it ended or died.
        foreign: Another job's directory.
        answer: Of the undamaged job.
        state: What is in the undamaged savepoint.
    """

    root: Path
    prepared: dict[str, Prepared]
    foreign: Prepared
    answer: dict[str, list[dict[str, Any]]]
    state: State


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    root = Path(tempfile.mkdtemp(prefix="lakeward-damage-", dir=fast_directory()))
    committed = prepare(root / "committed")
    prepared = {
        "committed": committed,
        "committing": prepare(root / "committing", paths.committed(NEWEST)),
        "unclaimed": prepare(root / "unclaimed", paths.claim(NEWEST)),
        "savepoint": prepare_savepoint(committed, root / "savepoint"),
    }
    sinks = new_sinks()
    assert harness(BATCHES, sinks, FileSystemStore(str(root / "straight"))).run().ended
    foreign = prepare(root / "foreign", paths.JOB)
    yield World(root, prepared, foreign, rows_of(sinks), state_of(root / "savepoint"))
    shutil.rmtree(root)


@dataclass(frozen=True)
class Case:
    """One damage.

    Args:
        name: Which directory.
        path: The file.
        way: What happens to it.
        seed: Where in it.
    """

    name: str
    path: str
    way: str
    seed: int

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.name}: {self.path}: {self.way}"

    @property
    def parallelism(self) -> int:
        """Of the job that goes on."""
        return 1 + random.Random(str(self)).randrange(2)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Args:
        damaged: The files that differ from what they were.
        restored: The checkpoint that the job went on from.
        rows: The answer; None when it refused.
        refusal: Why it did.
    """

    damaged: list[str]
    restored: int | None
    rows: dict[str, list[dict[str, Any]]] | None
    refusal: LakewardError | None = None


def run(world: World, case: Case) -> Outcome:
    """Damage a copy, and let the job go on from it."""
    prepared, sinks = world.prepared[case.name], forked(world.prepared[case.name].sinks)
    with tempfile.TemporaryDirectory(dir=world.root) as folder:
        directory = prepared.copied(Path(folder, "copy"))
        damaged = damage(directory, prepared, world.foreign, case.path, case.way, random.Random(str(case)))
        store, begun_from = FileSystemStore(str(directory)), None
        if case.name == "savepoint":
            store, begun_from = FileSystemStore(str(Path(folder, "own"))), store
        try:
            found = harness(REST, sinks, store).run(parallelism=case.parallelism, savepoint=begun_from)
        except LakewardError as error:
            return Outcome(damaged, None, None, error)
    assert found.ended
    return Outcome(damaged, found.restored or NEWEST, rows_of(sinks))


def check(world: World, case: Case, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether there was a case; the right answer or a refusal, and neither without a word."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "lakeward"):
        outcome = run(world, case)
    if not outcome.damaged:
        return False
    prepared = world.prepared[case.name]
    spoilt = {checkpoint for path in outcome.damaged for checkpoint in prepared.checkpoints_of(path)}
    whole = [m.checkpoint for m in prepared.manifests.values() if m.checkpoint not in spoilt]
    if outcome.refusal is not None:
        # A claim and a commit marker that are whole and contradict each other leave nothing to be sure of.
        contradiction = case.way == FOREIGN and case.path.endswith(("claim.json", "committed.json"))
        in_vain = whole and not contradiction and paths.JOB not in outcome.damaged
        assert not in_vain, f"{case}: refused in vain: {outcome.refusal}"
        check_refusal(outcome.refusal, outcome.damaged, str(case))
        return True
    assert whole, f"{case}: went on from {outcome.restored}, with nothing whole"
    assert outcome.rows == world.answer, f"{case}: wrong answer"
    check_said(case, outcome, whole, caplog.text)
    return True


def check_refusal(error: LakewardError, damaged: list[str], case: str) -> None:
    names_it = any(path in str(error) for path in damaged)
    assert names_it, f"{case}: does not name the file: {error}"
    # Another job's job.json is whole: it says whose directory it is, and that is another one's.
    assert isinstance(error, CheckpointError) or damaged == [paths.JOB], f"{case}: {error!r}"


def check_said(case: Case, outcome: Outcome, whole: list[CheckpointId], said: str) -> None:
    """Of a checkpoint that is passed over the log speaks, unless no file is left that could tell of it."""
    assert outcome.restored is not None
    unknown = case.name == "unclaimed" and case.way == REMOVE
    exact = case.path.startswith(paths.FILES) or "manifest" in case.path
    assert not exact or outcome.restored == whole[0], f"{case}: went on from {outcome.restored}, not from {whole[0]}"
    for passed in range(outcome.restored + 1, NEWEST + 1):
        assert unknown or f"checkpoint {passed} cannot be used" in said, f"{case}: passed over without a word"


def cases(world: World, name: str, way: str, seed: int) -> list[Case]:
    """Every file of a directory; where the newest checkpoint is unfinished, those that say how far it has come."""
    kinds = world.prepared[name].kinds
    chosen = NOT_STATE if name in ("committing", "unclaimed") else kinds
    return [Case(name, path, way, seed) for kind in chosen for path in kinds.get(kind, [])]


@pytest.mark.parametrize("way", WAYS)
def test_damage_to_a_file_of_a_checkpoint_leaves_the_right_answer_or_is_refused(
    way: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = world.prepared["committed"].kinds
    kind = sorted(kinds)[WAYS.index(way) * 3 % len(kinds)]
    check(world, Case("committed", kinds[kind][0], way, seed=0), caplog)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["committed", "committing", "unclaimed", "savepoint"])
def test_every_damage_to_every_file_leaves_the_right_answer_or_is_refused(
    name: str, way: str, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    done = [check(world, case, caplog) for case in cases(world, name, way, seed=1)]
    print(f"{sum(done)} cases")


def check_reading(world: World, case: Case, folder: Path) -> None:
    """The rows that the savepoint held, or a refusal; never others."""
    savepoint = world.prepared["savepoint"]
    directory = savepoint.copied(folder)
    damaged = damage(directory, savepoint, world.foreign, case.path, case.way, random.Random(str(case)))
    try:
        assert state_of(directory) == world.state, f"{case}: wrong rows"
    except LakewardError as error:
        check_refusal(error, damaged, str(case))
    else:
        assert not any(savepoint.checkpoints_of(path) for path in damaged), f"{case}: was not noticed"
    shutil.rmtree(directory)


@pytest.mark.parametrize("way", WAYS)
def test_a_damaged_savepoint_is_read_as_it_was_or_not_at_all(way: str, world: World, tmp_path: Path) -> None:
    state_files = [case for case in cases(world, "savepoint", way, seed=0) if case.path.startswith(paths.FILES)]
    check_reading(world, state_files[WAYS.index(way) % len(state_files)], tmp_path / "copy")


@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS)
def test_every_damage_to_a_savepoint_is_read_as_it_was_or_not_at_all(way: str, world: World, tmp_path: Path) -> None:
    done = cases(world, "savepoint", way, seed=2)
    for case in done:
        check_reading(world, case, tmp_path / "copy")
    print(f"{len(done)} cases")


def state_of(directory: Path) -> State:
    """Every table's rows."""
    found = lw.state_tables(directory)
    return {(one.uid, one.name): lw.read_state(directory, one.uid, one.name).to_pylist() for one in found}
