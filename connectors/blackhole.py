"""A sink that forgets: for benchmarks of everything before it."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakeward.engine.api.sink import Counter, Sink, SinkWriter, WriterContext
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject


class BlackholeSink(Sink):
    """Drops every row; the counter `written_records` tells how many there were.

    >>> BlackholeSink().description
    'blackhole'
    """

    @property
    def description(self) -> str:
        """Always "blackhole"."""
        return "blackhole"

    @property
    def takes_updates(self) -> bool:
        """Yes: every change is counted."""
        return True

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """A writer that only counts."""
        return _BlackholeWriter(context.counters.counter("written_records"))


class _BlackholeWriter(SinkWriter):
    def __init__(self, written: Counter) -> None:
        self._written = written

    def write(self, batch: pa.RecordBatch) -> None:
        self._written.inc(batch.num_rows)

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        return ()
