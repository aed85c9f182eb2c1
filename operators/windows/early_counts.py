"""Count windows that send results before they are full, as an updating stream.

Of the windows of a key that are not full, the next to be so is sent. What was sent lies in the key's state, and is
replaced by the full window. Rows of the stream are known as a whole, since count windows have no bounds: when a window
is full its row stays, and the next window begins with a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import Output
from lakeward.engine.api.state import ColumnSpec, SlotArray
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.windows.accumulate import Accumulator
from lakeward.operators.windows.columns import filled
from lakeward.operators.windows.count_operator import COUNT, EMIT_ROWS_MAX, CountConfig, CountOperator, Pieces
from lakeward.operators.windows.early import Pace, TouchedKeys, Trigger, distinct
from lakeward.operators.windows.sent import SentColumns
from lakeward.operators.windows.timed import key_arrays

SENT, SENT_AT = "#sent", "#sent-at"
"""Whether something was sent of the next window, and how many rows the key had when it fired last."""


class EarlyCountOperator(CountOperator):
    """One subtask of a computation over count windows that sends results early.

    Args:
        config: Windows and keys.
        accumulator: What is kept a pane.
        trigger: When results are sent.
    """

    def __init__(self, config: CountConfig, accumulator: Accumulator, trigger: Trigger) -> None:
        own = {name for name, _ in config.keys} if config.with_keys else set()
        fields = [field for field in config.output_schema if field.name not in own]
        self._sent = SentColumns(fields, prefix="#sent ", unkept=trigger.unkept)
        flags = (ColumnSpec(SENT, pa.bool_(), False), ColumnSpec(SENT_AT, pa.int64(), 0))
        super().__init__(config, accumulator, (*flags, *self._sent.columns))
        self._rows = trigger.rows or 1
        self._at_once = trigger.rows is not None
        self._pace = Pace(trigger.interval_us)
        self._touched = TouchedKeys()

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Add rows to their keys' windows; fire the keys that have got their rows."""
        super().on_batch(batch, out)
        if batch.num_rows:
            self._touched.add(0, key_arrays(self._keys, batch))
        if self._at_once:
            self._fire_touched(out)

    def on_tick(self, now_us: int, out: Output) -> None:
        """Fire early, when it is time."""
        if self._pace.due(now_us):
            self._fire_touched(out)

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """Send what is pending, so that no checkpoint has to remember it."""
        self._fire_touched(out)
        return ()

    def on_end(self, out: Output) -> None:
        """Send what is pending: windows that will never be full stay as they are."""
        self._fire_touched(out)

    def _fire_touched(self, out: Output) -> None:
        for keys in self._touched.take().values():
            arrays = distinct(keys)
            for start in range(0, len(arrays[0]), EMIT_ROWS_MAX):
                self._fire_early([column.slice(start, EMIT_ROWS_MAX) for column in arrays], out)

    def _fire_early(self, arrays: list[pa.Array], out: Output) -> None:
        """Send the next window of some keys, all different, if they have got their rows since they fired."""
        pane = self._table.pane(0)
        slots = pane.find(self._table.keys(arrays))
        there = np.flatnonzero(slots >= 0)
        since = pane.column(COUNT)[slots[there]] - pane.column(SENT_AT)[slots[there]]
        fires = there[since >= self._rows]
        if not len(fires):
            return
        arrays = [column.take(pa.array(fires)) for column in arrays]
        keys = self._table.keys(arrays)
        slots = pane.slots(keys)  # not those of `find`, which are not written to the store
        counts = pane.column(COUNT)[slots]
        none = np.zeros(0, np.int64)
        every = self._merged(self._held(keys, slots, counts), Pieces(none, none, self._accumulator.fresh(0)))
        ends = (counts // self._window.slide + 1) * self._window.slide
        batch = self._results(arrays, every, np.arange(len(slots)), ends)
        sent = {spec.name: pane.column(spec.name)[slots] for spec in self._sent.columns}
        changes = self._sent.changes(sent, pane.column(SENT)[slots], batch)
        for name, values in sent.items():
            pane.column(name)[slots] = values
        pane.column(SENT)[slots] = True
        pane.column(SENT_AT)[slots] = counts
        self._emit(changes, out)

    def _send(self, batch: pa.RecordBatch, slots: SlotArray, out: Output) -> None:
        """Full windows: the first of each key takes the place of what was sent of it."""
        pane = self._table.pane(0)
        first = np.ones(len(slots), dtype=np.bool_)
        first[1:] = slots[1:] != slots[:-1]
        known = first & pane.column(SENT)[slots]
        sent = {spec.name: filled(spec.type, spec.default, len(slots)) for spec in self._sent.columns}
        for name, values in sent.items():
            values[known] = pane.column(name)[slots[known]]
        self._emit(self._sent.changes(sent, known, batch), out)
        pane.column(SENT)[slots] = False
        pane.column(SENT_AT)[slots] = pane.column(COUNT)[slots] // self._window.slide * self._window.slide
