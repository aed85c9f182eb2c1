"""What an operator may see and do: its context and its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import pyarrow as pa

from lakeward.engine.api.calls import AsyncCalls
from lakeward.engine.api.state import RowsSpec, RowTable, StateTable, TableSpec
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.ids import JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.redaction import Redaction


class Output(Protocol):
    """Where an operator sends its rows. A call returns after the rest of the chain has handled the batch."""

    def emit(self, batch: pa.RecordBatch) -> None:
        """Send rows downstream; empty batches are dropped here, so an operator need not check."""
        ...

    def emit_side(self, tag: str, batch: pa.RecordBatch) -> None:
        """Send rows to the side stream `tag`; they vanish if the job does not use it."""
        ...


class AsyncOutput(Output, Protocol):
    """The output of an `AsyncOperator`, which says when watermarks travel on."""

    def emit_watermark(self) -> None:
        """Let the oldest watermark go that the operator still holds."""
        ...


class Counter(Protocol):
    """A number that only grows."""

    def inc(self, amount: int = 1) -> None:
        """Add to it."""
        ...


class OperatorContext(Protocol):
    """One subtask's view of the job. Valid from `open` to `close`."""

    def add_origin(self, error: LakewardError) -> None:
        """Say in an error where its row was read, as far as that is known.

        For errors that do not end the job, and so pass nobody who knows it. Only while the operator handles the batch
        in which the row has its place; it costs about as much as the steps before the operator, for the batch again.
        """
        ...

    @property
    def uid(self) -> OperatorId:
        """The operator's name in checkpoints."""
        ...

    @property
    def job_id(self) -> JobId:
        """The job's identity."""
        ...

    @property
    def job_name(self) -> str:
        """The name given to `execute`."""
        ...

    @property
    def subtask(self) -> SubtaskIndex:
        """Which of the parallel instances this is."""
        ...

    @property
    def parallelism(self) -> int:
        """How many instances there are."""
        ...

    @property
    def max_parallelism(self) -> int:
        """Number of key groups of the job, which say what each subtask owns (`core.keygroups`)."""
        ...

    @property
    def attempt(self) -> str:
        """A name that no other start of this subtask ever had; for naming files."""
        ...

    @property
    def clock(self) -> Clock:
        """Processing time."""
        ...

    @property
    def redaction(self) -> Redaction:
        """Which fields neither errors nor log lines may show."""
        ...

    @property
    def restored(self) -> Sequence[JsonObject]:
        """What `Operator.snapshot` returned in the restored checkpoint, for every old subtask; empty on a first run."""
        ...

    def table(self, spec: TableSpec) -> StateTable:
        """Open a keyed state table; call it in `open`, once a name."""
        ...

    def rows(self, spec: RowsSpec) -> RowTable:
        """Open a keyed table of whole rows; call it in `open`, once a name."""
        ...

    def restored_rows(self, spec: RowsSpec) -> Iterator[pa.RecordBatch]:
        """All rows that a table had in the restored checkpoint, those of the other subtasks too; call it in `open`.

        For what every subtask needs whole (a broadcast side): each keeps the rows of its own key groups in
        `rows(spec)`, so that they are saved once and move with the key groups, and all read them from here. Rows of one
        key come in the order in which they were appended.
        """
        ...

    def async_calls(self, threads: int | None = None) -> AsyncCalls:
        """Calls that run beside the worker; ask in `open`, and stop them in `close`.

        Args:
            threads: None for coroutines, which share the job's event loop; else so many threads for blocking functions.
        """
        ...

    def counter(self, name: str) -> Counter:
        """A metric of this operator; names carry units (`late_rows`, `read_bytes`)."""
        ...
