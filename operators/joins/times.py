"""Event time in joins: rows' times, and buckets of rows that are dropped together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.api.state import RowTable
from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.engine.core.hashing import as_int64
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.operators.joins.rows import Rows, append_by

_TO_US = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_FAR_US = WATERMARK_MAX_US // 4  # bounds are kept within this, so that sums do not overflow
_NEVER_US = WATERMARK_MAX_US + 1
_BUCKETS = 4


@dataclass(frozen=True, slots=True)
class TimeColumn:
    """A stream's event time.

    Args:
        name: A timestamp column.
        offset_us: What is added to it (results of windows: their end, less one microsecond).
    """

    name: str
    offset_us: int = 0

    def check(self, schema: pa.Schema) -> None:
        """Refuse a schema in which it is no timestamp.

        Raises:
            SchemaError: Names the column.
        """
        if self.name not in schema.names or not pa.types.is_timestamp(schema.field(self.name).type):
            kind = f"is {schema.field(self.name).type}" if self.name in schema.names else "is missing"
            raise SchemaError(
                f"the event-time column '{self.name}' {kind}, not a timestamp", hint="cast it to a timestamp"
            )

    def times_us(self, batch: pa.RecordBatch) -> Rows:
        """The rows' event times in microseconds.

        Raises:
            RecordError: A row has none; shows it.
        """
        array = batch.column(self.name)
        if array.null_count:
            row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise RecordError(
                f"event-time column '{self.name}' is null in {array.null_count} of {len(array)} rows",
                hint=f'filter such rows before the join: .filter(col("{self.name}").is_not_null())',
                rows=[failed_row(batch, row)],
            )
        return to_us(array) + self.offset_us if self.offset_us else to_us(array)


def to_us(array: pa.Array) -> Rows:
    """Timestamps as microseconds; what stands for nulls is 0."""
    factor, divisor = _TO_US[array.type.unit]
    times = as_int64(array)
    return times if factor == divisor else times * factor // divisor


def from_us(times_us: Rows, kind: pa.DataType) -> pa.Array:
    """Microseconds as timestamps of a type."""
    factor, divisor = _TO_US[kind.unit]
    return pa.array(times_us if factor == divisor else times_us * divisor // factor).view(kind)


def bounded(times_us: Rows) -> Rows:
    """Times with those at the ends of the calendar moved in, so that adding a duration cannot overflow."""
    return np.clip(times_us, -_FAR_US, _FAR_US)


def bucket_width_us(lifetime_us: int) -> int:
    """How long the shortest bucket is for rows that are kept for a time: a quarter of it, rounded up to a power of two.

    >>> bucket_width_us(10_000_000), bucket_width_us(0)
    (4194304, 1024)
    """
    return int(max(1024, 1 << max(0, (lifetime_us // _BUCKETS)).bit_length()))


def bucket_ends(dead_us: Rows, now_us: int, least_us: int) -> Rows:
    """The buckets of rows that nothing can match any more from a time on: their ends, so that widths may change.

    A bucket is as long as half the time that its rows have yet to wait, rounded down to a power of two: two buckets
    cover each doubling of the time, so there are few however far ahead of the other side one side is.

    >>> bucket_ends(np.array([1, 17, 33, 70, 1000]), now_us=0, least_us=8).tolist()
    [8, 24, 48, 96, 1024]

    Args:
        dead_us: When rows can be forgotten.
        now_us: How far event time has come.
        least_us: The shortest bucket; a power of two.
    """
    ahead = np.maximum(dead_us - now_us, 1).astype(np.float64)
    widths = np.maximum(np.left_shift(1, np.log2(ahead).astype(np.int64)) // 2, least_us)
    ends: Rows = -(-dead_us // widths) * widths
    return ends


class Buckets:
    """The buckets of a table: where rows go, and which are due at a watermark.

    Args:
        table: Its namespaces are the ends of buckets.
    """

    def __init__(self, table: RowTable) -> None:
        self.table = table
        self._ends = set(table.namespaces())
        self._next_us = min(self._ends, default=_NEVER_US)

    def append(self, rows: pa.RecordBatch, dead_us: Rows, watermark_us: int, least_us: int) -> None:
        """Keep rows until the watermark has passed their times."""
        if not len(dead_us):
            return
        # Before the first watermark time begins with the first row.
        now_us = max(watermark_us, min(self._next_us - least_us, int(dead_us.min())))
        ends = bucket_ends(dead_us, now_us, least_us)
        append_by(self.table, rows, ends)
        fresh = {int(end) for end in np.unique(ends)} - self._ends
        self._ends |= fresh
        self._next_us = min([self._next_us, *fresh])

    def due(self, watermark_us: int) -> list[int]:
        """The buckets whose end has been reached, rising; they are forgotten here, and are to be dropped."""
        if watermark_us < self._next_us:
            return []
        due = sorted(end for end in self._ends if end <= watermark_us)
        self._ends.difference_update(due)
        self._next_us = min(self._ends, default=_NEVER_US)
        return due
