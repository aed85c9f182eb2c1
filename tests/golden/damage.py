"""Directories of checkpoints and savepoints to be damaged, and every way to damage one of their files."""

from __future__ import annotations

import copy
import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from everything_job import BATCHES, SCHEMA, job

import lakeward as lw
from lakeward import col
from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.savepoint import Owner, write_savepoint
from lakeward.engine.checkpoint.store_fs import FileSystemStore
from lakeward.engine.core.ids import CheckpointId
from lakeward.testing import ABORT, BARRIER, EOF, Item, JobHarness
from lakeward.testing.crash import SimulatedCrash
from lakeward.testing.sources import PAUSE, Mark

SCRIPT: list[Item] = [*BATCHES[:3], BARRIER, BATCHES[3], EOF, *BATCHES[4:6], BARRIER, BATCHES[6], ABORT, *BATCHES[7:]]
"""Two starts: the first is stopped, the second dies; at its second checkpoint if it is told where."""

REST: list[Item] = [PAUSE(0) if isinstance(one, Mark) else one for one in SCRIPT]
"""The same rows at the same places, and nothing happens in between."""

Sinks = Mapping[str, lw.MemorySink]


def wide_row(row: dict[str, Any]) -> dict[str, Any]:
    """The row with a text that does not compress, so that RocksDB puts the rows of a join into a blob file."""
    digests = (hashlib.sha512(f"{row['v']} {n}".encode()).hexdigest() for n in range(4))
    return {"pair": row["v"] // 2, "v": row["v"], "at": row["at"], "text": "".join(digests)}


def build(env: lw.StreamExecutionEnvironment, script: Sequence[Item], sinks: Sinks) -> None:
    """The job with every kind of state, and a join of wide rows."""
    stream = job(env, script, make_sink=lambda uid: sinks[uid])
    returns = {"pair": "int64", "v": "int64", "at": SCHEMA.field("at").type, "text": "string"}
    wide = stream.map(wide_row, returns=returns, uid="wide-rows")
    evens, odds = wide.filter(col("v") % 2 == 0), wide.filter(col("v") % 2 == 1)
    pairs = evens.interval_join(odds, "pair", lower="-100s", upper="100s", uid="wide")
    pairs.select("v", "text", "v_right").sink_to(sinks["wide-out"], uid="wide-out")


def new_sinks() -> Sinks:
    """Empty; they follow a job that goes back to an older checkpoint."""
    uids = ["windows-out", "sessions-out", "silence-out", "pairs-out", "totals-out", "wide-out"]
    return {uid: lw.MemorySink(on_rewind="rollback") for uid in uids}


def harness(script: Sequence[Item], sinks: Sinks, store: FileSystemStore) -> JobHarness:
    """Of the job over a checkpoint directory."""
    return JobHarness(lambda env: build(env, script, sinks), state="rocksdb", checkpoints=store)


class DyingStore(FileSystemStore):
    """The process dies before it can create one file; the next one can."""

    def __init__(self, location: str, dies_at: str) -> None:
        super().__init__(location)
        self._dies_at = dies_at

    def create_if_absent(self, path: str, data: bytes) -> bool:
        """Create it, or die."""
        if path == self._dies_at:
            self._dies_at = ""
            raise SimulatedCrash(f"before {path}")
        return super().create_if_absent(path, data)


@dataclass(frozen=True)
class Prepared:
    """A directory that nothing is wrong with.

    Args:
        directory: Where.
        sinks: What the job had made visible by then.
    """

    directory: Path
    sinks: Sinks

    @cached_property
    def manifests(self) -> dict[str, CheckpointManifest]:
        """Every manifest by its path, newest checkpoint first."""
        found = sorted(self.directory.glob("checkpoints/*/manifest-*.json"), reverse=True)
        return {self._relative(one): CheckpointManifest.from_bytes(one.read_bytes()) for one in found}

    @cached_property
    def kinds(self) -> dict[str, list[str]]:
        """Every file by what kind it is, those of newer checkpoints first."""
        kinds: dict[str, list[str]] = {}
        for path in self._ordered():
            kinds.setdefault(self._kind(path), []).append(path)
        return kinds

    def checkpoints_of(self, path: str) -> set[CheckpointId]:
        """Which checkpoints cannot be restored without a manifest or a state file; none for files of other kinds."""
        if path in self.manifests:
            return {self.manifests[path].checkpoint}
        return {
            manifest.checkpoint
            for manifest in self.manifests.values()
            if path in {paths.state_file(file.generation, file.sha256) for file in manifest.files()}
        }

    def copied(self, target: Path) -> Path:
        """The whole directory again; no file is shared, so damage does not spread."""
        return Path(shutil.copytree(self.directory, target))

    def _ordered(self) -> list[str]:
        names = [self._relative(one) for one in self.directory.rglob("*") if one.is_file()]
        newest = [paths.state_file(f.generation, f.sha256) for one in self.manifests.values() for f in one.files()]
        rank = {path: number for number, path in reversed(list(enumerate(newest)))}
        return sorted(sorted(names, reverse=True), key=lambda path: rank.get(path, 0))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()

    def _kind(self, path: str) -> str:
        file = paths.parse_checkpoint_file(path)
        if file is not None:
            return file.kind
        for manifest in self.manifests.values():
            for stored in manifest.files():
                if path == paths.state_file(stored.generation, stored.sha256):
                    return stored.name.rpartition(".")[2].partition("-")[0]
        return path.partition("/")[0]


def prepare(directory: Path, dies_at: str = "") -> Prepared:
    """Two starts of the job: three checkpoints of two generations.

    Args:
        directory: Where the checkpoints go.
        dies_at: A file before which it dies besides, and not at the end of the second start.
    """
    sinks = new_sinks()
    found = harness(SCRIPT, sinks, DyingStore(str(directory), dies_at))
    while not found.run().stopped:
        pass
    assert found.run().crashed
    return Prepared(directory, sinks)


def prepare_savepoint(source: Prepared, directory: Path) -> Prepared:
    """Of the newest checkpoint."""
    target = FileSystemStore(str(directory))
    write_savepoint(FileSystemStore(str(source.directory)), target, Owner("test", 0, directory.parent))
    return Prepared(directory, source.sinks)


def rows_of(sinks: Sinks) -> dict[str, list[dict[str, Any]]]:
    """What is visible, in an order of its own; of the updating stream what is left after all its changes."""
    found = {uid: sorted(sink.table().to_pylist(), key=repr) for uid, sink in sinks.items() if uid != "totals-out"}
    newest = {row["name"]: row for row in sinks["totals-out"].table().to_pylist()}
    return found | {"totals-out": [newest[name] for name in sorted(newest)]}


def forked(sinks: Sinks) -> Sinks:
    """The same rows in other sinks."""
    return copy.deepcopy(sinks)


# -- ways to damage


def _flip(data: bytes, place: int, bits: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= bits
    return bytes(changed)


Change = Callable[[bytes, random.Random], bytes]
CHANGES: dict[str, Change] = {
    "flip a bit of the first byte": lambda data, rng: _flip(data, 0, 1 << rng.randrange(8)),
    "flip a bit of the last byte": lambda data, rng: _flip(data, -1, 1 << rng.randrange(8)),
    "flip a bit somewhere": lambda data, rng: _flip(data, rng.randrange(len(data)), 1 << rng.randrange(8)),
    "change a byte somewhere": lambda data, rng: _flip(data, rng.randrange(len(data)), rng.randrange(1, 256)),
    "change a byte elsewhere": lambda data, rng: _flip(data, rng.randrange(len(data)), rng.randrange(1, 256)),
    "empty it": lambda data, rng: b"",
    "cut it in half": lambda data, rng: data[: len(data) // 2],
    "cut off its last byte": lambda data, rng: data[:-1],
    "add a byte": lambda data, rng: data + bytes([rng.randrange(256)]),
    "fill its second half with zeros": lambda data, rng: data[: len(data) // 2].ljust(len(data), b"\0"),
}
REMOVE, SWAP, REPLACE, FOREIGN = (
    "remove it",
    "swap it",
    "put another one in its place",
    "put another job's in its place",
)
WAYS = [*CHANGES, REMOVE, SWAP, REPLACE, FOREIGN]


def damage(
    directory: Path, prepared: Prepared, foreign: Prepared, path: str, way: str, rng: random.Random
) -> list[str]:
    """Damage a file of a copy; returns what differs afterwards: nothing if there is no other one of its kind."""
    kind = next(kind for kind, all_paths in prepared.kinds.items() if path in all_paths)
    others = [other for other in prepared.kinds[kind] if other != path]
    target, before = directory / path, (directory / path).read_bytes()
    if way in CHANGES:
        target.write_bytes(CHANGES[way](before, rng))
    elif way == REMOVE:
        target.unlink()
    elif way == FOREIGN:
        same = foreign.directory / path
        other = same if same.exists() else foreign.directory / rng.choice(foreign.kinds[kind])
        target.write_bytes(other.read_bytes())
    elif others:
        other = directory / rng.choice(others)
        target.write_bytes(other.read_bytes())
        if way == SWAP:
            other.write_bytes(before)
    return list(differing(directory, prepared.directory))


def differing(directory: Path, original: Path) -> Iterator[str]:
    """Files that are not as they were."""
    for one in sorted(original.rglob("*")):
        if one.is_file():
            path = one.relative_to(original)
            if not (directory / path).exists() or (directory / path).read_bytes() != one.read_bytes():
                yield path.as_posix()
