"""Filter, project and union: operators without state, at the speed of Arrow's kernels."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.context import Output
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.core.errors import SchemaError


@dataclass(frozen=True, slots=True)
class Filter(OperatorFactory):
    """Keeps the rows whose condition is true; a condition that is null does not keep its row.

    Args:
        predicate: A condition, bound to the input's schema.

    Raises:
        SchemaError: The predicate is no condition.
    """

    predicate: BoundExpression

    def __post_init__(self) -> None:
        if not pa.types.is_boolean(self.predicate.type):
            raise SchemaError(
                f"a filter needs a condition, but {self.predicate.description} is {self.predicate.type}",
                hint="compare it with something, for example != 0, or test .is_not_null()",
            )

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return FilterOperator(self.predicate)

    @property
    def description(self) -> str:
        """The condition."""
        return f"filter {self.predicate.description}"

    @property
    def vectorised(self) -> bool:
        """Whether the condition is computed by kernels alone."""
        return self.predicate.vectorised


class FilterOperator(Operator):
    """Runs a `Filter`. A batch whose rows all stay is passed on as it is; one without any is dropped."""

    def __init__(self, predicate: BoundExpression) -> None:
        self._predicate = predicate

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Keep some of the rows."""
        mask = self._predicate.evaluate(batch)
        kept = mask.true_count
        if kept == batch.num_rows:
            out.emit(batch)
        elif kept:
            out.emit(batch.filter(mask))


@dataclass(frozen=True, slots=True)
class Project(OperatorFactory):
    """Makes rows of other columns; selecting, adding, dropping and renaming columns are all this.

    Columns that are passed on unchanged are not copied.

    Args:
        columns: Output names with expressions bound to the input's schema, in the order of `schema`.
        schema: The output's schema.

    Raises:
        SchemaError: `schema` and `columns` do not fit each other.
    """

    columns: tuple[tuple[str, BoundExpression], ...]
    schema: pa.Schema

    def __post_init__(self) -> None:
        made = [(name, expression.type) for name, expression in self.columns]
        declared = [(field.name, field.type) for field in self.schema]
        if made != declared:
            raise SchemaError(f"the columns {made} do not make the schema {declared}")

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return ProjectOperator(tuple(expression for _, expression in self.columns), self.schema)

    @property
    def description(self) -> str:
        """The computed columns, and how many are passed on."""
        computed = [
            f"{name} = {expression.description}" for name, expression in self.columns if expression.reference != name
        ]
        passed = len(self.columns) - len(computed)
        kept = [f"{passed} column{'s' if passed != 1 else ''}"] if passed else []
        return f"project {', '.join(kept + computed)}"

    @property
    def vectorised(self) -> bool:
        """Whether every column is computed by kernels alone."""
        return all(expression.vectorised for _, expression in self.columns)


class ProjectOperator(Operator):
    """Runs a `Project`."""

    def __init__(self, expressions: tuple[BoundExpression, ...], schema: pa.Schema) -> None:
        self._evaluate = [expression.evaluate for expression in expressions]
        self._schema = schema

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Compute the columns of a batch."""
        out.emit(pa.RecordBatch.from_arrays([evaluate(batch) for evaluate in self._evaluate], schema=self._schema))


@dataclass(frozen=True, slots=True)
class Identity(OperatorFactory):
    """Passes rows on as they are: the union of several inputs."""

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return IdentityOperator()

    @property
    def description(self) -> str:
        """What it does."""
        return "union"


class IdentityOperator(Operator):
    """Runs an `Identity`."""

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Pass the batch on."""
        out.emit(batch)
