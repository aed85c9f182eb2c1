"""Lookup joins: a bounded table that is read first, and a connector that is asked through a cache."""

from __future__ import annotations

import base64
import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.api.changelog import ROW_KIND, updating
from lakeward.engine.core.errors import ConfigError, LakewardError, RecordError, Retry, SourceError, UserCodeError
from lakeward.operators.joins import index
from lakeward.operators.joins.broadcast import BroadcastJoin
from lakeward.operators.joins.factory import JoinInput
from lakeward.operators.joins.index import StaticIndex
from lakeward.operators.joins.layout import How, JoinLayout
from lakeward.operators.joins.lookup import FunctionLookup, LookupJoin, LookupOptions
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

LEFT = pa.schema({"k": pa.int64(), "v": pa.int64()})
RIGHT = pa.schema({"k": pa.int64(), "name": pa.string()})
TABLE = [{"k": 1, "name": "a"}, {"k": 2, "name": "b"}, {"k": 2, "name": "c"}, {"k": None, "name": "nobody"}]
ROWS = [{"k": 2, "v": 0}, {"k": None, "v": 1}, {"k": 9, "v": 2}, {"k": 1, "v": 3}]
EXPECTED: dict[How, list[tuple[Any, ...]]] = {
    "inner": [(2, 0, "b"), (2, 0, "c"), (1, 3, "a")],
    "left": [(2, 0, "b"), (2, 0, "c"), (None, 1, None), (9, 2, None), (1, 3, "a")],
    "semi": [(2, 0), (1, 3)],
    "anti": [(None, 1), (9, 2)],
}


def broadcast(how: How = "inner", *, unique: bool = False, left: pa.Schema = LEFT) -> BroadcastJoin:
    layout = JoinLayout.of(left, RIGHT, [("k", "k")], how)
    return BroadcastJoin((JoinInput(left, ("k",)), JoinInput(RIGHT, ("k",), unique=unique)), layout, how)


def tuples(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in rows]


@pytest.mark.parametrize("how", EXPECTED)
def test_rows_are_looked_up_in_a_table_in_their_order(how: How) -> None:
    with OperatorHarness(broadcast(how), [LEFT, RIGHT]) as harness:
        harness.send(TABLE[:2], 1)
        harness.send(TABLE[2:], 1)
        harness.end_input(1)
        harness.send(ROWS)
        assert tuples(harness.take()) == EXPECTED[how]


def test_changes_of_an_updating_stream_keep_their_kind() -> None:
    schema = updating(LEFT)
    with OperatorHarness(broadcast("left", left=schema), [schema, RIGHT]) as harness:
        harness.send(TABLE, 1)
        harness.end_input(1)
        harness.send([{"k": 1, "v": 0, ROW_KIND: 1}, {"k": 2, "v": 0, ROW_KIND: 2}, {"k": 5, "v": 1, ROW_KIND: 3}])
        assert tuples(harness.take()) == [(1, 0, "a", 1), (2, 0, "b", 2), (2, 0, "c", 2), (5, 1, None, 3)]


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("ended", [False, True])
def test_table_and_waiting_rows_survive_a_restore_at_any_parallelism(old: int, new: int, ended: bool) -> None:
    factory, snapshots = broadcast("left"), []
    for number in range(old):
        with OperatorHarness(factory, [LEFT, RIGHT], HarnessConfig(number, old)) as harness:
            harness.send(TABLE[:2], 1)
            harness.snapshot()
            harness.send(TABLE[2:3], 1)
            if ended:
                harness.end_input(1)
            else:
                harness.send([{"k": 2, "v": number}])
            assert harness.take() == []
            snapshots.append(harness.snapshot())
    found = []
    for number in range(new):
        with OperatorHarness.restore(factory, [LEFT, RIGHT], snapshots, HarnessConfig(number, new)) as harness:
            if not ended:
                harness.send([{"k": 7, "name": "late"}], 1)
                harness.end_input(1)
            harness.send([{"k": 7, "v": 100 + number}])
            found += tuples(harness.take())
    waiting = [] if ended else [(2, n, name) for n in range(old) for name in "bc"]
    name = None if ended else "late"
    assert Counter(found) == Counter([*waiting, *((7, 100 + n, name) for n in range(new))])


