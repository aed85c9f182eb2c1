"""A partition that falls silent does not hold windows back, and what it says when it is back is lost only if late.

Whole jobs in virtual time, by a seeded scheduler: one partition goes on, the other is silent for 100 seconds.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import lakeward as lw
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.execute import Attempt, Ports
from lakeward.engine.graph.prepare import prepare
from lakeward.engine.runtime.drivers import SimulatedDriver
from lakeward.engine.runtime.io import SteppedIo
from lakeward.engine.runtime.metrics import Metrics
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.testing import PAUSE, Item, ScriptedSource

SCHEMA = pa.schema([("k", pa.string()), ("s", pa.int64()), ("at", pa.timestamp("us", tz="UTC"))])
START = datetime(2026, 1, 1, tzinfo=UTC)
STRATEGY = lw.WatermarkStrategy.bounded_out_of_orderness("at", "1s")
IDLE = STRATEGY.with_idleness("10s")
LATE = lw.OutputTag("late")
BACK_MS = 100_000
"""When the silent partition speaks again, by the clock."""
PASSED_S = 57
"""Event time when it does: a second less than the newest of the other partition."""


def rows(*seconds: int) -> list[dict[str, Any]]:
    return [{"k": "x", "s": one, "at": START + timedelta(seconds=one)} for one in seconds]


STEADY: list[Item] = [rows(0, 1, 2, 20, 21), PAUSE(30_000), rows(55, 58), PAUSE(71_000), rows(200)]
BEFORE, RETURNING = (3,), (5, 52, 62)
HOLDING = (64,)
"""In time only if the partition that is back holds event time again: the other one is at 200 by then."""
LAPSING: list[Item] = [rows(*BEFORE), PAUSE(BACK_MS), rows(*RETURNING), PAUSE(5_000), rows(*HOLDING)]
ON_TIME = (0, 1, 2, 20, 21, 55, 58, 200, *BEFORE, *HOLDING)
"""What comes before event time has passed it, whatever the window."""


@dataclass(frozen=True)
class Ran:
    """What a run gave."""

    results: Counter[tuple[int, int, int]]
    """Start, end and count of windows, in seconds."""
    fired_ms: dict[int, int]
    """When the window of each start was sent, by the clock."""
    late: list[int]


def run(
    window: Any,
    strategy: lw.WatermarkStrategy,
    parallelism: int,
    seed: int,
    directory: Path,
    scripts: tuple[list[Item], ...] = (STEADY, LAPSING),
) -> Ran:
    clock, fired_ms = ManualClock(), {}
    env = lw.StreamExecutionEnvironment(parallelism=parallelism, checkpoint_interval="1000s")
    events = env.from_source(ScriptedSource(SCHEMA, *scripts), watermark=strategy, uid="events")
    windows = events.key_by("k").window(window).side_output_late_data(LATE).aggregate(uid="windows", n=lw.count())

    def note(row: dict[str, Any]) -> bool:
        fired_ms[seconds(row["window_start"])] = clock.monotonic_ms()
        return True

    results, late = lw.MemorySink(), lw.MemorySink()
    windows.filter(note).sink_to(results, uid="results")
    windows.side_output(LATE).sink_to(late, uid="late")
    io: SteppedIo[Any] = SteppedIo()
    ports = Ports(clock, make_io=lambda: io, store_factory=MemoryStoreFactory(), directory=str(directory))
    definition = env.definition("idle", MemoryStore())
    graph, physical = prepare(definition.graph, definition.config)
    attempt = Attempt(replace(definition, graph=graph), physical, ports, Metrics())
    runner = attempt.start()
    assert runner is not None
    runner.open()
    SimulatedDriver(random.Random(seed), clock, io).run(runner)
    attempt.close()
    found = ((seconds(r["window_start"]), seconds(r["window_end"]), r["n"]) for r in results.table().to_pylist())
    return Ran(Counter(found), fired_ms, sorted(late.table()["s"].to_pylist()))


def seconds(time: datetime) -> int:
    return int((time - START).total_seconds())


def counts(size: int, slide: int, passed: int) -> Counter[tuple[int, int, int]]:
    """A plain model: rows that come back count in those of their windows that event time has not passed."""
    starts = [start for one in ON_TIME for start in windows_of(one, size, slide)]
    starts += [start for one in RETURNING for start in windows_of(one, size, slide) if start + size > passed]
    return Counter((start, start + size, n) for start, n in Counter(starts).items())


def windows_of(second: int, size: int, slide: int) -> Iterator[int]:
    yield from (start for start in range(second - second % slide, second - size, -slide))


def check_idle(ran: Ran, early: Iterable[int], late: list[int]) -> None:
    """These windows, and no others, were sent while the partition was silent; just these rows came too late."""
    assert {start for start, at_ms in ran.fired_ms.items() if at_ms < BACK_MS} == set(early)
    assert ran.late == late


EACH = pytest.mark.parametrize(("parallelism", "seed"), [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5)])


@EACH
def test_tumbling_windows_fire_without_a_partition_that_is_idle(parallelism: int, seed: int, tmp_path: Path) -> None:
    ran = run(lw.Tumbling("10s"), IDLE, parallelism, seed, tmp_path)
    check_idle(ran, early=[0, 20], late=[5])
    assert ran.results == counts(10, 10, PASSED_S)


@EACH
def test_sliding_windows_fire_without_a_partition_that_is_idle(parallelism: int, seed: int, tmp_path: Path) -> None:
    """The row of second 52 is in time for one of its two windows, and counts there."""
    ran = run(lw.Sliding("10s", slide="5s"), IDLE, parallelism, seed, tmp_path)
    check_idle(ran, early=[-5, 0, 15, 20], late=[5])
    assert ran.results == counts(10, 5, PASSED_S)


@EACH
def test_sessions_end_without_a_partition_that_is_idle(parallelism: int, seed: int, tmp_path: Path) -> None:
    """The row of second 52 is behind event time, but joins a session that goes on: nothing of it is lost."""
    ran = run(lw.Session("5s"), IDLE, parallelism, seed, tmp_path)
    check_idle(ran, early=[0, 20], late=[5])
    assert ran.results == Counter([(0, 8, 4), (20, 26, 2), (52, 69, 5), (200, 205, 1)])


@EACH
@pytest.mark.parametrize("window", [lw.Tumbling("10s"), lw.Session("5s")], ids=["tumbling", "session"])
def test_without_idleness_windows_wait_for_the_silent_partition_and_nothing_is_late(
    window: Any, parallelism: int, seed: int, tmp_path: Path
) -> None:
    ran = run(window, STRATEGY, parallelism, seed, tmp_path)
    check_idle(ran, early=[], late=[])
    assert sum(n * times for (_, _, n), times in ran.results.items()) == len(ON_TIME) + len(RETURNING)


@EACH
@pytest.mark.parametrize(("ahead_ms", "behind_ms"), [(3_000, 8_000), (8_000, 3_000)])
def test_windows_fire_when_all_partitions_are_idle_whichever_fell_silent_last(
    ahead_ms: int, behind_ms: int, parallelism: int, seed: int, tmp_path: Path
) -> None:
    """One partition is at 25 seconds, the other at 4: all is sent that the first one has passed, and no more."""
    ahead: list[Item] = [rows(0), PAUSE(ahead_ms), rows(25), PAUSE(BACK_MS - ahead_ms), rows(200)]
    behind: list[Item] = [rows(1), PAUSE(behind_ms), rows(4), PAUSE(BACK_MS - behind_ms - 1_000), rows(20)]
    ran = run(lw.Tumbling("10s"), IDLE, parallelism, seed, tmp_path, (ahead, [*behind, PAUSE(2_000), rows(201)]))
    check_idle(ran, early=[0], late=[])
    assert ran.fired_ms[0] < 30_000
    assert ran.results == Counter([(0, 10, 3), (20, 30, 2), (200, 210, 2)])
