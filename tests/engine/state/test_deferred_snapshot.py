"""Snapshots that are written while the state goes on changing."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.engine.api.state import ColumnSpec, RowsSpec, TableSpec
from lakeward.engine.core.errors import CheckpointError
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.backend import FrozenState, RestoreSource, StateBackend
from lakeward.engine.state.deferred import DeferredStore
from lakeward.engine.state.memory import MemoryKeyValueStore, MemoryStoreFactory
from lakeward.engine.state.rocksdb import RocksDbStoreFactory

SPEC = TableSpec(
    "held",
    (("k", pa.string()),),
    (ColumnSpec("n", pa.int64()), ColumnSpec("text", pa.string()), ColumnSpec("list", pa.list_(pa.int64()))),
)
FACTORIES = {"memory": MemoryStoreFactory, "rocksdb": RocksDbStoreFactory}
Model = dict[tuple[int, str], tuple[int, str | None, list[int] | None]]


class Base:
    """Backends of one kind in a folder."""

    def __init__(self, directory: Path, store: str, memory_bytes: int) -> None:
        self.directory, self.store, self.memory_bytes = directory, store, memory_bytes
        self.taken = 0
        self.backend = self.open([])

    def open(self, sources: list[RestoreSource]) -> StateBackend:
        self.taken += 1
        directory = str(self.directory / f"store-{self.taken}")
        backend = StateBackend(FACTORIES[self.store](), directory, range(8), 8, self.memory_bytes)
        if sources:
            backend.restore(sources)
        return backend

    def snapshot(self) -> tuple[FrozenState, str]:
        self.taken += 1
        target = str(self.directory / f"snapshot-{self.taken}")
        return self.backend.freeze(target), target

    def held(self, frozen: FrozenState, target: str, read: Callable[[StateBackend], Any]) -> Any:
        """What is read from a backend that is restored from the snapshot."""
        backend = self.open([RestoreSource(frozen.finish().tables, target, 0, 8)])
        try:
            return read(backend)
        finally:
            backend.close()


class Lab(Base):
    """A backend, and what it should hold."""

    def __init__(self, directory: Path, store: str, memory_bytes: int) -> None:
        super().__init__(directory, store, memory_bytes)
        self.table = self.backend.table(SPEC)
        self.model: Model = {}

    def change(self, rng: random.Random) -> None:
        pane_number = rng.randrange(3)
        names = [f"key {rng.randrange(400)}" for _ in range(rng.choice([1, 60]))]
        pane, keys = self.table.pane(pane_number), self.table.keys([pa.array(names)])
        what = rng.random()
        if what < 0.7:
            slots = pane.slots(keys)
            for slot, name in zip(slots.tolist(), names, strict=True):
                n = rng.randrange(1_000)
                value = (n, None if n % 3 else f"t{n}", None if n % 5 else [n])
                pane.column("n")[slot], pane.column("text")[slot] = value[:2]
                held = pane.column("list")[slot]
                if held is not None and value[2] is not None:
                    held[:] = value[2]  # in place, as aggregates do
                else:
                    pane.column("list")[slot] = value[2]
                self.model[pane_number, name] = value
        elif what < 0.9:
            known = pane.remove(keys)
            for name in set(names):
                assert (self.model.pop((pane_number, name), None) is not None) == any(
                    ok for ok, one in zip(known.tolist(), names, strict=True) if one == name
                )
        elif what < 0.93:
            self.table.drop(pane_number)
            self.model = {key: value for key, value in self.model.items() if key[0] != pane_number}
        else:
            found = pane.find(keys)
            assert [slot >= 0 for slot in found.tolist()] == [(pane_number, name) in self.model for name in names]

    def freeze(self) -> tuple[FrozenState, str, Model]:
        return *self.snapshot(), {k: (a, b, c and list(c)) for k, (a, b, c) in self.model.items()}

    def restored(self, frozen: FrozenState, target: str) -> Model:
        return self.held(frozen, target, held)


def held(backend: StateBackend) -> Model:
    table = backend.table(SPEC)
    return content(table)


def content(table: Any) -> Model:
    return {
        (number, row["k"]): (row["n"], row["text"], row["list"])
        for number in table.namespaces()
        for batch in table.pane(number).scan()
        for row in batch.to_pylist()
    }


@pytest.mark.parametrize("memory_bytes", [1 << 26, 1 << 14])
@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize("seed", range(2))
def test_a_snapshot_holds_what_was_there_when_it_was_taken(
    tmp_path: Path, seed: int, store: str, memory_bytes: int
) -> None:
    print(f"seed {seed}")
    rng, lab = random.Random(seed), Lab(tmp_path, store, memory_bytes)
    waiting: list[tuple[FrozenState, str, Model]] = []
    for _ in range(120):
        lab.change(rng)
        if rng.random() < 0.1:
            waiting.append(lab.freeze())
        if waiting and rng.random() < 0.1:
            frozen, target, wanted = waiting.pop(0)
            assert lab.restored(frozen, target) == wanted
    for frozen, target, wanted in waiting:
        assert lab.restored(frozen, target) == wanted
    assert content(lab.table) == lab.model
    lab.backend.close()


ROWS = RowsSpec("rows", pa.schema({"k": pa.int64(), "text": pa.string(), "n": pa.int64()}), ("k",), ("n",))


class RowLab(Base):
    """A backend with a table of rows, whose keys are unique by the test's care, and what it should hold."""

    def __init__(self, directory: Path, store: str, memory_bytes: int) -> None:
        super().__init__(directory, store, memory_bytes)
        self.table = self.backend.rows(ROWS)
        self.ids: dict[tuple[int, int], int] = {}
        self.model: dict[tuple[int, int], tuple[str, int]] = {}

    def change(self, rng: random.Random) -> None:
        namespace, what = rng.randrange(3), rng.random()
        keys = sorted({rng.randrange(2_000) for _ in range(rng.choice([1, 300]))})
        if what < 0.7:
            values = [(f"text {rng.random()}", rng.randrange(1_000)) for _ in keys]
            texts, numbers = zip(*values, strict=True)
            batch = pa.record_batch([pa.array(keys), pa.array(texts), pa.array(numbers)], schema=ROWS.schema)
            old = np.array([self.ids.get((namespace, key), -1) for key in keys])
            for key, value, row in zip(keys, values, self.table.put(batch, old, namespace).tolist(), strict=True):
                self.model[namespace, key], self.ids[namespace, key] = value, row
        elif what < 0.95:
            gone = [key for key in keys if (namespace, key) in self.model]
            self.table.remove(np.array([self.ids.pop((namespace, key)) for key in gone], dtype=np.int64))
            for key in gone:
                del self.model[namespace, key]
        else:
            self.table.drop(namespace)
            self.model = {key: value for key, value in self.model.items() if key[0] != namespace}
            self.ids = {key: row for key, row in self.ids.items() if key[0] != namespace}

    def freeze(self) -> tuple[FrozenState, str, dict[tuple[int, int], tuple[str, int]]]:
        return *self.snapshot(), dict(self.model)

    def restored(self, frozen: FrozenState, target: str) -> dict[tuple[int, int], tuple[str, int]]:
        return self.held(frozen, target, lambda backend: rows_of(backend.rows(ROWS)))


