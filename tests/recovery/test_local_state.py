"""A job that is killed leaves its local state on the disk; its next start removes it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

JOB = """
import sys
import lakeward as lw

def held(row: dict[str, int]) -> dict[str, int]:
    if sys.argv[2:]:
        print("held", flush=True)
        sys.stdin.read()
    return row

sink = lw.MemorySink()
env = lw.StreamExecutionEnvironment(checkpoint_interval="1h", checkpoint_dir=sys.argv[1])
rows = env.from_collection([{"k": n % 7, "n": n} for n in range(100)], uid="rows")
totals = rows.key_by("k").aggregate(uid="totals", total=lw.sum("n"))
totals.to_changelog().map(held, returns={"op": str, "k": int, "total": int}, uid="held").sink_to(sink, uid="sink")
env.execute("local")
"""


@contextmanager
def running(folder: Path, checkpoints: str) -> Iterator[subprocess.Popen[str]]:
    """The job in mid-run, its state open."""
    command = [sys.executable, "-c", JOB, str(folder / checkpoints), "hold"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(folder), text=True, **pipes) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def environment(folder: Path) -> dict[str, str]:
    (folder / "tmp").mkdir(exist_ok=True)
    return os.environ | {"TMPDIR": str(folder / "tmp")}


def state(folder: Path) -> set[Path]:
    """The folders of local state, each with a RocksDB in it."""
    found = set((folder / "tmp").glob("lakeward-local-*"))
    assert all(list(one.glob("state/totals-0/CURRENT")) for one in found)
    return found


def test_a_start_removes_the_state_of_killed_jobs_and_leaves_that_of_living_ones(tmp_path: Path) -> None:
    with running(tmp_path, "first"):
        living = state(tmp_path)
        assert len(living) == 1
        for _ in range(2):
            with running(tmp_path, "second") as job:
                both = state(tmp_path)
                assert len(both) == 2
                assert living < both
                job.kill()
            assert state(tmp_path) == both
        subprocess.run([sys.executable, "-c", JOB, str(tmp_path / "second")], env=environment(tmp_path), check=True)
        assert state(tmp_path) == living
