"""`lakeward savepoint` and `lakeward state list|read`."""

from __future__ import annotations

from pathlib import Path

import click
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from lakeward.dsl.savepoints import savepoint, scan_state, state_tables
from lakeward.engine.core.errors import ConfigError

_SHOWN_ROWS = 20


def write_savepoint(checkpoint_dir: str, directory: str, checkpoint: int | None) -> None:
    """Write a savepoint and say what is in it."""
    number = savepoint(checkpoint_dir, directory, checkpoint)
    click.echo(f"checkpoint {number} is saved in {directory}; start from it: lakeward run JOB --from {directory}")


def list_state(directory: str, checkpoint: int | None) -> None:
    """Print a line a table."""
    tables = state_tables(directory, checkpoint)
    if not tables:
        click.echo(f"no operator in {directory} has keyed state")
        return
    for one in tables:
        columns = ", ".join(f"{field.name}: {field.type}" for field in one.schema)
        click.echo(f"{one.uid}  {one.name}  {one.rows} rows  ({columns})")


def show_state(directory: str, uid: str, table: str | None, checkpoint: int | None, file: str | None) -> None:
    """Print the first rows of a table of state, or write all of them to a file.

    Raises:
        ConfigError: The file's kind is not known, or it cannot be written.
    """
    if file is not None and Path(file).suffix not in (".parquet", ".csv"):
        raise ConfigError(f"no format is known for {file}", hint="call it .parquet or .csv")
    rows = scan_state(directory, uid, table, checkpoint)
    if file is None:
        _print(rows)
        return
    try:
        writer = pyarrow.csv.CSVWriter if file.endswith(".csv") else pyarrow.parquet.ParquetWriter
        count = 0
        with writer(file, rows.schema) as target:
            for batch in rows:
                target.write_batch(batch)
                count += batch.num_rows
    except (OSError, pa.ArrowException) as error:
        raise ConfigError(f"cannot write {file}: {error}", hint="lists and structs fit into .parquet only") from error
    click.echo(f"{count} rows in {file}")


def _print(rows: pa.RecordBatchReader) -> None:
    shown = left = 0
    for batch in rows:
        for row in batch.slice(0, _SHOWN_ROWS - shown).to_pylist():
            click.echo(row)
        left += max(0, batch.num_rows - (_SHOWN_ROWS - shown))
        shown = min(_SHOWN_ROWS, shown + batch.num_rows)
    if left > 0:
        click.echo(f"... and {left} rows more; --to FILE.parquet writes all")
