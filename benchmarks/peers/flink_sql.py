"""A Nexmark query by Flink's own SQL engine (Java), started from Python: JSON lines in, nothing out.

Run by `run.py` with the interpreter of an environment that has apache-flink. Settings are Flink's usual ones for
throughput: RocksDB, mini-batches, object reuse, one slot.
"""

from __future__ import annotations

import sys

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

BID = """create table bid (
  auction bigint, bidder bigint, price bigint, channel string, url string, `dateTime` timestamp(3), extra string,
  watermark for `dateTime` as `dateTime` - interval '4' second
) with ('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json', 'json.timestamp-format.standard' = 'SQL')"""

DAY = "date_format(`dateTime`, 'yyyy-MM-dd')"
RANKS = """count(*) as total_bids,
  count(*) filter (where price < 10000) as rank1_bids,
  count(*) filter (where price >= 10000 and price < 1000000) as rank2_bids,
  count(*) filter (where price >= 1000000) as rank3_bids"""
WINDOWED = """select {what} from table({kind}(table bid, descriptor(`dateTime`), {sizes}))
  group by {key}window_start, window_end"""

QUERIES = {
    "q0": "select auction, bidder, price, `dateTime`, extra from bid",
    "q2": "select auction, price from bid where mod(auction, 123) = 0",
    "q22": "select auction, bidder, price, channel, split_index(url, '/', 3) as dir1, split_index(url, '/', 4) as dir2,"
    " split_index(url, '/', 5) as dir3 from bid",
    "tumbling": WINDOWED.format(
        what="auction, max(price) as top, window_start", kind="tumble", sizes="interval '10' second", key="auction, "
    ),
    "sliding": WINDOWED.format(
        what="auction, count(*) as n, window_start",
        kind="hop",
        sizes="interval '2' second, interval '10' second",
        key="auction, ",
    ),
    "q11": "select bidder, count(*) as bid_count, window_start, window_end from table(session(table bid partition by "
    "bidder, descriptor(`dateTime`), interval '10' second)) group by bidder, window_start, window_end",
    "q17": f"select auction, {DAY} as `day`, {RANKS}, min(price) as min_price, max(price) as max_price, "
    f"avg(price) as avg_price, sum(price) as sum_price from bid group by auction, {DAY}",
    "q18": "select auction, bidder, price, channel, url, `dateTime`, extra from (select *, row_number() over "
    "(partition by bidder, auction order by `dateTime` desc) as n from bid) where n <= 1",
}


def main(query: str, path: str, directory: str) -> None:
    """Run one query to the end of the file."""
    config = Configuration()
    for key, value in {
        "parallelism.default": "1",
        "state.backend.type": "rocksdb",
        "execution.checkpointing.interval": "10 s",
        "execution.checkpointing.dir": f"file://{directory}/checkpoints",
        "pipeline.object-reuse": "true",
        "table.exec.mini-batch.enabled": "true",
        "table.exec.mini-batch.allow-latency": "2 s",
        "table.exec.mini-batch.size": "50000",
        "table.optimizer.agg-phase-strategy": "AUTO",
        "table.local-time-zone": "UTC",
    }.items():
        config.set_string(key, value)
    env = TableEnvironment.create(
        EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(config).build()
    )
    env.execute_sql(BID.format(path=path))
    env.execute_sql(f"create view answer as {QUERIES[query]}")
    env.execute_sql(f"create table blackhole ({_columns(env)}) with ('connector' = 'blackhole')")
    env.execute_sql("insert into blackhole select * from answer").wait()


def _columns(env: TableEnvironment) -> str:
    """The answer's columns, as SQL declares them."""
    schema = env.sql_query("select * from answer")._j_table.getResolvedSchema()
    columns = list(schema.getColumns())
    types = [one.getDataType().getLogicalType().copy(True).asSerializableString() for one in columns]
    return ", ".join(f"`{one.getName()}` {kind}" for one, kind in zip(columns, types, strict=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
