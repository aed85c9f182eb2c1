"""Reading one file from any row on, as batches with positions."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from pyarrow import fs

from lakeward.connectors.arrow_types import cast_column
from lakeward.connectors.cursors import SplitCursor, Step
from lakeward.connectors.files.options import OnError
from lakeward.connectors.files.parquet import open_parquet, row_groups, without_dictionaries
from lakeward.connectors.files.paths import FileFacts
from lakeward.connectors.files.text import Place, RecordEnds, TextFile
from lakeward.engine.api.codec import BadRecord, Decoded, Decoder
from lakeward.engine.api.context import Counter
from lakeward.engine.api.expression import Comparison
from lakeward.engine.api.failed_rows import failed_row, first_failing_row
from lakeward.engine.api.source import Origin
from lakeward.engine.core.errors import RecordError, SchemaError, SourceError
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.redaction import HIDDEN, SECRETS_ONLY, Redaction

_QUOTED = re.compile(r"'[^']*'")
_REDACTED_BYTES = 10_000
_SHOWN_CHARS = 100


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file about to be read.

    Args:
        filesystem: Where it is.
        facts: The file as it was when it was listed: it must not have changed since.
        name: As errors name it.
        schema: What its batches must have.
        batch_rows: Rows a batch.
        predicate: Rows for which one of these does not hold may be left out.
    """

    filesystem: fs.FileSystem
    facts: FileFacts
    name: str
    schema: pa.Schema
    batch_rows: int
    predicate: tuple[Comparison, ...] = ()

    @property
    def start(self) -> dict[str, str | int]:
        """The part of every position that says which file, and in which state."""
        return {
            "v": 1,
            "path": self.facts.path,
            "size_bytes": self.facts.size_bytes,
            "mtime_ns": self.facts.mtime_ns,
        }


class FileCursor(SplitCursor):
    """Reads one file; failures of the file system name the file.

    Args:
        file: The file.
    """

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._finished = False

    @property
    def finished(self) -> bool:
        """Whether the end of the file was reached."""
        return self._finished

    def read(self) -> Step | None:
        """The next rows."""
        with reading(self._file.name):
            step = self._next()
        self._finished = step is None
        return step

    @abstractmethod
    def _next(self) -> Step | None: ...

    def _step(self, batch: pa.RecordBatch, origin: Origin, **progress: int) -> Step:
        position: JsonObject = {**self._file.start, **progress}
        return Step(batch, position, origin)

    def _origin(self, unit: str, number: Callable[[int], int]) -> Origin:
        return Origin(f"file {self._file.name}", unit, number)


class reading:
    """Turns errors of Arrow and of the file system into a `SourceError` that names the file."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Wrap what was raised inside."""
        if isinstance(error, OSError | EOFError | pa.ArrowException):
            raise SourceError(
                f"{self._name} cannot be read: {error}", hint="is the file complete, and of the format that was named?"
            ) from error


