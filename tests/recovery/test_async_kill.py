"""kill -9 of a real process while calls are in flight: every row is answered once, or sent aside once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lakeward.connectors.nexmark import NexmarkSource
from lakeward.testing.kill_points import KillPoint

JOB = Path(__file__).parent / "async_job.py"
EVENTS = 4_000
COLUMNS = ["auction", "bidder", "price"]
DEADLINE_S = 120
DEATHS = [
    (KillPoint.AFTER_PREPARE, 3, 3, True),
    (KillPoint.AFTER_MANIFEST, 2, 1, False),
    (KillPoint.AFTER_COMMIT, 2, 4, True),
]
"""Where, at which checkpoint of the process, at which parallelism, and whether answers are in order."""


def run(folder: Path, kill_at: str, nth: int, parallelism: int, ordered: bool) -> tuple[int, str]:
    """Run the job until it dies or ends: its status, and what it said."""
    options = {"folder": str(folder), "events": EVENTS, "kill_at": kill_at, "nth": nth, "ordered": ordered}
    command = [sys.executable, str(JOB), json.dumps(options | {"parallelism": parallelism})]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_S, check=False)
    return done.returncode, done.stderr


def rows(folder: Path) -> pa.Table:
    """All rows that are visible, in an order of their own."""
    table = pa.concat_tables([pq.read_table(file) for file in folder.glob("*.parquet")])
    return table.select(COLUMNS).sort_by([(name, "ascending") for name in COLUMNS])


@pytest.mark.kill
@pytest.mark.timeout(300)
def test_a_job_that_is_killed_with_calls_in_flight_answers_every_row_once(tmp_path: Path) -> None:
    for point, nth, parallelism, ordered in DEATHS:
        status, said = run(tmp_path, point.value, nth, parallelism, ordered)
        assert status == -signal.SIGKILL, said
    status, said = run(tmp_path, "", 0, 2, ordered=False)
    assert status == 0, said
    bids = pa.table(NexmarkSource(None).read(0, 0, EVENTS)).select(COLUMNS)
    bids = bids.sort_by([(name, "ascending") for name in COLUMNS])
    whole = pc.equal(pc.subtract(bids["price"], pc.multiply(pc.divide(bids["price"], 5), 5)), 0)
    assert rows(tmp_path / "failed").equals(bids.filter(whole))
    assert rows(tmp_path / "answers").equals(bids.filter(pc.invert(whole)))
