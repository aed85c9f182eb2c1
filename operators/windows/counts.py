"""Aggregates over count windows; how rows are counted says `lakeward.operators.windows.count_operator`."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.changelog import updating
from lakeward.engine.api.operator import OperatorFactory
from lakeward.operators.aggregate import BoundAggregate
from lakeward.operators.windows.accumulate import Aggregates
from lakeward.operators.windows.count_operator import CountAssigner as CountAssigner
from lakeward.operators.windows.count_operator import CountConfig, CountOperator
from lakeward.operators.windows.early import Trigger
from lakeward.operators.windows.early_counts import EarlyCountOperator
from lakeward.operators.windows.timed import KeyTypes, check_names, check_time_column, key_types


@dataclass(frozen=True, slots=True)
class CountAggregate(OperatorFactory):
    """Aggregates over count windows, by key or over the whole stream.

    The output has the key columns and the aggregates, a row a window, in the order in which the windows of a key got
    full. Which rows make a window follows from the order in which they arrive.

    Args:
        input_schema: Schema of the input.
        keys: Key columns; empty for windows of the whole stream, which must run with parallelism 1.
        time_column: The event-time column, for `first` and `last`; empty: they go by the order of arrival.
        window: The windows.
        aggregates: What to compute.
        trigger: When windows send results before they are full; the output is then an updating stream.

    Raises:
        SchemaError: A column is missing, or an output name comes twice.
    """

    input_schema: pa.Schema
    keys: tuple[str, ...]
    time_column: str
    window: CountAssigner
    aggregates: tuple[BoundAggregate, ...]
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
        return pa.schema([*keys, *(aggregate.field for aggregate in self.aggregates)])

    def create(self) -> CountOperator:
        """Make the operator of one subtask."""
        config = CountConfig(self.key_types, self.time_column, self.window, self._plain_schema)
        aggregates = Aggregates(self.aggregates)
        if self.trigger is None:
            return CountOperator(config, aggregates)
        return EarlyCountOperator(config, aggregates, self.trigger)

    @property
    def description(self) -> str:
        """For `explain()`: rows, keys and aggregates."""
        by = f" by {', '.join(self.keys)}" if self.keys else ""
        early = f" ({self.trigger.description})" if self.trigger else ""
        return f"{self.window.description}{early}{by}: {', '.join(a.description for a in self.aggregates)}"

    @property
    def stateful(self) -> bool:
        """It keeps the windows that are not full."""
        return True
