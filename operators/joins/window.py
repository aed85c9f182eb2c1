"""The window join: rows of equal keys in the same window, sent when the watermark reaches the window's end.

Each side keeps its rows in panes (see `windows.assigners`), one namespace a pane; a sliding or cumulative window is
several of them, each row being kept once. When a window is complete, the left rows of its panes are looked up in the
right ones. A row whose windows have all passed is late: counted in `late_rows`, and sent to its side's side output.
Sessions, which rows make themselves, are joined by `joins.session`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import RowIds
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.joins.factory import JoinFactory, LateRows, open_tables
from lakeward.operators.joins.layout import LEFT, RIGHT
from lakeward.operators.joins.rows import (
    BatchRows,
    Mask,
    Pairs,
    Rows,
    append_by,
    key_arrays,
    null_keys,
    pick,
    with_columns_of,
)
from lakeward.operators.joins.session import SessionJoinOperator
from lakeward.operators.joins.window_sender import WindowSender
from lakeward.operators.windows.assigners import PaneAssigner
from lakeward.operators.windows.progress import Progress
from lakeward.operators.windows.session_operator import SessionAssigner
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START

_NEVER_US = 2**200  # later than any watermark


@dataclass(frozen=True, slots=True)
class WindowJoin(JoinFactory):
    """Joins the rows of two streams that have the same key and are in the same window.

    The result has the joined columns, `window_start` and `window_end` (exclusive), of the left event time's type.

    Args:
        inputs: Left and right, append-only, with event time.
        how: What is sent of each window.
        window: The windows.
        late_tags: Side outputs of late left and late right rows; None: they are only counted.
    """

    window: PaneAssigner | SessionAssigner = field(kw_only=True)
    late_tags: tuple[str | None, str | None] = (None, None)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        if isinstance(self.window, SessionAssigner):
            return SessionJoinOperator(self, self.window)
        return _WindowJoin(self, self.window)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result."""
        kind = self.inputs[LEFT].time_type
        names = [name for name in (WINDOW_START, WINDOW_END) if self.columns is None or name in self.columns]
        return pa.schema([*self.sent.schema, *(pa.field(name, kind, nullable=False) for name in names)])

    @property
    def description(self) -> str:
        """What is joined by what."""
        return f"{self.described('window join')}, {self.window.description}"


class _WindowJoin(Operator):
    def __init__(self, config: WindowJoin, windows: PaneAssigner) -> None:
        self._config = config
        self._windows = windows
        self._sender = WindowSender(config)

    def open(self, context: OperatorContext) -> None:
        self._tables = open_tables(context, self._config.inputs)
        self._late_rows = LateRows(context, self._config.late_tags)
        self._progress = Progress.of(context)
        self._panes = {pane for table in self._tables for pane in table.namespaces()}
        self._due_us = min(map(self._pane_due_us, self._panes), default=_NEVER_US)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        self.on_input(LEFT, batch, out)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        side = self._config.inputs[index]
        batch = with_columns_of(batch, side.schema)
        times_us = side.times_us(batch)
        keep = self._kept(index, batch, times_us, out)
        if not self._sender.sends_alone[index]:  # rows without a key match nothing
            nulls = null_keys(batch, side.keys)
            keep = keep if nulls is None else keep & ~nulls
        panes = self._windows.pane_starts(times_us[keep])
        append_by(self._tables[index], pick(batch, keep), panes)
        for pane in np.unique(panes).tolist():
            if pane not in self._panes:
                self._panes.add(pane)
                self._due_us = min(self._due_us, self._pane_due_us(pane))

    def _kept(self, index: int, batch: pa.RecordBatch, times_us: Rows, out: Output) -> Mask:
        """The rows that are in a window that has not fired; others are late, unless they are in no window at all."""
        panes, inverse = np.unique(self._windows.pane_starts(times_us), return_inverse=True)
        ends = [self._windows.last_fire_time_us(pane) for pane in panes.tolist()]
        last_us = np.array([0 if end is None else end for end in ends], np.int64)[inverse]
        somewhere = np.array([end is not None for end in ends], np.bool_)[inverse]
        marks = self._progress.watermarks(key_arrays(batch, self._config.inputs[index].keys))
        passed = last_us <= (self._progress.watermark_us if marks is None else marks)
        late: Mask = somewhere & passed
        self._late_rows.set_aside(index, batch, late, out)
        keep: Mask = somewhere & ~passed
        return keep

    def _pane_due_us(self, pane_us: int) -> int:
        """The next watermark at which a window with this pane fires."""
        due = self._windows.windows_due(pane_us, self._progress.watermark_us, _NEVER_US)
        if len(due):
            return self._windows.fire_time_us(due[0])
        last_us = self._windows.last_fire_time_us(pane_us)
        assert last_us is not None, "rows between windows are not kept"
        return last_us

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        due = timestamp_us >= self._due_us
        if due:
            after_us = self._progress.watermark_us
            complete = {w for pane in self._panes for w in self._windows.windows_due(pane, after_us, timestamp_us)}
            for window in sorted(complete):
                self._fire(window, out)
            for pane in [pane for pane in self._panes if self._is_over(pane, timestamp_us)]:
                self._panes.remove(pane)
                for table in self._tables:
                    table.drop(pane)
        self._progress.advance(timestamp_us)
        if due:
            self._due_us = min(map(self._pane_due_us, self._panes), default=_NEVER_US)

    def _is_over(self, pane_us: int, watermark_us: int) -> bool:
        last_us = self._windows.last_fire_time_us(pane_us)
        return last_us is None or last_us <= watermark_us

    def _fire(self, window: int, out: Output) -> None:
        panes = [pane for pane in self._windows.panes_of(window) if pane in self._panes]
        start_us, end_us = self._windows.bounds_us(window).values()
        fire_us = self._windows.fire_time_us(window)
        partners: list[Rows] = []

        def bounds(rows: Rows) -> tuple[Rows, Rows]:
            return np.full(len(rows), start_us), np.full(len(rows), end_us)

        for _, batch in self._unfired(LEFT, panes, fire_us):
            rows, right = BatchRows(batch), self._tables[RIGHT]
            matches = right.find(key_arrays(batch, self._config.inputs[LEFT].keys), panes)
            pairs = Pairs.of(LEFT, rows, right, matches)
            partners.append(self._sender.left(rows, np.arange(batch.num_rows), pairs, bounds, out))
        if self._sender.sends_alone[RIGHT]:
            met = np.unique(np.concatenate([np.zeros(0, np.int64), *partners]))
            for ids, batch in self._unfired(RIGHT, panes, fire_us):
                self._sender.alone(RIGHT, BatchRows(batch), np.flatnonzero(~np.isin(ids, met)), bounds, out)

    def _unfired(self, index: int, panes: list[int], fire_us: int) -> Iterator[tuple[RowIds, pa.RecordBatch]]:
        """Rows of panes, without those of key groups that had fired the window before a restore."""
        reached = self._progress.reached(fire_us)
        for pane in panes:
            for ids, batch in self._tables[index].scan(pane):
                if not reached:
                    yield ids, batch
                    continue
                marks = self._progress.watermarks(key_arrays(batch, self._config.inputs[index].keys))
                keep = np.ones(len(ids), np.bool_) if marks is None else marks < fire_us
                yield ids[keep], pick(batch, keep)

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        return self._progress.snapshot()
