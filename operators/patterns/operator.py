"""Pattern detection as an operator: rows wait for the watermark, are matched by key, and open starts are remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import is_updating
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US
from lakeward.operators.over.memory import Chunk
from lakeward.operators.over.waiting import WaitingRows
from lakeward.operators.patterns.kept import IS_START, TIME, KeptRows, kept_schema
from lakeward.operators.patterns.pattern import Formula, Pattern, SkipTo
from lakeward.operators.patterns.rows import KeyRows
from lakeward.operators.patterns.starts import Found, find_matches
from lakeward.operators.ranking.order import sorted_rows
from lakeward.operators.windows.columns import Mask, Rows, positions
from lakeward.operators.windows.timed import TimedOperator, check_time_column, key_types

_CHUNK_ROWS = 65_536
_END_US = WATERMARK_MAX_US - 1
"""What comes to pass at the end of all input and not before."""


@dataclass(frozen=True, slots=True)
class MatchConfig:
    """What is looked for in which rows, and what is sent of it.

    Args:
        schema: The input's, append-only.
        keys: Key columns.
        time: The event-time column and what to add to it to get the time; None: processing time.
        inputs: The columns that conditions and measures read.
        pattern: The pattern.
        measures: What is sent of each match, by name; the row at hand is the last one of the match.
        late_tag: Side output for late rows; None: they are only counted.
        holds_time: Whether the watermark goes on later by the time that a match may take, so that no match is late.
    """

    schema: pa.Schema
    keys: tuple[str, ...]
    time: tuple[str, int] | None
    inputs: tuple[str, ...]
    pattern: Pattern
    measures: tuple[tuple[str, Formula], ...]
    late_tag: str | None = None
    holds_time: bool = False


@dataclass(frozen=True, slots=True)
class Match(OperatorFactory):
    """Finds the matches of a pattern among the rows of each key, in the order of time.

    Semantics are those of SQL:2016's MATCH_RECOGNIZE with ONE ROW PER MATCH: from each start the preferred path alone
    is a match, quantifiers give rows back for a row that does not fit, and starts are tried in order. As in Flink no
    rows are given back because no more can come, at the end of the input or of the time that a match may take.

    Args:
        config: What is looked for.

    Raises:
        SchemaError: The input takes rows back, a column is missing, or a measure has the name of a key.

    Guarantee: every match among the rows that are not late is sent once, whatever the order in which rows of different
    times arrive. Late rows are counted (`late_rows`) and dropped.
    """

    config: MatchConfig

    def __post_init__(self) -> None:
        config = self.config
        if is_updating(config.schema):
            raise SchemaError(
                "a pattern cannot be looked for in a stream that takes rows back",
                hint="look for it before the aggregation, or in the changes: .to_changelog()",
            )
        key_types(config.schema, config.keys)
        check_time_column(config.schema, "" if config.time is None else config.time[0])
        names = self.output_schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"the result has two columns '{twice[0]}'", hint="give the measure another name")

    @property
    def output_schema(self) -> pa.Schema:
        """Key columns, then measures."""
        keys = [self.config.schema.field(name).with_type(kind) for name, kind in self._key_types]
        measures = [pa.field(name, formula.expression.type) for name, formula in self.config.measures]
        return pa.schema([*keys, *measures])

    @property
    def _key_types(self) -> tuple[tuple[str, pa.DataType], ...]:
        return key_types(self.config.schema, self.config.keys)

    def create(self) -> MatchOperator:
        """Make the operator of one subtask."""
        return MatchOperator(self.config, self.output_schema)

    @property
    def description(self) -> str:
        """For `explain()`: "match start down+ up by shop"."""
        measures = ", ".join(name for name, _ in self.config.measures)
        return f"match {self.config.pattern.description} by {', '.join(self.config.keys)}: {measures}"

    @property
    def vectorised(self) -> bool:
        """Whether all conditions and measures are computed by kernels alone."""
        formulas = [*self.config.pattern.formulas, *(formula for _, formula in self.config.measures)]
        return all(formula.expression.vectorised for formula in formulas)

    @property
    def stateful(self) -> bool:
        """It keeps rows."""
        return True


class MatchOperator(TimedOperator):
    """One subtask.

    Args:
        config: What is looked for.
        schema: Of the result.
    """

    def __init__(self, config: MatchConfig, schema: pa.Schema) -> None:
        column, offset_us = config.time or ("", 0)
        super().__init__(key_types(config.schema, config.keys), column, config.time is None, config.late_tag)
        self._config = config
        self._schema = schema
        self._offset_us = offset_us
        fields = [pa.field(f"key${name}", kind) for name, kind in self._keys]
        self._kept_keys = tuple(field.name for field in fields)
        self._kept_schema = kept_schema(fields, [config.schema.field(name) for name in config.inputs])

    def open(self, context: OperatorContext) -> None:
        """Open the tables, and take back how far time had come."""
        super().open(context)
        config = self._config
        if config.time is not None:
            self._waiting = WaitingRows(context, config.schema, config.keys, self._time_column)
        within_us = config.pattern.within_us
        self._kept = KeptRows(context, self._kept_schema, self._kept_keys, within_us, _END_US)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Let the rows wait for the watermark; without event time, it is their turn when they come."""
        if not batch.num_rows:
            return
        times_us = self._times_us(batch)
        if self._config.time is None:
            self._match(batch, times_us, int(times_us[0]) - 1, out)
            return
        marks = self._progress.watermarks(self._key_arrays(batch))
        late: Mask = times_us + self._offset_us <= (self._progress.watermark_us if marks is None else marks)
        if late.any():
            self._set_late_aside(np.flatnonzero(late), batch, out)
            batch, times_us = batch.filter(pa.array(~late)), times_us[~late]
        self._waiting.add(batch, times_us)

    def advance(self, time_us: int, out: Output) -> None:
        """Match the rows that time has passed, then close the starts for which no more rows can come."""
        closed_us = time_us - self._offset_us if WATERMARK_MIN_US < time_us < WATERMARK_MAX_US else time_us
        if self._config.time is not None:
            chunks = self._waiting.take(closed_us, _CHUNK_ROWS, whole_times=False)
            chunk = next(chunks, None)
            while chunk is not None:
                following = next(chunks, None)
                # Rows of the last time may go on in the next chunk; behind the last chunk there are none.
                known_us = closed_us if following is None else int(chunk[1][-1]) - 1
                self._match(*chunk, known_us, out)
                chunk = following
        for keys in self._kept.due(closed_us, _CHUNK_ROWS):
            self._match_again(keys, closed_us, out)
        self._progress.advance(time_us)

    def passed_watermark(self, timestamp_us: int) -> int:
        """Matches are sent when they are decided, which may be as long after their last row as a match may take."""
        within_us = self._config.pattern.within_us
        if not self._config.holds_time or within_us is None or timestamp_us == WATERMARK_MAX_US:
            return timestamp_us
        return max(timestamp_us - within_us, WATERMARK_MIN_US)

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """Put the rows that wait into the state."""
        if self._config.time is not None:
            self._waiting.store()
        return ()

    def _match(self, batch: pa.RecordBatch, times_us: Rows, closed_us: int, out: Output) -> None:
        """Rows whose turn has come, in the order of time."""
        chunk = Chunk.of(batch, times_us, self._config.keys)
        columns = [key.take(pa.array(chunk.groups)) for key in chunk.keys]
        columns += [batch.column(name) for name in self._config.inputs]
        columns += [pa.array(times_us), pa.array(np.ones(len(times_us), np.int8))]
        new = pa.RecordBatch.from_arrays(columns, schema=self._kept_schema)
        self._advance_keys(chunk.keys, new, chunk.groups, closed_us, out)

    def _match_again(self, keys: list[pa.Array], closed_us: int, out: Output) -> None:
        """Keys of which no rows have come, but time has."""
        nothing = pa.RecordBatch.from_pylist([], schema=self._kept_schema)
        self._advance_keys(keys, nothing, np.zeros(0, np.int64), closed_us, out)

    def _advance_keys(
        self, keys: list[pa.Array], new: pa.RecordBatch, groups: Rows, closed_us: int, out: Output
    ) -> None:
        """Match the kept rows of some keys with new ones behind them."""
        held, kept = self._kept.find(keys)
        both = pa.concat_batches([kept, new])
        groups = np.concatenate([held.rows, groups])
        order = sorted_rows(groups, [])
        ordered = both.take(pa.array(order))
        pattern = self._config.pattern
        times_us = ordered.column(TIME).to_numpy()
        rows = KeyRows(ordered, groups[order], times_us, pattern.within_us, (closed_us, _END_US))
        found = find_matches(pattern, rows, ordered.column(IS_START).to_numpy() != 0)
        self._send(rows, ordered, found, out)
        self._remember(held.ids, new, rows, found, positions(order))

    def _send(self, rows: KeyRows, ordered: pa.RecordBatch, found: Found, out: Output) -> None:
        """Results in the order of their last rows' times."""
        if not len(found.starts):
            return
        lasts = found.ends - 1
        by_time = np.lexsort((found.starts, ordered.column(TIME).to_numpy()[lasts]))
        lasts = lasts[by_time]
        columns = [ordered.column(name).take(pa.array(lasts)) for name in self._kept_keys]
        for _, formula in self._config.measures:
            columns.append(
                rows.values(formula, lasts, lambda n: (found.spans[n][0][by_time], found.spans[n][1][by_time]))
            )
        out.emit(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def _remember(self, held: Rows, new: pa.RecordBatch, rows: KeyRows, found: Found, places: Rows) -> None:
        """Keep the rows of each key from its first open start on."""
        first_open = np.full(len(rows), len(rows), np.int64)
        open_rows = np.flatnonzero(found.open)[::-1]
        first_open[rows.key_ends[open_rows] - 1] = open_rows  # the last that is written is the first row
        stays = np.arange(len(rows)) >= first_open[rows.key_ends - 1]
        starts = stays if self._config.pattern.skip.to is not SkipTo.NEXT_ROW else found.open
        of_held, of_new = places[: len(held)], places[len(held) :]
        add = stays[of_new]
        if add.any():
            kept = new.filter(pa.array(add))
            flags = pa.array(starts[of_new][add].astype(np.int8))
            self._kept.add(kept.set_column(kept.schema.names.index(IS_START), kept.schema.field(IS_START), flags))
        if len(held):
            stay = stays[of_held]
            self._kept.set_starts(held[stay], starts[of_held][stay])
            self._kept.remove(held[~stay])
