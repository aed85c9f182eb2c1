"""A source task: polls its reader, keeps split positions and watermarks, injects barriers between two batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.source import CounterRegistry, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.ids import CheckpointId, OperatorId, SplitId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import WATERMARK_MIN_US
from lakeward.engine.graph.logical import Node, SourceSpec
from lakeward.engine.runtime.chain import SnapshotPart, errors_named
from lakeward.engine.runtime.origin import add_origin
from lakeward.engine.runtime.output import ChainOutput
from lakeward.engine.runtime.task import TaskCore, TaskReport
from lakeward.engine.runtime.watermarks import SplitWatermarks

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class SplitState:
    """A split as a checkpoint knows it.

    Args:
        split: The split.
        position: Where to go on; None: at its start.
        newest_us: Largest event time read from it; None when nothing was read or there is no event time.
        finished: Whether it was read to its end.
    """

    split: Split
    position: JsonObject | None = None
    newest_us: int | None = None
    finished: bool = False

    def to_json(self) -> JsonObject:
        """For the checkpoint."""
        return {
            "id": self.split.id,
            "start": self.split.start,
            "position": self.position,
            "newest_us": self.newest_us,
            "finished": self.finished,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> SplitState:
        """Back from the checkpoint."""
        split = Split(SplitId(str(value["id"])), value["start"])  # type: ignore[arg-type]
        return cls(split, value["position"], value["newest_us"], bool(value["finished"]))  # type: ignore[arg-type]


def split_states(restored: Sequence[JsonObject]) -> list[SplitState]:
    """All splits in the restored state of a source's subtasks, by id."""
    states = [SplitState.from_json(one) for part in restored for one in part["splits"]]  # type: ignore[union-attr,arg-type]
    return sorted(states, key=lambda state: state.split.id)


@dataclass(frozen=True, slots=True)
class SourceSetup:
    """What a source subtask is made of.

    Args:
        node: The source's node.
        subtask: Which instance.
        reader: Its reader.
        out: Where its rows go.
        splits: The splits it begins with.
        counters: Its counters.
        clock: Processing time.
    """

    node: Node
    subtask: SubtaskIndex
    reader: SourceReader
    out: ChainOutput
    splits: Sequence[SplitState]
    counters: CounterRegistry
    clock: Clock


