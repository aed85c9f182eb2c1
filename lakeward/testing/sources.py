"""A source that follows a script, with marks in the data: so that crash-and-resume tests read like a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final, TypeAlias

import pyarrow as pa

from lakeward.engine.api.row_types import SchemaLike, given_schema
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import ConfigError, SourceError
from lakeward.engine.core.expect import expect, expect_whole
from lakeward.engine.core.ids import CheckpointId, SplitId
from lakeward.engine.core.json_types import JsonObject
from lakeward.testing.batches import ROWS_HINT, batch_of, checked_batch
from lakeward.testing.crash import SimulatedCrash
from lakeward.testing.times import to_us

PAUSE_MS = 1_000
"""How long `PAUSE` is when nothing is said."""

_HINT = f"a script is a list of steps; {ROWS_HINT}; between batches stand marks: BARRIER, ABORT, ..."


class Mark(Enum):
    """Something that happens between two batches of a script; see `BARRIER`, `ABORT`, `EOF` and `FAIL`."""

    BARRIER = "wait until a checkpoint that holds everything before this mark has completed"
    ABORT = "the process dies here, as of kill -9; passed over when the job is started again"
    EOF = "the input ends here for this run, which stops with a last checkpoint; the next run goes on behind it"
    FAIL = "fail once with an error that a restart can heal; passed over after that"


@dataclass(frozen=True, slots=True)
class Pause:
    """A split has nothing to say for a while, by the job's clock. Written `PAUSE`, or `PAUSE(30_000)`.

    >>> PAUSE, PAUSE(30_000)
    (Pause(duration_ms=1000), Pause(duration_ms=30000))

    Args:
        duration_ms: How long.
    """

    duration_ms: int

    def __post_init__(self) -> None:
        expect_whole(self.duration_ms, "PAUSE: duration_ms", least=0)

    def __call__(self, duration_ms: int) -> Pause:
        """A pause of another length."""
        return Pause(duration_ms)


@dataclass(frozen=True, slots=True)
class Watermark:
    """Event time of the split has come to here, without a row that says so: what follows is later, or late.

    For scripts that say by themselves how event time goes; give the source a strategy that says little, for example
    `WatermarkStrategy.bounded_out_of_orderness("at", "1000d")`.

    >>> Watermark(5_000_000).at_us
    5000000

    Args:
        at: Microseconds since 1970 UTC, or a datetime with a time zone.

    Raises:
        ConfigError: It is neither.
    """

    at: int | datetime

    def __post_init__(self) -> None:
        to_us(self.at)

    @property
    def at_us(self) -> int:
        """In microseconds since 1970 UTC."""
        return to_us(self.at)


BARRIER: Final = Mark.BARRIER
"""Wait here until a checkpoint that holds everything before this mark has completed: its rows are committed then."""

ABORT: Final = Mark.ABORT
"""The process dies here, as of `kill -9`: nothing is closed or flushed, and nothing is committed after it. Needs a
`JobHarness`, which starts the job again from its newest checkpoint; the mark is passed over then."""

EOF: Final = Mark.EOF
"""The input ends here for this run, even if the script goes on, as in Bytewax's TestingSource. The run stops with a
last checkpoint, windows stay open, and the next run goes on behind the mark. Needs a `JobHarness`. The end of the
script needs no mark: there the input has ended for good."""

FAIL: Final = Mark.FAIL
"""Fail here once with an error that a restart can heal, as a broker that is gone for a moment; the run restarts itself
from its newest checkpoint."""

PAUSE: Final = Pause(PAUSE_MS)
"""Nothing to say for a second, or for as long as `PAUSE(milliseconds)` says, by the job's clock."""

Item: TypeAlias = pa.RecordBatch | Sequence[Mapping[str, Any]] | Mark | Pause | Watermark
"""What a script is made of: rows and marks."""


