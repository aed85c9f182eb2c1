"""The expression tree: plain frozen data, with its text. It knows neither schemas nor kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakeward.engine.core.errors import GraphError

if TYPE_CHECKING:
    from lakeward.dsl.expressions.compiled import Compiled


_KEEPS_LIT = frozenset(["==", "!=", "<", "<=", ">", ">=", "**"])
"""Operators that Python would turn around, or bind differently, with a bare constant on their left."""


class Style(Enum):
    """How a call is written."""

    INFIX = "infix"
    PREFIX = "prefix"
    METHOD = "method"
    FUNCTION = "function"


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """An operation that expressions call; one object each, compared by identity.

    Args:
        name: As written: "+", "str.upper", "coalesce".
        style: Where the name stands.
        compile: Checks the arguments' types and makes the column computation.
        keywords: How the last of the fixed parameters are called, where they are written with their names.
        decodes: Whether a value that it cannot take is a `RecordError` (a cast, a parse) rather than a `UserCodeError`.
        costly: Whether a row costs so much (a regular expression, a Python function) that when() and coalesce() first
            choose the rows that need it.
        row_by_row: Whether it calls a function of the user's for every row.
        users: Whether it calls one at all.
    """

    name: str
    style: Style
    compile: Callable[[Call, Sequence[Compiled]], Compiled]
    keywords: tuple[str, ...] = ()
    decodes: bool = False
    costly: bool = False
    row_by_row: bool = False
    users: bool = False


class Node:
    """A part of an expression. Equality is structural."""

    __slots__ = ()

    @property
    def children(self) -> tuple[Node, ...]:
        """The parts it is made of."""
        return ()


@dataclass(frozen=True, slots=True)
class Column(Node):
    """A column of the input."""

    name: str

    def __str__(self) -> str:
        return f"col({quoted(self.name)})"


@dataclass(frozen=True, slots=True)
class Literal(Node):
    """A constant. Without a type of its own (`typed` False) it takes the type of what it meets, if that can hold it."""

    type: pa.DataType
    text: str
    typed: bool
    value: pa.Scalar = field(compare=False)

    def __str__(self) -> str:
        return f"lit({self.text}, {self.type})" if self.typed else f"lit({self.text})"


@dataclass(frozen=True, slots=True)
class Call(Node):
    """A function applied to parts; `params` are fixed when the expression is written."""

    function: Function
    args: tuple[Node, ...]
    params: tuple[Any, ...] = ()

    @property
    def children(self) -> tuple[Node, ...]:
        """The arguments."""
        return self.args

    def __str__(self) -> str:
        name, style = self.function.name, self.function.style
        if style is Style.INFIX:
            left, right = self.args
            explicit = isinstance(left, Literal) and (isinstance(right, Literal) or name in _KEEPS_LIT)
            return f"{left if explicit else operand(left)} {name} {operand(right)}"
        if style is Style.PREFIX:
            return f"{name}{receiver(self.args[0])}"
        inside = [inner(arg) for arg in self.args[1:]] if style is Style.METHOD else self._listed()
        listed = ", ".join(inside + self._parameters())
        return f"{receiver(self.args[0])}.{name}({listed})" if style is Style.METHOD else f"{name}({listed})"

    def _listed(self) -> list[str]:
        """The arguments of a function; as lit the text that it would refuse, since a column may be meant."""
        alone = all(isinstance(arg, Literal) for arg in self.args)
        refused = self.args if alone else self.args[:-1] if self.function.name == "coalesce" else ()
        texts = [pa.types.is_string(arg.type) if isinstance(arg, Literal) else False for arg in refused]
        texts += [False] * (len(self.args) - len(texts))
        return [str(arg) if text else inner(arg) for arg, text in zip(self.args, texts, strict=True)]

    def _parameters(self) -> list[str]:
        """The fixed parameters; those that are None are left out."""
        words = self.function.keywords
        heads = [""] * (len(self.params) - len(words)) + [f"{word}=" for word in words[: len(self.params)]]
        pairs = zip(heads, self.params, strict=True)
        return [f"{head}{parameter(value)}" for head, value in pairs if value is not None]


@dataclass(frozen=True, slots=True)
class Case(Node):
    """The value of the first branch whose condition is true."""

    branches: tuple[tuple[Node, Node], ...]
    otherwise: Node | None

    @property
    def children(self) -> tuple[Node, ...]:
        """Values, then conditions: the first value names the column."""
        values = [value for _, value in self.branches]
        last = [] if self.otherwise is None else [self.otherwise]
        return (*values, *last, *(condition for condition, _ in self.branches))

    def __str__(self) -> str:
        text = ".".join(f"when({inner(cond)}).then({inner(value)})" for cond, value in self.branches)
        return text if self.otherwise is None else f"{text}.otherwise({inner(self.otherwise)})"


@dataclass(frozen=True, slots=True)
class IsIn(Node):
    """Whether a value is one of a list of constants."""

    operand: Node
    values: tuple[Literal, ...]

    @property
    def children(self) -> tuple[Node, ...]:
        """The tested value."""
        return (self.operand,)

    def __str__(self) -> str:
        return f"{receiver(self.operand)}.is_in([{', '.join(inner(value) for value in self.values)}])"


@dataclass(frozen=True, slots=True)
class Alias(Node):
    """A value with the name of the column it becomes."""

    operand: Node
    name: str

    @property
    def children(self) -> tuple[Node, ...]:
        """The value."""
        return (self.operand,)

    def __str__(self) -> str:
        return f"{receiver(self.operand)}.alias({quoted(self.name)})"


def literal(value: Any, kind: pa.DataType | None = None) -> Literal:
    """The node of a constant.

    Raises:
        GraphError: No Arrow type holds the value.
    """
    if isinstance(value, pa.Scalar):
        scalar = value if kind is None else value.cast(kind)
        return Literal(scalar.type, _scalar_text(scalar), True, scalar)
    plain = value.item() if hasattr(value, "item") and not isinstance(value, pa.Scalar) else value
    try:
        scalar = pa.scalar(plain, type=kind or _natural_type(plain))
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        wanted = f" of type {kind}" if kind is not None else ""
        raise GraphError(f"{value!r} cannot be a literal{wanted}: {error}") from error
    return Literal(scalar.type, literal_text(plain), kind is not None, scalar)


def _natural_type(value: Any) -> pa.DataType | None:
    """The type of an instant is always microseconds UTC; the rest is left to Arrow."""
    if isinstance(value, datetime):
        return pa.timestamp("us", tz="UTC" if value.tzinfo is not None else None)
    return None


def _scalar_text(scalar: pa.Scalar) -> str:
    """The text of an Arrow value; it must tell values apart, and Python's times have no nanoseconds."""
    return str(scalar.cast(pa.int64())) if getattr(scalar.type, "unit", "") == "ns" else literal_text(scalar.as_py())


