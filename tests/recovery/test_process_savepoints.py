"""A job of several worker processes is stopped or killed, and goes on from a savepoint with another number of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from savepoint_job import TABLES

import lakeward as lw

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="processes are forked"),
    pytest.mark.timeout(180),
]

JOB = Path(__file__).parent / "savepoint_job.py"
EVENTS = 12_000
DEADLINE_S = 60.0
SLOW_S = 0.02
"""For each batch of 100 rows, so that the job can be met at work."""
DEFAULT = [(1, 3), (3, 2), (2, 1), (4, 3)]
ALL = [(before, after) for before in range(1, 9) for after in range(1, 9) if (before, after) not in DEFAULT]


def start(folder: Path, **options: Any) -> subprocess.Popen[str]:
    defaults = {"events": EVENTS, "batch_s": 0, "alignment_ms": None, "savepoint": None, "folder": str(folder)}
    outside = {name: value for name, value in os.environ.items() if name != "LAKEWARD_PROCESSES"}
    command = [sys.executable, str(JOB), json.dumps(defaults | options)]
    with (folder / "job.log").open("ab") as log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=outside)


def end(process: subprocess.Popen[str], folder: Path) -> None:
    said, _ = process.communicate(timeout=DEADLINE_S)
    assert (said, process.returncode) == ("ended\n", 0), (folder / "job.log").read_text()


def answers(folder: Path) -> dict[str, list[str]]:
    """What the tables hold, a line a row."""
    return {
        name: sorted(line for file in (folder / name).glob("*.jsonl") for line in file.read_text().splitlines())
        for name in TABLES
    }


@cache
def straight() -> dict[str, list[str]]:
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        end(start(folder, parallelism=1, checkpoints=f"{folder}/checkpoints"), folder)
        answer = answers(folder)
    assert all(answer.values()), "every part of the job answers something"
    return answer


def wait_for_checkpoint(process: subprocess.Popen[str], checkpoints: Path, folder: Path) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while len(list(checkpoints.glob("checkpoints/**/*commit*"))) < 2:
        assert process.poll() is None, (folder / "job.log").read_text()
        assert time.monotonic() < deadline, (folder / "job.log").read_text()


def check_pair(before: int, after: int, folder: Path) -> None:
    """The job ends in the middle, well if the sum is even, else by kill -9; another goes on from its savepoint."""
    first, second, saved = folder / "first", folder / "second", folder / "saved"
    unaligned = 0 if before % 2 else None
    process = start(folder, parallelism=before, checkpoints=str(first), batch_s=SLOW_S, alignment_ms=unaligned)
    try:
        wait_for_checkpoint(process, first, folder)
        process.send_signal(signal.SIGTERM if (before + after) % 2 == 0 else signal.SIGKILL)
        process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
    lw.savepoint(str(first), str(saved))
    end(start(folder, parallelism=after, checkpoints=str(second), savepoint=str(saved)), folder)
    assert answers(folder) == straight()


@pytest.mark.parametrize(("before", "after"), DEFAULT)
def test_a_savepoint_of_worker_processes_is_restored_by_any_number_of_them(
    before: int, after: int, tmp_path: Path
) -> None:
    check_pair(before, after, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize(("before", "after"), ALL)
def test_a_savepoint_of_up_to_eight_worker_processes_is_restored_by_any_number_up_to_eight(
    before: int, after: int, tmp_path: Path
) -> None:
    check_pair(before, after, tmp_path)
