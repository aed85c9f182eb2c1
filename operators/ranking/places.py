"""Which place each row has among its group's, by row number, rank or dense rank."""

from __future__ import annotations

from typing import Final

import numpy as np

from lakeward.operators.ranking.changes import NONE, Changes
from lakeward.operators.ranking.order import Codes
from lakeward.operators.windows.columns import Mask, Rows

ROW_NUMBER: Final = "row_number"
"""Rows are numbered, equal ones as they came: 1, 2, 3, 4."""
RANK: Final = "rank"
"""Equal rows share a number, and leave a gap behind: 1, 2, 2, 4."""
DENSE_RANK: Final = "dense_rank"
"""Equal rows share a number, without a gap: 1, 2, 2, 3."""
METHODS: Final = (ROW_NUMBER, RANK, DENSE_RANK)


def rank_numbers(groups: Rows, codes: Codes, method: str) -> Rows:
    """The rank of each row, from 1.

    >>> rank_numbers(np.array([0, 0, 0, 0]), [np.array([5, 6, 6, 9])], RANK).tolist()
    [1, 2, 2, 4]

    Args:
        groups: The group of each row; rows must be sorted by group and codes.
        codes: What the rows were sorted by within a group.
        method: One of `METHODS`.
    """
    size = len(groups)
    starts: Mask = np.ones(size, np.bool_)
    starts[1:] = groups[1:] != groups[:-1]
    first = _since(starts)
    if method == ROW_NUMBER:
        return np.arange(size) - first + 1
    differs = starts.copy()
    for code in codes:
        differs[1:] |= code[1:] != code[:-1]
    if method == RANK:
        return _since(differs) - first + 1
    steps: Rows = np.cumsum(differs)
    dense: Rows = np.subtract(steps, steps[first]) + 1
    return dense


def _since(starts: Mask) -> Rows:
    """For each place, the last start at or before it."""
    return np.maximum.accumulate(np.where(starts, np.arange(len(starts)), 0))


def changes_by_place(groups: Rows, rows: Rows, old_ranks: Rows, new_ranks: Rows) -> Changes:
    """What stands at each place of each group, where it is another row than before.

    Args:
        groups: The group of each row, sorted.
        rows: The rows' numbers.
        old_ranks: The place of each row before, from 1, all different in a group; 0: it had none.
        new_ranks: Its place now.
    """
    if not len(groups):
        return Changes(groups, groups, groups, groups)
    first = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.maximum.reduceat(np.maximum(old_ranks, new_ranks), first)
    ends = np.cumsum(sizes)
    start = np.repeat(ends - sizes, np.diff(first, append=len(groups)))
    old = np.full(ends[-1], NONE, np.int64)
    new = old.copy()
    had, has = np.flatnonzero(old_ranks), np.flatnonzero(new_ranks)
    old[start[had] + old_ranks[had] - 1] = rows[had]
    new[start[has] + new_ranks[has] - 1] = rows[has]
    changed = np.flatnonzero(old != new)
    ranks = changed - np.repeat(ends - sizes, sizes)[changed] + 1
    return Changes(old[changed], new[changed], ranks, ranks)


def changes_by_row(rows: Rows, old_ranks: Rows, new_ranks: Rows, ranks_matter: bool) -> Changes:
    """Which rows came, went, or have another rank than before; those that went come first."""
    had, has = old_ranks > 0, new_ranks > 0
    changed = had != has
    if ranks_matter:
        changed |= old_ranks != new_ranks
    went = np.flatnonzero(changed & ~has)
    others = np.flatnonzero(changed & has)
    at = np.concatenate([went, others])
    old = np.where(had[at], rows[at], NONE)
    new = np.where(has[at], rows[at], NONE)
    return Changes(old, new, old_ranks[at], new_ranks[at]) if ranks_matter else Changes(old, new)
