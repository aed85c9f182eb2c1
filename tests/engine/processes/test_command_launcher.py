"""Workers that commands start: what they are told and how, that their end is noticed, and that nothing is left."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lakeward.engine.config import EngineConfig, RestartConfig
from lakeward.engine.core.errors import ConfigError
from lakeward.engine.processes.command_launcher import CommandLauncher
from lakeward.engine.processes.hosts import Hosts, HostWorker
from lakeward.engine.processes.launcher import Place, WorkerSpec
from lakeward.engine.processes.orders import JobReference, WorkerOrder

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

HERE = Place("tcp:127.0.0.1:0", "tcp:127.0.0.1:0")
SPEC = WorkerSpec(0, 2, 7, "tcp:127.0.0.1:7000", "5ec3e7" * 8, HERE.listen, HERE.advertise)
CONFIG = EngineConfig(parallelism=2, restart=RestartConfig(attempts_max=3), redact_columns=("email",))
JOB = JobReference("jobs/revenue.py", "revenue", CONFIG, "s3://lake/revenue", "0.1.0")


@contextmanager
def launcher(*command: str) -> Iterator[CommandLauncher]:
    made = CommandLauncher(Hosts(HERE, (HostWorker(command, HERE),) * 2), JOB)
    try:
        yield made
    finally:
        made.close()


def exits(of: CommandLauncher) -> list[tuple[int, int, str]]:
    """Those that come next."""
    while not (found := of.exits()):
        pass
    return found


def wait_for_end(pid: int) -> None:
    watched = os.pidfd_open(pid)
    assert select.select([watched], [], [], 20)[0], "the process lives on"
    os.close(watched)


def test_a_worker_is_told_on_its_standard_input_and_nowhere_else(tmp_path: Path) -> None:
    told, seen = tmp_path / "told", tmp_path / "seen"
    script = f"cat > {told}; cat /proc/$$/cmdline /proc/$$/environ > {seen}"
    with launcher("sh", "-c", script, "{job}", "{worker}", "${HOME}") as starts:
        starts.start(SPEC)
        assert exits(starts) == [(7, 0, "ended with status 0")]
        assert starts.exits() == []
    assert WorkerOrder.from_line(told.read_bytes()) == WorkerOrder(SPEC, JOB)
    assert SPEC.secret.encode() not in seen.read_bytes()
    assert b"\0jobs/revenue.py\0000\0${HOME}\0" in seen.read_bytes()
    assert SPEC.secret not in repr(SPEC)


def test_a_worker_is_killed_with_what_it_has_started(tmp_path: Path) -> None:
    fifo = tmp_path / "pids"
    os.mkfifo(fifo)
    with launcher("sh", "-c", f"sleep 1000 & echo $$ $! > {fifo}; wait") as starts:
        starts.start(SPEC)
        pids = [int(pid) for pid in fifo.read_text().split()]
        starts.kill(6, 0)
        starts.kill(7, 1)
        assert starts.exits() == []
        starts.kill(7, 0)
        assert exits(starts) == [(7, 0, "was killed by signal 9")]
        starts.kill(7, 0)
        for pid in pids[1:]:
            if Path(f"/proc/{pid}").exists():
                wait_for_end(pid)


def test_closing_leaves_nothing_behind(tmp_path: Path) -> None:
    fifo = tmp_path / "pid"
    os.mkfifo(fifo)
    with launcher("sh", "-c", f"echo $$ > {fifo}; exec sleep 1000") as starts:
        starts.start(SPEC)
        pid = int(fifo.read_text())
    assert not Path(f"/proc/{pid}").exists()


def test_a_worker_that_does_not_listen_to_its_order_has_just_ended() -> None:
    with launcher("false") as starts:
        starts.start(SPEC)
        assert exits(starts) == [(7, 0, "ended with status 1")]


def test_a_program_that_is_not_there_is_named() -> None:
    with launcher("no-such-program", "{job}") as starts, pytest.raises(ConfigError, match=r"worker 0.*no-such") as no:
        starts.start(SPEC)
    assert no.value.hint == "its command is no-such-program jobs/revenue.py"


@pytest.mark.parametrize("line", [b"", b"{}", b"[]", b'{"spec": {}, "job": {}}', b"\xff"])
def test_what_is_no_order_is_refused(line: bytes) -> None:
    with pytest.raises(ConfigError, match="no worker's order"):
        WorkerOrder.from_line(line)
