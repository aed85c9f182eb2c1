"""The invariants of a simulated run; each check raises `ViolationFound` with what does not hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import lru_cache
from itertools import accumulate
from typing import Any, cast

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointClaim, CheckpointManifest, sha256_hex
from lakeward.engine.core.errors import CorruptionError
from lakeward.engine.core.ids import CheckpointId, SplitId
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US
from lakeward.engine.runtime.job import JobRunner
from lakeward.engine.runtime.task import RunnableTask, Task
from lakeward.testing.simulation.faults import ViolationFound
from lakeward.testing.simulation.knobs import Knobs
from lakeward.testing.simulation.oracle import Cut, Run, Truth
from lakeward.testing.simulation.program import Inputs
from lakeward.testing.simulation.source import InputRow
from lakeward.testing.simulation.store import FaultyStore
from lakeward.testing.simulation.table import Row, SimTable, TableSnapshot

EXAMPLES_MAX = 5


def validate_runner(runner: JobRunner, tasks: Sequence[RunnableTask]) -> None:
    """The parts of the coordinator's and of every aligner's state fit together."""
    runner._coordinator.validate()
    for task in tasks:
        if isinstance(task, Task):
            task._aligner.validate()


class ContentCheck:
    """Compares a table with its oracle at every commit, at the cut that the committed checkpoint's manifest records.

    Commits of checkpoints with rows in flight are not compared: nothing says which part of those rows has an effect.

    Args:
        store: The checkpoint store, read without faults.
        inputs: The input.
        truths: What each table has to hold, by the uid of its sink.
        tables: The tables, by the uid of their sink.
        knobs: The seed's.
    """

    def __init__(
        self,
        store: FaultyStore,
        inputs: Inputs,
        truths: Mapping[str, Truth],
        tables: Mapping[str, SimTable],
        knobs: Knobs,
    ) -> None:
        self.store = store
        self._splits = {split.id: split for splits in inputs.values() for split in splits}
        self._sources = set(inputs)
        self._truths = truths
        self._newest_us = {name: _running_max(split.rows) for name, split in self._splits.items()}
        self._tables = tables
        self._max_parallelism = knobs.max_parallelism
        self._disorder_us = knobs.disorder_us
        self._last: dict[str, tuple[int, Mapping[SplitId, int]]] = {}
        self.compared = 0

    def at_commit(self, uid: str, snapshot: TableSnapshot) -> None:
        """A marked snapshot has become visible."""
        table = self._tables[uid]
        checkpoint = CheckpointId(int(snapshot.summary["checkpoint"]))
        manifest = self._claimed_manifest(checkpoint)
        cut = self._cut(manifest)
        before, positions = self._last.get(uid, (0, {}))
        if checkpoint <= before:
            raise ViolationFound(f"{table.name}: checkpoint {checkpoint} is committed after checkpoint {before}")
        back = {split: at for split, at in positions.items() if cut.positions.get(split, 0) < at}
        if back:
            raise ViolationFound(f"{table.name}: checkpoint {checkpoint} goes back behind {back}, read before")
        self._last[uid] = (checkpoint, cut.positions)
        if any(one.in_flight for one in manifest.operators):
            return  # rows that were read are not in the table yet; a later commit, and the end, find them there
        for name, (at, _) in self._last.items():
            if at == checkpoint:
                cut.held[name] = self._tables[name].content
        self._compare(table, self._truths[uid](cut), f"checkpoint {checkpoint}")
        self.compared += 1

    def at_end(self, uid: str) -> None:
        """All input has been read: the table holds everything, once."""
        everything = {split: len(data.rows) for split, data in self._splits.items()}
        end_of_time = dict.fromkeys(("window", "first", "second"), ((0, self._max_parallelism, WATERMARK_MAX_US),))
        held = {name: table.content for name, table in self._tables.items()}
        cut = Cut(everything, end_of_time, self._max_parallelism, held)
        self._compare(self._tables[uid], self._truths[uid](cut), "the end")

    @staticmethod
    def _compare(table: SimTable, truth: Counter[Row], when: str) -> None:
        if table.content == truth:
            if table.key is not None and Counter(table.by_key.values()) != truth:
                raise ViolationFound(f"{table.name} at {when}: changes of one key are not in their order")
            return
        lost, extra = truth - table.content, table.content - truth
        problem = f"{lost.total()} rows lost {_some(lost)}, {extra.total()} rows too many {_some(extra)}"
        raise ViolationFound(f"{table.name} at {when}: {problem}")

    def _claimed_manifest(self, checkpoint: CheckpointId) -> CheckpointManifest:
        found = claimed_manifest(self.store, checkpoint)
        if found is None:
            raise ViolationFound(f"checkpoint {checkpoint} is committed, but it was never completed and claimed")
        return found

    def _cut(self, manifest: CheckpointManifest) -> Cut:
        positions: dict[SplitId, int] = {}
        finished: set[SplitId] = set()
        watermarks: dict[str, list[Run]] = {}
        for one in manifest.operators:
            state = cast(Mapping[str, Any], one.state or {})
            if one.uid in self._sources:
                for split in state["splits"]:
                    self._add_split(positions, split)
                finished.update(split["id"] for split in state["splits"] if split["finished"])
            elif "watermarks" in state:
                watermarks.setdefault(one.uid, []).extend(tuple(run) for run in state["watermarks"])
        self._check_event_time(positions, watermarks, self._splits.keys() - finished)
        return Cut(positions, watermarks, self._max_parallelism, {})

    def _check_event_time(
        self, positions: Mapping[SplitId, int], watermarks: Mapping[str, Sequence[Run]], unfinished: Set[SplitId]
    ) -> None:
        """Event time is nowhere ahead of all that was read, and at its end only when all has been."""
        newest_us = max((self._newest_us[split][at] for split, at in positions.items()), default=WATERMARK_MIN_US)
        limit_us = max(newest_us - self._disorder_us - 1, WATERMARK_MIN_US) if unfinished else WATERMARK_MAX_US
        for uid, runs in watermarks.items():
            for start, end, time_us in runs:
                if time_us > limit_us:
                    raise ViolationFound(
                        f"event time of {uid}, key groups {start} to {end}, is at {time_us}, ahead of {limit_us}: "
                        f"{sorted(unfinished)} have rows left"
                    )

    def _add_split(self, positions: dict[SplitId, int], split: Mapping[str, Any]) -> None:
        name = SplitId(split["id"])
        if name in positions:
            raise ViolationFound(f"two readers have split {name} in one checkpoint")
        positions[name] = split["position"]["next"] if split["position"] else 0
        if split["finished"] and positions[name] != len(self._splits[name].rows):
            raise ViolationFound(f"split {name} is called finished at row {positions[name]}")


def _running_max(rows: Sequence[InputRow]) -> list[int]:
    """The newest event time among the first rows, by how many they are."""
    return [*accumulate((row.ts for row in rows), max, initial=WATERMARK_MIN_US)]


def claimed_manifest(store: FaultyStore, checkpoint: CheckpointId) -> CheckpointManifest | None:
    """The manifest that may be committed; None if there is none. Of damaged files, what was written is read."""
    claim_bytes = store.original(paths.claim(checkpoint))
    if claim_bytes is None:
        return None
    claim = CheckpointClaim.from_bytes(claim_bytes)
    data = store.original(paths.manifest(checkpoint, claim.generation))
    if data is None or _sha256(data) != claim.manifest_sha256:
        return None
    return _manifest(data)


def check_restorable(store: FaultyStore, retained: int, completed: Sequence[int]) -> None:
    """Every claimed checkpoint has all its files, and the newest completed ones are still there.

    Args:
        store: The checkpoint store.
        retained: How many completed ones are kept.
        completed: Checkpoints that were completed.
    """
    whole = {manifest.checkpoint for manifest in _whole_manifests(store)}
    missing = [one for one in sorted(completed)[-retained:] if one not in whole]
    if missing:
        raise ViolationFound(f"completed checkpoints {missing} are gone, although {retained} are to be kept")


def _whole_manifests(store: FaultyStore) -> Iterator[CheckpointManifest]:
    for checkpoint in sorted({file.checkpoint for file in _checkpoint_files(store)}):
        try:
            manifest = claimed_manifest(store, checkpoint)
        except CorruptionError as error:
            raise ViolationFound(f"checkpoint {checkpoint} was written damaged: {error}") from error
        if manifest is None:
            continue
        for file in manifest.files():
            data = store.original(paths.state_file(file.generation, file.sha256))
            if data is None or _sha256(data) != file.sha256:
                problem = "missing" if data is None else "another one"
                raise ViolationFound(f"checkpoint {checkpoint} cannot be restored: {file.name} is {problem}")
        yield manifest


@lru_cache(maxsize=256)
def _manifest(data: bytes) -> CheckpointManifest:
    return CheckpointManifest.from_bytes(data)


@lru_cache(maxsize=256)
def _sha256(data: bytes) -> str:
    return sha256_hex(data)


def _checkpoint_files(store: FaultyStore) -> Iterator[paths.CheckpointFile]:
    for path in store.inner.list(paths.CHECKPOINTS):
        file = paths.parse_checkpoint_file(path)
        if file is not None:
            yield file


def _some(rows: Counter[Row]) -> str:
    return str(sorted(rows.elements(), key=repr)[:EXAMPLES_MAX])
