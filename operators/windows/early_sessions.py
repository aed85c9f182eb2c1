"""Sessions that send results before their end, as an updating stream.

What was sent last of a session lies beside its state, with how many rows have come since. A result is known by the key
and both bounds: the start alone may come again, when a session is forgotten and rows that are not late open another
over it. So when a session has grown, the row that was sent is deleted and a new one inserted at the next firing; when
only its values have changed, the one replaces the other. When sessions are joined of which several were sent, one of
these rows stands for the joined session; the others are deleted at once, and the joined session is sent right after, so
that no rows are missing in between. (Flink leaves the rows of sessions that were joined to others.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import DELETE, with_kinds
from lakeward.engine.api.context import Output
from lakeward.engine.api.state import ColumnSpec, Keys, SlotArray
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.windows.accumulate import Accumulator
from lakeward.operators.windows.columns import Mask, Rows, Values, filled
from lakeward.operators.windows.early import Pace, TouchedKeys, Trigger, distinct
from lakeward.operators.windows.sent import SentColumns
from lakeward.operators.windows.session_operator import (
    EMIT_ROWS_MAX,
    Pieces,
    SessionBatch,
    SessionConfig,
    SessionOperator,
    Slots,
)
from lakeward.operators.windows.session_state import Merged, Sessions
from lakeward.operators.windows.timed import WINDOW_END, WINDOW_START

SENT, SINCE = "#sent", "#since"
"""Whether something was sent of a session, and how many of its rows came since."""

_FLAGS = (ColumnSpec(SENT, pa.bool_(), False), ColumnSpec(SINCE, pa.int64(), 0))


class EarlySessionOperator(SessionOperator):
    """One subtask of a computation over sessions that sends results early.

    Args:
        config: Sessions, keys and lateness.
        accumulator: What is kept a session.
        trigger: When results are sent.
    """

    def __init__(self, config: SessionConfig, accumulator: Accumulator, trigger: Trigger) -> None:
        own = {name for name, _ in config.keys} if config.with_bounds else set()
        fields = [field for field in config.output_schema if field.name not in own]
        self._sent = SentColumns(fields, (WINDOW_START, WINDOW_END), prefix="#sent ", unkept=trigger.unkept)
        self._more = (*_FLAGS, *self._sent.columns)
        super().__init__(config, accumulator, self._more)
        self._rows = trigger.rows or 1
        self._at_once = trigger.rows is not None
        self._pace = Pace(trigger.interval_us)
        self._touched = TouchedKeys()

    # -- rows in

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Add rows to their sessions; fire those that have got their rows."""
        super().on_batch(batch, out)
        if self._at_once:
            self._fire_touched(out)

    def _widen(self, seen: SessionBatch, rows: Rows | None, slots: Slots) -> None:
        """Add rows to the one session of their key; note the keys of sessions that are to fire."""
        super()._widen(seen, rows, slots)
        since = self._state.latest.column(SINCE)
        np.add.at(since, slots.at, 1)
        full = np.flatnonzero(since[slots.at] >= self._rows)
        if len(full):
            self._touched.add(0, seen.keys_at(full if rows is None else rows[full]))

    def _pieces(self, seen: SessionBatch, rows: Rows, slots: SlotArray) -> Pieces:
        """Rows as sessions of their own, of which nothing was sent."""
        pieces = super()._pieces(seen, rows, slots)
        count = len(pieces.sessions)
        values = {**pieces.sessions.values, **self._unsent(count)}
        values[SINCE] = np.bincount(pieces.numbers, minlength=count)
        return replace(pieces, sessions=replace(pieces.sessions, values=values))

    def _unsent(self, count: int) -> dict[str, Values]:
        return {spec.name: filled(spec.type, spec.default, count) for spec in self._more}

    def _merged(
        self, arrays: list[pa.Array], every: Sessions, merged: Merged, out: Output
    ) -> tuple[dict[str, Values], Mask]:
        """Join what was sent, too: one row stays for each joined session, the others are deleted."""
        values, sends = super()._merged(arrays, every, merged, out)
        values |= self._unsent(len(sends))
        np.add.at(values[SINCE], merged.groups, every.values[SINCE])
        full = np.flatnonzero(values[SINCE] >= self._rows)
        if len(full):
            self._touched.add(0, [column.take(pa.array(merged.owners[full])) for column in arrays])
        known = np.flatnonzero(every.values[SENT])
        known = known[np.lexsort((every.starts_us[known], merged.groups[known]))]
        groups = merged.groups[known]
        first = np.ones(len(known), dtype=np.bool_)
        first[1:] = groups[1:] != groups[:-1]
        stays, gone = known[first], known[~first]
        for spec in (_FLAGS[0], *self._sent.columns):
            values[spec.name][groups[first]] = every.values[spec.name][stays]
        if len(gone):
            self._take_back(arrays, every.take(gone), out)
            sends[merged.groups[gone]] = True
        return values, sends

    def _take_back(self, arrays: list[pa.Array], sessions: Sessions, out: Output) -> None:
        """Delete what was sent of sessions."""
        sent = self._sent.taken_back(sessions.values)
        keys = {name: column for (name, _), column in zip(self._keys, arrays, strict=False)}
        owners = pa.array(sessions.owners)
        schema = self._config.output_schema
        columns = [sent[name] if name in sent else keys[name].take(owners) for name in schema.names]
        self._emit(with_kinds(pa.RecordBatch.from_arrays(columns, schema=schema), DELETE), out)

    # -- results out

    def _send(self, arrays: list[pa.Array], sessions: Sessions, rows: Rows, out: Output) -> None:
        """Send what has changed of some of these sessions, and note it in their columns."""
        if not len(rows):
            return
        chosen = sessions.take(rows)
        changes = self._sent.changes(chosen.values, chosen.values[SENT], self._results(arrays, chosen))
        for spec in self._sent.columns:
            sessions.values[spec.name][rows] = chosen.values[spec.name]
        sessions.values[SENT][rows] = True
        sessions.values[SINCE][rows] = 0
        if changes.num_rows:
            self._emit(changes, out)

    def _keep_sent(self, keys: Keys, sessions: Sessions, more: Rows) -> None:
        """Remember what was sent of sessions that stay."""
        self._state.write(keys, sessions.in_order(), more)

    def on_tick(self, now_us: int, out: Output) -> None:
        """Fire what has ended; and early, when it is time."""
        super().on_tick(now_us, out)
        if self._pace.due(now_us):
            self._fire_touched(out)

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """Send what is pending, so that no checkpoint has to remember it."""
        self._fire_touched(out)
        return ()

    def _fire_touched(self, out: Output) -> None:
        for keys in self._touched.take().values():
            arrays = distinct(keys)
            for start in range(0, len(arrays[0]), EMIT_ROWS_MAX):
                self._fire_early([column.slice(start, EMIT_ROWS_MAX) for column in arrays], out)

    def _fire_early(self, arrays: list[pa.Array], out: Output) -> None:
        """Send the open sessions of some keys, all different, that have got their rows since they were sent."""
        keys = self._state.table.keys(arrays)
        slots = self._state.latest.find(keys)
        there = np.flatnonzero(slots >= 0)
        if len(there) < len(slots):
            arrays = [column.take(pa.array(there)) for column in arrays]
            keys, slots = keys.take(there), slots[there]
        more = self._state.more(slots)
        sessions = self._state.held(keys, slots).in_order()
        watermarks = self._progress.watermarks(arrays)
        current = self._progress.watermark_us if watermarks is None else watermarks[sessions.owners]
        fires = np.flatnonzero((sessions.values[SINCE] >= self._rows) & (sessions.ends_us - 1 > current))
        if len(fires):
            self._send(arrays, sessions, fires, out)
            self._state.write(keys, sessions, more)
