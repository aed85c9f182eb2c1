"""Whole rows by key, where null is a key like any other: what `PARTITION BY` of SQL means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import Matches, RowIds, RowsSpec
from lakeward.operators.grouping import plain
from lakeward.operators.windows.columns import Mask, Rows, group_rows

_NULL_KEYS = 1
"""Added to the namespace of rows that have a null in their key: row tables do not find those by key."""


class KeyedRows:
    """A row table that also finds null keys, by looking at all rows that have one.

    Args:
        context: The operator's.
        spec: The table; its keys decide the key group as a whole.
    """

    def __init__(self, context: OperatorContext, spec: RowsSpec) -> None:
        self.schema = spec.schema
        self._key = spec.key
        self._table = context.rows(spec)
        self._nullable = any(name & _NULL_KEYS for name in self._table.namespaces())

    def __len__(self) -> int:
        return len(self._table)

    def append(self, batch: pa.RecordBatch, namespace: int = 0) -> RowIds:
        """Add rows, to a namespace that can be dropped as a whole; returns their ids."""
        return self.put(batch, np.full(batch.num_rows, -1, np.int64), namespace)

    def put(self, batch: pa.RecordBatch, ids: RowIds, namespace: int = 0) -> RowIds:
        """Give rows the place of others of the same key; where the id is -1, add them. One row a key."""
        if not batch.num_rows:
            return ids
        null = _some_null([batch.column(name) for name in self._key])
        if null is None:
            return self._table.put(batch, ids, 2 * namespace)
        self._nullable = True
        given = np.empty_like(ids)
        given[null] = self._table.put(batch.filter(pa.array(null)), ids[null], 2 * namespace + _NULL_KEYS)
        if not null.all():
            given[~null] = self._table.put(batch.filter(pa.array(~null)), ids[~null], 2 * namespace)
        return given

    def drop_below(self, namespace: int) -> None:
        """Forget all namespaces below this one."""
        for name in self._table.namespaces():
            if name < 2 * namespace:
                self._table.drop(name)

    def find(self, keys: Sequence[pa.Array]) -> Matches:
        """The rows that have these keys, which are all different; those of one key in the order of append."""
        found = self._table.find(keys)
        null = _some_null(keys) if self._nullable else None
        if null is None:
            return found
        positions, ids = self._find_null(keys, np.flatnonzero(null))
        rows = np.concatenate([found.rows, positions])
        order = np.argsort(rows, kind="stable")
        return Matches(rows[order], np.concatenate([found.ids, ids])[order])

    def _find_null(self, keys: Sequence[pa.Array], positions: Rows) -> tuple[Rows, RowIds]:
        wanted = [key.take(pa.array(positions)) for key in keys]
        ids: list[RowIds] = []
        held: list[list[pa.Array]] = []
        for namespace in self._table.namespaces():
            for some, batch in self._table.scan(namespace) if namespace & _NULL_KEYS else ():
                ids.append(some)
                held.append([plain(batch.column(name)) for name in self._key])
        if not ids:
            return positions[:0], positions[:0]
        codes, _ = group_rows([pa.concat_arrays([one, *parts]) for one, *parts in zip(wanted, *held, strict=True)])
        place = np.full(len(codes), -1, np.int64)
        place[codes[: len(positions)]] = positions
        at = place[codes[len(positions) :]]
        hit = np.flatnonzero(at >= 0)
        order = hit[np.argsort(at[hit], kind="stable")]
        return at[order], np.concatenate(ids)[order]

    def take(self, ids: RowIds, columns: Sequence[str]) -> pa.RecordBatch:
        """Rows by id."""
        return self._table.take(ids, columns)

    def get(self, name: str, ids: RowIds) -> npt.NDArray[Any]:
        """The values of a mutable column."""
        return self._table.get(name, ids)

    def set(self, name: str, ids: RowIds, values: npt.NDArray[Any]) -> None:
        """Change a mutable column; each id once."""
        if len(ids):
            self._table.set(name, ids, values)

    def remove(self, ids: RowIds) -> None:
        """Forget rows; each id once."""
        self._table.remove(ids)

    def scan(self) -> Iterator[tuple[RowIds, pa.RecordBatch]]:
        """All rows; leave the table alone meanwhile."""
        yield from self._table.scan()

    def replace(self, ids: RowIds, batch: pa.RecordBatch, namespace: int = 0) -> None:
        """Forget rows, and add others: mostly of the same keys, which stay known when the new rows come first."""
        self.append(batch, namespace)
        if len(ids):
            self.remove(ids)


def _some_null(keys: Sequence[pa.Array]) -> Mask | None:
    """Where a key has a null; None: nowhere."""
    masks = [key.is_null().to_numpy(zero_copy_only=False) for key in keys if key.null_count]
    if not masks:
        return None
    null: Mask = np.logical_or.reduce(masks)
    return null
