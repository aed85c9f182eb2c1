"""Snapshots, restores, rescaling, schema changes and memory limits of a subtask's keyed state."""

from __future__ import annotations

import datetime
import itertools
import os
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from lakeward.engine.api.state import ColumnSpec, TableSpec
from lakeward.engine.core.errors import CheckpointError, CorruptionError, GraphError, InternalError, SchemaError
from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import SubtaskIndex
from lakeward.engine.core.keygroups import key_group_range, key_groups
from lakeward.engine.core.snapshots import LocalFile
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import KeyValue, StoreFactory
from lakeward.engine.state.memory import MemoryKeyValueStore, MemoryStoreFactory
from lakeward.engine.state.reader import read_tables
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.engine.state.table import SlotTable

ALL = range(128)
COUNTS = TableSpec("counts", (("shop", pa.string()),), (ColumnSpec("n", pa.int64()),))
KINDS: dict[str, StoreFactory] = {"memory": MemoryStoreFactory(), "rocksdb": RocksDbStoreFactory()}


class Lab:
    """Makes backends and snapshots in one directory."""

    def __init__(self, directory: Path, factory: StoreFactory, memory_bytes: int = 1 << 28) -> None:
        self.names = (str(directory / f"{number}") for number in itertools.count())
        self.factory = factory
        self.memory_bytes = memory_bytes
        self.opened: list[StateBackend] = []

    def backend(self, groups: range = ALL, sources: list[RestoreSource] | None = None) -> StateBackend:
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


def count(table: SlotTable, shops: list[Any], namespace: int = 0) -> None:
    pane = table.pane(namespace)
    slots = pane.slots(table.keys([pa.array(shops, table.spec.key[0][1])]))
    np.add.at(pane.column("n"), slots, 1)


def rows_of(table: SlotTable, namespace: int = 0) -> dict[Any, Any]:
    rows: dict[Any, Any] = {}
    for batch in table.pane(namespace).scan():
        for row in batch.to_pylist():
            key, *fields = row.values()
            assert key not in rows
            rows[key] = fields[0] if len(fields) == 1 else tuple(fields)
    return rows


def test_a_snapshot_holds_the_state_of_its_moment(lab: Lab) -> None:
    backend = lab.backend()
    table = backend.table(COUNTS)
    count(table, ["a", "b", None, "", "a"])
    first = lab.snapshot(backend)
    count(table, ["a", "c"])
    second = lab.snapshot(backend)
    count(table, ["a"] * 10)
    assert rows_of(lab.backend(sources=[first]).table(COUNTS)) == {"a": 2, "b": 1, None: 1, "": 1}
    assert rows_of(lab.backend(sources=[second]).table(COUNTS)) == {"a": 3, "b": 1, None: 1, "": 1, "c": 1}


def test_restored_state_goes_on(lab: Lab) -> None:
    backend = lab.backend()
    count(backend.table(COUNTS), [f"s{n}" for n in range(1000)])
    again = lab.backend(sources=[lab.snapshot(backend)])
    table = again.table(COUNTS)
    assert len(table.pane()) == 1000
    count(table, ["s1", "new"])
    assert len(table.pane()) == 1001
    last = lab.backend(sources=[lab.snapshot(again)])
    expected = {f"s{n}": 1 for n in range(1000)} | {"s1": 2, "new": 1}
    assert rows_of(last.table(COUNTS)) == expected


@pytest.mark.parametrize("key", [pa.int64(), pa.string()])
def test_state_is_the_same_after_rescaling_from_one_to_three_to_two(lab: Lab, key: pa.DataType) -> None:
    spec = TableSpec("t", (("k", key),), (ColumnSpec("n", pa.int64()),))
    keys = pa.array([None, *range(3000)], pa.int64()).cast(key)
    backend = lab.backend()
    table = backend.table(spec)
    for namespace in (-5, 0, 2**40):
        count(table, keys.to_pylist(), namespace)
    expected = {namespace: rows_of(table, namespace) for namespace in table.namespaces()}
    sources = [lab.snapshot(backend)]
    for parallelism in (3, 2, 1):
        ranges = [key_group_range(SubtaskIndex(i), parallelism, 128) for i in range(parallelism)]
        backends = [lab.backend(groups, sources) for groups in ranges]
        tables = [part.table(spec) for part in backends]
        for namespace, rows in expected.items():
            parts = [rows_of(part, namespace) for part in tables]
            for part, groups in zip(parts, ranges, strict=True):
                assert set(key_groups(hash_array(pa.array(list(part), key)), 128).tolist()) <= set(groups)
            assert {k: v for part in parts for k, v in part.items()} == rows
            assert sum(len(part.pane(namespace)) for part in tables) == len(rows)
        sources = [lab.snapshot(part, groups) for part, groups in zip(backends, ranges, strict=True)]


