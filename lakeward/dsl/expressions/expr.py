"""`Expr`: what users write. A thin, immutable face over the tree, with Python's operators and Polars' names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from typing import Literal as Choice

import pyarrow as pa

from lakeward.dsl.expressions import arithmetic as ops
from lakeward.dsl.expressions import conditional, strings, temporal
from lakeward.dsl.expressions.binding import bind
from lakeward.dsl.expressions.casts import CAST
from lakeward.dsl.expressions.nodes import (
    Alias,
    Call,
    Case,
    Column,
    Function,
    IsIn,
    Node,
    columns_of,
    literal,
    output_name,
    source_of,
)
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.row_types import arrow_type
from lakeward.engine.core.errors import GraphError

if TYPE_CHECKING:
    from lakeward.dsl.expressions.namespaces import ListNamespace, StringNamespace, StructNamespace, TimeNamespace

Constant = bool | int | float | str | bytes | Decimal | datetime | date | time | timedelta | None
"""A Python value that stands for itself in an expression."""

Text = str
"""`str` for annotations inside `Expr`, where that name is the namespace of text functions."""


class Expr:
    """A column computed from columns: `col("price") * 2 > 100`.

    Immutable; says what to compute, of which input is decided by `bind`. Constants need no `lit()` beside an
    expression, and take the type of what they meet if it can hold them: `col("small") + 1` stays int8.

    Rules that hold everywhere:

    - **Null**: arithmetic, comparisons and functions of null are null; `&` and `|` follow SQL (false & null is false,
      true | null is true); a filter keeps rows whose condition is true.
    - **Integers** never wrap around: an overflow is an error that shows the values.
    - **Division**: `/` gives a float, x / 0 inf or nan (decimals: an error); `//` rounds down and `%` has the
      divisor's sign, as in Python and Polars (SQL's cut toward zero); an integer division by zero is an error, which
      `when(b != 0).then(a // b)` and `a // b.null_if(0)` avoid.
    - **Types** are checked when the graph is built: text is never turned into numbers, nor numbers into text, unasked.

    >>> total = col("price") * col("quantity")
    >>> str(total > 100)
    '(col("price") * col("quantity")) > 100'
    >>> batch = pa.record_batch({"price": [30.0, 9.5], "quantity": [4, 2]})
    >>> (total > 100).bind(batch.schema).evaluate(batch).to_pylist()
    [True, False]
    """

    __slots__ = ("_node",)
    __array_ufunc__: ClassVar[None] = None  # numpy scalars leave their operators to ours

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def node(self) -> Node:
        """The tree."""
        return self._node

    def __str__(self) -> Text:
        return str(self._node)

    def __repr__(self) -> Text:
        return str(self._node)

    def __hash__(self) -> int:
        return hash(self._node)

    def equals(self, other: Expr) -> bool:
        """Whether both are written the same (`==` builds a comparison instead).

        >>> (col("a") + 1).equals(col("a") + 1), (col("a") + 1).equals(col("a") + 1.0)
        (True, False)
        """
        return self._node == other._node

    def columns(self) -> frozenset[Text]:
        """The input columns that it reads.

        >>> sorted((col("a") + col("b")).columns())
        ['a', 'b']
        """
        return columns_of(self._node)

    @property
    def name(self) -> Text:
        """The name of the column it becomes: its alias, else the name of the first column in it.

        >>> (col("price") * 2).name, (col("price") * 2).alias("double").name
        ('price', 'double')

        Raises:
            GraphError: It is made of constants only, and has no alias.
        """
        found = output_name(self._node)
        if found is None:
            raise GraphError(f"{self} has no name", hint='give it one: .alias("name")')
        return found

    @property
    def source(self) -> Text | None:
        """The input column that this is, unchanged but maybe for its name; None when something is computed.

        >>> col("a").alias("b").source, (col("a") + 1).source
        ('a', None)
        """
        return source_of(self._node)

    def bind(self, schema: pa.Schema) -> BoundExpression:
        """Check against a schema and compile, once, for use with any batch of it.

        >>> bound = (col("price") * 2).bind(pa.schema({"price": pa.int32()}))
        >>> bound.type, bound.columns, bound.description
        (DataType(int32), frozenset({'price'}), 'col("price") * 2')

        Args:
            schema: The input's schema.

        Returns:
            The compiled expression.

        Raises:
            SchemaError: A column does not exist, or an operation does not take its operands' types.
            GraphError: A constant part cannot be computed, or a parameter (a regular expression, a format) is wrong.
        """
        return bind(self._node, schema)

    def alias(self, name: Text) -> Expr:
        """Name the column that this becomes.

        >>> str((col("a") + 1).alias("next"))
        '(col("a") + 1).alias("next")'
        """
        return Expr(Alias(self._node, name))

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"the truth of an expression is known only row by row: {self}\n"
            "  hint: use & for and, | for or, ~ for not, .between() for a < x < b, .is_in() for in, when() for if; "
            "put comparisons in brackets: (a > 1) & (b > 2)"
        )

    def __iter__(self) -> NoReturn:
        raise TypeError(f"an expression has no elements: {self}")

    def __contains__(self, value: object) -> NoReturn:
        raise TypeError(f"whether {self} holds a value is known only row by row\n  hint: write .is_in([...])")

    # Arithmetic

    def __add__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.ADD, self, other)

    def __radd__(self, other: Constant) -> Expr:
        return _binary(ops.ADD, other, self)

    def __sub__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.SUBTRACT, self, other)

    def __rsub__(self, other: Constant) -> Expr:
        return _binary(ops.SUBTRACT, other, self)

    def __mul__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.MULTIPLY, self, other)

    def __rmul__(self, other: Constant) -> Expr:
        return _binary(ops.MULTIPLY, other, self)

    def __truediv__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.TRUE_DIVIDE, self, other)

    def __rtruediv__(self, other: Constant) -> Expr:
        return _binary(ops.TRUE_DIVIDE, other, self)

    def __floordiv__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.FLOOR_DIVIDE, self, other)

    def __rfloordiv__(self, other: Constant) -> Expr:
        return _binary(ops.FLOOR_DIVIDE, other, self)

    def __mod__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.MODULO, self, other)

    def __rmod__(self, other: Constant) -> Expr:
        return _binary(ops.MODULO, other, self)

    def __pow__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.POWER, self, other)

    def __rpow__(self, other: Constant) -> Expr:
        return _binary(ops.POWER, other, self)

    def __neg__(self) -> Expr:
        return _call(ops.NEGATE, self)

    # Comparison and logic

    def __eq__(self, other: Expr | Constant) -> Expr:  # type: ignore[override]
        return _binary(ops.EQUAL, self, other)

    def __ne__(self, other: Expr | Constant) -> Expr:  # type: ignore[override]
        return _binary(ops.NOT_EQUAL, self, other)

    def __lt__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.LESS, self, other)

    def __le__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.LESS_EQUAL, self, other)

    def __gt__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.GREATER, self, other)

    def __ge__(self, other: Expr | Constant) -> Expr:
        return _binary(ops.GREATER_EQUAL, self, other)

    def __and__(self, other: Expr | bool) -> Expr:
        return _binary(ops.AND, self, other)

    def __rand__(self, other: bool) -> Expr:
        return _binary(ops.AND, other, self)

    def __or__(self, other: Expr | bool) -> Expr:
        return _binary(ops.OR, self, other)

    def __ror__(self, other: bool) -> Expr:
        return _binary(ops.OR, other, self)

    def __xor__(self, other: Expr | bool) -> Expr:
        return _binary(ops.XOR, self, other)

    def __rxor__(self, other: bool) -> Expr:
        return _binary(ops.XOR, other, self)

    def __invert__(self) -> Expr:
        return _call(ops.NOT, self)

    def between(self, low: Expr | Constant, high: Expr | Constant) -> Expr:
        """Whether low <= value <= high.

        >>> evaluate(col("a").between(2, 3), a=[1, 2, 3, 4, None])
        [False, True, True, False, None]
        """
        return _call(ops.BETWEEN, self, low, high)

    def is_in(self, values: Iterable[Constant]) -> Expr:
        """Whether the value is one of these constants; null stays null.

        >>> evaluate(col("a").is_in(["x", "y"]), a=["x", "z", None])
        [True, False, None]

        Raises:
            GraphError: `values` is text (did you mean a list with one text?) or an expression.
        """
        if isinstance(values, Text | bytes | Expr):
            raise GraphError(f"is_in takes a list of constants, not {values!r}", hint="write .is_in([...])")
        return Expr(IsIn(self._node, tuple(literal(value) for value in values)))

    # Null

    def is_null(self) -> Expr:
        """Whether the value is null.

        >>> evaluate(col("a").is_null(), a=[1, None])
        [False, True]
        """
        return _call(conditional.IS_NULL, self)

    def is_not_null(self) -> Expr:
        """Whether the value is not null.

        >>> evaluate(col("a").is_not_null(), a=[1, None])
        [True, False]
        """
        return _call(conditional.IS_NOT_NULL, self)

    def is_nan(self) -> Expr:
        """Whether a number is "not a number".

        >>> evaluate(col("a").is_nan(), a=[1.5, float("nan"), None])
        [False, True, None]
        """
        return _call(ops.IS_NAN, self)

    def fill_null(self, value: Expr | Constant) -> Expr:
        """The value, or another where it is null.

        >>> evaluate(col("a").fill_null(0), a=[1, None])
        [1, 0]
        """
        return _call(conditional.FILL_NULL, self, value)

    def null_if(self, value: Expr | Constant) -> Expr:
        """The value, or null where it equals another.

        >>> evaluate(lit(12) // col("a").null_if(0), a=[5, 0])
        [2, None]
        """
        return _call(conditional.NULL_IF, self, value)

    # Numbers

    def abs(self) -> Expr:
        """The distance from zero, of a number or a duration.

        >>> evaluate(col("a").abs(), a=[-3, 3])
        [3, 3]
        """
        return _call(ops.ABS, self)

    def round(self, digits: int = 0) -> Expr:
        """Rounded to so many digits after the point; halves go to the even neighbour, as in Python.

        >>> evaluate(col("a").round(1), a=[1.25, 1.35, -2.0])
        [1.2, 1.4, -2.0]
        """
        return Expr(Call(ops.ROUND, (self._node,), (digits,) if digits else ()))

    def floor(self) -> Expr:
        """The next whole number down, in the same type.

        >>> evaluate(col("a").floor(), a=[1.5, -1.5])
        [1.0, -2.0]
        """
        return _call(ops.FLOOR, self)

    def ceil(self) -> Expr:
        """The next whole number up, in the same type.

        >>> evaluate(col("a").ceil(), a=[1.5, -1.5])
        [2.0, -1.0]
        """
        return _call(ops.CEIL, self)

    def sqrt(self) -> Expr:
        """The square root; nan of negative numbers.

        >>> evaluate(col("a").sqrt(), a=[9.0])
        [3.0]
        """
        return _call(ops.SQRT, self)

    def exp(self) -> Expr:
        """Euler's number to the power of the value.

        >>> evaluate(col("a").exp(), a=[0.0])
        [1.0]
        """
        return _call(ops.EXP, self)

    def ln(self) -> Expr:
        """The natural logarithm; -inf of zero, nan of negative numbers.

        >>> evaluate(col("a").ln(), a=[1.0])
        [0.0]
        """
        return _call(ops.LN, self)

    def log10(self) -> Expr:
        """The logarithm to base 10.

        >>> evaluate(col("a").log10(), a=[1000.0])
        [3.0]
        """
        return _call(ops.LOG10, self)

    # Types and namespaces

    def cast(self, type: Any, errors: Choice["raise", "null"] = "raise") -> Expr:
        """The value in another type.

        Fractions are cut off toward zero, times are rounded down, text is parsed (numbers; ISO 8601 times, UTC unless
        they say otherwise; true, false, 1, 0). For other formats of time see `.str.strptime`.

        >>> evaluate(col("a").cast("int", errors="null"), a=["12", "x", None])
        [12, None, None]

        Args:
            type: A name ("int64", "double", "timestamp", "decimal(10, 2)"), a Python type (int, float, datetime) or a
                pyarrow type. Names and Python types mean the widest: int is int64, float is double.
            errors: "raise", or "null" for null where a value does not fit.

        Raises:
            SchemaError: There is no such type.
            GraphError: `errors` is something else.
        """
        if errors not in ("raise", "null"):
            raise GraphError(f'errors is "raise" or "null", not {errors!r}')
        fallback = None if errors == "raise" else errors
        return Expr(Call(CAST, (self._node,), (arrow_type(type, f"cast of {self}"), fallback)))

    @property
    def str(self) -> StringNamespace:
        """Functions of text.

        >>> evaluate(col("name").str.upper(), name=["ann"])
        ['ANN']
        """
        from lakeward.dsl.expressions.namespaces import StringNamespace

        return StringNamespace(self._node)

    @property
    def dt(self) -> TimeNamespace:
        """Functions of times.

        >>> evaluate(col("at").dt.year(), at=[datetime(2026, 7, 1)])
        [2026]
        """
        from lakeward.dsl.expressions.namespaces import TimeNamespace

        return TimeNamespace(self._node)

    @property
    def struct(self) -> StructNamespace:
        """Fields of structs.

        >>> evaluate(col("user").struct.field("id"), user=[{"id": 7}])
        [7]
        """
        from lakeward.dsl.expressions.namespaces import StructNamespace

        return StructNamespace(self._node)

    @property
    def list(self) -> ListNamespace:
        """Functions of lists.

        >>> evaluate(col("tags").list.length(), tags=[["a", "b"]])
        [2]
        """
        from lakeward.dsl.expressions.namespaces import ListNamespace

        return ListNamespace(self._node)


def to_node(value: Expr | Constant) -> Node:
    """The tree of an expression, or of a constant."""
    return value.node if isinstance(value, Expr) else literal(value)


def _call(function: Function, *args: Expr | Constant) -> Expr:
    return Expr(Call(function, tuple(to_node(arg) for arg in args)))


def _binary(function: Function, left: Expr | Constant, right: Expr | Constant) -> Expr:
    return Expr(Call(function, (to_node(left), to_node(right))))


def col(name: str) -> Expr:
    """A column of the input.

    >>> evaluate(col("a"), a=[1, None])
    [1, None]

    Args:
        name: Its name; whether it exists is checked when the expression meets a schema.
    """
    if not isinstance(name, str):
        raise GraphError(f"a column's name is text, not {name!r}", hint="for a constant write lit(...)")
    return Expr(Column(name))


def as_column(value: str | Expr) -> Expr:
    """A column's name as the column; an expression as it is.

    >>> as_column("a").equals(col("a"))
    True

    Raises:
        GraphError: It is neither.
    """
    if isinstance(value, str | Expr):
        return col(value) if isinstance(value, str) else value
    raise GraphError(f"{value!r} is neither a column's name nor an expression", hint=f"for a constant: lit({value!r})")


def lit(value: Any, type: Any = None) -> Expr:
    """A constant.

    >>> evaluate(lit(2) ** col("a"), a=[3, 10])
    [8, 1024]
    >>> lit(1, "int8").bind(pa.schema({"a": pa.int64()})).type
    DataType(int8)

    Args:
        value: Any Python value that Arrow has a type for, or a pyarrow scalar.
        type: Its type, as for `Expr.cast`. Without one it is the value's own (int64, double, string, ...) and gives way
            to the type of what the constant meets.

    Raises:
        GraphError: Arrow has no type for it, or it does not fit the type.
    """
    return Expr(literal(value, None if type is None else arrow_type(type, f"lit({value!r})")))


def coalesce(*values: Expr | Constant) -> Expr:
    """The first value that is not null; a later one is asked for only where all earlier ones are null.

    >>> evaluate(coalesce(col("a"), col("b"), 0), a=[1, None, None], b=[5, 6, None])
    [1, 6, 0]
    """
    return _call(conditional.COALESCE, *_some("coalesce", values))


def greatest(*values: Expr | Constant) -> Expr:
    """The greatest value of each row, leaving nulls out.

    >>> evaluate(greatest(col("a"), col("b")), a=[1, None, None], b=[5, 6, None])
    [5, 6, None]
    """
    return _call(conditional.GREATEST, *_some("greatest", values))


def least(*values: Expr | Constant) -> Expr:
    """The least value of each row, leaving nulls out.

    >>> evaluate(least(col("a"), col("b")), a=[1, None, None], b=[5, 6, None])
    [1, 6, None]
    """
    return _call(conditional.LEAST, *_some("least", values))


def _some(name: str, values: Sequence[Expr | Constant]) -> Sequence[Expr | Constant]:
    if not values:
        raise GraphError(f"{name}() needs at least one value")
    return values


def concat_str(*values: Expr | Constant, separator: str = "", ignore_nulls: bool = False) -> Expr:
    """Text joined with a separator; null where a part is null, unless nulls are left out.

    >>> evaluate(concat_str(col("a"), col("b"), separator="-"), a=["x", None], b=["y", "z"])
    ['x-y', None]
    >>> evaluate(concat_str(col("a"), col("b"), separator="-", ignore_nulls=True), a=["x", None], b=["y", "z"])
    ['x-y', 'z']
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


def evaluate(expression: Expr, /, **columns: Any) -> list[Any]:
    """Try an expression on a few rows, given as lists (or Arrow arrays) by column name.

    >>> evaluate(col("price") * 2, price=[1, None, 3])
    [2, None, 6]
    """
    batch = pa.record_batch(columns)
    values: list[Any] = expression.bind(batch.schema).evaluate(batch).to_pylist()
    return values


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
    bound = tuple((name, expression.bind(schema)) for name, expression in columns.items())
    return bound, pa.schema([_field(name, each, schema) for name, each in bound], metadata=schema.metadata)


def _field(name: str, bound: BoundExpression, schema: pa.Schema) -> pa.Field:
    if bound.reference is None:
        return pa.field(name, bound.type)
    return schema.field(bound.reference).with_name(name)
