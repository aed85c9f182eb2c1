"""A cluster without jobs in this process, for the tests of its API; and clusters in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from lakeward.cluster import Client
from lakeward.cluster.files import ClusterFiles
from lakeward.engine.core.errors import LakewardError

DEADLINE_S = 60.0
CANARY = "CANARY-7f3a9c51e2d84b60"

JOBS = """
import os
import lakeward as lw

FOLDER = os.path.dirname(os.path.abspath(__file__))


def bids(events, paced=True):
    env = lw.StreamExecutionEnvironment(checkpoint_interval="100ms")
    time = lw.WatermarkStrategy.bounded_out_of_orderness("dateTime", "1s")
    source = lw.NexmarkSource(events, paced=paced, rate=20_000, splits=2)
    return env, env.from_source(source, watermark=time, uid="bids")


def windows(events, name, paced=True):
    env, rows = bids(events, paced)
    rows.select("auction", "price").sink_to(lw.FilesSink(f"{FOLDER}/{name}-bids"), uid="bids-out")
    counts = rows.key_by("auction").window(lw.Tumbling("1s")).aggregate(n=lw.count(), uid="counts")
    counts.sink_to(lw.FilesSink(f"{FOLDER}/{name}-windows"), uid="windows-out")
    env.execute(name)


def bounded():
    windows(100_000, "bounded")


def straight():
    windows(100_000, "straight", paced=False)


def endless():
    env, rows = bids(None)
    counts = rows.key_by("auction").aggregate(n=lw.count(), uid="counts")
    counts.to_changelog().sink_to(lw.BlackholeSink(), uid="nowhere")
    env.execute("endless")


def waiting():
    env = lw.StreamExecutionEnvironment(checkpoint_interval="1h")
    rows = env.from_source(lw.NexmarkSource(None, paced=True, rate=10), uid="slow")
    rows.sink_to(lw.BlackholeSink(), uid="nowhere")
    env.execute("waiting")


def broken():
    def bad(row):
        raise ValueError("no such shop")

    env, rows = bids(1000, paced=False)
    rows.map(bad, returns=rows.schema, uid="bad").sink_to(lw.BlackholeSink(), uid="nowhere")
    env.execute("broken")


def crashing():
    os.kill(os.getpid(), 9)


def shows_secrets():
    print("the secret is", os.environ.get("SHOP_PASSWORD"), "and", os.environ.get("OTHER_PASSWORD"))
    raise ValueError(os.environ.get("SHOP_PASSWORD"))


def prefix():
    import sys
    print("runs in", sys.prefix)
    endless()
"""


class Running:
    """A cluster in processes of its own."""

    canary = CANARY

    def __init__(self, folder: Path, slots: int = 4, *options: str) -> None:
        self.folder = folder
        self.root = folder / "cluster"
        self.jobs = folder / "jobs"
        self.jobs.mkdir(exist_ok=True)
        (self.jobs / "shop.py").write_text(JOBS)
        self._options = ["--dir", str(self.root), "--allow", str(self.jobs), "--slots", str(slots), *options]
        self._outside = {name: value for name, value in os.environ.items() if name != "LAKEWARD_PROCESSES"}
        self._outside |= {"SHOP_PASSWORD": CANARY, "OTHER_PASSWORD": "not-" + CANARY}
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "cluster.log"

    def start(self) -> Client:
        """Start it, and wait until it answers."""
        with suppress(FileNotFoundError):
            (self.root / "endpoint.json").unlink()
        command = [sys.executable, "-m", "lakeward", "cluster", "start", *self._options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self._outside)
        return self.answers()

    def answers(self) -> Client:
        """A client, as soon as the cluster answers."""

        def client() -> Client | None:
            with suppress(LakewardError):
                found = Client(self.root)
                found.cluster()
                return found
            return None

        return self.wait_for("answer", client)

    def wait_for(self, what: str, holds):  # type: ignore[no-untyped-def]
        """Until something holds, and what it is."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := holds()):
            assert time.monotonic() < deadline, f"no {what}\n{self.log.read_text()}"
            time.sleep(0.02)
        return found

    def state(self, job: str) -> str:
        """A job's state, whether the cluster answers or not."""
        with suppress(LakewardError):
            return Client(self.root).show(job).state
        return "?"

    @staticmethod
    def descendants(pid: int) -> list[int]:
        """A process, and all that it has started."""
        return descendants(pid)

    @property
    def coordinator(self) -> int:
        """Its process."""
        return ClusterFiles(self.root).endpoint().pid

    def kill_all(self) -> None:
        """As the power cut does it: everything at once."""
        assert self.process is not None
        pids = descendants(self.process.pid)
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        """Ask it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill_all()
                raise


def descendants(pid: int) -> list[int]:
    """A process, and all that it has started."""
    with suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(one) for task in tasks for one in (task / "children").read_text().split()]
        return [pid, *(one for child in children for one in descendants(child))]
    return [pid]


@contextmanager
def running(folder: Path, slots: int = 4, *options: str) -> Iterator[Running]:
    """A cluster that ends with the test."""
    cluster = Running(folder, slots, *options)
    try:
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Running]:
    """A cluster of four slots that has not been started yet."""
    with running(tmp_path) as made:
        yield made


@pytest.fixture
def cluster_of(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Makes one with other options."""
    return partial(running, tmp_path)
