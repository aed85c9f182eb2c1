from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.engine.core.errors import GraphError, UserCodeError
from lakeward.operators.reduce import Reduce
from lakeward.operators.windows.assigners import CumulativeAssigner, GlobalAssigner, WindowAssigner
from lakeward.operators.windows.counts import CountAssigner
from lakeward.operators.windows.reduced import WindowReduce
from lakeward.operators.windows.sessions import SessionAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema(
    {
        "k": pa.string(),
        "at": pa.timestamp("us", tz="UTC"),
        "n": pa.int64(),
        "tags": pa.list_(pa.string()),
        "note": pa.string(),
    }
)


def together(a: Any, b: Any) -> Any:
    n = None if a["n"] is None or b["n"] is None else a["n"] + b["n"]
    return {**b, "n": n, "tags": (a["tags"] or []) + (b["tags"] or [])}


def row(k: str | None, n: int | None = 1, at: int = 0, tags: list[str] | None = None) -> dict[str, Any]:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=at)
    return {"k": k, "at": moment, "n": n, "tags": tags, "note": None}


def test_each_row_sends_the_accumulated_row_of_its_key() -> None:
    with OperatorHarness(Reduce(("k",), SCHEMA, together), SCHEMA) as harness:
        harness.send([row("a", 1), row("b", 5), row("a", 2)])
        harness.send([row("a", 4), row(None, 7), row(None, 1)])
        assert [(r["k"], r["n"]) for r in harness.take()] == [
            ("a", 1),
            ("b", 5),
            ("a", 3),
            ("a", 7),
            (None, 7),
            (None, 8),
        ]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.none() | st.integers(0, 9), st.none() | st.just(["x"])), min_size=1),
    st.integers(0, 30),
    st.integers(1, 3),
)
@settings(max_examples=25, deadline=None)
def test_a_rolling_reduce_goes_on_where_it_was_after_a_rescale(
    values: list[tuple[str, int | None, list[str] | None]], cut: int, parallelism: int
) -> None:
    rows = [row(k, n, i, tags) for i, (k, n, tags) in enumerate(values)]
    expected: dict[str, dict[str, Any]] = {}
    for one in rows:
        expected[one["k"]] = together(expected[one["k"]], one) if one["k"] in expected else one
    factory = Reduce(("k",), SCHEMA, together)
    seen: dict[str, dict[str, Any]] = {}
    with OperatorHarness(factory, SCHEMA) as harness:
        if rows[:cut]:
            harness.send(rows[:cut])
        seen |= {r["k"]: r for r in harness.take()}
        snapshot = harness.snapshot()
    for key in "abc":
        mine = [r for r in rows[cut:] if r["k"] == key]
        if mine:
            with OperatorHarness.restore(factory, SCHEMA, [snapshot], owner(key, parallelism)) as restored:
                restored.send(mine)
                seen |= {r["k"]: r for r in restored.take()}
    assert seen == expected


def owner(key: str, parallelism: int) -> HarnessConfig:
    from lakeward.engine.core.hashing import hash_array
    from lakeward.engine.core.ids import KeyGroup
    from lakeward.engine.core.keygroups import key_groups, subtask_of

    group = KeyGroup(int(key_groups(hash_array(pa.array([key])), 128)[0]))
    return HarnessConfig(subtask_of(group, parallelism, 128), parallelism)