def quoted(text: str) -> str:
    """Text in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def literal_text(value: Any) -> str:
    """A constant as one writes it in Python."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, datetime | date | time | timedelta):
        return repr(value).removeprefix("datetime.").replace("datetime.timezone.utc", "UTC")
    return repr(value)


def parameter(value: Any) -> str:
    """A fixed parameter as one writes it."""
    if isinstance(value, pa.DataType):
        return quoted(str(value))
    return literal_text(value)


def inner(node: Node) -> str:
    """A part between brackets: plain constants stand bare."""
    return node.text if isinstance(node, Literal) and not node.typed else str(node)


def operand(node: Node) -> str:
    """A part beside an operator."""
    if isinstance(node, Call) and node.function.style in (Style.INFIX, Style.PREFIX):
        return f"({node})"
    return inner(node) if _bare(node) else str(node)


def _bare(node: Node) -> bool:
    """Whether a constant may stand without lit(): what it is next to turns it into one."""
    if not isinstance(node, Literal):
        return False
    return isinstance(node.value.as_py(), bool | int | float | str | bytes | Decimal | None)


def receiver(node: Node) -> str:
    """A part before a dot."""
    return f"({node})" if isinstance(node, Call) and node.function.style in (Style.INFIX, Style.PREFIX) else str(node)


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, first to last."""
    yield node
    for child in node.children:
        yield from walk(child)


def columns_of(node: Node) -> frozenset[str]:
    """The input columns that an expression reads."""
    return frozenset(part.name for part in walk(node) if isinstance(part, Column))


def row_by_row(node: Node) -> bool:
    """Whether a function of the user's is called for every row."""
    return any(isinstance(part, Call) and part.function.row_by_row for part in walk(node))


def calls_users(node: Node) -> bool:
    """Whether a function of the user's is called."""
    return any(isinstance(part, Call) and part.function.users for part in walk(node))


def repeated(roots: Sequence[Node]) -> frozenset[Node]:
    """The parts, except columns and constants, that occur more than once in one or several expressions.

    What lies inside of a part that occurs again is not counted again: computing the part once computes it once.
    """
    seen: set[Node] = set()
    again: set[Node] = set()
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if isinstance(node, Column | Literal):
            continue
        if node in seen:
            again.add(node)
        else:
            seen.add(node)
            waiting.extend(node.children)
    return frozenset(again)


def output_name(node: Node) -> str | None:
    """The name of the column that an expression becomes: its alias, else its first column's; None without either."""
    return next((part.name for part in walk(node) if isinstance(part, Alias | Column)), None)


def source_of(node: Node) -> str | None:
    """The column that a node passes on unchanged."""
    while isinstance(node, Alias):
        node = node.operand
    return node.name if isinstance(node, Column) else None
