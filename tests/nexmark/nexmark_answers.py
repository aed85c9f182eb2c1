"""What the tests of the Nexmark queries share: data sets, the runner, and the comparison with DuckDB."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[2]

UP_TO_TIES = {"q18": ("auction", "bidder", "dateTime"), "q19": ("auction", "price", "rank_number")}
"""Which row of several equal ones these queries keep depends on the order they come in; these columns do not."""


def load(name: str, file: Path) -> Any:
    """A module that is not part of a package."""
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nexmark = load("nexmark_runner", ROOT / "benchmarks" / "nexmark.py")
nexmark_data = load("nexmark_data", ROOT / "benchmarks" / "nexmark_data.py")
oracle = load("nexmark_oracle", Path(__file__).with_name("oracle.py"))
cep_oracle = load("nexmark_cep_oracle", Path(__file__).with_name("cep_oracle.py"))

EVENTS = 8_000
RATE = 200
STARTS = {
    1: datetime(2026, 1, 1, 23, 59, 45, tzinfo=UTC),  # two days
    2: datetime(2026, 3, 1, 7, 59, 52, tzinfo=UTC),  # q14's dayTime begins
    3: datetime(2024, 2, 29, 18, 59, 38, tzinfo=UTC),  # and ends
}
"""When the events of each seed begin: 40 seconds that hold what the queries tell apart."""


@dataclass(frozen=True, slots=True)
class Data:
    """A data set in files, and what DuckDB says of it, of patterns what a matcher of single rows says."""

    seed: int
    folder: Path

    @cache  # noqa: B019
    def answer(self, name: str) -> pa.Table:
        asked = cep_oracle if name in cep_oracle.PATTERNS else oracle
        return asked.answer(name, self.folder)

    @cache  # noqa: B019
    def batches(self, kind: str, count: int) -> list[pa.RecordBatch]:
        """All rows of a kind, cut into so many batches."""
        source = nexmark_data.DataSet(EVENTS, self.seed, RATE, base_time=STARTS[self.seed]).source(kind)
        rows = source.read(0, 0, EVENTS)
        cuts = np.linspace(0, rows.num_rows, count + 1).astype(int)
        return [rows.slice(a, b - a) for a, b in pairwise(cuts)]


def make_data(seed: int, folder: Path) -> Data:
    """Write the data set of a seed."""
    nexmark_data.write_files(folder, nexmark_data.DataSet(EVENTS, seed, RATE, jsonl=True, base_time=STARTS[seed]))
    return Data(seed, folder)


def differences(found: pa.Table, expected: pa.Table) -> list[Any]:
    """Rows that only one of two tables has, or has more often."""
    with duckdb.connect() as con:
        con.register("found", found)
        con.register("expected", expected)
        ours = con.sql("from (from found except all from expected) limit 3").fetchall()
        theirs = con.sql("from (from expected except all from found) limit 3").fetchall()
    return [*(("not expected", *row) for row in ours), *(("missing", *row) for row in theirs)]


def check(name: str, found: pa.Table, data: Data, *, in_order: bool = True) -> None:
    """The same columns and rows as the answer's, or the same but for ties where the order of the input was changed."""
    expected = data.answer(name)
    types = [(field.name, field.type) for field in expected.schema]
    assert [(field.name, field.type) for field in found.schema] == types
    if name in UP_TO_TIES and not in_order:
        check_ties(found, data)
        found, expected = found.select(UP_TO_TIES[name]), expected.select(UP_TO_TIES[name])
    assert differences(found, expected) == []


def check_ties(found: pa.Table, data: Data) -> None:
    """Whatever was chosen among equal bids is one of them."""
    columns = [name for name in found.schema.names if name != "rank_number"]
    bids = pq.read_table(data.folder / "bid.parquet").select(columns)
    missing = [row for row in differences(found.select(columns), bids) if row[0] == "not expected"]
    assert missing == []
