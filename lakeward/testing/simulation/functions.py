"""Simulated jobs of process functions: state of every kind, timers, side outputs, two streams, rules, whole batches.

What such a function does may depend on the order in which rows of several splits come, and on what the watermark was
then. These do not: rows of one name come in one order, a row's time is ahead of the watermark, and what needs all rows
up to a time waits for a timer. So the rows read and the watermarks of a checkpoint say what tables hold.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.dsl.environment import StreamExecutionEnvironment
from lakeward.operators.error_policy import OnError
from lakeward.operators.process.contexts import KeyedBatchContext, KeyedContext, ProcessContext
from lakeward.operators.process.functions import (
    BroadcastProcessFunction,
    CoProcessFunction,
    KeyedBatchFunction,
    KeyedProcessFunction,
)
from lakeward.operators.process.states import BroadcastState, ListState, MapState, ReducingState, StateTtl, ValueState
from lakeward.operators.process.tags import OutputTag
from lakeward.testing.simulation.oracle import Cut, Truth
from lakeward.testing.simulation.program import Bench, Inputs, Program
from lakeward.testing.simulation.source import InputRow
from lakeward.testing.simulation.table import Row

SECOND_US = 1_000_000
WINDOW_US = 5 * SECOND_US
HOP_US = 8 * SECOND_US
HOPS_MAX = 2
MEMORY = StateTtl("12s", time="event")
MEMORY_US = MEMORY.duration_us


def _start(time_us: int) -> int:
    return time_us - time_us % WINDOW_US


def _end(time_us: int) -> int:
    """The last moment of the window that a time falls into."""
    return _start(time_us) + WINDOW_US - 1


def _time_us(ctx: ProcessContext) -> int:
    """The time of a row or timer."""
    assert ctx.timestamp_us is not None, "all have one"
    return ctx.timestamp_us


class Refused(ValueError):
    """A row that a function fails on, when it has changed what there is to change."""


def _refuse(row: dict[str, Any]) -> None:
    if _is_refused(row["v"]):
        raise Refused(f"{row['v']} is refused")


def _is_refused(v: int) -> bool:
    return v % 13 == 5


def _accepted(rows: Iterable[InputRow]) -> Iterator[InputRow]:
    return (row for row in rows if not _is_refused(row.v))


def _by_name(rows: Iterable[InputRow]) -> Mapping[str, list[InputRow]]:
    names: dict[str, list[InputRow]] = defaultdict(list)
    for row in rows:
        names[row.name].append(row)
    return names


# -- reminders: state of three kinds, some with a TTL; timers that set and delete others; side outputs; rows that fail


class Sum(NamedTuple):
    """What a window has summed up."""

    rows: int
    total: int


FAILED = OutputTag("failed")


class Reminders(KeyedProcessFunction):
    """Reports each window that the last of its rows did not call off, and again until the next one is reported."""

    aside = OutputTag("numbered", {"name": str, "number": int, "v": int})
    number: ValueState[int] = ValueState(default=0)
    sums: MapState[int, Sum]
    reminder: ValueState[int]
    hops: ValueState[int] = ValueState(default=0)
    recent: ListState[int] = ListState(ttl=MEMORY)
    reported: MapState[int, int] = MapState(ttl=MEMORY)

    def process(self, row: dict[str, Any], ctx: KeyedContext) -> None:
        """Sum the row up in its window, and number it."""
        self.number.value += 1
        ctx.output(self.aside, {"name": row["name"], "number": self.number.value, "v": row["v"]})
        time_us = _time_us(ctx)
        before = self.sums.get(_start(time_us), Sum(0, 0))
        self.sums[_start(time_us)] = Sum(before.rows + 1, before.total + row["v"])
        self.recent.append(time_us)
        if row["v"] < 0:
            ctx.timers.delete_event_time(_end(time_us))
        else:
            ctx.timers.register_event_time(_end(time_us))
        _refuse(row)

    def on_timer(self, timestamp: datetime, ctx: KeyedContext) -> Iterator[tuple[Any, ...]]:
        """Report a window, or remind of the last one."""
        time_us = _time_us(ctx)
        if time_us == self.reminder.value:
            self.hops.value += 1
            yield ctx.current_key, time_us, "again", self.hops.value, len(self.reported)
            self._remind(ctx, time_us)
        if time_us == _end(time_us) and _start(time_us) in self.sums:
            if self.reminder.value is not None:
                ctx.timers.delete_event_time(self.reminder.value)
            window = self.sums.pop(_start(time_us))
            self.hops.clear()
            self.reported[time_us] = window.total
            yield ctx.current_key, time_us, "rows", window.rows, window.total
            kept = [one for one in self.recent if one <= time_us]
            yield ctx.current_key, time_us, "kept", len(kept), sum(self.reported.values())
            self._remind(ctx, time_us)

    def _remind(self, ctx: KeyedContext, time_us: int) -> None:
        if self.hops.value < HOPS_MAX:
            self.reminder.value = time_us + HOP_US
            ctx.timers.register_event_time(time_us + HOP_US)
        else:
            self.reminder.clear()


def _build_reminders(env: StreamExecutionEnvironment, bench: Bench) -> None:
    reports = (
        bench.read(env, "a")
        .key_by("name")
        .process(
            Reminders(),
            returns={"name": str, "at": int, "what": str, "n": int, "total": int},
            uid="window",
            parallelism=bench.keyed_parallelism,
            on_error=OnError.side_output(FAILED),
        )
    )
    bench.write(reports, "out")
    bench.write(reports.side_output(FAILED).select("k", "name", "v", "ts"), "failed")
    bench.write(reports.side_output(Reminders.aside), "numbered")


def _reminders(name: str, rows: Sequence[InputRow], upto_us: int) -> Iterator[Row]:
    windows: dict[int, list[InputRow]] = defaultdict(list)
    for row in rows:
        windows[_end(row.ts)].append(row)
    ends = sorted(end for end, some in windows.items() if some[-1].v >= 0 and end <= upto_us)
    for number, end in enumerate(ends):
        reported = [one for one in ends[: number + 1] if one + MEMORY_US > end]
        kept = [row for row in rows if end - MEMORY_US < row.ts <= end]
        yield name, end, "rows", len(windows[end]), sum(row.v for row in windows[end])
        yield name, end, "kept", len(kept), sum(row.v for one in reported for row in windows[one])
        for hop in range(1, HOPS_MAX + 1):
            at = end + hop * HOP_US
            if at <= upto_us and (number + 1 == len(ends) or at < ends[number + 1]):
                yield name, at, "again", hop, sum(one + MEMORY_US > at for one in ends[: number + 1])


def _truth_of_reminders(inputs: Inputs) -> dict[str, Truth]:
    def reports(cut: Cut) -> Counter[Row]:
        names = _by_name(_accepted(cut.rows(inputs["a"])))
        return Counter(
            one for name, rows in names.items() for one in _reminders(name, rows, cut.watermark_us("window", name))
        )

    def numbered(cut: Cut) -> Counter[Row]:
        names = _by_name(_accepted(cut.rows(inputs["a"])))
        return Counter((name, n, row.v) for name, rows in names.items() for n, row in enumerate(rows, 1))

    def failed(cut: Cut) -> Counter[Row]:
        return Counter((row.k, row.name, row.v, row.ts) for row in cut.rows(inputs["a"]) if _is_refused(row.v))

    return {"out": reports, "numbered": numbered, "failed": failed}


# -- connected: a row waits for its time, and gets the last value that another stream had by then


class AsOf(CoProcessFunction):
    """To each row of the first stream the newest value of the second, as of the row's time."""

    waiting: MapState[int, list[int]]
    values: MapState[int, int]
    matched: ValueState[int] = ValueState(default=0)
    best: ReducingState[int] = ReducingState(int, max)

    def process1(self, row: dict[str, Any], ctx: KeyedContext) -> None:
        """Wait."""
        time_us = _time_us(ctx)
        self.waiting[time_us] = [*self.waiting.get(time_us, []), row["v"]]
        ctx.timers.register_event_time(time_us)

    def process2(self, row: dict[str, Any], ctx: KeyedContext) -> None:
        """Of values of one time the largest counts."""
        time_us = _time_us(ctx)
        self.values[time_us] = max(row["v"], self.values.get(time_us, row["v"]))

    def on_timer(self, timestamp: datetime, ctx: KeyedContext) -> Iterator[tuple[Any, ...]]:
        """Look the value up, and forget those before it."""
        time_us = _time_us(ctx)
        known = sorted(one for one in self.values if one <= time_us)
        for old in known[:-1]:
            del self.values[old]
        value = self.values[known[-1]] if known else None
        found = self.waiting.pop(time_us)
        assert all(one > time_us for one in self.waiting), "every time has a timer, which forgets its rows"
        self.matched.value += len(found)
        self.best.add(max(found))
        for v in found:
            yield ctx.current_key, time_us, v, value, self.matched.value, self.best.value


