"""Runs one operator alone, step by step: rows and watermarks in, rows out, snapshots and rescaling between.

After Flink's OneInputStreamOperatorTestHarness. The state backends are the real ones.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter as Tally
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, cast

import orjson
import pyarrow as pa

from lakeward.engine.api.operator import AsyncOperator, OperatorFactory
from lakeward.engine.api.row_types import SchemaLike, given_schema
from lakeward.engine.api.state import RowsSpec, RowTable, StateTable, TableSpec
from lakeward.engine.core.clock import ManualClock
from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.expect import expect, expect_choice, expect_whole, refusal
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.keygroups import MAX_PARALLELISM_DEFAULT, key_group_range
from lakeward.engine.core.messages import WATERMARK_MAX_US, Watermark
from lakeward.engine.core.redaction import SECRETS_ONLY, Redaction
from lakeward.engine.runtime.async_calls import SteppedCalls
from lakeward.engine.state.backend import RestoreSource, StateBackend
from lakeward.engine.state.kv import StoreFactory
from lakeward.engine.state.memory import MemoryStoreFactory
from lakeward.engine.state.reader import read_rows
from lakeward.engine.state.rocksdb import RocksDbStoreFactory
from lakeward.operators.process.tags import OutputTag
from lakeward.testing.batches import batch_of, checked_batch
from lakeward.testing.times import to_us

Store = Literal["memory", "rocksdb"]
STORES: Final = ("memory", "rocksdb")
"""The kinds of key-value stores."""

_WAIT_MS = 100


@dataclass(frozen=True, slots=True)
class HarnessConfig:
    """Where the operator believes to run.

    >>> HarnessConfig(subtask=1, parallelism=2).key_groups
    range(64, 128)

    Args:
        subtask: Which of the parallel instances it is.
        parallelism: How many there are.
        max_parallelism: Key groups of the job.
        store: The key-value store behind its state.
        memory_bytes: Memory for its state; small values make it move cold rows to the store.
        redaction: Which fields are not shown.

    Raises:
        ConfigError: There is no such subtask, or a value is of another kind.
    """

    subtask: int = 0
    parallelism: int = 1
    max_parallelism: int = MAX_PARALLELISM_DEFAULT
    store: Store = "memory"
    memory_bytes: int = 1 << 28
    redaction: Redaction = SECRETS_ONLY

    def __post_init__(self) -> None:
        expect_whole(self.max_parallelism, "HarnessConfig: max_parallelism", least=1)
        expect_whole(self.parallelism, "HarnessConfig: parallelism", least=1)
        expect_whole(self.subtask, "HarnessConfig: subtask", least=0)
        expect_whole(self.memory_bytes, "HarnessConfig: memory_bytes", least=0)
        expect_choice(self.store, STORES, "HarnessConfig: store")
        expect(self.redaction, Redaction, "HarnessConfig: redaction", 'give a Redaction(("email", "card_*"))')
        if self.parallelism > self.max_parallelism:
            raise refusal(self.parallelism, "HarnessConfig: parallelism", f"give up to {self.max_parallelism}")
        if self.subtask >= self.parallelism:
            raise refusal(self.subtask, "HarnessConfig: subtask", f"count from 0 to {self.parallelism - 1}")

    @property
    def key_groups(self) -> range:
        """The key groups that the subtask owns."""
        return key_group_range(SubtaskIndex(self.subtask), self.parallelism, self.max_parallelism)


class HarnessSnapshot:
    """What one subtask saved: its small state and the files of its tables, which live as long as this object.

    >>> from lakeward import Tumbling, count
    >>> from lakeward.operators.windows.operator import WindowAggregate
    >>> schema = pa.schema({"shop": pa.string(), "at": pa.timestamp("us", tz="UTC")})
    >>> factory = WindowAggregate(schema, ("shop",), "at", Tumbling("1s").layout(), (count().bind(schema, "n"),))
    >>> with OperatorHarness(factory, schema) as harness:
    ...     harness.send([{"shop": "a", "at": 100}, {"shop": "a", "at": 200}])
    ...     snapshot = harness.snapshot()
    >>> with OperatorHarness.restore(factory, schema, [snapshot]) as harness:
    ...     harness.watermark(999_999)
    ...     [row["n"] for row in harness.take()]
    [2]

    Args:
        state: What `Operator.snapshot` returned, once through JSON.
        committables: What `Operator.prepare` returned, once through JSON.
        source: Its keyed state; None when it opened no table.
    """

    def __init__(
        self, state: JsonObject | None, committables: Sequence[JsonObject], source: RestoreSource | None
    ) -> None:
        self.state = state
        self.committables = committables
        self.source = source
        if source is not None:
            weakref.finalize(self, shutil.rmtree, str(Path(source.directory).parent), ignore_errors=True)


class OperatorHarness:
    """An operator under test: you are its job.

    >>> from lakeward import Tumbling, count
    >>> from lakeward.operators.windows.operator import WindowAggregate
    >>> schema = pa.schema({"shop": pa.string(), "at": pa.timestamp("us", tz="UTC")})
    >>> factory = WindowAggregate(schema, ("shop",), "at", Tumbling("1s").layout(), (count().bind(schema, "n"),))
    >>> with OperatorHarness(factory, schema) as harness:
    ...     harness.send([{"shop": "a", "at": 100}, {"shop": "a", "at": 200}])
    ...     before = harness.take()
    ...     harness.watermark(999_999)
    ...     after = harness.take()
    >>> before, [row["n"] for row in after]
    ([], [2])

    Args:
        factory: Makes the operator.
        schema: Of its input, or of each input: an Arrow schema, a dict of names to types, a dataclass or a TypedDict.
        config: Where it believes to run.
        restored: Snapshots of all old subtasks to start from; empty for a first run.

    Raises:
        ConfigError: An argument is of another kind.
    """

    def __init__(
        self,
        factory: OperatorFactory,
        schema: SchemaLike | Sequence[SchemaLike],
        config: HarnessConfig = HarnessConfig(),
        restored: Sequence[HarnessSnapshot] = (),
    ) -> None:
        expect(factory, OperatorFactory, "OperatorHarness: factory", "give what makes the operator, not its class")
        expect(config, HarnessConfig, "OperatorHarness: config", "give a HarnessConfig(subtask=1, parallelism=2)")
        hint = "list the snapshots of all old subtasks: [harness.snapshot()]"
        expect(restored, (list, tuple), "OperatorHarness: restored", hint)
        for one in restored:
            expect(one, HarnessSnapshot, "OperatorHarness: one of restored", hint)
        given: Sequence[SchemaLike] = schema if isinstance(schema, list | tuple) else [cast("SchemaLike", schema)]
        self.schemas = tuple(given_schema(one, "OperatorHarness: schema") for one in given)
        self._directory = Path(tempfile.mkdtemp(prefix="lakeward-harness-"))
        self._forget = weakref.finalize(self, shutil.rmtree, str(self._directory), ignore_errors=True)
        self._context = _Context(config, restored, self._directory / "state")
        self._out = _Output()
        self.operator = factory.create()
        try:
            self.operator.open(self._context)
        except BaseException:
            self.close()
            raise
        if isinstance(self.operator, AsyncOperator):
            self._out.held.extend(self.operator.restored_watermarks)

    @classmethod
    def restore(
        cls,
        factory: OperatorFactory,
        schema: SchemaLike | Sequence[SchemaLike],
        snapshots: Sequence[HarnessSnapshot],
        config: HarnessConfig = HarnessConfig(),
    ) -> OperatorHarness:
        """Start from the snapshots of all old subtasks, at any parallelism."""
        return cls(factory, schema, config, snapshots)

    @property
    def clock(self) -> ManualClock:
        """Processing time; moved by `tick`."""
        return self._context.clock

    def send(self, rows: Sequence[Mapping[str, Any]] | pa.RecordBatch | pa.Table, index: int = 0) -> None:
        """Hand the operator one batch.

        Args:
            rows: A batch, a table (sent as one batch), or rows as dicts, timestamps as datetimes or microseconds.
            index: Which of its inputs they come from.

        Raises:
            ConfigError: There is no such input, or the rows do not have its schema; names row, column and value.
        """
        self._check_input(index)
        self.operator.on_input(index, self._batch(rows, self.schemas[index]), self._out)

    def end_input(self, index: int) -> None:
        """Tell the operator that one of its inputs has ended."""
        self._check_input(index)
        self.operator.on_input_end(index, self._out)

    def _check_input(self, index: int) -> None:
        count = len(self.schemas)
        if not isinstance(index, int) or not 0 <= index < count:
            hint = f"the operator has {count} input{'s' if count > 1 else ''}, counted from 0"
            raise refusal(index, "OperatorHarness: the number of an input", hint)

    def _batch(
        self, rows: Sequence[Mapping[str, Any]] | pa.RecordBatch | pa.Table, schema: pa.Schema
    ) -> pa.RecordBatch:
        what = "OperatorHarness.send: rows"
        if isinstance(rows, pa.Table):
            batches = rows.to_batches()
            rows = pa.concat_batches(batches) if batches else pa.RecordBatch.from_pylist([], schema=rows.schema)
        if isinstance(rows, pa.RecordBatch):
            return checked_batch(rows, schema, what)
        return batch_of(rows, schema, what)

    def watermark(self, time: int | datetime, *, idle: bool = False) -> None:
        """Event time has come to here.

        Args:
            time: Microseconds since 1970 UTC, or a datetime with a time zone.
            idle: Whether the input falls idle here, which only an `AsyncOperator` is told.
        """
        if isinstance(self.operator, AsyncOperator):
            self._out.held.append(to_us(time))
            self.operator.hold(Watermark(to_us(time), idle))
            self.operator.poll(self._out)
        else:
            self.operator.on_watermark(to_us(time), self._out)

    def poll(self) -> None:
        """Let an `AsyncOperator` send what is ready, as the worker does before every step."""
        if isinstance(self.operator, AsyncOperator):
            self.operator.poll(self._out)

    @property
    def calls(self) -> SteppedCalls:
        """The asynchronous calls that the operator has begun; they end when told to."""
        return self._context.calls

    def finish(self, *places: int) -> None:
        """Let asynchronous calls end, then let the operator look at them.

        Args:
            places: Which of the running ones, in the order of their start, the oldest being 0; they end in the order
                given. None: all.
        """
        running = list(self.calls.running)
        for place in places:
            if not isinstance(place, int) or not 0 <= place < len(running):
                raise refusal(place, "OperatorHarness.finish: a place", f"{len(running)} calls run, counted from 0")
        for place in places or range(len(running)):
            self.calls.finish(running[place])
        self.poll()

    def finish_all(self) -> None:
        """Let asynchronous calls end until no row waits; time goes on for those that are tried again."""
        while isinstance(self.operator, AsyncOperator) and self.operator.is_waiting:
            self.finish()
            self.tick(_WAIT_MS)

    def tick(self, advance_ms: float = 0) -> None:
        """Move processing time, then let the operator look at it."""
        if not isinstance(advance_ms, int | float) or not advance_ms >= 0:
            raise refusal(advance_ms, "OperatorHarness.tick: advance_ms", "give milliseconds, 0 or more")
        self.clock.advance_ms(advance_ms)
        self.operator.on_tick(self.clock.wall_us(), self._out)
        self.poll()

    def take(self) -> list[dict[str, Any]]:
        """The rows emitted since the last `take`, as dicts."""
        table = self.take_table()
        rows: list[dict[str, Any]] = [] if table is None else table.to_pylist()
        return rows

    def take_table(self) -> pa.Table | None:
        """The rows emitted since the last `take`, as a table, one chunk a batch; None when there are none."""
        sent, self._out.main = self._out.main, []
        batches = [one for one in sent if isinstance(one, pa.RecordBatch)]
        return pa.Table.from_batches(batches) if batches else None

    def take_events(self) -> list[dict[str, Any] | int]:
        """What was emitted since the last `take`: rows as dicts, with the watermarks that an `AsyncOperator` let go."""
        sent, self._out.main = self._out.main, []
        return [row for one in sent for row in ([one] if isinstance(one, int) else one.to_pylist())]

    def take_side(self, tag: str | OutputTag) -> list[dict[str, Any]]:
        """The rows sent to a side output since the last call, by its tag or the tag's name."""
        tag = tag.name if isinstance(tag, OutputTag) else tag
        expect(tag, str, "OperatorHarness.take_side: tag", 'give the name of one: take_side("late")')
        return [row for batch in self._out.side.pop(tag, []) for row in batch.to_pylist()]

    def counter(self, name: str) -> int:
        """The value of one of the operator's counters."""
        return self._context.counts[name]

    def snapshot(self, checkpoint: int = 1) -> HarnessSnapshot:
        """Take a checkpoint, in the order a job does: prepare, small state, tables. The operator goes on."""
        committables = self.operator.prepare(CheckpointId(checkpoint), self._out)
        state = self.operator.snapshot(CheckpointId(checkpoint))
        return HarnessSnapshot(_through_json(state), _through_json(committables), self._context.save())

    def complete(self, checkpoint: int = 1) -> None:
        """Tell the operator that a checkpoint is durable and committed."""
        self.operator.on_checkpoint_complete(CheckpointId(checkpoint))

    def end(self) -> list[dict[str, Any]]:
        """End the input: the last watermark, then `on_end`. Returns what was emitted since the last `take`.

        Asynchronous calls end before it, and those that are tried again have their time.
        """
        self.watermark(WATERMARK_MAX_US)
        self.finish_all()
        self.operator.on_end(self._out)
        return self.take()

    def close(self) -> None:
        """Close the operator and delete its state; snapshots stay."""
        self.operator.close()
        self._context.close()
        self._forget()

    def __enter__(self) -> OperatorHarness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Output:
    """Collects what is emitted."""

    def __init__(self) -> None:
        self.main: list[pa.RecordBatch | int] = []
        """Batches, and the watermarks between them that were held."""
        self.held: deque[int] = deque()
        self.side: dict[str, list[pa.RecordBatch]] = defaultdict(list)

    def emit(self, batch: pa.RecordBatch) -> None:
        """Keep rows."""
        if batch.num_rows:
            self.main.append(batch)

    def emit_watermark(self) -> None:
        """The operator lets the oldest watermark go."""
        self.main.append(self.held.popleft())

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        """Keep rows of a side output."""
        if batch.num_rows:
            self.side[tag].append(batch)