class SourceTask:
    """One subtask of a source and the operators chained to it.

    Args:
        core: Chain and edges out.
        setup: Reader and splits.
    """

    def __init__(self, core: TaskCore, setup: SourceSetup) -> None:
        assert isinstance(setup.node.work, SourceSpec), "the head of a source task is a source"
        self.id = core.id
        self._core = core
        self._setup = setup
        self._clock = setup.clock
        source = setup.node.work.source
        self._bounded = source.bounded
        self._splits: dict[SplitId, SplitState] = {}
        strategy = setup.node.work.watermarks
        self._time_column = strategy.column if strategy else None
        self._watermarks = SplitWatermarks(strategy, in_turn=source.reads_in_turn) if strategy else None
        self._barriers: list[CheckpointId] = []
        self._positions: dict[CheckpointId, dict[SplitId, JsonObject]] = {}
        self._output_rows = setup.counters.counter("output_rows")
        self._splits_final = False
        self._ended = False
        self._sending: SplitBatch | None = None
        core.chain.set_origins(self._add_origin)

    @property
    def uid(self) -> OperatorId:
        """The source's uid."""
        return self._setup.node.uid

    @property
    def has_ended(self) -> bool:
        """Whether all splits have ended and everything was passed on."""
        return self._core.has_ended

    @property
    def is_waiting(self) -> bool:
        """Whether an operator waits for results that come from outside."""
        return self._core.chain.is_waiting

    @property
    def watermark_us(self) -> int | None:
        """How far event time has come here; None: nothing is known, or the input has ended."""
        if self._watermarks is None or self._ended or self._watermarks.current_us == WATERMARK_MIN_US:
            return None
        return self._watermarks.current_us

    @property
    def splits(self) -> Mapping[SplitId, SplitState]:
        """The splits of this subtask, finished ones too."""
        return self._splits

    def open(self) -> None:
        """Open the operators and begin the splits."""
        self._core.chain.open()
        for state in self._setup.splits:
            self.add_split(state)
        self._splits_final = self._bounded

    def add_split(self, state: SplitState) -> None:
        """Read this split too."""
        self._splits[state.split.id] = state
        if state.finished:
            return
        if self._watermarks:
            self._watermarks.add(state.split.id, state.newest_us, self._clock.monotonic_ms())
        with errors_named(self._setup.node):
            self._setup.reader.add_split(state.split, state.position)

    def inject(self, checkpoint: CheckpointId, aligned: bool = False) -> None:
        """Begin a checkpoint before the next batch."""
        self._barriers.append(checkpoint)

    def step(self) -> bool:
        """Inject a barrier; or send results that are ready, then read and send the next batch."""
        fed = self._core.feed_restored()
        if fed is not None:
            return fed
        if self._barriers:  # also without room: how soon it is sent decides how long a checkpoint takes
            self._snapshot(self._barriers.pop(0))
            return True
        if self._core.is_blocked:
            return False
        busy = self._core.chain.poll()
        if self._ended or not self._core.chain.has_room:
            return busy
        with errors_named(self._setup.node):
            polled = self._setup.reader.poll()
        match polled:
            case SplitBatch():
                self._send(polled)
            case SplitFinished():
                self._finish(polled.split)
            case None:
                pass
        # The end comes before the watermark: with no split left the subtask would be called idle, receivers would no
        # longer wait for it, and windows that its end fires would be late for the next operator.
        return self._end_if_done() or self._advance_watermark() or polled is not None or busy

    def tick(self, now_us: int) -> None:
        """Processing time has advanced."""
        if not self.has_ended:
            self._core.chain.tick(now_us)

    def take_reports(self) -> list[TaskReport]:
        """What happened since the last call."""
        return self._core.take_reports()

    def complete(self, checkpoint: CheckpointId) -> None:
        """The checkpoint is durable and committed: tell the reader the positions in it."""
        positions = self._positions.pop(checkpoint, {})
        for older in [one for one in self._positions if one < checkpoint]:
            del self._positions[older]
        with errors_named(self._setup.node):
            self._setup.reader.on_checkpoint_complete(checkpoint, positions)
        self._core.chain.complete(checkpoint)

    def abort(self, checkpoint: CheckpointId) -> None:
        """The checkpoint was given up."""
        self._positions.pop(checkpoint, None)

    def close(self) -> None:
        """Close the reader and the operators."""
        try:
            self._setup.reader.close()
        finally:
            self._core.chain.close()

    def _send(self, polled: SplitBatch) -> None:
        batch = polled.batch
        self._output_rows.inc(batch.num_rows)
        self._sending = polled
        try:
            self._setup.out.emit(batch)
        except LakewardError as error:
            self._add_origin(error)
            raise
        finally:
            self._sending = None
        old = self._splits[polled.split]
        newest = old.newest_us
        if self._watermarks and (batch.num_rows or polled.watermark_us is not None):
            newest_here = self._newest_us(batch) if batch.num_rows else None
            self._watermarks.observe(polled.split, newest_here, self._clock.monotonic_ms())
            if polled.watermark_us is not None:
                self._watermarks.reach(polled.split, polled.watermark_us)
            seen = self._watermarks.newest_us(polled.split)
            newest = None if seen == WATERMARK_MIN_US else seen
        self._splits[polled.split] = SplitState(old.split, polled.position, newest)

    def _add_origin(self, error: LakewardError) -> None:
        if self._sending is not None:
            add_origin(error, self._sending, self._core.chain.nodes)

    def _newest_us(self, batch: pa.RecordBatch) -> int | None:
        newest = pc.max(batch.column(self._time_column)).value
        return None if newest is None else int(newest)

    def _finish(self, split: SplitId) -> None:
        old = self._splits[split]
        self._splits[split] = SplitState(old.split, old.position, old.newest_us, finished=True)
        if self._watermarks:
            self._watermarks.finish(split)

    def _advance_watermark(self) -> bool:
        if self._watermarks is None:
            return False
        advanced = self._watermarks.advance(self._clock.monotonic_ms())
        if advanced is not None:
            self._core.chain.advance(advanced)
        return advanced is not None

    def _end_if_done(self) -> bool:
        if not self._splits_final or not all(state.finished for state in self._splits.values()):
            return False
        self._ended = True
        self._core.end()
        return True

    def _snapshot(self, checkpoint: CheckpointId) -> None:
        self._positions[checkpoint] = {
            split: state.position for split, state in self._splits.items() if state.position is not None
        }
        state: JsonObject = {"v": STATE_VERSION, "splits": [one.to_json() for one in self._splits.values()]}
        self._core.snapshot(checkpoint, [SnapshotPart(self.uid, self._setup.subtask, state)])
