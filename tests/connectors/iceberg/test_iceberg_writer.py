# ruff: noqa: DTZ001 - columns without a time zone are part of what is tested
"""Data files: contents, partitions, statistics, rolling, bounds on memory and open files, clean-up."""

import math
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import parse_transform
from pyiceberg.types import DateType, IcebergType, LongType, NestedField, StringType, TimestampType

from lakeward.connectors.iceberg import IcebergSink, bucket, day, hour, month, truncate, year
from lakeward.connectors.iceberg.committables import WrittenFile, commit_token, read_committables
from lakeward.connectors.iceberg.data_file import dictionary_columns
from lakeward.connectors.iceberg.partitions import Partitioner
from lakeward.connectors.iceberg.writer import FILE_PREFIX
from lakeward.engine.api.sink import CommitterContext, SinkWriter, WriterContext
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import RecordError, SinkError
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.testing.lake import LocalLake, check_readers_agree
from lakeward.testing.source_suite import TestCounters

TABLE = "db.t"
CHECKPOINT = CheckpointId(1)


def open_writer(sink: IcebergSink, schema: pa.Schema, attempt: str = "a1") -> SinkWriter:
    return sink.open_writer(
        WriterContext(OperatorId("sink"), JobId("job"), SubtaskIndex(0), attempt, schema, ManualClock(), TestCounters())
    )


def publish(sink: IcebergSink, schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> list[WrittenFile]:
    """Write batches, commit them as one checkpoint, return what was written."""
    committer = sink.open_committer(CommitterContext(OperatorId("sink"), JobId("job"), "job", schema, None, None))
    committer.recover(None)
    writer = open_writer(sink, schema)
    for batch in batches:
        writer.write(batch)
    made = writer.prepare_commit(CHECKPOINT)
    committer.commit(CHECKPOINT, made)
    writer.close()
    committer.close()
    return read_committables(made)


# --- contents -------------------------------------------------------------------------------------------------------

MOMENT = datetime(2026, 3, 29, 1, 30, 0, 123456)
EVERYTHING: dict[str, tuple[pa.DataType, list[Any]]] = {
    "n": (pa.int64(), [1, 2, 3]),
    "bool": (pa.bool_(), [True, None, False]),
    "int8": (pa.int8(), [-128, None, 127]),
    "uint32": (pa.uint32(), [0, None, 2**32 - 1]),
    "float": (pa.float32(), [1.5, None, -0.0]),
    "double": (pa.float64(), [1e300, None, -1e-300]),
    "day": (pa.date32(), [date(1, 1, 1), None, date(9999, 12, 31)]),
    "clock": (pa.time32("ms"), [time(23, 59, 59, 999000), None, time(0)]),
    "seconds": (pa.timestamp("s"), [datetime(1969, 12, 31, 23, 59, 59), None, datetime(2026, 1, 1)]),
    "micros": (pa.timestamp("us"), [MOMENT, None, datetime(1900, 1, 1)]),
    "utc": (pa.timestamp("us", "UTC"), [MOMENT.replace(tzinfo=UTC), None, datetime(1900, 1, 1, tzinfo=UTC)]),
    "text": (pa.string(), ["", None, "häß\U0001f600"]),
    "large": (pa.large_string(), ["a", None, "b"]),
    "dict": (pa.dictionary(pa.int8(), pa.string()), ["x", None, "x"]),
    "raw": (pa.binary(), [b"", None, b"\x00\xff"]),
    "fixed": (pa.binary(3), [b"abc", None, b"\x00\x01\x02"]),
    "money": (pa.decimal128(20, 2), [Decimal("12345678901234567.89"), None, Decimal("-0.01")]),
    "tags": (pa.list_(pa.string()), [["a", None], None, []]),
    "at": (pa.struct([("lat", pa.float64()), ("names", pa.list_(pa.int32()))]), [{"lat": 1.0, "names": [1]}, None, {}]),
    "props": (pa.map_(pa.string(), pa.int32()), [[("k", 1)], None, []]),
}


def test_every_type_is_read_back_by_two_readers(lake: LocalLake) -> None:
    batch = pa.record_batch({name: pa.array(values, kind) for name, (kind, values) in EVERYTHING.items()})
    publish(IcebergSink(TABLE, catalog=lake.catalog), batch.schema, [batch])
    rows = check_readers_agree(lake.load(TABLE), "n").to_pylist()
    assert [row["micros"] for row in rows] == EVERYTHING["micros"][1]
    assert [row["money"] for row in rows] == EVERYTHING["money"][1]
    assert [row["dict"] for row in rows] == EVERYTHING["dict"][1]
    assert [row["tags"] for row in rows] == EVERYTHING["tags"][1]


def test_columns_go_by_name_and_missing_ones_become_null_when_allowed(lake: LocalLake) -> None:
    wide = pa.schema([("id", pa.int64()), ("name", pa.string()), ("note", pa.string())])
    publish(IcebergSink(TABLE, catalog=lake.catalog, sink_id="wide"), wide, [])
    narrow = pa.record_batch({"name": ["a"], "id": pa.array([1], pa.int32())})
    sink = IcebergSink(TABLE, catalog=lake.catalog, sink_id="narrow", nulls_for_missing=True)
    sink.check_schema(narrow.schema)
    publish(sink, narrow.schema, [narrow])
    assert check_readers_agree(lake.load(TABLE), "id").to_pylist() == [{"id": 1, "name": "a", "note": None}]


def test_a_null_in_a_required_column_names_column_and_row(lake: LocalLake) -> None:
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False)])
    writer = open_writer(IcebergSink(TABLE, catalog=lake.catalog), schema)
    with pytest.raises(RecordError, match=r"'id' .* 1 of 3 rows .* row 1"):
        writer.write(pa.record_batch([pa.array([1, None, 3], pa.int64())], schema=schema))
    writer.close()


