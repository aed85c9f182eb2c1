"""The example that notices silence: what it prints, and the same answer after a crash and a restore."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from example_runs import as_rows, at, in_batches, printed, restored, straight

from lakeward.examples.dead_mans_switch import SILENCE, Beat, Notice, notices

DEVICES = "abc"


def beats(seed: int) -> list[Beat]:
    """Beats of some devices with gaps; in the end all are alive."""
    rng = random.Random(seed)
    found = [Beat(rng.choice(DEVICES), at(second)) for second in sorted(rng.sample(range(1500), 110))]
    return [*found, *(Beat(device, at(1600)) for device in DEVICES)]


def expected(rows: list[Beat]) -> list[Notice]:
    found = []
    for device in DEVICES:
        times = [row.at for row in rows if row.device == device]
        for before, after in pairwise(times):
            if after - before > SILENCE:
                found += [Notice(device, "silent", before + SILENCE), Notice(device, "back", after)]
    return found


def test_it_runs_as_a_script_and_notices_the_pump() -> None:
    assert printed("dead_mans_switch") == [
        "device=pump, what=back, at=2026-01-01 12:01:40+00:00",
        "device=pump, what=silent, at=2026-01-01 12:00:50+00:00",
    ]


@pytest.mark.parametrize("run", [straight, restored])
def test_each_silence_is_told_once_and_so_is_its_end(run: Any) -> None:
    rows = beats(1)
    assert len(expected(rows)) > 20
    assert run(notices, in_batches(rows, 1)) == as_rows(expected(rows))


def test_a_silence_that_begins_and_ends_in_one_batch_is_told_all_the_same() -> None:
    rows = beats(2)
    assert straight(notices, [rows]) == straight(notices, [[row] for row in rows]) == as_rows(expected(rows))
