"""SIGINT and SIGTERM stop a job with a last checkpoint; a second SIGINT stops it hard."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.dataset as ds
import pytest

JOB = Path(__file__).parent / "endless_job.py"
DEADLINE_S = 60.0


@contextmanager
def running(directory: Path, *extra: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(JOB), str(directory / "checkpoints"), str(directory / "out"), *extra]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            yield process
        finally:
            process.kill()


def files(directory: Path) -> set[Path]:
    folders = os.walk(directory / "out")  # unlike rglob it minds no folder that goes while it looks
    return {Path(folder) / name for folder, _, names in folders for name in names if ".parquet" in name}


def wait_for_rows(process: subprocess.Popen[str], directory: Path, before: set[Path]) -> None:
    """Until the job has begun to write (nothing is committed yet)."""
    deadline = time.monotonic() + DEADLINE_S
    while not files(directory) - before:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the job writes nothing"


def rows(directory: Path) -> int:
    return int(ds.dataset(str(directory / "out"), format="parquet").count_rows())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_stops_the_job_with_a_last_checkpoint_and_it_goes_on_there(
    number: signal.Signals, tmp_path: Path
) -> None:
    counts = []
    for restored in ("None", "1"):
        before = files(tmp_path)
        with running(tmp_path) as process:
            wait_for_rows(process, tmp_path, before)
            process.send_signal(number)
            out, error = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, error
        assert re.search(rf"stopped ended=False restored={restored} checkpoint=\d", out), out
        counts.append(rows(tmp_path))
    assert 0 < counts[0] < counts[1]


def test_a_second_interrupt_stops_hard_and_leaves_nothing_visible(tmp_path: Path) -> None:
    with running(tmp_path, "stuck") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        assert "stopping after a last checkpoint" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode != 0
    assert not [path for path in (tmp_path / "out").glob("*.parquet") if not path.name.startswith(("_", "."))]
