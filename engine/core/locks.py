"""The one lock that state needs: between the worker loop and the thread that finishes its snapshots."""

from __future__ import annotations

from threading import RLock
from types import TracebackType


class Mutex:
    """A lock that its holder may take again.

    >>> mutex = Mutex()
    >>> with mutex, mutex:
    ...     "mine"
    'mine'
    """

    def __init__(self) -> None:
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