class _Counter:
    def __init__(self, counts: Tally[str], name: str) -> None:
        self._counts = counts
        self._name = name

    def inc(self, amount: int = 1) -> None:
        """Add to it."""
        self._counts[self._name] += amount


class _Context:
    """The operator's view of a job that consists of it alone."""

    def __init__(self, config: HarnessConfig, restored: Sequence[HarnessSnapshot], directory: Path) -> None:
        self.uid = OperatorId("harness")
        self.job_id = JobId("harness")
        self.job_name = "harness"
        self.subtask = SubtaskIndex(config.subtask)
        self.parallelism = config.parallelism
        self.max_parallelism = config.max_parallelism
        self.attempt = f"attempt-{config.subtask}"
        self.clock = ManualClock()
        self.redaction = config.redaction
        self.restored: Sequence[JsonObject] = [one.state for one in restored if one.state is not None]
        self.counts: Tally[str] = Tally()
        self.calls = SteppedCalls()
        self._config = config
        self._snapshots = restored  # keeps their files alive
        self._directory = directory
        self._backend: StateBackend | None = None

    def add_origin(self, error: LakewardError) -> None:
        """There is no source that could say it."""

    def table(self, spec: TableSpec) -> StateTable:
        """Open a state table; the first one opens the backend and restores it."""
        return self._opened_backend().table(spec)

    def rows(self, spec: RowsSpec) -> RowTable:
        """Open a table of whole rows, as `table` does."""
        return self._opened_backend().rows(spec)

    def restored_rows(self, spec: RowsSpec) -> Iterator[pa.RecordBatch]:
        """All rows that a table had in the snapshots."""
        return read_rows(store_factory(self._config.store), self._sources(), spec)

    def _sources(self) -> list[RestoreSource]:
        return [one.source for one in self._snapshots if one.source is not None]

    def _opened_backend(self) -> StateBackend:
        if self._backend is None:
            self._backend = self._open_backend()
        return self._backend

    def _open_backend(self) -> StateBackend:
        config = self._config
        self._directory.mkdir(parents=True, exist_ok=True)
        backend = StateBackend(
            store_factory(config.store),
            str(self._directory),
            config.key_groups,
            config.max_parallelism,
            config.memory_bytes,
        )
        mine = [one for one in self._sources() if _overlap(one, config.key_groups)]
        if mine:
            backend.restore(mine)
        return backend

    def async_calls(self, threads: int | None = None) -> SteppedCalls:
        """The operator's calls."""
        return self.calls

    def counter(self, name: str) -> _Counter:
        """A counter."""
        return _Counter(self.counts, name)

    def save(self) -> RestoreSource | None:
        """Save all tables."""
        if self._backend is None:
            return None
        target = Path(tempfile.mkdtemp(prefix="lakeward-snapshot-")) / "files"
        saved = self._backend.snapshot(str(target))
        groups = self._config.key_groups
        return RestoreSource(_through_json(saved.tables), str(target), groups.start, groups.stop)

    def close(self) -> None:
        """Close the tables."""
        if self._backend is not None:
            self._backend.close()


def _overlap(source: RestoreSource, groups: range) -> bool:
    return source.key_group_start < groups.stop and groups.start < source.key_group_end


def store_factory(store: Store) -> StoreFactory:
    """What opens stores of a kind.

    Raises:
        ConfigError: There is no such kind.
    """
    expect_choice(store, STORES, "the key-value store of state")
    return MemoryStoreFactory() if store == "memory" else RocksDbStoreFactory()


def _through_json(value: Any) -> Any:
    """What a restart would see of it; fails for anything that is not JSON."""
    return orjson.loads(orjson.dumps(value))
