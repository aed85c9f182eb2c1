"""The example that detects fraud: what it prints, its rule, and the same answer after a crash and a restore."""

from __future__ import annotations

import random
from typing import Any

import pytest
from example_runs import as_rows, at, in_batches, printed, restored, straight

from lakeward.examples.fraud_detection import LARGE, PATIENCE, SMALL, Alert, Payment, alerts


def payments(seed: int) -> list[Payment]:
    rng = random.Random(seed)
    amounts = (0.5, 0.99, 1.0, 30.0, 500.0, 500.01, 900.0)
    return [
        Payment(rng.randrange(4), rng.choice(amounts), at(second)) for second in sorted(rng.sample(range(900), 150))
    ]


def expected(rows: list[Payment]) -> list[Alert]:
    before: dict[int, Payment] = {}
    found = []
    for row in rows:
        last = before.get(row.account)
        if last and last.amount < SMALL and row.amount > LARGE and row.at - last.at <= PATIENCE:
            found.append(Alert(row.account, row.amount, row.at))
        before[row.account] = row
    return found


def test_it_runs_as_a_script_and_finds_the_one_fraud() -> None:
    assert printed("fraud_detection") == ["account=1, amount=900.0, at=2026-01-01 12:00:20+00:00"]


@pytest.mark.parametrize("run", [straight, restored])
def test_a_large_payment_right_after_a_small_one_is_found(run: Any) -> None:
    rows = payments(1)
    assert len(expected(rows)) > 3
    assert run(alerts, in_batches(rows, 1)) == as_rows(expected(rows))


def test_how_rows_come_in_batches_does_not_matter() -> None:
    rows = payments(2)
    assert straight(alerts, [rows]) == straight(alerts, [[row] for row in rows]) == as_rows(expected(rows))
