"""Updating inputs: what a batch of changes comes to, and which remembered rows it takes back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import is_addition, is_updating, kinds_of, signs, without_kinds
from lakeward.engine.api.state import RowTable
from lakeward.operators.grouping import row_codes
from lakeward.operators.joins.rows import Rows, key_arrays


def net_changes(batch: pa.RecordBatch, identity: Sequence[str] | None) -> tuple[pa.RecordBatch, pa.RecordBatch | None]:
    """The rows that a batch adds and those that it takes back in the end, without what cancels out within it.

    >>> from lakeward.engine.api.changelog import with_kinds
    >>> batch = with_kinds(pa.record_batch({"k": [1, 1, 1], "v": [5, 6, 6]}), np.array([1, 2, 3], np.int8))
    >>> added, removed = net_changes(batch, ("k",))
    >>> added.num_rows, removed.to_pylist()
    (0, [{'k': 1, 'v': 5}])

    Args:
        batch: Rows, with row kinds if the stream is an updating one.
        identity: The columns that tell rows of the stream apart; None: rows are equal or not as a whole.

    Returns:
        Rows without row kinds; None for the second when nothing is taken back.
    """
    plain = without_kinds(batch)
    if not is_updating(batch.schema):
        return plain, None
    kinds = kinds_of(batch)
    additions = is_addition(kinds)
    if additions.all():
        return plain, None
    if identity is None:
        come, go = _net_of_equal_rows(row_codes(plain.columns), signs(kinds))
    else:
        come, go = _first_and_last(plain, identity, np.asarray(additions))
    return plain.take(pa.array(come)), plain.take(pa.array(go))


def _net_of_equal_rows(codes: Rows, changes: Rows) -> tuple[Rows, Rows]:
    totals = np.zeros(int(codes.max()) + 1, np.int64)
    np.add.at(totals, codes, changes)
    parts = []
    for sign in (1, -1):
        rows = np.flatnonzero((changes == sign) & (totals[codes] * sign > 0))[::-1]
        kept = rows[ranks(codes[rows]) < totals[codes[rows]] * sign]
        parts.append(kept[::-1])
    return parts[0], parts[1]


def _first_and_last(plain: pa.RecordBatch, identity: Sequence[str], additions: Rows) -> tuple[Rows, Rows]:
    """What a row was before the batch is in its first change, what it is after it in its last."""
    codes = row_codes(key_arrays(plain, identity))
    count = int(codes.max()) + 1
    numbers = np.arange(len(codes))
    last = np.empty(count, np.int64)
    last[codes] = numbers
    first = np.empty(count, np.int64)
    first[codes[::-1]] = numbers[::-1]
    comes, goes = additions[last].astype(bool), ~additions[first].astype(bool)
    changed = np.flatnonzero(comes & goes)
    if len(changed):
        both = np.concatenate([first[changed], last[changed]])
        whole = row_codes(plain.take(pa.array(both)).columns)
        same = changed[whole[: len(changed)] == whole[len(changed) :]]
        comes[same] = goes[same] = False
    return np.sort(last[comes]), np.sort(first[goes])


def locate(table: RowTable, rows: pa.RecordBatch, identity: Sequence[str] | None) -> Rows:
    """The ids of rows that are to be taken back, each id once; -1 where the table has no such row (any more).

    Args:
        table: The rows.
        rows: Rows as they were appended, without the table's own columns.
        identity: The columns that tell rows apart, the key among them; None: all.
    """
    found = np.full(rows.num_rows, -1, np.int64)
    matches = table.find(key_arrays(rows, table.spec.key))
    ids = np.unique(matches.ids)
    if not len(ids):
        return found
    names = list(identity) if identity is not None else rows.schema.names
    known = table.take(ids, names)
    codes = row_codes([pa.concat_arrays([rows.column(name), known.column(name)]) for name in names])
    wanted, present = _numbered(codes[: rows.num_rows]), _numbered(codes[rows.num_rows :])
    order = np.lexsort((present[1], present[0]))
    places = _search(present[0][order], present[1][order], *wanted)
    hit = places >= 0
    found[hit] = ids[order[places[hit]]]
    return found


def _numbered(codes: Rows) -> tuple[Rows, Rows]:
    return codes, ranks(codes)


def _search(codes: Rows, numbers: Rows, wanted_codes: Rows, wanted_numbers: Rows) -> Rows:
    """Where each wanted pair is in sorted pairs; -1 where it is not."""
    width = int(max(numbers.max(initial=0), wanted_numbers.max(initial=0))) + 1
    have, want = codes * width + numbers, wanted_codes * width + wanted_numbers
    places = np.minimum(np.searchsorted(have, want), len(have) - 1)
    return np.where(have[places] == want, places, -1)


def ranks(codes: Rows) -> Rows:
    """How many equal values come before each one.

    >>> ranks(np.array([7, 5, 7, 7])).tolist()
    [0, 0, 1, 2]
    """
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(codes) else order
    lengths = np.diff(np.append(starts, len(codes)))
    result = np.empty(len(codes), np.int64)
    result[order] = np.arange(len(codes)) - np.repeat(starts, lengths)
    return result
