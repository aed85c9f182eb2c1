"""Pairs of rows: where their columns come from, which of them a condition keeps, and how they are sent.

Columns are gathered as late as possible: pairs are positions and row ids until a condition has thinned them out, and a
wide column is copied once, into the batch that is sent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.changelog import with_kinds
from lakeward.engine.api.context import Output
from lakeward.engine.api.expression import BoundExpression
from lakeward.engine.api.state import Matches, RowTable
from lakeward.operators.joins.layout import LEFT, RIGHT, JoinLayout

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

EMIT_ROWS_MAX = 65_536
"""Rows sent at once; a batch of hot keys may have many times as many partners."""


class RowSource(Protocol):
    """Rows by number: a batch or a table."""

    def take(self, ids: Rows, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Rows by number, in the order of `ids`, all columns or some."""
        ...

    def reading_order(self, ids: Rows) -> Rows | None:
        """The positions of `ids` in the order in which they are taken fastest; None: it does not matter."""
        ...


class BatchRows:
    """The rows of a batch, by position."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch

    def take(self, ids: Rows, columns: Sequence[str] | None = None) -> pa.RecordBatch:
        """Rows by position; the batch itself, not copied, when they are all rows in their order."""
        batch = self.batch if columns is None else self.batch.select(list(columns))
        if len(ids) == batch.num_rows and np.array_equal(ids, np.arange(len(ids))):
            return batch
        return batch.take(pa.array(ids)) if batch.num_columns else _no_columns(len(ids))

    def reading_order(self, ids: Rows) -> None:
        """A batch is small enough for any order."""


def _no_columns(rows: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_struct_array(pa.Array.from_buffers(pa.struct([]), rows, [None]))


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of rows of two sources, as long arrays of their numbers.

    Args:
        sources: Where the left and the right rows are.
        numbers: The left and the right rows.
        ordered: Whether they are in the order in which they are to be sent.
    """

    sources: tuple[RowSource, RowSource]
    numbers: tuple[Rows, Rows]
    ordered: bool = False

    @classmethod
    def of(cls, index: int, rows: RowSource, other: RowSource, matches: Matches) -> Pairs:
        """Rows of one input with those of the other that they match."""
        if index == LEFT:
            return cls((rows, other), (matches.rows, matches.ids))
        return cls((other, rows), (matches.ids, matches.rows))

    def __len__(self) -> int:
        return len(self.numbers[LEFT])

    def keep(self, mask: Mask) -> Pairs:
        """Some of the pairs."""
        if mask.all():
            return self
        return Pairs(self.sources, (self.numbers[LEFT][mask], self.numbers[RIGHT][mask]), self.ordered)

    def in_reading_order(self, layout: JoinLayout) -> Pairs:
        """The pairs as the rows of a table lie in memory: from there wide rows are copied three times as fast.

        Not if that side has fewer columns than the other, which may be a batch that need not be copied as it is.
        """
        if self.ordered:
            return self
        widths = [len(layout.sources(side)) for side in (LEFT, RIGHT)]
        side = LEFT if widths[LEFT] > widths[RIGHT] else RIGHT
        order = self.sources[side].reading_order(self.numbers[side]) if widths[side] else None
        if order is None:
            return self
        left, right = (numbers[order] for numbers in self.numbers)
        return Pairs(self.sources, (left, right), ordered=True)

    def chunks(self) -> Iterator[Pairs]:
        """The pairs in parts of a size that can be put into batches."""
        if len(self) <= EMIT_ROWS_MAX:
            yield self
            return
        for start in range(0, len(self), EMIT_ROWS_MAX):
            left, right = (numbers[start : start + EMIT_ROWS_MAX] for numbers in self.numbers)
            yield Pairs(self.sources, (left, right))

    def columns(self, layout: JoinLayout, names: Sequence[str] | None = None) -> pa.RecordBatch:
        """The joined rows, all columns or some."""
        wanted = [layout.sources(side, names) for side in (LEFT, RIGHT)]
        taken = [
            self.sources[side].take(self.numbers[side], wanted[side]) if wanted[side] else None
            for side in (LEFT, RIGHT)
        ]
        if names is not None:
            layout = layout.only(names)
        return layout.compose(taken[LEFT], taken[RIGHT])


