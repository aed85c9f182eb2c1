"""Expressions give what DuckDB gives for the same SQL, over random values with nulls, Unicode and times before 1970."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from lakeward.dsl.expressions import Expr, coalesce, col, concat_str, duration, greatest, least, lit, when

ROWS = 400
ALPHABET = "abcC c/ä&=1.9%_😀\n-Z"
SCHEMA = pa.schema(
    {
        "i": pa.int64(),
        "j": pa.int32(),
        "x": pa.float64(),
        "s": pa.string(),
        "t": pa.string(),
        "n": pa.int64(),
        "ts": pa.timestamp("us"),
        "till": pa.timestamp("us"),
        "d": pa.decimal128(12, 3),
        "l": pa.list_(pa.int64()),
    }
)


def maybe(rng: random.Random, value: Any) -> Any:
    return None if rng.random() < 0.15 else value


def text(rng: random.Random) -> str:
    return "".join(rng.choice(ALPHABET) for _ in range(rng.randrange(0, 14)))


def moment(rng: random.Random) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=rng.randrange(-(2**51), 2**51))  # noqa: DTZ001 (no zone)


def rows(seed: int) -> pa.RecordBatch:
    rng = random.Random(seed)
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for _ in range(ROWS):
        columns["i"].append(maybe(rng, rng.randrange(-1000, 1000)))
        columns["j"].append(maybe(rng, rng.randrange(-5, 6)))
        columns["x"].append(maybe(rng, rng.choice([0.0, -1.5, 2.5, 1e6, rng.uniform(-100, 100)])))
        columns["s"].append(maybe(rng, text(rng)))
        columns["t"].append(maybe(rng, rng.choice(["a", "c", "ä", "c&", "", "Z"])))
        columns["n"].append(rng.randrange(0, 4))
        columns["ts"].append(maybe(rng, moment(rng)))
        columns["till"].append(maybe(rng, moment(rng)))
        columns["d"].append(maybe(rng, Decimal(rng.randrange(-(10**6), 10**6)) / 1000))
        columns["l"].append(maybe(rng, [maybe(rng, rng.randrange(4)) for _ in range(rng.randrange(4))]))
    return pa.record_batch(columns, schema=SCHEMA)


i, j, x, s, t, n, ts, till, d, array = (col(name) for name in SCHEMA.names)

PAIRS: dict[str, Expr] = {
    # conditions
    "i is not distinct from j": i.eq_missing(j),
    "i is distinct from j": i.ne_missing(j),
    "i between j and 10": i.between(j, 10),
    "i >= j and i < 10": i.between(j, 10, closed="left"),
    "case when i > 0 then 'p' when i < 0 then 'm' else t end": when(i > 0).then("p").when(i < 0).then("m").otherwise(t),
    "coalesce(i, j, 7)": coalesce(i, j, 7),
    "nullif(j, 2)": j.null_if(2),
    "greatest(i, j)": greatest(i, j),
    "least(i, j, 3)": least(i, j, 3),
    "j in (1, 2)": j.is_in([1, 2]),
    "i > 0 and regexp_matches(s, '[0-9]')": (i > 0) & s.str.matches("[0-9]"),
    "i > 0 or regexp_matches(s, '[0-9]')": (i > 0) | s.str.matches("[0-9]"),
    # numbers
    "abs(i)": i.abs(),
    "sign(i)": i.sign(),
    "x + j": x + j,
    "i * j - 3": i * j - 3,
    "round(x, 1)": x.round(1, mode="half_up"),
    "floor(x)": x.floor(),
    "ceil(x)": x.ceil(),
    "trunc(x)": x.trunc(),
    "exp(j)": j.exp(),
    "sqrt(abs(x))": x.abs().sqrt(),
    "case when i > 0 then log(2, i) end": when(i > 0).then(i.log(2)),
    "power(x, 2)": x.pow(2),
    "sin(x)": x.sin(),
    "atan2(x, j)": x.atan2(j),
    "i & 12": i.bit_and(12),
    "i | 12": i.bit_or(12),
    "xor(i, 12)": i.bit_xor(12),
    "~i": i.bit_not(),
    "n << 3": n.shift_left(3),
    "case when x < -10 then -10 when x > 10 then 10 else x end": x.clip(-10.0, 10.0),
    # decimals
    "0.908::decimal(4, 3) * i": lit(Decimal("0.908")) * i,
    "d * d": d * d,
    "d + 0.5::decimal(2, 1)": d + lit(Decimal("0.5")),
    "(d * 0.908::decimal(4, 3))::decimal(23, 3)": (d * lit(Decimal("0.908"))).cast("decimal(23, 3)"),
    "d::decimal(12, 1)": d.cast("decimal(12, 1)"),
    "round(d, 1)": d.round(1, mode="half_up"),
    # text
    "lower(s)": s.str.lower(),
    "upper(t)": t.str.upper(),
    "length(s)": s.str.length(),
    "strlen(s)": s.str.byte_length(),
    "reverse(t)": t.str.reverse(),
    "trim(s, ' c')": s.str.strip(" c"),
    "ltrim(s, 'a')": s.str.lstrip("a"),
    "s || '-' || t": s + "-" + t,
    "concat_ws('+', s, t)": concat_str(s, t, separator="+", ignore_nulls=True),
    "contains(s, 'c/')": s.str.contains("c/"),
    "starts_with(s, 'a')": s.str.starts_with("a"),
    "suffix(s, 'ä')": s.str.ends_with("ä"),
    "s like '%c_1%'": s.str.like("%c_1%"),
    "s ilike '%C%'": s.str.ilike("%C%"),
    "regexp_matches(s, 'c+[ä9]')": s.str.regexp_matches("c+[ä9]"),
    "nullif(regexp_extract(s, 'c(.)', 1), '')": s.str.regexp_extract("c(.)", 1).null_if(""),
    "regexp_replace(s, '[a-c]', '<>', 'g')": s.str.regexp_replace("[a-c]", "<>"),
    "regexp_replace(s, '[a-c]', '<>')": s.str.regexp_replace("[a-c]", "<>", count=1),
    "replace(s, 'c', 'xy')": s.str.replace("c", "xy"),
    "(length(s) - length(replace(s, 'c', '')))::int": s.str.count_matches("c", literal=True),
    "len(regexp_extract_all(s, '[cC]'))::int": s.str.count_matches("[cC]"),
    "nullif(instr(s, 'c'), 0) - 1": s.str.find("c"),
    "substring(s, 2, 3)": s.str.slice(1, 3),
    "right(s, 2)": s.str.slice(-2),
    "repeat(t, n)": t.str.repeat(n),
    "case when length(s) < 8 then lpad(s, 8, '*') else s end": s.str.pad_start(8, "*"),
    "case when length(s) < 8 then rpad(s, 8, '*') else s end": s.str.pad_end(8, "*"),
    "split_part(s, 'c', 1)": s.str.split_part("c", 1),
    "split_part(s, 'c', 2)": s.str.split_part("c", 2).fill_null(when(s.is_not_null()).then("")),
    "split_part(s, 'c', -1)": s.str.split_part("c", -1),
    "split_part(s, '& ', 1)": s.str.split_part("& ", 1),
    "md5(s)": s.str.md5(),
    "sha256(s)": s.str.sha256(),
    # times
    "year(ts)": ts.dt.year(),
    "month(ts)": ts.dt.month(),
    "day(ts)": ts.dt.day(),
    "hour(ts)": ts.dt.hour(),
    "minute(ts)": ts.dt.minute(),
    "second(ts)": ts.dt.second(),
    "quarter(ts)": ts.dt.quarter(),
    "isodow(ts)": ts.dt.weekday(),
    "dayofyear(ts)": ts.dt.day_of_year(),
    "weekofyear(ts)": ts.dt.week(),
    "isoyear(ts)": ts.dt.iso_year(),
    "epoch_us(ts)": ts.dt.epoch_us(),
    "ts::date": ts.dt.date(),
    "ts::time": ts.dt.time(),
    "(microsecond(ts) % 1000000)": ts.dt.microsecond(),
    "time_bucket(interval '10 seconds', ts, timestamp '1970-01-01')": ts.dt.floor("10s"),
    "date_trunc('hour', ts)": ts.dt.truncate("hour"),
    "date_trunc('day', ts)": ts.dt.floor("day"),
    "date_trunc('week', ts)": ts.dt.floor("week"),
    "date_trunc('month', ts)": ts.dt.floor("month"),
    "date_trunc('quarter', ts)": ts.dt.floor("quarter"),
    "date_trunc('year', ts)": ts.dt.floor("year"),
    "ts + interval 90 minutes": ts.dt.offset("1h 30m"),
    "ts - to_hours(n)": ts - duration(n, unit="h"),
    "ts + interval 1 month": ts.dt.add_months(1),
    "ts + to_months(n::int)": ts.dt.add_months(n),
    "epoch_us(ts) - epoch_us(till)": (ts - till).dt.total_microseconds(),
    "(epoch_us(ts) - epoch_us(till)) / 3600e6": (ts - till).dt.total_hours(),
    "ts < till": ts < till,
    "strftime(ts, '%Y-%m-%d')": ts.dt.format("%Y-%m-%d"),
    "strftime(ts, '%H:%M')": ts.dt.format("%H:%M"),
    "strftime(ts, '%d.%m.%y %H:%M:%S')": ts.dt.format("%d.%m.%y %H:%M:%S"),
    "strftime(ts, '%Y-%m-%dT%H:%M:%S.%f')": ts.dt.format("%Y-%m-%dT%H:%M:%S.%f"),
    "strftime(ts, '%b %a %j')": ts.dt.format("%b %a %j"),
    "strptime(strftime(ts, '%d.%m.%Y %H:%M'), '%d.%m.%Y %H:%M')": ts.dt.format("%d.%m.%Y %H:%M")
    .str.strptime("%d.%m.%Y %H:%M")
    .dt.replace_time_zone(None),
    # lists
    "list_contains(l, 2)": array.list.contains(2),
    "list_contains(l, n)": array.list.contains(n),
    "l[1]": array.list.first(),
    "l[-1]": array.list.last(),
    "len(l)::int": array.list.length(),
    "l[2:3]": array.list.slice(1, 2),
}


def same(found: Any, wanted: Any) -> bool:
    if isinstance(found, float) and isinstance(wanted, float | int):
        return math.isclose(found, wanted, rel_tol=1e-9, abs_tol=1e-9) or (math.isnan(found) and math.isnan(wanted))
    if isinstance(wanted, datetime) and isinstance(found, datetime):
        return found.replace(tzinfo=None) == wanted.replace(tzinfo=None)
    return bool(found == wanted)


@pytest.fixture(scope="module", params=[1, 2])
def batch(request: pytest.FixtureRequest) -> pa.RecordBatch:
    return rows(request.param)


@pytest.mark.parametrize("sql", PAIRS)
def test_an_expression_gives_what_sql_gives(sql: str, batch: pa.RecordBatch) -> None:
    table = pa.table(batch)
    with duckdb.connect() as connection:
        connection.register("rows", table)
        wanted = [row[0] for row in connection.sql(f"select {sql} from rows").fetchall()]
    for part, answer in ((batch, wanted), (batch.slice(7, 100), wanted[7:107])):
        found = PAIRS[sql].bind(SCHEMA).evaluate(part).to_pylist()
        differing = [(row, *pair) for row, pair in enumerate(zip(found, answer, strict=True)) if not same(*pair)]
        assert not differing, (sql, differing[:3])


def test_a_hash_is_that_of_the_engine_for_all_integer_widths() -> None:
    batch = pa.record_batch({"a": pa.array([1, 2, None], pa.int64()), "b": pa.array([1, 2, None], pa.int8())})
    hashes = [col(name).hash().bind(batch.schema).evaluate(batch).to_pylist() for name in ("a", "b")]
    assert hashes[0] == hashes[1]
    assert len(set(hashes[0])) == 3
    both = col("a").hash(col("b")).bind(batch.schema).evaluate(batch).to_pylist()
    assert both != hashes[0]


def test_a_time_zone_changes_what_a_clock_shows_not_the_instant() -> None:
    instants = pa.array([datetime(2024, 7, 1, 22, 30, tzinfo=UTC), None, datetime(1965, 1, 1, tzinfo=UTC)])
    batch = pa.record_batch({"a": instants.cast(pa.timestamp("us", "UTC"))})
    berlin = col("a").dt.convert_time_zone("Europe/Berlin")
    assert berlin.dt.format("%d %H:%M").bind(batch.schema).evaluate(batch).to_pylist() == ["02 00:30", None, "01 01:00"]
    assert (berlin == col("a")).bind(batch.schema).evaluate(batch).to_pylist() == [True, None, True]
