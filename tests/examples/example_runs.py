"""Runs the job of an example over batches: straight, or with a crash, and a stop after which it is restored."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import lakeward as lw
from lakeward.testing import ABORT, BARRIER, EOF, CollectSink, Item, JobHarness, ScriptedSource

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
Build = Callable[..., lw.DataStream]


def at(second: int) -> datetime:
    return NOON + timedelta(seconds=second)


def printed(name: str) -> list[str]:
    """What the example prints when it is run as a script, without the number of the subtask."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(root / "examples" / f"{name}.py")], cwd=root, capture_output=True, text=True, check=True
    )
    return sorted(line.split("> ", 1)[1] for line in done.stdout.splitlines())


def in_batches(rows: Sequence[Any], seed: int) -> list[list[Any]]:
    """Rows in pieces of some length each."""
    rng, found, left = random.Random(seed), [], list(rows)
    while left:
        size = rng.randrange(1, 6)
        found.append(left[:size])
        left = left[size:]
    return found


def straight(build: Build, *inputs: list[list[Any]], watermark: Any = None) -> list[dict[str, Any]]:
    """The rows that the job makes of its inputs."""
    return _run(build, inputs, watermark, [1])


def restored(build: Build, *inputs: list[list[Any]], watermark: Any = None) -> list[dict[str, Any]]:
    """The same with a crash behind a checkpoint, and a stop, after which it goes on with three subtasks."""
    first: list[Item] = list(inputs[0])
    third = len(first) // 3
    script = [*first[:third], BARRIER, *first[third : third + 2], ABORT]
    script += [*first[third + 2 : 2 * third + 1], EOF, *first[2 * third + 1 :]]
    return _run(build, (script, *inputs[1:]), watermark, [2, 2, 3])


def _run(
    build: Build, scripts: Sequence[Sequence[Any]], watermark: Any, parallelism: list[int]
) -> list[dict[str, Any]]:
    time = watermark or lw.WatermarkStrategy.monotonous("at")
    sources, sink = [], CollectSink()
    for script in scripts:
        row_class = next(type(item[0]) for item in script if isinstance(item, list))
        items = [list(map(dataclasses.asdict, item)) if isinstance(item, list) else item for item in script]
        sources.append(ScriptedSource(row_class, items))

    def job(env: lw.StreamExecutionEnvironment) -> None:
        streams = [
            env.from_source(source, watermark=time, uid=f"source-{number}", parallelism=1)
            for number, source in enumerate(sources)
        ]
        build(*streams).sink_to(sink, uid="sink")

    runs = JobHarness(job, config=lw.EngineConfig(checkpoint_interval_ms=5)).run_to_end(parallelism)
    assert len(runs) == len(parallelism)
    return sorted(sink.table().to_pylist(), key=repr)


def as_rows(found: Sequence[Any]) -> list[dict[str, Any]]:
    """Instances of a dataclass as a sink would have them."""
    return sorted(map(dataclasses.asdict, found), key=repr)
