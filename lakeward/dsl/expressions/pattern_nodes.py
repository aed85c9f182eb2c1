"""Parts of expressions that stand only in the conditions and measures of a pattern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from lakeward.dsl.expressions.nodes import Alias, Call, Case, Column, IsIn, Node, inner, quoted, walk


@dataclass(frozen=True, slots=True)
class RowsOf(Node):
    """A value of the rows that are mapped to variables.

    Args:
        variables: Their names; none: all.
        function: "first", "last" or an aggregate's name.
        operand: What is computed of each row; None for the count of rows.
        offset: How many rows to go on from the first, or back from the last.
    """

    variables: tuple[str, ...]
    function: str
    operand: Node | None = None
    offset: int = 0

    @property
    def children(self) -> tuple[Node, ...]:
        """What is computed of each row."""
        return () if self.operand is None else (self.operand,)

    def __str__(self) -> str:
        given = [] if self.operand is None else [_given(self.operand)]
        given += [str(self.offset)] if self.offset else []
        return f"var({', '.join(map(quoted, self.variables))}).{self.function}({', '.join(given)})"


@dataclass(frozen=True, slots=True)
class MatchTime(Node):
    """The time of a match."""

    def __str__(self) -> str:
        return "match_time()"


def _given(operand: Node) -> str:
    """A column stands by its name."""
    return quoted(operand.name) if isinstance(operand, Column) else inner(operand)


def refers_to_rows(node: Node) -> bool:
    """Whether something in an expression stands only in patterns."""
    return any(isinstance(part, RowsOf | MatchTime) for part in walk(node))


def replaced(node: Node, by: Callable[[RowsOf | MatchTime], Node]) -> Node:
    """The same expression with other parts instead of those that stand only in patterns."""
    match node:
        case RowsOf() | MatchTime():
            return by(node)
        case Call():
            return replace(node, args=tuple(replaced(arg, by) for arg in node.args))
        case Case():
            branches = tuple((replaced(one, by), replaced(value, by)) for one, value in node.branches)
            otherwise = None if node.otherwise is None else replaced(node.otherwise, by)
            return replace(node, branches=branches, otherwise=otherwise)
        case IsIn() | Alias():
            return replace(node, operand=replaced(node.operand, by))
    return node
