"""Batches of rows that tests write, with errors that say which value of which row does not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import expect, user_location
from lakeward.engine.core.names import did_you_mean
from lakeward.engine.core.redaction import HIDDEN, SECRETS_ONLY, short
from lakeward.operators.rows import list_to_column

ROWS_HINT = 'a batch is a list of rows: [{"n": 1}, {"n": 2}]'


def batch_of(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, what: str) -> pa.RecordBatch:
    """Rows as a batch; times may be datetimes or numbers in the column's unit, what a row lacks is null.

    >>> batch_of([{"a": 1}, {}], pa.schema({"a": pa.int64()}), "a batch").to_pylist()
    [{'a': 1}, {'a': None}]

    Args:
        rows: As dicts.
        schema: Of the batch.
        what: Whose batch it is, for errors.

    Raises:
        ConfigError: A row is no dict, has a column that the schema lacks, or a value that does not fit; names them.
    """
    expect(rows, (list, tuple), what, ROWS_HINT)
    for number, row in enumerate(rows):
        expect(row, Mapping, f"{what}: row {number}", ROWS_HINT)
        unknown = [name for name in row if name not in schema.names]
        if unknown:
            raise ConfigError(
                f"{what}: row {number} has '{unknown[0]}', and its schema has only {', '.join(schema.names)}",
                hint=did_you_mean(str(unknown[0]), schema.names) or "add it to the schema",
                location=user_location(),
            )
    columns = [_column(field, [row.get(field.name) for row in rows], what) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def checked_batch(batch: pa.RecordBatch, schema: pa.Schema, what: str) -> pa.RecordBatch:
    """A batch that was given as one.

    Raises:
        ConfigError: Its columns are not those of the schema, in the same order; names the first that differs.
    """
    given, wanted = _fields(batch.schema), _fields(schema)
    if given == wanted:
        return batch
    different = next((one for one in (*wanted, *given) if one not in given or one not in wanted), None)
    name, kind = different or ("", None)
    has, wants = dict(given).get(name), dict(wanted).get(name)
    problem = "its columns stand in another order"
    if different is not None and has is None:
        problem = f"it lacks column '{name}' ({kind})"
    elif different is not None:
        problem = f"its column '{name}' is {has}, " + ("which the schema lacks" if wants is None else f"not {wants}")
    raise ConfigError(
        f"{what} does not have the schema that was said: {problem}",
        hint=f"the schema is {', '.join(f'{name}: {kind}' for name, kind in wanted)}",
        location=user_location(),
    )


def _fields(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return list(zip(schema.names, schema.types, strict=True))


def _column(field: pa.Field, values: list[Any], what: str) -> pa.Array:
    try:
        column = _made(field.type, values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        row = next(row for row, value in enumerate(values) if not _fits(field.type, value))
        shown = HIDDEN if SECRETS_ONLY.hides(field.name) else short(values[row])
        raise ConfigError(
            f"{what}: row {row} has {shown} ({type(values[row]).__name__}) in column '{field.name}', "
            f"which does not fit {field.type}",
            hint="write another value, or give the column another type in the schema",
            location=user_location(),
        ) from error
    if column.null_count and not field.nullable:
        raise ConfigError(
            f"{what}: row {values.index(None)} has no value in column '{field.name}', and its schema wants one",
            hint="write one, or make the column nullable",
            location=user_location(),
        )
    return column


def _made(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if pa.types.is_timestamp(kind):  # numbers are in the column's unit
        return pa.array(values, kind)
    return list_to_column(values, kind)


def _fits(kind: pa.DataType, value: Any) -> bool:
    try:
        _made(kind, [value])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False
    return True
