"""Nexmark's queries for Flink SQL, as in Flink's own suite, over the files that `benchmarks/nexmark_data.py` writes.

Flink's suite runs no q6: its SQL cannot average over the last rows of a result that changes. Its tables nest a person,
an auction and a bid in each event; our lines are flat, so the three views choose columns instead of fields. Its q13
looks up in a file, which Flink's connector cannot do any more: a join with the whole table, which keeps the bids,
stands in for it. So do lengths of texts for the function in Java with which its q14 counts letters.
"""

from __future__ import annotations

TIMES = "watermark for `dateTime` as `dateTime` - interval '4' second"
FILE = "('connector' = 'filesystem', 'path' = '{path}', 'format' = 'json', 'json.timestamp-format.standard' = 'SQL')"
BID = """auction bigint, bidder bigint, price bigint, channel string, url string, `dateTime` timestamp(3),
  extra string"""

TABLES = {
    "bid.jsonl": (f"create table bid ({BID}, {TIMES}) with {FILE}",),
    "events.jsonl": (
        f"""create table events (event_type int, id bigint, name string, `emailAddress` string, `creditCard` string,
  city string, state string, `itemName` string, description string, `initialBid` bigint, reserve bigint,
  expires timestamp(3), seller bigint, category bigint, {BID}, {TIMES}) with {FILE}""",
        """create view person as select id, name, `emailAddress`, `creditCard`, city, state, `dateTime`, extra
  from events where event_type = 0""",
        """create view auction as select id, `itemName`, description, `initialBid`, reserve, `dateTime`, expires,
  seller, category, extra from events where event_type = 1""",
        """create view bid as select auction, bidder, price, channel, url, `dateTime`, extra
  from events where event_type = 2""",
    ),
}
"""What declares the tables and views of a file, by its name."""

MORE_TABLES = {
    "q12": "create view arrived as select *, proctime() as arrival from bid",
    "q13": """create table side_input (key bigint, `value` as 'side-' || cast(key as string)) with (
  'connector' = 'datagen', 'rows-per-second' = '1000000',
  'fields.key.kind' = 'sequence', 'fields.key.start' = '0', 'fields.key.end' = '9999')""",
}
"""What some queries need besides."""

BID_COLUMNS = "auction, bidder, price, channel, url, `dateTime`, extra"
DAY = "date_format(`dateTime`, 'yyyy-MM-dd')"
CHANNEL_ID = "regexp_extract(url, '(&|^)channel_id=([^&]*)', 2)"
BIG_CHANNELS = "('apple', 'google', 'facebook', 'baidu')"
IN_TIME = "A.id = B.auction and B.`dateTime` between A.`dateTime` and A.expires"


def counts(name: str, what: str) -> str:
    """A count of all bids and of those of three ranges of price."""
    ranges = ("price < 10000", "price >= 10000 and price < 1000000", "price >= 1000000")
    filtered = (f"count({what}) filter (where {where}) as rank{n}_{name}" for n, where in enumerate(ranges, 1))
    return ", ".join((f"count({what}) as total_{name}", *filtered))


def windowed(what: str, table: str, key: str, kind: str = "tumble", sizes: str = "interval '10' second") -> str:
    """An aggregation of a table's rows by key and window."""
    windows = f"{kind}(table {table}, descriptor(`dateTime`), {sizes})"
    return f"select {what} from table({windows}) group by {key}window_start, window_end"


def ranked(key: str, order: str, table: str = "bid") -> str:
    """A table's rows with their place among those of their key."""
    return f"(select *, row_number() over (partition by {key} order by {order}) as rank_number from {table})"


SLIDES = "interval '2' second, interval '10' second"
SLIDING = windowed("auction, count(*) as num, window_start, window_end", "bid", "auction, ", "hop", SLIDES)
STATISTICS = ", ".join(
    (counts("bids", "*"), counts("bidders", "distinct bidder"), counts("auctions", "distinct auction"))
)

