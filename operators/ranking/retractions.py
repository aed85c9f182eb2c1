"""Which kept rows a changelog takes back, and which of its rows stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import Kinds, is_addition
from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.core.errors import RecordError
from lakeward.operators.grouping import comparable
from lakeward.operators.windows.columns import Mask, Rows, group_rows


def apply_changes(groups: Rows, held: pa.RecordBatch, batch: pa.RecordBatch, kinds: Kinds, replace: bool) -> Mask:
    """Which rows are there after the changes.

    Of equal rows the one that came first is taken back first, so that it does not matter how changes are cut into
    batches.

    Args:
        groups: The key of each row, as a number: of the kept rows, then of the changes.
        held: The columns of the kept rows that tell rows apart, those of a key in the order in which they came.
        batch: The same columns of the changes.
        kinds: What each change does.
        replace: Whether the columns tell all rows of the result apart, so that a later change replaces an earlier row.

    Returns:
        For each kept row and then for each change whether it is there (rows that take back never are).

    Raises:
        RecordError: A row is taken back that is not there.
    """
    pairs = zip(held.columns, batch.columns, strict=True)
    columns = [pa.concat_arrays([comparable(one), comparable(other)]) for one, other in pairs]
    same, firsts = group_rows([pa.array(groups), *columns])
    adds = np.concatenate([np.ones(held.num_rows, np.bool_), is_addition(kinds)])
    if replace:
        last = np.empty(len(firsts), np.int64)
        last[same] = np.arange(len(same))  # of several writes to one place the last stays
        there: Mask = np.zeros(len(same), np.bool_)
        there[last] = adds[last]
        return there
    present = np.bincount(same[adds], minlength=len(firsts))
    taken = np.bincount(same[~adds], minlength=len(firsts))
    if (present < taken).any():
        raise _not_there(batch, same[held.num_rows :], taken > present)
    there = adds.copy()
    rows = np.flatnonzero(adds)
    there[rows[first_of_each(same[rows], taken)]] = False
    return there


def _not_there(batch: pa.RecordBatch, same: Rows, missing: Mask) -> RecordError:
    row = int(np.flatnonzero(missing[same])[0])
    return RecordError(
        "a row is taken back that is not there",
        hint="the stream must send each -U and -D with all columns exactly as it sent the row that it takes back",
        rows=[failed_row(batch, row)],
    )


def first_of_each(codes: Rows, counts: Rows) -> Rows:
    """The positions of so many of each number, those that come first.

    >>> first_of_each(np.array([1, 0, 1, 1]), np.array([0, 2])).tolist()
    [0, 2]

    Args:
        codes: Numbers from 0.
        counts: How many to take, by number.
    """
    order = np.argsort(codes, kind="stable")
    return order[_nth(codes[order]) < counts[codes[order]]]


def _nth(ordered: Rows) -> Rows:
    """How many equal numbers come before each of a sorted list."""
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    return np.arange(len(ordered)) - np.repeat(starts, np.diff(starts, append=len(ordered)))


def match_columns(names: Sequence[str], keys: Sequence[str], upsert_key: Sequence[str] | None) -> list[str]:
    """The columns that tell rows of a key apart: the rest of the upsert key, or all of them."""
    told_by = names if upsert_key is None else upsert_key
    return [name for name in told_by if name not in keys]
