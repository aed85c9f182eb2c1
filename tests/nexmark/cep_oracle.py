"""What the queries of Nexmark's set for pattern detection must answer: their SQL, put into a matcher of single rows.

The queries are those of the nexmark-flink repository, over bids, `PARTITION BY auction, bidder ORDER BY dateTime`, read
as the standard reads them, of each start the preferred match alone; but what the input cuts off is none, as in Flink.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lakeward.testing.patterns import Mapped, RowPattern, RowVariable, matches

AT = pa.timestamp("us")


def last(mapped: Mapped, name: str, n: int = 0) -> int | None:
    """LAST(name.price, n)."""
    rows = mapped.get(name, [])
    return rows[-1 - n]["price"] if len(rows) > n else None


def price_down(mapped: Mapped, row: Any) -> bool:
    """(LAST(PRICE_DOWN.price, 1) IS NULL AND PRICE_DOWN.price < START_ROW.price) OR PRICE_DOWN.price < LAST(..., 1)"""
    before = last(mapped, "PRICE_DOWN", 1)
    above = last(mapped, "START_ROW") if before is None else before
    assert above is not None
    return row["price"] < above  # type: ignore[no-any-return]


def price_up(mapped: Mapped, row: Any) -> bool | None:
    """PRICE_UP.price > LAST(PRICE_DOWN.price, 1)"""
    before = last(mapped, "PRICE_DOWN", 1)
    return None if before is None else row["price"] > before


def average(rows: Sequence[Any]) -> int:
    """AVG of BIGINT, a whole number."""
    return sum(row["price"] for row in rows) // len(rows)


def is_low(mapped: Mapped, row: Any) -> bool:
    """AVG(A.price) < 10000"""
    return average(mapped["A"]) < 10_000


def above(mapped: Mapped, row: Any) -> bool:
    """B.price > A.price - 50"""
    return row["price"] > mapped["A"][-1]["price"] - 50  # type: ignore[no-any-return]


def below(mapped: Mapped, row: Any) -> bool:
    """C.price < A.price - 50"""
    return row["price"] < mapped["A"][-1]["price"] - 50  # type: ignore[no-any-return]


FALL = [RowVariable("START_ROW"), RowVariable("PRICE_DOWN", price_down, 1, None), RowVariable("PRICE_UP", price_up)]
RUN = [RowVariable("A", is_low, 1, None), RowVariable("B")]
DROP = [RowVariable("A"), RowVariable("B", above, 0, None), RowVariable("C", below)]
PATTERNS = {
    "cep_q0": RowPattern(FALL, "last", "PRICE_UP", time="us"),
    "cep_q1": RowPattern(RUN, "past_last_row", time="us"),
    "cep_q2": RowPattern(RUN, "to_next_row", time="us"),
    "cep_q3": RowPattern(DROP, "past_last_row", within_us=5_000_000, time="us"),
}
RUN_MEASURES: dict[str, tuple[pa.DataType, Callable[[Mapped], Any]]] = {
    "start_tstamp": (AT, lambda match: match["A"][0]["us"]),
    "end_tstamp": (AT, lambda match: match["A"][-1]["us"]),
    "avg_price": (pa.int64(), lambda match: average(match["A"])),
}
MEASURES: dict[str, dict[str, tuple[pa.DataType, Callable[[Mapped], Any]]]] = {
    "cep_q0": {
        "start_tstamp": (AT, lambda match: match["START_ROW"][0]["us"]),
        "bottom_tstamp": (AT, lambda match: match["PRICE_DOWN"][-1]["us"]),
        "end_tstamp": (AT, lambda match: match["PRICE_UP"][-1]["us"]),
    },
    "cep_q1": RUN_MEASURES,
    "cep_q2": RUN_MEASURES,
    "cep_q3": {
        "drop_time": (AT, lambda match: match["C"][0]["us"]),
        "drop_diff": (pa.int64(), lambda match: match["A"][0]["price"] - match["C"][0]["price"]),
    },
}


def answer(query: str, data: Path) -> pa.Table:
    """The matches in bid.parquet of a directory."""
    bids = pq.read_table(data / "bid.parquet", columns=["auction", "bidder", "price", "dateTime"])
    bids = bids.append_column("us", bids["dateTime"].cast(AT).cast(pa.int64())).drop_columns("dateTime")
    partitions: dict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in bids.to_pylist():
        partitions[row["auction"], row["bidder"]].append(row)
    found = []
    for key, rows in partitions.items():
        for match in matches(PATTERNS[query], sorted(rows, key=lambda row: row["us"])):  # type: ignore[no-any-return]
            found.append((*key, *(compute(match) for _, compute in MEASURES[query].values())))
    fields = [("auction", pa.int64()), ("bidder", pa.int64()), *((n, kind) for n, (kind, _) in MEASURES[query].items())]
    columns = [pa.array(column).cast(kind) for column, (_, kind) in zip(zip(*found, strict=True), fields, strict=True)]
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))
