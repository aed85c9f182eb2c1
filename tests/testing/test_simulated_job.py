"""`simulate` runs a user's job under faults from a seed, compares its rows, and finds jobs that lose or double some."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.core.errors import ConfigError
from lakeward.testing import ABORT, BARRIER, EOF, FAIL, PAUSE, CollectSink, ScriptedSource, simulate
from lakeward.testing.simulation import SimulationViolation

SCHEMA = pa.schema({"k": pa.int64(), "n": pa.int64(), "at": pa.timestamp("us")})
ROWS = [{"k": n % 5, "n": n, "at": n * 1_000_000} for n in range(90)]
TIME = lw.WatermarkStrategy.monotonous("at")


@pytest.fixture(autouse=True)
def _no_warnings_of_simulated_faults() -> Any:
    log = logging.getLogger("lakeward")
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(logging.NOTSET)


def double(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "n": row["n"] * 2}


def job(env: lw.StreamExecutionEnvironment) -> None:
    rows = env.from_collection(ROWS, schema=SCHEMA, watermark=TIME, uid="in").map(double, returns=SCHEMA, uid="double")
    rows.key_by("k").window(lw.Tumbling("20s")).aggregate(uid="windows", n=lw.sum("n")).sink_to(
        CollectSink(), uid="out"
    )
    rows.key_by("k").aggregate(uid="sums", n=lw.sum("n")).sink_to(CollectSink(), uid="totals")


def scripted(env: lw.StreamExecutionEnvironment) -> None:
    script = [
        ROWS[:20],
        BARRIER,
        ROWS[20:25],
        FAIL,
        ROWS[25:40],
        PAUSE(50),
        ROWS[40:41],
        ABORT,
        ROWS[41:60],
        EOF,
        ROWS[60:],
    ]
    source = ScriptedSource(SCHEMA, script, [ROWS[:9], ABORT, ROWS[9:30]])
    env.from_source(source, uid="in").filter(col("n") > 4, uid="some").sink_to(CollectSink(), uid="out")


@pytest.mark.parametrize("seed", range(12))
def test_a_job_that_keeps_its_rows_passes_whatever_befalls_it(seed: int) -> None:
    result = simulate(job, seed)
    assert sum(row["n"] for row in result.rows["totals"]) == 2 * sum(range(90))
    assert result.starts >= 1


@pytest.mark.parametrize("seed", range(8))
def test_scripts_and_their_marks_are_part_of_it(seed: int) -> None:
    result = simulate(scripted, seed)
    assert result.starts > 3, "two crashes and an EOF are in the script"
    assert len(result.rows["out"]) == 110


def test_faults_do_happen() -> None:
    faults = [fault for seed in range(10) for fault in simulate(job, seed).faults]
    assert "the process dies at a port call" in faults
    assert len(set(faults)) > 5


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    first, again, other = simulate(job, 3), simulate(job, 3), simulate(job, 4)
    assert first == again
    assert first.trace_hash != other.trace_hash


def failing(job: Any, before: Callable[[], None] = lambda: None, **options: Any) -> SimulationViolation:
    for seed in range(40):
        before()
        try:
            simulate(job, seed, **options)
        except SimulationViolation as violation:
            return violation
    raise AssertionError("no seed found it")


def test_a_function_that_counts_in_python_is_found_and_the_seed_is_said() -> None:
    def counting(env: lw.StreamExecutionEnvironment) -> None:
        seen = {"rows": 0}

        def number(row: dict[str, Any]) -> dict[str, Any]:
            seen["rows"] += 1
            return {"n": row["n"], "number": seen["rows"]}

        rows = env.from_collection(ROWS, schema=SCHEMA, uid="in")
        rows.map(number, returns={"n": int, "number": int}, uid="number").sink_to(CollectSink(), uid="out")

    found = failing(counting)
    assert "lost" in found.problem
    assert f"run it again: simulate(job, seed={found.seed})" in str(found)


def test_an_error_of_the_jobs_own_that_comes_with_the_faults_is_found() -> None:
    starts: list[int] = []

    def fragile(env: lw.StreamExecutionEnvironment) -> None:
        starts.append(1)

        def check(row: dict[str, Any]) -> bool:
            if len(starts) > 6:
                raise ValueError("I was started too often")
            return True

        env.from_collection(ROWS, schema=SCHEMA, uid="in").filter(check, uid="check").sink_to(CollectSink(), uid="out")

    assert "I was started too often" in failing(fragile, before=starts.clear).problem


def test_an_answer_may_be_given_and_need_not_be_compared() -> None:
    assert "lost: {at:" in failing(scripted, expected=ROWS).problem
    assert len(simulate(scripted, 1, expected=ROWS, check=False).rows["out"]) == 110


def test_a_sink_of_ones_own_is_read_as_one_says() -> None:
    def into_files(env: lw.StreamExecutionEnvironment, folder: Path) -> None:
        rows = env.from_collection(ROWS, schema=SCHEMA, uid="in").select("n")
        rows.sink_to(lw.FilesSink(folder / "table", format="jsonl"), uid="files")

    def files_of(folder: Path) -> list[dict[str, Any]]:
        text = "".join(file.read_text() for file in (folder / "table").glob("*.jsonl"))
        return [{"n": int(line.split(":")[1].strip(" }"))} for line in text.splitlines()]

    for seed in range(6):
        simulate(into_files, seed, read=files_of, expected=[{"n": n} for n in range(90)])


def test_a_job_without_an_end_is_refused() -> None:
    source = ScriptedSource(SCHEMA, [ROWS], bounded=False)
    with pytest.raises(ConfigError, match="has no end"):
        simulate(lambda env: env.from_source(source, uid="in").sink_to(CollectSink(), uid="out"), 1)
