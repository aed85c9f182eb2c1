"""A source over rows that are already in memory: for examples, tests and `env.from_collection`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeAlias

import pyarrow as pa

from lakeward.connectors.arrow_types import cast_column, inside_schema
from lakeward.connectors.cursors import CursorReader, SplitCursor, Step
from lakeward.engine.api.row_types import SchemaLike, arrow_type, given_schema, is_row_class, row_fields
from lakeward.engine.api.source import Origin, ReaderContext, Source, SourceReader, Split
from lakeward.engine.core.errors import LakewardError, SchemaError, SourceError
from lakeward.engine.core.expect import refusal, user_location
from lakeward.engine.core.ids import SplitId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.plain import plain_value
from lakeward.engine.core.redaction import HIDDEN, SECRETS_ONLY, short

Rows: TypeAlias = pa.Table | pa.RecordBatch | Iterable[Any]
"""An Arrow table, record batches, or rows: dicts, dataclasses, named tuples, or tuples with a schema."""

_SPLIT = SplitId("collection")


class CollectionSource(Source):
    """Rows in memory, bounded, replayable from any row.

    >>> source = CollectionSource([{"shop": "a", "amount": 3}, {"shop": "b", "amount": 5}])
    >>> source.schema.names, source.bounded
    (['shop', 'amount'], True)

    Args:
        rows: An Arrow table, record batches, or rows: dicts (a missing key is null), dataclasses, named tuples, or
            tuples together with `schema`. They are copied to Arrow at once: later changes to the rows are not seen.
        schema: The columns' types: an Arrow schema, a dict of names to types, a dataclass or a TypedDict. None: those
            of the annotations of dataclasses and named tuples, so that an optional field may be None in every row; of
            other rows inferred. Timestamps become microseconds; where the annotation is `datetime`, naive ones are
            taken to be UTC.

    Guarantees: replayable, so exactly once with any exactly-once sink.

    Raises:
        SchemaError: Rows of different kinds, a column with values of different types, or no way to know a type.
        ConfigError: The rows are none at all, or the schema describes none.
    """

    def __init__(self, rows: Rows, schema: SchemaLike | None = None) -> None:
        try:
            self._table = to_table(rows, schema).combine_chunks()
        except LakewardError as error:
            raise error.at("", user_location()) from error.__cause__

    @property
    def schema(self) -> pa.Schema:
        """The rows' schema."""
        return self._table.schema

    @property
    def bounded(self) -> bool:
        """Always."""
        return True

    @property
    def description(self) -> str:
        """For example "collection of 3 rows"."""
        return f"collection of {self._table.num_rows} rows"

    def list_splits(self, known: Mapping[SplitId, JsonObject] | None) -> Sequence[Split]:
        """One split: the rows in their order."""
        return [Split(_SPLIT, {"v": 1, "next": 0})]

    def open_reader(self, context: ReaderContext) -> SourceReader:
        """A reader of the rows."""

        def open_cursor(split: Split, position: JsonObject | None) -> SplitCursor:
            start = int(str((position or split.start)["next"]))
            return _RowsCursor(self._table, start, context.batch_rows)

        return CursorReader(open_cursor)


class _RowsCursor(SplitCursor):
    def __init__(self, table: pa.Table, start: int, batch_rows: int) -> None:
        if start > table.num_rows:
            raise SourceError(
                f"the checkpoint stands at row {start} of a collection that has only {table.num_rows} rows",
                hint="run with the rows the checkpoint was taken with, or start without it",
            )
        self._table = table
        self._next = start
        self._batch_rows = batch_rows

    @property
    def finished(self) -> bool:
        rows: int = self._table.num_rows
        return self._next >= rows

    def read(self) -> Step | None:
        if self.finished:
            return None
        first = self._next
        part = self._table.slice(first, self._batch_rows)
        self._next += part.num_rows
        columns = [column.combine_chunks() for column in part.columns]
        origin = Origin("collection", "row", lambda row: first + row)
        return Step(pa.record_batch(columns, schema=part.schema), {"v": 1, "next": self._next}, origin)


def to_table(rows: Rows, schema: SchemaLike | None = None) -> pa.Table:
    """Rows of any supported kind as an Arrow table with inside types.

    >>> to_table([{"n": 1}, {"n": 2, "note": "x"}]).to_pylist()
    [{'n': 1, 'note': None}, {'n': 2, 'note': 'x'}]

    Raises:
        SchemaError: As for `CollectionSource`.
        ConfigError: As well.
    """
    given = given_schema(schema, "the schema of a collection") if schema is not None else None
    table = _arrow_table(rows)
    if table is None:
        listed: list[Any] = list(rows)
        if listed and all(isinstance(row, pa.RecordBatch) for row in listed):
            table = pa.Table.from_batches(listed)
        else:
            table = _table_of_rows(listed, given)
    return _with_schema(table, inside_schema(given or table.schema))


def _arrow_table(rows: Rows) -> pa.Table | None:
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pa.Table):
        return rows
    if not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
        raise refusal(rows, "the rows of a collection", 'give a list of rows, [{"shop": "a"}, ...], or an Arrow table')
    return None


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    missing = [name for name in schema.names if name not in table.schema.names]
    if missing:
        raise SchemaError(f"the rows have no column {missing[0]!r}; they have {', '.join(table.schema.names)}")
    columns = []
    for field in schema:
        try:
            columns.append(cast_column(table[field.name], field.type))
        except pa.ArrowException as error:
            raise SchemaError(
                f"column {field.name!r} has type {table[field.name].type} and does not fit {field.type}: {error}"
            ) from error
        if not field.nullable and columns[-1].null_count:
            raise SchemaError(f"column {field.name!r} has nulls, which its schema rules out")
    return pa.table(columns, schema=schema)