def test_a_function_that_raises_is_named_with_its_line_and_the_key() -> None:
    def broken(a: Any, b: Any) -> Any:
        return {**a, "n": a["n"] // 0}

    with (
        OperatorHarness(Reduce(("k",), SCHEMA, broken), SCHEMA) as harness,
        pytest.raises(UserCodeError, match="ZeroDivisionError") as caught,
    ):
        harness.send([row("shop-7"), row("shop-7")])
    text = str(caught.value)
    assert f"test_reduce.py:{broken.__code__.co_firstlineno + 1} in broken: return" in text
    assert "row: {'k': 'shop-7'" in text
    assert "folded so far: {'k': 'shop-7'" in text
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_function_that_changes_its_argument_does_not_change_rows_already_sent() -> None:
    def grow(a: Any, b: Any) -> Any:
        a["n"] += b["n"]
        return a

    with OperatorHarness(Reduce(("k",), SCHEMA, grow), SCHEMA) as harness:
        harness.send([row("a", 1), row("a", 2), row("a", 4)])
        assert [r["n"] for r in harness.take()] == [1, 3, 7]


def test_a_function_that_returns_no_row_of_the_stream_is_told_so() -> None:
    with (
        OperatorHarness(Reduce(("k",), SCHEMA, lambda a, b: {"k": 1}), SCHEMA) as harness,
        pytest.raises(UserCodeError, match="not a row of the columns"),
    ):
        harness.send([row("a"), row("a")])


def test_a_value_of_a_wrong_type_names_the_column_and_the_key() -> None:
    def wrong_for_b(a: Any, b: Any) -> Any:
        return {**a, "n": "many" if a["k"] == "b" else 1}

    harness = OperatorHarness(Reduce(("k",), SCHEMA, wrong_for_b), SCHEMA)
    with harness, pytest.raises(UserCodeError, match=r"(?s)does not fit 'n' \(int64\).*result: {'k': 'b'.*'n': 'many'"):
        harness.send([row("a"), row("a"), row("b"), row("b")])


@pytest.mark.parametrize("windows", [WindowAssigner(10, 10), WindowAssigner(10, 5)])
def test_a_windowed_reduce_gives_one_row_a_window_and_key(windows: WindowAssigner) -> None:
    rows = [row("a", 1, 1), row("b", 2, 3), row("a", 4, 7), row("a", 8, 12)]
    with OperatorHarness(WindowReduce(("k",), SCHEMA, "at", windows, together), SCHEMA) as harness:
        harness.send(rows)
        harness.watermark(9)
        first = sorted((r["k"], r["n"]) for r in harness.take())
        rest = sorted((r["k"], r["n"]) for r in harness.end())
    if windows.tumbling:
        assert (first, rest) == ([("a", 5), ("b", 2)], [("a", 8)])
    else:
        assert first == [("a", 1), ("a", 5), ("b", 2), ("b", 2)]
        assert rest == [("a", 8), ("a", 12)]


def gathered(a: Any, b: Any) -> Any:
    """Of both rows, in this order."""
    return {**b, "n": a["n"] + b["n"], "tags": [*a["tags"], *b["tags"]]}


def windows_of(window: Any, times: list[int]) -> list[list[int]]:
    """The rows of each window, by number, given their times."""
    numbers = range(len(times))
    if isinstance(window, CountAssigner):
        ends = range(window.slide, len(times) + 1, window.slide)
        return [list(numbers)[max(0, end - window.size) : end] for end in ends]
    if isinstance(window, GlobalAssigner):
        return [list(numbers)] if times else []
    if isinstance(window, SessionAssigner):
        found: list[list[int]] = []
        for i in sorted(numbers, key=times.__getitem__):
            if found and times[i] <= times[found[-1][-1]] + window.gap_us:
                found[-1].append(i)
            else:
                found.append([i])
        return found
    slots: dict[int, list[int]] = {}
    for i in numbers:
        for one in window.windows_of(int(window.pane_starts(np.array([times[i]]))[0])):
            slots.setdefault(one, []).append(i)
    return list(slots.values())


EVERY_KIND = [
    WindowAssigner(10, 10),
    WindowAssigner(10, 5),
    CumulativeAssigner(5, 15),
    GlobalAssigner(),
    SessionAssigner(4),
    CountAssigner(3, 3),
    CountAssigner(4, 2),
]
BATCHES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40)), min_size=1, max_size=8), max_size=5)


