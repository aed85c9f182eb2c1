"""The row table against a plain list of rows, under random operations, tiny budgets and restores at any parallelism."""

from __future__ import annotations

import datetime
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import SubtaskIndex
from lakeward.engine.core.keygroups import key_group_range, key_groups
from lakeward.engine.state import row_rescale, row_table
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.engine.state.rocksdb import RocksDbStoreFactory

Row = dict[str, Any]
GROUPS = 16
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
MASK = (1 << 64) - 1


def unmixed(value: int) -> int:
    """The number whose `splitmix64` is `value`: keys that collide on purpose."""
    value ^= (value >> 31) ^ (value >> 62)
    value = value * pow(0x94D049BB133111EB, -1, 1 << 64) & MASK
    value ^= (value >> 27) ^ (value >> 54)
    value = value * pow(0xBF58476D1CE4E5B9, -1, 1 << 64) & MASK
    value ^= (value >> 30) ^ (value >> 60)
    return (value - 0x9E3779B97F4A7C15) & MASK


def signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


KEY_KINDS: dict[str, tuple[tuple[pa.DataType, ...], Callable[[int], tuple[Any, ...]]]] = {
    "int64": ((pa.int64(),), lambda n: (n * 7919 - 40_000,)),
    "int64 with null": ((pa.int64(),), lambda n: (None if n == 0 else n - 1,)),
    "int64 that collide": ((pa.int64(),), lambda n: (signed(unmixed(n << 40)),)),
    "string with null": ((pa.string(),), lambda n: (None if n == 0 else "" if n == 1 else "k" * (n % 21) + str(n),)),
    "timestamp": ((pa.timestamp("us", "UTC"),), lambda n: (NOON + datetime.timedelta(seconds=n),)),
    "composite": (
        (pa.string(), pa.int32()),
        lambda n: (None if n % 5 == 4 else "x" * (n % 4), None if n % 7 == 6 else n),
    ),
}
PAYLOAD = {
    "u": pa.int64(),
    "label": pa.string(),
    "price": pa.decimal128(12, 3),
    "at": pa.timestamp("us", "UTC"),
    "nested": pa.struct([("a", pa.list_(pa.int32())), ("b", pa.string())]),
}
MUTABLE = {"hits": pa.int64(), "seen": pa.timestamp("us", "UTC"), "flag": pa.bool_()}


def payload(u: int) -> Row:
    """A row's fields, made of its number, with nulls here and there."""
    return {
        "u": u,
        "label": None if u % 3 == 0 else f"row {u}",
        "price": None if u % 5 == 0 else Decimal(u) / 8,
        "at": None if u % 7 == 0 else NOON + datetime.timedelta(microseconds=u),
        "nested": None if u % 4 == 0 else {"a": [u, None], "b": "b" * (u % 3)},
    }


def test_keys_that_collide_do_collide() -> None:
    keys = pa.array([KEY_KINDS["int64 that collide"][1](n)[0] for n in range(50)])
    assert hash_columns([keys]).tolist() == [n << 40 for n in range(50)]


