"""Which starts are tried: where the search goes on after each match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lakeward.engine.core.errors import UserCodeError
from lakeward.operators.patterns.pattern import Pattern, SkipTo
from lakeward.operators.patterns.rows import KeyRows, Span
from lakeward.operators.patterns.search import FAILED, MATCHED, OPEN, Search
from lakeward.operators.windows.columns import Mask, Rows

_BLOCK = 256
"""How many starts of a key are tried together at first, although matches may skip some of them."""
_CHEAP_ROWS = 64
"""So many rows may be looked at for a start that turns out to be skipped, without trying fewer at once."""
_STARTS_MAX = 1 << 17


@dataclass(frozen=True, slots=True)
class Found:
    """What was found in some rows.

    Args:
        starts: The first row of each match.
        ends: The row behind it.
        spans: Its rows of each variable.
        open: Of each row, whether a match may yet begin there, or at one of the rows behind it and not before.
    """

    starts: Rows
    ends: Rows
    spans: tuple[Span, ...]
    open: Mask


def find_matches(pattern: Pattern, rows: KeyRows, candidates: Mask) -> Found:
    """Find the matches of each key, in order.

    Args:
        pattern: What is looked for.
        rows: The rows.
        candidates: Where matches may begin. But for `SkipTo.NEXT_ROW` these are all rows.

    Raises:
        UserCodeError: After a match the search cannot go on where the pattern says.
    """
    if pattern.skip.to is SkipTo.NEXT_ROW:
        return _independent(pattern, rows, np.flatnonzero(candidates))
    return _in_turn(pattern, rows)


def _independent(pattern: Pattern, rows: KeyRows, starts: Rows) -> Found:
    """Every row is a start, whatever the others are."""
    found: list[Found] = []
    open_rows = np.zeros(len(rows), np.bool_)
    for first in range(0, len(starts), _STARTS_MAX):
        some = starts[first : first + _STARTS_MAX]
        search = Search(pattern, rows, some)
        search.run()
        open_rows[some] = search.states == OPEN
        found.append(_chosen(search, some, np.flatnonzero(search.states == MATCHED)))
    return _together(pattern, found, open_rows)


def _in_turn(pattern: Pattern, rows: KeyRows) -> Found:
    """Rows that a match skips are no starts; some are tried nevertheless, since trying many at once costs little.

    Of each key a block of rows is tried, then the next one, behind what was skipped. Blocks grow as long as few rows
    have to be looked at, or at least half of their rows turn out to be starts; else they shrink, so that of matches
    that are long, and skip many starts, few are found in vain.
    """
    found: list[Found] = []
    open_rows = np.zeros(len(rows), np.bool_)
    ends = np.unique(rows.key_ends)
    next_rows = np.append(0, ends[:-1])[: len(ends)]
    blocks = np.full(len(ends), _BLOCK, np.int64)
    while len(ends):
        sizes = np.minimum(blocks, ends - next_rows)
        offsets = np.cumsum(sizes) - sizes
        starts = np.repeat(next_rows - offsets, sizes) + np.arange(int(sizes.sum()))
        search = Search(pattern, rows, starts)
        search.run()
        visited, free, chosen = _followed(pattern, rows, search, starts)
        found.append(_chosen(search, starts, chosen))
        blocked = starts[visited & (search.states == OPEN)]
        open_rows[blocked] = True
        tried = np.add.reduceat(visited, offsets, dtype=np.int64)
        next_rows = np.maximum(next_rows + sizes, np.maximum.reduceat(free, offsets))
        cheap = search.looked_at <= _CHEAP_ROWS * len(starts)
        blocks = np.where(cheap | (2 * tried >= sizes), 4 * blocks, np.maximum(blocks // 4, 1))
        going = next_rows < ends
        ends, next_rows, blocks = ends[going], next_rows[going], blocks[going]
    return _together(pattern, found, open_rows)


def _followed(pattern: Pattern, rows: KeyRows, search: Search, starts: Rows) -> tuple[Mask, Rows, Rows]:
    """Which starts are tried when matches skip some, up to where each one skips, and which ones match."""
    events = np.flatnonzero(search.states != FAILED)
    targets = rows.key_ends[starts[events]].copy()  # nothing behind an open start can be decided
    matched = search.states[events] == MATCHED
    targets[matched] = _targets(pattern, search, events[matched])
    some = _unskipped(starts[events], np.maximum(targets, starts[events] + 1))
    _check_targets(pattern, starts[events[some]], targets[some], matched[some])
    reach = np.zeros(len(starts), np.int64)
    reach[events[some]] = targets[some]
    before = np.append(0, np.maximum.accumulate(reach)[:-1])
    return starts >= before, reach, events[some[matched[some]]]


def _unskipped(starts: Rows, targets: Rows) -> Rows:
    """Which of some events happen when each that happens skips those up to its target.

    >>> _unskipped(np.array([0, 2, 5, 6]), np.array([4, 6, 9, 7])).tolist()
    [0, 2]

    Args:
        starts: Rising.
        targets: Greater than the starts.
    """
    furthest = np.append(-1, np.maximum.accumulate(targets)[:-1])[: len(starts)]
    sure = starts >= furthest
    before = np.maximum.accumulate(np.where(sure, np.arange(len(starts)), 0))
    unsure = np.flatnonzero(~sure & (starts >= targets[before]))
    happens = sure.copy()
    leader, free = -1, 0
    for number, first, start in zip(unsure.tolist(), before[unsure].tolist(), starts[unsure].tolist(), strict=True):
        if first != leader:
            leader, free = first, int(targets[first])
        if start >= free:
            happens[number], free = True, int(targets[number])
    return np.flatnonzero(happens)


def _targets(pattern: Pattern, search: Search, who: Rows) -> Rows:
    """Where the search goes on; -1 where the pattern names a variable without rows."""
    skip = pattern.skip
    if skip.to is SkipTo.PAST_LAST_ROW:
        return search.ends(who)
    begins, counts = search.begins[skip.stage][who], search.counts[skip.stage][who]
    targets = begins if skip.to is SkipTo.FIRST else begins + counts - 1
    return np.where(counts > 0, targets, -1)


def _check_targets(pattern: Pattern, starts: Rows, targets: Rows, matched: Mask) -> None:
    stage = pattern.stages[pattern.skip.stage].name
    if (matched & (targets < 0)).any():
        raise UserCodeError(
            f"the match is to be followed from the variable '{stage}', which has no row in it",
            hint='let it have one (no .optional()), or skip "past_last_row"',
        )
    if (matched & (targets == starts)).any():
        raise UserCodeError(
            f"the search goes on at the row of '{stage}' with which the match has begun, and finds it again",
            hint='skip to a variable behind it, or "to_next_row"',
        )


def _chosen(search: Search, starts: Rows, who: Rows) -> Found:
    spans = tuple((begins[who], counts[who]) for begins, counts in zip(search.begins, search.counts, strict=True))
    return Found(starts[who], search.ends(who), spans, np.zeros(0, np.bool_))


def _together(pattern: Pattern, found: Sequence[Found], open_rows: Mask) -> Found:
    nothing = np.zeros(0, np.int64)
    spans = tuple(
        (
            np.concatenate([nothing, *(one.spans[number][0] for one in found)]),
            np.concatenate([nothing, *(one.spans[number][1] for one in found)]),
        )
        for number in range(len(pattern.stages))
    )
    starts = np.concatenate([nothing, *(one.starts for one in found)])
    return Found(starts, np.concatenate([nothing, *(one.ends for one in found)]), spans, open_rows)
