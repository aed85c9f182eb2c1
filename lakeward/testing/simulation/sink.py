"""The sink of a simulated table: the exactly-once protocol of the lakehouse sinks, in its shortest form."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from lakeward.engine.api.changelog import is_addition, kinds_of, without_kinds
from lakeward.engine.api.sink import Committer, CommitterContext, Sink, SinkWriter, WriterContext
from lakeward.engine.core.errors import SinkStateError, StaleWriterError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.testing.simulation.table import Change, CommitConflict, SimTable

COMMIT_TRIES_MAX = 100


def changes_in(batch: pa.RecordBatch) -> list[Change]:
    """A batch as plain tuples, timestamps as microseconds, and whether each row adds or takes back."""
    columns = [
        (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
        for column in without_kinds(batch).columns
    ]
    return list(zip(zip(*columns, strict=True), is_addition(kinds_of(batch)).tolist(), strict=True))


class SimTableSink(Sink):
    """Writes to a `SimTable`: data files by the writers, one marked snapshot a checkpoint by the committer.

    Args:
        table: The table.
    """

    def __init__(self, table: SimTable) -> None:
        self._table = table

    @property
    def description(self) -> str:
        """For `explain()`."""
        return f"simulated table {self._table.name}"

    @property
    def takes_updates(self) -> bool:
        """It does."""
        return True

    def open_writer(self, context: WriterContext) -> SinkWriter:
        """Make the writer of one subtask."""
        return SimTableWriter(self._table, context)

    def open_committer(self, context: CommitterContext) -> Committer:
        """Make the committer."""
        return SimTableCommitter(self._table, context)


class SimTableWriter(SinkWriter):
    """Buffers rows, and writes a data file when a checkpoint comes."""

    def __init__(self, table: SimTable, context: WriterContext) -> None:
        self._table = table
        self._prefix = f"{context.uid}-{context.attempt}"
        self._changes: list[Change] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows."""
        self._changes += changes_in(batch)

    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        """Write the file."""
        if not self._changes:
            return ()
        changes, self._changes = self._changes, []
        name = f"{self._prefix}-{checkpoint}"
        self._table.write_file(name, changes)
        return [{"v": 1, "file": name, "rows": len(changes)}]


class SimTableCommitter(Committer):
    """Marks each snapshot with sink id and checkpoint, and looks for its own mark before every try."""

    def __init__(self, table: SimTable, context: CommitterContext) -> None:
        self._table = table
        self._context = context
        self._sink_id = f"{context.job_name}.{context.uid}"
        self._expected: int | None = None

    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        """Compare the table's mark with the restored checkpoint."""
        _, marker = self._table.load(self._sink_id)
        restored = self._context.restored
        if restored is None and marker is not None:
            raise SinkStateError(f"{self._table.name} holds checkpoint {marker}, and nothing was restored")
        if restored is not None and marker is not None and marker > restored:
            raise SinkStateError(f"{self._table.name} is at checkpoint {marker}, the job goes back to {restored}")
        self._expected = marker
        if pending is not None and restored is not None:
            if marker != restored:  # then it is where it was when the checkpoint was made
                known = (self._context.restored_state or {}).get("known")
                self._expected = None if known is None else int(str(known))
            self.commit(restored, pending)
        elif marker != restored:
            raise SinkStateError(f"{self._table.name} is at checkpoint {marker} instead of {restored}")

    def commit(self, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
        """Load, look for the mark, compare and swap; from the start again when somebody else was faster."""
        summary = {"sink_id": self._sink_id, "checkpoint": str(checkpoint), "job_id": self._context.job_id}
        for _ in range(COMMIT_TRIES_MAX):
            version, marker = self._table.load(self._sink_id)
            if self._is_done(checkpoint, marker):
                return
            try:
                self._table.commit(version, summary, [str(one["file"]) for one in committables])
            except CommitConflict:
                continue
            self._expected = checkpoint
            return
        raise CommitConflict(f"{self._table.name}: {COMMIT_TRIES_MAX} commits in a row were overtaken")

    def snapshot(self) -> JsonObject:
        """What a restart must know."""
        return {"v": 1, "sink_id": self._sink_id, "known": self._expected}

    def _is_done(self, checkpoint: CheckpointId, marker: int | None) -> bool:
        if marker == checkpoint:
            self._expected = marker
            return True
        if marker is not None and marker > checkpoint:
            raise StaleWriterError(f"{self._table.name} is at checkpoint {marker} already, past {checkpoint}")
        if marker != self._expected:  # an older run's commit came through after this one had started
            raise SinkStateError(f"{self._table.name} is at checkpoint {marker}; this run knows of {self._expected}")
        return False