# --- partitions -----------------------------------------------------------------------------------------------------


def test_hidden_partitions_hold_their_own_rows_and_prune_scans(lake: LocalLake) -> None:
    start, minute = datetime(2026, 1, 1), timedelta(minutes=1)
    rows = 500
    batch = pa.record_batch(
        {
            "id": pa.array(range(rows)),
            "ts": pa.array([start + 37 * minute * (i * 7919 % rows) for i in range(rows)], pa.timestamp("us")),
            "city": pa.array([None if i % 50 == 0 else f"city-{i % 7}" for i in range(rows)]),
        }
    )
    sink = IcebergSink(TABLE, catalog=lake.catalog, partition_by=[day("ts"), bucket("city", 3)])
    files = publish(sink, batch.schema, [batch.slice(0, 200), batch.slice(200)])
    assert sum(file.record_count for file in files) == rows
    table = lake.load(TABLE)
    assert check_readers_agree(table, "id").num_rows == rows
    assert table.scan("city = 'city-3'").to_arrow().num_rows == sum(i % 7 == 3 and i % 50 != 0 for i in range(rows))
    one_day = table.scan("ts >= '2026-01-02T00:00:00' and ts < '2026-01-03T00:00:00'")
    assert {task.file.partition[0] for task in one_day.plan_files()} == {(date(2026, 1, 2) - date(1970, 1, 1)).days}


@pytest.mark.parametrize(
    "kind",
    [
        pa.int64(),
        pa.string(),
        pa.date32(),
        pa.timestamp("us"),
        pa.timestamp("us", "UTC"),
        pa.bool_(),
        pa.decimal128(9, 2),
        pa.binary(4),
        pa.uuid(),
    ],
    ids=str,
)
def test_identity_partitions_of_any_type_are_read_back(lake: LocalLake, kind: pa.DataType) -> None:
    values: dict[str, list[Any]] = {
        "int64": [7, None, -7],
        "string": ["a b/ä", None, ""],
        "date32[day]": [date(1960, 1, 1), None, date(2026, 1, 1)],
        "timestamp[us]": [MOMENT, None, datetime(1960, 1, 1)],
        "timestamp[us, tz=UTC]": [MOMENT.replace(tzinfo=UTC), None, datetime(1960, 1, 1, tzinfo=UTC)],
        "bool": [True, None, False],
        "decimal128(9, 2)": [Decimal("1.20"), None, Decimal("-7.00")],
        "fixed_size_binary[4]": [b"abcd", None, b"\x00\x00\x00\x01"],
        "extension<arrow.uuid>": [uuid.UUID(int=7).bytes, None, uuid.UUID(int=2**100).bytes],
    }
    column = values[str(kind)]
    batch = pa.record_batch({"id": pa.array([1, 2, 3]), "key": pa.array(column, kind)})
    files = publish(IcebergSink(TABLE, catalog=lake.catalog, partition_by=["key"]), batch.schema, [batch])
    assert len(files) == 3
    assert lake.load(TABLE).scan().to_arrow().num_rows == 3
    if kind != pa.uuid():  # the readers show UUIDs in different Python types
        check_readers_agree(lake.load(TABLE), "id")


def reference_keys(kind: IcebergType, transform: str, array: pa.Array) -> list[Any]:
    """Pyiceberg's own transform of one value at a time."""
    function = parse_transform(transform).transform(kind)
    physical = array.cast(pa.int64()) if pa.types.is_timestamp(array.type) else array
    physical = physical.cast(pa.int32()) if pa.types.is_date32(array.type) else physical
    return [function(value) for value in physical.to_pylist()]


