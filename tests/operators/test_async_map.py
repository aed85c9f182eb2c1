"""Asynchronous functions, step by step: the test says when calls end, and what time it is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward.engine.core.errors import ConfigError, ExternalCallError, GraphError, Retry, SchemaError, UserCodeError
from lakeward.operators.async_map import AsyncMap
from lakeward.operators.async_options import AsyncOptions, AsyncRetry
from lakeward.testing.harness import HarnessConfig, HarnessSnapshot, OperatorHarness

SCHEMA = pa.schema({"n": pa.int64(), "name": pa.string()})
OUT = pa.schema({"n": pa.int64(), "twice": pa.int64()})


async def twice(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": row["n"], "twice": 2 * row["n"]}


def mapped(function: Any = twice, out: pa.Schema = OUT, **options: Any) -> AsyncMap:
    return AsyncMap(function, SCHEMA, out, options=AsyncOptions(**options))


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"n": n, "name": f"name {n}"} for n in numbers]


def numbers(events: Sequence[Any]) -> list[Any]:
    """Rows by their number, watermarks as text."""
    return [f"W{one}" if isinstance(one, int) else one["n"] for one in events]


# -- order


def test_ordered_answers_leave_in_the_order_of_the_rows() -> None:
    with OperatorHarness(mapped(), SCHEMA) as harness:
        harness.send(rows(0, 1, 2, 3))
        harness.finish(2, 1)
        assert harness.take() == []
        harness.finish(0)
        assert harness.take() == [{"n": n, "twice": 2 * n} for n in (0, 1, 2)]
        harness.finish(0)
        assert numbers(harness.take()) == [3]


def test_unordered_answers_leave_as_they_come() -> None:
    with OperatorHarness(mapped(ordered=False), SCHEMA) as harness:
        harness.send(rows(0, 1, 2, 3))
        harness.finish(2, 0)
        assert numbers(harness.take()) == [2, 0]
        harness.finish(1, 0)
        assert numbers(harness.take()) == [3, 1]


@pytest.mark.parametrize("ordered", [True, False])
def test_no_row_crosses_a_watermark_and_no_watermark_a_row(ordered: bool) -> None:
    with OperatorHarness(mapped(ordered=ordered), SCHEMA) as harness:
        harness.watermark(1)
        assert harness.take_events() == [1]
        harness.send(rows(0, 1))
        harness.watermark(2)
        harness.send(rows(2, 3))
        harness.watermark(3)
        harness.watermark(4)
        harness.finish(2, 3, 1)
        assert numbers(harness.take_events()) == ([] if ordered else [1])
        harness.finish(0)
        assert numbers(harness.take_events()) == [*([0, 1] if ordered else [0]), "W2", 2, 3, "W3", "W4"]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ordered", [True, False])
def test_whatever_the_order_of_answers_every_row_leaves_once_between_its_watermarks(seed: int, ordered: bool) -> None:
    rng = random.Random(seed)
    capacity = rng.randint(1, 6)
    batch_rows = rng.choice([None, rng.randint(1, capacity)])
    function = twice if batch_rows is None else twice_each
    options = {"ordered": ordered, "capacity": capacity, "batch_rows": batch_rows}
    sent: list[Any] = []
    with OperatorHarness(mapped(function, **options), SCHEMA) as harness:
        for _ in range(40):
            if rng.random() < 0.3:
                sent.append(f"W{len(sent)}")
                harness.watermark(len(sent) - 1)
            elif rng.random() < 0.5:
                new = range(len(sent), len(sent) + rng.randint(1, 5))
                sent += new
                harness.send(rows(*new))
            elif harness.calls.running:
                harness.finish(rng.randrange(len(harness.calls.running)))
        harness.finish_all()
        found = numbers(harness.take_events())
    assert found == sent if ordered else segments(found) == segments(sent)


def segments(events: Sequence[Any]) -> list[set[int] | str]:
    """The rows between watermarks, without their order."""
    found: list[set[int] | str] = [set()]
    for one in events:
        if isinstance(one, str):
            found += [one, set()]
        else:
            rest = found[-1]
            assert isinstance(rest, set)
            assert one not in rest
            rest.add(one)
    return found


def test_at_the_end_every_row_is_waited_for() -> None:
    with OperatorHarness(mapped(capacity=2), SCHEMA) as harness:
        harness.send(rows(*range(7)))
        assert numbers(harness.end()) == list(range(7))


# -- capacity


@pytest.mark.parametrize("ordered", [True, False])
def test_the_capacity_is_never_exceeded_and_input_is_refused_above_it(ordered: bool) -> None:
    with OperatorHarness(mapped(capacity=3, ordered=ordered), SCHEMA) as harness:
        operator: Any = harness.operator
        harness.send(rows(0, 1, 2))
        assert (len(harness.calls.running), operator.has_room) == (3, True)
        harness.send(rows(3, 4))
        assert (len(harness.calls.running), operator.has_room) == (3, False)
        harness.finish(1)
        # In order, an answer that may not leave yet still takes its place.
        assert len(harness.calls.running) == (2 if ordered else 3)
        harness.finish(0)
        assert (len(harness.calls.running), operator.has_room) == (3, True)


# -- retries and timeouts


class Flaky:
    """Fails so many times for each row."""

    def __init__(self, failures: int, error: Callable[[], Exception] = lambda: ConnectionError("refused")) -> None:
        self.left: dict[int, int] = {}
        self.failures = failures
        self.error = error

    async def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        left = self.left.setdefault(row["n"], self.failures)
        if left:
            self.left[row["n"]] -= 1
            raise self.error()
        return await twice(row)


def test_a_call_that_failed_is_tried_again_after_a_wait_that_doubles() -> None:
    retry = AsyncRetry(attempts=4, backoff="100ms", backoff_max="300ms")
    with OperatorHarness(mapped(Flaky(3), retry=retry), SCHEMA) as harness:
        harness.send(rows(5))
        for wait_ms in (100, 200, 300):
            harness.finish()
            harness.tick(wait_ms - 1)
            assert not harness.calls.running
            harness.tick(1)
            assert len(harness.calls.running) == 1
        harness.finish()
        assert harness.take() == [{"n": 5, "twice": 10}]
        assert [harness.counter(name) for name in ("calls", "retries", "timeouts")] == [4, 3, 0]


def test_after_the_last_try_the_error_names_function_row_and_cause_and_the_job_may_be_restarted() -> None:
    with OperatorHarness(mapped(Flaky(9), retry=AsyncRetry(attempts=2)), SCHEMA) as harness:
        harness.send(rows(5))
        harness.finish()
        harness.tick(100)
        with pytest.raises(ExternalCallError) as caught:
            harness.finish()
    message = str(caught.value)
    assert "Flaky.__call__" in message
    assert "test_async_map.py" in message
    assert "ConnectionError: refused (tried 2 times)" in message
    assert "row: {'n': 5, 'name': 'name 5'}" in message
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert isinstance(caught.value, UserCodeError)
    assert caught.value.retry is Retry.BACKOFF


def test_a_mistake_in_the_function_is_not_tried_again() -> None:
    with OperatorHarness(mapped(Flaky(9, lambda: KeyError("nmae"))), SCHEMA) as harness:
        harness.send(rows(5))
        with pytest.raises(UserCodeError, match=r"(?s)KeyError: 'nmae'.*row: ") as caught:
            harness.finish()
    assert caught.value.retry is Retry.NO


@pytest.mark.parametrize(
    ("retry_if", "tried"),
    [
        (ValueError, True),
        ((OSError, ValueError), True),
        (OSError, False),
        (lambda error: "busy" in str(error), True),
        (lambda error: False, False),
    ],
)
def test_what_is_tried_again_can_be_said(retry_if: Any, tried: bool) -> None:
    flaky = Flaky(1, lambda: ValueError("busy"))
    with OperatorHarness(mapped(flaky, retry=AsyncRetry(retry_if=retry_if)), SCHEMA) as harness:
        harness.send(rows(1))
        if tried:
            assert numbers(harness.end()) == [1]
        else:
            with pytest.raises(UserCodeError):
                harness.finish()


def test_the_timeout_covers_all_tries_and_names_the_last_error() -> None:
    retry = AsyncRetry(attempts=99, backoff="1s")
    with OperatorHarness(mapped(Flaky(99), retry=retry, timeout_ms=5000), SCHEMA) as harness:
        harness.send(rows(5))
        for _ in range(2):
            harness.finish()
            harness.tick(1999)
        harness.tick(1)
        expected = r"(?s)no answer within 5 s on a row; the last try raised ConnectionError: refused.*row: .*'n': 5"
        with pytest.raises(ExternalCallError, match=expected):
            harness.tick(1001)


def test_a_try_that_was_due_in_time_is_made_although_nobody_looked_while_receivers_were_behind() -> None:
    with OperatorHarness(mapped(Flaky(1), timeout_ms=5000, on_timeout="null"), SCHEMA) as harness:
        harness.send(rows(5))
        harness.finish()
        harness.clock.advance_ms(60_000)
        harness.poll()
        harness.finish()
        assert harness.take() == [{"n": 5, "twice": 10}]
        assert harness.counter("timeouts") == 0


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_cannot_say_its_text_hides_no_timeout() -> None:
    with OperatorHarness(mapped(Flaky(99, Mute), timeout_ms=50), SCHEMA) as harness:
        harness.send(rows(5))
        harness.finish()
        with pytest.raises(ExternalCallError, match="the last try raised Mute: <whose text fails: RuntimeError>"):
            harness.tick(50)


def test_a_client_that_cannot_be_opened_says_which_line_failed() -> None:
    class Client(lw.AsyncFunction):
        async def open(self) -> None:
            raise Mute

        async def invoke(self, row: dict[str, Any]) -> dict[str, Any]:
            return row

    with pytest.raises(UserCodeError, match=r"(?s)Client.open' .* raised Mute.*in open: raise Mute"):
        OperatorHarness(mapped(Client()), SCHEMA).__enter__()


@dataclass
class Small:
    n: int

    def __post_init__(self) -> None:
        if self.n > 3:
            raise ValueError("too large")


@pytest.mark.parametrize("batch_rows", [None, 2])
def test_a_row_that_its_class_refuses_is_shown(batch_rows: int | None) -> None:
    async def each(row: Small) -> dict[str, Any]: ...

    async def lists(rows: list[Small]) -> list[dict[str, Any]]: ...

    with (
        OperatorHarness(mapped(lists if batch_rows else each, batch_rows=batch_rows), SCHEMA) as harness,
        pytest.raises(UserCodeError, match=r"(?s)making a row for .*too large.*row: {'n': 4"),
    ):
        harness.send(rows(1, 2, 4))


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_the_process_is_no_error_of_a_call(error: type[BaseException]) -> None:
    def ends(row: dict[str, Any]) -> dict[str, Any]:
        raise error

    env = lw.StreamExecutionEnvironment()
    with pytest.raises(error):
        env.from_collection(rows(1)).map_async(ends, returns={"n": int}).execute_and_collect()


def test_an_answer_that_has_come_in_time_counts_even_if_it_is_looked_at_late() -> None:
    with OperatorHarness(mapped(timeout_ms=1000), SCHEMA) as harness:
        harness.send(rows(5))
        harness.calls.finish(next(iter(harness.calls.running)))
        harness.tick(9999)
        assert numbers(harness.take()) == [5]


def test_a_row_that_takes_too_long_is_answered_with_nulls_and_its_own_columns() -> None:
    with OperatorHarness(mapped(timeout_ms=1000, on_timeout="null"), SCHEMA) as harness:
        harness.send(rows(5, 6))
        harness.finish(1)
        harness.tick(1000)
        assert harness.take() == [{"n": 5, "twice": None}, {"n": 6, "twice": 12}]
        assert harness.counter("timeouts") == 1
        assert not harness.calls.running


def plain_default(name: str, n: int) -> list[dict[str, Any]]:
    return [{"n": n, "twice": len(name)}] * 2


async def async_default(row: dict[str, Any]) -> dict[str, Any]:
    return {"n": row["n"], "twice": -1}


async def failing_default(row: dict[str, Any]) -> dict[str, Any]:
    raise ConnectionError("still away")


@pytest.mark.parametrize(
    ("default", "expected"),
    [
        (plain_default, [{"n": 5, "twice": 6}] * 2),
        (async_default, [{"n": 5, "twice": -1}]),
        (lambda row: None, []),
    ],
)
def test_a_function_answers_rows_that_take_too_long(default: Any, expected: list[Any]) -> None:
    with OperatorHarness(mapped(timeout_ms=1000, on_timeout=default), SCHEMA) as harness:
        harness.send(rows(5))
        harness.tick(1000)
        harness.finish()
        assert harness.take() == expected


def test_what_answers_in_time_of_need_must_not_fail() -> None:
    with OperatorHarness(mapped(timeout_ms=1000, on_timeout=failing_default), SCHEMA) as harness:
        harness.send(rows(5))
        harness.tick(1000)
        with pytest.raises(ExternalCallError, match=r"(?s)failing_default.*still away.*row: "):
            harness.finish()


# -- forms of functions and of answers


class Answer(NamedTuple):
    n: int
    twice: int


async def many(row: dict[str, Any]) -> list[Answer] | None:
    return None if row["n"] == 0 else [Answer(row["n"], n) for n in range(row["n"])]


def test_none_is_no_row_and_a_list_is_its_rows() -> None:
    with OperatorHarness(mapped(many), SCHEMA) as harness:
        harness.send(rows(0, 2, 1))
        harness.finish()
        assert [tuple(row.values()) for row in harness.take()] == [(2, 0), (2, 1), (1, 0)]


async def twice_each(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [await twice(row) for row in rows]


def test_with_batch_rows_the_function_gets_lists_and_small_batches_gather_while_calls_run() -> None:
    with OperatorHarness(mapped(twice_each, batch_rows=4, capacity=5), SCHEMA) as harness:
        harness.send(rows(0, 1, 2))
        for n in (3, 4, 5):
            harness.send(rows(n))
            harness.watermark(n)
        # Three and two are begun, five is the capacity; one waits, and there is room for three more beside it.
        operator: Any = harness.operator
        assert operator.has_room
        harness.send(rows(6, 7, 8))
        assert not operator.has_room
        running = list(harness.calls.running)
        assert len(running) == 3
        harness.finish(0)
        assert numbers(harness.take()) == [0, 1, 2]
        assert numbers(harness.end()) == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("wrong", [[], [{"n": 1, "twice": 1}] * 3, {"n": 1}, None])
def test_a_batch_must_be_answered_by_a_list_of_its_length(wrong: Any) -> None:
    async def short(rows: list[dict[str, Any]]) -> Any:
        return wrong

    with OperatorHarness(mapped(short, batch_rows=2), SCHEMA) as harness:
        harness.send(rows(1, 2))
        with pytest.raises(UserCodeError, match=r"(?s)short.*returned .* for 2 rows.*first row: \{'n': 1"):
            harness.finish()


def test_lists_of_values_are_annotated_as_lists() -> None:
    async def lengths(name: list[str], n: list[int]) -> list[Answer]:
        return [Answer(each, len(text)) for each, text in zip(n, name, strict=True)]

    with OperatorHarness(mapped(lengths, batch_rows=3), SCHEMA) as harness:
        harness.send(rows(1, 22))
        harness.finish()
        assert [row["twice"] for row in harness.take()] == [6, 7]

    async def of_one(name: str, n: list[int]) -> list[Answer]: ...

    with pytest.raises(GraphError, match=r"'name' of function .*of_one.* is annotated str, but would get a list"):
        mapped(of_one, batch_rows=3)

    async def of_text(name: list[int], n: list[int]) -> list[Answer]: ...

    with pytest.raises(SchemaError, match="annotated int, but the column is string"):
        mapped(of_text, batch_rows=3)


def test_a_failed_batch_names_its_first_row() -> None:
    async def explode(rows: list[dict[str, Any]]) -> Any:
        raise TypeError("no")

    with OperatorHarness(mapped(explode, batch_rows=3), SCHEMA) as harness:
        harness.send(rows(7, 8))
        with pytest.raises(UserCodeError, match=r"(?s)explode.* raised TypeError: no on 2 rows.*first row: .*7"):
            harness.finish()


class Client(lw.AsyncFunction):
    """Opened and closed once a subtask, on a copy."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True
        self.log.append("open")

    async def invoke(self, n: int, name: str) -> Answer:
        assert self.is_open
        return Answer(n, len(name))

    async def timeout(self, row: dict[str, Any]) -> Answer:
        return Answer(row["n"], -1)

    async def close(self) -> None:
        self.log.append("close")


