"""Aggregates as users write them: `count()`, `sum("amount")`, `max(col("bid") * 2)`.

Nulls are skipped, as in SQL: an aggregate over nothing but nulls is null, a count is 0. Every aggregate can be limited
to some rows: `count().where(col("price") < 100)`. How each type is treated (NaN, overflow, decimals) is described in
`lakeward.operators.aggregates`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from lakeward.engine.api.changelog import append_only
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.expect import expect
from lakeward.operators.aggregate import BoundAggregate, aggregate_type

if TYPE_CHECKING:
    from lakeward.dsl.expressions import Expr
    from lakeward.engine.api.expression import BoundExpression

__all__ = ["AggregateExpr", "collect", "count", "count_distinct", "first", "last", "max", "mean", "min", "sum"]


_ROW = "#row"


@dataclass(frozen=True, slots=True)
class AggregateExpr:
    """An aggregate that is not yet bound to a stream. Made by `count`, `sum` and the others.

    Args:
        kind: Which one.
        input: A column's name, an expression, or None for `count()` and `collect()`.
        condition: Only rows where it is true count; None: all. See `where`.
        whole_rows: Whether the input is made of all columns; see `of_rows`.

    Raises:
        ConfigError: The input is neither.
    """

    kind: str
    input: str | Expr | None = None
    condition: Expr | None = None
    whole_rows: bool = False

    def __post_init__(self) -> None:
        from lakeward.dsl.expressions import Expr

        if self.input is None and self.kind in ("count", "collect"):
            return
        hint = f'give a column\'s name or an expression: lw.{self.kind}("amount"), lw.{self.kind}(lw.col("a") * 2)'
        expect(self.input, (str, Expr), f"the argument of {self.kind}", hint)

    def where(self, condition: Expr) -> AggregateExpr:
        """Only rows for which a condition is true (null is not); SQL's FILTER (WHERE ...).

        >>> from lakeward import StreamExecutionEnvironment, col
        >>> stream = StreamExecutionEnvironment().from_collection([{"k": 1, "v": 5}, {"k": 1, "v": 50}])
        >>> result = stream.key_by("k").aggregate(all=count(), small=sum("v").where(col("v") < 10))
        >>> result.collect_final().to_pylist()
        [{'k': 1, 'all': 2, 'small': 5}]

        Args:
            condition: A boolean expression over the stream's columns; a second `where` narrows the first.
        """
        from lakeward.dsl.expressions import Expr

        expect(condition, Expr, "the argument of where", 'give an expression: lw.count().where(lw.col("price") < 100)')
        return replace(self, condition=condition if self.condition is None else self.condition & condition)

    def input_column(self, fallback: str) -> tuple[str | None, Expr | None]:
        """The name under which the operator finds the input, and the expression that computes it.

        Args:
            fallback: The name for an input that is no plain column.
        """
        if self.input is None:
            return None, None
        if isinstance(self.input, str):
            from lakeward.dsl.expressions import col

            return self.input, col(self.input)
        return fallback, self.input

    def bind(
        self, schema: pa.Schema, name: str, column: str | None = None, condition: str | None = None
    ) -> BoundAggregate:
        """Check the aggregate against a stream.

        >>> sum("amount").bind(pa.schema({"amount": pa.int32()}), "revenue").description
        'revenue=sum(amount)'

        Args:
            schema: The stream's schema.
            name: The result column.
            column: Where the operator finds the input, as given by `input_column`.
            condition: Where it finds the condition, a boolean column.

        Raises:
            SchemaError: There is no such column, or it has a type that cannot be aggregated so; names both.
        """
        plain = self._bind_input(schema, name, column)
        if self.condition is None:
            return plain
        bound = self.condition.bind(schema)
        if not pa.types.is_boolean(bound.type):
            raise SchemaError(f"where needs a boolean, but {bound.description} is {bound.type}")
        return replace(plain, condition=condition or f"__where_{name}", condition_label=bound.description)

    def _bind_input(self, schema: pa.Schema, name: str, column: str | None) -> BoundAggregate:
        bound = self.of_rows(schema).bind_input(schema)
        if bound is None:
            source = self.input if isinstance(self.input, str) else ""
            kind = _column_type(schema, source) if source else None
            return BoundAggregate(name, self.kind, source or None, kind, aggregate_type(self.kind, kind, source))
        label = "*" if self.whole_rows else bound.description
        output = aggregate_type(self.kind, bound.type, label)
        return BoundAggregate(name, self.kind, column or f"__in_{name}", bound.type, output, label)

    def of_rows(self, schema: pa.Schema) -> AggregateExpr:
        """The aggregate with the whole rows of a stream, as structs, for its input, if it has none and needs one."""
        from lakeward.dsl.expressions import col, struct

        if self.kind != "collect" or self.input is not None:
            return self
        row = struct(**{name: col(name) for name in append_only(schema).names})
        return replace(self, input=row, whole_rows=True)

    def bind_input(self, schema: pa.Schema) -> BoundExpression | None:
        """The input's expression, checked; None for `count()` and for a plain column."""
        if self.input is None or isinstance(self.input, str):
            return None
        return self.input.bind(schema)