class ScriptedSource(Source):
    """Hands out the rows of its scripts, one script a split, with marks between them; after Bytewax's TestingSource.

    >>> source = ScriptedSource({"a": int}, [[{"a": 1}], BARRIER, [{"a": 2}]])
    >>> [split.id for split in source.list_splits(None)]
    ['script-0']

    Args:
        schema: Of all rows: an Arrow schema, a dict of names to types, a dataclass or a TypedDict.
        scripts: For each split, batches (or lists of dict rows) and marks.
        bounded: Whether the scripts' end is the end of the input.

    Raises:
        ConfigError: A step of a script is neither rows nor a mark, a batch has another schema, or a row has a column
            that the schema lacks or a value that does not fit. Scripts, steps and rows are counted from 0.

    Guarantees: replayable from any batch; a run reads each batch at most once.
    """

    def __init__(self, schema: SchemaLike, *scripts: Sequence[Item], bounded: bool = True) -> None:
        self._schema = given_schema(schema, "the schema of a script")
        expect(bounded, bool, "ScriptedSource: bounded", "give True or False")
        self._bounded = bounded
        self.scripts = [self._items(script, number) for number, script in enumerate(scripts)]
        self.passed: set[tuple[SplitId, int]] = set()
        """Marks that lie behind, by split and place in its script."""
        self.attended = False
        """Whether somebody is there who stops and starts the job again: a `JobHarness` says so."""
        self._stopping = False

    def _items(self, script: Sequence[Item], number: int) -> list[pa.RecordBatch | Mark | Pause | Watermark]:
        expect(script, (list, tuple), f"script {number} of a ScriptedSource", _HINT)
        return [self._item(item, f"step {step} of script {number}") for step, item in enumerate(script)]

    def _item(self, item: Item, what: str) -> pa.RecordBatch | Mark | Pause | Watermark:
        if isinstance(item, Mark | Pause | Watermark):
            return item
        expect(item, (list, tuple, pa.RecordBatch), what, _HINT)
        if isinstance(item, pa.RecordBatch):
            return checked_batch(item, self._schema, what)
        return batch_of(item, self._schema, what)

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

    @property
    def pauses_ms(self) -> int:
        """How long all its pauses are together."""
        return sum(item.duration_ms for script in self.scripts for item in script if isinstance(item, Pause))

    def stop(self) -> bool:
        """Whether this run has met `EOF`."""
        return self._stopping

    def ask_stop(self) -> None:
        """This run has met `EOF`."""
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
            if held == step and self._at(number, step) is BARRIER:
                self._source.passed.add((split, step))

    def _at(self, number: int, step: int) -> pa.RecordBatch | Mark | Pause | Watermark | None:
        script = self._source.scripts[number]
        return script[step] if step < len(script) else None

    def _poll_split(self, split: SplitId) -> SplitBatch | SplitFinished | None:
        number, step = self._splits[split]
        match self._at(number, step):
            case None:
                return self._finish(split)
            case Mark() as mark:
                return self._meet(split, mark)
            case Pause(duration_ms):
                return self._be_silent(split, duration_ms)
            case Watermark() as mark:
                return self._pass(split, mark.at_us)
            case batch:
                self._splits[split] = (number, step + 1)
                return SplitBatch(split, batch, {"next": step + 1})

    def _finish(self, split: SplitId) -> SplitFinished | None:
        if not self._source.bounded:
            return None
        del self._splits[split]
        return SplitFinished(split)

    def _be_silent(self, split: SplitId, duration_ms: int) -> SplitBatch | None:
        now_ms = self._clock.monotonic_ms()
        if now_ms < self._silent_since_ms.setdefault(split, now_ms) + duration_ms:
            return None
        del self._silent_since_ms[split]
        return self._pass(split)

    def _pass(self, split: SplitId, watermark_us: int | None = None) -> SplitBatch:
        """Go on behind what is no batch."""
        number, step = self._splits[split]
        self._splits[split] = (number, step + 1)
        nothing = pa.RecordBatch.from_pylist([], schema=self._source.schema)
        return SplitBatch(split, nothing, {"next": step + 1}, watermark_us)

    def _meet(self, split: SplitId, mark: Mark) -> SplitBatch | None:
        _, step = self._splits[split]
        if (split, step) in self._source.passed:
            return self._pass(split)
        if mark is BARRIER:
            return None
        if mark is not FAIL and not self._source.attended:
            raise ConfigError(
                f"the script says {mark.name}, and nobody is there who would start the job again",
                hint="run the job with lakeward.testing.JobHarness",
            )
        self._source.passed.add((split, step))
        if mark is FAIL:
            raise SourceError("the script says to fail here")
        if mark is ABORT:
            raise SimulatedCrash(f"ABORT in {split}")
        self._source.ask_stop()
        del self._splits[split]  # not finished, only not read any further in this run
        return None
