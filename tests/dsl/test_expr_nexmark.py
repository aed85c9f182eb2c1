"""The expressions of Nexmark's queries q1, q10, q13, q14, q21 and q22 give what SQL gives."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from lakeward.dsl.expressions import Expr, bind_columns, col, concat_str, lit, when

ROWS = 3_000
CHANNEL_ID = r"(&|^)channel_id=([^&]*)"
HOT = ["apple", "google", "facebook", "baidu"]


@pytest.fixture(scope="module")
def bids() -> pa.RecordBatch:
    rng = random.Random(3)
    channels = [rng.choice(["Apple", "Google", "Facebook", "Baidu", "channel-7", "ΑΠΠΛΕ"]) for _ in range(ROWS)]
    tails = ["", "&channel_id=7", "&channel_id=", "&channel_id=123&x=1", "&xchannel_id=5"]
    letters = "abcdefgh"
    start = datetime(2026, 1, 1)  # noqa: DTZ001 (Nexmark's times have no zone)
    return pa.record_batch(
        {
            "auction": [rng.randrange(100_000) for _ in range(ROWS)],
            "price": [int(10 ** (rng.random() * 6) * 100) for _ in range(ROWS)],
            "channel": channels,
            "url": [
                f"https://www.nexmark.com/{rng.choice(letters)}/bc/{i}/item.htm?query=1{rng.choice(tails)}"
                if i % 50
                else rng.choice(["", "channel_id=9", "a/b", "//"])
                for i in range(ROWS)
            ],
            "dateTime": pa.array([start + timedelta(milliseconds=i * 53_123) for i in range(ROWS)], pa.timestamp("ms")),
            "extra": ["".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(ROWS)],
        }
    )


euros = lit(Decimal("0.908")) * col("price")
hour = col("dateTime").dt.hour()
channel = col("channel").str.lower()

QUERIES: dict[str, tuple[dict[str, Expr], Expr | None, str]] = {
    "q1": ({"price": euros.cast("decimal(23, 3)")}, None, "cast(0.908 * price as decimal(23,3)) as price"),
    "q10": (
        {"dt": col("dateTime").dt.format("%Y-%m-%d"), "hm": col("dateTime").dt.format("%H:%M")},
        None,
        "strftime(dateTime, '%Y-%m-%d') as dt, strftime(dateTime, '%H:%M') as hm",
    ),
    "q13": (
        {"value": concat_str("side-", (col("auction") % 10_000).cast("string"))},
        None,
        "'side-' || (auction % 10000) as value",
    ),
    "q14": (
        {
            "price": euros.cast("decimal(23, 3)"),
            "bidTimeType": when(hour.between(8, 18))
            .then("dayTime")
            .when((hour <= 6) | (hour >= 20))
            .then("nightTime")
            .otherwise("otherTime"),
            "c_counts": col("extra").str.count_matches("c", literal=True).cast("int64"),
            "c_slowly": (col("extra").str.length() - col("extra").str.replace("c", "").str.length()).cast("int64"),
        },
        (euros > 1_000_000) & (euros < 50_000_000),
        """cast(0.908 * price as decimal(23,3)) as price, case when hour(dateTime) between 8 and 18 then 'dayTime'
        when hour(dateTime) <= 6 or hour(dateTime) >= 20 then 'nightTime' else 'otherTime' end as bidTimeType,
        cast(length(extra) - length(replace(extra, 'c', '')) as bigint) as c_counts, c_counts as c_slowly
        from bid where 0.908 * price > 1000000 and 0.908 * price < 50000000""",
    ),
    "q21": (
        {
            "channel_id": when(channel == "apple")
            .then("0")
            .when(channel == "google")
            .then("1")
            .when(channel == "facebook")
            .then("2")
            .when(channel == "baidu")
            .then("3")
            .otherwise(col("url").str.regexp_extract(CHANNEL_ID, 2))
        },
        col("url").str.regexp_matches(CHANNEL_ID) | channel.is_in(HOT),
        r"""case lower(channel) when 'apple' then '0' when 'google' then '1' when 'facebook' then '2'
        when 'baidu' then '3' else regexp_extract(url, '(&|^)channel_id=([^&]*)', 2) end as channel_id
        from bid where regexp_matches(url, '(&|^)channel_id=([^&]*)')
        or lower(channel) in ('apple', 'google', 'facebook', 'baidu')""",
    ),
    "q22": (
        {f"dir{n}": col("url").str.split_part("/", n + 3).fill_null("") for n in (1, 2, 3)},
        None,
        "split_part(url, '/', 4) as dir1, split_part(url, '/', 5) as dir2, split_part(url, '/', 6) as dir3",
    ),
}


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_gives_what_sql_gives(query: str, bids: pa.RecordBatch) -> None:
    columns, condition, sql = QUERIES[query]
    rows = bids if condition is None else bids.filter(condition.bind(bids.schema).evaluate(bids))
    bound, schema = bind_columns(columns, bids.schema)
    found = pa.RecordBatch.from_arrays([expression.evaluate(rows) for _, expression in bound], schema=schema)
    with duckdb.connect() as connection:
        connection.register("bid", pa.table(bids))
        wanted = connection.sql(f"select {sql}{'' if 'from bid' in sql else ' from bid'}").to_arrow_table()
    assert found.num_rows > ROWS // 10
    assert found.to_pydict() == wanted.to_pydict()
    assert [str(kind) for kind in schema.types] == [str(kind) for kind in wanted.schema.types]
