"""The slot table against a plain dictionary, under random operations, tiny budgets and restores."""

from __future__ import annotations

import datetime
import itertools
import tempfile
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakeward.engine.api.state import ColumnSpec, TableSpec
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.engine.state.table import SlotTable

Row = list[Any]
COLUMNS = (
    ColumnSpec("count", pa.int64(), 0),
    ColumnSpec("best", pa.float64(), -1.0),
    ColumnSpec("seen", pa.timestamp("us", "UTC")),
    ColumnSpec("label", pa.string()),
)


def _moment(number: int) -> datetime.datetime:
    return datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=number)


KEY_KINDS: dict[str, tuple[tuple[pa.DataType, ...], Callable[[int], tuple[Any, ...]]]] = {
    "int64": ((pa.int64(),), lambda n: (n * 7919 - 40_000,)),
    "int64 with null": ((pa.int64(),), lambda n: (None if n == 0 else n - 1,)),
    "string": ((pa.string(),), lambda n: ("" if n == 1 else "k" * (n % 21) + str(n),)),
    "string with null": ((pa.string(),), lambda n: (None if n == 0 else str(n) * (n % 5),)),
    "bytes": ((pa.binary(),), lambda n: (bytes([n % 3, 0, n % 256]) * (n % 7),)),
    "timestamp": ((pa.timestamp("us", "UTC"),), lambda n: (_moment(n),)),
    "composite": (
        (pa.string(), pa.int32(), pa.bool_()),
        lambda n: (None if n % 5 == 0 else "x" * (n % 4), None if n % 7 == 0 else n, bool(n % 2)),
    ),
}


class Pair:
    """A table and its model, changed together and compared."""

    def __init__(self, kind: str, factory: StoreFactory, memory_bytes: int) -> None:
        self.types, self.key_of = KEY_KINDS[kind]
        self.factory = factory
        self.memory_bytes = memory_bytes
        self.scratch = tempfile.TemporaryDirectory()
        self.names = (f"{self.scratch.name}/{n}" for n in itertools.count())
        self.spec = TableSpec("t", tuple((f"k{i}", t) for i, t in enumerate(self.types)), COLUMNS)
        self.model: dict[int, dict[tuple[Any, ...], Row]] = {}
        self.open(None)

    def open(self, source: RestoreSource | None) -> None:
        self.backend = StateBackend(self.factory, next(self.names), range(128), 128, self.memory_bytes)
        if source is not None:
            self.backend.restore([source])
        self.table: SlotTable = self.backend.table(self.spec)

    def keys(self, numbers: list[int]) -> tuple[list[tuple[Any, ...]], Any]:
        keys = [self.key_of(n) for n in numbers]
        columns = list(zip(*keys, strict=True)) if keys else [() for _ in self.types]
        arrays = [pa.array(c, t) for c, t in zip(columns, self.types, strict=True)]
        return keys, self.table.keys(arrays)

    def update(self, namespace: int, numbers: list[int]) -> None:
        keys, batch = self.keys(numbers)
        pane, rows = self.table.pane(namespace), self.model.setdefault(namespace, {})
        slots, first = pane.insert(batch)
        for key, is_first in zip(keys, first.tolist(), strict=True):
            assert is_first == (key not in rows)
            rows.setdefault(key, [0, -1.0, 0, None])
        np.add.at(pane.column("count"), slots, 1)
        np.maximum.at(pane.column("best"), slots, np.array(numbers, dtype=np.float64))
        pane.column("seen")[slots] = np.array(numbers, dtype=np.int64)
        for slot, number in zip(slots.tolist(), numbers, strict=True):
            pane.column("label")[slot] = None if number % 3 == 0 else f"n{number}"
        for key, number in zip(keys, numbers, strict=True):
            row = rows[key]
            row[0] += 1
            row[1] = max(row[1], float(number))
            row[2:] = [number, None if number % 3 == 0 else f"n{number}"]

    def find(self, namespace: int, numbers: list[int]) -> None:
        keys, batch = self.keys(numbers)
        pane, rows = self.table.pane(namespace), self.model.get(namespace, {})
        slots = pane.find(batch)
        assert (slots >= 0).tolist() == [key in rows for key in keys]
        counts = pane.column("count")
        for key, slot in zip(keys, slots.tolist(), strict=True):
            if slot >= 0:
                assert counts[slot] == rows[key][0]

    def remove(self, namespace: int, numbers: list[int]) -> None:
        keys, batch = self.keys(numbers)
        self.table.pane(namespace).remove(batch)
        for key in keys:
            self.model.get(namespace, {}).pop(key, None)

    def drop(self, namespace: int) -> None:
        self.table.drop(namespace)
        self.model.pop(namespace, None)

    def idle(self) -> None:
        for _ in range(10):
            self.keys([])

    def snapshot(self) -> RestoreSource:
        target = next(self.names)
        files = self.backend.snapshot(target)
        return RestoreSource(files.tables, target, 0, 128)

    def restore(self) -> None:
        source = self.snapshot()
        self.backend.close()
        self.open(source)

    def close(self) -> None:
        self.backend.close()
        self.scratch.cleanup()

    def check(self) -> None:
        live = {namespace: rows for namespace, rows in self.model.items() if rows}
        assert self.table.namespaces() == sorted(live)
        for namespace, rows in live.items():
            assert len(self.table.pane(namespace)) == len(rows)
            assert scanned(self.table, namespace, len(self.types)) == {
                key: [row[0], row[1], row[2], row[3]] for key, row in rows.items()
            }


