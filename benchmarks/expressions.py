"""How fast stateless steps are: expressions, filter + projection, Python row functions. Rows per CPU second.

Run: `python benchmarks/expressions.py`. Each figure is the best of several rounds over one batch; the last column is
the ratio to copying the three number columns of the batch once (the limit that memory sets, in this run).
Row functions are also compared with `to_pylist`, the function, `from_pylist`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lakeward.dsl.expressions import Expr, bind_columns, col, concat_str, lit, udf, when
from lakeward.engine.api.context import Output
from lakeward.operators.stateless import Filter, Project
from lakeward.operators.udf import FilterRows, FlatMapRows, MapRows

ROWS = 32_768
SEED = 7
DOCUMENT = '{"user":{"id":0,"name":"n0"},"tags":["a","b"],"extra":"' + "x" * 60 + '"}'
CHANNELS = ("Apple", "Google", "Facebook", "Baidu")
CHANNEL_ID = r"(&|^)channel_id=([^&]*)"


class Discard(Output):
    """Where results go."""

    def emit(self, batch: pa.RecordBatch) -> None:
        """Forget the rows."""

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        """Forget the rows."""


class Priced(NamedTuple):
    """A row by position."""

    auction: int
    price: float


def numbers() -> pa.RecordBatch:
    """Three number columns."""
    rng = np.random.default_rng(SEED)
    return pa.record_batch(
        {
            "auction": rng.integers(0, 1_000, ROWS),
            "price": rng.random(ROWS) * 100,
            "bidder": rng.integers(0, 1_000_000, ROWS),
        }
    )


def bids() -> pa.RecordBatch:
    """Bids as in Nexmark, and columns for what its queries do not need."""
    rng = np.random.default_rng(SEED)
    start_us = 1_767_225_600_000_000
    times = pa.array(start_us + np.arange(ROWS) * 1_000).cast(pa.timestamp("us", "UTC"))
    channels = [CHANNELS[i % 4] if i % 2 else f"channel-{i % 9_973}" for i in range(ROWS)]
    letters = rng.integers(97, 123, (ROWS, 67), dtype=np.uint8).tobytes().decode()
    return pa.record_batch(
        {
            "auction": rng.integers(0, 1_000, ROWS),
            "bidder": rng.integers(0, 1_000_000, ROWS),
            "quantity": rng.integers(1, 10, ROWS),
            "url": [
                f"https://www.nexmark.com/item{i % 97}/a/b/item.htm?query=1{'' if i % 2 else f'&channel_id={i * 7919}'}"
                for i in range(ROWS)
            ],
            "price": rng.random(ROWS) * 100,
            "cents": np.round(10 ** (rng.random(ROWS) * 6) * 100).astype(np.int64),
            "at": times,
            "any": pa.array(rng.integers(-(2**51), 2**52, ROWS)).cast(pa.timestamp("us", "UTC")),
            "channel": channels,
            "extra": [letters[67 * i : 67 * i + 67] for i in range(ROWS)],
            "when": [f"2026-{i % 12 + 1:02d}-{i % 28 + 1:02d} {i % 24:02d}:{i % 60:02d}:07" for i in range(ROWS)],
            "doc": [DOCUMENT.replace("0", str(i)) for i in range(ROWS)],
        }
    )


def rows_per_cpu_s(step: Callable[[], object], rows: int = ROWS, rounds: int = 7, seconds: float = 0.1) -> float:
    """The best rate of several rounds."""
    step()
    best, repeats = 0.0, 1
    for _ in range(rounds):
        while True:
            started = time.process_time()
            for _ in range(repeats):
                step()
            spent = time.process_time() - started
            if spent >= seconds / 2:
                break
            repeats *= 2
        best = max(best, rows * repeats / spent)
    return best


def q14_time_of_day() -> Expr:
    """Night, day, or neither."""
    hour = col("at").dt.hour()
    night = (hour <= 6) | (hour >= 20)
    return when(hour.between(8, 18)).then("dayTime").when(night).then("nightTime").otherwise("otherTime")


def q21_channel() -> Expr:
    """A number for the large channels, the number in the URL for the others."""
    lower = col("channel").str.lower()
    choice = when(lower == "apple").then("0").when(lower == "google").then("1")
    choice = choice.when(lower == "facebook").then("2").when(lower == "baidu").then("3")
    return choice.otherwise(col("url").str.regexp_extract(CHANNEL_ID, 2))


EUROS = lit(Decimal("0.908")) * col("cents")
LARGE = col("channel").str.lower().is_in(["apple", "google", "facebook", "baidu"])

NEXMARK: dict[str, Expr] = {
    "q1  0.908 * price, decimal(23, 3)": EUROS.cast("decimal(23, 3)"),
    'q10 dt.format("%Y-%m-%d")': col("at").dt.format("%Y-%m-%d"),
    'q10 dt.format("%H:%M")': col("at").dt.format("%H:%M"),
    "q14 filter by decimals": (EUROS > 1_000_000) & (EUROS < 50_000_000),
    "q14 hour, case": q14_time_of_day(),
    'q14 length - length(replace "c")': col("extra").str.length() - col("extra").str.replace("c", "").str.length(),
    'q14 count_matches("c", literal)': col("extra").str.count_matches("c", literal=True),
    "q21 filter: regexp_matches or is_in": col("url").str.regexp_matches(CHANNEL_ID) | LARGE,
    "q21 case with regexp_extract": q21_channel(),
    "q22 split_part, one": col("url").str.split_part("/", 4),
}

EXPRESSIONS: dict[str, Expr] = {
    "price > 50": col("price") > 50,
    "price * 0.908": col("price") * 0.908,
    "auction % 123 == 0": col("auction") % 123 == 0,
    "auction // 7 + bidder": col("auction") // 7 + col("bidder"),
    "(price > 1) & (auction < 500)": (col("price") > 1) & (col("auction") < 500),
    "is_in of 5": col("auction").is_in([1, 20, 300, 400, 999]),
    "when/then/when/otherwise": when(col("price") > 90).then(3).when(col("price") > 50).then(2).otherwise(1),
    'dt.floor("10s")': col("at").dt.floor("10s"),
    "dt.hour()": col("at").dt.hour(),
    'dt.strftime("%Y-%m-%d %H:%M")': col("at").dt.strftime("%Y-%m-%d %H:%M"),
    "str.upper()": col("url").str.upper(),
    "str.split_part('/', 4)": col("url").str.split_part("/", 4),
    "str.extract(channel_id=...)": col("url").str.extract(r"channel_id=([^&]*)"),
    "concat_str(url, auction)": concat_str(col("url"), col("auction").cast("string"), separator="#"),
    "any time: dt.format(%Y-%m-%d)": col("any").dt.format("%Y-%m-%d"),
    "any time: dt.format(%H:%M)": col("any").dt.format("%H:%M"),
    "any time: dt.format(%F %T)": col("any").dt.format("%F %T"),
    "any time: dt.add_months(1)": col("any").dt.add_months(1),
    "str.strptime(%Y-%m-%d %H:%M:%S)": col("when").str.strptime("%Y-%m-%d %H:%M:%S"),
    "str.matches, no fixed mark": col("url").str.matches("item[0-9]+/a"),
    "json.get($.user.id, int)": col("doc").json.get("$.user.id", int),
    "json.get($.tags[0], str)": col("doc").json.get("$.tags[0]", str),
    "hash of integers": col("auction").hash(),
    "hash of text": col("url").hash(),
    "str.md5()": col("channel").str.md5(),
    "udf of an integer": udf(lambda value: value + 1, returns=int)(col("auction")),
    "udf of text": udf(lambda value: value.upper(), returns=str)(col("channel")),
}


def report(name: str, rate: float, limit: float) -> None:
    """Print one line."""
    print(f"{name:42s} {rate / 1e6:10.2f} M rows/CPU s   {rate / limit:8.4f}")


def main() -> None:
    """Measure and print."""
    plain, rich, out = numbers(), bids(), Discard()
    limit = rows_per_cpu_s(lambda: [column.to_numpy().copy() for column in plain.columns])
    print(f"batches of {ROWS} rows; pyarrow {pa.__version__}, numpy {np.__version__}\n")
    report("limit: copy 3 number columns", limit, limit)
    for expressions in (NEXMARK, EXPRESSIONS):
        for name, expression in expressions.items():
            bound = expression.bind(rich.schema)
            report(name, rows_per_cpu_s(lambda bound=bound: bound.evaluate(rich)), limit)  # type: ignore[misc]
        print()
    for name, step in operators(plain, rich, out).items():
        report(name, rows_per_cpu_s(step), limit)
    one = plain.slice(0, 1)
    bound = (col("price") * 2 > 100).bind(plain.schema)
    per_s = rows_per_cpu_s(lambda: bound.evaluate(one), rows=1)
    print(f"\nfixed cost of (price * 2) > 100, one row: {1e6 / per_s:.1f} us, {per_s:,.0f} evaluations/CPU s")


def operators(plain: pa.RecordBatch, rich: pa.RecordBatch, out: Output) -> dict[str, Callable[[], object]]:
    """The operators to measure, as steps over one batch."""
    columns, schema = bind_columns(
        {**{name: col(name) for name in plain.schema.names}, "euro": col("price") * 0.908}, plain.schema
    )
    project = Project(columns, schema).create()
    steps: dict[str, Callable[[], object]] = {"project: + 1 column": lambda: project.on_batch(plain, out)}
    parts = {f"dir{n}": col("url").str.split_part("/", n + 3) for n in (1, 2, 3)}
    split = Project(*bind_columns(parts, rich.schema)).create()
    steps["project: q22, three parts of one text"] = lambda: split.on_batch(rich, out)
    for percent in (10, 50, 90):
        steps[f"filter {percent} % + project"] = chained(plain, percent, Project(columns, schema), out)
    words = pa.schema({"auction": pa.int64(), "price": pa.float64()})
    row_steps = {
        "map dict -> dict (6 columns)": MapRows(_dearer, rich.schema, rich.schema),
        "map NamedTuple -> NamedTuple (2 columns)": MapRows(_dearer_tuple, rich.schema, words),
        "map 6 columns -> tuple, unchanged": MapRows(
            lambda *values: values, rich.schema, rich.schema, columns=tuple(rich.schema.names)
        ),
        "map 2 columns -> tuple": MapRows(lambda auction, price: (auction, price * 2), rich.schema, words),
        "flat_map dict -> 1 dict": FlatMapRows(lambda row: [row], rich.schema, rich.schema),
        "filter by function": FilterRows(lambda row: row["price"] > 50, rich.schema),
    }
    steps["naive dict map: to_pylist, from_pylist"] = lambda: pa.RecordBatch.from_pylist(
        [_dearer(row) for row in rich.to_pylist()], schema=rich.schema
    )
    for name, factory in row_steps.items():
        operator = factory.create()
        steps[name] = lambda operator=operator: operator.on_batch(rich, out)  # type: ignore[misc]
    return steps


def chained(plain: pa.RecordBatch, percent: int, project: Project, out: Output) -> Callable[[], object]:
    """A filter that keeps some of the rows, chained with a projection."""
    second = project.create()

    class Next(Discard):
        def emit(self, batch: pa.RecordBatch) -> None:
            second.on_batch(batch, out)

    first, chain = Filter((col("price") < percent).bind(plain.schema)).create(), Next()
    return lambda: first.on_batch(plain, chain)


def _dearer(row: dict[str, object]) -> dict[str, object]:
    return {**row, "price": row["price"] * 2}  # type: ignore[operator]


def _dearer_tuple(row: Priced) -> Priced:
    return Priced(row.auction, row.price * 2)


if __name__ == "__main__":
    main()
