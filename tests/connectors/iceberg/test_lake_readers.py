"""The check that follows every test: it finds each table, and notices when two readers see different rows."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakeward.testing.lake import LocalLake, check_every_table

TABLE = "db.t"
SCHEMA = pa.schema([("id", pa.int64())])


def make_table(lake: LocalLake, *appends: list[int]) -> None:
    lake.open_catalog().create_namespace_if_not_exists("db")
    lake.open_catalog().create_table(TABLE, SCHEMA)
    for ids in appends:
        lake.load(TABLE).append(pa.table({"id": ids}))


def test_where_no_table_is_none_is_read(tmp_path: Path) -> None:
    assert check_every_table(tmp_path) == 0


def test_tables_with_rows_and_without_a_snapshot_are_read(lake: LocalLake, tmp_path: Path) -> None:
    make_table(lake)
    other = LocalLake(tmp_path / "other")
    make_table(other, [1, 2], [3])
    other.close()
    assert check_every_table(tmp_path) == 2


def test_a_table_that_no_catalog_lists_is_read_too(lake: LocalLake, tmp_path: Path) -> None:
    make_table(lake, [1, 2])
    lake.open_catalog().drop_table(TABLE)
    assert check_every_table(tmp_path) == 1


@pytest.mark.parametrize("listed", [True, False], ids=["in the catalog", "dropped"])
def test_a_row_that_only_the_metadata_knows_is_noticed(lake: LocalLake, tmp_path: Path, listed: bool) -> None:
    make_table(lake, [1, 2], [3])
    if not listed:
        lake.open_catalog().drop_table(TABLE)
    file = max(lake.data_files(TABLE), key=lambda file: pq.read_metadata(file).num_rows)
    whole = file.read_bytes()
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(AssertionError, match=r"pyiceberg counts 3 rows in .*db/t, DuckDB reads 2"):
        check_every_table(tmp_path)
    file.write_bytes(whole)
    assert check_every_table(tmp_path) == 1
