"""Folds of rows by a user's function, of which those that fail are treated as a policy says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.core.errors import LakewardError
from lakeward.operators.error_policy import FAILED, RowErrors

if TYPE_CHECKING:
    from lakeward.operators.reduce import RowReducer

ROWS_A_PART = 1024
"""Rows become columns so many at a time, while they are in the processor's cache."""

Row = Any
"""A row as the function gets it: a dict, or an instance of the class that its first parameter is annotated with."""

Held = dict[int, Row]
"""The accumulated row of each slot."""


def row_as_it_came(error: LakewardError, reducer: RowReducer, batch: pa.RecordBatch, index: int) -> None:
    """Let an error show the row that a function got, and hide its values, whatever it has made of the object.

    Args:
        error: Shows the object, as the first of its rows.
        reducer: Makes rows.
        batch: The rows.
        index: Its place there.
    """
    try:
        (value,) = reducer.rows(batch.slice(index, 1))
    except LakewardError:  # a class of the user's that makes the same row at one time and not at another
        value = failed_row(batch, index).value
    error.rows = (replace(error.rows[0], value=value, index=index), *error.rows[1:])


class _Fold(NamedTuple):
    """One row folded.

    Args:
        before: What its slot held; None: nothing.
        after: What it holds now.
    """

    before: Row | None
    after: Row


class _Failure(NamedTuple):
    """A row that failed.

    Args:
        row: Its place in the batch.
        error: What is wrong.
    """

    row: int
    error: LakewardError


class GuardedFolds:
    """Folds the rows of a batch, of which those that fail leave nothing behind.

    Rows are folded up to the first one that fails, and become columns. A result that does not fit its column shows only
    then: what was folded since is taken back, and those rows are folded again, as new objects, since the function may
    have changed the first ones. A row on which the function raises costs no other row a second call.

    Args:
        reducer: Calls the function.
        errors: Carries the policy out.
    """

    def __init__(self, reducer: RowReducer, errors: RowErrors) -> None:
        self._reducer = reducer
        self._errors = errors

    def folded(self, held: Held, slots: Sequence[int], batch: pa.RecordBatch) -> pa.RecordBatch:
        """The accumulated row of each row's key behind it, without rows that have failed; `held` has the last ones."""
        self._batch, self._slots = batch, slots
        parts = [self._reducer.to_batch([])]
        for start in range(0, batch.num_rows, ROWS_A_PART):
            parts += self._part(held, start, min(start + ROWS_A_PART, batch.num_rows))
        return pa.concat_batches(parts)

    def _part(self, held: Held, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        rows = self._read(start, stop)
        at, size = start, ROWS_A_PART
        while at < stop:
            end = min(at + size, stop)
            folds, failure = self._run(held, rows[at - start : end - start], at)
            written, misfit = self._written([fold.after for fold in folds], at)
            yield from written
            if misfit is not None:
                self._take_back(held, folds[misfit.row - at :], misfit.row)
                rows[misfit.row - start : end - start] = self._read(misfit.row, end)
                failure, size = misfit, 1  # where one result does not fit others may not: few are folded in vain
            if failure is None:
                at, size = end, min(2 * size, ROWS_A_PART)
            else:
                yield from self._settled(held, failure)
                at = failure.row + 1

    def _run(self, held: Held, rows: Sequence[Row | LakewardError], first: int) -> tuple[list[_Fold], _Failure | None]:
        """Fold rows up to one that fails."""
        folds: list[_Fold] = []
        for index, row in enumerate(rows, first):
            slot = self._slots[index]
            before = held.get(slot)
            try:
                held[slot] = after = self._fold(before, row)
            except LakewardError as error:
                return folds, _Failure(index, self._placed(error, index))
            folds.append(_Fold(before, after))
        return folds, None

    def _fold(self, before: Row | None, row: Row | LakewardError) -> Row:
        if isinstance(row, LakewardError):
            raise row
        return row if before is None else self._reducer.fold(before, row)

    def _written(self, results: list[Row], first: int) -> tuple[list[pa.RecordBatch], _Failure | None]:
        """Results as columns, up to the first one that does not fit; found by halving."""
        try:
            return [self._reducer.to_batch(results)] if results else [], None
        except LakewardError as error:
            if len(results) == 1:
                return [], _Failure(first, error.about(failed_row(self._batch, first)))
        half = len(results) // 2
        written, misfit = self._written(results[:half], first)
        if misfit is None:
            more, misfit = self._written(results[half:], first + half)
            written += more
        return written, misfit

    def _take_back(self, held: Held, folds: Sequence[_Fold], first: int) -> None:
        for slot, fold in reversed(list(zip(self._slots[first:], folds, strict=False))):
            if fold.before is None:
                del held[slot]
            else:
                held[slot] = fold.before

    def _settled(self, held: Held, failure: _Failure) -> Iterator[pa.RecordBatch]:
        """What becomes of a row that has failed: a result after all, or nothing."""
        slot = self._slots[failure.row]
        again = partial(self._again, held.get(slot), failure.row)
        found = self._errors.settle(failure.error, again)
        if found is not FAILED:
            held[slot] = found[0]
            yield found[1]

    def _again(self, before: Row | None, index: int) -> tuple[Row, pa.RecordBatch]:
        """Fold a row once more: the new accumulated row, also as columns."""
        try:
            after = self._fold(before, self._read(index, index + 1)[0])
        except LakewardError as error:
            raise self._placed(error, index) from error.__cause__
        try:
            return after, self._reducer.to_batch([after])
        except LakewardError as error:
            raise error.about(failed_row(self._batch, index)) from error.__cause__

    def _placed(self, error: LakewardError, index: int) -> LakewardError:
        """The error of a row, with its place in the batch."""
        if not error.rows:
            return error.about(failed_row(self._batch, index))
        if error.rows[0].index is None:
            row_as_it_came(error, self._reducer, self._batch, index)
        return error

    def _read(self, start: int, stop: int) -> list[Any]:
        """Rows as the function gets them; what is wrong stands for those that cannot be made."""
        try:
            return list(self._reducer.rows(self._batch.slice(start, stop - start)))
        except LakewardError as error:
            if stop - start == 1:
                return [error.about(failed_row(self._batch, start))]
        return [self._read(row, row + 1)[0] for row in range(start, stop)]