class Cluster:
    """The subtasks of an operator with a row table, and a list of the rows that they must hold together."""

    def __init__(self, kind: str, factory: StoreFactory, memory_bytes: int) -> None:
        types, self.key_of = KEY_KINDS[kind]
        self.key_types = {f"k{i}": kind for i, kind in enumerate(types)}
        self.factory = factory
        self.memory_bytes = memory_bytes
        self.scratch = tempfile.TemporaryDirectory()
        self.names = (f"{self.scratch.name}/{n}" for n in itertools.count())
        schema = pa.schema(
            self.key_types | {"hits": pa.int64()} | PAYLOAD | {"seen": MUTABLE["seen"], "flag": pa.bool_()}
        )
        self.spec = RowsSpec("t", schema, tuple(self.key_types), tuple(MUTABLE))
        self.rows: dict[int, tuple[int, Row]] = {}
        self.numbers = itertools.count()
        self.rescaled = False
        self.open(1, [])

    def open(self, parallelism: int, sources: list[RestoreSource]) -> None:
        self.groups = [key_group_range(SubtaskIndex(i), parallelism, GROUPS) for i in range(parallelism)]
        self.backends = [
            StateBackend(self.factory, next(self.names), g, GROUPS, self.memory_bytes) for g in self.groups
        ]
        for backend in self.backends if sources else []:
            backend.restore(sources)
        self.tables = [backend.rows(self.spec) for backend in self.backends]
        self.ids: dict[int, tuple[int, int]] = {}
        for subtask, table in enumerate(self.tables):
            for ids, batch in table.scan():
                self.ids |= {u: (subtask, i) for u, i in zip(batch["u"].to_pylist(), ids.tolist(), strict=True)}

    def subtasks(self, keys: list[tuple[Any, ...]]) -> tuple[list[pa.Array], list[int]]:
        columns: Any = zip(*keys, strict=True) if keys else [() for _ in self.key_types]
        arrays = [pa.array(c, t) for c, t in zip(columns, self.key_types.values(), strict=True)]
        groups = key_groups(hash_columns(arrays), GROUPS).tolist()
        return arrays, [next(i for i, mine in enumerate(self.groups) if group in mine) for group in groups]

    def append(self, namespace: int, numbers: list[int]) -> None:
        fresh = []
        for number in numbers:
            u = next(self.numbers)
            key = dict(zip(self.key_types, self.key_of(number), strict=True))
            fresh.append(key | payload(u) | {"hits": u, "seen": NOON, "flag": False})
        _, subtasks = self.subtasks([self.key_of(n) for n in numbers])
        for subtask, table in enumerate(self.tables):
            mine = [row for row, owner in zip(fresh, subtasks, strict=True) if owner == subtask]
            batch = pa.RecordBatch.from_pylist(mine, schema=self.spec.schema)
            ids = table.append(batch, namespace).tolist()
            self.ids |= {row["u"]: (subtask, i) for row, i in zip(mine, ids, strict=True)}
        self.rows |= {row["u"]: (namespace, row) for row in fresh}

    def find(self, numbers: list[int], namespaces: list[int] | None) -> None:
        keys = [self.key_of(n) for n in numbers]
        arrays, subtasks = self.subtasks(keys)
        by_key: dict[Any, list[int]] = {}
        for u, (namespace, row) in self.rows.items():
            if namespaces is None or namespace in namespaces:
                by_key.setdefault(tuple(row[name] for name in self.key_types), []).append(u)
        for subtask, table in enumerate(self.tables):
            positions = [i for i, owner in enumerate(subtasks) if owner == subtask]
            found = table.find([array.take(pa.array(positions, pa.int64())) for array in arrays], namespaces)
            wanted = [(i, u) for i, p in enumerate(positions) if None not in keys[p] for u in by_key.get(keys[p], [])]
            got = table.take(found.ids, ["u"])["u"].to_pylist()
            assert list(zip(found.rows.tolist(), got, strict=True)) == wanted

    def some(self, random: Random, share: float, repeat: bool = False) -> Iterator[tuple[Any, list[int], Any]]:
        """A random part of the rows, by subtask."""
        for subtask, table in enumerate(self.tables):
            mine = [u for u in self.rows if self.ids[u][0] == subtask]
            chosen = random.sample(mine, int(len(mine) * share))
            if repeat and chosen:
                chosen += random.choices(chosen, k=3)
            yield table, chosen, np.array([self.ids[u][1] for u in chosen], dtype=np.int64)

    def take(self, random: Random, columns: list[str] | None) -> None:
        names = columns or self.spec.schema.names
        for table, chosen, ids in self.some(random, 0.6, repeat=True):
            batch = table.take(ids, columns)
            assert batch.schema.equals(pa.schema([self.spec.schema.field(name) for name in names]))
            expected = [{name: self.rows[u][1][name] for name in names} for u in chosen]
            assert batch.to_pylist() == expected
            order = table.reading_order(ids)
            assert sorted(order.tolist()) == list(range(len(ids)))
            assert table.take(ids[order], columns).to_pylist() == [expected[row] for row in order.tolist()]

    def set(self, random: Random) -> None:
        for table, chosen, ids in self.some(random, 0.4, repeat=True):
            values = np.array([random.randrange(10**6) for _ in chosen], dtype=np.int64)
            table.set("hits", ids, values)
            table.set("flag", ids, values % 2 == 0)
            table.set("seen", ids, values)
            for u, value in zip(chosen, values.tolist(), strict=True):
                seen = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(microseconds=value)
                self.rows[u][1].update(hits=value, flag=value % 2 == 0, seen=seen)
            assert table.get("hits", ids).tolist() == [self.rows[u][1]["hits"] for u in chosen]
            assert table.get("seen", ids).dtype == np.int64

    def remove(self, random: Random, share: float) -> None:
        for table, chosen, ids in self.some(random, share):
            table.remove(ids)
            for u in chosen:
                del self.rows[u], self.ids[u]

    def drop(self, namespace: int) -> None:
        for table in self.tables:
            table.drop(namespace)
        self.rows = {u: row for u, row in self.rows.items() if row[0] != namespace}

    def idle(self) -> None:
        for table in self.tables:
            for _ in range(10):
                table.find([pa.array([], kind) for kind in self.key_types.values()])

    def snapshot(self) -> list[RestoreSource]:
        targets = [next(self.names) for _ in self.backends]
        saved = [backend.snapshot(target) for backend, target in zip(self.backends, targets, strict=True)]
        parts = zip(saved, targets, self.groups, strict=True)
        return [RestoreSource(files.tables, target, g.start, g.stop) for files, target, g in parts]

    def restore(self, parallelism: int) -> None:
        sources = self.snapshot()
        self.close()
        self.rescaled |= parallelism > 1
        self.open(parallelism, sources)

    def close(self) -> None:
        for backend in self.backends:
            backend.close()

    def check(self) -> None:
        assert sum(len(table) for table in self.tables) == len(self.rows)
        assert {n for table in self.tables for n in table.namespaces()} == {n for n, _ in self.rows.values()}
        seen: list[int] = []
        for subtask, table in enumerate(self.tables):
            assert table.namespaces() == sorted(table.namespaces())
            parts = {n: self.scanned(table, subtask, n) for n in table.namespaces()}
            assert all({self.rows[u][0] for u in part} == {n} for n, part in parts.items())
            assert self.scanned(table, subtask, None) == [u for part in parts.values() for u in part]
            if len(self.tables) == 1 and not self.rescaled:
                assert all(part == sorted(part) for part in parts.values())
            seen += self.scanned(table, subtask, None)
            assert self.scanned(table, subtask, 12345) == []
        assert sorted(seen) == sorted(self.rows)

    def scanned(self, table: Any, subtask: int, namespace: int | None) -> list[int]:
        numbers = []
        for ids, batch in table.scan(namespace):
            assert batch.schema.equals(self.spec.schema)
            for i, row in zip(ids.tolist(), batch.to_pylist(), strict=True):
                assert self.ids[row["u"]] == (subtask, i)
                assert self.rows[row["u"]][1] == row
                numbers.append(row["u"])
        return numbers


