"""The check behind `validate`: no two rows of a side have one key."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from lakeward.engine.api.state import RowTable
from lakeward.engine.core.errors import RecordError
from lakeward.engine.core.redaction import FailedRow
from lakeward.operators.grouping import row_codes
from lakeward.operators.joins.rows import key_arrays, null_keys


def check_unique(table: RowTable, rows: pa.RecordBatch, keys: Sequence[str], side: str) -> None:
    """Refuse rows that have the key of another one, among them or in the table. Null keys are not compared.

    Args:
        table: The side's rows so far.
        rows: Those that come to them.
        keys: The key columns.
        side: The side's name, for the error.

    Raises:
        RecordError: Names the side and the key.
    """
    arrays = key_arrays(rows, keys)
    nulls = null_keys(rows, keys)
    if nulls is not None:
        arrays = [array.filter(pa.array(~nulls)) for array in arrays]
    if not len(arrays[0]):
        return
    codes = row_codes(arrays)
    again = np.flatnonzero(np.bincount(codes)[codes] > 1)
    again = again if len(again) else table.find(arrays).rows
    if len(again):
        found = dict(zip(keys, (array[int(again[0])].as_py() for array in arrays), strict=True))
        raise RecordError(
            f"validate says that the {side} rows of this join have different keys, but two have the same",
            hint="leave validate out, or leave only one row a key before the join",
            rows=[FailedRow(found, label="key")],
        )
