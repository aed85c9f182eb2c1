"""Checks of what tests hand in that no type alone says: ports, and functions that are called later."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from lakeward.engine.core.errors import ConfigError
from lakeward.engine.core.expect import refusal, user_location
from lakeward.operators.function_names import function_name


def expect_port(value: object, port: type, what: str, hint: str) -> None:
    """Refuse what has not the methods of a port.

    >>> from lakeward.engine.core.clock import Clock, ManualClock
    >>> expect_port(ManualClock(), Clock, "the clock", "")

    Raises:
        ConfigError: It lacks one, or is a class.
    """
    methods = [name for name in vars(port) if not name.startswith("_")]
    if isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in methods):
        raise refusal(value, what, hint)


def expect_function(value: object, arguments: tuple[object, ...], what: str, hint: str) -> None:
    """Refuse what cannot be called with some arguments.

    >>> expect_function(len, ("text",), "a function", "")

    Raises:
        ConfigError: It cannot, or is a coroutine function, whose calls would do nothing.
    """
    if not callable(value) or inspect.iscoroutinefunction(value) or not _takes(value, arguments):
        raise function_refusal(value, what, hint)


def function_refusal(value: object, what: str, hint: str) -> ConfigError:
    """The error for a function that takes other arguments, or for what is no function."""
    if not inspect.isroutine(value):
        return refusal(value, what, hint)
    try:
        takes = (
            f"it is{' async, and' if inspect.iscoroutinefunction(value) else ''} called as {inspect.signature(value)}"
        )
    except ValueError:  # a builtin without a signature
        takes = "how it is called is not known"
    return ConfigError(f"{what} cannot be {function_name(value)}: {takes}", hint=hint, location=user_location())


def _takes(function: Callable[..., Any], arguments: tuple[object, ...]) -> bool:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
