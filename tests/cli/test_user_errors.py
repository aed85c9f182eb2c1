"""What is printed when a function of the user's fails: by the command line, and by Python for `python job.py`."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

JOB = """
import json
import lakeward as lw

ROWS = [
    {"id": i, "body": '{"amount": 1}', "email": "ada@example.org", "card": {"number": "4111-1111"}} for i in range(5)
]
ROWS[3]["body"] = "{broken"


def amount(text):
    return json.loads(text)["amount"]


def parse(row):
    if row["id"] == MENTIONS:
        raise ValueError(f"no account of {row['email']}")
    return {"id": row["id"], "amount": amount(row["body"])}


env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(redact_columns=("email", "card.*")))
parsed = env.from_collection(ROWS, uid="orders").filter(lw.col("id") >= 1).map(
    parse, returns={"id": int, "amount": int}, uid="parse", on_error=ON_ERROR
)
parsed.sink_to(lw.PrintSink(), uid="print")
if __name__ == "__main__":
    env.execute("orders")
"""

CLI = ("-m", "lakeward.cli.main")


def run(tmp_path: Path, *command: str, mentions: int = -1, on_error: str = "lw.OnError.fail()") -> tuple[int, str]:
    job = tmp_path / "job.py"
    job.write_text(textwrap.dedent(JOB).replace("MENTIONS", str(mentions)).replace("ON_ERROR", on_error))
    here = {**os.environ, "TMPDIR": str(tmp_path)}  # what killed jobs have left elsewhere is not this one's business
    command = (sys.executable, *command, "job.py")
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr


def test_the_command_line_shows_the_user_s_lines_the_row_and_where_it_was_read(tmp_path: Path) -> None:
    code, text = run(tmp_path, *CLI, "run")
    assert code == 1
    assert text.splitlines() == [
        "error: function 'parse' (job.py:15) raised JSONDecodeError: Expecting property name enclosed in double "
        "quotes:",
        "  line 1 column 2 (char 1)",
        '  > job.py:18 in parse: return {"id": row["id"], "amount": amount(row["body"])}',
        '  > job.py:12 in amount: return json.loads(text)["amount"]',
        "  ... 3 frames of json",
        "  row: {'id': 3, 'body': '{broken', 'email': ***, 'card': {'number': ***}}",
        "  read from: collection, row 3",
        "  hint: handle such rows in the function, or say what becomes of them: on_error=lw.OnError.skip(), for "
        "example",
        "  at: operator 'parse', job.py:22",
    ]


def test_python_prints_no_frames_of_the_engine(tmp_path: Path) -> None:
    code, text = run(tmp_path)
    assert code == 1
    assert text.count("/engine/") == 0
    assert text.count("\n") <= 40
    for words in (
        "JSONDecodeError",
        'job.py:12 in amount: return json.loads(text)["amount"]',
        "read from: collection, row 3",
    ):
        assert words in text


@pytest.mark.parametrize("command", [(), (*CLI, "run"), (*CLI, "--traceback", "run")])
def test_what_is_hidden_is_printed_nowhere(tmp_path: Path, command: tuple[str, ...]) -> None:
    code, text = run(tmp_path, *command, mentions=2)
    assert code == 1
    assert "raised ValueError: no account of ***" in text
    assert "ada@example.org" not in text
    assert "4111" not in text


def test_the_traceback_option_shows_every_frame_of_the_exception(tmp_path: Path) -> None:
    _, text = run(tmp_path, *CLI, "--traceback", "run")
    for words in (
        "in raw_decode",
        "json.decoder.JSONDecodeError",
        "guarded_calls.py",
        "UserCodeError: operator 'parse'",
    ):
        assert words in text


def test_skipped_rows_are_logged_in_one_line_and_the_job_goes_on(tmp_path: Path) -> None:
    code, text = run(tmp_path, *CLI, "run", on_error="lw.OnError.skip()")
    assert code == 0
    lines = [line for line in text.splitlines() if "WARNING" in line]
    assert len(lines) == 1
    assert "operator 'parse': 1 row failed and left out; the last: " in lines[0]
    assert "job.py:12 in amount" in lines[0]


def test_an_exception_of_the_job_file_itself_shows_its_line(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import json\n\nSCHEMA = json.loads('{')\n")
    done = subprocess.run(
        [sys.executable, *CLI, "run", "job.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "> job.py:3 in <module>: SCHEMA = json.loads('{')" in done.stderr
    assert "... 3 frames of json" in done.stderr
    (tmp_path / "job.py").write_text("def broken(:\n")
    done = subprocess.run(
        [sys.executable, *CLI, "run", "job.py"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "SyntaxError" in done.stderr
    assert "at: job.py:1" in done.stderr