@dataclass(frozen=True, slots=True)
class AggregateInputs:
    """Aggregates bound to a stream, and the columns that they need of it.

    Args:
        aggregates: In the order in which they were given.
        columns: Input columns and conditions, each distinct expression once; what is computed has a name that no
            column of the stream has.
    """

    aggregates: tuple[BoundAggregate, ...]
    columns: dict[str, Expr]


def bind_aggregates(
    aggregates: Mapping[str, AggregateExpr], schema: pa.Schema, taken: Collection[str]
) -> AggregateInputs:
    """Check aggregates against a stream, and give what they compute on the way a column each.

    The columns are named after the expressions, not after the aggregates, and so is the state that is kept of them: a
    job that is restored with an aggregate more finds the state of the others again.

    Args:
        aggregates: By name of the result column.
        schema: The stream's schema.
        taken: Names of other result columns.

    Raises:
        SchemaError: An aggregate does not fit its column, or a name is taken.
        ConfigError: One is no aggregate.
    """
    columns: dict[str, Expr] = {}
    bound = []
    for name, aggregate in with_rows(aggregates, schema).items():
        expect(aggregate, AggregateExpr, f"the aggregate '{name}'", 'give for example lw.sum("amount") or lw.count()')
        if name in taken:
            raise SchemaError(f"the result already has a column '{name}'")
        column = (
            None if aggregate.input is None else _input_column(aggregate, _as_expr(aggregate.input), columns, schema)
        )
        condition = aggregate.condition
        where = None if condition is None else _column_of(condition, "__where", columns, schema)
        bound.append(aggregate.bind(schema, name, column, where))
    return AggregateInputs(tuple(bound), columns)


def with_rows(aggregates: Mapping[str, AggregateExpr], schema: pa.Schema) -> dict[str, AggregateExpr]:
    """The aggregates, those of whole rows with the rows of a stream."""
    return {name: one.of_rows(schema) if isinstance(one, AggregateExpr) else one for name, one in aggregates.items()}


def _as_expr(given: str | Expr) -> Expr:
    from lakeward.dsl.expressions import col

    return col(given) if isinstance(given, str) else given


def _input_column(aggregate: AggregateExpr, expression: Expr, columns: dict[str, Expr], schema: pa.Schema) -> str:
    if aggregate.whole_rows:  # under a name that stays when the stream gets another column
        name = _free(_ROW, schema.names)
        columns[name] = expression
        return name
    return _column_of(expression, "__in", columns, schema)


def _column_of(expression: Expr, prefix: str, columns: dict[str, Expr], schema: pa.Schema) -> str:
    """The name of an expression's column, new or shared."""
    if expression.source is not None:
        columns.setdefault(expression.source, _as_expr(expression.source))
        return expression.source
    shared = next((name for name, known in columns.items() if known.equals(expression)), None)
    if shared is not None:
        return shared
    name = _free(f"{prefix}({expression})", [*columns, *schema.names])
    columns[name] = expression
    return name


def _free(name: str, taken: Collection[str]) -> str:
    while name in taken:
        name += "'"
    return name


