"""The Iceberg sink over a REST catalog, given by properties, with its token by reference."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

import lakeward as lw
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.errors import SinkStateError
from lakeward.engine.execute import Ports, execute
from lakeward.testing.lake import check_readers_agree
from lakeward.testing.sources import Mark, ScriptedSource

_SPEC = importlib.util.spec_from_file_location("rest_server", Path(__file__).parent / "rest_server.py")
assert _SPEC is not None
assert _SPEC.loader is not None
rest_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rest_server)

SCHEMA = pa.schema({"k": pa.int64(), "name": pa.string()})
ROWS = [[{"k": n, "name": f"n{n % 3}"} for n in range(first, first + 10)] for first in range(0, 40, 10)]
SCRIPT = [ROWS[0], Mark.CHECKPOINT, ROWS[1], Mark.FAIL, ROWS[2], Mark.STOP, ROWS[3]]


def job(source: ScriptedSource, properties: dict[str, str]) -> lw.StreamExecutionEnvironment:
    restart = lw.RestartConfig(delay_min_ms=1)
    config = lw.EngineConfig(checkpoint_interval_ms=20, restart=restart)
    env = lw.StreamExecutionEnvironment(config=config)
    sink = lw.IcebergSink("db.t", catalog=properties, partition_by=["name"])
    env.from_source(source, uid="source").sink_to(sink, uid="table")
    return env


def test_a_job_over_a_rest_catalog_survives_failures_and_stops_with_every_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REST_TOKEN", rest_server.TOKEN)
    with rest_server.rest_catalog(tmp_path) as uri:
        properties = {"type": "rest", "uri": uri, "token": "${env:REST_TOKEN}"}
        store, passed = MemoryStore(), set[Any]()
        for _ in range(2):
            source = ScriptedSource(SCHEMA, SCRIPT)
            source.passed |= passed
            result = execute(job(source, properties).definition("rest", store), Ports(stop=source.stop))
            passed = source.passed
        assert result.ended
        assert result.restored is not None
        table = load_catalog("reader", **{**properties, "token": rest_server.TOKEN}).load_table("db.t")
        assert check_readers_agree(table, "k")["k"].to_pylist() == list(range(40))
        with pytest.raises(SinkStateError):
            execute(job(ScriptedSource(SCHEMA, [ROWS[0]]), properties).definition("rest", MemoryStore()))