class Condition:
    """What pairs of equal keys have to fulfil besides; pairs for which it is null are no pairs.

    Args:
        layout: The joined rows, of both sides.
        where: A boolean over them; None: nothing.
    """

    def __init__(self, layout: JoinLayout, where: BoundExpression | None) -> None:
        self._layout = layout
        self._where = where
        self._names = sorted(where.columns) if where is not None else []

    def keep(self, pairs: Pairs) -> Pairs:
        """The pairs that fulfil it."""
        if self._where is None or not len(pairs):
            return pairs
        masks = [self._mask(chunk) for chunk in pairs.chunks()]
        return pairs.keep(masks[0] if len(masks) == 1 else np.concatenate(masks))

    def _mask(self, pairs: Pairs) -> Mask:
        assert self._where is not None
        names = self._names or self._layout.schema.names[:1]
        verdict = self._where.evaluate(pairs.columns(self._layout, names))
        mask: Mask = verdict.fill_null(False).to_numpy(zero_copy_only=False)
        return mask


class Sender:
    """Sends joined rows in batches.

    Args:
        layout: The result's columns.
        updating: Whether they carry row kinds.
    """

    def __init__(self, layout: JoinLayout, *, updating: bool = False) -> None:
        self._layout = layout
        self._updating = updating
        self._alone = tuple(
            [*layout.sources(side), *(layout.stand_ins() if side == RIGHT else [])] for side in (LEFT, RIGHT)
        )

    def ordered(self, pairs: Pairs) -> Pairs:
        """The pairs in the order in which they are sent."""
        return pairs.in_reading_order(self._layout)

    def pairs(self, pairs: Pairs, kind: int, out: Output) -> None:
        """Rows that have both sides, in reading order."""
        if len(pairs):
            for chunk in self.ordered(pairs).chunks():
                self.send(chunk.columns(self._layout), kind, out)

    def alone(self, side: int, source: RowSource, numbers: Rows, kind: int, out: Output) -> None:
        """Rows of one side; the other is null, or not part of the result."""
        for start in range(0, len(numbers), EMIT_ROWS_MAX):
            self.send(self._lone(side, source, numbers[start : start + EMIT_ROWS_MAX]), kind, out)

    def _lone(self, side: int, source: RowSource, numbers: Rows) -> pa.RecordBatch:
        rows = source.take(numbers, self._alone[side]) if self._alone[side] else _no_columns(len(numbers))
        return self._layout.compose(*((rows, None) if side == LEFT else (None, rows)))

    def left_rows(self, pairs: Pairs, count: int, kind: int, out: Output) -> None:
        """The first `count` left rows in their order, with their partner or alone; `pairs` are in that order too."""
        left, right = pairs.numbers
        for start in range(0, count, EMIT_ROWS_MAX):
            numbers = np.arange(start, min(start + EMIT_ROWS_MAX, count))
            part = slice(*np.searchsorted(left, [start, start + EMIT_ROWS_MAX]).tolist())
            alone = numbers[~np.isin(numbers, left[part])]
            met = Pairs(pairs.sources, (left[part], right[part])).columns(self._layout)
            whole = pa.concat_batches([met, self._lone(LEFT, pairs.sources[LEFT], alone)])
            order = np.argsort(np.concatenate([left[part], alone]), kind="stable")
            self.send(whole.take(pa.array(order)), kind, out)

    def send(self, rows: pa.RecordBatch, kind: int, out: Output) -> None:
        """Rows that are put together already."""
        out.emit(with_kinds(rows, kind) if self._updating else rows)


def key_arrays(batch: pa.RecordBatch, keys: Sequence[str]) -> list[pa.Array]:
    """The key columns of a batch."""
    return [batch.column(key) for key in keys]


def null_keys(batch: pa.RecordBatch, keys: Sequence[str]) -> Mask | None:
    """The rows with a null in a key, which match nothing; None: there are none."""
    mask: Mask | None = None
    for array in key_arrays(batch, keys):
        if array.null_count:
            nulls: Mask = array.is_null().to_numpy(zero_copy_only=False)
            mask = nulls if mask is None else mask | nulls
    return mask


def pick(batch: pa.RecordBatch, mask: Mask) -> pa.RecordBatch:
    """The rows of a mask; the batch itself when these are all."""
    return batch if mask.all() else batch.filter(pa.array(mask))


def with_columns_of(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the columns of a schema, of which it may have more, in another order."""
    return batch if batch.schema.names == schema.names else batch.select(schema.names)


def append_by(table: RowTable, batch: pa.RecordBatch, namespaces: Rows) -> None:
    """Append each row to its namespace."""
    if not len(namespaces):
        return
    if (namespaces == namespaces[0]).all():
        table.append(batch, int(namespaces[0]))
        return
    order = np.argsort(namespaces, kind="stable")
    ordered = namespaces[order]
    cuts = [0, *(np.flatnonzero(np.diff(ordered)) + 1).tolist(), len(order)]
    rows = batch if (order[:-1] < order[1:]).all() else batch.take(pa.array(order))
    for start, end in itertools.pairwise(cuts):
        table.append(rows.slice(start, end - start), int(ordered[start]))
