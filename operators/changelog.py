"""Updating streams as plain rows and back, and the result that a changelog leaves when all of it has been applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import (
    INSERT,
    ROW_KIND,
    SHORT_NAMES,
    append_only,
    is_addition,
    is_updating,
    kinds_of,
    signs,
    with_kinds,
    without_kinds,
)
from lakeward.engine.api.context import Output
from lakeward.engine.api.operator import Operator, OperatorFactory, RowFlow
from lakeward.engine.core.redaction import SECRETS_ONLY
from lakeward.operators.grouping import row_codes


@dataclass(frozen=True, slots=True)
class ToChangelog(OperatorFactory):
    """Turns row kinds into a text column, so that any sink can take the rows.

    Args:
        column: The new column, which comes first: "+I", "-U", "+U" or "-D".
    """

    column: str

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _ToChangelog(self.column)

    @property
    def description(self) -> str:
        """What it does."""
        return f"row kinds as column {self.column}"

    @property
    def row_flow(self) -> RowFlow:
        """A row a row."""
        return RowFlow(one_to_one=True, repeatable=True)


def changelog_schema(schema: pa.Schema, column: str) -> pa.Schema:
    """The rows that `ToChangelog` makes of an updating stream's.

    >>> changelog_schema(pa.schema([("a", pa.int64())]), "op").names
    ['op', 'a']
    """
    return pa.schema([pa.field(column, pa.string(), nullable=False), *append_only(schema)])


class _ToChangelog(Operator):
    def __init__(self, column: str) -> None:
        self._column = column
        self._names = pa.array(SHORT_NAMES)

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        plain = without_kinds(batch)
        names = self._names.take(pa.array(kinds_of(batch)))
        schema = changelog_schema(plain.schema, self._column)
        out.emit(pa.RecordBatch.from_arrays([names, *plain.columns], schema=schema))


@dataclass(frozen=True, slots=True)
class Additions(OperatorFactory):
    """The rows that an updating stream adds or replaces others by, as plain rows; what it takes back is left out."""

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _Additions()

    @property
    def description(self) -> str:
        """What it does."""
        return "new rows"


class _Additions(Operator):
    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        added = batch.filter(pa.array(is_addition(kinds_of(batch))))
        if added.num_rows:
            out.emit(without_kinds(added))


@dataclass(frozen=True, slots=True)
class Inserts(OperatorFactory):
    """Gives the rows of an append-only stream row kinds: all are new."""

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return _Inserts()

    @property
    def description(self) -> str:
        """What it does."""
        return "every row is an insert"

    @property
    def row_flow(self) -> RowFlow:
        """A row a row."""
        return RowFlow(one_to_one=True, repeatable=True)


class _Inserts(Operator):
    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        out.emit(with_kinds(batch, INSERT))


def materialise(changes: pa.Table, upsert_key: Sequence[str] | None) -> pa.Table:
    """What is left when every insert, update and delete has been applied in order.

    >>> changes = pa.table({"k": [1, 1, 1, 2], "n": [5, 5, 6, 7], ROW_KIND: pa.array([0, 1, 2, 0], pa.int8())})
    >>> materialise(changes, ("k",)).to_pylist()
    [{'k': 1, 'n': 6}, {'k': 2, 'n': 7}]

    Args:
        changes: Rows of an updating stream, those of one key in order; without row kinds it is returned as it is.
        upsert_key: The columns that tell rows of the result apart; None: rows are only equal as a whole, and may be
            there several times.

    Returns:
        The rows without row kinds: in the order of each key's last change, or of first appearance without a key.

    Raises:
        ValueError: A row is taken back more often than it was there (only without a key).
    """
    if not is_updating(changes.schema):
        return changes
    whole = changes.combine_chunks()
    kinds = whole.column(ROW_KIND).to_numpy()
    plain = whole.select(append_only(changes.schema).names)
    if upsert_key is None:
        return _counted(plain, signs(kinds))
    if not upsert_key:  # one row in all
        return plain.slice(plain.num_rows - 1) if len(kinds) and is_addition(kinds[-1:])[0] else plain.slice(0, 0)
    codes = row_codes([plain[name].combine_chunks() for name in upsert_key])
    last = np.sort(len(codes) - 1 - np.unique(codes[::-1], return_index=True)[1])
    return plain.take(pa.array(last[is_addition(kinds[last])]))


def _counted(rows: pa.Table, changes: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Table:
    """Rows as often as they are left."""
    codes = row_codes([column.combine_chunks() for column in rows.columns])
    firsts = np.unique(codes, return_index=True)[1]
    times = np.zeros(len(firsts), np.int64)
    np.add.at(times, codes, changes)
    if (times < 0).any():
        worst = rows.slice(int(firsts[np.argmin(times)]), 1).to_pylist()[0]
        raise ValueError(
            f"the row {SECRETS_ONLY.show(worst)} is taken back {-int(times.min())} times more than it was there"
        )
    return rows.take(pa.array(np.repeat(firsts, times)))
