"""Tables whose first key columns alone decide the key group."""

from __future__ import annotations

import itertools
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.state import ColumnSpec, TableSpec
from lakeward.engine.core.errors import CheckpointError, SchemaError
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import KeyGroup, SubtaskIndex
from lakeward.engine.core.keygroups import key_group_range, key_groups, subtask_of
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.keys import KeyCodec
from lakeward.engine.state.memory import MemoryStoreFactory

GROUPS = 128
COUNT = (ColumnSpec("n", pa.int64()),)
KEYS: dict[str, tuple[tuple[tuple[str, pa.DataType], ...], int]] = {
    "(string | int)": ((("k", pa.string()), ("x", pa.int64())), 1),
    "(int | string)": ((("k", pa.int64()), ("x", pa.string())), 1),
    "(string, int | string)": ((("k", pa.string()), ("l", pa.int32()), ("x", pa.string())), 2),
}
Columns = list[pa.Array]


def columns(key: tuple[tuple[str, pa.DataType], ...], rows: list[tuple[int | None, ...]]) -> Columns:
    """Key columns out of small numbers: strings are made of them."""
    arrays = []
    for position, (_, kind) in enumerate(key):
        numbers = [row[position] for row in rows]
        texts = [None if n is None else "t" * (n % 12) + str(n) for n in numbers]
        arrays.append(pa.array(texts if pa.types.is_string(kind) else numbers, kind))
    return arrays


def owners(routed: Columns, parallelism: int) -> list[int]:
    """Where an exchange that is keyed by these columns sends rows."""
    return [
        int(subtask_of(KeyGroup(g), parallelism, GROUPS)) for g in key_groups(hash_columns(routed), GROUPS).tolist()
    ]


class Tables:
    """The same table in every subtask of an operator."""

    def __init__(self, spec: TableSpec, directory: str) -> None:
        self.spec = spec
        self.names = (f"{directory}/{n}" for n in itertools.count())

    def open(self, parallelism: int, sources: list[RestoreSource]) -> None:
        self.groups = [key_group_range(SubtaskIndex(i), parallelism, GROUPS) for i in range(parallelism)]
        self.backends = []
        for groups in self.groups:
            backend = StateBackend(MemoryStoreFactory(), next(self.names), groups, GROUPS, 1 << 24)
            backend.restore(sources)
            self.backends.append(backend)
        self.tables = [backend.table(self.spec) for backend in self.backends]

    def rescale(self, parallelism: int) -> None:
        sources = []
        for backend, groups in zip(self.backends, self.groups, strict=True):
            target = next(self.names)
            sources.append(RestoreSource(backend.snapshot(target).tables, target, groups.start, groups.stop))
        self.open(parallelism, sources)

    def count(self, arrays: Columns, routing: int) -> list[int]:
        """Count rows where the exchange sends them; returns the counts of their keys."""
        counts = np.zeros(len(arrays[0]), dtype=np.int64)
        sent = np.array(owners(arrays[:routing], len(self.tables)), dtype=np.int64)
        for subtask, table in enumerate(self.tables):
            rows = np.flatnonzero(sent == subtask)
            pane = table.pane()
            slots = pane.slots(table.keys([array.take(pa.array(rows)) for array in arrays]))
            np.add.at(pane.column("n"), slots, 1)
            counts[rows] = pane.column("n")[slots]
        return counts.tolist()


NUMBERS = st.one_of(st.none(), st.integers(0, 30))
ROWS = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=60)


