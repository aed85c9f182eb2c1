"""What log lines of a running job are about: the job, its attempt, its checkpoint; for logs that machines read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from functools import partial
from typing import TypeVar

T = TypeVar("T")
Fields = dict[str, object]

_scope: ContextVar[Fields | None] = ContextVar("lakeward_log_scope", default=None)


@contextmanager
def log_scope(**fields: object) -> Iterator[None]:
    """While inside, log lines are about these.

    >>> with log_scope(job="revenue"):
    ...     note_in_scope(attempt=3)
    ...     log_fields()
    {'job': 'revenue', 'attempt': 3}
    >>> log_fields()
    {}

    Args:
        fields: Names and values.
    """
    token = _scope.set({**log_fields(), **fields})
    try:
        yield
    finally:
        _scope.reset(token)


def note_in_scope(**fields: object) -> None:
    """Log lines of this scope are about these from now on, also those of functions that `in_scope` has made."""
    scope = _scope.get()
    if scope is not None:
        scope.update(fields)


def log_fields() -> Fields:
    """What log lines that are written now, on this thread, are about."""
    return _scope.get() or {}


def in_scope(function: Callable[[], T]) -> Callable[[], T]:
    """The function, whose log lines on another thread are about what they would be about here."""
    return partial(copy_context().run, function)
