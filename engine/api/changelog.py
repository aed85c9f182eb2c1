"""Updating streams: rows that say what they do to the result so far.

An updating stream has one more column, `ROW_KIND`, last in its schema: an int8 that says for each row whether it is
new, replaces another, or takes one back (Flink's RowKind, with the same numbers). A stream without it only adds rows.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

ROW_KIND: Final = "row_kind$"
"""The column of row kinds; no user column can have this name."""

INSERT: Final = 0
"""+I: a new row."""
UPDATE_BEFORE: Final = 1
"""-U: takes an earlier row back; the row that replaces it comes next."""
UPDATE_AFTER: Final = 2
"""+U: the row that replaces an earlier one."""
DELETE: Final = 3
"""-D: takes an earlier row back for good."""

SHORT_NAMES: Final = ("+I", "-U", "+U", "-D")
"""How row kinds are written, by their number."""

Kinds = npt.NDArray[np.int8]

_FIELD = pa.field(ROW_KIND, pa.int8(), nullable=False)


def is_updating(schema: pa.Schema) -> bool:
    """Whether streams of this schema may take rows back.

    >>> is_updating(updating(pa.schema([("a", pa.int64())])))
    True
    """
    return len(schema) > 0 and schema.names[-1] == ROW_KIND


def updating(schema: pa.Schema) -> pa.Schema:
    """The schema with row kinds; unchanged if it has them already.

    >>> updating(pa.schema([("a", pa.int64())])).names
    ['a', 'row_kind$']
    """
    return schema if is_updating(schema) else schema.append(_FIELD)


def append_only(schema: pa.Schema) -> pa.Schema:
    """The schema without row kinds.

    >>> append_only(updating(pa.schema([("a", pa.int64())]))).names
    ['a']
    """
    return schema.remove(len(schema) - 1) if is_updating(schema) else schema


def kinds_of(batch: pa.RecordBatch) -> Kinds:
    """The row kinds of a batch; all INSERT when it has none.

    >>> kinds_of(pa.record_batch({"a": [1, 2]})).tolist()
    [0, 0]
    """
    if not is_updating(batch.schema):
        return np.zeros(batch.num_rows, np.int8)
    kinds: Kinds = batch.column(batch.num_columns - 1).to_numpy(zero_copy_only=False)
    return kinds


def with_kinds(batch: pa.RecordBatch, kinds: Kinds | int) -> pa.RecordBatch:
    """The batch with these row kinds, or with one for all rows.

    >>> with_kinds(pa.record_batch({"a": [1, 2]}), DELETE).column(ROW_KIND).to_pylist()
    [3, 3]
    """
    plain = without_kinds(batch)
    column = np.full(batch.num_rows, kinds, np.int8) if isinstance(kinds, int) else kinds.astype(np.int8, copy=False)
    return pa.RecordBatch.from_arrays([*plain.columns, pa.array(column)], schema=updating(plain.schema))


def without_kinds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without its row kinds.

    >>> without_kinds(with_kinds(pa.record_batch({"a": [1]}), INSERT)).schema.names
    ['a']
    """
    if not is_updating(batch.schema):
        return batch
    return pa.RecordBatch.from_arrays(batch.columns[:-1], schema=append_only(batch.schema))


def is_addition(kinds: Kinds) -> npt.NDArray[np.bool_]:
    """Which rows add to the result; the others take back.

    >>> is_addition(np.array([INSERT, UPDATE_BEFORE, UPDATE_AFTER, DELETE], np.int8)).tolist()
    [True, False, True, False]
    """
    additions: npt.NDArray[np.bool_] = (kinds & 1) == 0
    return additions


def signs(kinds: Kinds) -> npt.NDArray[np.int64]:
    """+1 for rows that add, -1 for rows that take back.

    >>> signs(np.array([INSERT, UPDATE_BEFORE, UPDATE_AFTER, DELETE], np.int8)).tolist()
    [1, -1, 1, -1]
    """
    return 1 - 2 * (kinds & 1).astype(np.int64)
