"""What all joins have: two sides, the joined rows, which columns of them are needed, and what becomes of late rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import ROW_KIND, is_updating
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.operator import OperatorFactory
from lakeward.engine.api.state import RowsSpec, RowTable
from lakeward.operators.joins.layout import LEFT, RIGHT, How, JoinLayout
from lakeward.operators.joins.rows import Mask, Rows, pick
from lakeward.operators.joins.times import TimeColumn

SIDES = ("left", "right")


@dataclass(frozen=True, slots=True)
class JoinInput:
    """One side of a join.

    Args:
        schema: Of its rows.
        keys: Its key columns; of the same types, in the same order, on both sides.
        identity: The columns that tell rows of an updating input apart, the keys among them; None: whole rows.
        unique: Whether no two rows have one key at one time; the join checks it.
        time: Its event time, where the join needs one.
    """

    schema: pa.Schema
    keys: tuple[str, ...]
    identity: tuple[str, ...] | None = None
    unique: bool = False
    time: TimeColumn | None = None

    @property
    def updating(self) -> bool:
        """Whether it takes rows back."""
        return is_updating(self.schema)

    @property
    def event_time(self) -> TimeColumn:
        """Its event time; only of joins that need one."""
        assert self.time is not None, "this join has event time"
        return self.time

    @property
    def time_type(self) -> pa.DataType:
        """The type of its event times."""
        return self.schema.field(self.event_time.name).type

    def times_us(self, batch: pa.RecordBatch) -> Rows:
        """Event times of its rows."""
        return self.event_time.times_us(batch)

    def needed(self, sources: Collection[str]) -> frozenset[str]:
        """Its columns that are read where these are sent or looked at."""
        if self.updating and self.identity is None:
            return frozenset(self.schema.names)  # rows are told apart by all that they have
        time = () if self.time is None else (self.time.name,)
        return frozenset([*sources, *self.keys, *(self.identity or ()), *time, ROW_KIND])

    def narrowed(self, names: Collection[str]) -> JoinInput:
        """The input with some of its columns."""
        fields = [one for one in self.schema if one.name in names]
        return replace(self, schema=pa.schema(fields, metadata=self.schema.metadata))


@dataclass(frozen=True, slots=True)
class JoinFactory(OperatorFactory):
    """Base of all joins' descriptions; where these say nothing of an argument, it means what it does here.

    Args:
        inputs: Left and right.
        layout: The joined rows, of both sides, whatever is sent of them.
        how: What is sent.
        where: A further condition over the joined rows.
        columns: The columns that are sent; None: all.
    """

    inputs: tuple[JoinInput, JoinInput]
    layout: JoinLayout
    how: How = "inner"
    where: BoundExpression | None = None
    columns: tuple[str, ...] | None = field(default=None, kw_only=True)

    @property
    def sent(self) -> JoinLayout:
        """The columns of the inputs that are sent."""
        sent = self.layout.left_only() if self.how in ("semi", "anti") else self.layout
        return sent.only(self.columns)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the result."""
        return self.sent.schema

    @property
    def vectorised(self) -> bool:
        """Whether the condition is computed by kernels alone."""
        return self.where is None or self.where.vectorised

    @property
    def stateful(self) -> bool:
        """It keeps rows."""
        return True

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that are sent, and what rows are joined by."""
        needed = {*sent, *(self.where.columns if self.where is not None else ())}
        return [one.needed(self.layout.sources(side, needed)) for side, one in enumerate(self.inputs)]

    def narrowed(self, columns: Sequence[str]) -> Self | None:
        """The same join, which keeps and sends fewer columns; None where it would send none of its inputs'."""
        if not any(column.name in columns for column in self.layout.columns):
            return None
        layout = self.layout.only({*columns, *(self.where.columns if self.where is not None else ())})
        left, right = self.required_columns(frozenset(columns), ())
        inputs = (self.inputs[LEFT].narrowed(left), self.inputs[RIGHT].narrowed(right))
        return replace(self, inputs=inputs, layout=layout, columns=tuple(columns))

    def described(self, kind: str) -> str:
        """The join in a few words: "left join on auction = id where price > 3"."""
        pairs = zip(self.inputs[LEFT].keys, self.inputs[RIGHT].keys, strict=True)
        keys = ", ".join(ours if ours == theirs else f"{ours} = {theirs}" for ours, theirs in pairs)
        return f"{self.how} {kind} on {keys}" + (f" where {self.where.description}" if self.where is not None else "")


def open_tables(context: OperatorContext, inputs: tuple[JoinInput, JoinInput]) -> tuple[RowTable, RowTable]:
    """The tables of joins that keep the rows of both sides as they are."""
    specs = [RowsSpec(name, one.schema, one.keys) for name, one in zip(SIDES, inputs, strict=True)]
    return context.rows(specs[LEFT]), context.rows(specs[RIGHT])


class LateRows:
    """Counts late rows, and sends them to the side output of their side.

    Args:
        context: The operator's.
        tags: Side outputs of late left and right rows; None: they are only counted.
    """

    def __init__(self, context: OperatorContext, tags: tuple[str | None, str | None]) -> None:
        self._counter = context.counter("late_rows")
        self._tags = tags

    def set_aside(self, index: int, batch: pa.RecordBatch, late: Mask, out: Output) -> None:
        """Rows of one side have come, some of them late."""
        if late.any():
            self._counter.inc(int(np.count_nonzero(late)))
            tag = self._tags[index]
            if tag is not None:
                out.emit_side(tag, pick(batch, late))
