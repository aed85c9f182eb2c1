"""Operators with several inputs: which input a row is of, what ends when, what is read first, broadcasts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.execute import execute
from lakeward.engine.graph.logical import Exchange
from lakeward.testing import BARRIER, FAIL, ScriptedSource

SCHEMA = pa.schema([("n", pa.int64())])
TAGGED = pa.schema([("event", pa.string()), ("n", pa.int64())])


@dataclass(frozen=True)
class Tag(OperatorFactory):
    """Says of each row from which input it came, and when an input ended."""

    first: int | None = None

    def create(self) -> Operator:
        return TagOperator()

    @property
    def description(self) -> str:
        return "tag"

    @property
    def first_input(self) -> int | None:
        return self.first


class TagOperator(Operator):
    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        raise AssertionError("an operator with several inputs gets them by number")

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        events = pa.array([f"row of {index}"] * batch.num_rows)
        out.emit(pa.RecordBatch.from_arrays([events, batch.column(0)], schema=TAGGED))

    def on_input_end(self, index: int, out: Output) -> None:
        out.emit(pa.record_batch([pa.array([f"end of {index}"]), pa.array([None], pa.int64())], schema=TAGGED))

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject | None:
        return {"v": 1}


def numbers(env: lw.StreamExecutionEnvironment, *values: int) -> lw.DataStream:
    return env.from_collection([{"n": value} for value in values], schema=SCHEMA)


def tagged(streams: list[lw.DataStream], factory: OperatorFactory, exchanges: list[Exchange]) -> lw.DataStream:
    edges = [
        stream._edge(exchange, ("n",) if exchange is Exchange.HASH else ())
        for stream, exchange in zip(streams, exchanges, strict=True)
    ]
    context = streams[0]._context
    return lw.DataStream(context, context.builder.add("tag", factory, edges, TAGGED, None, None), None)


def events(stream: lw.DataStream) -> list[tuple[str, Any]]:
    return [(row["event"], row["n"]) for row in stream.execute_and_collect().to_pylist()]


def test_each_row_comes_with_the_number_of_its_input() -> None:
    env = lw.StreamExecutionEnvironment()
    found = events(tagged([numbers(env, 1), numbers(env, 2)], Tag(), [Exchange.FORWARD] * 2))
    assert sorted(event for event in found if event[1]) == [("row of 0", 1), ("row of 1", 2)]
    assert sorted(event for event, n in found if n is None) == ["end of 0", "end of 1"]


def test_a_stream_can_be_joined_with_itself() -> None:
    env = lw.StreamExecutionEnvironment()
    stream = numbers(env, 1)
    found = events(tagged([stream, stream], Tag(), [Exchange.FORWARD] * 2))
    assert sorted(event for event in found if event[1]) == [("row of 0", 1), ("row of 1", 1)]


@pytest.mark.parametrize("first", [0, 1])
def test_an_input_that_is_wanted_first_is_read_to_its_end_before_the_other(first: int) -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    found = events(tagged([numbers(env, *range(1, 9)), numbers(env, *range(1, 9))], Tag(first), [Exchange.FORWARD] * 2))
    assert [event for event, _ in found] == [
        *[f"row of {first}"] * 8,
        f"end of {first}",
        *[f"row of {1 - first}"] * 8,
        f"end of {1 - first}",
    ]


@pytest.mark.parametrize(
    ("exchange", "copies"), [(Exchange.BROADCAST, 3), (Exchange.HASH, 1)], ids=["broadcast", "hash"]
)
def test_a_broadcast_reaches_every_subtask_and_a_hashed_row_one(exchange: Exchange, copies: int) -> None:
    env = lw.StreamExecutionEnvironment(parallelism=3)
    found = events(tagged([numbers(env, 1, 2), numbers(env, 7, 8)], Tag(), [Exchange.HASH, exchange]))
    assert sorted(n for event, n in found if event == "row of 1") == sorted([7, 8] * copies)
    assert sorted(n for event, n in found if event == "row of 0") == [1, 2]


def script(make: Callable[[int], list[Any]]) -> ScriptedSource:
    return ScriptedSource(SCHEMA, [step for n in range(6) for step in make(n)])


@pytest.mark.parametrize("first", [None, 0, 1])
def test_checkpoints_pass_an_operator_that_wants_one_input_first(first: int | None) -> None:
    env = lw.StreamExecutionEnvironment(
        config=lw.EngineConfig(
            checkpoint_interval_ms=10, restart=lw.RestartConfig(delay_min_ms=1), channel_batches_max=2
        )
    )
    left = script(lambda n: [[{"n": n}], BARRIER])
    right = script(lambda n: [[{"n": 10 + n}], *([FAIL] if n == 3 else [])])
    streams = [env.from_source(left, uid="left"), env.from_source(right, uid="right")]
    sink = lw.MemorySink()
    tagged(streams, Tag(first), [Exchange.FORWARD] * 2).sink_to(sink, uid="out")
    result = execute(env.definition("both", MemoryStore()))
    assert result.ended
    assert result.restarts == 1
    rows = [row["n"] for row in sink.table().to_pylist() if row["n"] is not None]
    assert sorted(rows) == [*range(6), *range(10, 16)]
