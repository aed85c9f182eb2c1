"""Measure a child process as a whole: its CPU seconds and its peak memory, by the operating system's own count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
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
    """

    cpu_s: float
    wall_s: float
    memory_mb: float
    rows: int


def run_child(script: str, options: Mapping[str, Any], rows: int) -> Measured:
    """Run `python SCRIPT --child OPTIONS` and measure it.

    Raises:
        RuntimeError: It failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, script, "--child", json.dumps(options)])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{script} {dict(options)} failed with status {process.returncode}")
    cpu_s = usage.ru_utime + usage.ru_stime
    return Measured(cpu_s, time.perf_counter() - start, usage.ru_maxrss / 1000, rows)


def per_cpu_second(small: Measured, large: Measured) -> float:
    """Rows per CPU second without the start-up: the difference between two sizes of input."""
    return (large.rows - small.rows) / max(large.cpu_s - small.cpu_s, 1e-9)


def row(what: str, small: Measured, large: Measured, target: float, limit: float) -> str:
    """A line of the result table."""
    rate = per_cpu_second(small, large)
    whole = large.rows / large.cpu_s
    return (
        f"{what:52} {rate / 1e3:>10,.0f} {whole / 1e3:>10,.0f} {target / 1e3:>9,.0f} "
        f"{rate / limit:>7.2f} {small.memory_mb:>7.0f} {large.memory_mb:>7.0f}"
    )


HEADER = f"{'':52} {'k rows/CPU s':>10} {'with start':>10} {'at least':>9} {'/limit':>7} {'MB small':>7} {'large':>7}"
