"""Measure a child process as a whole: its CPU seconds and its peak memory, by the operating system's own count.

A child gets a core of its own (as many as its parallelism), where the system can do that. Two busy hardware threads of
one physical core slow each other down, and a second of such a thread is worth less: the same work then costs up to half
as many CPU seconds more, which says nothing about the program.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run cost.

    Args:
        cpu_s: User and system seconds of all its threads.
        wall_s: Seconds from start to end.
        memory_mb: Largest resident size, in MB.
        rows: Rows it handled.
        output: What it printed.
    """

    cpu_s: float
    wall_s: float
    memory_mb: float
    rows: int
    output: str


Rounds = dict[Any, list[Measured]]
"""The runs of each case, by the case's name."""


def run_child(script: str, options: Mapping[str, Any], rows: int) -> Measured:
    """Run `python SCRIPT --child OPTIONS` and measure it, on as many cores as the option `parallelism` says, else one.

    Returns:
        Its cost and what it printed.

    Raises:
        RuntimeError: It failed.
    """
    start = time.perf_counter()
    with cores(int(options.get("parallelism", 1))):
        process = subprocess.Popen(
            [sys.executable, script, "--child", json.dumps(options)], stdout=subprocess.PIPE, text=True
        )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{script} {dict(options)} failed with status {process.returncode}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measured(cpu_s, time.perf_counter() - start, usage.ru_maxrss / 1000, rows, output)


@contextmanager
def cores(count: int) -> Iterator[None]:
    """What is started meanwhile runs on the last `count` cores of this process, with all its threads."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def run_rounds(script: str, cases: Mapping[Any, Mapping[str, Any]], rows: Mapping[Any, int], rounds: int) -> Rounds:
    """Run each case in turn, round by round, so that a slow moment of the machine meets all of them."""
    runs: Rounds = {name: [] for name in cases}
    for _ in range(rounds):
        for name, options in cases.items():
            runs[name].append(run_child(script, options, rows[name]))
    return runs


def median(values: Iterable[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def result_row(what: str, small: Sequence[Measured], large: Sequence[Measured], target: float, limit: float) -> str:
    """A line of the result table: medians of the rounds, and the range of the figures that count start-up.

    The rate without start-up is the difference of rows over that of CPU seconds, between two sizes of input.
    """
    cpu_s = [median(one.cpu_s for one in runs) for runs in (small, large)]
    rate = (large[0].rows - small[0].rows) / max(cpu_s[1] - cpu_s[0], 1e-9)
    whole = sorted(one.rows / one.cpu_s / 1e3 for one in large)
    memory = [max(one.memory_mb for one in runs) for runs in (small, large)]
    return (
        f"{what:52} {rate / 1e3:>8,.0f} {median(whole):>10,.0f} {whole[0]:>8,.0f}-{whole[-1]:<8,.0f} "
        f"{target / 1e3:>8,.0f} {limit / 1e3:>8,.0f} {rate / limit:>6.2f} {memory[0]:>7.0f} {memory[1]:>7.0f}"
    )


HEADER = (
    f"{'k rows per CPU second, medians':52} {'rate':>8} {'with start':>10} {'from':>8}-{'to':<8} "
    f"{'at least':>8} {'limit':>8} {'/limit':>6} {'MB':>7} {'MB':>7}"
)