def test_the_subtasks_share_the_saving_of_the_table_and_each_reads_it_whole() -> None:
    factory, snapshots = broadcast(), []
    table = [{"k": n, "name": f"n{n}"} for n in range(100)]
    for number in range(3):
        with OperatorHarness(factory, [LEFT, RIGHT], HarnessConfig(number, 3, store="rocksdb")) as harness:
            harness.send(table, 1)
            harness.end_input(1)
            operator: Any = harness.operator
            assert 0 < len(operator._table) < 100
            snapshots.append(harness.snapshot())
    for _ in range(2):  # rescaled, then as it was
        old, snapshots = snapshots, []
        for number in range(2):
            config = HarnessConfig(number, 2, store="rocksdb")
            with OperatorHarness.restore(factory, [LEFT, RIGHT], old, config) as harness:
                harness.send([{"k": n, "v": n} for n in range(100)])
                assert tuples(harness.take()) == [(n, n, f"n{n}") for n in range(100)]
                snapshots.append(harness.snapshot())


def test_what_was_saved_whole_in_the_small_state_is_read() -> None:
    table, kept = text_of(TABLE, RIGHT), text_of(ROWS, LEFT)
    states = [{"v": 1, "ended": True, "table": table, "kept": ""}, {"v": 1, "ended": True, "table": "", "kept": kept}]
    old, new = [HarnessSnapshot(state, (), None) for state in states], []
    for number in range(2):
        with OperatorHarness.restore(broadcast(), [LEFT, RIGHT], old, HarnessConfig(number, 2)) as harness:
            harness.send(ROWS)
            assert tuples(harness.take()) == EXPECTED["inner"] * (number + 1)
            new.append(harness.snapshot())
    with OperatorHarness.restore(broadcast(), [LEFT, RIGHT], new) as harness:
        harness.send(ROWS)
        assert Counter(tuples(harness.take())) == Counter(EXPECTED["inner"])


