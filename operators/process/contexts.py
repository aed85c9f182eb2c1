"""What a function of the user's sees of the job while it is called."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lakeward.engine.api.context import Counter, OperatorContext
from lakeward.engine.core.errors import GraphError, UserCodeError
from lakeward.engine.core.messages import WATERMARK_MAX_US, WATERMARK_MIN_US
from lakeward.operators.process.key_batch import NO_TIME, KeyBatch
from lakeward.operators.process.side_outputs import SideOutputs
from lakeward.operators.process.tags import OutputTag
from lakeward.operators.process.timers import Time, TimerQueue, in_range, time_us, to_datetime


class FunctionContext:
    """The operator and its subtask; what `open` gets. Made by the engine.

    >>> import lakeward as lw
    >>> class Placed(lw.ProcessFunction):
    ...     def open(self, ctx: lw.FunctionContext):
    ...         self.place = f"{ctx.uid} {ctx.subtask + 1} of {ctx.parallelism}"
    ...
    ...     def process(self, row: dict, ctx: lw.ProcessContext):
    ...         yield {"place": self.place}
    >>> placed = lw.StreamExecutionEnvironment().from_collection([{"n": 1}]).process(
    ...     Placed(), returns={"place": str}, uid="placed"
    ... )
    >>> placed.execute_and_collect().to_pylist()
    [{'place': 'placed 1 of 1'}]

    Args:
        context: The operator's.
    """

    def __init__(self, context: OperatorContext) -> None:
        self._context = context

    @property
    def uid(self) -> str:
        """The operator's name in checkpoints."""
        return self._context.uid

    @property
    def subtask(self) -> int:
        """Which of the parallel instances this is, from 0."""
        return self._context.subtask

    @property
    def parallelism(self) -> int:
        """How many instances there are."""
        return self._context.parallelism

    def counter(self, name: str) -> Counter:
        """A metric of this operator: `ctx.counter("refused_rows").inc()`."""
        return self._context.counter(name)


class ProcessContext(FunctionContext):
    """What a process function sees beside the row. Made by the engine.

    >>> import lakeward as lw
    >>> odd = lw.OutputTag("odd", {"n": int})
    >>> def split(row: dict, ctx: lw.ProcessContext):
    ...     if row["n"] % 2:
    ...         ctx.output(odd, row)
    ...     else:
    ...         yield row
    >>> even = lw.StreamExecutionEnvironment().from_collection([{"n": 1}, {"n": 2}]).process(split, returns={"n": int})
    >>> even.side_output(odd).execute_and_collect().to_pylist()
    [{'n': 1}]
    """

    def __init__(self, context: OperatorContext, side: SideOutputs, batch: KeyBatch) -> None:
        super().__init__(context)
        self._side = side
        self._batch = batch
        self.event_time_us = WATERMARK_MIN_US

    def __getattr__(self, name: str) -> Any:
        if name in ("timers", "current_key", "time_domain"):
            raise UserCodeError(
                f"ctx.{name} is used on a stream that has no key",
                hint='write stream.key_by("...").process(...): timers and state belong to keys',
            )
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    @property
    def timestamp_us(self) -> int | None:
        """The event time of the row, or the time of the timer, in microseconds since 1970 UTC; None: it has none."""
        time = self._batch.time_us
        return None if time == NO_TIME else time

    @property
    def timestamp(self) -> datetime | None:
        """The event time of the row, or the time of the timer, in UTC; None: it has none."""
        time = self._batch.time_us
        return None if time == NO_TIME else to_datetime(time)

    @property
    def watermark(self) -> datetime | None:
        """How far event time has come in this subtask; None: nothing is known yet, or the input has ended.

        Where a row is handled, the last watermark that came before its batch: rows of the batch do not advance it. In a
        timer, the watermark because of which it fires, at or behind the timer's time. In a function of windows, the one
        that made the window fire, as in Flink; of an early result the last one. With several inputs, the lowest of
        theirs. After a restore it goes on where the checkpoint was taken.
        """
        time = self.event_time_us
        return None if time in (WATERMARK_MIN_US, WATERMARK_MAX_US) else to_datetime(time)

    @property
    def input_has_ended(self) -> bool:
        """Whether all rows have come, so that all timers fire now: do not set one after the other without end."""
        return self.event_time_us == WATERMARK_MAX_US

    @property
    def processing_time(self) -> datetime:
        """The clock, in UTC."""
        return to_datetime(self._context.clock.wall_us())

    def output(self, tag: OutputTag, row: Any) -> None:
        """Send a row to a side stream: `result.side_output(tag)`.

        Args:
            tag: Made with the type of its rows: `lw.OutputTag("alerts", Alert)`.
            row: A dict, dataclass, NamedTuple, or tuple in the order of the columns.

        Raises:
            UserCodeError: The row is not of the tag's type.
        """
        self._side.add(tag, row)


