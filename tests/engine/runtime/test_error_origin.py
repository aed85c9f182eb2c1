"""Errors of rows say where the row was read."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lakeward as lw
from lakeward import col
from lakeward.engine.core.errors import LakewardError, RecordError, UserCodeError

BAD = 37
ROWS = [{"n": n, "even": n % 2 == 0, "items": list(range(n % 4)), "text": f"t{n}"} for n in range(100)]


def failing(row: dict[str, Any]) -> dict[str, int]:
    return {"n": 1 // (row["n"] - BAD)}


def origin_of(stream: lw.DataStream, kind: type[LakewardError] = UserCodeError) -> str:
    with pytest.raises(kind) as caught:
        stream.execute_and_collect()
    error = caught.value
    assert not error.origin or f"read from: {error.origin}" in str(error)
    return error.origin


def rows(batch_rows: int = 32_768, values: list[dict[str, Any]] = ROWS) -> lw.DataStream:
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
    return env.from_collection(values, uid="rows")


def mapped(stream: lw.DataStream) -> lw.DataStream:
    return stream.map(failing, returns={"n": int})


STEPS: dict[str, Callable[[lw.DataStream], lw.DataStream]] = {
    "none": lambda stream: stream,
    "filter": lambda stream: stream.filter((col("n") % 3 != 0) & ~col("even")),
    "project": lambda stream: stream.with_columns(m=col("n") * 2).drop("text"),
    "project by a function": lambda stream: stream.with_columns(m=lw.udf(lambda n: n + 1, returns=int)(col("n"))),
    "unnest": lambda stream: stream.unnest("items", as_="item"),
    "filter, unnest, filter": lambda stream: (
        stream.filter(col("n") > 9).unnest("items", as_="item").filter(col("item") == 0).select("n")
    ),
    "map": lambda stream: stream.map(lambda row: {"n": row["n"]}, returns={"n": int}),
    "filter, map": lambda stream: (
        stream.filter(~col("even")).map(lambda row: {"n": row["n"]}, returns={"n": int}).select("n")
    ),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("batch_rows", [32_768, 16, 1])
def test_the_source_s_row_is_found_behind_steps_that_can_be_run_again(steps: str, batch_rows: int) -> None:
    assert origin_of(mapped(STEPS[steps](rows(batch_rows)))) == f"collection, row {BAD}"


@pytest.mark.parametrize(
    "steps",
    [
        lambda stream: stream.filter(lambda n: n >= 2, columns=["n"]),
        lambda stream: stream.filter(lw.udf(lambda n: n >= 2, returns=bool)(col("n"))),
        lambda stream: stream.flat_map(lambda n: [(n,)] * 2, columns=["n"], returns={"n": int}),
        lambda stream: stream.map_batches(lambda batch: batch),
        lambda stream: stream.map(lambda row: row, returns=pa.schema(stream.schema), on_error=lw.OnError.skip()),
        lambda stream: stream.map(lambda n: (n,), columns=["n"], returns={"n": int}).filter(col("n") % 2 == 1),
    ],
)
def test_behind_functions_that_drop_rows_the_batch_is_all_that_is_known(steps: Any) -> None:
    assert origin_of(mapped(steps(rows(16)))) == "collection, one of the rows 32 to 47"


def test_functions_of_the_user_s_are_not_called_again_to_find_the_row() -> None:
    called: list[int] = []

    def noted(n: int) -> tuple[int]:
        called.append(n)
        return (n,)

    origin_of(mapped(rows().filter(col("n") > 5).map(noted, columns=["n"], returns={"n": int})))
    assert called == list(range(6, 100))


def test_a_function_of_batches_is_at_fault_for_some_row_of_the_batch() -> None:
    def broken(batch: pa.RecordBatch) -> pa.RecordBatch:
        raise ValueError("no")

    assert origin_of(rows(16).map_batches(broken)) == "collection, one of the rows 0 to 15"


def test_behind_an_exchange_nothing_is_said() -> None:
    env = lw.StreamExecutionEnvironment(parallelism=2)
    stream = env.from_source(lw.CollectionSource(ROWS), parallelism=2)
    failed = stream.key_by("text").reduce(lambda a, b: a).map(failing, returns={"n": int})
    assert origin_of(failed) == ""


def failing_fold(held: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "text": 1 // (row["n"] - BAD) and "t"}


def misfitting_fold(held: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "text": 5 if row["n"] == BAD else "t"}


@pytest.mark.parametrize("fold", [failing_fold, misfitting_fold])
@pytest.mark.parametrize("size", [100, 3000])
def test_a_reduce_function_says_the_row(fold: Any, size: int) -> None:
    values = [{"n": n - size + 100, "even": n % 2 == 0, "text": f"t{n}"} for n in range(size)]
    stream = rows(values=values).filter(col("n") != 7).key_by("even").reduce(fold)
    assert origin_of(stream) == f"collection, row {BAD + size - 100}"


def test_behind_a_reduce_the_row_is_found_too() -> None:
    stream = rows().key_by("even").reduce(lambda held, row: row)
    assert origin_of(mapped(stream)) == f"collection, row {BAD}"


class Failing(lw.KeyedProcessFunction):
    def process(self, row: dict[str, Any], ctx: lw.KeyedContext) -> list[dict[str, int]]:
        return [failing(row)]


SKIPPING: dict[str, Callable[[lw.DataStream, lw.OnError], lw.DataStream]] = {
    "map": lambda stream, policy: stream.map(failing, returns={"n": int}, on_error=policy),
    "flat_map": lambda stream, policy: stream.flat_map(lambda row: [failing(row)], returns={"n": int}, on_error=policy),
    "filter": lambda stream, policy: stream.filter(lambda row: failing(row)["n"] < 5, on_error=policy),
    "map_batches": lambda stream, policy: stream.map_batches(
        lambda batch: pa.record_batch({"n": [failing(row)["n"] for row in batch.to_pylist()]}),
        returns={"n": int},
        on_error=policy,
    ),
    "process": lambda stream, policy: stream.key_by("n").process(Failing(), returns={"n": int}, on_error=policy),
    "behind a filter": lambda stream, policy: stream.filter(~col("even")).map(
        failing, returns={"n": int}, on_error=policy
    ),
}


@pytest.mark.parametrize("last", [lw.OnError.skip(), lw.OnError.side_output(lw.OutputTag("failed"))], ids=str)
@pytest.mark.parametrize("build", SKIPPING.values(), ids=SKIPPING.keys())
@pytest.mark.parametrize("batch_rows", [10, 1000])
def test_log_lines_of_rows_that_are_left_out_say_where_they_were_read(
    build: Any, last: lw.OnError, batch_rows: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="lakeward"):
        assert build(rows(batch_rows), last).execute_and_collect().num_rows in (49, 99)
    lines = [line for line in caplog.messages if "1 row failed" in line]
    assert len(lines) == 1
    assert lines[0].endswith(f"; read from: collection, row {BAD}")


def test_log_lines_behind_an_exchange_say_no_place(caplog: pytest.LogCaptureFixture) -> None:
    stream = rows().key_by("n").process(Failing(), returns={"n": int}, on_error=lw.OnError.skip(), parallelism=2)
    stream.execute_and_collect()
    assert any("1 row failed" in line for line in caplog.messages)
    assert not any("read from" in line for line in caplog.messages)


def test_expressions_say_the_row_too() -> None:
    stream = rows(16).filter(col("n") != 3)
    assert origin_of(stream.with_columns(m=1 // (col("n") - BAD))) == f"collection, row {BAD}"
    assert origin_of(stream.filter(1 // (col("n") - BAD) > 0)) == f"collection, row {BAD}"
    by_udf = lw.udf(lambda n: 1 // (n - BAD), returns=int)
    assert origin_of(stream.with_columns(m=by_udf(col("n")))) == f"collection, row {BAD}"
    chosen = lw.when(col("n") > 20).then(by_udf(col("n"))).otherwise(0)
    for batch_rows in (16, 100):
        assert origin_of(rows(batch_rows).with_columns(m=chosen)) == f"collection, row {BAD}"
    holes = rows(16, [{"n": None if n % 3 else n} for n in range(35)] + [{"n": BAD}])
    assert origin_of(holes.with_columns(m=by_udf(col("n")))) == "collection, row 35"


def test_a_text_that_cannot_be_cast_says_the_row() -> None:
    stream = rows(values=[{"t": "1"}, {"t": "x"}])
    assert origin_of(stream.with_columns(n=col("t").cast("int64")), RecordError) == "collection, row 1"


def test_a_missing_event_time_says_the_row() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    values = [{"n": n, "at": None if n == 2 else start} for n in range(5)]
    env = lw.StreamExecutionEnvironment()
    stream = env.from_collection(values, watermark=lw.WatermarkStrategy.monotonous("at"))
    counted = stream.filter(col("n") > 0).window_all(lw.Tumbling("1m")).aggregate(n=lw.count())
    assert origin_of(counted, RecordError) == "collection, row 2"


def write(folder: Path, form: str) -> Path:
    path = folder / f"rows.{form}"
    plain = [{"n": row["n"], "text": row["text"]} for row in ROWS]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(plain), path, row_group_size=10)
    elif form == "csv":
        path.write_text("n,text\n" + "".join(f"{row['n']},{row['text']}\n" for row in plain))
    else:
        lines = [json.dumps(row) for row in plain]
        lines[5] = "\n" + lines[5] + "\n"  # blank lines count as records, as in the errors of bad ones
        lines[8] = "{broken"
        path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("batch_rows", [32_768, 7])
@pytest.mark.parametrize(("form", "place"), [("parquet", "row 38"), ("csv", "record 39"), ("jsonl", "record 40")])
def test_files_say_file_and_row(tmp_path: Path, form: str, place: str, batch_rows: int) -> None:
    path = write(tmp_path, form)
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=batch_rows))
    schema = {"n": int, "text": str}
    source = lw.FilesSource(path, schema=schema, on_error="skip" if form != "parquet" else "fail")
    stream = env.from_source(source)
    assert origin_of(mapped(stream.filter(col("n") > 3))) == f"file {path}, {place}"


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_row_that_is_found_is_the_one_that_failed(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40))
    bad = data.draw(st.integers(0, count - 1))
    kept = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    kept[bad] = True
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    lengths[bad] = max(lengths[bad], 1)
    values = [{"n": n - bad, "kept": kept[n], "items": [0] * lengths[n]} for n in range(count)]
    env = lw.StreamExecutionEnvironment(config=lw.EngineConfig(batch_rows=data.draw(st.integers(1, 50))))
    stream = env.from_collection(
        values, schema=pa.schema({"n": pa.int64(), "kept": pa.bool_(), "items": pa.list_(pa.int64())})
    )
    steps = stream.filter(col("kept")).unnest("items", as_="item").with_columns(m=col("n") + 1)
    failed = steps.map(lambda n: (1 // n,), columns=["n"], returns={"n": int})
    assert origin_of(failed) == f"collection, row {bad}"
