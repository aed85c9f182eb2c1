"""A program starts a job, hears how it is getting on, and tells it what to do."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import lakeward as lw
from lakeward.cli.control_channel import MESSAGE_BYTES_MAX
from lakeward.cli.main import main

JOB = """
import sys, time
import pyarrow as pa
import lakeward as lw

def step(batch: pa.RecordBatch) -> pa.RecordBatch:
    {step}
    return batch

env = lw.StreamExecutionEnvironment(checkpoint_interval="1h", parallelism={parallelism})
bids = env.from_source(lw.NexmarkSource(None, paced=True, rate=20_000, splits=2), uid="bids").map_batches(step)
counts = bids.key_by("auction").aggregate(n=lw.count(), uid="counts")
counts.to_changelog().sink_to(lw.BlackholeSink(), uid="nowhere")
env.execute("endless")
"""
TIMEOUT_S = 60.0


class Started:
    """A job, and the other end of its socket."""

    def __init__(self, process: subprocess.Popen[str], end: socket.socket) -> None:
        self.process = process
        self.end = end
        self._lines = end.makefile("r", encoding="utf-8")

    def say(self, **message: object) -> None:
        self.end.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message of a kind."""
        for line in self._lines:
            message: dict[str, Any] = json.loads(line)
            if wanted(message):
                return message
        raise AssertionError(f"the job said nothing of it: {self.process.communicate(timeout=TIMEOUT_S)}")

    def hear_running(self) -> dict[str, Any]:
        return self.hear(lambda one: one.get("state") == "RUNNING" and one["rows"] > 0)

    def answer(self, asked: str) -> dict[str, Any]:
        return self.hear(lambda one: one["type"] == "answer" and one["id"] == asked)

    def end_of(self) -> tuple[dict[str, Any], int, str]:
        """Its last message, exit status and standard error."""
        last = self.hear(lambda one: one["type"] in ("finished", "failed", "canceled"))
        _, error = self.process.communicate(timeout=TIMEOUT_S)
        return last, self.process.returncode, error


