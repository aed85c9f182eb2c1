"""Skew: nine rows of ten have one key. What do the workers do that do not have it?

    python benchmarks/skew.py [--rows 2000000] [--rounds 3]

A keyed Python function (it counts the rows of each key) runs in two workers, over rows with keys that are spread
evenly, and over rows of which 90 % have one key, as fast as they go. The source stamps its rows; each worker says how
many rows its function has had, and how long they took from the source to it. Rows of other keys must not wait behind
those of the key. The source itself does wait for the worker that is behind, as its rows come in one order.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import lakeward as lw
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject

SCHEMA = pa.schema([("key", pa.int64()), ("at_ns", pa.int64())])
BATCH_ROWS = 8192
KEYS = 10_000
SKEW = 0.9
SPLITS = 2
SAID_EVERY = 2000
SAMPLED_EVERY = 20


class Skewed(Source):
    """Rows of which a share has one key.

    Args:
        rows: Of each split.
        share: Of the rows with the one key.
    """

    schema = SCHEMA
    bounded = True
    description = "skewed rows"

    def __init__(self, rows: int, share: float) -> None:
        self.rows = rows
        self.share = share

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """One for each worker."""
        return [Split(SplitId(f"rows-{number}"), {"next": 0}) for number in range(SPLITS)]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """The reader of one subtask."""
        return SkewedReader(self)


class SkewedReader(SourceReader):
    """Makes batches of its splits in turns."""

    def __init__(self, source: Skewed) -> None:
        self._source = source
        self._open: deque[tuple[SplitId, int]] = deque()
        rng = np.random.default_rng(1)
        keys = rng.integers(1, KEYS, BATCH_ROWS)
        keys[rng.random(BATCH_ROWS) < source.share] = 0
        self._keys = pa.array(keys)

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Begin."""
        start = (position or split.start)["next"]
        assert isinstance(start, int), "positions are written here alone"
        self._open.append((split.id, start))

    def poll(self) -> SplitBatch | SplitFinished | None:
        """The next batch of the next split."""
        if not self._open:
            return None
        split, start = self._open.popleft()
        if start >= self._source.rows:
            return SplitFinished(split)
        self._open.append((split, start + BATCH_ROWS))
        stamps = pa.array(np.full(BATCH_ROWS, time.perf_counter_ns()))
        batch = pa.record_batch([self._keys, stamps], schema=SCHEMA)
        return SplitBatch(split, batch, {"next": start + BATCH_ROWS})


class Count(lw.KeyedProcessFunction):
    """Counts the rows of each key, and says now and then how many rows this worker has had.

    Args:
        folder: Where it says so.
    """

    rows: lw.ValueState[int] = lw.ValueState(default=0)

    def __init__(self, folder: str) -> None:
        self.said = Path(folder)
        self.seen = 0
        self.took_ms: list[float] = []

    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> None:
        """Count."""
        self.rows.value += 1
        self.seen += 1
        if self.seen % SAMPLED_EVERY == 0:
            self.took_ms.append((time.perf_counter_ns() - row["at_ns"]) / 1e6)
        if self.seen % SAID_EVERY == 0:
            said = [self.seen, *np.percentile(self.took_ms[-10_000:], [50, 95])]
            (self.said / str(os.getpid())).write_text(json.dumps(said))


def child(options: Mapping[str, Any]) -> None:
    """Run the job; print what each worker has said, the busiest first."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "said"
        folder.mkdir()
        env = lw.StreamExecutionEnvironment(
            parallelism=SPLITS, checkpoint_interval="2s", checkpoint_dir=f"{directory}/checkpoints"
        )
        rows = env.from_source(Skewed(options["rows"] // SPLITS, options["share"]), uid="rows")
        counted = rows.key_by("key").process(Count(str(folder)), returns={"key": int}, uid="count")
        counted.sink_to(lw.BlackholeSink(), uid="out")
        begun_s = time.perf_counter()
        env.execute("skew")
        wall_s = time.perf_counter() - begun_s
        workers = sorted((json.loads(one.read_text()) for one in folder.iterdir()), reverse=True)
        print(json.dumps({"wall_s": wall_s, "workers": workers}))


def run(options: Mapping[str, Any]) -> dict[str, Any]:
    """A run in a process of its own."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(json.loads(said))


def main() -> None:
    """Run all rounds and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    options = parser.parse_args()
    if options.child:
        child(json.loads(options.child))
        return
    cases = {"even": 0.0, "skewed": SKEW}
    rounds = [
        {name: run({"rows": options.rows, "share": share}) for name, share in cases.items()}
        for _ in range(options.rounds)
    ]
    print(f"{'keys':8} {'job s':>7} {'worker':>7} {'rows':>10} {'p50 ms':>8} {'p95 ms':>8}")
    for name in cases:
        for number in range(SPLITS):
            found = [one[name]["workers"][number] for one in rounds]
            wall_s = statistics.median(one[name]["wall_s"] for one in rounds)
            half_ms, most_ms = (statistics.median(one[place] for one in found) for place in (1, 2))
            print(f"{name:8} {wall_s:7.2f} {number:7} {found[0][0]:10,} {half_ms:8.1f} {most_ms:8.1f}")


if __name__ == "__main__":
    main()
