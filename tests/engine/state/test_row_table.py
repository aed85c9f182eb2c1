"""What a row table promises beside its answers: what it writes, what it refuses, how much memory it uses."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.engine.api.state import ColumnSpec, RowsSpec, TableSpec
from lakeward.engine.core.errors import CheckpointError, CorruptionError, GraphError, InternalError, SchemaError
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import KeyValue, StoreFactory
from lakeward.engine.state.memory import MemoryKeyValueStore, MemoryStoreFactory
from lakeward.engine.state.reader import read_tables
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.engine.state.row_table import ChunkedRowTable

SCHEMA = pa.schema({"k": pa.int64(), "text": pa.string(), "hits": pa.int32()})
SPEC = RowsSpec("rows", SCHEMA, ("k",), ("hits",))
ALL = range(128)
KINDS: dict[str, StoreFactory] = {"memory": MemoryStoreFactory(), "rocksdb": RocksDbStoreFactory()}


class Lab:
    """Makes backends and snapshots in one directory."""

    def __init__(self, directory: Path, factory: StoreFactory, memory_bytes: int = 1 << 28) -> None:
        self.names = (str(directory / f"{number}") for number in itertools.count())
        self.factory = factory
        self.memory_bytes = memory_bytes
        self.opened: list[StateBackend] = []

    def backend(self, sources: list[RestoreSource] | None = None, groups: range = ALL) -> StateBackend:
        backend = StateBackend(self.factory, next(self.names), groups, 128, self.memory_bytes)
        self.opened.append(backend)
        if sources is not None:
            backend.restore(sources)
        return backend

    def snapshot(self, backend: StateBackend, groups: range = ALL) -> RestoreSource:
        directory = next(self.names)
        return RestoreSource(backend.snapshot(directory).tables, directory, groups.start, groups.stop)


@pytest.fixture(params=KINDS)
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path, KINDS[request.param])
    yield made
    for backend in made.opened:
        backend.close()


def batch(keys: Any, text: str = "text") -> pa.RecordBatch:
    keys = pa.array(keys, pa.int64())
    return pa.record_batch(
        [keys, pa.array([f"{text} {n}" for n in range(len(keys))]), pa.array(np.zeros(len(keys), np.int32))],
        schema=SCHEMA,
    )


def contents(table: ChunkedRowTable, namespace: int | None = None) -> list[dict[str, Any]]:
    return [row for _, part in table.scan(namespace) for row in part.to_pylist()]


class Journal(MemoryKeyValueStore):
    """A store that remembers which keys were written and which ranges deleted."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[bytes] = []
        self.ranges = 0

    def write(self, puts: Any, deletes: Any = ()) -> None:
        puts = list(puts)
        assert [key for key, _ in puts] == sorted({key for key, _ in puts}), "puts are not sorted and distinct"
        assert list(deletes) == sorted(deletes)
        self.puts += [key for key, _ in puts]
        super().write(puts, deletes)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self.ranges += 1
        super().delete_range(start, end)

    def scan(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        return super().scan(start, end)

    def checkpoint(self, target_dir: str) -> list[LocalFile]:
        return super().checkpoint(target_dir)

    def taken_puts(self) -> list[tuple[int, int]]:
        """Chunk number and part of what was written since the last call."""
        keys, self.puts = self.puts, []
        return [(int.from_bytes(key[10:18], "big"), key[18]) for key in keys]


class JournalFactory:
    """Gives out one journal."""

    def __init__(self) -> None:
        self.store = Journal()

    def open(self, directory: str) -> Journal:
        return self.store


def test_a_checkpoint_writes_only_what_has_changed(tmp_path: Path) -> None:
    factory = JournalFactory()
    lab = Lab(tmp_path, factory)
    backend = lab.backend()
    table = backend.rows(SPEC)
    first, second = table.append(batch(range(20_000))), table.append(batch(range(20_000)))
    lab.snapshot(backend)
    assert factory.store.taken_puts() == [(0, 0), (0, 2), (1, 0), (1, 2)]
    table.find([pa.array([1, 2])])
    table.take(first[:5])
    lab.snapshot(backend)
    assert factory.store.taken_puts() == []
    table.set("hits", second[:3], np.array([1, 2, 3]))
    lab.snapshot(backend)
    assert factory.store.taken_puts() == [(1, 2)]
    table.remove(first[:100])
    lab.snapshot(backend)
    assert factory.store.taken_puts() == [(0, 1)]
    table.append(batch(range(20_000)))
    lab.snapshot(backend)
    assert factory.store.taken_puts() == [(2, 0), (2, 2)]
    table.remove(first[100:15_000])
    lab.snapshot(backend)
    assert factory.store.taken_puts() == [(0, 0), (0, 2)], "the chunk was rewritten without its dead rows"
    table.remove(first[15_000:])
    lab.snapshot(backend)
    assert {key[10:18] for key in factory.store._rows} == {(n).to_bytes(8, "big") for n in (1, 2)}


def test_a_namespace_that_lives_between_two_checkpoints_never_touches_the_store(tmp_path: Path) -> None:
    factory = JournalFactory()
    lab = Lab(tmp_path, factory)
    backend = lab.backend()
    table = backend.rows(SPEC)
    for namespace in range(10):
        table.append(batch([1, 2]), namespace)
        table.drop(namespace)
    lab.snapshot(backend)
    assert (factory.store.puts, factory.store.ranges) == ([], 0)
    table.append(batch([1]), 3)
    lab.snapshot(backend)
    table.drop(3)
    assert factory.store.ranges == 1
    assert len(table) == 0
    assert table.namespaces() == []
    assert list(factory.store.scan(b"", b"\xff" * 20)) == []
    assert backend.used_bytes < 10_000


def test_small_appends_become_few_chunks_that_hold_the_rows_in_order(tmp_path: Path) -> None:
    table = Lab(tmp_path, MemoryStoreFactory()).backend().rows(SPEC)
    ids = [table.append(batch([n % 7], f"{n}")) for n in range(300)]
    assert len(list(table.scan())) <= 10
    assert table.take(np.concatenate(ids))["text"].to_pylist() == [f"{n} 0" for n in range(300)]
    found = table.find([pa.array([3, 0])])
    assert table.take(found.ids)["text"].to_pylist() == [f"{n} 0" for k in (3, 0) for n in range(k, 300, 7)]


def test_a_key_with_many_rows_is_found_and_shortened(tmp_path: Path) -> None:
    table = Lab(tmp_path, MemoryStoreFactory()).backend().rows(SPEC)
    ids = np.concatenate([table.append(batch([5] * 997)) for _ in range(60)])
    assert table.find([pa.array([5])]).ids.tolist() == ids.tolist()
    for start in range(0, 50_000, 10_000):  # the oldest go, as they do when rows expire
        table.remove(ids[start : start + 10_000])
        assert table.find([pa.array([4, 5, 5])]).ids.tolist() == ids[start + 10_000 :].tolist() * 2
    assert len(table) == 60 * 997 - 50_000


def test_rows_may_go_in_any_order_from_many_chunks_at_once(tmp_path: Path) -> None:
    table = Lab(tmp_path, MemoryStoreFactory()).backend().rows(RowsSpec("t", pa.schema({"k": pa.int64()}), ("k",)))
    numbers = np.arange(300_000)
    ids = np.concatenate([table.append(pa.record_batch({"k": part})) for part in np.array_split(numbers, 10)])
    order = np.random.default_rng(6).permutation(numbers)
    for part in np.array_split(order, 12)[:-1]:
        table.remove(ids[part])
    left = np.sort(np.array_split(order, 12)[-1])
    assert [k for _, part in table.scan() for k in part["k"].to_pylist()] == left.tolist()
    assert table.find([pa.array(numbers)]).ids.tolist() == ids[left].tolist()
    assert len(list(table.scan())) <= 4


def test_rows_of_a_key_come_in_the_order_of_append_over_namespaces_and_restores(lab: Lab) -> None:
    backend = lab.backend()
    table = backend.rows(SPEC)
    ids = [table.append(batch([1, 2, 1], f"{n}"), namespace) for n, namespace in enumerate([5, -1, 5, 3, 5, -1])]
    wanted = [f"{n} {row}" for n in range(6) for row in (0, 2)]

    def texts(one: ChunkedRowTable, namespaces: list[int] | None = None) -> list[str]:
        found: list[str] = one.take(one.find([pa.array([1])], namespaces).ids)["text"].to_pylist()
        return found

    assert texts(table) == wanted
    table.remove(np.concatenate([ids[0], ids[2][:2]]))  # namespace 5 is left with less than half of its rows
    wanted = [text for text in wanted if text not in ("0 0", "0 2", "2 0")]
    sources = [lab.snapshot(backend)]
    again = lab.backend(sources)
    restored = again.rows(SPEC)
    assert texts(table) == texts(restored) == wanted
    restored.append(batch([1], "last"), -1)
    assert texts(restored) == [*wanted, "last 0"]
    assert texts(restored, [5, 3, 5, 77]) == ["2 2", "3 0", "3 2", "4 0", "4 2"]
    halves = [lab.backend([lab.snapshot(again)], groups).rows(SPEC) for groups in (range(64), range(64, 128))]
    assert [text for half in halves for text in texts(half)] == [*wanted, "last 0"]


def test_a_stored_chunk_may_lose_rows_be_joined_and_be_restored(lab: Lab) -> None:
    backend = lab.backend()
    table = backend.rows(SPEC)
    first = table.append(batch(range(100)))
    table.remove(first[:10])
    lab.snapshot(backend)
    second = table.append(batch(range(100, 200)))
    table.set("hits", np.concatenate([first[20:30], second[:5]]), np.arange(15))
    once = lab.backend([lab.snapshot(backend)])
    assert contents(once.rows(SPEC)) == contents(table)
    assert [row["k"] for row in contents(table)] == list(range(10, 200))
    table.remove(first[10:])
    table.remove(second[50:])
    assert contents(lab.backend([lab.snapshot(backend)]).rows(SPEC)) == contents(table)
    assert [row["k"] for row in contents(table)] == list(range(100, 150))


def test_the_memory_of_removed_rows_and_keys_is_used_again(tmp_path: Path) -> None:
    backend = Lab(tmp_path, MemoryStoreFactory()).backend()
    table = backend.rows(SPEC)
    kept = table.append(batch(range(1000)))
    after = []
    for round in range(30):
        ids = table.append(batch(range(10_000 * round, 10_000 * (round + 1))))
        table.remove(np.random.default_rng(round).permutation(ids))
        after.append(backend.used_bytes)
    assert after[-1] <= after[3]
    assert table.find([pa.array(range(1000))]).ids.tolist() == kept.tolist()


WIDE = RowsSpec("wide", pa.schema({"k": pa.int64(), "text": pa.string(), "at": pa.int64()}), ("k",))


def wide(keys: Any) -> pa.RecordBatch:
    numbers = np.asarray(keys)
    text = pa.array([f"{n:>500}" for n in numbers.tolist()])
    return pa.record_batch([pa.array(numbers), text, pa.array(numbers * 3)], schema=WIDE.schema)


def test_state_four_times_the_memory_budget_stays_within_it_and_is_right(lab: Lab) -> None:
    lab.memory_bytes = 4_000_000
    backend, random = lab.backend(), np.random.default_rng(5)
    table, peak, namespaces = backend.rows(WIDE), 0, 8
    for namespace in range(namespaces):
        for start in range(0, 4000, 1000):
            table.append(wide(np.arange(start, start + 1000)), namespace)
            peak = max(peak, backend.used_bytes)
    assert len(table) == 32_000
    for _ in range(10):
        wanted = random.integers(0, 8000, 500)
        found = table.find([pa.array(wanted)])
        rows = table.take(found.ids)
        peak = max(peak, backend.used_bytes)
        present = wanted[wanted < 4000]
        assert rows["k"].to_pylist() == np.repeat(present, namespaces).tolist()
        assert rows["text"].to_pylist() == [f"{n:>500}" for n in rows["k"].to_pylist()]
    assert peak <= lab.memory_bytes
    table.remove(table.find([pa.array(range(0, 4000, 3))], [0, 1]).ids)
    table.drop(7)
    restored = lab.backend([lab.snapshot(backend)])
    again = restored.rows(WIDE)
    assert restored.used_bytes <= lab.memory_bytes
    for namespace in range(namespaces):
        left = [n for n in range(4000) if namespace != 7 and (namespace > 1 or n % 3)]
        keys = [k for _, part in again.scan(namespace) for k in part["k"].to_pylist()]
        assert sorted(keys) == left
    lab.memory_bytes, budget = 1 << 30, lab.memory_bytes
    roomy = lab.backend()
    everything = roomy.rows(WIDE)
    for namespace in range(namespaces):
        everything.append(wide(np.arange(4000)), namespace)
    assert roomy.used_bytes >= 4 * budget


def test_row_tables_and_slot_tables_share_the_memory(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory(), memory_bytes=6_000_000)
    backend = lab.backend()
    rows = backend.rows(WIDE)
    counts = backend.table(TableSpec("counts", (("k", pa.int64()),), (ColumnSpec("n", pa.int64()),)))
    for start in range(0, 40_000, 2000):
        numbers = np.arange(start, start + 2000)
        rows.append(wide(numbers))
        pane = counts.pane()
        slots = pane.slots(counts.keys([pa.array(numbers)]))
        np.add.at(pane.column("n"), slots, 1)
        assert backend.used_bytes <= lab.memory_bytes
    assert len(counts.pane()) == len(rows) == 40_000
    assert rows.take(rows.find([pa.array([17, 39_999])]).ids)["at"].to_pylist() == [51, 119_997]


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "version", "magic"])
def test_a_damaged_chunk_is_corruption(tmp_path: Path, part: int, damage: str) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    table = backend.rows(SPEC)
    table.remove(table.append(batch(range(10)))[:2])
    source = lab.snapshot(backend)
    store = MemoryStoreFactory().open(source.directory)
    key, value = next((key, value) for key, value in store.scan(b"\0\1", b"\xff") if key[-1] == part)
    damaged = {
        "flip": value[:-3] + bytes([value[-3] ^ 1]) + value[-2:],
        "cut": value[: len(value) - 1],
        "empty": b"",
        "version": value[:4] + b"\x63" + value[5:],
        "magic": b"x" + value[1:],
    }[damage]
    store.write([(key, damaged)])
    store.checkpoint(str(tmp_path / "bad"))
    again = lab.backend([RestoreSource(source.tables, str(tmp_path / "bad"), 0, 128)])
    with pytest.raises(CorruptionError, match="chunk 0 of state table 'rows' cannot be read"):
        again.rows(SPEC)


