"""Rows that wait for the watermark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeVar

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext
from lakeward.engine.api.state import RowIds, RowsSpec
from lakeward.operators.ranking.order import sorted_rows
from lakeward.operators.windows.columns import Mask, Rows
from lakeward.operators.windows.timed import event_times_us

_FRESH_BYTES_MAX: Final = 1 << 26

Part = TypeVar("Part", RowIds, pa.RecordBatch)


class WaitingRows:
    """Rows by their time, in the order of arrival where times are equal.

    Most rows do not wait for long. They stay as they came until a checkpoint is taken or they become too many; only
    those that still wait then are put into a row table, with their times and ids in memory.

    Args:
        context: The operator's.
        schema: Of the rows.
        keys: Key columns.
        time_column: The event time.
    """

    def __init__(self, context: OperatorContext, schema: pa.Schema, keys: tuple[str, ...], time_column: str) -> None:
        self._schema = schema
        self._table = context.rows(RowsSpec("waiting", schema, keys))
        self._stored: list[tuple[Rows, RowIds]] = []
        self._fresh: list[tuple[Rows, pa.RecordBatch]] = []
        self._fresh_bytes = 0
        for ids, batch in self._table.scan():
            self._stored.append((event_times_us(batch, time_column), ids))

    def __len__(self) -> int:
        return len(self._table) + sum(len(times_us) for times_us, _ in self._fresh)

    def add(self, batch: pa.RecordBatch, times_us: Rows) -> None:
        """Let rows wait."""
        if not batch.num_rows:
            return
        self._fresh.append((times_us, batch))
        self._fresh_bytes += batch.nbytes
        if self._fresh_bytes > _FRESH_BYTES_MAX:
            self.store()

    def store(self) -> None:
        """Put the rows that came since the last call into the table."""
        for times_us, batch in self._fresh:
            self._stored.append((times_us, self._table.append(batch)))
        self._fresh, self._fresh_bytes = [], 0

    def take(self, upto_us: int, rows_max: int, whole_times: bool) -> Iterator[tuple[pa.RecordBatch, Rows]]:
        """Take out the rows up to a time, in order.

        Args:
            upto_us: The time.
            rows_max: How many to take out at once.
            whole_times: Whether rows of one time stay together, however many they are.

        Yields:
            Rows and their times.
        """
        stored, self._stored = _split(self._stored, upto_us)
        fresh, self._fresh = _split(self._fresh, upto_us)
        self._stored = _joined(self._stored)
        self._fresh_bytes = sum(batch.nbytes for _, batch in self._fresh)
        if not stored and not fresh:
            return
        # All that is stored came before all that is fresh.
        times_us = np.concatenate([times for times, _ in (*stored, *fresh)])
        ids = np.concatenate([np.zeros(0, np.int64), *(ids for _, ids in stored)])
        nothing = pa.RecordBatch.from_pylist([], schema=self._schema)
        rows = pa.concat_batches([nothing, *(batch for _, batch in fresh)])
        order = sorted_rows(np.zeros(len(times_us), np.int64), [times_us])
        times_us = times_us[order]
        start = 0
        while start < len(order):
            end = min(start + rows_max, len(order))
            if whole_times:
                end = int(np.searchsorted(times_us, times_us[end - 1], side="right"))
            yield self._gather(order[start:end], ids, rows), times_us[start:end]
            start = end

    def _gather(self, numbers: Rows, ids: RowIds, fresh: pa.RecordBatch) -> pa.RecordBatch:
        """Rows by number: first those of the table, which forgets them, then the fresh ones."""
        held = numbers < len(ids)
        if not held.any():
            return fresh.take(pa.array(numbers - len(ids)))
        some = ids[numbers[held]]
        stored = self._table.take(some, self._schema.names)
        self._table.remove(some)
        if held.all():
            return stored
        both = pa.concat_batches([stored, fresh.take(pa.array(numbers[~held] - len(ids)))])
        places = np.empty(len(numbers), np.int64)
        places[np.flatnonzero(held)] = np.arange(len(some))
        places[np.flatnonzero(~held)] = np.arange(len(some), len(numbers))
        return both.take(pa.array(places))


def _split(runs: list[tuple[Rows, Part]], upto_us: int) -> tuple[list[tuple[Rows, Part]], list[tuple[Rows, Part]]]:
    """What has a time up to this one, and what is left."""
    due: list[tuple[Rows, Part]] = []
    left: list[tuple[Rows, Part]] = []
    for times_us, part in runs:
        now: Mask = times_us <= upto_us
        if now.all():
            due.append((times_us, part))
        elif not now.any():
            left.append((times_us, part))
        else:
            due.append((times_us[now], _some(part, now)))
            left.append((times_us[~now], _some(part, ~now)))
    return due, left


def _some(part: Part, keep: Mask) -> Part:
    return part.filter(pa.array(keep)) if isinstance(part, pa.RecordBatch) else part[keep]


def _joined(runs: list[tuple[Rows, RowIds]]) -> list[tuple[Rows, RowIds]]:
    """Few runs, of falling size, so that looking at all of them stays cheap; the order of arrival is kept."""
    joined: list[tuple[Rows, RowIds]] = []
    for times_us, ids in runs:
        while joined and len(joined[-1][1]) <= 2 * len(ids):
            before_us, before = joined.pop()
            times_us, ids = np.concatenate([before_us, times_us]), np.concatenate([before, ids])
        joined.append((times_us, ids))
    return joined