def test_restoring_leaves_the_source_as_it_was(lab: Lab) -> None:
    backend = lab.backend()
    count(backend.table(COUNTS), [f"s{n}" for n in range(500)])
    source = lab.snapshot(backend)
    before = {name: (Path(source.directory) / name).read_bytes() for name in os.listdir(source.directory)}
    for groups in (ALL, range(64), range(64, 128)):
        part = lab.backend(groups, [source])
        count(part.table(COUNTS), ["other"])
        lab.snapshot(part, groups)
    assert before == {name: (Path(source.directory) / name).read_bytes() for name in os.listdir(source.directory)}


def test_a_table_that_is_not_opened_survives_the_next_checkpoint(lab: Lab) -> None:
    backend = lab.backend()
    count(backend.table(COUNTS), ["a"])
    other = lab.backend(sources=[lab.snapshot(backend)])
    other.table(TableSpec("others", (("k", pa.int64()),), (ColumnSpec("n", pa.int64()),)))
    last = lab.backend(sources=[lab.snapshot(other)])
    assert rows_of(last.table(COUNTS)) == {"a": 1}


def test_columns_can_be_added_dropped_and_widened(lab: Lab) -> None:
    key = (("k", pa.int64()),)
    old = TableSpec(
        "t", key, (ColumnSpec("n", pa.int32()), ColumnSpec("gone", pa.string()), ColumnSpec("f", pa.float32()))
    )
    new = TableSpec(
        "t",
        key,
        (ColumnSpec("f", pa.float64()), ColumnSpec("n", pa.int64()), ColumnSpec("tag", pa.string(), "none")),
    )
    backend = lab.backend()
    pane = (table := backend.table(old)).pane()
    slots = pane.slots(table.keys([pa.array([1, 2])]))
    pane.column("n")[slots] = [10, 20]
    pane.column("f")[slots] = [0.5, 1.5]
    pane.column("gone")[slots] = ["x", "y"]
    changed = lab.backend(sources=[lab.snapshot(backend)])
    table = changed.table(new)
    assert rows_of(table) == {1: (0.5, 10, "none"), 2: (1.5, 20, "none")}
    pane = table.pane()
    slots = pane.slots(table.keys([pa.array([2, 3])]))
    pane.column("n")[slots] = 2**40
    pane.column("tag")[slots] = "new"
    source = lab.snapshot(changed)
    expected = {1: (0.5, 10, "none"), 2: (1.5, 2**40, "new"), 3: (0.0, 2**40, "new")}
    assert rows_of(lab.backend(sources=[source]).table(new)) == expected
    halves = [lab.backend(groups, [source]).table(new) for groups in (range(64), range(64, 128))]
    assert rows_of(halves[0]) | rows_of(halves[1]) == expected
    stored: Any = source.tables["tables"]
    assert list(stored["t"]["layouts"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("old", "new"),
    [(pa.int64(), pa.int32()), (pa.int64(), pa.float64()), (pa.string(), pa.int64()), (pa.int64(), pa.date32())],
)
def test_any_other_change_of_a_column_names_table_column_and_types(tmp_path: Path, old: Any, new: Any) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    backend.table(TableSpec("t", (("k", pa.int64()),), (ColumnSpec("c", old),)))
    again = lab.backend(sources=[lab.snapshot(backend)])
    words = f"'t': column 'c' was stored as {old} and is now {new}"
    with pytest.raises(CheckpointError, match=re.escape(words)):
        again.table(TableSpec("t", (("k", pa.int64()),), (ColumnSpec("c", new),)))


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ((("k", pa.int32()),), "column 'k' was stored as int64 and is now int32"),
        ((("k", pa.int64()), ("l", pa.string())), "column 'l' was stored as nothing and is now string"),
    ],
)
def test_a_change_of_the_key_is_refused(tmp_path: Path, new: Any, words: str) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    backend.table(TableSpec("t", (("k", pa.int64()),)))
    with pytest.raises(CheckpointError, match=words):
        lab.backend(sources=[lab.snapshot(backend)]).table(TableSpec("t", new))


def test_state_of_another_max_parallelism_is_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    backend.table(COUNTS)
    source = lab.snapshot(backend)
    other = StateBackend(MemoryStoreFactory(), str(tmp_path / "other"), range(64), 64, 1 << 20)
    with pytest.raises(CheckpointError, match="128 key groups, the job 64"):
        other.restore([RestoreSource(source.tables, source.directory, 0, 64)])


