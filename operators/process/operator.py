"""Runs process functions: the slow road with state, row by row, a batch of keys at a time.

State is found once for all keys of a batch, becomes Python objects when it is first read, and is written back when the
batch is done; rows are handled one by one in their order in between, so that nobody notices.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.operator import Operator, OperatorFactory
from lakeward.engine.core.errors import GraphError, LakewardError, UserCodeError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import WATERMARK_MAX_US
from lakeward.engine.core.redaction import FailedRow
from lakeward.engine.core.user_frames import user_trace
from lakeward.operators.arguments import ROW_HINT, call_error, definition
from lakeward.operators.error_policy import FAIL, OnError, RowErrors, policy_text
from lakeward.operators.function_names import function_name
from lakeward.operators.grouping import plain
from lakeward.operators.process.broadcast import BroadcastStates
from lakeward.operators.process.calls import Callee, Handler
from lakeward.operators.process.contexts import (
    FunctionContext,
    KeyedBatchContext,
    KeyedContext,
    ProcessContext,
    TimerService,
)
from lakeward.operators.process.guarded_rows import Call, GuardedBatch, GuardedRows, row_as_it_came
from lakeward.operators.process.key_batch import NO_TIME, KeyBatch
from lakeward.operators.process.keyed_states import KeyedStates
from lakeward.operators.process.side_outputs import SideOutputs
from lakeward.operators.process.states import OUTSIDE_HINT, BroadcastState
from lakeward.operators.process.timers import DueTimers, TimerQueue
from lakeward.operators.row_values import optional_keys
from lakeward.operators.rows import RowReader, RowWriter
from lakeward.operators.signatures import result_of
from lakeward.operators.single_rows import SUSPECTS, is_single, single_error
from lakeward.operators.windows.columns import Rows, group_rows
from lakeward.operators.windows.progress import Progress
from lakeward.operators.windows.timed import KeyTypes, event_times_us, key_types

_ROWS_A_PART = 1024  # rows that become columns while they are in the processor's cache
_CHAIN_MAX = 1_000_000
Domain = Literal["event", "processing"]


@dataclass(frozen=True, slots=True)
class ProcessInput:
    """One input of a process function.

    Args:
        schema: Its rows'.
        keys: Its key columns; none if it is not keyed.
        time_column: Its event time; None: it has none.
        time_offset_us: What to add to that column to get the time.
    """

    schema: pa.Schema
    keys: tuple[str, ...] = ()
    time_column: str | None = None
    time_offset_us: int = 0

    @property
    def key_types(self) -> KeyTypes:
        """Name and type of the key columns."""
        return key_types(self.schema, self.keys)


class RowResults:
    """Gathers the rows that a function makes, and sends them in batches.

    Args:
        writer: Makes batches.
        name: The function, for errors.

    Attributes:
        is_writing: Whether rows are becoming columns: a row that fails then need not be of the call at hand.
    """

    def __init__(self, writer: RowWriter, name: str) -> None:
        self.is_writing = False
        self._writer = writer
        self._name = name
        self._rows: list[Any] = []
        self._parts: list[pa.RecordBatch] = []

    def extend(self, found: Iterable[Any]) -> None:
        """Take rows over.

        Raises:
            UserCodeError: It is one row, or no row at all.
        """
        if isinstance(found, SUSPECTS) and is_single(found):
            raise single_error(self._name, found)
        rows = self._rows
        try:
            rows.extend(found)
        except TypeError:
            if is_single(found):
                raise single_error(self._name, found) from None
            raise
        if len(rows) >= _ROWS_A_PART:
            self.mark()

    def mark(self) -> int:
        """Make columns of what was gathered; says how much that is, for `reset`.

        Raises:
            UserCodeError: A row is not of the declared type.
        """
        if self._rows:
            self.is_writing = True
            self._parts.append(self._writer.batch(self._rows))
            self._rows, self.is_writing = [], False
        return len(self._parts)

    def reset(self, mark: int) -> None:
        """Forget what was gathered after a `mark`."""
        self._rows, self.is_writing = [], False
        del self._parts[mark:]

    def flush(self, out: Output) -> None:
        """Send what was gathered."""
        self.mark()
        parts, self._parts = self._parts, []
        if parts:
            out.emit(parts[0] if len(parts) == 1 else pa.concat_batches(parts))


@dataclass(frozen=True, slots=True)
class Process(OperatorFactory):
    """A process function over one stream or several.

    Args:
        callee: The function.
        inputs: Its inputs.
        output_schema: The schema of the rows it makes.
        returns: What that was made of, if not of an annotation.
        side: The schemas of the side streams that are read, by name; filled while the graph is built.
        on_error: What becomes of rows on which the function fails.
        timeless: Why event time does not advance, so that timers of it are refused; empty if it does.

    Raises:
        GraphError: The function takes other arguments than it gets.
        SchemaError: The rows or states that it declares do not fit.
    """

    callee: Callee
    inputs: tuple[ProcessInput, ...]
    output_schema: pa.Schema
    returns: Any = None
    side: dict[str, pa.Schema] = field(default_factory=dict)
    on_error: OnError = FAIL
    timeless: str = ""

    def __post_init__(self) -> None:
        self.errors()
        if self.on_error.tag is not None and len(self.inputs) > 1:
            hint = "use OnError.skip(), or catch the exception and send the row on: ctx.output(tag, row)"
            raise GraphError("failed rows of two streams cannot go to one side output", hint=hint)
        self.callee.check(timers=self.is_keyed)
        if not self.vectorised:
            self.callee.readers([one.schema for one in self.inputs])
        self.callee.check_states(self.is_keyed)

    def errors(self) -> RowErrors:
        """Carries the policy out."""
        return RowErrors(self.on_error, self.failing_schema, self.callee.failing_columns(self.inputs[0].schema))

    @property
    def failing_schema(self) -> pa.Schema:
        """What a side output shows of the rows that fail."""
        given = self.inputs[0].schema
        shown = self.callee.failing_columns(given)
        return pa.schema([given.field(name).with_name(as_shown) for name, as_shown in shown.items()])

    @property
    def is_keyed(self) -> bool:
        """Whether there is a key, and so state and timers."""
        return bool(self.inputs[0].keys)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        if not self.vectorised:
            return ProcessOperator(self)
        from lakeward.operators.process.batch_operator import BatchProcessOperator

        return BatchProcessOperator(self)

    @property
    def writer(self) -> RowWriter:
        """Makes batches of the rows that come out."""
        entry = self.callee.entry(0)
        optional = optional_keys(result_of(entry, self.returns))
        return RowWriter(self.output_schema, f"a row from {function_name(entry)}", optional)

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]] | None:
        """Those that its rows have as their class says, keys and times; all for dicts, tuples and whole batches."""
        if self.vectorised or self.on_error.tag is not None:
            return None
        needed = []
        for one, reader in zip(self.inputs, self.callee.readers([one.schema for one in self.inputs]), strict=True):
            if not isinstance(reader, RowReader):
                return None
            times = [] if one.time_column is None else [one.time_column]
            needed.append(frozenset([*reader.columns, *one.keys, *times]))
        return needed

    @property
    def description(self) -> str:
        """For `explain()`: "process by shop with function 'Fraud.process' (job.py:12)"."""
        by = f" by {', '.join(self.inputs[0].keys)}" if self.is_keyed else ""
        return f"process{by} with {function_name(self.callee.entry(0))}{policy_text(self.on_error)}"

    @property
    def vectorised(self) -> bool:
        """Whether the function takes whole batches."""
        return self.callee.vectorised

    @property
    def stateful(self) -> bool:
        """There is state with keys, and where something is broadcast."""
        return self.is_keyed or self.callee.broadcasts


class FunctionOperator(Operator):
    """One subtask of a function with state and timers: what the two roads share.

    Args:
        spec: The function and its inputs.
    """

    def __init__(self, spec: Process) -> None:
        self._spec = spec
        self._batch = KeyBatch()
        self._side = SideOutputs(spec.side, spec.on_error.tag)
        self.errors = spec.errors()

    def open(self, context: OperatorContext) -> None:
        """Make the policy ready, then open state and timers, then the function."""
        self.errors.open(context)
        spec, batch = self._spec, self._batch
        self._clock = context.clock
        self._progress = Progress.of(context)
        self._passed_us = self._progress.watermark_us
        self._states: KeyedStates | None = None
        self._queues: dict[Domain, TimerQueue] = {}
        states = spec.callee.states
        shared = {name: one for name, one in states.items() if isinstance(one.state, BroadcastState)}
        self._broadcast = BroadcastStates(context, shared)
        bound: dict[str, Any] = dict(self._broadcast.bound)
        if spec.is_keyed:
            keys = spec.inputs[0].key_types
            keyed = {name: one for name, one in states.items() if name not in shared}
            self._states = KeyedStates(context, keyed, keys, batch, spec.vectorised)
            name = function_name(spec.callee.timer_entry)
            self._queues = {
                "event": TimerQueue(context, "timers.event", keys, batch, name),
                "processing": TimerQueue(context, "timers.processing", keys, batch, name),
            }
            bound |= self._states.bound
        self._context = self._made_context(context)
        self._context.event_time_us = self._progress.watermark_us
        self._bound = spec.callee.bound(bound, self._context)
        self._bound.open(FunctionContext(context))

    def _made_context(self, context: OperatorContext) -> ProcessContext | KeyedBatchContext:
        raise NotImplementedError

    def close(self) -> None:
        """Close the function."""
        self.errors.close()
        if hasattr(self, "_bound"):
            self._bound.close()

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Rows of the only input."""
        self.on_input(0, batch, out)

    def _begin(self, arrays: Sequence[pa.Array]) -> None:
        self._batch.begin(arrays, self._clock.wall_us(), self._progress.watermark_us)

    def _write(self) -> None:
        """Write what the batch has changed."""
        self._bound.check_states()
        self._batch.index = -1
        self._broadcast.finish()
        if self._states is not None:
            self._states.finish()
        for queue in self._queues.values():
            queue.finish()
        self._batch.end()

    def _discard(self) -> None:
        """Forget what the batch has changed."""
        self._batch.index = -1
        self._broadcast.discard()
        if self._states is not None:
            self._states.discard()
        for queue in self._queues.values():
            queue.discard()

    # -- time

    def before_watermark(self, timestamp_us: int) -> None:
        """Windows that come now fire because of this watermark: it is the one that their function sees."""
        if self._spec.callee.of_windows:
            self._context.event_time_us = timestamp_us

    def on_watermark(self, timestamp_us: int, out: Output) -> None:
        """Event time has advanced: fire timers, then forget what has expired."""
        self._passed_us = self._progress.watermark_us
        self._progress.advance(timestamp_us)
        self._context.event_time_us = timestamp_us
        if self._states is not None:
            self._fire("event", timestamp_us, out)
            self._states.expire(timestamp_us, by_event_time=True)

    def on_tick(self, now_us: int, out: Output) -> None:
        """Processing time has advanced."""
        if self._states is not None:
            self._fire("processing", now_us, out)
            self._states.expire(now_us, by_event_time=False)

    def on_end(self, out: Output) -> None:
        """The input has ended: processing-time timers that are set fire, those that they set in turn do not."""
        if self._states is not None:
            for due in list(self._due(self._queues["processing"], WATERMARK_MAX_US)):
                self._fire_some("processing", due, out, chained=False)

    def _fire(self, domain: Domain, upto_us: int, out: Output) -> None:
        queue = self._queues[domain]
        left = len(queue) + _CHAIN_MAX
        for due in self._due(queue, upto_us):
            left -= len(due.keys)
            if left < 0 and upto_us == WATERMARK_MAX_US:
                raise UserCodeError(
                    f"at the end of the input {_CHAIN_MAX:,} timers have set one another, and no end is in sight",
                    hint="a timer that sets the next one must stop: if not ctx.input_has_ended: ctx.timers.register...",
                )
            self._fire_some(domain, due, out)

    def _due(self, queue: TimerQueue, upto_us: int) -> Iterator[DueTimers]:
        """The timers whose time has come, in parts that `_fire_some` takes."""
        return queue.due(upto_us)

    def _fire_some(self, domain: Domain, due: DueTimers, out: Output, chained: bool = True) -> None:
        raise NotImplementedError

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject:
        """How far event time has come: what has expired stays so."""
        return self._progress.snapshot()


