"""Window joins by sessions against a model that keeps every row, over late rows, restores and rescaling."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward import col
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import key_groups, subtask_of
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US
from lakeward.operators.joins.factory import JoinInput
from lakeward.operators.joins.layout import HOWS, How, JoinLayout
from lakeward.operators.joins.rows import EMIT_ROWS_MAX
from lakeward.operators.joins.times import TimeColumn
from lakeward.operators.joins.window import WindowJoin
from lakeward.operators.windows.session_operator import SessionAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

GROUPS = 16
GAP = 6
TIME = pa.timestamp("us")
SCHEMAS = (
    pa.schema({"k": pa.int64(), "v": pa.int64(), "at": TIME}),
    pa.schema({"k": pa.int64(), "w": pa.int64(), "t": TIME}),
)
KEYS = (0, 1, 2, None)
GROUP_OF = dict(zip(KEYS, key_groups(hash_columns([pa.array(KEYS, pa.int64())]), GROUPS).tolist(), strict=True))

Key = int | None
Emitted = tuple[Any, ...]


def session_join(how: How = "inner", *, conditional: bool = False) -> WindowJoin:
    layout = JoinLayout.of(*SCHEMAS, [("k", "k")], how)
    inputs = (JoinInput(SCHEMAS[0], ("k",), time=TimeColumn("at")), JoinInput(SCHEMAS[1], ("k",), time=TimeColumn("t")))
    where = (col("v") <= col("w")).bind(layout.schema) if conditional else None
    return WindowJoin(inputs, layout, how, where, window=SessionAssigner(GAP), late_tags=("late left", "late right"))


@dataclass(frozen=True)
class Row:
    side: int
    key: Key
    time: int
    value: int

    def columns(self) -> dict[str, Any]:
        names = ("k", "v", "at") if self.side == 0 else ("k", "w", "t")
        return dict(zip(names, (self.key, self.value, self.time), strict=True))


@dataclass
class Model:
    """The open sessions of each key as lists of rows; a row without a key is a session of its own."""

    how: How
    conditional: bool
    watermarks: dict[Key, int] = field(default_factory=lambda: dict.fromkeys(KEYS, WATERMARK_MIN_US))
    sessions: dict[Key, list[list[Row]]] = field(default_factory=lambda: {key: [] for key in KEYS})

    def send(self, rows: list[Row]) -> list[Row]:
        for row in rows:
            held = self.sessions[row.key]
            mine = [s for s in held if row.key is not None and start(s) <= row.time + GAP and row.time <= end(s)]
            self.sessions[row.key] = [*(s for s in held if s not in mine), [row, *(r for s in mine for r in s)]]
        late = []
        for key, held in self.sessions.items():
            over = [s for s in held if end(s) - 1 <= self.watermarks[key]]
            late += [row for s in over for row in s]
            self.sessions[key] = [s for s in held if s not in over]
        return late

    def advance(self, keys: list[Key], watermark: int) -> list[Emitted]:
        emitted = []
        for key in keys:
            self.watermarks[key] = max(self.watermarks[key], watermark)
            for session in [s for s in self.sessions[key] if end(s) - 1 <= self.watermarks[key]]:
                self.sessions[key].remove(session)
                emitted += [(*row, start(session), end(session)) for row in self._joined(session)]
        return emitted

    def _joined(self, session: list[Row]) -> list[Emitted]:
        left, right = ([row for row in session if row.side == side] for side in (0, 1))
        pairs = [(a, b) for a in left for b in right if not self.conditional or a.value <= b.value]
        met = [{id(pair[side]) for pair in pairs} for side in (0, 1)]
        if self.how in ("semi", "anti"):
            return [(a.key, a.value, a.time) for a in left if (id(a) in met[0]) == (self.how == "semi")]
        found: list[Emitted] = [(a.key, a.value, a.time, b.value, b.time) for a, b in pairs]
        if self.how in ("left", "full"):
            found += [(a.key, a.value, a.time, None, None) for a in left if id(a) not in met[0]]
        if self.how in ("right", "full"):
            found += [(b.key, None, None, b.value, b.time) for b in right if id(b) not in met[1]]
        return found


def start(session: list[Row]) -> int:
    return min(row.time for row in session)


def end(session: list[Row]) -> int:
    return max(row.time for row in session) + GAP


class Subtasks:
    """The operator at some parallelism, fed as a job would feed it."""

    def __init__(self, factory: WindowJoin, store: Any) -> None:
        self.factory, self.store = factory, store
        self.harnesses = [OperatorHarness(factory, SCHEMAS, self._config(0, 1))]

    def _config(self, subtask: int, parallelism: int) -> HarnessConfig:
        return HarnessConfig(subtask, parallelism, GROUPS, self.store, memory_bytes=1 << 20)

    def keys_of(self, subtask: int) -> list[Key]:
        count = len(self.harnesses)
        return [key for key in KEYS if subtask_of(KeyGroup(GROUP_OF[key]), count, GROUPS) == subtask]

    def send(self, side: int, rows: list[Row]) -> None:
        for number, harness in enumerate(self.harnesses):
            mine = [row.columns() for row in rows if row.key in self.keys_of(number)]
            if mine:
                harness.send(mine, side)

    def take(self) -> tuple[Counter[Emitted], Counter[Emitted]]:
        emitted, late = Counter[Emitted](), Counter[Emitted]()
        for harness in self.harnesses:
            emitted.update(plain(row) for row in harness.take())
            for side, tag in enumerate(("late left", "late right")):
                late.update((side, *plain(row)) for row in harness.take_side(tag))
        return emitted, late

    def rescale(self, parallelism: int) -> None:
        snapshots = [harness.snapshot() for harness in self.harnesses]
        self.close()
        configs = [self._config(number, parallelism) for number in range(parallelism)]
        self.harnesses = [OperatorHarness.restore(self.factory, SCHEMAS, snapshots, config) for config in configs]

    def close(self) -> None:
        for harness in self.harnesses:
            harness.close()


def plain(row: dict[str, Any]) -> Emitted:
    return tuple(pa.scalar(value, TIME).value if hasattr(value, "tzinfo") else value for value in row.values())


ROWS = st.lists(st.tuples(st.sampled_from(KEYS), st.integers(-10, 60), st.integers(0, 3)), min_size=1, max_size=8)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(0, 1), ROWS),
        st.tuples(st.just("send"), st.integers(0, 1), ROWS),
        st.tuples(st.just("watermark"), st.none() | st.integers(0, 2), st.integers(-10, 60)),
        st.tuples(st.just("rescale"), st.integers(1, 3), st.none()),
    ),
    min_size=1,
    max_size=14,
)


def run(how: How, conditional: bool, steps: list[tuple[str, Any, Any]], store: str) -> None:
    model, subtasks = Model(how, conditional), Subtasks(session_join(how, conditional=conditional), store)
    emitted, late = Counter[Emitted](), Counter[Emitted]()
    seen, seen_late = Counter[Emitted](), Counter[Emitted]()
    try:
        for kind, first, second in [*steps, ("watermark", None, WATERMARK_MAX_US)]:
            more, more_late = step(model, subtasks, kind, first, second)
            emitted.update(more)
            late.update((row.side, *row.columns().values()) for row in more_late)
            found, found_late = subtasks.take()
            seen += found
            seen_late += found_late
            assert without_key_less(seen) == without_key_less(emitted), (kind, first, second)
            assert seen_late == late, (kind, first, second)
        assert seen == emitted
    finally:
        subtasks.close()


def step(model: Model, subtasks: Subtasks, kind: str, first: Any, second: Any) -> tuple[list[Emitted], list[Row]]:
    if kind == "send":
        rows = [Row(first, *one) for one in second]
        subtasks.send(first, rows)
        return [], model.send(rows)
    if kind == "rescale":
        subtasks.rescale(first)
        return [], []
    every = range(len(subtasks.harnesses))
    chosen = list(every) if first is None else [first % len(every)]
    for number in chosen:
        subtasks.harnesses[number].watermark(second)
    return model.advance([key for number in chosen for key in subtasks.keys_of(number)], second), []


def without_key_less(rows: Counter[Emitted]) -> Counter[Emitted]:
    """Rows without a key may be sent before their session has ended."""
    return Counter({row: count for row, count in rows.items() if row[0] is not None})


@given(st.sampled_from(HOWS), st.booleans(), STEPS)
@settings(max_examples=100, deadline=None)
def test_a_session_join_agrees_with_a_model_over_late_rows_restores_and_rescaling(
    how: How, conditional: bool, steps: list[tuple[str, Any, Any]]
) -> None:
    run(how, conditional, steps, "memory")


@given(st.sampled_from(HOWS), STEPS)
@settings(max_examples=12, deadline=None)
def test_a_session_join_agrees_with_a_model_on_rocksdb(how: How, steps: list[tuple[str, Any, Any]]) -> None:
    run(how, False, steps, "rocksdb")


def left(key: Key, time: int, value: int = 0) -> dict[str, Any]:
    return Row(0, key, time, value).columns()


def right(key: Key, time: int, value: int = 0) -> dict[str, Any]:
    return Row(1, key, time, value).columns()


def test_rows_of_both_sides_make_one_session() -> None:
    with OperatorHarness(session_join(), SCHEMAS) as harness:
        harness.send([left(1, 0), left(1, 2 * GAP), left(2, 0), left(2, 2 * GAP)])
        harness.send([right(1, GAP), right(2, 3 * GAP)], 1)  # between the rows of 1, after the last one of 2
        harness.watermark(100)
        found = sorted(plain(row) for row in harness.take())
        assert found == [(1, 0, 0, 0, 6, 0, 18), (1, 0, 12, 0, 6, 0, 18), (2, 0, 12, 0, 18, 12, 24)]


def test_a_session_is_sent_when_the_watermark_reaches_its_last_microsecond_and_then_forgotten() -> None:
    with OperatorHarness(session_join("full"), SCHEMAS) as harness:
        harness.send([left(1, 10)])
        harness.watermark(10 + GAP - 2)
        assert harness.take() == []
        harness.send([right(1, 9)], 1)  # in time, for the session is open
        harness.watermark(10 + GAP - 1)
        assert [plain(row) for row in harness.take()] == [(1, 0, 10, 0, 9, 9, 16)]
        harness.send([right(1, 9)], 1)
        assert len(harness.take_side("late right")) == harness.counter("late_rows") == 1
        operator: Any = harness.operator
        assert [len(table) for table in operator._tables] == [0, 0]


def test_a_row_between_two_sessions_of_the_other_side_joins_them() -> None:
    with OperatorHarness(session_join("left"), SCHEMAS) as harness:
        harness.send([left(1, 0), left(1, 10), left(1, 30)])
        harness.send([right(1, 5)], 1)
        harness.watermark(100)
        found = sorted(plain(row) for row in harness.take() if row["k"] == 1)
        assert [(row[2], row[4:]) for row in found] == [(0, (5, 0, 16)), (10, (5, 0, 16)), (30, (None, 30, 36))]


@pytest.mark.parametrize("how", HOWS)
def test_rows_without_a_key_match_nothing(how: How) -> None:
    with OperatorHarness(session_join(how), SCHEMAS) as harness:
        harness.send([left(None, 10), left(None, 11)])
        harness.send([right(None, 10)], 1)
        harness.watermark(100)
        assert len(harness.take()) == {"left": 2, "anti": 2, "right": 1, "full": 3}.get(how, 0)


def test_the_pairs_of_a_hot_session_are_sent_in_batches_of_a_bounded_size_with_its_bounds() -> None:
    with OperatorHarness(session_join(), SCHEMAS) as harness:
        harness.send([left(1, 0, n) for n in range(1100)] + [left(2, 3)])
        harness.send([right(1, 1, n) for n in range(1100)] + [right(2, 4)], 1)
        harness.watermark(100)
        table = harness.take_table()
        assert table is not None
        assert table.num_rows == 1100 * 1100 + 1
        assert max(len(chunk) for chunk in table["k"].chunks) <= EMIT_ROWS_MAX
        bounds = table.select(["k", "window_start", "window_end"]).group_by(["k", "window_start", "window_end"])
        assert sorted(plain(row) for row in bounds.aggregate([]).to_pylist()) == [(1, 0, 7), (2, 3, 10)]
