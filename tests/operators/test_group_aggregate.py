"""Random changes through the group aggregation, with snapshots and rescaling, against a model that keeps every row."""

from __future__ import annotations

import datetime as dt
import math
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, UPDATE_AFTER, UPDATE_BEFORE, updating
from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.engine.core.hashing import hash_array
from lakeward.engine.core.ids import KeyGroup
from lakeward.engine.core.keygroups import key_groups, subtask_of
from lakeward.operators.aggregate import BoundAggregate, aggregate_type
from lakeward.operators.changelog import materialise
from lakeward.operators.group_aggregate import GroupAggregate
from lakeward.testing.harness import HarnessConfig, OperatorHarness

GROUPS = 16
KEYS = ["a", "b", "c", None]
GROUP_OF = dict(zip(KEYS, key_groups(hash_array(pa.array(KEYS)), GROUPS).tolist(), strict=True))
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)

TYPES: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int64": (pa.int64(), st.integers(-3, 3)),
    "uint8": (pa.uint8(), st.integers(0, 4)),
    "float64": (pa.float64(), st.sampled_from([0.0, 0.5, -1.25, 3.0, math.nan, math.inf, -math.inf])),
    "string": (pa.string(), st.sampled_from(["", "a", "é", "zz"])),
    "decimal": (pa.decimal128(12, 2), st.integers(-2, 2).map(lambda n: Decimal(n).scaleb(-2))),
    "long decimal": (pa.decimal128(30, 1), st.integers(-(10**28), 10**28).map(lambda n: Decimal(n).scaleb(-1))),
    "timestamp": (pa.timestamp("ms", tz="UTC"), st.integers(0, 3).map(lambda n: NOON + dt.timedelta(seconds=n))),
    "bool": (pa.bool_(), st.booleans()),
}

Row = tuple[Any, Any, bool | None, int]
"""Key, value, flag, event time; no two rows have the same time."""


def bound(name: str, kind: str, value_type: pa.DataType | None, condition: str | None = None) -> BoundAggregate:
    column = None if value_type is None else "x"
    return BoundAggregate(name, kind, column, value_type, aggregate_type(kind, value_type, "x"), condition=condition)


def aggregates_of(kind: pa.DataType) -> tuple[BoundAggregate, ...]:
    names = ["count", "count_distinct", "min", "max", "first", "last", "collect"]
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        names += ["sum", "mean"]
    plain = [bound(name, name, kind) for name in names]
    flagged = [bound(f"{name}_if", name, kind, "flag") for name in names]
    return (bound("rows", "count", None), bound("rows_if", "count", None, "flag"), *plain, *flagged)


def input_schema(kind: pa.DataType, changes: bool) -> pa.Schema:
    plain = pa.schema({"k": pa.string(), "x": kind, "flag": pa.bool_(), "at": pa.timestamp("us", tz="UTC")})
    return updating(plain) if changes else plain


def order(value: Any) -> Any:
    """NaN is the greatest; strings go by their bytes."""
    if isinstance(value, float):
        return (math.isnan(value), 0.0 if math.isnan(value) else value)
    return value.encode() if isinstance(value, str) else value


def expected(aggregate: BoundAggregate, rows: list[Row]) -> Any:
    rows = [row for row in rows if aggregate.condition is None or row[2]]
    if aggregate.column is None:
        return len(rows)
    rows = [row for row in rows if row[1] is not None]
    values = [row[1] for row in rows]
    kind = aggregate.kind
    if kind == "count":
        return len(values)
    if kind == "count_distinct":
        return len({order(value) for value in values})
    if not values:
        return None
    if kind == "collect":
        return [row[1] for row in sorted(rows, key=lambda row: row[3])]
    if kind in ("first", "last"):
        return sorted(rows, key=lambda row: row[3])[0 if kind == "first" else -1][1]
    if kind in ("min", "max"):
        return min(values, key=order) if kind == "min" else max(values, key=order)
    with localcontext(prec=60):
        total = sum(values[1:], values[0])
        return total if kind == "sum" else total / len(values)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return (math.isnan(one) and math.isnan(other)) or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(one, Decimal) and isinstance(other, Decimal):
        with localcontext(prec=60):
            return abs(one - other) <= Decimal("0.000001")
    return bool(one == other)


