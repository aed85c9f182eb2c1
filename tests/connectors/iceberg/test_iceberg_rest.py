"""The Iceberg sink over a REST catalog, given by properties, with its token by reference."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog

import lakeward as lw
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.errors import SinkStateError
from lakeward.engine.execute import execute
from lakeward.testing import BARRIER, EOF, FAIL, JobHarness, ScriptedSource
from lakeward.testing.lake import check_readers_agree

_SPEC = importlib.util.spec_from_file_location("rest_server", Path(__file__).parent / "rest_server.py")
assert _SPEC is not None
assert _SPEC.loader is not None
rest_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(rest_server)

SCHEMA = pa.schema({"k": pa.int64(), "name": pa.string()})
ROWS = [[{"k": n, "name": f"n{n % 3}"} for n in range(first, first + 10)] for first in range(0, 40, 10)]
SCRIPT = [ROWS[0], BARRIER, ROWS[1], FAIL, ROWS[2], EOF, ROWS[3]]


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
        runs = JobHarness(lambda: job(ScriptedSource(SCHEMA, SCRIPT), properties)).run_to_end()
        assert len(runs) == 2
        assert runs[-1].restored is not None
        table = load_catalog("reader", **{**properties, "token": rest_server.TOKEN}).load_table("db.t")
        assert check_readers_agree(table, "k")["k"].to_pylist() == list(range(40))
        with pytest.raises(SinkStateError):
            execute(job(ScriptedSource(SCHEMA, [ROWS[0]]), properties).definition("job", MemoryStore()))