def test_missing_key_groups_are_noticed(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend(range(64))
    backend.table(COUNTS)
    with pytest.raises(CheckpointError, match="no state of key groups 64 to 127"):
        lab.backend(ALL, [lab.snapshot(backend, range(64))])


def test_a_newer_format_is_refused_with_a_hint(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    backend.table(COUNTS)
    source = lab.snapshot(backend)
    newer = RestoreSource({**source.tables, "version": 99}, source.directory, 0, 128)
    with pytest.raises(CheckpointError, match="format version 99"):
        lab.backend(sources=[newer])


def test_rows_of_an_unknown_layout_are_corruption(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    backend = lab.backend()
    count(backend.table(COUNTS), ["a"])
    source = lab.snapshot(backend)
    backend._store.write([(key, b"\x63\0" + value[2:]) for key, value in backend._store.scan(b"\0\1", b"\xff")])  # type: ignore[union-attr]
    backend._store.checkpoint(str(tmp_path / "bad"))  # type: ignore[union-attr]
    again = lab.backend(sources=[RestoreSource(source.tables, str(tmp_path / "bad"), 0, 128)])
    with pytest.raises(CorruptionError, match="unknown layout 99"):
        rows_of(again.table(COUNTS))


def test_calls_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    backend = Lab(tmp_path, MemoryStoreFactory()).backend()
    backend.table(COUNTS)
    with pytest.raises(GraphError, match="'counts' is opened twice"):
        backend.table(COUNTS)
    with pytest.raises(InternalError, match="after a table was opened"):
        backend.restore([])


def test_types_that_state_cannot_hold_are_refused_when_the_table_is_opened(tmp_path: Path) -> None:
    backend = Lab(tmp_path, MemoryStoreFactory()).backend()
    with pytest.raises(TypeError, match="cannot hold values of type"):
        backend.table(TableSpec("t", (("k", pa.int64()),), (ColumnSpec("c", pa.month_day_nano_interval()),)))
    with pytest.raises(SchemaError, match="'k' of type list"):
        backend.table(TableSpec("u", (("k", pa.list_(pa.int64())),)))
    with pytest.raises(SchemaError, match="not a value of type int8"):
        backend.table(TableSpec("v", (("k", pa.int64()),), (ColumnSpec("c", pa.int8(), 1000),)))


def test_the_wrong_number_or_type_of_key_columns_is_refused(tmp_path: Path) -> None:
    table = Lab(tmp_path, MemoryStoreFactory()).backend().table(COUNTS)
    with pytest.raises(SchemaError, match=r"\['int64'\], the table's key is \['string'\]"):
        table.keys([pa.array([1])])


OBJECTS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.string(), ["", "ü", None, "x" * 1000]),
    (pa.binary(), [b"", b"\0\xff", None]),
    (pa.binary(3), [b"abc", None]),
    (pa.decimal128(10, 2), [Decimal("1.50"), None, Decimal("-99999999.99")]),
    (pa.list_(pa.int64()), [[], [1, None, 2**62], None]),
    (pa.list_(pa.float64()), [[float("inf"), 0.1, None]]),
    (pa.list_(pa.timestamp("us", "UTC")), [[datetime.datetime(2026, 1, 1, 1, 2, 3, 4, tzinfo=datetime.UTC), None]]),
    (pa.list_(pa.date32()), [[datetime.date(1969, 7, 20)]]),
    (
        pa.struct([("a", pa.string()), ("b", pa.list_(pa.binary()))]),
        [{"a": "x", "b": [b"\xff"]}, {"a": None, "b": None}],
    ),
    (pa.map_(pa.string(), pa.int64()), [[("a", 1), ("b", None)], None]),
]


@pytest.mark.parametrize(("kind", "values"), OBJECTS, ids=[str(kind) for kind, _ in OBJECTS])
def test_every_kind_of_object_comes_back(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory())
    spec = TableSpec("t", (("k", pa.int64()),), (ColumnSpec("v", kind), ColumnSpec("n", pa.int8(), 7)))
    backend = lab.backend()
    pane = (table := backend.table(spec)).pane()
    for slot, value in zip(pane.slots(table.keys([pa.array(range(len(values)))])), values, strict=True):
        pane.column("v")[slot] = value
    expected = {number: (value, 7) for number, value in enumerate(values)}
    assert rows_of(table) == expected
    assert rows_of(lab.backend(sources=[lab.snapshot(backend)]).table(spec)) == expected


def test_fixed_width_columns_are_numpy_columns_with_defaults(tmp_path: Path) -> None:
    noon = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)
    kinds = {
        "i": (pa.int16(), 5, np.int16),
        "u": (pa.uint64(), 2**64 - 1, np.uint64),
        "b": (pa.bool_(), True, np.bool_),
        "h": (pa.float16(), 0.5, np.float16),
        "t": (pa.timestamp("us", "UTC"), noon, np.int64),
        "d": (pa.date32(), datetime.date(2026, 1, 1), np.int32),
        "z": (pa.int64(), None, np.int64),
    }
    spec = TableSpec("t", (("k", pa.int64()),), tuple(ColumnSpec(n, kind, d) for n, (kind, d, _) in kinds.items()))
    table = Lab(tmp_path, MemoryStoreFactory()).backend().table(spec)
    table.pane().slots(table.keys([pa.array([1])]))
    for name, (_, _, dtype) in kinds.items():
        assert table.pane().column(name).dtype == dtype
    assert rows_of(table) == {1: (5, 2**64 - 1, True, 0.5, noon, datetime.date(2026, 1, 1), 0)}


