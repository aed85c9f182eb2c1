"""The expressions of a projection, bound together."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from lakeward.dsl.expressions.binding import bind_all
from lakeward.dsl.expressions.expr import Expr, col  # noqa: F401 (col: for the example)
from lakeward.engine.api.expression import BoundExpression


def bind_columns(
    columns: Mapping[str, Expr], schema: pa.Schema
) -> tuple[tuple[tuple[str, BoundExpression], ...], pa.Schema]:
    """Bind the expressions of a projection and work out the schema it makes.

    A column that is passed on unchanged keeps its nullability and metadata.

    >>> _, made = bind_columns({"twice": col("a") * 2}, pa.schema({"a": pa.int32()}))
    >>> made
    twice: int32

    Args:
        columns: Output names with their expressions, in order.
        schema: The input's schema; its metadata goes on to the output's.

    Returns:
        The pairs for `lakeward.operators.stateless.Project`, and the output schema.

    Raises:
        SchemaError: As `Expr.bind`.
    """
    bound = bind_all([expression.node for expression in columns.values()], schema)
    fields = [_field(name, each, schema) for name, each in zip(columns, bound, strict=True)]
    return tuple(zip(columns, bound, strict=True)), pa.schema(fields, metadata=schema.metadata)


def _field(name: str, bound: BoundExpression, schema: pa.Schema) -> pa.Field:
    if bound.reference is None:
        return pa.field(name, bound.type)
    return schema.field(bound.reference).with_name(name)
