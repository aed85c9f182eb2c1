"""Patterns in small tables with answers written by hand: the examples of Flink's documentation, and every verb."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col, to_first, to_last, var
from lakeward.dsl.expressions import Expr
from lakeward.engine.core.errors import ConfigError, UserCodeError
from lakeward.operators.patterns.operator import Match
from lakeward.testing.harness import OperatorHarness

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Row = dict[str, Any]


def ticks(
    prices: Sequence[int | None], every_s: int = 1, batch_rows: int = 100, **columns: Sequence[Any]
) -> lw.DataStream:
    """Prices of one share, one a second; `n` numbers them from 0."""
    rows = [
        {"share": "a", "price": price, "n": n, "at": NOON + timedelta(seconds=n * every_s)}
        for n, price in enumerate(prices)
    ]
    table = pa.Table.from_pylist([{**row, **{k: v[row["n"]] for k, v in columns.items()}} for row in rows])
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "0s")
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
    return env.from_collection(table, watermark=watermark)


def found(stream: lw.DataStream, pattern: lw.Pattern, **measures: Expr) -> list[tuple[Any, ...]]:
    """The measures of each match."""
    table = stream.key_by("share").match(pattern, measures).execute_and_collect()
    return [tuple(row.values())[1:] for row in table.to_pylist()]


def letters(text: str, pattern: lw.Pattern) -> list[str]:
    """Rows of one letter a second, each by itself; of each match the first and last row, and how many it has."""
    stream = ticks([0], kind=["a"])
    work = match_of(stream, pattern, first=var().first("n"), last=var().last("n"), rows=var().count())
    with OperatorHarness(work, work.config.schema) as harness:
        for n, kind in enumerate(text):
            at = NOON + timedelta(seconds=n)
            harness.send([{"share": "a", "kind": kind, "n": n, "at": at}])
            harness.watermark(at)
        return sorted(f"{row['first']}-{row['last']}:{row['rows']}" for row in harness.end())


def match_of(stream: lw.DataStream, pattern: lw.Pattern, **measures: Expr) -> Match:
    """The operator of a search by share."""
    work = stream.key_by("share").match(pattern, measures)._node.work
    assert isinstance(work, Match)
    return work


def is_(*kinds: str) -> Expr:
    return col("kind").is_in(kinds)


# -- the examples of Flink's documentation of MATCH_RECOGNIZE


def valley(up: Expr) -> lw.Pattern:
    fell = var("down").last("price", 1)
    down = (fell.is_null() & (col("price") < var("start").last("price"))) | (col("price") < fell)
    return lw.pattern().start("start").next("down", down).one_or_more().next("up", up).skip(to_last("up"))


def test_a_price_falls_to_a_bottom_and_rises_again() -> None:
    stream = ticks([12, 17, 19, 21, 25, 18, 15, 14, 24, 25, 19])
    pattern = valley(col("price") > var("down").last("price", 1))
    measures = {"start": var("start").last("n"), "bottom": var("down").last("n"), "end": var("up").last("n")}
    assert found(stream, pattern, **measures) == [(4, 7, 8)]


def test_the_last_but_one_row_of_another_variable_is_null_where_it_has_one_row() -> None:
    stream = ticks([9, 5, 8, 7, 12])
    end = var("up").last("n")
    assert found(stream, valley(col("price") > var("down").last("price", 1)), end=end) == []
    assert found(stream, valley(col("price") > var("down").last("price")), end=end) == [(2,), (4,)]


def test_the_average_of_a_run_stays_below_a_limit() -> None:
    stream = ticks([12, 17, 13, 16, 25, 2, 4, 10, 15, 25, 25, 30])
    pattern = lw.pattern().start("a", var("a").mean("price") < 15).one_or_more().next("b")
    measures = {"start": var("a").first("n"), "end": var("a").last("n"), "avg": var("a").mean("price")}
    assert found(stream, pattern, **measures) == [(0, 3, 14.5), (5, 10, 13.5)]


def test_a_greedy_variable_takes_all_it_can_and_a_reluctant_one_as_little() -> None:
    stream = ticks([10, 11, 12, 13, 14, 16])
    begun = lw.pattern().start("a", col("price") > 10).next("b", col("price") < 15).zero_or_more()
    last = var("c").last("price")
    assert found(stream, begun.next("c", col("price") > 12), last=last) == [(16,)]
    assert found(stream, begun.reluctant().next("c", col("price") > 12), last=last) == [(13,), (16,)]


def test_the_last_row_is_less_than_the_time_allowed_after_the_first() -> None:
    """The documentation has (180, 14), a match of exactly an hour; the code of Flink says that this is too long."""
    stream = ticks([20, 17, 18, 11, 14, 9, 15, 14, 24, 1, 19], every_s=20 * 60)
    level = var("a").last("price") - 10
    pattern = lw.pattern().start("a").next("b", col("price") > level).zero_or_more().next("c", col("price") < level)
    measures = {"at": lw.match_time(), "diff": var("a").last("price") - var("c").last("price")}
    at = NOON + timedelta(minutes=180)
    assert found(stream, pattern.within("1h"), **measures) == [(at, 13)]
    assert found(stream, pattern.within("61m"), **measures) == [(at, 14)]


def test_a_price_rises_until_it_falls() -> None:
    stream = ticks([10, 12, 13, 11])
    rises = var("a").last("price", 1).is_null() | (col("price") > var("a").last("price", 1))
    pattern = lw.pattern().start("a", rises).one_or_more().next("b", col("price") < var("a").last("price"))
    measures = {"start": var("a").first("price"), "top": var("a").last("price"), "last": var("b").last("price")}
    assert found(stream, pattern, **measures) == [(10, 13, 11)]


def test_sums_are_of_one_variable_or_of_all() -> None:
    stream = ticks([10, 15, 20, 31, 35])
    condition = (col("price") > var("a").last("price")) & (var().sum("price") < 100) & (var("b").sum("price") < 80)
    pattern = lw.pattern().start("a", col("price") >= 10).next("b", condition).one_or_more()
    assert found(stream, pattern, rows=var("b").count(), sum=var("b").sum("price")) == [(3, 66)]


def test_offsets_count_back_in_the_rows_of_a_variable() -> None:
    stream = ticks([10, 15, 20, 31, 35])
    one, two = var("b").last("price", 1), var("b").last("price", 2)
    condition = (one.is_null() | (col("price") > one)) & (two.is_null() | (col("price") > 2 * two))
    pattern = lw.pattern().start("a", col("price") >= 10).next("b", condition).one_or_more()
    assert found(stream, pattern, last=var("b").last("price")) == [(31,)]


@pytest.mark.parametrize(("prices", "before"), [([10, 15, 20], 15), ([10, 20], 10)])
def test_offsets_count_back_in_the_rows_of_all_variables(prices: list[int], before: int) -> None:
    pattern = lw.pattern().start("a").next("b", col("price") < 20).optional().next("c", var().last("price", 1) < 20)
    assert found(ticks([*prices]), pattern, before=var().last("price", 1), rows=var().count()) == [
        (before, len(prices))
    ]


SKIPPED = {
    "past_last_row": [(26, 0, 3), (17, 4, 6)],
    "to_next_row": [(26, 0, 3), (24, 1, 4), (25, 2, 5), (22, 3, 6), (17, 4, 6)],
    to_last("a"): [(26, 0, 3), (25, 2, 5), (17, 4, 6)],
}


@pytest.mark.parametrize("skip", SKIPPED, ids=["past", "next", "last"])
def test_where_the_search_goes_on_after_a_match(skip: Any) -> None:
    stream = ticks([7, 9, 10, 5, 10, 7, 14])
    pattern = lw.pattern().start("a", var("a").sum("price") < 30).one_or_more().next("c").skip(skip)
    measures = {"sum": var("a").sum("price"), "start": var().first("n"), "end": var().last("n")}
    assert sorted(found(stream, pattern, **measures)) == sorted(SKIPPED[skip])


def test_a_search_that_would_go_on_where_it_began_fails() -> None:
    pattern = lw.pattern().start("a").optional().next("b", col("price") > 2).next("c").skip(to_first("b"))
    with pytest.raises(UserCodeError, match="goes on at the row of 'b' with which the match has begun"):
        found(ticks([3, 1, 1]), pattern, b=var("b").last("n"))


def test_a_search_that_would_go_on_at_a_variable_without_rows_fails() -> None:
    pattern = lw.pattern().start("a").next("b", col("price") > 2).optional().next("c").skip(to_last("b"))
    with pytest.raises(UserCodeError, match="the variable 'b', which has no row in it"):
        found(ticks([3, 1, 1]), pattern, b=var("b").last("n"))


# -- contiguity and quantifiers

A, B, C = is_("a"), is_("b"), is_("c")
P = lw.pattern


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (P().start("a", A).next("b", B), "abxaxb", ["0-1:2"]),
        (P().start("a", A).followed_by("b", B), "axxbab", ["0-3:2", "4-5:2"]),
        # once a row fits it is taken, whatever comes of it
        (P().start("a", A).followed_by("b", B).next("c", C), "abxbc", []),
        (P().start("a", A).followed_by_any("b", B).next("c", C), "abxbc", ["0-4:3"]),
        (P().start("a", A).followed_by_any("b", B), "abb", ["0-1:2"]),
        (P().start("a", A).not_next("no", B).followed_by("c", C), "abcaxc", ["3-5:2"]),
        (P().start("a", A).not_followed_by("no", B).followed_by("c", C), "axbcaxc", ["4-6:2"]),
        (P().start("a", A).next("b", B).optional().next("c", C), "acabc", ["0-1:2", "2-4:3"]),
        (P().start("a", A).next("b", B).zero_or_more().next("c", C), "acabbc", ["0-1:2", "2-5:4"]),
        (P().start("a", A).next("b", B).times(2).next("c", C), "abcabbcabbbc", ["3-6:4"]),
        (P().start("a", A).next("b", B).times(1, 2).next("c", C), "acabcabbcabbbc", ["2-4:3", "5-8:4"]),
        (P().start("a", A).next("b", B).times_or_more(2).next("c", C), "abcabbbc", ["3-7:5"]),
        (P().start("a", A).next("b", B).times(1, 3).optional().next("c", C), "acabbc", ["0-1:2", "2-5:4"]),
        (P().start("a", A).followed_by("b", B).one_or_more().next("c", C), "axbbc", ["0-4:4"]),
        (P().start("a", A).followed_by("b", B).optional().next("c", C), "axbcac", ["0-3:3", "4-5:2"]),
        (P().start("a", A).one_or_more().next("c", is_("a", "c")), "aaac", ["0-3:4"]),
        # a row is given back for one that does not fit
        (P().start("a", A).one_or_more().next("c", is_("a", "c")), "aaax", ["0-2:3"]),
        (P().start("a", A).one_or_more().reluctant().next("c", is_("a", "c")), "aaac", ["0-1:2", "2-3:2"]),
        (P().start("a", A).one_or_more().next("b", is_("a", "b")).one_or_more().next("c", C), "aabc", ["0-3:4"]),
        (P().start("a", A).zero_or_more().next("b", B), "baab", ["0-0:1", "1-3:3"]),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value),
)
def test_rows_follow_each_other_as_the_pattern_says(pattern: lw.Pattern, text: str, expected: list[str]) -> None:
    assert letters(text + "x", pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        (P().start("a", A).one_or_more(), "xaa", ["1-2:2"]),
        (P().start("a", A).one_or_more().reluctant(), "xaa", ["1-1:1", "2-2:1"]),
        (P().start("a", A).next("b", B).optional(), "xa", ["1-1:1"]),
        (P().start("a", A).not_next("b", B), "abaxa", ["2-2:1", "4-4:1"]),
        # no rows are given back because the input ends
        (P().start("a", A).one_or_more().next("c", is_("a", "c")), "aaa", []),
        (P().start("a", A).next("b", B), "aba", ["0-1:2"]),
    ],
    ids=lambda value: None if isinstance(value, list) else str(value),
)
def test_the_end_of_the_input_ends_a_pattern_that_is_whole(pattern: lw.Pattern, text: str, expected: list[str]) -> None:
    assert letters(text, pattern) == expected


def test_what_has_not_come_in_time_is_noticed_when_the_time_is_over() -> None:
    pattern = lw.pattern().start("a", A).not_followed_by("b", B).within("3s")
    assert letters("axbxaxxba", pattern) == ["4-4:1", "8-8:1"]


def test_null_conditions_do_not_hold() -> None:
    pattern = lw.pattern().start("a", col("price") > 0).next("b", col("price") > var("a").last("price"))
    assert found(ticks([1, None, 3, 4]), pattern, b=var("b").last("price")) == [(4,)]


def test_rows_of_several_variables_are_one_subset() -> None:
    pattern = lw.pattern().start("a", A).next("b", B).one_or_more().next("c", C)
    stream = ticks([1, 2, 3, 10], kind=list("abbc"))
    some, none = var("a", "b"), var("b")
    measures = {
        "sum": some.sum("price"),
        "product": some.sum(col("price") * col("n")),
        "mean": some.mean("price"),
        "last": some.last("n"),
        "back": some.last("n", 2),
        "first": none.first("n", 1),
        "beyond": none.first("n", 2),
        "least": some.min("price"),
        "text": some.max("kind"),
        "row": col("price"),
    }
    assert found(stream, pattern, **measures) == [(6, 8, 2.0, 2, 0, 2, None, 1, "b", 10)]


# -- keys, time and state


def test_null_is_a_key_like_any_other_and_keys_do_not_meet() -> None:
    work = match_of(ticks([1]), P().start("x").next("y"), n=var("x").first("n"))
    keys = [None, "b", "c", None, "b"]
    with OperatorHarness(work, work.config.schema) as harness:
        for n, key in enumerate(keys):
            harness.send([{"share": key, "n": n, "at": n}])
            harness.watermark(n)
        assert harness.take() == [{"share": None, "n": 0}, {"share": "b", "n": 1}]


def test_a_key_is_forgotten_when_nothing_can_match_any_more() -> None:
    pattern = P().start("a", col("price") > 2).followed_by("b", col("price") > 10).within("5us")
    work = match_of(ticks([1]), pattern, n=var("a").first("n"))
    with OperatorHarness(work, work.config.schema) as harness:
        kept = harness.operator._kept._rows  # type: ignore[attr-defined]
        harness.send([{"share": f"s{n}", "price": n % 6, "n": n, "at": n} for n in range(60)])
        harness.watermark(59)
        assert len(kept) == 3, "of the last four rows those that may begin a match"
        harness.watermark(64)
        assert len(kept) == 0
        assert harness.end() == []


def test_only_rows_from_the_first_open_start_on_are_kept() -> None:
    fall = col("price") < var("down").last("price", 1).fill_null(10**9)
    work = match_of(ticks([1]), P().start("down", fall).one_or_more().next("up").skip(to_last("up")), n=col("n"))
    with OperatorHarness(work, work.config.schema) as harness:
        prices = [9, 8, 7, 9, 8] * 40
        harness.send([{"share": "a", "price": p, "n": n, "at": n} for n, p in enumerate(prices)])
        harness.watermark(10_000)
        assert len(harness.take()) == 79
        assert len(harness.operator._kept._rows) == 2  # type: ignore[attr-defined]


def test_late_rows_are_counted_and_go_to_their_side_stream() -> None:
    stream = ticks([1])
    tag = lw.OutputTag("late")
    result = stream.key_by("share").match(P().start("a").next("b"), {"n": col("n")}, late=tag)
    work = result._node.work
    assert isinstance(work, Match)
    with OperatorHarness(work, work.config.schema) as harness:
        harness.watermark(10)
        harness.send([{"share": "a", "price": 1, "n": n, "at": at} for n, at in enumerate([10, 11, 9, 12])])
        assert [row["n"] for row in harness.take_side("late")] == [0, 2]
        assert harness.counter("late_rows") == 2
        assert harness.end() == [{"share": "a", "n": 3}]
    assert result.side_output(tag).schema == stream.schema


def test_without_event_time_rows_are_taken_as_they_come_and_times_are_of_the_clock() -> None:
    rows = [{"share": "a", "n": n} for n in (3, 1, 2)]
    stream = lw.StreamExecutionEnvironment().from_collection(rows)
    work = match_of(stream, P().start("a").next("b").within("10s"), a=var("a").last("n"), b=var("b").last("n"))
    with OperatorHarness(work, work.config.schema) as harness:
        harness.send(rows[:1])
        harness.tick(5_000)
        harness.send(rows[1:])
        assert harness.take() == [{"share": "a", "a": 3, "b": 1}]
        assert len(harness.operator._kept._rows) == 1  # type: ignore[attr-defined]
        harness.tick(10_001)
        assert len(harness.operator._kept._rows) == 0  # type: ignore[attr-defined]
        snapshot = harness.snapshot()
    with OperatorHarness.restore(work, work.config.schema, [snapshot]) as harness:
        harness.send(rows[:2])
        assert harness.take() == [{"share": "a", "a": 3, "b": 1}]


def test_a_match_is_never_late_for_what_comes_after_it() -> None:
    """The first start is open for ten seconds and fails; only then is the match behind it sent."""
    kinds = "axbxxxxxxxxxxxxxxxxxxxxx"
    pattern = P().start("a", is_("a", "x")).followed_by("b", B & (var("a").last("kind") != "a")).within("10s")
    stream = ticks([0] * len(kinds), batch_rows=1, kind=list(kinds))
    matches = stream.key_by("share").match(pattern, {"at": lw.match_time()})
    assert matches.event_time is not None
    windows = matches.key_by("share").window(lw.Tumbling("1s")).aggregate(n=lw.count())
    times = windows.execute_and_collect()["window_start"].to_pylist()
    assert [time - NOON for time in times] == [timedelta(seconds=2)]


def test_the_watermark_goes_on_later_only_where_results_have_event_time() -> None:
    pattern = P().start("a").next("b")
    for within, measure, held_us in (
        (pattern.within("5us"), lw.match_time(), 5),
        (pattern.within("5us"), col("n"), 0),
        (pattern, lw.match_time(), 0),
    ):
        work = match_of(ticks([1]), within, m=measure)
        with OperatorHarness(work, work.config.schema) as harness:
            assert harness.operator.passed_watermark(100) == 100 - held_us
            assert harness.operator.passed_watermark(2**63 - 1) == 2**63 - 1
            assert harness.operator.passed_watermark(-(2**63)) == -(2**63)


@pytest.mark.parametrize("measures", [["x"], None, {5: var().count()}])
def test_measures_that_are_no_dict_of_names_are_refused(measures: Any) -> None:
    with pytest.raises(ConfigError, match=r"measure.* cannot be"):
        ticks([1]).key_by("share").match(lw.pattern().start("a"), measures)


def test_a_list_of_places_to_skip_to_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"skip takes .*, not \['a'\]"):
        lw.pattern().start("a").skip(["a"])  # type: ignore[arg-type]
