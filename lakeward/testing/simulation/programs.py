"""The jobs that are simulated: each is written once in the DSL, and once as plain Python over the rows read so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from lakeward.dsl.aggregates import count
from lakeward.dsl.aggregates import max as max_of
from lakeward.dsl.aggregates import sum as sum_of
from lakeward.dsl.environment import StreamExecutionEnvironment
from lakeward.dsl.expressions import col, lit
from lakeward.dsl.windows import Sliding, Tumbling
from lakeward.testing.simulation.event_time import EVENT_TIME
from lakeward.testing.simulation.functions import FUNCTIONS
from lakeward.testing.simulation.oracle import Cut, Truth, Windows
from lakeward.testing.simulation.program import Bench, Inputs, Program
from lakeward.testing.simulation.source import START_US, InputRow
from lakeward.testing.simulation.table import Row
from lakeward.testing.simulation.updating import UPDATING

SECOND_US = 1_000_000
MODULUS = 1_000_003


# -- filter: stateless, one chain from source to sink if the parallelism allows


def _build_filter(env: StreamExecutionEnvironment, bench: Bench) -> None:
    rows = bench.read(env, "a").filter(col("v") > 0, uid="positive")
    bench.write(rows.select("k", "name", double=col("v") * 2 + 1), "out")


def _truth_of_filter(inputs: Inputs) -> dict[str, Truth]:
    return {"out": lambda cut: Counter((r.k, r.name, r.v * 2 + 1) for r in cut.rows(inputs["a"]) if r.v > 0)}


# -- tumbling and sliding windows by key


_TUMBLING = Windows("window", 10 * SECOND_US, 10 * SECOND_US)
_SLIDING = Windows("window", 10 * SECOND_US, 4 * SECOND_US)


def _build_tumbling(env: StreamExecutionEnvironment, bench: Bench) -> None:
    windows = bench.read(env, "a").key_by("k").window(Tumbling("10s"))
    bench.write(
        windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v")), "out"
    )


def _build_sliding(env: StreamExecutionEnvironment, bench: Bench) -> None:
    windows = bench.read(env, "a").key_by("name").window(Sliding("10s", slide="4s"))
    bench.write(
        windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v")), "out"
    )


def _by_key(rows: Iterable[InputRow]) -> Iterator[tuple[object, int, int]]:
    return ((row.k, row.ts, row.v) for row in rows)


def _by_name(rows: Iterable[InputRow]) -> Iterator[tuple[object, int, int]]:
    return ((row.name, row.ts, row.v) for row in rows)


def _truth_of_tumbling(inputs: Inputs) -> dict[str, Truth]:
    return {"out": lambda cut: _TUMBLING.count_and_sum(cut, _by_key(cut.rows(inputs["a"])))}


def _truth_of_sliding(inputs: Inputs) -> dict[str, Truth]:
    return {"out": lambda cut: _SLIDING.count_and_sum(cut, _by_name(cut.rows(inputs["a"])))}


# -- union: two sources, one windowed operator behind a task with several inputs


def _build_union(env: StreamExecutionEnvironment, bench: Bench) -> None:
    both = bench.read(env, "a").union(bench.read(env, "b"), uid="both")
    windows = both.key_by("k").window(Tumbling("10s"))
    bench.write(
        windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v")), "out"
    )


def _truth_of_union(inputs: Inputs) -> dict[str, Truth]:
    splits = [*inputs["a"], *inputs["b"]]
    return {"out": lambda cut: _TUMBLING.count_and_sum(cut, _by_key(cut.rows(splits)))}


# -- tree: one source, two sinks, one of them behind a window


def _build_tree(env: StreamExecutionEnvironment, bench: Bench) -> None:
    rows = bench.read(env, "a").filter(col("v") > -20, uid="most")
    bench.write(rows.select("name", "v"), "rows")
    windows = rows.key_by("name").window(Tumbling("10s"))
    bench.write(
        windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v")), "windows"
    )


def _truth_of_tree(inputs: Inputs) -> dict[str, Truth]:
    def most(cut: Cut) -> list[InputRow]:
        return [row for row in cut.rows(inputs["a"]) if row.v > -20]

    return {
        "rows": lambda cut: Counter((row.name, row.v) for row in most(cut)),
        "windows": lambda cut: _TUMBLING.count_and_sum(cut, _by_name(most(cut))),
    }


# -- python: functions over rows


def _build_python(env: StreamExecutionEnvironment, bench: Bench) -> None:
    mapped = bench.read(env, "a").map(
        lambda row: {"name": row["name"].upper(), "v": row["v"] - 1}, returns={"name": str, "v": int}
    )
    repeated = mapped.flat_map(lambda row: [row] * (row["v"] % 3), returns={"name": str, "v": int})
    bench.write(repeated, "out")


def _truth_of_python(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        rows = [(row.name.upper(), row.v - 1) for row in cut.rows(inputs["a"])]
        return Counter(row for row in rows for _ in range(row[1] % 3))

    return {"out": truth}


# -- reduce: keyed state that sees every row, by a function for which the order matters


def _fold(total: Any, row: Any) -> dict[str, Any]:
    return {"name": row["name"], "v": (total["v"] * 31 + row["v"]) % MODULUS}


def _build_reduce(env: StreamExecutionEnvironment, bench: Bench) -> None:
    totals = bench.read(env, "a").select("name", "v").key_by("name")
    bench.write(totals.reduce(_fold, uid="reduce", parallelism=bench.keyed_parallelism), "out")


def _truth_of_reduce(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        totals: dict[str, int] = {}
        results: Counter[Row] = Counter()
        for row in cut.rows(inputs["a"]):
            before = totals.get(row.name)
            totals[row.name] = row.v if before is None else (before * 31 + row.v) % MODULUS
            results[row.name, totals[row.name]] += 1
        return results

    return {"out": truth}


# -- cascade: windows over the results of windows


_FIRST = Windows("first", 5 * SECOND_US, 5 * SECOND_US)
_SECOND = Windows("second", 20 * SECOND_US, 20 * SECOND_US)


def _build_cascade(env: StreamExecutionEnvironment, bench: Bench) -> None:
    first = bench.read(env, "a").key_by("name").window(Tumbling("5s"))
    sums = first.aggregate(uid="first", parallelism=bench.keyed_parallelism, total=sum_of("v"))
    second = sums.key_by("name").window(Tumbling("20s"))
    bench.write(second.aggregate(uid="second", n=count(), best=max_of("total")), "out")


def _truth_of_cascade(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        fired = _FIRST.fired(cut, _by_name(cut.rows(inputs["a"])))
        sums = [(key, start + _FIRST.size_us - 1, sum(values)) for (key, start), values in fired.items()]
        windows = _SECOND.fired(cut, sums)
        return Counter(
            (key, start, start + _SECOND.size_us, len(values), max(values)) for (key, start), values in windows.items()
        )

    return {"out": truth}


# -- window_all: windows over everything, in one subtask


def _build_window_all(env: StreamExecutionEnvironment, bench: Bench) -> None:
    windows = bench.read(env, "a").window_all(Tumbling("10s"))
    bench.write(windows.aggregate(uid="window", n=count(), total=sum_of("v")), "out")


def _truth_of_window_all(inputs: Inputs) -> dict[str, Truth]:
    def events(cut: Cut) -> Iterator[tuple[object, int, int]]:
        return ((None, row.ts, row.v) for row in cut.rows(inputs["a"]))

    return {"out": lambda cut: _TUMBLING.count_and_sum(cut, events(cut))}


# -- recent: a filter that the source is told of, so that it leaves rows out


_SINCE_US = START_US + 20 * SECOND_US
_SINCE = datetime.fromtimestamp(_SINCE_US // SECOND_US, UTC)


def _build_recent(env: StreamExecutionEnvironment, bench: Bench) -> None:
    recent = bench.read(env, "a").filter(col("ts") >= lit(_SINCE), uid="recent")
    windows = recent.key_by("k").window(Tumbling("10s"))
    aggregated = windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v"))
    bench.write(aggregated, "out")


def _truth_of_recent(inputs: Inputs) -> dict[str, Truth]:
    def recent(cut: Cut) -> list[InputRow]:
        return [row for row in cut.rows(inputs["a"]) if row.ts >= _SINCE_US]

    return {"out": lambda cut: _TUMBLING.count_and_sum(cut, _by_key(recent(cut)))}


# -- asynchronous: calls that end in any order, some at the second try, behind windows that wait for them


def _asked(row: dict[str, Any], failed: set[tuple[object, ...]]) -> dict[str, Any]:
    """The row as it came; of some it is asked twice."""
    row_id = (row["name"], row["v"], row["ts"])
    if row["v"] % 5 == 0 and row_id not in failed:
        failed.add(row_id)
        raise ConnectionError("try again")
    return row


def _build_asynchronous(env: StreamExecutionEnvironment, bench: Bench) -> None:
    failed: set[tuple[object, ...]] = set()

    async def one(row: dict[str, Any]) -> Any:
        return _asked(row, failed)

    async def several(rows: list[dict[str, Any]]) -> Any:
        return rows

    rows = bench.read(env, "a")
    asked = rows.map_async(
        one, returns=rows.schema, capacity=4, timeout=None, uid="asked", parallelism=bench.keyed_parallelism
    )
    again = asked.map_async(
        several, returns=rows.schema, ordered=False, capacity=5, batch_rows=2, timeout=None, uid="again"
    )
    windows = again.key_by("k").window(Tumbling("10s"))
    bench.write(
        windows.aggregate(uid="window", parallelism=bench.keyed_parallelism, n=count(), total=sum_of("v")), "out"
    )


PROGRAMS_BY_NAME: Mapping[str, Program] = {
    "filter": Program(("a",), _build_filter, _truth_of_filter),
    "tumbling": Program(("a",), _build_tumbling, _truth_of_tumbling),
    "sliding": Program(("a",), _build_sliding, _truth_of_sliding),
    "union": Program(("a", "b"), _build_union, _truth_of_union),
    "tree": Program(("a",), _build_tree, _truth_of_tree),
    "python": Program(("a",), _build_python, _truth_of_python),
    "reduce": Program(("a",), _build_reduce, _truth_of_reduce),
    "cascade": Program(("a",), _build_cascade, _truth_of_cascade),
    "window_all": Program(("a",), _build_window_all, _truth_of_window_all),
    "recent": Program(("a",), _build_recent, _truth_of_recent),
    "asynchronous": Program(("a",), _build_asynchronous, _truth_of_tumbling),
    **EVENT_TIME,
    **FUNCTIONS,
    **UPDATING,
}
"""Every program, by the name that knobs draw."""