class ProcessOperator(FunctionOperator):
    """One subtask of a process function, row by row.

    Args:
        spec: The function and its inputs.
    """

    def __init__(self, spec: Process) -> None:
        super().__init__(spec)
        self._readers = spec.callee.readers([one.schema for one in spec.inputs])
        self._results = RowResults(spec.writer, function_name(spec.callee.entry(0)))
        self.is_writing = False

    def _made_context(self, context: OperatorContext) -> ProcessContext:
        if not self._queues:
            return ProcessContext(context, self._side, self._batch)
        queues = self._queues
        timers = TimerService(queues["event"], queues["processing"], self._check_key, self._spec.timeless)
        return KeyedContext(context, self._side, self._batch, timers)

    def _check_key(self) -> None:
        if self._batch.index < 0:
            raise UserCodeError("a timer is set where no row is being handled", hint=OUTSIDE_HINT)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function that belongs to the input for every row."""
        if not batch.num_rows:
            return
        given = self._spec.inputs[index]
        self._broadcast.writable = index > 0
        arrays, keys = keys_of(given, batch)
        rows = chain.from_iterable(self._readers[index].chunks(batch))
        moments = times_of(given, batch)
        numbers: Iterable[int] = repeat(-1) if keys is None else keys.tolist()
        times: Iterable[int] = repeat(NO_TIME) if moments is None else moments.tolist()
        handler = self._bound.handlers[index]
        if self._spec.on_error == FAIL:
            self._begin(arrays)
            with row_as_it_came(self._readers[index], batch):
                self.handle(handler, zip(numbers, times, rows))  # noqa: B905 (some are endless)
        else:
            count = batch.num_rows
            guarded = GuardedBatch(batch, arrays, list(islice(numbers, count)), list(islice(times, count)))
            GuardedRows(self, handler, self._readers[index], guarded).run(0, count)
        self._finish(out)
        self._broadcast.writable = False
        self.errors.send(batch, out)

    def handle(self, handler: Handler, calls: Iterable[Call], first: int = 0) -> None:
        """Call the function for rows; `first` is the first one's place in the batch."""
        call, batch, results = handler.function, self._batch, self._results
        extra = (self._context,) if handler.takes_context else ()
        label = ", ".join(self._spec.callee.given)
        row: Any = None
        at = first
        try:
            for at, (batch.index, batch.time_us, row) in enumerate(calls, first):  # noqa: B007 (the error says where)
                found = call(row, *extra)
                if found is not None:
                    results.extend(found)
        except LakewardError as error:
            if results.is_writing:
                raise
            raise _told(error, call, FailedRow(row, at, label)) from error.__cause__
        except Exception as error:
            raise call_error(call, error, row=FailedRow(row, at, label), hint=ROW_HINT) from error

    @contextmanager
    def all_or_nothing(self, arrays: Sequence[pa.Array]) -> Iterator[None]:
        """Write what is done inside, or forget it if it fails."""
        self._begin(arrays)
        results, side = self._results.mark(), self._side.mark()
        self.is_writing = False
        try:
            yield
            self._results.mark()
            self._side.mark()
            self.is_writing = True
            self._write()
        except LakewardError:
            self._results.reset(results)
            self._side.reset(side)
            self._discard()
            raise

    def _finish(self, out: Output) -> None:
        """Write state and timers, then send rows."""
        self._write()
        self._results.flush(out)
        self._side.flush(out)

    def _fire_some(self, domain: Domain, due: DueTimers, out: Output, chained: bool = True) -> None:
        handler, context, batch = self._bound.on_timer, self._context, self._batch
        assert isinstance(context, KeyedContext), "without keys there are no timers"
        if handler is None:
            name = function_name(self._spec.callee.function)
            raise UserCodeError(f"a timer of {name} has come", hint="timers need a class with on_timer(timestamp, ctx)")
        self._begin(due.arrays)
        context.time_domain = domain
        batch.by_clock = domain == "processing"
        call, results, moment = handler.function, self._results, None
        try:
            for batch.index, batch.time_us, moment in self._queues[domain].firing(due, chained):
                if domain == "event":  # what had expired when a late timer was set stays so
                    batch.watermark_us = max(batch.time_us, self._passed_us)
                found = call(moment, context)
                if found is not None:
                    results.extend(found)
        except LakewardError as error:
            raise _told(error, call, self._current_key()) from error.__cause__
        except Exception as error:
            raise call_error(call, error, f"the timer of {moment}", row=self._current_key()) from error
        finally:
            context.time_domain = None
        self._finish(out)

    def _current_key(self) -> FailedRow:
        """The key whose timer has come, for errors."""
        return FailedRow(dict(zip(self._spec.inputs[0].keys, self._batch.key_values, strict=True)), label="key")


def _told(error: LakewardError, function: Any, row: FailedRow) -> LakewardError:
    """An error of Lakeward's, with what the function was called with and its line."""
    error.trace = error.trace or user_trace(error) or definition(function)
    return error.about(row)


def keys_of(given: ProcessInput, batch: pa.RecordBatch) -> tuple[list[pa.Array], Rows | None]:
    """The different keys of a batch, and the number of each row's; None: there are no keys."""
    if not given.keys:
        return [], None
    arrays = [plain(batch.column(name)) for name in given.keys]
    numbers, firsts = group_rows(arrays)
    chosen = pa.array(firsts)
    return [array.take(chosen) for array in arrays], numbers


def times_of(given: ProcessInput, batch: pa.RecordBatch) -> Rows | None:
    """The event time of each row, `NO_TIME` for those that have none; None: there is no event time."""
    column = given.time_column
    if column is None:
        return None
    array = batch.column(column)
    if not array.null_count:
        return event_times_us(batch, column) + given.time_offset_us
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    times = np.full(batch.num_rows, NO_TIME)
    times[valid] = event_times_us(batch.filter(pa.array(valid)), column) + given.time_offset_us
    return times
