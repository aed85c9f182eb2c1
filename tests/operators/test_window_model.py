"""Random streams through real state, with snapshots and rescaling, against a model that keeps every row."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.aggregates import collect, count, count_distinct, last, sum
from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import key_groups, subtask_of
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US
from lakeward.operators.windows.assigners import CumulativeAssigner, PaneAssigner, WindowAssigner
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.testing.harness import HarnessConfig, OperatorHarness

GROUPS = 16
KEYS = 7
SCHEMA = pa.schema({"k": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "v": pa.int32()})
GROUP_OF = key_groups(hash_array(pa.array(range(KEYS))), GROUPS).tolist()

Row = tuple[int, int, int | None]
Emitted = tuple[Any, ...]


AGGREGATES = {
    "n": count(),
    "total": sum("v"),
    "newest": last("v"),
    "different": count_distinct("v"),
    "all": collect("v"),
}
ADDITIVE, GROWING = ("n", "total"), ("n", "total", "newest", "all")
"""What a running merge of panes can subtract, and what it can only add to."""


def factory(windows: PaneAssigner, lateness: int, names: tuple[str, ...] = tuple(AGGREGATES)) -> WindowAggregate:
    bound = tuple(AGGREGATES[name].bind(SCHEMA, name) for name in names)
    return WindowAggregate(SCHEMA, ("k",), "at", windows, bound, lateness, "late")


def bounds_at(windows: PaneAssigner, time: int) -> list[tuple[int, int]]:
    """Start and end of each window that a time is in."""
    if isinstance(windows, CumulativeAssigner):
        start = time - (time - windows.offset_us) % windows.size_us
        ends = range(start + windows.step_us, start + windows.size_us + 1, windows.step_us)
        return [(start, end) for end in ends if time < end]
    assert isinstance(windows, WindowAssigner)
    starts = range(time - windows.size_us + 1, time + 1)
    return [(s, s + windows.size_us) for s in starts if (s - windows.offset_us) % windows.slide_us == 0]


@dataclass
class Model:
    """What Flink's window operator does, row by row and key by key."""

    windows: PaneAssigner
    lateness: int
    names: tuple[str, ...] = tuple(AGGREGATES)
    watermarks: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(KEYS), WATERMARK_MIN_US))
    contents: dict[tuple[int, int, int], list[tuple[int, int | None]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def send(self, rows: list[Row]) -> tuple[list[Emitted], list[Row]]:
        late, updated = [], set()
        for key, time, value in rows:
            containing = bounds_at(self.windows, time)
            now = self.watermarks[key]
            live = [(start, end) for start, end in containing if end - 1 + self.lateness > now]
            if containing and not live:
                late.append((key, time, value))
            for start, end in live:
                self.contents[key, start, end].append((time, value))
                if end - 1 <= now:
                    updated.add((key, start, end))
        return [self._result(*window) for window in updated], late

    def advance(self, keys: list[int], watermark: int) -> list[Emitted]:
        fired = []
        for key, start, end in self.contents:
            if key in keys and self.watermarks[key] < end - 1 <= watermark:
                fired.append(self._result(key, start, end))
        for key in keys:
            self.watermarks[key] = max(self.watermarks[key], watermark)
        return fired

    def _result(self, key: int, start: int, end: int) -> Emitted:
        rows = self.contents[key, start, end]
        values = [value for _, value in rows if value is not None]
        timed = [(time, i, value) for i, (time, value) in enumerate(rows) if value is not None]
        newest = max(timed)[2] if timed else None
        total = None
        for value in values:
            total = value + (total or 0)
        held = [value for _, _, value in sorted(timed)] or None
        results = {"n": len(rows), "total": total, "newest": newest, "different": len(set(values)), "all": held}
        return key, start, end, *(results[name] for name in self.names)


class Subtasks:
    """The operator at some parallelism, fed as a job would feed it."""

    def __init__(self, windows: WindowAggregate, store: Any) -> None:
        self.factory = windows
        self.store = store
        self.harnesses = [OperatorHarness(windows, SCHEMA, self._config(0, 1))]
        self.watermarks = [WATERMARK_MIN_US]

    def _config(self, subtask: int, parallelism: int) -> HarnessConfig:
        return HarnessConfig(subtask, parallelism, GROUPS, self.store)

    def subtask(self, key: int) -> int:
        return subtask_of(KeyGroup(GROUP_OF[key]), len(self.harnesses), GROUPS)

    def keys_of(self, subtask: int) -> list[int]:
        return [key for key in range(KEYS) if self.subtask(key) == subtask]

    def send(self, rows: list[Row]) -> None:
        for i, harness in enumerate(self.harnesses):
            mine = [{"k": k, "at": t, "v": v} for k, t, v in rows if self.subtask(k) == i]
            if mine:
                harness.send(mine)

    def take(self) -> tuple[list[Emitted], list[Row]]:
        emitted, late = [], []
        for harness in self.harnesses:
            for row in harness.take():
                start, end = (int(row.pop(name).timestamp() * 1_000_000) for name in ("window_start", "window_end"))
                emitted.append((row.pop("k"), start, end, *row.values()))
            late += [(r["k"], int(r["at"].timestamp() * 1_000_000), r["v"]) for r in harness.take_side("late")]
        return emitted, late

    def rescale(self, parallelism: int) -> None:
        snapshots = [harness.snapshot() for harness in self.harnesses]
        self.close()
        self.harnesses = [
            OperatorHarness.restore(self.factory, SCHEMA, snapshots, self._config(i, parallelism))
            for i in range(parallelism)
        ]

    def close(self) -> None:
        for harness in self.harnesses:
            harness.close()


ROWS = st.lists(
    st.tuples(st.integers(0, KEYS - 1), st.integers(-15, 60), st.none() | st.integers(0, 3)), min_size=1, max_size=10
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), ROWS),
        st.tuples(st.just("send"), ROWS),
        st.tuples(st.just("watermark"), st.integers(-20, 60)),
        st.tuples(st.just("one watermark"), st.tuples(st.integers(0, 2), st.integers(-20, 60))),
        st.tuples(st.just("rescale"), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=14,
)
WINDOWS = st.sampled_from(
    [
        WindowAssigner(10, 10),
        WindowAssigner(10, 10, 3),
        WindowAssigner(10, 5),
        WindowAssigner(12, 8, 1),
        WindowAssigner(4, 6),
    ]
)


def run(
    windows: PaneAssigner,
    lateness: int,
    steps: list[tuple[str, Any]],
    store: str,
    names: tuple[str, ...] = tuple(AGGREGATES),
) -> None:
    model, subtasks = Model(windows, lateness, names), Subtasks(factory(windows, lateness, names), store)
    try:
        for kind, argument in [*steps, ("watermark", WATERMARK_MAX_US)]:
            emitted, late = step(model, subtasks, kind, argument)
            seen, seen_late = subtasks.take()
            assert sorted(seen, key=repr) == sorted(emitted, key=repr), (kind, argument)
            assert sorted(seen_late, key=repr) == sorted(late, key=repr), (kind, argument)
    finally:
        subtasks.close()


def step(model: Model, subtasks: Subtasks, kind: str, argument: Any) -> tuple[list[Emitted], list[Row]]:
    if kind == "send":
        subtasks.send(argument)
        return model.send(argument)
    if kind == "rescale":
        subtasks.rescale(argument)
        return [], []
    every = range(len(subtasks.harnesses))
    chosen = list(every) if kind == "watermark" else [argument[0] % len(every)]
    watermark = argument if kind == "watermark" else argument[1]
    for i in chosen:
        subtasks.harnesses[i].watermark(watermark)
    return model.advance([key for i in chosen for key in subtasks.keys_of(i)], watermark), []


@given(WINDOWS, st.sampled_from([0, 0, 3, 12]), STEPS)
@settings(max_examples=80, deadline=None)
def test_windows_agree_with_a_model_over_snapshots_and_rescaling(
    windows: WindowAssigner, lateness: int, steps: list[tuple[str, Any]]
) -> None:
    run(windows, lateness, steps, "memory")


@given(WINDOWS, st.sampled_from([0, 12]), STEPS)
@settings(max_examples=12, deadline=None)
def test_windows_agree_with_a_model_on_rocksdb(
    windows: WindowAssigner, lateness: int, steps: list[tuple[str, Any]]
) -> None:
    run(windows, lateness, steps, "rocksdb")


OVERLAPPING = st.sampled_from([WindowAssigner(10, 5), WindowAssigner(12, 2, 1), CumulativeAssigner(3, 12)])


@given(OVERLAPPING, st.sampled_from([0, 0, 5]), STEPS, st.sampled_from([ADDITIVE, GROWING]))
@settings(max_examples=70, deadline=None)
def test_windows_that_keep_a_running_merge_agree_with_a_model(
    windows: PaneAssigner, lateness: int, steps: list[tuple[str, Any]], names: tuple[str, ...]
) -> None:
    run(windows, lateness, steps, "memory", names)


@given(st.sampled_from([CumulativeAssigner(3, 12), CumulativeAssigner(5, 5), CumulativeAssigner(4, 12, 3)]), STEPS)
@settings(max_examples=25, deadline=None)
def test_cumulative_windows_agree_with_a_model(windows: PaneAssigner, steps: list[tuple[str, Any]]) -> None:
    run(windows, 0, steps, "memory")


@pytest.mark.parametrize("windows", [WindowAssigner(12, 2), CumulativeAssigner(2, 12)])
@pytest.mark.parametrize("names", [ADDITIVE, GROWING])
def test_rows_that_come_to_panes_of_a_running_merge_are_in_the_next_windows(
    windows: PaneAssigner, names: tuple[str, ...]
) -> None:
    steps: list[tuple[str, Any]] = [("send", [(1, time, 1) for time in range(12)]), ("watermark", 5)]
    steps += [("send", [(1, 4, 2), (2, 5, 3)]), ("watermark", 9), ("rescale", 2), ("send", [(2, 8, 1)])]
    steps += [("watermark", 11), ("watermark", 14), ("send", [(1, 12, 1), (3, 13, 2)]), ("watermark", 30)]
    run(windows, 10, steps, "memory", names)


def test_a_window_fired_by_one_old_subtask_only_fires_for_the_other_keys_after_a_merge() -> None:
    rows = [(key, 5, 1) for key in range(KEYS)]
    steps: list[tuple[str, Any]] = [
        ("rescale", 2),
        ("send", rows),
        ("one watermark", (0, 9)),  # subtask 0 fires [0, 10), subtask 1 does not
        ("rescale", 1),
        ("send", rows),  # late for the keys of the old subtask 0, in time for the others
        ("rescale", 3),  # the difference survives another restore
        ("send", rows),
        ("watermark", 9),
    ]
    run(WindowAssigner(10, 10), 0, steps, "memory")
