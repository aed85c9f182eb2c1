"""What a condition says about single columns: comparisons that hold wherever it is true, for sources to skip by."""

from __future__ import annotations

from typing import Any, Final, Literal

import pyarrow as pa

from lakeward.dsl.expressions.logic import AND, BETWEEN, CLOSED, EQUAL, GREATER, GREATER_EQUAL, LESS, LESS_EQUAL
from lakeward.dsl.expressions.nodes import Alias, Call, Column, Function, IsIn, Node
from lakeward.dsl.expressions.nodes import Literal as Constant
from lakeward.engine.api.expression import Comparison

Operator = Literal["==", "<", "<=", ">", ">="]

_OPERATORS: Final[dict[Function, Operator]] = {
    EQUAL: "==",
    LESS: "<",
    LESS_EQUAL: "<=",
    GREATER: ">",
    GREATER_EQUAL: ">=",
}
_TURNED: Final[dict[Operator, Operator]] = {"==": "==", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_KERNELS: Final[dict[str, Operator]] = {"less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">="}


def comparisons_of(node: Node, schema: pa.Schema) -> tuple[Comparison, ...]:
    """Comparisons of columns with constants that hold for every row for which a condition is true.

    >>> from lakeward.dsl.expressions import col
    >>> condition = (col("a") > 3) & col("b").is_in(["x", "z"]) & (col("a") != 7)
    >>> [str(one) for one in comparisons_of(condition.node, pa.schema({"a": pa.int64(), "b": pa.string()}))]
    ['a > 3', 'b >= x', 'b <= z']

    Args:
        node: The condition; it was bound to the schema.
        schema: The input's.
    """
    if isinstance(node, Alias):
        return comparisons_of(node.operand, schema)
    if isinstance(node, IsIn):
        return _within(node, schema)
    if not isinstance(node, Call):
        return ()
    if node.function is AND:
        return tuple(one for arg in node.args for one in comparisons_of(arg, schema))
    if node.function is BETWEEN:
        column, low, high = node.args
        above, below = (_KERNELS[name] for name in CLOSED[node.params[0] if node.params else "both"])
        return (*_comparison(column, above, low, schema), *_comparison(column, below, high, schema))
    if node.function not in _OPERATORS:
        return ()
    operator = _OPERATORS[node.function]
    left, right = node.args
    return _comparison(left, operator, right, schema) or _comparison(right, _TURNED[operator], left, schema)


def _comparison(column: Node, operator: Operator, value: Node, schema: pa.Schema) -> tuple[Comparison, ...]:
    if not isinstance(column, Column) or not isinstance(value, Constant) or column.name not in schema.names:
        return ()
    exact = _exactly(value.value, schema.field(column.name).type)
    return () if exact is None else (Comparison(column.name, operator, exact),)


def _within(node: IsIn, schema: pa.Schema) -> tuple[Comparison, ...]:
    """Not below the least of the values, not above the greatest."""
    known: list[Any] = [one.value.as_py() for one in node.values]
    if not known or None in known or any(one != one for one in known) or len({type(one) for one in known}) > 1:
        return ()
    low, high = (node.values[known.index(end(known))] for end in (min, max))
    return (*_comparison(node.operand, ">=", low, schema), *_comparison(node.operand, "<=", high, schema))


def _exactly(value: pa.Scalar, kind: pa.DataType) -> pa.Scalar | None:
    """A constant in a column's type, if that changes nothing about it."""
    if not value.is_valid:
        return None
    try:
        cast = value.cast(kind)
        return cast if cast.cast(value.type).equals(value) else None
    except (pa.ArrowException, ValueError):
        return None
