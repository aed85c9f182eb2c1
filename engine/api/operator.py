"""The operator contract. Two members are required, the rest default to doing nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from lakeward.engine.api.context import AsyncOutput, OperatorContext, Output
from lakeward.engine.api.expression import Comparison
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import Watermark


@dataclass(frozen=True, slots=True)
class PassedRows:
    """Rows that an operator passes on.

    Args:
        columns: The input's name of each column; None: the same.
        where: Comparisons of the input's columns that hold for every row that is passed on.
    """

    columns: Mapping[str, str] | None = None
    where: tuple[Comparison, ...] = ()


@dataclass(frozen=True, slots=True)
class RowFlow:
    """How an operator's rows follow from those of its input, for finding the source's row of one that failed.

    Args:
        one_to_one: Whether one row comes of every row, in their order.
        repeatable: Whether an operator that was just made, and not opened, makes the same rows again of the same rows;
            the rows of one come before those of the next, and no function of the user's is called.
    """

    one_to_one: bool = False
    repeatable: bool = False


class Operator(ABC):
    """One subtask of one step of a job. Called by one thread at a time; must not block for long.

    The order of calls: `open`, then any mix of `on_batch`, `on_watermark` and, for each checkpoint without anything
    in between, `prepare` and `snapshot`; then `on_end` if the input is finite; `close` unless the process dies.
    """

    def open(self, context: OperatorContext) -> None:  # noqa: B027
        """Called once, after a start or a restore; declare state tables and take back `context.restored` here."""

    @abstractmethod
    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Handle rows. Never keep a reference into the batch's buffers longer than needed: it pins their memory."""

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        """Rows of one of several inputs, counted from 0 in the order of the graph. By default all are alike."""
        self.on_batch(batch, out)

    def on_input_end(self, index: int, out: Output) -> None:  # noqa: B027
        """One of several inputs has ended; others may go on. Called again after a restore if it ends at once."""

    def before_watermark(self, timestamp_us: int) -> None:  # noqa: B027
        """An operator before this one in its task is about to handle a watermark, because of which it may send rows.

        `on_watermark` follows behind those rows. Not called for the first operator of a task.
        """

    def on_watermark(self, timestamp_us: int, out: Output) -> None:  # noqa: B027
        """Event time has reached `timestamp_us` on all inputs; the watermark travels on when this returns."""

    def passed_watermark(self, timestamp_us: int) -> int:
        """The watermark that travels on, asked for after `on_watermark`: no row that is yet to be sent may be older.

        Never later than `timestamp_us`, never going back, and the end of time when that has come.
        """
        return timestamp_us

    def on_tick(self, now_us: int, out: Output) -> None:  # noqa: B027
        """Processing time is now `now_us`; called a few times a second, never between `prepare` and `snapshot`."""

    def prepare(self, checkpoint: CheckpointId, out: Output) -> Sequence[JsonObject]:
        """The barrier of `checkpoint` is here: send what is buffered; return what is to be committed (sinks)."""
        return ()

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject | None:
        """This subtask's small state outside tables; comes back as one of `context.restored`. Tables are saved too."""
        return None

    def on_checkpoint_complete(self, checkpoint: CheckpointId) -> None:  # noqa: B027
        """The checkpoint is durable and committed. May be skipped: a later one then stands for it as well."""

    def on_end(self, out: Output) -> None:  # noqa: B027
        """All inputs have ended, after the last watermark. At most once; not called when a job is stopped."""

    def close(self) -> None:  # noqa: B027
        """Release resources. Not called on a crash; called after an error too, so it must not commit anything."""


class AsyncOperator(Operator):
    """An operator whose rows may leave later than they came, while others come in (Flink's AsyncWaitOperator).

    Watermarks come to `hold` instead of `on_watermark`, and do not travel on when it returns: it notes where each one
    stands among the rows, and `poll` lets it go by `out.emit_watermark()`, once for each and in their order. The end of
    the input follows the last one. Rows that have not left are part of checkpoints, with the watermarks between them;
    nothing is waited for at a barrier.
    """

    @abstractmethod
    def hold(self, watermark: Watermark) -> None:
        """Event time has come to here, or the input has fallen idle: note where that stands among the rows."""

    @property
    def restored_watermarks(self) -> Sequence[int]:
        """After `open`: those that stood among rows that it has taken back, in microseconds; to be let go first."""
        return ()

    @property
    @abstractmethod
    def has_room(self) -> bool:
        """Whether it wants more rows; if not, the task reads no input, unless a checkpoint's barrier is to come."""

    @property
    @abstractmethod
    def is_waiting(self) -> bool:
        """Whether it has rows that have not left; the worker then looks for results a thousand times a second."""

    @abstractmethod
    def poll(self, out: AsyncOutput) -> bool:
        """Send what is ready. Called before every step of the task and after each `hold`; must not wait.

        Returns:
            Whether anything has happened.
        """


class OperatorFactory(ABC):
    """Frozen description of an operator, part of the logical graph; makes one `Operator` a subtask."""

    @abstractmethod
    def create(self) -> Operator:
        """Make the operator of one subtask; every call makes a new one."""

    @property
    @abstractmethod
    def description(self) -> str:
        """What it does in a few words, for `explain()`: "filter price > 100"."""

    @property
    def vectorised(self) -> bool:
        """Whether rows stay in Arrow columns (the fast road) or go through a Python function one by one."""
        return True

    @property
    def row_flow(self) -> RowFlow:
        """How its rows follow from its input's."""
        return RowFlow()

    @property
    def stateful(self) -> bool:
        """Whether it opens keyed state tables; the job's state memory is divided among those that do."""
        return False

    @property
    def first_input(self) -> int | None:
        """An input that is read to its end before the others (a bounded side to look up in); None: all fairly.

        While a checkpoint's barrier is waited for, rows of the other inputs come all the same; they must be kept.
        """
        return None

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]] | None:
        """The columns of each input that it reads; None: all of them.

        An operator that says so must work with batches that lack the others, or have them all the same, in any order of
        columns. Key columns of exchanges need not be named.

        Args:
            sent: The columns of its own that are read further on; all of them if it cannot be `narrowed` to these.
            inputs: The schemas of its inputs.
        """
        return None

    def narrowed(self, columns: Sequence[str]) -> OperatorFactory | None:
        """The same operator, sending only these of its columns; None: it always sends all.

        It must read state that was stored with more columns: tables of whole rows do.
        """
        return None

    def passed(self) -> PassedRows | None:
        """What is known of its rows if they are some of its input's, perhaps with fewer columns; else None."""
        return None
