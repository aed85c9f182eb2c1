"""Stored rows of a table whose columns are others now: made into rows of the new columns, once, when it is opened."""

from __future__ import annotations

import pyarrow as pa

from lakeward.engine.api.state import RowsSpec
from lakeward.engine.core.errors import StateMigrationError
from lakeward.engine.state.layout import can_follow
from lakeward.engine.state.renames import stored_names
from lakeward.engine.state.row_blobs import Part, RowBlobs


def check_evolution(old: RowsSpec, new: RowsSpec) -> None:
    """Refuse changes that stored rows cannot follow.

    Args:
        old: What is stored.
        new: What is wanted.

    Raises:
        StateMigrationError: Names the column, and both types, or its old names of which several are there.
    """
    origins = _origins(old, new)
    for name, origin in origins.items():
        before, now = old.schema.field(origin).type, new.schema.field(name).type
        if not can_follow(before, now):
            raise StateMigrationError(
                f"state table '{new.name}': column '{name}' was stored as {before} and is now {now}",
                hint="columns can be added, dropped, renamed, or widened (int32 to int64, float32 to float64); "
                "give the new column another name, or start without the old state",
            )
    if (old.key, old.mutable, old.routing) != (new.key, new.mutable, new.routing):
        before, now = (_shown(one) for one in (old, new))
        raise StateMigrationError(
            f"state table '{new.name}' was stored {before}, and is now {now}",
            hint="the key of stored state cannot change, nor whether it has a TTL; give it another name",
        )


def _shown(spec: RowsSpec) -> str:
    keys = ", ".join(f"'{name.removeprefix('#')}'" for name in spec.key)
    return f"by {keys} {'with' if spec.mutable else 'without'} a TTL"


def evolve_rows(blobs: RowBlobs, old: RowsSpec, new: RowsSpec) -> None:
    """Make all stored rows of a table into rows of the new columns, chunk by chunk.

    Args:
        blobs: The table's chunks.
        old: What is stored.
        new: What is wanted.

    Raises:
        CorruptionError: A chunk is damaged.
    """
    names = [name for name in old.schema.names if name not in old.mutable]
    for chunk in list(blobs.scan(old.key)):  # nothing is written while the store is scanned
        rows = evolved(blobs.read_rows(chunk.namespace, chunk.number, names), old, new)
        value = blobs.rows_value(rows, chunk.runs, rows.nbytes)
        blobs.write([(blobs.key(chunk.namespace, chunk.number, Part.ROWS), value)])


def evolved(rows: pa.RecordBatch, old: RowsSpec, new: RowsSpec) -> pa.RecordBatch:
    """Rows of the columns that never change, as those of the new description."""
    assert new.evolution is not None, "only then rows become others"
    origins = _origins(old, new)
    defaults = {column.name: column.default for column in new.evolution.columns}
    fields = [field for field in new.schema if field.name not in new.mutable]
    arrays = []
    for field in fields:
        if field.name in origins:
            arrays.append(rows.column(origins[field.name]).cast(field.type))
        else:
            default = pa.scalar(defaults.get(field.name), field.type)
            arrays.append(pa.repeat(default, rows.num_rows))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _origins(old: RowsSpec, new: RowsSpec) -> dict[str, str]:
    """The stored column of each column that has one."""
    assert new.evolution is not None, "only then rows become others"
    before = {column.name: column.renamed_from for column in new.evolution.columns}
    wanted = {name: before.get(name, ()) for name in new.schema.names}
    return stored_names(f"state table '{new.name}': column", wanted, old.schema.names)