def _column_type(schema: pa.Schema, name: str) -> pa.DataType:
    if name not in schema.names:
        raise SchemaError(f"there is no column '{name}'", hint=f"there are {', '.join(schema.names)}")
    return schema.field(name).type


def count(x: str | Expr | None = None) -> AggregateExpr:
    """How many rows; with an argument, how many rows where it is not null. Never null.

    >>> count().bind(pa.schema({"a": pa.int64()}), "n").output_type
    DataType(int64)

    Args:
        x: A column's name or an expression.
    """
    return AggregateExpr("count", x)


def sum(x: str | Expr) -> AggregateExpr:
    """The sum: of integers as int64 (an overflow fails the job), of floats as float64, of decimals with 38 digits.

    >>> sum("amount").bind(pa.schema({"amount": pa.decimal128(9, 2)}), "revenue").output_type
    Decimal128Type(decimal128(38, 2))

    Args:
        x: A column's name or an expression; integer, float or decimal.
    """
    return AggregateExpr("sum", x)


def min(x: str | Expr) -> AggregateExpr:
    """The least value: of numbers, booleans, timestamps, dates, strings (by their UTF-8 bytes).

    >>> min("shop").bind(pa.schema({"shop": pa.string()}), "first_shop").output_type
    DataType(string)

    Args:
        x: A column's name or an expression.
    """
    return AggregateExpr("min", x)


def max(x: str | Expr) -> AggregateExpr:
    """The greatest value; as `min`. NaN counts as greater than every number.

    >>> max("price").bind(pa.schema({"price": pa.float32()}), "highest").output_type
    DataType(float)

    Args:
        x: A column's name or an expression.
    """
    return AggregateExpr("max", x)


def mean(x: str | Expr) -> AggregateExpr:
    """The average: float64, or for decimals a decimal, with six digits after the point or their own scale.

    >>> mean("price").bind(pa.schema({"price": pa.int64()}), "average").output_type
    DataType(double)

    Args:
        x: A column's name or an expression; integer, float or decimal.
    """
    return AggregateExpr("mean", x)


def first(x: str | Expr) -> AggregateExpr:
    """The value of the row with the lowest event time; among equal times, of the first to arrive. Skips nulls.

    >>> first("state").bind(pa.schema({"state": pa.string()}), "opened_as").description
    'opened_as=first(state)'

    Args:
        x: A column's name or an expression, of any type.
    """
    return AggregateExpr("first", x)


def last(x: str | Expr) -> AggregateExpr:
    """The value of the row with the highest event time; among equal times, of the last to arrive. Skips nulls.

    >>> last("state").bind(pa.schema({"state": pa.string()}), "state").field.nullable
    True

    Args:
        x: A column's name or an expression, of any type.
    """
    return AggregateExpr("last", x)


def count_distinct(x: str | Expr) -> AggregateExpr:
    """How many different values, exactly; nulls are not counted. Keeps every value in state until the window is gone.

    >>> count_distinct("user").bind(pa.schema({"user": pa.int64()}), "users").output_type
    DataType(int64)

    Args:
        x: A column's name or an expression; any type that has an order.
    """
    return AggregateExpr("count_distinct", x)


def collect(x: str | Expr | None = None) -> AggregateExpr:
    """The values themselves as a list, duplicates too; without an argument whole rows, as structs. Skips nulls.

    They are in the order of event time; among equal times, and in streams (and windows of processing time) without
    event time, in the order in which they arrived. SQL's ARRAY_AGG, Spark's collect_list.

    >>> from lakeward import StreamExecutionEnvironment
    >>> visits = [{"user": 1, "page": "home"}, {"user": 1, "page": "cart"}, {"user": 1, "page": "home"}]
    >>> stream = StreamExecutionEnvironment().from_collection(visits)
    >>> stream.key_by("user").aggregate(pages=collect("page")).collect_final().to_pylist()
    [{'user': 1, 'pages': ['home', 'cart', 'home']}]

    All values are kept in state, and a result has all of them, however many: for windows, whose values go with them,
    and for keys with few rows.

    Args:
        x: A column's name or an expression, of any type; None: all columns of the stream.
    """
    return AggregateExpr("collect", x)
