"""Sources and sinks with something between them and the engine: faults, a pace, and the peace of the dead."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, TypeAlias

import pyarrow as pa

from lakeward.engine.api.expression import Comparison
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split, SplitBatch, SplitFinished
from lakeward.engine.core.errors import SinkError, SourceError
from lakeward.engine.core.ids import CheckpointId, SplitId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.graph.logical import LogicalGraph, Node, SourceSpec, Work
from lakeward.testing.crash import Life, SimulatedCrash
from lakeward.testing.simulation.faults import Faults
from lakeward.testing.simulation.knobs import Fault

TraceFunction: TypeAlias = Callable[[FrameType, str, Any], Any]


@dataclass(frozen=True, slots=True)
class Tap:
    """What lies between one process's connectors and the engine.

    Args:
        faults: What goes wrong, and where the process dies.
        life: Whether the process still lives: nothing of a dead one is closed.
        pace: Batches that a reader hands out between two completed checkpoints; None: as many as are wanted.
    """

    faults: Faults
    life: Life
    pace: int | None = None

    @contextmanager
    def dying(self) -> Iterator[None]:
        """Note the death of the process, if this is where it dies."""
        try:
            yield
        except SimulatedCrash:
            self.life.dead = True
            raise

    def close(self, close: Callable[[], None]) -> None:
        """Close something, unless the process is dead."""
        if not self.life.dead:
            close()


def tapped(graph: LogicalGraph, tap: Tap) -> LogicalGraph:
    """The same job with a tap at every source and sink."""
    return LogicalGraph(tuple(replace(node, work=_tapped_work(node, tap)) for node in graph))


def _tapped_work(node: Node, tap: Tap) -> Work:
    work = node.work
    if isinstance(work, SourceSpec):
        return replace(work, source=TappedSource(work.source, node.uid, tap))
    return TappedSink(work, node.uid, tap) if isinstance(work, Sink) else work


class TappedSource(Source):
    """A source behind a tap.

    Args:
        inner: The source.
        uid: Its name.
        tap: The tap.
    """

    def __init__(self, inner: Source, uid: str, tap: Tap) -> None:
        self._inner = inner
        self._uid = uid
        self._tap = tap

    @property
    def schema(self) -> pa.Schema:
        """The inner source's."""
        return self._inner.schema

    @property
    def bounded(self) -> bool:
        """The inner source's."""
        return self._inner.bounded

    @property
    def description(self) -> str:
        """The inner source's."""
        return self._inner.description

    @property
    def skips_by(self) -> tuple[Comparison, ...]:
        """The inner source's."""
        return self._inner.skips_by

    @property
    def reads_in_turn(self) -> bool:
        """The inner source's."""
        return self._inner.reads_in_turn

    @property
    def discovery_interval_ms(self) -> int | None:
        """The inner source's."""
        return self._inner.discovery_interval_ms

    def pushed(self, columns: tuple[str, ...], predicate: tuple[Comparison, ...]) -> Source | None:
        """The inner source for a query that needs less of it, behind the same tap."""
        less = self._inner.pushed(columns, predicate)
        return None if less is None else TappedSource(less, self._uid, self._tap)

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """The inner source's."""
        with self._tap.dying():
            self._tap.faults.fail(Fault.SOURCE_ERROR, f"listing the splits of '{self._uid}'", SourceError)
            return self._inner.list_splits(known)

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """A reader of the inner source, behind the tap."""
        return _TappedReader(self._inner.open_reader(context), self._uid, self._tap)


