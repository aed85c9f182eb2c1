"""Rows of a batch of which those that fail leave nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.redaction import FailedRow
from lakeward.operators.process.calls import Handler

if TYPE_CHECKING:
    from lakeward.operators.process.operator import ProcessOperator

Call = tuple[int, int, Any]
"""The number of a row's key, its time, and the row."""


class GuardedRows:
    """The rows of a batch, of which those that fail leave nothing behind.

    Nothing is written before rows have gone through. When one fails, all that the rows since the last write have done
    is forgotten; those before it are handled again and written, and it goes on behind it. So a row that fails costs
    the rows before it a second call, and a function may be called for them twice.

    Args:
        operator: Calls the function.
        handler: The function.
        arrays: The keys of the batch.
        calls: Number of the key, time and row.
    """

    def __init__(
        self, operator: ProcessOperator, handler: Handler, arrays: Sequence[pa.Array], calls: Sequence[Call]
    ) -> None:
        self._operator = operator
        self._handler = handler
        self._arrays = arrays
        self._calls = calls

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
                    error.about(FailedRow(self._calls[start][2], start))
                self.run(start, row)
                self._operator.errors.settle(error, partial(self._attempt, row, row + 1))
                start = row + 1

    def _attempt(self, start: int, stop: int) -> None:
        """Handle rows and write what they have changed, or nothing of it."""
        with self._operator.all_or_nothing(self._arrays):
            self._operator.handle(self._handler, self._calls[start:stop], start)