def test_a_class_is_opened_called_and_closed_on_a_copy_of_its_own() -> None:
    client = Client()
    with OperatorHarness(mapped(client, timeout_ms=1000), SCHEMA) as harness:
        harness.send(rows(1, 2))
        harness.finish(0)
        harness.tick(1000)
        harness.finish()
        assert harness.take() == [{"n": 1, "twice": 6}, {"n": 2, "twice": -1}]
        assert client.log == ["open"]
    assert client.log == ["open", "close"]
    assert not client.is_open


def test_an_error_while_a_class_opens_is_the_users() -> None:
    class Broken(Client):
        async def open(self) -> None:
            raise ConnectionError("refused")

    with pytest.raises(UserCodeError, match=r"Broken.open.*ConnectionError: refused"):
        OperatorHarness(mapped(Broken()), SCHEMA)


# -- what is refused when the job is written


def test_what_cannot_work_is_refused() -> None:
    async def generate(row: dict[str, Any]) -> Any:
        yield row

    def blocking(row: dict[str, Any]) -> Any: ...

    class Plain(lw.AsyncFunction):
        def invoke(self, row: dict[str, Any]) -> Any: ...

    with pytest.raises(GraphError, match="yields"):
        mapped(generate)
    with pytest.raises(GraphError, match="is no coroutine"):
        mapped(Plain())
    with pytest.raises(GraphError, match="on_timeout is async"):
        mapped(blocking, on_timeout=async_default)
    with pytest.raises(GraphError, match="has a method `timeout`"):
        mapped(Client(), on_timeout="null")
    with pytest.raises(SchemaError, match="'twice' null"):
        mapped(out=pa.schema([OUT.field("n"), pa.field("twice", pa.int64(), nullable=False)]), on_timeout="null")
    with pytest.raises(ConfigError, match="capacity 3 is less than batch_rows 4"):
        mapped(twice_each, batch_rows=4, capacity=3)
    with pytest.raises(ConfigError, match="retry_if"):
        AsyncRetry(retry_if=int)  # type: ignore[arg-type]


