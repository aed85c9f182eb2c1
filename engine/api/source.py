"""The source contract: splits, positions, and readers that never block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.context import Counter
from lakeward.engine.api.expression import Comparison
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.ids import CheckpointId, JobId, SplitId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.redaction import SECRETS_ONLY, Redaction


@dataclass(frozen=True, slots=True)
class Split:
    """A part of the input that is read in order, by one reader at a time.

    Args:
        id: Stable over restarts and unique in the source ("orders-3", a file's URI).
        start: Where to begin when no position is restored; opaque to the engine, JSON.
    """

    id: SplitId
    start: JsonObject


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows of a batch were read. Costs nothing until an error asks.

    >>> origin = Origin("topic 'orders', partition 3", "offset", lambda row: 1200 + row)
    >>> origin.of_row(4), origin.of_rows(0, 63)
    ("topic 'orders', partition 3, offset 1204", "topic 'orders', partition 3, one of the offsets 1200 to 1263")

    Args:
        place: The partition or file.
        unit: What its rows are counted in: "offset", "record", "row".
        number: The number of a row of the batch there.
    """

    place: str
    unit: str
    number: Callable[[int], int]

    def of_row(self, row: int) -> str:
        """Where a row was read."""
        return f"{self.place}, {self.unit} {self.number(row)}"

    def of_rows(self, first: int, last: int) -> str:
        """Where a row was read of which it is only known that it is among these."""
        if first == last:
            return self.of_row(first)
        return f"{self.place}, one of the {self.unit}s {self.number(first)} to {self.number(last)}"


@dataclass(frozen=True, slots=True)
class SplitBatch:
    """Rows of one split, with the position right after them: a reader opened there yields the next row.

    `batch` may be empty (a position that moved over nothing but skipped records).

    Args:
        split: The split.
        batch: The rows.
        position: Where to go on after them.
        watermark_us: An event time that no later row of this split is at or before, where the input itself says so;
            None leaves it to the watermark strategy. It means nothing where the source has no event time.
        origin: Where the rows were read, for errors; None: it is not known.
    """

    split: SplitId
    batch: pa.RecordBatch
    position: JsonObject
    watermark_us: int | None = None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class SplitFinished:
    """The split has no more rows, ever. The reader has forgotten it."""

    split: SplitId


@dataclass(frozen=True, slots=True)
class ReaderContext:
    """What a reader may see.

    Args:
        uid: The source's uid.
        job_id: The job's identity.
        subtask: Which of the parallel readers this is.
        parallelism: How many there are.
        batch_rows: Rows a batch should have when the input is fast.
        linger_ms: How long rows may wait for a batch to fill when the input is slow.
        clock: Processing time.
        counters: Gets a counter by name (`read_records`, `bad_records`).
        redaction: Which fields neither errors nor log lines may show.
    """

    uid: str
    job_id: JobId
    subtask: SubtaskIndex
    parallelism: int
    batch_rows: int
    linger_ms: int
    clock: Clock
    counters: CounterRegistry
    redaction: Redaction = SECRETS_ONLY


class CounterRegistry(ABC):
    """Gives out counters by name."""

    @abstractmethod
    def counter(self, name: str) -> Counter:
        """The counter of this name, made at first use."""


class Source(ABC):
    """A description of an input; immutable once the graph is built."""

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The schema of every batch; known without contacting anything, or contacted once when the graph is built."""

    @property
    @abstractmethod
    def bounded(self) -> bool:
        """Whether every split ends. Unbounded sources are asked for new splits while they run."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What it reads in a few words, for `explain()`: "kafka orders"."""

    @abstractmethod
    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """All splits of the input now.

        Args:
            known: The splits of the restored checkpoint or of this run with their positions; None on a first run. A
                split that is not among them appeared later: a source that may start at its newest end (Kafka's
                "latest") must start such a split at its beginning, or rows would be skipped.

        Returns:
            Every split that exists, known or not, in a stable order. A known split that is missing is kept.

        Raises:
            SourceError: The input cannot be reached.
        """

    @abstractmethod
    def open_reader(self, context: ReaderContext) -> SourceReader:
        """Make the reader of one subtask."""

    def pushed(self, columns: tuple[str, ...], predicate: tuple[Comparison, ...]) -> Source | None:
        """This source for a query that needs less of it; asked once, before the job runs.

        Splits and positions must stay those of this source: a checkpoint of one is restored by the other. Whatever is
        wrong with values of columns that are not read goes unnoticed.

        Args:
            columns: The columns that are read, in the order of the schema; none if only the number of rows matters.
            predicate: Comparisons that hold for every row that the query does not throw away. Rows for which one does
                not may be left out, or may come all the same.

        Returns:
            A source whose schema has just these columns; None if all has to be read anyhow.
        """
        return None

    @property
    def skips_by(self) -> tuple[Comparison, ...]:
        """Of the comparisons that `pushed` was given, those that it makes use of."""
        return ()

    @property
    def reads_in_turn(self) -> bool:
        """Whether a reader reads its splits one after the other (files), not side by side (partitions).

        Splits that it has not begun then do not hold the watermark back: event time is taken to advance from split to
        split, and rows of a later split that are older than the earlier ones' are late.
        """
        return False

    @property
    def discovery_interval_ms(self) -> int | None:
        """How often `list_splits` is asked again while the job runs; None: never."""
        return None


class SourceReader(ABC):
    """Reads the splits given to one subtask. Never blocks: a call takes milliseconds."""

    @abstractmethod
    def add_split(self, split: Split, position: JsonObject | None) -> None:
        """Read this split too, from `position`, or from its start when None."""

    @abstractmethod
    def poll(self) -> SplitBatch | SplitFinished | None:
        """The next rows of some split, fairly; None when nothing is there right now."""

    def on_checkpoint_complete(  # noqa: B027
        self, checkpoint: CheckpointId, positions: Mapping[SplitId, JsonObject]
    ) -> None:
        """The checkpoint holding `positions` is durable and committed; tell lag tools. Best effort, may be skipped."""

    def close(self) -> None:  # noqa: B027
        """Release connections and files."""