@pytest.mark.parametrize("window", EVERY_KIND, ids=lambda window: window.description)
@given(batches=BATCHES, cut=st.integers(0, 4))
@settings(max_examples=20, deadline=None)
def test_a_reduce_over_windows_of_every_kind_agrees_with_a_model(
    window: Any, batches: list[list[tuple[str, int]]], cut: int
) -> None:
    made = WindowReduce(("k",), SCHEMA, "" if isinstance(window, GlobalAssigner) else "at", window, gathered)
    sent: dict[str, list[tuple[int, str]]] = {"a": [], "b": []}
    harness = OperatorHarness(made, SCHEMA)
    seen: list[dict[str, Any]] = []
    try:
        for number, batch in enumerate(batches):
            if number == cut:
                snapshot = harness.snapshot()
                harness.close()
                harness = OperatorHarness.restore(made, SCHEMA, [snapshot])
            rows = []
            for key, time in batch:
                tag = f"{len(sent[key])}"
                sent[key].append((time, tag))
                rows.append(row(key, 1, time, [tag]))
            harness.send(rows)
            seen += harness.take()
        seen += harness.end()
    finally:
        harness.close()
    wanted = [
        (key, len(one), sorted(pairs[i][1] for i in one))
        for key, pairs in sent.items()
        for one in windows_of(window, [time for time, _ in pairs])
    ]
    assert sorted((r["k"], r["n"], sorted(r["tags"])) for r in seen) == sorted(wanted)
    if isinstance(window, CountAssigner | GlobalAssigner):
        assert all(r["tags"] == sorted(r["tags"], key=int) for r in seen)


@pytest.mark.parametrize("window", EVERY_KIND, ids=lambda window: window.description)
def test_rows_that_come_in_order_are_reduced_in_order(window: Any) -> None:
    made = WindowReduce(("k",), SCHEMA, "at", window, gathered)
    with OperatorHarness(made, SCHEMA) as harness:
        for start in (0, 5, 10):
            harness.send([row("a", 1, time, [str(time)]) for time in range(start, start + 5)])
        results = harness.end()
        assert results
        assert all(r["tags"] == sorted(r["tags"], key=int) for r in results)


def test_sessions_that_a_row_joins_are_reduced_in_the_order_of_time_before_it() -> None:
    with OperatorHarness(WindowReduce(("k",), SCHEMA, "at", SessionAssigner(5), gathered), SCHEMA) as harness:
        harness.send([row("a", 1, time, [str(time)]) for time in (0, 10)])
        harness.send([row("a", 1, 5, ["5"])])
        assert [r["tags"] for r in harness.end()] == [["0", "10", "5"]]


class Sale(NamedTuple):
    shop: str
    most: int | None


@dataclass
class Counted:
    shop: str
    most: int


class Loose(TypedDict):
    shop: str


SALES = pa.schema({"shop": pa.string(), "most": pa.int64()})


def test_rows_come_as_the_class_that_the_first_parameter_is_annotated_with() -> None:
    def largest(a: Sale, b: Sale) -> Sale:
        assert isinstance(a, Sale)
        assert isinstance(b, Sale)
        return Sale(a.shop, max(a.most or 0, b.most or 0))

    def grown(a: Counted, b: Counted) -> Counted:
        a.most += b.most
        return a

    def loose(a: Loose, b: Loose) -> Loose:
        return b

    sales = [{"shop": "a", "most": most} for most in (3, 7, 5)]
    for function, wanted in ((largest, [3, 7, 7]), (grown, [3, 10, 15]), (loose, [3, 7, 5])):
        with OperatorHarness(Reduce(("shop",), SALES, function), SALES) as harness:
            harness.send(sales)
            assert [r["most"] for r in harness.take()] == wanted
            harness.send(sales[:1])
            assert len(harness.take()) == 1
    windows = WindowReduce(("shop",), SALES, "", CountAssigner(3, 3), largest)
    with OperatorHarness(windows, SALES) as harness:
        harness.send(sales)
        assert harness.take() == [{"shop": "a", "most": 7}]