def test_only_the_columns_that_are_read_are_asked_for_and_saved() -> None:
    async def by_number(*, n: int, more: int = 1) -> Answer:
        return Answer(n, more)

    factory = mapped(by_number)
    assert factory.required_columns(frozenset(), [SCHEMA]) == [frozenset({"n"})]
    for batch in (pa.record_batch({"n": [1, 2]}), pa.RecordBatch.from_pylist(rows(1, 2), SCHEMA)):
        with OperatorHarness(factory, batch.schema) as harness:
            harness.send(batch)
            assert numbers(harness.end()) == [1, 2]


# -- checkpoints


@dataclass(frozen=True, slots=True)
class Run:
    """What a job of several subtasks has sent, and what its checkpoint holds."""

    sent: list[int]
    snapshots: list[HarnessSnapshot]


def run(factory: AsyncMap, parallelism: int, before: Sequence[HarnessSnapshot], lots: Sequence[Sequence[int]]) -> Run:
    """Each subtask takes its rows, has some answered, and is cut off after a checkpoint."""
    rng = random.Random(parallelism)
    sent, snapshots = [], []
    for subtask in range(parallelism):
        config = HarnessConfig(subtask, parallelism)
        with OperatorHarness.restore(factory, SCHEMA, before, config) as harness:
            harness.poll()
            harness.send(rows(*lots[subtask]))
            for _ in range(3):
                if harness.calls.running:
                    harness.finish(rng.randrange(len(harness.calls.running)))
            snapshots.append(harness.snapshot())
            sent += numbers(harness.take())
    return Run(sent, snapshots)


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
def test_rows_in_flight_are_restored_first_and_in_their_order(store: Any) -> None:
    config = HarnessConfig(store=store)
    with OperatorHarness(mapped(capacity=4), SCHEMA, config) as harness:
        harness.send(rows(*range(1000)))
        harness.finish(0, 2)
        assert numbers(harness.take()) == [0]
        first = harness.snapshot(1)
        harness.end()
        second = harness.snapshot(2)
    with OperatorHarness.restore(mapped(capacity=4), SCHEMA, [first], config) as harness:
        harness.poll()
        harness.send(rows(5000))
        harness.watermark(1)
        assert numbers(harness.end()) == [*range(1, 1000), 5000]
    with OperatorHarness.restore(mapped(capacity=4), SCHEMA, [second], config) as harness:
        assert harness.end() == []


