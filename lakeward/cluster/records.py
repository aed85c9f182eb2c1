"""Job records as JSON documents, one file a job. Pure.

A record that cannot be read is an error that names its file: a job that is silently forgotten would be worse.
"""

from __future__ import annotations

from dataclasses import asdict

import msgspec

from lakeward.cluster.jobs import JobRecord
from lakeward.engine.core.errors import CorruptionError, StateMigrationError

FORMAT_VERSION = 1


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    record: msgspec.Raw


def to_bytes(record: JobRecord) -> bytes:
    """A record as a document.

    >>> from_bytes(to_bytes(JobRecord("j-1", "revenue", "shop:main", "/srv", 2)), "j-1.json").parallelism
    2
    """
    return msgspec.json.encode({"version": FORMAT_VERSION, "record": asdict(record)})


def from_bytes(data: bytes, where: str) -> JobRecord:
    """The record that `to_bytes` wrote.

    Args:
        data: The document.
        where: Its file, for errors.

    Raises:
        StateMigrationError: A newer version of Lakeward wrote it.
        CorruptionError: It is damaged.
    """
    try:
        document = msgspec.json.decode(data, type=_Document)
        if document.version > FORMAT_VERSION:
            raise StateMigrationError(
                f"{where} has format version {document.version}; this Lakeward reads versions up to {FORMAT_VERSION}",
                hint="a newer Lakeward wrote it: upgrade this one",
            )
        return msgspec.json.decode(document.record, type=JobRecord)
    except msgspec.MsgspecError as error:
        raise CorruptionError(
            f"{where} is damaged: {error}",
            hint="restore it from a backup, or move it away: the job is forgotten then, its checkpoints are not",
        ) from error
