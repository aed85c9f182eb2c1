"""The error tree, whole.

LakewardError
├── GraphError              the job as written cannot work: wrong column, type, uid, expression
│   └── SchemaError         a column or type does not fit, here or in the table it goes to
├── ConfigError             an option has a wrong value or contradicts another
├── RecordError             a record could not be decoded; carries topic/partition/offset or file/row
├── UserCodeError           a function of the user's raised
├── SourceError             a source could not be read: broker, topic, offset, file
├── SinkError               a sink could not be written
│   ├── StaleWriterError    somebody newer owns the table or the checkpoints: this process must stop
│   └── SinkStateError      the table's marker and the restored checkpoint do not belong together
├── CheckpointError         a checkpoint could not be taken or read
│   └── CorruptionError     a stored file is missing or does not match its checksum
├── JobFailedError          the job gave up; the cause is chained
└── InternalError           a bug in Lakeward itself: please report it

Every error carries a `domain` (whose fault: user, external, internal), a `retry` hint that the restart policy reads, a
`hint` that says what to do, and, added on the way up, the `operator` it came from.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Domain(Enum):
    """Whose mistake an error is."""

    USER = "user"
    EXTERNAL = "external"
    INTERNAL = "internal"


class Retry(Enum):
    """Whether trying again can help."""

    NO = "no"
    BACKOFF = "backoff"


class LakewardError(Exception):
    """Base of every error that Lakeward raises on purpose.

    >>> from lakeward import StreamExecutionEnvironment, col
    >>> orders = StreamExecutionEnvironment().from_collection([{"shop": "a", "amount": 3}])
    >>> try:
    ...     orders.filter(col("amuont") > 1)
    ... except LakewardError as error:
    ...     print(type(error).__name__, error.domain.value, error.hint, sep=" | ")
    SchemaError | user | did you mean 'amount'? there are: shop, amount

    Args:
        message: What happened and where, in one or two sentences.
        hint: What the reader can do about it.
        operator: The `uid` of the operator it happened in, when known.
        location: `file:line` of the user's code that made the operator, when known.
    """

    domain: ClassVar[Domain] = Domain.INTERNAL
    retry: ClassVar[Retry] = Retry.NO

    def __init__(self, message: str, *, hint: str = "", operator: str = "", location: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.operator = operator
        self.location = location

    def at(self, operator: str, location: str = "") -> LakewardError:
        """Name the operator (and the user's file and line) unless an inner frame already did; returns self."""
        self.operator = self.operator or operator
        self.location = self.location or location
        return self

    def __str__(self) -> str:
        where = f"operator '{self.operator}'" if self.operator else ""
        if self.location:
            where = f"{where} ({self.location})" if where else self.location
        lines = [f"{where}: {self.message}" if where else self.message]
        if self.hint:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)


class GraphError(LakewardError):
    """The job as written cannot work; raised while the graph is built, before anything runs."""

    domain = Domain.USER


class SchemaError(GraphError):
    """A column or a type does not fit."""


class ConfigError(LakewardError):
    """An option has a value that cannot work."""

    domain = Domain.USER


class RecordError(LakewardError):
    """A record could not be decoded."""

    domain = Domain.USER


class UserCodeError(LakewardError):
    """A function of the user's raised; its exception is chained."""

    domain = Domain.USER


class SourceError(LakewardError):
    """A source could not be read."""

    domain = Domain.EXTERNAL
    retry = Retry.BACKOFF


class SinkError(LakewardError):
    """A sink could not be written."""

    domain = Domain.EXTERNAL
    retry = Retry.BACKOFF


class StaleWriterError(SinkError):
    """A newer run owns the table or the checkpoint directory; this process has to stop for good."""

    retry = Retry.NO


class SinkStateError(SinkError):
    """The table's marker and the restored checkpoint do not belong together; going on would lose or double rows."""

    domain = Domain.USER
    retry = Retry.NO


class CheckpointError(LakewardError):
    """A checkpoint could not be taken or read."""

    domain = Domain.EXTERNAL
    retry = Retry.BACKOFF


class CorruptionError(CheckpointError):
    """A stored file is missing, or its size or checksum differs from its manifest."""

    retry = Retry.NO


class JobFailedError(LakewardError):
    """The job gave up; the error that ended it is chained as the cause."""

    domain = Domain.EXTERNAL


class InternalError(LakewardError):
    """A bug in Lakeward itself. This should never happen; please report it."""
