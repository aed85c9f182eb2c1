"""What errors and plans call the functions of users."""

from __future__ import annotations

import functools
import inspect
import os
from typing import Any


def function_name(function: object) -> str:
    """A function as errors call it: its name, file and line.

    >>> function_name(len)
    "function 'len'"
    """
    plain = plain_function(function)
    name = getattr(plain, "__qualname__", type(plain).__qualname__)
    place = code_location(function)
    if not place:
        return f"function '{name}'"
    shown = os.path.relpath(place) if place.startswith(os.getcwd() + os.sep) else place
    return f"function '{name}' ({shown})"


def code_location(function: object) -> str:
    """`file:line` of a Python function; empty for what is written in C."""
    code = getattr(plain_function(function), "__code__", None)
    return "" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def plain_function(function: Any) -> Any:
    """The function inside partials and decorators; for an object that can be called, its method."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__code__") and not inspect.isbuiltin(function) and not isinstance(function, type):
        return getattr(type(function), "__call__", function)  # noqa: B004 (the method is wanted, not a test)
    return function