NUMBERS = st.one_of(
    st.lists(st.integers(0, 40), max_size=30),
    st.tuples(st.integers(0, 60), st.integers(1, 90)).map(lambda t: list(range(t[0], t[0] + t[1]))),
    st.tuples(st.integers(0, 3), st.integers(1, 90)).map(lambda t: [t[0]] * t[1]),
)
NAMESPACE = st.sampled_from([-3, 0, 0, 2**40])
RANDOM = st.integers(0, 10**6).map(Random)
STEP = st.one_of(
    st.tuples(st.just("append"), NAMESPACE, NUMBERS),
    st.tuples(st.just("append"), NAMESPACE, NUMBERS),
    st.tuples(st.just("find"), NUMBERS, st.one_of(st.none(), st.lists(NAMESPACE, max_size=3))),
    st.tuples(st.just("take"), RANDOM, st.sampled_from([None, ["u"], ["hits", "label", "k0"], ["nested", "flag"]])),
    st.tuples(st.just("set"), RANDOM),
    st.tuples(st.just("remove"), RANDOM, st.sampled_from([0.1, 0.6, 1.0])),
    st.tuples(st.just("drop"), NAMESPACE),
    st.tuples(st.sampled_from(["snapshot", "check", "idle"])),
    st.tuples(st.just("restore"), st.integers(1, 3)),
)