def test_a_default_that_can_be_changed_is_not_shared_between_slots(tmp_path: Path) -> None:
    spec = TableSpec("t", (("k", pa.int64()),), (ColumnSpec("v", pa.list_(pa.int64()), []),))
    table = Lab(tmp_path, MemoryStoreFactory()).backend().table(spec)
    slots = table.pane().slots(table.keys([pa.array([1, 2])]))
    table.pane().column("v")[slots[0]].append(9)
    assert rows_of(table) == {1: [9], 2: []}


class Journal(MemoryKeyValueStore):
    """A store that remembers how it was called."""

    calls: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def write(self, puts: Any, deletes: Any = ()) -> None:
        puts = list(puts)
        assert [key for key, _ in puts] == sorted({key for key, _ in puts}), "puts are not sorted and distinct"
        self.calls += ["write"] if puts or deletes else []
        super().write(puts, deletes)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self.calls.append("delete_range")
        super().delete_range(start, end)

    def scan(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        return super().scan(start, end)

    def checkpoint(self, target_dir: str) -> list[LocalFile]:
        return super().checkpoint(target_dir)


class JournalFactory:
    """Gives out one journal."""

    def __init__(self) -> None:
        self.store = Journal()

    def open(self, directory: str) -> Journal:
        return self.store


def test_a_pane_that_lives_between_two_checkpoints_never_touches_the_store(tmp_path: Path) -> None:
    factory = JournalFactory()
    lab = Lab(tmp_path, factory)
    backend = lab.backend()
    table = backend.table(COUNTS)
    for namespace in range(10):
        count(table, ["a", "b"], namespace)
        table.drop(namespace)
    lab.snapshot(backend)
    assert factory.store.calls == []
    count(table, ["a"], 3)
    lab.snapshot(backend)
    table.drop(3)
    assert factory.store.calls == ["write", "write", "delete_range"]
    lab.snapshot(backend)
    assert table.namespaces() == []
    assert list(factory.store.scan(b"", b"\xff" * 20)) == []


def test_only_changed_slots_are_written(tmp_path: Path) -> None:
    factory = JournalFactory()
    lab = Lab(tmp_path, factory)
    backend = lab.backend()
    table = backend.table(COUNTS)
    count(table, ["a", "b", "c"])
    lab.snapshot(backend)
    table.pane().find(table.keys([pa.array(["a"])]))
    factory.store.calls.clear()
    lab.snapshot(backend)
    assert factory.store.calls == []


@pytest.mark.parametrize("key", [pa.int64(), pa.string()])
def test_state_four_times_the_memory_budget_stays_within_it_and_is_right(lab: Lab, key: pa.DataType) -> None:
    spec = TableSpec("t", (("k", key),), (ColumnSpec("n", pa.int64()), ColumnSpec("m", pa.float64())))
    lab.memory_bytes = 1_500_000
    backend, random = lab.backend(), np.random.default_rng(3)
    table, expected = backend.table(spec), np.zeros(100_000, dtype=np.int64)
    peak = 0
    for batch in range(40):
        rising = np.arange(batch * 2500, batch * 2500 + 5000) % 100_000
        numbers = random.integers(0, 100_000, 1000) if batch % 2 else rising
        np.add.at(expected, numbers, 1)
        count(table, pa.array(numbers).cast(key).to_pylist())
        peak = max(peak, backend.used_bytes)
    assert peak <= lab.memory_bytes
    present = np.flatnonzero(expected)
    wanted = dict(zip(pa.array(present).cast(key).to_pylist(), expected[present].tolist(), strict=True))
    assert len(table.pane()) == len(wanted)
    assert {k: n for k, (n, _) in rows_of(table).items()} == wanted
    again = lab.backend(sources=[lab.snapshot(backend)])
    assert {k: n for k, (n, _) in rows_of(again.table(spec)).items()} == wanted
    budget, lab.memory_bytes = lab.memory_bytes, 1 << 30
    roomy = lab.backend()
    count(roomy.table(spec), list(wanted))
    assert roomy.used_bytes >= 4 * budget


def test_idle_panes_give_their_memory_to_busy_ones(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory(), memory_bytes=1_000_000)
    backend = lab.backend()
    table = backend.table(COUNTS)
    for namespace in range(12):
        for batch in range(12):
            count(table, [f"{namespace}-{batch}-{n}" for n in range(200)], namespace)
            assert backend.used_bytes <= lab.memory_bytes
    assert table.namespaces() == list(range(12))
    for namespace in range(12):
        assert rows_of(table, namespace) == {f"{namespace}-{b}-{n}": 1 for b in range(12) for n in range(200)}


def test_a_scan_gives_each_key_once_while_another_table_takes_the_memory(lab: Lab) -> None:
    lab.memory_bytes = 300_000
    backend = lab.backend()
    source = backend.table(COUNTS)
    target = backend.table(TableSpec("copy", COUNTS.key, COUNTS.columns))
    for first in range(0, 3000, 500):
        count(source, [f"{n}" for n in range(first, first + 500)])
    seen: list[str] = []
    for batch in source.pane().scan():
        shops = batch.column(0).to_pylist()
        seen += shops
        for copy in range(12):  # so many batches that the source, unused meanwhile, is the one to give way
            count(target, [f"{copy} of {shop}" for shop in shops])
    assert sorted(seen) == sorted(f"{n}" for n in range(3000))


def test_slots_that_were_found_stay_valid_while_others_are_evicted(tmp_path: Path) -> None:
    lab = Lab(tmp_path, MemoryStoreFactory(), memory_bytes=200_000)
    table = lab.backend().table(COUNTS)
    for start in range(0, 20_000, 1000):
        count(table, [f"s{n}" for n in range(start, start + 1000)])
    pane, early = table.pane(), table.keys([pa.array([f"s{n}" for n in range(100)])])
    late = table.keys([pa.array([f"s{n}" for n in range(5000, 5500)])])
    slots = pane.find(early)
    pane.find(late)
    assert (slots == pane.find(early)).all()
    assert pane.column("n")[slots].tolist() == [1] * 100


def test_a_snapshot_is_readable_without_the_job(lab: Lab) -> None:
    spec = TableSpec(
        "t", (("k", pa.int64()), ("l", pa.string())), (ColumnSpec("n", pa.int64()), ColumnSpec("s", pa.string()))
    )
    backend = lab.backend()
    count(backend.table(COUNTS), ["a", "a", None], -7)
    table = backend.table(spec)
    table.pane(2).slots(table.keys([pa.array([1, 2]), pa.array(["x", None])]))
    source = lab.snapshot(backend)
    before = sorted(os.listdir(source.directory))
    tables = {
        name: pa.Table.from_batches(part)
        for name, part in read_tables(lab.factory, source.directory, source.tables).items()
    }
    assert tables["counts"].sort_by("n").to_pylist() == [
        {"namespace": -7, "shop": None, "n": 1},
        {"namespace": -7, "shop": "a", "n": 2},
    ]
    assert tables["t"].sort_by("k").to_pylist() == [
        {"namespace": 2, "k": 1, "l": "x", "n": 0, "s": None},
        {"namespace": 2, "k": 2, "l": None, "n": 0, "s": None},
    ]
    assert sorted(os.listdir(source.directory)) == before


def test_many_new_keys_at_once_are_first_rows_in_order(tmp_path: Path) -> None:
    table = Lab(tmp_path, MemoryStoreFactory()).backend().table(COUNTS)
    shops = [f"s{n % 700}" for n in range(5000)]
    slots, first = table.pane().insert(table.keys([pa.array(shops)]))
    assert np.flatnonzero(first).tolist() == list(range(700))
    assert slots[:700].tolist() == slots[700:1400].tolist()
    _, again = table.pane().insert(table.keys([pa.array(shops)]))
    assert not again.any()
