"""Jobs of several worker processes in surroundings, and with functions, that are out of the ordinary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="forks")

JOB = Path(__file__).parent / "odd_processes_job.py"
CLOSED = 'exec "$0" "$@" >&-'


def run(what: str, folder: Path, *, shell: str = 'exec "$0" "$@"') -> tuple[int, str]:
    """A job's exit status, and what it says in its standard error."""
    outside = {name: value for name, value in os.environ.items() if name != "LAKEWARD_PROCESSES"}
    command = ["sh", "-c", shell, sys.executable, str(JOB), what]
    done = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, timeout=60, env=outside | {"TMPDIR": str(folder)}, check=False
    )
    assert not list(folder.glob("lakeward-local-*")), "something is left behind"
    return done.returncode, done.stderr


def test_a_function_that_exits_fails_the_job_at_once_and_is_shown(tmp_path: Path) -> None:
    status, said = run("exits", tmp_path)
    assert status == 1
    assert "UserCodeError: a function raised SystemExit: 3" in said
    assert "odd_processes_job.py:21 in exits: sys.exit(3)" in said
    assert "restarted" not in said


def test_an_error_that_is_longer_than_a_socket_holds_arrives_whole(tmp_path: Path) -> None:
    status, said = run("raises_much", tmp_path)
    assert status == 1
    assert said.count("y") > 20_000_000
    assert "restarted" not in said


def test_programs_that_functions_start_can_be_asked_to_end(tmp_path: Path) -> None:
    assert run("ends_a_program", tmp_path) == (0, "500\nend\n")


def test_a_script_without_standard_output_runs_its_job_and_ends_once(tmp_path: Path) -> None:
    assert run("plain", tmp_path, shell=CLOSED) == (0, "500\nend\n")


def test_a_job_on_one_thread_does_not_wait_for_a_later_one_on_another(tmp_path: Path) -> None:
    assert run("side_by_side", tmp_path) == (0, "short,long\n")
