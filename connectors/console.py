"""A sink that prints rows."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import pyarrow as pa

from lakeward.engine.api.changelog import ROW_KIND, SHORT_NAMES
from lakeward.engine.api.sink import Sink, SinkWriter, WriterContext
from lakeward.engine.core.expect import expect, expect_whole
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject


class PrintSink(Sink):
    """Prints each row to standard output as it arrives, after the number of the subtask that had it.

    >>> PrintSink(limit=10).description
    'print'

    Args:
        limit: Rows that each subtask prints; the rest is counted and summed up at the end. None: all.
        prefix: Put before each line.

    Guarantees: at least once; a row is printed again when the job restarts.

    Raises:
        ConfigError: The limit is no number or negative, or the prefix no text.
    """

    def __init__(self, limit: int | None = None, *, prefix: str = "") -> None:
        if limit is not None:
            expect_whole(limit, "PrintSink: limit", least=0)
        expect(prefix, str, "PrintSink: prefix", 'give a text: prefix="orders "')
        self._limit = limit
        self._prefix = prefix

    @property
    def description(self) -> str:
        """Always "print"."""
        return "print"

    @property
    def takes_updates(self) -> bool:
        """Yes: rows keep their kinds."""
        return True

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """A writer to standard output."""
        return _PrintWriter(f"{self._prefix}{context.subtask + 1}> ", self._limit, sys.stdout)


class _PrintWriter(SinkWriter):
    def __init__(self, prefix: str, limit: int | None, out: TextIO) -> None:
        self._prefix = prefix
        self._left = limit
        self._hidden = 0
        self._out = out

    def write(self, batch: pa.RecordBatch) -> None:
        shown = batch if self._left is None else batch.slice(0, self._left)
        lines = [f"{self._prefix}{_line(row)}\n" for row in shown.to_pylist()]
        self._out.write("".join(lines))
        self._out.flush()
        self._hidden += batch.num_rows - shown.num_rows
        if self._left is not None:
            self._left -= shown.num_rows

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        return ()

    def close(self) -> None:
        if self._hidden:
            self._out.write(f"{self._prefix}... and {self._hidden} more rows\n")
            self._hidden = 0


def _line(row: dict[str, object]) -> str:
    kind = row.pop(ROW_KIND, None)
    text = ", ".join(f"{name}={value}" for name, value in row.items())
    return text if not isinstance(kind, int) else f"{SHORT_NAMES[kind]} {text}"
