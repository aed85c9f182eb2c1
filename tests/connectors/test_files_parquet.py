"""Parquet files: streamed, pruned by statistics, texts by dictionary; positions as if none of that were."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakeward.connectors.files import FilesSource
from lakeward.connectors.files.parquet import READ_BUFFER_BYTES, open_parquet, row_groups
from lakeward.engine.api.expression import Comparison
from lakeward.testing.source_suite import reader_context

START = datetime(2026, 1, 1)  # noqa: DTZ001 - a Parquet column without a zone


def table(rows: int) -> pa.Table:
    return pa.table(
        {
            "i": pa.array(range(rows), pa.int64()),
            "few": [f"name {i % 5}" for i in range(rows)],
            "many": [f"{i:030}" for i in range(rows)],
            "f": [float("nan") if i % 50 == 0 else i / 2 for i in range(rows)],
            "t": pa.array([START + timedelta(seconds=i) for i in range(rows)], pa.timestamp("ms")),
            "nothing": pa.nulls(rows, pa.int64()),
        }
    )


def read(source: FilesSource, position: Any = None, batch_rows: int = 70) -> tuple[pa.Table, list[Any]]:
    (split,) = source.list_splits(None)
    reader = source.open_reader(reader_context(batch_rows=batch_rows))
    reader.add_split(split, position)
    batches, positions = [], []
    while hasattr(polled := reader.poll(), "batch"):
        batches.append(polled.batch)
        positions.append(polled.position)
    reader.close()
    return pa.Table.from_batches(batches, source.schema), positions


@pytest.mark.parametrize("dictionaries", [True, False, ["many"]], ids=str)
def test_texts_are_the_same_however_they_are_written(dictionaries: Any, tmp_path: Path) -> None:
    rows = table(1000)
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=300, use_dictionary=dictionaries)
    found, _ = read(FilesSource(tmp_path / "a.parquet"))
    found.validate(full=True)
    want = rows.set_column(4, "t", rows["t"].cast(pa.timestamp("us")))
    assert found.select(["i", "few", "many", "t", "nothing"]) == want.select(["i", "few", "many", "t", "nothing"])
    assert found.schema == want.schema


def test_few_texts_are_read_as_dictionaries(tmp_path: Path) -> None:
    pq.write_table(table(1000), tmp_path / "a.parquet", use_dictionary=["few"])
    with pa.OSFile(str(tmp_path / "a.parquet")) as stream:
        kinds = open_parquet(stream, remote=False).schema_arrow
    assert pa.types.is_dictionary(kinds.field("few").type)
    assert pa.types.is_string(kinds.field("many").type)


def test_a_dictionary_that_the_schema_asks_for_stays_one(tmp_path: Path) -> None:
    pq.write_table(table(1000), tmp_path / "a.parquet")
    schema = pa.schema({"few": pa.dictionary(pa.int32(), pa.string())})
    found, _ = read(FilesSource(tmp_path / "a.parquet", schema=schema))
    assert found["few"].to_pylist() == table(1000)["few"].to_pylist()


def test_a_large_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(7).bytes(16 << 20)
    rows = pa.table({"x": pa.array([noise[i : i + 1024] for i in range(0, len(noise), 1024)])})
    pq.write_table(rows, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups == 1
    source = FilesSource(tmp_path / "a.parquet")
    del rows
    (split,) = source.list_splits(None)
    reader = source.open_reader(reader_context(batch_rows=256))
    reader.add_split(split, None)
    before, most = pa.total_allocated_bytes(), 0
    while hasattr(polled := reader.poll(), "batch"):
        del polled
        most = max(most, pa.total_allocated_bytes() - before)
    reader.close()
    assert most < (4 << 20) + 2 * READ_BUFFER_BYTES


OPERATORS = ["==", "<", "<=", ">", ">="]


def holds(value: Any, operator: str, other: Any) -> bool:
    if value is None:
        return False
    return bool(
        {"==": value == other, "<": value < other, "<=": value <= other, ">": value > other, ">=": value >= other}[
            operator
        ]
    )


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    column = draw(st.sampled_from(["i", "few", "many", "f", "t", "nothing"]))
    i = draw(st.integers(-5, 405))
    values = {
        "i": pa.scalar(i),
        "few": pa.scalar(f"name {i % 7}"),
        "many": pa.scalar(f"{max(i, 0):030}"),
        "f": pa.scalar(i / 2),
        "t": pa.scalar(START + timedelta(seconds=i), pa.timestamp("us")),
        "nothing": pa.scalar(i),
    }
    return Comparison(column, draw(st.sampled_from(OPERATORS)), values[column])


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parquet") / "rows.parquet"
    pq.write_table(table(400), path, row_group_size=37)
    return path


@settings(max_examples=60, deadline=None)
@given(st.lists(comparisons(), min_size=1, max_size=3))
def test_no_row_that_fits_is_left_out_and_reading_goes_on_from_any_position(
    rows_file: Path, predicate: list[Comparison]
) -> None:
    source = FilesSource(rows_file)
    narrow = source.pushed(tuple(source.schema.names), tuple(predicate))
    assert isinstance(narrow, FilesSource)
    want = [
        row["i"]
        for row in table(400).to_pylist()
        if all(holds(row[one.column], one.operator, one.value.as_py()) for one in predicate)
    ]
    found, positions = read(narrow)
    assert set(want) <= set(found["i"].to_pylist())
    assert found["i"].to_pylist() == sorted(found["i"].to_pylist())
    for position in positions[::3]:
        rest = [i for i in found["i"].to_pylist() if i >= position["row"]]
        assert read(narrow, position)[0]["i"].to_pylist() == rest
        # The same position without the filter, as when another query is run from the checkpoint.
        assert read(source, position)[0]["i"].to_pylist() == list(range(position["row"], 400))


def test_row_groups_are_left_out_by_their_statistics(rows_file: Path) -> None:
    metadata = pq.read_metadata(rows_file)

    def kept(row: int, *predicate: Comparison) -> list[tuple[int, ...]]:
        return [run.numbers for run in row_groups(metadata, row, predicate)]

    at = Comparison("i", "==", pa.scalar(100))
    assert kept(0) == [tuple(range(11))]
    assert kept(0, at) == [(2,)]
    assert kept(120, at) == []
    assert kept(0, Comparison("t", "<", pa.scalar(START, pa.timestamp("us")))) == []
    assert kept(0, Comparison("few", ">", pa.scalar("name 3"))) == [tuple(range(11))]
    assert kept(0, Comparison("few", ">", pa.scalar("name 4"))) == []
    assert kept(0, Comparison("nothing", ">", pa.scalar(0))) == [tuple(range(11))]  # no statistics: may be
    assert kept(0, Comparison("i", "<", pa.scalar(1.5))) == [tuple(range(11))]  # of another type: may be
    wide = Comparison("t", ">=", pa.scalar(START + timedelta(seconds=300), pa.timestamp("us")))
    assert kept(38, Comparison("i", "<", pa.scalar(38)), wide) == []


def test_statistics_that_python_times_cannot_hold_leave_nothing_out(tmp_path: Path) -> None:
    ticks = pa.array([1, -1_000_001, None], pa.timestamp("ns"))
    pq.write_table(pa.table({"at": ticks}), tmp_path / "nanoseconds.parquet")
    metadata = pq.read_metadata(tmp_path / "nanoseconds.parquet")
    early = Comparison("at", "<", pa.scalar(datetime(1960, 1, 1)))  # noqa: DTZ001
    assert [run.numbers for run in row_groups(metadata, 0, [early])] == [(0,)]
