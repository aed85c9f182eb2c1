"""Keyed state: rows per CPU second of look-ups, updates, flushes and restores, and the worst batch while growing.

Run `python benchmarks/state.py` (add `--quick` for a short run). Rates are of CPU seconds of the whole process,
including RocksDB's own threads; batches have 32,768 rows.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import ColumnSpec, RowsSpec, TableSpec
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.engine.state.table import SlotTable

BATCH_ROWS = 32_768
COLUMNS = (
    ColumnSpec("count", pa.int64()),
    ColumnSpec("sum", pa.int64()),
    ColumnSpec("max", pa.int64(), -(2**63)),
)
KINDS: dict[str, tuple[pa.DataType, Callable[[Int64Array], pa.Array]]] = {
    "int64": (pa.int64(), lambda numbers: pa.array(numbers * 7919)),
    "string": (pa.string(), lambda numbers: pa.array([f"user-{n:011d}" for n in numbers.tolist()])),
}


class Bench:
    """A table of one key kind in a directory of its own."""

    def __init__(self, kind: str, memory_bytes: int = 4 << 30) -> None:
        self.kind, self.make_keys = KINDS[kind]
        self.directory = tempfile.mkdtemp(prefix="lakeward-bench-")
        self.memory_bytes = memory_bytes
        self.spec = TableSpec("t", (("key", self.kind),), COLUMNS)
        self.backend = self.new_backend("a")
        self.table = self.backend.table(self.spec)

    def new_backend(self, name: str) -> StateBackend:
        """A backend in a directory of its own."""
        factory = RocksDbStoreFactory()
        return StateBackend(factory, f"{self.directory}/{name}", range(128), 128, self.memory_bytes)

    def close(self) -> None:
        """Delete everything."""
        self.backend.close()
        shutil.rmtree(self.directory)


def update(table: SlotTable, keys: pa.Array, values: Int64Array) -> None:
    """What an aggregation does with a batch."""
    pane = table.pane()
    slots = pane.slots(table.keys([keys]))
    np.add.at(pane.column("count"), slots, 1)
    np.add.at(pane.column("sum"), slots, values)
    np.maximum.at(pane.column("max"), slots, values)


def rate_m_rows(run: Callable[[int], None], batches: int, seconds: float) -> float:
    """Million rows per CPU second of `run(batch)`, over at least `seconds`."""
    start, rows = time.process_time(), 0
    while (spent := time.process_time() - start) < seconds:
        for number in range(batches):
            run(number)
        rows += batches * BATCH_ROWS
    return rows / spent / 1e6


def steady(kind: str, distinct: int, seconds: float) -> None:
    """Look-ups and updates of keys that are there, then a flush of all of them, then a restore."""
    bench, random = Bench(kind), np.random.default_rng(1)
    numbers = np.concatenate(
        [np.arange(distinct), random.integers(0, distinct, -distinct % BATCH_ROWS + 8 * BATCH_ROWS)]
    )
    parts = random.permutation(numbers).reshape(-1, BATCH_ROWS)
    batches = [bench.make_keys(part) for part in parts]
    for batch, values in zip(batches, parts, strict=True):
        update(bench.table, batch, values)
    pane = bench.table.pane()
    keys = [bench.table.keys([batch]) for batch in batches]
    look_up = rate_m_rows(lambda n: void(pane.find(keys[n])), len(batches), seconds)
    encode = rate_m_rows(lambda n: void(bench.table.keys([batches[n]])), len(batches), seconds)
    whole = rate_m_rows(lambda n: update(bench.table, batches[n], parts[n]), len(batches), seconds)
    flush, restore = flush_and_restore(bench, distinct)
    print(f"{kind:8}{distinct:>10,}{encode:>10.1f}{look_up:>10.1f}{whole:>10.1f}{flush:>10.2f}{restore:>10.2f}")
    bench.close()


def void(_: object) -> None:
    """Ignore a result."""


def flush_and_restore(bench: Bench, distinct: int) -> tuple[float, float]:
    """Million rows per CPU second of writing all rows to RocksDB, and of loading them again."""
    start = time.process_time()
    files = bench.backend.snapshot(f"{bench.directory}/snapshot")
    flush = distinct / (time.process_time() - start) / 1e6
    other = bench.new_backend("b")
    start = time.process_time()
    other.restore([RestoreSource(files.tables, f"{bench.directory}/snapshot", 0, 128)])
    table = other.table(bench.spec)
    everything = bench.make_keys(np.arange(distinct))
    for offset in range(0, distinct, max(BATCH_ROWS, distinct // 4)):
        table.pane().slots(table.keys([everything.slice(offset, max(BATCH_ROWS, distinct // 4))]))
    restore = distinct / (time.process_time() - start) / 1e6
    other.close()
    return flush, restore


def growing(kind: str, distinct: int) -> None:
    """Insert new keys only; the batch that takes longest shows whether growing stalls."""
    bench = Bench(kind)
    parts = np.arange(distinct // BATCH_ROWS * BATCH_ROWS).reshape(-1, BATCH_ROWS)
    spent = []
    for part in parts:
        keys = bench.make_keys(part)
        start = time.process_time()
        update(bench.table, keys, part)
        spent.append(1e3 * (time.process_time() - start))
    rate = parts.size / sum(spent) / 1e3
    median, worst = np.median(spent), max(spent)
    print(f"{kind:8}{parts.size:>10,}{rate:>10.2f} M rows/s{median:>10.1f} ms median{worst:>10.1f} ms worst")
    bench.close()


def row_table(rows: int, rows_per_key: int, seconds: float) -> None:
    """Rows appended, found, read, removed, snapshotted and restored, by how many rows a key has."""
    directory, random = tempfile.mkdtemp(prefix="lakeward-bench-"), np.random.default_rng(2)
    schema = pa.schema({"key": pa.int64(), "price": pa.float64(), "at": pa.timestamp("us")})
    spec = RowsSpec("r", schema, ("key",))
    keys = random.permutation(np.arange(rows) // rows_per_key * 7919)
    parts = [pa.array(part) for part in np.split(keys, range(BATCH_ROWS, rows, BATCH_ROWS))]
    batches = [pa.record_batch([p, p.cast(pa.float64()), p.cast(schema.field(2).type)], schema=schema) for p in parts]
    backend = StateBackend(RocksDbStoreFactory(), f"{directory}/a", range(128), 128, 4 << 30)
    table = backend.rows(spec)
    rates = [cpu_rate(rows, lambda: [table.append(batch) for batch in batches])]
    wanted = [part.slice(0, max(1, BATCH_ROWS // rows_per_key)) for part in parts]
    matches = [table.find([part]) for part in wanted]
    rates.append(pair_rate(lambda n: len(table.find([wanted[n]]).ids), len(wanted), seconds))
    rates.append(pair_rate(lambda n: table.take(matches[n].ids).num_rows, len(wanted), seconds))
    rates.append(cpu_rate(rows, lambda: backend.snapshot(f"{directory}/snapshot")))
    files = backend.snapshot(f"{directory}/again")
    other = StateBackend(RocksDbStoreFactory(), f"{directory}/b", range(128), 128, 4 << 30)
    other.restore([RestoreSource(files.tables, f"{directory}/again", 0, 128)])
    rates.append(cpu_rate(rows, lambda: other.rows(spec)))
    ids = random.permutation(np.concatenate([ids for ids, _ in table.scan()]))
    rates.append(cpu_rate(rows, lambda: [table.remove(part) for part in np.array_split(ids, len(parts))]))
    print(f"{rows_per_key:>8,}{rows:>12,}" + "".join(f"{rate:>10.2f}" for rate in rates))
    backend.close()
    other.close()
    shutil.rmtree(directory)


def cpu_rate(rows: int, run: Callable[[], object]) -> float:
    """Million rows per CPU second of one call."""
    start = time.process_time()
    run()
    return rows / (time.process_time() - start) / 1e6


def pair_rate(run: Callable[[int], int], batches: int, seconds: float) -> float:
    """Million results per CPU second of `run(batch)`, which says how many it had."""
    start, results, number = time.process_time(), 0, 0
    while (spent := time.process_time() - start) < seconds:
        results += run(number % batches)
        number += 1
    return results / spent / 1e6


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer keys, shorter runs")
    quick = parser.parse_args().quick
    print("million rows per CPU second")
    print(f"{'key':8}{'distinct':>10}{'encode':>10}{'look up':>10}{'update':>10}{'flush':>10}{'restore':>10}")
    for kind in KINDS:
        for distinct in (1_000, 100_000) if quick else (1_000, 100_000, 1_000_000):
            steady(kind, distinct, 0.2 if quick else 1.0)
    print("growing with new keys only, CPU time of a batch")
    for kind in KINDS:
        growing(kind, 200_000 if quick else 2_000_000)
    print("rows by key, million rows per CPU second; what is found and read counts by matches")
    steps = ("append", "find", "take", "snapshot", "restore", "remove")
    print(f"{'a key':>8}{'rows':>12}" + "".join(f"{step:>10}" for step in steps))
    for rows_per_key in (1, 10, 10_000):
        row_table(300_000 if quick else 3_000_000, rows_per_key, 0.2 if quick else 1.0)


if __name__ == "__main__":
    main()
