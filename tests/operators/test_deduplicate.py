"""Deduplication against a model that looks at all rows anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.changelog import INSERT, ROW_KIND, UPDATE_AFTER, UPDATE_BEFORE, updating
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.keygroups import key_groups
from lakeward.operators.changelog import materialise
from lakeward.operators.deduplicate import Deduplicate
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

AT = pa.timestamp("us", "UTC")
SCHEMA = pa.schema({"k": pa.int64(), "j": pa.string(), "at": AT, "s": pa.string(), "n": pa.int64()})
KEYS = ("k", "j")
Row = dict[str, Any]

row_values = st.tuples(
    st.sampled_from([1, 2, None]),
    st.sampled_from(["a", None]),
    st.sampled_from([None, 0, 1, 2, 3]),
    st.sampled_from([None, "p", "q"]),
)
batches_of_rows = st.lists(st.lists(row_values, max_size=8), min_size=1, max_size=6)
kinds = [("first", None), ("last", None), ("first", "at"), ("last", "at"), ("first", "s"), ("last", "s")]


def numbered(batches: Iterable[Iterable[tuple[Any, ...]]]) -> list[list[Row]]:
    count = iter(range(10_000))
    return [[dict(zip(SCHEMA.names, (*row, next(count)), strict=True)) for row in batch] for batch in batches]


def expected(rows: Iterable[Row], keep: str, order_by: str | None) -> list[Row]:
    best: dict[Any, Row] = {}
    for row in rows:
        key = row["k"], row["j"]
        held = best.get(key)
        if held is None or replaces(row, held, keep, order_by):
            best[key] = row
    return list(best.values())


def replaces(row: Row, held: Row, keep: str, order_by: str | None) -> bool:
    if order_by is None:
        return keep == "last"
    new, old = row[order_by], held[order_by]
    if new is None or old is None:
        return new is not None or (old is None and keep == "last")
    return bool(new >= old) if keep == "last" else bool(new < old)


def numbers(rows: Iterable[Row]) -> list[int]:
    return sorted(row["n"] for row in rows)


def final(sent: Sequence[pa.Table]) -> list[Row]:
    if not sent:
        return []
    table = pa.concat_tables(sent)
    by_key = materialise(table, KEYS).to_pylist()
    assert numbers(materialise(table, None).to_pylist()) == numbers(by_key)
    return by_key


def check_well_formed(table: pa.Table) -> None:
    for batch in table.to_batches():
        rows = batch.to_pylist()
        if ROW_KIND not in batch.schema.names:
            continue
        changed = [(row["k"], row["j"]) for row in rows if row[ROW_KIND] != UPDATE_BEFORE]
        assert len(changed) == len(set(changed))
        for at, row in enumerate(rows):
            if row[ROW_KIND] == UPDATE_BEFORE:
                assert rows[at + 1][ROW_KIND] == UPDATE_AFTER
                assert (row["k"], row["j"]) == (rows[at + 1]["k"], rows[at + 1]["j"])


@pytest.mark.parametrize(("keep", "order_by"), kinds)
@given(given_batches=batches_of_rows)
@settings(max_examples=15, deadline=None)
def test_one_row_of_each_key_is_left_after_every_batch(
    keep: str, order_by: str | None, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    seen: list[Row] = []
    sent: list[pa.Table] = []
    with OperatorHarness(Deduplicate(SCHEMA, KEYS, keep, order_by), SCHEMA) as harness:
        for rows in numbered(given_batches):
            harness.send(rows)
            seen += rows
            table = harness.take_table()
            if table is not None:
                check_well_formed(table)
                sent.append(table)
            assert numbers(final(sent)) == numbers(expected(seen, keep, order_by))


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
@pytest.mark.parametrize(("keep", "order_by"), [kinds[0], kinds[1], kinds[3]])
@given(given_batches=batches_of_rows)
@settings(max_examples=4, deadline=None)
def test_it_goes_on_after_a_restore_at_another_parallelism(
    keep: str, order_by: str | None, store: Any, given_batches: list[list[tuple[Any, ...]]]
) -> None:
    factory = Deduplicate(SCHEMA, KEYS, keep, order_by)
    seen: list[Row] = []
    sent: list[pa.Table] = []
    snapshots: list[HarnessSnapshot] = []
    for parallelism, rows in zip((1, 2, 3, 1, 2, 1), numbered(given_batches), strict=False):
        ports = [HarnessConfig(i, parallelism, store=store) for i in range(parallelism)]
        harnesses = [OperatorHarness(factory, SCHEMA, config=one, restored=snapshots) for one in ports]
        try:
            batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
            groups = key_groups(hash_columns([batch.column(name) for name in KEYS]), 128).tolist()
            for harness, port in zip(harnesses, ports, strict=True):
                harness.send(batch.filter(pa.array([group in port.key_groups for group in groups], pa.bool_())))
                table = harness.take_table()
                sent += [] if table is None else [table]
            seen += rows
            assert numbers(final(sent)) == numbers(expected(seen, keep, order_by))
            snapshots = [harness.snapshot() for harness in harnesses]
        finally:
            for harness in harnesses:
                harness.close()


def test_the_first_row_by_arrival_never_changes() -> None:
    factory = Deduplicate(SCHEMA, ("k",), "first")
    assert factory.output_schema == SCHEMA
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.send([{"k": 1, "n": 1}, {"k": 1, "n": 2}, {"k": None, "n": 3}])
        harness.send([{"k": None, "n": 4}, {"k": 2, "n": 5}])
        assert numbers(harness.take()) == [1, 3, 5]


def test_a_replaced_row_is_sent_before_the_one_that_replaces_it() -> None:
    with OperatorHarness(Deduplicate(SCHEMA, ("k",), "last", "at"), SCHEMA) as harness:
        harness.send([{"k": 1, "at": 5, "n": 1}])
        harness.send([{"k": 1, "at": 4, "n": 2}, {"k": 1, "at": 5, "n": 3}, {"k": 2, "at": 0, "n": 4}])
        sent = [(row["n"], row[ROW_KIND]) for row in harness.take()]
    assert sent == [(1, INSERT), (1, UPDATE_BEFORE), (3, UPDATE_AFTER), (4, INSERT)]


def test_without_update_before_only_the_new_row_is_sent() -> None:
    with OperatorHarness(Deduplicate(SCHEMA, ("k",), "last", None, update_before=False), SCHEMA) as harness:
        harness.send([{"k": 1, "n": 1}])
        harness.send([{"k": 1, "n": 2}])
        assert [(row["n"], row[ROW_KIND]) for row in harness.take()] == [(1, INSERT), (2, UPDATE_AFTER)]


def test_nothing_is_sent_for_a_row_that_is_the_last_one_again() -> None:
    for order_by in (None, "at"):
        with OperatorHarness(Deduplicate(SCHEMA, ("k",), "last", order_by), SCHEMA) as harness:
            harness.send([{"k": 1, "at": 5, "s": None, "n": 1}])
            harness.take()
            harness.send([{"k": 1, "at": 5, "s": None, "n": 1}])
            assert harness.take() == []


def test_a_changelog_is_refused() -> None:
    with pytest.raises(SchemaError, match="takes rows back"):
        Deduplicate(updating(SCHEMA), ("k",), "last")
    with pytest.raises(SchemaError, match="no column 'z'"):
        Deduplicate(SCHEMA, ("k",), "last", "z")
