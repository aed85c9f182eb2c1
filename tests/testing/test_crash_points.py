"""`assert_survives_crashes` passes jobs that keep their rows, and finds sinks and functions that do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward import col
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.core.errors import ConfigError, SinkStateError, UserCodeError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.testing import BARRIER, CollectSink, CrashPoint, ScriptedSource, assert_survives_crashes

SCHEMA = pa.schema({"k": pa.int64(), "n": pa.int64(), "at": pa.timestamp("us")})
ROWS = [{"k": n % 3, "n": n, "at": n * 1_000_000} for n in range(24)]
TIME = lw.WatermarkStrategy.monotonous("at")


def read(env: lw.StreamExecutionEnvironment) -> lw.DataStream:
    return env.from_collection(ROWS, schema=SCHEMA, watermark=TIME, uid="in")


# -- jobs that keep their rows


def windowed(env: lw.StreamExecutionEnvironment) -> None:
    windows = read(env).key_by("k").window(lw.Tumbling("10s"))
    windows.aggregate(uid="windows", n=lw.sum("n"), mean=lw.mean("n")).sink_to(CollectSink(), uid="out")


def updating(env: lw.StreamExecutionEnvironment) -> None:
    read(env).key_by("k").aggregate(uid="totals", n=lw.sum("n")).sink_to(CollectSink(), uid="out")


def into_files(env: lw.StreamExecutionEnvironment, folder: Path) -> None:
    read(env).filter(col("n") > 3).sink_to(lw.FilesSink(folder / "table", format="jsonl"), uid="files")


def files_of(folder: Path) -> list[dict[str, Any]]:
    lines = [line for file in (folder / "table").glob("*.jsonl") for line in file.read_text().splitlines()]
    return [{"n": json.loads(line)["n"]} for line in lines]


@pytest.mark.parametrize("parallelism", [(), (2, 1, 3)], ids=["as it is", "rescaled"])
@pytest.mark.parametrize("job", [windowed, updating])
def test_a_job_that_keeps_its_rows_passes(job: Any, parallelism: Sequence[int]) -> None:
    assert_survives_crashes(job, parallelism=parallelism)


def test_a_sink_of_ones_own_is_read_as_one_says() -> None:
    assert_survives_crashes(into_files, read=files_of, expected=[{"n": n} for n in range(4, 24)])


def test_a_scripted_job_passes_with_its_own_barriers() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        script = [ROWS[:5], BARRIER, ROWS[5:6], BARRIER, BARRIER, ROWS[6:]]
        env.from_source(ScriptedSource(SCHEMA, script), uid="in").sink_to(CollectSink(), uid="out")

    assert_survives_crashes(job)


def test_of_two_sinks_both_are_crashed_and_compared() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        rows = read(env)
        rows.filter(col("k") == 0).sink_to(CollectSink(), uid="zero")
        rows.filter(col("k") != 0).sink_to(CollectSink(), uid="others")

    expected = {"zero": [row for row in ROWS if row["k"] == 0], "others": [row for row in ROWS if row["k"] != 0]}
    points = [CrashPoint.AFTER_COMMIT, CrashPoint.BEFORE_RECOVERY]
    assert_survives_crashes(
        job, expected={uid: pa.Table.from_pylist(r, SCHEMA) for uid, r in expected.items()}, points=points
    )


# -- sinks that do not


class ListSink(Sink):
    """A sink over a list, which has `broken` in one way or none."""

    def __init__(self, broken: str, out: Output) -> None:
        self.broken = broken
        self.out = out

    @property
    def description(self) -> str:
        return f"list, {self.broken}"

    def open_writer(self, context: WriterContext) -> SinkWriter:
        return ListWriter(self)

    def open_committer(self, context: CommitterContext) -> Committer:
        return ListCommitter(self, context)


class Output:
    """What is visible, and the checkpoint it stands at."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.marker = 0


