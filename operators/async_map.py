"""Asynchronous functions over rows: many slow calls at a time, exactly once (after Flink's AsyncWaitOperator).

Rows whose answer has not been sent are part of every checkpoint, as they came (`async_saved.py`): after a restore the
function is called for them again, before all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

import pyarrow as pa

from lakeward.engine.api.calls import AsyncCalls
from lakeward.engine.api.context import AsyncOutput, OperatorContext, Output
from lakeward.engine.api.operator import AsyncOperator, Operator, OperatorFactory
from lakeward.engine.core.errors import GraphError, SchemaError, UserCodeError
from lakeward.engine.core.ids import CheckpointId
from lakeward.engine.core.json_types import JsonObject
from lakeward.engine.core.messages import WATERMARK_MIN_US, Watermark
from lakeward.operators.arguments import call_error
from lakeward.operators.async_calling import Calling, Targets
from lakeward.operators.async_options import AsyncFunction, AsyncOptions
from lakeward.operators.async_queue import AsyncQueue, QueuedRow
from lakeward.operators.async_saved import SavedRows
from lakeward.operators.async_target import Target, has_timeout, invoked, is_coroutine, own_copy
from lakeward.operators.error_policy import RowErrors, policy_text
from lakeward.operators.function_names import function_name
from lakeward.operators.row_values import optional_keys
from lakeward.operators.rows import RowWriter, column_to_list
from lakeward.operators.signatures import result_of

_DEFAULTS = AsyncOptions()


@dataclass(frozen=True, slots=True)
class AsyncMap(OperatorFactory):
    """Calls a function that waits for another system for every row, many at a time.

    Args:
        function: An `async def`, a plain function, which runs in a thread, or an `AsyncFunction`.
        input_schema: The schema of the rows it gets.
        output_schema: The schema of the rows it returns.
        returns: What it was made of, if not of the function's annotation.
        columns: The columns whose values it gets, one a parameter; None: as its signature says.
        options: Order, capacity, retries, timeout.

    Raises:
        SchemaError: Its parameters do not fit the input, or null answers do not fit the output.
        GraphError: It cannot be called so, or is of another kind than what answers in its place.
    """

    function: Callable[..., Any] | AsyncFunction
    input_schema: pa.Schema
    output_schema: pa.Schema
    returns: Any = None
    columns: tuple[str, ...] | None = None
    options: AsyncOptions = _DEFAULTS

    def __post_init__(self) -> None:
        if isinstance(self.function, AsyncFunction) and not is_coroutine(self.function.invoke):
            name = function_name(self.function.invoke)
            raise GraphError(f"{name} is no coroutine", hint="write `async def invoke(self, row)`")
        if has_timeout(self.function) and self.options.on_timeout != "fail":
            name = type(self.function).__qualname__
            raise GraphError(f"{name} has a method `timeout`, and on_timeout= is given", hint="leave one of them out")
        targets = self.targets(self.function)
        if targets.late is not None and targets.late.is_coroutine and not targets.function.is_coroutine:
            raise GraphError(
                f"on_timeout is async, but {targets.function.name} is not", hint="give a plain function for on_timeout"
            )
        if self.options.on_timeout == "null":
            self._check_nulls()
        self.errors()

    def _check_nulls(self) -> None:
        for field in self.output_schema:
            if not field.nullable and field.name not in self.kept:
                raise SchemaError(
                    f'map_async: on_timeout="null" would make column {field.name!r} null, which may have none',
                    hint="let it be null, or give a function for on_timeout",
                )

    @property
    def kept(self) -> tuple[str, ...]:
        """The columns of a row that stay when it is answered with nulls."""
        if self.options.on_timeout != "null":
            return ()
        have = dict(zip(self.input_schema.names, self.input_schema.types, strict=True))
        return tuple(field.name for field in self.output_schema if have.get(field.name) == field.type)

    @property
    def read(self) -> list[str]:
        """The columns that are read, and so saved with rows in flight, in the order of the input.

        All of them if failed rows are sent on.
        """
        if self.options.on_error.tag is not None:
            return list(self.input_schema.names)
        targets = self.targets(self.function)
        wanted = targets.function.columns | set(self.kept)
        if targets.late is not None:
            wanted |= targets.late.columns
        return [name for name in self.input_schema.names if name in wanted]

    def targets(self, function: Callable[..., Any] | AsyncFunction) -> Targets:
        """What is called for rows, by way of this copy of the function."""
        late: Any = self.options.on_timeout
        if has_timeout(function) and isinstance(function, AsyncFunction):
            late = function.timeout
        null = self._null_answer if self.options.on_timeout == "null" else None
        return Targets(self._target(invoked(function)), self._target(late) if callable(late) else None, null)

    def _target(self, function: Callable[..., Any]) -> Target:
        return Target(function, self.input_schema, self.columns, in_lists=self.options.batch_rows is not None)

    def _null_answer(self, row: QueuedRow) -> dict[str, Any]:
        """Null in all columns but those of the row itself."""
        own = {name: column_to_list(row.batch.column(name).slice(row.place, 1))[0] for name in self.kept}
        return dict.fromkeys(self.output_schema.names) | own

    def writer(self) -> RowWriter:
        """Makes batches of answers."""
        function = invoked(self.function)
        optional = optional_keys(result_of(function, self.returns))
        return RowWriter(self.output_schema, f"the result of {function_name(function)}", optional)

    def errors(self) -> RowErrors:
        """Carries out what becomes of rows that fail.

        Raises:
            SchemaError: They are sent on, and have a column of a name that is added.
        """
        return RowErrors(self.options.on_error, self.input_schema)

    def create(self) -> Operator:
        """Make the operator of one subtask."""
        return AsyncMapOperator(self)

    @property
    def description(self) -> str:
        """The function, and how it is called."""
        options = self.options
        order = "ordered" if options.ordered else "unordered"
        lists = "" if options.batch_rows is None else f", up to {options.batch_rows} rows a call"
        function = self.targets(self.function).function.description
        failing = policy_text(options.on_error)
        return f"map_async {function} ({order}, capacity {options.capacity}{lists}){failing}"

    @property
    def vectorised(self) -> bool:
        """Rows go through Python one by one."""
        return False

    @property
    def stateful(self) -> bool:
        """Rows in flight are saved."""
        return True

    def required_columns(self, sent: frozenset[str], inputs: Sequence[pa.Schema]) -> Sequence[frozenset[str]]:
        """Those that are read."""
        return [frozenset(self.read)]


class AsyncMapOperator(AsyncOperator):
    """Runs an `AsyncMap`.

    Args:
        config: What is called, and how.
    """

    def __init__(self, config: AsyncMap) -> None:
        self._options = config.options
        self._function = own_copy(config.function)
        self._targets = config.targets(self._function)
        self._writer = config.writer()
        self._errors = config.errors()
        self._read = config.read
        self._queue = AsyncQueue(config.options.ordered)
        self._saved = SavedRows(pa.schema([config.input_schema.field(name) for name in self._read]))
        self._restored_watermarks: list[int] = []
        self._newest = Watermark(WATERMARK_MIN_US)
        """The last watermark that has come, or before the restore."""
        self._port: AsyncCalls | None = None
        self._calling: Calling | None = None
        self._is_open = False

    def open(self, context: OperatorContext) -> None:
        """Open the function's client, and take back the rows that were in flight."""
        threads = None if self._targets.function.is_coroutine else self._options.capacity // self._options.call_rows
        self._port = context.async_calls(threads)
        self._calling = Calling(self._targets, self._options, self._port, context, self._queue)
        self._errors.open(context)
        for one in self._saved.open(context):
            if isinstance(one, int):
                self._restored_watermarks.append(one)
                self.hold(Watermark(one))
            else:
                self._queue.add(one, self._targets.function.values(one))
        if isinstance(self._function, AsyncFunction):
            self._run(self._function.open)
            self._is_open = True

    def on_batch(self, batch: pa.RecordBatch, out: Output) -> None:
        """Begin calls for as many rows as there is room for; the others wait."""
        rows = batch.select(self._read)
        self._queue.add(rows, self._targets.function.values(rows))
        self._begin()

    def hold(self, watermark: Watermark) -> None:
        """Note where it stands among the rows."""
        reached_us = max(watermark.timestamp_us, self._newest.timestamp_us)
        self._newest = Watermark(reached_us, watermark.idle)
        self._queue.mark(reached_us)

    @property
    def restored_watermarks(self) -> Sequence[int]:
        """Those between the rows that were in flight, and behind them."""
        return self._restored_watermarks

    @property
    def has_room(self) -> bool:
        """Whether no more rows wait than the next call takes."""
        return self._queue.waiting < self._options.call_rows

    @property
    def is_waiting(self) -> bool:
        """Whether it has rows that have not left."""
        return bool(self._queue.waiting or self._queue.in_flight)

    def poll(self, out: AsyncOutput) -> bool:
        """Send the rows that have their answer, with the watermarks behind them, and begin the next calls."""
        assert self._calling is not None, "opened first"
        busy = self._calling.poll()
        for rows in self._queue.take():
            busy = True
            if rows is None:
                out.emit_watermark()
            else:
                self._send(rows, out)
        self._begin()
        return busy

    def snapshot(self, checkpoint: CheckpointId) -> JsonObject | None:
        """Save the rows that have not been sent, and the watermarks between them."""
        self._saved.save(list(self._queue.unsent()))
        return self._saved.marks(self._queue.marks(), self._newest)

    def close(self) -> None:
        """Give up what runs, then close the function's client."""
        if self._port is None:
            return
        self._port.stop()
        self._errors.close()
        if isinstance(self._function, AsyncFunction) and self._is_open:
            self._is_open = False
            self._run(self._function.close)

    def _send(self, rows: list[QueuedRow], out: Output) -> None:
        """Send answers, and rows that have failed to where they belong: between the same watermarks."""
        for batch in list(self._written(rows)):
            out.emit(batch)
        failed = [(row, row.failure) for row in rows if row.failure is not None]
        if failed:
            for place, (_, error) in enumerate(failed):
                self._errors.note(error, place)
            self._errors.send(pa.concat_batches([self._saved.schemed(row.alone) for row, _ in failed]), out)

    def _written(self, rows: list[QueuedRow]) -> Iterator[pa.RecordBatch]:
        """The answers, without those that do not fit, which are found by halving."""
        try:
            yield self._writer.batch([answer for row in rows for answer in row.answer or ()])
        except UserCodeError as error:
            if len(rows) > 1:
                yield from self._written(rows[: len(rows) // 2])
                yield from self._written(rows[len(rows) // 2 :])
                return
            problem = self._targets.function.misfit(error, rows[0].values)
            if not self._options.forgives(problem):
                raise problem from error.__cause__
            rows[0].failure = problem

    def _begin(self) -> None:
        assert self._calling is not None, "opened first"
        queue, size = self._queue, self._options.call_rows
        room = self._options.capacity - queue.in_flight
        # A call that is wanted in full waits for room for all its rows: a smaller one would stay small.
        count = queue.waiting if queue.waiting <= room else room - room % size
        if count:
            begun = queue.begin(count)
            rows = [row for row in begun if row.failure is None]
            for row in begun if len(rows) < count else ():
                if row.failure is not None:
                    self._calling.give_up(row, row.failure)
            self._calling.begin([rows[first : first + size] for first in range(0, len(rows), size)])

    def _run(self, method: Callable[[], Any]) -> None:
        assert self._port is not None, "opened first"
        try:
            self._port.run(lambda: _awaited(method))
        except Exception as error:  # whatever the user's method may raise
            raise call_error(method, error) from error


async def _awaited(method: Callable[[], Any]) -> None:
    """A method's end, whether it is an `async def` or plain; so both run where calls do, on the event loop."""
    result = method()
    if isawaitable(result):
        await result
