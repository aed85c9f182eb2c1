"""Joins: million rows per CPU second, state in RocksDB, with a checkpoint every few batches, next to DuckDB.

The streams are those of Nexmark: 92 % bids, 6 % auctions, 2 % persons, in the order of time.

Run: python benchmarks/joins.py [million events]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.operators.joins.broadcast import BroadcastJoin
from lakeward.operators.joins.factory import JoinInput
from lakeward.operators.joins.interval import Bounds, IntervalJoin
from lakeward.operators.joins.layout import JoinLayout
from lakeward.operators.joins.regular import RegularJoin
from lakeward.operators.joins.temporal import TemporalJoin
from lakeward.operators.joins.times import TimeColumn
from lakeward.operators.joins.window import WindowJoin
from lakeward.operators.windows.assigners import WindowAssigner
from lakeward.operators.windows.session_operator import SessionAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SECOND_US = 1_000_000
EVENTS_PER_SECOND = 20_000
BATCH_ROWS = 32_768
CHECKPOINT_BATCHES = 32
TIME = pa.timestamp("us")


def random_text(rng: np.random.Generator, count: int, length: int) -> pa.Array:
    """Texts of one length."""
    letters = rng.integers(97, 123, count * length, dtype=np.uint8).tobytes()
    offsets = np.arange(0, count * length + 1, length, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), count, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])


def bids(first: int, count: int, wide: bool) -> pa.RecordBatch:
    """Bids for auctions that are open, most of them new."""
    rng = np.random.default_rng(first)
    numbers = np.arange(first, first + count)
    auctions = np.maximum(0, numbers * 6 // 92 - rng.geometric(0.01, count))
    at = pa.array(numbers * SECOND_US // EVENTS_PER_SECOND).view(TIME)
    columns = {"auction": pa.array(auctions), "price": pa.array(rng.integers(100, 1_000_000, count)), "at": at}
    if wide:
        columns |= {"url": random_text(rng, count, 60), "extra": random_text(rng, count, 80)}
    return pa.record_batch(columns)


def auctions(first: int, count: int, wide: bool) -> pa.RecordBatch:
    """Auctions that are open for ten seconds."""
    rng = np.random.default_rng(first + 1)
    numbers = np.arange(first, first + count)
    opened = numbers * 92 // 6 * SECOND_US // EVENTS_PER_SECOND
    columns = {
        "id": pa.array(numbers),
        "category": pa.array(rng.integers(10, 15, count)),
        "opens": pa.array(opened).view(TIME),
        "expires": pa.array(opened + 10 * SECOND_US).view(TIME),
    }
    if wide:
        columns |= {"item": random_text(rng, count, 20), "description": random_text(rng, count, 100)}
    return pa.record_batch(columns)


@dataclass(frozen=True)
class Case:
    """A join to measure.

    Args:
        name: What it is like.
        factory: Makes it of the two schemas.
        wide: Whether rows have long texts.
        right: The right rows, made of their first number and count; None: auctions.
        sql: The batch query over tables l and r.
    """

    name: str
    factory: Callable[[pa.Schema, pa.Schema], OperatorFactory]
    wide: bool
    sql: str
    right: Callable[[int, int, bool], pa.RecordBatch] = auctions
    bounded: bool = False


def inputs(left: pa.Schema, right: pa.Schema, *, unique: bool = False) -> tuple[JoinInput, JoinInput]:
    """Bids and auctions as sides."""
    ours = JoinInput(left, ("auction",), time=TimeColumn("at"))
    return ours, JoinInput(right, ("id",), unique=unique, time=TimeColumn("opens"))


def layout(left: pa.Schema, right: pa.Schema) -> JoinLayout:
    """All columns of both."""
    return JoinLayout.of(left, right, [("auction", "id")], suffix="_right")


def regular(unique: bool) -> Callable[[pa.Schema, pa.Schema], OperatorFactory]:
    """The regular inner join."""
    return lambda left, right: RegularJoin(inputs(left, right, unique=unique), layout(left, right))


def interval(left: pa.Schema, right: pa.Schema) -> OperatorFactory:
    """Bids while their auction is open."""
    from lakeward.dsl.expressions import col

    within = (col("opens").bind(right), col("expires").bind(right))
    return IntervalJoin(inputs(left, right, unique=True), layout(left, right), bounds=Bounds(within=within))


def window(left: pa.Schema, right: pa.Schema) -> OperatorFactory:
    """Bids with auctions of the same second."""
    windows = WindowAssigner(SECOND_US, SECOND_US)
    return WindowJoin(inputs(left, right), layout(left, right), window=windows)


def session(left: pa.Schema, right: pa.Schema) -> OperatorFactory:
    """Bids with their auction in one burst of both, without a second of silence."""
    return WindowJoin(inputs(left, right), layout(left, right), window=SessionAssigner(SECOND_US))


def temporal(left: pa.Schema, right: pa.Schema) -> OperatorFactory:
    """Bids with their auction as of the bid."""
    return TemporalJoin(inputs(left, right), layout(left, right))


def lookup(left: pa.Schema, right: pa.Schema) -> OperatorFactory:
    """Bids with a table."""
    return BroadcastJoin(inputs(left, right), layout(left, right))


def side_input(first: int, count: int, wide: bool) -> pa.RecordBatch:
    """A table of all auctions: what a bounded side is like."""
    return auctions(first, count, wide=False)


ON = "l.auction = r.id"
ALL = f"select l.*, r.* from l join r on {ON}"
BETWEEN = f'{ALL} and l."at" between r.opens and r.expires'
BURSTS = """with e as (select auction as k, epoch_us("at") as t from l union all select id, epoch_us(opens) from r),
n as (select *, coalesce(t - lag(t) over (partition by k order by t) > 1000000, true)::int as first from e),
s as (select k, t, sum(first) over (partition by k order by t) as s from n),
w as (select k, min(t) as a, max(t) as b from s group by k, s)"""
CASES = (
    Case("regular, narrow", regular(unique=False), False, ALL),
    Case("regular m:1, narrow", regular(unique=True), False, ALL),
    Case("regular, wide", regular(unique=False), True, ALL),
    Case("regular m:1, wide", regular(unique=True), True, ALL),
    Case("interval within, narrow", interval, False, BETWEEN),
    Case("interval within, wide", interval, True, BETWEEN),
    Case("window 1s, narrow", window, False, f'{ALL} and epoch_us(l."at") // 1000000 = epoch_us(r.opens) // 1000000'),
    Case(
        "session 1s, narrow",
        session,
        False,
        f'{BURSTS} {ALL} join w on w.k = r.id and least(epoch_us(l."at"), epoch_us(opens)) >= a '
        'and greatest(epoch_us(l."at"), epoch_us(opens)) <= b',
    ),
    Case("temporal, narrow", temporal, False, f'{ALL} and l."at" >= r.opens'),  # each auction has one version
    Case("lookup, narrow", lookup, False, ALL, side_input, bounded=True),
)


def feed(case: Case, events: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of both sides, interleaved as they come; a bounded side first."""
    rows = events * 92 // 98
    right_rows = events - rows
    if case.bounded:
        yield 1, case.right(0, right_rows, case.wide)
    batches = -(-rows // BATCH_ROWS)
    for number in range(batches):
        if not case.bounded:
            start, end = (-(-min(rows, n * BATCH_ROWS) * 6 // 92) for n in (number, number + 1))
            yield 1, case.right(start, end - start, case.wide)
        yield 0, bids(number * BATCH_ROWS, min(BATCH_ROWS, rows - number * BATCH_ROWS), case.wide)


def run(case: Case, events: int) -> tuple[float, int]:
    """CPU seconds, and rows sent."""
    batches = list(feed(case, events))
    schemas = [next(batch.schema for side, batch in batches if side == index) for index in (0, 1)]
    factory = case.factory(schemas[0], schemas[1])
    sent = 0
    with OperatorHarness(factory, schemas, HarnessConfig(store="rocksdb", memory_bytes=4 << 30)) as harness:
        start = time.process_time()
        if case.bounded:
            harness.send(batches[0][1], 1)
            harness.end_input(1)
        for number, (index, batch) in enumerate(batches[1:] if case.bounded else batches):
            harness.send(batch, index)
            if index == 0 and not case.bounded:
                harness.watermark(batch.column("at")[-1].value - 1)
            sent += drain(harness)
            if number % CHECKPOINT_BATCHES == CHECKPOINT_BATCHES - 1:
                harness.snapshot()
        harness.watermark(WATERMARK_MAX_US)
        sent += drain(harness)
        return time.process_time() - start, sent


def drain(harness: OperatorHarness) -> int:
    """Rows sent since the last call."""
    table = harness.take_table()
    return 0 if table is None else table.num_rows


def batch_answer(case: Case, events: int) -> tuple[float, int]:
    """CPU seconds of DuckDB with one thread, and its rows."""
    sides: tuple[list[pa.RecordBatch], list[pa.RecordBatch]] = ([], [])
    for index, batch in feed(case, events):
        sides[index].append(batch)
    with duckdb.connect(config={"threads": 1}) as con:
        con.register("l", pa.Table.from_batches(sides[0]))
        con.register("r", pa.Table.from_batches(sides[1]))
        start = time.process_time()
        rows = con.sql(case.sql).to_arrow_table().num_rows
        return time.process_time() - start, rows


def main() -> None:
    """Print a line a case."""
    events = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 2_000_000
    print(f"{events / 1e6:g} M events, batches of {BATCH_ROWS}, a checkpoint every {CHECKPOINT_BATCHES}, best of 3")
    print(f"{'join':<28}{'M events/CPU s':>15}{'rows sent':>12}{'DuckDB':>9}{'ratio':>8}")
    for case in CASES:
        spent, sent = min(run(case, events) for _ in range(3))
        limit, rows = batch_answer(case, events)
        assert sent == rows, f"{case.name}: {sent} rows, but the batch answer has {rows}"
        rate, other = events / spent / 1e6, events / limit / 1e6
        print(f"{case.name:<28}{rate:>15.2f}{sent:>12}{other:>9.2f}{rate / other:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
