"""The error tree, whole.

LakewardError
├── GraphError              the job as written cannot work: wrong column, type, uid, expression
│   └── SchemaError         a column or type does not fit, here or in the table it goes to
├── ConfigError             an option has a wrong value or contradicts another
├── RecordError             a record could not be decoded; carries topic/partition/offset or file/row
├── UserCodeError           a function of the user's raised
│   └── ExternalCallError   it asked another system, which failed or gave no answer in time
├── SourceError             a source could not be read: broker, topic, offset, file
├── SinkError               a sink could not be written
│   ├── StaleWriterError    somebody newer owns the table or the checkpoints: this process must stop
│   └── SinkStateError      the table's marker and the restored checkpoint do not belong together
├── CheckpointError         a checkpoint could not be taken or read
│   └── CorruptionError     a stored file is missing or does not match its checksum
├── WorkerLostError         a worker process died, hangs, or cannot be reached
├── ClusterError            a session cluster cannot be reached, or is none
├── JobFailedError          the job gave up; the cause is chained
├── JobCanceledError        somebody ended the job, without a last checkpoint
└── InternalError           a bug in Lakeward itself: please report it

Every error carries a `domain` (whose fault: user, external, internal), a `retry` hint that the restart policy reads, a
`hint` that says what to do, and, added on the way up, the `operator` it came from. One that is about a row carries the
row apart from its message: fields that must not be shown are hidden, in the row and in whatever is said about it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import ClassVar

from lakeward.engine.core.redaction import FailedRow, Redaction, texts_of


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
        rows: The rows it is about; do not repeat them in the message.
        trace: Where in the user's code it happened (`core.user_frames`), outermost first.
    """

    domain: ClassVar[Domain] = Domain.INTERNAL
    retry: ClassVar[Retry] = Retry.NO

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        operator: str = "",
        location: str = "",
        rows: Sequence[FailedRow] = (),
        trace: Sequence[object] = (),
    ) -> None:
        self._said = (message, hint)
        self._redaction = Redaction()
        self.operator = operator
        self.location = location
        self.rows = tuple(rows)
        self.trace = tuple(trace)
        self.origin = ""
        self.details_elsewhere: tuple[str, ...] = ()
        """Its details, if it happened in another process; they are texts already."""
        super().__init__(message)

    @property
    def message(self) -> str:
        """What happened, without the values that its rows hide."""
        return self.without_hidden(self._said[0])

    @property
    def hint(self) -> str:
        """What to do, without the values that its rows hide."""
        return self.without_hidden(self._said[1])

    @property
    def details(self) -> list[str]:
        """Where in the user's code it happened, the rows, and where they were read, a line each."""
        if self.details_elsewhere:
            return list(self.details_elsewhere)
        lines = [f"> {line}" if not str(line).startswith("...") else str(line) for line in self.trace]
        lines += [self.without_hidden(row.show(self._redaction)) for row in self.rows]
        return [*lines, f"read from: {self.origin}"] if self.origin else lines

    def at(self, operator: str, location: str = "") -> LakewardError:
        """Name the operator (and the user's file and line) unless an inner frame already did; returns self."""
        self.operator = self.operator or operator
        self.location = self.location or location
        return self

    def about(self, row: FailedRow) -> LakewardError:
        """Add a row that it is about, before the others; returns self."""
        self.rows = (row, *self.rows)
        return self

    def place_rows(self, place: Callable[[int], int | None]) -> None:
        """Say the rows' places in another batch, of which the one that they were counted in is made."""
        self.rows = tuple(row if row.index is None else replace(row, index=place(row.index)) for row in self.rows)

    def add(self, text: str) -> LakewardError:
        """Say more in the message; returns self."""
        self._said = (self._said[0] + text, self._said[1])
        return self

    def hide(self, redaction: Redaction) -> LakewardError:
        """Hide what `redaction` says here, but not in what is chained to it; returns self."""
        self._redaction = redaction
        return self

    def redact(self, redaction: Redaction) -> None:
        """Hide what `redaction` says, here and in the Lakeward errors chained to it.

        An exception of the user's is no longer chained if its text has a hidden value, or the text of one that it was
        raised from or while handling, of a group's, or of a note: Python would print it.
        """
        self.hide(redaction)
        self.args = (self.message,)
        cause = self.__cause__
        if isinstance(cause, LakewardError):
            cause.redact(redaction)
        elif cause is not None and any(self.without_hidden(text) != text for text in texts_of(cause)):
            self.__cause__ = self.__context__ = None

    def without_hidden(self, text: str) -> str:
        """A text about its rows without the values that they hide."""
        for row in self.rows:
            text = self._redaction.text(text, row.value)
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"

    def __str__(self) -> str:
        where = f"operator '{self.operator}'" if self.operator else ""
        if self.location:
            where = f"{where} ({self.location})" if where else self.location
        lines = [f"{where}: {self.message}" if where else self.message]
        lines += [f"  {line}" for line in self.details]
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
    """A function of the user's raised, or returned what does not fit; an exception is chained.

    Attributes:
        raised: The user's exception; None if it did not raise.
    """

    domain = Domain.USER
    raised: BaseException | None = None


class ExternalCallError(UserCodeError):
    """A function of the user's asked another system, which failed or gave no answer in time; its error is chained."""

    domain = Domain.EXTERNAL
    retry = Retry.BACKOFF


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


class StateMigrationError(CheckpointError):
    """Stored state cannot be read as the job, or this version of Lakeward, wants to. Those that wrote it still can."""

    domain = Domain.USER
    retry = Retry.NO


class WorkerLostError(LakewardError):
    """A worker process of the job died, hangs, or cannot be reached; the job goes on from its last checkpoint."""

    domain = Domain.EXTERNAL
    retry = Retry.BACKOFF


class ClusterError(LakewardError):
    """A session cluster cannot be reached, or what answers is none."""

    domain = Domain.EXTERNAL
    retry = Retry.BACKOFF


class JobFailedError(LakewardError):
    """The job gave up; the error that ended it is chained as the cause."""

    domain = Domain.EXTERNAL


class JobCanceledError(LakewardError):
    """Somebody ended the job without a last checkpoint; it can go on from the newest that it has."""

    domain = Domain.USER
    retry = Retry.NO


class InternalError(LakewardError):
    """A bug in Lakeward itself. This should never happen; please report it."""
