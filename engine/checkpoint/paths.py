"""Every name in a checkpoint directory, spelled here and nowhere else.

```
job.json                                        whose directory this is; written once
savepoint.json                                  which savepoint it was begun from, if any; written once
generations/000003.json                         the third start of the job
checkpoints/000000000042/manifest-000003.json   what checkpoint 42, taken by generation 3, consists of
checkpoints/000000000042/claim.json             which manifest of checkpoint 42 may be committed
checkpoints/000000000042/committed.json         the commit was done
files/000003/9f/9f86d081...                     a state file that generation 3 stored, by its content's SHA-256
condemned/000003-000017.json                    state files that generation 3 is about to delete (see `reuse`)
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lakeward.engine.core.ids import CheckpointId, Generation

JOB = "job.json"
SAVEPOINT = "savepoint.json"
GENERATIONS = "generations/"
CHECKPOINTS = "checkpoints/"
FILES = "files/"
CONDEMNED = "condemned/"

CheckpointFileKind = Literal["manifest", "claim", "committed"]

_GENERATION = re.compile(r"generations/(\d{6,})\.json")
_CHECKPOINT_FILE = re.compile(r"checkpoints/(\d{12,})/(?:(claim|committed)|manifest-(\d{6,}))\.json")
_FILE = re.compile(r"files/(\d{6,})/([0-9a-f]{2})/(\2[0-9a-f]{62})")
_CONDEMNED = re.compile(r"condemned/(\d{6,})-(\d{6,})\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """What a path below `checkpoints/` stands for.

    Args:
        checkpoint: The checkpoint.
        kind: Which of its files.
        generation: The writer of a manifest; None for the other kinds.
    """

    checkpoint: CheckpointId
    kind: CheckpointFileKind
    generation: Generation | None = None


@dataclass(frozen=True, slots=True)
class StateFile:
    """What a path below `files/` stands for.

    Args:
        generation: The run of the job that stored it.
        sha256: Checksum of its content.
    """

    generation: Generation
    sha256: str


def generation(number: Generation) -> str:
    """The record of one start of the job.

    >>> generation(Generation(3))
    'generations/000003.json'
    """
    return f"{GENERATIONS}{number:06d}.json"


def checkpoint_directory(checkpoint: CheckpointId) -> str:
    """Prefix of everything that belongs to one checkpoint alone."""
    return f"{CHECKPOINTS}{checkpoint:012d}/"


def manifest(checkpoint: CheckpointId, writer: Generation) -> str:
    """The manifest that a generation wrote for a checkpoint.

    >>> manifest(CheckpointId(42), Generation(3))
    'checkpoints/000000000042/manifest-000003.json'
    """
    return f"{checkpoint_directory(checkpoint)}manifest-{writer:06d}.json"


def claim(checkpoint: CheckpointId) -> str:
    """The claim: which manifest of the checkpoint may be committed."""
    return f"{checkpoint_directory(checkpoint)}claim.json"


def committed(checkpoint: CheckpointId) -> str:
    """The commit marker."""
    return f"{checkpoint_directory(checkpoint)}committed.json"


def state_file(writer: Generation, sha256: str) -> str:
    """A state file, by the generation that stored it and by its content.

    >>> state_file(Generation(3), "9f" + "0" * 62)
    'files/000003/9f/9f00000000000000000000000000000000000000000000000000000000000000'
    """
    return f"{FILES}{writer:06d}/{sha256[:2]}/{sha256}"


def condemned(deleter: Generation, number: int) -> str:
    """What a generation says that it is about to delete, the n-th time.

    >>> condemned(Generation(3), 17)
    'condemned/000003-000017.json'
    """
    return f"{CONDEMNED}{deleter:06d}-{number:06d}.json"


def is_sha256(text: str) -> bool:
    """Whether a text is a SHA-256 in lower-case hex, and so safe to make a path of."""
    return _SHA256.fullmatch(text) is not None


def is_plain_name(name: str) -> bool:
    """Whether a file name stays below the directory it is put in: relative, no `..`, no empty part.

    >>> is_plain_name("db/000017.sst"), is_plain_name("../../etc/passwd"), is_plain_name("/etc/passwd")
    (True, False, False)
    """
    if "\0" in name or "\\" in name:
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def parse_generation(path: str) -> Generation | None:
    """The number in a generation record's path; None if the path is something else.

    >>> parse_generation("generations/000003.json")
    3
    """
    match = _GENERATION.fullmatch(path)
    return Generation(int(match[1])) if match else None


def parse_condemned(path: str) -> Generation | None:
    """Who is about to delete what a path below `condemned/` names; None if nobody of ours wrote it.

    >>> parse_condemned("condemned/000003-000017.json")
    3
    """
    match = _CONDEMNED.fullmatch(path)
    return Generation(int(match[1])) if match else None


def parse_checkpoint_file(path: str) -> CheckpointFile | None:
    """What a path below `checkpoints/` stands for; None if nobody of ours wrote it.

    >>> parse_checkpoint_file("checkpoints/000000000042/manifest-000003.json")
    CheckpointFile(checkpoint=42, kind='manifest', generation=3)
    """
    match = _CHECKPOINT_FILE.fullmatch(path)
    if match is None:
        return None
    checkpoint = CheckpointId(int(match[1]))
    if match[3] is not None:
        return CheckpointFile(checkpoint, "manifest", Generation(int(match[3])))
    return CheckpointFile(checkpoint, "claim" if match[2] == "claim" else "committed")


def parse_state_file(path: str) -> StateFile | None:
    """What a path below `files/` stands for; None if nobody of ours wrote it.

    >>> parse_state_file(state_file(Generation(3), "9f" * 32)).generation
    3
    """
    match = _FILE.fullmatch(path)
    return StateFile(Generation(int(match[1])), match[3]) if match else None
