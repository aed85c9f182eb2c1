"""Sessions against a model that keeps every row, over snapshots and rescaling; and their rules one by one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.dsl.aggregates import collect, count, count_distinct, first, last, max, sum
from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import key_groups, subtask_of
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US
from lakeward.operators.windows.session_state import merge_intervals
from lakeward.operators.windows.sessions import SessionAggregate, SessionAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

GROUPS = 16
KEYS = 5
GAP = 6
SCHEMA = pa.schema({"k": pa.int64(), "at": pa.timestamp("us", tz="UTC"), "v": pa.int32()})
GROUP_OF = key_groups(hash_array(pa.array(range(KEYS))), GROUPS).tolist()

Row = tuple[int, int, int | None]
Emitted = tuple[Any, ...]


def factory(lateness: int = 0, gap: int = GAP, keys: tuple[str, ...] = ("k",), **more: Any) -> SessionAggregate:
    usual = {
        "n": count(),
        "total": sum("v"),
        "newest": last("v"),
        "different": count_distinct("v"),
        "all": collect("v"),
    }
    aggregates = more or usual
    bound = tuple(aggregate.bind(SCHEMA, name) for name, aggregate in aggregates.items())
    return SessionAggregate(SCHEMA, keys, "at", SessionAssigner(gap), bound, lateness, "late")


@dataclass
class Session:
    rows: list[tuple[int, int, int | None]]

    @property
    def start(self) -> int:
        return min(self.rows)[0]

    @property
    def end(self) -> int:
        return sorted(self.rows, key=lambda row: row[0])[-1][0] + GAP


@dataclass
class Model:
    """Keeps all rows of each open session of each key, and finds sessions by joining intervals one by one."""

    lateness: int
    watermarks: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(KEYS), WATERMARK_MIN_US))
    sessions: dict[int, list[Session]] = field(default_factory=lambda: {key: [] for key in range(KEYS)})
    arrived: int = 0

    def send(self, rows: list[Row]) -> tuple[list[Emitted], list[Row]]:
        late, emitted = [], []
        for key in range(KEYS):
            before = list(self.sessions[key])
            for _, time, value in [row for row in rows if row[0] == key]:
                self.arrived += 1
                self._put(key, (time, self.arrived, value))
            now = self.watermarks[key]
            for session in [s for s in self.sessions[key] if not any(s is one for one in before)]:
                if session.end - 1 + self.lateness <= now:
                    self.sessions[key] = [s for s in self.sessions[key] if s is not session]
                    late += [(key, time, value) for time, _, value in session.rows]
                elif session.end - 1 <= now:
                    emitted.append(self._result(key, session))
        return emitted, late

    def _put(self, key: int, row: tuple[int, int, int | None]) -> None:
        mine = [s for s in self.sessions[key] if s.start <= row[0] + GAP and row[0] <= s.end]
        others = [s for s in self.sessions[key] if not any(s is one for one in mine)]
        self.sessions[key] = [*others, Session([row, *(r for s in mine for r in s.rows)])]

    def advance(self, keys: list[int], watermark: int) -> list[Emitted]:
        fired = []
        for key in keys:
            for session in list(self.sessions[key]):
                if self.watermarks[key] < session.end - 1 <= watermark:
                    fired.append(self._result(key, session))
            self.watermarks[key] = sorted([self.watermarks[key], watermark])[-1]
            now = self.watermarks[key]
            self.sessions[key] = [s for s in self.sessions[key] if s.end - 1 + self.lateness > now]
        return fired

    def _result(self, key: int, session: Session) -> Emitted:
        values = [row for row in sorted(session.rows) if row[2] is not None]
        total = None
        for _, _, value in values:
            total = (value or 0) + (total or 0)
        newest = values[-1][2] if values else None
        held = [value for _, _, value in values]
        return key, session.start, session.end, len(session.rows), total, newest, len(set(held)), held or None


class Subtasks:
    """The operator at some parallelism, fed as a job would feed it."""

    def __init__(self, sessions: SessionAggregate, store: Any) -> None:
        self.factory = sessions
        self.store = store
        self.harnesses = [OperatorHarness(sessions, SCHEMA, self._config(0, 1))]

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
        emitted: list[Emitted] = []
        late: list[Row] = []
        for harness in self.harnesses:
            for row in harness.take():
                start, end = (round(row.pop(name).timestamp() * 1_000_000) for name in ("window_start", "window_end"))
                emitted.append((row.pop("k"), start, end, *row.values()))
            late += [(r["k"], round(r["at"].timestamp() * 1_000_000), r["v"]) for r in harness.take_side("late")]
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
    st.tuples(st.integers(0, KEYS - 1), st.integers(-10, 60), st.none() | st.integers(0, 3)), min_size=1, max_size=12
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), ROWS),
        st.tuples(st.just("send"), ROWS),
        st.tuples(st.just("watermark"), st.integers(-10, 60)),
        st.tuples(st.just("one watermark"), st.tuples(st.integers(0, 2), st.integers(-10, 60))),
        st.tuples(st.just("rescale"), st.integers(1, 3)),
    ),
    min_size=1,
    max_size=16,
)


def run(lateness: int, steps: list[tuple[str, Any]], store: str) -> None:
    model, subtasks = Model(lateness), Subtasks(factory(lateness), store)
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


@given(st.sampled_from([0, 0, 4, 15]), STEPS)
@settings(max_examples=90, deadline=None)
def test_sessions_agree_with_a_model_over_snapshots_and_rescaling(lateness: int, steps: list[tuple[str, Any]]) -> None:
    run(lateness, steps, "memory")


@given(st.sampled_from([0, 15]), STEPS)
@settings(max_examples=12, deadline=None)
def test_sessions_agree_with_a_model_on_rocksdb(lateness: int, steps: list[tuple[str, Any]]) -> None:
    run(lateness, steps, "rocksdb")


def row(key: int, time: int, value: int | None = 1) -> dict[str, Any]:
    return {"k": key, "at": time, "v": value}


def results(harness: OperatorHarness) -> list[tuple[int, int, int, int]]:
    found = []
    for one in harness.take():
        start, end = (round(one[name].timestamp() * 1_000_000) for name in ("window_start", "window_end"))
        found.append((one.get("k", 0), start, end, one["n"]))
    return sorted(found)


def test_rows_exactly_a_gap_apart_are_one_session() -> None:
    with OperatorHarness(factory(), SCHEMA) as harness:
        harness.send([row(1, 0), row(1, GAP), row(2, 0), row(2, GAP + 1)])
        harness.watermark(100)
        assert results(harness) == [(1, 0, 2 * GAP, 2), (2, 0, GAP, 1), (2, GAP + 1, 2 * GAP + 1, 1)]


def test_a_session_fires_when_the_watermark_reaches_its_last_microsecond() -> None:
    with OperatorHarness(factory(), SCHEMA) as harness:
        harness.send([row(1, 10)])
        harness.watermark(10 + GAP - 2)
        assert results(harness) == []
        harness.send([row(1, 12)])
        harness.watermark(10 + GAP - 1)
        assert results(harness) == []
        harness.watermark(12 + GAP - 1)
        assert results(harness) == [(1, 10, 12 + GAP, 2)]


def test_a_row_between_two_sessions_joins_them() -> None:
    with OperatorHarness(factory(), SCHEMA) as harness:
        harness.send([row(1, 0), row(1, 10), row(1, 20)])
        harness.send([row(1, 5)])
        harness.watermark(100)
        assert results(harness) == [(1, 0, 16, 3), (1, 20, 26, 1)]


def test_a_late_row_that_a_kept_session_takes_in_is_not_late() -> None:
    with OperatorHarness(factory(), SCHEMA) as harness:
        harness.send([row(1, 10)])
        harness.watermark(11)
        harness.send([row(1, 5), row(2, 5), row(1, 1)])  # 5 joins 10 and takes 1 along; key 2 has no session
        late = [(one["k"], one["at"].microsecond) for one in harness.take_side("late")]
        assert (late, harness.counter("late_rows")) == ([(2, 5)], 1)
        harness.watermark(100)
        assert results(harness) == [(1, 1, 16, 3)]


def test_within_the_lateness_a_changed_session_is_sent_again_once_a_batch() -> None:
    with OperatorHarness(factory(lateness=20), SCHEMA) as harness:
        harness.send([row(1, 0)])
        harness.watermark(10)
        assert results(harness) == [(1, 0, 6, 1)]
        harness.send([row(1, 2), row(1, 3)])
        assert results(harness) == [(1, 0, 9, 3)]
        harness.send([row(1, 8)])  # its end is beyond the watermark now: it fires again when that is reached
        assert results(harness) == []
        harness.watermark(13)
        assert results(harness) == [(1, 0, 14, 4)]
        harness.watermark(33)
        harness.send([row(1, 1)])
        assert harness.counter("late_rows") == 1


def test_sessions_of_the_whole_stream_need_no_key() -> None:
    with OperatorHarness(factory(keys=(), n=count()), SCHEMA) as harness:
        harness.send([row(1, 0), row(2, 4), row(3, 20)])
        harness.watermark(100)
        assert results(harness) == [(0, 0, 10, 2), (0, 20, 26, 1)]


def test_first_and_last_of_joined_sessions_go_by_event_time() -> None:
    with OperatorHarness(factory(opened=first("v"), closed=last("v"), most=max("v")), SCHEMA) as harness:
        harness.send([row(1, 10, 3), row(1, 0, 1)])
        harness.send([row(1, 5, 2)])
        harness.watermark(100)
        (one,) = harness.take()
        assert (one["opened"], one["closed"], one["most"]) == (1, 3, 3)


def test_a_session_that_goes_on_is_looked_at_again_only_when_it_may_have_ended() -> None:
    with OperatorHarness(factory(), SCHEMA) as harness:
        for time in range(0, 60, 2):
            harness.send([row(1, time)])
            harness.watermark(time)
            assert len(harness.operator._due) == 1  # type: ignore[attr-defined]
        assert results(harness) == []
        harness.watermark(100)
        assert results(harness) == [(1, 0, 58 + GAP, 30)]
        assert harness.operator._state.table.namespaces() == []  # type: ignore[attr-defined]


def test_sessions_that_were_joined_leave_no_state_behind() -> None:
    with OperatorHarness(factory(), SCHEMA) as harness:
        state = harness.operator._state  # type: ignore[attr-defined]
        harness.send([row(1, time) for time in (0, 10, 20, 30)] + [row(2, 0)])
        assert state.table.namespaces() == [0, 1, 2, 3]
        harness.send([row(1, 5), row(1, 15)])
        assert state.table.namespaces() == [0, 1]
        harness.watermark(28)
        assert state.table.namespaces() == [0]
        harness.watermark(100)
        assert state.table.namespaces() == []
        assert results(harness) == [(1, 0, 26, 5), (1, 30, 36, 1), (2, 0, 6, 1)]


@pytest.mark.parametrize("seed", range(2))
def test_sessions_larger_than_memory_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = factory(gap=50, n=count(), total=sum("v"))
    config = HarnessConfig(store="rocksdb", memory_bytes=64 << 10)
    sent = []
    with OperatorHarness(made, SCHEMA, config) as harness:
        for number in range(8):
            keys, times = rng.integers(0, 3_000, 2_000), rng.integers(0, 100, 2_000) + 60 * number
            arrays = [pa.array(keys), pa.array(times).view(SCHEMA.field("at").type), pa.array(keys % 5, pa.int32())]
            sent.append((keys, times))
            harness.send(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
            harness.watermark(60 * number - 1)
        seen = sorted((k, s, e, n) for k, s, e, n in (*results(harness), *at_the_end(harness)))
    assert seen == expected(np.concatenate([k for k, _ in sent]), np.concatenate([t for _, t in sent]), 50)


def at_the_end(harness: OperatorHarness) -> list[tuple[int, int, int, int]]:
    harness.watermark(WATERMARK_MAX_US)
    return results(harness)


def expected(keys: Any, times: Any, gap: int) -> list[tuple[int, int, int, int]]:
    found: list[tuple[int, int, int, int]] = []
    for key, time in sorted(zip(keys.tolist(), times.tolist(), strict=True)):
        if found and found[-1][0] == key and time <= found[-1][2]:
            _, start, _, n = found.pop()
            found.append((key, start, time + gap, n + 1))
        else:
            found.append((key, time, time + gap, 1))
    return found


def test_intervals_of_one_owner_that_a_long_one_covers_are_joined() -> None:
    owners = np.array([0, 0, 0, 1])
    merged = merge_intervals(owners, np.array([0, 1, 8, 2]), np.array([9, 2, 10, 3]))
    assert merged.groups.tolist() == [0, 0, 0, 1]
    assert (merged.starts_us.tolist(), merged.ends_us.tolist()) == ([0, 2], [10, 3])
