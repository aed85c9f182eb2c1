"""Keys of rows that stand in no index yet, because nobody has looked for them often enough to pay for one.

Entering a row in a hash index costs many times as much as appending it. Rows that are dropped before they are looked
for (windows, intervals), or after one look, never get there: a look-up of a few keys hashes the wanted ones and passes
over the log. Only when as much was spent on passing over it as an index would have cost is the index made, in one go:
never more than twice the cost of the better choice (the ski-rental rule of Karlin and others, 1988).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import RowIds
from lakeward.engine.core.hashing import Int64Array, UInt64Array
from lakeward.engine.state.keys import KeyBatch, spread
from lakeward.engine.state.row_chunks import owned

Encode = Callable[[Sequence[pa.Array]], tuple[Int64Array | None, KeyBatch]]
"""Key columns to keys; with the rows that have no null in them (None: all)."""
LoggedKeys = tuple[RowIds, KeyBatch]
"""Ids of rows without a null in their key, and the keys."""

_PASSES = 6
"""An index costs about as much as so many passes over the log, to which others add:"""
_WANTED_COST = 2
_MAYBE_COST = 10
_BITS_PER_KEY = 8
_BITS_MAX = 1 << 22


class KeyLog:
    """Rows and their keys, in the order in which they came.

    Args:
        encode: Hashes and encodes the key columns.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._raw: list[tuple[RowIds, Sequence[pa.Array]]] = []
        self._parts: list[LoggedKeys] = []
        self._work = 0
        self.rows = 0
        self.size_bytes = 0

    def append(self, ids: RowIds, keys: Sequence[pa.Array]) -> None:
        """Note rows."""
        # Keys that are a part of something larger would keep all of it in memory.
        keys = owned(pa.RecordBatch.from_arrays(list(keys), [str(number) for number in range(len(keys))])).columns
        self._raw.append((ids, keys))
        self.rows += len(ids)
        self.size_bytes += ids.nbytes + sum(array.nbytes for array in keys)

    def take(self) -> list[LoggedKeys]:
        """All of it; the log is empty afterwards."""
        self._read()
        parts, self._parts = self._parts, []
        self._work = self.rows = self.size_bytes = 0
        return parts

    def find(self, wanted: KeyBatch) -> tuple[Int64Array, RowIds] | None:
        """Positions in `wanted`, none of which is null, rising, and the rows that have these keys.

        Returns:
            None: An index is cheaper by now.
        """
        self._work += self.rows + _WANTED_COST * len(wanted)
        if self._work > _PASSES * self.rows:
            return None
        self._read()
        size = min(_BITS_MAX, 1 << (len(wanted) * _BITS_PER_KEY).bit_length())
        mask = np.uint64(size - 1)
        bits = np.zeros(size, dtype=np.bool_)
        bits[wanted.hashes & mask] = True
        maybe = [np.flatnonzero(bits[keys.hashes & mask]) for _, keys in self._parts]
        self._work += _MAYBE_COST * sum(map(len, maybe))
        if self._work > _PASSES * self.rows:
            return None
        order = np.argsort(wanted.hashes)
        ordered = wanted.hashes[order]
        found = [_matches(part, rows, wanted, order, ordered) for part, rows in zip(self._parts, maybe, strict=True)]
        positions, ids = (np.concatenate([pair[n] for pair in found]) for n in (0, 1))
        by_key = np.argsort(positions, kind="stable")
        return positions[by_key], ids[by_key]

    def _read(self) -> None:
        """Hash what has come since the last look: together, since appends may be small."""
        if not self._raw:
            return
        ids = np.concatenate([ids for ids, _ in self._raw])
        columns = [pa.concat_arrays(parts) for parts in zip(*(keys for _, keys in self._raw), strict=True)]
        rows, keys = self._encode(columns)
        self._parts.append((ids if rows is None else ids[rows], keys))
        self._raw = []
        self.size_bytes = sum(part_ids.nbytes + part_keys.size_bytes for part_ids, part_keys in self._parts)


def _matches(
    part: LoggedKeys, rows: Int64Array, wanted: KeyBatch, order: Int64Array, ordered: UInt64Array
) -> tuple[Int64Array, RowIds]:
    """The rows of a part, of those that may be, that have a wanted key; by row."""
    ids, keys = part
    hashes = keys.hashes[rows]
    starts = np.searchsorted(ordered, hashes)
    hit = np.flatnonzero(ordered[np.minimum(starts, len(ordered) - 1)] == hashes)
    rows, starts, hashes = rows[hit], starts[hit], hashes[hit]
    counts = np.searchsorted(ordered, hashes, side="right") - starts
    positions, rows = order[spread(starts, counts)], np.repeat(rows, counts)
    same = wanted.take(positions).same(keys.take(rows))
    return positions[same], ids[rows[same]]
