"""Session windows: a key's rows that come at most a gap after one another.

Each row opens the interval from its time to its time plus the gap; intervals of a key that overlap or touch are one
session (Flink's TimeWindow.intersects), so rows exactly a gap apart belong together. A session ends with its last event
time plus the gap, and fires when the watermark reaches the last microsecond before that.

A batch is taken as a whole: which rows join which session does not depend on their order in it. A row is late if the
session that it would belong to, together with all others known and in the batch, has ended and passed the allowed
lateness; a late row that joins a session which is still kept is not late. With an allowed lateness, a session that has
fired and is changed sends its new result at once, once a batch, or, if its end has moved beyond the watermark, again
when that is reached; a session that was sent before it was joined to another is not taken back. With a trigger the
stream is an updating one, and it is (`lakeward.operators.windows.early_sessions`).

A batch is cut by time into parts no longer than the gap. All of a part's rows of one key are in one session, so it is
one lookup of the keys and a scatter to widen the sessions and to aggregate (`_widen`). What is not so simple (a key
gets a second session, two sessions are joined, a key has several open) is sorted, and merged by intervals (`_join`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.state import ColumnSpec, Keys, SlotArray
from lakeward.engine.core.errors import ConfigError
from lakeward.operators.windows.accumulate import Accumulator
from lakeward.operators.windows.assigners import short_duration
from lakeward.operators.windows.columns import Mask, Rows, Values
from lakeward.operators.windows.due import DueIndex
from lakeward.operators.windows.session_state import (
    END,
    NO_END_US,
    START,
    Merged,
    Sessions,
    SessionState,
    concat,
    merge_intervals,
)
from lakeward.operators.windows.timed import (
    ALL_KEY,
    WINDOW_START,
    KeyTypes,
    TimedOperator,
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
class SessionConfig:
    """What all computations over sessions have in common.

    Args:
        keys: Name and type of the key columns; empty for sessions of the whole stream.
        time_column: The event-time column; empty for processing time.
        window: The sessions.
        allowed_lateness_us: How long after a session's end rows still change it.
        late_tag: Side output for late rows; None: they are only counted.
        output_schema: Schema of the results, without row kinds.
        with_bounds: Whether a result is key, window bounds and results; or the results alone.
    """

    keys: KeyTypes
    time_column: str
    window: SessionAssigner
    allowed_lateness_us: int
    late_tag: str | None
    output_schema: pa.Schema
    with_bounds: bool = True


@dataclass(frozen=True, slots=True)
class SessionBatch:
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
    """One subtask of a computation over sessions.

    Args:
        config: Sessions, keys and lateness.
        accumulator: What is kept a session.
        more: State columns beside it.
    """

    def __init__(self, config: SessionConfig, accumulator: Accumulator, more: Sequence[ColumnSpec] = ()) -> None:
        super().__init__(config.keys, config.time_column, config.window.processing, config.late_tag)
        self._config = config
        self._gap_us = config.window.gap_us
        self._lateness_us = config.allowed_lateness_us
        self._accumulator = accumulator
        self._state = SessionState(config.keys or ALL_KEY, accumulator, more)
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
        seen = SessionBatch(self._state.table.keys(arrays), arrays, times_us, current)
        self._accumulator.read(batch)
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

    def _add(self, seen: SessionBatch, rows: Rows | None) -> Rows:
        """Add rows that are not late, where that is simple; returns the others, whose keys have slots now."""
        everything = np.arange(len(seen.times_us)) if rows is None else rows
        keys, times_us = (seen.keys, seen.times_us) if rows is None else (seen.keys.take(rows), seen.times_us[rows])
        slots, new = self._state.latest.insert(keys)
        if int(times_us.max() - times_us.min()) > self._gap_us:
            return everything
        simple = self._simple(slots, times_us)
        if simple.all():
            self._widen(seen, rows, Slots(slots, new))
            return everything[:0]
        hard = np.isin(slots, slots[~simple])
        easy = np.flatnonzero(~hard)
        if len(easy):
            self._widen(seen, everything[easy], Slots(slots[easy], new[easy]))
        return everything[hard]

    def _simple(self, slots: SlotArray, times_us: Rows) -> Mask:
        """Which rows join the one open session of their key, or open its first."""
        pane = self._state.latest
        starts, ends = pane.column(START)[slots], pane.column(END)[slots]
        simple: Mask = ((times_us <= ends) & (times_us + self._gap_us >= starts)) | (ends == NO_END_US)
        if self._state.levels > 1:
            simple &= self._state.more(slots) == 0
        return simple

    def _widen(self, seen: SessionBatch, rows: Rows | None, slots: Slots) -> None:
        """Add rows to the one session of their key."""
        pane, at = self._state.latest, slots.at
        times_us = seen.times_us if rows is None else seen.times_us[rows]
        ends = pane.column(END)
        np.minimum.at(pane.column(START), at, times_us)
        np.maximum.at(ends, at, times_us + self._gap_us)
        self._accumulator.add(pane.column, at, rows, times_us)
        news = np.flatnonzero(slots.new)
        if len(news):
            numbers = news if rows is None else rows[news]
            self._due.add(self._due_us(ends[at[news]], seen.current_at(numbers)), seen.keys_at(numbers))

    def _with_slots(self, seen: SessionBatch, doubtful: Rows) -> Rows:
        """The rows; the keys of those that are not late by themselves have slots now."""
        if self._lateness_us and len(doubtful):
            over = seen.times_us[doubtful] + (self._gap_us - 1 + self._lateness_us) <= seen.current_at(doubtful)
            timely = doubtful[~over]
            if len(timely):
                self._state.latest.slots(seen.keys.take(timely))
        return doubtful

    def _add_hard(self, seen: SessionBatch, rows: Rows, out: Output) -> Rows:
        """Add rows that are not simple, or may be late; returns those that are late."""
        slots = self._state.latest.find(seen.keys.take(rows))
        known = np.flatnonzero(slots >= 0)
        late = rows[slots < 0]
        if not len(known):
            return late
        return np.concatenate([late, self._join(seen, rows[known], slots[known], out)])

    def _join(self, seen: SessionBatch, rows: Rows, slots: SlotArray, out: Output) -> Rows:
        """Add rows whatever they do to the sessions of their keys; returns those that are late."""
        pieces = self._pieces(seen, rows, slots)
        keys = seen.keys.take(pieces.key_rows)
        more = self._state.more(pieces.key_slots)
        held = self._state.held(keys, pieces.key_slots)
        if more.any():
            held = held.in_order()  # sessions of one key that are joined are merged in the order of time
        every = concat([held, pieces.sessions])
        merged = merge_intervals(every.owners, every.starts_us, every.ends_us)
        arrays = seen.keys_at(pieces.key_rows)
        values, sends = self._merged(arrays, every, merged, out)
        joined = Sessions(merged.owners, merged.starts_us, merged.ends_us, values)
        current = seen.current_at(pieces.key_rows)
        mine = current if isinstance(current, int) else current[merged.owners]
        over = merged.ends_us - 1 + self._lateness_us <= mine
        if self._lateness_us:
            touched = np.zeros(len(merged.owners), dtype=np.bool_)
            touched[merged.groups[len(held) :]] = True
            sends = sends | (touched & ~over & (merged.ends_us - 1 <= mine))
        self._send(arrays, joined, np.flatnonzero(sends), out)
        kept = joined if not over.any() else joined.take(np.flatnonzero(~over))
        self._state.write(keys, kept, more)
        self._note_earlier(seen, pieces, held, kept)
        return rows[over[merged.groups[len(held) :]][pieces.numbers]]

    def _merged(
        self, arrays: list[pa.Array], every: Sessions, merged: Merged, out: Output
    ) -> tuple[dict[str, Values], Mask]:
        """The state columns of joined sessions, and which of them must be sent at once.

        Args:
            arrays: The key columns, a row an owner.
            every: The sessions that are joined.
            merged: How.
            out: Where to send what is taken back.
        """
        values = self._accumulator.fresh(len(merged.owners))
        self._accumulator.merge(values.__getitem__, merged.groups, every.values.__getitem__)
        return values, np.zeros(len(merged.owners), dtype=np.bool_)

    def _pieces(self, seen: SessionBatch, rows: Rows, slots: SlotArray) -> Pieces:
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
        values = self._accumulator.fresh(len(begins))
        self._accumulator.add(values.__getitem__, numbers, rows, times_us)
        owners = (np.cumsum(new_key) - 1)[begins]
        sessions = Sessions(owners, time[begins], time[lasts] + self._gap_us, values)
        leaders = order[new_key]
        return Pieces(sessions, numbers, rows[leaders], slots[leaders])

    def _note_earlier(self, seen: SessionBatch, pieces: Pieces, held: Sessions, kept: Sessions) -> None:
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
            self._send(arrays, sessions, fires[np.argsort(last_us[fires], kind="stable")], out)
        over = last_us + self._lateness_us <= now_us
        if len(fires) and self._lateness_us:
            self._keep_sent(keys, sessions, more)
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

    def _send(self, arrays: list[pa.Array], sessions: Sessions, rows: Rows, out: Output) -> None:
        """Send the results of some of these sessions; `arrays` are the key columns, a row an owner."""
        if len(rows):
            self._emit(self._results(arrays, sessions.take(rows)), out)

    def _keep_sent(self, keys: Keys, sessions: Sessions, more: Rows) -> None:
        """Sessions that stay were sent; for operators that remember it."""

    def _results(self, arrays: list[pa.Array], sessions: Sessions) -> pa.RecordBatch:
        """A row a session."""
        columns = self._accumulator.results(sessions.values.__getitem__)
        schema = self._config.output_schema
        if self._config.with_bounds:
            keys = [column.take(pa.array(sessions.owners)) for column in arrays] if self._keys else []
            kind = schema.field(WINDOW_START).type
            bounds = [times_array(time_us, kind) for time_us in (sessions.starts_us, sessions.ends_us)]
            columns = [*keys, *bounds, *columns]
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    def _emit(self, batch: pa.RecordBatch, out: Output) -> None:
        for start in range(0, batch.num_rows, EMIT_ROWS_MAX):
            out.emit(batch.slice(start, EMIT_ROWS_MAX))


@dataclass(frozen=True, slots=True)
class Slots:
    """Where rows go, and which of them are the first ever of their key."""

    at: SlotArray
    new: Mask


@dataclass(frozen=True, slots=True)
class Pieces:
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
