"""Session windows: a key's rows that come at most a gap after one another.

Each row opens the interval from its time to its time plus the gap; intervals of a key that overlap or touch are one
session (Flink's TimeWindow.intersects), so rows exactly a gap apart belong together. A session ends with its last event
time plus the gap, and fires when the watermark reaches the last microsecond before that.

A batch is taken as a whole: which rows join which session does not depend on their order in it. A row is late if the
session that it would belong to, together with all others known and in the batch, has ended and passed the allowed
lateness; a late row that joins a session which is still kept is not late. With an allowed lateness, a session that has
fired and is changed sends its new result at once, once a batch, or, if its end has moved beyond the watermark, again
when that is reached; a session that was sent before it was joined to another is not taken back.

A batch is cut by time into parts no longer than the gap. All of a part's rows of one key are in one session, so it is
one lookup of the keys and a scatter to widen the sessions and to aggregate (`_widen`). What is not so simple (a key
gets a second session, two sessions are joined, a key has several open) is sorted, and merged by intervals (`_join`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.api.state import Keys, SlotArray
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.windows.accumulate import Aggregates
from lakeward.operators.windows.assigners import short_duration
from lakeward.operators.windows.columns import Mask, Rows
from lakeward.operators.windows.due import DueIndex
from lakeward.operators.windows.session_state import (
    END,
    NO_END_US,
    START,
    Sessions,
    SessionState,
    concat,
    merge_intervals,
)
from lakeward.operators.windows.timed import (
    ALL_KEY,
    WINDOW_END,
    WINDOW_START,
    KeyTypes,
    TimedOperator,
    check_names,
    check_time_column,
    key_types,
    time_type,
    times_array,
)

EMIT_ROWS_MAX = 65_536
_PARTS_MAX = 16  # a batch over more gaps than this is sorted instead


@dataclass(frozen=True, slots=True)
class SessionAssigner:
    """Sessions that end after a gap without rows.

    >>> SessionAssigner(10_000_000).description
    'session 10s'

    Args:
        gap_us: The longest time between two rows of a session.
        processing: Whether time is the clock when rows arrive.
    """

    gap_us: int
    processing: bool = False

    def __post_init__(self) -> None:
        if self.gap_us <= 0:
            raise ConfigError(f"a session's gap must be above zero, not {self.gap_us} us", hint='Session("10s")')

    @property
    def description(self) -> str:
        """In a few words."""
        return f"session {short_duration(self.gap_us)}{' of processing time' if self.processing else ''}"


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch, looked at once.

    Args:
        keys: The keys, hashed.
        key_arrays: The key columns.
        times_us: The rows' times.
        current: The watermark that holds for each row, or one for all.
    """

    keys: Keys
    key_arrays: list[pa.Array]
    times_us: Rows
    current: int | Rows

    def current_at(self, rows: Rows) -> int | Rows:
        """The watermarks of some rows."""
        return self.current if isinstance(self.current, int) else self.current[rows]

    def keys_at(self, rows: Rows) -> list[pa.Array]:
        """The key columns of some rows."""
        numbers = pa.array(rows)
        return [column.take(numbers) for column in self.key_arrays]


