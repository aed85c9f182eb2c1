"""What becomes of rows on which a user's function fails: fail, retry, skip, side output."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import OnError
from lakeward.engine.core.errors import (
    ConfigError,
    GraphError,
    LakewardError,
    RecordError,
    SchemaError,
    SourceError,
    UserCodeError,
)
from lakeward.engine.core.redaction import FailedRow, Redaction
from lakeward.operators.arguments import call_error
from lakeward.operators.error_policy import FAILED, RETRY_WAIT_MAX_MS, RowErrors, failed_rows_schema
from lakeward.operators.rows import CHUNK_ROWS
from lakeward.operators.udf import FilterRows, FlatMapRows, MapBatches, MapRows
from lakeward.testing import BARRIER, FAIL, ScriptedSource
from lakeward.testing.harness import HarnessConfig, OperatorHarness

SCHEMA = pa.schema({"n": pa.int64(), "text": pa.string()})
OUT = pa.schema({"n": pa.int64()})
FAILING = lw.OutputTag("failing")
SIDE = OnError.side_output(FAILING)
BAD = {3, CHUNK_ROWS + 1, CHUNK_ROWS + 2, 3 * CHUNK_ROWS - 1}
ROWS = [{"n": n, "text": f"text-{n}"} for n in range(3 * CHUNK_ROWS)]
GOOD = [n for n in range(3 * CHUNK_ROWS) if n not in BAD]


class Refused(Exception):
    """What the functions under test raise."""


def refusing(n: int) -> int:
    if n in BAD:
        raise Refused(f"not {n}")
    return n


def of_a_map(on_error: OnError) -> MapRows:
    return MapRows(lambda row: {"n": refusing(row["n"])}, SCHEMA, OUT, on_error=on_error)


def of_a_positional_map(on_error: OnError) -> MapRows:
    return MapRows(lambda n, text: (refusing(n),), SCHEMA, OUT, on_error=on_error)


def of_a_map_whose_results_do_not_fit(on_error: OnError) -> MapRows:
    return MapRows(lambda row: {"n": str(row["n"]) if row["n"] in BAD else row["n"]}, SCHEMA, OUT, on_error=on_error)


def of_a_map_that_lacks_a_column(on_error: OnError) -> MapRows:
    return MapRows(lambda row: {} if row["n"] in BAD else {"n": row["n"]}, SCHEMA, OUT, on_error=on_error)


def of_a_map_that_stops_iteration(on_error: OnError) -> MapRows:
    def stopping(row: dict[str, Any]) -> dict[str, int]:
        return {"n": row["n"] if row["n"] not in BAD else next(iter([]))}

    return MapRows(stopping, SCHEMA, OUT, on_error=on_error)


def of_a_flat_map(on_error: OnError) -> FlatMapRows:
    def one_then_fail(row: dict[str, Any]) -> Iterator[tuple[int]]:
        if row["n"] in BAD:
            yield (-1,)  # must not be sent
        yield (refusing(row["n"]),)

    return FlatMapRows(one_then_fail, SCHEMA, OUT, on_error=on_error)


def of_a_flat_map_whose_results_do_not_fit(on_error: OnError) -> FlatMapRows:
    def two_or_one(n: int, text: str) -> list[tuple[Any]]:
        return [(-1,), ("wrong",)] if n in BAD else [(n,)]

    return FlatMapRows(two_or_one, SCHEMA, OUT, on_error=on_error)


def of_a_flat_map_that_returns_one_row(on_error: OnError) -> FlatMapRows:
    return FlatMapRows(lambda row: {"n": 1} if row["n"] in BAD else [{"n": row["n"]}], SCHEMA, OUT, on_error=on_error)


def of_a_filter(on_error: OnError) -> FilterRows:
    return FilterRows(lambda row: refusing(row["n"]) >= 0, SCHEMA, on_error=on_error)


def of_a_filter_that_says_neither_yes_nor_no(on_error: OnError) -> FilterRows:
    class Undecided:
        def __bool__(self) -> bool:
            raise Refused("who knows")

    return FilterRows(lambda row: Undecided() if row["n"] in BAD else True, SCHEMA, on_error=on_error)


def of_map_batches(on_error: OnError) -> MapBatches:
    def checked(batch: pa.RecordBatch) -> pa.RecordBatch:
        for n in batch.column("n").to_pylist():
            refusing(n)
        return batch.select(["n"])

    return MapBatches(checked, OUT, on_error, SCHEMA)


def of_map_batches_whose_results_do_not_fit(on_error: OnError) -> MapBatches:
    def cast(batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch.select(["text" if BAD & set(batch.column("n").to_pylist()) else "n"])

    return MapBatches(cast, OUT, on_error, SCHEMA)


EVERY = [value for name, value in sorted(globals().items()) if name.startswith("of_")]
Make = Callable[[OnError], Any]


def sent(
    make: Make, on_error: OnError, rows: list[dict[str, Any]] = ROWS
) -> tuple[list[int], list[dict[str, Any]], int]:
    """The numbers that are sent on, the side output, and the count of failed rows."""
    with OperatorHarness(make(on_error), SCHEMA) as harness:
        harness.send(rows)
        return [row["n"] for row in harness.take()], harness.take_side("failing"), harness.counter("failed_rows")


@pytest.mark.parametrize("make", EVERY)
def test_a_failing_row_ends_the_job_unless_something_else_is_said(make: Make) -> None:
    with pytest.raises(UserCodeError) as caught:
        sent(make, OnError.fail())
    assert "test_error_policies.py:" in str(caught.value)
    if "batches" not in make.__name__:
        assert caught.value.rows[0].index == 3
        assert "'n': 3" in str(caught.value)


@pytest.mark.parametrize("make", EVERY)
def test_skipped_rows_are_counted_and_all_others_are_sent_in_order(make: Make) -> None:
    assert sent(make, OnError.skip()) == (GOOD, [], len(BAD))


@pytest.mark.parametrize("make", EVERY)
def test_a_side_output_has_the_rows_as_they_came_with_their_errors(make: Make) -> None:
    numbers, failed, count = sent(make, SIDE)
    assert (numbers, count) == (GOOD, len(BAD))
    assert [{"n": row["n"], "text": row["text"]} for row in failed] == [ROWS[n] for n in sorted(BAD)]
    assert all("test_error_policies.py:" in row["error_at"] for row in failed)
    assert all(row["error_message"] or row["error_type"] == "StopIteration" for row in failed)
    assert {row["failed_at"] for row in failed} == {datetime(2026, 1, 1, tzinfo=UTC)}


def test_the_side_output_has_the_exception_s_type_text_and_line() -> None:
    _, failed, _ = sent(of_a_map, SIDE)
    line = refusing.__code__.co_firstlineno + 2
    assert [(row["error_type"], row["error_message"]) for row in failed] == [
        ("Refused", f"not {n}") for n in sorted(BAD)
    ]
    assert {row["error_at"].rpartition(":")[2] for row in failed} == {str(line)}


def test_the_side_output_is_in_the_order_of_the_rows_whatever_is_wrong_with_them() -> None:
    def alternating(n: int, text: str) -> tuple[Any]:
        return ("misfit",) if n % 3 == 0 else (1 // (n % 2),)

    _, failed, _ = sent(lambda policy: MapRows(alternating, SCHEMA, OUT, on_error=policy), SIDE, ROWS[:13])
    assert [(row["n"], row["error_type"]) for row in failed] == [
        (n, "UserCodeError" if n % 3 == 0 else "ZeroDivisionError") for n in range(13) if n % 3 == 0 or n % 2 == 0
    ]


def test_a_row_that_fails_costs_no_other_row_a_second_call() -> None:
    for flat in (False, True):
        called: list[int] = []

        def noted(n: int, text: str, called: list[int] = called, flat: bool = flat) -> Any:
            called.append(n)
            return [(refusing(n),)] if flat else (refusing(n),)

        kind = FlatMapRows if flat else MapRows
        assert sent(lambda policy, kind=kind, f=noted: kind(f, SCHEMA, OUT, on_error=policy), OnError.skip())[0] == GOOD  # type: ignore[misc]
        assert called == list(range(len(ROWS)))


def test_batches_of_which_every_row_fails_are_left_out_whole() -> None:
    bad = [{"n": n, "text": ""} for n in sorted(BAD)]
    for make in EVERY:
        assert sent(make, OnError.skip(), bad) == ([], [], len(BAD))


class Flaky:
    """Fails so many times for each bad row, then answers."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.calls: dict[int, int] = {}

    def __call__(self, n: int, text: str) -> tuple[int]:
        self.calls[n] = self.calls.get(n, 0) + 1
        if n in BAD and self.calls[n] <= self.failures:
            raise Refused(f"call {self.calls[n]}")
        return (n,)


