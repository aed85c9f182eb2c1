"""Sessions that send results before their end: what is visible, against a model that keeps every row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.aggregates import count, last, sum
from lakeward.engine.api.changelog import ROW_KIND, SHORT_NAMES
from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import key_groups, subtask_of
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.sessions import SessionAggregate, SessionAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

GROUPS, KEYS, GAP = 16, 3, 6
SECOND_MS = 1_000.0
SCHEMA = pa.schema({"k": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "v": pa.int32()})
GROUP_OF = key_groups(hash_array(pa.array(range(KEYS))), GROUPS).tolist()

Row = tuple[int, int, int | None]
Known = tuple[int, int, int]
"""Key, start and end."""

Result = tuple[int, int | None, int | None]
"""Rows, sum and newest value."""


def factory(trigger: Trigger, lateness: int = 0, processing: bool = False) -> SessionAggregate:
    aggregates = {"n": count(), "total": sum("v"), "newest": last("v")}
    bound = tuple(aggregate.bind(SCHEMA, name) for name, aggregate in aggregates.items())
    time = "" if processing else "at"
    return SessionAggregate(SCHEMA, ("k",), time, SessionAssigner(GAP, processing), bound, lateness, None, trigger)


def row(key: int, time: int, value: int | None = 1) -> dict[str, Any]:
    return {"k": key, "at": time, "v": value}


def changes(harness: OperatorHarness) -> list[tuple[str, int, int, int, int]]:
    """Kind, key, start, end and count of what was sent."""
    found = []
    for one in harness.take():
        start, end = (round(one[name].timestamp() * 1_000_000) for name in ("window_start", "window_end"))
        found.append((SHORT_NAMES[one[ROW_KIND]], one["k"], start, end, one["n"]))
    return found


def test_a_session_sends_what_it_has_every_so_often_and_only_what_changed() -> None:
    with OperatorHarness(factory(Trigger(interval_us=1_000_000)), SCHEMA) as harness:
        harness.tick()
        harness.send([row(1, 0), row(2, 0)])
        assert changes(harness) == []
        harness.tick(SECOND_MS)
        assert changes(harness) == [("+I", 1, 0, 6, 1), ("+I", 2, 0, 6, 1)]
        harness.send([row(1, 4)])
        harness.tick(SECOND_MS)
        assert changes(harness) == [("-D", 1, 0, 6, 1), ("+I", 1, 0, 10, 2)]
        harness.tick(SECOND_MS)
        harness.watermark(100)
        assert changes(harness) == []
        assert harness.operator._state.table.namespaces() == []  # type: ignore[attr-defined]


def test_a_session_fires_each_time_it_has_got_its_rows() -> None:
    with OperatorHarness(factory(Trigger(rows=2)), SCHEMA) as harness:
        harness.send([row(1, 0), row(2, 0)])
        assert changes(harness) == []
        harness.send([row(1, 1)])
        assert changes(harness) == [("+I", 1, 0, 7, 2)]
        harness.send([row(1, 2), row(1, 3), row(1, 20)])
        assert changes(harness) == [("-D", 1, 0, 7, 2), ("+I", 1, 0, 9, 4)]
        harness.watermark(100)
        assert changes(harness) == [("+I", 2, 0, 6, 1), ("+I", 1, 20, 26, 1)]


def test_a_row_replaces_another_of_the_same_bounds_and_is_deleted_and_inserted_where_these_change() -> None:
    with OperatorHarness(factory(Trigger(rows=1)), SCHEMA) as harness:
        harness.send([row(1, 10)])
        harness.send([row(1, 8)])
        assert changes(harness) == [("+I", 1, 10, 16, 1), ("-D", 1, 10, 16, 1), ("+I", 1, 8, 16, 2)]
        harness.send([row(1, 9)])
        assert changes(harness) == [("-U", 1, 8, 16, 2), ("+U", 1, 8, 16, 3)]


def test_a_session_over_one_that_is_forgotten_has_a_row_of_its_own() -> None:
    with OperatorHarness(factory(Trigger(rows=1)), SCHEMA) as harness:
        harness.send([row(1, 0)])
        harness.watermark(5)
        harness.send([row(1, 4), row(1, 0)])  # the second is late by itself, but joins the first
        assert changes(harness) == [("+I", 1, 0, 6, 1), ("+I", 1, 0, 10, 2)]


def test_a_row_that_joins_two_sessions_that_were_sent_leaves_one_row() -> None:
    with OperatorHarness(factory(Trigger(rows=1)), SCHEMA) as harness:
        harness.send([row(1, 0), row(1, 10), row(1, 30)])
        assert sorted(changes(harness)) == [("+I", 1, 0, 6, 1), ("+I", 1, 10, 16, 1), ("+I", 1, 30, 36, 1)]
        harness.send([row(1, 5)])
        assert changes(harness) == [("-D", 1, 10, 16, 1), ("-D", 1, 0, 6, 1), ("+I", 1, 0, 16, 3)]


def test_joined_sessions_are_sent_at_once_so_that_nothing_is_missing_until_the_next_firing() -> None:
    with OperatorHarness(factory(Trigger(interval_us=1_000_000)), SCHEMA) as harness:
        harness.tick()
        harness.send([row(1, 0), row(1, 10)])
        harness.tick(SECOND_MS)
        harness.take()
        harness.send([row(1, 5)])
        assert changes(harness) == [("-D", 1, 10, 16, 1), ("-D", 1, 0, 6, 1), ("+I", 1, 0, 16, 3)]
        harness.tick(SECOND_MS)
        assert changes(harness) == []


def test_a_session_that_had_fired_is_taken_back_when_a_late_row_joins_it_to_another() -> None:
    with OperatorHarness(factory(Trigger(rows=100), lateness=50), SCHEMA) as harness:
        harness.send([row(1, 0), row(1, 10)])
        harness.watermark(20)
        assert changes(harness) == [("+I", 1, 0, 6, 1), ("+I", 1, 10, 16, 1)]
        harness.send([row(1, 4)])
        assert changes(harness) == [("-D", 1, 10, 16, 1), ("-D", 1, 0, 6, 1), ("+I", 1, 0, 16, 3)]
        harness.send([row(1, 16)])  # it goes on beyond the watermark, and is sent again when that is reached
        assert changes(harness) == []
        harness.watermark(21)
        assert changes(harness) == [("-D", 1, 0, 16, 3), ("+I", 1, 0, 22, 4)]


def test_nothing_is_pending_in_a_checkpoint_and_a_restored_job_knows_what_was_sent() -> None:
    made = factory(Trigger(interval_us=1_000_000))
    with OperatorHarness(made, SCHEMA) as harness:
        harness.send([row(1, 5)])
        snapshot = harness.snapshot()
        assert changes(harness) == [("+I", 1, 5, 11, 1)]
    with OperatorHarness.restore(made, SCHEMA, [snapshot]) as restored:
        restored.send([row(1, 3)])
        restored.watermark(100)
        assert changes(restored) == [("-D", 1, 5, 11, 1), ("+I", 1, 3, 11, 2)]


def test_sessions_of_processing_time_fire_early_too() -> None:
    with OperatorHarness(factory(Trigger(rows=2), processing=True), SCHEMA) as harness:
        harness.send([row(1, 0), row(1, 0)])
        assert [one[0] for one in changes(harness)] == ["+I"]
        harness.tick(SECOND_MS)
        assert changes(harness) == []


# -- against a model


@dataclass
class Model:
    """What must be visible when everything has been sent: results of all sessions that are not late."""

    lateness: int
    watermarks: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(KEYS), WATERMARK_MIN_US))
    sessions: dict[int, list[list[tuple[int, int, int | None]]]] = field(
        default_factory=lambda: {key: [] for key in range(KEYS)}
    )
    done: dict[Known, Result] = field(default_factory=dict)
    arrived: int = 0

    def send(self, rows: list[Row]) -> None:
        for key in range(KEYS):
            before = list(self.sessions[key])
            for _, time, value in [row for row in rows if row[0] == key]:
                self.arrived += 1
                near = [s for s in self.sessions[key] if min(s)[0] <= time + GAP and time <= max(s)[0] + GAP]
                apart = [s for s in self.sessions[key] if not any(s is one for one in near)]
                self.sessions[key] = [*apart, [(time, self.arrived, value), *(one for s in near for one in s)]]
            late = [s for s in self.sessions[key] if self._over(key, s) and not any(s is one for one in before)]
            self.sessions[key] = [s for s in self.sessions[key] if not any(s is one for one in late)]

    def _over(self, key: int, session: list[tuple[int, int, int | None]]) -> bool:
        return max(session)[0] + GAP - 1 + self.lateness <= self.watermarks[key]

    def advance(self, keys: list[int], watermark: int) -> None:
        for key in keys:
            self.watermarks[key] = max(self.watermarks[key], watermark)
            for session in [s for s in self.sessions[key] if self._over(key, s)]:
                self.done[known_by(key, session)] = result(session)
            self.sessions[key] = [s for s in self.sessions[key] if not self._over(key, s)]

    def visible(self) -> dict[Known, Result]:
        kept = {known_by(key, s): result(s) for key, sessions in self.sessions.items() for s in sessions}
        assert not kept.keys() & self.done.keys()
        return kept | self.done


def known_by(key: int, session: list[tuple[int, int, int | None]]) -> Known:
    return key, min(session)[0], max(session)[0] + GAP


def result(session: list[tuple[int, int, int | None]]) -> Result:
    values = [value for _, _, value in sorted(session, key=lambda one: one[:2]) if value is not None]
    total = None
    for value in values:
        total = value + (total or 0)
    return len(session), total, values[-1] if values else None


class Subtasks:
    """The operator at some parallelism, fed as a job would feed it; and what its changes leave."""

    def __init__(self, sessions: SessionAggregate) -> None:
        self.factory = sessions
        self.harnesses = [OperatorHarness(sessions, SCHEMA, HarnessConfig(0, 1, GROUPS))]
        self.visible: dict[Known, Result] = {}

    def subtask(self, key: int) -> int:
        return subtask_of(KeyGroup(GROUP_OF[key]), len(self.harnesses), GROUPS)

    def send(self, rows: list[Row]) -> None:
        for i, harness in enumerate(self.harnesses):
            if mine := [row(*one) for one in rows if self.subtask(one[0]) == i]:
                harness.send(mine)
        self.apply()

    def rescale(self, parallelism: int) -> None:
        snapshots = [harness.snapshot() for harness in self.harnesses]
        self.apply()
        self.close()
        configs = [HarnessConfig(i, parallelism, GROUPS) for i in range(parallelism)]
        self.harnesses = [OperatorHarness.restore(self.factory, SCHEMA, snapshots, config) for config in configs]

    def apply(self) -> None:
        """Every row that is taken back must be there, as it was sent; none is inserted twice."""
        for harness in self.harnesses:
            for one in harness.take():
                start, end = (round(one[name].timestamp() * 1_000_000) for name in ("window_start", "window_end"))
                known, values = (one["k"], start, end), (one["n"], one["total"], one["newest"])
                kind = SHORT_NAMES[one[ROW_KIND]]
                if kind in ("-U", "-D"):
                    assert self.visible.pop(known) == values
                else:
                    assert known not in self.visible
                    self.visible[known] = values

    def close(self) -> None:
        for harness in self.harnesses:
            harness.close()


ROWS = st.lists(
    st.tuples(st.integers(0, KEYS - 1), st.integers(-10, 50), st.none() | st.integers(0, 3)), min_size=1, max_size=8
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), ROWS),
        st.tuples(st.just("send"), ROWS),
        st.tuples(st.just("tick"), st.none()),
        st.tuples(st.just("watermark"), st.tuples(st.integers(0, 3), st.integers(-10, 60))),
        st.tuples(st.just("rescale"), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=14,
)
TRIGGERS = st.sampled_from([Trigger(interval_us=1_000), Trigger(rows=1), Trigger(rows=3)])


@given(st.sampled_from([0, 4, 15]), TRIGGERS, STEPS)
@settings(max_examples=120, deadline=None)
def test_what_is_visible_agrees_with_a_model_over_snapshots_and_rescaling(
    lateness: int, trigger: Trigger, steps: list[tuple[str, Any]]
) -> None:
    model, subtasks = Model(lateness), Subtasks(factory(trigger, lateness))
    try:
        for kind, argument in [*steps, ("watermark", (3, WATERMARK_MAX_US))]:
            step(model, subtasks, kind, argument)
            flushed = kind in ("tick", "rescale") if trigger.interval_us else trigger.rows == 1
            if flushed or (kind == "watermark" and argument[1] == WATERMARK_MAX_US):
                assert subtasks.visible == model.visible(), (kind, argument)
            else:
                assert not model.done.items() - subtasks.visible.items()
    finally:
        subtasks.close()


def step(model: Model, subtasks: Subtasks, kind: str, argument: Any) -> None:
    if kind == "send":
        subtasks.send(argument)
        model.send(argument)
    elif kind == "rescale":
        subtasks.rescale(argument)
    elif kind == "tick":
        for harness in subtasks.harnesses:
            harness.tick()
            harness.tick(1.0)
    else:
        number, watermark = argument
        every = range(len(subtasks.harnesses))
        chosen = list(every) if number == 3 else [number % len(every)]
        for i in chosen:
            subtasks.harnesses[i].watermark(watermark)
        model.advance([key for key in range(KEYS) if subtasks.subtask(key) in chosen], watermark)
    subtasks.apply()


@pytest.mark.parametrize("seed", range(2))
def test_early_results_of_sessions_larger_than_memory_are_exact(seed: int) -> None:
    import random

    rng = random.Random(seed)
    made = factory(Trigger(rows=1))
    model: dict[int, list[int]] = {}
    visible: dict[tuple[int, int], tuple[int, int]] = {}
    with OperatorHarness(made, SCHEMA, HarnessConfig(store="rocksdb", memory_bytes=64 << 10)) as harness:
        for _ in range(4):
            rows = [row(rng.randrange(1_500), rng.randrange(60)) for _ in range(1_500)]
            harness.send(rows)
            for one in rows:
                model.setdefault(one["k"], []).append(one["at"])
            for kind, key, start, end, n in changes(harness):
                if kind in ("-U", "-D"):
                    assert visible.pop((key, start)) == (end, n)
                else:
                    visible[key, start] = (end, n)
    wanted: dict[tuple[int, int], tuple[int, int]] = {}
    for key, times in model.items():
        start = None
        for time in sorted(times):
            if start is not None and time <= wanted[key, start][0]:
                wanted[key, start] = (time + GAP, wanted[key, start][1] + 1)
            else:
                start = time
                wanted[key, start] = (time + GAP, 1)
    assert visible == wanted