@dataclass
class Sent:
    """What a sink that goes by the key holds; checks that every row it gets is one that may come."""

    update_before: bool
    rows: dict[Any, dict[str, Any]] = field(default_factory=dict)

    def apply(self, changes: list[dict[str, Any]]) -> None:
        expecting: Any = None
        for change in changes:
            kind, key = change.pop(ROW_KIND), change["k"]
            assert (expecting is None) == (kind != UPDATE_AFTER or not self.update_before), "-U and +U come in pairs"
            held = self.rows.get(key)
            if kind in (UPDATE_BEFORE, DELETE):
                assert held is not None
                assert all(same(held[name], change[name]) for name in change), (held, change)
                del self.rows[key]
                assert kind == DELETE or self.update_before
                expecting = (key, held) if kind == UPDATE_BEFORE else None
            elif kind == UPDATE_AFTER:
                old = expecting[1] if self.update_before else held
                assert old is not None, "an update of a row that was never sent"
                assert expecting is None or expecting[0] == key
                assert not all(same(old[name], change[name]) for name in change), "an update that changes nothing"
                self.rows[key], expecting = change, None
            else:
                assert kind == INSERT
                assert held is None, "an insert of a row that is there"
                self.rows[key] = change
        assert expecting is None


@dataclass(frozen=True)
class Job:
    """The operator at some parallelism, fed as a job would feed it."""

    factory: GroupAggregate
    store: Any
    harnesses: list[OperatorHarness] = field(default_factory=list)

    def start(self, parallelism: int) -> None:
        snapshots = [harness.snapshot() for harness in self.harnesses]
        self.stop()
        self.harnesses[:] = [
            OperatorHarness.restore(
                self.factory, self.factory.input_schema, snapshots, HarnessConfig(i, parallelism, GROUPS, self.store)
            )
            for i in range(parallelism)
        ]

    def stop(self) -> None:
        for harness in self.harnesses:
            harness.close()

    def send(self, rows: list[tuple[int, Row]]) -> None:
        changes = ROW_KIND in self.factory.input_schema.names
        for i, harness in enumerate(self.harnesses):
            mine = [
                {"k": k, "x": x, "flag": flag, "at": at, **({ROW_KIND: kind} if changes else {})}
                for kind, (k, x, flag, at) in rows
                if subtask_of(KeyGroup(GROUP_OF[k]), len(self.harnesses), GROUPS) == i
            ]
            if mine:
                harness.send(mine)

    def take(self) -> list[list[dict[str, Any]]]:
        return [harness.take() for harness in self.harnesses]

    def flush(self) -> None:
        for harness in self.harnesses:
            harness.tick(1_000)


@dataclass
class Scenario:
    """Draws changes that make sense: only rows that are there are taken back."""

    data: st.DataObject
    values: st.SearchStrategy[Any]
    changes: bool
    rows: list[Row] = field(default_factory=list)
    times: int = 0

    def batch(self) -> list[tuple[int, Row]]:
        return [self._change() for _ in range(self.data.draw(st.integers(1, 8)))]

    def _change(self) -> tuple[int, Row]:
        if self.changes and self.rows and self.data.draw(st.booleans()):
            gone = self.rows.pop(self.data.draw(st.integers(0, len(self.rows) - 1)))
            return self.data.draw(st.sampled_from([UPDATE_BEFORE, DELETE])), gone
        self.times += 1
        flag = self.data.draw(st.sampled_from([True, False, None]))
        # Times are all different, and not in the order of arrival.
        at = self.times * 7919 % 1009
        row = (self.data.draw(st.sampled_from(KEYS)), self.data.draw(st.none() | self.values), flag, at)
        self.rows.append(row)
        return self.data.draw(st.sampled_from([INSERT, UPDATE_AFTER])), row

    def by_key(self) -> dict[Any, list[Row]]:
        found = defaultdict(list)
        for row in self.rows:
            found[row[0]].append(row)
        return found