US_PER_DAY = 86_400_000_000
TIMES = st.one_of(st.none(), st.integers(-(10**16), 10**16))


@settings(max_examples=25, deadline=None)
@given(times=st.lists(TIMES, min_size=1, max_size=40), numbers=st.data())
def test_partitions_are_those_of_the_specification(times: list[int | None], numbers: st.DataObject) -> None:
    rows = len(times)
    longs = numbers.draw(st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=rows, max_size=rows))
    texts = numbers.draw(st.lists(st.one_of(st.none(), st.text(max_size=6)), min_size=rows, max_size=rows))
    columns: list[tuple[str, IcebergType, pa.Array]] = [
        ("ts", TimestampType(), pa.array(times, pa.timestamp("us"))),
        (
            "day",
            DateType(),
            pa.array([None if t is None else t // 86_400_000_000 for t in times], pa.int32()).cast("date32"),
        ),
        ("k", LongType(), pa.array(longs, pa.int64())),
        ("s", StringType(), pa.array(texts, pa.string())),
    ]
    schema = Schema(*[NestedField(i, name, kind) for i, (name, kind, _) in enumerate(columns, 1)])
    batch = pa.record_batch({name: array for name, _, array in columns})
    batch = batch.append_column("row", pa.array(range(rows)))
    chosen = [
        *[("ts", t) for t in ("identity", "year", "month", "day", "hour")],
        *[("day", t) for t in ("year", "month", "day")],
        *[("k", t) for t in ("identity", "bucket[7]")],
        *[("s", t) for t in ("identity", "bucket[7]", "truncate[2]")],
    ]
    for start in range(0, len(chosen), 3):
        fields = chosen[start : start + 3]
        names = [name for name, _, _ in columns]
        spec = PartitionSpec(
            *[
                PartitionField(names.index(c) + 1, 1000 + i, parse_transform(t), f"f{i}")
                for i, (c, t) in enumerate(fields)
            ]
        )
        expected: dict[tuple[Any, ...], list[int]] = {}
        keys = [reference_keys(schema.find_type(c), t, batch.column(c)) for c, t in fields]
        for row, key in enumerate(zip(*keys, strict=True)):
            expected.setdefault(key, []).append(row)
        actual = {key: part.column("row").to_pylist() for key, part in Partitioner(spec, schema).split(batch)}
        assert actual == expected


def test_many_wide_partition_fields_do_not_overflow_into_each_other() -> None:
    rows = 3000
    random = np.random.default_rng(5)
    columns = {f"k{i}": pa.array(random.integers(-(2**62), 2**62, rows)) for i in range(6)}
    schema = Schema(*[NestedField(i + 1, name, LongType()) for i, name in enumerate(columns)])
    spec = PartitionSpec(*[PartitionField(i + 1, 1000 + i, parse_transform("identity"), f"f{i}") for i in range(6)])
    parts = list(Partitioner(spec, schema).split(pa.record_batch(columns)))
    assert len(parts) == rows
    assert all(key == tuple(part.slice(0, 1).to_pylist()[0].values()) for key, part in parts)


# --- statistics -----------------------------------------------------------------------------------------------------


def test_statistics_of_a_file_let_readers_skip_it(lake: LocalLake) -> None:
    batch = pa.record_batch(
        {
            "id": pa.array([5, 3, 9]),
            "x": pa.array([1.0, math.nan, None]),
            "s": pa.array(["b" * 40, "a" * 40, None]),
            "t": pa.array([MOMENT, MOMENT, None], pa.timestamp("us")),
        }
    )
    (file,) = publish(IcebergSink(TABLE, catalog=lake.catalog), batch.schema, [batch])
    assert file.record_count == 3
    assert file.size_bytes == Path(file.path.removeprefix("file://")).stat().st_size
    assert dict(file.value_counts) == {1: 3, 2: 3, 3: 3, 4: 3}
    assert dict(file.null_counts) == {1: 0, 2: 1, 3: 1, 4: 1}
    assert dict(file.nan_counts) == {2: 1}
    assert file.lower_bounds[1] == (3).to_bytes(8, "little")
    assert file.upper_bounds[1] == (9).to_bytes(8, "little")
    assert file.lower_bounds[3] == b"a" * 16
    assert file.split_offsets == (4,)
    table = lake.load(TABLE)
    assert not list(table.scan("id > 9").plan_files())
    assert table.scan("x is nan").to_arrow().num_rows == 1
    assert table.scan("s like 'aaa%'").to_arrow().num_rows == 1


def test_committables_survive_json_and_the_token_names_the_set_of_files() -> None:
    file = WrittenFile("p/1", 0, 0, (b"\x01", None), 3, 99, {1: 7}, {1: 3}, {1: 0}, {}, {1: b"a"}, {1: b"z"}, (4,))
    other = WrittenFile("p/2", 0, 0, (), 3, 99, {}, {}, {}, {}, {}, {}, ())
    assert WrittenFile.from_json(file.to_json()) == file
    assert commit_token([file, other]) == commit_token([other, file]) != commit_token([file])
    assert commit_token([]) == "empty"


# --- files ----------------------------------------------------------------------------------------------------------

WIDE = pa.schema([("id", pa.int64()), ("text", pa.string())])


def noise(rows: int, start: int = 0) -> pa.RecordBatch:
    random = np.random.default_rng(start)
    texts = [random.bytes(40).hex() for _ in range(rows)]
    return pa.record_batch([pa.array(range(start, start + rows)), pa.array(texts)], schema=WIDE)


def test_files_roll_by_compressed_size_within_a_checkpoint(lake: LocalLake) -> None:
    sink = IcebergSink(TABLE, catalog=lake.catalog, target_file_size_bytes=100_000)
    files = publish(sink, WIDE, [noise(5000), noise(5000, 5000)])
    assert len(files) > 3
    assert all(80_000 < file.size_bytes < 220_000 for file in files[:-1])
    assert check_readers_agree(lake.load(TABLE), "id").num_rows == 10_000


def test_open_files_and_buffered_bytes_are_bounded(lake: LocalLake) -> None:
    sink = IcebergSink(
        TABLE, catalog=lake.catalog, partition_by=[bucket("id", 40)], open_files_max=5, buffer_bytes_max=20_000
    )
    writer = open_writer(sink, WIDE)
    for n in range(4):
        writer.write(noise(500, 500 * n))
        assert len(writer._open) <= 5  # type: ignore[attr-defined]
        assert writer._buffered_bytes <= 20_000  # type: ignore[attr-defined]
        assert writer._buffered_bytes == sum(f.buffered_bytes for f in writer._open.values())  # type: ignore[attr-defined]
    files = read_committables(writer.prepare_commit(CHECKPOINT))
    assert sum(file.record_count for file in files) == 2000
    writer.close()


def test_a_closed_writer_leaves_no_file_that_no_checkpoint_knows(lake: LocalLake) -> None:
    sink = IcebergSink(TABLE, catalog=lake.catalog, target_file_size_bytes=50_000)
    writer = open_writer(sink, WIDE)
    writer.write(noise(3000))
    kept = read_committables(writer.prepare_commit(CHECKPOINT))
    writer.write(noise(3000, 3000))
    assert len(lake.data_files(TABLE)) > len(kept)
    writer.close()
    assert [f"file://{file}" for file in lake.data_files(TABLE)] == sorted(file.path for file in kept)


def test_file_names_tell_attempts_apart_and_can_be_found(lake: LocalLake) -> None:
    sink = IcebergSink(TABLE, catalog=lake.catalog)
    names = set()
    for attempt in ("attempt 1/a", "attempt-2"):
        writer = open_writer(sink, WIDE, attempt)
        writer.write(noise(10))
        names |= {Path(file.path).name for file in read_committables(writer.prepare_commit(CHECKPOINT))}
        writer.close()
    assert len(names) == 2
    assert all(name.startswith(FILE_PREFIX) for name in names)


def test_an_existing_file_is_never_overwritten(lake: LocalLake) -> None:
    sink = IcebergSink(TABLE, catalog=lake.catalog)
    first, second = open_writer(sink, WIDE, "same"), open_writer(sink, WIDE, "same")
    first.write(noise(10))
    first.prepare_commit(CHECKPOINT)
    second.write(noise(10))
    with pytest.raises(SinkError):
        second.prepare_commit(CHECKPOINT)
    first.close()


def test_only_columns_that_repeat_are_dictionary_encoded() -> None:
    rows = 2000
    table = pa.table(
        {
            "same": ["x"] * rows,
            "unique": [f"v{i}" for i in range(rows)],
            "few": [i % 50 for i in range(rows)],
            "flag": [True] * rows,
            "list": [[1]] * rows,
        }
    )
    assert dictionary_columns(table) == ["same", "few"]


def test_all_transforms_can_be_asked_for() -> None:
    asked = [year("a"), month("a"), day("a"), hour("a"), bucket("a", 2), truncate("a", 3)]
    assert [t.field_name for t in asked] == ["a_year", "a_month", "a_day", "a_hour", "a_bucket", "a_trunc"]
