"""What is particular to Parquet, JSON lines and CSV: the schema of a file, and a cursor over it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.json as pjson
import pyarrow.parquet as pq

from lakeward.connectors.files.cursors import (
    BadRecords,
    FileCursor,
    OpenFile,
    ParquetCursor,
    TextCursor,
    check_columns,
    reading,
)
from lakeward.connectors.files.decoding import CsvDecoder, header_names, read_csv
from lakeward.connectors.files.line_cursor import LineCursor
from lakeward.connectors.files.options import Csv
from lakeward.connectors.files.text import BLOCK_BYTES, LineEnds, Place, QuotedLineEnds, RecordEnds, TextFile
from lakeward.connectors.formats.json import Json
from lakeward.engine.core.errors import SchemaError
from lakeward.engine.core.json_types import JsonObject


class FileFormat(ABC):
    """A file format as the source sees it."""

    @abstractmethod
    def schema_in(self, file: OpenFile) -> pa.Schema | None:
        """The file's own schema, for text inferred from its first mebibyte; None when the file is empty."""

    @abstractmethod
    def check_schema(self, schema: pa.Schema, what: str) -> None:
        """Whether the format can hold every column.

        Args:
            schema: The wanted columns.
            what: Whose they are, for the error.

        Raises:
            SchemaError: A column cannot be read from such files; names it and its type.
        """

    @abstractmethod
    def open(self, file: OpenFile, position: JsonObject, bad: BadRecords) -> FileCursor:
        """A cursor from the position on."""


@dataclass(frozen=True, slots=True)
class ParquetFormat(FileFormat):
    """Apache Parquet.

    Args:
        given: The user's schema; with one, missing columns are null.
    """

    given: pa.Schema | None

    def schema_in(self, file: OpenFile) -> pa.Schema | None:
        """What the footer says."""
        with file.filesystem.open_input_file(file.facts.path) as stream:
            return pq.read_schema(stream)

    def check_schema(self, schema: pa.Schema, what: str) -> None:
        """Every type of Arrow has a form in Parquet."""

    def open(self, file: OpenFile, position: JsonObject, bad: BadRecords) -> ParquetCursor:
        """From the row on; records of Parquet are never bad."""
        return ParquetCursor(file, number_in(position, "row"), fill_missing=self.given is not None)


@dataclass(frozen=True, slots=True)
class JsonLinesFormat(FileFormat):
    """One JSON object a line."""

    def schema_in(self, file: OpenFile) -> pa.Schema | None:
        """Inferred by Arrow."""
        sample = b"".join(first_records(file, LineEnds())[1])
        if not sample.strip():
            return None
        with inferring(file.name):
            return known_types(pjson.read_json(pa.BufferReader(sample)).schema)

    def check_schema(self, schema: pa.Schema, what: str) -> None:
        """Makes the decoder, which refuses what has no form in JSON."""
        if len(schema):
            Json(schema)

    def open(self, file: OpenFile, position: JsonObject, bad: BadRecords) -> LineCursor:
        """From the line on."""
        return LineCursor(file, _place(position), Json(file.schema).decoder(), bad)


@dataclass(frozen=True, slots=True)
class CsvFormat(FileFormat):
    """Comma-separated values.

    Args:
        options: How the files are written.
        given: The user's schema; it names the columns of files without a header.
    """

    options: Csv
    given: pa.Schema | None

    def schema_in(self, file: OpenFile) -> pa.Schema | None:
        """The header's names, and types inferred by Arrow."""
        names, data = self._names(file)
        if not names:
            return None
        sample = b"".join(first_records(file, QuotedLineEnds())[1][data.record :])
        with inferring(file.name):
            return known_types(read_csv(sample, names, self.options, None).schema)

    def check_schema(self, schema: pa.Schema, what: str) -> None:
        """Tries it with a record, which need not fit: Arrow knows best."""
        for field in schema:
            try:
                read_csv(b"0\n", [field.name], Csv(), pa.schema([field]))
            except pa.ArrowInvalid:
                continue
            except pa.ArrowNotImplementedError as error:
                raise SchemaError(
                    f"{what}: column {field.name!r} of type {field.type} cannot be read from CSV",
                    hint='read it as text, "string", and take it apart by expressions or a function',
                ) from error

    def open(self, file: OpenFile, position: JsonObject, bad: BadRecords) -> TextCursor:
        """From the record on; the header is looked up anew."""
        with reading(file.name):
            names, data = self._names(file)
        if names:
            # Not null, as in other formats: with a wrong header or delimiter all columns would be.
            check_columns(file, names, _csv_hint(self.options))
        decoder = CsvDecoder(names, file.schema, self.options)
        place = _place(position)
        return TextCursor(file, place if place.offset else data, QuotedLineEnds(), decoder, bad.of_columns(names))

    def _names(self, file: OpenFile) -> tuple[list[str], Place]:
        """The columns in the file, and where its data begins; no columns when the file is empty."""
        offset, records = first_records(file, QuotedLineEnds())
        if not records:
            return [], Place()
        names = header_names(records[0], self.options)
        if self.options.header:
            return names, Place(offset + len(records[0]), 1)
        return [f"f{i}" for i in range(len(names))] if self.given is None else list(self.given.names), Place()


def _csv_hint(options: Csv) -> str:
    """What to do where a file has not the columns."""
    if not options.header:
        return "list the columns that all files have in columns="
    return (
        "correct the file's header, which is its first line, or leave the column out of schema= or columns=; of files "
        'that have no header, or are not cut at commas, say so: format=Csv(header=False), format=Csv(delimiter=";")'
    )


class inferring:
    """Turns Arrow's refusal of a sample of text into a `SchemaError` that names the file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Wrap what was raised inside."""
        if isinstance(error, pa.ArrowInvalid):
            raise SchemaError(
                f"{self._name}: columns and types cannot be inferred: {error}",
                hint="pass schema= with the columns; then on_error= says what becomes of bad records",
            ) from error


def first_records(file: OpenFile, ends: RecordEnds) -> tuple[int, list[bytes]]:
    """The first mebibyte of records of a text file, and where they begin: after a byte order mark."""
    text = TextFile(file.filesystem, file.facts.path, Place(), ends, block_bytes=BLOCK_BYTES)
    try:
        return text.next_records() or (0, [])
    finally:
        text.close()


def known_types(schema: pa.Schema) -> pa.Schema:
    """An inferred schema; columns that were null in the whole sample become strings."""
    return pa.schema([pa.field(f.name, pa.string() if pa.types.is_null(f.type) else f.type) for f in schema])


def number_in(position: JsonObject, name: str) -> int:
    """A number of a position; 0 at a split's start, which has none."""
    return int(str(position.get(name, 0)))


def _place(position: JsonObject) -> Place:
    return Place(number_in(position, "offset"), number_in(position, "record"))
