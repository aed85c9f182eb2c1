"""What checkpoints hold of an asynchronous operator: the rows that it has not sent.

They are kept in a table of rows, in key groups of the subtask that had them, spread evenly, so that at another
parallelism each goes to exactly one subtask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import RowsSpec, RowTable
from lakeward.engine.core.keygroups import key_group_range, keys_in_groups

_KEY, _SUBTASK, _PLACE = "key$", "subtask$", "place$"
_OWN_FIELDS = [pa.field(name, pa.int64(), nullable=False) for name in (_KEY, _SUBTASK, _PLACE)]


class SavedRows:
    """Rows in flight as checkpoints hold them.

    Args:
        schema: Of the rows.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._spec = RowsSpec("in_flight", pa.schema([*_OWN_FIELDS, *schema]), key=(_KEY,))
        self._table: RowTable | None = None
        self._context: OperatorContext | None = None

    def open(self, context: OperatorContext) -> pa.RecordBatch:
        """The rows that were in flight in the restored checkpoint, those of each old subtask in their order."""
        self._context = context
        self._table = context.rows(self._spec)
        batches = [batch for _, batch in self._table.scan()]
        if not batches:
            return pa.RecordBatch.from_pylist([], schema=self._schema)
        saved = pa.concat_batches(batches)
        order = np.lexsort((saved.column(_PLACE).to_numpy(), saved.column(_SUBTASK).to_numpy()))
        return saved.take(pa.array(order)).select(self._schema.names)

    def schemed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Rows as they are saved: those that were restored and those that came may differ in what can be null."""
        return batch.cast(self._schema)

    def save(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Replace what was saved before by these rows."""
        assert self._table is not None, "opened first"
        assert self._context is not None, "opened first"
        for namespace in self._table.namespaces():
            self._table.drop(namespace)
        if not batches:
            return
        context, places = self._context, np.arange(sum(batch.num_rows for batch in batches))
        groups = key_group_range(context.subtask, context.parallelism, context.max_parallelism)
        owners = groups.start + places * len(groups) // len(places)
        own = [keys_in_groups(owners, context.max_parallelism), np.full(len(places), context.subtask), places]
        rows = pa.concat_batches([self.schemed(batch) for batch in batches])
        columns = [*(pa.array(values.astype(np.int64)) for values in own), *rows.columns]
        self._table.append(pa.RecordBatch.from_arrays(columns, schema=self._spec.schema))
