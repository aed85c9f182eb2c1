"""The sink contract: many writers, one idempotent committer, and small JSON committables between them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.context import Counter
from lakeward.engine.api.source import CounterRegistry
from lakeward.engine.core.clock import Clock
from lakeward.engine.core.ids import CheckpointId, JobId, OperatorId, SubtaskIndex
from lakeward.engine.core.json_types import JsonObject

__all__ = ["Committer", "CommitterContext", "Counter", "Sink", "SinkWriter", "WriterContext"]


@dataclass(frozen=True, slots=True)
class WriterContext:
    """What a sink writer may see.

    Args:
        uid: The sink's uid.
        job_id: The job's identity.
        subtask: Which of the parallel writers this is.
        attempt: A name that no other start of this writer ever had; put it into file names.
        schema: The schema of every batch.
        clock: Processing time.
        counters: Gets a counter by name.
    """

    uid: OperatorId
    job_id: JobId
    subtask: SubtaskIndex
    attempt: str
    schema: pa.Schema
    clock: Clock
    counters: CounterRegistry


@dataclass(frozen=True, slots=True)
class CommitterContext:
    """What a committer may see.

    Args:
        uid: The sink's uid.
        job_id: The job's identity, for the record only: a commit's owner is the sink id.
        job_name: The job's name; with the uid it makes the default sink id.
        schema: The schema of the rows.
        restored: The checkpoint the job goes on from; None on a first run, a stateless restart, or where the job did
            not have this sink when that checkpoint was taken.
        restored_state: What `Committer.snapshot` returned when that checkpoint was taken; None as above.
    """

    uid: OperatorId
    job_id: JobId
    job_name: str
    schema: pa.Schema
    restored: CheckpointId | None
    restored_state: JsonObject | None


class SinkWriter(ABC):
    """Writes rows where readers do not yet see them. One a subtask."""

    @abstractmethod
    def write(self, batch: pa.RecordBatch) -> None:
        """Take rows. May buffer."""

    @abstractmethod
    def prepare_commit(self, checkpoint: CheckpointId) -> Sequence[JsonObject]:
        """Make all rows since the last call durable; return what the committer needs to make them visible.

        Returns:
            Committables: small, versioned (a "v" field), JSON; stored in the checkpoint. Empty when no rows came.
        """

    def close(self) -> None:  # noqa: B027
        """Release resources and delete unfinished files; never makes rows visible."""


class Committer(ABC):
    """Makes prepared rows visible, once a checkpoint. One a job and sink; calls never overlap."""

    @abstractmethod
    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        """Called once before anything runs, in every attempt.

        Compares the sink's own marker with the restored checkpoint, and refuses if they do not belong together (a
        stateless restart over a marked table, a rewind to an older checkpoint) unless the user chose otherwise. What
        is pending is committed only over what the committer knew when it made the snapshot that is restored: a commit
        in between is that of a run which was taken for dead, and holds rows that are pending here as well.

        Args:
            pending: The restored checkpoint's committables when its commit may not have happened; commit them now
                (idempotently). None when its commit is known to be done, or nothing was restored.

        Raises:
            SinkStateError: Going on would lose or double rows; the text says the ways out.
        """

    @abstractmethod
    def commit(self, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
        """Make the rows of `checkpoint` visible, atomically and at most once, however often this is called.

        Called for every checkpoint in rising order, also with no committables: the marker advances all the same.

        A number alone does not tell a commit: two runs may reach the same checkpoint with other rows, and a run that is
        taken for dead may wake up. So the marker says whose commit it is as well, by a digest of the committables for
        example. Of a checkpoint at or before the marker, what this committer or a run before it has committed is
        passed over, and anything else is stale.

        Raises:
            StaleWriterError: Another run has committed this checkpoint with other committables, or a later one.
            SinkError: It failed and may be tried again, also when its outcome is unknown.
        """

    def snapshot(self) -> JsonObject | None:
        """What a restart must know (the sink id); taken with every checkpoint."""
        return None

    def close(self) -> None:  # noqa: B027
        """Release connections."""


class Sink(ABC):
    """A description of an output; immutable once the graph is built."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What it writes in a few words, for `explain()`: "iceberg shop.revenue"."""

    @property
    def identity(self) -> str | None:
        """Where it writes and in whose name, if the user gave that name; None if the sink's uid is part of it.

        Committers tell their own commits from others' by it, so no two sinks of a job may share one. It may be logged:
        it holds no secret.
        """
        return None

    @property
    def takes_updates(self) -> bool:
        """Whether it can write updating streams, whose rows may take others back; see `engine.api.changelog`."""
        return False

    def check_schema(self, schema: pa.Schema) -> None:  # noqa: B027
        """Called when the job starts, before the first row is read.

        Raises:
            SchemaError: Rows of this schema cannot be written; names the columns and both types.
        """

    @abstractmethod
    def open_writer(self, context: WriterContext) -> SinkWriter:
        """Make the writer of one subtask."""

    def open_committer(self, context: CommitterContext) -> Committer | None:
        """Make the committer; None for a sink whose rows are visible at once (print, blackhole)."""
        return None