class ListWriter(SinkWriter):
    def __init__(self, sink: ListSink) -> None:
        self._sink = sink
        self._rows: list[int] = []

    def write(self, batch: pa.RecordBatch) -> None:
        target = self._sink.out.rows if self._sink.broken == "visible when written" else self._rows
        target += batch["n"].to_pylist()

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        if self._sink.broken == "flushes in close":
            return []
        if self._sink.broken == "keeps what it has prepared":
            return [{"rows": [*self._rows]}]
        rows, self._rows = self._rows, []
        return [{"rows": list(rows)}]

    def close(self) -> None:
        if self._sink.broken == "flushes in close":
            self._sink.out.rows += self._rows


class ListCommitter(Committer):
    def __init__(self, sink: ListSink, context: CommitterContext) -> None:
        self._sink = sink
        self._context = context

    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        if self._sink.broken == "refuses to go on" and self._context.restored is not None:
            raise SinkStateError("no")
        if (
            pending is not None
            and self._context.restored is not None
            and self._sink.broken != "forgets what is pending"
        ):
            self.commit(self._context.restored, pending)

    def commit(self, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
        out, broken = self._sink.out, self._sink.broken
        if checkpoint <= out.marker and broken != "commits twice":
            return
        new: list[int] = [n for one in committables for n in one["rows"]]  # type: ignore[union-attr,misc]
        if broken == "marks after its rows":
            out.rows += new
            out.marker = checkpoint
        elif broken == "marks before its rows":
            out.marker = checkpoint
            out.rows += new
        else:
            out.rows, out.marker = out.rows + new, checkpoint


def into_list(broken: str) -> tuple[Callable[[lw.StreamExecutionEnvironment, Path], None], Callable[[Path], Any]]:
    """A job into a list, and what reads it; each trial, which has a folder of its own, has a list of its own."""
    outputs: dict[Path, Output] = {}

    def job(env: lw.StreamExecutionEnvironment, folder: Path) -> None:
        sink = ListSink(broken, outputs.setdefault(folder, Output()))
        read(env).filter(col("n") >= 0).sink_to(sink, uid="list")

    return job, lambda folder: [{"n": n} for n in outputs[folder].rows]


def found_in(broken: str) -> str:
    job, reader = into_list(broken)
    with pytest.raises(AssertionError) as caught:
        assert_survives_crashes(job, read=reader)
    return str(caught.value)


def test_a_sink_that_is_not_broken_passes() -> None:
    job, reader = into_list("in no way")
    assert_survives_crashes(job, read=reader)


@pytest.mark.parametrize(
    ("broken", "where", "what"),
    [
        ("visible when written", "after writing rows to 'list', the sink", "doubled"),
        ("commits twice", "after 'list', the sink has committed", "doubled"),
        ("forgets what is pending", "before 'list', the sink commits", "lost"),
        ("flushes in close", "after reading rows", "lost"),
        ("marks after its rows", "amid 'list', the sink's commit, before test_crash_points.py:", "doubled"),
        ("marks before its rows", "amid 'list', the sink's commit, before test_crash_points.py:", "lost"),
        ("refuses to go on", "after the manifest was written", "the job cannot go on: SinkStateError: no"),
    ],
)
def test_a_broken_sink_is_found_with_where_and_what(broken: str, where: str, what: str) -> None:
    text = found_in(broken)
    lines = [line for line in text.splitlines() if what in line]
    assert "the job does not survive" in text
    assert lines, text
    assert any(where in line for line in lines), text


def test_a_sink_that_is_wrong_without_a_crash_is_said_to_be_so() -> None:
    assert "wrong in small batches, before anything has crashed" in found_in("keeps what it has prepared")


# -- functions that do not


def test_a_function_that_counts_in_python_is_found() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        seen = {"rows": 0}

        def number(row: dict[str, Any]) -> dict[str, Any]:
            seen["rows"] += 1
            return {"n": row["n"], "number": seen["rows"]}

        read(env).map(number, returns={"n": int, "number": int}, uid="number").sink_to(CollectSink(), uid="out")

    with pytest.raises(AssertionError, match=r"rows lost: .*rows that should not be there"):
        assert_survives_crashes(job, points=[CrashPoint.AFTER_READ, CrashPoint.AFTER_COMMIT])


def test_a_function_that_remembers_in_a_global_is_found() -> None:
    seen: set[int] = set()

    def is_new(row: dict[str, Any]) -> bool:
        new = row["n"] not in seen
        seen.add(row["n"])
        return new

    with pytest.raises(AssertionError, match="24 rows lost"):
        assert_survives_crashes(lambda env: read(env).filter(is_new, uid="new").sink_to(CollectSink(), uid="out"))


# -- what is said


def test_a_wrong_answer_is_said_before_anything_is_crashed() -> None:
    with pytest.raises(
        AssertionError, match=r"wrong before anything has crashed: 1 row that should not be there: \{n: 2\}"
    ):
        assert_survives_crashes(
            lambda env: env.from_collection([{"n": 1}, {"n": 2}]).sink_to(CollectSink(), uid="out"), expected=[{"n": 1}]
        )


def test_expected_times_and_decimals_are_equal_in_whatever_zone_and_scale_they_are_written() -> None:
    at = datetime(2026, 1, 1, 12, tzinfo=UTC)
    rows = [{"at": at, "price": Decimal("1.50")}]
    expected = [{"at": at.astimezone(timezone(timedelta(hours=2))), "price": Decimal("1.5")}]
    schema = pa.schema({"at": pa.timestamp("us", "UTC"), "price": pa.decimal128(38, 2)})

    def job(env: lw.StreamExecutionEnvironment) -> None:
        env.from_collection(rows, schema=schema, uid="in").sink_to(CollectSink(), uid="out")

    assert_survives_crashes(job, expected=expected, points=[CrashPoint.AFTER_COMMIT])
    with pytest.raises(AssertionError, match=r"1 row lost: \{at: 2026-01-01 12:00:01\+00:00, price: 1.5\}"):
        assert_survives_crashes(job, expected=[{"at": at + timedelta(seconds=1), "price": Decimal("1.5")}])


@pytest.mark.parametrize("points", [["AFTER_COMMIT"], CrashPoint.AFTER_COMMIT, [], "AFTER_COMMIT"])
def test_points_that_are_none_are_refused(points: Any) -> None:
    with pytest.raises(ConfigError, match="points"):
        assert_survives_crashes(windowed, points=points)


def test_a_test_that_crashes_nowhere_does_not_pass() -> None:
    def job(env: lw.StreamExecutionEnvironment) -> None:
        env.from_collection([{"n": n} for n in range(4)], uid="in").sink_to(CollectSink(), uid="out")

    with pytest.raises(ConfigError, match="comes by none of these points: before state is stored"):
        assert_survives_crashes(job, points=[CrashPoint.BEFORE_UPLOAD])


def test_a_job_with_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is nothing to compare"):
        assert_survives_crashes(lambda env: env.from_collection([{"n": 1}]).sink_to(lw.BlackholeSink()))


def test_an_error_of_the_job_itself_passes_through() -> None:
    def explode(row: dict[str, Any]) -> bool:
        raise ValueError("no")

    with pytest.raises(UserCodeError):
        assert_survives_crashes(lambda env: read(env).filter(explode).sink_to(CollectSink(), uid="out"))


def test_a_job_that_goes_another_way_every_time_is_said_to_do_so() -> None:
    starts: list[int] = []

    def job(env: lw.StreamExecutionEnvironment) -> None:
        starts.append(1)
        rows = ROWS if len(starts) < 3 else ROWS[:1]
        env.from_collection(rows, schema=SCHEMA, uid="in").sink_to(CollectSink(), uid="out")

    with pytest.raises(AssertionError, match="took another way than before"):
        assert_survives_crashes(job, points=[CrashPoint.AFTER_READ])
