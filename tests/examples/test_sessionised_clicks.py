"""The example that makes visits of clicks: what it prints, and the same answer after a crash and a restore."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from example_runs import as_rows, at, in_batches, printed, restored, straight

import lakeward as lw
from lakeward.examples.sessionised_clicks import Click, Visit, visits_of


def clicks(seed: int) -> list[Click]:
    """Clicks of a day, less than a minute out of order."""
    rng = random.Random(seed)
    times = sorted((second + rng.randrange(59), second) for second in rng.sample(range(86_400), 150))
    return [Click(rng.choice("abc"), f"page {rng.randrange(5)}", at(second)) for _, second in times]


def expected(rows: list[Click]) -> list[Visit]:
    visits: list[list[Click]] = []
    for visitor in "abc":
        for row in sorted((row for row in rows if row.visitor == visitor), key=lambda row: row.at):
            if visits and visits[-1][-1].visitor == visitor and (row.at - visits[-1][-1].at).total_seconds() <= 1800:
                visits[-1].append(row)
            else:
                visits.append([row])
    numbers: Counter[str] = Counter()
    found = []
    for visit in visits:
        numbers[visit[0].visitor] += 1
        took = (visit[-1].at - visit[0].at).total_seconds()
        pages = [row.page for row in visit]
        found.append(Visit(visit[0].visitor, numbers[visit[0].visitor], visit[0].at, took, pages, len(visit) == 1))
    return found


def test_it_runs_as_a_script_and_prints_the_visits() -> None:
    lines = printed("sessionised_clicks")
    assert len(lines) == 3
    assert "visitor=ann, number=1, started=2026-01-01 12:00:00+00:00, seconds=300.0" in lines[0]
    assert "pages=['home', 'tea', 'cart'], bounced=False" in lines[0]


@pytest.mark.parametrize("run", [straight, restored])
def test_visits_have_their_pages_in_order_however_the_clicks_came(run: Any) -> None:
    rows = clicks(1)
    watermark = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1m")
    assert run(visits_of, in_batches(rows, 1), watermark=watermark) == as_rows(expected(rows))