def retrying(function: Any, policy: OnError) -> OperatorHarness:
    return OperatorHarness(MapRows(function, SCHEMA, OUT, on_error=policy, columns=("n", "text")), SCHEMA)


def test_a_function_that_answers_at_last_loses_no_row() -> None:
    flaky = Flaky(2)
    with retrying(flaky, OnError.retry(attempts=3, backoff="100ms")) as harness:
        started_ms = harness.clock.monotonic_ms()
        harness.send(ROWS)
        assert [row["n"] for row in harness.take()] == list(range(len(ROWS)))
        assert harness.counter("retried_calls") == 2 * len(BAD)
        assert harness.clock.monotonic_ms() - started_ms == 300 * len(BAD)
        assert harness.counter("failed_rows") == 0
    assert {calls for n, calls in flaky.calls.items() if n not in BAD} == {1}


@pytest.mark.parametrize("make", EVERY)
def test_every_operator_tries_again_before_it_gives_a_row_up(make: Make) -> None:
    with OperatorHarness(make(OnError.retry(attempts=2, backoff=0).then(OnError.skip())), SCHEMA) as harness:
        harness.send(ROWS)
        assert [row["n"] for row in harness.take()] == GOOD
        assert harness.counter("retried_calls") == (1 if "batches" in make.__name__ else len(BAD))