def scanned(table: SlotTable, namespace: int, key_columns: int) -> dict[tuple[Any, ...], Row]:
    found: dict[tuple[Any, ...], Row] = {}
    for batch in table.pane(namespace).scan():
        assert batch.schema.equals(table.spec.schema)
        seen = batch.column("seen").view(pa.int64()).to_pylist()
        columns = [batch.column(i).to_pylist() for i in range(key_columns)]
        fields = [batch.column("count").to_pylist(), batch.column("best").to_pylist(), seen]
        fields.append(batch.column("label").to_pylist())
        for key, row in zip(zip(*columns, strict=True), zip(*fields, strict=True), strict=True):
            assert key not in found
            found[key] = list(row)
    return found


NUMBERS = st.one_of(
    st.lists(st.integers(0, 60), max_size=40),
    st.tuples(st.integers(0, 400), st.integers(1, 300)).map(lambda t: list(range(t[0], t[0] + t[1]))),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["update", "update", "update", "find", "remove"]), st.integers(-1, 1), NUMBERS),
        st.tuples(st.sampled_from(["drop"]), st.integers(-1, 1)),
        st.tuples(st.sampled_from(["snapshot", "restore", "check", "idle"])),
    ),
    min_size=1,
    max_size=20,
)


def play(kind: str, factory: StoreFactory, memory_bytes: int, steps: list[tuple[Any, ...]]) -> None:
    pair = Pair(kind, factory, memory_bytes)
    for name, *arguments in steps:
        getattr(pair, name)(*arguments)
    pair.check()
    pair.restore()
    pair.check()
    pair.close()


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("memory_bytes", [1 << 30, 20_000, 1])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_a_table_behaves_like_a_dictionary(kind: str, memory_bytes: int, steps: list[tuple[Any, ...]]) -> None:
    play(kind, MemoryStoreFactory(), memory_bytes, steps)


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_a_long_random_program_on_little_memory_behaves_like_a_dictionary(kind: str, seed: int) -> None:
    random = Random(seed)
    pair = Pair(kind, MemoryStoreFactory(), random.choice([1, 30_000, 80_000]))
    for _ in range(60):
        name = random.choice(["update"] * 4 + ["find"] * 3 + ["remove", "snapshot", "restore", "check", "idle"])
        if name in ("update", "find", "remove"):
            start, count = random.randrange(600), random.choice([0, 1, 20, 300])
            numbers = [random.randrange(start, start + 300) for _ in range(count)]
            getattr(pair, name)(random.choice([0, 0, 0, 7]), numbers)
        else:
            getattr(pair, name)()
        if random.random() < 0.02:
            pair.drop(7)
    pair.check()
    pair.close()


@pytest.mark.parametrize("kind", ["int64 with null", "string", "composite"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_a_table_over_rocksdb_behaves_like_a_dictionary(kind: str, steps: list[tuple[Any, ...]]) -> None:
    play(kind, RocksDbStoreFactory(), 20_000, steps)
