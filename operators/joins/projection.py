"""Which columns a join needs when not all that it makes are read: the others are neither read nor kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from lakeward.engine.api.changelog import ROW_KIND
from lakeward.engine.api.expression import BoundExpression
from lakeward.operators.joins.layout import JoinLayout

if TYPE_CHECKING:
    from lakeward.operators.joins.regular import JoinInput

Inputs = tuple["JoinInput", "JoinInput"]


def read_columns(
    inputs: Inputs, layout: JoinLayout, where: BoundExpression | None, sent: Collection[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """The columns of both inputs that a join reads.

    Args:
        inputs: Left and right.
        layout: The joined rows, of both sides.
        where: The condition over them.
        sent: The columns of the result that are read further on.
    """
    needed = {*sent, *(where.columns if where is not None else ())}
    left, right = (_read(one, layout.sources(side, needed)) for side, one in enumerate(inputs))
    return left, right


def _read(one: JoinInput, sources: Sequence[str]) -> frozenset[str]:
    if one.updating and one.identity is None:
        return frozenset(one.schema.names)  # rows are told apart by all that they have
    time = () if one.time is None else (one.time.name,)
    return frozenset([*sources, *one.keys, *(one.identity or ()), *time, ROW_KIND])


def narrowed_inputs(inputs: Inputs, read: Sequence[Collection[str]]) -> Inputs:
    """The inputs with some of their columns."""
    left, right = (
        replace(one, schema=some_columns(one.schema, names)) for one, names in zip(inputs, read, strict=True)
    )
    return left, right


def narrowed_layout(layout: JoinLayout, where: BoundExpression | None, columns: Collection[str]) -> JoinLayout | None:
    """The layout with what is sent and what the condition reads; None: nothing of it is sent."""
    if not any(column.name in columns for column in layout.columns):
        return None
    return layout.only({*columns, *(where.columns if where is not None else ())})


def some_columns(schema: pa.Schema, names: Collection[str]) -> pa.Schema:
    """The fields of these names, in the schema's order."""
    return pa.schema([field for field in schema if field.name in names], metadata=schema.metadata)


def with_columns_of(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the columns of a schema, of which it may have more, in another order."""
    return batch if batch.schema.names == schema.names else batch.select(schema.names)
