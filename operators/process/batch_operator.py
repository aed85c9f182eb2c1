"""Runs vectorised process functions: whole Arrow batches, and the state of their keys as columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.core.errors import LakewardError
from lakeward.operators.arguments import call_error
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
        timers = BatchTimers(self._queues["event"], self._queues["processing"])
        return KeyedBatchContext(context, self._side.add_batch, timers)

    def on_input(self, index: int, batch: pa.RecordBatch, out: Output) -> None:
        """Call the function with the batch."""
        if not batch.num_rows:
            return
        given, context = self._spec.inputs[index], self._context
        assert isinstance(context, KeyedBatchContext), "made above"
        arrays, numbers = keys_of(given, batch)
        assert numbers is not None, "vectorised functions have keys"
        context.times_us = times_of(given, batch)
        self._begin(arrays)
        if context.times_us is not None:
            self._batch.times_us = np.full(len(arrays[0]), NO_TIME)
            np.maximum.at(self._batch.times_us, numbers, context.times_us)
        self._handle(self._bound.handlers[index].function, batch, numbers, out)

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
            self._handle(handler.function, timers, np.arange(len(times)), out)
        finally:
            context.time_domain = None

    def _handle(self, call: Any, batch: pa.RecordBatch, numbers: Rows, out: Output) -> None:
        context = self._context
        assert isinstance(context, KeyedBatchContext), "made above"
        context.keys = pa.RecordBatch.from_arrays(list(self._batch.arrays), schema=self._keys)
        context.key_numbers = numbers
        try:
            result = call(batch, context)
        except LakewardError:
            raise
        except Exception as error:
            raise call_error(call, error, f"a batch of {batch.num_rows} rows") from error
        parts = self._checker.checked(result)
        self._write()
        for part in parts:
            out.emit(part)
        self._side.flush(out)