WATERMARK_HINT = 'give the source watermark=lw.WatermarkStrategy.bounded_out_of_orderness("column", "5s")'
"""How a stream gets event time."""


def refuse_timeless(timeless: str) -> None:
    """Refuse a timer of event time that would never fire.

    Args:
        timeless: Why event time does not advance; empty if it does.

    Raises:
        GraphError: There is a reason.
    """
    if timeless:
        hint = f"{WATERMARK_HINT}; or let the clock count: register_processing_time"
        raise GraphError(f"a timer of event time is set, and {timeless}", hint=hint)


class TimerService:
    """Timers of the current key.

    A timer is a time at which `on_timer` is called with the same key; one that is set twice fires once. Timers are
    state: they survive failures, and move with their keys. Event-time timers fire in the order of their times when the
    watermark passes them, processing-time timers when the clock does, a few times a second. When a finite input ends,
    all that are set fire.

    Args:
        event: The queue of event time.
        processing: The queue of processing time.
        check: Refuses use where there is no key.
        timeless: Why event time does not advance; empty if it does.
    """

    def __init__(self, event: TimerQueue, processing: TimerQueue, check: Callable[[], None], timeless: str) -> None:
        self._event = event
        self._processing = processing
        self._check = check
        self._timeless = timeless

    def register_event_time(self, time: Time) -> None:
        """Call `on_timer` when the watermark has passed a time; at the next watermark if it has already.

        Args:
            time: A datetime, or microseconds since 1970 UTC.

        Raises:
            GraphError: No source has event time: the timer would never fire.
        """
        self._check()
        refuse_timeless(self._timeless)
        self._event.register(time_us(time))

    def register_processing_time(self, time: Time) -> None:
        """Call `on_timer` when the clock has passed a time."""
        self._check()
        self._processing.register(time_us(time))

    def delete_event_time(self, time: Time) -> None:
        """Forget a timer; one that was not set is ignored."""
        self._check()
        self._event.delete(time_us(time))

    def delete_processing_time(self, time: Time) -> None:
        """Forget a timer; one that was not set is ignored."""
        self._check()
        self._processing.delete(time_us(time))


class KeyedContext(ProcessContext):
    """What a keyed process function sees beside the row. Made by the engine.

    >>> import datetime as dt, lakeward as lw
    >>> class Later(lw.KeyedProcessFunction):
    ...     def process(self, row: dict, ctx: lw.KeyedContext):
    ...         ctx.timers.register_event_time(1_000_000)
    ...
    ...     def on_timer(self, timestamp, ctx: lw.KeyedContext):
    ...         yield {"who": ctx.current_key, "why": ctx.time_domain, "when": ctx.timestamp_us}
    >>> rows, time = [{"name": "ann", "at": dt.datetime(1970, 1, 1)}], lw.WatermarkStrategy.monotonous("at")
    >>> stream = lw.StreamExecutionEnvironment().from_collection(rows, watermark=time).key_by("name")
    >>> later = stream.process(Later(), returns={"who": str, "why": str, "when": int})
    >>> later.execute_and_collect().to_pylist()
    [{'who': 'ann', 'why': 'event', 'when': 1000000}]

    Attributes:
        timers: Sets and deletes timers of the current key.
        time_domain: In `on_timer`: whose time has come, "event" or "processing"; else None.
    """

    def __init__(self, context: OperatorContext, side: SideOutputs, batch: KeyBatch, timers: TimerService) -> None:
        super().__init__(context, side, batch)
        self.timers = timers
        self.time_domain: Literal["event", "processing"] | None = None

    @property
    def current_key(self) -> Any:
        """The key of the row or timer: a value, or a tuple of the values of several key columns.

        Raises:
            UserCodeError: There is none: the row is one of a broadcast stream.
        """
        if self._batch.index < 0:
            raise UserCodeError(
                "a key is asked for where there is none",
                hint="rows of process_broadcast have no key: use their columns",
            )
        return self._batch.current


