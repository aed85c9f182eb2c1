"""Over-aggregation: aggregates of each row's key up to the row, in the order of event time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import is_updating
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.grouping import plain
from lakeward.operators.over.memory import Chunk, Memory, OverConfig, RememberedRows, RememberedTotals
from lakeward.operators.over.waiting import WaitingRows
from lakeward.operators.windows.columns import Mask
from lakeward.operators.windows.progress import Progress
from lakeward.operators.windows.timed import check_time_column, event_times_us, key_types

_CHUNK_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class Over(OperatorFactory):
    """For each row aggregates over the rows of its key up to it: so many, of so much time, or all.

    Rows are sent in the order of event time, when the watermark has passed them; those of one time as they came.

    Args:
        config: What is aggregated over which rows.

    Raises:
        SchemaError: The input takes rows back, a column is missing, or a result has the name of a column.

    Guarantee: every row that is not late is sent once, with the aggregates over all rows that are not late; late rows
    are counted (`late_rows`) and dropped. Sums of integers and decimals are exact. Sums of floats are added up in
    pairs, and nothing is ever subtracted from them.
    """

    config: OverConfig

    def __post_init__(self) -> None:
        config = self.config
        if is_updating(config.schema):
            raise SchemaError(
                "an over-aggregation cannot take a stream that takes rows back",
                hint='keep the last rows: .key_by("k").top_n(11, by=lw.desc("at")), then .key_by("k").aggregate(...)',
            )
        key_types(config.schema, config.keys)
        check_time_column(config.schema, config.time_column)
        names = self.output_schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"there is a column '{twice[0]}' already", hint="give the aggregate another name")

    @property
    def output_schema(self) -> pa.Schema:
        """The input's columns and the aggregates."""
        config = self.config
        fields = [config.schema.field(name) for name in config.columns]
        return pa.schema([*fields, *(one.field for one in config.aggregates)])

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return OverOperator(self.config, self.output_schema)

    @property
    def description(self) -> str:
        """For `explain()`: "over the last 11 rows by seller: average=mean(price)"."""
        config = self.config
        what = "all rows so far"
        if config.rows is not None:
            what = f"the last {config.rows} rows"
        elif config.range_us is not None:
            what = f"the last {config.range_us / 1e6:g} s"
        aggregates = ", ".join(one.description for one in config.aggregates)
        return f"over {what} by {', '.join(config.keys)}: {aggregates}"

    @property
    def stateful(self) -> bool:
        """It keeps rows."""
        return True


class OverOperator(Operator):
    """One subtask.

    Args:
        config: What is aggregated.
        schema: Of the result.
    """

    def __init__(self, config: OverConfig, schema: pa.Schema) -> None:
        self._config = config
        self._schema = schema
        self._memory: Memory = RememberedRows(config) if config.bounded else RememberedTotals(config)

    def open(self, context: OperatorContext) -> None:
        """Open the tables, and take back how far time had come."""
        config = self._config
        self._late_rows = context.counter("late_rows")
        self._progress = Progress.of(context)
        self._waiting = WaitingRows(context, config.schema, config.keys, config.time_column)
        self._memory.open(context)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Let the rows wait for the watermark."""
        if not batch.num_rows:
            return
        times_us = event_times_us(batch, self._config.time_column)
        watermarks = self._progress.watermarks([plain(batch.column(name)) for name in self._config.keys])
        reached_us = self._progress.watermark_us if watermarks is None else watermarks
        # The watermark may be at its limits, beyond which there is no number.
        late: Mask = (
            times_us <= reached_us if not self._config.offset_us else times_us + self._config.offset_us <= reached_us
        )
        if late.any():
            self._late_rows.inc(int(np.count_nonzero(late)))
            batch, times_us = batch.filter(pa.array(~late)), times_us[~late]
        self._waiting.add(batch, times_us)

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        """Send the rows that the watermark has passed."""
        config = self._config
        whole_times = config.range_us is not None
        for batch, times_us in self._waiting.take(timestamp_us - config.offset_us, _CHUNK_ROWS, whole_times):
            results = self._memory.results(Chunk.of(batch, times_us, config.keys))
            columns = [batch.column(name) for name in config.columns]
            out.emit(pa.RecordBatch.from_arrays([*columns, *results], schema=self._schema))
        self._progress.advance(timestamp_us)

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """Put the rows that wait into the state."""
        self._waiting.store()
        return ()

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        """How far time has come: which rows are late."""
        return self._progress.snapshot()
