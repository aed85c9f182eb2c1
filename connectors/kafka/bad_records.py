"""Records that can't be decoded: what is known of them, and where they can go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lakeward.engine.core.errors import RecordError
from lakeward.engine.core.redaction import SECRETS_ONLY, Redaction

_SHOWN_BYTES = 100
_REDACTED_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class BadKafkaRecord:
    """A record that could not be decoded.

    Args:
        topic: Its topic.
        partition: Its partition.
        offset: Its offset.
        key: Its key, if the source reads keys (as metadata); else None.
        value: Its payload.
        reason: What is wrong with it.
    """

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    reason: str

    def error(self, redaction: Redaction = SECRETS_ONLY) -> RecordError:
        """The error that ends a job on this record.

        Args:
            redaction: Which fields of a JSON record are not shown.
        """
        payload = self.value or b""
        text = payload[:_REDACTED_BYTES].decode("utf-8", "surrogateescape")
        shown = repr(redaction.json(text).encode("utf-8", "surrogateescape")[:_SHOWN_BYTES])
        cut = f" (first {_SHOWN_BYTES} of {len(payload)} bytes)" if len(payload) > _SHOWN_BYTES else ""
        return RecordError(
            f"topic '{self.topic}' partition {self.partition} offset {self.offset}: {redaction.reason(self.reason)}; "
            f"the record is {shown}{cut}",
            hint='correct the schema, or pass over such records with on_error="skip" (they are counted)',
        )


@runtime_checkable
class BadRecordHandler(Protocol):
    """Takes the records that can't be decoded; the job goes on.

    It is called before the position behind these records is handed out. After a failure they come again: each is
    handled at least once. One handler serves one reader at a time; raising stops the job.
    """

    def handle(self, records: Sequence[BadKafkaRecord]) -> None:
        """Take these records, in the order of their offsets within a partition."""
        ...
