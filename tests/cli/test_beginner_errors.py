"""The ten worst mistakes of a beginner: each gives at most eight lines that say what, where, and what to do."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lakeward.cli.errors import render_error
from lakeward.testing.brokers import Broker

HEAD = """
import datetime as dt
import lakeward as lw
from lakeward import col

CATALOG = {"type": "sql", "uri": "sqlite:///WAREHOUSE/catalog.db", "warehouse": "file://WAREHOUSE"}
ROWS = [{"shop": "a", "amount": 3, "at": dt.datetime(2026, 1, 1)}]
env = lw.StreamExecutionEnvironment(checkpoint_interval="100ms")
"""


def run(tmp_path: Path, body: str, command: str = "run", **replace: str) -> list[str]:
    """Run a job file that must fail; returns the lines it leaves on standard error."""
    text = HEAD + textwrap.dedent(body)
    for name, value in {"WAREHOUSE": str(tmp_path), **replace}.items():
        text = text.replace(name, value)
    job = tmp_path / "job.py"
    job.write_text(text)
    (tmp_path / "tmp").mkdir(exist_ok=True)  # of its own: it would say what it removes there of other tests' dead jobs
    done = subprocess.run(
        [sys.executable, "-m", "lakeward.cli.main", command, str(job)], env=os.environ | {"TMPDIR": f"{tmp_path}/tmp"},
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 1, (done.returncode, lines)
    assert "Traceback" not in done.stderr
    assert len(lines) <= 8, lines
    return lines


def says(lines: list[str], *words: str) -> None:
    text = " ".join(" ".join(lines).split())
    for word in words:
        assert word in text, f"'{word}' is not in: {text}"


def test_no_broker(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    lines = run(
        tmp_path,
        """
        env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(restart=lw.RestartConfig(attempts_max=0)))
        orders = env.from_source(lw.KafkaSource("ADDRESS", "orders", format=lw.Json(schema={"a": int})), uid="orders")
        orders.sink_to(lw.PrintSink())
        env.execute("job")
        """,
        ADDRESS=address,
    )
    says(lines, "error:", address, "hint:", "orders", "job.py:")


@pytest.mark.kafka
def test_wrong_topic(tmp_path: Path, broker: Broker) -> None:
    broker.create_topic("beginner-orders", 1)
    lines = run(
        tmp_path,
        """
        env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(restart=lw.RestartConfig(attempts_max=0)))
        source = lw.KafkaSource("ADDRESS", "beginner-order", format=lw.Json(schema={"a": int}))
        env.from_source(source, uid="orders").sink_to(lw.PrintSink())
        env.execute("job")
        """,
        ADDRESS=broker.bootstrap,
    )
    says(lines, "beginner-order", "beginner-orders", "job.py:")


def test_wrong_column(tmp_path: Path) -> None:
    lines = run(tmp_path, 'env.from_collection(ROWS).filter(col("amuont") > 1).sink_to(lw.PrintSink())\n')
    says(lines, "amuont", "did you mean 'amount'", "job.py:9")


def test_type_mismatch(tmp_path: Path) -> None:
    lines = run(tmp_path, 'env.from_collection(ROWS).with_columns(x=col("amount") + col("shop"))\n')
    says(lines, "amount", "int64", "string", "hint:", "cast", "job.py:9")


def test_bad_expression(tmp_path: Path) -> None:
    lines = run(tmp_path, 'env.from_collection(ROWS).filter(col("amount") > 1 and col("shop") == "a")\n')
    says(lines, "&", "job.py:9")


def test_no_permission_on_the_directory(tmp_path: Path) -> None:
    # /proc refuses new directories to everybody, root too.
    lines = run(
        tmp_path,
        """
        env = lw.StreamExecutionEnvironment(checkpoint_dir="/proc/lakeward/checkpoints")
        env.from_collection(ROWS).sink_to(lw.BlackholeSink())
        env.execute("job")
        """,
    )
    says(lines, "/proc/lakeward", "hint:")


def test_a_checkpoint_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("not a directory")
    lines = run(
        tmp_path,
        """
        env = lw.StreamExecutionEnvironment(checkpoint_dir="WAREHOUSE/occupied")
        env.from_collection(ROWS).sink_to(lw.BlackholeSink())
        env.execute("job")
        """,
    )
    says(lines, "occupied", "hint:")


def test_catalog_locked(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "catalog.db") as other:
        other.execute("create table t (a)")
        other.commit()
        other.isolation_level = None
        other.execute("begin exclusive")
        lines = run(
            tmp_path,
            """
            env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(restart=lw.RestartConfig(attempts_max=0)))
            env.from_collection(ROWS).sink_to(lw.IcebergSink("db.t", catalog=CATALOG), uid="table")
            env.execute("job")
            """,
        )
    says(lines, "catalog.db", "locked", "hint:", "table")


def test_port_taken(tmp_path: Path) -> None:
    from lakeward.engine.core.errors import LakewardError
    from lakeward.testing.brokers import start_broker

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LakewardError) as caught:
            start_broker(tmp_path / "broker", kind="noida", port=port).stop()
    lines = render_error(caught.value)
    assert len(lines) <= 8
    says(lines, str(port), "hint:", "give another one")


def test_a_function_that_raises(tmp_path: Path) -> None:
    lines = run(
        tmp_path,
        """
        def share(row):
            return {"share": 100 // (row["amount"] - 3)}

        env.from_collection(ROWS).map(share, returns={"share": int}, uid="share").sink_to(lw.BlackholeSink())
        env.execute("job")
        """,
    )
    says(lines, "share", "ZeroDivisionError", "job.py:10", "amount", "hint:")


def test_a_schema_that_changed(tmp_path: Path) -> None:
    from lakeward import IcebergSink, StreamExecutionEnvironment

    catalog = {"type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}"}
    env = StreamExecutionEnvironment()
    env.from_collection([{"shop": "a", "amount": "three"}]).sink_to(IcebergSink("db.t", catalog=catalog), uid="t")
    env.execute("first")
    lines = run(
        tmp_path,
        """
        env.from_collection(ROWS).select("shop", "amount").sink_to(lw.IcebergSink("db.t", catalog=CATALOG), uid="table")
        env.execute("job")
        """,
    )
    says(lines, "db.t", "amount", "long", "string", "table", "hint:")


def test_a_file_that_does_not_exist_and_one_with_a_syntax_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lakeward.cli.main", "run", "nowhere.py"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "there is no file nowhere.py" in done.stderr
    says(run(tmp_path, "env.from_collection(ROWS\n"), "SyntaxError", "job.py:")


def test_a_job_that_writes_nothing(tmp_path: Path) -> None:
    says(run(tmp_path, 'env.from_collection(ROWS)\nenv.execute("job")\n'), "no sink", "sink_to")
