"""Count windows against a model that keeps every row, over snapshots and rescaling."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.aggregates import collect, count, count_distinct, first, last, max, sum
from lakeward.dsl.windows import CountWindow
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.windows.counts import CountAggregate, CountAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"k": pa.int64(), "v": pa.int64()})
AGGREGATES = {
    "n": count(),
    "total": sum("v"),
    "opened": first("v"),
    "closed": last("v"),
    "most": max("v"),
    "different": count_distinct("v"),
    "all": collect("v"),
}


def factory(window: CountAssigner, keys: tuple[str, ...] = ("k",)) -> CountAggregate:
    bound = tuple(aggregate.bind(SCHEMA, name) for name, aggregate in AGGREGATES.items())
    return CountAggregate(SCHEMA, keys, "", window, bound)


def expected(window: CountAssigner, sent: dict[int, list[int]], key: int, value: int) -> list[tuple[Any, ...]]:
    """The window that a row fills, if it does."""
    rows = sent.setdefault(key, [])
    rows.append(value)
    if len(rows) % window.slide:
        return []
    part = rows[-window.size :]
    ordered = sorted(part)
    total = 0
    for one in part:
        total += one
    return [(key, len(part), total, part[0], part[-1], ordered[-1], len(set(part)), part)]


STEPS = st.lists(
    st.one_of(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=25),
        st.integers(1, 3),
    ),
    min_size=1,
    max_size=8,
)
WINDOWS = st.sampled_from(
    [CountAssigner(1, 1), CountAssigner(3, 3), CountAssigner(4, 2), CountAssigner(5, 1), CountAssigner(6, 4)]
)


@given(WINDOWS, STEPS)
@settings(max_examples=80, deadline=None)
def test_count_windows_agree_with_a_model_over_snapshots_and_rescaling(
    window: CountAssigner, steps: list[list[tuple[int, int]] | int]
) -> None:
    made = factory(window)
    sent: dict[int, list[int]] = {}
    harnesses = [OperatorHarness(made, SCHEMA)]
    try:
        for step in steps:
            if isinstance(step, int):
                harnesses = rescaled(made, harnesses, step)
                continue
            wanted = [result for key, value in step for result in expected(window, sent, key, value)]
            assert sorted(send(harnesses, step)) == sorted(wanted)
    finally:
        for harness in harnesses:
            harness.close()


def rescaled(made: CountAggregate, old: list[OperatorHarness], parallelism: int) -> list[OperatorHarness]:
    snapshots = [harness.snapshot() for harness in old]
    for harness in old:
        harness.close()
    configs = [HarnessConfig(i, parallelism) for i in range(parallelism)]
    return [OperatorHarness.restore(made, SCHEMA, snapshots, config) for config in configs]


def send(harnesses: list[OperatorHarness], rows: list[tuple[int, int]]) -> list[tuple[Any, ...]]:
    from lakeward.engine.core.hashing import hash_array
    from lakeward.engine.core.ids import KeyGroup
    from lakeward.engine.core.keygroups import MAX_PARALLELISM_DEFAULT, key_groups, subtask_of

    groups = key_groups(hash_array(pa.array([key for key, _ in rows])), MAX_PARALLELISM_DEFAULT).tolist()
    found: list[tuple[Any, ...]] = []
    for number, harness in enumerate(harnesses):
        mine = [
            {"k": key, "v": value}
            for (key, value), group in zip(rows, groups, strict=True)
            if subtask_of(KeyGroup(group), len(harnesses), MAX_PARALLELISM_DEFAULT) == number
        ]
        harness.send(pa.RecordBatch.from_pylist(mine, schema=SCHEMA))
        found += [tuple(one.values()) for one in harness.take()]
    return found


def test_a_batch_may_fill_several_windows_of_a_key() -> None:
    with OperatorHarness(factory(CountAssigner(2, 2)), SCHEMA) as harness:
        harness.send([{"k": 1, "v": v} for v in range(7)])
        assert [(one["opened"], one["closed"]) for one in harness.take()] == [(0, 1), (2, 3), (4, 5)]
        harness.send([{"k": 1, "v": 7}])
        assert [(one["opened"], one["closed"]) for one in harness.take()] == [(6, 7)]


def test_count_windows_of_the_whole_stream_need_no_key() -> None:
    with OperatorHarness(factory(CountAssigner(3, 3), keys=()), SCHEMA) as harness:
        harness.send([{"k": v, "v": v} for v in range(4)])
        assert [(one["n"], one["total"]) for one in harness.take()] == [(3, 3)]


def test_keys_of_which_nothing_is_pending_take_no_state() -> None:
    with OperatorHarness(factory(CountAssigner(2, 2)), SCHEMA) as harness:
        harness.send([{"k": 1, "v": 1}, {"k": 1, "v": 2}])
        assert harness.operator._table.namespaces() == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(("n", "slide"), [(0, None), (2, 3), (2, 0), (5_000, 3)])
def test_count_windows_that_cannot_work_are_refused(n: int, slide: int | None) -> None:
    with pytest.raises(ConfigError):
        CountWindow(n, slide)
