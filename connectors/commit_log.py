"""Exactly-once commits by an append-only log next to the output: for outputs that have no transactions of their own.

Entry n of a sink's log is created if absent, so of two writers that both believe the log ends at n - 1 one wins and
the other learns that it is stale: a compare-and-swap, as in Delta Lake's log (Armbrust et al., 2020). An entry is an
intention: it names what becomes visible, is written first, and carried out afterwards; whoever opens the log carries
out its last entry again, which changes nothing when it was done before. Whoever goes on from a checkpoint appends an
entry, if only one that does nothing, and so ends the right of all writers before it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import orjson

from lakeward.engine.api.sink import Committer, CommitterContext
from lakeward.engine.core.errors import SinkStateError, StaleWriterError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject

OnRewind = Literal["refuse", "rollback", "append"]
"""What to do when the output is ahead of the restored checkpoint."""

OnExisting = Literal["refuse", "append"]
"""What to do when a run without a checkpoint finds an output that this sink has written."""


class EntryKind(Enum):
    """What an entry of the log does."""

    COMMIT = "commit"
    """Makes its committables visible."""
    ROLLBACK = "rollback"
    """Takes its committables away again."""
    FENCE = "fence"
    """Nothing but end the right of earlier writers."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One step of an output's history.

    Args:
        version: Its number in the log, from 1.
        kind: What it does.
        checkpoint: The checkpoint that the output stands at after it.
        committables: What it makes visible or takes away.
        job_id: Who wrote it, for the record.
    """

    version: int
    kind: EntryKind
    checkpoint: int
    committables: tuple[JsonObject, ...] = ()
    job_id: str = ""

    def same_step(self, other: LogEntry) -> bool:
        """Whether both say the same, whoever wrote them."""
        mine, theirs = ((e.kind, e.checkpoint, digest(e.committables)) for e in (self, other))
        return mine == theirs


class CommitLog(ABC):
    """Where the entries of one sink id are kept, and what carries them out."""

    @abstractmethod
    def entries(self) -> Sequence[LogEntry]:
        """All entries that are still kept, in order."""

    @abstractmethod
    def append(self, entry: LogEntry) -> LogEntry | None:
        """Create the entry; if its version is taken, change nothing and return the one that stands there."""

    @abstractmethod
    def carry_out(self, entry: LogEntry) -> None:
        """Do what the entry says; nothing when it was done before."""


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """What the user chose.

    Args:
        sink_id: The owner's name in the output; None: `<job name>.<uid>`, kept over restarts.
        on_rewind: When the output is ahead of the restored checkpoint.
        on_existing: When there is no checkpoint, but rows of this sink.
    """

    sink_id: str | None = None
    on_rewind: OnRewind = "refuse"
    on_existing: OnExisting = "refuse"


def digest(committables: Sequence[JsonObject]) -> str:
    """A checksum of committables, whatever their order."""
    canonical = sorted(orjson.dumps(one, option=orjson.OPT_SORT_KEYS) for one in committables)
    return hashlib.sha256(b"\n".join(canonical)).hexdigest()


def sink_id_of(policy: LogPolicy, context: CommitterContext) -> str:
    """The sink's name in the output: the user's choice, else what the checkpoint says, else job name and uid.

    Raises:
        SinkStateError: The checkpoint was taken with another sink id.
    """
    restored = (context.restored_state or {}).get("sink_id")
    if policy.sink_id is not None and restored is not None and policy.sink_id != restored:
        raise SinkStateError(
            f"sink '{context.uid}' has sink_id={policy.sink_id!r}, but its checkpoint was taken with {restored!r}",
            hint="keep the sink id, or start without the checkpoint",
        )
    return policy.sink_id or str(restored or f"{context.job_name}.{context.uid}")


class LogCommitter(Committer):
    """The committer over a commit log.

    Args:
        output: What is written, for errors: "files file:///data/orders".
        sink_id: The owner's name in the output.
        log: That sink id's log.
        policy: What the user chose.
        context: The run.
    """

    def __init__(self, output: str, sink_id: str, log: CommitLog, policy: LogPolicy, context: CommitterContext) -> None:
        self._output = output
        self._sink_id = sink_id
        self._log = log
        self._policy = policy
        self._context = context
        self._last: LogEntry | None = None

    def recover(self, pending: Sequence[JsonObject] | None) -> None:
        """Finish the last entry, compare its checkpoint with the restored one, and end the right of earlier writers."""
        entries = self._log.entries()
        if entries:
            self._last = entries[-1]
            self._log.carry_out(self._last)
        restored = self._context.restored
        if restored is None:
            self._start_afresh()
        elif self._reached > restored:
            self._rewind(restored, entries)
        elif self._reached == restored and self._last is not None:
            self._check_same_commit(restored, pending, entries)
            self._append(self._entry(EntryKind.FENCE, restored))
        else:
            self._catch_up(restored, pending, entries)

    def commit(self, checkpoint: CheckpointId, committables: Sequence[JsonObject]) -> None:
        """Append the entry and carry it out; a repeated commit finds its own entry."""
        if self._last is not None and checkpoint < self._last.checkpoint + (self._last.kind is not EntryKind.COMMIT):
            return  # committed by this run, and others since
        entry = self._entry(EntryKind.COMMIT, checkpoint, committables)
        if self._last is not None and self._last.same_step(entry):
            self._log.carry_out(self._last)
            return
        self._append(entry)

    def snapshot(self) -> JsonObject:
        """The sink id, and how far the output had come when the checkpoint was taken."""
        return {"v": 1, "sink_id": self._sink_id, "checkpoint": self._reached}

    @property
    def _reached(self) -> int:
        return self._last.checkpoint if self._last is not None else 0

    def _start_afresh(self) -> None:
        if self._last is None:
            return
        if self._policy.on_existing == "refuse":
            raise SinkStateError(
                f"{self._output} holds rows of sink '{self._sink_id}' up to checkpoint {self._reached}, but this run "
                "starts without a checkpoint: rows that are read again would be there twice",
                hint="restore the job's last checkpoint, write to an empty place, give the sink another sink_id, or "
                'set on_existing="append" to add to what is there',
            )
        self._append(self._entry(EntryKind.FENCE, 0))

    def _rewind(self, restored: CheckpointId, entries: Sequence[LogEntry]) -> None:
        if self._policy.on_rewind == "append":
            self._append(self._entry(EntryKind.FENCE, restored))
            return
        self._roll_back(restored, entries, f"the job goes back to checkpoint {restored}")

    def _roll_back(self, base: int, entries: Sequence[LogEntry], why: str) -> None:
        """Take away what came after `base`, if the user wants that and the log still says what it was."""
        standing = {0: 0} if entries and entries[0].version == 1 else {}
        standing |= {entry.checkpoint: place for place, entry in enumerate(entries, start=1)}
        if self._policy.on_rewind == "refuse" or base not in standing:
            raise SinkStateError(
                f"{self._output} has rows of sink '{self._sink_id}' up to checkpoint {self._reached}, but {why}: the "
                "rows in between would be written twice"
                + ("" if base in standing else "; the log no longer says which rows those are"),
                hint='restore a newer checkpoint, or set on_rewind="rollback" to take the rows in between away, or '
                'on_rewind="append" to keep them',
            )
        later = entries[standing[base] :]
        undone = [c for entry in later if entry.kind is EntryKind.COMMIT for c in entry.committables]
        self._append(self._entry(EntryKind.ROLLBACK, base, undone))

    def _check_same_commit(
        self, restored: CheckpointId, pending: Sequence[JsonObject] | None, entries: Sequence[LogEntry]
    ) -> None:
        last = next((entry for entry in reversed(entries) if entry.kind is not EntryKind.FENCE), None)
        if pending is None or last is None or last.kind is not EntryKind.COMMIT or last.checkpoint != restored:
            return
        if not last.same_step(self._entry(EntryKind.COMMIT, restored, pending)):
            raise SinkStateError(
                f"{self._output} has a checkpoint {restored} of sink '{self._sink_id}' with other rows than the "
                f"restored one: it was written by another run (job {last.job_id})",
                hint="two runs write under one sink id: stop one, and give each its own sink_id",
            )

    def _catch_up(
        self, restored: CheckpointId, pending: Sequence[JsonObject] | None, entries: Sequence[LogEntry]
    ) -> None:
        """Make up the restored checkpoint's commit, over the very output that it was made for.

        An output that is further on got a commit of a run that was taken for dead, after the restored one had begun.
        """
        expected = int(str((self._context.restored_state or {}).get("checkpoint", 0)))
        if pending is None or self._reached < expected:
            raise SinkStateError(
                f"{self._output} ends at checkpoint {self._reached} of sink '{self._sink_id}', but the restored "
                f"checkpoint {restored} says that {expected if pending is not None else restored} was committed: the "
                "output was emptied, replaced or restored from a backup",
                hint="bring the output back, or restore a checkpoint that fits it, or start without one",
            )
        if self._reached > expected and self._policy.on_rewind != "append":
            self._roll_back(expected, entries, f"checkpoint {restored} of the job was made over checkpoint {expected}")
        self.commit(restored, pending)

    def _entry(self, kind: EntryKind, checkpoint: int, committables: Sequence[JsonObject] = ()) -> LogEntry:
        version = self._last.version + 1 if self._last is not None else 1
        return LogEntry(version, kind, checkpoint, tuple(committables), self._context.job_id)

    def _append(self, entry: LogEntry) -> None:
        standing = self._log.append(entry)
        if standing is not None and not standing.same_step(entry):
            raise StaleWriterError(
                f"{self._output}: job {standing.job_id} has committed checkpoint {standing.checkpoint} for sink "
                f"'{self._sink_id}' after this run had started; its own checkpoint {entry.checkpoint} is not written",
                hint="a newer run of the job owns the output: stop this one",
            )
        self._log.carry_out(standing or entry)
        self._last = standing or entry