def changing(row: dict[str, Any]) -> dict[str, Any]:
    """Takes its row apart before it fails, twice for bad ones."""
    n, text = row.pop("n"), row.pop("text")
    TRIES[n] = TRIES.get(n, 0) + 1
    if n in BAD and TRIES[n] < 3:
        raise Refused("not yet")
    assert text == f"text-{n}"
    return {"n": n}


TRIES: dict[int, int] = {}


@pytest.mark.parametrize(
    "make",
    [
        lambda policy: MapRows(changing, SCHEMA, OUT, on_error=policy),
        lambda policy: FlatMapRows(lambda row: [changing(row)], SCHEMA, OUT, on_error=policy),
        lambda policy: FilterRows(lambda row: bool(changing(row)), SCHEMA, on_error=policy),
    ],
    ids=["map", "flat_map", "filter"],
)
def test_a_function_that_changes_its_row_is_called_again_with_a_whole_one(make: Make) -> None:
    TRIES.clear()
    with OperatorHarness(make(OnError.retry(attempts=3, backoff=0)), SCHEMA) as harness:
        harness.send(ROWS)
        assert [row["n"] for row in harness.take()] == list(range(len(ROWS)))
        assert harness.counter("retried_calls") == 2 * len(BAD)
    assert {n: calls for n, calls in TRIES.items() if calls > 1} == dict.fromkeys(BAD, 3)


def test_a_result_that_does_not_fit_is_made_again_of_a_whole_row() -> None:
    made: dict[int, int] = {}

    def misfit_first(row: dict[str, Any]) -> dict[str, Any]:
        n = row.pop("n")
        made[n] = made.get(n, 0) + 1
        return {"n": "text" if n in BAD and made[n] == 1 else n}

    policy = OnError.retry(attempts=2, backoff=0)
    for kind in (MapRows, FlatMapRows):
        made.clear()
        function = misfit_first if kind is MapRows else lambda row: [misfit_first(row)]
        with OperatorHarness(kind(function, SCHEMA, OUT, on_error=policy), SCHEMA) as harness:
            harness.send(ROWS)
            assert [row["n"] for row in harness.take()] == list(range(len(ROWS)))


def test_an_error_shows_the_row_as_the_function_got_it_and_not_what_it_made_of_it() -> None:
    def emptied(row: dict[str, Any]) -> dict[str, Any]:
        number = row["n"]
        row.clear()
        return {"n": refusing(number)}

    with pytest.raises(UserCodeError, match=r"(?s)Refused: not 3.*row: \{'n': 3, 'text': 'text-3'\}"):
        sent(lambda policy: MapRows(emptied, SCHEMA, OUT, on_error=policy), OnError.fail())


