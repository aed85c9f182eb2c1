"""Catalogs: embedded, by properties, with secrets, locked, missing, created by several processes at a time."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from lakeward.connectors.iceberg import IcebergSink
from lakeward.connectors.iceberg.catalogs import WAREHOUSE_VARIABLE, describe_catalog, open_catalog
from lakeward.connectors.iceberg.lake_table import LakeTable, TableSpec
from lakeward.engine.core.errors import ConfigError, SinkError
from lakeward.testing.lake import LocalLake
from lakeward.testing.sink_suite import SinkHarness, SinkPolicy, SinkRun, check_rows

SCHEMA = pa.schema([("id", pa.int64())])
POSTGRES = os.environ.get("LAKEWARD_TEST_POSTGRES")


def test_without_a_catalog_an_embedded_one_is_made_in_the_warehouse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WAREHOUSE_VARIABLE, str(tmp_path / "wh"))
    table = LakeTable(TableSpec("shop.orders"))
    assert table.ensure(SCHEMA).location() == f"file://{tmp_path}/wh/shop/orders"
    assert (tmp_path / "wh" / "catalog.db").exists()
    again = LakeTable(TableSpec("shop.orders"))
    assert again.find() is not None
    table.close()
    again.close()


def test_sqlite_catalogs_let_readers_in_while_a_writer_commits(lake: LocalLake) -> None:
    catalog = open_catalog(lake.catalog)
    with sqlite3.connect(lake.folder / "catalog.db") as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()
    assert "timeout=" in str(catalog.properties["uri"])
    catalog.close()


def test_secrets_are_resolved_by_reference_and_never_shown(lake: LocalLake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKE_URI", lake.catalog["uri"])
    sink = IcebergSink("db.t", catalog={**lake.catalog, "uri": "${env:LAKE_URI}", "token": "hush-hush"})
    sink.check_schema(SCHEMA)
    assert "hush" not in repr(sink)
    described = describe_catalog({"type": "sql", "uri": "postgresql://me:hush@db/lake"})
    assert described == "sql catalog postgresql://db/lake"
    with pytest.raises(ConfigError, match="NOT_SET"):
        IcebergSink("db.t", catalog={**lake.catalog, "uri": "${env:NOT_SET}"}).check_schema(SCHEMA)


def test_unknown_catalogs_are_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        IcebergSink("db.t", catalog="nowhere").check_schema(SCHEMA)
    with pytest.raises(ConfigError, match="cannot open"):
        IcebergSink("db.t", catalog={"type": "carrier-pigeon"}).check_schema(SCHEMA)


def test_a_catalog_that_cannot_be_reached_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakeward.connectors.iceberg.catalogs._OPEN_BACKOFF_MS", 0)
    nowhere = {"type": "sql", "uri": f"sqlite:///{tmp_path}/missing/catalog.db", "warehouse": str(tmp_path)}
    with pytest.raises(SinkError, match="cannot be reached") as raised:
        IcebergSink("db.t", catalog=nowhere).check_schema(SCHEMA)
    assert "missing/catalog.db" in raised.value.message
    assert raised.value.retry.value == "backoff"


MAKE_TABLE = """
import json, sys
import pyarrow as pa
from lakeward.connectors.iceberg.lake_table import LakeTable, TableSpec
print("ready", flush=True)
sys.stdin.readline()
table = LakeTable(TableSpec("race.orders", json.loads(sys.argv[1])))
print(table.ensure(pa.schema([("id", pa.int64())])).metadata.table_uuid)
"""


def test_processes_that_create_the_same_catalog_and_table_get_the_same_one(lake: LocalLake) -> None:
    command = [sys.executable, "-c", MAKE_TABLE, json.dumps(lake.catalog)]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    uuids = [process.communicate(timeout=60)[0].strip() for process in started]
    assert all(uuids)
    assert len(set(uuids)) == 1


@pytest.mark.skipif(not POSTGRES, reason="LAKEWARD_TEST_POSTGRES is not set")
def test_postgres_holds_the_catalog(tmp_path: Path) -> None:
    class Harness(SinkHarness):
        def sink(self, policy: SinkPolicy) -> IcebergSink:
            return IcebergSink("pg.orders", catalog=catalog, sink_id=policy.sink_id)

        def visible_rows(self) -> list[tuple[int, str]]:
            opened = open_catalog(catalog)
            rows = opened.load_table("pg.orders").scan().to_arrow().to_pylist()
            opened.close()
            return [(row["id"], row["name"]) for row in rows]

    catalog = {"type": "sql", "uri": str(POSTGRES), "warehouse": tmp_path.as_uri(), "name": tmp_path.name}
    harness = Harness()
    SinkRun(harness).advance(1, range(5))
    check_rows(harness, range(5))
