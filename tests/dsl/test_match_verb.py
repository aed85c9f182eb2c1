"""Patterns as they are written: what is sent, what is refused, and what the plan says."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

import lakeward as lw
from lakeward import col, match_time, pattern, to_first, to_last, var
from lakeward.dsl.patterns import MatchResult
from lakeward.engine.core.errors import ConfigError, GraphError, LakewardError, SchemaError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ROWS = [{"k": 1, "v": 2, "text": "x", "wide": "w", "at": NOON}]
PAIR = pattern().start("a").next("b")


def stream(timed: bool = True) -> lw.DataStream:
    watermark = lw.WatermarkStrategy.monotonous("at") if timed else None
    return lw.StreamExecutionEnvironment().from_collection(ROWS, watermark=watermark)


def match(looked_for: lw.Pattern, timed: bool = True, **measures: Any) -> MatchResult:
    return stream(timed).key_by("k").match(looked_for, measures or {"n": var().count()})


def test_the_result_has_the_keys_then_the_measures() -> None:
    made = match(PAIR, at=match_time(), total=var("a").sum("v"), mean=var("a").mean("v"), n=var("b").count())
    types = {field.name: str(field.type) for field in made.schema}
    assert types == {"k": "int64", "at": "timestamp[us, tz=UTC]", "total": "int64", "mean": "double", "n": "int64"}


def test_the_result_has_event_time_if_the_match_is_bounded_and_its_time_is_sent() -> None:
    timed = match(PAIR.within("5s"), n=var().count(), when=match_time()).event_time
    assert timed is not None
    assert (timed.column, timed.offset_us) == ("when", 0)
    assert match(PAIR.within("5s"), n=var().count()).event_time is None
    assert match(PAIR, when=match_time()).event_time is None


def test_only_what_is_read_goes_through_the_exchange() -> None:
    condition = (col("v") > 1) & (var("a").last(col("v") * 2) > 3)
    work: Any = match(pattern().start("a").next("b", condition), text=var("a").first("text"))._node.work
    assert work.config.schema.names == ["k", "at", '__in(col("v") * 2)', "v", "text"]
    assert work.config.inputs == ('__in(col("v") * 2)', "v", "text")


def test_every_verb_gives_a_new_pattern() -> None:
    begun = pattern().start("a")
    assert str(begun.next("b").times(2, 3).reluctant()) == "a b{2,3}?"
    assert str(begun.one_or_more()) == "a+"
    assert str(begun) == "a"
    assert begun.within("2s") != begun


def test_the_plan_says_what_is_looked_for() -> None:
    looked_for = pattern().start("a").one_or_more().followed_by("b").followed_by_any("c").optional().within("5s")
    made = match(looked_for, n=var().count())
    made.sink_to(lw.BlackholeSink())
    text = made._context.environment.explain()
    assert "match a+ ... b .... c? within 5 s by k: n" in text


def test_conditions_are_shown_as_they_were_written() -> None:
    shown = (col("v") > var("a", "b").last(col("v") + 1, 2)) | (var().count() >= 3) & (match_time() == NOON)
    assert str(shown) == (
        '(col("v") > var("a", "b").last(col("v") + 1, 2)) | '
        "((var().count() >= 3) & (match_time() == lit(datetime(2026, 1, 1, 12, 0, tzinfo=UTC))))"
    )
    assert str(var("a").last("v")) == 'var("a").last("v")'


WHEN = lw.when(var("a").first("v").is_in([1, 2])).then(var("a").last("v").alias("x")).otherwise(col("v"))


def test_references_may_stand_anywhere_in_an_expression() -> None:
    assert match(PAIR, value=WHEN).schema.field("value").type == "int64"


REFUSED: list[tuple[type[LakewardError], str, Callable[[], object]]] = [
    (GraphError, "start comes first", lambda: PAIR.start("c")),
    (GraphError, "next goes on with a pattern, and this one is empty", lambda: pattern().next("a")),
    (GraphError, "two variables 'a'", lambda: PAIR.next("a")),
    (GraphError, "belongs behind a variable", lambda: pattern().one_or_more()),
    (GraphError, "which must not come at all", lambda: PAIR.not_next("c", col("v") > 1).optional()),
    (GraphError, "'b' has 2 rows or more, or none", lambda: PAIR.times(2).optional()),
    (ConfigError, "the condition of 'c'", lambda: PAIR.next("c", True)),  # type: ignore[arg-type]
    (ConfigError, "the condition of 'c'", lambda: PAIR.not_next("c", None)),  # type: ignore[arg-type]
    (ConfigError, "times(3, 2) is no number of rows", lambda: PAIR.times(3, 2)),
    (ConfigError, "times(0) is no number of rows", lambda: PAIR.times(0)),
    (ConfigError, "times(0) is no number of rows", lambda: PAIR.times(0, 0)),
    (ConfigError, "times(-1) is no number of rows", lambda: PAIR.times(-1)),
    (ConfigError, "times: least cannot be '3'", lambda: PAIR.times("3")),  # type: ignore[arg-type]
    (ConfigError, "times: most cannot be 2.5", lambda: PAIR.times(1, 2.5)),  # type: ignore[arg-type]
    (ConfigError, "times_or_more: least cannot be -1", lambda: PAIR.times_or_more(-1)),
    (GraphError, "'b' has a quantifier already: b+", lambda: PAIR.one_or_more().times(3)),
    (GraphError, "'b' has a quantifier already: b?", lambda: PAIR.optional().one_or_more()),
    (GraphError, "'b' has a quantifier already: b", lambda: PAIR.times(1).zero_or_more()),
    (ConfigError, "more than 0", lambda: PAIR.within("0s")),
    (ConfigError, "skip takes", lambda: PAIR.skip("somewhere")),
    (ConfigError, "a variable of a pattern", lambda: var(1)),  # type: ignore[arg-type]
    (ConfigError, "last: n", lambda: var("a").last("v", -1)),
    (GraphError, "inside of another reference", lambda: var("a").last(var("b").last("v"))),
    (ConfigError, "give a pattern", lambda: match("a b")),  # type: ignore[arg-type]
    (GraphError, "the pattern may be empty", lambda: match(pattern().start("a").optional())),
    (GraphError, "the pattern may be empty", lambda: match(pattern())),
    (GraphError, "needs within", lambda: match(PAIR.not_followed_by("c", col("v") > 1))),
    (GraphError, "may all be missing", lambda: match(pattern().start("a").optional().followed_by("b"))),
    (
        GraphError,
        "'c' follows directly, so that nothing can come before it",
        lambda: match(PAIR.not_followed_by("x", col("v") > 1).next("c")),
    ),
    (GraphError, "no variable 'c' to skip to", lambda: match(PAIR.skip(to_last("c")))),
    (GraphError, "find it again", lambda: match(PAIR.skip(to_first("a")))),
    (GraphError, "the pattern has no variable 'c'", lambda: match(PAIR, n=var("c").count())),
    (GraphError, "asks for the time of the match", lambda: match(pattern().start("a", match_time() == NOON))),
    (GraphError, "this stream has none", lambda: match(PAIR, timed=False, at=match_time())),
    (GraphError, "refers to the rows of a pattern, and this is none", lambda: stream().filter(var("a").last("v") > 1)),
    (GraphError, "refers to the rows of a pattern", lambda: stream().select(at=match_time())),
    (SchemaError, "no column 'x'", lambda: match(pattern().start("a", col("x") > 1))),
    (SchemaError, "'x'", lambda: match(PAIR, n=var("a").sum("x"))),
    (SchemaError, "no boolean", lambda: match(pattern().start("a", col("v")))),
    (SchemaError, "two columns 'k'", lambda: match(PAIR, k=var().count())),
    (ConfigError, "the measure 'n'", lambda: match(PAIR, n="v")),
    (GraphError, "match needs measures", lambda: stream().key_by("k").match(PAIR, {})),
    (
        GraphError,
        "no row is late without event time",
        lambda: stream(False).key_by("k").match(PAIR, {"n": var().count()}, late=lw.OutputTag("late")),
    ),
    (
        SchemaError,
        "takes rows back",
        lambda: stream().key_by("k").aggregate(n=lw.count()).key_by("k").match(PAIR, {"n": var().count()}),
    ),
]


@pytest.mark.parametrize(("kind", "message", "write"), REFUSED, ids=[message for _, message, _ in REFUSED])
def test_what_cannot_be_looked_for_is_refused_where_it_is_written(
    kind: type[LakewardError], message: str, write: Callable[[], object]
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        write()


@pytest.mark.parametrize(
    "written",
    [
        lambda: pattern().next("a"),
        lambda: pattern().one_or_more(),
        lambda: PAIR.start("c"),
        lambda: PAIR.next("a"),
        lambda: PAIR.skip("x"),
    ],
)
def test_a_pattern_that_cannot_be_names_the_line_that_wrote_it(written: Callable[[], object]) -> None:
    with pytest.raises(LakewardError) as caught:
        written()
    assert "test_match_verb.py:" in str(caught.value)
