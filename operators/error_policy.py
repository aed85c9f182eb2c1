"""What becomes of the rows on which a user's function fails: the policy, and its carrying out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from lakeward.engine.api.context import OperatorContext, Output
from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import (
    ConfigError,
    InternalError,
    LakewardError,
    RecordError,
    SchemaError,
    UserCodeError,
)
from lakeward.engine.core.expect import expect, expect_whole, refusal
from lakeward.engine.core.redaction import text_of
from lakeward.engine.core.user_frames import innermost

T = TypeVar("T")

RETRY_WAIT_MAX_MS = 10_000
"""How long an operator waits at most between calls, in all, for the rows of one batch: barriers wait meanwhile."""

_LOGGED_FIRST = 5
_LOG_INTERVAL_MS = 10_000
_LOG = logging.getLogger("lakeward")

_ERROR_COLUMNS = (
    pa.field("error_type", pa.string(), nullable=False),
    pa.field("error_message", pa.string(), nullable=False),
    pa.field("error_at", pa.string()),
    pa.field("failed_at", pa.timestamp("us", "UTC"), nullable=False),
)


class _Named(Protocol):
    @property
    def name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class OnError:
    """What becomes of a row on which a function of the user's fails.

    A row fails if the function raises an exception, or if what it returns does not fit the declared columns. Rows that
    fail are never lost silently: the job ends, or they are counted (the metric `failed_rows`) and logged, or sent on
    with their errors. Make one with `fail`, `retry`, `skip` or `side_output`.

    >>> from lakeward import StreamExecutionEnvironment
    >>> texts = StreamExecutionEnvironment().from_collection([{"text": "1"}, {"text": "two"}, {"text": "3"}])
    >>> numbers = texts.map(lambda row: {"n": int(row["text"])}, returns={"n": int}, on_error=OnError.skip())
    >>> numbers.execute_and_collect().to_pylist()
    [{'n': 1}, {'n': 3}]

    Args:
        last: What is done when the row has failed for good.
        tag: Of the side output.
        attempts: How often the function is called for the row at most.
        backoff_ms: The wait before the second call; each wait is twice the one before.
    """

    last: Literal["fail", "skip", "side_output"] = "fail"
    tag: str | None = None
    attempts: int = 1
    backoff_ms: float = 0

    @classmethod
    def fail(cls) -> OnError:
        """The job ends with the error, which shows the row. So it is where nothing is said.

        >>> str(OnError.fail())
        'fail'
        """
        return cls()

    @classmethod
    def skip(cls) -> OnError:
        """The row is left out, counted and logged: the first few rows each, then at most one line in ten seconds.

        >>> str(OnError.skip())
        'skip'
        """
        return cls("skip")

    @classmethod
    def side_output(cls, tag: _Named) -> OnError:
        """The row goes to a side stream: `result.side_output(tag)` has the input's columns and those of the error.

        >>> from lakeward import OutputTag, StreamExecutionEnvironment
        >>> failed = OutputTag("failed")
        >>> texts = StreamExecutionEnvironment().from_collection([{"text": "1"}, {"text": "two"}])
        >>> numbers = texts.map(
        ...     lambda row: {"n": int(row["text"])}, returns={"n": int}, on_error=OnError.side_output(failed)
        ... )
        >>> numbers.side_output(failed).select("text", "error_type").execute_and_collect().to_pylist()
        [{'text': 'two', 'error_type': 'ValueError'}]

        Args:
            tag: Names the side stream. Its rows have four more columns: `error_type`, `error_message`, `error_at`
                (file and line in the user's code) and `failed_at`.
        """
        name = getattr(tag, "name", None)
        if not isinstance(name, str):
            raise refusal(tag, "OnError.side_output: tag", 'give an lw.OutputTag("failed")')
        return cls("side_output", name)

    @classmethod
    def retry(cls, attempts: int = 3, backoff: Duration = "100ms") -> OnError:
        """The function is called again for the row, after a wait; for functions that ask another system.

        The waits block the operator, and with it its whole task: they are cut off after ten seconds for the rows of one
        batch together, and rows that fail after that are not tried again. When all calls have failed the job ends,
        unless `then` says something else. (`map_async` has `retries=` instead, whose waits block nothing.)

        >>> str(OnError.retry(attempts=4, backoff="50ms"))
        'retry 4x, then fail'

        Args:
            attempts: How often the function is called for a row at most, the first call included.
            backoff: The wait before the second call; each wait is twice the one before.

        Raises:
            ConfigError: There is nothing to try again, or the waits for one row would last longer than ten seconds.
        """
        expect_whole(attempts, "OnError.retry: attempts", least=2)
        policy = cls(attempts=attempts, backoff_ms=parse_duration_us(backoff, "OnError.retry: backoff") / 1000)
        if sum(policy.waits_ms) > RETRY_WAIT_MAX_MS:
            seconds = sum(policy.waits_ms) / 1000
            raise ConfigError(
                f"OnError.retry: {attempts} attempts with a backoff of {backoff} would wait {seconds:g} s for one row",
                hint=f"stay below {RETRY_WAIT_MAX_MS // 1000} s, in which nothing else of the task goes on",
            )
        return policy

    def then(self, policy: OnError) -> OnError:
        """What is done with a row for which every call has failed.

        >>> str(OnError.retry(attempts=2).then(OnError.skip()))
        'retry 2x, then skip'

        Args:
            policy: `fail`, `skip` or `side_output`.

        Raises:
            ConfigError: Nothing comes before or after it.
        """
        expect(policy, OnError, "OnError.then", "give lw.OnError.skip(), for example")
        if self.attempts == 1 or policy.attempts > 1:
            hint = "write OnError.retry(...).then(OnError.skip())"
            raise ConfigError(f"'{self}' cannot be followed by '{policy}'", hint=hint)
        return replace(self, last=policy.last, tag=policy.tag)

    @property
    def waits_ms(self) -> list[float]:
        """The waits between the calls for one row.

        >>> OnError.retry(attempts=4, backoff="100ms").waits_ms
        [100.0, 200.0, 400.0]
        """
        return [self.backoff_ms * 2**number for number in range(self.attempts - 1)]

    def __str__(self) -> str:
        last = f"side output {self.tag}" if self.last == "side_output" else self.last
        return last if self.attempts == 1 else f"retry {self.attempts}x, then {last}"


FAIL = OnError.fail()
"""The policy where nothing is said."""


def policy_text(policy: OnError) -> str:
    """For `explain()`: ", on error skip"; nothing where nothing is said."""
    return "" if policy == FAIL else f", on error {policy}"


def failed_rows_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a side output of failed rows.

    Args:
        schema: Of the operator's input.

    Raises:
        SchemaError: The input has a column of such a name already.
    """
    twice = next((field.name for field in _ERROR_COLUMNS if field.name in schema.names), None)
    if twice is not None:
        raise SchemaError(
            f"the side output of failed rows adds a column '{twice}', and the rows have one",
            hint=f'rename it before: .rename({{"{twice}": "..."}})',
        )
    return pa.schema([*schema, *_ERROR_COLUMNS])


class Failed(Enum):
    """Stands for the result of a row that has failed."""

    FAILED = "failed"


FAILED = Failed.FAILED


class _Noted(NamedTuple):
    row: int
    kind: str
    message: str
    at: str | None


class RowErrors:
    """Carries a policy out for one operator subtask; any operator that calls functions of the user's may have one.

    The operator calls `open`, then for each row that fails `settle`, `send` at the end of every batch, and `close`.
    What is noted for a batch is sent with the batch, between the same two checkpoints: so it is exactly once.

    Args:
        policy: The policy.
        schema: Schema of the rows that may fail, as the side output shows them.
        columns: The names of these columns in the batches that `send` gets; None: the same.

    Raises:
        SchemaError: The side output would have two columns of one name.
    """

    def __init__(self, policy: OnError, schema: pa.Schema, columns: Iterable[str] | None = None) -> None:
        self.policy = policy
        self._columns = list(schema.names if columns is None else columns)
        self._failed_schema = failed_rows_schema(schema) if policy.tag is not None else schema
        self._noted: list[_Noted] = []
        self._waited_ms: float = 0
        self._unlogged = self._logged = 0
        self._logged_ms = 0

    def open(self, context: OperatorContext) -> None:
        """Take the clock, the counters and the name."""
        self._context = context
        if self.policy.last != "fail":
            self._failed_rows = context.counter("failed_rows")
        if self.policy.attempts > 1:
            self._retries = context.counter("retried_calls")

    def settle(self, error: LakewardError, again: Callable[[], T]) -> T | Failed:
        """Try again as the policy says; if that does not help, end the job or note the row.

        Args:
            error: What is wrong; its row knows its index in the batch.
            again: Calls the function for the row again; raises a `UserCodeError` if that fails too.

        Returns:
            What `again` returned, or `FAILED`.

        Raises:
            LakewardError: The job is to end; or the error is none of the row's.
        """
        result = self.retried(error, again)
        if isinstance(result, LakewardError):
            self.note(result)
            return FAILED
        return result

    def retried(self, error: LakewardError, again: Callable[[], T]) -> T | LakewardError:
        """Try again as the policy says; returns the result, or what was wrong the last time.

        Raises:
            LakewardError: The error is none of the row's, or the job is to end.
        """
        tries = 1
        for wait_ms in self._waits(error):
            self._context.clock.sleep_ms(wait_ms)
            self._retries.inc()
            tries += 1
            try:
                return again()
            except LakewardError as later:
                error = later
            if not is_of_row(error):
                break
        if tries > 1:
            error.add(f" (called {tries} times)")
        if self.policy.last == "fail" or not is_of_row(error):
            raise error
        return error

    def note(self, error: LakewardError, row: int | None = None) -> None:
        """The row of an error has failed for good: it is left out, or goes to the side output with the batch.

        Args:
            error: What is wrong.
            row: The row's place in the batch that `send` will get; None: the error says it.
        """
        index = error.rows[0].index if error.rows and row is None else row
        if index is None:
            raise InternalError("an error of a row does not say which row it is") from error
        error.hide(self._context.redaction)
        raised = error.raised if isinstance(error, UserCodeError) else None
        text = error.message if raised is None else error.without_hidden(text_of(raised))
        frame = innermost(error.trace)
        kind = type(error if raised is None else raised).__name__
        self._noted.append(_Noted(index, kind, text, None if frame is None else frame.place))
        self._unlogged += 1
        self._log(error)

    def send(self, batch: pa.RecordBatch, out: Output) -> None:
        """Count the rows of this batch that have failed, and send them to the side output if there is one."""
        self._waited_ms = 0
        if not self._noted:
            return
        noted, self._noted = sorted(self._noted), []
        self._failed_rows.inc(len(noted))
        if self.policy.tag is not None:
            out.emit_side(self.policy.tag, self._failed(batch, noted))

    def close(self) -> None:
        """Log how many rows failed since the last line."""
        if self._unlogged:
            self._write(None)

    def _waits(self, error: LakewardError) -> Iterator[float]:
        for wait_ms in self.policy.waits_ms if is_of_row(error) else ():
            if self._waited_ms + wait_ms > RETRY_WAIT_MAX_MS:
                return
            self._waited_ms += wait_ms
            yield wait_ms

    def _failed(self, batch: pa.RecordBatch, noted: list[_Noted]) -> pa.RecordBatch:
        rows = pa.array(np.array([one.row for one in noted], np.int64))
        columns = [batch.column(name).take(rows) for name in self._columns]
        now_us = [self._context.clock.wall_us()] * len(noted)
        texts = ([one.kind for one in noted], [one.message for one in noted], [one.at for one in noted], now_us)
        columns += [pa.array(values, field.type) for values, field in zip(texts, _ERROR_COLUMNS, strict=True)]
        return pa.RecordBatch.from_arrays(columns, schema=self._failed_schema)

    def _log(self, error: LakewardError) -> None:
        """The first rows each, then what there was since the last line: a bad day must not fill the disk."""
        now_ms = self._context.clock.monotonic_ms()
        if self._logged >= _LOGGED_FIRST and now_ms - self._logged_ms < _LOG_INTERVAL_MS:
            return
        self._logged, self._logged_ms = self._logged + 1, now_ms
        self._context.add_origin(error)
        self._write(error)

    def _write(self, error: LakewardError | None) -> None:
        level = logging.WARNING if self.policy.last == "skip" else logging.INFO
        done = "left out" if self.policy.last == "skip" else f"sent to the side output '{self.policy.tag}'"
        rows = "1 row" if self._unlogged == 1 else f"{self._unlogged} rows"
        last = "" if error is None else f"; the last: {'; '.join([error.message, *error.details])}"
        uid = self._context.uid
        _LOG.log(level, "operator '%s': %s failed and %s%s", uid, rows, done, last, extra={"operator": uid})
        self._unlogged = 0


def is_of_row(error: LakewardError) -> bool:
    """Whether a row is at fault, or what the user's function made of it; not the job as written, nor Lakeward."""
    return isinstance(error, UserCodeError | RecordError)