def check(sent: Sent, scenario: Scenario, aggregates: tuple[BoundAggregate, ...]) -> None:
    groups = scenario.by_key()
    assert set(sent.rows) == set(groups)
    for key, rows in groups.items():
        for aggregate in aggregates:
            wanted = expected(aggregate, rows)
            assert same(sent.rows[key][aggregate.name], wanted), (aggregate.name, sent.rows[key], wanted, rows)


def run(data: st.DataObject, case: str, changes: bool, store: str) -> None:
    kind, values = TYPES[case]
    interval, update_before = data.draw(st.sampled_from([None, 500_000])), data.draw(st.booleans())
    some = data.draw(st.lists(st.sampled_from(aggregates_of(kind)), min_size=1, max_size=5, unique=True))
    factory = GroupAggregate(
        input_schema(kind, changes), ("k",), tuple(some), "at", interval, update_before=update_before
    )
    job, scenario, sent = Job(factory, store), Scenario(data, values, changes), Sent(update_before)
    try:
        job.start(data.draw(st.integers(1, 2)))
        for _ in range(data.draw(st.integers(1, 6))):
            step = data.draw(st.sampled_from(["send", "send", "send", "restart"]))
            if step == "restart":
                for harness in job.harnesses:
                    harness.snapshot(7)  # sends what is pending
                for emitted in job.take():
                    sent.apply(emitted)
                job.start(data.draw(st.integers(1, 3)))
            else:
                job.send(scenario.batch())
                if interval is not None and data.draw(st.booleans()):
                    continue
                job.flush()
            for emitted in job.take():
                sent.apply(emitted)
            check(sent, scenario, factory.aggregates)
    finally:
        job.stop()


@pytest.mark.parametrize("case", TYPES)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_what_was_sent_is_always_the_batch_answer_when_rows_come_and_go(case: str, data: st.DataObject) -> None:
    run(data, case, True, "memory")


@pytest.mark.parametrize("case", TYPES)
@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_what_was_sent_is_always_the_batch_answer_when_rows_only_come(case: str, data: st.DataObject) -> None:
    run(data, case, False, "memory")


@given(data=st.data())
@settings(max_examples=8, deadline=None)
def test_what_was_sent_is_the_batch_answer_on_rocksdb(data: st.DataObject) -> None:
    run(data, data.draw(st.sampled_from(list(TYPES))), True, "rocksdb")


# -- single cases

X = pa.int64()
SCHEMA = input_schema(X, changes=False)
CHANGES = input_schema(X, changes=True)


