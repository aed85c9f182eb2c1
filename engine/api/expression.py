"""The expression contract: what an operator is given to compute a column from a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa


class Frame:
    """One batch while the columns of an operator are computed from it.

    Expressions that were bound together keep here what several of them need, so that it is computed once.

    Args:
        batch: The rows.
    """

    __slots__ = ("batch", "shared")

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.shared: dict[object, Any] = {}


@dataclass(frozen=True, slots=True)
class Comparison:
    """A column compared with a constant: what a source understands of a condition.

    >>> print(Comparison("price", ">", pa.scalar(3)))
    price > 3

    Args:
        column: The column.
        operator: How; a null compares as nothing.
        value: The constant, of the column's type, not null.
    """

    column: str
    operator: Literal["==", "<", "<=", ">", ">="]
    value: pa.Scalar

    def __str__(self) -> str:
        return f"{self.column} {self.operator} {self.value}"


class BoundExpression(ABC):
    """An expression that was checked against a schema; computes one column from any batch of that schema.

    Made by `Expr.bind(schema)` of the DSL. Immutable, without state, safe to share between subtasks.
    """

    @property
    @abstractmethod
    def type(self) -> pa.DataType:
        """The type of every array that `evaluate` returns."""

    @property
    @abstractmethod
    def columns(self) -> frozenset[str]:
        """The input columns that it reads."""

    @property
    @abstractmethod
    def description(self) -> str:
        """The expression as its author wrote it, for `explain()` and errors."""

    @abstractmethod
    def evaluate(self, batch: pa.RecordBatch) -> pa.Array:
        """The column's values for the rows of `batch`, as many as there are rows.

        Args:
            batch: Rows of the schema that the expression was bound to.

        Returns:
            An array of `type`.

        Raises:
            UserCodeError: A value cannot be computed (overflow, division by zero, a cast of text that is no number).
        """

    def evaluate_in(self, frame: Frame) -> pa.Array:
        """As `evaluate`, for an operator with several expressions: what they have in common is computed once a frame.

        Args:
            frame: Made for one batch, and given to each of the operator's expressions.
        """
        return self.evaluate(frame.batch)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Comparisons that hold for every row for which this condition is true; not all that do need be known."""
        return ()

    @property
    def reference(self) -> str | None:
        """The input column that this is, unchanged; None when something is computed."""
        return None

    @property
    def vectorised(self) -> bool:
        """False when a Python function is called for every row."""
        return True

    @property
    def pure(self) -> bool:
        """Whether it may be computed again at will: no function of the user's is called."""
        return self.vectorised
