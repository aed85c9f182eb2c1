"""Process functions: rows per CPU second with a value and a timer a key, row by row and vectorised, and timers alone.

    python benchmarks/process.py [--rows 4000000] [--keys 100000] [--rounds 3]

The operator runs alone, over rows in memory, its state in RocksDB; CPU seconds are those of the whole process while
rows are handled, state is written and timers fire.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime

import lakeward as lw  # isort: skip  # before pyarrow: it says how Arrow keeps memory
import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec, TableSpec
from lakeward.engine.state.backend import StateBackend
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.operators.process.calls import Callee
from lakeward.operators.process.operator import Process, ProcessInput
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"key": pa.int64(), "amount": pa.int64(), "at": pa.timestamp("us", tz="UTC")})
RESULT = pa.schema({"key": pa.int64(), "total": pa.int64()})
BATCH_ROWS = 32_768
MINUTE_US = 60_000_000


@dataclass(slots=True)
class Order:
    """A row."""

    key: int
    amount: int
    at: datetime


class Totals(lw.KeyedProcessFunction):
    """The sum of each key, sent a minute of event time after its first row."""

    total: lw.ValueState[int] = lw.ValueState(default=0)

    def process(self, row: Order, ctx: lw.KeyedContext) -> None:
        """Add, and set the timer with the first row."""
        total = self.total.value
        if not total:
            ctx.timers.register_event_time((ctx.timestamp_us or 0) + MINUTE_US)
        self.total.value = total + row.amount

    def on_timer(self, timestamp: datetime, ctx: lw.KeyedContext) -> Iterator[tuple[int, int]]:
        """Send the sum."""
        yield ctx.current_key, self.total.value
        self.total.clear()


class BatchTotals(lw.KeyedBatchFunction):
    """The same as `Totals`, vectorised."""

    total: lw.ValueState[int] = lw.ValueState(default=0)

    def process_batch(self, batch: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> None:
        """Add, and set timers for keys that are new."""
        totals = self.total.column.to_numpy().copy()
        new = np.flatnonzero(totals == 0)
        np.add.at(totals, ctx.key_numbers, batch.column("amount").to_numpy())
        self.total.column = totals
        assert ctx.times_us is not None, "the rows have times"
        first = np.full(len(totals), np.iinfo(np.int64).max)
        np.minimum.at(first, ctx.key_numbers, ctx.times_us)
        ctx.timers.register_event_time(first[new] + MINUTE_US, new)

    def on_timers(self, timers: pa.RecordBatch, ctx: lw.KeyedBatchContext) -> pa.RecordBatch:
        """Send the sums."""
        result = pa.RecordBatch.from_arrays([timers.column("key"), self.total.column], schema=RESULT)
        self.total.clear()
        return result


class Alarms(lw.KeyedProcessFunction):
    """One timer a row, which does nothing."""

    def process(self, row: Order, ctx: lw.KeyedContext) -> None:
        """Set it."""
        ctx.timers.register_event_time((ctx.timestamp_us or 0) + MINUTE_US)

    def on_timer(self, timestamp: datetime, ctx: lw.KeyedContext) -> None:
        """Nothing."""


def batches(rows: int, keys: int, seed: int = 1) -> Iterator[pa.RecordBatch]:
    """Rows of keys drawn evenly, ten thousand a second of event time."""
    rng = np.random.default_rng(seed)
    for start in range(0, rows, BATCH_ROWS):
        count = min(BATCH_ROWS, rows - start)
        at = (np.arange(start, start + count) * 100).astype("M8[us]")
        columns = [pa.array(rng.integers(0, keys, count)), pa.array(rng.integers(1, 100, count)), pa.array(at)]
        yield pa.RecordBatch.from_arrays([*columns[:2], columns[2].cast(SCHEMA.field("at").type)], schema=SCHEMA)


def harness(function: lw.KeyedProcessFunction | lw.KeyedBatchFunction) -> OperatorHarness:
    """The operator alone."""
    methods = ("process_batch",) if isinstance(function, lw.KeyedBatchFunction) else ("process",)
    factory = Process(Callee(function, methods), (ProcessInput(SCHEMA, ("key",), "at"),), RESULT, RESULT)
    return OperatorHarness(factory, SCHEMA, HarnessConfig(store="rocksdb", memory_bytes=1 << 30))


def cpu_s(action: Callable[[], object]) -> float:
    """CPU seconds of an action."""
    start = time.process_time()
    action()
    return time.process_time() - start


def rate_of_rows(function: lw.KeyedProcessFunction | lw.KeyedBatchFunction, rows: int, keys: int) -> float:
    """Rows a CPU second through a function."""
    prepared = list(batches(rows, keys))
    with harness(function) as one:

        def run() -> None:
            for number, batch in enumerate(prepared):
                one.send(batch)
                one.watermark(number * BATCH_ROWS * 100)
                one.take_table()

        return rows / cpu_s(run)


def rate_of_timers(timers: int) -> float:
    """Timers a CPU second that fire."""
    with harness(Alarms()) as one:
        for batch in batches(timers, 1 << 40):
            one.send(batch)
        return timers / cpu_s(lambda: one.watermark(1 << 60))


def stall_ms(keys: int) -> tuple[float, float]:
    """How long a checkpoint of as many changed values holds rows up, and how long it takes as a whole."""
    names = np.arange(keys)
    with tempfile.TemporaryDirectory() as directory:
        backend = StateBackend(RocksDbStoreFactory(), f"{directory}/store", range(128), 128, 1 << 30)
        table = backend.table(TableSpec("total", (("#key", pa.int64()),), (ColumnSpec("value", pa.int64()),)))
        worst, whole = 0.0, 0.0
        for number in range(3):
            for start in range(0, keys, BATCH_ROWS):
                part = pa.array(names[start : start + BATCH_ROWS])
                slots = table.pane().slots(table.keys([part], distinct=True))
                table.pane().column("value")[slots] = number
            start_s = time.perf_counter()
            frozen = backend.freeze(f"{directory}/snapshot-{number}")
            worst = max(worst, time.perf_counter() - start_s)
            frozen.finish()
            whole = max(whole, time.perf_counter() - start_s)
        backend.close()
    return worst * 1e3, whole * 1e3


def main() -> None:
    """Print a table."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", type=int, default=2_000_000)
    made.add_argument("--keys", type=int, default=100_000)
    made.add_argument("--rounds", type=int, default=3)
    given = made.parse_args()
    cases: dict[str, Callable[[], float]] = {
        f"rows, a value and a timer a key, {given.keys:,} keys": lambda: rate_of_rows(Totals(), given.rows, given.keys),
        f"the same, vectorised, {given.keys:,} keys": lambda: rate_of_rows(BatchTotals(), 4 * given.rows, given.keys),
        "timers that fire": lambda: rate_of_timers(1_000_000),
    }
    for name, run in cases.items():
        rates = [run() for _ in range(given.rounds)]
        shown = ", ".join(f"{rate / 1e3:,.0f}" for rate in rates)
        print(f"{name}: {statistics.median(rates) / 1e3:,.0f} k per CPU second ({shown})", flush=True)
    stalls = [stall_ms(1_000_000) for _ in range(given.rounds)]
    shown = ", ".join(f"{stall:.0f} of {whole:.0f}" for stall, whole in stalls)
    print(f"a checkpoint with 1 M changed values holds rows up for {shown} ms", flush=True)


if __name__ == "__main__":
    main()
