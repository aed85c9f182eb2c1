"""Nexmark's three streams as files: person.parquet, auction.parquet, bid.parquet, and as JSON lines.

    python benchmarks/nexmark_data.py DIRECTORY EVENTS [--seed N] [--rate EVENTS_PER_S] [--jsonl] [--out-of-order N]

With --jsonl also bid.jsonl, and events.jsonl: all three kinds in the order they come in, each with its "event_type"
(0 a person, 1 an auction, 2 a bid). The rows are those of `lw.NexmarkSource` with the same seed and rate.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lakeward as lw
from lakeward.connectors.nexmark import BASE_TIME, json_lines
from lakeward.connectors.nexmark.law import EPOCH_AUCTIONS, EPOCH_EVENTS, EPOCH_PERSONS, shuffled

KINDS = ("person", "auction", "bid")
"""The three kinds, in the order of their numbers in events.jsonl."""

EVENTS_A_PIECE = 1_000_000


@dataclass(frozen=True, slots=True)
class DataSet:
    """What files to write.

    Args:
        events: Of all three kinds together: 2 % persons, 6 % auctions, 92 % bids.
        seed: Of all randomness.
        rate: Events per second of event time.
        out_of_order: Events come shuffled within groups of this size; 1: in order.
        jsonl: Whether to write JSON lines too.
        base_time: Event time of the first event.
    """

    events: int
    seed: int = 7
    rate: int = 10_000
    out_of_order: int = 1
    jsonl: bool = False
    base_time: datetime = BASE_TIME

    def source(self, kind: str) -> lw.NexmarkSource:
        """The stream of a kind."""
        return lw.NexmarkSource(
            self.events,
            seed=self.seed,
            rate=self.rate,
            kinds=kind,  # type: ignore[arg-type]
            out_of_order=self.out_of_order,
            base_time=self.base_time,
        )

    def kinds_of(self, first: int, count: int) -> np.ndarray:
        """The number of the kind of each of `count` events in the order they come in, from the `first` on."""
        place = shuffled(np.arange(first, first + count, dtype=np.int64), self.out_of_order) % EPOCH_EVENTS
        return np.searchsorted([EPOCH_PERSONS, EPOCH_PERSONS + EPOCH_AUCTIONS], place, side="right")


def write_files(directory: str | os.PathLike[str], data: DataSet) -> dict[str, int]:
    """Write the files; returns the rows of each kind."""
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    sources = [data.source(kind) for kind in KINDS]
    schemas = [in_milliseconds(source.schema) for source in sources]
    writers = [
        pq.ParquetWriter(folder / f"{kind}.parquet", schema) for kind, schema in zip(KINDS, schemas, strict=True)
    ]
    texts = [open(folder / name, "wb") for name in ("events.jsonl", "bid.jsonl")] if data.jsonl else []  # noqa: SIM115
    rows = dict.fromkeys(KINDS, 0)
    try:
        for first in range(0, data.events, EVENTS_A_PIECE):
            count = min(EVENTS_A_PIECE, data.events - first)
            batches = [source.read(0, first, count) for source in sources]
            for kind, batch, schema, writer in zip(KINDS, batches, schemas, writers, strict=True):
                rows[kind] += batch.num_rows
                writer.write_batch(batch.cast(schema))
            if texts:
                write_lines(texts, batches, data.kinds_of(first, count))
    finally:
        for file in (*writers, *texts):
            file.close()
    return rows


def write_lines(files: Sequence[BinaryIO], batches: Sequence[pa.RecordBatch], kinds: np.ndarray) -> None:
    """Append a piece of events.jsonl and of bid.jsonl.

    Args:
        files: The two.
        batches: The piece's rows of each kind.
        kinds: The kind of each event of the piece, in the order they come in.
    """
    lines = np.empty(len(kinds), dtype=object)
    for number, batch in enumerate(batches):
        event_type = pa.array(np.full(batch.num_rows, number))
        whole = pa.RecordBatch.from_arrays([event_type, *batch.columns], names=["event_type", *batch.schema.names])
        lines[kinds == number] = json_lines(whole)
    for file, each in zip(files, (lines.tolist(), json_lines(batches[2])), strict=True):
        if each:
            file.write(b"\n".join(each) + b"\n")


def in_milliseconds(schema: pa.Schema) -> pa.Schema:
    """A schema whose times have milliseconds, as the benchmark's files have."""
    return pa.schema([f.with_type(pa.timestamp("ms")) if pa.types.is_timestamp(f.type) else f for f in schema])


def main() -> None:
    """Write one data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory")
    parser.add_argument("events", type=int)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rate", type=int, default=10_000, help="events per second of event time")
    parser.add_argument("--out-of-order", type=int, default=1, help="shuffle events within groups of this size")
    parser.add_argument("--jsonl", action="store_true", help="write events.jsonl and bid.jsonl too")
    a = parser.parse_args()
    print(write_files(a.directory, DataSet(a.events, a.seed, a.rate, a.out_of_order, a.jsonl)))


if __name__ == "__main__":
    main()
