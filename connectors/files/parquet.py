"""What is particular to reading Parquet well: which row groups to read, and which columns as dictionaries."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lakeward.engine.api.expression import Comparison

READ_BUFFER_BYTES = 256 << 10
"""How much of a column of a local file is read at a time: a row group of any size is streamed, not held in memory."""

_BYTES_A_PLAIN_TEXT = 4  # at least: its length stands before it
_COMPARABLE = (int, float, str, bytes, datetime, date)
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Row groups next to each other.

    Args:
        numbers: Their numbers in the file.
        first_row: The row of the file with which they begin.
        skip: How many of their rows come before the place to read from.
    """

    numbers: tuple[int, ...]
    first_row: int
    skip: int


def open_parquet(stream: pa.NativeFile, columns: Sequence[str] | None = None, *, remote: bool) -> pq.ParquetFile:
    """A Parquet file, to be read in small pieces.

    Texts of which there are few are read as dictionaries: making each text once a dictionary and then copying it is
    twice as fast as decoding it for every row.

    Args:
        stream: The file.
        columns: Those that will be read; None: all.
        remote: Whether each read costs a round trip: then a row group's columns are fetched together, and held.
    """
    metadata = pq.read_metadata(stream)
    few = [name for name in _dictionaries(metadata) if columns is None or name in columns]
    size = 0 if remote else READ_BUFFER_BYTES
    return pq.ParquetFile(stream, metadata=metadata, read_dictionary=few, buffer_size=size, pre_buffer=remote)


def row_groups(metadata: pq.FileMetaData, row: int, predicate: Sequence[Comparison]) -> Iterator[RowGroups]:
    """The row groups to read from a row on, in runs.

    Args:
        metadata: The file's footer.
        row: The first row to read.
        predicate: Row groups in which, by their statistics, one of these holds for no row are left out.
    """
    starts = np.cumsum([0] + [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]).tolist()
    wanted = [
        starts[i + 1] > row and all(_may_hold(metadata.row_group(i), one) for one in predicate)
        for i in range(metadata.num_row_groups)
    ]
    for is_wanted, numbers in groupby(range(metadata.num_row_groups), key=wanted.__getitem__):
        if is_wanted:
            run = tuple(numbers)
            yield RowGroups(run, starts[run[0]], max(row - starts[run[0]], 0))


def without_dictionaries(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch whose texts are texts, where that is what the schema says."""
    for i, column in enumerate(batch.columns):
        name = batch.schema.field(i).name
        if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(schema.field(name).type):
            batch = batch.set_column(i, name, column.dictionary_decode())
    return batch


def _dictionaries(metadata: pq.FileMetaData) -> list[str]:
    """The columns of text that are written as dictionaries throughout: they need less room than plain text could."""
    rows: dict[str, int] = {}
    size: dict[str, int] = {}
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.physical_type == "BYTE_ARRAY" and "." not in column.path_in_schema:
                name = column.path_in_schema
                rows[name] = rows.get(name, 0) + column.num_values
                size[name] = size.get(name, 0) + column.total_uncompressed_size
    texts = {f.name for f in metadata.schema.to_arrow_schema() if pa.types.is_string(f.type)}
    return [name for name in rows if name in texts and size[name] < _BYTES_A_PLAIN_TEXT * rows[name]]


def _may_hold(group: pq.RowGroupMetaData, comparison: Comparison) -> bool:
    """Whether a comparison may hold for some row of a group; true where nothing is known."""
    columns = [group.column(i) for i in range(group.num_columns)]
    statistics = next((one.statistics for one in columns if one.path_in_schema == comparison.column), None)
    if statistics is None or not statistics.has_min_max:
        return True
    try:
        low, high, value = statistics.min, statistics.max, comparison.value.as_py()
    except (ValueError, OverflowError):
        return True  # nanoseconds, or a year, that Python's times do not have
    if type(low) is not type(value) or not isinstance(value, _COMPARABLE) or low != low or high != high:
        return True  # of another type than in the file, or not a number
    try:
        if comparison.operator == "==":
            return bool(low <= value <= high)
        return _OPERATORS[comparison.operator](low if comparison.operator in ("<", "<=") else high, value)
    except TypeError:
        return True  # a time with a zone against one without