def rows_of(table: Any) -> dict[tuple[int, int], tuple[str, int]]:
    return {
        (namespace, row["k"]): (row["text"], row["n"])
        for namespace in table.namespaces()
        for _, batch in table.scan(namespace)
        for row in batch.to_pylist()
    }


@pytest.mark.parametrize("memory_bytes", [1 << 26, 1 << 15])
@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize("seed", range(2))
def test_a_snapshot_of_rows_holds_what_was_there_when_it_was_taken(
    tmp_path: Path, seed: int, store: str, memory_bytes: int
) -> None:
    print(f"seed {seed}")
    rng, lab = random.Random(seed), RowLab(tmp_path, store, memory_bytes)
    with ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            lab.change(rng)
            frozen, target, wanted = lab.freeze()
            done = pool.submit(frozen.finish) if rng.random() < 0.5 else None
            for _ in range(5):
                lab.change(rng)
            if done is not None:
                done.result()
            assert lab.restored(frozen, target) == wanted
    assert rows_of(lab.table) == lab.model
    lab.backend.close()


def test_a_thread_finishes_a_snapshot_while_the_state_changes(tmp_path: Path) -> None:
    lab = Lab(tmp_path, "rocksdb", 1 << 18)
    rng = random.Random(1)
    many = [f"key {n}" for n in range(50_000)]
    with ThreadPoolExecutor(1) as pool:
        for _ in range(3):
            pane = lab.table.pane(9)
            slots = pane.slots(lab.table.keys([pa.array(many)]))
            numbers = np.array([rng.randrange(1_000) for _ in many])
            pane.column("n")[slots] = numbers
            lab.model |= {(9, name): (n, None, None) for name, n in zip(many, numbers.tolist(), strict=True)}
            frozen, target, wanted = lab.freeze()
            done = pool.submit(frozen.finish)
            for _ in range(30):
                lab.change(rng)
            done.result()
            assert lab.restored(frozen, target) == wanted
    lab.backend.close()


