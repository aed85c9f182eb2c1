"""Joins, rankings and deduplications keep only what is read of their rows, and answer the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
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
from lakeward.engine.core.errors import CheckpointError
from lakeward.engine.execute import Ports, execute
from lakeward.engine.graph.logical import Node
from lakeward.engine.graph.optimise import optimise

START = datetime(2026, 1, 1)  # noqa: DTZ001 - what a Parquet column without a zone holds
OFF, ON = EngineConfig(optimise=False, batch_rows=64), EngineConfig(batch_rows=64)


def table(first: int, step: int) -> pa.Table:
    """Rows with keys, some null, times and columns that are mostly not read."""
    numbers = range(first, first + 200)
    return pa.table(
        {
            "wide": [f"some text {i}" for i in numbers],
            "k": pa.array([None if i % 17 == 0 else i * step % 41 for i in numbers], pa.int64()),
            "v": pa.array([i % 23 for i in numbers], pa.int64()),
            "s": [f"s{i % 13}" for i in numbers],
            "t": pa.array([START + timedelta(seconds=i) for i in numbers], pa.timestamp("us")),
        }
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "left.parquet", tmp_path / "right.parquet"
    for path, rows in zip(paths, (table(0, 7), table(30, 11)), strict=True):
        pq.write_table(rows, path)
    return paths


def read(env: StreamExecutionEnvironment, path: Path) -> DataStream:
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("t", "3s")
    return env.from_source(FilesSource(path), uid=path.stem, watermark=watermark)


Query = Callable[[DataStream, DataStream], DataStream]
TUMBLING = lw.Tumbling("20s")
LESS = col("v") < col("v_right")
BY_TIME = {"lower": "-10s", "upper": "10s"}

JOINS: dict[str, Query] = {
    "interval": lambda one, two: one.interval_join(two, on="k", **BY_TIME).select("v", "s_right"),
    "interval event time": lambda one, two: one.interval_join(two, on="k", **BY_TIME, where=LESS).select("s"),
    "temporal": lambda one, two: one.temporal_join(two, on="k", how="left").select("s_right", "v"),
    "lookup": lambda one, two: one.lookup_join(two, on="k", how="left").select("s"),
    "lookup right": lambda one, two: one.lookup_join(two, on="k", how="left").select("s_right"),
    **{
        f"{how} join of {columns}": lambda one, two, how=how, columns=columns: one.join(two, on="k", how=how).select(
            *columns.split()
        )
        for how in ("inner", "left", "right", "full")
        for columns in ("k v_right", "s_right", "s", "v s_right")
    },
    **{
        f"{how} window join": lambda one, two, how=how: one.window_join(two, on="k", how=how, window=TUMBLING).select(
            *("v", "window_start") if how in ("semi", "anti") else ("s_right", "window_end")
        )
        for how in ("inner", "left", "right", "full", "semi", "anti")
    },
    **{
        f"{how} join": lambda one, two, how=how: one.join(two, on="k", how=how, where=LESS).select("s")
        for how in ("semi", "anti", "left")
    },
}
RANKINGS: dict[str, Query] = {
    "first": lambda one, two: one.key_by("k").deduplicate("first").select("v"),
    "last": lambda one, two: one.key_by("k").deduplicate("last").select("k", "v"),
    "last by time": lambda one, two: one.key_by("k").deduplicate("last", order_by="t").select("k", "v"),
    "top 1": lambda one, two: one.key_by("k").top_n(1, by=[lw.desc("v"), "s"]).select("k", "s"),
    "top 3": lambda one, two: one.key_by("k").top_n(3, by="v", rank_column="rank").select("k", "s", "rank"),
    "top 3 by rank": lambda one, two: one.key_by("s").top_n(3, by="v", method="rank").select("s", "k"),
    "top 2 of updates": lambda one, two: (
        one.key_by("k")
        .deduplicate("last", order_by="t")
        .key_by("s")
        .top_n(2, by="v", rank_column="rank")
        .select("s", "rank")
    ),
    "join of updates": lambda one, two: (
        one.key_by("k").deduplicate("last", order_by="t").join(two, on="k", how="left").select("k", "s_right")
    ),
}
QUERIES = JOINS | RANKINGS
ALONE = [query for name, query in RANKINGS.items() if name != "join of updates"]


def ask(env: StreamExecutionEnvironment, files: tuple[Path, Path], query: Query) -> DataStream:
    one = read(env, files[0])
    return query(one, read(env, files[1]) if query not in ALONE else one)


def answer(config: EngineConfig, files: tuple[Path, Path], query: Query, parallelism: int) -> Counter[str]:
    env = StreamExecutionEnvironment(config=config, parallelism=parallelism)
    stream = ask(env, files, query)
    updating = stream.is_updating
    memory = MemorySink()
    (stream.to_changelog() if updating else stream).sink_to(memory, uid="out")
    env.execute()
    left: Counter[str] = Counter()
    for row in memory.table().to_pylist():
        sign = -1 if row.pop("op", "+I").startswith("-") else 1
        left[str(row)] += sign
    return +left


@pytest.mark.parametrize("parallelism", [1, 2])
@pytest.mark.parametrize("name", QUERIES)
def test_fewer_columns_make_the_same_answer(name: str, parallelism: int, files: tuple[Path, Path]) -> None:
    found = answer(ON, files, QUERIES[name], parallelism)
    if name not in ("last", "first", "top 3 by rank") or parallelism == 1:  # which of equal rows comes first is open
        assert found == answer(OFF, files, QUERIES[name], parallelism)
    assert found


def optimised(env: StreamExecutionEnvironment) -> dict[str, Node]:
    return {node.uid: node for node in optimise(env.definition().graph, 1)}


@pytest.mark.parametrize("name", QUERIES)
def test_a_wide_column_that_nobody_reads_is_not_read(name: str, files: tuple[Path, Path]) -> None:
    env = StreamExecutionEnvironment(config=ON)
    ask(env, files, QUERIES[name]).sink_to(lw.BlackholeSink(), uid="out")
    nodes = optimised(env)
    for uid in ("left", "right")[: 2 if name in JOINS else 1]:
        assert "wide" not in nodes[uid].schema.names


def test_late_rows_are_sent_aside_whole(files: tuple[Path, Path]) -> None:
    env = StreamExecutionEnvironment(config=ON)
    late = lw.OutputTag("late")
    one, two = read(env, files[0]), read(env, files[1])
    joined = one.window_join(two, on="k", window=TUMBLING, late_left=late)
    joined.select("v").sink_to(lw.BlackholeSink(), uid="out")
    joined.side_output(late).sink_to(lw.BlackholeSink(), uid="late-rows")
    assert "wide" in optimised(env)["left"].schema.names


def run(folder: Path, config: EngineConfig, files: tuple[Path, Path], columns: list[str], polls: int) -> None:
    env = StreamExecutionEnvironment(config=replace(config, batch_rows=20), checkpoint_dir=folder / "checkpoints")
    one, two = read(env, files[0]), read(env, files[1])
    joined = one.join(two, on="k", uid="joined").select(*columns)
    joined.sink_to(lw.FilesSink(folder / "out", format="jsonl"), uid="out")
    left = iter(range(polls))
    execute(env.definition("job"), Ports(stop=lambda: next(left, None) is None))


def written(folder: Path) -> list[dict[str, Any]]:
    parts = sorted((folder / "out").glob("*.jsonl"))
    return [orjson.loads(line) for part in parts for line in part.read_bytes().splitlines()]


def test_state_with_all_columns_is_restored_where_fewer_are_read(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(tmp_path, OFF, files, ["k", "v", "s_right"], 5)
    first = len(written(tmp_path))
    run(tmp_path, ON, files, ["k", "v"], 1000)
    rows = written(tmp_path)
    assert 0 < first < len(rows)
    expected = pq.read_table(files[0]).join(pq.read_table(files[1]).select(["k"]), "k", join_type="inner")
    wanted = Counter((row["k"], row["v"]) for row in expected.to_pylist())
    assert Counter((row["k"], row["v"]) for row in rows) == wanted


def test_a_query_that_reads_columns_which_were_not_kept_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(tmp_path, ON, files, ["k", "v"], 8)
    with pytest.raises(CheckpointError, match=r"state table '(left|right)': column 's' of type string is new"):
        run(tmp_path, ON, files, ["k", "s", "s_right"], 8)
