"""Simulated jobs about event time: results of windows before their end, sources with splits that fall silent, patterns.

A split that falls silent is called idle, and what it says when it is back may be late. Which rows are late depends on
the schedule, so the job sends them to a table of their own. That table is committed before the other one, and what it
holds is given to the oracle: every row is in one of the two, and a row may be late only if its window has ended.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from lakeward.dsl.aggregates import count
from lakeward.dsl.aggregates import max as max_of
from lakeward.dsl.aggregates import sum as sum_of
from lakeward.dsl.environment import StreamExecutionEnvironment
from lakeward.dsl.expressions import col
from lakeward.dsl.expressions.pattern_rows import match_time, var
from lakeward.dsl.keyed import WindowedStream
from lakeward.dsl.patterns import pattern
from lakeward.dsl.stream import DataStream
from lakeward.dsl.windows import Session, Sliding, Tumbling, every_rows
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.operators.process.tags import OutputTag
from lakeward.testing.patterns import Mapped, RowPattern, RowVariable, matches
from lakeward.testing.simulation.oracle import Cut, Truth, Windows
from lakeward.testing.simulation.program import Bench, Inputs, Program
from lakeward.testing.simulation.source import InputRow
from lakeward.testing.simulation.table import Row

SECOND_US = 1_000_000
SOME_ROWS = 3
GAP_US = 2 * SECOND_US

_TUMBLING = Windows("window", 10 * SECOND_US, 10 * SECOND_US)
_SLIDING = Windows("window", 10 * SECOND_US, 5 * SECOND_US)
_SHORT = Windows("window", 5 * SECOND_US, 5 * SECOND_US)
_LONG = Windows("second", 20 * SECOND_US, 20 * SECOND_US)
_BRIEF = Windows("second", SECOND_US, SECOND_US)


def _by_key(rows: Iterable[InputRow]) -> Iterator[tuple[object, int, int]]:
    return ((row.k, row.ts, row.v) for row in rows)


# -- early: results after each few rows, and the last one at the window's end


def _build_early(env: StreamExecutionEnvironment, bench: Bench) -> None:
    windows = bench.read(env, "a").key_by("name").window(Tumbling("10s")).trigger(every_rows(SOME_ROWS))
    results = windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v"))
    bench.write(results, "out")


def _truth_of_early(inputs: Inputs) -> dict[str, Truth]:
    """Rows of one name come in one order: an open window shows the first of them, all but a few."""

    def truth(cut: Cut) -> Counter[Row]:
        shown = {row[:2]: row[3] for row in cut.held["out"]}
        events = [(row.name, row.ts, row.v) for row in cut.rows(inputs["a"])]
        fired = _TUMBLING.fired(cut, events)
        return Counter(
            (name, start, start + _TUMBLING.size_us, n, sum(values[:n]))
            for (name, start), values in _TUMBLING.all(events).items()
            if (n := _shown(shown.get((name, start)), len(values), (name, start) in fired))
        )

    return {"out": truth}


def _shown(n: object, rows: int, fired: bool) -> int:
    """How many rows the result of a window has to show: as many as it does, if it may."""
    least = rows if fired else max(rows - SOME_ROWS + 1, 0)
    return n if isinstance(n, int) and least <= n <= rows else (rows if least or n is not None else 0)


# -- early_totals: results of windows that overlap, replaced with each row, in totals that take them back


def _build_early_totals(env: StreamExecutionEnvironment, bench: Bench) -> None:
    windows = bench.read(env, "a").key_by("k").window(Sliding("10s", slide="5s")).trigger(every_rows(1))
    results = windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v"))
    bench.write(results.key_by("n").aggregate(uid="sizes", windows=count(), total=sum_of("total")), "out")


def _truth_of_early_totals(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        sizes: dict[int, list[int]] = defaultdict(list)
        for values in _SLIDING.all(_by_key(cut.rows(inputs["a"]))).values():
            sizes[len(values)].append(sum(values))
        return Counter((n, len(totals), sum(totals)) for n, totals in sizes.items())

    return {"out": truth}


# -- early_sessions: results whose bounds change, and that vanish when a row joins two sessions


def _build_early_sessions(env: StreamExecutionEnvironment, bench: Bench) -> None:
    sessions = bench.read(env, "a").key_by("k").window(Session(f"{GAP_US // SECOND_US}s")).trigger(every_rows(1))
    results = sessions.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v"))
    bench.write(results, "out")


def _truth_of_early_sessions(inputs: Inputs) -> dict[str, Truth]:
    return {"out": lambda cut: Counter(_sessions(cut.rows(inputs["a"])))}


def _sessions(rows: Iterable[InputRow]) -> Iterator[Row]:
    bursts: dict[int, list[list[InputRow]]] = defaultdict(list)
    for row in sorted(rows, key=lambda one: one.ts):
        own = bursts[row.k]
        if not own or own[-1][-1].ts + GAP_US < row.ts:
            own.append([])
        own[-1].append(row)
    for k, own in bursts.items():
        yield from ((k, one[0].ts, one[-1].ts + GAP_US, len(one), sum(row.v for row in one)) for one in own)


# -- idle: a split falls silent, event time goes on without it, and what it says later is late or is not


def _build_idle(env: StreamExecutionEnvironment, bench: Bench) -> None:
    _write_both(bench, bench.read(env, "a", idle=True).key_by("k").window(Tumbling("5s")))


def _build_idle_early(env: StreamExecutionEnvironment, bench: Bench) -> None:
    windows = bench.read(env, "a", idle=True).key_by("k").window(Tumbling("5s"))
    _write_both(bench, windows.trigger(every_rows(1)))


def _write_both(bench: Bench, windows: WindowedStream) -> None:
    bench.write(_without_late(bench, windows), "out")


def _without_late(bench: Bench, windows: WindowedStream) -> DataStream:
    late = OutputTag("late")
    windows = windows.side_output_late_data(late)
    results = windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v"))
    bench.write(results.side_output(late).select("k", "name", "v", "ts"), "late")
    return results


def _late(inputs: Inputs) -> Truth:
    """As many rows as the table holds, if they were read and their windows have ended."""

    def truth(cut: Cut) -> Counter[Row]:
        ended = (row for row in cut.rows(inputs["a"]) if _has_ended(cut, row))
        return _counted(ended) & cut.held["late"]

    return truth


def _counted(rows: Iterable[InputRow]) -> Counter[Row]:
    return Counter((row.k, row.name, row.v, row.ts) for row in rows)


def _has_ended(cut: Cut, row: InputRow) -> bool:
    return all(start + _SHORT.size_us - 1 <= cut.watermark_us("window", row.k) for start in _SHORT.starts(row.ts))


def _in_time(cut: Cut, inputs: Inputs) -> Iterator[tuple[object, int, int]]:
    """The rows that were read, without those that were late."""
    late = cut.held["late"].copy()
    for row in cut.rows(inputs["a"]):
        values = (row.k, row.name, row.v, row.ts)
        if late[values]:
            late[values] -= 1
        else:
            yield row.k, row.ts, row.v


def _truth_of_idle(inputs: Inputs) -> dict[str, Truth]:
    return {"late": _late(inputs), "out": lambda cut: _SHORT.count_and_sum(cut, _in_time(cut, inputs))}


def _truth_of_idle_early(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        windows = _SHORT.all(_in_time(cut, inputs))
        return Counter((k, at, at + _SHORT.size_us, len(values), sum(values)) for (k, at), values in windows.items())

    return {"late": _late(inputs), "out": truth}


# -- idle_cascade: windows over the results of such windows, of which none may be late


def _build_idle_cascade(env: StreamExecutionEnvironment, bench: Bench) -> None:
    results = _without_late(bench, bench.read(env, "a", idle=True).key_by("k").window(Tumbling("5s")))
    longer = results.key_by("k").window(Tumbling("20s"))
    bench.write(longer.aggregate(uid="second", windows=count(), most=max_of("total")), "out")


def _truth_of_idle_cascade(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        fired = _SHORT.fired(cut, _in_time(cut, inputs))
        totals = [(k, start + _SHORT.size_us - 1, sum(values)) for (k, start), values in fired.items()]
        windows = _LONG.fired(cut, totals)
        return Counter((k, at, at + _LONG.size_us, len(some), max(some)) for (k, at), some in windows.items())

    return {"late": _late(inputs), "out": truth}


# -- match: a pattern, and windows over the times of its matches, of which none may be late


_RISE = RowVariable("up", lambda mapped, row: _before(mapped) < row["v"], least=1, most=None)
_FALL = RowVariable("down", lambda mapped, row: row["v"] < mapped["low"][0]["v"], gap="followed_by")
_PATTERN = RowPattern((RowVariable("low"), _RISE, _FALL), within_us=8 * SECOND_US)


def _before(mapped: Mapped) -> int:
    """The value of the last row but the one at hand."""
    values = [row["v"] for rows in mapped.values() for row in rows]
    return int(values[-2])


def _build_match(env: StreamExecutionEnvironment, bench: Bench) -> None:
    rises = col("v") > var().last("v", 1)
    falls = col("v") < var("low").first("v")
    rise_and_fall = pattern().start("low").next("up", rises).one_or_more().followed_by("down", falls).within("8s")
    measures = {"top": var("up").last("v"), "ups": var("up").count(), "at": match_time()}
    rows = bench.read(env, "a").key_by("name")
    found = rows.match(rise_and_fall, measures, uid="first", parallelism=bench.keyed_parallelism)
    windows = found.key_by("name").window(Tumbling("1s"))
    bench.write(windows.aggregate(uid="second", n=count(), total=sum_of("top"), ups=sum_of("ups")), "out")


def _truth_of_match(inputs: Inputs) -> dict[str, Truth]:
    """Rows of one name come in one order, also those of one time."""

    def truth(cut: Cut) -> Counter[Row]:
        found: dict[tuple[str, int], list[Mapped]] = defaultdict(list)
        by_name: dict[str, list[InputRow]] = defaultdict(list)
        for row in cut.rows(inputs["a"]):
            by_name[row.name].append(row)
        for name, rows in by_name.items():
            known_us = cut.watermark_us("first", name)
            listed = [{"at": row.ts, "v": row.v} for row in sorted(rows, key=lambda row: row.ts) if row.ts <= known_us]
            for match in matches(_PATTERN, listed, None if known_us == WATERMARK_MAX_US else known_us):
                at_us = match["down"][0]["at"]
                found[name, at_us - at_us % _BRIEF.size_us].append(match)
        return Counter(
            (name, start, start + _BRIEF.size_us, *_summed(some))
            for (name, start), some in found.items()
            if start + _BRIEF.size_us - 1 <= cut.watermark_us("second", name)
        )

    return {"out": truth}


def _summed(found: Sequence[Mapped]) -> tuple[int, int, int]:
    tops = [match["up"][-1]["v"] for match in found]
    return len(tops), sum(tops), sum(len(match["up"]) for match in found)


EVENT_TIME: Mapping[str, Program] = {
    "match": Program(("a",), _build_match, _truth_of_match),
    "idle": Program(("a",), _build_idle, _truth_of_idle),
    "idle_early": Program(("a",), _build_idle_early, _truth_of_idle_early),
    "idle_cascade": Program(("a",), _build_idle_cascade, _truth_of_idle_cascade),
    "early": Program(("a",), _build_early, _truth_of_early),
    "early_totals": Program(("a",), _build_early_totals, _truth_of_early_totals),
    "early_sessions": Program(("a",), _build_early_sessions, _truth_of_early_sessions),
}
"""The programs about event time, by name."""
