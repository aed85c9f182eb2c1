from __future__ import annotations

import pyarrow as pa
import pytest

from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import SubtaskIndex
from lakeward.engine.core.keygroups import key_group_range, key_groups
from lakeward.engine.graph.logical import Exchange
from lakeward.engine.runtime.partition import make_partitioner


def batch(rows: int) -> pa.RecordBatch:
    return pa.record_batch({"k": [f"key-{i % 17}" for i in range(rows)], "n": list(range(rows))})


@pytest.mark.parametrize("receivers", [1, 2, 3, 5, 128])
def test_every_row_goes_to_the_subtask_that_owns_its_key_group(receivers: int) -> None:
    rows = batch(500)
    parts = dict(make_partitioner(Exchange.HASH, ("k",), 0, receivers, 128).split(rows))
    assert sorted(n for part in parts.values() for n in part["n"].to_pylist()) == list(range(500))
    for receiver, part in parts.items():
        groups = key_groups(hash_columns([part["k"]]), 128)
        assert set(groups.tolist()) <= set(key_group_range(SubtaskIndex(receiver), receivers, 128))


def test_rows_of_one_key_keep_their_order() -> None:
    for _, part in make_partitioner(Exchange.HASH, ("k",), 0, 4, 128).split(batch(1000)):
        for key in set(part["k"].to_pylist()):
            numbers = [row["n"] for row in part.to_pylist() if row["k"] == key]
            assert numbers == sorted(numbers)


def test_composite_keys_with_nulls_are_split_the_same_way_each_time() -> None:
    rows = pa.record_batch({"a": pa.array([1, None, 1, None]), "b": pa.array(["x", "x", None, None])})
    first = [(r, p.to_pylist()) for r, p in make_partitioner(Exchange.HASH, ("a", "b"), 0, 3, 128).split(rows)]
    again = [(r, p.to_pylist()) for r, p in make_partitioner(Exchange.HASH, ("a", "b"), 1, 3, 128).split(rows)]
    assert first == again
    assert sum(len(p) for _, p in first) == 4


def test_rebalance_deals_batches_in_turn_and_senders_start_apart() -> None:
    one = make_partitioner(Exchange.REBALANCE, (), 0, 3, 128)
    two = make_partitioner(Exchange.REBALANCE, (), 1, 3, 128)
    assert [next(one.split(batch(1)))[0] for _ in range(4)] == [0, 1, 2, 0]
    assert next(two.split(batch(1)))[0] == 1


def test_forward_stays_on_the_senders_own_number() -> None:
    assert next(make_partitioner(Exchange.FORWARD, (), 2, 3, 128).split(batch(1)))[0] == 2
