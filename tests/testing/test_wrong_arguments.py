"""What newcomers hand to the test kit by mistake is refused by name, at their line, with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import ConfigError
from lakeward.testing import CollectSink, JobHarness, assert_survives_crashes, simulate

NUMBERS = [{"n": n} for n in range(4)]


def job(env: Any) -> None:
    env.from_collection(NUMBERS, uid="in").sink_to(CollectSink(), uid="out")


def two_sinks(env: Any) -> None:
    for uid in ("odd", "even"):
        env.from_collection(NUMBERS, uid=f"in-{uid}").sink_to(CollectSink(), uid=uid)


def crashed(**options: Any) -> None:
    assert_survives_crashes(options.pop("job", job), **options)


def simulated(**options: Any) -> None:
    simulate(options.pop("job", job), options.pop("seed", 1), **options)


def refused(run: Callable[[], object], said: str, hint: str = "") -> None:
    with pytest.raises(ConfigError) as caught:
        run()
    assert said in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.hint
    assert "test_wrong_arguments.py" in caught.value.location


async def asleep(env: Any) -> None:
    """Never awaited."""


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda a, b, c: None, "it is called as (a, b, c)"),
        (lambda env, *, rows: None, "it is called as (env, *, rows)"),
        (asleep, "it is async, and called as (env"),
        (max, "function 'max': how it is called is not known"),
        (5, "cannot be 5"),
        (None, "cannot be None"),
        ("job.py", "cannot be 'job.py'"),
    ],
    ids=["three", "by name", "async", "builtin", "number", "nothing", "file"],
)
@pytest.mark.parametrize("run", [JobHarness, assert_survives_crashes, lambda given: simulate(given, 1)])
def test_what_is_no_job_is_refused(run: Any, given: Any, said: str) -> None:
    refused(lambda: run(given), said, "def job(env): ...")


def test_a_decorated_job_and_one_that_returns_another_environment_are_taken() -> None:
    def decorated(*args: Any) -> None:
        job(*args)

    def returning(env: lw.StreamExecutionEnvironment) -> lw.StreamExecutionEnvironment:
        other = lw.StreamExecutionEnvironment(checkpoint_interval="50ms")
        job(other)
        return other

    for one in (decorated, returning, lambda env, folder, rows=4: job(env)):
        harness = JobHarness(one)
        assert harness.run().ended
        assert harness.rows() == NUMBERS


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"config": {"parallelism": 2}}, "JobHarness: config cannot be {'parallelism': 2}"),
        ({"checkpoints": "/tmp/checkpoints"}, "JobHarness: checkpoints cannot be '/tmp/checkpoints'"),
        ({"state": "rockdb"}, "the key-value store of state cannot be 'rockdb'"),
        ({"state": None}, "the key-value store of state cannot be None"),
        ({"clock": 5}, "JobHarness: clock cannot be 5"),
        ({"clock": lw.testing.ManualClock}, "JobHarness: clock cannot be <class"),
    ],
)
def test_a_harness_refuses_options_of_a_wrong_kind(options: Any, said: str) -> None:
    refused(lambda: JobHarness(job, **options), said)
    env = lw.StreamExecutionEnvironment()
    job(env)
    refused(lambda: JobHarness(env, **options), said)


@pytest.mark.parametrize("uid", [5, ["out"]])
def test_the_uid_of_a_sink_is_a_text(uid: Any) -> None:
    harness = JobHarness(job)
    harness.run()
    refused(lambda: harness.rows(uid), "the uid of a CollectSink cannot be", 'rows("out")')


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        (5, "expected cannot be 5"),
        ("abc", "expected cannot be 'abc'"),
        ((row for row in NUMBERS), "expected cannot be <generator"),
        ([1, 2], "expected: row 0 cannot be 1"),
        ([{"n": 1}, None], "expected: row 1 cannot be None"),
        ({"n": 1}, "expected: the rows of sink 'n' cannot be 1"),
        ({5: []}, "expected: the uid of a sink cannot be 5"),
        ({"outt": []}, "expected names the sink 'outt'; there are: out"),
    ],
)
@pytest.mark.parametrize("run", [crashed, simulated])
def test_an_expected_answer_that_is_none_is_refused(run: Any, expected: Any, said: str) -> None:
    refused(lambda: run(expected=expected), said)


def test_of_several_sinks_an_expected_answer_says_which() -> None:
    refused(
        lambda: crashed(job=two_sinks, expected=NUMBERS), "expected does not say of which sink; there are: even, odd"
    )
    refused(lambda: crashed(expected={"out": NUMBERS}, read=lambda folder: NUMBERS), "one without a name")


@pytest.mark.parametrize("expected", [NUMBERS, tuple(NUMBERS), pa.Table.from_pylist(NUMBERS), {"out": NUMBERS}])
def test_an_expected_answer_may_have_any_of_these_forms(expected: Any) -> None:
    simulated(expected=expected)
    batch = pa.RecordBatch.from_pylist(NUMBERS)
    simulated(expected=batch, read=lambda folder: {"out": batch})


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (5, "read cannot be 5"),
        (lambda: NUMBERS, "it is called as ()"),
        (lambda folder, more: [], "it is called as (folder, more)"),
        (lambda folder: None, "what read returned cannot be None"),
        (lambda folder: 5, "what read returned cannot be 5"),
        (lambda folder: [1], "what read returned: row 0 cannot be 1"),
    ],
)
@pytest.mark.parametrize("run", [crashed, simulated, lambda read: JobHarness(job).answer(read)])
def test_what_reads_no_rows_is_refused(run: Any, read: Any, said: str) -> None:
    refused(lambda: run(read=read), said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": "a"}, "simulate: seed cannot be 'a'"),
        ({"seed": None}, "simulate: seed cannot be None"),
        ({"seed": True}, "simulate: seed cannot be True"),
        ({"check": "no"}, "simulate: check cannot be 'no'"),
    ],
)
def test_a_simulation_refuses_options_of_a_wrong_kind(options: Any, said: str) -> None:
    refused(lambda: simulated(**options), said)


class Placed(lw.ProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.ProcessContext) -> Any:
        yield {"of": ctx.parallelism}


def test_a_config_counts_for_an_environment_that_was_made_before() -> None:
    env = lw.StreamExecutionEnvironment(parallelism=2)
    env.from_collection([{"n": 1}]).process(Placed(), returns={"of": int}, uid="p").sink_to(CollectSink(), uid="out")
    for config, parallelism in ((None, 2), (lw.EngineConfig(parallelism=3), 3)):
        harness = JobHarness(env, config=config)
        harness.run()
        assert harness.rows() == [{"of": parallelism}]


def test_a_folder_is_what_read_gets() -> None:
    seen: list[Path] = []

    def read(folder: Path) -> list[dict[str, Any]]:
        seen.append(folder)
        return []

    harness = JobHarness(job)
    assert harness.answer(read) == []
    assert seen == [harness.folder]
