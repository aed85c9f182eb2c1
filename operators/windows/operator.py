"""The window operator: rows into panes, windows out when the watermark reaches their end.

Emission follows Flink's event-time trigger. A window fires once, when the watermark reaches its last microsecond, for
every key that has rows in it; empty windows are not emitted. With an allowed lateness its state stays for that long:
each batch that brings more rows for a fired window emits the new result of the keys it touched, once a batch. A row
whose windows have all passed their lateness is late: counted in `late_rows`, and sent as it came to the side output.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.core.errors import RecordError, SchemaError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.windows.assigners import WindowAssigner
from lakeward.operators.windows.columns import Rows, group_rows, to_numpy
from lakeward.operators.windows.panes import (
    EMIT_ROWS_MAX,
    AggregatedPanes,
    KeyFilter,
    KeyTypes,
    PaneRows,
    PaneState,
    Result,
)
from lakeward.operators.windows.progress import Progress

WINDOW_START, WINDOW_END = "window_start", "window_end"
ALL_KEY: KeyTypes = (("#all", pa.int8()),)
"""The key of windows over a stream without keys: one constant."""

_NEVER_US = 2**200  # later than any watermark
_TO_US = {"s": (1_000_000, 1), "ms": (1_000, 1), "us": (1, 1), "ns": (1, 1_000)}
_PANES_BY_MASK_MAX = 16  # for more panes in a batch, sorting is cheaper than a pass for each


@dataclass(frozen=True, slots=True)
class WindowConfig:
    """What all window operators have in common.

    Args:
        keys: Name and type of the key columns; empty for windows over the whole stream.
        time_column: The event-time column, a timestamp.
        assigner: The windows.
        allowed_lateness_us: How long after a window's end rows still update it.
        late_tag: Side output for rows that come later still; None: they are only counted.
        output_schema: Schema of the results.
        with_bounds: Whether a result is key, window bounds and results; or the results alone.
    """

    keys: KeyTypes
    time_column: str
    assigner: WindowAssigner
    allowed_lateness_us: int
    late_tag: str | None
    output_schema: pa.Schema
    with_bounds: bool = True


class WindowOperator(Operator):
    """One subtask of a windowed computation.

    Args:
        config: Windows, keys and lateness.
        state: What is kept a key and pane.
    """

    def __init__(self, config: WindowConfig, state: PaneState) -> None:
        self._config = config
        self._windows = config.assigner
        self._state = state
        self._panes: set[int] = set()
        self._due_us = _NEVER_US

    def open(self, context: OperatorContext) -> None:
        """Open state; take back panes and watermarks."""
        self._state.open(context)
        self._late_rows = context.counter("late_rows")
        self._progress = Progress.of(context)
        self._panes = set(self._state.table.namespaces())
        self._due_us = min(map(self._pane_due_us, self._panes), default=_NEVER_US)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Add rows to their panes; send late ones aside; emit fired windows that changed."""
        if not batch.num_rows:
            return
        times_us = event_times_us(batch, self._config.time_column)
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
        self._emit_updates(updated, key_arrays, out)
        self._emit_late(late, batch, out)

    def _key_arrays(self, batch: pa.RecordBatch) -> list[pa.Array]:
        if not self._config.keys:
            return [pa.array(np.zeros(batch.num_rows, dtype=np.int8))]
        arrays = [batch.column(name) for name, _ in self._config.keys]
        return [a.dictionary_decode() if pa.types.is_dictionary(a.type) else a for a in arrays]

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
        for start_us in self._windows.windows_of(pane_us):
            fired_us = self._windows.fire_time_us(start_us)
            touched = (fired_us <= current) & (fired_us + self._config.allowed_lateness_us > current)
            if np.any(touched):
                rows = everything[np.broadcast_to(touched, len(everything))]
                updated.setdefault(start_us, []).append(rows)

    def _emit_updates(self, updated: dict[int, list[Rows]], key_arrays: Sequence[pa.Array], out: Output) -> None:
        for start_us in sorted(updated):
            rows = pa.array(np.concatenate(updated[start_us]))
            touched = [array.take(rows) for array in key_arrays]
            _, firsts = group_rows(touched)
            keys = [array.take(pa.array(firsts)) for array in touched]
            self._emit(start_us, self._state.results_of(self._live_panes(start_us), keys), out)

    def _emit_late(self, late: list[Rows], batch: pa.RecordBatch, out: Output) -> None:
        if not late:
            return
        rows = np.sort(np.concatenate(late))
        self._late_rows.inc(len(rows))
        if self._config.late_tag is not None:
            out.emit_side(self._config.late_tag, batch.take(pa.array(rows)))

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        """Fire the windows that are complete now, in the order of their ends; free what no window needs any more."""
        if timestamp_us >= self._due_us:
            for start_us in self._windows_due(timestamp_us):
                self._fire(start_us, out)
            for pane_us in [p for p in self._panes if self._dropped_at_us(p) <= timestamp_us]:
                self._state.drop(pane_us)
                self._panes.remove(pane_us)
        self._progress.advance(timestamp_us)
        if timestamp_us >= self._due_us:
            self._due_us = min(map(self._pane_due_us, self._panes), default=_NEVER_US)

    def _windows_due(self, timestamp_us: int) -> list[int]:
        after_us = self._progress.watermark_us
        due = {start for pane in self._panes for start in self._windows.windows_due(pane, after_us, timestamp_us)}
        return sorted(due)

    def _live_panes(self, start_us: int) -> list[int]:
        return [pane for pane in self._windows.panes_of(start_us) if pane in self._panes]

    def _fire(self, start_us: int, out: Output) -> None:
        fire_us = self._windows.fire_time_us(start_us)
        keep = self._not_fired(fire_us) if self._progress.reached(fire_us) else None
        for result in self._state.all_results(self._live_panes(start_us), keep):
            self._emit(start_us, result, out)

    def _not_fired(self, fire_us: int) -> KeyFilter:
        """Leaves out keys of key groups whose old subtask had fired the window before the restore."""

        def keep(keys: Sequence[pa.Array]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
            watermarks = self._progress.watermarks(keys)
            return np.ones(len(keys[0]), dtype=bool) if watermarks is None else watermarks < fire_us

        return keep

    def _emit(self, start_us: int, result: Result, out: Output) -> None:
        keys, columns = result
        schema = self._config.output_schema
        if self._config.with_bounds:
            kept = keys if self._config.keys else []
            bounds = (start_us, start_us + self._windows.size_us)
            kind = schema.field(WINDOW_START).type
            columns = [*kept, *(_constant_time(bound, kind, len(keys[0])) for bound in bounds), *columns]
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        for start in range(0, batch.num_rows, EMIT_ROWS_MAX):
            out.emit(batch.slice(start, EMIT_ROWS_MAX))

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        """The watermark, by key group where they differ: with the panes, that says what has fired and what is late."""
        return self._progress.snapshot()


def event_times_us(batch: pa.RecordBatch, column: str) -> Rows:
    """The event times of a batch in microseconds.

    Raises:
        RecordError: A row has none; names the column and the row.
    """
    array = batch.column(column)
    if array.null_count:
        row = int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
        raise RecordError(
            f"event-time column '{column}' is null in {array.null_count} of {len(array)} rows, such as "
            f"{batch.slice(row, 1).to_pylist()[0]}",
            hint=f'filter such rows before the window: .filter(col("{column}").is_not_null())',
        )
    factor, divisor = _TO_US[array.type.unit]
    times: Rows = to_numpy(array)
    return times if factor == divisor else times * factor // divisor


def split_by_pane(windows: WindowAssigner, times_us: Rows) -> Iterator[tuple[int, Rows | None]]:
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


def _constant_time(time_us: int, kind: pa.DataType, count: int) -> pa.Array:
    factor, divisor = _TO_US[kind.unit]
    return pa.array(np.full(count, time_us * divisor // factor)).view(kind)


@dataclass(frozen=True, slots=True)
class WindowAggregate(OperatorFactory):
    """Aggregates over tumbling or sliding windows, by key or over the whole stream.

    The output has the key columns, `window_start`, `window_end` (exclusive; both of the event-time column's type), and
    the aggregates. Each window is emitted exactly once for each key with rows in it, plus once for each batch of rows
    that comes within the allowed lateness.

    Args:
        input_schema: Schema of the input.
        keys: Key columns; empty for windows over the whole stream, which must run with parallelism 1.
        time_column: The event-time column.
        window: The windows, as panes.
        aggregates: What to compute.
        allowed_lateness_us: How long after a window's end rows still update it.
        late_tag: Side output for late rows.

    Raises:
        SchemaError: A column is missing, has a wrong type, or an output name comes twice.
    """

    input_schema: pa.Schema
    keys: tuple[str, ...]
    time_column: str
    window: WindowAssigner
    aggregates: tuple[BoundAggregate, ...]
    allowed_lateness_us: int = 0
    late_tag: str | None = None

    def __post_init__(self) -> None:
        check_time_column(self.input_schema, self.time_column)
        names = self.schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(
                f"the result of the window has two columns '{twice[0]}'",
                hint=f"give the aggregate another name; the others are {', '.join(names)}",
            )

    @property
    def key_types(self) -> KeyTypes:
        """Name and type of each key column."""
        return key_types(self.input_schema, self.keys)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the results."""
        keys = [self.input_schema.field(name).with_type(kind) for name, kind in self.key_types]
        time = self.input_schema.field(self.time_column).type
        bounds = [pa.field(name, time, nullable=False) for name in (WINDOW_START, WINDOW_END)]
        return pa.schema([*keys, *bounds, *(aggregate.field for aggregate in self.aggregates)])

    def create(self) -> WindowOperator:
        """Make the operator of one subtask."""
        config = WindowConfig(
            self.key_types,
            self.time_column,
            self.window,
            self.allowed_lateness_us,
            self.late_tag,
            self.schema,
        )
        return WindowOperator(config, AggregatedPanes(self.key_types or ALL_KEY, self.aggregates))

    @property
    def description(self) -> str:
        """For `explain()`: windows, keys and aggregates."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        return f"{self.window.description}{by}: {', '.join(a.description for a in self.aggregates)}"

    @property
    def stateful(self) -> bool:
        """It keeps panes in state tables."""
        return True


def key_types(schema: pa.Schema, keys: Sequence[str]) -> KeyTypes:
    """Name and type of key columns; dictionary-encoded ones as their values.

    Raises:
        SchemaError: There is no such column.
    """
    for name in keys:
        if name not in schema.names:
            raise SchemaError(f"there is no column '{name}' to key by", hint=f"there are {', '.join(schema.names)}")
    kinds = [schema.field(name).type for name in keys]
    plain = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
    return tuple(zip(keys, plain, strict=True))


def check_time_column(schema: pa.Schema, column: str) -> None:
    """Refuse an event-time column that is missing or no timestamp.

    Raises:
        SchemaError: Names the column and its type.
    """
    if column not in schema.names:
        raise SchemaError(f"there is no event-time column '{column}'", hint=f"there are {', '.join(schema.names)}")
    kind = schema.field(column).type
    if not pa.types.is_timestamp(kind):
        raise SchemaError(
            f"event-time column '{column}' has type {kind}, but windows need a timestamp",
            hint=f'cast it first: .with_columns({column}=col("{column}").cast("timestamp"))',
        )
