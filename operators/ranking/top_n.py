"""The first rows of each key, kept up to date."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lakeward.engine.api.changelog import INSERT, Kinds, append_only, is_updating, kinds_of, updating, without_kinds
from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator
from lakeward.engine.api.state import Matches, RowIds, RowsSpec
from lakeward.operators.grouping import plain, row_codes
from lakeward.operators.ranking.best_row import CODE
from lakeward.operators.ranking.changes import NONE, Changes, equal_rows, some_columns, with_rank
from lakeward.operators.ranking.keyed_rows import KeyedRows
from lakeward.operators.ranking.order import (
    CODE_MAX,
    Codes,
    Order,
    has_leading_code,
    is_exact,
    leading_code,
    sort_codes,
    sorted_rows,
)
from lakeward.operators.ranking.places import DENSE_RANK, ROW_NUMBER, changes_by_place, changes_by_row, rank_numbers
from lakeward.operators.ranking.retractions import apply_changes, first_of_each, match_columns
from lakeward.operators.windows.columns import Mask, Rows, group_rows


@dataclass(frozen=True, slots=True)
class TopNConfig:
    """What is ranked, and how far.

    Args:
        schema: The input's; if it takes rows back, all rows are kept, otherwise only those that are sent.
        keys: Key columns.
        n: The highest rank that is sent.
        order: What rows are ranked by; of equal ones the one that came first is first.
        method: How equal rows are numbered.
        rank_column: A column to send with the rank; None: ranks are not sent.
        upsert_key: The columns that tell rows of an updating input apart, and the keys: where rows may move from one
            key to another, both have to be in the result's. None: only all columns tell rows apart.
        update_before: Whether to send -U rows.
        columns: The columns of the result that are sent, row kinds among them; None: all.
    """

    schema: pa.Schema
    keys: tuple[str, ...]
    n: int
    order: Order
    method: str = ROW_NUMBER
    rank_column: str | None = None
    upsert_key: tuple[str, ...] | None = None
    update_before: bool = True
    columns: tuple[str, ...] | None = None

    @property
    def by_place(self) -> bool:
        """Whether a changed row is an update of its place; otherwise rows come and go."""
        return self.method == ROW_NUMBER and (self.rank_column is not None or self.n == 1)


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Kept and new rows of the keys that a batch touches, sorted by key and order.

    Args:
        rows: Their numbers: those of the kept rows, then those of the new ones.
        groups: The key of each.
        codes: Their sort codes.
        old: Whether each was there before the batch.
        new: Whether each is there after it.
    """

    rows: Rows
    groups: Rows
    codes: Codes
    old: Mask
    new: Mask

    def since(self, first: int) -> _Ranking:
        """All but the first rows."""
        codes = [code[first:] for code in self.codes]
        return _Ranking(self.rows[first:], self.groups[first:], codes, self.old[first:], self.new[first:])

    def ranks(self, there: Mask, method: str) -> Rows:
        """The ranks among the rows that are there; 0 for the others."""
        at = np.flatnonzero(there)
        ranks = np.zeros(len(there), np.int64)
        ranks[at] = rank_numbers(self.groups[at], [code[at] for code in self.codes], method)
        return ranks


