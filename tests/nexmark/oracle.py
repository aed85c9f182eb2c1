"""What each Nexmark query must answer over a bounded input: one batch query for DuckDB.

For a query whose stream is an updating one the answer is the final state: what the changelog leaves once every insert,
update and delete in it has been applied. Where the public definition leaves ties open, a tie-break is fixed here, so
that there is one right answer; q18 and q19 break ties by the order of the file. The windows of q12 are of processing
time and have no fixed answer: the sum of its counts a bidder has.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

RANK_CONDITIONS = {
    "total": "true",
    "rank1": "price < 10000",
    "rank2": "price >= 10000 and price < 1000000",
    "rank3": "price >= 1000000",
}
RANKS = ", ".join(f"count(*) filter ({rows}) as {rank}_bids" for rank, rows in RANK_CONDITIONS.items())
DISTINCT_RANKS = ", ".join(
    [RANKS]
    + [
        f"count(distinct {column}) filter ({rows}) as {rank}_{column}s"
        for column in ("bidder", "auction")
        for rank, rows in RANK_CONDITIONS.items()
    ]
)
DAY = "strftime(dateTime, '%Y-%m-%d')"
MINUTE = "strftime(dateTime, '%H:%M')"
EUROS = "cast(0.908 * price as decimal(23, 3))"
TUMBLE = "time_bucket(interval '10 seconds', dateTime, timestamp '1970-01-01')"
HOP = """
    select b.*, to_timestamp(0)::timestamp + to_seconds((epoch_ms(b.dateTime) // 2000 - k) * 2) as window_start
    from bid b, range(5) r(k)"""
WINNERS = """
    select a.*, b.auction, b.bidder, b.price, b.dateTime as bid_dateTime, b.extra as bid_extra
    from auction a join bid b on a.id = b.auction and b.dateTime between a.dateTime and a.expires
    qualify row_number() over (partition by a.id order by b.price desc, b.dateTime, b.bidder, b.extra) = 1"""
AUCTION_IN_JOINS = """a.itemName, a.description, a.initialBid, a.reserve, a.dateTime as auction_dateTime, a.expires,
    a.seller, a.category, a.extra as auction_extra"""

QUERIES = {
    "q0": "select auction, bidder, price, dateTime, extra from bid",
    "q1": f"select auction, bidder, {EUROS} as price, dateTime, extra from bid",
    "q2": "select auction, price from bid where auction % 123 = 0",
    "q3": """
        select p.name, p.city, p.state, a.id from auction a join person p on a.seller = p.id
        where a.category = 10 and p.state in ('OR', 'ID', 'CA')""",
    "q4": """
        select category, cast(floor(avg(final)) as bigint) as final from (
            select max(b.price) as final, a.category from auction a
            join bid b on a.id = b.auction and b.dateTime between a.dateTime and a.expires
            group by a.id, a.category
        ) group by category""",
    "q5": f"""
        with hop as ({HOP}), counts as (select auction, window_start, count(*) as num from hop group by all)
        select auction, num from counts qualify num = max(num) over (partition by window_start)""",
    "q6": f"""
        with w as ({WINNERS})
        select seller, cast(floor(avg(price) over (
            partition by seller order by bid_dateTime, id rows between 10 preceding and current row
        )) as bigint) as avg_price
        from w qualify row_number() over (partition by seller order by bid_dateTime desc, id desc) = 1""",
    "q7": f"""
        with m as (select max(price) as maxprice, {TUMBLE} + interval '10 seconds' as wend from bid group by wend)
        select b.auction, b.bidder, b.price, b.dateTime, b.extra from bid b join m on b.price = m.maxprice
        and b.dateTime between m.wend - interval '10 seconds' and m.wend""",
    "q8": f"""
        select distinct p.id, p.name, p.s as starttime
        from (select id, name, {TUMBLE} as s from person group by all) p
        join (select seller, {TUMBLE} as s from auction group by all) a on p.id = a.seller and p.s = a.s""",
    "q9": f"""
        select id, itemName, description, initialBid, reserve, dateTime, expires, seller, category, extra, auction,
            bidder, price, bid_dateTime, bid_extra
        from ({WINNERS})""",
    "q10": f"select auction, bidder, price, dateTime, extra, {DAY} as dt, {MINUTE} as hm from bid",
    "q11": """
        select bidder, count(*) as bid_count, min(dateTime) as starttime,
            max(dateTime) + interval '10 seconds' as endtime
        from (
            select *, sum(new) over (partition by bidder order by dateTime rows unbounded preceding) as session
            from (
                select *, case
                    when dateTime - lag(dateTime) over (partition by bidder order by dateTime) <= interval '10 seconds'
                    then 0 else 1 end as new
                from bid
            )
        ) group by bidder, session""",
    "q12": "select bidder, count(*) as bid_count from bid group by bidder",
    "q13": "select auction, bidder, price, dateTime, 'side-' || (auction % 10000) as value from bid",
    "q14": f"""
        select auction, bidder, {EUROS} as price,
            case when hour(dateTime) between 8 and 18 then 'dayTime'
                when hour(dateTime) <= 6 or hour(dateTime) >= 20 then 'nightTime' else 'otherTime' end as bidTimeType,
            dateTime, extra, cast(length(extra) - length(replace(extra, 'c', '')) as bigint) as c_counts
        from bid where 0.908 * price > 1000000 and 0.908 * price < 50000000""",
    "q15": f"select {DAY} as day, {DISTINCT_RANKS} from bid group by day",
    "q16": f"select channel, {DAY} as day, max({MINUTE}) as minute, {DISTINCT_RANKS} from bid group by channel, day",
    "q17": f"""
        select auction, {DAY} as day, {RANKS}, min(price) as min_price, max(price) as max_price,
            cast(floor(avg(price)) as bigint) as avg_price, cast(sum(price) as bigint) as sum_price
        from bid group by auction, day""",
    "q18": """
        select auction, bidder, price, channel, url, dateTime, extra from bid
        qualify row_number() over (partition by bidder, auction order by dateTime desc, n desc) = 1""",
    "q19": """
        select auction, bidder, price, channel, url, dateTime, extra, rank_number from (
            select *, row_number() over (partition by auction order by price desc, n) as rank_number from bid
        ) where rank_number <= 10""",
    "q20": f"""
        select b.auction, b.bidder, b.price, b.channel, b.url, b.dateTime as bid_dateTime, b.extra as bid_extra,
            {AUCTION_IN_JOINS}
        from bid b join auction a on b.auction = a.id where a.category = 10""",
    "q21": r"""
        select auction, bidder, price, channel,
            case lower(channel) when 'apple' then '0' when 'google' then '1' when 'facebook' then '2'
                when 'baidu' then '3' else regexp_extract(url, '(&|^)channel_id=([^&]*)', 2) end as channel_id
        from bid where regexp_matches(url, '(&|^)channel_id=([^&]*)')
            or lower(channel) in ('apple', 'google', 'facebook', 'baidu')""",
    "q22": """
        select auction, bidder, price, channel,
            split_part(url, '/', 4) as dir1, split_part(url, '/', 5) as dir2, split_part(url, '/', 6) as dir3
        from bid""",
    "q23": f"""
        select b.bidder, b.price, b.channel, b.url, b.extra as bid_extra, p.id as person_id, p.name, p.emailAddress,
            p.creditCard, p.city, p.state, p.extra as person_extra, {AUCTION_IN_JOINS}
        from bid b join person p on p.id = b.bidder join auction a on a.seller = b.bidder""",
}


def answer(query: str, data: Path) -> pa.Table:
    """What DuckDB answers over person.parquet, auction.parquet and bid.parquet of a directory."""
    with duckdb.connect() as con:
        for name in ("person", "auction", "bid"):
            read = f"read_parquet('{data / name}.parquet', file_row_number = true)"
            con.execute(f"create view {name} as select *, file_row_number as n from {read}")
        return con.sql(QUERIES[query]).to_arrow_table()