def test_a_checkpoint_replaces_what_the_one_before_saved() -> None:
    with OperatorHarness(mapped(capacity=4), SCHEMA) as harness:
        harness.send(rows(*range(10)))
        harness.snapshot(1)
        harness.finish(0)
        harness.send(rows(10))
        second = harness.snapshot(2)
    with OperatorHarness.restore(mapped(capacity=4), SCHEMA, [second]) as harness:
        assert numbers(harness.end()) == list(range(1, 11))


@pytest.mark.parametrize("store", ["memory", "rocksdb"])
def test_a_checkpoint_of_an_id_that_comes_again_holds_its_own_rows_alone(store: Any) -> None:
    config = HarnessConfig(store=store)
    with OperatorHarness(mapped(), SCHEMA, config) as harness:
        harness.send(rows(0, 1, 2))
        saved = harness.snapshot(7)
    for n in (3, 4):
        with OperatorHarness.restore(mapped(), SCHEMA, [saved], config) as harness:
            harness.poll()
            harness.finish(0)
            harness.send(rows(n))
            harness.snapshot(7)
            saved = harness.snapshot(7)
    with OperatorHarness.restore(mapped(), SCHEMA, [saved], config) as harness:
        assert numbers(harness.end()) == [2, 3, 4]


@settings(max_examples=30, deadline=None)
@given(data=st.data(), ordered=st.booleans(), capacity=st.integers(1, 5))
def test_every_row_is_answered_once_over_checkpoints_at_any_parallelism(
    data: st.DataObject, ordered: bool, capacity: int
) -> None:
    factory = replace(mapped(), options=AsyncOptions(ordered=ordered, capacity=capacity))
    answered: list[int] = []
    snapshots: list[HarnessSnapshot] = []
    given_rows = 0
    for _ in range(3):
        parallelism = data.draw(st.integers(1, 4))
        lots = []
        for _ in range(parallelism):
            size = data.draw(st.integers(0, 12))
            lots.append(range(given_rows, given_rows + size))
            given_rows += size
        done = run(factory, parallelism, snapshots, lots)
        answered += done.sent
        snapshots = done.snapshots
    with OperatorHarness.restore(factory, SCHEMA, snapshots) as harness:
        answered += numbers(harness.end())
    assert sorted(answered) == list(range(given_rows))


def test_few_rows_in_flight_are_spread_over_more_subtasks() -> None:
    with OperatorHarness(mapped(), SCHEMA) as harness:
        harness.send(rows(*range(4)))
        saved = harness.snapshot()
    found = []
    for subtask in range(4):
        with OperatorHarness.restore(mapped(), SCHEMA, [saved], HarnessConfig(subtask, 4)) as harness:
            found.append(numbers(harness.end()))
    assert found == [[0], [1], [2], [3]]
