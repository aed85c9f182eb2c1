"""The first rows of each window, once it is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.grouping import plain
from lakeward.operators.ranking.changes import rank_field
from lakeward.operators.ranking.order import Order, sort_codes, sorted_rows
from lakeward.operators.ranking.places import ROW_NUMBER, rank_numbers
from lakeward.operators.windows.columns import Mask, Rows, group_rows
from lakeward.operators.windows.progress import Progress
from lakeward.operators.windows.timed import WINDOW_END, event_times_us

_WAITING_BYTES_MAX = 16 << 20
_BATCH_BYTES = 4096  # about what a batch costs beside its rows


def _size_bytes(batch: pa.RecordBatch) -> int:
    return int(batch.nbytes) + _BATCH_BYTES


@dataclass(frozen=True, slots=True)
class WindowTopNConfig:
    """What is ranked, and how far.

    Args:
        schema: The input's; it has a column `window_end`.
        keys: The window's columns, and others.
        n: The highest rank that is sent.
        order: What rows are ranked by; of equal ones the one that came first is first.
        method: How equal rows are numbered.
        rank_column: A column to send with the rank; None: ranks are not sent.
    """

    schema: pa.Schema
    keys: tuple[str, ...]
    n: int
    order: Order
    method: str = ROW_NUMBER
    rank_column: str | None = None


class WindowTopNOperator(Operator):
    """One subtask. A batch is cut to its own first rows before it is kept; windows lie in namespaces by their ends.

    Rows go to the table of rows at a checkpoint, or when they take much memory: most windows are over before.

    Args:
        config: What is ranked.
    """

    def __init__(self, config: WindowTopNConfig) -> None:
        self._config = config
        self._waiting: dict[int, list[pa.RecordBatch]] = {}
        self._waiting_bytes = 0

    def open(self, context: OperatorContext) -> None:
        """Open the table of rows."""
        self._late_rows = context.counter("late_rows")
        self._progress = Progress.of(context)
        self._rows = context.rows(RowsSpec("ranked", self._config.schema, self._config.keys))

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Keep the rows that may be among the first of their window."""
        if not batch.num_rows:
            return
        ends_us = event_times_us(batch, WINDOW_END)
        batch, ends_us = self._in_time(batch, ends_us)
        rows, _ = self._first_rows(batch)
        rows = np.sort(rows)
        ends_us = ends_us[rows]
        for end_us in np.unique(ends_us).tolist():
            first = batch.take(pa.array(rows[ends_us == end_us]))
            self._waiting.setdefault(end_us, []).append(first)
            self._waiting_bytes += _size_bytes(first)
        if self._waiting_bytes > _WAITING_BYTES_MAX:
            self._keep()

    def _keep(self) -> None:
        """Put the waiting rows into the table."""
        for end_us, batches in self._waiting.items():
            self._rows.append(pa.concat_batches(batches), end_us)
        self._waiting.clear()
        self._waiting_bytes = 0

    def _in_time(self, batch: pa.RecordBatch, ends_us: Rows) -> tuple[pa.RecordBatch, Rows]:
        """The rows whose window is not over."""
        watermarks = self._progress.watermarks([plain(batch.column(name)) for name in self._config.keys])
        late: Mask = ends_us - 1 <= (self._progress.watermark_us if watermarks is None else watermarks)
        if not late.any():
            return batch, ends_us
        self._late_rows.inc(int(np.count_nonzero(late)))
        return batch.filter(pa.array(~late)), ends_us[~late]

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        """Send the answers of windows that are over, in the order of their ends."""
        kept = self._rows.namespaces()
        for end_us in sorted({*kept, *self._waiting}):
            if end_us - 1 > timestamp_us:
                break
            batches = [batch for _, batch in self._rows.scan(end_us)] if end_us in kept else []
            waiting = self._waiting.pop(end_us, [])
            self._waiting_bytes -= sum(map(_size_bytes, waiting))
            self._send([*batches, *waiting], out)
            if batches:
                self._rows.drop(end_us)
        self._progress.advance(timestamp_us)

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        """How far time has come: which windows are over. Waiting rows go to the table, which is saved next."""
        self._keep()
        return self._progress.snapshot()

    def _send(self, batches: Sequence[pa.RecordBatch], out: Output) -> None:
        whole = pa.concat_batches(batches) if len(batches) > 1 else batches[0]
        rows, ranks = self._first_rows(whole)
        answer = whole.take(pa.array(rows))
        name = self._config.rank_column
        if name is not None:
            schema = answer.schema.append(rank_field(name))
            answer = pa.RecordBatch.from_arrays([*answer.columns, pa.array(ranks)], schema=schema)
        out.emit(answer)

    def _first_rows(self, batch: pa.RecordBatch) -> tuple[Rows, Rows]:
        """The rows that stay, by key and order, with their ranks."""
        config = self._config
        groups, _ = group_rows([plain(batch.column(name)) for name in config.keys])
        codes = sort_codes([plain(batch.column(one.column)) for one in config.order], config.order)
        rows = sorted_rows(groups, codes)
        ranks = rank_numbers(groups[rows], [code[rows] for code in codes], config.method)
        stays = np.flatnonzero(ranks <= config.n)
        return rows[stays], ranks[stays]
