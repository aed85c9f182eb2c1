"""What conditions and measures of a pattern say of the rows that are mapped to its variables."""

from __future__ import annotations

from dataclasses import dataclass

from lakeward.dsl.expressions.expr import Expr, as_column, col  # noqa: F401 (col: for the examples)
from lakeward.dsl.expressions.nodes import Node
from lakeward.dsl.expressions.pattern_nodes import MatchTime, RowsOf, refers_to_rows
from lakeward.engine.core.errors import GraphError
from lakeward.engine.core.expect import expect, expect_whole


@dataclass(frozen=True, slots=True)
class VariableRows:
    """The rows that are mapped to one or several variables of a pattern. Made by `var`.

    Values are computed of the rows so far, in a condition including the row at hand if it is tried as one of them, and
    in a measure of all rows of the match. They are null where there are none; counts are 0.

    >>> var("down").last("price", 1)
    var("down").last("price", 1)

    Args:
        variables: Their names; none: all of the pattern.
    """

    variables: tuple[str, ...]

    def first(self, x: str | Expr, n: int = 0) -> Expr:
        """The value of the first row, or of the n-th after it: SQL's `FIRST(A.price, n)`.

        >>> var("a").first("price")
        var("a").first("price")

        Args:
            x: A column's name, or an expression over the row.
            n: How many rows to go on from the first.
        """
        return self._value("first", x, n)

    def last(self, x: str | Expr, n: int = 0) -> Expr:
        """The value of the last row, or of the n-th before it: SQL's `LAST(A.price, n)`; `A.price` is `.last("price")`.

        >>> var().last("price", 1)
        var().last("price", 1)

        Args:
            x: A column's name, or an expression over the row.
            n: How many rows to go back from the last.
        """
        return self._value("last", x, n)

    def count(self, x: str | Expr | None = None) -> Expr:
        """How many rows there are, or with an argument how many of them have a value.

        >>> var("a").count() >= 3
        var("a").count() >= 3
        """
        return self._aggregate("count", x)

    def sum(self, x: str | Expr) -> Expr:
        """The sum of a column or an expression; exact for integers and decimals.

        >>> var("a").sum(col("price") * col("quantity"))
        var("a").sum(col("price") * col("quantity"))
        """
        return self._aggregate("sum", x)

    def mean(self, x: str | Expr) -> Expr:
        """The average: a float, or of decimals a decimal.

        >>> var("a").mean("price") < 10_000
        var("a").mean("price") < 10000
        """
        return self._aggregate("mean", x)

    def min(self, x: str | Expr) -> Expr:
        """The least value.

        >>> var("a", "b").min("price")
        var("a", "b").min("price")
        """
        return self._aggregate("min", x)

    def max(self, x: str | Expr) -> Expr:
        """The greatest value; NaN is greater than every number.

        >>> var("a").max("price")
        var("a").max("price")
        """
        return self._aggregate("max", x)

    def _value(self, function: str, x: str | Expr, n: int) -> Expr:
        expect_whole(n, f"{function}: n", least=0)
        return Expr(RowsOf(self.variables, function, _row_value(x), n))

    def _aggregate(self, function: str, x: str | Expr | None) -> Expr:
        return Expr(RowsOf(self.variables, function, None if x is None else _row_value(x)))


def var(*names: str) -> VariableRows:
    """The rows of a pattern's variable, in conditions and measures: `var("down").last("price", 1)`.

    >>> rising = col("price") > var("up").last("price", 1)
    >>> rising
    col("price") > var("up").last("price", 1)

    Args:
        names: The variable; several, for the rows of all of them (SQL's SUBSET); none, for all rows of the match.

    Returns:
        What has `first`, `last`, `count`, `sum`, `mean`, `min` and `max`.
    """
    for name in names:
        expect(name, str, "a variable of a pattern", 'give its name: lw.var("down")')
    return VariableRows(names)


def match_time() -> Expr:
    """The time of a match, in measures: the event time of its last row (SQL's `MATCH_ROWTIME()`).

    >>> match_time()
    match_time()
    """
    return Expr(MatchTime())


def _row_value(x: str | Expr) -> Node:
    expression = as_column(x)
    if refers_to_rows(expression.node):
        hint = 'compute with it outside: lw.var("a").last("price") - lw.var("b").last("price")'
        raise GraphError(f"{expression} refers to a pattern's rows inside of another reference", hint=hint)
    return expression.node
