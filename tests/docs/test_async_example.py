"""The example of an enrichment by asynchronous calls, run as its reader would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "async_enrichment.py"


def test_every_order_is_enriched_once_and_in_its_order(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lakeward.cli.main", "run", str(EXAMPLE)],
        cwd=tmp_path, env={**os.environ, "ORDERS": "300"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "lakeward-enriched").glob("*.parquet"))
    rows = [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
    assert [row["order"] for row in rows] == list(range(300))
    assert rows[2] == {"order": 2, "customer": 14, "amount": 26, "name": "customer 14", "rating": 0.052}
    assert {row["name"] for row in rows if row["customer"] % 10 == 9} == {None}