class _TappedReader(SourceReader):
    def __init__(self, inner: SourceReader, uid: str, tap: Tap) -> None:
        self._inner = inner
        self._uid = uid
        self._tap = tap
        self._read = 0

    def add_split(self, split: Split, position: JsonObject | None) -> None:
        self._inner.add_split(split, position)

    def poll(self) -> SplitBatch | SplitFinished | None:
        if self._tap.pace is not None and self._read >= self._tap.pace:
            return None
        with self._tap.dying():
            self._tap.faults.fail(Fault.SOURCE_ERROR, f"reading '{self._uid}'", SourceError)
            polled = self._inner.poll()
            if isinstance(polled, SplitBatch) and polled.batch.num_rows:
                self._read += 1
                self._tap.faults.around(f"after read of '{self._uid}'")
        return polled

    def on_checkpoint_complete(self, checkpoint: CheckpointId, positions: Mapping[SplitId, JsonObject]) -> None:
        with self._tap.dying():
            self._tap.faults.around(f"before notice of '{self._uid}'")
            self._inner.on_checkpoint_complete(checkpoint, positions)
            self._tap.faults.around(f"after notice of '{self._uid}'")
        self._read = 0

    def close(self) -> None:
        self._tap.close(self._inner.close)


class TappedSink(Sink):
    """A sink behind a tap.

    Args:
        inner: The sink.
        uid: Its name.
        tap: The tap.
    """

    def __init__(self, inner: Sink, uid: str, tap: Tap) -> None:
        self.inner = inner
        self._uid = uid
        self._tap = tap

    @property
    def description(self) -> str:
        """The inner sink's."""
        return self.inner.description

    @property
    def identity(self) -> str | None:
        """The inner sink's."""
        return self.inner.identity

    @property
    def takes_updates(self) -> bool:
        """The inner sink's."""
        return self.inner.takes_updates

    def check_schema(self, schema: pa.Schema) -> None:
        """The inner sink's."""
        self.inner.check_schema(schema)

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """A writer of the inner sink, behind the tap."""
        return _TappedWriter(self.inner.open_writer(context), self._uid, self._tap)

    def open_committer(self, context: CommitterContext) -> Committer | None:
        """The committer of the inner sink, behind the tap."""
        inner = self.inner.open_committer(context)
        return None if inner is None else _TappedCommitter(inner, self._uid, self._tap)


class _TappedWriter(SinkWriter):
    def __init__(self, inner: SinkWriter, uid: str, tap: Tap) -> None:
        self._inner = inner
        self._uid = uid
        self._tap = tap

    def write(self, batch: pa.RecordBatch) -> None:
        with self._tap.dying():
            self._inner.write(batch)
            self._tap.faults.around(f"after write of '{self._uid}'")

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        with self._tap.dying():
            self._tap.faults.around(f"before prepare of '{self._uid}'")
            prepared = self._inner.prepare_commit(checkpoint)
            self._tap.faults.around(f"after prepare of '{self._uid}'")
        return prepared

    def close(self) -> None:
        self._tap.close(self._inner.close)


@contextmanager
def between_lines(kind: type, ask: Callable[[str], None]) -> Iterator[None]:
    """Ask before every line of a class's modules that is run in this context; what is raised is raised there."""
    files = {inspect.getsourcefile(one) for one in kind.__mro__ if one.__module__ != "builtins"}

    def trace(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            ask(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class _TappedCommitter(Committer):
    def __init__(self, inner: Committer, uid: str, tap: Tap) -> None:
        self._inner = inner
        self._uid = uid
        self._tap = tap

    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        self._call("recovery", lambda: self._inner.recover(pending))

    def commit(self, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
        def effect() -> None:
            if not self._tap.faults.by_line or not committables:
                return self._inner.commit(checkpoint, committables)
            where = f"amid commit of '{self._uid}'"
            with between_lines(type(self._inner), lambda line: self._tap.faults.around(f"{where} {line}")):
                return self._inner.commit(checkpoint, committables)

        self._call("commit", effect)

    def _call(self, what: str, effect: Callable[[], None]) -> None:
        place, faults = f"{what} of '{self._uid}'", self._tap.faults
        with self._tap.dying():
            faults.around(f"before {place}")
            faults.fail(Fault.TABLE_ERROR, place, SinkError)
            effect()
            faults.fail(Fault.TABLE_LOST, place, SinkError)
            faults.around(f"after {place}")

    def snapshot(self) -> JsonObject | None:
        return self._inner.snapshot()

    def close(self) -> None:
        self._tap.close(self._inner.close)
