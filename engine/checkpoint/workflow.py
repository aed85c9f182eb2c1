"""The I/O edge of checkpoints: reads facts from the store, asks the pure protocol, does what it says.

Every method may be cut off at any point by the death of the process: what it has written by then is either invisible
or has a recovery rule (see `protocol`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.inventory import CheckpointView, take_inventory
from lakeward.engine.checkpoint.manifest import (
    CheckpointClaim,
    CheckpointManifest,
    CommitMarker,
    GenerationRecord,
    JobRecord,
    sha256_hex,
)
from lakeward.engine.checkpoint.protocol import (
    CheckpointState,
    ManifestId,
    RefuseDamaged,
    Restore,
    Skipped,
    StartFresh,
    StopStale,
    resolve,
)
from lakeward.engine.checkpoint.report import (
    CheckpointInfo,
    CheckpointProblems,
    ViewKey,
    all_problems,
    checkpoint_info,
    file_problems,
    foreign_checkpoints,
    missing_files,
    view_key,
)
from lakeward.engine.checkpoint.retention import (
    Retention,
    deletable,
    delete_checkpoints,
    delete_generations,
    plan_retention,
    stray_files,
)
from lakeward.engine.checkpoint.reuse import Reusable, announce, reusable_files, withdraw
from lakeward.engine.checkpoint.store import CheckpointStore, delete_all, missing_file
from lakeward.engine.checkpoint.transfer import FileTransfer
from lakeward.engine.core.errors import (
    CheckpointError,
    ConfigError,
    CorruptionError,
    InternalError,
    StaleWriterError,
)
from lakeward.engine.core.ids import CheckpointId, Generation, JobId
from lakeward.engine.core.snapshots import LocalFile, StoredFile

_STARTS_AT_ONCE_MAX = 1000
_GENERATIONS_KEPT = 100


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
        skipped: Newer checkpoints that were passed over, and why; worth a warning.
        reusable: Files of it that later checkpoints may refer to; for `reuse` in other processes of the run.
    """

    manifest: CheckpointManifest | None
    needs_commit: bool
    skipped: tuple[Skipped, ...]
    reusable: Reusable = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WholeCheckpoint:
    """A checkpoint whose files are all there.

    Args:
        manifest: What it consists of.
        sha256: Checksum of the manifest's bytes.
        state: What its files amount to: `READY` or `COMMITTING`.
    """

    manifest: CheckpointManifest
    sha256: str
    state: CheckpointState


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
class _Found:
    """A checkpoint to restore, with all its files read and found whole."""

    resolution: Restore
    view: CheckpointView
    manifest: CheckpointManifest


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
        generation: The run that this process works for, if another process has started it; None where
            `start_generation` or `recover` is called, and where the directory is only read.
    """

    def __init__(self, store: CheckpointStore, generation: Generation | None = None) -> None:
        self._store = store
        self._transfer = FileTransfer(store)
        self._generation = generation
        self._manifests: dict[tuple[CheckpointId, Generation], str] = {}  # checksums of what was published or restored
        self._strays: frozenset[str] = frozenset()  # in no manifest when `retain` last looked
        self._deletions = 0

    @property
    def generation(self) -> Generation | None:
        """The run that it serves, as soon as that is known."""
        return self._generation

    # Starting

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
            CorruptionError: Its `job.json` is damaged, or missing although there are checkpoints.
            CheckpointError: The store failed, or a newer version of Lakeward made the directory.
        """
        record = self._join_job(JobRecord(job_id, job_name, now_us))
        newest = max((*self._generations(), *self._writers()), default=Generation(0))
        for number in range(newest + 1, newest + 1 + _STARTS_AT_ONCE_MAX):
            entry = GenerationRecord(Generation(number), record.job_id, job_name, now_us, owner)
            if self._store.create_if_absent(paths.generation(entry.generation), entry.to_bytes()):
                self._generation = entry.generation
                return Started(entry.generation, record.job_id, self._next_checkpoint())
        raise CheckpointError(
            f"could not become a new generation of job '{job_name}': {_STARTS_AT_ONCE_MAX} others were faster",
            hint="the job is being started over and over somewhere: stop that first",
        )

    def recover(self, generation: Generation, *, reads_all: bool = True) -> Recovery:
        """Find the newest checkpoint that is whole, and claim it if nobody has.

        Every file of it is read and compared with its checksum. A checkpoint with a missing or damaged file is passed
        over for the one before.

        Args:
            generation: The generation that starts.
            reads_all: Whether also a checkpoint that was committed is read. If not, its files need only be there:
                whoever restores them compares them, and can begin again where this is found out too late, for nothing
                is done outside for a checkpoint that is committed. One that is not is read in any case.

        Returns:
            What to restore.

        Raises:
            CorruptionError: There are checkpoints, but not one of them is whole.
            StaleWriterError: A newer generation has started.
            CheckpointError: The store failed, or a newer version of Lakeward wrote a checkpoint.
        """
        self._generation = generation
        self._check_current(generation)
        found = self._resolve(take_inventory(self._store), generation, reads_all=reads_all)
        if not isinstance(found, _Found):
            self._check_current(generation)  # for a zombie, files may be missing because others have moved on
            return _without_checkpoint(found, generation)
        return self._restored(found, generation)

    def newest_whole(self, checkpoint: CheckpointId | None = None) -> WholeCheckpoint | None:
        """Find the newest checkpoint that is whole and was committed, or whose commit has begun; changes nothing.

        One that nobody has claimed is passed over: it may be on its way in a running job.

        Args:
            checkpoint: This one or none.

        Returns:
            The checkpoint; None if there is none.

        Raises:
            CorruptionError: There are checkpoints, but not one of them is whole.
            CheckpointError: The store failed, or a newer version of Lakeward wrote a checkpoint.
        """
        views = [view for view in take_inventory(self._store) if view.state is not CheckpointState.UNCLAIMED]
        if checkpoint is not None:
            views = [view for view in views if view.checkpoint == checkpoint]
        newest = max((view.generation or Generation(0) for view in views), default=Generation(0))
        found = self._resolve(views, newest)
        if not isinstance(found, _Found):
            _without_checkpoint(found, newest)
            return None
        return WholeCheckpoint(found.manifest, found.view.sha256, found.view.state)

    # State files

    def upload(self, files: Sequence[LocalFile]) -> tuple[StoredFile, ...]:
        """Put state files into the store, in this generation's folder, named by their content.

        What this object has stored before is not sent again, nor what was restored, if no stale process may still be
        deleting it.

        Args:
            files: Finished files of this machine.

        Returns:
            One entry for each, in order.

        Raises:
            CheckpointError: A file cannot be read, changed meanwhile, or the store failed.
            InternalError: This object does not know its generation.
        """
        if self._generation is None:
            raise InternalError("state files were to be uploaded for no generation: start_generation() comes first")
        return self._transfer.upload(files, self._generation)

    def reuse(self, files: Reusable) -> None:
        """Refer to files that another process of this run has found whole, instead of sending them again.

        Args:
            files: From `Recovery`.
        """
        self._transfer.reusable = files

    def download(self, files: Iterable[StoredFile], directory: str) -> None:
        """Fetch state files into a folder, under their names.

        Args:
            files: From a manifest.
            directory: The folder; made if it does not exist.

        Raises:
            CorruptionError: A file is missing or differs from its checksum.
            StaleWriterError: That is so because a newer generation has started and moved on.
            CheckpointError: The store or the disk failed.
        """
        try:
            self._transfer.download(files, directory)
        except CorruptionError:
            if self._generation is not None:
                self._check_current(self._generation)  # a newer generation may have deleted them by right
            raise

    def forget_uploads(self) -> None:
        """What was uploaded here is in the manifest that another process has published, or will not be in any."""
        self._transfer.in_flight.clear()

    # Completing

    def publish(self, manifest: CheckpointManifest) -> None:
        """Make a checkpoint complete: from now on it can be restored. Harmless if repeated.

        Args:
            manifest: The whole checkpoint; all its files are uploaded.

        Raises:
            StaleWriterError: A newer generation has started.
            CheckpointError: The store failed (the manifest may or may not be there), or the id was used before.
            InternalError: It refers to files of another generation that a stale process may delete.
        """
        self._check_files(manifest)
        self._check_current(manifest.generation)
        path = paths.manifest(manifest.checkpoint, manifest.generation)
        data = manifest.to_bytes()
        if not self._store.create_if_absent(path, data) and self._store.read(path) != data:
            raise CheckpointError(
                f"{path} exists already, with another content",
                hint="two processes believe to be this generation of the job: was the directory copied while in use?",
            )
        self._manifests[manifest.checkpoint, manifest.generation] = sha256_hex(data)
        self._transfer.in_flight.clear()  # now named by the manifest, or left over from checkpoints that were given up

    def claim(self, manifest: CheckpointManifest) -> CommitPermit:
        """Become the one who commits a published checkpoint. Harmless if repeated, also by a later generation.

        The order is what fences off zombies: first the claim is written, then newer generations are looked for.

        Args:
            manifest: The checkpoint, published by this generation or restored.

        Returns:
            The right to commit.

        Raises:
            StaleWriterError: A newer generation has started, or has claimed this checkpoint for itself.
            CheckpointError: The store failed; or an older generation's late claim has taken the id, which a restart
                resolves.
        """
        holder = self._generation if self._generation is not None else manifest.generation
        self._check_current(holder)
        mine = ManifestId(manifest.generation, self._manifest_sha256(manifest))
        claim = CheckpointClaim(manifest.checkpoint, mine.generation, mine.sha256, claimed_by=holder)
        if not self._store.create_if_absent(paths.claim(manifest.checkpoint), claim.to_bytes()):
            self._check_claim_is(mine, manifest.checkpoint, holder)
        self._check_current(holder)
        return CommitPermit(manifest.checkpoint, mine, holder)

    def mark_committed(self, permit: CommitPermit, now_us: int) -> None:
        """Write down that all sinks have committed. Harmless if repeated.

        Args:
            permit: From `claim`.
            now_us: Microseconds since 1970 UTC.

        Raises:
            StaleWriterError: A newer generation has started; it repeats the commit by itself.
            CheckpointError: The store failed, or the marker names another manifest.
        """
        self._check_current(permit.holder)
        path = paths.committed(permit.checkpoint)
        marker = CommitMarker(permit.checkpoint, permit.manifest.generation, permit.manifest.sha256, now_us)
        if not self._store.create_if_absent(path, marker.to_bytes()):
            self._check_marker(path, marker)

    # Keeping house

    def retain(self, count: int, generation: Generation) -> Retention:
        """Delete checkpoints older than the newest `count` committed ones, and state files that nothing refers to.

        Oldest first, and each manifest before its files, so that a crash leaves no checkpoint with a hole. A file that
        was never in a manifest (of an upload that was given up) goes only when two calls in a row find it so: it may
        be on its way into one. Files of newer generations are left alone. If any manifest cannot be read, nothing is
        deleted.

        Args:
            count: Committed checkpoints to keep, at least one.
            generation: Who asks.

        Returns:
            What was deleted, or why nothing was.

        Raises:
            StaleWriterError: A newer generation has started.
            CheckpointError: The store failed.
        """
        if count < 1:
            raise ConfigError(f"cannot keep {count} checkpoints", hint="keep at least one; three is the default")
        self._check_current(generation)
        plan = plan_retention(take_inventory(self._store), count)
        if plan.refused:
            return Retention(refused=plan.refused)
        delete_checkpoints(self._store, plan)
        strays = stray_files(self._store, plan)
        doomed = deletable(plan.freed | (strays & self._strays), self._transfer.in_flight, generation)
        self._strays = strays
        self._delete_files(doomed, generation)
        delete_generations(self._store, generation, _GENERATIONS_KEPT)
        return Retention(tuple(doomed.checkpoint for doomed in plan.doomed if doomed.whole), len(doomed))

    def list(self) -> tuple[CheckpointInfo, ...]:
        """Every checkpoint in the directory, newest first.

        Raises:
            CheckpointError: The store failed, or a newer version of Lakeward wrote a checkpoint.
        """
        return tuple(checkpoint_info(view) for view in take_inventory(self._store))

    def read(self, checkpoint: CheckpointId, generation: Generation) -> CheckpointManifest:
        """One manifest, as `list` names it.

        Raises:
            CorruptionError: It is missing or damaged.
            CheckpointError: The store failed, or a newer version of Lakeward wrote it.
        """
        path = paths.manifest(checkpoint, generation)
        data = self._store.read(path)
        if data is None:
            raise missing_file(path, "the checkpoint directory")
        return CheckpointManifest.from_bytes(data, path)

    def verify(self) -> tuple[CheckpointProblems, ...]:
        """Read everything, and compare it with its checksums.

        Returns:
            The checkpoints that have problems, newest first; empty when all is well.

        Raises:
            CheckpointError: The store failed, or a newer version of Lakeward wrote a checkpoint.
        """
        views = take_inventory(self._store)
        return all_problems(views, self._foreign(views), self._transfer)

    # Parts

    def _resolve(
        self, views: Sequence[CheckpointView], generation: Generation, *, reads_all: bool = True
    ) -> _Found | StartFresh | StopStale | RefuseDamaged:
        """What to restore, and its manifest, with all its files found whole; see `recover`."""
        present = None if reads_all else frozenset(self._store.list(paths.FILES))
        damage = self._foreign(views)
        while True:
            resolution = resolve([view.candidate(damage.get(view_key(view), "")) for view in views], generation)
            if not isinstance(resolution, Restore):
                return resolution
            chosen = (resolution.checkpoint, resolution.generation)
            view = next(view for view in views if view_key(view) == chosen)
            if present is None or view.state is not CheckpointState.READY:
                problem = next(file_problems(view, self._transfer), "")
            else:
                problem = next(missing_files(view, present), "")
            if view.manifest is not None and not problem:
                return _Found(resolution, view, view.manifest)
            damage[chosen] = problem

    def _delete_files(self, doomed: Sequence[str], generation: Generation) -> None:
        """The order lets a newer generation know what it must not refer to: see `reuse`."""
        if not doomed:
            self._check_current(generation)
            return
        self._deletions += 1
        announce(self._store, generation, self._deletions, doomed)
        self._check_current(generation)
        delete_all(self._store, doomed)
        withdraw(self._store, generation, Generation(generation - _GENERATIONS_KEPT))

    def _restored(self, found: _Found, generation: Generation) -> Recovery:
        manifest, resolution = found.manifest, found.resolution
        self._manifests[manifest.checkpoint, manifest.generation] = found.view.sha256
        if resolution.claim_first:
            self.claim(manifest)
        self.reuse(reusable_files(self._store, manifest, generation))
        return Recovery(manifest, resolution.repeat_commit, resolution.skipped, self._transfer.reusable)

    def _check_files(self, manifest: CheckpointManifest) -> None:
        """Each is this generation's own, or may be reused."""
        for file in manifest.files():
            if file.generation not in (manifest.generation, self._transfer.reusable.get(file.sha256)):
                raise InternalError(
                    f"checkpoint {manifest.checkpoint} of generation {manifest.generation} refers to the file "
                    f"{file.name} of generation {file.generation}"
                )

    def _join_job(self, offered: JobRecord) -> JobRecord:
        """Whoever writes anything else has written or read the job's record before."""
        used = self._store.list(paths.GENERATIONS) or self._store.list(paths.CHECKPOINTS)
        if used and self._store.size(paths.JOB) is None:
            raise missing_file(paths.JOB, "the checkpoint directory")
        self._store.create_if_absent(paths.JOB, offered.to_bytes())
        record = self._job()
        if record is None:
            raise CheckpointError(f"{paths.JOB} was written and is not there", hint="something deletes files there")
        if record.job_name != offered.job_name:
            raise ConfigError(
                f"the checkpoint directory belongs to job '{record.job_name}', and this job is '{offered.job_name}'",
                hint="give every job a directory of its own; to rename a job, start the new one from a savepoint",
            )
        return record

    def _job(self) -> JobRecord | None:
        data = self._store.read(paths.JOB)
        return None if data is None else JobRecord.from_bytes(data)

    def _foreign(self, views: Sequence[CheckpointView]) -> dict[ViewKey, str]:
        record = self._job()
        return foreign_checkpoints(views, None if record is None else record.job_id)

    def _generations(self) -> Iterator[Generation]:
        numbers = (paths.parse_generation(path) for path in self._store.list(paths.GENERATIONS))
        return (number for number in numbers if number is not None)

    def _writers(self) -> Iterator[Generation]:
        """Of the manifests: their records may be lost, and their numbers must not be given again."""
        return (file.generation for file in self._checkpoint_files() if file.generation is not None)

    def _next_checkpoint(self) -> CheckpointId:
        return CheckpointId(max((file.checkpoint for file in self._checkpoint_files()), default=0) + 1)

    def _checkpoint_files(self) -> Iterator[paths.CheckpointFile]:
        seen = (paths.parse_checkpoint_file(path) for path in self._store.list(paths.CHECKPOINTS))
        return (file for file in seen if file is not None)

    def _check_current(self, generation: Generation) -> None:
        newest = max(self._generations(), default=generation)
        if newest > generation:
            raise _stale(generation, newest)

    def _manifest_sha256(self, manifest: CheckpointManifest) -> str:
        """Of the bytes as they are stored: another version of Lakeward may have written them."""
        key = (manifest.checkpoint, manifest.generation)
        if key not in self._manifests:
            path = paths.manifest(*key)
            data = self._store.read(path)
            if data is None:
                raise CheckpointError(f"{path} cannot be claimed: it was not published", hint="call publish() first")
            self._manifests[key] = sha256_hex(data)
        return self._manifests[key]

    def _check_claim_is(self, mine: ManifestId, checkpoint: CheckpointId, holder: Generation) -> None:
        path = paths.claim(checkpoint)
        data = self._store.read(path)
        if data is None:
            raise CheckpointError(f"{path} exists and cannot be read", hint="something deletes files there")
        claim = CheckpointClaim.from_bytes(data, path)
        if ManifestId(claim.generation, claim.manifest_sha256) == mine:
            return
        if claim.claimed_by > holder:
            raise _stale(holder, claim.claimed_by)
        raise CheckpointError(
            f"checkpoint {checkpoint} of generation {mine.generation} lost its id to generation {claim.generation}, "
            "which claimed it just before it stopped",
            hint="nothing was committed twice; a restart goes on from the right checkpoint with a new id",
        )

    def _check_marker(self, path: str, mine: CommitMarker) -> None:
        data = self._store.read(path)
        try:
            found = None if data is None else CommitMarker.from_bytes(data, path)
        except CorruptionError:  # it said no more than what is known now to be true
            found = None
        if found is None or found.checkpoint != mine.checkpoint:  # the latter is a copy from another place
            self._store.put(path, mine.to_bytes())
        elif (found.generation, found.manifest_sha256) != (mine.generation, mine.manifest_sha256):
            raise CheckpointError(
                f"{path} says that generation {found.generation} committed it, and generation {mine.generation} has",
                hint="two processes believe to own the job: was the directory copied while in use?",
            )


def _stale(generation: Generation, newer: Generation) -> StaleWriterError:
    return StaleWriterError(
        f"generation {newer} of this job has started; this is generation {generation}, which must not go on",
        hint="nothing to do if the job was restarted or moved; else stop one of the two processes",
    )


def _without_checkpoint(resolution: StartFresh | StopStale | RefuseDamaged, generation: Generation) -> Recovery:
    if isinstance(resolution, StartFresh):
        return Recovery(None, False, resolution.skipped)
    if isinstance(resolution, StopStale):
        raise _stale(generation, resolution.newer)
    reasons = "; ".join(f"checkpoint {checkpoint}: {reason}" for checkpoint, reason in resolution.skipped)
    raise CorruptionError(
        f"there are checkpoints, and not one of them can be restored: {reasons}",
        hint="put the files back from a copy, start from a savepoint, or start anew with an empty checkpoint directory",
    )
