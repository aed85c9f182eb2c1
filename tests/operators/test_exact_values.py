"""Values that have no Python object, or more than one form, come out of windows and their state as they went in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.testing import ABORT, BARRIER, CollectSink, JobHarness, ScriptedSource

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
FAR_US = 2**62
NANOSECONDS = [1_000_000_001, -3, None]
STRUCT = pa.struct({"at": pa.timestamp("ns"), "bytes": pa.binary(), "price": pa.decimal128(30, 12)})
LONG = Decimal("123456789012345678.000000000001")


def ticks(kind: pa.DataType, values: list[Any] = NANOSECONDS) -> pa.Array:
    return pa.array(values, pa.int64()).cast(kind)


def structs() -> pa.Array:
    columns = [ticks(pa.timestamp("ns")), pa.array([b"\xff", b"", None]), pa.array([LONG, -LONG, None], STRUCT[2].type)]
    return pa.StructArray.from_arrays(columns, fields=list(STRUCT))


def in_lists(values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, 1, 3, 3], pa.int32()), values)


VALUES = {
    "nanoseconds": ticks(pa.timestamp("ns", "UTC")),
    "durations": ticks(pa.duration("ns")),
    "times of day": ticks(pa.time64("ns"), [1_000_000_001, 0, None]),
    "far years": ticks(pa.timestamp("us"), [FAR_US, -FAR_US, None]),
    "decimals": pa.array([LONG, -LONG, None], pa.decimal128(38, 12)),
    "wide decimals": pa.array([LONG * 10**20, LONG, None], pa.decimal256(60, 12)),
    "bytes": pa.array([b"\x00\xff\xfe", b"", None]),
    "fixed bytes": pa.array([b"\xff\x00", b"ab", None], pa.binary(2)),
    "structs": structs(),
    "lists": in_lists(ticks(pa.timestamp("ns"))),
    "lists of structs": in_lists(structs()),
}


def early(stream: lw.DataStream, **results: Any) -> lw.DataStream:
    return stream.key_by("k").window(lw.Tumbling("1m")).trigger(lw.every_rows(1)).aggregate(**results)


BUILDS: dict[str, Callable[[lw.DataStream], lw.DataStream]] = {
    "early": lambda stream: early(stream, v=lw.collect("v")),
    "early sessions": lambda stream: (
        stream.key_by("k").window(lw.Session("30s")).trigger(lw.every_rows(1)).aggregate(v=lw.collect("v"))
    ),
    "rolling": lambda stream: stream.key_by("k").aggregate(v=lw.collect("v")),
    "early whole rows": lambda stream: early(stream, rows=lw.collect()),
    "early first": lambda stream: early(stream, v=lw.first("v")),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS.keys())
def test_values_survive_early_results_a_crash_and_a_restore_exactly(build: Any, values: pa.Array) -> None:
    schema = pa.schema({"k": pa.string(), "at": pa.timestamp("us", tz="UTC"), "v": values.type})

    def batch(row: int) -> pa.RecordBatch:
        at = pa.array([NOON + dt.timedelta(seconds=row)], schema.field("at").type)
        return pa.record_batch([pa.array(["a"]), at, values.slice(row, 1)], schema=schema)

    def job(env: lw.StreamExecutionEnvironment) -> None:
        script = [batch(0), BARRIER, ABORT, batch(1), BARRIER, ABORT, batch(2)]
        source = env.from_source(
            ScriptedSource(schema, script), watermark=lw.WatermarkStrategy.monotonous("at"), uid="in"
        )
        build(source).sink_to(CollectSink(), uid="out")

    harness = JobHarness(job)
    harness.run_to_end(parallelism=(1, 2))
    table = harness.table().combine_chunks()
    assert table.num_rows == 1, "what was sent before is taken back as it was"
    found = table.column(table.schema.names[-1]).chunk(0)
    if pa.types.is_list(found.type) and found.type != values.type:
        found = found.values
    if pa.types.is_struct(found.type) and found.type != values.type:
        found = found.field("v")
    wanted = {1: values.slice(0, 1), 2: values.drop_null(), 3: values}  # the first, those that are given, whole rows
    assert found.equals(wanted[len(found)])


CUT = ["nanoseconds", "durations", "times of day", "structs", "lists"]


@pytest.mark.parametrize("values", [VALUES[name] for name in CUT], ids=CUT)
def test_functions_get_times_that_are_cut_to_microseconds(values: pa.Array) -> None:
    def as_it_is(row: dict[str, Any]) -> dict[str, Any]:
        return row

    table = pa.table({"v": values})
    stream = lw.StreamExecutionEnvironment().from_source(ScriptedSource(table.schema, [table.to_batches()[0]]))
    found = stream.map(as_it_is, returns=table.schema).execute_and_collect()["v"].combine_chunks()
    assert found.type == values.type
    assert found.null_count == values.null_count
    if pa.types.is_duration(values.type):
        assert found.cast(pa.int64()).to_pylist()[0] == 1_000_000_000
