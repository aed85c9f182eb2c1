"""Golden jobs, each run straight, and parallel with checkpoints, stops or crashes, restored at other parallelism."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.dsl.stream import DataStream
from lakeward.testing import ABORT, BARRIER, EOF, FAIL, CollectSink, Item, JobHarness, ScriptedSource

SCHEMA = pa.schema({"k": pa.int64(), "name": pa.string(), "v": pa.int64(), "at": pa.timestamp("us")})
SECOND = 1_000_000
LATE = lw.OutputTag("late")


def rows(first: int, count: int) -> list[dict[str, Any]]:
    """Rows of 50 keys, about ten a second, a little out of order."""
    numbers = range(first, first + count)
    return [
        {"k": n * 7919 % 50, "name": f"n{n % 5}", "v": n, "at": (n // 10 * SECOND) + (n * 37 % 10) * SECOND // 10}
        for n in numbers
    ]


def late_rows(at_s: int) -> list[dict[str, Any]]:
    """Rows far behind the watermark."""
    return [{"k": k, "name": "late", "v": 1, "at": at_s * SECOND} for k in range(3)]


@dataclass(frozen=True)
class Golden:
    """A job and the batch query that says what it must answer.

    Args:
        batches: Its input.
        build: The stream of its answer.
        sql: The answer over the table `input`.
    """

    batches: Sequence[list[dict[str, Any]]]
    build: Callable[[DataStream], DataStream]
    sql: str


PLAIN = [rows(first, 40) for first in range(0, 400, 40)]
# Row 239 is at second 23, so the watermark is near 22 s: a row at 3 s is late for every window of 10 s.
WITH_LATE = [*PLAIN[:6], late_rows(3), *PLAIN[6:]]


def sliding(stream: DataStream) -> lw.WindowedStream:
    return stream.key_by("name").window(lw.Sliding("10s", "5s")).side_output_late_data(LATE)


GOLDEN = {
    "filter": Golden(
        PLAIN,
        lambda s: s.filter(col("v") % 3 == 0).select("k", twice=col("v") * 2),
        "select k, v * 2 as twice from input where v % 3 = 0",
    ),
    "window": Golden(
        PLAIN,
        lambda s: s.key_by("k").window(lw.Tumbling("7s")).aggregate(n=lw.count(), total=lw.sum("v"), top=lw.max("v")),
        """select k, time_bucket(interval 7 seconds, "at", timestamp '1970-01-01') as window_start,
           window_start + interval 7 seconds as window_end, count(*) as n, sum(v)::bigint as total, max(v) as top
           from input group by all""",
    ),
    "sliding window with late data": Golden(
        WITH_LATE,
        lambda s: sliding(s).aggregate(n=lw.count(), names=lw.count_distinct("k")),
        """select name, make_timestamp((epoch_us("at") // 5000000 - i) * 5000000) as window_start,
           window_start + interval 10 seconds as window_end, count(*) as n, count(distinct k) as names
           from input, range(2) r(i) where name <> 'late' group by all""",
    ),
    "late data": Golden(
        WITH_LATE,
        lambda s: sliding(s).aggregate(n=lw.count()).side_output(LATE),
        "select * from input where name = 'late'",
    ),
}


def oracle(golden: Golden) -> list[dict[str, Any]]:
    input = pa.Table.from_pylist([row for batch in golden.batches for row in batch], schema=SCHEMA)  # noqa: F841
    with duckdb.connect() as con:
        return list(con.sql(f"select * from ({golden.sql}) order by all").to_arrow_table().to_pylist())


def harness(golden: Golden, script: Sequence[Item]) -> JobHarness:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        source = ScriptedSource(SCHEMA, script)
        watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1s")
        stream = env.from_source(source, watermark=watermark, uid="source", parallelism=1)
        golden.build(stream).sink_to(CollectSink(), uid="sink")

    return JobHarness(job, state="rocksdb")


def answer(sink: lw.MemorySink) -> list[dict[str, Any]]:
    found = sink.table()  # noqa: F841
    with duckdb.connect() as con:
        return list(con.sql("select * from found order by all").to_arrow_table().to_pylist())


@pytest.mark.parametrize("name", GOLDEN)
def test_the_answer_is_the_batch_answer_when_run_straight(name: str) -> None:
    golden = GOLDEN[name]
    job = harness(golden, golden.batches)
    assert job.run().ended
    assert answer(job.sinks["sink"]) == oracle(golden)


@pytest.mark.parametrize("end", [EOF, ABORT], ids=["stop", "crash"])
@pytest.mark.parametrize("name", GOLDEN)
def test_the_answer_is_the_same_after_checkpoints_and_restores_at_other_parallelism(name: str, end: Item) -> None:
    golden = GOLDEN[name]
    script: list[Item] = []
    marks: dict[int, Item] = {2: BARRIER, 3: BARRIER, 4: FAIL, 6: BARRIER, 7: end, 9: end}
    for number, batch in enumerate(golden.batches):
        script += [marks[number]] if number in marks else []
        script.append(batch)
    job = harness(golden, script)
    runs = job.run_to_end(parallelism=(2, 3, 1))
    assert [run.crashed for run in runs] == [end is ABORT, end is ABORT, False]
    assert runs[-1].restored is not None, "the last run must have gone on from a checkpoint"
    assert answer(job.sinks["sink"]) == oracle(golden)
