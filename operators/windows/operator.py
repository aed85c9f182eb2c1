"""The window operator: rows into panes, windows out when the watermark reaches their end.

Emission follows Flink's event-time trigger. A window fires once, when the watermark reaches its last microsecond, for
every key that has rows in it; empty windows are not emitted. With an allowed lateness its state stays for that long:
each batch that brings more rows for a fired window emits the new result of the keys it touched, once a batch. A row
whose windows have all passed their lateness is late: counted in `late_rows`, and sent as it came to the side output.

With a trigger, windows send results before their end too; see `lakeward.operators.windows.early`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import updating
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.windows.accumulate import Aggregates, additive
from lakeward.operators.windows.assigners import CumulativeAssigner, PaneAssigner, WindowAssigner
from lakeward.operators.windows.columns import Rows, group_rows
from lakeward.operators.windows.early import Pace, RowCounts, TouchedKeys, Trigger, distinct
from lakeward.operators.windows.panes import (
    EMIT_ROWS_MAX,
    KeyFilter,
    PaneRows,
    PaneState,
    Result,
)
from lakeward.operators.windows.running import RunningMerge
from lakeward.operators.windows.sent import SentResults
from lakeward.operators.windows.timed import ALL_KEY as ALL_KEY
from lakeward.operators.windows.timed import (
    WINDOW_END,
    WINDOW_START,
    KeyTypes,
    TimedOperator,
    check_names,
    time_type,
    times_array,
)
from lakeward.operators.windows.timed import check_time_column as check_time_column
from lakeward.operators.windows.timed import key_types as key_types

_NEVER_US = 2**200  # later than any watermark
_PANES_BY_MASK_MAX = 16  # for more panes in a batch, sorting is cheaper than a pass for each


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """What all window operators have in common.

    Args:
        keys: Name and type of the key columns; empty for windows over the whole stream.
        time_column: The event-time column, a timestamp; empty for windows that go by no event time.
        assigner: The windows.
        allowed_lateness_us: How long after a window's end rows still update it.
        late_tag: Side output for rows that come later still; None: they are only counted.
        output_schema: Schema of the results, without row kinds.
        with_bounds: Whether a result is key, window bounds and results; or the results alone.
        trigger: When windows send results before their end.
    """

    keys: KeyTypes
    time_column: str
    assigner: PaneAssigner
    allowed_lateness_us: int
    late_tag: str | None
    output_schema: pa.Schema
    with_bounds: bool = True
    trigger: Trigger | None = None


class WindowOperator(TimedOperator):
    """One subtask of a windowed computation.

    Args:
        config: Windows, keys and lateness.
        state: What is kept a key and pane.
    """

    def __init__(self, config: WindowConfig, state: PaneState) -> None:
        super().__init__(config.keys, config.time_column, config.assigner.processing, config.late_tag)
        self._config = config
        self._windows = config.assigner
        self._state = state
        self._panes: set[int] = set()
        self._due_us = _NEVER_US

    def open(self, context: OperatorContext) -> None:
        """Open state; take back panes and watermarks."""
        super().open(context)
        self._state.open(context)
        self._panes = set(self._state.table.namespaces())
        self._due_us = min(map(self._pane_due_us, self._panes), default=_NEVER_US)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Add rows to their panes; send late ones aside; emit fired windows that changed."""
        if not batch.num_rows:
            return
        times_us = self._times_us(batch)
        key_arrays = self._key_arrays(batch)
        keys = self._state.table.keys(key_arrays)
        watermarks = self._progress.watermarks(key_arrays)
        self._state.read(batch)
        late: list[Rows] = []
        updated: dict[int, list[Rows]] = {}
        for pane_us, rows in split_by_pane(self._windows, times_us):
            everything = np.arange(len(times_us)) if rows is None else rows
            current = self._progress.watermark_us if watermarks is None else watermarks[everything]
            rows = self._set_aside(pane_us, rows, everything, current, late)
            if rows is not None and not len(rows):
                continue
            if rows is None:
                self._state.add(PaneRows(pane_us, keys, None, times_us))
            else:
                self._state.add(PaneRows(pane_us, keys.take(rows), rows, times_us[rows]))
            self._note_pane(pane_us)
            self._note_updates(pane_us, everything, current, updated)
            self._added(pane_us, rows, key_arrays, out)
        self._emit_updates(updated, key_arrays, out)
        if late:
            self._set_late_aside(np.concatenate(late), batch, out)

    def _added(self, pane_us: int, rows: Rows | None, key_arrays: Sequence[pa.Array], out: Output) -> None:
        """Rows of a batch (None: all) were added to a pane; for operators that fire early."""

    def _set_aside(
        self, pane_us: int, rows: Rows | None, everything: Rows, current: int | Rows, late: list[Rows]
    ) -> Rows | None:
        """The rows that are not late (None: all of the batch); the others are noted in `late`."""
        last_us = self._windows.last_fire_time_us(pane_us)
        if last_us is None:
            return everything[:0]  # between two windows: belongs to none, so it cannot be late for one
        passed = last_us + self._config.allowed_lateness_us <= current
        if not np.any(passed):
            return rows
        mask = np.broadcast_to(passed, len(everything))
        late.append(everything[mask])
        kept: Rows = everything[~mask]
        return kept

    def _note_pane(self, pane_us: int) -> None:
        if pane_us not in self._panes:
            self._panes.add(pane_us)
            self._due_us = min(self._due_us, self._pane_due_us(pane_us))

    def _pane_due_us(self, pane_us: int) -> int:
        """The next watermark at which something happens to a pane: a window fires, or it is dropped."""
        after_us = self._progress.watermark_us
        windows = self._windows.windows_due(pane_us, after_us, _NEVER_US)
        if len(windows):
            return self._windows.fire_time_us(windows[0])
        return self._dropped_at_us(pane_us)

    def _dropped_at_us(self, pane_us: int) -> int:
        last_us = self._windows.last_fire_time_us(pane_us)
        assert last_us is not None, "a pane between windows is never made"
        return last_us + self._config.allowed_lateness_us

    def _note_updates(
        self, pane_us: int, everything: Rows, current: int | Rows, updated: dict[int, list[Rows]]
    ) -> None:
        """Note which rows changed windows that have fired but are still within their lateness."""
        if not self._config.allowed_lateness_us:
            return
        for window in self._windows.windows_of(pane_us):
            fired_us = self._windows.fire_time_us(window)
            touched = (fired_us <= current) & (fired_us + self._config.allowed_lateness_us > current)
            if np.any(touched):
                rows = everything[np.broadcast_to(touched, len(everything))]
                updated.setdefault(window, []).append(rows)

    def _emit_updates(self, updated: dict[int, list[Rows]], key_arrays: Sequence[pa.Array], out: Output) -> None:
        for window in sorted(updated):
            rows = pa.array(np.concatenate(updated[window]))
            touched = [array.take(rows) for array in key_arrays]
            _, firsts = group_rows(touched)
            keys = [array.take(pa.array(firsts)) for array in touched]
            self._emit(window, self._state.results_of(self._live_panes(window), keys), out)

    def advance(self, time_us: int, out: Output) -> None:
        """Fire the windows that are complete now, in the order of their ends; free what no window needs any more."""
        if time_us >= self._due_us:
            for window in self._windows_due(time_us):
                self._fire(window, out)
            for pane_us in sorted(p for p in self._panes if self._dropped_at_us(p) <= time_us):
                self._drop(pane_us)
        self._progress.advance(time_us)
        if time_us >= self._due_us:
            self._due_us = min(map(self._pane_due_us, self._panes), default=_NEVER_US)

    def _drop(self, pane_us: int) -> None:
        """Free a pane."""
        self._state.drop(pane_us)
        self._panes.discard(pane_us)

    def _windows_due(self, time_us: int) -> list[int]:
        after_us = self._progress.watermark_us
        due = {window for pane in self._panes for window in self._windows.windows_due(pane, after_us, time_us)}
        return sorted(due)

    def _live_panes(self, window: int) -> list[int]:
        return [pane for pane in self._windows.panes_of(window) if pane in self._panes]

    def _fire(self, window: int, out: Output) -> None:
        fire_us = self._windows.fire_time_us(window)
        keep = self._not_fired(fire_us) if self._progress.reached(fire_us) else None
        for result in self._state.all_results(self._live_panes(window), keep):
            self._emit(window, result, out)

    def _not_fired(self, fire_us: int) -> KeyFilter:
        """Leaves out keys of key groups whose old subtask had fired the window before the restore."""

        def keep(keys: Sequence[pa.Array]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
            watermarks = self._progress.watermarks(keys)
            return np.ones(len(keys[0]), dtype=bool) if watermarks is None else watermarks < fire_us

        return keep

    def _emit(self, window: int, result: Result, out: Output) -> None:
        batch = self._to_batch(window, result)
        for start in range(0, batch.num_rows, EMIT_ROWS_MAX):
            out.emit(batch.slice(start, EMIT_ROWS_MAX))

    def _to_batch(self, window: int, result: Result) -> pa.RecordBatch:
        keys, columns = result
        schema = self._config.output_schema
        if self._config.with_bounds:
            count = len(keys[0])
            bounds = [
                times_array(np.full(count, time_us, np.int64), schema.field(name).type)
                for name, time_us in self._windows.bounds_us(window).items()
            ]
            columns = [*(keys if self._config.keys else []), *bounds, *columns]
        return pa.RecordBatch.from_arrays(columns, schema=schema)


class EarlyWindowOperator(WindowOperator):
    """A windowed computation that also sends results of windows which are still open.

    Args:
        config: Windows, keys, lateness and trigger.
        state: What is kept a key and pane.
    """

    def __init__(self, config: WindowConfig, state: PaneState) -> None:
        super().__init__(config, state)
        assert config.trigger is not None, "else there is nothing to fire early"
        self._trigger = config.trigger
        keys = config.keys or ALL_KEY
        own = {name for name, _ in config.keys} | {WINDOW_START, WINDOW_END}
        fields = [field for field in config.output_schema if field.name not in own]
        self._sent = None if self._trigger.discarding else SentResults(keys, fields, self._trigger.unkept)
        self._counts = None if self._trigger.rows is None else RowCounts(keys, self._trigger.rows)
        self._touched = TouchedKeys()
        self._pace = Pace(self._trigger.interval_us)

    def open(self, context: OperatorContext) -> None:
        """Open state."""
        super().open(context)
        if self._sent is not None:
            self._sent.open(context)
        if self._counts is not None:
            self._counts.open(context)

    def _added(self, pane_us: int, rows: Rows | None, key_arrays: Sequence[pa.Array], out: Output) -> None:
        """Note the keys, or fire those that have their rows."""
        arrays = list(key_arrays) if rows is None else [column.take(pa.array(rows)) for column in key_arrays]
        if self._counts is None:
            self._touched.add(pane_us, arrays)
            return
        full = self._counts.add(pane_us, self._state.table.keys(arrays))
        if len(full):
            self._fire_early(pane_us, [column.take(pa.array(full)) for column in arrays], out)

    def on_tick(self, now_us: int, out: Output) -> None:
        """Fire what is complete; and early, when it is time."""
        super().on_tick(now_us, out)
        if self._pace.due(now_us):
            self._fire_touched(out)

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """Send what is pending, so that no checkpoint has to remember it."""
        self._fire_touched(out)
        return ()

    def _fire_touched(self, out: Output) -> None:
        for pane_us, keys in self._touched.take().items():
            if pane_us in self._panes:
                self._fire_early(pane_us, distinct(keys), out)

    def _fire_early(self, pane_us: int, keys: list[pa.Array], out: Output) -> None:
        """Send the results of some keys, all different, for the open windows of a pane."""
        for window in self._windows.windows_of(pane_us):
            open_keys = self._where_open(window, keys)
            if len(open_keys[0]):
                self._emit(window, self._state.results_of(self._live_panes(window), open_keys), out)
                if self._trigger.discarding:
                    self._state.forget(pane_us, open_keys)

    def _where_open(self, window: int, keys: list[pa.Array]) -> list[pa.Array]:
        """The keys for which a window has not fired."""
        watermarks = self._progress.watermarks(keys)
        fire_us = self._windows.fire_time_us(window)
        if watermarks is None:
            return keys if self._progress.watermark_us < fire_us else [column.slice(0, 0) for column in keys]
        return [column.filter(pa.array(watermarks < fire_us)) for column in keys]

    def _fire(self, window: int, out: Output) -> None:
        """The window is complete; rows that come later, within the lateness, are a new delta where results are."""
        super()._fire(window, out)
        if self._trigger.discarding:
            self._state.drop(window)

    def _emit_updates(self, updated: dict[int, list[Rows]], key_arrays: Sequence[pa.Array], out: Output) -> None:
        super()._emit_updates(updated, key_arrays, out)
        if self._trigger.discarding:
            for window in updated:
                self._state.drop(window)

    def _drop(self, pane_us: int) -> None:
        """Free a pane, and what was sent of the windows that end with it."""
        super()._drop(pane_us)
        if self._counts is not None:
            self._counts.drop(pane_us)
        if self._sent is not None:
            for window in self._windows.windows_of(pane_us):
                if not self._live_panes(window):
                    self._sent.drop(window)

    def _emit(self, window: int, result: Result, out: Output) -> None:
        if self._sent is None:
            super()._emit(window, result, out)
            return
        batch = self._sent.changes(window, result[0], self._to_batch(window, result))
        for start in range(0, batch.num_rows, EMIT_ROWS_MAX):
            out.emit(batch.slice(start, EMIT_ROWS_MAX))


def split_by_pane(windows: PaneAssigner, times_us: Rows) -> Iterator[tuple[int, Rows | None]]:
    """The panes that a batch has rows in, rising, and the rows of each in their order (None: all rows)."""
    ends = windows.pane_starts(np.array([times_us.min(), times_us.max()]))
    first, last = int(ends[0]), int(ends[1])
    if first == last:
        yield first, None
        return
    starts = windows.pane_starts(times_us)
    if (last - first) // windows.pane_us < _PANES_BY_MASK_MAX:
        for pane_us in range(first, last + 1, windows.pane_us):
            rows = np.flatnonzero(starts == pane_us)
            if len(rows):
                yield pane_us, rows
        return
    order = np.argsort(starts, kind="stable")
    cuts = np.flatnonzero(np.diff(starts[order])) + 1
    for rows in np.split(order, cuts):
        yield int(starts[rows[0]]), rows


def shares_panes(windows: PaneAssigner) -> bool:
    """Whether a running merge of panes is worth it: the windows that follow each other have most of them in common."""
    if isinstance(windows, WindowAssigner):
        return windows.slide_us * 2 <= windows.size_us
    return not windows.single_pane


@dataclass(frozen=True, slots=True)
class WindowAggregate(OperatorFactory):
    """Aggregates over windows made of panes, by key or over the whole stream.

    The output has the key columns, `window_start`, `window_end` (exclusive; both of the event-time column's type), and
    the aggregates. Each window is emitted exactly once for each key with rows in it, plus once for each batch of rows
    that comes within the allowed lateness. With a trigger that is not discarding the output is an updating stream.

    Args:
        input_schema: Schema of the input.
        keys: Key columns; empty for windows over the whole stream, which must run with parallelism 1.
        time_column: The event-time column; empty for windows that go by no event time.
        window: The windows, as panes.
        aggregates: What to compute.
        allowed_lateness_us: How long after a window's end rows still update it.
        late_tag: Side output for late rows.
        trigger: When windows send results before their end.

    Raises:
        SchemaError: A column is missing, has a wrong type, or an output name comes twice.
    """

    input_schema: pa.Schema
    keys: tuple[str, ...]
    time_column: str
    window: PaneAssigner
    aggregates: tuple[BoundAggregate, ...]
    allowed_lateness_us: int = 0
    late_tag: str | None = None
    trigger: Trigger | None = None

    def __post_init__(self) -> None:
        check_time_column(self.input_schema, self.time_column)
        check_names(self._plain_schema)

    @property
    def key_types(self) -> KeyTypes:
        """Name and type of each key column."""
        return key_types(self.input_schema, self.keys)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the results."""
        updates = self.trigger is not None and not self.trigger.discarding
        return updating(self._plain_schema) if updates else self._plain_schema

    @property
    def _plain_schema(self) -> pa.Schema:
        keys = [self.input_schema.field(name).with_type(kind) for name, kind in self.key_types]
        kind = time_type(self.input_schema, self.time_column)
        bounds = [pa.field(name, kind, nullable=False) for name in self.window.bounds_us(0)]
        return pa.schema([*keys, *bounds, *(aggregate.field for aggregate in self.aggregates)])

    def create(self) -> WindowOperator:
        """Make the operator of one subtask."""
        config = WindowConfig(
            self.key_types,
            self.time_column,
            self.window,
            self.allowed_lateness_us,
            self.late_tag,
            self._plain_schema,
            trigger=self.trigger,
        )
        state = self._state()
        return WindowOperator(config, state) if self.trigger is None else EarlyWindowOperator(config, state)

    def _state(self) -> PaneState:
        keys = self.key_types or ALL_KEY
        discarding = self.trigger is not None and self.trigger.discarding
        # Side tables can't be, where single keys are forgotten.
        aggregates = Aggregates(self.aggregates, () if discarding else keys)
        adds = additive(self.aggregates)
        kinds = {aggregate.kind for aggregate in self.aggregates}
        grows = isinstance(self.window, CumulativeAssigner) and "count_distinct" not in kinds
        if self.trigger is None and shares_panes(self.window) and (grows or adds):
            return PaneState(self.key_types, aggregates, RunningMerge(keys, aggregates, adds))
        return PaneState(self.key_types, aggregates)

    @property
    def description(self) -> str:
        """For `explain()`: windows, keys and aggregates."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        early = f" ({self.trigger.description})" if self.trigger else ""
        return f"{self.window.description}{early}{by}: {', '.join(a.description for a in self.aggregates)}"

    @property
    def stateful(self) -> bool:
        """It keeps panes in state tables."""
        return True
