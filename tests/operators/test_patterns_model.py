"""Random patterns over random rows against a matcher that looks at one row after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col, var
from lakeward.dsl.expressions import Expr
from lakeward.dsl.patterns import MatchResult
from lakeward.engine.core.hashing import hash_columns
from lakeward.engine.core.keygroups import key_groups
from lakeward.operators.patterns.operator import Match
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness
from lakeward.testing.patterns import Condition, Mapped, RowPattern, RowVariable, matches

SCHEMA = pa.schema(
    {"k": pa.string(), "at": pa.timestamp("us", "UTC"), "v": pa.int64(), "x": pa.int64(), "n": pa.int64()}
)
Row = dict[str, Any]
Pair = tuple[Expr, Condition]
"""A condition for both."""


def values(mapped: Mapped, names: Sequence[str], column: str) -> list[Any]:
    return [row[column] for name, rows in mapped.items() if not names or name in names for row in rows]


def back(listed: list[Any], n: int) -> Any:
    return listed[-1 - n] if len(listed) > n else None


def given(listed: list[Any]) -> list[Any]:
    return [value for value in listed if value is not None]


def falls(own: str, others: list[str], random: Random) -> Pair:
    def holds(mapped: Mapped, row: Any) -> bool:
        before = back(values(mapped, [own], "v"), 1)
        return before is None or row["v"] <= before

    return var(own).last("v", 1).is_null() | (col("v") <= var(own).last("v", 1)), holds


def differs(own: str, others: list[str], random: Random) -> Pair:
    def holds(mapped: Mapped, row: Any) -> bool | None:
        before = back(values(mapped, [], "v"), 1)
        return None if before is None else row["v"] != before

    return col("v") != var().last("v", 1), holds


def is_low(own: str, others: list[str], random: Random) -> Pair:
    limit = random.randint(1, 4)
    return var(own).mean("v") < limit, lambda m, row: sum(values(m, [own], "v")) < limit * len(m[own])


def sums_up(own: str, others: list[str], random: Random) -> Pair:
    limit = random.randint(3, 20)
    return var().sum("v") < limit, lambda m, row: sum(values(m, [], "v")) < limit


def sums_up_with_nulls(own: str, others: list[str], random: Random) -> Pair:
    def holds(mapped: Mapped, row: Any) -> bool | None:
        some = given(values(mapped, [own], "x"))
        return sum(some) < 3 if some else None

    return var(own).sum("x") < 3, holds


def extremes(own: str, others: list[str], random: Random) -> Pair:
    some = [own, *random.sample(others, min(len(others), 1))]

    def holds(mapped: Mapped, row: Any) -> bool:
        listed = values(mapped, some, "v")
        return max(listed) - min(listed) < 3

    return var(*some).max(col("v") + 1) - var(*some).min(col("v") + 1) < 3, holds


def is_above_the_first(own: str, others: list[str], random: Random) -> Pair:
    some = random.sample(others, 1) if others else [own]
    n = random.choice([0, 0, 1])

    def holds(mapped: Mapped, row: Any) -> bool | None:
        listed = values(mapped, some, "v")
        return row["v"] > listed[n] if len(listed) > n else None

    return col("v") > var(*some).first("v", n), holds


def counts(own: str, others: list[str], random: Random) -> Pair:
    most = random.randint(1, 3)
    return var(own).count(
        "x"
    ) + var().count() < most + 3, lambda m, row: len(given(values(m, [own], "x"))) + len(values(m, [], "v")) < most + 3


def alone(own: str, others: list[str], random: Random) -> Pair:
    """On the row alone."""
    limit = random.randint(0, 3)
    if random.random() < 0.3:
        return col("x") > 0, lambda m, row: None if row["x"] is None else row["x"] > 0
    return (
        (col("v") > limit, lambda m, row: row["v"] > limit)
        if random.random() < 0.5
        else (
            col("v") <= limit,
            lambda m, row: row["v"] <= limit,
        )
    )


CONDITIONS = (falls, differs, is_low, sums_up, sums_up_with_nulls, extremes, is_above_the_first, counts, alone, alone)


def refusal(others: list[str], random: Random) -> Pair:
    if random.random() < 0.5:
        return alone("", others, random)
    last = others[-1:]
    return col("v") == var(*last).last(
        "v"
    ), lambda m, row: None if not values(m, last, "v") else row["v"] == back(values(m, last, "v"), 0)


def quantified(pattern: lw.Pattern, random: Random, may_miss: bool) -> tuple[lw.Pattern, dict[str, Any]]:
    choice = random.choice(["", "", "+", "+", "*", "?", "{}", "{,}"])
    if not may_miss and choice in ("*", "?"):
        choice = "+"
    least, most = random.choice([(2, 2), (1, 2), (2, 3)])
    made, bounds = {
        "": lambda: (pattern, (1, 1)),
        "+": lambda: (pattern.one_or_more(), (1, None)),
        "*": lambda: (pattern.zero_or_more(), (0, None)),
        "?": lambda: (pattern.optional(), (0, 1)),
        "{}": lambda: (pattern.times(least, most), (least, most)),
        "{,}": lambda: (pattern.times_or_more(least), (least, None)),
    }[choice]()
    greedy = random.random() < 0.7
    return made if greedy else made.reluctant(), {"least": bounds[0], "most": bounds[1], "greedy": greedy}


def drawn(random: Random) -> tuple[lw.Pattern, RowPattern]:
    """A pattern, for both."""
    pattern, variables, names = lw.pattern(), list[RowVariable](), list[str]()
    within_us = random.choice([None, 1, 3, 8])
    for number in range(random.choice([1, 2, 2, 3, 3, 4])):
        name = "abcd"[number]
        begun = any(one.least for one in variables)
        gap = random.choice(["next", "next", "followed_by", "followed_by_any"]) if begun else "next"
        refused: dict[str, list[Condition]] = {"not_next": [], "without": []}
        if number and random.random() < 0.2:
            expression, condition = refusal(names, random)
            if gap != "next" and random.random() < 0.7:
                pattern = pattern.not_followed_by(f"no{number}", expression)
                refused["without"].append(condition)
            else:
                pattern = pattern.not_next(f"no{number}", expression)
                refused["not_next"].append(condition)
        where, condition_of_row = (
            random.choice(CONDITIONS)(name, names, random) if random.random() < 0.8 else (None, None)
        )
        pattern = getattr(pattern, gap if number else "start")(name, where)
        pattern, bounds = quantified(pattern, random, may_miss=begun or number > 0)
        variables.append(RowVariable(name, condition_of_row, gap=gap, **bounds, **refused))  # type: ignore[arg-type]
        names.append(name)
    endings: dict[str, list[Condition]] = {"not_next": [], "without": []}
    if random.random() < 0.2:
        expression, condition = refusal(names, random)
        if within_us is not None and random.random() < 0.6:
            pattern = pattern.not_followed_by("end", expression)
            endings["without"].append(condition)
        else:
            pattern = pattern.not_next("end", expression)
            endings["not_next"].append(condition)
    if within_us is not None:
        pattern = pattern.within(f"{within_us}us")
    pattern, skip = skipping(pattern, variables, random)
    return pattern, RowPattern(variables, *skip, within_us, **endings)


def skipping(pattern: lw.Pattern, variables: list[RowVariable], random: Random) -> tuple[lw.Pattern, Any]:
    sure = [one.name for one in variables[1:] if one.least and variables[0].least]
    choice = random.choice(["past_last_row", "to_next_row", *(["first", "last"] if sure else [])])
    if choice == "first":
        name = random.choice(sure)
        return pattern.skip(lw.to_first(name)), ("first", name)
    if choice == "last":
        name = random.choice(sure)
        return pattern.skip(lw.to_last(name)), ("last", name)
    return pattern.skip(choice), (choice, "")


def measures(names: Sequence[str]) -> dict[str, Expr]:
    found: dict[str, Expr] = {"end": col("n"), "rows": var().count(), "sum": var().sum("v"), "last": var().last("n", 1)}
    for name in names:
        rows = var(name)
        found |= {f"{name}_rows": rows.count(), f"{name}_first": rows.first("n"), f"{name}_last": rows.last("n")}
        found |= {f"{name}_mean": rows.mean("v"), f"{name}_least": rows.min("x"), f"{name}_second": rows.first("n", 1)}
    return found


def measured(match: Mapped, names: Sequence[str], key: Any) -> Row:
    numbers = values(match, [], "n")
    found = {"k": key, "end": numbers[-1], "rows": len(numbers), "sum": sum(values(match, [], "v"))}
    found["last"] = back(numbers, 1)
    for name in names:
        rows, of_v, of_x = (values(match, [name], column) for column in ("n", "v", "x"))
        found |= {f"{name}_rows": len(rows), f"{name}_first": rows[0] if rows else None, f"{name}_last": back(rows, 0)}
        found |= {
            f"{name}_mean": sum(of_v) / len(of_v) if of_v else None,
            f"{name}_least": min(given(of_x), default=None),
        }
        found[f"{name}_second"] = rows[1] if len(rows) > 1 else None
    return found


def factory_of(pattern: lw.Pattern, given_measures: dict[str, Expr]) -> Match:
    stream = lw.StreamExecutionEnvironment().from_collection(
        pa.Table.from_batches([], SCHEMA), watermark=lw.WatermarkStrategy.monotonous("at")
    )
    result: MatchResult = stream.key_by("k").match(pattern, given_measures)
    work = result._node.work
    assert isinstance(work, Match)
    return work


def projected(batch: pa.RecordBatch, factory: Match) -> pa.RecordBatch:
    """What the projection before the operator does; of computed inputs there is one."""
    columns = {
        name: batch.column(name) if name in batch.schema.names else pa.array([v + 1 for v in batch["v"].to_pylist()])
        for name in factory.config.schema.names
    }
    return pa.RecordBatch.from_arrays(
        [array.cast(factory.config.schema.field(name).type) for name, array in columns.items()],
        schema=factory.config.schema,
    )


def row_batches(random: Random, count: int) -> list[list[Row]]:
    """Batches that arrive before watermark 0, 3, 6 and so on; some rows are late."""
    numbers = iter(range(10_000))
    found = []
    for step in range(count):
        first = 3 * step - (4 if random.random() < 0.1 else 2)
        batch = [
            {
                "k": random.choice(["a", "a", "b", None]),
                "at": random.randint(max(first, 0), 3 * step + 6),
                "v": random.randint(0, 4),
                "x": random.choice([None, 0, 1, 2]),
            }
            for _ in range(random.choice([0, 3, 8, 20]))
        ]
        found.append([{**row, "n": next(numbers)} for row in batch])
    return found


def expected(pattern: RowPattern, rows: list[Row], names: Sequence[str], known_us: int | None) -> Counter[Any]:
    found: list[Row] = []
    for key in ("a", "b", None):
        own = sorted((row for row in rows if row["k"] == key), key=lambda row: (row["at"], row["n"]))
        if known_us is not None:
            own = [row for row in own if row["at"] <= known_us]
        found += [measured(match, names, key) for match in matches(pattern, own, known_us)]
    return comparable(found)


def comparable(rows: Sequence[Row]) -> Counter[Any]:
    return Counter(tuple(sorted(row.items())) for row in rows)


Step = tuple[pa.RecordBatch, int]
"""Rows, and the watermark behind them."""


class Case:
    """A random pattern with random rows, some of them late."""

    def __init__(self, seed: str) -> None:
        random = Random(seed)
        self.pattern, self.model = drawn(random)
        self.names = [one.name for one in self.model.variables]
        self.factory = factory_of(self.pattern, measures(self.names))
        self.schema = self.factory.config.schema
        self.in_time: list[Row] = []
        self.late = 0
        self._random = random

    def steps(self) -> Iterator[Step]:
        """What happens, row batches with watermarks; notes what is late."""
        watermark = -1
        for batch in row_batches(self._random, 5):
            self.in_time += [row for row in batch if row["at"] > watermark]
            self.late += sum(1 for row in batch if row["at"] <= watermark)
            watermark += self._random.choice([0, 3, 3, 5]) if watermark + 3 > 0 else 1
            yield projected(pa.RecordBatch.from_pylist(batch, schema=SCHEMA), self.factory), watermark

    def check(self, sent: list[Row], watermark: int | None) -> None:
        """What was sent so far is what a row-wise matcher has decided by then."""
        found = expected(self.model, self.in_time, self.names, watermark)
        assert comparable(sent) == found, (str(self.pattern), self.model)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_found_up_to_each_watermark_is_what_is_decided_by_then(seed: int) -> None:
    found = 0
    for number in range(8):
        case, sent = Case(f"{seed} {number}"), list[Row]()
        with OperatorHarness(case.factory, case.schema) as harness:
            for batch, watermark in case.steps():
                harness.send(batch)
                harness.watermark(watermark)
                sent += harness.take()
                case.check(sent, watermark)
            sent += harness.end()
            case.check(sent, None)
            assert harness.counter("late_rows") == case.late
            assert len(harness.operator._kept._rows) == 0  # type: ignore[attr-defined]
        found += len(sent)
    assert found, "random patterns match now and then"


@pytest.mark.parametrize("seed", range(6))
def test_the_same_is_found_when_everything_is_done_in_small_pieces(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("operator._CHUNK_ROWS", 3), ("starts._BLOCK", 2), ("starts._CHEAP_ROWS", 1)):
        monkeypatch.setattr(f"lakeward.operators.patterns.{name}", value)
    monkeypatch.setattr("lakeward.operators.patterns.search._PIECE_ROWS", 4)
    monkeypatch.setattr("lakeward.operators.patterns.starts._STARTS_MAX", 3)
    for number in range(4):
        case, sent = Case(f"small {seed} {number}"), list[Row]()
        with OperatorHarness(case.factory, case.schema) as harness:
            for batch, watermark in case.steps():
                harness.send(batch)
                harness.watermark(watermark)
                sent += harness.take()
                case.check(sent, watermark)
            sent += harness.end()
        case.check(sent, None)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_is_found_when_it_is_restored_at_another_parallelism_in_between(seed: int) -> None:
    for number in range(2):
        case, sent = Case(f"restored {seed} {number}"), list[Row]()
        snapshots: list[HarnessSnapshot] = []
        for step, (batch, watermark) in enumerate(case.steps()):
            parallelism = (1, 2, 3, 2, 1)[step]
            ports = [HarnessConfig(i, parallelism, store="rocksdb") for i in range(parallelism)]
            harnesses = [OperatorHarness(case.factory, case.schema, config=one, restored=snapshots) for one in ports]
            groups = key_groups(hash_columns([batch.column("k")]), 128).tolist() if batch.num_rows else []
            for harness, port in zip(harnesses, ports, strict=True):
                harness.send(batch.filter(pa.array([group in port.key_groups for group in groups], pa.bool_())))
            early = [harness.snapshot() for harness in harnesses]  # with rows that wait
            for one in harnesses:
                one.close()
            harnesses = [OperatorHarness(case.factory, case.schema, config=one, restored=early) for one in ports]
            for harness in harnesses:
                harness.watermark(watermark)
                sent += harness.take()
            case.check(sent, watermark)
            snapshots = [harness.snapshot() for harness in harnesses]
            if step == 4:
                sent += harnesses[0].end()
            for harness in harnesses:
                harness.close()
        case.check(sent, None)
