"""The I/O edge of checkpoints: reads facts from the store, asks the pure protocol, does what it says.

Every method may be cut off at any point by the death of the process: what it has written by then is either invisible
or has a recovery rule (see `protocol`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.inventory import CheckpointView, Inventory
from lakeward.engine.checkpoint.manifest import (
    CheckpointClaim,
    CheckpointManifest,
    CommitMarker,
    GenerationRecord,
    JobRecord,
    check_stored_file,
    sha256_hex,
)
from lakeward.engine.checkpoint.protocol import (
    Candidate,
    CheckpointState,
    ManifestId,
    RefuseDamaged,
    Restore,
    Skipped,
    StopStale,
    resolve,
)
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.core.errors import CheckpointError, ConfigError, CorruptionError, StaleWriterError
from lakeward.engine.core.ids import CheckpointId, Generation, JobId
from lakeward.engine.core.snapshots import LocalFile, StoredFile

_GENERATIONS_KEPT = 100
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Started:
    """A new generation of the job.

    Args:
        generation: Its number.
        job_id: The job's identity: that of the directory if it had one, else the one that was offered.
        next_checkpoint: The first checkpoint id that no earlier generation has left a trace of.
    """

    generation: Generation
    job_id: JobId
    next_checkpoint: CheckpointId


@dataclass(frozen=True, slots=True)
class Recovery:
    """What to go on from.

    Args:
        manifest: The checkpoint to restore; None for a first run.
        needs_commit: Its commit may not have happened: `claim` it, commit the sinks, `mark_committed`, and only then
            process rows.
        skipped: Newer checkpoints that could not be used, and why; worth a warning.
    """

    manifest: CheckpointManifest | None
    needs_commit: bool
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class CommitPermit:
    """The right to commit a checkpoint. Got from `CheckpointWorkflow.claim` and from nowhere else.

    Args:
        checkpoint: The checkpoint.
        manifest: Its manifest.
        holder: The generation that may commit.
    """

    checkpoint: CheckpointId
    manifest: ManifestId
    holder: Generation


@dataclass(frozen=True, slots=True)
class Retention:
    """What `retain` deleted.

    Args:
        checkpoints: Checkpoints that are gone.
        files: Number of state files that are gone.
        refused: Why nothing was deleted; empty if it was.
    """

    checkpoints: tuple[CheckpointId, ...] = ()
    files: int = 0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """One checkpoint, for people.

    Args:
        checkpoint: Its number.
        generation: The run of the job that took it.
        state: What its files amount to.
        created_us: When it was taken, in microseconds since 1970 UTC; 0 if its manifest cannot be read.
        size_bytes: Length of its state files together (many are shared with its neighbours).
        operators: The uids in it.
        final: Whether the input had ended.
        damage: Why its manifest cannot be read; empty if it can.
    """

    checkpoint: CheckpointId
    generation: Generation
    state: CheckpointState
    created_us: int
    size_bytes: int
    operators: tuple[str, ...]
    final: bool
    damage: str = ""


@dataclass(frozen=True, slots=True)
class CheckpointProblems:
    """What is wrong with one checkpoint.

    Args:
        checkpoint: Its number.
        problems: One sentence each.
    """

    checkpoint: CheckpointId
    problems: tuple[str, ...]


class CheckpointWorkflow:
    """All that is done to a checkpoint directory.

    >>> from lakeward.engine.checkpoint.store import MemoryStore
    >>> workflow = CheckpointWorkflow(MemoryStore())
    >>> started = workflow.start_generation("revenue", JobId("j-1"), owner="host:4711", now_us=0)
    >>> started.generation, started.next_checkpoint, workflow.recover(started.generation).manifest
    (1, 1, None)

    One object serves one generation. `upload` may run on other threads, or in other processes on objects of their own.

    Args:
        store: Where the directory is.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._generation: Generation | None = None
        self._hashes: dict[tuple[str, int, int, int], str] = {}
        self._uploaded: set[str] = set()  # by this object, and not yet in a manifest
        self._strays: frozenset[str] = frozenset()  # in no manifest when `retain` last looked

    def start_generation(self, job_name: str, job_id: JobId, owner: str, now_us: int) -> Started:
        """Become the newest generation; every older one is stale from now on.

        Args:
            job_name: The job's name.
            job_id: Its identity if the directory is new.
            owner: Host and process, for people.
            now_us: Microseconds since 1970 UTC.

        Returns:
            The generation.

        Raises:
            ConfigError: The directory belongs to a job of another name.
            CorruptionError: Its `job.json` is damaged.
            CheckpointError: The store failed, or a newer version of Lakeward made the directory.
        """
        record = self._job_record(JobRecord(job_id, job_name, now_us))
        generation = Generation(max(self._generations(), default=0))
        created = False
        while not created:  # each failure means that somebody else started in between
            generation = Generation(generation + 1)
            entry = GenerationRecord(generation, record.job_id, job_name, now_us, owner)
            created = self._store.create_if_absent(paths.generation(generation), entry.to_bytes())
        self._generation = generation
        seen = (paths.parse_checkpoint_file(path) for path in self._store.list(paths.CHECKPOINTS))
        newest = max((file.checkpoint for file in seen if file), default=0)
        return Started(generation, record.job_id, CheckpointId(newest + 1))

    def recover(self, generation: Generation) -> Recovery:
        """Find the newest checkpoint that is whole, and claim it if nobody has.

        Every file of it is read and compared with its checksum. A checkpoint with a missing or damaged file is passed
        over for the one before.

        Args:
            generation: The generation that starts.

        Returns:
            What to restore.

        Raises:
            CorruptionError: There are checkpoints, but not one of them is whole.
            StaleWriterError: A newer generation has started.
            CheckpointError: The store failed.
        """
        self._generation = generation
        self._check_current(generation)
        inventory = Inventory(self._store)
        job_id = self._existing_job_id()
        known_damage: dict[CheckpointId, str] = {}
        while True:
            views = [self._judged(view, job_id, known_damage) for view in inventory.views]
            resolution = resolve([candidate for view, candidate in views], generation)
            if isinstance(resolution, StopStale):
                raise _stale(generation, resolution.newer)
            if isinstance(resolution, RefuseDamaged):
                raise _nothing_usable(resolution.skipped)
            if not isinstance(resolution, Restore):
                return Recovery(None, False, resolution.skipped)
            manifest = inventory.view(resolution.checkpoint, resolution.generation).whole_manifest()
            problem = next(self._file_problems(manifest), "")
            if not problem:
                break
            known_damage[resolution.checkpoint] = problem
        if resolution.claim_first:
            self.claim(manifest)
        return Recovery(manifest, resolution.repeat_commit, resolution.skipped)
