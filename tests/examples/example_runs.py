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
from lakeward.engine.api.row_types import schema_of
from lakeward.engine.checkpoint.store import MemoryStore
from lakeward.engine.execute import Ports, execute
from lakeward.testing.sources import Item, Mark, ScriptedSource

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
    sink = lw.MemorySink()
    env, _ = _job(build, inputs, watermark, 1, sink)
    execute(env.definition())
    return _rows(sink)


def restored(build: Build, *inputs: list[list[Any]], watermark: Any = None) -> list[dict[str, Any]]:
    """The same with a crash behind a checkpoint, and a stop, after which it goes on with three subtasks."""
    first: list[Item] = list(inputs[0])
    third = len(first) // 3
    script = [*first[:third], Mark.CHECKPOINT, *first[third : third + 2], Mark.FAIL]
    script += [*first[third + 2 : 2 * third + 1], Mark.STOP, *first[2 * third + 1 :]]
    store, sink, passed = MemoryStore(), lw.MemorySink(), set()
    for parallelism in (2, 3):
        env, source = _job(build, (script, *inputs[1:]), watermark, parallelism, sink)
        source.passed |= passed
        result = execute(env.definition("example", store), Ports(stop=source.stop))
        passed = source.passed
    assert result.ended
    assert result.restored is not None
    return _rows(sink)


def _job(
    build: Build, scripts: Sequence[Sequence[Any]], watermark: Any, parallelism: int, sink: lw.MemorySink
) -> tuple[lw.StreamExecutionEnvironment, ScriptedSource]:
    config = lw.EngineConfig(restart=lw.RestartConfig(delay_min_ms=1))
    env = lw.StreamExecutionEnvironment(parallelism=parallelism, checkpoint_interval="5ms", config=config)
    time = watermark or lw.WatermarkStrategy.monotonous("at")
    sources = []
    for script in scripts:
        row_class = next(type(item[0]) for item in script if not isinstance(item, Mark))
        items = [item if isinstance(item, Mark) else list(map(dataclasses.asdict, item)) for item in script]
        sources.append(ScriptedSource(schema_of(row_class), items))
    names = [f"source-{number}" for number in range(len(sources))]
    streams = [
        env.from_source(source, watermark=time, uid=name, parallelism=1)
        for source, name in zip(sources, names, strict=True)
    ]
    build(*streams).sink_to(sink, uid="sink")
    return env, sources[0]


def _rows(sink: lw.MemorySink) -> list[dict[str, Any]]:
    return sorted(sink.table().to_pylist(), key=repr)


def as_rows(found: Sequence[Any]) -> list[dict[str, Any]]:
    """Instances of a dataclass as a sink would have them."""
    return sorted(map(dataclasses.asdict, found), key=repr)
