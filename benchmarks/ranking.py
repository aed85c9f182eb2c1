"""Ranking operators: million rows per CPU second, state in the real backend, without checkpoints.

Run: python benchmarks/ranking.py [million rows]

Rows are bids as Nexmark has them: seven columns, three of them text, some 200 bytes. "keys" are drawn evenly, "hot"
sends half of the rows to one key in a hundred.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.dsl.aggregates import bind_aggregates, count, max, mean, sum
from lakeward.engine.api.operator import OperatorFactory
from lakeward.operators.deduplicate import Deduplicate
from lakeward.operators.over.memory import OverConfig
from lakeward.operators.over.operator import Over
from lakeward.operators.ranking.order import SortColumn
from lakeward.operators.ranking.top_n import TopNConfig
from lakeward.operators.top_n import TopN
from lakeward.testing.harness import HarnessConfig, OperatorHarness

BATCH_ROWS = 32_768
STEP_US = 100
SCHEMA = pa.schema(
    {
        "k": pa.int64(),
        "price": pa.int64(),
        "n": pa.int64(),
        "at": pa.timestamp("us", "UTC"),
        "channel": pa.string(),
        "url": pa.string(),
        "extra": pa.string(),
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Args:
        name: For the table.
        factory: Makes the operator.
        keys: Number of different keys.
        hot: Whether half of the rows go to one key in a hundred.
    """

    name: str
    factory: OperatorFactory
    keys: int
    hot: bool


def batches(rows: int, case: Case) -> Iterator[pa.RecordBatch]:
    """Rows in the order of time."""
    rng = np.random.default_rng(7)
    urls = pa.array([f"https://www.nexmark.com/{i:06d}/item.htm?query=1&channel_id={i}" for i in range(1_000)])
    extra = pa.array(["x" * int(n) for n in rng.integers(40, 120, 1_000)])
    for start in range(0, rows, BATCH_ROWS):
        keys = rng.integers(0, case.keys, BATCH_ROWS)
        if case.hot:
            keys = np.where(rng.random(BATCH_ROWS) < 0.5, keys // 100, keys)
        picked = pa.array(rng.integers(0, 1_000, BATCH_ROWS))
        columns = [
            pa.array(keys),
            pa.array(rng.integers(0, 10**8, BATCH_ROWS)),
            pa.array(np.arange(start, start + BATCH_ROWS)),
            pa.array(np.arange(start, start + BATCH_ROWS) * STEP_US).view(SCHEMA.field("at").type),
            pa.array(["Google"] * BATCH_ROWS),
            urls.take(picked),
            extra.take(picked),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def run(case: Case, rows: int) -> tuple[float, float]:
    """Million rows per CPU second, and rows sent per row."""
    inputs = list(batches(rows, case))
    sent = 0
    with OperatorHarness(case.factory, SCHEMA, HarnessConfig(store="rocksdb", memory_bytes=4 << 30)) as harness:
        started = time.process_time()
        for batch in inputs:
            harness.send(batch)
            harness.watermark(int(batch.column("at").cast(pa.int64())[-1].as_py()) - 1_000_000)
            table = harness.take_table()
            sent += table.num_rows if table is not None else 0
        spent = time.process_time() - started
    given = len(inputs) * BATCH_ROWS
    return given / spent / 1e6, sent / given


def over(rows: int | None, range_us: int | None) -> Over:
    """Four aggregates over slices."""
    aggregates = {"rows": count(), "total": sum("price"), "usual": mean("price"), "most": max("price")}
    bound = bind_aggregates(aggregates, SCHEMA, ()).aggregates
    return Over(OverConfig(SCHEMA, ("k",), "at", 0, rows, range_us, bound, tuple(SCHEMA.names)))


def cases() -> Iterator[Case]:
    """What is measured, by number of keys and skew."""
    by_price = (SortColumn("price", descending=True),)
    operators: list[tuple[str, OperatorFactory]] = [
        ("first by arrival", Deduplicate(SCHEMA, ("k",), "first")),
        ("last by time", Deduplicate(SCHEMA, ("k",), "last", "at")),
        ("last, no -U", Deduplicate(SCHEMA, ("k",), "last", "at", update_before=False)),
        ("top 1", TopN(TopNConfig(SCHEMA, ("k",), 1, by_price))),
        ("top 10", TopN(TopNConfig(SCHEMA, ("k",), 10, by_price))),
        ("top 10 with ranks", TopN(TopNConfig(SCHEMA, ("k",), 10, by_price, rank_column="rank"))),
        ("over 11 rows", over(11, None)),
        ("over 1 s", over(None, 1_000_000)),
        ("over all rows", over(None, None)),
    ]
    for name, factory in operators:
        for keys, hot in ((1_000, False), (100_000, False), (100_000, True)):
            yield Case(name, factory, keys, hot)


def main() -> None:
    """Print one line a case."""
    rows = int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1_000_000
    print(f"{rows / 1e6:g} M rows, batches of {BATCH_ROWS}")
    print(f"{'operator':<20}{'keys':>9}{'':>6}{'M rows/CPU s':>14}{'sent per row':>14}")
    for case in cases():
        rate, sent = run(case, rows)
        print(f"{case.name:<20}{case.keys:>9}{' hot' if case.hot else '':>6}{rate:>14.2f}{sent:>14.2f}", flush=True)


if __name__ == "__main__":
    main()