@pytest.mark.parametrize(("missing", "words"), [(0, "its rows are missing"), (2, "not the mutable columns")])
def test_a_lost_part_of_a_chunk_is_corruption(tmp_path: Path, missing: int, words: str) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    backend.rows(SPEC).append(batch(range(10)))
    source = lab.snapshot(backend)
    store = MemoryStoreFactory().open(source.directory)
    store.write([], [key for key, _ in store.scan(b"\0\1", b"\xff") if key[-1] == missing])
    store.checkpoint(str(tmp_path / "bad"))
    again = lab.backend([RestoreSource(source.tables, str(tmp_path / "bad"), 0, 128)])
    with pytest.raises(CorruptionError, match=words):
        again.rows(SPEC)


def test_a_chunk_that_is_damaged_in_the_store_while_the_job_runs_is_corruption(tmp_path: Path) -> None:
    lab = Lab(tmp_path, factory := JournalFactory(), memory_bytes=1)
    table = lab.backend().rows(SPEC)
    ids = table.append(batch(range(10)))
    store = factory.store
    store.write([(key, b"") for key, _ in store.scan(b"\0\1", b"\xff")])
    with pytest.raises(CorruptionError, match="shorter than its header"):
        table.take(ids)
    store.delete_range(b"", b"\xff")
    with pytest.raises(CorruptionError, match="it is not in the store"):
        table.take(ids)


