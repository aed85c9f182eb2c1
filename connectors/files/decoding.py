"""CSV records to Arrow rows, the bad ones apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv

from lakeward.connectors.files.options import Csv
from lakeward.engine.api.codec import BadRecord, Decoded, Decoder


class CsvDecoder(Decoder):
    """Decodes CSV records by Arrow, and finds bad ones by halving.

    Args:
        names: The columns in the file, in order.
        schema: The columns that are wanted.
        options: How the file is written.
    """

    def __init__(self, names: list[str], schema: pa.Schema, options: Csv) -> None:
        self._names = names
        self._schema = schema
        self._options = options

    @property
    def schema(self) -> pa.Schema:
        """The wanted columns."""
        return self._schema

    def decode(self, messages: Sequence[bytes | None]) -> Decoded:
        """The rows; a record with too few or many columns, a value that does not fit, or a forbidden null is bad."""
        records = [message for message in messages if message is not None]
        good: list[pa.RecordBatch] = []
        bad: list[BadRecord] = []
        self._decode_part(records, 0, good, bad)
        batch = pa.concat_batches(good) if good else _empty(self._schema)
        rows = np.setdiff1d(np.arange(len(records)), [one.index for one in bad]) if bad else None
        return Decoded(batch, rows, bad)

    def _decode_part(self, records: list[bytes], first: int, good: list[pa.RecordBatch], bad: list[BadRecord]) -> None:
        try:
            good.extend(read_csv(b"".join(records), self._names, self._options, self._schema).to_batches())
        except pa.ArrowInvalid as error:
            if len(records) == 1:
                bad.append(BadRecord(first, _reason(error)))
                return
            middle = len(records) // 2
            self._decode_part(records[:middle], first, good, bad)
            self._decode_part(records[middle:], first + middle, good, bad)


def read_csv(data: bytes, names: list[str], options: Csv, schema: pa.Schema | None) -> pa.Table:
    """Parse records without a header; types are inferred when no schema is given.

    Raises:
        pa.ArrowInvalid: A record does not fit.
    """
    if not data.strip():
        return (schema if schema is not None else pa.schema([(name, pa.null()) for name in names])).empty_table()
    table = pcsv.read_csv(
        pa.BufferReader(data),
        read_options=pcsv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
        parse_options=pcsv.ParseOptions(delimiter=options.delimiter, newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            column_types=schema,
            include_columns=None if schema is None else schema.names,
            null_values=list(options.null_values),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    for field in schema if schema is not None else ():
        if not field.nullable and table.column(field.name).null_count:
            raise pa.ArrowInvalid(f"column {field.name!r} is null, which the schema rules out")
    return table


def header_names(record: bytes, options: Csv) -> list[str]:
    r"""The column names in a header record.

    >>> header_names(b'id,"a, b"\r\n', Csv())
    ['id', 'a, b']
    """
    table = pcsv.read_csv(
        pa.BufferReader(record),
        read_options=pcsv.ReadOptions(autogenerate_column_names=True, use_threads=False),
        parse_options=pcsv.ParseOptions(delimiter=options.delimiter, newlines_in_values=True),
        convert_options=pcsv.ConvertOptions(
            column_types={f"f{i}": pa.string() for i in range(record.count(options.delimiter.encode()) + 1)}
        ),
    )
    return [str(column[0].as_py()) for column in table.columns]


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema=schema)


def _reason(error: pa.ArrowInvalid) -> str:
    return str(error).splitlines()[0].removeprefix("CSV parse error: ").removeprefix("In ")
