"""Files as a bounded source."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import get_args

import pyarrow as pa

from lakeward.connectors.arrow_types import inside_schema
from lakeward.connectors.cursors import CursorReader, SplitCursor
from lakeward.connectors.files.cursors import BadRecords, OpenFile, reading
from lakeward.connectors.files.file_formats import CsvFormat, FileFormat, JsonLinesFormat, ParquetFormat, number_in
from lakeward.connectors.files.options import Csv, Format, OnError, format_name
from lakeward.connectors.files.paths import (
    SUFFIXES,
    FileFacts,
    Location,
    check_endings,
    facts_of,
    has_suffix,
    list_files,
    location_of,
    place_text,
)
from lakeward.engine.api.expression import Comparison
from lakeward.engine.api.row_types import SchemaLike, given_schema
from lakeward.engine.api.source import ReaderContext, Source, SourceReader, Split
from lakeward.engine.core.errors import SchemaError, SourceError
from lakeward.engine.core.expect import expect, expect_choice, refusal
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject

_FILES_OPEN_MAX = 1  # one after another in the order of their names, which for most data is the order of time


class FilesSource(Source):
    """Parquet, JSON lines or CSV files, each a split, read in the order of their paths.

    A restart goes on in the middle of a file: in Parquet at the row group, in plain text at the byte; compressed text
    (.gz, .zst, .bz2) is read again from the start and thrown away up to that place. A file that has changed since the
    checkpoint is an error, never read as if it had not.

    >>> import tempfile, pyarrow.parquet
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pyarrow.parquet.write_table(pa.table({"n": [1, 2, 3]}), f"{folder}/a.parquet")
    ...     FilesSource(folder).schema.names
    ['n']

    Args:
        place: A local path, a URI (file://, s3://, gs://), a directory, or a glob ("logs/**/*.jsonl.gz"). Names that
            begin with "_" or "." are not read.
        format: "parquet", "jsonl", "csv", or `Csv(...)` with details; None: as the place's ending says, else Parquet,
            of which names may have no ending.
        schema: Columns and types: an Arrow schema, a dict of names to types, a dataclass or a TypedDict. None: the
            first file's; for text, inferred from its first mebibyte. With a schema, columns that a Parquet file or a
            JSON line lacks are null; a CSV file must have them.
        columns: Read only these.
        on_error: What to do with a text record that cannot be decoded: "fail" with file, line and reason, or "skip" it
            and count it as `bad_records`.

    Columns that the job does not read are not decoded, so a bad value in such a field of a JSON line is no error; nor
    are row groups of Parquet files read in which, by their statistics, the filters right above the source keep no row.

    Timestamps become microseconds; zoned ones UTC, naive ones stay naive.

    Guarantees: replayable, so exactly once with any exactly-once sink.

    Raises:
        ConfigError: An option has a value that cannot work; when files are listed, also: no format is given, and a
            file's ending tells none or another one.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        *,
        format: Format | None = None,
        schema: SchemaLike | None = None,
        columns: Sequence[str] | None = None,
        on_error: OnError = "fail",
    ) -> None:
        expect_choice(on_error, get_args(OnError), "FilesSource: on_error")
        given = given_schema(schema, "FilesSource: schema") if schema is not None else None
        if columns is not None:
            _check_columns(columns)
        self._place = place_text(place, "FilesSource: place", "logs/*.jsonl")
        choice = format if format is not None else _format_of(self._place)
        self._name = format_name(choice, "FilesSource: format")
        self._said = format is not None
        self._format = _format(choice, self._place, given)
        self._given = given
        self._columns = list(columns) if columns is not None else None
        self._on_error: OnError = on_error
        self._predicate: tuple[Comparison, ...] = ()

    @cached_property
    def _schema(self) -> pa.Schema:
        whole = inside_schema(self._given if self._given is not None else self._found_schema())
        wanted = self._columns if self._columns is not None else list(whole.names)
        unknown = [name for name in wanted if name not in whole.names]
        if unknown:
            raise SchemaError(
                f"{self.description} has no column {unknown[0]!r}", hint=f"it has {', '.join(whole.names)}"
            )
        twice = [name for name in wanted if whole.names.count(name) > 1]
        if twice:
            raise SchemaError(
                f"{self.description}: the first file has two columns {twice[0]!r}",
                hint="give them names of their own in the files, or read the other columns: columns=[...]",
            )
        schema = pa.schema([whole.field(name) for name in wanted])
        self._format.check_schema(schema, self.description)
        return schema

    @property
    def schema(self) -> pa.Schema:
        """The columns that are read, with inside types; looks into the first file unless a schema was given."""
        return self._schema

    @property
    def bounded(self) -> bool:
        """Always: the files that are there when the job starts."""
        return True

    @property
    def reads_in_turn(self) -> bool:
        """Files are read one after the other, in the order of their names."""
        return True

    @property
    def description(self) -> str:
        """For example "parquet files /data/orders"."""
        return f"{self._name} files {self._place}"

    def pushed(self, columns: tuple[str, ...], predicate: tuple[Comparison, ...]) -> Source | None:
        """Only these columns are decoded; of Parquet files, row groups without a row that can fit are not read."""
        predicate = predicate if self._name == "parquet" else ()
        if len(columns) == len(self._schema) and not predicate:
            return None
        narrow = copy.copy(self)
        narrow.__dict__["_schema"] = pa.schema([self._schema.field(name) for name in columns])
        narrow._predicate = predicate
        return narrow

    @property
    def skips_by(self) -> tuple[Comparison, ...]:
        """What the statistics of Parquet's row groups are compared with."""
        return self._predicate

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """One split a file, in the order of their paths."""
        location, files = self._list()
        return [_split(location, file) for file in files]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """A reader that takes its files one after another."""
        bad = BadRecords(self._on_error, context.counters.counter("bad_records"), context.redaction)

        def open_cursor(split: Split, position: JsonObject | None) -> SplitCursor:
            return self._open(split, position or split.start, context.batch_rows, bad)

        return CursorReader(open_cursor, _FILES_OPEN_MAX)

    def _list(self) -> tuple[Location, list[FileFacts]]:
        location, files = list_files(self._place, SUFFIXES[self._name])
        if not self._said:
            check_endings(self._name, files)
        return location, files

    def _open(self, split: Split, position: JsonObject, batch_rows: int, bad: BadRecords) -> SplitCursor:
        facts = FileFacts(str(position["path"]), number_in(position, "size_bytes"), number_in(position, "mtime_ns"))
        filesystem = location_of(self._place).filesystem
        with reading(split.id):
            _check_unchanged(split.id, facts, facts_of(filesystem, facts.path))
        file = OpenFile(filesystem, facts, split.id, self._schema, batch_rows, self._predicate)
        return self._format.open(file, position, bad)

    def _found_schema(self) -> pa.Schema:
        location, files = self._list()
        for facts in files:
            file = OpenFile(location.filesystem, facts, location.prefix + facts.path, pa.schema([]), 0)
            with reading(file.name):
                schema = self._format.schema_in(file)
            if schema is not None:
                return schema
        raise SchemaError(f"{self.description}: every file is empty", hint="pass schema=pa.schema(...)")