QUERIES = {
    "q0": "select auction, bidder, price, `dateTime`, extra from bid",
    "q1": "select auction, bidder, 0.908 * price as price, `dateTime`, extra from bid",
    "q2": "select auction, price from bid where mod(auction, 123) = 0",
    "q3": """select P.name, P.city, P.state, A.id from auction A join person P on A.seller = P.id
  where A.category = 10 and (P.state = 'OR' or P.state = 'ID' or P.state = 'CA')""",
    "q4": f"""select category, avg(final) as final from (select max(B.price) as final, A.category
  from auction A, bid B where {IN_TIME} group by A.id, A.category) group by category""",
    "q5": f"""select C.auction, C.num from ({SLIDING}) C join (select max(num) as most, window_start, window_end
  from ({SLIDING}) group by window_start, window_end) M
  on C.window_start = M.window_start and C.window_end = M.window_end and C.num >= M.most""",
    "q7": f"""select B.auction, B.bidder, B.price, B.`dateTime`, B.extra
  from bid B join ({windowed("max(price) as most, window_end as ending", "bid", "")}) M on B.price = M.most
  where B.`dateTime` between M.ending - interval '10' second and M.ending""",
    "q8": f"""select P.id, P.name, P.window_start as starttime
  from ({windowed("id, name, window_start, window_end", "person", "id, name, ")}) P
  join ({windowed("seller, window_start, window_end", "auction", "seller, ")}) A
  on P.id = A.seller and P.window_start = A.window_start and P.window_end = A.window_end""",
    "q9": """select id, `itemName`, description, `initialBid`, reserve, `dateTime`, expires, seller, category, extra,
  auction, bidder, price, bid_time, bid_extra from """
    + ranked(
        "id",
        "price desc, bid_time asc",
        f"""(select A.*, B.auction, B.bidder, B.price, B.`dateTime` as bid_time, B.extra as bid_extra
  from auction A, bid B where {IN_TIME})""",
    )
    + " where rank_number <= 1",
    "q10": f"""select auction, bidder, price, `dateTime`, extra, {DAY} as dt, date_format(`dateTime`, 'HH:mm') as hm
  from bid""",
    "q11": """select bidder, count(*) as bid_count, window_start, window_end from table(session(table bid
  partition by bidder, descriptor(`dateTime`), interval '10' second)) group by bidder, window_start, window_end""",
    "q12": """select bidder, count(*) as bid_count, window_start, window_end from table(tumble(table arrived,
  descriptor(arrival), interval '10' second)) group by bidder, window_start, window_end""",
    "q13": """select B.auction, B.bidder, B.price, B.`dateTime`, S.`value` from bid B
  join side_input S on mod(B.auction, 10000) = S.key""",
    "q14": """select auction, bidder, 0.908 * price as price, case
  when hour(`dateTime`) >= 8 and hour(`dateTime`) <= 18 then 'dayTime'
  when hour(`dateTime`) <= 6 or hour(`dateTime`) >= 20 then 'nightTime' else 'otherTime' end as bidTimeType,
  `dateTime`, extra, cast(char_length(extra) - char_length(replace(extra, 'c', '')) as bigint) as c_counts
  from bid where 0.908 * price > 1000000 and 0.908 * price < 50000000""",
    "q15": f"select {DAY} as `day`, {STATISTICS} from bid group by {DAY}",
    "q16": f"""select channel, {DAY} as `day`, max(date_format(`dateTime`, 'HH:mm')) as `minute`, {STATISTICS}
  from bid group by channel, {DAY}""",
    "q17": f"""select auction, {DAY} as `day`, {counts("bids", "*")}, min(price) as min_price, max(price) as max_price,
  avg(price) as avg_price, sum(price) as sum_price from bid group by auction, {DAY}""",
    "q18": f"select {BID_COLUMNS} from {ranked('bidder, auction', '`dateTime` desc')} where rank_number <= 1",
    "q19": f"select * from {ranked('auction', 'price desc')} where rank_number <= 10",
    "q20": """select B.auction, B.bidder, B.price, B.channel, B.url, B.`dateTime` as bid_time, B.extra as bid_extra,
  A.`itemName`, A.description, A.`initialBid`, A.reserve, A.`dateTime` as auction_time, A.expires, A.seller,
  A.category, A.extra as auction_extra from bid B join auction A on B.auction = A.id where A.category = 10""",
    "q21": f"""select auction, bidder, price, channel, case when lower(channel) = 'apple' then '0'
  when lower(channel) = 'google' then '1' when lower(channel) = 'facebook' then '2'
  when lower(channel) = 'baidu' then '3' else {CHANNEL_ID} end as channel_id
  from bid where {CHANNEL_ID} is not null or lower(channel) in {BIG_CHANNELS}""",
    "q22": """select auction, bidder, price, channel, split_index(url, '/', 3) as dir1,
  split_index(url, '/', 4) as dir2, split_index(url, '/', 5) as dir3 from bid""",
    "q23": """select B.bidder, B.price, B.channel, B.url, B.extra as bid_extra, P.id as person_id, P.name,
  P.`emailAddress`, P.`creditCard`, P.city, P.state, P.extra as person_extra, A.`itemName`, A.description,
  A.`initialBid`, A.reserve, A.`dateTime` as auction_time, A.expires, A.seller, A.category, A.extra as auction_extra
  from bid B join person P on P.id = B.bidder join auction A on A.seller = B.bidder""",
    "tumbling": windowed("auction, max(price) as top, window_start", "bid", "auction, "),
    "sliding": windowed("auction, count(*) as n, window_start", "bid", "auction, ", "hop", SLIDES),
}
"""The answer of each query."""
