"""Rows that a function sends to side streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lakeward.engine.api.context import Output
from lakeward.engine.core.errors import GraphError, UserCodeError
from lakeward.engine.core.expect import expect
from lakeward.operators.process.tags import OutputTag
from lakeward.operators.rows import RowWriter


class SideOutputs:
    """Collects the rows of side streams while a batch is handled.

    Args:
        read: The schemas of those that the job reads, by name.
        failed: The name of the one that rows which fail go to; None: there is none.
    """

    def __init__(self, read: Mapping[str, pa.Schema], failed: str | None = None) -> None:
        self._read = read
        self._failed = failed
        self._writers: dict[OutputTag, RowWriter] = {}
        self._rows: dict[OutputTag, list[Any]] = {}
        self._batches: list[tuple[OutputTag, pa.RecordBatch]] = []

    def add(self, tag: OutputTag, row: Any) -> None:
        """Send a row.

        Raises:
            UserCodeError: The job reads a side stream of this name as rows of another type.
        """
        rows = self._rows.get(tag)
        if rows is None:
            rows = self._rows[tag] = self._begin(tag)
        rows.append(row)

    def _begin(self, tag: OutputTag) -> list[Any]:
        expect(tag, OutputTag, "a side stream's tag", 'give an lw.OutputTag("alerts", Alert)')
        if tag.name == self._failed:
            raise GraphError(
                f"a row is sent to the side stream '{tag.name}', which is that of failed rows",
                hint="failed rows have columns of their own: give on_error= or ctx.output a tag of another name",
            )
        if tag not in self._writers:
            read = self._read.get(tag.name)
            if read is not None and not read.equals(tag.schema):
                raise UserCodeError(
                    f"the side stream '{tag.name}' is sent rows of {_shown(tag.schema)}, but is read as {_shown(read)}",
                    hint="send and read it by the same OutputTag",
                )
            self._writers[tag] = RowWriter(tag.schema, f"a row for the side stream '{tag.name}'")
        return []

    def add_batch(self, tag: OutputTag, batch: pa.RecordBatch) -> None:
        """Send a batch.

        Raises:
            UserCodeError: It is not of the tag's type, or the stream is read as another one.
        """
        self._begin(tag)
        if batch.schema.names != tag.schema.names or batch.schema.types != tag.schema.types:
            raise UserCodeError(
                f"the side stream '{tag.name}' is sent a batch of {_shown(batch.schema)}, not {_shown(tag.schema)}"
            )
        self._batches.append((tag, pa.RecordBatch.from_arrays(batch.columns, schema=tag.schema)))

    def mark(self) -> int:
        """Make columns of what was collected; says how much that is, for `reset`.

        Raises:
            UserCodeError: A row is not of its tag's type.
        """
        rows, self._rows = self._rows, {}
        self._batches += [(tag, self._writers[tag].batch(some)) for tag, some in rows.items() if some]
        return len(self._batches)

    def reset(self, mark: int) -> None:
        """Forget what was collected after a `mark`."""
        self._rows = {}
        del self._batches[mark:]

    def flush(self, out: Output) -> None:
        """Send what was collected.

        Raises:
            UserCodeError: A row is not of its tag's type.
        """
        self.mark()
        batches, self._batches = self._batches, []
        for tag, batch in batches:
            out.emit_side(tag.name, batch)


def _shown(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)
