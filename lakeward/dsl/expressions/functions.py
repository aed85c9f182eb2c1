"""Functions that make expressions: of several columns, of choices, of numbers that mean times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal as Choice

from lakeward.dsl.expressions import conditional, nested, strings, temporal
from lakeward.dsl.expressions.expr import Constant, Expr, apply_function, col, evaluate, lit, to_node  # noqa: F401
from lakeward.dsl.expressions.nodes import Call, Case, Node
from lakeward.engine.core.errors import GraphError


def coalesce(*values: Expr | Constant) -> Expr:
    """The first value that is not null; a later one is asked for only where all earlier ones are null.

    >>> evaluate(coalesce(col("a"), col("b"), 0), a=[1, None, None], b=[5, 6, None])
    [1, 6, 0]

    Args:
        values: Expressions and constants. Text is a constant, as everywhere in an expression: `col("a")` is the column.

    Raises:
        GraphError: Text stands before another value, which would never be asked for.
    """
    for value in values[:-1]:
        if isinstance(value, str):
            raise GraphError(
                f"coalesce() never asks for what comes behind the text {value!r}", hint=_column_hint(value)
            )
    return apply_function(conditional.COALESCE, *_some("coalesce", values))


def greatest(*values: Expr | Constant) -> Expr:
    """The greatest value of each row, leaving nulls out.

    >>> evaluate(greatest(col("a"), col("b")), a=[1, None, None], b=[5, 6, None])
    [5, 6, None]

    Args:
        values: Expressions and constants; text is a constant, and `col("a")` the column.

    Raises:
        GraphError: There is nothing but text.
    """
    return apply_function(conditional.GREATEST, *_some("greatest", values))


def least(*values: Expr | Constant) -> Expr:
    """The least value of each row, leaving nulls out.

    >>> evaluate(least(col("a"), col("b")), a=[1, None, None], b=[5, 6, None])
    [1, 6, None]

    Args:
        values: Expressions and constants; text is a constant, and `col("a")` the column.

    Raises:
        GraphError: There is nothing but text.
    """
    return apply_function(conditional.LEAST, *_some("least", values))


def _some(name: str, values: Sequence[Expr | Constant]) -> Sequence[Expr | Constant]:
    if not values:
        raise GraphError(f"{name}() needs at least one value")
    if all(isinstance(value, str) for value in values):
        raise GraphError(f"{name}() is given text alone", hint=_column_hint(values[0]))
    return values


def _column_hint(text: object) -> str:
    return f"text is a constant in an expression: write lw.col({text!r}) for the column, lw.lit({text!r}) for the text"


def concat_str(*values: Expr | Constant, separator: str = "", ignore_nulls: bool = False) -> Expr:
    """Text joined with a separator; null where a part is null, unless nulls are left out.

    >>> evaluate(concat_str(col("a"), col("b"), separator="-"), a=["x", None], b=["y", "z"])
    ['x-y', None]
    >>> evaluate(concat_str(col("a"), col("b"), separator="-", ignore_nulls=True), a=["x", None], b=["y", "z"])
    ['x-y', 'z']
    >>> evaluate(concat_str("no. ", col("a").cast("string")), a=[7])
    ['no. 7']

    Args:
        values: Expressions and constants; text is a constant, and `col("a")` the column.
        separator: What stands between them.
        ignore_nulls: Whether parts that are null are left out.

    Raises:
        GraphError: There is nothing but text.
    """
    nodes = tuple(to_node(value) for value in _some("concat_str", values))
    return Expr(Call(strings.CONCAT_STR, nodes, (separator, ignore_nulls)))


def from_epoch(value: Expr, unit: Choice["s", "ms", "us", "ns"] = "ms") -> Expr:
    """An instant (microseconds UTC) from a count since 1970.

    >>> evaluate(from_epoch(col("a"), unit="s").dt.strftime("%Y-%m-%d %H:%M"), a=[1_700_000_000])
    ['2023-11-14 22:13']

    Args:
        value: An integer column.
        unit: What it counts.
    """
    return Expr(Call(temporal.FROM_EPOCH, (to_node(value),), (unit,)))


class When:
    """A condition that waits for its value: `when(...)` gives it, `.then(...)` goes on.

    >>> evaluate(when(col("a") > 1).then("many"), a=[2, 1])
    ['many', None]
    """

    __slots__ = ("_branches", "_condition")

    def __init__(self, branches: tuple[tuple[Node, Node], ...], condition: Expr | bool) -> None:
        self._branches = branches
        self._condition = condition

    def then(self, value: Expr | Constant) -> Then:
        """The value where the condition is true; text is a constant, not a column's name.

        >>> evaluate(when(col("a") > 1).then(col("a") * 10), a=[2, 1])
        [20, None]
        """
        return Then((*self._branches, (to_node(self._condition), to_node(value))))


class Then(Expr):
    """A choice that may go on with `.when()` or end with `.otherwise()`; as it is, the other rows are null.

    >>> evaluate(when(col("a") > 1).then("many").otherwise("few"), a=[2, 1])
    ['many', 'few']
    """

    __slots__ = ("_branches",)

    def __init__(self, branches: tuple[tuple[Node, Node], ...]) -> None:
        super().__init__(Case(branches, None))
        self._branches = branches

    def when(self, condition: Expr | bool) -> When:
        """One more condition, for rows where the earlier ones are not true.

        >>> evaluate(when(col("a") > 9).then("big").when(col("a") > 1).then("some"), a=[10, 5, 1])
        ['big', 'some', None]
        """
        return When(self._branches, condition)

    def otherwise(self, value: Expr | Constant) -> Expr:
        """The value of the other rows.

        >>> evaluate(when(col("a") > 1).then(col("a")).otherwise(0), a=[2, 1])
        [2, 0]
        """
        return Expr(Case(self._branches, to_node(value)))


def when(condition: Expr | bool) -> When:
    """The value of the first condition that is true (null is not).

    A value that cannot be computed fails only in rows that take it.

    >>> size = when(col("a") > 9).then(lit("big")).when(col("a") > 1).then("some").otherwise("none")
    >>> evaluate(size, a=[10, 5, 0, None])
    ['big', 'some', 'none', 'none']
    >>> evaluate(when(col("a") != 0).then(12 // col("a")), a=[5, 0])
    [2, None]
    """
    return When((), condition)


def duration(value: Expr, unit: Choice["us", "ms", "s", "m", "h", "d"] = "s") -> Expr:
    """A duration (microseconds) from a count, to add to a time or to compare with a difference of times.

    >>> from datetime import datetime
    >>> evaluate(col("at") + duration(col("n"), unit="m"), at=[datetime(2026, 1, 1)], n=[90])
    [datetime.datetime(2026, 1, 1, 1, 30)]

    Args:
        value: An integer column.
        unit: What it counts.
    """
    return Expr(Call(temporal.DURATION, (to_node(value),), (unit,)))


def struct(**fields: Expr | Constant) -> Expr:
    """A struct of these fields.

    >>> evaluate(struct(x=col("a"), y=1), a=[7, None])
    [{'x': 7, 'y': 1}, {'x': None, 'y': 1}]

    Args:
        fields: Expressions and constants by name; text is a constant, and `col("a")` the column.
    """
    if not fields:
        raise GraphError("struct() needs at least one value")
    nodes = tuple(to_node(value) for value in fields.values())
    return Expr(Call(nested.STRUCT, nodes, tuple(fields)))
