"""Runs vectorised process functions: whole Arrow batches, and the state of their keys as columns."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.api.failed_rows import failed_row
from lakeward.engine.core.errors import LakewardError
from lakeward.engine.core.redaction import FailedRow
from lakeward.engine.core.user_frames import user_trace
from lakeward.operators.arguments import ROW_HINT, call_error, definition
from lakeward.operators.error_policy import is_of_row
from lakeward.operators.process.contexts import BatchTimers, KeyedBatchContext
from lakeward.operators.process.key_batch import NO_TIME
from lakeward.operators.process.operator import Domain, FunctionOperator, Process, keys_of, times_of
from lakeward.operators.process.timers import DueTimers, TimerQueue
from lakeward.operators.udf import BatchChecker
from lakeward.operators.windows.columns import Rows

_TIMESTAMP = pa.field("timestamp", pa.timestamp("us", tz="UTC"))


class BatchProcessOperator(FunctionOperator):
    """One subtask of a vectorised process function.

    Args:
        spec: The function and its input.
    """

    def __init__(self, spec: Process) -> None:
        super().__init__(spec)
        self._checker = BatchChecker(spec.callee.entry(0), spec.output_schema)
        self._keys = pa.schema(list(spec.inputs[0].key_types))

    def _made_context(self, context: OperatorContext) -> KeyedBatchContext:
        timers = BatchTimers(self._queues["event"], self._queues["processing"], self._spec.timeless)
        return KeyedBatchContext(context, self._side.add_batch, timers)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function with the batch; where it fails and some rows may, with ever smaller parts of it."""
        if not batch.num_rows:
            return
        for part in self._results(batch):
            out.emit(part)
        self._side.flush(out)
        self.errors.send(batch, out)

    def _results(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        try:
            found = self._attempt(batch)
        except LakewardError as error:
            again = self.errors.retried(error, partial(self._attempt, batch))
            if isinstance(again, LakewardError):
                return self._sorted_out(batch, 0, again)
            found = again
        self._write()
        return found

    def _sorted_out(self, batch: pa.RecordBatch, first: int, error: LakewardError) -> list[pa.RecordBatch]:
        """The results without the rows that fail, which are found by halving; `first` is the part's first row."""
        if batch.num_rows == 1:
            self.errors.note(error.about(FailedRow(failed_row(batch, 0).value, first)), first)
            return []
        half = batch.num_rows // 2
        found: list[pa.RecordBatch] = []
        for part, start in ((batch.slice(0, half), first), (batch.slice(half), first + half)):
            try:
                made = self._attempt(part)
            except LakewardError as failure:
                if not is_of_row(failure):
                    raise
                found += self._sorted_out(part, start, failure)
            else:
                self._write()
                found += made
        return found

    def _attempt(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Call the function with rows; what it has changed waits to be written, and is forgotten if it fails."""
        given, context = self._spec.inputs[0], self._context
        assert isinstance(context, KeyedBatchContext), "made above"
        arrays, numbers = keys_of(given, batch)
        assert numbers is not None, "vectorised functions have keys"
        context.times_us = times_of(given, batch)
        self._begin(arrays)
        if context.times_us is not None:
            self._batch.times_us = np.full(len(arrays[0]), NO_TIME)
            np.maximum.at(self._batch.times_us, numbers, context.times_us)
        return self._called(self._bound.handlers[0].function, batch, numbers)

    def _due(self, queue: TimerQueue, upto_us: int) -> Iterator[DueTimers]:
        return queue.due_once_a_key(upto_us)

    def _fire_some(self, domain: Domain, due: DueTimers, out: Output, chained: bool = True) -> None:
        context = self._context
        assert isinstance(context, KeyedBatchContext), "made above"
        handler = self._bound.on_timer
        assert handler is not None, "the base class has one"
        arrays, times = due.arrays, due.times_us
        self._begin(arrays)
        timers = pa.RecordBatch.from_arrays(
            [*arrays, pa.array(times).view(_TIMESTAMP.type)], schema=self._keys.append(_TIMESTAMP)
        )
        context.times_us, context.time_domain = times, domain
        if domain == "event":
            self._batch.times_us, self._batch.watermarks_us = times, np.maximum(times, self._passed_us)
        try:
            parts = self._called(handler.function, timers, np.arange(len(times)))
        finally:
            context.time_domain = None
        self._write()
        for part in parts:
            out.emit(part)
        self._side.flush(out)

    def _called(self, call: Any, batch: pa.RecordBatch, numbers: Rows) -> list[pa.RecordBatch]:
        context = self._context
        assert isinstance(context, KeyedBatchContext), "made above"
        context.keys = pa.RecordBatch.from_arrays(list(self._batch.arrays), schema=self._keys)
        context.key_numbers = numbers
        side = self._side.mark()
        try:
            return self._checker.checked(self._result(call, batch))
        except LakewardError:
            self._side.reset(side)
            self._discard()
            raise

    def _result(self, call: Any, batch: pa.RecordBatch) -> Any:
        context = self._context
        assert isinstance(context, KeyedBatchContext), "made above"
        try:
            return call(batch, context)
        except LakewardError as error:
            error.trace = error.trace or user_trace(error) or definition(call)
            raise
        except Exception as error:
            hint = ROW_HINT if context.time_domain is None else ""
            raise call_error(call, error, f"a batch of {batch.num_rows} rows", hint) from error
