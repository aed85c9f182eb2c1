"""Replacing rows in place against a dictionary, under tiny budgets, removals and restores."""

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
from lakeward.engine.core.errors import InternalError
from lakeward.engine.state import row_table
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.engine.state.row_table import ChunkedRowTable

SCHEMA = pa.schema({"k": pa.string(), "text": pa.string(), "n": pa.int64()})
SPEC = RowsSpec("rows", SCHEMA, ("k",), ("n",))
KEYS = st.lists(st.integers(0, 60), max_size=50, unique=True)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS),
        st.tuples(st.just("put"), KEYS),
        st.tuples(st.just("remove"), KEYS),
        st.tuples(st.just("restore"), st.booleans()),
    ),
    max_size=14,
)


def rows(keys: list[int], stamp: int) -> pa.RecordBatch:
    values = [{"k": f"k{key}", "text": f"{key} at {stamp}", "n": stamp} for key in keys]
    return pa.RecordBatch.from_pylist(values, schema=SCHEMA)


def held(table: ChunkedRowTable, keys: list[int]) -> np.ndarray:
    found = table.find([pa.array([f"k{key}" for key in keys], pa.string())])
    ids = np.full(len(keys), -1, np.int64)
    ids[found.rows] = found.ids
    assert len(found.ids) == np.count_nonzero(ids >= 0)  # one row a key
    return ids


class Program:
    """A backend that is saved and opened again, and what it must hold."""

    def __init__(self, factory: StoreFactory, memory_bytes: int, directory: str) -> None:
        self.factory, self.memory_bytes = factory, memory_bytes
        self.names = (f"{directory}/{number}" for number in itertools.count())
        self.expected: dict[int, int] = {}
        self.stamps = itertools.count()
        self.backend = self.opened([], range(8))
        self.table = self.backend.rows(SPEC)

    def opened(self, sources: list[RestoreSource], groups: range) -> StateBackend:
        backend = StateBackend(self.factory, next(self.names), groups, 8, self.memory_bytes)
        if sources:
            backend.restore(sources)
        return backend

    def put(self, keys: list[int]) -> None:
        stamp, before = next(self.stamps), held(self.table, keys)
        assert (before >= 0).tolist() == [key in self.expected for key in keys]
        ids = self.table.put(rows(keys, stamp), before)
        assert ids[before >= 0].tolist() == before[before >= 0].tolist()
        assert held(self.table, keys).tolist() == ids.tolist()
        self.expected |= dict.fromkeys(keys, stamp)

    def remove(self, keys: list[int]) -> None:
        keys = [key for key in keys if key in self.expected]
        self.table.remove(held(self.table, keys))
        for key in keys:
            del self.expected[key]

    def restore(self, copied: bool) -> None:
        target = next(self.names)
        saved = RestoreSource(self.backend.snapshot(target).tables, target, 0, 8)
        self.backend.close()
        if copied:  # two halves and then the whole again: rows are copied twice
            halves = [self.opened([saved], groups) for groups in (range(4), range(4, 8))]
            for half in halves:
                half.rows(SPEC)
            targets = [next(self.names) for _ in halves]
            files = [half.snapshot(target) for half, target in zip(halves, targets, strict=True)]
            parts = zip(files, targets, (0, 4), strict=True)
            sources = [RestoreSource(one.tables, directory, first, first + 4) for one, directory, first in parts]
            self.backend = self.opened(sources, range(8))
            for half in halves:
                half.close()
        else:
            self.backend = self.opened([saved], range(8))
        self.table = self.backend.rows(SPEC)

    def check(self) -> None:
        found: dict[str, Any] = {}
        for _, batch in self.table.scan():
            for row in batch.to_pylist():
                assert row["k"] not in found
                found[row["k"]] = (row["text"], row["n"])
        assert found == {f"k{key}": (f"{key} at {stamp}", stamp) for key, stamp in self.expected.items()}
        assert len(self.table) == len(found)


@pytest.mark.parametrize("memory_bytes", [1 << 28, 1])
@pytest.mark.parametrize("kind", ["memory", "rocksdb"])
@settings(max_examples=12, deadline=None)
@given(steps=STEPS)
def test_rows_that_are_put_behave_like_a_dictionary(kind: str, memory_bytes: int, steps: list[tuple[str, Any]]) -> None:
    factory: StoreFactory = MemoryStoreFactory() if kind == "memory" else RocksDbStoreFactory()
    with pytest.MonkeyPatch().context() as small, tempfile.TemporaryDirectory() as directory:
        small.setattr(row_table, "CHUNK_ROWS_MIN", 16)
        small.setattr(row_table, "CHUNK_ROWS_MAX", 40)
        program = Program(factory, memory_bytes, directory)
        for name, argument in steps:
            getattr(program, name)(argument)
            program.check()
        program.restore(copied=False)
        program.check()
        program.backend.close()


def test_a_row_is_replaced_once_and_in_its_namespace(tmp_path: object) -> None:
    table = StateBackend(MemoryStoreFactory(), f"{tmp_path}", range(8), 8, 1 << 28).rows(SPEC)
    ids = table.append(rows([1, 2], 0))
    with pytest.raises(InternalError, match="removed twice"):
        table.put(rows([1, 1], 1), ids[[0, 0]])
    other = table.append(rows([3], 0), 7)
    with pytest.raises(InternalError, match="another namespace"):
        table.put(rows([3], 1), other)
