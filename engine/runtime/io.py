"""Where slow effects run: uploads, manifests and table commits, one after the other, beside the worker loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from lakeward.engine.core.log_scope import in_scope

T = TypeVar("T")


class IoExecutor(Protocol, Generic[T]):
    """Runs functions strictly in the order in which they were given, and hands back what they return."""

    def submit(self, work: Callable[[], T]) -> None:
        """Queue a function."""
        ...

    def poll(self) -> T | None:
        """The result of the oldest finished function, once; None when there is none. Re-raises its exception."""
        ...

    def close(self) -> None:
        """Wait for the function that runs now, drop those that wait."""
        ...


class ThreadIo(Generic[T]):
    """One background thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lakeward-io")
        self._pending: deque[Future[T]] = deque()

    def submit(self, work: Callable[[], T]) -> None:
        """Queue a function."""
        self._pending.append(self._pool.submit(in_scope(work)))

    def poll(self) -> T | None:
        """The result of the oldest function once it has finished."""
        if not self._pending or not self._pending[0].done():
            return None
        return self._pending.popleft().result()

    def close(self) -> None:
        """Wait for the function that runs now, drop those that wait."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class SteppedIo(Generic[T]):
    """Runs nothing by itself: whoever drives it calls `step`, which makes the order of everything reproducible."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], T]] = deque()
        self._done: deque[T] = deque()

    def submit(self, work: Callable[[], T]) -> None:
        """Queue a function."""
        self._waiting.append(work)

    @property
    def is_ready(self) -> bool:
        """Whether a function waits to be run."""
        return bool(self._waiting)

    def step(self) -> None:
        """Run the oldest waiting function; its exception passes through."""
        self._done.append(self._waiting.popleft()())

    def poll(self) -> T | None:
        """The oldest result."""
        return self._done.popleft() if self._done else None

    def close(self) -> None:
        """Drop what waits."""
        self._waiting.clear()
