"""`lakeward run`, `explain` and `checkpoints`, as a user types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

JOB = """
import lakeward as lw

def build():
    env = lw.StreamExecutionEnvironment(checkpoint_interval="50ms", checkpoint_dir="checkpoints")
    rows = lw.NexmarkSource(20_000)
    watermark = lw.WatermarkStrategy.monotonous("dateTime")
    bids = env.from_source(rows, watermark=watermark, uid="bids")
    windows = bids.key_by("auction").window(lw.Tumbling("1s")).aggregate(n=lw.count(), uid="windows")
    windows.sink_to(lw.FilesSink("out"), uid="files")
    env.execute("nexmark")

if __name__ == "__main__":
    build()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def lakeward(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lakeward.cli.main", *arguments],
        cwd=directory, capture_output=True, text=True, check=False, timeout=120, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_a_job_is_run_from_a_file_and_its_checkpoints_can_be_looked_at(directory: Path) -> None:
    ran = lakeward(directory, "run", "job.py")
    assert ran.returncode == 0, ran.stderr
    listed = lakeward(directory, "checkpoints", "list", "checkpoints").stdout
    assert "ready" in listed
    assert "input ended" in listed
    shown = lakeward(directory, "checkpoints", "show", "checkpoints").stdout
    assert "of job 'nexmark'" in shown
    assert "split bid-0: finished" in shown
    assert "key groups 0 .. 127" in shown
    verified = lakeward(directory, "checkpoints", "verify", "checkpoints")
    assert verified.returncode == 0
    assert "0 damaged" in verified.stdout


def test_a_damaged_checkpoint_is_named_and_gives_exit_status_one(directory: Path) -> None:
    lakeward(directory, "run", "job.py")
    manifest = max((directory / "checkpoints").rglob("manifest-*.json"))
    manifest.write_bytes(manifest.read_bytes().replace(b'"nexmark"', b'"Nexmark"'))
    verified = lakeward(directory, "checkpoints", "verify", "checkpoints")
    assert verified.returncode == 1
    assert "1 damaged" in verified.stdout
    assert "checkpoint" in verified.stderr


def test_a_checkpoint_or_directory_that_is_not_there_is_named(directory: Path) -> None:
    lakeward(directory, "run", "job.py")
    assert "there is no checkpoint 999" in lakeward(directory, "checkpoints", "show", "checkpoints", "999").stderr
    assert "there is no checkpoint in .\n  hint: give the job" in lakeward(directory, "checkpoints", "show", ".").stderr
    assert "there is no directory nowhere" in lakeward(directory, "checkpoints", "list", "nowhere").stderr


def test_a_function_of_a_module_is_run_too_with_other_options(directory: Path) -> None:
    ran = lakeward(directory, "run", "job:build", "--parallelism", "2", "--checkpoint-dir", "elsewhere")
    assert ran.returncode == 0, ran.stderr
    assert (directory / "elsewhere").is_dir()
    assert not (directory / "checkpoints").exists()
    assert "no function 'biuld'" in lakeward(directory, "run", "job:biuld").stderr
    assert "no module 'jobs'" in lakeward(directory, "run", "jobs:build").stderr


def test_explain_shows_the_plan_and_runs_nothing(directory: Path) -> None:
    shown = lakeward(directory, "explain", "job.py", "--parallelism", "2")
    assert shown.returncode == 0, shown.stderr
    assert "job nexmark" in shown.stdout
    assert "task windows (parallelism 2)" in shown.stdout
    assert "<- hash by auction from" in shown.stdout
    assert not (directory / "out").exists()
    assert not (directory / "checkpoints").exists()


TOTALS = """
import lakeward as lw

env = lw.StreamExecutionEnvironment(checkpoint_dir="checkpoints")
words = env.from_collection([{"word": word} for word in "abcab"], uid="words")
words.key_by("word").aggregate(n=lw.count(), uid="totals").sink_to(lw.BlackholeSink(), uid="nowhere")
env.execute("words")
"""


def test_a_savepoint_is_written_looked_into_and_started_from(directory: Path) -> None:
    (directory / "totals.py").write_text(TOTALS)
    lakeward(directory, "run", "totals.py")
    saved = lakeward(directory, "savepoint", "checkpoints", "saved")
    assert saved.returncode == 0, saved.stderr
    assert "checkpoint 1 is saved in saved" in saved.stdout
    assert "checkpoints already" in lakeward(directory, "savepoint", "checkpoints", "saved").stderr

    assert "totals  group  3 rows" in lakeward(directory, "state", "list", "saved").stdout
    shown = lakeward(directory, "state", "read", "saved", "--uid", "totals").stdout.splitlines()
    assert sorted(shown)[0] == "{'namespace': 0, 'word': 'a', 'rows': 2}"
    written = lakeward(directory, "state", "read", "saved", "--uid", "totals", "--to", "out.parquet")
    assert "3 rows in out.parquet" in written.stdout
    assert pq.read_table(directory / "out.parquet").num_rows == 3
    assert "did you mean 'totals'" in lakeward(directory, "state", "read", "saved", "--uid", "total").stderr
    assert (
        "call it .parquet or .csv"
        in lakeward(directory, *["state", "read", "saved", "--uid", "totals", "--to", "x.orc"]).stderr
    )

    again = ("run", "totals.py", "--from", "saved", "--checkpoint-dir", "second", "--parallelism", "2")
    for _ in range(2):  # the same command once more goes on
        begun = lakeward(directory, *again)
        assert begun.returncode == 0, begun.stderr
        assert "going on from checkpoint 1" in begun.stderr
    assert "used already, and not from this savepoint" in lakeward(directory, *again[:4]).stderr
    assert "there is no directory nowhere" in lakeward(directory, "run", "totals.py", "--from", "nowhere").stderr


def test_state_of_an_operator_that_is_gone_is_dropped_by_its_name_only(directory: Path) -> None:
    (directory / "totals.py").write_text(TOTALS)
    lakeward(directory, "run", "totals.py")
    lakeward(directory, "savepoint", "checkpoints", "saved")
    (directory / "totals.py").write_text(TOTALS.replace("totals", "counts"))
    begin = ("run", "totals.py", "--from", "saved", "--checkpoint-dir", "second")
    assert "holds state of 'totals', which the job no longer has" in lakeward(directory, *begin).stderr
    assert lakeward(directory, *begin, "--drop-state", "totals").returncode == 0
