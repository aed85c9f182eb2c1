"""The window join by sessions: a session is of a key, over the rows of both sides together.

Each side keeps its rows in a table by key; how far the open sessions of a key reach is kept beside them, and found as
for aggregates over sessions (see `windows.session_operator`): rows of both sides widen, open and join sessions. When
the watermark reaches a session's end, the rows of its key that lie in it are paired, sent and forgotten.

A row with a null in its key belongs to nothing but a session of its own, so what it makes is known and sent at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import RowTable, SlotArray
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.aggregate import Fetch
from lakeward.operators.joins.factory import JoinInput, LateRows, open_tables
from lakeward.operators.joins.layout import LEFT, RIGHT
from lakeward.operators.joins.rows import BatchRows, Mask, Pairs, Rows, key_arrays, null_keys, pick, with_columns_of
from lakeward.operators.joins.window_sender import BoundsOf, WindowSender
from lakeward.operators.windows.accumulate import Accumulator
from lakeward.operators.windows.session_operator import SessionAssigner, SessionConfig, SessionOperator
from lakeward.operators.windows.session_state import Sessions
from lakeward.operators.windows.timed import KeyTypes, key_types, times_array

if TYPE_CHECKING:
    from lakeward.operators.joins.window import WindowJoin

_PAIRS_MAX = 1 << 20  # pairs of complete sessions that are held at once, or those of one left row
_AT = "#at"
_TIME = pa.timestamp("us")


@dataclass(frozen=True, slots=True)
class _Fired:
    """Complete sessions.

    Args:
        keys: The key columns, a row a session.
        starts_us: Their first event times.
        ends_us: Their last event times plus the gap.
    """

    keys: list[pa.Array]
    starts_us: Rows
    ends_us: Rows

    def bounds_of(self, sessions: Rows) -> BoundsOf:
        """The bounds of rows of these sessions."""
        return lambda numbers: (self.starts_us[sessions[numbers]], self.ends_us[sessions[numbers]])


@dataclass(frozen=True, slots=True)
class _SessionRows:
    """The rows of one side in complete sessions, by their position.

    Args:
        table: Where they are.
        ids: Which ones.
        sessions: The session of each; rising.
    """

    table: RowTable
    ids: Rows
    sessions: Rows

    def take(self, ids: Rows, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Rows by position, all columns or some."""
        return self.table.take(self.ids[ids], columns)

    def reading_order(self, ids: Rows) -> Rows:
        """The positions of `ids` in the order in which the rows lie in memory."""
        return self.table.reading_order(self.ids[ids])