class FullDisk(MemoryKeyValueStore):
    """Cannot make the files of a snapshot."""

    def checkpoint(self, target_dir: str) -> list[LocalFile]:
        raise CheckpointError("no space left on device")


def test_a_snapshot_whose_files_cannot_be_made_fails_and_the_store_goes_on() -> None:
    store = DeferredStore(FullDisk())
    snapshot = store.defer([([(b"a", b"1")], ())], "nowhere")
    assert store.get_many([b"a"]) == [b"1"]
    for _ in range(2):
        with pytest.raises(CheckpointError, match="no space left"):
            snapshot.finish()
    assert store.get_many([b"a"]) == [b"1"]


class Broken(MemoryKeyValueStore):
    """Cannot be written to."""

    def write(self, puts: Any, deletes: Any = ()) -> None:
        raise OSError("input/output error")


def test_a_store_that_lacks_rows_is_not_used_any_more() -> None:
    store = DeferredStore(Broken())
    snapshot = store.defer([([(b"a", b"1")], ())], "nowhere")
    for use in (snapshot.finish, lambda: store.get_many([b"a"]), lambda: store.scan(b"a", b"b")):
        with pytest.raises(OSError, match="input/output error"):
            use()


def test_of_a_snapshot_that_is_given_up_no_files_are_made_and_all_rows_are_written(tmp_path: Path) -> None:
    store = DeferredStore(RocksDbStoreFactory().open(str(tmp_path / "store")))
    given_up = store.defer([([(b"a", b"1")], ())], str(tmp_path / "unwanted"))
    given_up.give_up()
    assert store.get_many([b"a"]) == [b"1"]
    assert not (tmp_path / "unwanted").exists()
    assert store.checkpoint(str(tmp_path / "wanted"))
    store.close()


def test_a_store_that_cannot_be_written_says_which_and_the_job_may_start_again(tmp_path: Path) -> None:
    store = RocksDbStoreFactory().open(str(tmp_path / "store"))
    store.close()  # as a disk that fails: every write is refused
    changes = (
        lambda: store.write([(b"a", b"1")]),
        lambda: store.write([], [b"a"]),
        lambda: store.delete_range(b"a", b"b"),
    )
    for change in changes:
        with pytest.raises(CheckpointError, match=r"cannot write the state store .*store"):
            change()


def test_a_snapshot_of_text_keys_shares_no_memory_with_the_table(tmp_path: Path) -> None:
    lab = Lab(tmp_path, "memory", 1 << 26)
    pane = lab.table.pane(0)
    pane.slots(lab.table.keys([pa.array([f"a key of some length {n}" for n in range(50)])]))
    frozen, target, _ = lab.freeze()
    wanted = content(lab.table)
    words = pane._map.keys._arena  # type: ignore[attr-defined]
    words[:] = np.uint64(0x2A2A2A2A2A2A2A2A)  # the table may do with its memory as it likes, now
    assert lab.restored(frozen, target) == wanted
    lab.backend.close()
