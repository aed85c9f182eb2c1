"""What an aggregate is once its types are settled, and which types it takes."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.core.errors import SchemaError
from lakeward.operators.aggregates.stored_types import stored_type, without_dictionaries
from lakeward.operators.grouping import plain_type
from lakeward.operators.windows.columns import is_fixed

AGGREGATE_KINDS = ("count", "sum", "min", "max", "mean", "first", "last", "count_distinct", "collect")
ORDERED_KINDS = ("first", "last", "collect")
"""Those that go by event time, where there is one."""


@dataclass(frozen=True, slots=True)
class BoundAggregate:
    """One aggregate of an operator, with its types settled.

    Args:
        name: The output column.
        kind: One of `AGGREGATE_KINDS`.
        column: The input column; None for `count()` of rows.
        input_type: Its type; None for `count()` of rows.
        output_type: Type of the output column, from `aggregate_type`.
        label: How the user wrote the input, where it is not a column's name.
        condition: A boolean input column; only rows where it is true count. None: all do.
        condition_label: How the user wrote the condition.
    """

    name: str
    kind: str
    column: str | None
    input_type: pa.DataType | None
    output_type: pa.DataType
    label: str = ""
    condition: str | None = None
    condition_label: str = ""

    @property
    def input_name(self) -> str:
        """The input for a reader: the expression or the column."""
        return self.label or self.column or ""

    @property
    def field(self) -> pa.Field:
        """The output column; counts are never null."""
        return pa.field(self.name, self.output_type, nullable=not self.kind.startswith("count"))

    @property
    def description(self) -> str:
        """For `explain()`: "revenue=sum(amount)"."""
        where = "" if self.condition is None else f" where {self.condition_label or self.condition}"
        return f"{self.name}={self.kind}({self.input_name}){where}"


def aggregate_type(kind: str, input_type: pa.DataType | None, column: str = "") -> pa.DataType:
    """The result type of an aggregate.

    >>> aggregate_type("sum", pa.int32()), aggregate_type("mean", pa.int32())
    (DataType(int64), DataType(double))

    Args:
        kind: One of `AGGREGATE_KINDS`.
        input_type: Type of the input column; None for `count()` of rows.
        column: How the input is called in errors.

    Returns:
        The type of the output column.

    Raises:
        SchemaError: There is no such aggregate for this type; the text names column and type.
    """
    if kind in ("count", "count_distinct"):
        _check_distinct(kind, input_type, column)
        return pa.int64()
    if input_type is None:
        raise SchemaError(f"{kind}() needs a column", hint=f'write for example lw.{kind}("amount")')
    input_type = plain_type(input_type)
    if kind == "collect":
        return _list_type(input_type, column)
    if kind in ("sum", "mean"):
        return _numeric_type(kind, input_type, column)
    if kind in ("first", "last") or (kind in ("min", "max") and is_ordered(input_type)):
        return input_type
    if kind in AGGREGATE_KINDS:
        raise SchemaError(f"{kind} of column '{column}' of type {input_type}: its values have no order")
    raise SchemaError(f"there is no aggregate '{kind}'", hint=f"there are {', '.join(AGGREGATE_KINDS)}")


def is_ordered(kind: pa.DataType) -> bool:
    """Whether values of the type can be compared: numbers, booleans, times, text, bytes."""
    return is_fixed(kind) or _is_text(kind) or bool(pa.types.is_decimal128(kind))


def _numeric_type(kind: str, input_type: pa.DataType, column: str) -> pa.DataType:
    if pa.types.is_decimal128(input_type):
        # A mean has no more digits before the point than its values: what is left of 38 goes behind it, up to 6.
        scale, whole = input_type.scale, input_type.precision - input_type.scale
        return pa.decimal128(38, scale if kind == "sum" else max(scale, min(6, 38 - whole)))
    if pa.types.is_integer(input_type):
        return pa.int64() if kind == "sum" else pa.float64()
    if pa.types.is_floating(input_type):
        return pa.float64()
    raise SchemaError(
        f"{kind} of column '{column}' of type {input_type}: only integers, floats and decimals can be added up",
        hint=f'cast it first, for example lw.{kind}(col("{column}").cast("float64"))',
    )


def _list_type(input_type: pa.DataType, column: str) -> pa.DataType:
    kind = without_dictionaries(input_type)
    if stored_type(kind) is None:
        raise SchemaError(f"collect of column '{column}' of type {input_type}: such values cannot be kept")
    return pa.list_(kind)


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind) or types.is_large_string(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    )


def _check_distinct(kind: str, input_type: pa.DataType | None, column: str) -> None:
    if kind != "count_distinct":
        return
    if input_type is None:
        raise SchemaError("count_distinct() needs a column", hint='write for example lw.count_distinct("user")')
    if not pa.types.is_dictionary(input_type) and not is_ordered(input_type):
        raise SchemaError(f"count_distinct of column '{column}' of type {input_type}: its values cannot be compared")
