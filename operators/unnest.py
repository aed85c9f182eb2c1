"""Lists and maps to rows: one row an element, by Arrow's kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, is_addition, is_updating, kinds_of
from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import Operator, OperatorFactory, RowFlow
from lakeward.engine.core.errors import SchemaError
from lakeward.operators.windows.columns import Rows


@dataclass(frozen=True, slots=True)
class Unnest(OperatorFactory):
    """One row an element of a list or map column, which takes the column's place; the other columns are repeated.

    A row kind holds for all elements of its row: what is taken back is taken back element by element. Since two rows
    need not have as many elements, an update becomes deletes and inserts.

    Args:
        schema: The input's.
        column: A list, large list, fixed-size list, or map.
        names: One new column for the elements; two for a map's keys and values; as many as there are fields for the
            fields of structs.
        keep_empty: Whether a row whose list is null or empty stays, with null for the element.
        ordinality: A column to add with each element's place, from 1; None: none.

    Raises:
        SchemaError: The column is neither a list nor a map, or the names do not fit.
    """

    schema: pa.Schema
    column: str
    names: tuple[str, ...]
    keep_empty: bool = False
    ordinality: str | None = None

    def __post_init__(self) -> None:
        kind = self.schema.field(self.column).type
        if not (_is_list(kind) or pa.types.is_map(kind)):
            hint = "split text into a list first" if pa.types.is_string(kind) else "only lists and maps have elements"
            raise SchemaError(f"unnest needs a list or a map, but '{self.column}' is {kind}", hint=hint)
        if len(self._parts) != len(self.names):
            wanted = ", ".join(str(part) for part in self._parts)
            raise SchemaError(
                f"unnest of '{self.column}' ({kind}) into {len(self.names)} columns: {', '.join(self.names)}",
                hint=f"give one name, or one for each of: {wanted}",
            )
        names = self.output_schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"unnest makes two columns '{twice[0]}'", hint="give the new column another name by as_")

    @property
    def _parts(self) -> list[pa.DataType]:
        """The types of the new columns."""
        kind = self.schema.field(self.column).type
        if pa.types.is_map(kind):
            if len(self.names) == 1:
                return [pa.struct([("key", kind.key_type), ("value", kind.item_type)])]
            return [kind.key_type, kind.item_type]
        if len(self.names) > 1 and pa.types.is_struct(kind.value_type):
            return [field.type for field in kind.value_type]
        return [kind.value_type]

    @property
    def output_schema(self) -> pa.Schema:
        """The input's, with the new columns in the place of the old one, and the ordinality behind them."""
        fields: list[pa.Field] = []
        for field in self.schema:
            if field.name != self.column:
                fields.append(field)
                continue
            fields += [pa.field(name, kind) for name, kind in zip(self.names, self._parts, strict=False)]
            if self.ordinality is not None:
                fields.append(pa.field(self.ordinality, pa.int64()))
        return pa.schema(fields)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return UnnestOperator(self)

    @property
    def description(self) -> str:
        """For `explain()`: "unnest items as item"."""
        return f"unnest {self.column} as {', '.join(self.names)}"

    @property
    def row_flow(self) -> RowFlow:
        """The elements of one row, then those of the next."""
        return RowFlow(repeatable=True)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


class UnnestOperator(Operator):
    """Runs an `Unnest`."""

    def __init__(self, spec: Unnest) -> None:
        self._spec = spec
        self._schema = spec.output_schema

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Repeat the rows, and put the elements beside them."""
        if not batch.num_rows:
            return
        spec = self._spec
        array = batch.column(spec.column)
        rows, places, elements = _elements(array, spec.keep_empty)
        repeated = pa.array(rows)
        columns: list[pa.Array] = []
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if field.name == spec.column:
                columns += self._parts(elements)
                if spec.ordinality is not None:
                    columns.append(pa.array(places + 1, mask=places < 0))
            elif field.name == ROW_KIND and is_updating(batch.schema):
                kinds = np.where(is_addition(kinds_of(batch)), INSERT, DELETE).astype(np.int8)
                columns.append(pa.array(kinds[rows]))
            else:
                columns.append(column.take(repeated))
        out.emit(pa.RecordBatch.from_arrays(columns, schema=self._schema))

    def _parts(self, elements: pa.Array) -> list[pa.Array]:
        if len(self._spec.names) == 1:
            return [elements.cast(self._spec._parts[0])]
        return [pc.struct_field(elements, [i]) for i in range(len(self._spec.names))]


def _elements(array: pa.Array, keep_empty: bool) -> tuple[Rows, Rows, pa.Array]:
    """The row of each element, its place in the list (-1 where there is none), and the elements."""
    lengths = _lengths(array)
    flat = _flat(array, lengths)
    if not keep_empty or (lengths > 0).all():
        rows = np.repeat(np.arange(len(array)), lengths)
        starts = np.cumsum(lengths) - lengths
        return rows, np.arange(len(rows)) - np.repeat(starts, lengths), flat
    starts = np.cumsum(lengths) - lengths
    counts = np.maximum(lengths, 1)
    rows = np.repeat(np.arange(len(array)), counts)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    empty = (lengths == 0)[rows]
    places[empty] = -1
    picked = pa.array(starts[rows] + places, mask=empty)
    return rows, places, flat.take(picked)


def _lengths(array: pa.Array) -> Rows:
    """Elements a row; none for null."""
    if pa.types.is_fixed_size_list(array.type):
        lengths: Rows = np.full(len(array), array.type.list_size, np.int64)
        lengths[array.is_null().to_numpy(zero_copy_only=False)] = 0
        return lengths
    offsets = array.offsets.to_numpy().astype(np.int64)
    lengths = np.diff(offsets)
    if array.null_count:
        lengths[array.is_null().to_numpy(zero_copy_only=False)] = 0
    return lengths


def _flat(array: pa.Array, lengths: Rows) -> pa.Array:
    """All elements of rows that are not null, one after the other; a map's as structs of key and value."""
    if not pa.types.is_map(array.type):
        return array.flatten()
    offsets = array.offsets.to_numpy().astype(np.int64)[:-1]
    at = np.repeat(offsets - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))
    places = pa.array(at)
    return pa.StructArray.from_arrays([array.keys.take(places), array.items.take(places)], names=["key", "value"])
