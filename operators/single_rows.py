"""Functions that give any number of rows for one, and those that give one row instead of a list of it."""

from __future__ import annotations

import dataclasses
from typing import Any

from lakeward.engine.api.row_types import is_named_tuple
from lakeward.engine.core.errors import UserCodeError
from lakeward.engine.core.redaction import FailedRow

SUSPECTS = (dict, str, bytes, tuple)
"""What can be iterated over, and is one row perhaps: to be asked before rows are taken out of it."""


def is_single(found: Any) -> bool:
    """Whether a function returned one row, or one value, where an iterable of rows is wanted.

    >>> [is_single(found) for found in ({"a": 1}, 5, ("x", 1), [{"a": 1}], ({"a": 1}, {"a": 2}), iter(()))]
    [True, True, True, False, False, False]
    """
    if isinstance(found, dict | str | bytes) or is_named_tuple(type(found)):
        return True
    if isinstance(found, tuple):  # of rows, or of the values of one
        return any(not isinstance(one, dict | tuple) and not dataclasses.is_dataclass(one) for one in found[:1])
    return not hasattr(found, "__iter__") and not hasattr(found, "__getitem__")


def single_error(name: str, found: Any) -> UserCodeError:
    """The error of a function that returned one row, or one value.

    Args:
        name: The function.
        found: What it returned.
    """
    return UserCodeError(
        f"{name} returned a single {type(found).__name__}",
        hint="it gives any number of rows: yield row, or return [row]; None and [] are no row",
        rows=(FailedRow(found, label="result"),),
    )
