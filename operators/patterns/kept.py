"""The rows that open starts still need, by key, and when each start is closed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import Matches, RowIds, RowsSpec
from lakeward.operators.ranking.keyed_rows import KeyedRows
from lakeward.operators.windows.columns import Mask, Rows, group_rows

TIME = "time$"
IS_START = "start$"
_NEVER = np.int64(2**63 - 1)


def kept_schema(keys: list[pa.Field], inputs: list[pa.Field]) -> pa.Schema:
    """Schema of kept rows: key columns, what expressions read, the time, and whether a match may begin there."""
    own = [pa.field(TIME, pa.int64(), nullable=False), pa.field(IS_START, pa.int8(), nullable=False)]
    return pa.schema([*keys, *inputs, *own])


class KeptRows:
    """A row table, and in memory by the id of each row that is a start, up to when rows may come for it.

    Args:
        context: The operator's.
        schema: Of the rows; made by `kept_schema`.
        keys: The key columns.
        within_us: The time that a match may take; None: any.
        end_us: When all input has come.
    """

    def __init__(
        self, context: OperatorContext, schema: pa.Schema, keys: tuple[str, ...], within_us: int | None, end_us: int
    ) -> None:
        self._keys = keys
        self._within_us = within_us
        self._end_us = end_us
        self._rows = KeyedRows(context, RowsSpec("rows", schema, keys, mutable=(IS_START,)))
        self._due_us = np.zeros(0, np.int64)
        self._soonest_us = int(_NEVER)
        for ids, batch in self._rows.scan():
            self._note(ids, batch.column(TIME).to_numpy(), batch.column(IS_START).to_numpy() != 0)

    def find(self, keys: list[pa.Array]) -> tuple[Matches, pa.RecordBatch]:
        """The rows of some keys, which are all different, in the order of time."""
        found = self._rows.find(keys)
        return found, self._rows.take(found.ids, self._rows.schema.names)

    def due(self, time_us: int, keys_max: int) -> Iterator[list[pa.Array]]:
        """The keys of which a start is closed when no more rows come up to a time, some at once."""
        if time_us < self._soonest_us:
            return
        ids = np.flatnonzero(self._due_us <= min(time_us, self._end_us))
        if len(ids):
            batch = self._rows.take(ids, list(self._keys))
            _, firsts = group_rows(batch.columns)
            for start in range(0, len(firsts), keys_max):
                some = pa.array(firsts[start : start + keys_max])
                yield [column.take(some) for column in batch.columns]
        self._soonest_us = int(self._due_us.min(initial=_NEVER))

    def add(self, batch: pa.RecordBatch) -> None:
        """Keep rows."""
        ids = self._rows.append(batch)
        self._note(ids, batch.column(TIME).to_numpy(), batch.column(IS_START).to_numpy() != 0)

    def set_starts(self, ids: RowIds, starts: Mask) -> None:
        """Say anew whether rows are starts; none that was not becomes one."""
        ended = ids[~starts & (self._due_us[ids] != _NEVER)]
        self._rows.set(IS_START, ended, np.zeros(len(ended), np.int8))
        self._due_us[ended] = _NEVER

    def remove(self, ids: RowIds) -> None:
        """Forget rows."""
        if len(ids):
            self._rows.remove(ids)
            self._due_us[ids] = _NEVER

    def _note(self, ids: RowIds, times_us: Rows, starts: Mask) -> None:
        if not len(ids):
            return
        size = int(ids.max()) + 1
        if size > len(self._due_us):
            grown = np.full(max(size, 2 * len(self._due_us)), _NEVER, np.int64)
            grown[: len(self._due_us)] = self._due_us
            self._due_us = grown
        due_us = times_us + (self._within_us - 1) if self._within_us is not None else self._end_us
        self._due_us[ids] = np.where(starts, due_us, _NEVER)
        if starts.any():
            self._soonest_us = min(self._soonest_us, int(np.min(self._due_us[ids])))
