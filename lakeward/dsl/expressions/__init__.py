"""Expressions: columns computed from columns, checked against a schema and compiled to Arrow kernels."""

from lakeward.dsl.expressions.expr import Constant, Expr, as_column, col, evaluate, lit
from lakeward.dsl.expressions.functions import (
    Then,
    When,
    coalesce,
    concat_str,
    duration,
    from_epoch,
    greatest,
    least,
    struct,
    when,
)
from lakeward.dsl.expressions.projection import bind_columns
from lakeward.dsl.expressions.udf import Udf, udf, vectorised_udf

__all__ = [
    "Constant",
    "Expr",
    "Then",
    "Udf",
    "When",
    "as_column",
    "bind_columns",
    "coalesce",
    "col",
    "concat_str",
    "duration",
    "evaluate",
    "from_epoch",
    "greatest",
    "least",
    "lit",
    "struct",
    "udf",
    "vectorised_udf",
    "when",
]
