"""The best row of each key: what top-1 and the deduplications that replace rows have in common.

A batch is reduced to one row a key first, by scatter; what is kept of these keys is found in one probe. Which rows
stand a chance is decided by one number a row, kept beside the rows; whole rows are only touched where one is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import RowIds, RowsSpec
from lakeward.operators.grouping import plain
from lakeward.operators.ranking.changes import NONE, Changes, equal_rows, some_columns
from lakeward.operators.ranking.keyed_rows import KeyedRows
from lakeward.operators.ranking.order import (
    CODE_MAX,
    Codes,
    Order,
    has_leading_code,
    is_exact,
    leading_code,
    precedes,
    sort_codes,
    sorted_rows,
)
from lakeward.operators.windows.columns import Mask, Rows, group_rows

CODE = "order$"
"""The column of leading codes beside the kept rows."""


@dataclass(frozen=True, slots=True)
class BestRowConfig:
    """Which row of a key is the best.

    Args:
        schema: The input's, append-only.
        keys: Key columns.
        order: The best row comes first in it; empty: by arrival alone.
        later_wins: Which of equal rows is the best: the one that came last, or first.
        rank_column: A column to send with the rank number, 1; None: none.
        update_before: Whether to send -U rows. Without them and without an order the old row is not even read, and a
            row that equals it is sent as well.
        columns: The columns of the result that are sent, row kinds among them; None: all.
    """

    schema: pa.Schema
    keys: tuple[str, ...]
    order: Order
    later_wins: bool
    rank_column: str | None = None
    update_before: bool = True
    columns: tuple[str, ...] | None = None

    @property
    def order_columns(self) -> list[str]:
        """The columns of the order."""
        return [one.column for one in self.order]


class BestRowOperator(Operator):
    """One subtask.

    Args:
        config: Which row is the best.
    """

    def __init__(self, config: BestRowConfig) -> None:
        self._config = config
        self._coded = has_leading_code(config.schema, config.order)
        self._exact = is_exact(config.schema, config.order)

    def open(self, context: OperatorContext) -> None:
        """Open the table of best rows."""
        schema = self._config.schema
        if self._coded:
            schema = schema.append(pa.field(CODE, pa.int64(), nullable=False))
        mutable = (CODE,) if self._coded else ()
        self._rows = KeyedRows(context, RowsSpec("best", schema, self._config.keys, mutable, unique=True))

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Replace the best rows of the batch's keys, and send the replacements."""
        if not batch.num_rows:
            return
        batch = some_columns(batch, self._config.schema.names)
        keys = [plain(batch.column(name)) for name in self._config.keys]
        codes = leading_code(batch.column(self._config.order[0].column), self._config.order[0]) if self._coded else None
        rows = self._best_of_batch(batch, keys, codes)
        found = self._rows.find([key.take(pa.array(rows)) for key in keys])
        held = np.full(len(rows), NONE, np.int64)
        held[found.rows] = found.ids
        if codes is not None:
            chance = self._stands_a_chance(codes[rows], held)
            rows, held = rows[chance], held[chance]
        if len(rows):
            self._replace(batch, rows, held, None if codes is None else codes[rows], out)

    def _best_of_batch(self, batch: pa.RecordBatch, keys: Sequence[pa.Array], codes: Rows | None) -> Rows:
        """The best row of each key of the batch, in the order of the rows."""
        groups, firsts = group_rows(keys)
        config = self._config
        if not config.order:
            return np.sort(_last_of(groups, np.arange(len(groups)), len(firsts))) if config.later_wins else firsts
        rows: Rows = np.arange(batch.num_rows)
        if codes is not None:  # most rows lose by their first column: the others are compared by all
            best = np.full(len(firsts), CODE_MAX, np.int64)
            np.minimum.at(best, groups, codes)
            rows = np.flatnonzero(codes == best[groups])
            if self._exact and not _ambiguous(codes):
                if not config.later_wins:
                    rows = rows[::-1]
                return np.sort(_last_of(groups[rows], rows, len(firsts)))
            batch = batch.select(config.order_columns).take(pa.array(rows))
        columns = self._order_codes(batch)
        if config.later_wins:
            columns = [*columns, -rows]
        groups = groups[rows]
        places = sorted_rows(groups, columns)
        starts = np.flatnonzero(np.diff(groups[places], prepend=-1))
        return np.sort(rows[places[starts]])

    def _order_codes(self, batch: pa.RecordBatch) -> Codes:
        return sort_codes([batch.column(name) for name in self._config.order_columns], self._config.order)

    def _stands_a_chance(self, codes: Rows, held: RowIds) -> Mask:
        """Rows that are not known to come after the one that is kept."""
        chance: Mask = held == NONE
        known = np.flatnonzero(~chance)
        kept, new = self._rows.get(CODE, held[known]), codes[known]
        wins = new <= kept
        if self._exact and not self._config.later_wins:
            wins = (new < kept) | ((new == kept) & (new == CODE_MAX))
        chance[known] = wins
        return chance

    def _replace(self, batch: pa.RecordBatch, best: Rows, held: RowIds, codes: Rows | None, out: Output) -> None:
        new = batch.take(pa.array(best))
        wins = self._wins(new, held)
        if not wins.any():
            return
        if not wins.all():
            new, held = new.filter(pa.array(wins)), held[wins]
            codes = None if codes is None else codes[wins]
        known = np.flatnonzero(held != NONE)
        beside = [] if codes is None else [pa.array(codes)]
        kept = pa.RecordBatch.from_arrays([*new.columns, *beside], schema=self._rows.schema)
        old = self._whole(held[known]) if self._config.update_before else new.slice(0, 0)
        self._rows.put(kept, held)
        out.emit(self._changes(old, new, known))

    def _wins(self, new: pa.RecordBatch, held: RowIds) -> Mask:
        """Which new rows take the place of those that are kept."""
        wins: Mask = np.ones(len(held), np.bool_)
        known = np.flatnonzero(held != NONE)
        if not len(known):
            return wins
        config = self._config
        rivals = new.take(pa.array(known)) if len(known) < len(held) else new
        before, equal = np.zeros(len(known), np.bool_), np.ones(len(known), np.bool_)
        if config.order:
            before, equal = precedes(*self._joint_codes(rivals, self._rows.take(held[known], config.order_columns)))
        if config.later_wins:
            tied = np.flatnonzero(equal)
            if config.order or config.update_before:
                same = equal_rows(rivals.take(pa.array(tied)), self._whole(held[known[tied]]))
                tied = tied[~same]
            before[tied] = True
        wins[known] = before
        return wins

    def _whole(self, ids: RowIds) -> pa.RecordBatch:
        return self._rows.take(ids, self._config.schema.names)

    def _joint_codes(self, new: pa.RecordBatch, old: pa.RecordBatch) -> tuple[Codes, Codes]:
        """Codes of two batches that can be compared with each other."""
        names = self._config.order_columns
        pairs = [pa.concat_arrays([plain(new.column(name)), plain(old.column(name))]) for name in names]
        codes = sort_codes(pairs, self._config.order)
        return [code[: new.num_rows] for code in codes], [code[new.num_rows :] for code in codes]

    def _changes(self, old: pa.RecordBatch, new: pa.RecordBatch, known: Rows) -> pa.RecordBatch:
        config = self._config
        numbers = np.arange(new.num_rows)
        before = np.full(new.num_rows, NONE, np.int64)
        before[known] = new.num_rows + np.arange(len(known))  # without -U rows it only says that there was a row
        rows = pa.concat_batches([new, old]) if old.num_rows else new
        ranks = None if config.rank_column is None else np.ones(new.num_rows, np.int64)
        changes = Changes(before, numbers, ranks, ranks).batch(rows, config.rank_column, config.update_before)
        return some_columns(changes, config.columns)


def _ambiguous(codes: Rows) -> bool:
    return bool((codes == CODE_MAX).any())


def _last_of(groups: Rows, rows: Rows, size: int) -> Rows:
    """The last of each group's rows."""
    last = np.empty(size, np.int64)
    last[groups] = rows  # of several writes to one place the last stays
    return last
