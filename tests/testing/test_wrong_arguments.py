"""What newcomers hand to the test kit by mistake is refused by name, at their line, with what to give instead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.reduce import Reduce
from lakeward.testing import (
    CheckpointStoreSuite,
    CollectSink,
    HarnessConfig,
    JobHarness,
    KeyValueStoreSuite,
    LocalLake,
    ManualClock,
    OperatorHarness,
    SinkSuite,
    SourceSuite,
    assert_survives_crashes,
    simulate,
    start_broker,
)

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
        ({"clock": ManualClock}, "JobHarness: clock cannot be <class"),
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


SCHEMA = pa.schema({"k": pa.string(), "n": pa.int64()})
SUMS = Reduce(("k",), SCHEMA, lambda held, row: {**row, "n": held["n"] + row["n"]})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: OperatorHarness(5, SCHEMA), "OperatorHarness: factory cannot be 5"),  # type: ignore[arg-type]
        (lambda: OperatorHarness(Reduce, SCHEMA), "OperatorHarness: factory cannot be <class"),  # type: ignore[arg-type]
        (lambda: OperatorHarness(SUMS, None), "OperatorHarness: schema cannot be None"),  # type: ignore[arg-type]
        (lambda: OperatorHarness(SUMS, [5]), "OperatorHarness: schema cannot be 5"),  # type: ignore[list-item]
        (lambda: OperatorHarness(SUMS, SCHEMA, {"subtask": 1}), "config cannot be"),  # type: ignore[arg-type]
        (lambda: OperatorHarness(SUMS, SCHEMA, restored=5), "restored cannot be 5"),  # type: ignore[arg-type]
        (lambda: OperatorHarness.restore(SUMS, SCHEMA, [5]), "one of restored cannot be 5"),  # type: ignore[list-item]
        (lambda: HarnessConfig(subtask=1), "HarnessConfig: subtask cannot be 1"),
        (lambda: HarnessConfig(subtask="a"), "HarnessConfig: subtask cannot be 'a'"),  # type: ignore[arg-type]
        (lambda: HarnessConfig(parallelism=0), "HarnessConfig: parallelism cannot be 0"),
        (lambda: HarnessConfig(parallelism=500), "HarnessConfig: parallelism cannot be 500"),
        (lambda: HarnessConfig(store="x"), "HarnessConfig: store cannot be 'x'"),  # type: ignore[arg-type]
        (lambda: HarnessConfig(memory_bytes="1"), "memory_bytes cannot be '1'"),  # type: ignore[arg-type]
        (lambda: HarnessConfig(redaction=5), "HarnessConfig: redaction cannot be 5"),  # type: ignore[arg-type]
        (lambda: LocalLake(5), "LocalLake: folder cannot be 5"),  # type: ignore[arg-type]
        (lambda: start_broker(5), "start_broker: directory cannot be 5"),  # type: ignore[arg-type]
        (lambda: ManualClock().advance_ms("1s"), "ManualClock: a duration cannot be '1s'"),  # type: ignore[arg-type]
        (lambda: ManualClock().advance_ms(-1), "ManualClock: a duration cannot be -1"),
        (lambda: CollectSink().share(5), "CollectSink.share cannot be 5"),  # type: ignore[arg-type]
    ],
)
def test_harnesses_and_services_refuse_arguments_of_a_wrong_kind(make: Callable[[], object], said: str) -> None:
    refused(make, said)


@pytest.mark.parametrize(
    ("use", "said"),
    [
        (lambda harness: harness.send(5), "OperatorHarness.send: rows cannot be 5"),
        (lambda harness: harness.send({"k": "a"}), "rows cannot be {'k': 'a'}"),
        (lambda harness: harness.send([5]), "rows: row 0 cannot be 5"),
        (lambda harness: harness.send([{"k": "a"}, {"k": 5}]), "rows: row 1 has 5 (int) in column 'k'"),
        (lambda harness: harness.send([{"kk": "a"}]), "rows: row 0 has 'kk', and its schema has only k, n"),
        (lambda harness: harness.send(pa.record_batch({"k": ["a"]})), "it lacks column 'n' (int64)"),
        (lambda harness: harness.send(pa.table({"k": [1], "n": [1]})), "its column 'k' is int64, not string"),
        (lambda harness: harness.send([], 1), "the number of an input cannot be 1"),
        (lambda harness: harness.end_input("a"), "the number of an input cannot be 'a'"),
        (lambda harness: harness.watermark("1s"), "an event time cannot be '1s'"),
        (lambda harness: harness.tick("1s"), "OperatorHarness.tick: advance_ms cannot be '1s'"),
        (lambda harness: harness.tick(-1), "OperatorHarness.tick: advance_ms cannot be -1"),
        (lambda harness: harness.finish(0), "OperatorHarness.finish: a place cannot be 0"),
        (lambda harness: harness.take_side(5), "OperatorHarness.take_side: tag cannot be 5"),
    ],
)
def test_an_operator_harness_refuses_what_it_cannot_hand_over(use: Callable[[Any], object], said: str) -> None:
    with OperatorHarness(SUMS, {"k": str, "n": int}) as harness:
        refused(lambda: use(harness), said)
        harness.send([{"k": "a", "n": 1}, {"k": "a", "n": 2}])
        assert [row["n"] for row in harness.take()] == [1, 3], "it goes on as if nothing had been tried"
        assert harness.take_side(lw.OutputTag("late")) == []


@pytest.mark.parametrize(
    ("suite", "method", "returned"),
    [
        (SourceSuite, "make_source", 5),
        (SourceSuite, "expected_rows", 5),
        (SinkSuite, "make_harness", None),
        (KeyValueStoreSuite, "make_factory", 5),
        (CheckpointStoreSuite, "make_store", dict),
    ],
)
def test_a_suite_says_which_method_returned_something_else(suite: Any, method: str, returned: Any) -> None:
    methods = {"make_source": lambda self: lw.CollectionSource(NUMBERS), "expected_rows": lambda self: NUMBERS}
    made = type("TestMine", (suite,), {**methods, method: lambda self: returned})()
    check = next(name for name in dir(made) if name.startswith("test_"))
    with pytest.raises(ConfigError, match=f"what {method} returned cannot be"):
        getattr(made, check)()
