"""Which files of older runs a run may refer to, though a stale process may stand still in the middle of deleting some.

Whoever deletes state files first writes down which, then looks for newer runs, and deletes only if there are none. A
new run first writes down that it has started, then reads what is condemned, and never refers to that. One of the two
sees the other (Dekker's algorithm): either the deleter finds the new run and stops, or the new run finds the list. A
list goes when all its files are gone; that of a process that died stays until the run is long forgotten.

So a start stores none of the files again that it restored, unless they are condemned, or a run that may still be alive
is of a Lakeward that announced nothing.
"""

from __future__ import annotations

from collections.abc import Iterable

from lakeward.engine.checkpoint import paths
from lakeward.engine.checkpoint.manifest import CheckpointManifest, CondemnedFiles, GenerationRecord
from lakeward.engine.checkpoint.store import CheckpointStore
from lakeward.engine.core.errors import CheckpointError, CorruptionError, StateMigrationError
from lakeward.engine.core.ids import Generation

Reusable = dict[str, Generation]
"""Checksums of contents that are stored already, and the run in whose folder each is."""


def reusable_files(store: CheckpointStore, manifest: CheckpointManifest, mine: Generation) -> Reusable:
    """Files of a restored checkpoint that a run may refer to; called when its own record is written.

    Args:
        store: The directory.
        manifest: What was restored.
        mine: The run.

    Returns:
        The files; none if it cannot be told.

    Raises:
        CheckpointError: The store failed.
    """
    files = manifest.files()
    oldest = _oldest_safe(store, min((file.generation for file in files), default=mine), mine)
    try:
        condemned = _condemned(store, mine)
    except (CorruptionError, StateMigrationError):
        return {}
    return {
        file.sha256: file.generation
        for file in files
        if file.generation >= oldest and paths.state_file(file.generation, file.sha256) not in condemned
    }


def announce(store: CheckpointStore, generation: Generation, number: int, doomed: Iterable[str]) -> None:
    """Write down which files are about to be deleted. Newer runs are to be looked for after that.

    Args:
        store: The directory.
        generation: The run that deletes.
        number: How many times it has done so.
        doomed: Paths of the files.

    Raises:
        CheckpointError: The store failed, or somebody else has written in the run's name.
    """
    path, data = paths.condemned(generation, number), CondemnedFiles(generation, tuple(doomed)).to_bytes()
    if not store.create_if_absent(path, data) and store.read(path) != data:
        raise CheckpointError(
            f"{path} exists already, with another content",
            hint="two processes believe to be this generation of the job: was the directory copied while in use?",
        )


def withdraw(store: CheckpointStore, deleter: Generation, forgotten: Generation) -> None:
    """Delete what a run has announced, when it is done, and what runs have announced that are long forgotten.

    Args:
        store: The directory.
        deleter: The run.
        forgotten: The newest of those runs.
    """
    for path in store.list(paths.CONDEMNED):
        generation = paths.parse_condemned(path)
        if generation is not None and (generation == deleter or generation <= forgotten):
            store.delete(path)


def _oldest_safe(store: CheckpointStore, oldest: Generation, mine: Generation) -> Generation:
    """The oldest run whose files only runs that announce it may delete: a run deletes its own files and older ones."""
    for number in range(mine - 1, oldest - 1, -1):
        data = store.read(paths.generation(Generation(number)))
        try:
            announces = data is not None and GenerationRecord.from_bytes(data).announces
        except (CorruptionError, StateMigrationError):
            announces = False
        if not announces:
            return Generation(number + 1)
    return oldest


def _condemned(store: CheckpointStore, mine: Generation) -> frozenset[str]:
    found: set[str] = set()
    for path in store.list(paths.CONDEMNED):
        generation = paths.parse_condemned(path)
        data = None if generation is None or generation >= mine else store.read(path)
        if data is not None:  # else all that it named is gone
            found.update(CondemnedFiles.from_bytes(data, path).files)
    return frozenset(found)