def _split(location: Location, file: FileFacts) -> Split:
    name = location.prefix + file.path
    return Split(SplitId(name), OpenFile(location.filesystem, file, name, pa.schema([]), 0).start)


def _format_of(place: str) -> Format:
    """The format that a name's ending tells; Parquet when it tells none."""
    for name in ("jsonl", "csv"):
        if has_suffix(place, SUFFIXES[name]):
            return name
    return "parquet"


def _format(choice: Format, place: str, schema: pa.Schema | None) -> FileFormat:
    if isinstance(choice, Csv):
        return CsvFormat(choice, schema)
    if choice == "csv":
        return CsvFormat(Csv(delimiter="\t" if has_suffix(place, (".tsv",)) else ","), schema)
    return JsonLinesFormat() if choice == "jsonl" else ParquetFormat(schema)


def _check_columns(columns: Sequence[str]) -> None:
    hint = 'give a list of names: columns=["shop", "amount"]'
    expect(columns, (list, tuple), "FilesSource: columns", hint)
    for i, name in enumerate(columns):
        expect(name, str, "FilesSource: a column", hint)
        if name in columns[:i]:
            raise refusal(columns, "FilesSource: columns", f"name {name!r} once")


def _check_unchanged(name: str, then: FileFacts, now: FileFacts | None) -> None:
    if now is None:
        raise SourceError(f"{name} is gone", hint="bring it back, or start without the checkpoint that names it")
    if now != then:
        raise SourceError(
            f"{name} has changed since it was listed: it had {then.size_bytes} bytes, it has {now.size_bytes}, last "
            f"change at {then.mtime_ns} then and {now.mtime_ns} now (ns since 1970)",
            hint="put new rows into new files; to read the changed file, start without the checkpoint",
        )
