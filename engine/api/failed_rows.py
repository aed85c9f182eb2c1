"""Rows of batches for errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from lakeward.engine.core.redaction import FailedRow


def failed_row(batch: pa.RecordBatch, row: int) -> FailedRow:
    """A row of the batch that an operator got, for an error about it.

    >>> failed_row(pa.record_batch({"a": [1, 2]}), 1).value
    {'a': 2}

    Args:
        batch: The batch, as the operator got it: so the row can be found in the source.
        row: Its place.
    """
    shown: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            shown[name] = column[row].as_py()
        except (ValueError, OverflowError, KeyError):  # a time that Python does not have, a map with a key twice
            shown[name] = column[row]
    return FailedRow(shown, row)


def first_failing_row(column: pa.Array, take: Callable[[pa.Array], object]) -> int:
    """The first row of a column that something refuses, which refuses the column; found by halving.

    >>> first_failing_row(pa.array([1, 2, 300, 4]), lambda part: part.cast(pa.int8()))
    2

    Args:
        column: The column.
        take: Raises a `pyarrow.ArrowException` for a part with such a row.
    """
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            take(column.slice(low, middle - low))
            low = middle
        except pa.ArrowException:
            high = middle
    return low