class NamedSale(Sale):
    """A subclass without fields of its own."""


@dataclass
class Plain(Counted):
    def label(self) -> str:
        return f"{self.shop}: {self.most}"


@dataclass
class Noted(Counted):
    note: str = ""


def test_rows_of_a_subclass_are_taken_as_rows_of_the_class_if_it_has_no_more_fields() -> None:
    seen: list[type] = []

    def named(a: Sale, b: Sale) -> Sale:
        seen.append(type(a))
        return NamedSale(a.shop, (a.most or 0) + (b.most or 0))

    def plain(a: Counted, b: Counted) -> Counted:
        seen.append(type(a))
        return Plain(a.shop, a.most + b.most)

    sales = [{"shop": "a", "most": 1}] * 3
    for function in (named, plain):
        with OperatorHarness(Reduce(("shop",), SALES, function), SALES) as harness:
            harness.send(sales)
            harness.send(sales[:1])
            assert [r["most"] for r in harness.take()] == [1, 2, 3, 4]
    # The same class whether the row was held in this batch or comes from the state.
    assert seen == [Sale] * 3 + [Counted] * 3


def test_a_row_of_a_subclass_with_more_fields_is_refused_since_they_would_not_be_kept() -> None:
    def noted(a: Counted, b: Counted) -> Counted:
        return Noted(a.shop, a.most, "kept?")

    harness = OperatorHarness(Reduce(("shop",), SALES, noted), SALES)
    with harness, pytest.raises(UserCodeError, match="Counted has no field 'note'") as caught:
        harness.send([{"shop": "a", "most": 1}] * 2)
    assert "would not be kept" in (caught.value.hint or "")


def test_a_function_that_cannot_reduce_the_rows_is_refused_when_the_graph_is_built() -> None:
    class Short(NamedTuple):
        shop: str

    def short(a: Any, b: Any) -> Any:
        return a

    short.__annotations__["a"] = Short
    with pytest.raises(GraphError, match="Short, which has no field 'most'"):
        Reduce(("shop",), SALES, short)
    with pytest.raises(GraphError, match="cannot be called with two rows"):
        WindowReduce(("shop",), SALES, "", CountAssigner(3, 3), lambda a: a)  # type: ignore[misc, arg-type]

    def other(a: Sale, b: Sale) -> Any:
        return ("a", 1)

    with (
        OperatorHarness(Reduce(("shop",), SALES, other), SALES) as harness,
        pytest.raises(UserCodeError, match=r"(?s)not a row of the class that it takes.*row: Sale\(shop='a'"),
    ):
        harness.send([{"shop": "a", "most": 1}] * 2)


def test_a_late_row_sends_the_reduced_session_again() -> None:
    with OperatorHarness(WindowReduce(("k",), SCHEMA, "at", SessionAssigner(5), together, 50), SCHEMA) as harness:
        harness.send([row("a", 1, 0), row("a", 2, 10)])
        harness.watermark(20)
        assert [r["n"] for r in harness.take()] == [1, 2]
        harness.send([row("a", 4, 5)])
        assert [r["n"] for r in harness.take()] == [7]


def test_a_reduce_over_the_whole_stream_needs_no_key() -> None:
    with OperatorHarness(WindowReduce((), SCHEMA, "at", WindowAssigner(10, 10), together), SCHEMA) as harness:
        harness.send([row("a", 1, 1), row("b", 2, 3)])
        assert [r["n"] for r in harness.end()] == [3]


def test_the_plan_shows_the_slow_road_and_the_function() -> None:
    factory = Reduce(("k",), SCHEMA, together)
    assert not factory.vectorised
    assert factory.stateful
    assert re.fullmatch(r"reduce by k with function 'together' \(.*test_reduce\.py:\d+\)", factory.description)
