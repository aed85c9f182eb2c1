"""Every Nexmark query, killed with -9 in mid-run and resumed by another process, gives the right answer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from nexmark_answers import EVENTS, STARTS, Data, check, make_data, nexmark

from lakeward.engine.checkpoint.inventory import take_inventory
from lakeward.engine.checkpoint.manifest import CheckpointManifest
from lakeward.engine.checkpoint.store_fs import open_store
from lakeward.examples.nexmark import CEP_NAMES, NAMES, inputs, query
from lakeward.testing.kill_points import KillPoint

QUERIES = (*NAMES, *CEP_NAMES)
JOB = Path(__file__).with_name("query_job.py")
KILLED = -signal.SIGKILL
POINTS = tuple(point.value for point in KillPoint)
PARALLELISM = (1, 2, 1)
"""Of the runs, in turn."""


class Forking:
    """Runs requests in forks of one process that has everything imported; each is killed, or ends, alone."""

    def __init__(self, folder: Path) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._parent = subprocess.Popen([sys.executable, str(JOB)], text=True, env=environment(folder), **pipes)

    def __call__(self, request: dict[str, Any]) -> int:
        """Run a request; returns the exit status, negative for a signal."""
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(request) + "\n")
        self._parent.stdin.flush()
        return int(self._parent.stdout.readline())

    def close(self) -> None:
        self._parent.communicate()


def start_afresh(request: dict[str, Any]) -> int:
    """Run a request in a process that starts with nothing."""
    folder = Path(request["log"]).parent
    return subprocess.run([sys.executable, str(JOB), json.dumps(request)], env=environment(folder)).returncode


def environment(folder: Path) -> dict[str, str]:
    """What dead processes leave behind lies in the test's folder; threads of BLAS would not survive a fork."""
    return os.environ | {"TMPDIR": str(folder), "OPENBLAS_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def forking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forking]:
    with closing(Forking(tmp_path_factory.mktemp("forks"))) as made:
        yield made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(2, tmp_path_factory.mktemp("nexmark"))


@dataclass
class Killing:
    """A query that is run, killed, and run again in the same folder."""

    name: str
    data: Data
    folder: Path
    start: Callable[[dict[str, Any]], int]
    batches: int
    """Of the query's longest stream; a checkpoint has to complete between two of them."""
    out_of_order: int = 1
    runs: int = 0

    def run(self, kill_at: str = "", nth: int = 0) -> int:
        """Run it until it dies or ends; returns the exit status."""
        parallelism = PARALLELISM[self.runs % len(PARALLELISM)]
        self.runs += 1
        options = {
            "query": self.name,
            "input": str(self.data.folder),
            "output": str(self.folder / "output"),
            "work": str(self.folder / "work"),
            "batch_rows": self.batch_rows,
            "out_of_order": self.out_of_order,
            "parallelism": parallelism,
            "checkpoint_interval": "1ms",
        }
        return self.start({"run": options, "kill_at": kill_at, "nth": nth, "log": str(self.log)})

    def die(self, kill_at: str, nth: int) -> None:
        """Run it until it dies, certainly in mid-run: with a checkpoint to go on from, and rows left to be read."""
        assert self.run(kill_at, nth) == KILLED, self.log.read_text()
        checkpoints = self.manifests()
        assert checkpoints, "it died before the first checkpoint was complete"
        assert not any(one.final for one in checkpoints)
        splits = [split for one in checkpoints[0].operators for split in (one.state or {}).get("splits", ())]
        assert any(split["position"] for split in splits), "nothing was read"
        assert not all(split["finished"] for split in splits), "everything was read"
        assert not self.answer.exists()

    def end(self) -> None:
        """Run it to its end, from a checkpoint; the answer is DuckDB's."""
        before = self.log.read_text().count("going on from checkpoint")
        assert self.run() == 0, self.log.read_text()
        assert self.log.read_text().count("going on from checkpoint") == before + 1
        assert self.manifests()[0].final
        check(self.name, pq.read_table(self.answer), self.data, in_order=False)

    @property
    def answer(self) -> Path:
        return self.folder / "output" / f"{self.name}.parquet"

    @property
    def log(self) -> Path:
        return self.folder / "job.log"

    @property
    def batch_rows(self) -> int:
        needed = [one for one in inputs(query(self.name)) if one in nexmark.FILES]
        return max(nexmark.EVENTS_OF[one] for one in needed) * EVENTS // 50 // self.batches

    def manifests(self) -> list[CheckpointManifest]:
        """Of the complete checkpoints, newest first."""
        views = take_inventory(open_store(str(self.folder / "work" / "checkpoints")))
        return [view.manifest for view in views if view.manifest is not None]


@pytest.mark.kill
@pytest.mark.parametrize("name", QUERIES)
def test_a_query_that_is_killed_twice_gives_the_right_answer(
    name: str, data: Data, forking: Forking, tmp_path: Path
) -> None:
    number = QUERIES.index(name)
    job = Killing(name, data, tmp_path, forking, batches=9)
    job.die(POINTS[number % len(POINTS)], nth=2)
    job.die(POINTS[(number // len(POINTS) + number + 1) % len(POINTS)], nth=2)
    job.end()


@pytest.mark.kill
def test_a_query_over_shuffled_input_goes_on_with_the_files_that_were_shuffled_before(
    data: Data, forking: Forking, tmp_path: Path
) -> None:
    job = Killing("q5", data, tmp_path, forking, batches=9, out_of_order=1000)
    job.die(KillPoint.AFTER_COMMIT.value, nth=2)
    job.end()


@pytest.mark.kill
@pytest.mark.parametrize("name", ["q0", "q4", "q12"])
def test_an_answer_is_there_whole_or_not_at_all(name: str, data: Data, forking: Forking, tmp_path: Path) -> None:
    """Killed just before its file gets its name, then just after; whoever comes next writes the same file again."""
    job = Killing(name, data, tmp_path, forking, batches=9)
    assert job.run("before-rename") == KILLED
    assert not job.answer.exists()
    assert job.run("after-rename") == KILLED
    check(name, pq.read_table(job.answer), data, in_order=False)
    written = job.answer.read_bytes()
    job.end()
    assert job.answer.read_bytes() == written
    assert os.listdir(job.answer.parent) == [job.answer.name]


@pytest.mark.soak
@pytest.mark.kill
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", STARTS)
def test_every_query_killed_five_times_by_processes_of_their_own(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = make_data(seed, tmp_path_factory.mktemp("nexmark"))
    for name in QUERIES:
        job = Killing(name, data, tmp_path_factory.mktemp(name), start_afresh, batches=20)
        for point in POINTS:
            job.die(point, nth=2)
        job.end()
        print(f"seed {seed} {name}: {len(POINTS)} deaths")
