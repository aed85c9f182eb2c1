"""Worker processes: how much faster two are than one, and what rows cost on their way between them.

    python benchmarks/processes.py [--events 4000000] [--rounds 3]

A keyed window (10 s count, sum and maximum of bids per auction, from four files of JSON lines, and from batches in
memory) runs with one and with two subtasks, in turns, each at two sizes; the difference of wall seconds is free of
start-up. Both have the whole machine. Two jobs that have nothing to do with each other, with one subtask each, run
side by side in each round, too: what they do together is the most that the machine has for two. The exchange is
measured by itself: two processes, one sends batches of a megabyte through a channel of the engine, the other takes
them; CPU seconds of both a GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from pipeline import SCHEMA, PoolReader, PoolSource

import lakeward as lw
from lakeward.connectors.nexmark import NexmarkSource, json_lines
from lakeward.engine.api.source import ReaderContext, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import Batch
from lakeward.engine.processes.connection import Connection
from lakeward.engine.processes.exchange import Exchange
from lakeward.engine.processes.frames import Kind

FILES = 4
KEYS = 100_000
BID = {"auction": int, "bidder": int, "price": int, "dateTime": pa.timestamp("us")}
EXCHANGED_MB = 2000
CREDITS = 8


class DealtPool(PoolSource):
    """The pool of batches, in as many splits as there are files."""

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """As many as there are files."""
        return [Split(SplitId(f"pool-{number}"), {}) for number in range(FILES)]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """The reader."""
        return DealtReader(self)


class DealtReader(SourceReader):
    """Reads its splits in turns; each has its part of the rows."""

    def __init__(self, source: DealtPool) -> None:
        self._part = PoolSource(source.rows // FILES, source.keys)
        self._open: deque[tuple[SplitId, PoolReader]] = deque()

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Begin."""
        reader = PoolReader(self._part)
        reader.add_split(split, position)
        self._open.append((split.id, reader))

    def poll(self) -> SplitBatch | SplitFinished | None:
        """The next batch of the next split."""
        if not self._open:
            return None
        split, reader = self._open.popleft()
        found = reader.poll()
        if not isinstance(found, SplitBatch):
            return SplitFinished(split)
        self._open.append((split, reader))
        return replace(found, split=split)


def child(options: Mapping[str, int | str]) -> None:
    """Run the job; print the wall seconds of its execution."""
    with tempfile.TemporaryDirectory() as directory:
        env = lw.StreamExecutionEnvironment(
            parallelism=int(options["parallelism"]), checkpoint_interval="5s", checkpoint_dir=directory
        )
        if options["kind"] == "json":
            source: lw.Source = lw.FilesSource(f"{options['folder']}/*.jsonl", schema=BID)
            at, key, value = "dateTime", "auction", "price"
        else:
            source = DealtPool(int(options["rows"]), KEYS)
            at, key, value = "at", "key", "value"
        watermark = lw.WatermarkStrategy.bounded_out_of_orderness(at, "2s")
        (
            env.from_source(source, watermark=watermark, uid="rows")
            .key_by(key)
            .window(lw.Tumbling("10s"))
            .aggregate(n=lw.count(), total=lw.sum(value), top=lw.max(value), uid="windows")
            .sink_to(lw.BlackholeSink(), uid="out")
        )
        start = time.perf_counter()
        env.execute("bench")
        print(time.perf_counter() - start)


def write_files(folder: Path, events: int) -> None:
    """Bids as JSON lines, in turns in four files."""
    folder.mkdir()
    source = NexmarkSource(None)
    files = [(folder / f"{number}.jsonl").open("wb") for number in range(FILES)]
    for number, start in enumerate(range(0, events, 50_000)):
        lines = json_lines(source.read(0, start, min(50_000, events - start)))
        files[number % FILES].write(b"".join(bytes(line) + b"\n" for line in lines))
    for file in files:
        file.close()


def wall_s(options: Mapping[str, int | str], copies: int = 1) -> float:
    """The seconds that a job takes in a process of its own; of several at once, on the average."""
    command = [sys.executable, __file__, "--child", json.dumps(options)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(copies)]
    took = [float(job.communicate()[0].split()[-1]) for job in jobs]
    return statistics.mean(took)


def scaling(events: int, rounds: int) -> None:
    """Print the rates with one and two subtasks, and how many times the one is the other."""
    with tempfile.TemporaryDirectory() as directory:
        for size in (events // 4, events):
            write_files(Path(directory) / str(size), size)
        for kind, sizes in (("json", (events // 4, events)), ("memory", (events * 2, events * 10))):
            ways = {"1 subtask": (1, 1), "2 subtasks": (2, 1), "2 jobs": (1, 2)}
            rates: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, (parallelism, copies) in ways.items():
                    asked = [
                        {"kind": kind, "parallelism": parallelism, "rows": size, "folder": f"{directory}/{size}"}
                        for size in sizes
                    ]
                    took = [wall_s(one, copies) for one in asked]
                    rates[name].append(copies * (sizes[1] - sizes[0]) / (took[1] - took[0]))
            one, two, most = (statistics.median(found) for found in rates.values())
            shown = {name: [round(rate / 1e3) for rate in found] for name, found in rates.items()}
            print(
                f"{kind:8} two subtasks {two / one:.2f} times one, two jobs {most / one:.2f}; k rows a second: {shown}"
            )


def exchange() -> float:
    """CPU seconds a GB of a channel between two processes, of both."""
    left, right = socket.socketpair()
    for one in (left, right):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    rows = (1 << 20) // 24
    columns = [pa.array(np.arange(rows) + number) for number in range(2)]
    batch = pa.record_batch([*columns, pa.array(np.arange(rows)).view(pa.timestamp("us"))], schema=SCHEMA)
    before = usage_s()
    pid = os.fork()
    connection = Connection(right if pid else left, 1, "the other")

    def post(worker: int, kind: Kind, channel: int, payload: bytes | pa.Buffer) -> None:
        connection.send(kind, channel, payload)

    mine = Exchange(1 if pid else 0, 2, post)
    ends = mine.connect(0, 0, 1, CREDITS)
    count = EXCHANGED_MB
    while count or connection.has_unsent:
        while ends.writer is not None and count and not ends.writer.is_full:
            ends.writer.send(Batch(batch))
            count -= 1
        connection.flush()
        select.select([connection], [connection] if connection.has_unsent else [], [], 1.0)
        for frame in connection.receive():
            mine.on_frame(0 if pid else 1, frame)
        while ends.reader is not None and len(ends.reader):
            ends.reader.take()
            count -= 1
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return (usage_s() - before) / (EXCHANGED_MB * batch.nbytes / 1e9)


def usage_s() -> float:
    """CPU seconds of this process and its children so far."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    costs = [exchange() for _ in range(arguments.rounds)]
    print(f"exchange: {statistics.median(costs):.2f} CPU seconds a GB; runs: {[round(one, 2) for one in costs]}")
    scaling(arguments.events, arguments.rounds)


if __name__ == "__main__":
    main()
