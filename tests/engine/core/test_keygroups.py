"""Key groups: fixed for the life of state, spread evenly over subtasks."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import KeyGroup, SubtaskIndex
from lakeward.engine.core.keygroups import key_group_range, key_groups, subtask_of


def test_key_groups_of_keys_are_golden() -> None:
    assert key_groups(hash_array(pa.array([0, 1, 2, 3, -1, None])), 128).tolist() == [113, 72, 75, 14, 114, 77]
    assert key_groups(hash_array(pa.array(["", "a", "orders"])), 128).tolist() == [113, 47, 109]


@given(st.integers(1, 64), st.integers(0, 64))
def test_ranges_cover_every_group_once(parallelism: int, more: int) -> None:
    max_parallelism = parallelism + more
    ranges = [key_group_range(SubtaskIndex(i), parallelism, max_parallelism) for i in range(parallelism)]
    assert [group for part in ranges for group in part] == list(range(max_parallelism))
    assert {len(part) for part in ranges} <= {max_parallelism // parallelism, -(-max_parallelism // parallelism)}


@given(st.integers(1, 64), st.integers(0, 64))
def test_the_owner_of_a_group_has_it_in_its_range(parallelism: int, more: int) -> None:
    max_parallelism = parallelism + more
    for group in range(max_parallelism):
        owner = subtask_of(KeyGroup(group), parallelism, max_parallelism)
        assert group in key_group_range(owner, parallelism, max_parallelism)


@pytest.mark.parametrize("kind", ["numbers", "strings"])
def test_consecutive_keys_spread_evenly(kind: str) -> None:
    keys = pa.array(range(100_000)) if kind == "numbers" else pa.array([f"user-{n}" for n in range(100_000)])
    counts = np.bincount(key_groups(hash_array(keys), 128), minlength=128)
    assert counts.max() / counts.mean() < 1.15
    assert counts.min() / counts.mean() > 0.85