@contextmanager
def small_chunks(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Chunks of a few rows, so that few rows meet every way of joining and compacting them."""
    with patch.context() as small:
        small.setattr(row_table, "CHUNK_ROWS_MIN", 16)
        small.setattr(row_table, "CHUNK_ROWS_MAX", 40)
        small.setattr(row_rescale, "CHUNK_ROWS_MIN", 16)
        yield


def play(kind: str, factory: StoreFactory, memory_bytes: int, steps: list[tuple[Any, ...]]) -> None:
    cluster = Cluster(kind, factory, memory_bytes)
    try:
        for name, *arguments in steps:
            getattr(cluster, name)(*arguments)
        cluster.check()
        cluster.restore(2)
        cluster.check()
        cluster.find(list(range(100)), None)
    finally:
        cluster.close()
        cluster.scratch.cleanup()


SETTINGS = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("kind", KEY_KINDS)
@pytest.mark.parametrize("memory_bytes", [1 << 30, 1])
@SETTINGS
@given(steps=st.lists(STEP, min_size=1, max_size=15))
def test_a_row_table_behaves_like_a_list(kind: str, memory_bytes: int, steps: list[tuple[Any, ...]]) -> None:
    with small_chunks(pytest.MonkeyPatch()):
        play(kind, MemoryStoreFactory(), memory_bytes, steps)


@pytest.mark.parametrize("kind", ["int64 with null", "composite"])
@settings(SETTINGS, max_examples=4)
@given(steps=st.lists(STEP, min_size=1, max_size=12))
def test_a_row_table_over_rocksdb_behaves_like_a_list(kind: str, steps: list[tuple[Any, ...]]) -> None:
    with small_chunks(pytest.MonkeyPatch()):
        play(kind, RocksDbStoreFactory(), 30_000, steps)


@pytest.mark.parametrize(("seed", "kind"), list(enumerate(KEY_KINDS)))
def test_a_long_random_program_behaves_like_a_list(seed: int, kind: str) -> None:
    random = Random(seed)
    cluster = Cluster(kind, MemoryStoreFactory(), random.choice([1, 60_000, 1 << 30]))
    steps: list[Callable[[], None]] = [
        lambda: cluster.append(random.choice([0, 0, 7]), random.choices(range(60), k=random.choice([0, 1, 20, 200]))),
        lambda: cluster.append(0, random.choices([1, 2, 3], [50, 5, 1], k=random.choice([1, 40]))),
        lambda: cluster.find(
            random.choices(range(60), k=random.choice([0, 5, 50])), random.choice([None, [0], [7, 0]])
        ),
        lambda: cluster.take(random, None),
        lambda: cluster.set(random),
        lambda: cluster.remove(random, random.choice([0.02, 0.3])),
        lambda: cluster.restore(random.randint(1, 4)),
        lambda: cluster.drop(7) if random.random() < 0.2 else cluster.check(),
    ]
    with small_chunks(pytest.MonkeyPatch()):
        for _ in range(40):
            random.choice(steps)()
        cluster.check()
    cluster.close()
    cluster.scratch.cleanup()
