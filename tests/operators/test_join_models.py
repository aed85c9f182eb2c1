"""Every join against a model that does it row by row, over random inputs, interleavings, restores and rescalings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward import col
from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, UPDATE_BEFORE, updating
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.keygroups import MAX_PARALLELISM_DEFAULT, key_groups
from lakeward.operators.joins.factory import JoinInput
from lakeward.operators.joins.interval import Bounds, IntervalJoin
from lakeward.operators.joins.layout import HOWS, How, JoinLayout
from lakeward.operators.joins.regular import RegularJoin
from lakeward.operators.joins.temporal import TemporalJoin
from lakeward.operators.joins.times import TimeColumn
from lakeward.operators.joins.window import WindowJoin
from lakeward.operators.windows.assigners import CumulativeAssigner, PaneAssigner, WindowAssigner
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

Row = dict[str, Any]
Answer = Counter[tuple[Any, ...]]
TIME = pa.timestamp("us")
LEFT = pa.schema({"k": pa.int64(), "v": pa.int64(), "at": TIME})
RIGHT = pa.schema({"k": pa.int64(), "w": pa.string(), "at": TIME})
END = 2**63 - 1
COLUMNS = ["k", "v", "at", "w", "at_right"]


class Subtasks:
    """A join at some parallelism; rows go to the subtask that owns their key."""

    def __init__(self, factory: OperatorFactory, schemas: Sequence[pa.Schema], parallelism: int = 1) -> None:
        self._factory, self._schemas = factory, schemas
        self.harnesses: list[OperatorHarness] = []
        self._start(parallelism, [])

    def _start(self, parallelism: int, snapshots: Sequence[HarnessSnapshot]) -> None:
        configs = [HarnessConfig(n, parallelism, memory_bytes=1 << 22) for n in range(parallelism)]
        self.harnesses = [OperatorHarness(self._factory, self._schemas, config, snapshots) for config in configs]

    def send(self, index: int, rows: Sequence[Row]) -> None:
        batch = pa.RecordBatch.from_pylist(list(rows), schema=self._schemas[index])
        groups = key_groups(hash_columns([batch.column("k")]), MAX_PARALLELISM_DEFAULT)
        targets = groups * len(self.harnesses) // MAX_PARALLELISM_DEFAULT
        for number, harness in enumerate(self.harnesses):
            mine = batch.filter(pa.array(targets == number))
            if mine.num_rows:
                harness.send(mine, index)

    def watermark(self, time_us: int) -> None:
        for harness in self.harnesses:
            harness.watermark(time_us)

    def take(self) -> list[Row]:
        return [row for harness in self.harnesses for row in harness.take()]

    def rescale(self, parallelism: int) -> None:
        snapshots = [harness.snapshot() for harness in self.harnesses]
        self.close()
        self._start(parallelism, snapshots)

    def late_rows(self) -> int:
        return sum(harness.counter("late_rows") for harness in self.harnesses)

    def close(self) -> None:
        for harness in self.harnesses:
            harness.close()


def joined(
    left: Sequence[Row], right: Sequence[Row], how: How, match: Callable[[Row, Row], bool], columns: Sequence[str]
) -> Answer:
    """The answer of a nested loop."""
    answer: Answer = Counter()
    met_right: set[int] = set()
    one_sided = how in ("semi", "anti")
    for ours in left:
        partners = [n for n, theirs in enumerate(right) if ours["k"] == theirs["k"] is not None and match(ours, theirs)]
        met_right.update(partners)
        if one_sided:
            answer[tuple(ours.values())] += bool(partners) == (how == "semi")
            continue
        for n in partners:
            answer[as_tuple(ours, right[n], columns)] += 1
        if not partners and how in ("left", "full"):
            answer[as_tuple(ours, None, columns)] += 1
    if how in ("right", "full"):
        for n, theirs in enumerate(right):
            if n not in met_right:
                answer[as_tuple(None, theirs, columns)] += 1
    return +answer


def as_tuple(ours: Row | None, theirs: Row | None, columns: Sequence[str]) -> tuple[Any, ...]:
    row = {"k": (ours or theirs or {})["k"], **(ours or {})}
    for name, value in (theirs or {}).items():
        if name != "k":
            row[f"{name}_right" if name in LEFT.names else name] = value
    return tuple(row.get(name) for name in columns)


def apply(answer: Answer, changes: Sequence[Row]) -> None:
    """Apply a changelog; nothing is taken back that is not there."""
    for change in changes:
        kind = change.pop(ROW_KIND, 0)
        row = tuple(plain(value) for value in change.values())
        answer[row] += -1 if kind in (1, 3) else 1
        assert answer[row] >= 0, f"{row} is taken back but is not there"
        if not answer[row]:
            del answer[row]


def plain(value: Any) -> Any:
    """Times as the microseconds that the model has."""
    return micros(value) if hasattr(value, "tzinfo") else value


def micros(time: Any) -> int:
    return int(pa.scalar(time, TIME).value)


# -- the regular join

HOW = st.sampled_from(HOWS)
KEYS = st.one_of(st.none(), st.integers(0, 3))


@dataclass
class Side:
    """The rows of a side that are there, and how it changes."""

    name: str
    updating: bool
    upsert: bool
    rows: list[Row] = field(default_factory=list)
    made: int = 0

    def changes(self, draw: st.DrawFn) -> list[Row]:
        batch: list[Row] = []
        for _ in range(draw(st.integers(1, 6))):
            if self.updating and self.rows and draw(st.booleans()):
                old = self.rows.pop(draw(st.integers(0, len(self.rows) - 1)))
                replaced = self.upsert and draw(st.booleans())
                batch.append({**old, ROW_KIND: 1 if replaced else 3})
                if replaced:
                    new = {**self.row(draw), "id": old["id"]}
                    self.rows.append(new)
                    batch.append({**new, ROW_KIND: 2})
            else:
                new = self.row(draw)
                self.rows.append(new)
                batch.append({**new, ROW_KIND: 0} if self.updating else new)
        return batch

    def row(self, draw: st.DrawFn) -> Row:
        self.made += 1
        value = draw(st.integers(0, 2))
        named = {"v": value} if self.name == "left" else {"w": value}
        return {"k": draw(KEYS), **named, **({"id": self.made} if self.upsert else {})}

    def schema(self) -> pa.Schema:
        names = ["k", "v" if self.name == "left" else "w", *(["id"] if self.upsert else [])]
        plain_schema = pa.schema({name: pa.int64() for name in names})
        return updating(plain_schema) if self.updating else plain_schema

    def input(self) -> JoinInput:
        return JoinInput(self.schema(), ("k",), ("id", "k") if self.upsert and self.updating else None)


@settings(max_examples=60, deadline=None)
@given(how=HOW, data=st.data())
@pytest.mark.parametrize("conditional", [False, True], ids=["", "where"])
def test_the_changelog_of_a_join_is_the_batch_answer_after_every_batch(
    how: How, conditional: bool, data: st.DataObject
) -> None:
    flags = [data.draw(st.tuples(st.booleans(), st.booleans())) for _ in range(2)]
    sides = (Side("left", *flags[0]), Side("right", *flags[1]))
    inputs = (sides[0].input(), sides[1].input())
    layout = JoinLayout.of(inputs[0].schema, inputs[1].schema, [("k", "k")], how, "_right")
    where = (col("v") <= col("w")).bind(layout.schema) if conditional else None
    factory = RegularJoin(inputs, layout, how, where)
    names = factory.sent.schema.names
    tasks = Subtasks(factory, [one.schema for one in inputs], data.draw(st.integers(1, 2)))
    answer: Answer = Counter()
    try:
        for _ in range(data.draw(st.integers(1, 7))):
            index = data.draw(st.integers(0, 1))
            tasks.send(index, sides[index].changes(data.draw))
            apply(answer, tasks.take())
            match = (lambda a, b: a["v"] <= b["w"]) if conditional else (lambda a, b: True)
            expected = expected_rows(sides, how, match, names)
            assert answer == expected
            if data.draw(st.integers(0, 3)) == 0:
                tasks.rescale(data.draw(st.integers(1, 3)))
    finally:
        tasks.close()


def expected_rows(sides: tuple[Side, Side], how: How, match: Callable[[Row, Row], bool], names: list[str]) -> Answer:
    left, right = (
        [{name: row[name] for name in ("k", "v", "w", "id") if name in row} for row in side.rows] for side in sides
    )
    both = sides[0].upsert and sides[1].upsert
    right = [{("id_right" if name == "id" and both else name): value for name, value in row.items()} for row in right]
    return joined(left, right, how, match, names)


@settings(max_examples=50, deadline=None)
@given(how=HOW, data=st.data())
def test_unique_sides_give_the_same_answer_and_forget_rows_that_have_met(how: How, data: st.DataObject) -> None:
    left = [{"k": data.draw(KEYS), "v": n} for n in range(data.draw(st.integers(0, 8)))]
    right = [{"k": k, "w": k} for k in data.draw(st.permutations([0, 1, 2, 3]))]
    schemas = [pa.schema({"k": pa.int64(), "v": pa.int64()}), pa.schema({"k": pa.int64(), "w": pa.int64()})]
    layout = JoinLayout.of(schemas[0], schemas[1], [("k", "k")], how)
    inputs = (JoinInput(schemas[0], ("k",)), JoinInput(schemas[1], ("k",), unique=True))
    tasks = Subtasks(RegularJoin(inputs, layout, how), schemas)
    answer: Answer = Counter()
    order = data.draw(st.permutations([(0, row) for row in left] + [(1, row) for row in right]))
    try:
        for index, row in order:
            tasks.send(index, [row])
            apply(answer, tasks.take())
        names = RegularJoin(inputs, layout, how).sent.schema.names
        assert answer == joined(left, right, how, lambda a, b: True, names)
        operator: Any = tasks.harnesses[0].operator
        assert len(operator._sides[0].table) == 0, "every left row has met its only partner, or has no key"
    finally:
        tasks.close()


# -- joins by event time

SECOND = 1_000_000


@dataclass(frozen=True)
class Timeline:
    """Batches of both sides and watermarks, in the order in which they come, none late."""

    items: Sequence[tuple[str, Any]]
    left: list[Row]
    right: list[Row]


@st.composite
def timelines(draw: st.DrawFn) -> Timeline:
    items: list[tuple[str, Any]] = []
    sides: dict[str, list[Row]] = {"left": [], "right": []}
    watermark = 0
    for _ in range(draw(st.integers(1, 10))):
        what = draw(st.sampled_from(["left", "right", "left", "right", "watermark", "rescale"]))
        if what == "watermark":
            watermark += draw(st.integers(0, 6))
            items.append((what, watermark * SECOND))
        elif what == "rescale":
            items.append((what, draw(st.integers(1, 3))))
        else:
            times = draw(st.lists(st.integers(watermark + 1, watermark + 12), min_size=1, max_size=5))
            rows = [row_at(draw, what, time) for time in times]
            sides[what] += rows
            items.append((what, rows))
    return Timeline(items, sides["left"], sides["right"])


def row_at(draw: st.DrawFn, side: str, time: int) -> Row:
    value = {"v": draw(st.integers(0, 2))} if side == "left" else {"w": draw(st.sampled_from("xyz"))}
    return {"k": draw(KEYS), **value, "at": time * SECOND}


def run(factory: OperatorFactory, timeline: Timeline, right: pa.Schema = RIGHT) -> list[Row]:
    """What a join sends for a timeline, the end of its inputs included."""
    tasks = Subtasks(factory, [LEFT, right])
    found = []
    try:
        for what, item in timeline.items:
            if what == "watermark":
                tasks.watermark(item)
            elif what == "rescale":
                tasks.rescale(item)
            else:
                tasks.send(("left", "right").index(what), item)
            found += tasks.take()
        tasks.watermark(END)
        assert tasks.late_rows() == 0
        return [*found, *tasks.take()]
    finally:
        tasks.close()


def timed(how: How = "inner") -> tuple[tuple[JoinInput, JoinInput], JoinLayout]:
    inputs = (JoinInput(LEFT, ("k",), time=TimeColumn("at")), JoinInput(RIGHT, ("k",), time=TimeColumn("at")))
    return inputs, JoinLayout.of(LEFT, RIGHT, [("k", "k")], how, "_right")


def counted(rows: Sequence[Row]) -> Answer:
    answer: Answer = Counter()
    apply(answer, rows)
    return answer


@settings(max_examples=50, deadline=None)
@given(how=HOW, timeline=timelines(), lower=st.integers(-6, 4), width=st.integers(0, 6))
def test_an_interval_join_gives_every_pair_near_enough_once(
    how: How, timeline: Timeline, lower: int, width: int
) -> None:
    inputs, layout = timed(how)
    bounds = Bounds(lower * SECOND, (lower + width) * SECOND)
    found = run(IntervalJoin(inputs, layout, how, bounds=bounds), timeline)

    def near(ours: Row, theirs: Row) -> bool:
        return lower * SECOND <= theirs["at"] - ours["at"] <= (lower + width) * SECOND

    assert counted(found) == joined(timeline.left, timeline.right, how, near, COLUMNS)


@settings(max_examples=50, deadline=None)
@given(how=HOW, timeline=timelines(), back=st.integers(0, 4), ahead=st.integers(-1, 8))
def test_an_interval_join_takes_its_bounds_from_the_right_row(
    how: How, timeline: Timeline, back: int, ahead: int
) -> None:
    inputs, layout = timed(how)
    first = (col("at") - timedelta(seconds=back)).bind(RIGHT)
    last = (col("at") + timedelta(seconds=ahead)).bind(RIGHT)
    bounds = Bounds(upper_us=back * SECOND, within=(first, last))
    where = (col("v") > 0).bind(layout.schema)
    found = run(IntervalJoin(inputs, layout, how, where, bounds=bounds), timeline)

    def near(ours: Row, theirs: Row) -> bool:
        return ours["v"] > 0 and theirs["at"] - back * SECOND <= ours["at"] <= theirs["at"] + ahead * SECOND

    assert counted(found) == joined(timeline.left, timeline.right, how, near, COLUMNS)


@settings(max_examples=50, deadline=None)
@given(how=HOW, timeline=timelines())
@pytest.mark.parametrize(
    "assigner",
    [
        WindowAssigner(4 * SECOND, 4 * SECOND),
        WindowAssigner(6 * SECOND, 2 * SECOND),
        WindowAssigner(2 * SECOND, 5 * SECOND),
        CumulativeAssigner(2 * SECOND, 6 * SECOND, SECOND),
    ],
    ids=["tumbling", "sliding", "with_gaps", "cumulative"],
)
def test_a_window_join_is_a_join_of_each_window(how: How, assigner: PaneAssigner, timeline: Timeline) -> None:
    inputs, layout = timed(how)
    found = run(WindowJoin(inputs, layout, how, window=assigner), timeline)
    expected: Answer = Counter()
    for start, end in bounds_of_windows(assigner):
        left, right = ([row for row in rows if start <= row["at"] < end] for rows in (timeline.left, timeline.right))
        for row, times in joined(left, right, how, lambda a, b: True, COLUMNS).items():
            expected[(*row, start, end)] += times
    assert counted(found) == expected


def bounds_of_windows(assigner: PaneAssigner) -> list[tuple[int, int]]:
    seconds = range(-20 * SECOND, 200 * SECOND, SECOND)
    if isinstance(assigner, CumulativeAssigner):
        starts = [s for s in seconds if (s - assigner.offset_us) % assigner.size_us == 0]
        steps = range(assigner.step_us, assigner.size_us + 1, assigner.step_us)
        return [(start, start + step) for start in starts for step in steps]
    assert isinstance(assigner, WindowAssigner)
    return [(start, start + assigner.size_us) for start in seconds if start % assigner.slide_us == 0]


@settings(max_examples=60, deadline=None)
@given(how=st.sampled_from(["inner", "left"]), timeline=timelines())
def test_a_temporal_join_gives_each_row_the_newest_version_before_it(how: Any, timeline: Timeline) -> None:
    inputs, layout = timed(how)
    found = run(TemporalJoin(inputs, layout, how), timeline)
    expected: Answer = Counter()
    for ours in timeline.left:
        past = [row for row in timeline.right if row["k"] == ours["k"] is not None and row["at"] <= ours["at"]]
        version = max(enumerate(past), key=lambda one: (one[1]["at"], one[0]), default=(0, None))[1]
        if version is not None or how == "left":
            expected[as_tuple(ours, version, COLUMNS)] += 1
    assert counted(found) == expected


KINDS_OF = {"x": INSERT, "y": DELETE, "z": UPDATE_BEFORE}


@settings(max_examples=60, deadline=None)
@given(how=st.sampled_from(["inner", "left"]), timeline=timelines())
def test_a_temporal_join_takes_updates_as_versions_and_deletions_as_their_ends(how: Any, timeline: Timeline) -> None:
    (left, right), layout = timed(how)
    changing = replace(right, schema=updating(RIGHT))
    items = [
        (what, [row | {ROW_KIND: KINDS_OF[row["w"]]} for row in item] if what == "right" else item)
        for what, item in timeline.items
    ]
    found = run(TemporalJoin((left, changing), layout, how), replace(timeline, items=items), updating(RIGHT))
    expected: Answer = Counter()
    for ours in timeline.left:
        past = [row for row in timeline.right if row["k"] == ours["k"] is not None and row["at"] <= ours["at"]]
        past = [row for row in past if row["w"] != "z"]
        version = max(enumerate(past), key=lambda one: (one[1]["at"], one[0]), default=(0, None))[1]
        version = None if version is None or version["w"] == "y" else version
        if version is not None or how == "left":
            expected[as_tuple(ours, version, COLUMNS)] += 1
    assert counted(found) == expected
