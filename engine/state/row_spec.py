"""What follows from the description of a row table, and the conversions between its rows and their parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.errors import CorruptionError, SchemaError
from lakeward.engine.core.hashing import Int64Array
from lakeward.engine.state.keys import KeyBatch, KeyCodec
from lakeward.engine.state.row_blobs import StoredChunk
from lakeward.engine.state.values import AnyArray, fixed_dtype, to_arrow


class RowForm:
    """A checked `RowsSpec`: codec of its key, schema of what never changes, numpy types of what does.

    Args:
        spec: The table.

    Raises:
        SchemaError: A key or mutable column is missing, or has a type that cannot be one.
    """

    def __init__(self, spec: RowsSpec) -> None:
        self.spec = spec
        for name in (*spec.key, *spec.mutable):
            if spec.schema.names.count(name) != 1:
                raise _error(spec, f"has not exactly one column '{name}'", f"its columns: {spec.schema.names}")
        both = sorted({*spec.key} & {*spec.mutable})
        if both:
            raise _error(spec, f"has the key column '{both[0]}' as a mutable one", "key columns never change")
        key = [(name, spec.schema.field(name).type) for name in spec.key]
        self.codec = KeyCodec(key, spec.routing, nullable=False)  # rows with a null in the key are never looked for
        self.fields = {name: _mutable_dtype(spec, name) for name in spec.mutable}
        self.rows_schema = pa.schema([field for field in spec.schema if field.name not in self.fields])
        self.fields_schema = pa.schema([spec.schema.field(name) for name in spec.mutable])

    def checked(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch, with exactly the table's schema.

        Raises:
            SchemaError: It has other columns.
        """
        schema = self.spec.schema
        if batch.schema.equals(schema, check_metadata=True):
            return batch
        if batch.schema.names != schema.names or batch.schema.types != schema.types:
            want, got = (str(s.remove_metadata()).replace("\n", ", ") for s in (schema, batch.schema))
            raise _error(self.spec, f"is given rows of other columns: {got}", f"its columns: {want}")
        return pa.RecordBatch.from_arrays(batch.columns, schema=schema)

    def encode(self, columns: Sequence[pa.Array]) -> tuple[Int64Array | None, KeyBatch]:
        """Hash and encode keys, leaving out those that have a null.

        Returns:
            Which rows are left (None: all), and their keys.
        """
        arrays = [array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array for array in columns]
        arrays = [array.dictionary_decode() if pa.types.is_dictionary(array.type) else array for array in arrays]
        nulls = [array.is_null() for array in arrays if array.null_count]
        if not nulls:
            return None, self.codec.encode(arrays)
        some_null = np.zeros(len(arrays[0]), dtype=np.bool_)
        for mask in nulls:
            some_null |= mask.to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(~some_null)
        positions = pa.array(rows)
        return rows, self.codec.encode([array.take(positions) for array in arrays])

    def rows_part(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The columns that never change."""
        if not self.fields:
            return batch
        columns = [batch.column(field.name) for field in self.rows_schema]
        return pa.RecordBatch.from_arrays(columns, schema=self.rows_schema)

    def fields_part(self, batch: pa.RecordBatch) -> dict[str, AnyArray]:
        """The mutable columns as numpy arrays.

        Raises:
            SchemaError: A value is null.
        """
        return {name: self._values(name, batch.column(name)) for name in self.fields}

    def fields_batch(self, fields: Mapping[str, AnyArray], ids: Int64Array) -> pa.RecordBatch:
        """The mutable columns of rows."""
        arrays = [to_arrow(fields[field.name].take(ids), field.type) for field in self.fields_schema]
        return pa.RecordBatch.from_arrays(arrays, schema=self.fields_schema)

    def stored_fields(self, stored: StoredChunk) -> dict[str, AnyArray]:
        """The mutable columns of a chunk of the store.

        Raises:
            CorruptionError: They are not there, or are others.
        """
        if not self.fields:
            return {}
        if stored.fields is None or not stored.fields.schema.equals(self.fields_schema):
            raise CorruptionError(
                f"chunk {stored.number} of state table '{self.spec.name}' has not the mutable columns "
                f"{self.fields_schema.names}"
            )
        return self.fields_part(stored.fields)

    def _values(self, name: str, array: pa.Array) -> AnyArray:
        if array.null_count:
            raise _error(self.spec, f"is given a null in the mutable column '{name}'", "mutable columns are never null")
        if pa.types.is_temporal(array.type):
            array = array.view(pa.int32() if array.type.bit_width == 32 else pa.int64())
        values: AnyArray = array.to_numpy(zero_copy_only=False)
        return values


def _mutable_dtype(spec: RowsSpec, name: str) -> np.dtype[np.generic]:
    kind = spec.schema.field(name).type
    dtype = fixed_dtype(kind)
    if dtype is None:
        raise _error(spec, f"has the mutable column '{name}' of type {kind}", "mutable columns have a fixed width")
    return dtype


def _error(spec: RowsSpec, problem: str, hint: str) -> SchemaError:
    return SchemaError(f"state table '{spec.name}' {problem}", hint=hint)
