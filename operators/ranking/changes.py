"""What has become of places of a result, as a changelog."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.changelog import DELETE, INSERT, ROW_KIND, UPDATE_AFTER, UPDATE_BEFORE, updating
from lakeward.operators.windows.columns import Mask, Rows

NONE = -1
"""No row."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Places of a result, and the rows that stood and stand there.

    Args:
        old: The row that stood there, by number; `NONE`: none did.
        new: The row that stands there now; `NONE`: none does.
        old_ranks: The rank number of each old row, where ranks are sent.
        new_ranks: The rank number of each new row.
    """

    old: Rows
    new: Rows
    old_ranks: Rows | None = None
    new_ranks: Rows | None = None

    def __len__(self) -> int:
        return len(self.old)

    def where(self, keep: Mask | Rows) -> Changes:
        """Some of the places."""
        old_ranks = None if self.old_ranks is None else self.old_ranks[keep]
        new_ranks = None if self.new_ranks is None else self.new_ranks[keep]
        return Changes(self.old[keep], self.new[keep], old_ranks, new_ranks)

    def batch(self, rows: pa.RecordBatch, rank_column: str | None, update_before: bool) -> pa.RecordBatch:
        """The rows to send: for a place, the old row as -U or -D, then the new one as +U or +I.

        Args:
            rows: What the numbers are of.
            rank_column: The column of rank numbers, which comes last.
            update_before: Whether to send -U rows.
        """
        kinds = np.stack([np.where(self.new == NONE, DELETE, UPDATE_BEFORE), _after(self.old)], axis=1).ravel()
        picked = np.stack([self.old, self.new], axis=1).ravel()
        sent = picked != NONE
        if not update_before:
            sent &= kinds != UPDATE_BEFORE
        where = np.flatnonzero(sent)
        taken = rows.take(pa.array(picked[where]))
        columns = list(taken.columns)
        schema = taken.schema
        if rank_column is not None:
            assert self.old_ranks is not None, "rank numbers are known where they are sent"
            assert self.new_ranks is not None, "rank numbers are known where they are sent"
            columns.append(pa.array(np.stack([self.old_ranks, self.new_ranks], axis=1).ravel()[where]))
            schema = schema.append(rank_field(rank_column))
        columns.append(pa.array(kinds[where].astype(np.int8)))
        return pa.RecordBatch.from_arrays(columns, schema=updating(schema))


def rank_field(name: str) -> pa.Field:
    """The column of rank numbers."""
    return pa.field(name, pa.int64(), nullable=False)


def with_rank(schema: pa.Schema, rank_column: str | None) -> pa.Schema:
    """The schema with a column of rank numbers."""
    return schema if rank_column is None else schema.append(rank_field(rank_column))


def some_columns(batch: pa.RecordBatch, columns: Sequence[str] | None) -> pa.RecordBatch:
    """The batch with some of its columns; None: as it is."""
    return batch if columns is None else batch.select(list(columns))


def narrowed_schema(schema: pa.Schema, *needed: Collection[str] | None) -> pa.Schema:
    """A schema with the columns that anybody needs, in its order."""
    names = {ROW_KIND}.union(*(one for one in needed if one is not None))
    return pa.schema([field for field in schema if field.name in names], metadata=schema.metadata)


def _after(old: Rows) -> npt.NDArray[np.int64]:
    return np.where(old == NONE, INSERT, UPDATE_AFTER)


def equal_rows(first: pa.RecordBatch, second: pa.RecordBatch) -> Mask:
    """Row by row, whether two batches of one schema are equal; null equals null, and NaN NaN."""
    equal: Mask = np.ones(first.num_rows, np.bool_)
    for one, other in zip(first.columns, second.columns, strict=True):
        if not equal.any():
            break
        equal &= _equal(one, other)
    return equal


def _equal(one: pa.Array, other: pa.Array) -> Mask:
    kind = one.type
    if pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        pairs = zip(one.to_pylist(), other.to_pylist(), strict=True)
        return np.array([a == b for a, b in pairs], np.bool_)
    same = pc.equal(one, other)
    if pa.types.is_floating(kind):
        same = pc.or_(same, pc.and_(pc.is_nan(one), pc.is_nan(other)))
    if same.null_count:
        same = pc.fill_null(same, pc.and_(one.is_null(), other.is_null()))
    mask: Mask = same.to_numpy(zero_copy_only=False)
    return mask
