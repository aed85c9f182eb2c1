"""The slot map: growing in steps, removing, colliding hashes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.state import key_columns
from lakeward.engine.state import slots as slot_maps
from lakeward.engine.state.key_columns import ByteKeyColumn, IntKeyColumn, grown
from lakeward.engine.state.keys import KeyBatch, KeyCodec
from lakeward.engine.state.slots import SlotMap


def new_map(kind: str) -> tuple[SlotMap, KeyCodec]:
    integral = kind == "int64"
    column = IntKeyColumn() if integral else ByteKeyColumn()
    return SlotMap(column), KeyCodec([("k", pa.int64() if integral else pa.string())])


def encoded(codec: KeyCodec, numbers: np.ndarray) -> KeyBatch:
    return codec.encode([pa.array(numbers).cast(codec.types[0])])


def find_or_insert(slots: SlotMap, batch: KeyBatch) -> np.ndarray:
    found = slots.find(batch)
    slots.insert(batch, np.flatnonzero(found < 0), found)
    return found


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_keys_keep_their_slots_while_the_table_grows_in_steps(kind: str) -> None:
    slots, codec = new_map(kind)
    known = np.full(400_000, -1, dtype=np.int64)
    random, rehashes = np.random.default_rng(5), 0
    for start in range(0, 400_000, 16_000):
        fresh = np.arange(start, start + 16_000)
        known[fresh] = find_or_insert(slots, encoded(codec, fresh))
        rehashes += slots._old is not None
        some = random.integers(0, 400_000, 5000)
        assert (slots.find(encoded(codec, some)) == known[some]).all()
        gone = np.unique(random.integers(0, start + 16_000, 1000))
        gone = gone[known[gone] >= 0]
        slots.remove(known[gone])
        known[gone] = -1
        assert (slots.find(encoded(codec, gone)) == -1).all()
    assert rehashes > 3, "the table was never seen between two sizes"
    assert (slots.find(encoded(codec, np.arange(400_000))) == known).all()
    live = known[known >= 0]
    assert len(np.unique(live)) == len(live) == len(slots)
    assert (slots.occupied() == np.sort(live)).all()


@pytest.mark.parametrize("sparse_max", [1 << 8, 1 << 22])
@pytest.mark.parametrize("seed", range(3))
def test_slots_that_are_freed_and_used_again_in_the_middle_of_a_rehash_keep_their_keys(
    seed: int, sparse_max: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slot_maps, "_SPARSE_BUCKETS_MAX", sparse_max)
    monkeypatch.setattr(slot_maps, "_REHASH_AT_ONCE", 1 << 8)
    monkeypatch.setattr(slot_maps, "_MOVE_MIN", 16)
    slots, codec = new_map("int64")
    random, known, during = np.random.default_rng(seed), dict[int, int](), 0
    for _ in range(400):
        fresh = np.unique(random.integers(0, 8000, int(random.integers(1, 60))))
        known.update(zip(fresh.tolist(), find_or_insert(slots, encoded(codec, fresh)).tolist(), strict=True))
        slots.move_some()
        if slots._old is not None:
            during += 1
            gone = random.choice(np.array([*known]), len(known) // 8, replace=False)
            slots.remove(np.array([known.pop(key) for key in gone.tolist()]))
        expected = [known.get(key, -1) for key in range(8000)]
        assert slots.find(encoded(codec, np.arange(8000))).tolist() == expected
        assert slots.occupied().tolist() == sorted(known.values())
    assert during > 20, "hardly anything was removed in the middle of a rehash"


def test_a_large_table_has_half_of_the_buckets_for_its_keys() -> None:
    slots, codec = new_map("int64")
    slots.insert_distinct(encoded(codec, np.arange(1 << 20)))
    sparse = slots.size_bytes
    slots.insert_distinct(encoded(codec, np.arange(1 << 20, 1 << 22)))
    slots.move_some()
    keys = (1 << 22) * 8 * 3 // 2
    assert sparse >= 4 * 4 << 20
    assert slots.size_bytes < 2 * 4 * (1 << 22) + (2 * 4 << 20) + keys


@pytest.mark.parametrize("kind", ["int64", "string"])
def test_keys_whose_hashes_are_all_the_same_are_told_apart(kind: str) -> None:
    slots, codec = new_map(kind)

    def colliding(numbers: np.ndarray) -> KeyBatch:
        batch = encoded(codec, numbers)
        batch.hashes = np.full(len(batch), 42, dtype=np.uint64)
        return batch

    slots.keys.hashes = lambda slots: np.full(len(slots), 42, dtype=np.uint64)  # type: ignore[method-assign]
    numbers = np.array([5, 3, 5, 9, 3, 11])
    first = find_or_insert(slots, colliding(numbers))
    assert first.tolist() == [1, 2, 1, 3, 2, 4]
    assert (slots.find(colliding(numbers)) == first).all()
    slots.remove(np.array([2]))
    assert slots.find(colliding(np.array([3, 9, 11]))).tolist() == [-1, 3, 4]
    more = np.arange(100, 400)
    found = find_or_insert(slots, colliding(more))
    assert len(np.unique(found)) == 300
    assert (slots.find(colliding(more)) == found).all()


def test_a_churning_map_does_not_grow() -> None:
    slots, codec = new_map("string")
    for start in range(0, 200_000, 500):
        found = find_or_insert(slots, encoded(codec, np.arange(start, start + 500)))
        slots.remove(found)
    assert len(slots) == 0
    assert slots.size_bytes < 200_000


def test_few_distinct_keys_in_a_large_batch_make_a_small_table() -> None:
    slots, codec = new_map("int64")
    find_or_insert(slots, encoded(codec, np.arange(32_768) % 100))
    assert len(slots) == 100
    assert slots.size_bytes < 16_000


def test_a_bulk_build_finds_the_same_keys() -> None:
    slots, codec = new_map("string")
    batch = encoded(codec, np.arange(50_000))
    numbers = slots.insert_distinct(batch)
    assert (slots.find(batch) == numbers).all()
    more = encoded(codec, np.arange(50_000, 60_000))
    assert (slots.insert_distinct(more) == slots.find(more)).all()
    assert len(slots) == 60_000


TEXT = st.one_of(st.none(), st.text(max_size=20))
NUMBER = st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1))


@settings(max_examples=60)
@given(st.lists(st.tuples(TEXT, NUMBER, st.one_of(st.none(), st.binary(max_size=12))), max_size=20), st.integers(0, 3))
def test_composite_keys_come_back_and_equal_keys_have_equal_bytes(rows: list[tuple[object, ...]], skip: int) -> None:
    codec = KeyCodec([("a", pa.string()), ("b", pa.int32()), ("c", pa.binary())])
    columns = [list(c) for c in zip(*rows, strict=True)] if rows else [[], [], []]
    arrays = [pa.array(c, kind).slice(skip) for c, kind in zip(columns, codec.types, strict=True)]
    keys = codec.encode(arrays)
    assert [c.to_pylist() for c in codec.decode(keys)] == [a.to_pylist() for a in arrays]
    slots = find_or_insert(SlotMap(ByteKeyColumn()), keys)
    first = dict(zip(reversed(rows[skip:]), reversed(slots.tolist()), strict=True))
    assert [first[row] for row in rows[skip:]] == slots.tolist()
    assert len(set(slots.tolist())) == len(first)


SINGLE_TYPES = [
    pa.int8(),
    pa.int64(),
    pa.uint64(),
    pa.bool_(),
    pa.float32(),
    pa.float64(),
    pa.date32(),
    pa.timestamp("us", "UTC"),
    pa.time64("us"),
    pa.duration("ms"),
    pa.large_string(),
    pa.large_binary(),
]


@pytest.mark.parametrize("kind", SINGLE_TYPES, ids=str)
def test_keys_of_every_type_come_back(kind: pa.DataType) -> None:
    wide = pa.int32() if kind == pa.date32() else pa.int64()
    source = pa.array([0, 1, None, 1], wide)
    through = source.cast(pa.string()) if kind == pa.large_binary() else source
    array = through.cast(kind)
    codec = KeyCodec([("k", kind)])
    for part in (array, array.slice(1), array.slice(0, 0)):
        assert codec.decode(codec.encode([part]))[0].equals(part)
    slots = find_or_insert(SlotMap(IntKeyColumn() if codec.integral else ByteKeyColumn()), codec.encode([array]))
    assert slots.tolist() == [1, 2, 0, 2]


def test_arrays_grow_in_the_room_that_they_have() -> None:
    array = grown(np.arange(10), 20)
    array[10:] = -1
    larger = grown(array, 70)
    assert np.shares_memory(array, larger)
    assert larger[:20].tolist() == [*range(10), *[-1] * 10]
    assert not np.shares_memory(larger, grown(larger, 81))


def test_arrays_grow_where_address_space_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_columns, "_ROOM", 1 << 50)
    assert grown(np.arange(10), 20)[:10].tolist() == list(range(10))
