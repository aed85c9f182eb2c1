"""A hash index over the rows of a table that no longer changes, for joins with a side that fits memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lakeward.engine.api.state import Matches
from lakeward.engine.core.hashing import hash_columns, is_binary_like
from lakeward.operators.joins.rows import Mask, Rows

_BUCKETS_PER_KEY = 4


class StaticIndex:
    """Finds rows by key: open addressing with triangular probing over the keys' 64-bit hashes, a batch at a time.

    Rows of one hash lie side by side in an order, so that a bucket needs only where they begin. Keys are compared
    in full where different ones can have one hash: for text, and for several columns.

    >>> index = StaticIndex([pa.array([7, 8, 7, None])])
    >>> found = index.find([pa.array([9, 7, None])])
    >>> found.rows.tolist(), found.ids.tolist()
    ([1, 1], [0, 2])

    Args:
        keys: The key columns of all rows; rows with a null in one are found by nothing.
    """

    def __init__(self, keys: Sequence[pa.Array]) -> None:
        self._keys = keys
        self._exact = len(keys) == 1 and not is_binary_like(keys[0].type)  # splitmix64 is a bijection
        valid = _valid(keys)
        rows = np.arange(len(keys[0])) if valid is None else np.flatnonzero(valid)
        hashes = hash_columns(keys)[rows]
        order = np.argsort(hashes, kind="stable")
        self._rows: Rows = rows[order]
        ordered = hashes[order]
        first = np.ones(len(ordered), np.bool_)
        first[1:] = ordered[1:] != ordered[:-1]
        self._starts: Rows = np.flatnonzero(first)
        self._counts: Rows = np.diff(np.append(self._starts, len(ordered)))
        self._hashes: npt.NDArray[np.uint64] = ordered[self._starts]
        self._buckets = _place(self._hashes)
        self._single = bool((self._counts == 1).all())

    @property
    def is_unique(self) -> bool:
        """Whether no two rows have one key (or one hash)."""
        return self._single

    def find(self, keys: Sequence[pa.Array]) -> Matches:
        """The rows that have these keys; `ids` are their positions."""
        groups = self._groups(hash_columns(keys))
        valid = _valid(keys)
        hit = groups >= 0 if valid is None else (groups >= 0) & valid
        rows = np.flatnonzero(hit)
        groups = groups[rows]
        if self._single:
            matches = Matches(rows, self._rows[self._starts[groups]])
        else:
            counts = self._counts[groups]
            steps = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            matches = Matches(np.repeat(rows, counts), self._rows[np.repeat(self._starts[groups], counts) + steps])
        return matches if self._exact else self._verified(keys, matches)

    def _groups(self, hashes: npt.NDArray[np.uint64]) -> Rows:
        """The group of rows with each hash; -1: there is none."""
        mask = len(self._buckets) - 1
        if not len(self._hashes):
            return np.full(len(hashes), -1, np.int64)
        places = (hashes & np.uint64(mask)).view(np.int64)
        groups = self._buckets[places].astype(np.int64)
        going = np.flatnonzero((groups >= 0) & (self._hashes[groups] != hashes))
        step = 0
        while len(going):
            step += 1
            places[going] = (places[going] + step) & mask
            found = self._buckets[places[going]].astype(np.int64)
            groups[going] = found
            going = going[(found >= 0) & (self._hashes[found] != hashes[going])]
        return groups

    def _verified(self, keys: Sequence[pa.Array], matches: Matches) -> Matches:
        equal: Mask = np.ones(len(matches.rows), np.bool_)
        rows, ids = pa.array(matches.rows), pa.array(matches.ids)
        for wanted, known in zip(keys, self._keys, strict=True):
            same = pc.equal(wanted.take(rows), known.take(ids))
            if pa.types.is_floating(wanted.type):  # NaN is a key like any other
                same = pc.or_(same, pc.and_(pc.is_nan(wanted.take(rows)), pc.is_nan(known.take(ids))))
            equal &= same.to_numpy(zero_copy_only=False)
        return matches if equal.all() else Matches(matches.rows[equal], matches.ids[equal])


def _place(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
    """Buckets that hold the numbers of distinct hashes; -1 where empty."""
    size = 1 << max(7, (len(hashes) * _BUCKETS_PER_KEY - 1).bit_length())
    buckets = np.full(size, -1, np.int32)
    groups = np.arange(len(hashes))
    places = (hashes & np.uint64(size - 1)).view(np.int64)
    step = 0
    while len(groups):
        step += 1
        vacant = buckets[places] < 0
        buckets[places[vacant]] = groups[vacant]
        rest = np.flatnonzero(buckets[places] != groups)
        groups, places = groups[rest], (places[rest] + step) & (size - 1)
    return buckets


def _valid(keys: Sequence[pa.Array]) -> Mask | None:
    """The rows without a null in a key; None: all."""
    valid: Mask | None = None
    for array in keys:
        if array.null_count:
            mask: Mask = array.is_valid().to_numpy(zero_copy_only=False)
            valid = mask if valid is None else valid & mask
    return valid
