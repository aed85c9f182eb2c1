"""kill -9 of a real process that writes files: nothing is lost, nothing doubled, and no reader sees a torn file."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakeward.connectors.nexmark import NexmarkSource
from lakeward.engine.core.clock import SystemClock

EVENTS = 300_000
DEADLINE_MS = 60_000
JOB = """
import sys
import lakeward as lw

env = lw.StreamExecutionEnvironment(checkpoint_interval="40ms", checkpoint_dir=f"file://{sys.argv[1]}/checkpoints")
bids = env.from_source(lw.NexmarkSource(int(sys.argv[2]), splits=2, rate=200_000, paced=True), uid="bids")
bids.sink_to(lw.FilesSink(f"{sys.argv[1]}/out"), uid="files")
env.execute("kill-files")
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", JOB, str(folder), str(EVENTS)], stderr=subprocess.PIPE)


def visible(folder: Path) -> list[Path]:
    return sorted((folder / "out").glob("*.parquet"))


def kill_after(job: subprocess.Popen[bytes], folder: Path, files: int) -> bool:
    """Kill it when so many more files are visible; whether it had not ended before."""
    clock, before = SystemClock(), len(visible(folder))
    end_ms = clock.monotonic_ms() + DEADLINE_MS
    while job.poll() is None and len(visible(folder)) < before + files:
        assert clock.monotonic_ms() < end_ms, "the job makes no files"
        clock.sleep_ms(1)
    job.kill()
    job.communicate()
    return job.returncode == -signal.SIGKILL


@pytest.mark.kill
@pytest.mark.timeout(180)
def test_a_killed_job_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    for files in (1, 4, 2):
        assert kill_after(start(tmp_path), tmp_path, files)
        for file in visible(tmp_path):
            pq.read_metadata(file)  # whole, or it would raise
    last = start(tmp_path)
    _, errors = last.communicate(timeout=120)
    assert last.returncode == 0, errors.decode()
    rows = pa.concat_tables([pq.read_table(file) for file in visible(tmp_path)])
    expected = NexmarkSource(None, rate=200_000).read(0, 0, EVENTS)
    order = [(name, "ascending") for name in rows.column_names]
    assert rows.sort_by(order).equals(pa.table(expected).sort_by(order))