def _table_of_rows(rows: list[Any], schema: pa.Schema | None) -> pa.Table:
    if not rows and schema is None:
        raise SchemaError("an empty collection has no types", hint="pass schema=pa.schema(...)")
    names = list(schema.names) if schema is not None else _names(rows)
    kind = type(rows[0]) if rows else dict
    for number, row in enumerate(rows):
        if type(row) is not kind and not (isinstance(row, Mapping) and issubclass(kind, Mapping)):
            raise SchemaError(f"row {number} is a {type(row).__name__}, row 0 a {kind.__name__}")
    dicts = [_as_mapping(row, number, names) for number, row in enumerate(rows)]
    _check_names(dicts, names, given=schema is not None)
    given = dict(zip(schema.names, schema.types, strict=True)) if schema is not None else _annotated_types(kind)
    columns = {name: [row.get(name) for row in dicts] for name in names}
    for name, values in columns.items() if schema is None else ():
        _check_one_type(name, values)
    return pa.table({name: _column(name, values, given.get(name)) for name, values in columns.items()})


def _annotated_types(kind: type) -> dict[str, pa.DataType]:
    """The types that the annotations of a dataclass or NamedTuple say; without those that mean nothing to Arrow."""
    types: dict[str, pa.DataType] = {}
    if not is_row_class(kind):
        return types
    try:
        hints = row_fields(kind)
    except SchemaError:  # a class inside a function: what its annotations name cannot be found, the values can be seen
        return types
    for name, hint in hints.items():
        try:
            types[name] = arrow_type(hint)
        except SchemaError:  # Any, or a union: inferred
            continue
    return types


def _names(rows: list[Any]) -> list[str]:
    """Column names in the order they first appear."""
    if isinstance(rows[0], Mapping):
        return list(dict.fromkeys(name for row in rows if isinstance(row, Mapping) for name in row))
    if is_dataclass(rows[0]):
        return [field.name for field in fields(rows[0])]
    if hasattr(rows[0], "_fields"):
        return list(rows[0]._fields)
    raise SchemaError(
        f"a {type(rows[0]).__name__} row has no column names",
        hint="pass schema=pa.schema(...), or give dicts, dataclasses or named tuples",
    )


def _as_mapping(row: Any, number: int, names: list[str]) -> Mapping[str, Any]:
    if isinstance(row, Mapping):
        return row
    if is_dataclass(row):
        return {field.name: getattr(row, field.name) for field in fields(row)}
    values: tuple[Any, ...] = tuple(row) if isinstance(row, Sequence) and not isinstance(row, str | bytes) else (row,)
    if len(values) != len(names):
        raise SchemaError(f"row {number} has {len(values)} values, the schema {len(names)} columns")
    return dict(zip(getattr(row, "_fields", names), values, strict=True))


def _check_names(rows: list[Mapping[str, Any]], names: list[str], *, given: bool) -> None:
    known = set(names)
    for number, row in enumerate(rows) if given else ():
        unknown = row.keys() - known
        if unknown:
            raise SchemaError(f"row {number} has a column {min(unknown)!r} that the schema does not have")


def _column(name: str, values: list[Any], kind: pa.DataType | None) -> pa.Array:
    values = list(map(plain_value, values))
    try:
        column = pa.array(values, kind)
    except (pa.ArrowException, TypeError, OverflowError) as error:
        number = _first_bad_row(values, kind)
        raise SchemaError(
            f"column {name!r}, row {number}: {_shown(name, values[number])} ({type(values[number]).__name__}) does not "
            f"fit {kind if kind is not None else 'the rows before it'}"
        ) from error
    if kind is not None and pa.types.is_integer(kind):
        # Arrow would cut fractions off.
        number = next((i for i, one in enumerate(values) if isinstance(one, float | Decimal)), -1)
        if number >= 0:
            shown = _shown(name, values[number])
            raise SchemaError(f"column {name!r}, row {number}: {shown} is no integer, as {kind} needs")
    if pa.types.is_null(column.type) and kind is None:
        raise SchemaError(f"column {name!r} is null in every row", hint="pass schema= to say its type")
    return column


def _shown(name: str, value: Any) -> str:
    return HIDDEN if SECRETS_ONLY.hides(name) else short(value)


def _check_one_type(name: str, values: list[Any]) -> None:
    """Refuse what Arrow would merge silently: zoned with naive datetimes."""
    zoned = {value.tzinfo is not None for value in values if isinstance(value, datetime)}
    if len(zoned) > 1:
        raise SchemaError(f"column {name!r} mixes datetimes with and without a zone", hint="give all of them a zone")


def _first_bad_row(values: list[Any], kind: pa.DataType | None) -> int:
    """The first row that does not fit with those before it; found by halving."""
    low, high = 0, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            pa.array(values[:middle], kind)
        except (pa.ArrowException, TypeError, OverflowError):
            high = middle
        else:
            low = middle
    return low
