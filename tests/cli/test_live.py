"""What is shown of a running job: on a terminal, in a pipe, and in logs for machines."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lakeward.cli.live import LineKeepingHandler, LiveLine
from lakeward.cli.logs import JsonFormatter
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.log_scope import in_scope, log_fields, log_scope, note_in_scope
from lakeward.engine.runtime.status import JobStatus

JOB = """
import lakeward as lw

env = lw.StreamExecutionEnvironment(checkpoint_dir="checkpoints")
rows = env.from_source(lw.NexmarkSource(400_000), watermark=lw.WatermarkStrategy.monotonous("dateTime"), uid="bids")
odd = rows.map(lambda row: {"n": 1 // (row["price"] % 1000)}, returns={"n": int}, on_error=lw.OnError.skip(), uid="odd")
odd.sink_to(lw.BlackholeSink(), uid="out")
env.execute("shown")
"""
LAKEWARD = [sys.executable, "-m", "lakeward.cli.main"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text(JOB)
    return tmp_path


def status(rows: int, **other: Any) -> JobStatus:
    return JobStatus(rows, None, CheckpointId(3), **other)


def test_a_terminal_has_one_line_that_is_written_over_and_gone_in_the_end() -> None:
    clock, terminal = ManualClock(), io.StringIO()
    line = LiveLine(clock, terminal, terminal=True)
    line(status(10))
    assert terminal.getvalue() == ""
    clock.advance_ms(500)
    line(status(1_000))
    clock.advance_ms(1_000)
    line(status(4_000, restarts=2))
    line.close()
    assert terminal.getvalue().split("\r\x1b[2K") == [
        "",
        "1,000 rows  2,000 rows/s  checkpoint 3",
        "4,000 rows  3,000 rows/s  checkpoint 3  2 restarts",
        "",
    ]


def test_log_lines_stand_above_the_line() -> None:
    clock, terminal = ManualClock(), io.StringIO()
    line = LiveLine(clock, terminal, terminal=True)
    clock.advance_ms(500)
    line(status(1_000))
    LineKeepingHandler(terminal, line).emit(logging.makeLogRecord({"msg": "something", "levelno": 30}))
    shown = "1,000 rows  2,000 rows/s  checkpoint 3"
    assert terminal.getvalue() == f"\r\x1b[2K{shown}\r\x1b[2Ksomething\n{shown}"


def test_elsewhere_a_line_is_logged_every_ten_seconds() -> None:
    clock = ManualClock()
    lines: list[str] = []
    line = LiveLine(clock, io.StringIO(), terminal=False, log=lines.append)
    for number in range(1, 26):
        clock.advance_ms(1_000)
        line(status(number * 100))
    line.close()
    assert lines == ["1,000 rows  100 rows/s  checkpoint 3", "2,000 rows  100 rows/s  checkpoint 3"]


def test_log_lines_for_machines_say_what_they_are_about_on_every_thread() -> None:
    record = logging.makeLogRecord(
        {"msg": "%d rows of caf\udce9", "args": (3,), "levelname": "INFO", "operator": "odd"}
    )
    with log_scope(job="revenue"):
        work = in_scope(lambda: json.loads(JsonFormatter().format(record)))
        note_in_scope(attempt=2, checkpoint=7)
    assert log_fields() == {}
    found = work()
    assert found.pop("time").endswith("+00:00")
    assert found == {
        "level": "info", "message": "3 rows of caf\\udce9", "job": "revenue", "attempt": 2, "checkpoint": 7,
        "operator": "odd",
    }  # fmt: skip


def test_the_log_of_a_run_is_json_line_by_line_and_its_error_too(folder: Path) -> None:
    command = [*LAKEWARD, "--log-format", "json", "run"]
    run = subprocess.run([*command, "job.py"], cwd=folder, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in run.stderr.splitlines()]
    skipped = [line for line in lines if line.get("operator") == "odd"]
    assert {(line["job"], line["attempt"], line["level"]) for line in skipped} == {("shown", 1, "warning")}
    failed = subprocess.run(
        [*LAKEWARD, "--log-format", "json", "run", "x.py"], cwd=folder, capture_output=True, text=True
    )
    assert failed.returncode == 1
    assert json.loads(failed.stderr)["message"].startswith("there is no file x.py")


def test_a_run_on_a_terminal_shows_its_rows(folder: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "200"}
    with subprocess.Popen([*LAKEWARD, "run", "job.py"], cwd=folder, stderr=theirs, env=environment) as run:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65_536):
                shown += part
        except OSError:  # Linux says so when the other side is closed
            pass
        os.close(ours)
    assert run.returncode == 0
    assert b"rows/s  event time 2026-01-01" in shown
    assert b"WARNING operator 'odd'" in shown
    assert shown.endswith(b"\r\x1b[2K")
