"""Windowed aggregation: million rows per CPU second, state in the real backend, without checkpoints.

Run: python benchmarks/windows.py [million rows]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lakeward.dsl.aggregates import count, max, sum
from lakeward.dsl.windows import CountWindow, Cumulative, Session, Sliding, Tumbling, WindowSpec
from lakeward.engine.api.operator import OperatorFactory
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.windows.counts import CountAggregate, CountAssigner
from lakeward.operators.windows.operator import WindowAggregate
from lakeward.operators.windows.sessions import SessionAggregate, SessionAssigner
from lakeward.testing.harness import HarnessConfig, OperatorHarness

EVENTS_PER_SECOND = 200_000
DISORDER_US = 2_000_000
SECOND_US = 1_000_000


def batches(rows: int, batch_rows: int, keys: int, text: bool) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Batches with their watermark: 200 k events a second of event time, up to 2 s out of order."""
    rng = np.random.default_rng(7)
    names = pa.array([f"shop-{i:011d}" for i in range(keys)]) if text else None
    for start in range(0, rows, batch_rows):
        base = (np.arange(start, start + batch_rows) * SECOND_US) // EVENTS_PER_SECOND
        times = base - rng.integers(0, DISORDER_US, batch_rows)
        ids = pa.array(rng.integers(0, keys, batch_rows))
        columns = [ids if names is None else names.take(ids), pa.array(times).view(pa.timestamp("us", tz="UTC"))]
        columns.append(pa.array(rng.integers(0, 1_000, batch_rows)))
        yield pa.RecordBatch.from_arrays(columns, names=["k", "at", "v"]), int(base[-1]) - DISORDER_US


def run(window: WindowSpec, keys: int, batch_rows: int, text: bool, rows: int) -> tuple[float, int]:
    """Million rows per CPU second, and result rows."""
    inputs = list(batches(rows, batch_rows, keys, text))
    schema = inputs[0][0].schema
    aggregates = [count().bind(schema, "n"), sum("v").bind(schema, "total")]
    if not isinstance(window, Sliding):  # counts and sums: what a running merge of panes can do
        aggregates.append(max("v").bind(schema, "most"))
    factory = aggregation(schema, window, tuple(aggregates))
    emitted = 0
    with OperatorHarness(factory, schema, HarnessConfig(store="rocksdb", memory_bytes=2 << 30)) as harness:
        started = time.process_time()
        for batch, watermark_us in inputs:
            harness.send(batch)
            harness.watermark(watermark_us)
            table = harness.take_table()
            emitted += table.num_rows if table is not None else 0
        harness.operator.on_watermark(2**63 - 1, harness._out)
        spent = time.process_time() - started
        table = harness.take_table()
        emitted += table.num_rows if table is not None else 0
    return sum_rows(inputs) / spent / 1e6, emitted


def aggregation(schema: pa.Schema, window: WindowSpec, aggregates: tuple[BoundAggregate, ...]) -> OperatorFactory:
    """The operator that aggregates over windows of a kind."""
    layout = window.layout()
    if isinstance(layout, CountAssigner):
        return CountAggregate(schema, ("k",), "at", layout, aggregates)
    if isinstance(layout, SessionAssigner):
        return SessionAggregate(schema, ("k",), "at", layout, aggregates)
    return WindowAggregate(schema, ("k",), "at", layout, aggregates)


def sum_rows(inputs: list[tuple[pa.RecordBatch, int]]) -> int:
    """Rows of all batches."""
    rows = 0
    for batch, _ in inputs:
        rows += batch.num_rows
    return rows


def limit(keys: int, rows: int) -> float:
    """Million rows per CPU second of one pyarrow group_by over everything, by key and window: the batch answer."""
    pa.set_cpu_count(1)
    table = pa.Table.from_batches([batch for batch, _ in batches(rows, 32_768, keys, text=False)])
    started = time.process_time()
    window = pa.array(table["at"].cast(pa.int64()).to_numpy() // (10 * SECOND_US))
    table.append_column("w", window).group_by(["k", "w"]).aggregate([("v", "count"), ("v", "sum"), ("v", "max")])
    return rows / (time.process_time() - started) / 1e6


def main() -> None:
    """Print one line a case."""
    rows = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 4_000_000
    print(f"{rows / 1e6:g} M rows, {EVENTS_PER_SECOND} events/s of event time, 2 s disorder, watermark a batch")
    print(f"{'window':<16}{'keys':>10}{'type':>8}{'batch':>8}{'M rows/CPU s':>14}{'result rows':>13}{'of limit':>10}")
    tumbling, sliding = Tumbling("10s"), Sliding("10s", "2s")
    cases = [(tumbling, n, 32_768, False) for n in (1_000, 100_000, 1_000_000)]
    cases += [(tumbling, 100_000, 8_192, False), (tumbling, 1_000, 32_768, True), (tumbling, 100_000, 32_768, True)]
    others = (sliding, Cumulative("2s", size="10s"), Session("10s"), Session("1s"), CountWindow(100))
    cases += [(window, n, 32_768, False) for window in others for n in (1_000, 100_000)]
    limits = {n: limit(n, rows) for n in (1_000, 100_000, 1_000_000)}
    for window, keys, batch_rows, text in cases:
        rate, emitted = run(window, keys, batch_rows, text, rows)
        name, kind = window.layout().description, "string" if text else "int64"
        share = rate / limits[keys]
        print(f"{name:<16.16}{keys:>10}{kind:>8}{batch_rows:>8}{rate:>14.2f}{emitted:>13}{share:>9.0%}")


if __name__ == "__main__":
    main()
