"""The expression contract: what an operator is given to compute a column from a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pyarrow as pa


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

    @property
    def reference(self) -> str | None:
        """The input column that this is, unchanged; None when something is computed."""
        return None

    @property
    def vectorised(self) -> bool:
        """False when a Python function is called for every row."""
        return True
