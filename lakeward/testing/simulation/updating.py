"""Simulated jobs whose streams take rows back: aggregates for ever, joins, rankings, the last row of a key.

Their tables take changes. What a table holds at a checkpoint has to be what a batch query answers over just the rows
that the checkpoint has read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from lakeward.dsl.aggregates import count
from lakeward.dsl.aggregates import max as max_of
from lakeward.dsl.aggregates import min as min_of
from lakeward.dsl.aggregates import sum as sum_of
from lakeward.dsl.environment import StreamExecutionEnvironment
from lakeward.dsl.expressions import col
from lakeward.dsl.ranking import asc, desc
from lakeward.dsl.stream import DataStream
from lakeward.testing.simulation.oracle import Cut, Truth
from lakeward.testing.simulation.program import Bench, Inputs, Program
from lakeward.testing.simulation.source import InputRow
from lakeward.testing.simulation.table import Row

T = TypeVar("T")

MANY_MS = 40
"""Changes of some aggregates are collected for so long."""


def _grouped(rows: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    groups: dict[Any, list[T]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def _simple(source: str, answer: Callable[[list[InputRow]], Iterable[Row]]) -> Callable[[Inputs], dict[str, Truth]]:
    """The truth of a job with one source and one table."""

    def truths(inputs: Inputs) -> dict[str, Truth]:
        return {"out": lambda cut: Counter(answer(list(cut.rows(inputs[source]))))}

    return truths


# -- totals: one row a key, replaced again and again


def _build_totals(env: StreamExecutionEnvironment, bench: Bench) -> None:
    totals = (
        bench.read(env, "a")
        .key_by("k")
        .aggregate(uid="totals", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v"), best=max_of("v"))
    )
    bench.write(totals, "out")


def _totals(rows: list[InputRow]) -> Iterable[Row]:
    for k, group in _grouped(rows, lambda row: row.k).items():
        values = [row.v for row in group]
        yield k, len(values), sum(values), max(values)


# -- regrouped: aggregates of aggregates; groups of the second vanish, and rows enter and leave the filter between


def _build_regrouped(env: StreamExecutionEnvironment, bench: Bench) -> None:
    names = (
        bench.read(env, "a")
        .key_by("name")
        .aggregate(
            uid="names", parallelism=bench.keyed_parallelism, emit_interval=f"{MANY_MS}ms", n=count(), best=max_of("v")
        )
    )
    groups = (
        names.filter(col("best") < 95, uid="beatable")
        .key_by("n")
        .aggregate(uid="groups", names=count(), total=sum_of("best"), least=min_of("best"), most=max_of("best"))
    )
    bench.write(groups, "out")


def _regrouped(rows: list[InputRow]) -> Iterable[Row]:
    names = [(len(group), max(row.v for row in group)) for group in _grouped(rows, lambda row: row.name).values()]
    beatable = (one for one in names if one[1] < 95)
    for n, group in _grouped(beatable, lambda one: one[0]).items():
        bests = [best for _, best in group]
        yield n, len(bests), sum(bests), min(bests), max(bests)


# -- joins of streams that both update, and of plain rows with an updating stream


def _totals_of(env: StreamExecutionEnvironment, bench: Bench, source: str) -> DataStream:
    keyed = bench.read(env, source).key_by("k")
    return keyed.aggregate(uid=f"totals-{source}", parallelism=bench.keyed_parallelism, total=sum_of("v"))


def _totals_at(cut: Cut, inputs: Inputs, source: str) -> dict[int, int]:
    groups = _grouped(cut.rows(inputs[source]), lambda row: row.k)
    return {k: sum(row.v for row in group) for k, group in groups.items()}


def _build_full_join(env: StreamExecutionEnvironment, bench: Bench) -> None:
    totals = [_totals_of(env, bench, source) for source in ("a", "b")]
    joined = totals[0].join(totals[1], on="k", how="full", uid="join", parallelism=bench.keyed_parallelism)
    bench.write(joined, "out")


def _truth_of_full_join(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        a, b = (_totals_at(cut, inputs, source) for source in ("a", "b"))
        return Counter((k, a.get(k), b.get(k)) for k in a.keys() | b.keys())

    return {"out": truth}


def _high(row: InputRow) -> bool:
    return row.v > 60


def _build_left_join(env: StreamExecutionEnvironment, bench: Bench) -> None:
    high = bench.read(env, "a").filter(col("v") > 60, uid="high").select("k", "name", "v")
    totals = _totals_of(env, bench, "b")
    bench.write(high.join(totals, on="k", how="left", uid="join", parallelism=bench.keyed_parallelism), "out")


def _truth_of_left_join(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        b = _totals_at(cut, inputs, "b")
        return Counter((row.k, row.name, row.v, b.get(row.k)) for row in cut.rows(inputs["a"]) if _high(row))

    return {"out": truth}


def _build_anti_join(env: StreamExecutionEnvironment, bench: Bench) -> None:
    high = bench.read(env, "a").filter(col("v") > 60, uid="high").select("k", "name", "v")
    rich = _totals_of(env, bench, "b").filter(col("total") > 100, uid="rich")
    bench.write(high.join(rich, on="k", how="anti", uid="join", parallelism=bench.keyed_parallelism), "out")


def _truth_of_anti_join(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        rich = {k for k, total in _totals_at(cut, inputs, "b").items() if total > 100}
        rows = (row for row in cut.rows(inputs["a"]) if _high(row) and row.k not in rich)
        return Counter((row.k, row.name, row.v) for row in rows)

    return {"out": truth}


# -- rankings: of rows, and of totals that move from one ranking to another


def _build_top_n(env: StreamExecutionEnvironment, bench: Bench) -> None:
    order = [desc("v"), asc("ts"), asc("name")]
    top = (
        bench.read(env, "a")
        .key_by("k")
        .top_n(3, by=order, rank_column="rank", uid="top", parallelism=bench.keyed_parallelism)
    )
    bench.write(top, "out")


def _top_n(rows: list[InputRow]) -> Iterable[Row]:
    for k, group in _grouped(rows, lambda row: row.k).items():
        best = sorted(group, key=lambda row: (-row.v, row.ts, row.name))[:3]
        yield from ((k, row.name, row.v, row.ts, rank) for rank, row in enumerate(best, 1))


def _build_top_totals(env: StreamExecutionEnvironment, bench: Bench) -> None:
    totals = (
        bench.read(env, "a")
        .key_by("name")
        .aggregate(uid="totals", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v"))
    )
    halves = totals.with_columns(half=col("n") % 2).select("half", "name", "total")
    top = halves.key_by("half").top_n(2, by=[desc("total"), asc("name")], uid="top")
    bench.write(top, "out")


def _top_totals(rows: list[InputRow]) -> Iterable[Row]:
    groups = _grouped(rows, lambda row: row.name)
    totals = [(len(group) % 2, name, sum(row.v for row in group)) for name, group in groups.items()]
    for members in _grouped(totals, lambda one: one[0]).values():
        yield from sorted(members, key=lambda one: (-one[2], one[1]))[:2]


# -- latest: the last row of a key by event time; of equal ones the last that came, and a name's rows come in one order


def _build_latest(env: StreamExecutionEnvironment, bench: Bench) -> None:
    rows = bench.read(env, "a").select("name", "v", "ts").key_by("name")
    bench.write(rows.deduplicate("last", order_by="ts", uid="latest", parallelism=bench.keyed_parallelism), "out")


def _latest(rows: list[InputRow]) -> Iterable[Row]:
    for name, group in _grouped(rows, lambda row: row.name).items():
        last = max(enumerate(group), key=lambda one: (one[1].ts, one[0]))[1]
        yield name, last.v, last.ts


UPDATING: Mapping[str, Program] = {
    "totals": Program(("a",), _build_totals, _simple("a", _totals)),
    "regrouped": Program(("a",), _build_regrouped, _simple("a", _regrouped)),
    "full_join": Program(("a", "b"), _build_full_join, _truth_of_full_join),
    "left_join": Program(("a", "b"), _build_left_join, _truth_of_left_join),
    "anti_join": Program(("a", "b"), _build_anti_join, _truth_of_anti_join),
    "top_n": Program(("a",), _build_top_n, _simple("a", _top_n)),
    "top_totals": Program(("a",), _build_top_totals, _simple("a", _top_totals)),
    "latest": Program(("a",), _build_latest, _simple("a", _latest)),
}
"""The programs whose streams update, by name."""
