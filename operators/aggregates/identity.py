"""Numbers for the keys of an operator: small stand-ins for keys of any width, which side tables are keyed by.

A key's number is chosen so that it hashes into the key's own key group: its hash has the high half of the key's hash,
and a counter as the low half. So rows that are keyed by the number move with the key when the job is rescaled, and no
two keys of a pane have the same number: where the high halves are equal the keys belong to one key group, hence to one
subtask, and the counter differs. How far it has come is stored for each key group that it was used for, so that whoever
gets the group goes on from there. (After 2**32 new keys it begins anew.)
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import ColumnSpec, TableSpec
from lakeward.engine.core.hashing import UInt64Array, hash_columns, splitmix64, unmix64
from lakeward.engine.core.keygroups import key_groups, keys_in_groups
from lakeward.operators.aggregates.lanes import Fetch, Inputs
from lakeward.operators.windows.columns import Rows

LOW_HALF = np.uint64((1 << 32) - 1)
ID = "#id"
"""The state column of a key's number; 0 until it has one."""

_ZERO = int(splitmix64(np.zeros(1, np.uint64))[0] & LOW_HALF)  # with this counter a number could be 0


class KeyNumbers:
    """Gives numbers to keys. Its counter is stored in a table of its own, a row a key group."""

    fields = (ColumnSpec(ID, pa.int64(), 0),)

    def open(self, context: OperatorContext) -> None:
        """Open the table; go on from the furthest counter in it."""
        spec = TableSpec("numbers", (("#group", pa.int64()),), (ColumnSpec("next", pa.int64(), 1),))
        self._table = context.table(spec)
        self._max_parallelism = context.max_parallelism
        used = [batch.column("next").to_numpy().max() for batch in self._table.pane().scan() if batch.num_rows]
        self._next = int(max(used, default=1))

    def assign(self, fetch: Fetch, slots: Rows, inputs: Inputs) -> None:
        """Give numbers to keys that have none; every key of the batch has one afterwards."""
        ids = fetch(ID)
        rows = np.flatnonzero(ids[slots] == 0)
        if not len(rows):
            return
        ids[slots[rows]] = rows + 1  # for a moment, the row that is to have the number
        rows = rows[ids[slots[rows]] == rows + 1]
        picked = pa.array(rows)
        hashes = hash_columns([key.take(picked) for key in inputs.keys])
        if (_ZERO - self._next) % (1 << 32) < len(rows):
            self._next += (_ZERO - self._next) % (1 << 32) + 1
        counters = (self._next + np.arange(len(rows))).astype(np.uint64)
        self._next += len(rows)
        ids[slots[rows]] = unmix64((hashes & ~LOW_HALF) | (counters & LOW_HALF)).view(np.int64)
        self._note(hashes)

    def _note(self, hashes: UInt64Array) -> None:
        """Store the counter with the key groups that were given numbers."""
        groups = np.unique(key_groups(hashes, self._max_parallelism))
        pane = self._table.pane()
        slots = pane.slots(self._table.keys([pa.array(keys_in_groups(groups, self._max_parallelism))]))
        pane.column("next")[slots] = self._next
