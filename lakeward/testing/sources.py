"""A source that follows a script, with marks in the data: so that crash-and-resume tests read like a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import pyarrow as pa

from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import SourceError
from lakeward.engine.core.ids import CheckpointId, SplitId
from lakeward.engine.core.json_types import JsonObject


class Mark(Enum):
    """Something that happens between two batches of a script."""

    CHECKPOINT = "wait until a checkpoint that holds everything before this mark has completed"
    STOP = "ask the job to stop, and read no further in this run; passed over in later runs"
    FAIL = "fail once with an error that a restart can heal; passed over after that"


@dataclass(frozen=True, slots=True)
class Silence:
    """A split has nothing to say for a while, by the job's clock.

    Args:
        duration_ms: How long.
    """

    duration_ms: int


Item: TypeAlias = pa.RecordBatch | Sequence[Mapping[str, Any]] | Mark | Silence


class ScriptedSource(Source):
    """Hands out the batches of its scripts, one script a split; after Bytewax's TestingSource.

    >>> import pyarrow as pa
    >>> source = ScriptedSource(pa.schema({"a": pa.int64()}), [[{"a": 1}], Mark.CHECKPOINT, [{"a": 2}]])
    >>> [split.id for split in source.list_splits(None)]
    ['script-0']

    Args:
        schema: Of all rows.
        scripts: For each split, batches (or lists of dict rows), marks and silences.
        bounded: Whether the scripts' end is the end of the input.
    """

    def __init__(self, schema: pa.Schema, *scripts: Sequence[Item], bounded: bool = True) -> None:
        self._schema = schema
        self._bounded = bounded
        self.scripts = [[self._item(item) for item in script] for script in scripts]
        self.passed: set[tuple[SplitId, int]] = set()
        self._stopping = False

    def _item(self, item: Item) -> pa.RecordBatch | Mark | Silence:
        if isinstance(item, Mark | Silence | pa.RecordBatch):
            return item
        return pa.RecordBatch.from_pylist(list(item), schema=self._schema)

    @property
    def schema(self) -> pa.Schema:
        """The rows' schema."""
        return self._schema

    @property
    def bounded(self) -> bool:
        """Whether it ends."""
        return self._bounded

    @property
    def description(self) -> str:
        """What it reads."""
        return "script"

    def stop(self) -> bool:
        """Whether a STOP mark was reached; give this to `Ports(stop=...)`."""
        return self._stopping

    def ask_stop(self) -> None:
        """A STOP mark was reached."""
        self._stopping = True

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """One a script. A new run begins: an old wish to stop is over."""
        self._stopping = False
        return [Split(SplitId(f"script-{number}"), {"script": number}) for number in range(len(self.scripts))]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """A reader."""
        return _ScriptReader(self, context.clock)


class _ScriptReader(SourceReader):
    def __init__(self, source: ScriptedSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._silent_since_ms: dict[SplitId, int] = {}
        self._splits: dict[SplitId, tuple[int, int]] = {}
        self._turn = 0

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        number = split.start["script"]
        step = position["next"] if position else 0
        assert isinstance(number, int), "written by list_splits"
        assert isinstance(step, int), "written by poll"
        self._splits[split.id] = (number, step)

    def poll(self) -> SplitBatch | SplitFinished | None:
        for _ in range(len(self._splits)):
            split = list(self._splits)[self._turn % len(self._splits)]
            self._turn += 1
            polled = self._poll_split(split)
            if polled is not None:
                return polled
        return None

    def on_checkpoint_complete(self, checkpoint: CheckpointId, positions: Mapping[SplitId, JsonObject]) -> None:
        for split, (number, step) in self._splits.items():
            held = positions.get(split, {"next": 0})["next"]
            if held == step and self._at(number, step) is Mark.CHECKPOINT:
                self._source.passed.add((split, step))

    def _at(self, number: int, step: int) -> pa.RecordBatch | Mark | Silence | None:
        script = self._source.scripts[number]
        return script[step] if step < len(script) else None

    def _poll_split(self, split: SplitId) -> SplitBatch | SplitFinished | None:
        number, step = self._splits[split]
        item = self._at(number, step)
        if item is None:
            if not self._source.bounded:
                return None
            del self._splits[split]
            return SplitFinished(split)
        if isinstance(item, Mark):
            return self._meet(split, item)
        if isinstance(item, Silence):
            return self._be_silent(split, item)
        self._splits[split] = (number, step + 1)
        return SplitBatch(split, item, {"next": step + 1})

    def _be_silent(self, split: SplitId, silence: Silence) -> SplitBatch | None:
        now_ms = self._clock.monotonic_ms()
        if now_ms < self._silent_since_ms.setdefault(split, now_ms) + silence.duration_ms:
            return None
        del self._silent_since_ms[split]
        return self._pass(split)

    def _pass(self, split: SplitId) -> SplitBatch:
        """Go on behind what is no batch."""
        number, step = self._splits[split]
        self._splits[split] = (number, step + 1)
        nothing = pa.RecordBatch.from_pylist([], schema=self._source.schema)
        return SplitBatch(split, nothing, {"next": step + 1})

    def _meet(self, split: SplitId, mark: Mark) -> SplitBatch | None:
        _, step = self._splits[split]
        if (split, step) in self._source.passed:
            return self._pass(split)
        if mark is Mark.CHECKPOINT:
            return None
        self._source.passed.add((split, step))
        if mark is Mark.FAIL:
            raise SourceError("the script says to fail here")
        self._source.ask_stop()
        del self._splits[split]  # not finished, only not read any further in this run
        return None
