"""What checkpoints hold of an asynchronous operator: the rows that it has not sent, and the watermarks between them.

Rows are kept in a table of rows, in key groups of the subtask that had them, spread evenly, so that at another
parallelism each goes to exactly one subtask. Watermarks are small state, which every subtask gets whole: they say for
each old subtask behind how many of its rows they stood.

So rows behind a watermark are late after a restore as they were before it. Where rows of several old subtasks come
together they are sorted by the watermark that they stood behind, which keeps the order in each; so a watermark goes
before no row that it stood behind. Nor does one go that some old subtask had not reached: receivers had waited for that
one, and its input may be read by any subtask now.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import RowsSpec, RowTable
from lakeward.engine.core.json_types import Json, JsonObject
from lakeward.engine.core.keygroups import key_group_range, keys_in_groups
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US, Watermark
from lakeward.operators.async_queue import Mark

_KEY, _SUBTASK, _PLACE = "key$", "subtask$", "place$"
_STATE_VERSION = 1
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

    def open(self, context: OperatorContext) -> Iterator[pa.RecordBatch | int]:
        """The rows that were in flight in the restored checkpoint, and the watermarks between and behind them."""
        self._context = context
        self._table = context.rows(self._spec)
        old = [_Watermarks.from_json(state) for state in context.restored]
        limit_us = _slowest_us(old)
        batches = [batch for _, batch in self._table.scan()]
        reached_us = WATERMARK_MIN_US
        if batches:
            saved = pa.concat_batches(batches)
            subtasks, places = (saved.column(name).to_numpy() for name in (_SUBTASK, _PLACE))
            before_us = np.full(len(saved), WATERMARK_MIN_US)
            for one in old:
                own = subtasks == one.subtask
                before_us[own] = np.minimum(one.before(places[own]), limit_us)
            order = np.lexsort((places, subtasks, before_us))
            rows, before_us = saved.take(pa.array(order)).select(self._schema.names), before_us[order]
            starts = (np.flatnonzero(before_us[1:] != before_us[:-1]) + 1).tolist()
            for start, end in pairwise([0, *starts, len(rows)]):
                if before_us[start] > reached_us:
                    reached_us = int(before_us[start])
                    yield reached_us
                yield rows.slice(start, end - start)
        if reached_us < limit_us < WATERMARK_MAX_US:
            yield limit_us

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

    def marks(self, marks: Sequence[Mark], newest: Watermark) -> JsonObject:
        """The watermarks between the rows; that of the end of time is not kept, since the input will say it again.

        Args:
            marks: Where they stand.
            newest: The last one that came.
        """
        assert self._context is not None, "opened first"
        kept: list[Json] = [list(mark) for mark in marks if mark.watermark_us != WATERMARK_MAX_US]
        return {
            "v": _STATE_VERSION,
            "subtask": self._context.subtask,
            "marks": kept,
            "newest_us": newest.timestamp_us,
            "idle": newest.idle,
        }


@dataclass(frozen=True, slots=True)
class _Watermarks:
    """Those of an old subtask."""

    subtask: int
    marks: Sequence[Mark]
    newest: Watermark

    @classmethod
    def from_json(cls, state: JsonObject) -> _Watermarks:
        fields: Any = state
        newest = Watermark(fields["newest_us"], fields["idle"])
        return cls(fields["subtask"], [Mark(*mark) for mark in fields["marks"]], newest)

    def before(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The watermark that each row stands behind."""
        times = np.array([WATERMARK_MIN_US, *(mark.watermark_us for mark in self.marks)], dtype=np.int64)
        ends = np.array([mark.place for mark in self.marks], dtype=np.int64)
        return times[np.searchsorted(ends, places, side="right")]


def _slowest_us(old: Sequence[_Watermarks]) -> int:
    """How far all had come that were neither idle nor at the end of their input; if there are none, all idle ones."""
    running = [one.newest for one in old if one.newest.timestamp_us != WATERMARK_MAX_US]
    active = [newest for newest in running if not newest.idle] or running
    nobody_us = WATERMARK_MAX_US if old else WATERMARK_MIN_US
    return min((newest.timestamp_us for newest in active), default=nobody_us)
