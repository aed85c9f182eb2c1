"""Updating streams in the DSL: what keeps row kinds, what refuses them, and the final result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, UPDATE_AFTER, UPDATE_BEFORE, updating
from lakeward.engine.core.errors import SchemaError

SCHEMA = updating(pa.schema([("k", pa.int64()), ("v", pa.int64())]))
ROWS = [(1, 5, INSERT), (2, 7, INSERT), (1, 5, UPDATE_BEFORE), (1, 6, UPDATE_AFTER), (2, 7, DELETE), (3, 1, INSERT)]


def changing(env: lw.StreamExecutionEnvironment | None = None) -> lw.DataStream:
    rows = [dict(zip(SCHEMA.names, row, strict=True)) for row in ROWS]
    return (env or lw.StreamExecutionEnvironment()).from_collection(rows, schema=SCHEMA)


def test_the_final_result_is_what_the_changes_leave() -> None:
    assert changing().is_updating
    assert changing().collect_final().to_pylist() == [{"k": 1, "v": 6}, {"k": 3, "v": 1}]


def test_the_final_result_of_plain_rows_is_all_of_them() -> None:
    stream = lw.StreamExecutionEnvironment().from_collection([{"a": 1}, {"a": 1}])
    assert stream.collect_final().to_pylist() == [{"a": 1}, {"a": 1}]


def test_expressions_leave_row_kinds_at_the_end_of_the_row() -> None:
    stream = changing().with_columns(w=col("v") * 2).filter(col("w") > 2).select("w", "k")
    assert stream.schema.names == ["w", "k", ROW_KIND]
    assert stream.drop("k").rename({"w": "x"}).collect_final().to_pydict() == {"x": [12]}


def test_a_filter_takes_back_a_row_that_no_longer_passes() -> None:
    assert changing().filter(col("v") == 5).collect_final().num_rows == 0


def test_a_union_with_plain_rows_is_updating() -> None:
    env = lw.StreamExecutionEnvironment()
    both = env.from_collection([{"k": 9, "v": 9}]).union(changing(env))
    assert sorted(both.collect_final()["k"].to_pylist()) == [1, 3, 9]


def test_changes_can_be_written_as_plain_rows() -> None:
    table = changing().to_changelog("what").execute_and_collect()
    assert table["what"].to_pylist() == ["+I", "+I", "-U", "+U", "-D", "+I"]
    assert table.schema.names == ["what", "k", "v"]


def test_print_shows_what_a_row_does(capsys: pytest.CaptureFixture[str]) -> None:
    env = lw.StreamExecutionEnvironment()
    changing(env).sink_to(lw.PrintSink())
    env.execute("print")
    assert capsys.readouterr().out.splitlines()[2:4] == ["1> -U k=1, v=5", "1> +U k=1, v=6"]


def same(row: dict[str, Any]) -> dict[str, Any]:
    return row


@pytest.mark.parametrize(
    "use",
    [
        lambda stream, folder: stream.map(same, returns={"k": int}),
        lambda stream, folder: stream.flat_map(lambda row: [row], returns={"k": int}),
        lambda stream, folder: stream.filter(lambda row: True),
        lambda stream, folder: stream.map_batches(lambda batch: batch),
        lambda stream, folder: stream.key_by("k").reduce(lambda a, b: b),
        lambda stream, folder: stream.sink_to(lw.FilesSink(folder, format="parquet")),
        lambda stream, folder: stream.sink_to(lw.IcebergSink("db.t")),
    ],
    ids=["map", "flat_map", "filter function", "map_batches", "reduce", "files", "iceberg"],
)
def test_what_cannot_take_rows_back_refuses_when_the_graph_is_built(
    use: Callable[[lw.DataStream, Path], object], tmp_path: Path
) -> None:
    with pytest.raises(SchemaError, match="takes rows back") as caught:
        use(changing(), tmp_path)
    assert "test_updating.py" in str(caught.value)
    assert caught.value.hint


def test_a_name_that_is_taken_cannot_be_the_changelog_column() -> None:
    with pytest.raises(SchemaError, match="'k' already"):
        changing().to_changelog("k")


@pytest.mark.parametrize("keyed", [True, False], ids=["by its key", "without a key"])
def test_changes_of_one_row_stay_in_order_when_the_parallelism_changes(keyed: bool) -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=3))
    rows = env.from_collection([{"k": n % 5, "v": n} for n in range(60)])
    totals = rows.key_by("k").aggregate(v=lw.sum("v")) if keyed else rows.aggregate(v=lw.sum("v"))
    spread = totals.filter(col("v") >= 0, parallelism=3)
    expected = [sum(range(k, 60, 5)) for k in range(5)] if keyed else [sum(range(60))]
    assert sorted(spread.collect_final()["v"].to_pylist()) == sorted(expected)
    spread.sink_to(lw.BlackholeSink())
    assert ("hash by k from aggregate-1" if keyed else "global from aggregate-1") in env.explain()


def test_ten_tables_of_one_aggregation_share_memory_for_less_than_one_without_losing_each_other() -> None:
    config = lw.EngineConfig(batch_rows=3, state_memory_bytes=1 << 10, restart=lw.RestartConfig(attempts_max=0))
    rows = [{"k": n % 7, "g": n % 3, **{f"v{i}": (n * (i + 3)) % 11 for i in range(5)}} for n in range(60)]
    stream = lw.StreamExecutionEnvironment(config=config).from_collection(rows)
    latest = stream.key_by("k").deduplicate("last")
    extremes = {f"{kind}{i}": getattr(lw, kind)(f"v{i}") for i in range(5) for kind in ("min", "max")}
    result = latest.key_by("g").aggregate(extremes).collect_final().sort_by("g").to_pylist()

    last = {row["k"]: row for row in rows}.values()
    for found in result:
        for i in range(5):
            values = [row[f"v{i}"] for row in last if row["g"] == found["g"]]
            assert (found[f"min{i}"], found[f"max{i}"]) == (min(values), max(values))
    assert [found["g"] for found in result] == [0, 1, 2]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
@pytest.mark.parametrize("update_before", [True, False])
def test_both_zeros_are_one_key_also_for_who_applies_the_changes(kind: pa.DataType, update_before: bool) -> None:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=1))
    stream = env.from_collection(pa.table({"f": pa.array([0.0, -0.0, None, float("nan"), float("nan")], kind)}))
    counted = stream.key_by("f").aggregate(n=lw.count(), update_before=update_before)
    changes = counted.execute_and_collect()
    assert "-0.0" not in map(str, changes["f"].to_pylist())
    assert [str(row) for row in counted.collect_final().to_pylist()] == [
        "{'f': 0.0, 'n': 2}",
        "{'f': None, 'n': 1}",
        "{'f': nan, 'n': 2}",
    ]
    latest = stream.key_by("f").deduplicate("last", update_before=update_before)
    assert latest.collect_final().num_rows == 3
