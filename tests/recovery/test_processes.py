"""A job of several worker processes: the same answer, whichever of its processes is killed, stopped or cut off."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lakeward.connectors.nexmark import NexmarkSource

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

JOB = Path(__file__).parent / "processes_job.py"
EVENTS = 60_000
DEADLINE_S = 60.0
SLOW_S = 0.02
"""For each batch of 200 rows, so that a job can be met at work."""


class Running:
    """A job that runs."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        defaults = {"parallelism": 2, "processes": None, "events": EVENTS, "batch_s": 0.002, "bad_price": 0}
        folder.mkdir(exist_ok=True)
        given = defaults | {"folder": str(folder)} | options
        self.log = folder / "job.log"
        outside = {name: value for name, value in os.environ.items() if name != "LAKEWARD_PROCESSES"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(JOB), json.dumps(given)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=outside,
            )

    @property
    def workers(self) -> list[int]:
        """The worker processes: children of the process that starts them."""
        return [worker for starter in children(self.process.pid) for worker in children(starter)]

    def wait_for(self, what: str, holds: Any) -> Any:
        """Until something holds, and what it is."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := holds()):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, f"no {what}\n{self.log.read_text()}"
        return found

    def wait_for_checkpoint(self, after: int = 0) -> int:
        """Until a later checkpoint is committed."""
        return int(self.wait_for("checkpoint", lambda: (found := self.newest()) > after and found))

    def newest(self) -> int:
        """The newest committed checkpoint."""
        names = (self.folder / "checkpoints").glob("checkpoints/**/*commit*")
        return max((int("".join(filter(str.isdigit, path.parent.name)) or 0) for path in names), default=0)

    def end(self) -> dict[str, Any]:
        """What it says at its end."""
        out, _ = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, self.log.read_text()
        return dict(json.loads(out))


def children(pid: int) -> list[int]:
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Running]:
    job = Running(folder, **options)
    try:
        yield job
    finally:
        workers = job.workers
        job.process.kill()
        job.process.communicate()
        for pid in workers:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def check_answer(folder: Path) -> None:
    """Both folders hold what the batch answer says, every row once."""
    bids = pa.table(NexmarkSource(None).read(0, 0, EVENTS))
    check_rows(folder / "bids", bids.select(["auction", "bidder", "price"]))
    grouped = bids.append_column("window_start", pc.floor_temporal(bids["dateTime"], 10, "second"))
    totals = grouped.group_by(["auction", "window_start"]).aggregate([([], "count_all"), ("price", "sum")])
    check_rows(folder / "windows", totals.rename_columns(["auction", "window_start", "n", "total"]))


def check_rows(folder: Path, expected: pa.Table) -> None:
    found = pa.concat_tables([pq.read_table(file) for file in folder.glob("*.parquet")]).select(expected.column_names)
    order = [(name, "ascending") for name in expected.column_names]
    assert found.sort_by(order).equals(expected.cast(found.schema).sort_by(order))


@pytest.mark.parametrize(("parallelism", "processes"), [(2, None), (3, None), (4, 2)])
def test_the_answer_does_not_depend_on_how_many_processes_there_are(
    parallelism: int, processes: int | None, tmp_path: Path
) -> None:
    with running(tmp_path, parallelism=parallelism, processes=processes, batch_s=0) as job:
        ended = job.end()
    assert (ended["ended"], ended["restarts"]) == (True, 0)
    check_answer(tmp_path)
    assert ended["metrics"]["bids"]["output_rows"] == ended["metrics"]["windows"]["input_rows"]


@pytest.mark.kill
@pytest.mark.parametrize(("seed", "alignment_ms"), [(0, None), (1, None), (2, 0), (3, 20)])
def test_a_job_whose_workers_are_killed_goes_on_by_itself(seed: int, alignment_ms: int | None, tmp_path: Path) -> None:
    rng = random.Random(seed)
    with running(tmp_path, parallelism=rng.choice((2, 3)), batch_s=SLOW_S, alignment_ms=alignment_ms) as job:
        newest = 0
        for _ in range(3):
            newest = job.wait_for_checkpoint(newest)
            os.kill(rng.choice(job.wait_for("worker", lambda: job.workers)), signal.SIGKILL)
        ended = job.end()
    assert 1 <= ended["restarts"] <= 3
    assert "was killed by signal 9" in job.log.read_text()
    check_answer(tmp_path)


@pytest.mark.kill
def test_a_worker_that_hangs_is_noticed_within_five_seconds_and_ended(tmp_path: Path) -> None:
    with running(tmp_path, batch_s=SLOW_S) as job:
        job.wait_for_checkpoint()
        hung = job.workers[1]
        os.kill(hung, signal.SIGSTOP)
        before = time.monotonic()
        job.wait_for("notice", lambda: "has given no sign of life" in job.log.read_text())
        assert time.monotonic() - before < 5
        assert job.end()["restarts"] == 1
        assert not is_alive(hung)
    check_answer(tmp_path)


@pytest.mark.kill
def test_no_worker_outlives_a_coordinator_that_is_killed_and_the_next_run_goes_on(tmp_path: Path) -> None:
    for parallelism in (2, 3):
        with running(tmp_path, batch_s=SLOW_S, parallelism=parallelism) as job:
            job.wait_for_checkpoint(job.newest())
            workers = job.workers
            job.process.kill()
            job.process.wait()
            deadline = time.monotonic() + 5
            while any(is_alive(pid) for pid in workers):
                assert time.monotonic() < deadline, "a worker lives on"
            assert len(workers) == parallelism
    with running(tmp_path) as job:
        assert job.end()["ended"]
    assert "going on from checkpoint" in job.log.read_text()
    check_answer(tmp_path)


@pytest.mark.kill
def test_workers_end_by_themselves_while_their_coordinator_hangs_and_it_goes_on_without_them(tmp_path: Path) -> None:
    with running(tmp_path, batch_s=SLOW_S) as job:
        job.wait_for_checkpoint()
        workers = job.workers
        job.process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 8
        while any(is_alive(pid) for pid in workers):
            assert time.monotonic() < deadline, "a worker lives on"
        job.process.send_signal(signal.SIGCONT)
        assert job.end()["restarts"] == 1
    check_answer(tmp_path)


@pytest.mark.kill
def test_the_process_that_starts_workers_takes_them_along_when_it_is_killed(tmp_path: Path) -> None:
    with running(tmp_path, batch_s=SLOW_S) as job:
        job.wait_for_checkpoint()
        os.kill(children(job.process.pid)[0], signal.SIGKILL)
        job.process.wait(DEADLINE_S)
        assert job.process.returncode != 0
        assert "the process that starts the workers has died" in job.log.read_text()
    with running(tmp_path) as job:
        assert job.end()["ended"]
    check_answer(tmp_path)


def test_a_mistake_in_the_users_code_is_shown_as_if_it_had_happened_in_one_process(tmp_path: Path) -> None:
    price = NexmarkSource(None).read(0, 0, EVENTS)["price"][EVENTS // 2].as_py()
    said = {}
    for processes in (1, 2):
        with running(tmp_path / str(processes), batch_s=0, bad_price=price, processes=processes) as job:
            job.process.communicate(timeout=DEADLINE_S)
        assert job.process.returncode != 0
        text = job.log.read_text()
        said[processes] = text[text.index("operator 'checked'") :]
    assert said[1] == said[2]
    assert f"raised ValueError: no bid may cost {price}\n  > tests/recovery/processes_job.py:27" in said[2]


def test_a_signal_stops_the_job_with_a_last_checkpoint_of_all_workers(tmp_path: Path) -> None:
    with running(tmp_path, batch_s=SLOW_S) as job:
        job.wait_for_checkpoint()
        os.killpg(os.getpgid(job.process.pid), 0)
        for pid in (job.process.pid, *job.workers):  # as Ctrl-C on a terminal does
            os.kill(pid, signal.SIGINT)
        stopped = job.end()
    assert (stopped["ended"], stopped["restarts"]) == (False, 0)
    with running(tmp_path, parallelism=3) as job:
        assert job.end()["ended"]
    check_answer(tmp_path)


def test_workers_on_one_host_listen_on_no_network_address(tmp_path: Path) -> None:
    with running(tmp_path, batch_s=SLOW_S) as job:
        job.wait_for_checkpoint()
        listening = set()
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            listening |= {line.split()[9] for line in lines if line.split()[3] == "0A"}
        for pid in (job.process.pid, *children(job.process.pid), *job.workers):
            held = {os.readlink(one) for one in Path(f"/proc/{pid}/fd").iterdir() if one.is_symlink()}
            assert not {f"socket:[{inode}]" for inode in listening} & held
        job.process.kill()
