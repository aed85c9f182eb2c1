"""Rows of a batch of which those that fail leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.core.errors import LakewardError
from lakeward.operators.arguments import making_error
from lakeward.operators.process.calls import Handler, Reader

if TYPE_CHECKING:
    from lakeward.operators.process.operator import ProcessOperator

Call = tuple[int, int, Any]
"""The number of a row's key, its time, and the row."""


@contextmanager
def row_as_it_came(reader: Reader, batch: pa.RecordBatch) -> Iterator[None]:
    """Errors show the row that the function got, and hide its values, whatever the function has made of the object.

    Args:
        reader: Makes what the function is called with.
        batch: The rows that are handled inside.
    """
    try:
        yield
    except LakewardError as error:
        row = error.rows[0] if error.rows else None
        if row is not None and row.index is not None:
            try:
                ((value,),) = reader.chunks(batch.slice(row.index, 1))
            except (
                Exception
            ):  # a class that makes the same row at one time and not at another: the error has the object
                value = row.value
            error.rows = (replace(row, value=value), *error.rows[1:])
        raise


class _JobEnds(Exception):
    """A value does not fit its state, which no policy helps against: other states may have been written already.

    Args:
        error: What is wrong.
    """

    def __init__(self, error: LakewardError) -> None:
        super().__init__(str(error))
        self.error = error


class GuardedBatch(NamedTuple):
    """A batch of which some rows may fail.

    Args:
        batch: The rows, as the operator got them.
        arrays: The different keys.
        numbers: For each row the number of its key.
        times: For each row its time.
    """

    batch: pa.RecordBatch
    arrays: Sequence[pa.Array]
    numbers: Sequence[int]
    times: Sequence[int]


class GuardedRows:
    """The rows of a batch, of which those that fail leave nothing behind.

    Nothing is written before rows have gone through. When one fails, all that the rows since the last write have done
    is forgotten; those before it are handled again and written, and it goes on behind it. So a row that fails costs
    the rows before it a second call, and a function may be called for them twice; it gets a new object each time, since
    it may have changed the first.

    Args:
        operator: Calls the function.
        handler: The function.
        reader: Makes what it is called with.
        rows: The batch.
    """

    def __init__(self, operator: ProcessOperator, handler: Handler, reader: Reader, rows: GuardedBatch) -> None:
        self._operator = operator
        self._handler = handler
        self._reader = reader
        self._rows = rows

    def run(self, start: int, stop: int) -> None:
        """Handle some of the rows."""
        while start < stop:
            try:
                self._attempt(start, stop)
                return
            except LakewardError as error:
                if self._operator.is_writing:
                    raise
                failed = error.rows[0].index if error.rows else None
                if failed is None and stop - start > 1:  # what came out does not fit: of which row?
                    middle = (start + stop) // 2
                    self.run(start, middle)
                    start = middle
                    continue
                row = start if failed is None else failed
                if failed is None:
                    error.about(failed_row(self._rows.batch, start))
                self.run(start, row)
                try:
                    self._operator.errors.settle(error, partial(self._again, row))
                except _JobEnds as ends:
                    raise ends.error from ends.error.__cause__
                start = row + 1

    def _again(self, row: int) -> None:
        """Handle a row that has failed once more."""
        try:
            self._attempt(row, row + 1)
        except LakewardError as error:
            if self._operator.is_writing:
                raise _JobEnds(error) from error
            if not error.rows or error.rows[0].index is None:
                error.about(failed_row(self._rows.batch, row))
            raise

    def _attempt(self, start: int, stop: int) -> None:
        """Handle rows and write what they have changed, or nothing of it."""
        with self._operator.all_or_nothing(self._rows.arrays):
            made = self._read(start, stop)
            calls = zip(self._rows.numbers[start:stop], self._rows.times[start:stop], made, strict=True)
            with row_as_it_came(self._reader, self._rows.batch):
                self._operator.handle(self._handler, calls, start)

    def _read(self, start: int, stop: int) -> list[Any]:
        """What the function gets for some rows.

        Raises:
            LakewardError: It cannot be made; which row is at fault shows when one is read by itself.
        """
        try:
            return list(chain.from_iterable(self._reader.chunks(self._rows.batch.slice(start, stop - start))))
        except LakewardError as error:
            error.rows = ()
            raise
        except Exception as error:
            raise making_error(self._handler.function, error) from error
