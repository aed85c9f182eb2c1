"""Deduplication: one row a key, the first or the last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import is_updating, updating
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.api.state import TableSpec
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.grouping import plain
from lakeward.operators.ranking.best_row import BestRowConfig, BestRowOperator
from lakeward.operators.ranking.changes import narrowed_schema, some_columns
from lakeward.operators.ranking.order import SortColumn, check_order
from lakeward.operators.windows.timed import KeyTypes, key_types


@dataclass(frozen=True, slots=True)
class Deduplicate(OperatorFactory):
    """Keeps one row of each key. Null is a key like any other.

    The first row by arrival is sent when it comes, and never changes: an append-only stream. Otherwise a row that takes
    the place of another is sent as -U of the old and +U of the new row, once a key and batch.

    Args:
        schema: Schema of the input, append-only.
        keys: Key columns.
        keep: "first" or "last".
        order_by: The column that says what is first and last; None: arrival. Of equal rows the first keeps the one that
            came first, the last the one that came last. A row without a value loses against every other one.
        update_before: Whether to send -U rows.
        columns: The columns of the result that are sent, row kinds among them; None: all.

    Raises:
        SchemaError: The input takes rows back, or a column is missing or has no order.

    Guarantee: what has been sent, applied in order, is the answer over all rows received, at any parallelism and over
    any number of restores.
    """

    schema: pa.Schema
    keys: tuple[str, ...]
    keep: str
    order_by: str | None = None
    update_before: bool = True
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if is_updating(self.schema):
            raise SchemaError(
                "deduplicate cannot take a stream that takes rows back",
                hint='rank it: .key_by(...).top_n(1, by=lw.desc("column")) takes updates',
            )
        key_types(self.schema, self.keys)
        if self.order_by is not None:
            check_order(self.schema, (SortColumn(self.order_by),))

    @property
    def is_updating(self) -> bool:
        """Whether rows are replaced."""
        return self.keep == "last" or self.order_by is not None

    @property
    def output_schema(self) -> pa.Schema:
        """Schema of the result: the input's, with row kinds if rows are replaced; or some of its columns."""
        schema = updating(self.schema) if self.is_updating else self.schema
        return schema if self.columns is None else narrowed_schema(schema, self.columns)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        if not self.is_updating:
            return FirstRowOperator(key_types(self.schema, self.keys), self.columns)
        last = self.keep == "last"
        order = () if self.order_by is None else (SortColumn(self.order_by, descending=last),)
        how = (None, self.update_before, self.columns)
        return BestRowOperator(BestRowConfig(self.schema, self.keys, order, last, *how))

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that are sent, keys, and the order."""
        return [frozenset(self._needed(sent).names)]

    def narrowed(self, columns: Sequence[str]) -> Deduplicate:
        """The same rows, of which fewer columns are kept and sent."""
        return replace(self, schema=self._needed(columns), columns=tuple(columns))

    def _needed(self, sent: Collection[str]) -> pa.Schema:
        return narrowed_schema(self.schema, sent, self.keys, None if self.order_by is None else [self.order_by])

    @property
    def description(self) -> str:
        """For `explain()`: "keep last by auction, bidder in order of dateTime"."""
        order = f" in order of {self.order_by}" if self.order_by else ""
        return f"keep {self.keep} by {', '.join(self.keys)}{order}"

    @property
    def stateful(self) -> bool:
        """It keeps the keys it has seen."""
        return True


class FirstRowOperator(Operator):
    """One subtask of keeping the first row of each key to arrive: only keys are kept.

    Args:
        keys: Name and type of the key columns.
        columns: The columns that are sent; None: all.
    """

    def __init__(self, keys: KeyTypes, columns: Sequence[str] | None = None) -> None:
        self._keys = keys
        self._columns = columns

    def open(self, context: OperatorContext) -> None:
        """Open the table of keys."""
        self._table = context.table(TableSpec("seen", self._keys))

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Send the rows whose key is new."""
        if not batch.num_rows:
            return
        keys = self._table.keys([plain(batch.column(name)) for name, _ in self._keys])
        _, new = self._table.pane().insert(keys)
        batch = some_columns(batch, self._columns)
        if new.all():
            out.emit(batch)
        elif new.any():
            out.emit(batch.take(pa.array(np.flatnonzero(new))))