_MATCHED = pa.schema([(name, pa.int64()) for name in ("k", "at", "v", "value", "number", "best")])


def _build_connected(env: StreamExecutionEnvironment, bench: Bench) -> None:
    both = bench.read(env, "a").key_by("k").connect(bench.read(env, "b").key_by("k"))
    bench.write(both.process(AsOf(), returns=_MATCHED, uid="window", parallelism=bench.keyed_parallelism), "out")


def _truth_of_connected(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        values = _timed(cut.rows(inputs["b"]))
        due = _timed(row for row in cut.rows(inputs["a"]) if row.ts <= cut.watermark_us("window", row.k))
        return Counter(one for k, rows in due.items() for one in _as_of(k, rows, values[k]))

    return {"out": truth}


def _timed(rows: Iterable[InputRow]) -> dict[int, list[tuple[int, int]]]:
    """Times and values by key, in their order."""
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        found[row.k].append((row.ts, row.v))
    for one in found.values():
        one.sort()
    return found


def _as_of(k: int, rows: Sequence[tuple[int, int]], values: Sequence[tuple[int, int]]) -> Iterator[Row]:
    best = list(accumulate((v for _, v in rows), max))
    for at, v in rows:
        known, number = (bisect_right(some, at, key=itemgetter(0)) for some in (values, rows))
        yield k, at, v, values[known - 1][1] if known else None, number, best[number - 1]


# -- rules: a broadcast stream of limits, of which rows of each key ask as of their time


class Rule(NamedTuple):
    """Of which key and second a limit is."""

    k: int
    second: int
    limit: int


class Waiting(NamedTuple):
    """A row that waits for its time."""

    at: int
    v: int


class Rules(BroadcastProcessFunction):
    """Rows above the newest limit of their key that was there by their time."""

    limits: BroadcastState[Rule, bool]
    waiting: ListState[Waiting]

    def process(self, row: dict[str, Any], ctx: KeyedContext) -> None:
        """Wait until all rules of that time have come."""
        self.waiting.append(Waiting(_time_us(ctx), row["v"]))
        ctx.timers.register_event_time(_time_us(ctx))

    def process_broadcast(self, row: dict[str, Any], ctx: ProcessContext) -> None:
        """Of the rules of one second only the highest stays."""
        rule = Rule(row["k"], _time_us(ctx) // SECOND_US, row["v"])
        rivals = [one for one in self.limits if one[:2] == rule[:2]]
        for one in rivals:
            del self.limits[one]
        self.limits[max([rule, *rivals])] = True
        _refuse(row)

    def on_timer(self, timestamp: datetime, ctx: KeyedContext) -> Iterator[tuple[Any, ...]]:
        """Compare the rows of this time with the limit."""
        k, time_us = ctx.current_key, _time_us(ctx)
        rules = [one for one in self.limits if one.k == k and (one.second + 1) * SECOND_US <= time_us]
        limit = max(rules).limit if rules else 0
        held = list(self.waiting)
        assert all(one.at >= time_us for one in held), "every time has a timer, which forgets its rows"
        self.waiting.replace(one for one in held if one.at != time_us)
        yield from ((k, time_us, one.v, limit) for one in held if one.at == time_us and one.v > limit)


def _build_rules(env: StreamExecutionEnvironment, bench: Bench) -> None:
    both = bench.read(env, "a").key_by("k").connect(bench.read(env, "b").broadcast())
    over = both.process(
        Rules(),
        returns={"k": int, "at": int, "v": int, "limit": int},
        uid="window",
        parallelism=bench.keyed_parallelism,
        on_error=OnError.skip(),
    )
    bench.write(over, "out")


def _truth_of_rules(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        timed = _timed(_accepted(cut.rows(inputs["b"])))
        rules = {k: sorted((at // SECOND_US, v) for at, v in rows) for k, rows in timed.items()}
        due = (row for row in cut.rows(inputs["a"]) if row.ts <= cut.watermark_us("window", row.k))
        compared = ((row.k, row.ts, row.v, _limit(rules.get(row.k, []), row.ts)) for row in due)
        return Counter(one for one in compared if one[2] > one[3])

    return {"out": truth}


def _limit(rules: Sequence[tuple[int, int]], time_us: int) -> int:
    known = bisect_right(rules, time_us // SECOND_US - 1, key=itemgetter(0))
    return rules[known - 1][1] if known else 0


# -- vectorised: whole batches, whose bounds must not be seen


class Numbered(KeyedBatchFunction):
    """Numbers the rows of each name, and the windows with the time since the one before, if that was not long."""

    rows: ValueState[int] = ValueState(default=0)
    windows: ValueState[int] = ValueState(default=0)
    last: ValueState[int] = ValueState(ttl=MEMORY)

    def process_batch(self, batch: pa.RecordBatch, ctx: KeyedBatchContext) -> pa.RecordBatch:
        """Number rows, and set a timer for the end of the window of each."""
        numbers, times_us = ctx.key_numbers, ctx.times_us
        assert times_us is not None, "every row has a time"
        counts = np.bincount(numbers, minlength=len(ctx.keys))
        places = np.empty(len(numbers), np.int64)
        order = np.argsort(numbers, kind="stable")
        places[order] = np.arange(len(numbers)) - np.repeat(np.cumsum(counts) - counts, counts)
        before = self.rows.column.to_numpy()
        self.rows.column = before + counts
        ctx.timers.register_event_time(times_us - times_us % WINDOW_US + WINDOW_US - 1, numbers)
        return _numbered(batch.column("name"), times_us, before[numbers] + places + 1, batch.column("v"))

    def on_timers(self, timers: pa.RecordBatch, ctx: KeyedBatchContext) -> pa.RecordBatch:
        """Number windows."""
        times_us = ctx.times_us
        assert times_us is not None, "every timer has a time"
        self.windows.column = numbers = self.windows.column.to_numpy() + 1
        since = pc.subtract(pa.array(times_us), self.last.column)
        self.last.column = times_us
        return _numbered(timers.column("name"), times_us, -numbers, since)


_NUMBERED = pa.schema([("name", pa.string()), ("at", pa.int64()), ("number", pa.int64()), ("v", pa.int64())])


def _numbered(names: pa.Array, *columns: Any) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([names, *map(pa.array, columns)], schema=_NUMBERED)


def _build_vectorised(env: StreamExecutionEnvironment, bench: Bench) -> None:
    named = bench.read(env, "a").key_by("name")
    bench.write(named.process(Numbered(), returns=_NUMBERED, uid="window", parallelism=bench.keyed_parallelism), "out")


def _truth_of_vectorised(inputs: Inputs) -> dict[str, Truth]:
    def truth(cut: Cut) -> Counter[Row]:
        found: Counter[Row] = Counter()
        for name, rows in _by_name(cut.rows(inputs["a"])).items():
            found.update((name, row.ts, number, row.v) for number, row in enumerate(rows, 1))
            ends = sorted({_end(row.ts) for row in rows if _end(row.ts) <= cut.watermark_us("window", name)})
            for number, end in enumerate(ends, 1):
                since = end - ends[number - 2] if number > 1 else MEMORY_US
                found[name, end, -number, since if since < MEMORY_US else None] += 1
        return found

    return {"out": truth}


FUNCTIONS: Mapping[str, Program] = {
    "reminders": Program(("a",), _build_reminders, _truth_of_reminders),
    "connected": Program(("a", "b"), _build_connected, _truth_of_connected),
    "rules": Program(("a", "b"), _build_rules, _truth_of_rules),
    "vectorised": Program(("a",), _build_vectorised, _truth_of_vectorised),
}
"""The programs of process functions, by name."""
