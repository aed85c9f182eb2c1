"""Aggregates over session windows; how sessions are found says `lakeward.operators.windows.session_operator`."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.changelog import updating
from lakeward.engine.api.operator import OperatorFactory
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.windows.accumulate import Aggregates
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.early_sessions import EarlySessionOperator
from lakeward.operators.windows.session_operator import SessionAssigner as SessionAssigner
from lakeward.operators.windows.session_operator import SessionConfig, SessionOperator
from lakeward.operators.windows.timed import (
    WINDOW_END,
    WINDOW_START,
    KeyTypes,
    check_names,
    check_time_column,
    key_types,
    time_type,
)


@dataclass(frozen=True, slots=True)
class SessionAggregate(OperatorFactory):
    """Aggregates over session windows, by key or over the whole stream.

    The output has the key columns, `window_start` (the first event time), `window_end` (the last one plus the gap), and
    the aggregates. Without lateness and trigger each session is emitted exactly once, when the watermark has
    passed its end.

    Args:
        input_schema: Schema of the input.
        keys: Key columns; empty for sessions of the whole stream, which must run with parallelism 1.
        time_column: The event-time column; empty for processing time.
        window: The sessions.
        aggregates: What to compute.
        allowed_lateness_us: How long after a session's end rows still change it.
        late_tag: Side output for late rows.
        trigger: When sessions send results before their end; the output is then an updating stream, known by the keys
            and both bounds.

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
        return self._plain_schema if self.trigger is None else updating(self._plain_schema)

    @property
    def _plain_schema(self) -> pa.Schema:
        keys = [self.input_schema.field(name).with_type(kind) for name, kind in self.key_types]
        kind = time_type(self.input_schema, self.time_column)
        bounds = [pa.field(name, kind, nullable=False) for name in (WINDOW_START, WINDOW_END)]
        return pa.schema([*keys, *bounds, *(aggregate.field for aggregate in self.aggregates)])

    def create(self) -> SessionOperator:
        """Make the operator of one subtask."""
        config = SessionConfig(
            self.key_types,
            self.time_column,
            self.window,
            self.allowed_lateness_us,
            self.late_tag,
            self._plain_schema,
        )
        aggregates = Aggregates(self.aggregates)
        if self.trigger is None:
            return SessionOperator(config, aggregates)
        return EarlySessionOperator(config, aggregates, self.trigger)

    @property
    def description(self) -> str:
        """For `explain()`: gap, keys and aggregates."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        early = f" ({self.trigger.description})" if self.trigger else ""
        return f"{self.window.description}{early}{by}: {', '.join(a.description for a in self.aggregates)}"

    @property
    def stateful(self) -> bool:
        """It keeps the open sessions."""
        return True
