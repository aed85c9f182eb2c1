"""A Nexmark query by Flink's own SQL engine (Java), started from Python: JSON lines in, nothing out.

Run by `run.py` with the interpreter of an environment that has apache-flink. Settings are Flink's usual ones for
throughput, and those of its own Nexmark suite: RocksDB, incremental checkpoints, mini-batches, split distinct counts,
object reuse, one slot.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flink_queries import MORE_TABLES, QUERIES, TABLES
from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

SETTINGS = {
    "parallelism.default": "1",
    "state.backend.type": "rocksdb",
    "execution.checkpointing.interval": "10 s",
    "execution.checkpointing.incremental": "true",
    "pipeline.object-reuse": "true",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "2 s",
    "table.exec.mini-batch.size": "50000",
    "table.optimizer.agg-phase-strategy": "AUTO",
    "table.optimizer.distinct-agg.split.enabled": "true",
    "table.local-time-zone": "UTC",
}


def main(query: str, path: str, directory: str) -> None:
    """Run one query to the end of the file."""
    env = answering(query, path, directory)
    env.execute_sql(f"create table blackhole ({_columns(env)}) with ('connector' = 'blackhole')")
    env.execute_sql("insert into blackhole select * from answer").wait()


def answering(query: str, path: str, directory: str) -> TableEnvironment:
    """An environment in which the query is the view `answer`."""
    config = Configuration()
    for key, value in (SETTINGS | {"execution.checkpointing.dir": f"file://{directory}/checkpoints"}).items():
        config.set_string(key, value)
    env = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(config).build()
    )
    for statement in TABLES[Path(path).name]:
        env.execute_sql(statement.format(path=path))
    if query in MORE_TABLES:
        env.execute_sql(MORE_TABLES[query])
    env.execute_sql(f"create view answer as {QUERIES[query]}")
    return env


def _columns(env: TableEnvironment) -> str:
    """The answer's columns, as SQL declares them."""
    schema = env.sql_query("select * from answer")._j_table.getResolvedSchema()
    columns = list(schema.getColumns())
    types = [one.getDataType().getLogicalType().copy(True).asSerializableString() for one in columns]
    return ", ".join(f"`{one.getName()}` {kind}" for one, kind in zip(columns, types, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