def test_when_all_calls_have_failed_the_job_ends_and_the_error_says_how_many_there_were() -> None:
    with (
        retrying(Flaky(3), OnError.retry(attempts=3)) as harness,
        pytest.raises(UserCodeError, match=r"Refused: call 3 \(called 3 times\)"),
    ):
        harness.send(ROWS)


def test_after_the_last_call_the_row_goes_where_then_says() -> None:
    with retrying(Flaky(3), OnError.retry(attempts=3, backoff="1ms").then(SIDE)) as harness:
        harness.send(ROWS)
        assert [row["n"] for row in harness.take()] == GOOD
        assert [row["error_message"] for row in harness.take_side("failing")] == ["call 3 (called 3 times)"[:6]] * len(
            BAD
        )


def test_waits_are_cut_off_so_that_a_batch_of_failing_rows_does_not_hold_the_task() -> None:
    policy = OnError.retry(attempts=2, backoff="1s").then(OnError.skip())
    with OperatorHarness(MapRows(lambda row: 1 // 0, SCHEMA, OUT, on_error=policy), SCHEMA) as harness:
        started_ms = harness.clock.monotonic_ms()
        harness.send(ROWS)
        assert harness.clock.monotonic_ms() - started_ms == RETRY_WAIT_MAX_MS
        assert harness.counter("failed_rows") == len(ROWS)
        harness.send(ROWS[:1])
        assert harness.clock.monotonic_ms() - started_ms == RETRY_WAIT_MAX_MS + 1000


def test_policies_that_cannot_work_are_refused_where_they_are_written() -> None:
    for attempts in (0, 1, "three"):
        with pytest.raises(ConfigError, match="attempts"):
            OnError.retry(attempts=attempts)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="would wait"):
        OnError.retry(attempts=10, backoff="1s")
    for wrong in (lambda: OnError.skip().then(OnError.fail()), lambda: OnError.retry().then(OnError.retry())):
        with pytest.raises(ConfigError, match="cannot be followed"):
            wrong()
    with pytest.raises(ConfigError, match="tag"):
        OnError.side_output("failing")  # type: ignore[arg-type]
    stream = lw.StreamExecutionEnvironment().from_collection([{"n": 1, "error_at": "here"}])
    with pytest.raises(SchemaError, match="a column 'error_at', and the rows have one"):
        stream.filter(lambda row: True, on_error=SIDE)
    with pytest.raises(GraphError, match="takes no on_error"):
        stream.filter(lw.col("n") > 1, on_error=OnError.skip())
    with pytest.raises(ConfigError, match="on_error"):
        stream.filter(lambda row: True, on_error="skip")  # type: ignore[arg-type]
    with pytest.raises(GraphError, match="no side stream"):
        stream.filter(lambda row: True, on_error=OnError.skip()).side_output(FAILING)


@pytest.mark.parametrize("error", [GraphError("as written"), SourceError("not there"), LakewardError("a bug")])
def test_errors_that_are_not_of_the_row_are_never_skipped(error: LakewardError) -> None:
    def raising(row: dict[str, Any]) -> Any:
        raise error

    for on_error in (OnError.skip(), OnError.retry(attempts=2).then(OnError.skip())):
        harness = OperatorHarness(MapRows(raising, SCHEMA, OUT, on_error=on_error), SCHEMA)
        with harness, pytest.raises(type(error)) as caught:
            harness.send(ROWS)
        assert caught.value is error


def test_rows_that_python_cannot_hold_fail_by_themselves() -> None:
    schema = pa.schema({"n": pa.int64(), "at": pa.timestamp("us", "UTC")})
    far = 400_000_000_000_000_000  # behind the year 9999
    batch = pa.record_batch([pa.array([1, 2, 3]), pa.array([0, far, 0]).view(schema.field("at").type)], schema=schema)
    for function in (lambda row: {"n": row["n"]}, lambda n, at: (n,)):
        with OperatorHarness(MapRows(function, schema, OUT, on_error=SIDE), schema) as harness:
            harness.send(batch)
            assert [row["n"] for row in harness.take()] == [1, 3]
            assert harness.take_table() is None
            assert harness.counter("failed_rows") == 1
        with OperatorHarness(MapRows(function, schema, OUT), schema) as harness, pytest.raises(RecordError) as caught:
            harness.send(batch)
        assert caught.value.rows[0].index == 1


@dataclass
class Checked:
    n: int

    def __post_init__(self) -> None:
        refusing(self.n)


def test_a_row_class_that_refuses_a_row_fails_that_row_alone() -> None:
    def number(row: Checked) -> dict[str, int]:
        return {"n": row.n}

    assert sent(lambda policy: MapRows(number, SCHEMA, OUT, on_error=policy), OnError.skip())[0] == GOOD
    with pytest.raises(UserCodeError, match=r"(?s)making a row for .*number.* raised Refused: not 3.*'n': 3") as caught:
        sent(lambda policy: MapRows(number, SCHEMA, OUT, on_error=policy), OnError.fail())
    assert isinstance(caught.value.raised, Refused)


def test_hidden_columns_show_neither_in_errors_nor_in_log_lines_nor_in_messages(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def telling(row: dict[str, Any]) -> Any:
        raise KeyError(row["text"])

    config = HarnessConfig(redaction=Redaction(("te*",)))
    for on_error in (OnError.skip(), SIDE):
        factory = MapRows(telling, SCHEMA, OUT, on_error=on_error)
        with caplog.at_level(logging.INFO, "lakeward"), OperatorHarness(factory, SCHEMA, config) as harness:
            harness.send(ROWS[:2])
            assert {row["error_message"] for row in harness.take_side("failing")} <= {"'***'"}
    assert "'n': 1, 'text': ***" in caplog.text
    assert "text-1" not in caplog.text


def test_values_that_the_function_takes_out_of_its_row_before_it_fails_are_hidden_all_the_same() -> None:
    def telling(row: dict[str, Any]) -> Any:
        raise KeyError(row.pop("text"))

    config = HarnessConfig(redaction=Redaction(("te*",)))
    with OperatorHarness(MapRows(telling, SCHEMA, OUT, on_error=SIDE), SCHEMA, config) as harness:
        harness.send(ROWS[:2])
        assert [row["error_message"] for row in harness.take_side("failing")] == ["'***'"] * 2


def test_the_first_rows_are_logged_each_and_then_one_line_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    factory = MapRows(lambda row: 1 // 0, SCHEMA, OUT, on_error=OnError.skip())
    with caplog.at_level(logging.INFO, "lakeward"), OperatorHarness(factory, SCHEMA) as harness:
        harness.send(ROWS[:100])
        assert len(caplog.messages) == 5
        assert "operator 'harness': 1 row failed and left out; the last: " in caplog.messages[0]
        assert "'n': 4" in caplog.messages[4]
        harness.tick(10_000)
        harness.send(ROWS[100:200])
        assert len(caplog.messages) == 6
        assert "96 rows failed" in caplog.messages[5]
    assert "99 rows failed and left out" in caplog.messages[6]
    assert len(caplog.messages) == 7


def test_another_operator_takes_a_policy_in_a_few_lines() -> None:
    """What process functions do: settle what failed, send at the end of the batch."""
    errors = RowErrors(SIDE, SCHEMA)
    with OperatorHarness(of_a_map(SIDE), SCHEMA) as harness:
        errors.open(harness._context)
        batch = harness._batch(ROWS[:5], SCHEMA)
        found = []
        for index, row in enumerate(ROWS[:5]):
            try:
                found.append(refusing(row["n"]))
            except Refused as error:
                failure = call_error(refusing, error, row=FailedRow(row, index))
                assert errors.settle(failure, lambda: 0) is FAILED
        errors.send(batch, harness._out)
        assert found == [0, 1, 2, 4]
        assert [row["n"] for row in harness.take_side("failing")] == [3]


def test_an_exception_that_cannot_say_its_text_is_still_reported() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    def raising(row: dict[str, Any]) -> Any:
        raise Mute

    with pytest.raises(UserCodeError, match="raised Mute: <whose text fails: RuntimeError>"):
        sent(lambda policy: MapRows(raising, SCHEMA, OUT, on_error=policy), OnError.fail())
    _, failed, _ = sent(lambda policy: MapRows(raising, SCHEMA, OUT, on_error=policy), SIDE, ROWS[:1])
    assert failed[0]["error_type"] == "Mute"


def test_the_exception_that_another_was_raised_from_shows_too() -> None:
    def wrapping(row: dict[str, Any]) -> Any:
        try:
            refusing(3)
        except Refused as error:
            raise ValueError("bad order") from error

    with pytest.raises(UserCodeError, match=r"raised ValueError: bad order \(caused by Refused: not 3\)"):
        sent(lambda policy: MapRows(wrapping, SCHEMA, OUT, on_error=policy), OnError.fail())


def test_a_function_of_batches_that_fails_without_rows_ends_the_job() -> None:
    def broken(batch: pa.RecordBatch) -> Any:
        raise ValueError("no")

    factory = MapBatches(broken, OUT, OnError.skip(), SCHEMA)
    with OperatorHarness(factory, SCHEMA) as harness, pytest.raises(UserCodeError, match="a batch of 0 rows"):
        harness.send([])


class Number(NamedTuple):
    n: int


def test_failed_rows_are_exactly_once_through_checkpoints_and_a_restart() -> None:
    def half(row: dict[str, Any]) -> Number:
        return Number(refusing(row["n"]))

    script = [pa.RecordBatch.from_pylist(ROWS[i : i + 100], schema=SCHEMA) for i in range(0, len(ROWS), 100)]
    steps = [*script[:4], BARRIER, *script[4:6], FAIL, *script[6:]]
    source = ScriptedSource(SCHEMA, steps)
    env = lw.StreamExecutionEnvironment(
        checkpoint_interval="1ms", config=lw.EngineConfig(restart=lw.RestartConfig(delay_min_ms=1))
    )
    numbers, failed = lw.MemorySink(), lw.MemorySink()
    halved = env.from_source(source, uid="rows").map(half, on_error=SIDE, uid="half")
    halved.sink_to(numbers, uid="numbers")
    halved.side_output(FAILING).sink_to(failed, uid="failed")
    result = env.execute("policies")
    assert result is not None
    assert result.restarts == 1
    assert sorted(numbers.table()["n"].to_pylist()) == GOOD
    assert sorted(failed.table()["n"].to_pylist()) == sorted(BAD)
    assert failed.table().schema.names == failed_rows_schema(SCHEMA).names


def test_the_side_stream_keeps_its_event_time_and_all_columns_of_the_input() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [{"n": n, "at": start + timedelta(seconds=n), "extra": "x"} for n in range(5)]
    env = lw.StreamExecutionEnvironment()
    stream = env.from_collection(rows, watermark=lw.WatermarkStrategy.monotonous("at"))
    failed = stream.map(lambda n, extra: (refusing(n),), returns={"n": int}, on_error=SIDE).side_output(FAILING)
    counted = failed.window_all(lw.Tumbling("1m")).aggregate(rows=lw.count(), last=lw.max("extra"))
    assert counted.select("rows", "last").execute_and_collect().to_pylist() == [{"rows": 1, "last": "x"}]


def test_a_tag_by_its_name_alone_is_refused_as_it_was_written() -> None:
    with pytest.raises(ConfigError, match=r"OnError\.side_output: tag cannot be 'failed'"):
        OnError.side_output("failed")  # type: ignore[arg-type]


def test_the_plan_says_the_policy() -> None:
    assert "on error retry 3x, then skip" in of_a_map(OnError.retry().then(OnError.skip())).description
    assert "on error" not in of_a_map(OnError.fail()).description
    assert "on error side output failing" in of_map_batches(SIDE).description


def test_an_exception_s_text_that_is_no_utf_8_is_written_with_escapes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lakeward")

    def refuse(row: dict[str, Any]) -> dict[str, int]:
        raise Refused("no file caf\udce9")

    with OperatorHarness(MapRows(refuse, SCHEMA, OUT, on_error=SIDE), SCHEMA) as harness:
        harness.send(ROWS[:1])
        (row,) = harness.take_side("failing")
    assert row["error_message"] == "no file caf\\udce9"
    assert "raised Refused: no file caf\\udce9" in caplog.text
    caplog.text.encode("utf-8")
