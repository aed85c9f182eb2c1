"""What becomes of rows on which the function of a rolling reduce fails."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward import OnError
from lakeward.engine.core.errors import GraphError, SchemaError, UserCodeError
from lakeward.operators.guarded_folds import ROWS_A_PART
from lakeward.operators.reduce import Reduce
from lakeward.testing import CollectSink, assert_survives_crashes
from lakeward.testing.harness import OperatorHarness

SCHEMA = pa.schema({"k": pa.string(), "n": pa.int64(), "note": pa.string()})
FAILED = lw.OutputTag("failed")
SIDE = OnError.side_output(FAILED)
SKIP = OnError.skip()
Rows = list[dict[str, Any]]


class Refused(Exception):
    """What the functions under test raise."""


def adding(held: Any, row: Any) -> Any:
    """Changes both rows before it fails, in the way that the row says."""
    held["n"] += row["n"]
    row["n"] = held["n"]
    how = row.pop("note")
    if how == "raise":
        held["n"] = -1_000_000
        raise Refused(f"not {row['n']}")
    if how == "text":
        return {**row, "n": "text", "note": "ok"}
    if how == "note":
        return {**row, "note": 7}
    if how == "lack":
        return row
    return {**row, "note": "ok"}


def row(k: str, n: int, note: str = "ok") -> dict[str, Any]:
    return {"k": k, "n": n, "note": note}


def answer(rows: Rows) -> tuple[Rows, Rows]:
    """What is sent, and what fails."""
    held: dict[str, int] = {}
    sent, failed = [], []
    for one in rows:
        first = one["k"] not in held
        if not first and one["note"] != "ok":
            failed.append(one)
            continue
        held[one["k"]] = one["n"] + held.get(one["k"], 0)
        sent.append({**one, "n": held[one["k"]]})
    return sent, failed


def run(batches: list[Rows], policy: OnError, function: Any = adding) -> tuple[Rows, Rows, int]:
    with OperatorHarness(Reduce(("k",), SCHEMA, function, on_error=policy), SCHEMA) as harness:
        for batch in batches:
            harness.send(batch)
        sent, failed = harness.take(), harness.take_side("failed")
        return sent, [{name: one[name] for name in SCHEMA.names} for one in failed], harness.counter("failed_rows")


NOTES = st.sampled_from(["ok"] * 6 + ["raise", "text", "note", "lack"])
SOME_ROWS = st.lists(st.builds(row, st.sampled_from("abc"), st.integers(0, 9), NOTES), min_size=1, max_size=60)


@given(SOME_ROWS, st.integers(1, 60))
@settings(max_examples=150, deadline=None)
def test_rows_that_fail_change_nothing_and_all_others_are_folded_as_without_them(rows: Rows, size: int) -> None:
    sent, failed = answer(rows)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    assert run(batches, SIDE) == (sent, failed, len(failed))


@pytest.mark.parametrize("bad", ["raise", "text", "note"])
@pytest.mark.parametrize("count", [ROWS_A_PART - 1, ROWS_A_PART, 2 * ROWS_A_PART + 3])
def test_rows_that_fail_are_found_wherever_they_lie_in_large_batches(count: int, bad: str) -> None:
    at = {1, 2, 700, ROWS_A_PART - 2, ROWS_A_PART, ROWS_A_PART + 1, count - 1}
    rows = [row("ab"[n % 2], 1, bad if n in at and n > 1 else "ok") for n in range(count)]
    sent, failed = answer(rows)
    assert run([rows], SIDE) == (sent, failed, len(failed))


def test_a_batch_of_nothing_but_misfits_costs_few_calls_a_row() -> None:
    calls = 0

    def misfit(held: Any, row: Any) -> Any:
        nonlocal calls
        calls += 1
        return {**held, "n": "text"}

    rows = [row("a", n) for n in range(3000)]
    sent, failed, _ = run([rows], SKIP, misfit)
    assert (len(sent), failed) == (1, [])
    assert calls < 3 * len(rows) + 3 * ROWS_A_PART


def test_a_row_on_which_the_function_raises_costs_no_other_row_a_second_call() -> None:
    called: list[int] = []

    def noted(held: Any, row: Any) -> Any:
        called.append(row["n"])
        return adding(held, row)

    rows = [row("a", n, "raise" if n % 5 == 3 else "ok") for n in range(2000)]
    run([rows], SKIP, noted)
    assert called == list(range(1, 2000))


def test_a_fold_that_succeeds_at_last_loses_no_row_and_counts_none_twice() -> None:
    for how in ("raise", "text"):
        tries: dict[int, int] = {}

        def flaky(held: Any, row: Any, how: str = how, tries: dict[int, int] = tries) -> Any:
            number = row["n"]
            tries[number] = tries.get(number, 0) + 1
            return adding(held, {**row, "note": how if number % 3 == 1 and tries[number] < 3 else "ok"})

        rows = [row("ab"[n % 2], n) for n in range(20)]
        policy = OnError.retry(attempts=3, backoff="1ms")
        with OperatorHarness(Reduce(("k",), SCHEMA, flaky, on_error=policy), SCHEMA) as harness:
            harness.send(rows)
            assert harness.take() == answer(rows)[0]
            failing = [n for n in range(2, 20) if n % 3 == 1]
            assert harness.counter("retried_calls") == 2 * len(failing)


def test_what_is_left_out_is_not_in_the_state_that_a_restart_finds() -> None:
    factory = Reduce(("k",), SCHEMA, adding, on_error=SKIP)
    rows = [row("a", 1), row("a", 2, "raise"), row("a", 4), row("a", 8, "text")]
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.send(rows)
        snapshot = harness.snapshot()
    with OperatorHarness.restore(factory, SCHEMA, [snapshot]) as restored:
        restored.send([row("a", 16)])
        assert [one["n"] for one in restored.take()] == [21]


@dataclass
class Checked:
    k: str
    n: int
    note: str

    def __post_init__(self) -> None:
        if self.note == "raise":
            raise Refused(f"no row of {self.n}")


def checked(held: Checked, row: Checked) -> Checked:
    return replace(held, n=held.n + row.n)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_the_first_row_of_a_key_that_cannot_be_made_leaves_the_next_one_to_be_the_first(size: int) -> None:
    notes = ["raise", "raise", "ok", "ok", "raise", "ok"]
    rows = [row(k, 10**n, note) for n, note in enumerate(notes) for k in "ab"]
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    sent, failed, count = run(batches, SIDE, checked)
    assert [one["n"] for one in sent if one["k"] == "a"] == [100, 1100, 101_100]
    assert [one["n"] for one in sent if one["k"] == "b"] == [100, 1100, 101_100]
    assert (len(failed), count) == (6, 6)


def test_the_first_row_of_a_key_that_cannot_be_made_is_not_in_the_state() -> None:
    factory = Reduce(("k",), SCHEMA, checked, on_error=SKIP)
    with OperatorHarness(factory, SCHEMA) as harness:
        harness.send([row("a", 1, "raise"), row("b", 2)])
        snapshot = harness.snapshot()
    with OperatorHarness.restore(factory, SCHEMA, [snapshot]) as restored:
        restored.send([row("a", 4), row("b", 8)])
        assert [(one["k"], one["n"]) for one in restored.take()] == [("a", 4), ("b", 10)]


def test_a_row_that_a_class_refuses_is_shown_with_the_line_in_the_class() -> None:
    harness = OperatorHarness(Reduce(("k",), SCHEMA, checked), SCHEMA)
    with harness, pytest.raises(UserCodeError, match=r"(?s)making a row for .*checked.*no row of 2") as caught:
        harness.send([row("a", 1), row("a", 2, "raise")])
    assert "in __post_init__: raise Refused" in str(caught.value)


def test_errors_that_are_not_of_the_row_end_the_job() -> None:
    def mistaken(held: Any, row: Any) -> Any:
        raise GraphError("as written")

    with pytest.raises(GraphError, match="as written"):
        run([[row("a", 1), row("a", 2)]], SKIP, mistaken)


def test_an_error_of_lakeward_s_inside_the_function_shows_the_row_and_the_line() -> None:
    def refusing(held: Any, row: Any) -> Any:
        raise UserCodeError("my own refusal")

    with pytest.raises(UserCodeError, match="my own refusal") as caught:
        run([[row("a", 1), row("a", 2)]], OnError.fail(), refusing)
    assert "row: {'k': 'a', 'n': 2" in str(caught.value)
    assert "in refusing: raise UserCodeError" in str(caught.value)
    assert run([[row("a", 1), row("a", 2)]], SIDE, refusing)[1] == [row("a", 2)]


@pytest.mark.parametrize("policy", [OnError.fail(), OnError.retry(attempts=2, backoff=0)])
def test_an_error_shows_the_row_as_it_came_whatever_the_function_has_made_of_it(policy: OnError) -> None:
    with pytest.raises(UserCodeError, match=r"row: \{'k': 'a', 'n': 2, 'note': 'raise'\}"):
        run([[row("a", 1), row("a", 2, "raise")]], policy)


def numbers(count: int) -> Rows:
    return [row("abc"[n % 3], n, "raise" if n % 7 == 3 else "text" if n % 7 == 5 else "ok") for n in range(count)]


def test_failed_rows_of_a_reduce_are_a_stream_of_their_own() -> None:
    rows = lw.StreamExecutionEnvironment().from_collection(numbers(50))
    folded = rows.key_by("k").reduce(adding, on_error=SIDE, uid="sums")
    failed = folded.side_output(FAILED)
    assert failed.schema.names == [*SCHEMA.names, "error_type", "error_message", "error_at", "failed_at"]
    _, wanted = answer(numbers(50))
    found = failed.execute_and_collect()
    assert found.select(SCHEMA.names).to_pylist() == wanted
    assert set(found["error_type"].to_pylist()) == {"Refused", "UserCodeError"}
    assert all("test_reduce_policies.py:" in place for place in found["error_at"].to_pylist())
    folded.sink_to(lw.MemorySink())
    assert "on error side output failed" in rows._context.environment.explain()


def reducing(env: lw.StreamExecutionEnvironment) -> None:
    rows = env.from_collection(numbers(40), uid="rows")
    folded = rows.key_by("k").reduce(adding, on_error=OnError.retry(attempts=2, backoff="1s").then(SIDE), uid="sums")
    folded.sink_to(CollectSink(), uid="sent")
    folded.side_output(FAILED).drop("failed_at").sink_to(CollectSink(), uid="failed")


def test_rows_that_fail_are_exactly_once_in_both_streams_over_crashes_and_other_parallelisms() -> None:
    assert_survives_crashes(reducing, parallelism=(1, 2, 1))


def test_windows_refuse_a_policy_for_reduce_and_say_what_takes_one() -> None:
    windows = lw.StreamExecutionEnvironment().from_collection(numbers(5)).key_by("k").window(lw.CountWindow(2))
    with pytest.raises(GraphError, match=r"reduce of windows takes no on_error=") as caught:
        windows.reduce(adding, on_error=SKIP)
    assert ".process(function, on_error=...)" in caught.value.hint
    assert "test_reduce_policies.py:" in caught.value.location


def test_side_outputs_of_a_reduce_that_would_have_a_column_twice_are_refused() -> None:
    rows = lw.StreamExecutionEnvironment().from_collection([{"k": 1, "error_at": "x"}])
    with pytest.raises(SchemaError, match="a column 'error_at', and the rows have one"):
        rows.key_by("k").reduce(adding, on_error=SIDE)