class SessionJoinOperator(Operator):
    """One subtask of a window join by sessions.

    Args:
        config: The join.
        window: The sessions.
    """

    def __init__(self, config: WindowJoin, window: SessionAssigner) -> None:
        left = config.inputs[LEFT]
        self._config = config
        self._gap_us = window.gap_us
        self._sender = WindowSender(config)
        self._sessions = _SharedSessions(key_types(left.schema, left.keys), window, self._fire)

    def open(self, context: OperatorContext) -> None:
        """Open the tables."""
        self._tables = open_tables(context, self._config.inputs)
        self._late_rows = LateRows(context, self._config.late_tags)
        self._sessions.open(context)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Rows of the left."""
        self.on_input(LEFT, batch, out)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        """Keep rows until their session is complete; send late ones aside."""
        side = self._config.inputs[index]
        batch = with_columns_of(batch, side.schema)
        times_us = side.times_us(batch)
        nulls = null_keys(batch, side.keys)
        late = self._late(side, batch, times_us, nulls, out)
        self._late_rows.set_aside(index, batch, late, out)
        if nulls is not None and self._sender.sends_alone[index]:
            ends_us = times_us + self._gap_us
            numbers = np.flatnonzero(nulls & ~late)
            self._sender.alone(index, BatchRows(batch), numbers, lambda some: (times_us[some], ends_us[some]), out)
        keep = ~late if nulls is None else ~(late | nulls)
        if keep.any():
            self._tables[index].append(pick(batch, keep))

    def _late(self, side: JoinInput, batch: pa.RecordBatch, times_us: Rows, nulls: Mask | None, out: Output) -> Mask:
        """Add the rows to the sessions of their keys; says which are late."""
        keys = key_arrays(batch, side.keys)
        if nulls is None:
            late = np.zeros(batch.num_rows, np.bool_)
            late[self._sessions.add(keys, times_us, out)] = True
            return late
        late = nulls & self._sessions.over(keys, times_us)
        rows = np.flatnonzero(~nulls)
        some = [array.take(pa.array(rows)) for array in keys]
        late[rows[self._sessions.add(some, times_us[rows], out)]] = True
        return late

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        """Send the sessions that have ended."""
        self._sessions.on_watermark(timestamp_us, out)

    def _fire(self, fired: _Fired, out: Output) -> None:
        left, right = self._rows_of(LEFT, fired), self._rows_of(RIGHT, fired)
        alone = np.ones(len(right.ids), np.bool_)
        bounds = fired.bounds_of(left.sessions)
        for numbers, pairs in _pairs(left, right):
            alone[self._sender.left(left, numbers, pairs, bounds, out)] = False
        if self._sender.sends_alone[RIGHT]:
            self._sender.alone(RIGHT, right, np.flatnonzero(alone), fired.bounds_of(right.sessions), out)
        for rows in (left, right):
            rows.table.remove(rows.ids)

    def _rows_of(self, index: int, fired: _Fired) -> _SessionRows:
        """The rows of a side that lie in complete sessions; their keys may have later ones."""
        table, side = self._tables[index], self._config.inputs[index]
        matches = table.find(fired.keys)
        times_us = side.times_us(table.take(matches.ids, (side.event_time.name,)))
        inside = (fired.starts_us[matches.rows] <= times_us) & (times_us < fired.ends_us[matches.rows])
        return _SessionRows(table, matches.ids[inside], matches.rows[inside])

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        """How far event time has come."""
        return self._sessions.snapshot(checkpoint)


def _pairs(left: _SessionRows, right: _SessionRows) -> Iterator[tuple[Rows, Pairs]]:
    """The left rows in parts, each with its pairs with the right rows of its session."""
    firsts = np.searchsorted(right.sessions, left.sessions)
    counts = np.searchsorted(right.sessions, left.sessions, side="right") - firsts
    parts = np.cumsum(counts + 1) // _PAIRS_MAX
    for start, end in itertools.pairwise([0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(parts)]):
        numbers, many = np.arange(start, end), counts[start:end]
        within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        yield numbers, Pairs((left, right), (np.repeat(numbers, many), np.repeat(firsts[start:end], many) + within))


class _SharedSessions(SessionOperator):
    """The open sessions of keys; the rows in them are kept elsewhere.

    Args:
        keys: Name and type of the key columns.
        window: The sessions.
        fire: Told of complete ones.
    """

    def __init__(self, keys: KeyTypes, window: SessionAssigner, fire: Callable[[_Fired, Output], None]) -> None:
        super().__init__(SessionConfig(keys, _AT, window, 0, None, pa.schema([])), _Nothing())
        self._names = [*(name for name, _ in keys), _AT]
        self._fire = fire

    def add(self, keys: Sequence[pa.Array], times_us: Rows, out: Output) -> Rows:
        """Widen, open and join sessions by rows of some keys and times; returns the rows that are late."""
        self._late = np.zeros(0, np.int64)
        self.on_batch(pa.RecordBatch.from_arrays([*keys, times_array(times_us, _TIME)], names=self._names), out)
        return self._late

    def over(self, keys: Sequence[pa.Array], times_us: Rows) -> Mask:
        """Which rows, each alone, make a session that the watermark has passed."""
        marks = self._progress.watermarks(keys)
        over: Mask = times_us + (self._gap_us - 1) <= (self._progress.watermark_us if marks is None else marks)
        return over

    def _set_late_aside(self, rows: Rows, batch: pa.RecordBatch, out: Output) -> None:
        self._late = rows

    def _send(self, arrays: list[pa.Array], sessions: Sessions, rows: Rows, out: Output) -> None:
        if len(rows):
            some = sessions.take(rows)
            owners = pa.array(some.owners)
            self._fire(_Fired([column.take(owners) for column in arrays], some.starts_us, some.ends_us), out)


class _Nothing(Accumulator):
    """Sessions of which only the bounds are kept."""

    columns = ()

    def read(self, batch: pa.RecordBatch, keys: Sequence[pa.Array] = ()) -> None:
        pass

    def add(self, fetch: Fetch, slots: SlotArray, rows: Rows | None, times_us: Rows, namespace: int = 0) -> None:
        pass

    def merge(self, into: Fetch, ids: Rows, part: Fetch) -> None:
        pass

    def results(self, fetch: Fetch) -> list[pa.Array]:
        return []
