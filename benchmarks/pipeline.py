"""Arrow batches in memory through the engine: windows with checkpoints, and filter with arithmetic.

    python benchmarks/pipeline.py [--rows 40000000] [--rounds 3]

Rows per CPU second of the whole process, checkpoints every 5 s to local disk. Each case is run at two sizes (a quarter,
and all), in rounds, with the median printed; the difference of the sizes is free of start-up and of making the data.
The limit is measured in the same rounds: pyarrow alone on the same batches, with no state, time or checkpoints.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from measure import HEADER, median, result_row, run_rounds

import lakeward as lw
from lakeward import col
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject

BATCH_ROWS = 32_768
KEY_STEP = 1_000_003
POOL_BATCHES = 64
ALONE_ROWS = 4_000_000
ROWS_A_SECOND = 200_000  # of event time
SCHEMA = pa.schema([("key", pa.int64()), ("value", pa.int64()), ("at", pa.timestamp("us"))])
PLAIN = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("c", pa.float64())])


class PoolSource(Source):
    """Batches made once and handed out again and again, so that making them costs (almost) nothing.

    Args:
        rows: How many rows to hand out.
        keys: Number of distinct keys; 0: the plain schema without event time.
    """

    def __init__(self, rows: int, keys: int) -> None:
        self.rows = rows
        self.keys = keys

    @property
    def schema(self) -> pa.Schema:
        """Keyed rows with event time, or plain ones."""
        return SCHEMA if self.keys else PLAIN

    @property
    def bounded(self) -> bool:
        """It ends."""
        return True

    @property
    def description(self) -> str:
        """What it is."""
        return "pool"

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """One."""
        return [Split(SplitId("pool"), {})]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """The reader."""
        return PoolReader(self)


class PoolReader(SourceReader):
    """Hands out the pool."""

    def __init__(self, source: PoolSource) -> None:
        rng = np.random.default_rng(1)
        self._source = source
        self._read = 0
        self._open = False
        size = (POOL_BATCHES, BATCH_ROWS)
        self._values = [pa.array(one) for one in rng.integers(0, 1000, size)]
        self._keys = [pa.array(one) for one in rng.integers(0, source.keys or 1000, size)]
        self._floats = [pa.array(one) for one in rng.random(size)]
        self._offsets = np.arange(BATCH_ROWS) * 1_000_000 // ROWS_A_SECOND

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Begin."""
        self._open = True
        self._read = int(position["rows"]) if position else 0  # type: ignore[arg-type]

    def _keys_of(self, pick: int) -> pa.Array:
        """The pool's keys; moved on with each round through the pool if that has fewer rows than there are keys."""
        if self._source.keys <= POOL_BATCHES * BATCH_ROWS:
            return self._keys[pick]
        moved = self._read // (POOL_BATCHES * BATCH_ROWS) * KEY_STEP
        return pa.array((self._keys[pick].to_numpy() + moved) % self._source.keys)

    def poll(self) -> SplitBatch | SplitFinished | None:
        """The next batch."""
        if not self._open:
            return None
        if self._read >= self._source.rows:
            self._open = False
            return SplitFinished(SplitId("pool"))
        pick = self._read // BATCH_ROWS % POOL_BATCHES
        if self._source.keys:
            at = self._offsets + self._read * 1_000_000 // ROWS_A_SECOND
            columns = [self._keys_of(pick), self._values[pick], pa.array(at).view(pa.timestamp("us"))]
        else:
            columns = [self._keys[pick], self._values[pick], self._floats[pick]]
        self._read += BATCH_ROWS
        return SplitBatch(
            SplitId("pool"), pa.RecordBatch.from_arrays(columns, schema=self._source.schema), {"rows": self._read}
        )


def kernels(options: dict[str, int]) -> None:
    """Print the rows per CPU second of pyarrow alone: a one-shot `group_by`, or the kernels one after the other."""
    reader = PoolReader(PoolSource(options["rows"], options["keys"]))
    reader.add_split(Split(SplitId("pool"), {}), None)
    batches = []
    while isinstance(event := reader.poll(), SplitBatch):
        batches.append(event.batch)
    started = time.process_time()
    if options["keys"]:
        at = pc.divide(pa.chunked_array([one["at"] for one in batches]).cast(pa.int64()), 10_000_000)
        table = pa.Table.from_batches(batches).set_column(2, "window", at)
        aggregates = [([], "count_all"), ("value", "sum"), ("value", "max")]
        table.group_by(["key", "window"], use_threads=False).aggregate(aggregates)
    else:
        for batch in batches:
            kept = batch.filter(pc.greater(batch["a"], 500))
            kept.append_column("d", pc.add(pc.multiply(kept["b"], 2), 1))
    print(sum(one.num_rows for one in batches) / (time.process_time() - started))


def child(options: dict[str, int]) -> None:
    """What is measured: the job, or pyarrow alone."""
    if options["alone"]:
        kernels(options)
        return
    with tempfile.TemporaryDirectory() as directory:
        env = lw.StreamExecutionEnvironment(checkpoint_interval="5s", checkpoint_dir=directory)
        if options["keys"]:
            watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "2s")
            stream = env.from_source(PoolSource(options["rows"], options["keys"]), watermark=watermark, uid="pool")
            stream = (
                stream.key_by("key")
                .window(lw.Tumbling("10s"))
                .aggregate(n=lw.count(), total=lw.sum("value"), top=lw.max("value"), uid="windows")
            )
        else:
            stream = env.from_source(PoolSource(options["rows"], 0), uid="pool")
            stream = stream.filter(col("a") > 500).with_columns(d=col("b") * 2 + 1)
        stream.sink_to(lw.BlackholeSink(), uid="out")
        env.execute("bench")


def main() -> None:
    """Run both pipelines at two sizes, in rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    print(HEADER)
    for what, keys, factor, target in (
        ("Arrow -> 10 s tumbling count/sum/max, 100 k keys", 100_000, 1, 6e6),
        ("Arrow -> filter + arithmetic -> blackhole", 0, 10, 40e6),
    ):
        sizes = {"small": arguments.rows * factor // 4, "large": arguments.rows * factor}
        cases = {name: {"rows": rows, "keys": keys, "alone": 0} for name, rows in sizes.items()}
        sizes["alone"] = ALONE_ROWS
        cases["alone"] = {"rows": ALONE_ROWS, "keys": keys, "alone": 1}
        runs = run_rounds(__file__, cases, sizes, arguments.rounds)
        limit = median(float(one.output) for one in runs["alone"])
        print(result_row(what, runs["small"], runs["large"], target, limit))


if __name__ == "__main__":
    main()