class SessionOperator(TimedOperator):
    """One subtask of an aggregation over sessions.

    Args:
        factory: Says all there is to know.
    """

    def __init__(self, factory: SessionAggregate) -> None:
        super().__init__(factory.key_types, factory.time_column, factory.window.processing, factory.late_tag)
        self._gap_us = factory.window.gap_us
        self._lateness_us = factory.allowed_lateness_us
        self._schema = factory.schema
        self._aggregates = Aggregates(factory.aggregates)
        self._state = SessionState(factory.key_types or ALL_KEY, self._aggregates)
        self._due = DueIndex()

    def open(self, context: OperatorContext) -> None:
        """Open state; note when each of its sessions is due."""
        super().open(context)
        self._state.open(context)
        for keys, ends_us in self._state.scan():
            watermarks = self._progress.watermarks(keys)
            current = self._progress.watermark_us if watermarks is None else watermarks
            self._due.add(self._due_us(ends_us, current), keys)

    def _due_us(self, ends_us: Rows, current: int | Rows) -> Rows:
        """When something happens next to sessions: they fire, or are forgotten."""
        fire_us = ends_us - 1
        return np.where(fire_us > current, fire_us, fire_us + self._lateness_us)

    # -- rows in

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Widen, open and join sessions; send late rows aside; emit fired sessions that changed."""
        if not batch.num_rows:
            return
        times_us = self._times_us(batch)
        arrays = self._key_arrays(batch)
        watermarks = self._progress.watermarks(arrays)
        current: int | Rows = self._progress.watermark_us if watermarks is None else watermarks
        seen = _Batch(self._state.table.keys(arrays), arrays, times_us, current)
        self._aggregates.read(batch)
        # Rows that are late unless a session takes them in, or that may change sessions which have fired, come last,
        # when all that could take them in is known.
        old = times_us + (self._gap_us - 1) <= current if not self._lateness_us else times_us - 1 <= current
        doubtful = np.flatnonzero(old)
        parts = self._parts(times_us, None if not len(doubtful) else np.flatnonzero(~old))
        hard = [self._add(seen, rows) for rows in parts]
        rest = np.sort(np.concatenate([*hard, self._with_slots(seen, doubtful)]))
        if len(rest):
            late = self._add_hard(seen, rest, out)
            if len(late):
                self._set_late_aside(late, batch, out)

    def _parts(self, times_us: Rows, rows: Rows | None) -> Iterator[Rows | None]:
        """The rows by time, in parts of at most a gap each; None stands for the whole batch."""
        times_us = times_us if rows is None else times_us[rows]
        if not len(times_us):
            return
        first = times_us.min()
        count = int(times_us.max() - first) // self._gap_us + 1
        if count == 1 or count > _PARTS_MAX:
            yield rows
            return
        parts = (times_us - first) // self._gap_us
        for number in range(count):
            chosen = np.flatnonzero(parts == number)
            if len(chosen):
                yield chosen if rows is None else rows[chosen]

    def _add(self, seen: _Batch, rows: Rows | None) -> Rows:
        """Add rows that are not late, where that is simple; returns the others, whose keys have slots now."""
        everything = np.arange(len(seen.times_us)) if rows is None else rows
        keys, times_us = (seen.keys, seen.times_us) if rows is None else (seen.keys.take(rows), seen.times_us[rows])
        slots, new = self._state.latest.insert(keys)
        if int(times_us.max() - times_us.min()) > self._gap_us:
            return everything
        simple = self._simple(slots, times_us)
        if simple.all():
            self._widen(seen, rows, _Slots(slots, new))
            return everything[:0]
        hard = np.isin(slots, slots[~simple])
        easy = np.flatnonzero(~hard)
        if len(easy):
            self._widen(seen, everything[easy], _Slots(slots[easy], new[easy]))
        return everything[hard]

    def _simple(self, slots: SlotArray, times_us: Rows) -> Mask:
        """Which rows join the one open session of their key, or open its first."""
        pane = self._state.latest
        starts, ends = pane.column(START)[slots], pane.column(END)[slots]
        simple: Mask = ((times_us <= ends) & (times_us + self._gap_us >= starts)) | (ends == NO_END_US)
        if self._state.levels > 1:
            simple &= self._state.more(slots) == 0
        return simple

    def _widen(self, seen: _Batch, rows: Rows | None, slots: _Slots) -> None:
        """Add rows to the one session of their key."""
        pane, at = self._state.latest, slots.at
        times_us = seen.times_us if rows is None else seen.times_us[rows]
        ends = pane.column(END)
        np.minimum.at(pane.column(START), at, times_us)
        np.maximum.at(ends, at, times_us + self._gap_us)
        self._aggregates.add(pane.column, at, rows, times_us)
        news = np.flatnonzero(slots.new)
        if len(news):
            numbers = news if rows is None else rows[news]
            self._due.add(self._due_us(ends[at[news]], seen.current_at(numbers)), seen.keys_at(numbers))

    def _with_slots(self, seen: _Batch, doubtful: Rows) -> Rows:
        """The rows; the keys of those that are not late by themselves have slots now."""
        if self._lateness_us and len(doubtful):
            over = seen.times_us[doubtful] + (self._gap_us - 1 + self._lateness_us) <= seen.current_at(doubtful)
            timely = doubtful[~over]
            if len(timely):
                self._state.latest.slots(seen.keys.take(timely))
        return doubtful

    def _add_hard(self, seen: _Batch, rows: Rows, out: Output) -> Rows:
        """Add rows that are not simple, or may be late; returns those that are late."""
        slots = self._state.latest.find(seen.keys.take(rows))
        known = np.flatnonzero(slots >= 0)
        late = rows[slots < 0]
        if not len(known):
            return late
        return np.concatenate([late, self._join(seen, rows[known], slots[known], out)])

    def _join(self, seen: _Batch, rows: Rows, slots: SlotArray, out: Output) -> Rows:
        """Add rows whatever they do to the sessions of their keys; returns those that are late."""
        pieces = self._pieces(seen, rows, slots)
        keys = seen.keys.take(pieces.key_rows)
        more = self._state.more(pieces.key_slots)
        held = self._state.held(keys, pieces.key_slots)
        every = concat([held, pieces.sessions])
        merged = merge_intervals(every.owners, every.starts_us, every.ends_us)
        values = self._aggregates.fresh(len(merged.owners))
        self._aggregates.merge(values.__getitem__, merged.groups, every.values.__getitem__)
        joined = Sessions(merged.owners, merged.starts_us, merged.ends_us, values)
        current = seen.current_at(pieces.key_rows)
        mine = current if isinstance(current, int) else current[merged.owners]
        over = merged.ends_us - 1 + self._lateness_us <= mine
        kept = joined if not over.any() else joined.take(np.flatnonzero(~over))
        self._state.write(keys, kept, more)
        self._note_earlier(seen, pieces, held, kept)
        if self._lateness_us:
            touched = np.zeros(len(merged.owners), dtype=np.bool_)
            touched[merged.groups[len(held) :]] = True
            fired = joined.take(np.flatnonzero(touched & ~over & (merged.ends_us - 1 <= mine)))
            self._emit(seen.keys_at(pieces.key_rows[fired.owners]), fired, out)
        return rows[over[merged.groups[len(held) :]][pieces.numbers]]

    def _pieces(self, seen: _Batch, rows: Rows, slots: SlotArray) -> _Pieces:
        """Sort rows by key and time, cut them where a gap is, and aggregate each piece."""
        times_us = seen.times_us[rows]
        order = np.lexsort((times_us, slots))
        slot, time = slots[order], times_us[order]
        new_key = np.ones(len(rows), dtype=np.bool_)
        new_key[1:] = slot[1:] != slot[:-1]
        first = new_key.copy()
        first[1:] |= time[1:] - time[:-1] > self._gap_us
        begins = np.flatnonzero(first)
        lasts = np.append(begins[1:], len(rows)) - 1
        numbers = np.empty(len(rows), np.int64)
        numbers[order] = np.cumsum(first) - 1
        values = self._aggregates.fresh(len(begins))
        self._aggregates.add(values.__getitem__, numbers, rows, times_us)
        owners = (np.cumsum(new_key) - 1)[begins]
        sessions = Sessions(owners, time[begins], time[lasts] + self._gap_us, values)
        leaders = order[new_key]
        return _Pieces(sessions, numbers, rows[leaders], slots[leaders])

    def _note_earlier(self, seen: _Batch, pieces: _Pieces, held: Sessions, kept: Sessions) -> None:
        """Note the keys that are due earlier than before."""
        current = seen.current_at(pieces.key_rows)
        dues = np.full((2, len(pieces.key_rows)), 2**63 - 1, np.int64)
        for due, sessions in zip(dues, (held, kept), strict=True):
            mine = current if isinstance(current, int) else current[sessions.owners]
            np.minimum.at(due, sessions.owners, self._due_us(sessions.ends_us, mine))
        earlier = np.flatnonzero(dues[1] < dues[0])
        self._due.add(dues[1][earlier], seen.keys_at(pieces.key_rows[earlier]))

    # -- results out

    def advance(self, time_us: int, out: Output) -> None:
        """Fire the sessions that have ended; forget those that have passed their lateness."""
        while (keys := self._due.take(time_us)) is not None:
            for start in range(0, len(keys[0]), EMIT_ROWS_MAX):
                self._look_at([column.slice(start, EMIT_ROWS_MAX) for column in keys], time_us, out)
        self._progress.advance(time_us)

    def _look_at(self, arrays: list[pa.Array], time_us: int, out: Output) -> None:
        """Do what is due for some keys, which may come several times."""
        keys = self._state.table.keys(arrays)
        slots = self._state.latest.find(keys)
        chosen = _distinct(slots)
        if len(chosen) < len(slots):
            arrays = [column.take(pa.array(chosen)) for column in arrays]
            keys, slots = keys.take(chosen), slots[chosen]
        if not len(slots):
            return
        more = self._state.more(slots)
        sessions = self._state.held(keys, slots)
        before = self._progress.watermarks(arrays)
        fired_us = self._progress.watermark_us if before is None else before[sessions.owners]
        now_us = np.maximum(fired_us, time_us)
        last_us = sessions.ends_us - 1
        fires = np.flatnonzero((last_us <= time_us) & (last_us > fired_us))
        if len(fires):
            fires = fires[np.argsort(last_us[fires], kind="stable")]
            fired = sessions.take(fires)
            self._emit([column.take(pa.array(fired.owners)) for column in arrays], fired, out)
        over = last_us + self._lateness_us <= now_us
        removed = np.bincount(sessions.owners[over], minlength=len(slots))
        self._state.forget_oldest(keys, more, removed)
        self._note_again(arrays, sessions, ~over, now_us)

    def _note_again(self, arrays: list[pa.Array], sessions: Sessions, stay: Mask, now_us: int | Rows) -> None:
        """Note when the sessions that stay are due next."""
        rows = np.flatnonzero(stay)
        if not len(rows):
            return
        now_us = np.broadcast_to(now_us, len(sessions))[rows]
        owners = sessions.owners[rows]
        due_us = self._due_us(sessions.ends_us[rows], now_us)
        if len(sessions) > len(arrays[0]):  # the earliest of each key
            order = np.lexsort((due_us, owners))
            first = np.ones(len(order), dtype=np.bool_)
            first[1:] = owners[order][1:] != owners[order][:-1]
            due_us, owners = due_us[order][first], owners[order][first]
        self._due.add(due_us, [column.take(pa.array(owners)) for column in arrays])

    def _emit(self, arrays: list[pa.Array], sessions: Sessions, out: Output) -> None:
        """Send results; `arrays` are the key columns, a row a session."""
        if not len(sessions):
            return
        kind = self._schema.field(WINDOW_START).type
        bounds = [times_array(time_us, kind) for time_us in (sessions.starts_us, sessions.ends_us)]
        columns = [*(arrays if self._keys else []), *bounds, *self._aggregates.results(sessions.values.__getitem__)]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        for start in range(0, batch.num_rows, EMIT_ROWS_MAX):
            out.emit(batch.slice(start, EMIT_ROWS_MAX))


@dataclass(frozen=True, slots=True)
class _Slots:
    """Where rows go, and which of them are the first ever of their key."""

    at: SlotArray
    new: Mask


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Rows as sessions of their own.

    Args:
        sessions: Their owners are numbers of keys.
        numbers: For each row, the session it is in.
        key_rows: For each key, a row that has it.
        key_slots: For each key, its slot.
    """

    sessions: Sessions
    numbers: Rows
    key_rows: Rows
    key_slots: SlotArray


