"""Count windows that send results before they are full: what is visible, against a model that keeps every row."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.aggregates import count, first, last, sum
from lakeward.engine.api.changelog import ROW_KIND, SHORT_NAMES
from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import MAX_PARALLELISM_DEFAULT, key_groups, subtask_of
from lakeward.operators.windows.counts import CountAggregate, CountAssigner
from lakeward.operators.windows.early import Trigger
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"k": pa.int64(), "v": pa.int64()})
SECOND_MS = 1_000.0


def factory(window: CountAssigner, trigger: Trigger, keys: tuple[str, ...] = ("k",)) -> CountAggregate:
    aggregates = {"n": count(), "total": sum("v"), "opened": first("v"), "closed": last("v")}
    bound = tuple(aggregate.bind(SCHEMA, name) for name, aggregate in aggregates.items())
    return CountAggregate(SCHEMA, keys, "", window, bound, trigger)


def rows(*values: int, key: int = 1) -> list[dict[str, int]]:
    return [{"k": key, "v": value} for value in values]


def changes(harness: OperatorHarness) -> list[tuple[str, int, int]]:
    return [(SHORT_NAMES[one[ROW_KIND]], one["n"], one["total"]) for one in harness.take()]


def test_a_window_sends_what_it_has_and_its_row_stays_when_it_is_full() -> None:
    with OperatorHarness(factory(CountAssigner(3, 3), Trigger(interval_us=1_000_000)), SCHEMA) as harness:
        harness.tick()
        harness.send(rows(1, 2))
        assert changes(harness) == []
        harness.tick(SECOND_MS)
        assert changes(harness) == [("+I", 2, 3)]
        harness.tick(SECOND_MS)
        assert changes(harness) == []
        harness.send(rows(3, 4))
        assert changes(harness) == [("-U", 2, 3), ("+U", 3, 6)]
        harness.tick(SECOND_MS)
        assert changes(harness) == [("+I", 1, 4)]
        harness.send(rows(5))
        assert [(SHORT_NAMES[one[ROW_KIND]], one["n"], one["total"]) for one in harness.end()] == [
            ("-U", 1, 4),
            ("+U", 2, 9),
        ]


def test_a_key_fires_when_it_has_got_its_rows_since_it_was_sent() -> None:
    with OperatorHarness(factory(CountAssigner(5, 5), Trigger(rows=2)), SCHEMA) as harness:
        harness.send(rows(1))
        assert changes(harness) == []
        harness.send(rows(1))
        assert changes(harness) == [("+I", 2, 2)]
        harness.send(rows(1))
        assert changes(harness) == []
        harness.send(rows(1, 1, 1))
        assert changes(harness) == [("-U", 2, 2), ("+U", 5, 5)]
        harness.send(rows(1))
        assert changes(harness) == [("+I", 2, 2)]


def test_of_windows_that_overlap_the_next_to_be_full_is_sent() -> None:
    with OperatorHarness(factory(CountAssigner(4, 2), Trigger(rows=1)), SCHEMA) as harness:
        for value in (1, 2, 3, 4, 5):
            harness.send(rows(value))
        assert changes(harness) == [
            ("+I", 1, 1),
            ("-U", 1, 1),
            ("+U", 2, 3),
            ("+I", 3, 6),
            ("-U", 3, 6),
            ("+U", 4, 10),
            ("+I", 3, 12),
        ]


def test_keys_of_which_nothing_is_pending_take_no_state() -> None:
    with OperatorHarness(factory(CountAssigner(2, 2), Trigger(rows=1)), SCHEMA) as harness:
        harness.send(rows(1))
        harness.send(rows(2))
        assert harness.operator._table.namespaces() == []  # type: ignore[attr-defined]


def test_windows_of_the_whole_stream_fire_early_without_a_key() -> None:
    with OperatorHarness(factory(CountAssigner(4, 4), Trigger(rows=3), keys=()), SCHEMA) as harness:
        harness.send([*rows(1, key=1), *rows(2, key=2), *rows(3, key=3)])
        assert changes(harness) == [("+I", 3, 6)]


# -- against a model

ROWS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=12)
STEPS = st.lists(st.one_of(ROWS, ROWS, st.just("tick"), st.integers(1, 3)), min_size=1, max_size=10)
WINDOWS = st.sampled_from([CountAssigner(3, 3), CountAssigner(7, 7), CountAssigner(4, 2), CountAssigner(6, 4)])
TRIGGERS = st.sampled_from([Trigger(interval_us=1_000), Trigger(rows=1), Trigger(rows=2)])


@given(WINDOWS, TRIGGERS, STEPS)
@settings(max_examples=80, deadline=None)
def test_what_is_visible_agrees_with_a_model_over_snapshots_and_rescaling(
    window: CountAssigner, trigger: Trigger, steps: list[Any]
) -> None:
    made = factory(window, trigger)
    sent: dict[int, list[int]] = {}
    visible: Counter[tuple[Any, ...]] = Counter()
    harnesses = [OperatorHarness(made, SCHEMA)]
    try:
        for step in [*steps, 1]:
            if isinstance(step, list):
                for key, value in step:
                    sent.setdefault(key, []).append(value)
                send(harnesses, step)
            elif step == "tick":
                for harness in harnesses:
                    harness.tick()
                    harness.tick(1.0)
            snapshots = [harness.snapshot() for harness in harnesses] if isinstance(step, int) else []
            for harness in harnesses:
                apply(visible, harness)
            if snapshots:
                harnesses = rescaled(made, harnesses, snapshots, step)
            flushed = not isinstance(step, list) if trigger.interval_us else trigger.rows == 1
            full = Counter(result for key in sent for result in full_windows(window, key, sent[key]))
            if flushed:
                assert visible == full + Counter(one for key in sent for one in open_window(window, key, sent[key]))
            else:
                assert full <= visible
    finally:
        for harness in harnesses:
            harness.close()


def full_windows(window: CountAssigner, key: int, values: list[int]) -> list[tuple[Any, ...]]:
    ends = range(window.slide, len(values) + 1, window.slide)
    return [result(key, values[max(0, end - window.size) : end]) for end in ends]


def open_window(window: CountAssigner, key: int, values: list[int]) -> list[tuple[Any, ...]]:
    """The next window to be full, if it has got rows that the one before it has not."""
    end = (len(values) // window.slide + 1) * window.slide
    return [result(key, values[max(0, end - window.size) :])] if len(values) % window.slide else []


def result(key: int, part: list[int]) -> tuple[Any, ...]:
    total = 0
    for one in part:
        total += one
    return key, len(part), total, part[0], part[-1]


def apply(visible: Counter[tuple[Any, ...]], harness: OperatorHarness) -> None:
    for one in harness.take():
        kind = SHORT_NAMES[one.pop(ROW_KIND)]
        known = tuple(one.values())
        if kind in ("-U", "-D"):
            assert visible[known]
            visible[known] -= 1
        else:
            visible[known] += 1
    for known in [known for known, times in visible.items() if not times]:
        del visible[known]


def send(harnesses: list[OperatorHarness], pairs: list[tuple[int, int]]) -> None:
    groups = key_groups(hash_array(pa.array([key for key, _ in pairs])), MAX_PARALLELISM_DEFAULT).tolist()
    for number, harness in enumerate(harnesses):
        mine = [
            {"k": key, "v": value}
            for (key, value), group in zip(pairs, groups, strict=True)
            if subtask_of(KeyGroup(group), len(harnesses), MAX_PARALLELISM_DEFAULT) == number
        ]
        harness.send(pa.RecordBatch.from_pylist(mine, schema=SCHEMA))


def rescaled(
    made: CountAggregate, old: list[OperatorHarness], snapshots: list[Any], parallelism: int
) -> list[OperatorHarness]:
    for harness in old:
        harness.close()
    configs = [HarnessConfig(i, parallelism) for i in range(parallelism)]
    return [OperatorHarness.restore(made, SCHEMA, snapshots, config) for config in configs]
