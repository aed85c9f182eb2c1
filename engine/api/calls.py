"""Calls of the user's functions that run beside the worker: how an operator starts them and hears of their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Work = Callable[[], Any]
"""Makes one call: of a coroutine function, or of one that blocks."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A call that has ended.

    Args:
        call: Its number, as it was started with.
        result: What it returned.
        error: What it raised; None if it returned.
    """

    call: int
    result: Any = None
    error: BaseException | None = None


class AsyncCalls(Protocol):
    """The calls of one operator subtask. They run beside the worker; nothing here waits but `run` and `stop`."""

    def start(self, calls: Sequence[tuple[int, Work]]) -> None:
        """Start calls, each under a number that was never used before."""
        ...

    def cancel(self, call: int) -> None:
        """Give a call up. Whether its end is still heard of is open; a thread runs on until its function returns."""
        ...

    def take(self) -> list[Finished]:
        """The calls that have ended since the last `take`, in the order in which they did."""
        ...

    def run(self, work: Work) -> Any:
        """Make one call and wait for it: for `Operator.open` and `close` only. Its exception passes through."""
        ...

    def stop(self) -> None:
        """Give all calls up, and wait for those that can be interrupted; `run` works on until the job has ended."""
        ...
