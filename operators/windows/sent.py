"""What was sent last of windows, so that the next result says what it replaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import DELETE, INSERT, UPDATE_AFTER, UPDATE_BEFORE, with_kinds
from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, TableSpec
from lakeward.operators.windows.columns import Mask, Values, is_fixed, storage_type, to_arrow, to_numpy
from lakeward.operators.windows.timed import KeyTypes


class SentColumns:
    """State columns that hold results as they were sent.

    Args:
        fields: The result columns that may change.
        known_by: Those of them that tell rows of the stream apart: where they change, the old row is deleted and the
            new one inserted; elsewhere the one replaces the other.
        prefix: What the names of the columns begin with, beside others in one table.
        unkept: Those of the fields that are not held, as in `Trigger`.
    """

    def __init__(
        self,
        fields: Sequence[pa.Field],
        known_by: Sequence[str] = (),
        prefix: str = "",
        unkept: Sequence[str] = (),
    ) -> None:
        self._fields = [(field, *_pair(field, prefix)) for field in fields if field.name not in unkept]
        self._unkept = [field for field in fields if field.name in unkept]
        self._known_by = frozenset(known_by)
        self.columns = tuple(spec for _, *pair in self._fields for spec in pair)

    def changes(self, sent: Mapping[str, Values], known: Mask, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What to send for new results: nothing where they are as before.

        Args:
            sent: The columns, a row a result; they take in the new results.
            known: Which results were sent before.
            batch: The new results, all columns.

        Returns:
            The batch with row kinds; a row that takes the place of another right after that one.
        """
        old = self.taken_back(sent)
        same, moved = known.copy(), np.zeros(len(known), np.bool_)
        for field, *pair in self._fields:
            value, given = (sent[spec.name] for spec in pair)
            values, valid = to_numpy(batch.column(field.name)), _valid(batch.column(field.name))
            equal = (given == valid) & (_equal(value, values) | ~valid)
            same &= equal
            if field.name in self._known_by:
                moved |= known & ~equal
            value[:], given[:] = values, valid
        rows = np.flatnonzero(~same)
        arrays = [old.get(name, column) for name, column in zip(batch.schema.names, batch.columns, strict=True)]
        before = pa.RecordBatch.from_arrays(arrays, schema=batch.schema)
        # Of each changed row its old form (of those that are known), then its new one.
        order = np.stack([rows, rows + batch.num_rows], axis=1)
        replaced = (known & ~moved)[rows]
        olds, news = np.where(replaced, UPDATE_BEFORE, DELETE), np.where(replaced, UPDATE_AFTER, INSERT)
        chosen = np.stack([known[rows], np.ones(len(rows), dtype=np.bool_)], axis=1)
        both = pa.concat_batches([before, batch]).take(pa.array(order[chosen]))
        return with_kinds(both, np.stack([olds, news], axis=1)[chosen].astype(np.int8))

    def taken_back(self, sent: Mapping[str, Values]) -> dict[str, pa.Array]:
        """The result columns as they were sent."""
        columns = {
            field.name: to_arrow(sent[value.name].copy(), field.type, sent[given.name].copy())
            for field, value, given in self._fields
        }
        for field in self._unkept:
            columns[field.name] = pa.nulls(len(next(iter(columns.values()))), field.type)
        return columns


class SentResults:
    """What was sent last for each key and window, in a table of its own.

    Args:
        keys: Name and type of the key columns.
        fields: The result columns that are compared.
        unkept: Those of them that are not held, as in `Trigger`.
    """

    def __init__(self, keys: KeyTypes, fields: Sequence[pa.Field], unkept: Sequence[str] = ()) -> None:
        self._sent = SentColumns(fields, unkept=unkept)
        self._spec = TableSpec("sent", keys, self._sent.columns)

    def open(self, context: OperatorContext) -> None:
        """Open the table."""
        self._table = context.table(self._spec)

    def drop(self, window: int) -> None:
        """The window will never be sent again."""
        self._table.drop(window)

    def changes(self, window: int, keys: Sequence[pa.Array], batch: pa.RecordBatch) -> pa.RecordBatch:
        """What to send for new results: nothing where they are as before; and remember them.

        Args:
            window: The window's id.
            keys: The keys, all different.
            batch: Their results, a row each, all columns.

        Returns:
            The batch with row kinds; a row that replaces another right after that one.
        """
        pane = self._table.pane(window)
        slots, new = pane.insert(self._table.keys(keys))
        sent = {spec.name: pane.column(spec.name)[slots] for spec in self._sent.columns}
        changes = self._sent.changes(sent, ~new, batch)
        for name, values in sent.items():
            pane.column(name)[slots] = values
        return changes


def _pair(field: pa.Field, prefix: str) -> tuple[ColumnSpec, ColumnSpec]:
    kind = storage_type(field.type)
    zero = np.zeros(1, dtype=kind.to_pandas_dtype())[0].item() if is_fixed(kind) else None
    name = f"{prefix}{field.name}"
    return ColumnSpec(f"{name}#value", kind, zero), ColumnSpec(f"{name}#given", pa.bool_(), False)


def _valid(array: pa.Array) -> Mask:
    valid: Mask = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _equal(one: Values, other: Values) -> Mask:
    """Which values are equal; NaN is equal to NaN."""
    equal: Mask = np.asarray(one == other, dtype=np.bool_)
    if one.dtype.kind == "f":
        equal |= np.isnan(one) & np.isnan(other)
    return equal
