"""How asynchronous functions are called: the class for those that need a client, retries, limits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lakeward.engine.core.durations import Duration, parse_duration_us
from lakeward.engine.core.errors import ConfigError, LakewardError, Retry
from lakeward.engine.core.expect import expect_whole, refusal
from lakeward.operators.arguments import call_error
from lakeward.operators.error_policy import FAIL, OnError, is_of_row
from lakeward.operators.faults import is_mistake

RetryIf = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]
"""Which errors are worth another try: classes, or a function that says so."""

OnTimeout = Literal["fail", "null"] | Callable[..., Any]
"""What becomes of a row without an answer in time."""


class AsyncFunction(ABC):
    """A function of rows that waits for another system, with a client that is opened and closed; for `map_async`.

    Each subtask works with a copy of its own (`copy.copy`), so that what `open` sets belongs to it alone. `invoke`
    is an `async def`; the others may be plain. They run on the job's event loop; a plain `timeout` beside it.

    >>> import lakeward as lw
    >>> class Names(lw.AsyncFunction):
    ...     async def open(self):
    ...         self.names = {1: "Ann", 2: "Bob"}  # where a real one would connect
    ...
    ...     async def invoke(self, row):
    ...         return {"id": row["id"], "name": self.names[row["id"]]}
    >>> ids = lw.StreamExecutionEnvironment().from_collection([{"id": 2}, {"id": 1}])
    >>> ids.map_async(Names(), returns={"id": int, "name": str}).execute_and_collect().to_pylist()
    [{'id': 2, 'name': 'Bob'}, {'id': 1, 'name': 'Ann'}]
    """

    async def open(self) -> None:  # noqa: B027
        """Called once, before the first row: make clients here, not in the constructor."""

    @abstractmethod
    async def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a row: with a row, a list of rows, or None for no row. Takes what a function of `map` may take."""

    async def timeout(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a row for which `invoke` took too long, if it is defined; takes what `invoke` takes."""
        raise NotImplementedError

    async def close(self) -> None:  # noqa: B027
        """Called at the end, also after an error, when no call runs any more."""


@dataclass(frozen=True, slots=True)
class AsyncRetry:
    """When and how often a call that failed is tried again. The wait doubles with each try.

    >>> retry = AsyncRetry(attempts=4, backoff="100ms", backoff_max="300ms")
    >>> [retry.delay_ms(tries) for tries in (1, 2, 3)]
    [100, 200, 300]

    Args:
        attempts: Calls of a row at most, the first one included; 1: none is repeated.
        backoff: The wait before the second call.
        backoff_max: The longest wait.
        retry_if: Which errors are worth it: an exception class, several, or a function of the exception. By default all
            but those that say that the code is wrong (`TypeError`, `KeyError`, ...), which would come again.

    Raises:
        ConfigError: A value cannot work.
    """

    attempts: int = 3
    backoff: Duration = "100ms"
    backoff_max: Duration = "10s"
    retry_if: RetryIf | None = None

    def __post_init__(self) -> None:
        expect_whole(self.attempts, "AsyncRetry: attempts", least=1)
        parse_duration_us(self.backoff, "AsyncRetry: backoff")
        parse_duration_us(self.backoff_max, "AsyncRetry: backoff_max")
        classes = self.retry_if if isinstance(self.retry_if, tuple) else (self.retry_if,)
        errors_only = all(isinstance(one, type) and issubclass(one, Exception) for one in classes)
        if not (self.retry_if is None or errors_only or _is_function(self.retry_if)):
            raise refusal(self.retry_if, "AsyncRetry: retry_if", "give exception classes, or a function of the error")

    def delay_ms(self, tries: int) -> int:
        """How long to wait after so many calls."""
        first_us = parse_duration_us(self.backoff)
        return min(first_us << min(tries - 1, 32), parse_duration_us(self.backoff_max)) // 1000

    def wants(self, error: BaseException) -> bool:
        """Whether an error is worth another try."""
        if not isinstance(error, Exception) or (isinstance(error, LakewardError) and error.retry is Retry.NO):
            return False
        if self.retry_if is None:
            return not is_mistake(error)
        if isinstance(self.retry_if, type | tuple):
            return isinstance(error, self.retry_if)
        try:
            return bool(self.retry_if(error))
        except Exception as problem:  # whatever the user's function may raise
            raise call_error(self.retry_if, problem, f"the error {type(error).__name__}") from problem


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)


@dataclass(frozen=True, slots=True)
class AsyncOptions:
    """How many calls there are at a time, and what becomes of their results.

    Args:
        ordered: Whether rows leave in the order in which they came.
        capacity: Rows in flight in a subtask at most: those whose call has begun and that have not left.
        batch_rows: Rows a call at most; None: a call gets one row, not a list.
        timeout_ms: How long a row may take, with all retries; None: as long as it wants.
        on_timeout: What becomes of a row without an answer in time: "fail", "null", or a function that answers.
        retry: When calls are repeated.
        on_error: What becomes of a row whose calls have failed.

    Raises:
        ConfigError: The capacity holds less than one call, or `on_error` says that calls are repeated.
    """

    ordered: bool = True
    capacity: int = 100
    batch_rows: int | None = None
    timeout_ms: int | None = 60_000
    on_timeout: OnTimeout = "fail"
    retry: AsyncRetry = AsyncRetry()
    on_error: OnError = FAIL

    def __post_init__(self) -> None:
        if self.capacity < self.call_rows:
            raise ConfigError(
                f"map_async: capacity {self.capacity} is less than batch_rows {self.batch_rows}",
                hint="capacity counts rows: give at least one batch, or several to have several calls in flight",
            )
        if self.on_error.attempts > 1:
            raise ConfigError(
                f"map_async: on_error cannot be '{self.on_error}'",
                hint=f"say retries=lw.AsyncRetry(attempts={self.on_error.attempts}), whose waits block nothing; "
                "on_error= is for what becomes of the row then",
            )

    @property
    def call_rows(self) -> int:
        """Rows a call at most."""
        return self.batch_rows or 1

    def forgives(self, error: LakewardError) -> bool:
        """Whether the job goes on when a row has failed so."""
        return self.on_error.last != "fail" and is_of_row(error)