def text_of(rows: list[dict[str, Any]], schema: pa.Schema) -> str:
    """Rows as version 1 wrote them."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
    return base64.b64encode(sink.getvalue()).decode()


def test_waiting_rows_keep_their_order_over_restores() -> None:
    schema, snapshots = updating(LEFT), []
    factory = broadcast("left", left=schema)
    changes = [{"k": 1, "v": n // 2, ROW_KIND: (0, 3)[n % 2]} for n in range(40)]
    with OperatorHarness(factory, [schema, RIGHT], HarnessConfig(1, 2)) as harness:
        harness.send(changes[:20])
        harness.snapshot()
        harness.send(changes[20:30])
        snapshots.append(harness.snapshot())
    with OperatorHarness.restore(factory, [schema, RIGHT], [empty(factory, schema), *snapshots]) as harness:
        harness.send(changes[30:])
        harness.send(TABLE, 1)
        assert harness.take() == []
        harness.end_input(1)
        assert tuples(harness.take()) == [(1, row["v"], "a", row[ROW_KIND]) for row in changes]


def empty(factory: BroadcastJoin, left: pa.Schema) -> HarnessSnapshot:
    """What a subtask saves that has seen nothing."""
    with OperatorHarness(factory, [left, RIGHT], HarnessConfig(0, 2)) as harness:
        return harness.snapshot()


def test_an_empty_table_matches_nothing() -> None:
    with OperatorHarness(broadcast("left"), [LEFT, RIGHT]) as harness:
        harness.end_input(1)
        harness.send(ROWS[:1])
        assert tuples(harness.take()) == [(2, 0, None)]


def test_a_table_that_breaks_the_promise_of_one_row_a_key_is_refused() -> None:
    with OperatorHarness(broadcast(unique=True), [LEFT, RIGHT]) as harness:
        harness.send(TABLE, 1)
        with pytest.raises(RecordError, match="different k"):
            harness.end_input(1)


KEY_LISTS = st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=2)), st.integers(-2, 2)), max_size=30)


@settings(max_examples=100, deadline=None)
@given(known=KEY_LISTS, wanted=KEY_LISTS)
def test_an_index_finds_exactly_the_rows_of_equal_keys(known: list[Any], wanted: list[Any]) -> None:
    def columns(keys: list[Any]) -> list[pa.Array]:
        return [pa.array([text for text, _ in keys], pa.string()), pa.array([n for _, n in keys], pa.int64())]

    found = StaticIndex(columns(known)).find(columns(wanted))
    pairs = sorted(zip(found.rows.tolist(), found.ids.tolist(), strict=True))
    assert pairs == [
        (i, j) for i, key in enumerate(wanted) for j, other in enumerate(known) if key == other and key[0] is not None
    ]
    assert (found.rows[1:] >= found.rows[:-1]).all()


def test_different_keys_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "hash_columns", lambda keys: np.zeros(len(keys[0]), np.uint64))
    found = StaticIndex([pa.array(["a", "b", "a"])]).find([pa.array(["b", "c", "a"])])
    assert list(zip(found.rows.tolist(), found.ids.tolist(), strict=True)) == [(0, 1), (2, 0), (2, 2)]


# -- connectors


class Service:
    """Answers look-ups from a list, and remembers what it was asked."""

    def __init__(self, failures: int = 0) -> None:
        self.asked: list[list[int]] = []
        self.rows = [row for row in TABLE if row["k"] is not None]
        self.failures = failures

    def __call__(self, keys: pa.Table) -> pa.Table:
        wanted = keys["k"].to_pylist()
        self.asked.append(wanted)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the service is away")
        return pa.Table.from_pylist([row for row in self.rows if row["k"] in wanted], schema=RIGHT)


def lookup(service: Service, how: How = "inner", **options: Any) -> OperatorHarness:
    layout = JoinLayout.of(LEFT, RIGHT, [("k", "k")], how)
    inputs = (JoinInput(LEFT, ("k",)), JoinInput(RIGHT, ("k",)))
    source = FunctionLookup(service, RIGHT)
    return OperatorHarness(LookupJoin(inputs, layout, how, source=source, options=LookupOptions(**options)), LEFT)


@pytest.mark.parametrize("how", EXPECTED)
def test_rows_are_looked_up_in_a_service(how: How) -> None:
    with lookup(Service(), how) as harness:
        harness.send(ROWS)
        assert Counter(tuples(harness.take())) == Counter(EXPECTED[how])


def test_only_keys_that_the_cache_does_not_know_are_asked_for_each_once() -> None:
    service = Service()
    with lookup(service, batch_keys=2) as harness:
        harness.send([*ROWS, *ROWS])
        harness.send([*ROWS, {"k": 3, "v": 0}])
        assert service.asked == [[2, 9], [1], [3]], "a key without rows is remembered too"
        assert harness.counter("lookups") == 4
        assert harness.counter("cache_hits") == 3
        assert len(harness.take()) == 9


def test_keys_without_rows_are_asked_for_again_when_they_are_not_to_be_remembered() -> None:
    service = Service()
    with lookup(service, cache_missing=False) as harness:
        harness.send(ROWS)
        harness.send(ROWS)
    assert service.asked == [[2, 9, 1], [9]]


def test_an_answer_grows_old() -> None:
    service = Service()
    with lookup(service, cache_ttl_us=1_000_000) as harness:
        harness.send([{"k": 1, "v": 0}])
        service.rows = [{"k": 1, "name": "new"}]
        harness.tick(900)
        harness.send([{"k": 1, "v": 1}])
        harness.tick(200)
        harness.send([{"k": 1, "v": 2}])
        assert tuples(harness.take()) == [(1, 0, "a"), (1, 1, "a"), (1, 2, "new")]


@pytest.mark.parametrize("size", [0, 1, 2])
def test_the_least_recently_used_answers_are_forgotten(size: int) -> None:
    service = Service()
    with lookup(service, cache_keys=size) as harness:
        for key in (1, 2, 1, 3, 1, 2):
            harness.send([{"k": key, "v": 0}])
        answer = [(row["k"], row["name"]) for row in harness.take()]
    assert answer == [(1, "a"), (2, "b"), (2, "c"), (1, "a"), (1, "a"), (2, "b"), (2, "c")]
    assert [keys[0] for keys in service.asked] == ([1, 2, 3, 2] if size == 2 else [1, 2, 1, 3, 1, 2])


def test_a_cache_of_many_small_answers_stays_right_when_it_is_put_together_anew() -> None:
    service = Service()
    service.rows = [{"k": n, "name": f"n{n}"} for n in range(300)]
    with lookup(service, cache_keys=50) as harness:
        wanted = [n * 7 % 150 for n in range(400)]
        for key in wanted:
            harness.send([{"k": key, "v": key}])
        assert tuples(harness.take()) == [(key, key, f"n{key}") for key in wanted]


def test_a_look_up_that_fails_is_tried_again_then_the_job_fails_with_its_error() -> None:
    service = Service(failures=2)
    with lookup(service, retries=2) as harness:
        harness.send(ROWS)
        assert len(service.asked) == 3
        assert len(harness.take()) == 3
        service.failures = 9
        with pytest.raises(SourceError, match=r"failed 3 times.*ConnectionError: the service is away"):
            harness.send([{"k": 77, "v": 0}])


class Unavailable(OSError, ValueError):
    """As libraries have them: of both kinds."""


def asked_until_it_fails(error: Exception, expected: type[LakewardError]) -> tuple[int, LakewardError]:
    """How often a function that always raises is asked, and what comes of it."""
    asked = []

    def ask(keys: pa.Table) -> pa.Table:
        asked.append(keys)
        raise error

    layout = JoinLayout.of(LEFT, RIGHT, [("k", "k")])
    sides = (JoinInput(LEFT, ("k",)), JoinInput(RIGHT, ("k",)))
    factory = LookupJoin(sides, layout, source=FunctionLookup(ask, RIGHT))
    with OperatorHarness(factory, LEFT) as harness, pytest.raises(expected) as caught:
        harness.send(ROWS)
    return len(asked), caught.value


@pytest.mark.parametrize(
    "error", [KeyError("city"), TypeError("no"), ValueError("no"), ZeroDivisionError(), pa.ArrowInvalid("no")]
)
def test_a_mistake_in_the_function_fails_the_job_at_once(error: Exception) -> None:
    asked, failure = asked_until_it_fails(error, UserCodeError)
    assert asked == 1
    assert failure.retry is Retry.NO
    for word in ("ask' (", "test_join_lookup.py:", type(error).__name__, "3 keys", "{'k': 2}"):
        assert word in str(failure)
    assert "ConnectionError" in failure.hint


@pytest.mark.parametrize(
    "error",
    [TimeoutError("slow"), Unavailable("both"), RuntimeError("closed"), json.JSONDecodeError("no", "<html>", 0)],
)
def test_what_another_try_may_mend_is_tried_again(error: Exception) -> None:
    asked, failure = asked_until_it_fails(error, SourceError)
    assert asked == 4
    assert failure.retry is Retry.BACKOFF


def test_an_error_of_ours_that_no_retry_mends_is_passed_on_as_it_is() -> None:
    asked, failure = asked_until_it_fails(ConfigError("no such table"), ConfigError)
    assert (asked, str(failure)) == (1, "no such table")


def test_an_answer_of_other_columns_is_an_error_that_names_them() -> None:
    layout = JoinLayout.of(LEFT, RIGHT, [("k", "k")])
    source = FunctionLookup(lambda keys: keys, RIGHT)
    factory = LookupJoin((JoinInput(LEFT, ("k",)), JoinInput(RIGHT, ("k",))), layout, source=source)
    with OperatorHarness(factory, LEFT) as harness, pytest.raises(UserCodeError, match="other columns") as caught:
        harness.send(ROWS)
    assert "name: string" in caught.value.hint


def test_an_answer_that_is_no_table_is_an_error_that_says_what_to_return() -> None:
    layout = JoinLayout.of(LEFT, RIGHT, [("k", "k")])
    source = FunctionLookup(lambda keys: None, RIGHT)  # type: ignore[arg-type,return-value]
    factory = LookupJoin((JoinInput(LEFT, ("k",)), JoinInput(RIGHT, ("k",))), layout, source=source)
    with OperatorHarness(factory, LEFT) as harness, pytest.raises(UserCodeError, match=r"NoneType.*Table") as caught:
        harness.send(ROWS)
    assert "name: string" in caught.value.hint
