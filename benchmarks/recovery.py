"""Recovery of a job with much state in two worker processes: a worker killed, the job's own process killed, rescaling.

    python benchmarks/recovery.py [--state-mb 1000] [--kills 5]

A job keeps the last row of a kilobyte for each key. It is filled, then a hundredth of its keys changes from checkpoint
to checkpoint. What is printed, wall seconds:

- how long after kill -9 of a worker all subtasks take rows again, each time; the state is read from the checkpoints;
- the same after kill -9 of the job's own process, started again at once, with the interpreter's start and imports;
- what the first checkpoint after a start stores;
- the same for a stop, and a start with one subtask and with two (rescaling);
- what a checkpoint stores when a hundredth of the state has changed, and the longest time between two batches.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

import lakeward as lw
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split, SplitBatch
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject

ROW_BYTES = 1000
NOISE_BYTES = 4 << 20
BATCH_ROWS = 2_000
SPLITS = 2
SCHEMA = pa.schema([("key", pa.int64()), ("text", pa.string())])
CHANGED = 0.01
CHECKPOINT_MS = 3_000
BATCHES_A_SECOND = 200
DEADLINE_S = 600
SLOTS = 64
SEEN = struct.Struct("<qqdd")
"""Of a worker, as it writes it for who watches: process, rows, time of the last batch, longest pause."""


class Rows(Source):
    """All keys once, then a few of them again and again, slowly."""

    def __init__(self, keys: int) -> None:
        self.keys = keys

    @property
    def schema(self) -> pa.Schema:
        """A key and a text of a kilobyte."""
        return SCHEMA

    @property
    def bounded(self) -> bool:
        """It never ends."""
        return False

    @property
    def description(self) -> str:
        """What it is."""
        return "rows"

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """Two, each with half of the keys."""
        return [Split(SplitId(str(number)), {}) for number in range(SPLITS)]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """The reader."""
        return RowsReader(self.keys // SPLITS)


class RowsReader(SourceReader):
    """Reads its splits in turns."""

    def __init__(self, keys: int) -> None:
        self._keys = keys
        self._splits: dict[SplitId, int] = {}
        self._noise = np.random.default_rng(1).bytes(NOISE_BYTES // 2).hex()  # else it would be compressed to nothing
        self._due_s = 0.0

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Begin."""
        self._splits[split.id] = int(position["next"]) if position else 0  # type: ignore[arg-type]

    def poll(self) -> SplitBatch | None:
        """The next batch; once all keys are there, not more than so many a second."""
        if not self._splits:
            return None
        split = min(self._splits, key=lambda one: self._splits[one])
        at = self._splits[split]
        if at >= self._keys:
            if time.monotonic() < self._due_s:
                return None
            self._due_s = time.monotonic() + 1 / BATCHES_A_SECOND
            changed = max(1, int(self._keys * CHANGED))
            keys = np.random.default_rng(at).integers(0, changed, max(1, changed * 1000 // CHECKPOINT_MS // 50))
        else:
            keys = np.arange(at, min(at + BATCH_ROWS, self._keys))
        self._splits[split] += len(keys)
        starts = (keys * 7919 + at) % (NOISE_BYTES - ROW_BYTES)
        texts = [self._noise[start : start + ROW_BYTES] for start in starts.tolist()]
        columns = [pa.array(keys * SPLITS + int(split)), pa.array(texts)]
        return SplitBatch(split, pa.record_batch(columns, schema=SCHEMA), {"next": self._splits[split]})


def child(options: Mapping[str, int | str]) -> None:
    """The job, whose workers write into a file what they do."""
    board = mmap.mmap(os.open(str(options["board"]), os.O_RDWR), SEEN.size * SLOTS + 1)
    seen = {"rows": 0, "last_s": 0.0, "pause_s": 0.0, "era": 0}

    def watch(batch: pa.RecordBatch) -> pa.RecordBatch:
        now = time.monotonic()
        if seen["era"] != board[-1]:
            seen.update(era=board[-1], pause_s=0.0)
        seen["pause_s"] = max(seen["pause_s"], now - (seen["last_s"] or now))
        seen["last_s"] = now
        seen["rows"] += batch.num_rows
        at = os.getpid() % SLOTS * SEEN.size
        SEEN.pack_into(board, at, os.getpid(), int(seen["rows"]), now, seen["pause_s"])
        return batch

    env = lw.StreamExecutionEnvironment(
        parallelism=int(options["parallelism"]),
        checkpoint_interval=f"{CHECKPOINT_MS}ms",
        checkpoint_dir=str(options["checkpoints"]),
        config=lw.EngineConfig(restart=lw.RestartConfig(delay_min_ms=100)),
    )
    (
        env.from_source(Rows(int(options["keys"])), uid="rows")
        .key_by("key")
        .deduplicate("last", update_before=False, uid="last")
        .to_changelog()
        .map_batches(watch, uid="watch")
        .sink_to(lw.BlackholeSink(), uid="out")
    )
    env.execute("recovery")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker has said last."""

    pid: int
    rows: int
    last_s: float
    pause_s: float


class Bench:
    """The job's directory, and the process that runs it.

    Args:
        folder: Where everything lies.
        keys: How many keys it fills.
    """

    def __init__(self, folder: Path, keys: int) -> None:
        self._options = {"board": f"{folder}/board", "checkpoints": f"{folder}/checkpoints", "keys": keys}
        self._folder = folder
        board = folder / "board"
        board.write_bytes(bytes(SEEN.size * SLOTS + 1))
        self._board = mmap.mmap(os.open(board, os.O_RDWR), SEEN.size * SLOTS + 1)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, parallelism: int) -> None:
        """Start the job."""
        options = json.dumps(self._options | {"parallelism": parallelism})
        self._process = subprocess.Popen([sys.executable, __file__, "--child", options])

    def seen(self) -> list[Seen]:
        """What the workers have said."""
        found = [Seen(*SEEN.unpack_from(self._board, at * SEEN.size)) for at in range(SLOTS)]
        return [one for one in found if one.pid]

    def forget(self) -> None:
        """Begin anew to listen."""
        self._board[: SEEN.size * SLOTS] = bytes(SEEN.size * SLOTS)

    def longest_pause_s(self) -> float:
        """The longest time between two batches of a worker since this was asked last."""
        found = max(one.pause_s for one in self.seen())
        self._board[-1] ^= 1
        return found

    def working_again_s(self, since_s: float, workers: int, old: set[int]) -> float:
        """The seconds from a moment until so many new workers have had a batch."""

        def works() -> bool:
            return len([one for one in self.seen() if one.pid not in old and one.last_s > since_s]) >= workers

        self.wait(works)
        return time.monotonic() - since_s

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until something holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                sys.exit("the job has ended, or does not get on")
            time.sleep(0.005)

    def newest(self) -> int:
        """The newest committed checkpoint."""
        folder = self._folder / "checkpoints" / "checkpoints"
        return max((int(path.parent.name) for path in folder.glob("*/committed.json")), default=0)

    def wait_for_checkpoints(self, count: int) -> None:
        """Until so many more are committed."""
        wanted = self.newest() + count
        self.wait(lambda: self.newest() >= wanted)

    def stored_bytes(self) -> dict[str, int]:
        """The state files that are stored, and their sizes; the job may delete some meanwhile."""
        found: dict[str, int] = {}
        for path in (self._folder / "checkpoints" / "files").rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    found[str(path)] = path.stat().st_size
        return found

    def kill(self, number: int) -> float:
        """Send the job's own process a signal; when."""
        assert self._process is not None
        now = time.monotonic()
        self._process.send_signal(number)
        if number == signal.SIGKILL:
            self._process.wait()
        return now

    def stop(self) -> float:
        """Stop the job with a last checkpoint; when it was told to."""
        now = self.kill(signal.SIGINT)
        assert self._process is not None
        self._process.wait(DEADLINE_S)
        return now

    def close(self) -> None:
        """End what runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def filled(bench: Bench, keys: int) -> None:
    """Until all keys have come and two checkpoints hold them."""
    bench.start(2)
    bench.wait(lambda: sum(one.rows for one in bench.seen()) >= keys)
    bench.wait_for_checkpoints(2)
    print(f"longest time between two batches while all is written: {bench.longest_pause_s():.2f} s")
    print(f"{keys:,} keys, {sum(bench.stored_bytes().values()) / 1e6:,.0f} MB stored", flush=True)


def measure(bench: Bench, keys: int, kills: int) -> None:
    """Everything, in turn."""
    filled(bench, keys)
    bench.wait_for_checkpoints(1)
    files = bench.stored_bytes()
    bench.longest_pause_s()
    bench.wait_for_checkpoints(1)
    new = {path: size for path, size in bench.stored_bytes().items() if path not in files}
    share = sum(new.values()) / sum(files.values())
    print(f"a checkpoint after a hundredth has changed: {sum(new.values()) / 1e6:,.1f} MB new, {share:.1%}", flush=True)
    bench.wait_for_checkpoints(4)
    print(f"longest time between two batches in five such checkpoints: {bench.longest_pause_s():.3f} s", flush=True)
    took = []
    for _ in range(kills):
        bench.wait_for_checkpoints(1)
        old = {one.pid for one in bench.seen()}
        newest = max(bench.seen(), key=lambda one: one.last_s)
        now = time.monotonic()
        os.kill(newest.pid, signal.SIGKILL)
        took.append(bench.working_again_s(now, 2, old))
        bench.forget()
    show("worker killed", took)
    took = []
    for _ in range(kills):
        bench.wait_for_checkpoints(1)
        old = {one.pid for one in bench.seen()}
        now = bench.kill(signal.SIGKILL)
        bench.start(2)
        took.append(bench.working_again_s(now, 2, old))
        bench.forget()
    show("job's process killed", took)
    files = bench.stored_bytes()
    bench.kill(signal.SIGKILL)
    bench.start(2)
    bench.wait_for_checkpoints(1)
    new_mb = sum(size for path, size in bench.stored_bytes().items() if path not in files) / 1e6
    print(f"the first checkpoint after a start: {new_mb:,.1f} MB new", flush=True)
    bench.forget()
    for parallelism in (1, 2):
        bench.wait_for_checkpoints(1)
        old = {one.pid for one in bench.seen()}
        now = bench.stop()
        bench.start(parallelism)
        print(f"stop, and start with {parallelism}: {bench.working_again_s(now, parallelism, old):.2f} s", flush=True)
        bench.forget()


def show(what: str, took: Sequence[float]) -> None:
    """Print the middle, the worst and all."""
    each = ", ".join(f"{one:.2f}" for one in took)
    print(f"{what}: median {statistics.median(took):.2f} s, worst {max(took):.2f} s; {each}", flush=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--state-mb", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    keys = arguments.state_mb * 1_000_000 // ROW_BYTES
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), keys)
        try:
            measure(bench, keys, arguments.kills)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