@pytest.mark.parametrize("kind", KEYS)
@settings(max_examples=15, deadline=None)
@given(batches=st.lists(st.tuples(ROWS, st.integers(1, 7)), min_size=1, max_size=4))
def test_state_is_always_where_the_stream_sends_the_rows_of_its_key(kind: str, batches: list[Any]) -> None:
    key, routing = KEYS[kind]
    expected: dict[tuple[Any, ...], int] = {}
    with tempfile.TemporaryDirectory() as directory:
        tables = Tables(TableSpec("t", key, COUNT, routing), directory)
        tables.open(1, [])
        for rows, parallelism in batches:
            arrays = columns(key, rows)
            names = list(zip(*(array.to_pylist() for array in arrays), strict=True))
            for name in names:
                expected[name] = expected.get(name, 0) + 1
            assert tables.count(arrays, routing) == [expected[name] for name in names]
            tables.rescale(parallelism)
        held: dict[tuple[Any, ...], int] = {}
        for subtask, table in enumerate(tables.tables):
            for part in table.pane().scan():
                assert set(owners(part.columns[:routing], len(tables.tables))) <= {subtask}
                for row in part.to_pylist():
                    *name, count = row.values()
                    held[tuple(name)] = count
        assert held == expected


@pytest.mark.parametrize("kind", KEYS)
def test_the_bucket_comes_from_the_whole_key_and_the_group_from_its_first_columns(kind: str) -> None:
    key, routing = KEYS[kind]
    arrays = columns(key, [(1, 1, n) if len(key) == 3 else (1, n, n) for n in range(2000)])
    codec = KeyCodec(key, routing)
    keys = codec.encode(arrays)
    assert len(set(key_groups(keys.hashes, GROUPS).tolist())) == 1
    assert len(set((keys.hashes & np.uint64(0xFFFFFF)).tolist())) > 1990
    assert codec.decode(keys) == arrays


def test_the_hash_of_tables_without_routing_is_what_it_was() -> None:
    key, _ = KEYS["(string | int)"]
    arrays = columns(key, [(n, n % 7, 0) for n in range(100)])
    for routing in (None, 2):
        assert (KeyCodec(key, routing).encode(arrays).hashes == hash_columns(arrays)).all()


def test_the_description_of_tables_without_routing_is_what_it_was(tmp_path: Any) -> None:
    backend = StateBackend(MemoryStoreFactory(), str(tmp_path / "a"), range(GROUPS), GROUPS, 1 << 20)
    key, routing = KEYS["(string | int)"]
    backend.table(TableSpec("plain", key, COUNT))
    backend.table(TableSpec("all", key, COUNT, 2))
    backend.table(TableSpec("first", key, COUNT, routing))
    described: Any = backend.snapshot(str(tmp_path / "files")).tables
    assert list(described) == ["version", "max_parallelism", "tables"]
    assert list(described["tables"]["plain"]) == ["id", "key", "key_schema", "layouts"]
    assert "routing" not in described["tables"]["all"]
    assert described["tables"]["first"]["routing"] == 1


@pytest.mark.parametrize(("old", "new", "words"), [(1, None, "first 1 .* first 2"), (None, 1, "first 2 .* first 1")])
def test_another_routing_is_refused(tmp_path: Any, old: int | None, new: int | None, words: str) -> None:
    key, _ = KEYS["(string | int)"]
    backend = StateBackend(MemoryStoreFactory(), str(tmp_path / "a"), range(GROUPS), GROUPS, 1 << 20)
    backend.table(TableSpec("t", key, COUNT, old))
    source = RestoreSource(backend.snapshot(str(tmp_path / "files")).tables, str(tmp_path / "files"), 0, GROUPS)
    again = StateBackend(MemoryStoreFactory(), str(tmp_path / "b"), range(GROUPS), GROUPS, 1 << 20)
    again.restore([source])
    with pytest.raises(CheckpointError, match=f"state table 't': .*{words}"):
        again.table(TableSpec("t", key, COUNT, new))


@pytest.mark.parametrize("routing", [0, 3, -1])
def test_a_routing_that_is_not_a_number_of_key_columns_is_refused(routing: int) -> None:
    with pytest.raises(SchemaError, match=f"{routing} of 2 key columns"):
        KeyCodec(KEYS["(string | int)"][0], routing)
