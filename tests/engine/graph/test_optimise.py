"""The optimiser changes what a job costs, and nothing that it answers or that a checkpoint knows."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lakeward as lw
from lakeward import DataStream, EngineConfig, FilesSource, MemorySink, StreamExecutionEnvironment, col
from lakeward.connectors.collection import CollectionSource
from lakeward.engine.api.source import Source
from lakeward.engine.core.errors import UserCodeError
from lakeward.engine.core.ids import OperatorId
from lakeward.engine.execute import Ports, execute
from lakeward.engine.graph.logical import Node, SourceSpec
from lakeward.engine.graph.optimise import KeepColumns, optimise

START = datetime(2026, 1, 1)  # noqa: DTZ001 - what a Parquet column without a zone holds
ROWS = pa.table(
    {
        "k": pa.array([i * 7 % 5 for i in range(400)], pa.int64()),
        "v": pa.array([None if i % 11 == 0 else i for i in range(400)], pa.int64()),
        "s": [f"s{i % 13}" for i in range(400)],
        "f": [i / 8 for i in range(400)],
        "t": pa.array([START + timedelta(seconds=i) for i in range(400)], pa.timestamp("us")),
    }
)
OFF, ON = EngineConfig(optimise=False), EngineConfig()


def environment(config: EngineConfig, parallelism: int = 1) -> StreamExecutionEnvironment:
    return StreamExecutionEnvironment(config=config, parallelism=parallelism)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    pq.write_table(ROWS, tmp_path / "rows.parquet", row_group_size=50)
    return tmp_path / "rows.parquet"


def write(folder: Path, format: str) -> Path:
    path = folder / f"rows.{format}"
    if format == "parquet":
        pq.write_table(ROWS, path, row_group_size=60)
    else:
        path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in ROWS.to_pylist()))
    return path


def read(env: StreamExecutionEnvironment, path: Path, *, timed: bool = False) -> DataStream:
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("t", "3s") if timed else None
    return env.from_source(FilesSource(path), uid="rows", watermark=watermark)


def optimised(env: StreamExecutionEnvironment, parallelism: int = 1) -> dict[str, Node]:
    return {node.uid: node for node in optimise(env.definition().graph, parallelism)}


def source_columns(nodes: Mapping[str, Node], uid: str = "rows") -> list[str]:
    work = nodes[uid].work
    assert isinstance(work, SourceSpec)
    assert work.source.schema == nodes[uid].schema
    return nodes[uid].schema.names


def told(nodes: Mapping[str, Node], uid: str = "rows") -> list[str]:
    work = nodes[uid].work
    assert isinstance(work, SourceSpec)
    return [str(one) for one in work.pushdown.predicate] if work.pushdown is not None else []


def sink(stream: DataStream, uid: str = "out") -> MemorySink:
    memory = MemorySink()
    stream.sink_to(memory, uid=uid)
    return memory


def test_only_columns_that_are_read_are_read(parquet: Path) -> None:
    env = environment(ON)
    sink(read(env, parquet).filter(col("v") > 7).with_columns(w=col("f") * 2, x=col("s")).select("k", "w"))
    nodes = optimised(env)
    assert source_columns(nodes) == ["k", "v", "f"]
    assert nodes["filter-1"].schema.names == ["k", "f"]  # what only the condition needs goes no further
    assert nodes["with_columns-1"].schema.names == ["k", "w"]
    assert nodes["out"].schema.names == ["k", "w"]


def test_a_plan_says_what_is_pushed(parquet: Path) -> None:
    env = environment(ON)
    sink(read(env, parquet).filter(col("v") > 7).select("k"))
    assert "reads k, v of 5 columns, may skip rows unless v > 7" in env.explain()
    assert "reads" not in environment_like(env, OFF).explain()


def test_json_lines_are_told_of_no_filter(tmp_path: Path) -> None:
    env = environment(ON)
    sink(read(env, write(tmp_path, "jsonl")).filter(col("v") > 7).select("k"))
    assert "    reads k, v of 5 columns\n" in env.explain()


def environment_like(env: StreamExecutionEnvironment, config: EngineConfig) -> StreamExecutionEnvironment:
    env.config = config
    return env


def test_a_function_of_rows_gets_all_columns(parquet: Path) -> None:
    env = environment(ON)
    sink(read(env, parquet).filter(lambda row: row["v"] is None).select("k"))
    assert source_columns(optimised(env)) == ROWS.column_names


def test_what_several_readers_need_is_read_once(parquet: Path) -> None:
    env = environment(ON)
    rows = read(env, parquet)
    sink(rows.select("k"), "one")
    sink(rows.filter(col("v") > 390).select("s"), "two")
    nodes = optimised(env)
    assert source_columns(nodes) == ["k", "v", "s"]
    assert told(nodes) == []  # the first reader wants all rows


def test_a_sink_gets_its_columns_in_their_order(parquet: Path) -> None:
    env = environment(ON)
    out = sink(read(env, parquet).select("s", "k", "v").filter(col("v") > 390))
    env.execute()
    assert out.table().schema.names == ["s", "k", "v"]


def test_a_union_takes_the_same_columns_of_every_input(parquet: Path, tmp_path: Path) -> None:
    env = environment(ON)
    one = read(env, parquet)
    sink(one.filter(col("f") > 40).select("f"), "aside")  # so that this input has more columns than the other
    other = env.from_source(CollectionSource(ROWS), uid="more")
    out = sink(one.union(other, uid="both").filter(col("v") > 390).select("k"))
    nodes = optimised(env)
    assert source_columns(nodes) == ["k", "v", "f"]
    assert nodes["both"].schema.names == ["k", "v"]
    env.execute()
    assert sorted(out.table()["k"].to_pylist()) == sorted(2 * [i * 7 % 5 for i in range(391, 400) if i % 11])


def test_rows_are_counted_even_if_no_column_is_read(parquet: Path) -> None:
    env = environment(ON)
    out = sink(read(env, parquet).with_columns(one=lw.lit(1)).select("one"))
    assert source_columns(optimised(env)) == ["k"]
    env.execute()
    assert out.table()["one"].to_pylist() == [1] * 400


def test_event_time_is_read(parquet: Path) -> None:
    env = environment(ON)
    sink(read(env, parquet, timed=True).select("k"))
    assert source_columns(optimised(env)) == ["k", "t"]


def test_late_rows_keep_all_their_columns(parquet: Path) -> None:
    env = environment(ON)
    late = lw.OutputTag("late")
    windows = read(env, parquet, timed=True).key_by("k").window(lw.Tumbling("10s"))
    counted = windows.side_output_late_data(late).aggregate(n=lw.count(), uid="windows")
    sink(counted)
    sink(counted.side_output(late), "late")
    assert source_columns(optimised(env)) == ROWS.column_names


def test_an_exchange_does_not_carry_what_nobody_reads(parquet: Path) -> None:
    def doubled(row: dict[str, Any]) -> dict[str, Any]:
        return {"k": row["k"], "v": row["v"], "s": row["s"]}

    env = environment(ON, parallelism=2)
    rows = read(env, parquet).map(doubled, returns={"k": int, "v": int, "s": str}, uid="mapped")
    out = sink(rows.filter(col("v") > 390, parallelism=1, uid="late").select("k"))
    graph = env.definition().graph
    nodes = optimise(graph, 2).nodes
    (keep,) = [node for node in nodes if isinstance(node.work, KeepColumns)]
    assert (keep.uid, keep.schema.names, keep.inputs[0].upstream) == ("late.columns-1", ["k", "v"], "mapped")
    assert [node.uid for node in nodes if node is not keep] == [node.uid for node in graph]
    assert len(optimise(graph, 1).nodes) == len(graph.nodes)  # one subtask each: nothing is exchanged
    env.execute()
    assert out.table().num_rows == len([i for i in range(391, 400) if i % 11])


def test_errors_name_the_users_line(parquet: Path) -> None:
    env = environment(ON)
    sink(read(env, parquet).filter(col("k") // (col("v") - col("v")) > 1).select("k"))
    with pytest.raises(UserCodeError) as caught:
        env.execute()
    assert __file__ in str(caught.value)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (col("v") > 3, ["v > 3"]),
        (lw.lit(3) > col("v"), ["v < 3"]),
        ((col("v") >= 3) & (col("s") == "x") & (col("f") < 1.5), ["v >= 3", "s == x", "f < 1.5"]),
        (col("v").between(3, 9), ["v >= 3", "v <= 9"]),
        (col("v").is_in([4, 2, 9]), ["v >= 2", "v <= 9"]),
        (col("t") >= START, ["t >= 2026-01-01 00:00:00"]),
        ((col("v") > 3) | (col("k") > 1), []),
        (~(col("v") > 3), []),
        (col("v") + 1 > 3, []),
        (col("v") > 2.5, []),
        (col("v") != 3, []),
        (col("v") > col("k"), []),
    ],
    ids=str,
)
def test_a_source_is_told_comparisons_with_constants(condition: Any, expected: list[str], parquet: Path) -> None:
    env = environment(ON)
    sink(read(env, parquet).filter(condition))
    assert told(optimised(env)) == expected


def test_filters_are_told_through_plain_projections_in_the_names_of_the_source(parquet: Path) -> None:
    env = environment(ON)
    rows = read(env, parquet).rename({"v": "k", "k": "v"}).select("k", "v").filter(col("v") < 3)
    sink(rows.filter(col("k") > 5).with_columns(w=col("k") * 2).filter(col("v") > 100))
    assert told(optimised(env)) == ["k < 3", "v > 5"]


def test_with_event_time_a_source_is_told_only_how_old_rows_may_be(parquet: Path) -> None:
    env = environment(ON)
    sink(read(env, parquet, timed=True).filter((col("v") > 390) & col("t").between(START, START)))
    assert told(optimised(env)) == ["t >= 2026-01-01 00:00:00"]


def test_row_groups_without_a_wanted_row_are_not_read(parquet: Path) -> None:
    env = environment(ON)
    out = sink(read(env, parquet).filter((col("v") > 120) & (col("v") <= 140)).select("v"))
    result = env.execute()
    assert out.table()["v"].to_pylist() == [v for v in ROWS["v"].to_pylist() if v and 120 < v <= 140]
    assert result is not None
    assert result.metrics["rows"]["output_rows"] == 50


class Whole(Source):
    """A source that reads all its columns, whatever it is told."""

    def __init__(self, source: Source) -> None:
        self._source = source

    schema = property(lambda self: self._source.schema)
    bounded = property(lambda self: self._source.bounded)
    description = property(lambda self: "whole")

    def list_splits(self, known: Any) -> Any:
        return self._source.list_splits(known)

    def open_reader(self, context: Any) -> Any:
        return self._source.open_reader(context)


def test_a_source_that_cannot_leave_columns_out_is_left_as_it_is(parquet: Path) -> None:
    env = environment(ON)
    out = sink(env.from_source(Whole(FilesSource(parquet)), uid="rows").filter(col("v") > 390).select("k"))
    nodes = optimised(env)
    assert nodes["rows"].schema.names == ROWS.column_names
    assert nodes["filter-1"].schema.names == ["k"]
    env.execute()
    assert out.table().num_rows == len([i for i in range(391, 400) if i % 11])


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_a_checkpoint_is_restored_with_another_query_above_the_source(format: str, tmp_path: Path) -> None:
    path = write(tmp_path, format)

    def run(config: EngineConfig, condition: lw.Expr, columns: list[str], polls: int) -> None:
        env = StreamExecutionEnvironment(config=replace(config, batch_rows=20), checkpoint_dir=tmp_path / "checkpoints")
        rows = read(env, path).filter(condition).select(*columns)
        rows.sink_to(lw.FilesSink(tmp_path / "out", format="jsonl"), uid="out")
        left = iter(range(polls))
        execute(env.definition("job"), Ports(stop=lambda: next(left, None) is None))

    run(OFF, col("f") >= 0, ["f", "s"], 6)
    run(ON, col("f") >= 0, ["f"], 6)
    run(ON, col("k") >= 0, ROWS.column_names, 6)
    run(OFF, col("t") >= START, ["t", "f"], 1000)
    parts = sorted((tmp_path / "out").glob("*.jsonl"))
    assert len(parts) == 4
    found = [orjson.loads(line)["f"] for part in parts for line in part.read_bytes().splitlines()]
    assert sorted(found) == ROWS["f"].to_pylist()


# -- random jobs: the same answers with and without


Step = Callable[[random.Random, DataStream], DataStream]


def _numbers(stream: DataStream) -> list[str]:
    return [
        field.name for field in stream.schema if pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    ]


def _filter(rng: random.Random, stream: DataStream) -> DataStream:
    names = _numbers(stream)
    if not names:
        return stream
    one, other = rng.choice(names), rng.choice(names)
    condition = rng.choice(
        [col(one) > rng.randrange(300), col(one).between(50, 350), col(one).is_not_null(), col(one) >= col(other)]
    )
    return stream.filter(condition & (col(other) < 390) if rng.random() < 0.5 else condition)


def _select(rng: random.Random, stream: DataStream) -> DataStream:
    kept = [name for name in stream.schema.names if rng.random() < 0.6 or name == "k"]
    rng.shuffle(kept)
    return stream.select(*kept) if kept else stream


def _rename(rng: random.Random, stream: DataStream) -> DataStream:
    name = rng.choice(stream.schema.names)
    return stream.rename({name: f"{name}x"}) if name != "k" and f"{name}x" not in stream.schema.names else stream


def _compute(rng: random.Random, stream: DataStream) -> DataStream:
    names = _numbers(stream)
    return stream.with_columns(**{rng.choice("abv"): col(rng.choice(names)) + 1}) if names else stream


def _union(rng: random.Random, stream: DataStream) -> DataStream:
    other = _filter(rng, stream)
    return stream.union(other) if other is not stream else stream


def _function(rng: random.Random, stream: DataStream) -> DataStream:
    return stream.map_batches(lambda batch: batch.slice(0, batch.num_rows))


def _aggregate(rng: random.Random, stream: DataStream) -> DataStream:
    names = _numbers(stream)
    if "k" not in stream.schema.names or stream.event_time is None:
        return stream
    windows = stream.key_by("k").window(lw.Tumbling("20s"))
    return windows.aggregate(n=lw.count(), v=lw.max(rng.choice(names)))


STEPS: Sequence[Step] = (_filter, _filter, _select, _rename, _compute, _union, _function, _aggregate)


def answers(seed: int, config: EngineConfig, path: Path) -> list[list[str]]:
    rng = random.Random(seed)
    env = environment(config, parallelism=rng.choice([1, 1, 2]))
    streams = [read(env, path, timed=rng.random() < 0.5)]
    for _ in range(rng.randrange(2, 7)):
        streams.append(rng.choice(STEPS)(rng, rng.choice(streams[-2:])))
    read_from = {edge.upstream for node in env.definition().graph for edge in node.inputs}
    ends = {one.uid: one for one in streams if one.uid not in read_from or rng.random() < 0.2}
    sinks = [sink(one, f"sink-of-{uid}") for uid, one in ends.items()]
    env.execute()
    return [sorted(map(str, one.table().to_pylist())) for one in sinks]


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_random_jobs_give_the_same_answers(seed: int, format: str, tmp_path: Path) -> None:
    path = write(tmp_path, format)
    small = replace(ON, batch_rows=64)
    assert answers(seed, small, path) == answers(seed, replace(small, optimise=False), path)


@pytest.mark.parametrize("parallelism", [1, 2])
def test_an_edge_says_which_columns_are_read_whether_or_not_others_are_left_out_there(
    parquet: Path, parallelism: int
) -> None:
    env = environment(ON, parallelism)
    sums = read(env, parquet, timed=True).key_by("k").window(lw.Tumbling("5s")).aggregate(uid="sums", n=lw.sum("v"))
    sums.select("k", "n").with_columns(n=col("n") + 1).sink_to(MemorySink(), uid="out")
    graph = optimise(env.definition("job").graph, parallelism)
    (edge,) = graph.node(OperatorId("sums")).inputs
    assert edge.reads == {"k", "v", "t"}
