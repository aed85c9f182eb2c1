"""`Expr`: what users write. A thin, immutable face over the tree, with Python's operators and Polars' names."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn
from typing import Literal as Choice

import pyarrow as pa

from lakeward.dsl.expressions import conditional, digests
from lakeward.dsl.expressions.binding import bind
from lakeward.dsl.expressions.casts import CAST
from lakeward.dsl.expressions.nodes import (
    Alias,
    Call,
    Column,
    Function,
    IsIn,
    Node,
    columns_of,
    literal,
    output_name,
    source_of,
)
from lakeward.dsl.expressions.number_methods import NumberMethods
from lakeward.dsl.expressions.operator_methods import OperatorMethods
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.row_types import arrow_type
from lakeward.engine.core.errors import GraphError

if TYPE_CHECKING:
    from lakeward.dsl.expressions.namespaces import (
        JsonNamespace,
        ListNamespace,
        MapNamespace,
        StructNamespace,
    )
    from lakeward.dsl.expressions.text_namespace import StringNamespace
    from lakeward.dsl.expressions.time_namespace import TimeNamespace

Constant = bool | int | float | str | bytes | Decimal | datetime | date | time | timedelta | None
"""A Python value that stands for itself in an expression."""

Text = str
"""`str` for annotations inside `Expr`, where that name is the namespace of text functions."""


class Expr(OperatorMethods, NumberMethods):
    """A column computed from columns: `col("price") * 2 > 100`.

    Immutable; says what to compute, of which input is decided by `bind`. Constants need no `lit()` beside an
    expression, and take the type of what they meet if it can hold them: `col("small") + 1` stays int8. Text inside of
    an expression is a constant, unlike in Polars; where a verb or an aggregate wants columns (`select("a")`,
    `sum("a")`), it is a column's name.

    Rules that hold everywhere:

    - **Null**: arithmetic, comparisons and functions of null are null; `&` and `|` follow SQL (false & null is false,
      true | null is true); a filter keeps rows whose condition is true.
    - **NaN** equals nothing in comparisons, itself neither (IEEE 754; Polars says otherwise): ask `is_nan()`. All NaNs
      are one value in `is_in` and `list.contains`, as keys, in rankings and among different values.
    - **Integers** never wrap around: an overflow is an error that shows the values.
    - **Division**: `/` gives a float, x / 0 inf or nan (decimals: an error); `//` rounds down and `%` has the
      divisor's sign, as in Python and Polars (SQL's cut toward zero); an integer division by zero is an error, which
      `when(b != 0).then(a // b)` and `a // b.null_if(0)` avoid.
    - **Decimals** are exact, with SQL's digits (a product has those of both sides); what 38 cannot hold is an error.
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

    def _call(self, function: Function, *args: Expr | Constant, params: tuple[Any, ...] = ()) -> Expr:
        return Expr(Call(function, (self._node, *(to_node(arg) for arg in args)), params))

    def _called_by(self, function: Function, left: Expr | Constant) -> Expr:
        return Expr(Call(function, (to_node(left), self._node)))

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

    def is_in(self, values: Iterable[Constant]) -> Expr:
        """Whether the value is one of these constants, NaN being one of NaN; null stays null.

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
        return self._call(conditional.IS_NULL)

    def is_not_null(self) -> Expr:
        """Whether the value is not null.

        >>> evaluate(col("a").is_not_null(), a=[1, None])
        [True, False]
        """
        return self._call(conditional.IS_NOT_NULL)

    def fill_null(self, value: Expr | Constant) -> Expr:
        """The value, or another where it is null.

        >>> evaluate(col("a").fill_null(0), a=[1, None])
        [1, 0]
        """
        return self._call(conditional.FILL_NULL, value)

    def null_if(self, value: Expr | Constant) -> Expr:
        """The value, or null where it equals another.

        >>> evaluate(lit(12) // col("a").null_if(0), a=[5, 0])
        [2, None]
        """
        return self._call(conditional.NULL_IF, value)

    # Types and namespaces

    def hash(self, *others: Expr) -> Expr:
        """The engine's own hash of one or several values, int64; the same on every platform and in every version.

        Null has a hash too. Equal integers of different widths hash alike.

        >>> evaluate(col("a").hash(), a=[0, None])
        [-2152535657050944081, -7286425919675154353]
        """
        return self._call(digests.HASH, *others)

    def cast(self, type: Any, errors: Choice["raise", "null"] = "raise") -> Expr:
        """The value in another type.

        Fractions are cut off toward zero, times are rounded down, text is parsed (numbers; ISO 8601 times, UTC unless
        they say otherwise; true, false, 1, 0). For other formats of time see `.str.strptime`. A decimal with fewer
        digits after the point is rounded, halves away from zero as in SQL; a float becomes the nearest decimal. A value
        that does not fit is a `RecordError`, which names it.

        >>> evaluate(col("a").cast("int", errors="null"), a=["12", "x", None])
        [12, None, None]
        >>> evaluate((lit(Decimal("0.908")) * col("price")).cast("decimal(23, 2)"), price=[125, 3])
        [Decimal('113.50'), Decimal('2.72')]

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
        from lakeward.dsl.expressions.text_namespace import StringNamespace

        return StringNamespace(self._node)

    @property
    def dt(self) -> TimeNamespace:
        """Functions of times.

        >>> evaluate(col("at").dt.year(), at=[datetime(2026, 7, 1)])
        [2026]
        """
        from lakeward.dsl.expressions.time_namespace import TimeNamespace

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

    @property
    def map(self) -> MapNamespace:
        """Functions of maps.

        >>> evaluate(col("tags").map.get("env"), tags=pa.array([[("env", "test")]], pa.map_(pa.string(), pa.string())))
        ['test']
        """
        from lakeward.dsl.expressions.namespaces import MapNamespace

        return MapNamespace(self._node)

    @property
    def json(self) -> JsonNamespace:
        """Functions of JSON text.

        >>> evaluate(col("doc").json.get("$.user.id", int), doc=['{"user": {"id": 7}}'])
        [7]
        """
        from lakeward.dsl.expressions.namespaces import JsonNamespace

        return JsonNamespace(self._node)


def to_node(value: Expr | Constant) -> Node:
    """The tree of an expression, or of a constant."""
    return value.node if isinstance(value, Expr) else literal(value)


def apply_function(function: Function, *args: Expr | Constant) -> Expr:
    """A call of a function."""
    return Expr(Call(function, tuple(to_node(arg) for arg in args)))


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


def evaluate(expression: Expr, /, **columns: Any) -> list[Any]:
    """Try an expression on a few rows, given as lists (or Arrow arrays) by column name.

    >>> evaluate(col("price") * 2, price=[1, None, 3])
    [2, None, 6]
    """
    batch = pa.record_batch(columns)
    values: list[Any] = expression.bind(batch.schema).evaluate(batch).to_pylist()
    return values
