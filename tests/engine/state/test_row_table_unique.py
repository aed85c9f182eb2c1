"""Tables of unique keys against a dictionary: finding or adding, removals, restores, rescaling by a part of the key."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.errors import CheckpointError, InternalError, SchemaError
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.keygroups import key_groups
from lakeward.engine.state import keys, row_table
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.engine.state.row_table import ChunkedRowTable

GROUPS = 8
KINDS: dict[str, pa.DataType] = {"int64": pa.int64(), "timestamp": pa.timestamp("us"), "string": pa.string()}
NUMBERS = st.lists(st.integers(0, 80), max_size=60, unique=True)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 1), NUMBERS),
        st.tuples(st.just("add"), st.integers(0, 1), NUMBERS),
        st.tuples(st.just("add"), st.integers(0, 1), NUMBERS),
        st.tuples(st.just("remove"), st.integers(0, 1), NUMBERS),
        st.tuples(st.just("append"), st.integers(0, 1), NUMBERS),
        st.tuples(st.just("drop"), st.integers(0, 1)),
        st.tuples(st.just("restore"), st.integers(1, 3)),
    ),
    max_size=14,
)


def spec_of(kind: pa.DataType) -> RowsSpec:
    schema = pa.schema({"owner": pa.int64(), "value": kind, "text": pa.string(), "n": pa.int64()})
    return RowsSpec("rows", schema, ("owner", "value"), ("n",), routing=1, unique=True)


class Program:
    """The subtasks that share a table, and what they must hold together."""

    def __init__(self, kind: pa.DataType, factory: StoreFactory, memory_bytes: int, directory: str) -> None:
        self.spec, self.factory, self.memory_bytes = spec_of(kind), factory, memory_bytes
        self.names = (f"{directory}/{number}" for number in itertools.count())
        self.expected: dict[tuple[int, int], tuple[str, int]] = {}
        self.stamps = itertools.count()
        self.open(1, [])

    def open(self, parallelism: int, sources: list[RestoreSource]) -> None:
        edges = [GROUPS * number // parallelism for number in range(parallelism + 1)]
        self.groups = [range(*pair) for pair in itertools.pairwise(edges)]
        self.backends = [
            StateBackend(self.factory, next(self.names), part, GROUPS, self.memory_bytes) for part in self.groups
        ]
        for backend in self.backends if sources else []:
            backend.restore(sources)
        self.tables = [backend.rows(self.spec) for backend in self.backends]

    def batch(self, numbers: list[int], stamp: int) -> pa.RecordBatch:
        kind = self.spec.schema.field("value").type
        values = pa.array(numbers, pa.int64()).cast(kind)
        owners, texts = [number % 7 for number in numbers], [f"{number} at {stamp}" for number in numbers]
        arrays = [pa.array(owners, pa.int64()), values, pa.array(texts, pa.string())]
        arrays.append(pa.array([stamp] * len(numbers), pa.int64()))
        return pa.RecordBatch.from_arrays(arrays, schema=self.spec.schema)

    def parts(self, numbers: list[int]) -> list[tuple[ChunkedRowTable, list[int]]]:
        """Each subtask's numbers: the owner alone decides whose they are."""
        groups = key_groups(hash_columns([pa.array([number % 7 for number in numbers], pa.int64())]), GROUPS).tolist()
        return [
            (table, [number for number, group in zip(numbers, groups, strict=True) if group in mine])
            for table, mine in zip(self.tables, self.groups, strict=True)
        ]

    def held(self, table: ChunkedRowTable, namespace: int, numbers: list[int]) -> Any:
        batch = self.batch(numbers, 0)
        found = table.find([batch.column("owner"), batch.column("value")], [namespace])
        ids = np.full(len(numbers), -1, np.int64)
        ids[found.rows] = found.ids
        assert len(found.ids) == np.count_nonzero(ids >= 0)
        return ids

    def add(self, namespace: int, numbers: list[int]) -> None:
        stamp = next(self.stamps)
        for table, mine in self.parts(numbers):
            ids, new = table.find_or_append(self.batch(mine, stamp), namespace)
            assert [mine[row] for row in new] == [n for n in mine if (namespace, n) not in self.expected]
            assert table.get("n", ids).tolist() == [self.expected.get((namespace, n), ("", stamp))[1] for n in mine]
            assert self.held(table, namespace, mine).tolist() == ids.tolist()
            for number in mine:
                self.expected.setdefault((namespace, number), (f"{number} at {stamp}", stamp))

    def append(self, namespace: int, numbers: list[int]) -> None:
        stamp = next(self.stamps)
        for table, mine in self.parts([n for n in numbers if (namespace, n) not in self.expected]):
            table.append(self.batch(mine, stamp), namespace)
            self.expected |= {(namespace, number): (f"{number} at {stamp}", stamp) for number in mine}

    def remove(self, namespace: int, numbers: list[int]) -> None:
        for table, mine in self.parts([n for n in numbers if (namespace, n) in self.expected]):
            table.remove(self.held(table, namespace, mine))
            for number in mine:
                del self.expected[namespace, number]

    def drop(self, namespace: int) -> None:
        for table in self.tables:
            table.drop(namespace)
        self.expected = {key: value for key, value in self.expected.items() if key[0] != namespace}

    def restore(self, parallelism: int) -> None:
        sources = []
        for backend, groups in zip(self.backends, self.groups, strict=True):
            target = next(self.names)
            sources.append(RestoreSource(backend.snapshot(target).tables, target, groups.start, groups.stop))
            backend.close()
        self.open(parallelism, sources)

    def check(self) -> None:
        found = [
            ((namespace, number), (row["text"], row["n"]))
            for table in self.tables
            for namespace in table.namespaces()
            for _, batch in table.scan(namespace)
            for row, number in zip(batch.to_pylist(), batch["value"].cast(pa.int64()).to_pylist(), strict=True)
        ]
        assert sorted(found) == sorted(self.expected.items())
        assert sum(map(len, self.tables)) == len(found)

    def close(self) -> None:
        for backend in self.backends:
            backend.close()


