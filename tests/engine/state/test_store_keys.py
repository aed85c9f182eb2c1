"""Keys as they lie in the store: sorted, and the same keys when they are read back."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from lakeward.engine.core.keygroups import key_groups
from lakeward.engine.state.keys import KeyBatch, KeyCodec
from lakeward.engine.state.memory import MemoryKeyValueStore
from lakeward.engine.state.row_store import RowStore

TEXTS = {
    "of one length": ["2026-01-01", "2026-01-02", "2025-12-31"],
    "of several lengths": ["", "b", "a\0", "a", "longer than a word of eight bytes"],
    "with a null": ["b", None, "a"],
}


def store_of(codec: KeyCodec) -> RowStore:
    return RowStore(MemoryKeyValueStore(), 1, codec, 128)


def same_keys(first: KeyBatch, second: KeyBatch, codec: KeyCodec) -> None:
    assert [a.to_pylist() for a in codec.decode(first)] == [a.to_pylist() for a in codec.decode(second)]
    assert first.hashes.tolist() == second.hashes.tolist()


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("composite", [False, True])
@pytest.mark.parametrize("collide", [False, True])
def test_keys_are_sorted_within_their_group_and_read_back(
    texts: list[str | None], composite: bool, collide: bool
) -> None:
    arrays = [pa.array(texts, pa.string()), pa.array(range(len(texts)), pa.int32())][: 1 + composite]
    codec = KeyCodec([("a", pa.string()), ("b", pa.int32())][: 1 + composite])
    keys = codec.encode(arrays)
    if collide:
        keys.hashes = np.full(len(keys), 42, dtype=np.uint64)
    rows = store_of(codec)
    names, order = rows.sorted_keys(-5, keys)
    assert names == sorted(set(names))
    assert sorted(order.tolist()) == list(range(len(texts)))
    same_keys(rows.decode_keys(names), keys.take(order), codec)
    groups = [int.from_bytes(name[10:12], "big") for name in names]
    assert groups == key_groups(keys.hashes[order], 128).tolist()


def test_a_composite_key_is_the_same_beside_texts_of_its_length_and_of_others() -> None:
    codec = KeyCodec([("a", pa.string()), ("b", pa.int64()), ("c", pa.string())])
    names, numbers, others = ["ab", "cd", "ab"], [1, None, 3], ["x", "y", "z"]
    alike = codec.encode([pa.array(names), pa.array(numbers, pa.int64()), pa.array(others)])
    mixed = codec.encode([pa.array([*names, "longer"]), pa.array([*numbers, 4]), pa.array([*others, ""])])
    rows = np.arange(3)
    assert alike.to_arrow().equals(mixed.take(rows).to_arrow())  # type: ignore[attr-defined]
    same_keys(alike, mixed.take(rows), codec)