class ParquetCursor(FileCursor):
    """Reads a Parquet file from a row on; row groups before it, and those without a wanted row, are not touched.

    Args:
        file: The file.
        row: The first row to read.
        fill_missing: Whether columns that the file lacks are null, instead of an error.
    """

    def __init__(self, file: OpenFile, row: int, *, fill_missing: bool) -> None:
        super().__init__(file)
        with reading(file.name):
            self._stream = file.filesystem.open_input_file(file.facts.path)
            remote = not isinstance(file.filesystem, fs.LocalFileSystem)
            self._parquet = open_parquet(self._stream, file.schema.names, remote=remote)
        found = self._parquet.schema_arrow.names
        if not fill_missing:
            check_columns(
                file, found, "pass schema= to read such files with nulls, or columns= to leave the column out"
            )
        self._have = [name for name in file.schema.names if name in set(found)]
        self._batches = self._batches_from(row)

    def close(self) -> None:
        """Close the file."""
        self._parquet.close(force=True)
        self._stream.close()

    def _next(self) -> Step | None:
        found = next(self._batches, None)
        if found is None:
            return None
        end, batch = found
        origin = self._origin("row", lambda row: end - batch.num_rows + row + 1)  # counted from 1
        return self._step(fit(self._file, without_dictionaries(batch, self._file.schema)), origin, row=end)

    def _batches_from(self, row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches, each with the row behind it."""
        for groups in row_groups(self._parquet.metadata, row, self._file.predicate):
            end, skip = groups.first_row, groups.skip
            for batch in self._parquet.iter_batches(
                self._file.batch_rows, row_groups=groups.numbers, columns=self._have, use_threads=False
            ):
                end += batch.num_rows
                if skip < batch.num_rows:
                    yield end, batch.slice(skip)
                skip = max(skip - batch.num_rows, 0)


class TextCursor(FileCursor):
    """Reads a text file from a record on.

    Args:
        file: The file.
        place: The first record to read.
        ends: What ends a record.
        decoder: Makes rows of records.
        bad: What to do with those that it cannot decode.
    """

    def __init__(self, file: OpenFile, place: Place, ends: RecordEnds, decoder: Decoder, bad: BadRecords) -> None:
        super().__init__(file)
        with reading(file.name):
            self._text = TextFile(file.filesystem, file.facts.path, place, ends)
        self._decoder = decoder
        self._bad = bad
        self._place = place
        self._waiting: list[bytes] = []

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def _next(self) -> Step | None:
        if not self._waiting:
            found = self._text.next_records()
            if found is None:
                return None
            self._place = Place(found[0], self._place.record)
            self._waiting = found[1]
        count = self._file.batch_rows
        records, self._waiting = self._waiting[:count], self._waiting[count:]
        decoded = self._decode(records)
        if decoded.bad:
            self._bad.handle(self._file.name, self._place, records, decoded.bad)
        first, rows = self._place.record + 1, decoded.rows
        origin = self._origin("record", lambda row: first + (row if rows is None else int(rows[row])))
        self._place = Place(self._place.offset + sum(map(len, records)), self._place.record + len(records))
        return self._step(fit(self._file, decoded.batch), origin, offset=self._place.offset, record=self._place.record)

    def _decode(self, records: list[bytes]) -> Decoded:
        """Decode all but blank records, which stand for nothing."""
        if not any(map(bytes.isspace, records)):
            return self._decoder.decode(records)
        filled = np.flatnonzero([not record.isspace() for record in records])
        decoded = self._decoder.decode([records[i] for i in filled])
        bad = [BadRecord(int(filled[one.index]), one.reason) for one in decoded.bad]
        return Decoded(decoded.batch, filled if decoded.rows is None else filled[decoded.rows], bad)


class BadRecords:
    """What happens to records that cannot be decoded.

    Args:
        on_error: "fail" or "skip".
        counter: Counts those that are skipped.
        redaction: Which fields are not shown.
        columns: The columns of a record whose values stand in it without their names; none: they are named, as in JSON.
    """

    def __init__(
        self, on_error: OnError, counter: Counter, redaction: Redaction = SECRETS_ONLY, columns: Sequence[str] = ()
    ) -> None:
        self._on_error = on_error
        self._counter = counter
        self._redaction = redaction
        self._columns = columns

    def of_columns(self, columns: Sequence[str]) -> BadRecords:
        """The same for records of these columns, whose names do not stand in the records."""
        return BadRecords(self._on_error, self._counter, self._redaction, columns)

    def handle(self, name: str, place: Place, records: list[bytes], bad: Sequence[BadRecord]) -> None:
        """Count them, or fail at the first.

        Raises:
            RecordError: The policy is "fail"; says file, record, byte and reason.
        """
        if self._on_error == "skip":
            self._counter.inc(len(bad))
            return
        first = bad[0]
        offset = place.offset + sum(map(len, records[: first.index]))
        raise RecordError(
            f"{name}, record {place.record + first.index + 1} at byte {offset}: "
            f"{self._shown(first.reason, records[first.index])}",
            hint='correct the file, give another schema, or set on_error="skip" to leave such records out',
        )

    def _shown(self, reason: str, record: bytes) -> str:
        """What is wrong with a record, and how it begins."""
        hidden = [name for name in self._columns if self._redaction.hides(name)]
        if hidden:
            return f"{_QUOTED.sub(HIDDEN, reason)}; it is not shown, since it has the column {hidden[0]!r}"
        text = record[:_REDACTED_BYTES].decode("utf-8", "replace").rstrip()
        if not self._columns:
            text, reason = self._redaction.json(text), self._redaction.reason(reason)
        return f"{reason}; it begins {text[:_SHOWN_CHARS]!r}"


def check_columns(file: OpenFile, found: Sequence[str], hint: str) -> None:
    """Refuse a file without a wanted column.

    Args:
        file: The file.
        found: The columns that it has.
        hint: What to do about one that is missing.

    Raises:
        SchemaError: A wanted column is missing, or there twice.
    """
    missing = [name for name in file.schema.names if name not in set(found)]
    if missing:
        raise SchemaError(f"{file.name} has no column {missing[0]!r}; it has {', '.join(found)}", hint=hint)
    twice = [name for name in file.schema.names if found.count(name) > 1]
    if twice:
        raise SchemaError(
            f"{file.name} has two columns {twice[0]!r}",
            hint="give them names of their own, or leave them out of schema=",
        )


def fit(file: OpenFile, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with exactly the wanted columns and types.

    Raises:
        SchemaError: A column has values that do not fit its type, or nulls where none may be.
    """
    if batch.schema.equals(file.schema):
        return batch
    columns = [_fit_column(file, batch, field) for field in file.schema]
    return pa.record_batch(columns, schema=file.schema)


def _fit_column(file: OpenFile, batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    index = batch.schema.get_field_index(field.name)
    column = pa.nulls(batch.num_rows, field.type) if index < 0 else batch.column(index)
    try:
        fitted = cast_column(column, field.type)
    except pa.ArrowException as error:
        raise SchemaError(
            f"{file.name}, column {field.name!r}: {column.type} does not fit {field.type}: {error}",
            hint="pass schema= with a type that holds every file's values",
            rows=[failed_row(batch, first_failing_row(column, lambda part: cast_column(part, field.type)))],
        ) from error
    if fitted.null_count and not field.nullable:
        raise SchemaError(f"{file.name}, column {field.name!r} has nulls, which the schema rules out")
    return fitted