def replaced(**changes: Any) -> RowsSpec:
    parts = {"schema": SPEC.schema, "key": SPEC.key, "mutable": SPEC.mutable} | changes
    return RowsSpec(SPEC.name, **parts)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (replaced(schema=SCHEMA.append(pa.field("x", pa.int8()))), "column 'x' of type int8 is new"),
        (
            replaced(schema=SCHEMA.set(1, pa.field("text", pa.binary()))),
            "column 'text' was stored as string and is now binary",
        ),
        (replaced(key=("text",)), r"the key columns were \['k'\] and are now \['text'\]"),
        (replaced(mutable=()), r"the mutable columns were \['hits'\] and are now \[\]"),
    ],
)
def test_a_change_of_the_columns_is_refused_by_name(tmp_path: Path, spec: RowsSpec, words: str) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    backend.rows(SPEC)
    with pytest.raises(CheckpointError, match=f"state table 'rows': .*{words}"):
        lab.backend([lab.snapshot(backend)]).rows(spec)


@pytest.mark.parametrize("groups", [ALL, range(64), range(64, 128)])
def test_rows_are_read_without_columns_that_are_no_longer_wanted(lab: Lab, groups: range) -> None:
    backend = lab.backend()
    table = backend.rows(SPEC)
    table.set("hits", table.append(batch(range(100))), np.arange(100))
    narrow = replaced(schema=pa.schema([SCHEMA.field(i) for i in (2, 0)]))
    again = lab.backend([lab.snapshot(backend)], groups)
    table = again.rows(narrow)
    table.append(batch(range(100, 110)).select(["hits", "k"]))
    kept = {row["k"]: row["hits"] for row in contents(table)}
    assert all(set(row) == {"k", "hits"} for row in contents(table))
    later = lab.backend([lab.snapshot(again, groups)], groups).rows(narrow)  # chunks of both kinds
    assert {row["k"]: row["hits"] for row in contents(later)} == kept
    assert set(later.get("hits", later.find([pa.array([7, 8, 9])]).ids)) <= {7, 8, 9}
    third = lab.backend([lab.snapshot(again, groups)], groups[: len(groups) // 2])  # copied, both kinds again
    assert {row["k"]: row["hits"] for row in contents(third.rows(narrow))}.items() <= kept.items()


def test_names_are_shared_with_slot_tables(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    backend.rows(SPEC)
    slots = TableSpec("rows", (("k", pa.int64()),))
    for open_again in (lambda: backend.table(slots), lambda: backend.rows(SPEC)):
        with pytest.raises(GraphError, match="'rows' is opened twice"):
            open_again()
    source = lab.snapshot(backend)
    with pytest.raises(CheckpointError, match="was stored as a table of another kind"):
        lab.backend([source]).table(slots)
    other = lab.backend()
    other.table(slots)
    with pytest.raises(CheckpointError, match="was stored as a table of another kind"):
        lab.backend([lab.snapshot(other)]).rows(SPEC)


def test_a_table_that_is_not_opened_survives_the_next_checkpoint(lab: Lab) -> None:
    backend = lab.backend()
    backend.rows(SPEC).append(batch([1, 2]))
    other = lab.backend([lab.snapshot(backend)])
    other.rows(RowsSpec("others", SCHEMA, ("k",))).append(batch([3]))
    halves = [(groups, lab.backend([lab.snapshot(other)], groups)) for groups in (range(64), range(64, 128))]
    last = lab.backend([lab.snapshot(half, groups) for groups, half in halves])
    assert sorted(row["k"] for row in contents(last.rows(SPEC))) == [1, 2]
    assert [row["k"] for row in contents(last.rows(RowsSpec("others", SCHEMA, ("k",))))] == [3]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (RowsSpec("t", SCHEMA, ("x",)), "exactly one column 'x'"),
        (RowsSpec("t", SCHEMA, ("k",), ("x",)), "exactly one column 'x'"),
        (RowsSpec("t", SCHEMA, ("k",), ("k",)), "the key column 'k' as a mutable one"),
        (RowsSpec("t", SCHEMA, ("k",), ("text",)), "mutable column 'text' of type string"),
        (RowsSpec("t", pa.schema({"k": pa.list_(pa.int64())}), ("k",)), "'k' of type list<.*> cannot be a key"),
        (RowsSpec("t", SCHEMA, ()), "at least one key column"),
    ],
)
def test_a_description_that_cannot_work_is_refused(tmp_path: Path, spec: RowsSpec, words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        Lab(tmp_path, MemoryStoreFactory()).backend().rows(spec)


def test_wrong_rows_keys_columns_and_values_are_refused_and_change_nothing(tmp_path: Path) -> None:
    table = Lab(tmp_path, MemoryStoreFactory()).backend().rows(SPEC)
    ids = table.append(batch([1, 2]))
    with pytest.raises(SchemaError, match="is given rows of other columns"):
        table.append(batch([1]).select(["k", "text"]))
    nulls = pa.record_batch([pa.array([1]), pa.array(["x"]), pa.array([None], pa.int32())], schema=SCHEMA)
    with pytest.raises(SchemaError, match="a null in the mutable column 'hits'"):
        table.append(nulls, 9)
    with pytest.raises(SchemaError, match=r"\['string'\], the table's key is \['int64'\]"):
        table.find([pa.array(["x"])])
    with pytest.raises(SchemaError, match="no column 'x'"):
        table.take(ids, ["x"])
    with pytest.raises(SchemaError, match="no mutable column 'text'"):
        table.get("text", ids)
    with pytest.raises(SchemaError, match="'hits' of int32 is set to float64"):
        table.set("hits", ids, np.array([0.5, 1.5]))
    assert len(table) == 2
    assert table.namespaces() == [0]


def test_ids_that_are_not_there_are_internal_errors(tmp_path: Path) -> None:
    table = Lab(tmp_path, MemoryStoreFactory()).backend().rows(SPEC)
    ids = table.append(batch([1, 1, 2]))
    for wrong in ([-1], [0, 99]):
        with pytest.raises(InternalError, match="never given out"):
            table.take(np.array(wrong))
    table.remove(ids[:1])
    for call in (table.take, table.remove, lambda i: table.get("hits", i)):
        with pytest.raises(InternalError, match="was removed"):
            call(ids[:2])
    with pytest.raises(InternalError, match="removed twice"):
        table.remove(ids[[1, 1]])


def test_a_batch_is_kept_without_the_larger_one_it_was_cut_from(tmp_path: Path) -> None:
    backend = Lab(tmp_path, MemoryStoreFactory()).backend()
    table = backend.rows(WIDE)
    large = wide(np.arange(20_000))
    table.append(large.slice(100, 50))
    assert backend.used_bytes < 60_000
    assert contents(table) == large.slice(100, 50).to_pylist()


def test_a_batch_larger_than_a_chunk_is_cut(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    table = backend.rows(SPEC)
    ids = table.append(batch(np.arange(150_000) % 1000))
    assert [len(part) for part, _ in table.scan()] == [65_536, 65_536, 18_928]
    assert table.find([pa.array([7])]).ids.tolist() == ids[7::1000].tolist()
    again = lab.backend([lab.snapshot(backend)]).rows(SPEC)
    assert again.take(again.find([pa.array([7])]).ids)["text"].to_pylist() == [
        f"text {n}" for n in range(7, 150_000, 1000)
    ]


def test_a_snapshot_is_readable_without_the_job(lab: Lab) -> None:
    backend = lab.backend()
    table = backend.rows(SPEC)
    ids = table.append(batch([1, 2, None]), -7)
    table.append(batch([4]), 7)
    table.set("hits", ids[:1], np.array([5]))
    table.remove(ids[1:2])
    source = lab.snapshot(backend)
    found = pa.Table.from_batches(read_tables(lab.factory, source.directory, source.tables)["rows"])
    assert found.to_pylist() == [
        {"namespace": -7, "k": 1, "text": "text 0", "hits": 5},
        {"namespace": -7, "k": None, "text": "text 2", "hits": 0},
        {"namespace": 7, "k": 4, "text": "text 0", "hits": 0},
    ]


def test_dictionary_encoded_columns_and_keys_of_other_encodings_work(lab: Lab) -> None:
    schema = pa.schema({"k": pa.string(), "kind": pa.dictionary(pa.int32(), pa.string())})
    spec = RowsSpec("t", schema, ("k",))
    backend = lab.backend()
    table = backend.rows(spec)
    for kinds in (["a", "b"], ["c", "a"], ["b", None]):
        table.append(pa.record_batch([pa.array(["x", None]), pa.array(kinds).dictionary_encode()], schema=schema))
    for one in (table, lab.backend([lab.snapshot(backend)]).rows(spec)):
        found = one.find([pa.array(["y", "x", None]).dictionary_encode()])
        assert found.rows.tolist() == [1, 1, 1]
        assert one.take(found.ids)["kind"].to_pylist() == ["a", "c", "b"]


GOLDEN_SCHEMA = pa.schema({"shop": pa.string(), "day": pa.int32(), "hits": pa.int64(), "price": pa.decimal128(8, 2)})
GOLDEN_SPEC = RowsSpec("orders", GOLDEN_SCHEMA, ("shop", "day"), ("hits",))
GOLDEN_TABLES: Any = {
    "version": 1,
    "max_parallelism": 128,
    "tables": {},
    "row_tables": {
        "orders": {
            "id": 1,
            "columns": [
                {"name": "shop", "type": "string"},
                {"name": "day", "type": "int32"},
                {"name": "hits", "type": "int64"},
                {"name": "price", "type": "decimal128(8, 2)"},
            ],
            "schema": (
                "/////xgBAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAQAAAC8AAAAdAAA"
                "AEAAAAAEAAAAZP///wAAAQcQAAAAIAAAAAQAAAAAAAAABQAAAHByaWNlAAAACAAMAAQACAAIAAAACAAAAAIA"
                "AACc////AAABAhAAAAAYAAAABAAAAAAAAAAEAAAAaGl0cwAAAADU////AAAAAUAAAADM////AAABAhAAAAAc"
                "AAAABAAAAAAAAAADAAAAZGF5AAgADAAIAAcACAAAAAAAAAEgAAAAEAAUAAgABgAHAAwAAAAQABAAAAAAAAEF"
                "EAAAABwAAAAEAAAAAAAAAAQAAABzaG9wAAAAAAQABAAEAAAA"
            ),
            "key": ["shop", "day"],
            "mutable": ["hits"],
        }
    },
}
GOLDEN_ROWS = {
    "00017ffffffffffffffb000000000000000000": (
        "TFdSQwEAAAATAFRCAQAAAFAAAAAAAAAAAwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA/////+gAAAAQAAAAAAAKAAwABgAF"
        "AAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAMAAACIAAAAQAAAAAQAAACU////AAABBxAAAAAgAAAABAAAAAAA"
        "AAAFAAAAcHJpY2UAAAAIAAwABAAIAAgAAAAIAAAAAgAAAMz///8AAAECEAAAABwAAAAEAAAAAAAAAAMAAABkYXkACAAM"
        "AAgABwAIAAAAAAAAASAAAAAQABQACAAGAAcADAAAABAAEAAAAAAAAQUQAAAAHAAAAAQAAAAAAAAABAAAAHNob3AAAAAA"
        "BAAEAAQAAAAAAAAA/////wgBAAAUAAAAAAAAAAwAGAAGAAUACAAMAAwAAAAAAwQAHAAAALgAAAAAAAAAAAAAAAwAHAAQ"
        "AAQACAAMAAwAAACYAAAAHAAAABQAAAADAAAAAAAAAAAAAAAEAAQABAAAAAcAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAnAAAAAAAAACgAAAAAAAAAGgAAAAAAAABIAAAAAAAAAAAAAAAAAAAASAAAAAAAAAAjAAAAAAAAAHAAAAAAAAAAGAAA"
        "AAAAAACIAAAAAAAAACkAAAAAAAAAAAAAAAMAAAADAAAAAAAAAAAAAAAAAAAAAwAAAAAAAAAAAAAAAAAAAAMAAAAAAAAA"
        "AQAAAAAAAAAQAAAAAAAAAAQiTRhgQIIQAACAAAAAAAEAAAACAAAAAwAAAAAAAAAAAwAAAAAAAAAEIk0YYECCAwAAgGFi"
        "YQAAAAAAAAAAAAAMAAAAAAAAAAQiTRhgQIIMAACAAQAAAAIAAAABAAAAAAAAAAAAAAAAAQAAAAAAAAAEIk0YYECCAQAA"
        "gAUAAAAAMAAAAAAAAAAEIk0YYECCEgAAAC+WAAEACzS7/v8BAFD//////wAAAAAAAAAAAAAA/////wAAAAA="
    ),
    "00017ffffffffffffffb000000000000000001": ("TFdSQwEBAABdzF73AwAAAEA="),
    "00017ffffffffffffffb000000000000000002": (
        "TFdSQwECAACIkbRs/////4AAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAEAAAAU"
        "AAAAEAAUAAgABgAHAAwAAAAQABAAAAAAAAECEAAAACAAAAAEAAAAAAAAAAQAAABoaXRzAAAAAAgADAAIAAcACAAAAAAA"
        "AAFAAAAAAAAAAP////+YAAAAFAAAAAAAAAAMABgABgAFAAgADAAMAAAAAAMEABwAAAAwAAAAAAAAAAAAAAAMABwAEAAE"
        "AAgADAAMAAAASAAAABwAAAAUAAAAAwAAAAAAAAAAAAAABAAEAAQAAAACAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "KgAAAAAAAAAAAAAAAQAAAAMAAAAAAAAAAAAAAAAAAAAYAAAAAAAAAAQiTRhgQIITAAAAIgoAAQASFAcAkAAeAAAAAAAA"
        "AAAAAAAAAAAAAAD/////AAAAAA=="
    ),
}
"""Namespace -5, chunk 0: its rows, its dead rows, its mutable columns, as the first version wrote them."""


def golden_rows() -> list[KeyValue]:
    return [(bytes.fromhex(key), base64.b64decode("".join(lines))) for key, lines in GOLDEN_ROWS.items()]


def test_chunks_of_the_first_version_are_still_readable(tmp_path: Path) -> None:
    store = MemoryKeyValueStore()
    store.write(golden_rows())
    store.checkpoint(str(tmp_path / "golden"))
    backend = Lab(tmp_path, MemoryStoreFactory()).backend(
        [RestoreSource(GOLDEN_TABLES, str(tmp_path / "golden"), 0, 128)]
    )
    table = backend.rows(GOLDEN_SPEC)
    assert contents(table, -5) == [
        {"shop": "a", "day": 1, "hits": 10, "price": Decimal("1.50")},
        {"shop": "a", "day": 1, "hits": 30, "price": Decimal("-3.25")},
    ]
    assert table.find([pa.array(["a"]), pa.array([1], pa.int32())]).rows.tolist() == [0, 0]


def test_chunks_are_written_as_the_first_version_wrote_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path, factory := JournalFactory())
    backend = lab.backend()
    table = backend.rows(GOLDEN_SPEC)
    prices = pa.array([Decimal("1.50"), None, Decimal("-3.25")], pa.decimal128(8, 2))
    columns = [["a", "b", "a"], pa.array([1, 2, 1], pa.int32()), [10, 20, 30], prices]
    ids = table.append(pa.record_batch([pa.array(c) for c in columns], schema=GOLDEN_SCHEMA), -5)
    table.remove(ids[1:2])
    assert lab.snapshot(backend).tables == GOLDEN_TABLES
    written = list(factory.store.scan(b"", b"\xff" * 20))
    assert [key for key, _ in written] == [key for key, _ in golden_rows()]
    for (_, now), (_, then) in zip(written, golden_rows(), strict=True):
        assert now[:8] == then[:8], "magic, version and part"
    assert written[0][1][12:48] == golden_rows()[0][1][12:48], "sizes, and when the rows were appended"
    assert written[1] == golden_rows()[1]