@pytest.mark.parametrize("collide", [False, True], ids=["", "colliding hashes"])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(steps=STEPS, memory_bytes=st.sampled_from([1 << 28, 1]), on_disk=st.booleans())
def test_rows_of_unique_keys_behave_like_a_dictionary(
    kind: str, collide: bool, steps: list[tuple[Any, ...]], memory_bytes: int, on_disk: bool
) -> None:
    factory: StoreFactory = RocksDbStoreFactory() if on_disk else MemoryStoreFactory()
    with pytest.MonkeyPatch().context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(row_table, "CHUNK_ROWS_MIN", 16)
        patch.setattr(row_table, "CHUNK_ROWS_MAX", 40)
        if collide:  # the bucket is the owner's alone
            patch.setattr(keys, "_LOW_HALF", np.uint64(0))
        program = Program(KINDS[kind], factory, memory_bytes, directory)
        for name, *arguments in steps:
            getattr(program, name)(*arguments)
            program.check()
        program.restore(1)
        program.check()
        program.close()


def test_a_null_in_the_key_is_refused_and_nothing_is_added(tmp_path: object) -> None:
    spec = spec_of(pa.int64())
    table = StateBackend(MemoryStoreFactory(), f"{tmp_path}", range(8), 8, 1 << 28).rows(spec)
    with pytest.raises(SchemaError, match="'rows' is given a null in a key column"):
        table.find_or_append(pa.RecordBatch.from_pylist([{"owner": 1, "n": 1}], schema=spec.schema))
    assert len(table) == 0


def test_only_tables_of_unique_keys_find_or_append(tmp_path: object) -> None:
    schema = pa.schema({"k": pa.int64(), "v": pa.int64()})
    table = StateBackend(MemoryStoreFactory(), f"{tmp_path}", range(8), 8, 1 << 28).rows(RowsSpec("t", schema, ("k",)))
    with pytest.raises(InternalError, match="the keys of state table 't' are not unique"):
        table.find_or_append(pa.RecordBatch.from_pylist([{"k": 1, "v": 1}], schema=schema))


def test_two_rows_of_one_key_are_noticed_when_they_are_looked_for(tmp_path: object) -> None:
    spec = spec_of(pa.int64())
    table = StateBackend(MemoryStoreFactory(), f"{tmp_path}", range(8), 8, 1 << 28).rows(spec)
    twice = [{"owner": 1, "value": 2, "n": n} for n in (1, 2)]
    table.append(pa.RecordBatch.from_pylist(twice, schema=spec.schema))
    with pytest.raises(InternalError, match=r"two rows of \{'owner': 1, 'value': 2\}"):
        table.find_or_append(pa.RecordBatch.from_pylist(twice[:1], schema=spec.schema))


def test_a_table_that_other_columns_of_the_key_routed_is_refused(tmp_path: object) -> None:
    spec = spec_of(pa.int64())
    backend = StateBackend(MemoryStoreFactory(), f"{tmp_path}/a", range(8), 8, 1 << 28)
    backend.rows(spec)
    source = RestoreSource(backend.snapshot(f"{tmp_path}/saved").tables, f"{tmp_path}/saved", 0, 8)
    again = StateBackend(MemoryStoreFactory(), f"{tmp_path}/b", range(8), 8, 1 << 28)
    again.restore([source])
    with pytest.raises(CheckpointError, match="other columns of the key decide where its rows go"):
        again.rows(RowsSpec("rows", spec.schema, spec.key, spec.mutable))


def test_the_index_of_restored_rows_counts_as_memory_as_soon_as_it_is_made(tmp_path: object) -> None:
    spec = spec_of(pa.int64())
    backend = StateBackend(MemoryStoreFactory(), f"{tmp_path}/a", range(8), 8, 1 << 28)
    rows = pa.RecordBatch.from_pylist([{"owner": n, "value": n, "n": n} for n in range(1000)], schema=spec.schema)
    backend.rows(spec).find_or_append(rows)
    source = RestoreSource(backend.snapshot(f"{tmp_path}/saved").tables, f"{tmp_path}/saved", 0, 8)
    again = StateBackend(MemoryStoreFactory(), f"{tmp_path}/b", range(8), 8, 1 << 28)
    again.restore([source])
    table = again.rows(spec)
    before = again.used_bytes
    _, new = table.find_or_append(rows)
    assert not len(new)
    assert again.used_bytes > before
