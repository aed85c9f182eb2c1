"""Group aggregation without windows: million rows per CPU second, state in the real backend, one checkpoint at the end.

Run: python benchmarks/aggregate.py [million rows]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from lakeward.dsl.aggregates import AggregateExpr, bind_aggregates, count, count_distinct, max, mean, min, sum
from lakeward.dsl.expressions import col
from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, updating
from lakeward.operators.group_aggregate import GroupAggregate
from lakeward.testing.harness import HarnessConfig, OperatorHarness

BATCH_ROWS = 32_768
SCHEMA = pa.schema({"k": pa.int64(), "v": pa.int64(), "user": pa.int64()})
LOW, HIGH = col("v") < 300, col("v") >= 300

PLAIN = {
    "n": count(),
    "low": count().where(LOW),
    "total": sum("v"),
    "most": max("v"),
    "least": min("v"),
    "usual": mean("v"),
}
DISTINCT = {
    "n": count(),
    "users": count_distinct("user"),
    "low": count_distinct("user").where(LOW),
    "high": count_distinct("user").where(HIGH),
}
RETRACTED = {"n": count(), "total": sum("v")}
FALLING_BACK = {"n": count(), "most": max("v")}

Batches = list[pa.RecordBatch]
Case = tuple[str, dict[str, AggregateExpr], Callable[[int], Batches]]


def inserts(rows: int, keys: int, users: int) -> Batches:
    """Rows of random keys and values; each user is seen for a while, as in a stream of events."""
    rng = np.random.default_rng(7)
    batches = []
    for start in range(0, rows, BATCH_ROWS):
        recent = start * users // rows + rng.integers(0, 1000, BATCH_ROWS)
        columns = [rng.integers(0, keys, BATCH_ROWS), rng.integers(0, 1_000, BATCH_ROWS), recent]
        batches.append(pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=SCHEMA))
    return batches


def updates(rows: int, keys: int) -> Batches:
    """Half of the rows take back the new rows of the batch before."""
    batches = []
    before: pa.RecordBatch | None = None
    for batch in inserts(rows, keys, 1000):
        new = batch.slice(0, batch.num_rows // 2)
        parts = [new] if before is None else [new, before]
        kinds = np.repeat(np.array([INSERT, DELETE], np.int8), new.num_rows)[: sum_rows(parts)]
        columns = [*pa.concat_batches(parts).columns, pa.array(kinds)]
        batches.append(pa.RecordBatch.from_arrays(columns, schema=updating(SCHEMA)))
        before = new
    return batches


def sum_rows(batches: Batches) -> int:
    """Rows of all batches."""
    return pa.Table.from_batches(batches).num_rows


def run(
    aggregates: dict[str, AggregateExpr], batches: Batches, emit_interval_us: int | None = None
) -> tuple[float, int]:
    """Million rows per CPU second, and rows sent."""
    schema = batches[0].schema
    plain = schema.remove(len(schema) - 1) if ROW_KIND in schema.names else schema
    needs = bind_aggregates(aggregates, plain, ("k",))
    bound = [expr.bind(plain) for expr in needs.columns.values()]
    names = ["k", *needs.columns]
    inputs = [
        pa.RecordBatch.from_arrays(
            [batch["k"], *(expr.evaluate(batch) for expr in bound), *batch.columns[len(plain) :]],
            names=[*names, *schema.names[len(plain) :]],
        )
        for batch in batches
    ]
    factory = GroupAggregate(inputs[0].schema, ("k",), needs.aggregates, emit_interval_us=emit_interval_us)
    rows = sent = 0
    with OperatorHarness(factory, inputs[0].schema, HarnessConfig(store="rocksdb", memory_bytes=2 << 30)) as harness:
        started = time.process_time()
        for batch in inputs:
            harness.send(batch)
            harness.tick(10)
            table = harness.take_table()
            rows += batch.num_rows
            sent += table.num_rows if table is not None else 0
        harness.snapshot()
        return rows / (time.process_time() - started) / 1e6, sent


CASES: list[Case] = [
    ("1 key, 6 aggregates", PLAIN, lambda rows: inserts(rows, 1, 1000)),
    ("1k keys, 6 aggregates", PLAIN, lambda rows: inserts(rows, 1_000, 1000)),
    ("100k keys, 6 aggregates", PLAIN, lambda rows: inserts(rows, 100_000, 1000)),
    ("1M keys, 6 aggregates", PLAIN, lambda rows: inserts(rows, 1_000_000, 1000)),
    ("1 key, 3 distinct counts of 100k values", DISTINCT, lambda rows: inserts(rows, 1, 100_000)),
    ("1k keys, 3 distinct counts, mostly new values", DISTINCT, lambda rows: inserts(rows, 1_000, 100_000)),
    ("1k keys, half taken back, count and sum", RETRACTED, lambda rows: updates(rows, 1_000)),
    ("1k keys, half taken back, max", FALLING_BACK, lambda rows: updates(rows, 1_000)),
]


def main() -> None:
    """Print one line a case."""
    rows = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 2_000_000
    print(f"{rows / 1e6:g} M rows in batches of {BATCH_ROWS}, state and one checkpoint in RocksDB")
    print(f"{'case':<48}{'M rows/CPU s':>14}{'rows sent':>12}")
    for name, aggregates, make in CASES:
        rate, sent = run(aggregates, make(rows))
        print(f"{name:<48}{rate:>14.2f}{sent:>12}", flush=True)
    rate, sent = run(PLAIN, inserts(rows, 1_000, 1000), emit_interval_us=1_000_000)
    print(f"{'1k keys, 6 aggregates, sent every second':<48}{rate:>14.2f}{sent:>12}")


if __name__ == "__main__":
    main()