@contextmanager
def started(folder: Path, *options: str, step: str = "pass", parallelism: int = 1) -> Iterator[Started]:
    (folder / "job.py").write_text(JOB.format(step=step, parallelism=parallelism))
    ours, theirs = socket.socketpair()
    ours.settimeout(TIMEOUT_S)
    command = [sys.executable, "-m", "lakeward", "run", str(folder / "job.py"), "--control-fd", str(theirs.fileno())]
    command += ["--checkpoint-dir", str(folder / "checkpoints"), *options]
    environment = {name: value for name, value in os.environ.items() if name != "LAKEWARD_PROCESSES"}
    process = subprocess.Popen(
        command,
        pass_fds=[theirs.fileno()],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    theirs.close()
    with process, ours:
        try:
            yield Started(process, ours)
        finally:
            process.kill()


def test_a_job_says_how_it_is_getting_on_and_stops_with_a_savepoint_to_start_from(tmp_path: Path) -> None:
    with started(tmp_path) as job:
        status = job.hear_running()
        assert (status["attempt"], status["restarts"], status["checkpoint"], status["error"]) == (1, 0, None, None)
        job.say(do="savepoint", id="s1", target=str(tmp_path / "one"))
        answer = job.answer("s1")
        assert answer == {"type": "answer", "id": "s1", "ok": True, "checkpoint": 1, "path": str(tmp_path / "one")}
        later = job.hear(lambda one: one.get("checkpoint") == 1)
        assert 0 <= later["checkpoint_age_ms"] < 60_000
        job.say(do="stop", id="s2", savepoint=str(tmp_path / "two"))
        assert job.answer("s2")["checkpoint"] == 2
        last, status_code, error = job.end_of()
        assert (last, status_code) == ({"type": "finished"}, 0), error
    read = [lw.read_state(tmp_path / name, "counts")["rows"].to_pylist() for name in ("one", "two")]
    assert 0 < sum(read[0]) < sum(read[1])
    with started(tmp_path, "--checkpoint-dir", str(tmp_path / "others"), "--from", str(tmp_path / "two")) as job:
        assert job.hear_running()["checkpoint"] == 2


def test_a_job_stops_without_a_savepoint_with_a_last_checkpoint(tmp_path: Path) -> None:
    with started(tmp_path) as job:
        job.hear_running()
        job.say(do="stop", id="s", savepoint=None)
        assert job.answer("s")["ok"]
        assert job.end_of()[:2] == ({"type": "finished"}, 0)
    assert lw.state_tables(tmp_path / "checkpoints")


def test_a_canceled_job_ends_without_a_checkpoint(tmp_path: Path) -> None:
    with started(tmp_path) as job:
        job.hear_running()
        job.say(do="cancel", id="c")
        last, status, error = job.end_of()
        assert (last, status) == ({"type": "canceled"}, 1)
        assert "canceled" in error
    with pytest.raises(lw.LakewardError, match="no committed checkpoint"):
        lw.state_tables(tmp_path / "checkpoints")


def test_a_job_that_fails_says_why_with_the_users_line(tmp_path: Path) -> None:
    with started(tmp_path, step="raise ValueError('no such shop')") as job:
        last, status, error = job.end_of()
    assert (last["type"], status) == ("failed", 1)
    assert "no such shop" in last["error"]
    assert "job.py" in last["error"]
    assert last["error"] in error


@pytest.mark.parametrize("parallelism", [1, 2])
def test_a_job_whose_other_side_is_gone_dies_at_once_with_its_workers_even_if_it_is_busy(
    tmp_path: Path, parallelism: int
) -> None:
    with started(tmp_path, step="print('stuck', flush=True); time.sleep(300)", parallelism=parallelism) as job:
        assert job.process.stdout is not None
        assert job.process.stdout.readline() == "stuck\n"
        job.end.shutdown(socket.SHUT_RDWR)
        job.process.stdout.read()  # until all that have it open are gone
        assert job.process.wait(TIMEOUT_S) == 137


def test_worker_processes_do_not_keep_the_socket(tmp_path: Path) -> None:
    with started(tmp_path, parallelism=2) as job:
        job.hear_running()
        (inode,) = {os.readlink(f"/proc/{job.process.pid}/fd/{name}") for name in _control_descriptors(job)}
        others = [pid for pid in _descendants(job.process.pid) if pid != job.process.pid]
        assert len(others) >= 2
        for pid in others:
            open_there = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert inode not in open_there


def _control_descriptors(job: Started) -> list[str]:
    arguments = Path(f"/proc/{job.process.pid}/cmdline").read_text().split("\0")
    return [arguments[arguments.index("--control-fd") + 1]]


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _descendants(int(child)))]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"do": "savepoint", "id": "x", "target": 3}, "no path"),
        ({"do": "savepoint", "id": "x", "target": "a\0b"}, "no path"),
        ({"do": "savepoint", "id": "x"}, "target"),
        ({"do": "stop", "id": "x"}, "savepoint"),
    ],
)
def test_a_request_that_makes_no_sense_is_answered_and_the_job_goes_on(
    tmp_path: Path, message: dict[str, object], said: str
) -> None:
    with started(tmp_path) as job:
        job.hear_running()
        job.end.sendall(b'no json\n{"do": "dance", "id": "y"}\n[]\n' + b"[" * 50_000 + b"\n")
        job.say(**message)
        answer = job.answer("x")
        assert not answer["ok"]
        assert said in answer["error"]
        job.hear_running()


def test_a_message_without_an_end_ends_the_job(tmp_path: Path) -> None:
    with started(tmp_path) as job:
        job.hear_running()
        job.end.sendall(b"x" * (2 * MESSAGE_BYTES_MAX))
        assert job.process.wait(TIMEOUT_S) == 137


def test_a_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("")
    with (tmp_path / "file").open("w") as file:
        for descriptor in (file.fileno(), 9_999):
            result = CliRunner().invoke(main, ["run", str(tmp_path / "job.py"), "--control-fd", str(descriptor)])
            assert result.exit_code == 1
            assert "is no socket" in result.output
