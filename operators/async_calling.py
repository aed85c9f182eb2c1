"""The calls of an asynchronous operator: begun, tried again after a while, given up when they take too long."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from lakeward.engine.api.calls import AsyncCalls, Finished
from lakeward.engine.api.context import OperatorContext
from lakeward.engine.core.errors import ExternalCallError, LakewardError, UserCodeError
from lakeward.operators.arguments import exception_text
from lakeward.operators.async_options import AsyncOptions
from lakeward.operators.async_queue import AsyncQueue, QueuedRow, Values
from lakeward.operators.async_target import Target
from lakeward.operators.faults import is_mistake

_NEVER_MS = 2**63


class _Call:
    """A call for some rows, with all its tries."""

    __slots__ = ("deadline_ms", "error", "number", "rows", "target", "tries", "values")

    def __init__(self, rows: Sequence[QueuedRow], target: Target, values: Sequence[Values], deadline_ms: int) -> None:
        self.rows = rows
        self.target = target
        self.values = values
        self.tries = 0
        self.deadline_ms = deadline_ms
        self.number: int | None = None
        """Of the try that runs; None between two tries."""
        self.error: BaseException | None = None
        """What the last try raised."""

    def halves(self, deadline_ms: int) -> list[_Call]:
        """Two calls in its place, each for some of its rows."""
        middle, count = len(self.rows) // 2, len(self.rows)
        parts = [slice(0, middle), slice(middle, count)]
        return [_Call(self.rows[part], self.target, self.values[part], deadline_ms) for part in parts]


@dataclass(frozen=True, slots=True)
class Targets:
    """What is called.

    Args:
        function: For every row.
        late: For rows without an answer in time; None: that is an error.
        null: Makes the answer for such rows without a call; None: there is none.
    """

    function: Target
    late: Target | None = None
    null: Callable[[QueuedRow], Any] | None = None

    def answers_here(self, target: Target) -> bool:
        """Whether it is called by the worker: where threads are busy with calls that hang, it would wait for ever."""
        return target is self.late and not target.is_coroutine


class Calling:
    """The calls of one subtask. Time is the context's clock, looked at by `poll`.

    Args:
        targets: What is called.
        options: Retries, timeout, and what becomes of rows that fail.
        port: Where calls run.
        context: Clock and counters.
        queue: Told of each row that has its answer, or has failed.
    """

    def __init__(
        self, targets: Targets, options: AsyncOptions, port: AsyncCalls, context: OperatorContext, queue: AsyncQueue
    ) -> None:
        self._targets = targets
        self._options = options
        self._port = port
        self._clock = context.clock
        self._queue = queue
        self._calls, self._retries = context.counter("calls"), context.counter("retries")
        self._timeouts = context.counter("timeouts")
        self._numbers = count()
        self._running: dict[int, _Call] = {}
        self._unanswered: dict[_Call, None] = {}
        """In the order of their deadlines, since all may take equally long."""
        self._resting: list[tuple[int, int, _Call]] = []
        """When calls are tried again; a heap."""

    def begin(self, lots: Iterable[Sequence[QueuedRow]]) -> None:
        """Make calls, one for each lot of rows."""
        target, deadline_ms = self._targets.function, self._deadline_ms()
        calls = [_Call(rows, target, [row.values for row in rows], deadline_ms) for rows in lots]
        self._unanswered.update(dict.fromkeys(calls))
        self._start(calls)

    def give_up(self, row: QueuedRow, error: LakewardError) -> None:
        """A row has failed for good.

        Raises:
            LakewardError: That ends the job.
        """
        if not self._options.forgives(error):
            raise error
        self._queue.fail(row, error)

    def poll(self) -> bool:
        """Look at what has ended, then at the clock; True if a call has ended.

        Raises:
            UserCodeError: A function raised what is not tried again.
            BaseException: It raised what ends the process.
            ExternalCallError: It raised too often, or took too long.
        """
        finished = self._port.take()
        for one in finished:
            call = self._running.pop(one.call, None)
            if call is not None:  # else it was given up
                self._settle(call, one)
        now_ms = self._clock.monotonic_ms()
        self._try_again(now_ms)
        self._expire(now_ms)
        return bool(finished)

    def _deadline_ms(self) -> int:
        """Of a call that begins now."""
        timeout_ms = self._options.timeout_ms
        return _NEVER_MS if timeout_ms is None else self._clock.monotonic_ms() + timeout_ms

    def _start(self, calls: Sequence[_Call]) -> None:
        started = []
        for call in calls:
            call.number = next(self._numbers)
            call.tries += 1
            self._running[call.number] = call
            started.append((call.number, call.target.work(call.values)))
        if started:
            self._calls.inc(len(started))
            self._port.start(started)

    def _settle(self, call: _Call, ended: Finished) -> None:
        call.number, error = None, ended.error
        if error is None:
            self._answer(call, ended.result)
            return
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise error  # ends the process, as it does in any other function
        if call.target is not self._targets.function or not self._is_worth_a_try(call, error):
            self._fail(call, self._failure(call, error))
            return
        call.error = error
        self._retries.inc()
        due_ms = self._clock.monotonic_ms() + self._options.retry.delay_ms(call.tries)
        heapq.heappush(self._resting, (due_ms, next(self._numbers), call))

    def _answer(self, call: _Call, result: Any) -> None:
        try:
            answers = call.target.answers(result, call.values)
        except UserCodeError as error:
            self._fail(call, error)
            return
        del self._unanswered[call]
        for row, answer in zip(call.rows, answers, strict=True):
            self._queue.answer(row, answer)

    def _fail(self, call: _Call, error: LakewardError) -> None:
        """A call has failed for good: its row is at fault, or one of its rows, which smaller calls will find."""
        del self._unanswered[call]
        if len(call.rows) == 1 or not self._options.forgives(error):
            self.give_up(call.rows[0], error)
            return
        # In time of their own: rows that are not at fault must not be too late because others are.
        halves = call.halves(self._deadline_ms())
        self._unanswered.update(dict.fromkeys(halves))
        self._make(halves)

    def _make(self, calls: Sequence[_Call]) -> None:
        if not self._targets.answers_here(calls[0].target):
            self._start(calls)
            return
        for call in calls:
            self._answer_now(call)

    def _is_worth_a_try(self, call: _Call, error: BaseException) -> bool:
        retry = self._options.retry
        return call.tries < retry.attempts and retry.wants(error)

    def _try_again(self, now_ms: int) -> None:
        due = []
        while self._resting and self._resting[0][0] <= now_ms:
            due_ms, _, call = heapq.heappop(self._resting)
            if call not in self._unanswered or call.deadline_ms <= due_ms:
                continue
            if call.deadline_ms <= now_ms:
                # Its try was due in time, but nobody looked: receivers were behind. That is not the row's fault.
                del self._unanswered[call]
                self._unanswered[call] = None
                call.deadline_ms = self._deadline_ms()
            due.append(call)
        self._start(due)

    def _expire(self, now_ms: int) -> None:
        while self._unanswered:
            call = next(iter(self._unanswered))
            if call.deadline_ms > now_ms:
                return
            del self._unanswered[call]
            self._timeouts.inc()
            if call.number is not None:
                del self._running[call.number]
                self._port.cancel(call.number)
            self._too_late(call)

    def _too_late(self, call: _Call) -> None:
        late, null = self._targets.late, self._targets.null
        if null is not None:
            for row in call.rows:
                self._queue.answer(row, [null(row)])
        elif late is None or call.target is late:
            for row, values in zip(call.rows, call.values, strict=True):
                self.give_up(row, self._timeout(call, values))
        else:
            self._answer_instead(call, late)

    def _answer_instead(self, call: _Call, late: Target) -> None:
        # Its arguments may be others than those of the function that it stands in for.
        made: list[tuple[QueuedRow, Values]] = []
        for row in call.rows:
            values = next(late.values(row.alone))
            if isinstance(values, LakewardError):
                self.give_up(row, values)
            else:
                made.append((row, values))
        if made:
            rows, arguments = zip(*made, strict=True)
            instead = _Call(rows, late, arguments, self._deadline_ms())
            self._unanswered[instead] = None
            self._make([instead])

    def _answer_now(self, call: _Call) -> None:
        try:
            result = call.target.work(call.values)()
        except Exception as error:  # whatever the user's function may raise
            self._fail(call, self._failure(call, error))
            return
        self._answer(call, result)

    def _failure(self, call: _Call, error: BaseException) -> LakewardError:
        """The error of a call that raised and is not tried again."""
        shown = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__} {error}".strip())
        plain = call.target.failure(shown, call.values)
        if not isinstance(plain, UserCodeError) or plain is error:
            return plain
        plain.__cause__ = error
        if is_mistake(error) and not self._options.retry.wants(error):
            return plain
        tried = f" (tried {call.tries} times)" if call.tries > 1 else ""
        failure = ExternalCallError(
            f"{plain.message}{tried}",
            hint="the job goes on from its last checkpoint when the other system answers",
            rows=plain.rows,
            trace=plain.trace,
        )
        failure.raised, failure.__cause__ = plain.raised, error
        return failure

    def _timeout(self, call: _Call, values: Values) -> LakewardError:
        """The error of a row whose call has taken too long."""
        rows = call.target.shown(call.values)
        last = "" if call.error is None else f"; the last try raised {exception_text(call.error)}"
        seconds = (self._options.timeout_ms or 0) / 1000
        failure = ExternalCallError(
            f"{call.target.name} gave no answer within {seconds:g} s on {rows}{last}",
            hint="raise timeout=, or say with on_timeout= what becomes of such rows; the job goes on from its last "
            "checkpoint",
            rows=(call.target.row([values]),),
        )
        failure.__cause__ = call.error
        return failure
