"""What all windowed operators share: whose time they go by, how far it has come, and what becomes of late rows.

Event time is a column, and its progress is the watermark. Processing time is the clock when a batch arrives, and its
progress is the clock's: the operator is told a few times a second. Both are driven by `advance`. At the end of a
finite input both have come to their end, so that nothing is left in an open window.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.api.operator import Operator
from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.operators.grouping import plain, plain_type
from lakeward.operators.windows.columns import Rows, to_numpy
from lakeward.operators.windows.progress import Progress

KeyTypes = tuple[tuple[str, pa.DataType], ...]
ALL_KEY: KeyTypes = (("#all", pa.int8()),)
"""The key of windows over a stream without keys: one constant."""

PROCESSING_TIME_TYPE = pa.timestamp("us", tz="UTC")
"""Type of the bounds of processing-time windows."""

WINDOW_START, WINDOW_END = "window_start", "window_end"

EVENT_TIME_MAX_US = 2**62
"""How far event times may lie from 1970, either way: bounds of windows around them do not pass the ends of int64."""

_YEAR_US = 31_556_952_000_000
_TO_US = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}


class TimedOperator(Operator):
    """Base of windowed operators.

    Args:
        keys: Name and type of the key columns; empty for windows over the whole stream.
        time_column: The event-time column; empty for processing time, and for windows that know no time.
        processing: Whether the operator goes by processing time.
        late_tag: Side output for late rows; None: they are only counted.
    """

    def __init__(self, keys: KeyTypes, time_column: str, processing: bool, late_tag: str | None) -> None:
        self._keys = keys
        self._time_column = time_column
        self._processing = processing
        self._late_tag = late_tag

    def open(self, context: OperatorContext) -> None:
        """Take back how far time had come."""
        self._clock = context.clock
        self._late_rows = context.counter("late_rows")
        self._progress = Progress.of(context)

    def advance(self, time_us: int, out: Output) -> None:
        """Time has come to here: fire what is complete."""
        raise NotImplementedError

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        """Event time has advanced; processing time takes notice of its end alone."""
        if not self._processing or timestamp_us == WATERMARK_MAX_US:
            self.advance(timestamp_us, out)

    def on_tick(self, now_us: int, out: Output) -> None:
        """Processing time has advanced: no row can have an earlier time than now."""
        if self._processing:
            self.advance(now_us - 1, out)

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        """How far time has come, by key group where they differ: with the state, it tells what fired and is late."""
        return self._progress.snapshot()

    def _times_us(self, batch: pa.RecordBatch) -> Rows:
        """The time of each row; processing time never falls behind what has fired, even if the clock does."""
        if self._processing:
            now_us = max(self._clock.wall_us(), self._progress.furthest_us + 1)
            return np.full(batch.num_rows, now_us, np.int64)
        if not self._time_column:
            return np.zeros(batch.num_rows, np.int64)
        return event_times_us(batch, self._time_column)

    def _key_arrays(self, batch: pa.RecordBatch) -> list[pa.Array]:
        return key_arrays(self._keys, batch)

    def _set_late_aside(self, rows: Rows, batch: pa.RecordBatch, out: Output) -> None:
        """Count late rows, and send them to the side output in their order."""
        self._late_rows.inc(len(rows))
        if self._late_tag is not None:
            out.emit_side(self._late_tag, batch.take(pa.array(np.sort(rows))))


def key_arrays(keys: KeyTypes, batch: pa.RecordBatch) -> list[pa.Array]:
    """The key columns of a batch, dictionary-encoded ones as their values; one constant where there is no key."""
    if not keys:
        return [pa.array(np.zeros(batch.num_rows, dtype=np.int8))]
    return [plain(batch.column(name)) for name, _ in keys]


def event_times_us(batch: pa.RecordBatch, column: str) -> Rows:
    """The event times of a batch in microseconds.

    Raises:
        RecordError: A row has none, or one further from 1970 than `EVENT_TIME_MAX_US`; names the column and the row.
    """
    array = batch.column(column)
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise RecordError(
            f"event-time column '{column}' is null in {array.null_count} of {len(array)} rows",
            hint=f'filter such rows before the window: .filter(col("{column}").is_not_null())',
            rows=[failed_row(batch, row)],
        )
    factor, divisor = _TO_US[array.type.unit]
    times: Rows = to_numpy(array)
    limit = EVENT_TIME_MAX_US * divisor // factor
    if len(times) and (times.min() < -limit or times.max() > limit):
        raise _too_far(batch, column, times, limit)
    if divisor > 1:
        return times // divisor
    return times if factor == 1 else times * factor


def _too_far(batch: pa.RecordBatch, column: str, times: Rows, limit: int) -> RecordError:
    """The error of a time that no clock tells, shown as a number: `datetime`s end with the year 9999."""
    row = int(np.flatnonzero((times < -limit) | (times > limit))[0])
    return RecordError(
        f"event-time column '{column}' is {times[row]} {batch.column(column).type.unit} from 1970 in a row, more than "
        f"{EVENT_TIME_MAX_US // _YEAR_US:,} years away",
        hint="are the numbers of another unit than the column says? else filter such rows before the window; those far "
        "ahead where they come from, since they take the watermark with them",
        rows=[failed_row(batch, row)],
    )


def times_array(times_us: Rows, kind: pa.DataType) -> pa.Array:
    """Microseconds as a timestamp column.

    >>> times_array(np.array([1_000_000]), pa.timestamp("ms")).type
    TimestampType(timestamp[ms])
    """
    factor, divisor = _TO_US[kind.unit]
    scaled = times_us if factor == divisor else times_us * divisor // factor
    return pa.array(scaled, type=pa.int64()).view(kind)


def key_types(schema: pa.Schema, keys: Sequence[str]) -> KeyTypes:
    """Name and type of key columns; dictionary-encoded ones as their values.

    Raises:
        SchemaError: There is no such column.
    """
    for name in keys:
        if name not in schema.names:
            raise SchemaError(f"there is no column '{name}' to key by", hint=f"there are {', '.join(schema.names)}")
    return tuple((name, plain_type(schema.field(name).type)) for name in keys)


def check_time_column(schema: pa.Schema, column: str) -> None:
    """Refuse an event-time column that is missing or no timestamp; none is needed where the name is empty.

    Raises:
        SchemaError: Names the column and its type.
    """
    if not column:
        return
    if column not in schema.names:
        raise SchemaError(f"there is no event-time column '{column}'", hint=f"there are {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not pa.types.is_timestamp(kind):
        raise SchemaError(
            f"event-time column '{column}' has type {kind}, but windows need a timestamp",
            hint=f'cast it first: .with_columns({column}=col("{column}").cast("timestamp"))',
        )


def time_type(schema: pa.Schema, column: str) -> pa.DataType:
    """Type of window bounds: the event-time column's, or that of processing time."""
    return schema.field(column).type if column else PROCESSING_TIME_TYPE


def check_names(schema: pa.Schema) -> None:
    """Refuse a result with two columns of one name.

    Raises:
        SchemaError: Names the column.
    """
    names = schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SchemaError(
            f"the result of the window has two columns '{twice[0]}'",
            hint=f"give the aggregate another name; the others are {', '.join(names)}",
        )