def rows_of(*rows: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Rows as (key, value) or, of an updating stream, (kind, key, value)."""
    return [
        {"k": row[-2], "x": row[-1], "flag": True, "at": 0, **({ROW_KIND: row[0]} if len(row) == 3 else {})}
        for row in rows
    ]


def counting(schema: pa.Schema = SCHEMA, keys: tuple[str, ...] = ("k",), **options: Any) -> GroupAggregate:
    return GroupAggregate(schema, keys, (bound("n", "count", None), bound("total", "sum", X)), **options)


def changes_of(harness: OperatorHarness) -> list[tuple[Any, ...]]:
    return [(row[ROW_KIND], *(v for n, v in row.items() if n != ROW_KIND)) for row in harness.take()]


def test_a_batch_sends_one_pair_a_key_however_many_rows_it_has() -> None:
    with OperatorHarness(counting(), SCHEMA) as harness:
        harness.send(rows_of(("a", 1), ("a", 2), ("b", 5)))
        assert sorted(changes_of(harness)) == [(INSERT, "a", 2, 3), (INSERT, "b", 1, 5)]
        harness.send(rows_of(("a", 1), ("a", 1), ("a", 1)))
        assert changes_of(harness) == [(UPDATE_BEFORE, "a", 2, 3), (UPDATE_AFTER, "a", 5, 6)]


def test_a_result_that_stays_sends_nothing() -> None:
    most = GroupAggregate(SCHEMA, ("k",), (bound("most", "max", X),))
    with OperatorHarness(most, SCHEMA) as harness:
        harness.send(rows_of(("a", 7)))
        harness.take()
        harness.send(rows_of(("a", 3), ("a", None)))
        assert changes_of(harness) == []


def test_an_upsert_stream_leaves_out_the_rows_that_are_replaced() -> None:
    with OperatorHarness(counting(CHANGES, update_before=False), CHANGES) as harness:
        for row in [(INSERT, "a", 1), (INSERT, "a", 2), (DELETE, "a", 1), (DELETE, "a", 2)]:
            harness.send(rows_of(row))
        assert changes_of(harness) == [
            (INSERT, "a", 1, 1),
            (UPDATE_AFTER, "a", 2, 3),
            (UPDATE_AFTER, "a", 1, 2),
            (DELETE, "a", 1, 2),
        ]


def test_a_key_without_rows_is_deleted_and_forgotten() -> None:
    with OperatorHarness(counting(CHANGES), CHANGES) as harness:
        harness.send(rows_of((INSERT, "a", 1), (INSERT, "b", 2)))
        harness.take()
        harness.send(rows_of((DELETE, "a", 1)))
        assert changes_of(harness) == [(DELETE, "a", 1, 1)]
        assert len(harness.operator._table.pane()) == 1  # type: ignore[attr-defined]
        harness.send(rows_of((INSERT, "c", 3), (DELETE, "c", 3)))
        assert changes_of(harness) == []
        harness.send(rows_of((INSERT, "a", 9)))
        assert changes_of(harness) == [(INSERT, "a", 1, 9)]


def test_values_that_have_gone_do_not_pile_up_in_the_lists_of_extremes() -> None:
    most = GroupAggregate(CHANGES, ("k",), (bound("most", "max", X),))
    with OperatorHarness(most, CHANGES) as harness:
        harness.send(rows_of((INSERT, "a", 1000)))
        for n in range(200):
            harness.send(rows_of((INSERT, "a", n)))
            harness.send(rows_of((DELETE, "a", n)))
        function = harness.operator._aggregation._functions["most"]  # type: ignore[attr-defined]
        assert len(function._lists.pane()) < 50
        assert len(function._values.pane()) < 50
        harness.take()
        harness.send(rows_of((INSERT, "a", 5), (DELETE, "a", 1000)))
        assert changes_of(harness) == [(UPDATE_BEFORE, "a", 1000), (UPDATE_AFTER, "a", 5)]
        harness.send(rows_of((DELETE, "a", 5)))
        assert changes_of(harness) == [(DELETE, "a", 5)]
        assert len(function._lists.pane()) == len(function._values.pane()) == 0


def test_without_keys_there_is_one_row_that_stays() -> None:
    schema, total = CHANGES, counting(CHANGES, keys=())
    with OperatorHarness(total, schema) as harness:
        harness.send(rows_of((INSERT, "a", 1), (INSERT, "b", 2)))
        assert changes_of(harness) == [(INSERT, 2, 3)]
        harness.send(rows_of((DELETE, "a", 1), (DELETE, "b", 2)))
        assert changes_of(harness) == [(UPDATE_BEFORE, 2, 3), (UPDATE_AFTER, 0, None)]
        snapshot = harness.snapshot()
    with OperatorHarness.restore(total, schema, [snapshot]) as harness:
        harness.send(rows_of((INSERT, "a", 4)))
        assert changes_of(harness) == [(UPDATE_BEFORE, 0, None), (UPDATE_AFTER, 1, 4)]


def test_changes_are_collected_for_the_interval_and_sent_once() -> None:
    with OperatorHarness(counting(emit_interval_us=1_000_000), SCHEMA) as harness:
        harness.tick()
        harness.send(rows_of(("a", 1)))
        harness.send(rows_of(("a", 2), ("b", 1)))
        harness.tick(900)
        assert changes_of(harness) == []
        harness.tick(100)
        assert sorted(changes_of(harness)) == [(INSERT, "a", 2, 3), (INSERT, "b", 1, 1)]
        harness.send(rows_of(("a", 3)))
        harness.send(rows_of(("a", 4)))
        assert harness.end() == [
            {"k": "a", "n": 2, "total": 3, ROW_KIND: UPDATE_BEFORE},
            {"k": "a", "n": 4, "total": 10, ROW_KIND: UPDATE_AFTER},
        ]


def test_a_key_that_comes_and_goes_within_the_interval_sends_nothing() -> None:
    with OperatorHarness(counting(CHANGES, emit_interval_us=1_000_000), CHANGES) as harness:
        harness.send(rows_of((INSERT, "a", 1)))
        harness.send(rows_of((DELETE, "a", 1)))
        harness.tick(2_000)
        assert changes_of(harness) == []


def test_pending_changes_are_sent_before_a_checkpoint() -> None:
    factory = counting(emit_interval_us=60_000_000)
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.tick()
        harness.send(rows_of(("a", 1)))
        snapshot = harness.snapshot()
        assert changes_of(harness) == [(INSERT, "a", 1, 1)]
    with OperatorHarness.restore(factory, SCHEMA, [snapshot]) as harness:
        harness.send(rows_of(("a", 1)))
        harness.tick(60_000)
        assert changes_of(harness) == [(UPDATE_BEFORE, "a", 1, 1), (UPDATE_AFTER, "a", 2, 2)]


def test_many_pending_keys_are_kept_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakeward.operators.group_aggregate._PENDING_ROWS_MIN", 4)
    with OperatorHarness(counting(emit_interval_us=1_000_000), SCHEMA) as harness:
        harness.tick()
        for n in range(10):
            harness.send(rows_of(*((key, n) for key in "abc")))
        assert harness.operator._pending._rows <= 9  # type: ignore[attr-defined]
        harness.tick(1_000)
        assert sorted(changes_of(harness)) == [(INSERT, key, 10, 45) for key in "abc"]


def test_the_changelog_of_many_batches_materialises_to_the_batch_answer() -> None:
    with OperatorHarness(counting(), SCHEMA) as harness:
        for n in range(50):
            harness.send(rows_of(*((f"key {i % 17}", i) for i in range(n, n + 40))))
        table = harness.take_table()
    assert table is not None
    every = [(f"key {i % 17}", i) for n in range(50) for i in range(n, n + 40)]
    wanted = pa.table({"k": [k for k, _ in every], "x": [x for _, x in every]}).group_by("k").aggregate([("x", "sum")])
    got = materialise(table, ("k",))
    assert got.select(["k", "total"]).sort_by("k").to_pydict() == {
        "k": sorted(wanted["k"].to_pylist()),
        "total": wanted.sort_by("k")["x_sum"].to_pylist(),
    }


def test_state_larger_than_its_memory_gives_the_same_answer() -> None:
    distinct = (bound("n", "count", None), bound("different", "count_distinct", X), bound("most", "max", X))
    factory = GroupAggregate(CHANGES, ("k",), distinct)
    config = HarnessConfig(store="rocksdb", memory_bytes=1 << 18)
    with OperatorHarness(factory, CHANGES, config) as harness:
        for n in range(20):
            harness.send(rows_of(*((INSERT, f"key {i}", n) for i in range(500))))
        for n in range(10, 20):
            harness.send(rows_of(*((DELETE, f"key {i}", n) for i in range(500))))
        table = harness.take_table()
    assert table is not None
    final = materialise(table, ("k",))
    assert final.num_rows == 500
    assert {tuple(row.values())[1:] for row in final.to_pylist()} == {(10, 10, 9)}


def test_an_integer_sum_that_does_not_fit_fails_and_names_it() -> None:
    with OperatorHarness(counting(), SCHEMA) as harness:
        harness.send(rows_of(("a", 2**62)))
        with pytest.raises(RecordError, match="the sum 'total' of x does not fit int64"):
            harness.send(rows_of(("a", 2**62)))


def test_two_results_of_one_name_are_refused() -> None:
    with pytest.raises(SchemaError, match="two columns 'k'"):
        GroupAggregate(SCHEMA, ("k",), (bound("k", "count", None),))


def test_nested_values_of_an_updating_stream_are_refused_where_they_would_have_to_be_looked_up() -> None:
    kind = pa.list_(pa.int64())
    with pytest.raises(SchemaError, match="last of 'x' of type list") as caught:
        GroupAggregate(input_schema(kind, changes=True), ("k",), (bound("last", "last", kind),))
    assert "cast" in caught.value.hint
    GroupAggregate(input_schema(kind, changes=False), ("k",), (bound("last", "last", kind),))