def _distinct(slots: SlotArray) -> Rows:
    """The first row of each slot that is there."""
    present = np.flatnonzero(slots >= 0)
    if len(present) < 2:
        return present
    order = present[np.argsort(slots[present], kind="stable")]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = slots[order][1:] != slots[order][:-1]
    return order if first.all() and len(present) == len(slots) else np.sort(order[first])


@dataclass(frozen=True, slots=True)
class SessionAggregate(OperatorFactory):
    """Aggregates over session windows, by key or over the whole stream.

    The output has the key columns, `window_start` (the first event time), `window_end` (the last one plus the gap), and
    the aggregates. Without lateness each session is emitted exactly once, when the watermark has passed its end.

    Args:
        input_schema: Schema of the input.
        keys: Key columns; empty for sessions of the whole stream, which must run with parallelism 1.
        time_column: The event-time column; empty for processing time.
        window: The sessions.
        aggregates: What to compute.
        allowed_lateness_us: How long after a session's end rows still change it.
        late_tag: Side output for late rows.

    Raises:
        SchemaError: A column is missing, has a wrong type, or an output name comes twice.
    """

    input_schema: pa.Schema
    keys: tuple[str, ...]
    time_column: str
    window: SessionAssigner
    aggregates: tuple[BoundAggregate, ...]
    allowed_lateness_us: int = 0
    late_tag: str | None = None

    def __post_init__(self) -> None:
        check_time_column(self.input_schema, self.time_column)
        check_names(self.schema)

    @property
    def key_types(self) -> KeyTypes:
        """Name and type of each key column."""
        return key_types(self.input_schema, self.keys)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the results."""
        keys = [self.input_schema.field(name).with_type(kind) for name, kind in self.key_types]
        kind = time_type(self.input_schema, self.time_column)
        bounds = [pa.field(name, kind, nullable=False) for name in (WINDOW_START, WINDOW_END)]
        return pa.schema([*keys, *bounds, *(aggregate.field for aggregate in self.aggregates)])

    def create(self) -> SessionOperator:
        """Make the operator of one subtask."""
        return SessionOperator(self)

    @property
    def description(self) -> str:
        """For `explain()`: gap, keys and aggregates."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"{self.window.description}{by}: {', '.join(a.description for a in self.aggregates)}"

    @property
    def stateful(self) -> bool:
        """It keeps the open sessions."""
        return True