class KeyedBatchContext(FunctionContext):
    """What a vectorised function sees beside the batch. Made by the engine.

    >>> import numpy as np
    >>> import lakeward as lw
    >>> class Sizes(lw.KeyedBatchFunction):
    ...     def process_batch(self, batch, ctx: lw.KeyedBatchContext):
    ...         return ctx.keys.append_column("rows", np.bincount(ctx.key_numbers))
    >>> stream = lw.StreamExecutionEnvironment().from_collection([{"k": key} for key in "aba"]).key_by("k")
    >>> stream.process(Sizes(), returns={"k": str, "rows": int}).execute_and_collect().to_pylist()
    [{'k': 'a', 'rows': 2}, {'k': 'b', 'rows': 1}]

    Attributes:
        keys: The different keys of the batch, a row each.
        key_numbers: For each row the number of its key in `keys`.
        times_us: The event time of each row in microseconds; None: the stream has none.
        time_domain: In `on_timers`: whose time has come, "event" or "processing"; else None.
    """

    def __init__(self, context: OperatorContext, side: Callable[[OutputTag, Any], None], timers: BatchTimers) -> None:
        super().__init__(context)
        self._side = side
        self.timers = timers
        self.keys = pa.RecordBatch.from_arrays([], names=[])
        self.key_numbers: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.times_us: npt.NDArray[np.int64] | None = None
        self.time_domain: Literal["event", "processing"] | None = None
        self.event_time_us = WATERMARK_MIN_US

    @property
    def watermark(self) -> datetime | None:
        """How far event time has come, as in `ProcessContext.watermark`."""
        time = self.event_time_us
        return None if time in (WATERMARK_MIN_US, WATERMARK_MAX_US) else to_datetime(time)

    def output(self, tag: OutputTag, batch: pa.RecordBatch) -> None:
        """Send rows to a side stream: `result.side_output(tag)`.

        Raises:
            UserCodeError: They are not of the tag's type.
        """
        self._side(tag, batch)


class BatchTimers:
    """Timers of the keys of a batch, as of `TimerService`.

    Args:
        event: The queue of event time.
        processing: The queue of processing time.
        timeless: Why event time does not advance; empty if it does.
    """

    def __init__(self, event: TimerQueue, processing: TimerQueue, timeless: str) -> None:
        self._event = event
        self._processing = processing
        self._timeless = timeless

    def register_event_time(self, times_us: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Call `on_timers` when the watermark has passed these times.

        Args:
            times_us: Microseconds since 1970 UTC.
            keys: The number in `ctx.keys` of each one's key.

        Raises:
            GraphError: No source has event time: the timers would never fire.
        """
        refuse_timeless(self._timeless)
        self._event.register_all(*_timers(times_us, keys))

    def register_processing_time(self, times_us: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Call `on_timers` when the clock has passed these times."""
        self._processing.register_all(*_timers(times_us, keys))

    def delete_event_time(self, times_us: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Forget timers; those that were not set are ignored."""
        self._event.delete_all(*_timers(times_us, keys))

    def delete_processing_time(self, times_us: npt.ArrayLike, keys: npt.ArrayLike) -> None:
        """Forget timers; those that were not set are ignored."""
        self._processing.delete_all(*_timers(times_us, keys))


def _timers(times_us: npt.ArrayLike, keys: npt.ArrayLike) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    times, numbers = _integers(times_us, "times"), _integers(keys, "numbers of keys")
    if times.shape != numbers.shape or times.ndim != 1:
        raise UserCodeError(f"{times.size} timers are set for {numbers.size} keys", hint="give a key's number for each")
    if len(times) and not (in_range(int(times.min())) and in_range(int(times.max()))):
        raise UserCodeError("a timer is set to a time outside of the years 1 to 9999")
    return times, numbers


def _integers(given: npt.ArrayLike, what: str) -> npt.NDArray[np.int64]:
    array = np.asarray(given)
    if array.dtype.kind == "M" and what == "times":
        return array.astype("M8[us]").astype(np.int64)
    if array.dtype.kind not in "iu" and array.size:
        raise UserCodeError(
            f"timers are given {array.dtype} as {what}",
            hint="give (times_us, keys): microseconds since 1970 UTC, and for each the number of its key in ctx.keys",
        )
    return array.astype(np.int64)
