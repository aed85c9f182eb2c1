"""A sink's writer as an operator, so that sinks are chained and checkpointed like everything else."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.sink import Sink, SinkWriter, WriterContext
from lakeward.engine.api.source import CounterRegistry
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject


class SinkOperator(Operator):
    """Feeds one `SinkWriter`; its committables travel in the checkpoint.

    Args:
        sink: The sink.
        schema: Schema of the rows.
        counters: Counters of the sink.
    """

    def __init__(self, sink: Sink, schema: pa.Schema, counters: CounterRegistry) -> None:
        self._sink = sink
        self._schema = schema
        self._counters = counters
        self._writer: SinkWriter | None = None

    def open(self, context: OperatorContext) -> None:
        """Open the writer."""
        self._writer = self._sink.open_writer(
            WriterContext(
                uid=context.uid,
                job_id=context.job_id,
                subtask=context.subtask,
                attempt=context.attempt,
                schema=self._schema,
                clock=context.clock,
                counters=self._counters,
            )
        )

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Write rows."""
        assert self._writer is not None, "open comes first"
        self._writer.write(batch)

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """Make the rows since the last checkpoint durable; they become visible by the committer."""
        assert self._writer is not None, "open comes first"
        return self._writer.prepare_commit(checkpoint)

    def close(self) -> None:
        """Close the writer; rows that were not prepared are dropped."""
        if self._writer is not None:
            self._writer.close()
