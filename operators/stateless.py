"""Filter, project and union: operators without state, at the speed of Arrow's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.changelog import (
    DELETE,
    INSERT,
    UPDATE_AFTER,
    UPDATE_BEFORE,
    is_updating,
    kinds_of,
    with_kinds,
    without_kinds,
)
from lakeward.engine.api.context import Output
from lakeward.engine.api.expression import BoundExpression, Frame
from lakeward.engine.api.operator import Operator, OperatorFactory, PassedRows, RowFlow
from lakeward.engine.core.errors import SchemaError


@dataclass(frozen=True, slots=True)
class Filter(OperatorFactory):
    """Keeps the rows whose condition is true; a condition that is null does not keep its row.

    Args:
        predicate: A condition, bound to the input's schema.
        columns: The columns that are passed on; None: all.

    Raises:
        SchemaError: The predicate is no condition.
    """

    predicate: BoundExpression
    columns: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not pa.types.is_boolean(self.predicate.type):
            raise SchemaError(
                f"a filter needs a condition, but {self.predicate.description} is {self.predicate.type}",
                hint="compare it with something, for example != 0, or test .is_not_null()",
            )

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return FilterOperator(self.predicate, self.columns)

    @property
    def description(self) -> str:
        """The condition."""
        return f"filter {self.predicate.description}"

    @property
    def vectorised(self) -> bool:
        """Whether the condition is computed by kernels alone."""
        return self.predicate.vectorised

    @property
    def row_flow(self) -> RowFlow:
        """Some of the rows, the same again if no function of the user's says which."""
        return RowFlow(repeatable=self.predicate.pure)

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those of the condition, and those that are passed on."""
        return [sent | self.predicate.columns]

    def narrowed(self, columns: Sequence[str]) -> Filter:
        """The same filter; what only the condition needs goes no further."""
        return replace(self, columns=tuple(columns))

    def passed(self) -> PassedRows | None:
        """Rows as they are, if no Python function of the user's sees them."""
        if not self.vectorised or self.columns is not None:
            return None
        return PassedRows(None, self.predicate.comparisons)


class FilterOperator(Operator):
    """Runs a `Filter`. A batch whose rows all stay is passed on as it is; one without any is dropped.

    Of an update in an updating stream that only one of the two rows passes, a deletion or an insertion is made.
    """

    def __init__(self, predicate: BoundExpression, columns: Sequence[str] | None = None) -> None:
        self._predicate = predicate
        self._columns = None if columns is None else list(columns)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Keep some of the rows."""
        mask = self._predicate.evaluate(batch)
        kept = mask.true_count
        if 0 < kept < batch.num_rows and is_updating(batch.schema):
            batch = _unpaired(batch, mask.fill_null(False).to_numpy(zero_copy_only=False))
        if self._columns is not None and kept and batch.num_columns > len(self._columns):
            batch = batch.select(self._columns)
        if kept == batch.num_rows:
            out.emit(batch)
        elif kept:
            out.emit(batch.filter(mask))


def _unpaired(batch: pa.RecordBatch, kept: npt.NDArray[np.bool_]) -> pa.RecordBatch:
    """Of an update of which one half is left out, the other is a deletion or an insertion."""
    kinds = kinds_of(batch).copy()
    pairs = (kinds[:-1] == UPDATE_BEFORE) & (kinds[1:] == UPDATE_AFTER)
    gone, come = pairs & kept[:-1] & ~kept[1:], pairs & ~kept[:-1] & kept[1:]
    kinds[:-1][gone] = DELETE
    kinds[1:][come] = INSERT
    return with_kinds(without_kinds(batch), kinds)


@dataclass(frozen=True, slots=True)
class Project(OperatorFactory):
    """Makes rows of other columns; selecting, adding, dropping and renaming columns are all this.

    Columns that are passed on unchanged are not copied. What several expressions that were bound together have in
    common is computed once a batch.

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

    @property
    def row_flow(self) -> RowFlow:
        """A row a row."""
        return RowFlow(one_to_one=True, repeatable=all(expression.pure for _, expression in self.columns))

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that the columns which are read further on are made of."""
        used = [expression.columns for name, expression in self.columns if name in sent]
        return [frozenset().union(*used)]

    def narrowed(self, columns: Sequence[str]) -> Project:
        """Only these columns are computed."""
        kept = tuple(one for one in self.columns if one[0] in columns)
        return Project(kept, pa.schema([self.schema.field(name) for name, _ in kept], metadata=self.schema.metadata))

    def passed(self) -> PassedRows | None:
        """Rows with other names, if nothing is computed."""
        names = {name: expression.reference for name, expression in self.columns}
        known = {name: before for name, before in names.items() if before is not None}
        return PassedRows(known) if len(known) == len(names) else None


class ProjectOperator(Operator):
    """Runs a `Project`."""

    def __init__(self, expressions: tuple[BoundExpression, ...], schema: pa.Schema) -> None:
        self._evaluate = [expression.evaluate_in for expression in expressions]
        self._schema = schema

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Compute the columns of a batch."""
        frame = Frame(batch)
        out.emit(pa.RecordBatch.from_arrays([evaluate(frame) for evaluate in self._evaluate], schema=self._schema))


@dataclass(frozen=True, slots=True)
class Identity(OperatorFactory):
    """Passes rows on as they are: the union of several inputs.

    Args:
        columns: The columns that are passed on; None: all.
    """

    columns: tuple[str, ...] | None = None

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return IdentityOperator(self.columns)

    @property
    def description(self) -> str:
        """What it does."""
        return "union"

    @property
    def row_flow(self) -> RowFlow:
        """A row a row."""
        return RowFlow(one_to_one=True, repeatable=True)

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that are passed on, of every input."""
        return [sent] * len(inputs)

    def narrowed(self, columns: Sequence[str]) -> Identity:
        """The same rows with these columns, from every input."""
        return Identity(tuple(columns))


class IdentityOperator(Operator):
    """Runs an `Identity`."""

    def __init__(self, columns: Sequence[str] | None = None) -> None:
        self._columns = None if columns is None else list(columns)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Pass the batch on."""
        if self._columns is not None and batch.num_columns > len(self._columns):
            batch = batch.select(self._columns)
        out.emit(batch)
