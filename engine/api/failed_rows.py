"""Rows of batches for errors."""

from __future__ import annotations

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
