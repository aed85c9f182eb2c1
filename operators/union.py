"""The rows of several streams as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import Operator, OperatorFactory, RowFlow


@dataclass(frozen=True, slots=True)
class Union(OperatorFactory):
    """Passes rows on as they come, whichever input they come from.

    Args:
        schema: Of the result: columns of the inputs' names and types, nullable where one of them is.
    """

    schema: pa.Schema

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return UnionOperator(self.schema)

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

    def narrowed(self, columns: Sequence[str]) -> Union:
        """The same rows with these columns, from every input."""
        return Union(pa.schema([self.schema.field(name) for name in columns], metadata=self.schema.metadata))


class UnionOperator(Operator):
    """Runs a `Union`."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Pass the batch on."""
        if batch.num_columns > len(self._schema):
            batch = batch.select(self._schema.names)
        same = batch.schema.equals(self._schema)
        out.emit(batch if same else pa.RecordBatch.from_arrays(batch.columns, schema=self._schema))


def union_schema(first: pa.Schema, second: pa.Schema) -> pa.Schema | None:
    """The schema of a union: nullable where one of the two is; None where names or types differ.

    >>> filled = pa.schema([pa.field("n", pa.int64(), nullable=False)])
    >>> str(union_schema(filled, pa.schema({"n": pa.int64()})))
    'n: int64'
    >>> union_schema(filled, pa.schema({"n": pa.string()}))
    """
    if first.names != second.names or first.types != second.types:
        return None
    pairs = zip(first, second, strict=True)
    return pa.schema([one.with_nullable(one.nullable or other.nullable) for one, other in pairs])
