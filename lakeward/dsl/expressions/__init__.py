"""Expressions: columns computed from columns, checked against a schema and compiled to Arrow kernels."""

from lakeward.dsl.expressions.expr import (
    Constant,
    Expr,
    Then,
    When,
    as_column,
    bind_columns,
    coalesce,
    col,
    concat_str,
    evaluate,
    from_epoch,
    greatest,
    least,
    lit,
    when,
)

__all__ = [
    "Constant",
    "Expr",
    "Then",
    "When",
    "as_column",
    "bind_columns",
    "coalesce",
    "col",
    "concat_str",
    "evaluate",
    "from_epoch",
    "greatest",
    "least",
    "lit",
    "when",
]
