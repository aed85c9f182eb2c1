"""A bounded source with known rows: the input of simulated jobs, and of their oracles."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.expression import Comparison
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.errors import SourceError
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.knobs import Fault, Knobs

SCHEMA = pa.schema([("k", pa.int64()), ("name", pa.string()), ("v", pa.int64()), ("ts", pa.timestamp("us", tz="UTC"))])
START_US = 1_767_225_600_000_000
"""Event times begin here."""

NOTHING_THERE_RATE = 0.2

SILENT_RATE = 0.5
SILENT_POLLS_MAX = 40
"""For how many polls a split is silent."""

_COMPARISONS: Mapping[str, Callable[[pa.Array, pa.Scalar], pa.Array]] = {
    "==": pc.equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


@dataclass(frozen=True, slots=True)
class InputRow:
    """One row, as the oracle sees it."""

    k: int
    name: str
    v: int
    ts: int


@dataclass(frozen=True, slots=True)
class SplitData:
    """The rows of one split, twice: for the job and for the oracle."""

    id: SplitId
    rows: tuple[InputRow, ...]
    batch: pa.RecordBatch


def make_splits(rng: random.Random, source: str, knobs: Knobs) -> tuple[SplitData, ...]:
    """Draw the rows of a source. One split has `knobs.rows` rows, the others may have fewer."""
    counts = [knobs.rows, *(rng.randint(0, knobs.rows) for _ in range(knobs.splits - 1))]
    keys = rng.choice((2, 5, 20))
    gap_us = rng.choice((200_000, 1_000_000, 3_000_000))
    return tuple(_make_split(rng, f"{source}.{n}", (count, keys, gap_us), knobs) for n, count in enumerate(counts))


def _make_split(rng: random.Random, name: str, sizes: tuple[int, int, int], knobs: Knobs) -> SplitData:
    count, keys, gap_us = sizes
    time_us = START_US + rng.randint(0, 20_000_000)
    rows = []
    for _ in range(count):
        time_us += rng.randint(0, gap_us)
        key = rng.randrange(keys)
        late_us = rng.randint(0, knobs.disorder_us)
        # The name is of this split alone: rows of one name come in one order, whatever the schedule.
        rows.append(InputRow(key, f"{name}/{key % 3}", rng.randint(-50, 100), time_us - late_us))
    columns = [pa.array([getattr(row, one) for row in rows], pa.int64()) for one in ("k", "v", "ts")]
    names = pa.array([row.name for row in rows], pa.string())
    batch = pa.RecordBatch.from_arrays(
        [columns[0], names, columns[1], columns[2].cast(SCHEMA.field("ts").type)], schema=SCHEMA
    )
    return SplitData(SplitId(name), tuple(rows), batch)


class SimSource(Source):
    """Reads given rows in batches of random size.

    Args:
        splits: The input.
        rng: Batch sizes, and which split is next.
        faults: What goes wrong.
        pushed: The columns to read, and comparisons that rows which are left out do not meet.
        silences: Whether splits fall silent for a while, somewhere.
    """

    def __init__(
        self,
        splits: Sequence[SplitData],
        rng: random.Random,
        faults: Faults,
        pushed: tuple[tuple[str, ...], tuple[Comparison, ...]] = (tuple(SCHEMA.names), ()),
        silences: bool = False,
    ) -> None:
        self.splits = {one.id: one for one in splits}
        self._rng = rng
        self._faults = faults
        self._pushed = pushed
        self.silences = silences

    @property
    def schema(self) -> pa.Schema:
        """`SCHEMA`, or the columns of it that are read."""
        return pa.schema([SCHEMA.field(name) for name in self._pushed[0]])

    @property
    def bounded(self) -> bool:
        """Always."""
        return True

    @property
    def description(self) -> str:
        """For `explain()`."""
        return f"simulated, {len(self.splits)} splits"

    def pushed(self, columns: tuple[str, ...], predicate: tuple[Comparison, ...]) -> SimSource:
        """The same rows with fewer columns, or fewer of them."""
        return SimSource(list(self.splits.values()), self._rng, self._faults, (columns, predicate), self.silences)

    def with_silences(self) -> SimSource:
        """The same rows; splits fall silent for a while."""
        return SimSource(list(self.splits.values()), self._rng, self._faults, self._pushed, silences=True)

    @property
    def skips_by(self) -> tuple[Comparison, ...]:
        """All that it was told."""
        return self._pushed[1]

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """All splits."""
        self._faults.fail(Fault.SOURCE_ERROR, "list splits", SourceError)
        return [Split(split, {"next": 0}) for split in self.splits]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """Make the reader of one subtask."""
        return SimReader(self, context.batch_rows, self._rng, self._faults)

    def cut(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        """What is left of rows."""
        columns, predicate = self._pushed
        for one in predicate:
            rows = rows.filter(_COMPARISONS[one.operator](rows.column(one.column), one.value))
        return rows.select(list(columns))


class SimReader(SourceReader):
    """Reads some of the splits. A position is the number of rows before it: `{"next": 7}`."""

    def __init__(self, source: SimSource, batch_rows: int, rng: random.Random, faults: Faults) -> None:
        self._source = source
        self._batch_rows = batch_rows
        self._rng = rng
        self._faults = faults
        self._next: dict[SplitId, int] = {}
        self._silences: dict[SplitId, tuple[int, int]] = {}

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Read this split too."""
        start = (position or split.start)["next"]
        assert isinstance(start, int), "positions are written here alone"
        self._next[split.id] = start
        if self._source.silences and self._rng.random() < SILENT_RATE:
            at = self._rng.randint(start, len(self._source.splits[split.id].rows))
            self._silences[split.id] = (at, self._rng.randint(1, SILENT_POLLS_MAX))

    def poll(self) -> SplitBatch | SplitFinished | None:
        """Some rows of some split, or nothing."""
        self._faults.fail(Fault.SOURCE_ERROR, "poll", SourceError)
        if not self._next or self._rng.random() < NOTHING_THERE_RATE:
            return None
        split = self._rng.choice(list(self._next))
        start, rows = self._next[split], self._source.splits[split].batch
        if self._is_silent(split, start):
            return None
        if start == rows.num_rows:
            del self._next[split]
            return SplitFinished(split)
        until, _ = self._silences.get(split, (rows.num_rows, 0))
        end = min(start + self._rng.randint(1, self._batch_rows), until)
        self._next[split] = end
        return SplitBatch(split, self._source.cut(rows.slice(start, end - start)), {"next": end})

    def _is_silent(self, split: SplitId, position: int) -> bool:
        """Whether a split has nothing to say at a position, this time; the silence ends after so many polls of it."""
        at, polls = self._silences.get(split, (-1, 0))
        if position != at:
            return False
        if polls == 0:
            del self._silences[split]
            return False
        self._silences[split] = (at, polls - 1)
        return True
