"""Catalogs: embedded, by properties, with secrets, locked, missing, created by several processes at a time."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.connectors.iceberg import IcebergSink
from lakeward.connectors.iceberg.catalogs import WAREHOUSE_VARIABLE, catalog_properties, describe_catalog, open_catalog
from lakeward.connectors.iceberg.lake_table import LakeTable, TableSpec
from lakeward.engine.core.errors import ConfigError, GraphError, SinkError
from lakeward.testing.lake import LocalLake

SCHEMA = pa.schema([("id", pa.int64())])


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


def test_a_postgres_uri_gets_the_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"psycopg2"}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name if name in installed else None)
    spec = {"type": "sql", "uri": "postgresql://me@db/lake"}
    assert catalog_properties(spec)["uri"] == "postgresql+psycopg2://me@db/lake"
    installed.add("psycopg")
    assert catalog_properties(spec)["uri"] == "postgresql+psycopg://me@db/lake"
    installed.clear()
    with pytest.raises(ConfigError, match="none is installed"):
        catalog_properties(spec)


def test_two_sinks_with_one_sink_id_on_one_table_are_refused_before_the_first_row(lake: LocalLake) -> None:
    env = lw.StreamExecutionEnvironment()
    for uid in ("left", "right"):
        rows = env.from_collection([{"id": 1}], uid=f"rows-{uid}")
        rows.sink_to(IcebergSink("db.t", catalog=dict(lake.catalog), sink_id="mine"), uid=uid)
    with pytest.raises(
        GraphError, match=r"the sinks 'left' and 'right' both write to iceberg db\.t under the same sink id"
    ):
        env.execute("twins")
    assert not lake.open_catalog().table_exists("db.t")


def test_two_sinks_on_one_table_with_sink_ids_of_their_own_both_write(lake: LocalLake) -> None:
    env = lw.StreamExecutionEnvironment()
    for number, sink_id in enumerate(("mine", "yours", None, None)):
        rows = env.from_collection([{"id": number}], uid=f"rows-{number}")
        rows.sink_to(IcebergSink("db.t", catalog=lake.catalog, sink_id=sink_id), uid=f"sink-{number}")
    env.execute("siblings")
    assert sorted(row["id"] for row in lake.rows("db.t")) == [0, 1, 2, 3]


def test_a_sinks_identity_is_its_table_in_its_catalog_and_its_sink_id(lake: LocalLake) -> None:
    def identity(table: str = "db.t", sink_id: str | None = "mine", **catalog: str) -> str | None:
        return IcebergSink(table, catalog={**lake.catalog, **catalog}, sink_id=sink_id).identity

    assert identity() == identity()
    assert identity(sink_id=None) is None
    others = [identity("db.u"), identity(sink_id="yours"), identity(name="other"), identity(uri="sqlite:////other.db")]
    assert len({identity(), *others}) == 5
    assert "hush" not in str(identity(token="hush")), "an identity may be logged"


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