class TopNOperator(Operator):
    """One subtask.

    Args:
        config: What is ranked.
    """

    def __init__(self, config: TopNConfig) -> None:
        self._config = config
        self._schema = append_only(config.schema)
        self._retracts = is_updating(config.schema)
        self._coded = has_leading_code(config.schema, config.order) and not self._retracts
        self._exact = is_exact(config.schema, config.order)
        # Where rows of a key differ, they mostly do in what they are ordered by.
        ordered = [one.column for one in config.order]
        others = [name for name in self._schema.names if name not in (*config.keys, *ordered)]
        self._telling = [*dict.fromkeys(ordered), *others]
        self._match = match_columns(self._schema.names, config.keys, config.upsert_key)

    def open(self, context: OperatorContext) -> None:
        """Open the table of rows."""
        schema = self._schema
        if self._coded:
            schema = schema.append(pa.field(CODE, pa.int64(), nullable=False))
        self._rows = KeyedRows(context, RowsSpec("ranked", schema, self._config.keys, (CODE,) if self._coded else ()))

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Rank the rows among those that are kept, and send what that changes."""
        if not batch.num_rows:
            return
        batch = some_columns(batch, self._config.schema.names)
        plain_batch = without_kinds(batch)
        keys = [plain(plain_batch.column(name)) for name in self._config.keys]
        groups, firsts = group_rows(keys)
        held = self._rows.find([key.take(pa.array(firsts)) for key in keys])
        if self._retracts:
            self._retract(plain_batch, kinds_of(batch), groups, held, out)
        else:
            self._extend(plain_batch, groups, held, len(firsts), out)

    # -- input that only adds rows

    def _extend(self, batch: pa.RecordBatch, groups: Rows, held: Matches, size: int, out: Output) -> None:
        codes = self._codes(batch)
        rows = np.arange(batch.num_rows)
        if codes is not None:
            rows = self._with_a_chance(groups, codes, held, size)
            if not len(rows):
                return
            if len(rows) < batch.num_rows:
                groups, codes = groups[rows], codes[rows]
                held = _touched(held, groups, size)
        # Keys that are new come first in the ranking: what is kept of them is sent as it is.
        known = np.zeros(size, np.int64)
        known[held.rows] = size
        held = Matches(held.rows + size, held.ids)
        ranking = self._ranking(held, batch, rows, groups + known[groups], codes)
        old_ranks, new_ranks = self._ranks(ranking)
        # Only the rows that enter are ever looked at again. They are numbered anew in the order of the ranking, in
        # which equal ones still are as they came.
        kept = len(held.ids)
        enters = np.flatnonzero((new_ranks > 0) & ~ranking.old)
        places = ranking.rows[enters] - kept
        entering = batch.take(pa.array(rows[places]))
        stays = np.zeros(kept, np.bool_)
        stays[ranking.rows[ranking.old & (new_ranks > 0)]] = True
        numbers = ranking.rows.copy()
        numbers[enters] = kept + np.arange(len(enters))
        first = int(np.searchsorted(ranking.groups, size))
        self._send_new(entering, new_ranks[enters[enters < first]], out)
        rest = replace(ranking, rows=numbers).since(first)
        self._send(rest, (old_ranks[first:], new_ranks[first:]), held.ids, entering, out)
        self._keep(held.ids[~stays], entering, None if codes is None else codes[places])

    def _send_new(self, entering: pa.RecordBatch, ranks: Rows, out: Output) -> None:
        """Send the first of the rows that enter, which are those of new keys."""
        rows, columns = entering.slice(0, len(ranks)), [pa.array(ranks)]
        if self._config.rank_column is None:
            columns = []
        kinds = pa.array(np.full(len(ranks), INSERT, np.int8))
        schema = updating(with_rank(self._schema, self._config.rank_column))
        sent = pa.RecordBatch.from_arrays([*rows.columns, *columns, kinds], schema=schema)
        out.emit(some_columns(sent, self._config.columns))

    def _ranks(self, ranking: _Ranking) -> tuple[Rows, Rows]:
        """The ranks before and after; 0 for rows beyond the last rank that is sent."""
        ranks = [ranking.ranks(there, self._config.method) for there in (ranking.old, ranking.new)]
        old, new = (np.where(one > self._config.n, 0, one) for one in ranks)
        return old, new

    def _codes(self, batch: pa.RecordBatch) -> Rows | None:
        if not self._coded:
            return None
        first = self._config.order[0]
        return leading_code(batch.column(first.column), first)

    def _with_a_chance(self, groups: Rows, codes: Rows, held: Matches, size: int) -> Rows:
        """The new rows that are not known to come after the last place of their key."""
        if self._config.method == DENSE_RANK:
            return np.arange(len(groups))
        last = np.full(size, CODE_MAX, np.int64)
        if len(held.ids):
            starts = np.flatnonzero(np.diff(held.rows, prepend=-1))
            full = np.diff(starts, append=len(held.rows)) >= self._config.n
            worst = np.maximum.reduceat(self._rows.get(CODE, held.ids), starts)
            last[held.rows[starts[full]]] = worst[full]
        limit = last[groups]
        if self._exact and self._config.method == ROW_NUMBER:
            return np.flatnonzero((codes < limit) | (limit == CODE_MAX))
        return np.flatnonzero(codes <= limit)

    def _ranking(
        self,
        held: Matches,
        batch: pa.RecordBatch,
        rows: Rows,
        groups: Rows,
        codes: Rows | None,
        there: Mask | None = None,
    ) -> _Ranking:
        """Kept rows and some of a batch, sorted; `there` says which of the kept ones stay."""
        kept = len(held.ids)
        all_groups = np.concatenate([held.rows, groups])
        columns = self._all_codes(held.ids, batch, rows, codes)
        order = sorted_rows(all_groups, columns)
        new = np.ones(len(order), np.bool_)
        if there is not None:
            new[:kept] = there
        return _Ranking(order, all_groups[order], [code[order] for code in columns], order < kept, new[order])

    def _all_codes(self, ids: RowIds, batch: pa.RecordBatch, rows: Rows, codes: Rows | None) -> Codes:
        if codes is not None and self._exact:
            both = np.concatenate([self._rows.get(CODE, ids), codes])
            if not (both == CODE_MAX).any():
                return [both]
        names = [one.column for one in self._config.order]
        kept = self._rows.take(ids, names)
        new = batch.select(names)
        if len(rows) < batch.num_rows:
            new = new.take(pa.array(rows))
        pairs = [pa.concat_arrays([plain(kept.column(name)), plain(new.column(name))]) for name in names]
        return sort_codes(pairs, self._config.order)

    def _keep(self, gone: RowIds, batch: pa.RecordBatch, codes: Rows | None) -> None:
        """Forget rows, and keep others, in the order in which they came."""
        beside = [] if codes is None else [pa.array(codes)]
        self._rows.replace(gone, pa.RecordBatch.from_arrays([*batch.columns, *beside], schema=self._rows.schema))

    # -- input that takes rows back

    def _retract(self, batch: pa.RecordBatch, kinds: Kinds, groups: Rows, held: Matches, out: Output) -> None:
        all_groups = np.concatenate([held.rows, groups])
        kept = self._rows.take(held.ids, self._match)
        there = apply_changes(
            all_groups, kept, batch.select(self._match), kinds, replace=self._config.upsert_key is not None
        )
        stays, added = there[: len(held.ids)], np.flatnonzero(there[len(held.ids) :])
        batch = batch.take(pa.array(added))
        ranking = self._ranking(held, batch, np.arange(len(added)), groups[added], None, stays)
        self._send(ranking, self._ranks(ranking), held.ids, batch, out)
        self._keep(held.ids[~stays], batch, None)

    # -- what is sent

    def _send(
        self, ranking: _Ranking, ranks: tuple[Rows, Rows], ids: RowIds, batch: pa.RecordBatch, out: Output
    ) -> None:
        config = self._config
        if config.by_place:
            changes = changes_by_place(ranking.groups, ranking.rows, *ranks)
        else:
            changes = changes_by_row(ranking.rows, *ranks, ranks_matter=config.rank_column is not None)
        if not len(changes):
            return
        rows, changes = self._rows_of(changes, ids, batch)
        if config.by_place:
            changes = _really_changed(changes, rows.select(self._telling))
        elif config.upsert_key is not None:
            changes = _really_changed(_joined(changes, rows.select(config.upsert_key)), rows)
        elif self._retracts:
            changes = _without_returns(changes, rows)
        out.emit(some_columns(changes.batch(rows, config.rank_column, config.update_before), config.columns))

    def _rows_of(self, changes: Changes, ids: RowIds, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, Changes]:
        """The rows that changes are about, and the changes with their numbers in it."""
        kept = len(ids)
        numbers = np.full(kept + batch.num_rows, NONE, np.int64)
        for side in (changes.old, changes.new):
            numbers[side[side != NONE]] = 0
        held = np.flatnonzero(numbers[:kept] == 0)
        fresh = np.flatnonzero(numbers[kept:] == 0)
        first, end = (int(fresh[0]), int(fresh[-1]) + 1) if len(fresh) else (0, 0)
        numbers[kept:] = np.arange(batch.num_rows) - first
        numbers[held] = end - first + np.arange(len(held))
        rows = batch.slice(first, end - first)
        if len(held):
            rows = pa.concat_batches([rows, self._rows.take(ids[held], self._schema.names)])
        old, new = (np.where(side == NONE, NONE, numbers[side]) for side in (changes.old, changes.new))
        return rows, Changes(old, new, changes.old_ranks, changes.new_ranks)


def _touched(held: Matches, groups: Rows, size: int) -> Matches:
    """The kept rows of some groups."""
    wanted = np.zeros(size, np.bool_)
    wanted[groups] = True
    keep = wanted[held.rows]
    return Matches(held.rows[keep], held.ids[keep])


def _joined(changes: Changes, keys: pa.RecordBatch) -> Changes:
    """Make one change of a row that went and of one that came, where they have the same key."""
    went, came = (np.flatnonzero(side == NONE) for side in (changes.new, changes.old))
    if not len(went) or not len(came):
        return changes
    codes = row_codes(keys.take(pa.array(np.concatenate([changes.old[went], changes.new[came]]))).columns)
    place = np.full(len(codes), NONE, np.int64)
    place[codes[: len(went)]] = went
    partner = place[codes[len(went) :]]
    came, partner = came[partner != NONE], partner[partner != NONE]
    origin = np.arange(len(changes))
    origin[came] = partner
    old_ranks = None if changes.old_ranks is None else changes.old_ranks[origin]
    keep = np.ones(len(changes), np.bool_)
    keep[partner] = False
    return Changes(changes.old[origin], changes.new, old_ranks, changes.new_ranks).where(keep)


def _really_changed(changes: Changes, rows: pa.RecordBatch) -> Changes:
    """Leave out places where a row was replaced by an equal one with the same rank."""
    pairs = np.flatnonzero((changes.old != NONE) & (changes.new != NONE))
    if changes.old_ranks is not None and changes.new_ranks is not None:
        pairs = pairs[changes.old_ranks[pairs] == changes.new_ranks[pairs]]
    if not len(pairs):
        return changes
    same = _equal_pairs(rows, changes.old[pairs], changes.new[pairs])
    if not same.any():
        return changes
    keep = np.ones(len(changes), np.bool_)
    keep[pairs[same]] = False
    return changes.where(keep)


def _equal_pairs(rows: pa.RecordBatch, first: Rows, second: Rows) -> Mask:
    """Column by column, as long as any pair is left: most differ in the first."""
    equal: Mask = np.ones(len(first), np.bool_)
    left = np.arange(len(first))
    for name in rows.schema.names:
        column = rows.select([name])
        same = equal_rows(column.take(pa.array(first[left])), column.take(pa.array(second[left])))
        equal[left[~same]] = False
        left = left[same]
        if not len(left):
            break
    return equal


def _without_returns(changes: Changes, rows: pa.RecordBatch) -> Changes:
    """Leave out rows that went while equal ones came, with the same rank."""
    went, came = (np.flatnonzero(side == NONE) for side in (changes.new, changes.old))
    if not len(went) or not len(came):
        return changes
    at = np.concatenate([changes.old[went], changes.new[came]])
    columns = rows.take(pa.array(at)).columns
    if changes.old_ranks is not None and changes.new_ranks is not None:
        columns.append(pa.array(np.concatenate([changes.old_ranks[went], changes.new_ranks[came]])))
    codes = row_codes(columns)
    before, after = codes[: len(went)], codes[len(went) :]
    size = int(codes.max()) + 1
    both = np.minimum(np.bincount(before, minlength=size), np.bincount(after, minlength=size))
    keep = np.ones(len(changes), np.bool_)
    keep[went[first_of_each(before, both)]] = False
    keep[came[first_of_each(after, both)]] = False
    return changes.where(keep)
