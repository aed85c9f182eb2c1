"""Savepoints: a checkpoint in a directory of its own, which no job writes to, for other jobs to start from.

A savepoint is laid out as a checkpoint directory that holds one checkpoint, so everything that reads one reads the
other; and a checkpoint directory can be started from as if it were a savepoint (Flink's retained checkpoints).

A job that starts from a savepoint copies it into its own, new directory as the first checkpoint there, under its number
and the identity of the job that took it: what the sinks' tables say about that job stays true. A crash in the middle
leaves nothing that counts; once the copy is published, it is a checkpoint like any other. `savepoint.json` says which
savepoint the directory was begun from, so that the same command, run again after a crash, goes on and does not begin
again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.inventory import take_inventory
from lakeward.engine.checkpoint.manifest import CheckpointManifest, SavepointOrigin
from lakeward.engine.checkpoint.protocol import CheckpointState
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.checkpoint.workflow import CheckpointWorkflow, Started, WholeCheckpoint
from lakeward.engine.core.errors import CheckpointError, ConfigError, CorruptionError
from lakeward.engine.core.ids import CheckpointId, JobId
from lakeward.engine.core.snapshots import LocalFile, OperatorSnapshot

_TRIES = 5


@dataclass(frozen=True, slots=True)
class Owner:
    """Who writes, and when.

    Args:
        name: Host and process, for people.
        now_us: Microseconds since 1970 UTC.
        scratch: An existing folder on this machine, for files on their way.
    """

    name: str
    now_us: int
    scratch: Path


def to_save(reader: CheckpointWorkflow, checkpoint: CheckpointId | None = None) -> WholeCheckpoint:
    """The checkpoint that a savepoint is made of; changes nothing.

    Args:
        reader: Of the job's checkpoint directory.
        checkpoint: Which; None: the newest whole one whose commit has begun.

    Raises:
        ConfigError: There is no such checkpoint.
        CorruptionError: There are checkpoints, and not one of them is whole.
        CheckpointError: A store failed.
    """
    found = reader.newest_whole(checkpoint)
    if found is None:
        number = "" if checkpoint is None else f" {checkpoint}"
        raise ConfigError(
            f"there is no committed checkpoint{number} to make a savepoint of",
            hint="`lakeward checkpoints list` shows what a directory holds",
        )
    return found


def write_savepoint(
    source: CheckpointStore, target: CheckpointStore, owner: Owner, checkpoint: CheckpointId | None = None
) -> CheckpointManifest:
    """Copy a job's newest committed checkpoint, or one that is named, into a directory of its own.

    The job may be running. The target is complete when this returns, and of no use to anybody before; called again
    after a crash, it begins anew.

    Args:
        source: The job's checkpoint directory.
        target: The savepoint: empty, or with what a crashed call has left.
        owner: Who writes.
        checkpoint: Which; None: the newest whole one whose commit has begun.

    Returns:
        What was copied.

    Raises:
        ConfigError: The target holds something else, or there is no such checkpoint.
        CorruptionError: There are checkpoints, and not one of them is whole.
        CheckpointError: A store failed.
    """
    check_is_free(target)
    for left in reversed(range(_TRIES)):
        reader = CheckpointWorkflow(source)
        found = to_save(reader, checkpoint)
        writer = CheckpointWorkflow(target)
        name, job_id = found.manifest.job_name, found.manifest.job_id
        started = writer.start_generation(name, job_id, owner.name, owner.now_us)
        if started.job_id != job_id:
            raise ConfigError(f"the directory belongs to job {started.job_id}", hint="give an empty directory")
        try:
            return _copy(reader, found, writer, replace(found.manifest, generation=started.generation), owner)
        except CorruptionError:
            if not left:  # else: a running job has deleted it meanwhile, and has newer ones
                raise
    raise AssertionError("the last try returns or raises")


def check_is_free(target: CheckpointStore) -> None:
    """Refuse to write a savepoint where something is already.

    Raises:
        ConfigError: There is a savepoint, or a job's checkpoints.
        CheckpointError: The store failed.
    """
    if any(view.state is not CheckpointState.UNCLAIMED for view in take_inventory(target)):
        raise ConfigError("there is a savepoint or a job's checkpoints already", hint="give an empty directory")


@dataclass(frozen=True, slots=True)
class Beginning:
    """A job's directory that begins, or has begun, with a savepoint.

    Args:
        savepoint: The savepoint's directory.
        directory: The job's own.
    """

    savepoint: CheckpointStore
    directory: CheckpointStore

    def job_id(self) -> JobId | None:
        """The identity to start the job's generation with; None when the directory has checkpoints of its own already.

        Says in the directory which savepoint it is begun from; nothing else is copied yet.

        Raises:
            ConfigError: There is no savepoint, or the directory has begun in another way.
            CorruptionError: The savepoint is damaged.
            CheckpointError: A store failed.
        """
        origin, begun = read_origin(self.directory), bool(self.directory.list(paths.CHECKPOINTS))
        if origin is None and (begun or self.directory.read(paths.JOB) is not None):
            raise ConfigError(
                "the checkpoint directory has been used already, and not from this savepoint",
                hint="to start from a savepoint, give the job an empty checkpoint_dir; to go on from its own "
                "checkpoints, leave the savepoint out",
            )
        if origin is not None and begun:
            if origin.manifest_sha256 not in {view.sha256 for view in take_inventory(self.savepoint)}:
                raise self._another(origin)
            return None
        found = self._found(CheckpointWorkflow(self.savepoint))
        mine = SavepointOrigin(found.manifest.checkpoint, found.manifest.job_id, found.sha256)
        if origin is not None and origin.job_id != mine.job_id:
            raise self._another(origin)
        if origin is None and not self.directory.create_if_absent(paths.SAVEPOINT, mine.to_bytes()):
            return self.job_id()  # somebody else was faster
        if origin is not None and origin != mine:  # a job's own directory, which has newer checkpoints now
            self.directory.put(paths.SAVEPOINT, mine.to_bytes())
        return mine.job_id

    def copy(self, writer: CheckpointWorkflow, started: Started, job_name: str, owner: Owner) -> Started:
        """Make the savepoint the directory's first checkpoint.

        Args:
            writer: Of the directory.
            started: The generation.
            job_name: The job's name, which may be a new one.
            owner: Who writes.

        Returns:
            The generation, with the number that its own first checkpoint gets.
        """
        reader = CheckpointWorkflow(self.savepoint)
        found = self._found(reader)
        manifest = replace(found.manifest, generation=started.generation, job_name=job_name)
        _copy(reader, found, writer, manifest, owner)
        return replace(started, next_checkpoint=CheckpointId(manifest.checkpoint + 1))

    @staticmethod
    def _another(origin: SavepointOrigin) -> ConfigError:
        return ConfigError(
            f"the checkpoint directory was begun from another savepoint: checkpoint {origin.checkpoint} of job "
            f"{origin.job_id}",
            hint="leave the savepoint out to go on from the directory's own checkpoints, or give an empty one",
        )

    def _found(self, reader: CheckpointWorkflow) -> WholeCheckpoint:
        found = reader.newest_whole()
        if found is None:
            raise ConfigError(
                "there is no savepoint to start from, or it was never completed",
                hint="give the directory that `lakeward savepoint` wrote",
            )
        return found


def check_has_begun(directory: CheckpointStore) -> None:
    """Refuse to start a job anew in a directory that was to be begun from a savepoint, and was not.

    Raises:
        ConfigError: It is such a directory.
    """
    if read_origin(directory) is not None:
        raise ConfigError(
            "the checkpoint directory was to be begun from a savepoint, which was not copied to its end",
            hint="start the job from the savepoint again, or give it an empty checkpoint_dir",
        )


def read_origin(directory: CheckpointStore) -> SavepointOrigin | None:
    """Which savepoint a directory was begun from; None for none."""
    data = directory.read(paths.SAVEPOINT)
    return None if data is None else SavepointOrigin.from_bytes(data)


def _copy(
    reader: CheckpointWorkflow,
    found: WholeCheckpoint,
    writer: CheckpointWorkflow,
    manifest: CheckpointManifest,
    owner: Owner,
) -> CheckpointManifest:
    """Publish a checkpoint of another directory under a manifest whose files are still those of the other one."""
    operators = tuple(_copy_files(reader, one, writer, owner.scratch / "copied") for one in manifest.operators)
    manifest = replace(manifest, operators=operators)
    writer.publish(manifest)
    permit = writer.claim(manifest)
    if found.state is CheckpointState.READY:  # else who starts from it repeats the commit
        writer.mark_committed(permit, owner.now_us)
    return manifest


def _copy_files(
    reader: CheckpointWorkflow, one: OperatorSnapshot, writer: CheckpointWorkflow, folder: Path
) -> OperatorSnapshot:
    """One subtask after the other, so that no more than its files lie on the local disk."""
    known = one.files()
    if not known:
        return one
    try:
        reader.download(known, str(folder))
        files = writer.upload([LocalFile(file.name, str(folder / file.name)) for file in known])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if [file.sha256 for file in files] != [file.sha256 for file in known]:
        raise CheckpointError(f"a state file of '{one.uid}' changed on its way", hint="is the local disk all right?")
    keyed = 0 if one.keyed is None else len(one.keyed.files)
    rows = zip(one.in_flight, files[keyed:], strict=True)
    return replace(
        one,
        keyed=None if one.keyed is None else replace(one.keyed, files=files[:keyed]),
        in_flight=tuple(replace(part, file=file) for part, file in rows),
    )
