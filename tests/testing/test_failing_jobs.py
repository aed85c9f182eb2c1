"""What the test kit says of jobs that cannot come to an end."""

from __future__ import annotations

from typing import Any

import pytest

import lakeward as lw
from lakeward.testing import PAUSE, CollectSink, JobHarness, ScriptedSource, SimulationViolation, job_harness, simulate


def test_a_job_that_fails_for_ever_says_what_it_fails_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(row: dict[str, Any]) -> dict[str, Any]:
        if row["n"] == 2:
            raise OSError("the service is down")
        return row

    def job(env: lw.StreamExecutionEnvironment) -> None:
        script = [[{"n": 1}], PAUSE, [{"n": 2}]]  # in the pause a checkpoint completes: failures are not in a row
        numbers = env.from_source(ScriptedSource({"n": int}, script), uid="numbers")
        numbers.map_async(ask, returns={"n": int}, uid="ask").sink_to(CollectSink(), uid="out")

    monkeypatch.setattr(job_harness, "VIRTUAL_MS_MAX", 3_000)
    with pytest.raises(AssertionError, match=r"restarted, the last time because of: .*the service is down"):
        JobHarness(job).run()


def test_a_failed_simulation_tells_of_the_users_job_and_not_of_a_program() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        env.from_collection([{"n": 1}], uid="numbers").sink_to(CollectSink(), uid="out")

    with pytest.raises(SimulationViolation, match="1 row lost") as caught:
        simulate(job, 1, expected=[{"n": 2}])
    report = str(caught.value)
    assert "interval_ms = " in report
    assert "program = " not in report
    assert "\n  rows = " not in report
