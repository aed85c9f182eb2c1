"""Rows that nobody has looked for are in no index, and are found all the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.backend import StateBackend
from lakeward.engine.state.keys import KeyBatch, KeyCodec
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.engine.state.row_log import KeyLog

CODECS = {
    "int": KeyCodec([("k", pa.int64())]),
    "text": KeyCodec([("k", pa.string())]),
    "pair": KeyCodec([("k", pa.int64()), ("s", pa.string())]),
}


def columns(kind: str, numbers: Sequence[int]) -> list[pa.Array]:
    ints, texts = pa.array(numbers, pa.int64()), pa.array([f"key {n}" for n in numbers], pa.string())
    return {"int": [ints], "text": [texts], "pair": [ints, texts]}[kind]


@pytest.mark.parametrize("kind", CODECS)
@settings(max_examples=60, deadline=None)
@given(
    appends=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=30), min_size=1, max_size=5),
    wanted=st.lists(st.integers(0, 15), max_size=6),
)
def test_the_log_finds_what_was_appended_in_its_order(kind: str, appends: list[list[int]], wanted: list[int]) -> None:
    codec = CODECS[kind]

    def encode(arrays: Sequence[pa.Array]) -> tuple[Int64Array | None, KeyBatch]:
        return None, codec.encode(arrays)

    log, every = KeyLog(encode), [number for numbers in appends for number in numbers]
    first = 0
    for numbers in appends:
        log.append(np.arange(first, first + len(numbers)), columns(kind, numbers))
        first += len(numbers)
    found = log.find(codec.encode(columns(kind, wanted)))
    expected = [(p, i) for p, want in enumerate(wanted) for i, number in enumerate(every) if number == want]
    if found is not None:  # else an index is cheaper
        assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected
    assert sum(len(ids) for ids, _ in log.take()) == len(every)
    assert log.rows == 0


def test_an_index_is_made_when_looking_has_cost_as_much(tmp_path: object) -> None:
    schema = pa.schema({"k": pa.int64()})
    table = StateBackend(MemoryStoreFactory(), f"{tmp_path}", range(128), 128, 1 << 28).rows(
        RowsSpec("r", schema, ("k",))
    )
    table.append(pa.record_batch([pa.array(range(1000))], schema=schema))
    pane = table._panes[0]
    looks = 0
    while not pane.keys.used:
        assert pane.log.rows == 1000
        assert table.find([pa.array([7, 5000])]).ids.tolist() == [7]
        looks += 1
    assert 3 <= looks <= 10
    assert pane.log.rows == 0
    table.append(pa.record_batch([pa.array([7])], schema=schema))
    assert table.find([pa.array([7])]).ids.tolist() == [7, 1000]


def test_removing_rows_that_were_never_looked_for_gives_their_ids_back(tmp_path: object) -> None:
    schema = pa.schema({"k": pa.int64()})
    table = StateBackend(MemoryStoreFactory(), f"{tmp_path}", range(128), 128, 1 << 28).rows(
        RowsSpec("r", schema, ("k",))
    )
    ids = table.append(pa.record_batch([pa.array([1, 2, None, 3])], schema=schema))
    table.remove(ids[1:3])
    assert table.find([pa.array([1, 2, 3])]).ids.tolist() == [ids[0], ids[3]]
    again = table.append(pa.record_batch([pa.array([2, 4])], schema=schema))
    assert sorted(again.tolist()) == sorted(ids[1:3].tolist())
    assert table.find([pa.array([2, 4])]).ids.tolist() == again.tolist()
